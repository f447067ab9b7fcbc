"""Python environments in worker processes: Gymnasium's meaning kept, every misbehaviour a fault."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
bessemer = pytest.importorskip("bessemer")
gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("msgpack")

FOLDER = Path(__file__).resolve().parent / "hosted"
FILE = FOLDER / "user_envs.py"
ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("BESSEMER_BUILD", ROOT / "build"))
sys.path.insert(0, str(FOLDER))
import user_envs  # noqa: E402


def hosted(name, count, **arguments):
    return bessemer.make_vec(f"py:{FILE}:{name}", count, **arguments)


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
@pytest.mark.parametrize("processes", [1, 3])
def test_steps_are_those_of_gymnasium(mode, processes):
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    kind = {"next_step": "NextStep", "same_step": "SameStep", "disabled": "Disabled"}[mode]
    here = SyncVectorEnv(
        [lambda: gymnasium.wrappers.TimeLimit(user_envs.Walk(), 7)] * 4,
        autoreset_mode=AutoresetMode(kind),
    )
    there = hosted("Walk", 4, autoreset_mode=mode, max_episode_steps=7, host_processes=processes)
    assert there.single_observation_space == here.single_observation_space
    assert there.single_action_space == here.single_action_space
    a, b = here.reset(seed=11), there.reset(seed=11)
    assert np.array_equal(a[0], b[0])
    assert np.array_equal(a[1]["drift"], b[1]["drift"])
    rng = np.random.default_rng(1)
    for _ in range(60):
        actions = rng.integers(-1, 2, 4)
        a, b = here.step(actions), there.step(actions)
        for x, y in zip(a[:4], b[:4], strict=True):
            assert np.array_equal(x, y)
        over = a[2] | a[3]
        if mode == "same_step" and over.any():
            for i in np.flatnonzero(over):
                assert np.array_equal(a[4]["final_obs"][i], b[4]["final_obs"][i])
        if mode == "disabled" and over.any():
            a = here.reset(options={"reset_mask": over})
            b = there.reset(options={"reset_mask": over})
            assert np.array_equal(a[0], b[0])


def test_one_environment_with_options_and_reset_options():
    env = bessemer.make(f"py:{FILE}:Walk", length=2, render_mode="rgb_array")
    _, info = env.reset(seed=3, options={"start": 1.0})
    plain = user_envs.Walk(length=2)
    assert info["drift"] == plain.reset(seed=3)[1]["drift"]
    observation, reward, terminated, truncated, info = env.step(1)
    assert observation[0] == 2 and reward == 1 and terminated and not truncated
    assert info["place"] == 2
    picture = env.render()
    assert picture.shape == (40, 60, 3) and np.all(picture == 14)
    with pytest.raises(ValueError, match="no option 'lenght'"):
        bessemer.make(f"py:{FILE}:Walk", lenght=2)


def test_dict_and_tuple_are_named_channels():
    envs = hosted("Everything", 2)
    first, _ = envs.reset()
    assert first["wide"].tolist() == [[40000], [40000]]
    assert first["pair"]["1"].tolist() == [[1, 4], [1, 4]]
    # The keys of a Dict are sorted by Gymnasium: go, then turn.
    shown = envs.step(np.array([[1, 3, 0], [0, 2, 2]]))[0]
    assert shown["words"][0].startswith("5 ") and shown["words"][1].startswith("7 ")
    assert shown["words"][1].endswith("ä")
    assert shown["place"].tolist() == [3, 3]
    assert shown["image"][0].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_text():
    envs = hosted("Talk", 2)
    envs.reset()
    shown, reward, over, _, _ = envs.step(["hello", "bye"])
    assert (
        shown == ("HELLO", "BYE") and reward.tolist() == [5, 3] and over.tolist() == [False, True]
    )


MISBEHAVIOUR = {
    1: "KeyError: 'lost it'",
    2: "no answer within",
    3: "exit code 3",
    4: "signal 9",
    5: "signal 11",
    6: r"shape \(3,\), its space says \(2,\)",
    7: "its space says float32",
    8: "the reward is nan",
    9: "the reward is a str",
    10: "step.. gave no",
    13: "SystemExit: 5",
    14: "a frame of",
    15: "no answer within|closed the connection",
}


@pytest.mark.parametrize("action", sorted(MISBEHAVIOUR))
def test_misbehaviour_is_a_fault_and_the_others_go_on(action):
    import re

    envs = hosted("Trouble", 3, host_deadline=0.7 if action in (2, 15) else 20)
    envs.reset(seed=0)
    shown, reward, over, cut, info = envs.step(np.array([0, action, 0]))
    assert info["_fault"].tolist() == [False, True, False]
    assert re.search(MISBEHAVIOUR[action], info["fault"][1]), info["fault"][1]
    assert shown.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert reward.tolist() == [1, 0, 1] and not over.any() and not cut.any()
    shown, reward, *_, info = envs.step(np.zeros(3, int))  # a new episode there
    assert "_fault" not in info and reward.tolist() == [1, 0, 1]
    assert envs.step(np.zeros(3, int))[1].tolist() == [1, 1, 1]


def test_a_shared_process_takes_its_instances_with_it():
    envs = hosted("Trouble", 4, host_processes=2, autoreset_mode="same_step")
    envs.reset()
    *_, info = envs.step(np.array([0, 4, 0, 0]))
    assert info["_fault"].tolist() == [False, True, False, False]
    *_, info = envs.step(np.zeros(4, int))
    assert info["_fault"].tolist() == [True, False, False, False]
    assert "shared with environment 1" in info["fault"][0]
    assert "_fault" not in envs.step(np.zeros(4, int))[4]


def test_memory_has_a_limit():
    envs = hosted("Trouble", 2, host_memory=1024)
    envs.reset()
    *_, info = envs.step(np.array([12, 0]))
    assert info["_fault"].tolist() == [True, False]
    assert "MemoryError" in info["fault"][0]
    envs.step(np.zeros(2, int))
    assert envs.step(np.zeros(2, int))[1].tolist() == [1, 1]


def test_a_reset_that_fails_is_a_fault():
    envs = hosted("Trouble", 1, told=100)
    _, info = envs.reset()
    assert "no episode today" in info["fault"][0]
    env = bessemer.make(f"py:{FILE}:Trouble")
    env.reset()
    with pytest.raises(RuntimeError, match="lost it"):
        env.step(1)


def test_what_is_printed_goes_to_stderr():
    code = (
        "import bessemer, numpy as np\n"
        f"envs = bessemer.make_vec('py:{FILE}:Trouble', 1)\n"
        "envs.reset()\n"
        "assert '_fault' not in envs.step(np.array([11]))[4]\n"
        "assert envs.step(np.array([0]))[1] == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Trouble | noise 299 x" in done.stderr and done.stdout == ""


def test_targets_that_cannot_be_used():
    with pytest.raises(ValueError, match="no file .*nowhere.py"):
        bessemer.make("py:nowhere.py:Walk")
    with pytest.raises(ValueError, match="has no 'Wlak'; it has: .*Walk"):
        hosted("Wlak", 1)
    with pytest.raises(ValueError, match="is a Sequence"):
        hosted("Odd", 1)
    with pytest.raises(ValueError, match="needs the option 'size'"):
        hosted("NeedsSize", 1)
    with pytest.raises(RuntimeError, match="OSError: the disk is full"):
        hosted("Broken", 1)
    with pytest.raises(ValueError, match="did you mean 'host_memory'"):
        hosted("Walk", 1, host_memori=3)
    envs = hosted("NeedsSize", 1, size=4)
    assert envs.reset()[0].tolist() == [[4, 0]]


def test_states_are_saved_where_they_can_be():
    envs = hosted("Walk", 2)
    envs.reset(seed=1)
    envs.step(np.array([1, 0]))
    states = envs.save()
    after = [envs.step(np.array([1, -1]))[0] for _ in range(3)]
    assert envs.load(states)[0][0] == 1
    again = [envs.step(np.array([1, -1]))[0] for _ in range(3)]
    assert np.array_equal(after, again)
    env = bessemer.make(f"py:{FILE}:Walk")
    env.reset(seed=1)
    copy = pickle.loads(pickle.dumps(env))
    assert np.array_equal(copy.step(1)[0], env.step(1)[0])


def test_send_and_recv_overlap():
    envs = hosted("Walk", 4, slow=0.05)
    envs.reset(seed=0)
    begin = time.perf_counter()
    envs.send(np.array([1, 1]), np.array([2, 0]))
    envs.send(np.array([-1, 0]), np.array([1, 3]))
    results = envs.recv(4)
    assert results[5].tolist() == [2, 0, 1, 3]
    assert results[0][:, 0].tolist() == [1, 1, -1, 0]
    assert time.perf_counter() - begin < 20


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def test_control_c_ends_a_wait():
    code = (
        "import bessemer, numpy as np\n"
        f"envs = bessemer.make_vec('py:{FILE}:Trouble', 2, host_deadline=500)\n"
        "envs.reset()\n"
        "try:\n"
        "    envs.step(np.array([2, 0]))\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped', flush=True)\n"
        "*_, info = envs.step(np.zeros(2, int))\n"
        "assert 'interrupted' in info['fault'][0], info\n"
        "envs.step(np.zeros(2, int))\n"
        "assert envs.step(np.zeros(2, int))[1].tolist() == [1, 1]\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], **PIPES)
    assert process.stderr.readline() == "Trouble | hangs\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "stopped\n"
    assert process.wait(60) == 0


@pytest.fixture(scope="module")
def served():
    program = BUILD / "forge" / "bessemer"
    if not program.exists():
        pytest.skip("built without the command line")
    command = [program, "env", "serve", f"{FILE}:Trouble", f"{FILE}:Walk", "--host-deadline", "1"]
    environment = {**os.environ, "BESSEMER_PYTHON": sys.executable}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    yield process.stdout.readline().split()[-1]
    process.terminate()
    assert process.wait(30) == 0


def test_a_served_class_is_the_same_and_its_faults_arrive(served):
    here, there = hosted("Walk", 3), bessemer.connect(served, "Walk", 3)
    assert there.single_action_space == here.single_action_space
    assert np.array_equal(here.reset(seed=4)[0], there.reset(seed=4)[0])
    for _ in range(10):
        a, b = here.step(np.array([1, 0, -1])), there.step(np.array([1, 0, -1]))
        assert np.array_equal(a[0], b[0]) and np.array_equal(a[4]["drift"], b[4]["drift"])
    envs = bessemer.connect(served, "Trouble", 2)
    envs.reset(seed=0)
    for action, reason in ((1, "lost it"), (2, "no answer within"), (3, "exit code 3")):
        shown, reward, over, cut, info = envs.step(np.array([0, action]))
        assert info["_fault"].tolist() == [False, True] and reason in info["fault"][1]
        assert reward.tolist() == [1, 0] and not over.any() and not cut.any()
        assert "_fault" not in envs.step(np.zeros(2, int))[4]


def test_control_c_ends_a_remote_wait():
    program = BUILD / "forge" / "bessemer"
    if not program.exists():
        pytest.skip("built without the command line")
    command = [program, "env", "serve", f"{FILE}:Trouble"]
    environment = {**os.environ, "BESSEMER_PYTHON": sys.executable}
    server = subprocess.Popen(command, **PIPES, env=environment)
    try:
        address = server.stdout.readline().split()[-1]
        code = (
            "import bessemer, numpy as np\n"
            f"envs = bessemer.connect('{address}', 'Trouble', 1)\n"
            "envs.reset()\n"
            "try:\n"
            "    envs.step(np.array([2]))\n"
            "except KeyboardInterrupt:\n"
            "    print('stopped', flush=True)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert server.stderr.readline() == "Trouble | hangs\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopped\n"
        assert process.wait(20) == 0
    finally:  # its step is still under way, and ended with the server
        server.terminate()
        assert server.wait(30) == 0


def test_nothing_is_left_behind():
    gc.collect()  # those of earlier tests
    envs = hosted("Walk", 2)
    envs.reset()
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [pid for path in children for pid in path.read_text().split()]
    mine = [p for p in pids if "_host.py" in Path(f"/proc/{p}/cmdline").read_text()]
    assert len(mine) >= 2
    del envs
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in mine):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in mine)
