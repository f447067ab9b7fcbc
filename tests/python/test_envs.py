"""Environments from Python: Gymnasium's checker, its vector semantics, copies, states, errors."""

import copy
import pickle
import threading
import warnings

import bessemer as bs
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

IDS = bs.env_ids()
CLASSIC = [
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
]
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


def original(env_id):
    try:
        return gym.make(env_id)
    except gym.error.DependencyNotInstalled:
        pytest.skip(f"Gymnasium cannot make {env_id} here")


def test_ids():
    assert set(CLASSIC) <= set(IDS)
    for env_id in IDS:
        spec = bs.env_spec(env_id)
        assert spec["id"] == env_id and spec["observation"] and spec["action"]
    with pytest.raises(ValueError, match="did you mean 'CartPole-v1'"):
        bs.make("CartPoel-v1")


@pytest.mark.parametrize("env_id", IDS)
def test_check_env(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Gymnasium advises normalised spaces; ours are its own environments' spaces.
        warnings.filterwarnings("ignore", message=".*Box observation space m.*value is.*infinity.*")
        warnings.filterwarnings("ignore", message=".*recommend using a symmetric and normalized.*")
        env = bs.make(env_id)
        assert env.spec.id == f"bessemer/{env_id}"
        check_env(env, skip_render_check=True)


@pytest.mark.parametrize("env_id", CLASSIC)
def test_spaces_are_gymnasiums(env_id):
    ours, theirs = bs.make(env_id), original(env_id)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata["render_fps"] == theirs.metadata["render_fps"]
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps
    assert ours.spec.reward_threshold == theirs.spec.reward_threshold
    vector = bs.make_vec(env_id, 3)
    sync = SyncVectorEnv([lambda: gym.make(env_id)] * 3)
    assert vector.observation_space == sync.observation_space
    assert vector.action_space == sync.action_space
    assert vector.single_observation_space == sync.single_observation_space
    assert vector.single_action_space == sync.single_action_space


@pytest.mark.parametrize("env_id", CLASSIC)
def test_episodes_are_gymnasiums(env_id):
    ours, theirs = bs.make(env_id), original(env_id)
    theirs.action_space.seed(5)
    for seed in (3, None, 11):
        mine, info = ours.reset(seed=seed)
        other, _ = theirs.reset(seed=seed)
        assert info == {} and mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other)
        for _ in range(250):
            action = theirs.action_space.sample()
            mine = ours.step(action)
            other = theirs.step(action)
            np.testing.assert_allclose(mine[0], other[0], rtol=1e-6, atol=1e-7)
            assert mine[1] == pytest.approx(other[1], rel=1e-6, abs=1e-6)
            assert [type(x) for x in mine[1:4]] == [float, bool, bool]
            assert mine[2:4] == other[2:4]
            if mine[2] or mine[3]:
                break


def vectors(env_id, mode, n=5):
    ours = bs.make_vec(env_id, n, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: gym.make(env_id)] * n, autoreset_mode=mode)
    return ours, theirs


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "MountainCar-v0"])
def test_vector_semantics_are_gymnasiums(env_id, mode):
    ours, theirs = vectors(env_id, mode)
    assert ours.metadata["autoreset_mode"] == mode
    obs, infos = ours.reset(seed=42)
    np.testing.assert_array_equal(obs, theirs.reset(seed=42)[0])
    assert infos == {}
    theirs.action_space.seed(1)
    endings = 0
    for _ in range(420):
        actions = theirs.action_space.sample()
        mine, other = ours.step(actions), theirs.step(actions)
        np.testing.assert_allclose(mine[0], other[0], rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(mine[1], other[1], rtol=1e-5, atol=1e-6)
        for i in range(4):
            assert mine[i].dtype == other[i].dtype and mine[i].shape == other[i].shape
        np.testing.assert_array_equal(mine[2], other[2])
        np.testing.assert_array_equal(mine[3], other[3])
        done = mine[2] | mine[3]
        endings += int(done.sum())
        check_infos(mine[4], other[4], done, mode, ours)
        if mode == AutoresetMode.DISABLED and done.any():
            mine = ours.reset(options={"reset_mask": done.copy()})
            other = theirs.reset(options={"reset_mask": done.copy()})
            np.testing.assert_allclose(mine[0], other[0], rtol=2e-5, atol=2e-6)
    assert endings >= 5


def check_infos(mine, other, done, mode, ours):
    if not done.any():
        assert mine == {} and other == {}
        return
    np.testing.assert_array_equal(mine["_episode"], done)
    assert (mine["episode"]["l"] > 0).tolist() == done.tolist()
    if mode == AutoresetMode.SAME_STEP:
        assert mine.keys() - {"episode", "_episode"} == other.keys()
        np.testing.assert_array_equal(mine["_final_obs"], other["_final_obs"])
        assert mine["final_info"] == other["final_info"]
        for i, last in enumerate(other["final_obs"]):
            if last is None:
                assert mine["final_obs"][i] is None
            else:
                np.testing.assert_allclose(mine["final_obs"][i], last, rtol=2e-5, atol=2e-6)
                np.testing.assert_array_equal(ours.final_obs[i], mine["final_obs"][i])
    else:
        assert "final_obs" not in mine and ours.final_obs is None


@pytest.mark.parametrize("mode", MODES[:2], ids=lambda m: m.name)
def test_episode_statistics_are_gymnasiums(mode):
    ours, theirs = vectors("CartPole-v1", mode)
    theirs = gym.wrappers.vector.RecordEpisodeStatistics(theirs)
    ours.reset(seed=7)
    theirs.reset(seed=7)
    theirs.action_space.seed(2)
    seen = 0
    for _ in range(150):
        actions = theirs.action_space.sample()
        mine, other = ours.step(actions)[4], theirs.step(actions)[4]
        assert ("episode" in mine) == ("episode" in other)
        if "episode" not in mine:
            continue
        seen += 1
        np.testing.assert_array_equal(mine["_episode"], other["_episode"])
        for key in ("r", "l", "t"):
            assert mine["episode"][key].dtype == other["episode"][key].dtype
        np.testing.assert_allclose(mine["episode"]["r"], other["episode"]["r"])
        np.testing.assert_array_equal(mine["episode"]["l"], other["episode"]["l"])
        assert (mine["episode"]["t"][mine["_episode"]] > 0).all()
    assert seen > 10


@pytest.mark.filterwarnings("ignore:.*Box observation space m.*value is.*infinity.*")
def test_registered_with_gymnasium():
    env = gym.make("bessemer/CartPole-v1")
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    steps = 1
    while not env.step(0)[2]:  # pushing left all the time ends soon
        steps += 1
    assert 5 < steps < 12
    limited = gym.make("bessemer/Pendulum-v1", max_episode_steps=3)
    limited.reset(seed=0)
    assert [limited.step(np.zeros(1, np.float32))[3] for _ in range(3)] == [False, False, True]
    vector = gym.make_vec("bessemer/Pendulum-v1", num_envs=3, max_episode_steps=4)
    assert isinstance(vector, bs.VectorEnv)
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(vector)
    wrapped.reset(seed=1)
    for _ in range(4):
        step = wrapped.step(np.zeros((3, 1), np.float32))
    assert step[3].all() and step[4]["episode"]["l"].tolist() == [4, 4, 4]


def test_copy():
    actions = np.ones(8, np.int64)
    fresh = bs.make_vec("CartPole-v1", 8)
    first = fresh.reset(seed=0)[0]
    kept = first.copy()
    second = fresh.step(actions)
    np.testing.assert_array_equal(first, kept)
    assert not any(
        np.shares_memory(a, b) for a, b in zip(second[:4], fresh.step(actions)[:4], strict=True)
    )
    shared = bs.make_vec("CartPole-v1", 8, copy=False)
    obs = shared.reset(seed=0)[0]
    again = shared.step(actions)
    assert again[0] is obs
    assert all(a is b for a, b in zip(again[:4], shared.step(actions)[:4], strict=True))
    same = bs.make_vec("CartPole-v1", 8)
    same.reset(seed=0)
    same.step(actions)
    np.testing.assert_array_equal(same.step(actions)[0], obs)


def test_threads_give_the_same_bits():
    results = []
    for threads in (1, 2, 3):
        env = bs.make_vec("Pendulum-v1", 300, threads=threads, autoreset_mode="same_step")
        obs = [env.reset(seed=5)[0]]
        rng = np.random.default_rng(0)
        for _ in range(230):
            obs.append(env.step(rng.uniform(-2, 2, (300, 1)).astype(np.float32))[0])
        results.append(np.stack(obs))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_two_threads_cannot_step_one_batch():
    env = bs.make_vec("Acrobot-v1", 512)
    env.reset(seed=0)
    actions, errors, done = np.zeros(512, np.int64), [], []

    def work():
        for _ in range(100):
            try:
                env.step(actions)
                done.append(1)
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) + len(errors) == 300
    assert all("another thread" in text for text in errors)
    # What was done is a sequence of whole steps.
    other = bs.make_vec("Acrobot-v1", 512)
    other.reset(seed=0)
    for _ in done:
        other.step(actions)
    np.testing.assert_array_equal(env.step(actions)[0], other.step(actions)[0])


def test_seeds():
    env = bs.make_vec("CartPole-v1", 3)
    first = env.reset(seed=9)[0]
    np.testing.assert_array_equal(env.reset(seed=[9, 10, 11])[0], first)
    np.testing.assert_array_equal(bs.make("CartPole-v1").reset(seed=10)[0], first[1])
    assert not np.array_equal(env.reset()[0], first)
    assert not np.array_equal(bs.make("CartPole-v1").reset()[0], bs.make("CartPole-v1").reset()[0])
    for bad, error in [
        (-1, ValueError),
        (1.5, TypeError),
        ("1", TypeError),
        ([1, 2], ValueError),
        (2**64, ValueError),
    ]:
        with pytest.raises(error):
            env.reset(seed=bad)


def test_np_random():
    env = bs.make("CartPole-v1")
    env.reset(seed=4)
    assert env.np_random_seed == 4
    assert env.np_random.random() == np.random.default_rng(4).random()
    env.reset()
    assert env.np_random.random() != np.random.default_rng(4).random()


def test_reset_options():
    env = bs.make("CartPole-v1")
    obs, _ = env.reset(seed=1, options={"low": -0.01, "high": 0.01})
    assert (np.abs(obs) <= 0.01).all()
    theirs, _ = original("CartPole-v1").reset(seed=1, options={"low": -0.01, "high": 0.01})
    np.testing.assert_array_equal(obs, theirs)
    with pytest.raises(ValueError, match="did you mean 'high'"):
        env.reset(options={"hihg": 0.1})
    with pytest.raises(TypeError):
        env.reset(options=[1])
    with pytest.raises(TypeError):
        env.reset(options={"high": object()})
    with pytest.raises(TypeError):
        env.reset(3)


def test_reset_mask_errors():
    env = bs.make_vec("CartPole-v1", 2, autoreset_mode="disabled")
    env.reset(seed=0)
    for mask, error in [
        ([True, False], TypeError),
        (np.ones(2), TypeError),
        (np.ones(3, bool), ValueError),
        (np.zeros(2, bool), ValueError),
    ]:
        with pytest.raises(error):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="ended"):
        for _ in range(20):
            env.step(np.zeros(2, np.int64))


@pytest.mark.parametrize("vector", [False, True])
def test_wrong_actions(vector):
    def make(env_id):
        env = bs.make_vec(env_id, 2) if vector else bs.make(env_id)
        env.reset(seed=0)
        return env

    discrete, box = make("CartPole-v1"), make("Pendulum-v1")
    for action, error in [
        (2, ValueError),
        (-1, ValueError),
        (0.5, TypeError),
        ("left", TypeError),
        (None, TypeError),
        (np.array([1, 0, 1]), ValueError),
    ]:
        with pytest.raises(error):
            discrete.step(
                np.array([action, 0]) if vector and isinstance(action, int | float) else action
            )
    shape = (2, 1) if vector else (1,)
    for action, error in [
        (np.full(shape, np.nan, np.float32), ValueError),
        (np.full(shape, 2.5, np.float32), ValueError),
        (np.full(shape, np.inf), ValueError),
        (np.zeros((2, 2), np.float32), ValueError),
        (np.zeros(shape, bool), TypeError),
        (np.zeros(shape, complex), TypeError),
    ]:
        with pytest.raises(error):
            box.step(action)
    with pytest.raises(TypeError):
        discrete.step()
    with pytest.raises(ValueError, match="reset"):
        (bs.make_vec("CartPole-v1", 2) if vector else bs.make("CartPole-v1")).step(
            np.zeros(2, np.int64) if vector else 0
        )


def test_kinds_of_actions():
    def state(action):
        env = bs.make("CartPole-v1")
        env.reset(seed=0)
        return env.step(action)[0].tolist()

    assert (
        state(1)
        == state(np.int64(1))
        == state(np.array(1))
        == state(np.int32(1))
        == state(np.uint8(1))
    )
    one = bs.make("CartPole-v1")
    one.reset(seed=0)
    assert one.step(action=1)[0].tolist() == state(1)
    env = bs.make_vec("CartPole-v1", 2)

    def states(actions):
        env.reset(seed=0)
        return env.step(actions)[0].tolist()

    plain = states(np.array([0, 1]))
    for actions in (
        [0, 1],
        (0, 1),
        np.array([0, 1], np.uint8),
        np.array([0, 9, 1, 9])[::2],
        bs.tensor([0, 1]),
    ):
        assert states(actions) == plain


def test_wrong_arguments():
    for call, error in [
        (lambda: bs.make("CartPole-v1", gravitation=1), ValueError),
        (lambda: bs.make("CartPole-v1", render_mode="ascii"), ValueError),
        (lambda: bs.make("CartPole-v1", max_episode_steps=-1), ValueError),
        (lambda: bs.make(3), TypeError),
        (lambda: bs.make_vec("CartPole-v1", 0), ValueError),
        (lambda: bs.make_vec("CartPole-v1", 2, threads=-1), ValueError),
        (lambda: bs.make_vec("CartPole-v1", 2, autoreset_mode="never"), ValueError),
        (lambda: bs.make("CartPole-v1").render(), ValueError),
    ]:
        with pytest.raises(error):
            call()


def test_save_and_load():
    env = bs.make("Acrobot-v1")
    env.reset(seed=2)
    for _ in range(10):
        env.step(1)
    state = env.save()
    ahead = [env.step(i % 3)[0].tolist() for i in range(20)]
    other = bs.make("Acrobot-v1")
    assert other.load(state).shape == (6,)
    assert [other.step(i % 3)[0].tolist() for i in range(20)] == ahead
    twins = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    after = env.step(0)[0].tolist()
    assert [twin.step(0)[0].tolist() for twin in twins] == [after, after]
    for bad, error in [
        (b"", ValueError),
        (state[:-1], ValueError),
        (b"x" * 64, ValueError),
        (3, TypeError),
    ]:
        with pytest.raises(error):
            env.load(bad)
    with pytest.raises(ValueError):
        bs.make("CartPole-v1").load(state)
    batch = bs.make_vec("CartPole-v1", 3)
    batch.reset(seed=0)
    states = batch.save()
    ahead = batch.step(np.array([0, 1, 0]))[0]
    batch.load(states)
    np.testing.assert_array_equal(batch.step(np.array([0, 1, 0]))[0], ahead)
    with pytest.raises(ValueError):
        batch.load(states[:2])


def test_send_and_recv():
    env = bs.make_vec("CartPole-v1", 4)
    env.reset(seed=0)
    other = bs.make_vec("CartPole-v1", 4)
    other.reset(seed=0)
    expected = other.step(np.array([0, 1, 0, 1]))[0]
    env.send(np.array([1, 1]), [1, 3])
    env.send(np.array([0, 0]), np.array([0, 2]))
    seen = {}
    while len(seen) < 4:
        obs, rewards, terminations, truncations, infos, ids = env.recv()
        assert len(obs) == len(rewards) == len(terminations) == len(truncations) == len(ids) > 0
        seen.update(zip(ids.tolist(), obs.tolist(), strict=True))
    assert [seen[i] for i in range(4)] == expected.tolist()
    with pytest.raises((ValueError, IndexError)):
        env.send(np.array([1]), [4])


def test_text_environment():
    env = bs.make("Echo-v0")
    obs, _ = env.reset(seed=0)
    assert isinstance(obs, str)
    assert isinstance(env.step("hello")[0], str)
    with pytest.raises(TypeError):
        env.step(3)
    batch = bs.make_vec("Echo-v0", 2)
    obs, _ = batch.reset(seed=0)
    assert isinstance(obs, tuple) and len(obs) == 2 and all(isinstance(o, str) for o in obs)
    assert obs in batch.observation_space
    assert len(batch.step(["a", "bc"])[0]) == 2
    with pytest.raises(ValueError):
        batch.step(["a"])
    with pytest.raises(TypeError):
        batch.step("ab")


@pytest.mark.parametrize(
    "env_id", [i for i in IDS if bs.env_spec(i)["action"][0]["kind"] != "text"]
)
def test_render(env_id):
    env = bs.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    spec = bs.env_spec(env_id)
    assert picture.shape == (spec["render_height"], spec["render_width"], 3)
    assert picture.dtype == np.uint8 and picture.std() > 1
    env.close()
    env.close()
    batch = bs.make_vec(env_id, 2, render_mode="rgb_array")
    batch.reset(seed=0)
    pictures = batch.render()
    assert len(pictures) == 2
    np.testing.assert_array_equal(pictures[0], picture)


def test_human_mode(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = bs.make("CartPole-v1", render_mode="human")
    try:
        env.reset(seed=0)
    except OSError as error:
        pytest.skip(str(error))
    for _ in range(3):
        assert env.step(0)[1] == 1.0
    assert env.render() is None
    env.close()
    env.close()


def test_human_mode_needs_a_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    env = bs.make("CartPole-v1", render_mode="human")
    with pytest.raises(OSError, match="window"):
        env.reset(seed=0)
