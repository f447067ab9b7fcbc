"""What a run shows of itself: the Prometheus endpoint and the trace."""

import json
import os
import pathlib
import pty
import re
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BESSEMER_BUILD", ROOT / "build"))
PROGRAM = BUILD / "forge" / "bessemer"
CARTPOLE = str(ROOT / "configs" / "ppo_cartpole.yaml")
QUIET = ["metrics.console=false", "metrics.tensorboard=false", "eval.episodes=3"]

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="the program is not built")


def start(*words):
    return subprocess.Popen(
        [PROGRAM, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(*words, expect=0):
    process = start("run", CARTPOLE, *QUIET, *words)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == expect, errors
    return errors


def test_prometheus_serves_the_newest_values_while_the_run_goes_on(tmp_path):
    words = [f"out={tmp_path / 'run'}", "trainer.total_steps=100000000", "metrics.prometheus=0"]
    process = start("run", CARTPOLE, *QUIET, *words)
    try:
        line = process.stderr.readline()
        address = re.fullmatch(r"metrics at (http://127\.0\.0\.1:\d+/metrics)\n", line).group(1)
        end = time.monotonic() + 60
        while True:
            with urllib.request.urlopen(address, timeout=20) as reply:
                assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                text = reply.read().decode()
            if "train_approx_kl" in text:
                break
            assert time.monotonic() < end
            time.sleep(0.02)
        assert f'folder="{tmp_path / "run"}"' in text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        file = tmp_path / "run" / "metrics.jsonl"
        while "\n" not in (measured := file.read_text()):  # its row comes after the answer
            assert time.monotonic() < end
        row = json.loads(measured.splitlines()[0])
        names = {re.sub(r"[^a-zA-Z0-9_]", "_", name) for name in row}
        assert names <= values.keys()
        assert float(values["step"]) > 0
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_port_in_use_is_a_clear_error_and_leaves_nothing(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        errors = run(f"out={tmp_path / 'run'}", f"metrics.prometheus={port}", expect=1)
    assert f"cannot serve metrics at {port}: Address already in use" in errors
    assert not (tmp_path / "run").exists()
    errors = run(f"out={tmp_path / 'run'}", "metrics.prometheus=nowhere", expect=2)
    assert "'metrics.prometheus' must be PORT or HOST:PORT, got 'nowhere'" in errors


def spans(path):
    """The trace as Perfetto reads it: complete events by process and thread name."""
    events = json.loads(path.read_text())
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    for event in events:
        assert event["ph"] in "MXi" and isinstance(event["pid"], int)
        if event["ph"] == "X":
            assert event["ts"] > 0 and event["dur"] >= 0 and event["pid"] in processes
    return [(processes[e["pid"]], e["name"], e) for e in events if e["ph"] == "X"]


def test_the_trace_shows_what_was_done_and_goes_on_when_the_run_does(tmp_path):
    out = tmp_path / "run"
    words = [f"out={out}", "trainer.total_steps=1024", "metrics.trace=true"]
    run(*words, "trainer.lr_schedule=constant", "trainer.clip_schedule=constant")
    first = spans(out / "trace.json")
    count = len([1 for _, name, _ in first if name == "collect"])
    assert count == 4
    assert {("trainer", name) for name in ("collect", "learn", "checkpoint", "evaluate")} <= {
        (process, name) for process, name, _ in first
    }
    # of one thread: nested or one after the other, never half over each other
    open_ends = []
    for begin, end in sorted((e["ts"], e["ts"] + e["dur"]) for _, _, e in first):
        while open_ends and open_ends[-1] <= begin:
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1] + 0.001
        open_ends.append(end)
    assert not (out / "trace").exists()
    process = start("run", "--resume", out, "trainer.total_steps=1536")
    assert process.wait(60) == 0, process.stderr.read()
    assert len([1 for _, name, _ in spans(out / "trace.json") if name == "collect"]) == 6


WIRE = pytest.mark.skipif(
    not (BUILD / "features.txt").exists()
    or "wire=yes" not in (BUILD / "features.txt").read_text().split(),
    reason="built without the wire",
)


@WIRE
def test_the_trace_has_every_process_on_one_clock(tmp_path):
    out = tmp_path / "run"
    placement = "placement={mode: processes, workers: 2}"
    run(f"out={out}", "trainer.total_steps=2048", "metrics.trace=true", placement)
    seen = spans(out / "trace.json")
    names = {(process, name) for process, name, _ in seen}
    for worker in ("worker-0", "worker-1"):
        assert {(worker, x) for x in ("build", "collect", "send and wait", "weights")} <= names
    assert {("trainer", x) for x in ("wait for workers", "learn", "evaluate")} <= names
    ends = [
        e["ts"] + e["dur"] for process, name, e in seen if (process, name) == ("trainer", "learn")
    ]
    for worker in ("worker-0", "worker-1"):
        begins = [e["ts"] for process, name, e in seen if (process, name) == (worker, "collect")]
        assert len(begins) == len(ends) == 8
        # a rollout begins after the updates of the one before it
        assert all(begin >= end for begin, end in zip(begins[1:], ends[:-1], strict=True))
    threads = {
        e["args"]["name"]
        for e in json.loads((out / "trace.json").read_text())
        if e["name"] == "thread_name"
    }
    assert threads == {"main", "hub"}


@WIRE
def test_workers_are_on_the_console_and_in_the_metrics(tmp_path):
    out = tmp_path / "run"
    words = [f"out={out}", "trainer.total_steps=1024", "eval.episodes=3"]
    process = start("run", CARTPOLE, *words, "placement={mode: processes, workers: 2}")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "2 workers, queue 0, restarts 0" in errors
    row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["workers/running"] == 2 and row["workers/worker-1/restarts"] == 0
    assert row["workers/worker-0/fps"] > 0 and row["workers/worker-0/version"] > 0


@WIRE
def test_a_terminal_shows_a_line_a_worker(tmp_path):
    try:
        screen, terminal = pty.openpty()
    except OSError as error:
        pytest.skip(f"no terminals here: {error}")
    words = [f"out={tmp_path / 'run'}", "trainer.total_steps=8192", "eval.episodes=3"]
    process = subprocess.Popen(
        [PROGRAM, "run", CARTPOLE, *words, "placement={mode: processes, workers: 2}"],
        stderr=terminal,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(screen, 65536):
            shown += piece
    except OSError:  # the other end is closed
        pass
    os.close(screen)
    assert process.wait(60) == 0
    text = shown.decode()
    line = r"  worker-1  [\d.]+( [kM])?/s  version [\d,]+  queue \d+  restarts 0\r\n"
    assert re.search(line, text), text
    # drawn over itself: six lines up, and every line cleared
    assert "\x1b[6A" in text or text.count("worker-1") == 1
