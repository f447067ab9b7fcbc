"""Kills, hangs and missing servers: the run goes on, or stops with a clear error and its last
state; nothing is left behind."""

import json
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BESSEMER_BUILD", ROOT / "build"))
PROGRAM = BUILD / "forge" / "bessemer"
FEATURES = BUILD / "features.txt"
CARTPOLE = str(ROOT / "configs" / "ppo_cartpole.yaml")
QUIET = ["metrics.console=false", "metrics.tensorboard=false", "eval.episodes=3"]
FLAT = ["trainer.lr_schedule=constant", "trainer.clip_schedule=constant"]

pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason="the program is not built"),
    pytest.mark.skipif(
        not FEATURES.exists() or "wire=yes" not in FEATURES.read_text().split(),
        reason="built without the wire",
    ),
]


def start(*words):
    return subprocess.Popen(
        [PROGRAM, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process, expect=0, seconds=120):
    _, errors = process.communicate(timeout=seconds)
    assert process.returncode == expect, errors
    return errors


def run(*words, expect=0):
    return finish(start("run", CARTPOLE, *QUIET, *FLAT, *words), expect)


def comes_true(condition, process=None, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.002)


def children(pid):
    """Of a process, direct ones: {pid: command line}."""
    out = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
        if int(parent) == pid and state != "Z":
            out[int(entry.name)] = " ".join(word.decode() for word in words)
    return out


def alive(pid):
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


def child(process, text, other_than=()):
    """The pid of the one child whose command line has `text`, once there is one."""
    found = []

    def look():
        found[:] = [p for p, words in children(process.pid).items() if text in words]
        return found and found[0] not in other_than

    comes_true(look, process)
    return found[0]


def rows(folder):
    """metrics.jsonl without what a clock says."""
    lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(x).items() if not k.startswith(("time/", "workers/"))}
        for x in lines
    ]


def checkpoint(folder):
    root = pathlib.Path(folder) / "checkpoints"
    return root / (root / "latest").read_text().strip()


def assert_same_run(a, b):
    assert rows(a) == rows(b)
    assert checkpoint(a).name == checkpoint(b).name
    for name in ("model.safetensors", "train.safetensors"):
        assert (checkpoint(a) / name).read_bytes() == (checkpoint(b) / name).read_bytes()


def steps(folder):
    try:
        return len((folder / "metrics.jsonl").read_bytes().splitlines())
    except OSError:
        return 0


def shared_memory():
    """Named segments of this machine, and what the abstract sockets of runs are called."""
    named = {p.name for p in pathlib.Path("/dev/shm").iterdir()}
    sockets = pathlib.Path("/proc/net/unix").read_text()
    return named, {word for word in sockets.split() if word.startswith("@bessemer-")}


@pytest.fixture
def nothing_left():
    """A context of a test in which nothing may stay behind."""
    named, _ = shared_memory()
    yield
    comes_true(lambda: shared_memory()[0] <= named)


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    """What an undisturbed run in one process gives."""
    out = tmp_path_factory.mktemp("runs") / "inline"
    run(f"out={out}", "trainer.total_steps=65536")
    return out


def test_the_runs_own_server_is_replaced_when_it_dies(inline, tmp_path, nothing_left):
    out = tmp_path / "run"
    words = [*QUIET, *FLAT, f"out={out}", "trainer.total_steps=65536", "placement.server=true"]
    process = start("run", CARTPOLE, *words, "placement.restarts=100")
    killed = []
    draw = random.Random(7)
    while len(killed) < 5:
        killed.append(child(process, "env serve", killed))
        before = steps(out)
        comes_true(lambda before=before: steps(out) > before, process)
        time.sleep(draw.uniform(0, 0.03))
        os.kill(killed[-1], signal.SIGKILL)
    last = child(process, "env serve", killed)
    finish(process)
    assert_same_run(inline, out)
    assert not any(alive(pid) for pid in [*killed, last])
    log = (out / "logs" / "controller.log").read_text()
    assert log.count("server ended: signal 9 (Killed)") == 5
    assert log.count("server started again") == 5
    assert " server | serving on ipc://@bessemer-server-" in (out / "logs/server.log").read_text()
