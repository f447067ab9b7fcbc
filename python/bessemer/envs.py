"""Environments: `make` one, `make_vec` a batch, both shaped as Gymnasium's."""

import copy as _copy
import os as _os

import numpy as np

from bessemer import _native
from bessemer.spaces import gymnasium, space_of

env_ids = _native.env_ids
env_spec = _native.env_spec

RENDER_MODES = ["human", "rgb_array"]

if gymnasium:
    from gymnasium.vector import AutoresetMode
    from gymnasium.vector import VectorEnv as _VectorBase

    _EnvBase = gymnasium.Env
else:
    from enum import Enum

    class AutoresetMode(Enum):
        """Gymnasium's three, under Gymnasium's names."""

        NEXT_STEP = "NextStep"
        SAME_STEP = "SameStep"
        DISABLED = "Disabled"

    class _EnvBase:
        spec = None

        @property
        def unwrapped(self):
            return self

        @property
        def np_random(self):
            return self._np_random

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()
            return False

    class _VectorBase(_EnvBase):
        pass


_MODES = {
    AutoresetMode.NEXT_STEP: "next_step",
    AutoresetMode.SAME_STEP: "same_step",
    AutoresetMode.DISABLED: "disabled",
}


def _autoreset_mode(mode):
    if isinstance(mode, AutoresetMode):
        return mode
    for known, name in _MODES.items():
        if mode in (name, known.value):
            return known
    names = ", ".join(_MODES.values())
    raise ValueError(f"unknown autoreset_mode {mode!r}: expected one of {names}")


def _render_mode(mode):
    if mode is not None and mode not in RENDER_MODES:
        raise ValueError(f"unknown render_mode {mode!r}: expected None, 'human' or 'rgb_array'")
    return mode


def _registered_spec(env_id):
    return gymnasium.registry.get(f"bessemer/{env_id}") if gymnasium else None


class Env(_native.EnvCore, _EnvBase):
    """One environment. step() and reset() are native; observations are fresh arrays.

    `options` are the environment's own (``env_spec(id)["options"]``). ``save()`` returns the whole
    state as bytes and ``load(state)`` takes it up again, here or in another of its kind.
    """

    metadata = {"render_modes": RENDER_MODES, "render_fps": 50}

    def __init__(self, id, render_mode=None, max_episode_steps=None, check_actions=True, **options):
        super().__init__(id, options, max_episode_steps, check_actions)
        self._made_with = (id, render_mode, max_episode_steps, check_actions, options)
        info = self._spec
        self.render_mode = _render_mode(render_mode)
        self.metadata = {"render_modes": RENDER_MODES, "render_fps": info["render_fps"]}
        self.observation_space = space_of(info["observation"])
        self.action_space = space_of(info["action"])
        self.spec = _registered_spec(info["id"])
        self._show_always = render_mode == "human"

    def render(self):
        """The picture as an array [height, width, 3] in mode rgb_array; None in mode human."""
        if self.render_mode is None:
            raise ValueError("render() needs make(..., render_mode='rgb_array' or 'human')")
        if self.render_mode == "human":
            self._present()
            return None
        return self._picture()

    def __reduce__(self):
        return _rebuild_env, (self._made_with, self.save())

    def __deepcopy__(self, memo):
        return _rebuild_env(_copy.deepcopy(self._made_with, memo), self.save())

    def __repr__(self):
        return f"<bessemer.Env {self._spec['id']}>"

    __str__ = __repr__


def _rebuild_env(made_with, state):
    id, render_mode, max_episode_steps, check_actions, options = made_with
    env = Env(id, render_mode, max_episode_steps, check_actions, **options)
    env.load(state)
    return env


class VectorEnv(_native.VectorEnvCore, _VectorBase):
    """A batch of one environment, stepped natively.

    Results are fresh arrays unless ``copy=False``: then each step writes and returns the same ones.
    ``infos["episode"]`` has return, length and seconds of the episodes that ended in a step, under
    the mask ``infos["_episode"]``. With autoreset in the same step ``infos["final_obs"]`` has each
    last observation, and ``final_obs`` all of them as one dense array. With `address` the
    environments are those of a server.
    """

    def __init__(
        self,
        id,
        num_envs,
        *,
        threads=1,
        autoreset_mode=AutoresetMode.NEXT_STEP,
        copy=True,
        render_mode=None,
        max_episode_steps=None,
        episode_statistics=True,
        check_actions=True,
        arithmetic="lanes",
        address=None,
        keys=None,
        token=None,
        **options,
    ):
        mode = _autoreset_mode(autoreset_mode)
        super().__init__(
            id,
            num_envs,
            threads,
            _MODES[mode],
            copy,
            options,
            max_episode_steps,
            episode_statistics,
            check_actions,
            arithmetic,
            address,
            None if keys is None else _os.fspath(keys),
            None if token is None else _os.fspath(token),
        )
        info = self._spec
        rows = num_envs * info["rows"]
        self.num_envs = rows
        self.render_mode = _render_mode(render_mode)
        self.metadata = {
            "render_modes": RENDER_MODES,
            "render_fps": info["render_fps"],
            "autoreset_mode": mode,
        }
        self.single_observation_space = space_of(info["observation"])
        self.single_action_space = space_of(info["action"])
        self.observation_space = space_of(info["observation"], rows)
        self.action_space = space_of(info["action"], rows)
        self.spec = _registered_spec(info["id"])
        self.closed = False

    def render(self):
        """A tuple of pictures, one an environment."""
        if self.render_mode is None:
            raise ValueError("render() needs make_vec(..., render_mode='rgb_array')")
        return tuple(self._picture(i) for i in range(self.num_envs // self._spec["rows"]))

    def close(self, **_):
        self.closed = True

    def __repr__(self):
        return f"<bessemer.VectorEnv {self._spec['id']} x {self.num_envs}>"

    __str__ = __repr__


def make(id, *, render_mode=None, max_episode_steps=None, check_actions=True, **options):
    """One environment by its id; `options` are its own.

    `max_episode_steps` overrides the limit after which episodes are truncated (0: none).
    """
    return Env(id, render_mode, max_episode_steps, check_actions, **options)


def make_vec(id, num_envs=1, **arguments):
    """A batch of environments by id; arguments as VectorEnv takes them."""
    return VectorEnv(id, num_envs, **arguments)


def connect(address, id, num_envs=1, **arguments):
    """A batch of a server's environments (docs/protocol.md); arguments as VectorEnv takes them.

    `keys` and `token` are the files that a server beyond this machine asks for (`bessemer env
    keys`). A server on this host is used through shared memory. One that goes away is waited
    for, and the environments are brought back to where they were. OSError when nobody answers,
    or when a key or token is refused.
    """
    return VectorEnv(id, num_envs, address=address, **arguments)


def _gymnasium_env(bessemer_id, **arguments):
    # gymnasium.make limits episodes by its own wrapper.
    return Env(bessemer_id, max_episode_steps=0, **arguments)


def _gymnasium_vector_env(bessemer_id, num_envs, max_episode_steps=None, **arguments):
    # Gymnasium's RecordEpisodeStatistics refuses infos that have the statistics already.
    arguments.setdefault("episode_statistics", False)
    return VectorEnv(bessemer_id, num_envs, max_episode_steps=max_episode_steps, **arguments)


def register_all():
    """Registers every id with Gymnasium as bessemer/<id>, once."""
    if not gymnasium:
        return
    for env_id in env_ids():
        name = f"bessemer/{env_id}"
        if name in gymnasium.registry:
            continue
        info = env_spec(env_id)
        threshold = info["reward_threshold"]
        gymnasium.register(
            name,
            entry_point="bessemer.envs:_gymnasium_env",
            vector_entry_point="bessemer.envs:_gymnasium_vector_env",
            max_episode_steps=info["max_episode_steps"] or None,
            reward_threshold=None if threshold is None else float(np.float64(threshold)),
            kwargs={"bessemer_id": env_id},
        )


register_all()
