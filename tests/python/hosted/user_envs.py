"""Environments that behave and misbehave, for test_hosted.py; each runs in a worker process."""

import ctypes
import os
import signal
import time

import gymnasium
import numpy as np
from gymnasium import spaces

BOX = spaces.Box(-10, 10, (2,), np.float32)


class Walk(gymnasium.Env):
    """Walk along a line."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20, "reset_options": {"start": 0.0}}

    def __init__(self, length: int = 5, slow=0.0, render_mode=None):
        self.observation_space, self.action_space = BOX, spaces.Discrete(3, start=-1)
        self.length, self.slow, self.render_mode = length, slow, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = float((options or {}).get("start") or 0)
        self.drift = self.np_random.uniform()
        return self.observe(), {"drift": self.drift}

    def observe(self):
        return np.array([self.at, self.drift], np.float32)

    def step(self, action):
        time.sleep(self.slow)
        self.at += int(action)
        self.drift = self.np_random.uniform()
        over = abs(self.at) >= self.length
        return (
            self.observe(),
            self.at / 2,
            over,
            False,
            {"drift": self.drift, "place": int(self.at)},
        )

    def render(self):
        return np.full((40, 60, 3), 7 * int(self.at), np.uint8)


class Everything(gymnasium.Env):
    """Every space at once."""

    def __init__(self):
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (2, 3), np.uint8),
                "place": spaces.Discrete(4, start=2),
                "pair": spaces.Tuple((spaces.MultiBinary(3), spaces.MultiDiscrete([2, 5]))),
                "words": spaces.Text(20),
                "wide": spaces.Box(0, 60000, (1,), np.uint16),
            }
        )
        self.action_space = spaces.Dict(
            {"turn": spaces.Discrete(3, start=5), "go": spaces.MultiDiscrete([2, 4])}
        )

    def observe(self, words):
        return {
            "image": np.arange(6, dtype=np.uint8).reshape(2, 3) + self.count,
            "place": 2 + self.count % 4,
            "pair": (np.array([1, 0, 1], np.int8), np.array([1, 4])),
            "words": words,
            "wide": np.array([40000], np.uint16),
        }

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return self.observe("begin"), {}

    def step(self, action):
        self.count += 1
        assert self.action_space.contains(action), action
        return self.observe(f"{action['turn']} {list(action['go'])} ä"), 1, False, False, {}


class Talk(gymnasium.Env):
    """Says back what it hears."""

    observation_space, action_space = spaces.Text(100), spaces.Text(50)

    def reset(self, *, seed=None, options=None):
        return "say something", {}

    def step(self, action):
        print("heard", action)
        return action.upper(), len(action), action == "bye", False, {}


class Trouble(gymnasium.Env):
    """Does what the action says, after it was told to with 1 to N."""

    observation_space, action_space = BOX, spaces.Discrete(16)
    hoard = []

    def __init__(self, told=-1):
        self.told = told

    def reset(self, *, seed=None, options=None):
        if self.told == 100:
            raise RuntimeError("no episode today")
        return np.zeros(2, np.float32), {}

    def step(self, action):
        observation, reward = np.ones(2, np.float32), 1.0
        match int(action):
            case 1:
                raise KeyError("lost it")
            case 2:
                print("hangs", flush=True)
                time.sleep(1000)
            case 3:
                os._exit(3)
            case 4:
                os.kill(os.getpid(), signal.SIGKILL)
            case 5:
                ctypes.string_at(8)
            case 6:
                observation = np.ones(3, np.float32)
            case 7:
                observation = np.array(["a", "b"])
            case 8:
                reward = float("nan")
            case 9:
                reward = "high"
            case 10:
                return observation, reward, False
            case 11:
                for i in range(300):
                    print("noise", i, "x" * 100)
            case 12:
                while True:
                    Trouble.hoard.append(bytearray(1 << 24))
            case 13:
                raise SystemExit(5)
            case 14:
                os.write(3, b"\xff\xff\xff\x7f nonsense")
            case 15:
                os.close(3)
                time.sleep(1000)
        return observation, reward, False, False, {}


class NeedsSize(gymnasium.Env):
    observation_space, action_space = BOX, spaces.Discrete(2)

    def __init__(self, size):
        self.size = size

    def reset(self, *, seed=None, options=None):
        return np.array([self.size, 0], np.float32), {}

    def step(self, action):
        return np.array([self.size, 1], np.float32), 0.0, True, False, {}


class Odd(gymnasium.Env):
    observation_space = spaces.Sequence(spaces.Discrete(2))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return (), {}

    def step(self, action):
        return (), 0.0, False, False, {}


class Broken:
    def __init__(self):
        raise OSError("the disk is full")
