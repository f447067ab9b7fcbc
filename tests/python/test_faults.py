"""Kills, hangs and missing servers: the run goes on, or stops with a clear error and its last
state; nothing is left behind."""

import os
import random
import signal
import subprocess
import time

import pytest
from processes import (
    CARTPOLE,
    FLAT,
    QUIET,
    alive,
    assert_same_run,
    checkpoint,
    child,
    children,
    comes_true,
    finish,
    goes_on,
    hit,
    interrupt,
    needs_program,
    rows,
    run,
    shared_memory,
    start,
    steps,
)

pytestmark = needs_program


@pytest.fixture
def nothing_left():
    """Runs whose processes, sockets and segments must be gone at the end of a test."""
    named, _ = shared_memory()
    runs = []
    yield runs
    for process in runs:
        assert process.poll() is not None
        comes_true(lambda pid=process.pid: not any(f"-{pid}-" in x for x in shared_memory()[1]))
    comes_true(lambda: shared_memory()[0] <= named)


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    """What an undisturbed run in one process gives."""
    out = tmp_path_factory.mktemp("runs") / "inline"
    run(f"out={out}", "trainer.total_steps=32768")
    return out


def test_the_runs_own_server_is_replaced_when_it_dies(inline, tmp_path, nothing_left):
    out = tmp_path / "run"
    words = [*QUIET, *FLAT, f"out={out}", "trainer.total_steps=32768", "placement.server=true"]
    process = start("run", CARTPOLE, *words, "placement.restarts=100")
    nothing_left.append(process)
    killed = []
    draw = random.Random(7)
    while len(killed) < 5 and goes_on(process, out):
        time.sleep(draw.uniform(0, 0.03))
        killed += [
            pid
            for pid, words in children(process.pid).items()
            if "env serve" in words and pid not in killed and hit(process, pid)
        ]
    finish(process)
    assert len(killed) >= 2
    assert_same_run(inline, out)
    assert not any(alive(pid) for pid in killed)
    log = (out / "logs" / "controller.log").read_text()
    # the last one may have met a run that was at its end
    assert log.count("server ended: signal 9 (Killed)") >= len(killed) - 1
    assert log.count("server started again") >= len(killed) - 1
    assert " server | serving on ipc://@bessemer-server-" in (out / "logs/server.log").read_text()


def test_a_server_that_keeps_dying_ends_the_run_with_its_last_words(inline, tmp_path, nothing_left):
    out = tmp_path / "run"
    words = [*QUIET, *FLAT, f"out={out}", "trainer.total_steps=32768", "placement.server=true"]
    process = start("run", CARTPOLE, *words, "placement.restarts=0", "placement.lease=1")
    nothing_left.append(process)
    comes_true(lambda: steps(out) > 2, process)
    os.kill(child(process, "env serve"), signal.SIGKILL)
    errors = finish(process, expect=1)
    assert "server ended with signal 9 (Killed)" in errors
    assert f"its last lines ({out}/logs/server.log):\nserving on ipc://" in errors
    assert f"--resume {out}" in errors
    saved = int(checkpoint(out).name.split("-")[1])
    assert saved > 0 and rows(out)[-1]["step"] == saved
    finish(start("run", "--resume", out, "placement.server=false"))
    assert_same_run(inline, out)


def serve(address="tcp://127.0.0.1:*"):
    server = start("env", "serve", "CartPole-v1", "--bind", address)
    return server, server.stdout.readline().split()[-1]


def end(server):
    server.kill()
    server.communicate()


def test_a_served_run_stops_with_its_last_state_when_the_server_is_gone(inline, tmp_path):
    out = tmp_path / "run"
    total = "trainer.total_steps=32768"
    server, address = serve()
    words = [*QUIET, *FLAT, f"out={out}", total, f"env.address={address}", "placement.lease=0.5"]
    process = start("run", CARTPOLE, *words, "eval.every=4096")
    comes_true(lambda: steps(out) > 20, process)
    end(server)
    errors = finish(process, expect=1)
    assert address in errors and f"--resume {out}" in errors
    saved = int(checkpoint(out).name.split("-")[1])
    assert saved >= 20 * 256 and rows(out)[-1]["step"] == saved
    server, address = serve()
    finish(start("run", "--resume", out, f"env.address={address}"))
    end(server)
    assert checkpoint(inline).name == checkpoint(out).name
    for name in ("model.safetensors", "train.safetensors"):
        assert (checkpoint(inline) / name).read_bytes() == (checkpoint(out) / name).read_bytes()


def test_a_served_run_goes_on_when_its_server_comes_back_in_time(inline, tmp_path):
    out = tmp_path / "run"
    # not a port: while nobody listens there, anybody may get it
    server, address = serve(f"ipc://{tmp_path}/env")
    words = [*QUIET, *FLAT, f"out={out}", "trainer.total_steps=32768", f"env.address={address}"]
    process = start("run", CARTPOLE, *words)
    for before in (10, 40):
        comes_true(lambda before=before: steps(out) > before, process)
        end(server)
        server, _ = serve(address)
    finish(process)
    end(server)
    assert_same_run(inline, out)


def test_the_plan_says_how_exact_a_resume_is():
    plan = start("run", CARTPOLE, "--dry-run").communicate(timeout=60)[0]
    assert "resume        with the same bits, from any checkpoint" in plan
    server, address = serve()
    words = [f"env.address={address}", "placement.lease=2"]
    plan = start("run", CARTPOLE, "--dry-run", *words).communicate(timeout=60)[0]
    end(server)
    assert f"server        {address}, waited for 2 s when it goes away" in plan


LONG = [*QUIET, *FLAT, "trainer.total_steps=131072", "checkpoint.every=4096"]


@pytest.fixture(scope="module")
def long_inline(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "inline"
    finish(start("run", CARTPOLE, *LONG, f"out={out}"))
    return out


def test_twenty_kills_of_anything_change_no_bit(long_inline, tmp_path, nothing_left):
    out = tmp_path / "run"
    draw = random.Random(2026)
    placement = ["placement={mode: processes, workers: 2, server: true, restarts: 1000}"]
    process = start("run", CARTPOLE, *LONG, *placement, f"out={out}")
    nothing_left.append(process)
    dead, killed = [], []
    for victim in 5 * ["worker-0", "env serve", "controller", "worker-1"]:
        if not goes_on(process, out):
            break
        time.sleep(draw.uniform(0, 0.02))
        if victim == "controller":
            orphans = list(children(process.pid))
            process.kill()
            process.communicate()
            comes_true(lambda orphans=orphans: not any(alive(pid) for pid in orphans))
            dead += orphans
            process = start("run", "--resume", out)
            nothing_left.append(process)
            killed.append(victim)
            continue
        for pid, words in children(process.pid).items():
            if victim in words and hit(process, pid):
                dead.append(pid)
                killed.append(victim)
    dead += children(process.pid)
    finish(process)
    assert len(set(killed)) == 4
    assert_same_run(long_inline, out)
    assert not any(alive(pid) for pid in dead)


def test_ctrl_c_saves_and_leaves_no_process(long_inline, tmp_path, nothing_left):
    out = tmp_path / "run"
    placement = ["placement={mode: processes, workers: 2, server: true}"]
    process = start("run", CARTPOLE, *LONG, *placement, f"out={out}")
    nothing_left.append(process)
    comes_true(lambda: steps(out) > 3, process)
    others = children(process.pid)
    assert len(others) == 3
    process.send_signal(signal.SIGINT)
    assert f"--resume {out}" in finish(process, expect=130)
    assert not any(alive(pid) for pid in others)
    assert rows(out)[-1]["step"] == int(checkpoint(out).name.split("-")[1]) < 131072
    # The second one does not wait, even for a worker that hangs.
    process = start("run", "--resume", out)
    nothing_left.append(process)
    before = steps(out)
    comes_true(lambda: steps(out) > before, process)
    others = children(process.pid)
    os.kill(child(process, "worker-1"), signal.SIGSTOP)
    interrupt(process)
    process.send_signal(signal.SIGINT)
    finish(process, expect=130, seconds=30)
    comes_true(lambda: not any(alive(pid) for pid in others))
    finish(start("run", "--resume", out))
    assert_same_run(long_inline, out)


def test_a_server_that_hangs_is_waited_for_and_then_given_up(inline, tmp_path):
    out = tmp_path / "run"
    server, address = serve()
    words = [*QUIET, *FLAT, f"out={out}", "trainer.total_steps=32768", f"env.address={address}"]
    process = start("run", CARTPOLE, *words, "placement.lease=3")
    comes_true(lambda: steps(out) > 3, process)
    server.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    server.send_signal(signal.SIGCONT)
    before = steps(out)
    comes_true(lambda: steps(out) > before, process)
    server.send_signal(signal.SIGSTOP)
    errors = finish(process, expect=1, seconds=60)
    assert f"no answer from {address}" in errors and f"--resume {out}" in errors
    server.send_signal(signal.SIGCONT)
    finish(start("run", "--resume", out))
    end(server)
    assert_same_run(inline, out)


def test_a_port_in_use_is_a_clear_error():
    server, address = serve()
    second = start("env", "serve", "CartPole-v1", "--bind", address)
    assert "Address already in use" in finish(second, expect=1, seconds=30)
    end(server)


def test_a_full_disk_ends_the_run_and_its_workers(tmp_path, nothing_left):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small file system")
    try:
        out = disk / "run"
        words = [*QUIET, *FLAT, "checkpoint.every=256", "checkpoint.keep=100", f"out={out}"]
        placement = ["placement={mode: processes, workers: 2, server: true}", "metrics.trace=true"]
        process = start("run", CARTPOLE, *words, *placement)
        nothing_left.append(process)
        comes_true(lambda: len(children(process.pid)) == 3 or process.poll() is not None)
        others = children(process.pid)
        assert "No space left on device" in finish(process, expect=1)
        assert not any(alive(pid) for pid in others)
        assert checkpoint(out).exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_asynchronous_run_keeps_its_books_whatever_is_killed(tmp_path, nothing_left):
    out = tmp_path / "run"
    draw = random.Random(41)
    words = [*QUIET, *FLAT, "trainer.algo=appo", "trainer.total_steps=131072", f"out={out}"]
    placement = "{mode: processes, workers: 2, server: true, restarts: 1000, max_staleness: 4}"
    words += [f"placement={placement}", "checkpoint.every=2048"]
    process = start("run", CARTPOLE, *words)
    nothing_left.append(process)
    for victim in ["worker-0", "env serve", "controller", "worker-1", "controller", "env serve"]:
        comes_true(lambda: (out / "checkpoints" / "latest").exists(), process)
        if not goes_on(process, out):
            break
        time.sleep(draw.uniform(0, 0.02))
        if victim == "controller":
            process.kill()
            process.communicate()
            process = start("run", "--resume", out)
            nothing_left.append(process)
            continue
        for pid, words in children(process.pid).items():
            if victim in words:
                hit(process, pid)
    finish(process)
    measured = rows(out)
    for row in measured:
        dropped = sum(v for k, v in row.items() if k.startswith("rollout/dropped/"))
        assert row["rollout/produced"] == row["rollout/trained"] + dropped + row["rollout/queued"]
    assert [row["step"] for row in measured] == sorted({row["step"] for row in measured})
    last = measured[-1]
    stale = last.get("rollout/dropped/stale", 0)
    assert last["step"] == last["rollout/trained"] + stale >= 131072
