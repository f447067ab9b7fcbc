"""Keys and tokens from the command line, recipes and Python."""

import os
import subprocess
from pathlib import Path

import pytest

bessemer = pytest.importorskip("bessemer")
np = pytest.importorskip("numpy")

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BESSEMER_BUILD", ROOT / "build")) / "forge" / "bessemer"
if not PROGRAM.exists():
    pytest.skip("built without the command line", allow_module_level=True)


def run(*words, **more):
    return subprocess.run(
        [PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=120, **more
    )


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys") / "ours"
    done = run("env", "keys", "--out", folder)
    if "no CURVE" in done.stderr:
        pytest.skip("ZeroMQ without libsodium")
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(folder)) == ["act.token", "client.key", "control.token", "server.key"]
    return folder


@pytest.fixture(scope="module")
def address(keys):
    command = [PROGRAM, "env", "serve", "CartPole-v1", "--keys", keys, "--bind", "tcp://0.0.0.0:*"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    bound = process.stdout.readline().split()[-1]
    yield bound.replace("0.0.0.0", "127.0.0.1")
    process.terminate()
    assert process.wait(30) == 0


def test_a_server_beyond_this_machine_needs_keys():
    done = run("env", "serve", "CartPole-v1", "--bind", "tcp://0.0.0.0:*")
    assert done.returncode == 1 and "needs keys" in done.stderr


def test_info_and_control(address, keys):
    done = run("env", "info", address, "--keys", keys)
    assert done.returncode == 0 and "CartPole-v1" in done.stdout
    done = run("env", "info", address)
    assert done.returncode == 1 and "asks for keys" in done.stderr
    control = ("env", "control", address, "limits", "--keys", keys)
    done = run(*control, "--token", keys / "act.token")
    assert done.returncode == 1 and "token" in done.stderr
    done = run(*control, "--token", keys / "control.token")
    assert done.returncode == 0 and "instances 4096" in done.stdout


def test_connect(address, keys):
    envs = bessemer.connect(
        address, "CartPole-v1", 3, keys=keys, token=keys / "act.token", max_episode_steps=9
    )
    here = bessemer.make_vec("CartPole-v1", 3, max_episode_steps=9)
    assert np.array_equal(envs.reset(seed=1)[0], here.reset(seed=1)[0])
    for _ in range(12):
        actions = np.array([0, 1, 0])
        assert np.array_equal(envs.step(actions)[0], here.step(actions)[0])
    with pytest.raises(OSError, match="asks for keys"):
        bessemer.connect(address, "CartPole-v1")
    with pytest.raises(OSError, match="token"):
        bessemer.connect(address, "CartPole-v1", keys=keys)
    with pytest.raises(OSError, match="cannot read .*nowhere"):
        bessemer.connect(address, "CartPole-v1", keys=keys / "nowhere")


def test_a_recipe_with_keys(address, keys, tmp_path):
    recipe = tmp_path / "pole.yaml"
    recipe.write_text(
        "schema: 1\n"
        "env: {id: CartPole-v1, num: 4}\n"
        "rollout: {steps: 32}\n"
        "trainer: {total_steps: 512, batch_size: 64, epochs: 1}\n"
        "eval: {episodes: 2}\n"
        "metrics: {console: false, tensorboard: false}\n"
    )
    words = ["run", recipe, f"env.address={address}", f"out={tmp_path / 'run'}"]
    done = run(*words, f"env.keys={keys}", f"env.token={keys / 'act.token'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(*words, "--force", f"env.keys={keys}", cwd=tmp_path)
    assert done.returncode != 0 and "token" in done.stderr
