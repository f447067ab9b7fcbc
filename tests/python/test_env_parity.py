"""Classic control against Gymnasium: whole episodes bit for bit, batches as SyncVectorEnv.

BESSEMER_PARITY_EPISODES=1000 repeats what docs/environments.md states (a minute or two).
"""

import os

import bessemer as bs
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

EPISODES = int(os.environ.get("BESSEMER_PARITY_EPISODES", "12"))
CLASSIC = [
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
]


def controller(env_id, obs, rng):
    """A simple policy, so that long episodes and reached goals are compared too."""
    if env_id == "CartPole-v1":
        return int(obs[2] + 0.5 * obs[3] + 0.1 * rng.normal() > 0)
    if env_id == "Acrobot-v1":
        return 2 if obs[5] > 0 else 0
    if env_id == "MountainCar-v0":
        return 2 if obs[1] >= 0 else 0
    if env_id == "MountainCarContinuous-v0":
        force = rng.choice([0.9, 1.0])
        return np.array([force if obs[1] >= 0 else -force], np.float32)
    return np.array([np.clip(-8 * obs[1] - obs[2], -2, 2)], np.float32)


def random_action(space, rng):
    if isinstance(space, gym.spaces.Discrete):
        return int(rng.integers(space.n))
    return rng.uniform(space.low, space.high).astype(np.float32)


def original(env_id, **options):
    return gym.make(env_id, disable_env_checker=True, **options)


def compare_episode(env_id, ours, theirs, seed, rng, options=None):
    """Steps both through one episode; returns its length and whether it terminated."""
    expected, _ = theirs.reset(seed=seed, options=options)
    got, _ = ours.reset(seed=seed, options=options)
    np.testing.assert_array_equal(got, expected, err_msg=f"{env_id} seed {seed} reset")
    for step in range(1, 2000):
        if seed % 2:
            action = controller(env_id, expected, rng)
        else:
            action = random_action(theirs.action_space, rng)
        expected, reward, terminated, truncated, _ = theirs.step(action)
        got, our_reward, our_terminated, our_truncated, _ = ours.step(action)
        where = f"{env_id} seed {seed} step {step}"
        assert got.dtype == np.float32
        assert got.tobytes() == np.asarray(expected, np.float32).tobytes(), where
        assert np.float32(our_reward) == np.float32(reward), where
        assert (our_terminated, our_truncated) == (terminated, truncated), where
        if terminated or truncated:
            return step, terminated
    raise AssertionError(f"{env_id} seed {seed} does not end")


@pytest.mark.parametrize("env_id", CLASSIC)
def test_episodes_are_bit_equal(env_id):
    ours, theirs = bs.make(env_id), original(env_id)
    rng = np.random.default_rng(0)
    ends = [compare_episode(env_id, ours, theirs, seed, rng) for seed in range(EPISODES)]
    steps = sum(length for length, _ in ends)
    print(f"{env_id}: {EPISODES} episodes, {steps} steps, {sum(t for _, t in ends)} terminated")
    assert len({length for length, _ in ends}) > 1 or env_id == "Pendulum-v1"


@pytest.mark.parametrize(
    ("env_id", "options", "reset_options"),
    [
        ("CartPole-v1", {"sutton_barto_reward": True}, {"low": -0.1, "high": 0.1}),
        ("Acrobot-v1", {}, {"low": -3.0, "high": 3.0}),
        ("MountainCar-v0", {"goal_velocity": 0.02}, {"low": -1.0, "high": 0.4}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.02}, {"low": -1.0, "high": 0.4}),
        ("Pendulum-v1", {"g": 9.81}, {"x_init": 0.5, "y_init": 3.0}),
    ],
)
def test_options_are_bit_equal(env_id, options, reset_options):
    ours, theirs = bs.make(env_id, **options), original(env_id, **options)
    rng = np.random.default_rng(1)
    for seed in range(4):
        compare_episode(env_id, ours, theirs, seed, rng, dict(reset_options))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("env_id", CLASSIC)
def test_batches_are_sync_vector_envs(env_id, mode):
    num = 5
    ours = bs.make_vec(env_id, num, autoreset_mode=mode, arithmetic="plain", max_episode_steps=60)
    theirs = SyncVectorEnv(
        [lambda: gym.make(env_id, max_episode_steps=60)] * num, autoreset_mode=mode
    )
    rng = np.random.default_rng(2)
    expected, _ = theirs.reset(seed=40)
    got, _ = ours.reset(seed=40)
    np.testing.assert_array_equal(got, expected)
    ended = 0
    for step in range(150):
        actions = [random_action(theirs.single_action_space, rng) for _ in range(num)]
        actions = np.array(actions)
        expected, reward, terminated, truncated, infos = theirs.step(actions)
        got, our_reward, our_terminated, our_truncated, _ = ours.step(actions)
        np.testing.assert_array_equal(got, expected, err_msg=f"step {step}")
        np.testing.assert_array_equal(np.float32(our_reward), np.float32(reward))
        np.testing.assert_array_equal(our_terminated, terminated)
        np.testing.assert_array_equal(our_truncated, truncated)
        done = terminated | truncated
        ended += done.sum()
        if mode == AutoresetMode.SAME_STEP:
            for row in np.flatnonzero(done):
                np.testing.assert_array_equal(ours.final_obs[row], infos["final_obs"][row])
    assert ended >= num


@pytest.mark.parametrize("env_id", CLASSIC)
def test_lanes_follow_gymnasium_to_one_ulp_a_step(env_id):
    """On Gymnasium's trajectory: the plain environment carries its state over to the lanes."""
    num, steps = 16, 120
    plain = bs.make_vec(env_id, num, arithmetic="plain")
    lanes = bs.make_vec(env_id, num, arithmetic="lanes")
    rng = np.random.default_rng(3)
    np.testing.assert_array_equal(plain.reset(seed=7)[0], lanes.reset(seed=7)[0])
    for _ in range(steps):
        lanes.load(plain.save())
        actions = [random_action(plain.single_action_space, rng) for _ in range(num)]
        actions = np.array(actions)
        expected, reward, terminated, truncated, _ = plain.step(actions)
        got, our_reward, our_terminated, our_truncated, _ = lanes.step(actions)
        np.testing.assert_array_max_ulp(got, expected, maxulp=1)
        np.testing.assert_array_max_ulp(np.float32(our_reward), np.float32(reward), maxulp=1)
        np.testing.assert_array_equal(our_terminated, terminated)
        np.testing.assert_array_equal(our_truncated, truncated)


def test_arithmetic_is_one_of_two():
    with pytest.raises(ValueError, match="did you mean 'plain'"):
        bs.make_vec("CartPole-v1", 2, arithmetic="plainn")
