"""Kills, hangs and missing servers: the run goes on, or stops with a clear error and its last
state; nothing is left behind."""

import os
import random
import signal
import time

import pytest
from processes import (
    CARTPOLE,
    FLAT,
    QUIET,
    alive,
    assert_same_run,
    child,
    comes_true,
    finish,
    needs_program,
    run,
    shared_memory,
    start,
    steps,
)

pytestmark = needs_program


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
