"""What tests of runs with several processes share: starting them, looking at them, comparing what
they leave."""

import json
import os
import pathlib
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

needs_program = [
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


def interrupt(process):
    """Ctrl-C, seen: two signals under way at once would be one."""
    process.send_signal(signal.SIGINT)
    while line := process.stderr.readline():
        if "stopping after this iteration" in line:
            return
    raise AssertionError("it ended without a word")


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
            stat = (entry / "stat").read_text(errors="replace")
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
        if int(parent) == pid and state != "Z":
            out[int(entry.name)] = " ".join(word.decode() for word in words)
    return out


def alive(pid):
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


def goes_on(process, out):
    """Waits for the next row of measurements; False when the run ended first."""
    before = steps(out)
    comes_true(lambda: steps(out) > before or process.poll() is not None)
    return process.poll() is None


def joined(pid):
    """A worker maps the memory that its hub's welcome named: from then on it has a lease."""
    try:
        return "memfd:bessemer-wire" in pathlib.Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def hit(process, pid, number=signal.SIGKILL):
    """Sends a signal to a child of the run; False when it was gone, and its number perhaps
    another's, or when it would stop before it has a lease that ends."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if pid not in children(process.pid) or (number == signal.SIGSTOP and not joined(pid)):
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


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
