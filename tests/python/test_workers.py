"""Workers in processes of their own: the bits of one process, whatever their number and whatever
happens to them."""

import os
import random
import signal
import subprocess
import time

import pytest
from processes import (
    CARTPOLE,
    FLAT,
    PROGRAM,
    QUIET,
    ROOT,
    alive,
    assert_same_run,
    children,
    comes_true,
    finish,
    goes_on,
    hit,
    needs_program,
    start,
    steps,
)

pytestmark = needs_program

LANDER = str(ROOT / "configs" / "ppo_lunarlander_continuous.yaml")
PENDULUM = str(ROOT / "configs" / "ppo_pendulum.yaml")
FEATURES = (PROGRAM.parents[1] / "features.txt").read_text() if PROGRAM.exists() else ""

RECIPES = {
    "normalised": [CARTPOLE, "env.normalize_obs=true", "env.normalize_reward=true"],
    "recurrent": [CARTPOLE, "model.kind=gru", "model.recurrent_size=16", "trainer.epochs=2"],
    "exploration": [PENDULUM, "env.num=5", "model.sde=true", "model.sde_sample_freq=8"],
    "lander": [
        LANDER,
        "env.num=6",
        "env.normalize_obs=true",
        "rollout.steps=64",
        "trainer.batch_size=64",
        "trainer.epochs=2",
    ],
}


def train(recipe, out, *words, expect=0):
    return finish(start("run", *recipe, *QUIET, *words, f"out={out}"), expect)


def processes(workers, *words):
    return ["placement.mode=processes", f"placement.workers={workers}", *words]


def worker_pids(process):
    """{name: pid} of a run's workers."""
    found = {}
    for pid, words in children(process.pid).items():
        if " worker " in words:
            found[words.split()[-1]] = pid
    return found


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    """An undisturbed run in one process."""
    out = tmp_path_factory.mktemp("runs") / "inline"
    train([CARTPOLE, *FLAT], out, "trainer.total_steps=32768")
    return out


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_run(cartpole, tmp_path, workers):
    out = tmp_path / "run"
    train([CARTPOLE, *FLAT], out, "trainer.total_steps=32768", *processes(workers))
    assert_same_run(cartpole, out)
    log = (out / "logs" / "controller.log").read_text()
    assert log.count("ended: exit code 0") == workers


@pytest.mark.parametrize("name", RECIPES)
def test_every_kind_of_policy_gives_the_same_run(tmp_path, name):
    if name == "lander" and "box2d=yes" not in FEATURES:
        pytest.skip("built without Box2D")
    recipe = [*RECIPES[name], "trainer.total_steps=6000", "eval.every=0"]
    train(recipe, tmp_path / "inline")
    train(recipe, tmp_path / "two", *processes(2))
    assert_same_run(tmp_path / "inline", tmp_path / "two")


def test_killed_and_stopped_workers_change_no_bit(cartpole, tmp_path):
    out = tmp_path / "run"
    words = processes(2, "placement.restarts=1000", "placement.lease=0.4")
    recipe = [CARTPOLE, *FLAT, *QUIET, "trainer.total_steps=32768"]
    process = start("run", *recipe, *words, f"out={out}")
    draw = random.Random(11)
    victims = []
    while len(victims) < 12 and goes_on(process, out):
        time.sleep(draw.uniform(0, 0.02))
        # a stopped worker is silent until its lease is over; it is then killed and replaced
        number = signal.SIGKILL if len(victims) % 6 else signal.SIGSTOP
        pids = sorted(worker_pids(process).values())
        if pids and hit(process, pid := draw.choice(pids), number):
            victims.append(pid)
    finish(process)
    assert len(victims) >= 4
    assert_same_run(cartpole, out)
    assert not any(alive(pid) for pid in victims)
    assert "silent for 0.4 s" in (out / "logs" / "controller.log").read_text()


def test_a_worker_that_goes_on_before_its_lease_ends_is_not_replaced(cartpole, tmp_path):
    out = tmp_path / "run"
    words = [CARTPOLE, *FLAT, *QUIET, "trainer.total_steps=32768", *processes(2), f"out={out}"]
    process = start("run", *words)
    comes_true(lambda: steps(out) > 3, process)
    pid = worker_pids(process)["worker-1"]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(pid, signal.SIGCONT)
    finish(process)
    assert_same_run(cartpole, out)
    assert "again" not in (out / "logs" / "controller.log").read_text()


def test_a_run_goes_on_in_another_placement(cartpole, tmp_path):
    out = tmp_path / "run"
    train([CARTPOLE, *FLAT], out, "trainer.total_steps=8192", *processes(3))
    for total, words in ((24576, ["placement.mode=inline"]), (32768, processes(2))):
        resumed = start("run", "--resume", out, f"trainer.total_steps={total}", *words)
        finish(resumed)
    assert_same_run(cartpole, out)


def test_workers_use_a_served_environment(cartpole, tmp_path):
    out = tmp_path / "run"
    address = f"ipc://{tmp_path}/env"
    with subprocess.Popen(
        [PROGRAM, "env", "serve", "CartPole-v1", "--bind", address], stdout=subprocess.PIPE
    ) as server:
        try:
            server.stdout.readline()  # where it serves
            words = processes(2, f"env.address={address}")
            train([CARTPOLE, *FLAT], out, "trainer.total_steps=32768", *words)
        finally:
            server.terminate()
    assert_same_run(cartpole, out)


def test_without_restarts_the_run_stops_where_it_can_go_on(cartpole, tmp_path):
    out = tmp_path / "run"
    words = [CARTPOLE, *FLAT, *QUIET, *processes(2, "placement.restarts=0"), f"out={out}"]
    process = start("run", *words, "trainer.total_steps=32768")
    comes_true(lambda: steps(out) > 3, process)
    os.kill(worker_pids(process)["worker-0"], signal.SIGKILL)
    errors = finish(process, expect=1)
    assert "worker-0" in errors
    assert "signal 9 (Killed)" in errors
    assert f"--resume {out}" in errors
    finish(start("run", "--resume", out))
    assert_same_run(cartpole, out)


def test_workers_go_with_the_run_that_is_killed(tmp_path):
    out = tmp_path / "run"
    process = start("run", CARTPOLE, *QUIET, *processes(2), f"out={out}")
    comes_true(lambda: steps(out) > 1, process)
    pids = list(worker_pids(process).values())
    assert len(pids) == 2
    process.kill()
    process.communicate()
    comes_true(lambda: not any(alive(pid) for pid in pids))
