"""APPO over worker processes, as people run it: asynchronous, with every sample accounted for."""

import json
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest
from processes import needs_program

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BESSEMER_BUILD", ROOT / "build"))
PROGRAM = BUILD / "forge" / "bessemer"
RECIPE = """
schema: 1
seed: 3
env: {id: CartPole-v1, num: 8}
rollout: {steps: 32}
trainer: {algo: appo, total_steps: 40_000, lr: 1e-3, epochs: 20, gamma: 0.98, gae_lambda: 0.8}
eval: {episodes: 20}
placement: {mode: processes, workers: 2, max_staleness: 4}
metrics: {console: false, tensorboard: false}
"""

pytestmark = needs_program


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "appo.yaml"
    path.write_text(RECIPE)
    return path


def rows(out):
    # without a line that is being written
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def check_books(row):
    dropped = sum(v for k, v in row.items() if k.startswith("rollout/dropped/"))
    assert row["rollout/produced"] == row["rollout/trained"] + dropped + row["rollout/queued"]
    return dropped


def worker_pids(parent):
    """Processes that a run started."""
    children = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in children.splitlines() if " worker " in line]


def test_learns_and_accounts_for_every_sample(recipe, tmp_path):
    out = tmp_path / "run"
    done = subprocess.run(
        [PROGRAM, "run", recipe, f"out={out}"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    measured = rows(out)
    assert max(row["rollout/staleness_max"] for row in measured) >= 1
    for row in measured:
        assert row["rollout/trained"] > 0
        check_books(row)
    last = measured[-1]
    assert last["step"] >= 40_000
    stale = last.get("rollout/dropped/stale", 0)
    assert last["step"] == last["rollout/trained"] + stale
    assert json.loads((out / "eval.json").read_text())["mean"] > 300


def test_a_bound_of_staleness_is_printed_and_kept(recipe, tmp_path):
    plan = subprocess.run([PROGRAM, "run", recipe, "--dry-run"], capture_output=True, text=True)
    assert "at most 4 policy versions" in plan.stdout
    refused = subprocess.run(
        [PROGRAM, "run", recipe, "placement.max_staleness=0"], capture_output=True, text=True
    )
    assert refused.returncode == 2 and "placement.max_staleness is 0" in refused.stderr

    out = tmp_path / "tight"
    words = ["placement.max_staleness=1", "trainer.total_steps=8192", f"out={out}"]
    done = subprocess.run(
        [PROGRAM, "run", recipe, *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for row in rows(out):
        check_books(row)


def wait_for_rows(run, metrics, count, seconds=60):
    end = time.monotonic() + seconds
    while not metrics.exists() or len(metrics.read_text().splitlines()) < count:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def start(*words):
    return subprocess.Popen([PROGRAM, "run", *words], stderr=subprocess.PIPE, text=True)


def interrupt(run):
    """Ctrl-C: the run ends with its code, and no worker is left."""
    workers = worker_pids(run.pid)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_twenty_killed_workers(recipe, tmp_path):
    out = tmp_path / "run"
    run = start(recipe, f"out={out}", "trainer.total_steps=40_000_000", "placement.restarts=99")
    wait_for_rows(run, out / "metrics.jsonl", 1)
    chance = random.Random(20)
    killed = set()
    end = time.monotonic() + 60
    while len(killed) < 20:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < end
        fresh = [pid for pid in worker_pids(run.pid) if pid not in killed]
        if fresh:
            victim = chance.choice(fresh)
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
        time.sleep(chance.uniform(0, 0.1))
    # It goes on, and reaches its bar.
    while rows(out)[-1].get("rollout/ep_rew_mean", 0) < 300:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    interrupt(run)
    measured = rows(out)
    for row in measured:
        check_books(row)
    assert measured[-1]["workers/restarts"] >= 15  # some died before they had begun
    for pid in killed:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_resume(recipe, tmp_path):
    out = tmp_path / "run"
    metrics = out / "metrics.jsonl"
    run = start(recipe, f"out={out}", "trainer.total_steps=4_000_000")
    wait_for_rows(run, metrics, 8)
    interrupt(run)
    before = rows(out)
    check_books(before[-1])

    run = start("--resume", out)
    wait_for_rows(run, metrics, len(before) + 5)
    interrupt(run)
    after = rows(out)
    assert after[: len(before)] == before
    check_books(after[-1])
    # what was queued at the checkpoint is collected anew, and counted once
    assert after[-1]["rollout/trained"] > before[-1]["rollout/trained"]
    stale = after[-1].get("rollout/dropped/stale", 0)
    assert after[-1]["step"] == after[-1]["rollout/trained"] + stale
