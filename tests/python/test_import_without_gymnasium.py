"""The package works where Gymnasium is not installed."""

import subprocess
import sys

PROGRAM = """
import sys
sys.modules["gymnasium"] = None  # import gymnasium raises ImportError
import numpy as np
import bessemer as bs

env = bs.make("CartPole-v1")
obs, info = env.reset(seed=123)
assert np.allclose(obs, [0.01823519, -0.0446179, -0.02796401, -0.03156282])
assert env.observation_space.contains(obs) and env.observation_space.shape == (4,)
env.action_space.seed(1)
for _ in range(5):
    action = env.action_space.sample()
    assert action in env.action_space
    obs, reward, terminated, truncated, info = env.step(action)
assert env.unwrapped is env and env.spec is None
assert env.np_random.random() == np.random.default_rng(123).random()
with bs.make("Pendulum-v1") as pendulum:
    pendulum.reset(seed=0)
    action = pendulum.action_space.sample()
    assert action.shape == (1,) and action in pendulum.action_space
    pendulum.step(action)
batch = bs.make_vec("CartPole-v1", 3, autoreset_mode=bs.AutoresetMode.SAME_STEP)
batch.reset(seed=0)
batch.action_space.seed(0)
for _ in range(60):
    actions = batch.action_space.sample()
    assert actions in batch.action_space
    obs, rewards, terminations, truncations, infos = batch.step(actions)
    assert obs in batch.observation_space
assert batch.metadata["autoreset_mode"] is bs.AutoresetMode.SAME_STEP
text = bs.make_vec("Echo-v0", 2)
text.reset(seed=0)
assert text.step(text.action_space.sample())[0] in text.observation_space
print("fine")
"""


def test_import_without_gymnasium():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fine\n"


def test_import_brings_no_other_framework():
    program = "import sys, bessemer; print('gymnasium' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True False\n", done.stderr
