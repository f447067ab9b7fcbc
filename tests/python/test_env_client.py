"""The client written from docs/protocol.md, driven against a served environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("zmq")
pytest.importorskip("msgpack")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))
env_client = pytest.importorskip("env_client")

BUILD = Path(os.environ.get("BESSEMER_BUILD", ROOT / "build"))
SERVER = BUILD / "tests" / "envs_wire" / "test_envs_wire"


@pytest.fixture(scope="module")
def address():
    if not SERVER.exists():
        pytest.skip("built without ZeroMQ")
    case = "--test-case=serve: helper that serves until it is told to stop"
    process = subprocess.Popen([SERVER, "--no-skip", case], stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.startswith("serving "):
                yield line.split()[1]
                break
        else:
            pytest.fail("the server said nothing")
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_steps_are_those_of_gymnasium(address):
    gymnasium = pytest.importorskip("gymnasium")
    client = env_client.Client(address, "CartPole-v1", num_envs=3, arithmetic="plain")
    there = client.reset(seed=5)["obs.obs"]
    envs = [gymnasium.make("CartPole-v1") for _ in range(3)]
    here = np.stack([env.reset(seed=5 + i)[0] for i, env in enumerate(envs)])
    assert np.array_equal(there, here)
    for step in range(8):
        action = np.arange(3) % 2 if step % 2 else np.array([1, 0, 0])
        reply = client.step(action)
        here = np.stack([env.step(int(a))[0] for env, a in zip(envs, action, strict=True)])
        assert np.array_equal(reply["obs.obs"], here)
        assert np.array_equal(reply["reward"], np.ones(3, np.float32))
    client.close()


@pytest.fixture(scope="module")
def bessemer():
    return pytest.importorskip("bessemer")


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_connect_is_make_vec_elsewhere(address, bessemer, mode):
    arguments = dict(autoreset_mode=mode, max_episode_steps=9)
    here = bessemer.make_vec("CartPole-v1", 6, **arguments)
    there = bessemer.connect(address, "CartPole-v1", 6, **arguments)
    assert there.single_action_space == here.single_action_space
    assert np.array_equal(here.reset(seed=3)[0], there.reset(seed=3)[0])
    rng = np.random.default_rng(0)
    for _ in range(40):
        actions = rng.integers(0, 2, 6)
        a, b = here.step(actions), there.step(actions)
        for x, y in zip(a[:4], b[:4], strict=True):
            assert np.array_equal(x, y)
        assert sorted(a[4]) == sorted(b[4])
        if "episode" in a[4]:
            for key in ("r", "l"):
                assert np.array_equal(a[4]["episode"][key], b[4]["episode"][key])
    state = there.save()
    after = there.step(actions)[0].copy()
    there.load(state)
    assert np.array_equal(there.step(actions)[0], after)


def test_connect_says_what_is_wrong(address, bessemer):
    with pytest.raises(ValueError, match="did you mean 'CartPole-v1'"):
        bessemer.connect(address, "CartPole-v9")
    with pytest.raises(ValueError, match="action of row 1 is 5"):
        envs = bessemer.connect(address, "CartPole-v1", 2)
        envs.reset(seed=1)
        envs.step(np.array([0, 5]))
    with pytest.raises(OSError, match="no answer from tcp://127.0.0.1:1"):
        bessemer.connect("tcp://127.0.0.1:1", "CartPole-v1")


def test_text_is_echoed(address):
    client = env_client.Client(address, "Echo-v0", num_envs=2)
    shown = client.reset(seed=1)
    for _ in range(5):
        offsets = shown["obs.text.offsets"]
        data = shown["obs.text.bytes"].tobytes().decode()
        words = [data[offsets[i] : offsets[i + 1]] for i in range(2)]
        shown = client.step(words)
        assert np.array_equal(shown["reward"], np.ones(2, np.float32))
    client.close()


def test_errors_have_codes_and_change_nothing(address):
    with pytest.raises(env_client.ServerError) as refused:
        env_client.Client(address, "CartPole-v9")
    assert refused.value.code == "unknown_name"
    assert "did you mean 'CartPole-v1'?" in str(refused.value)
    client = env_client.Client(address, "CartPole-v1")
    client.reset(seed=1)
    with pytest.raises(env_client.ServerError) as refused:
        client.step([7])
    assert refused.value.code == "bad_value"
    with pytest.raises(env_client.ServerError) as refused:
        client.step([[0, 1]])
    assert refused.value.code == "bad_type"
    first = client.step([1])["obs.obs"]
    client.reset(seed=1)
    assert np.array_equal(client.step([1])["obs.obs"], first)
    client.close()


def test_the_example_runs(address):
    for env in ("CartPole-v1", "Pendulum-v1", "Echo-v0"):
        command = [sys.executable, ROOT / "examples" / "env_client.py", address, env]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{env}: 4000 steps")
