"""Conversations played by workers: the bits of one process, whatever their number, whatever happens
to them, and however far generation runs ahead."""

import os
import random
import signal
import time

import pytest
from language import has_text, make_sft, recipe
from processes import (
    alive,
    assert_same_run,
    checkpoint,
    children,
    comes_true,
    finish,
    goes_on,
    hit,
    needs_program,
    rows,
    start,
    steps,
)

pytestmark = [
    *needs_program,
    pytest.mark.skipif(not has_text(), reason="the program is built without text"),
]

GUESS = "env: {id: GuessNumber-v0, options: {bound: 8}, max_episode_steps: 4}"
STEPS = 16


def processes(workers, *words):
    return ["placement.mode=processes", f"placement.workers={workers}", *words]


def worker_pids(process):
    return [pid for pid, words in children(process.pid).items() if " worker " in words]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with weights to start from and recipes: a group's answers of one turn and of
    several, and a critic."""
    folder = tmp_path_factory.mktemp("language")
    make_sft(folder, steps=60)
    trainer = {"total_steps": STEPS, "batch_size": 16, "lr": "2e-3"}
    rollout = {"groups": 8, "size": 4, "temperature": 1.0}
    turns = {**trainer, "credit": "turn", "advantage": "none", "kl_coef": 0.01}
    texts = {
        "grpo": recipe("grpo", trainer=trainer, rollout=rollout),
        "turns": recipe("grpo", source=GUESS, trainer=turns, rollout=rollout),
        "ppo": recipe("ppo", trainer=trainer, rollout=rollout),
    }
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def train(home, name, out, *words, expect=0):
    more = ["checkpoint.every=4", "eval.every=8", f"out={out}"]
    return finish(start("run", home / f"{name}.yaml", *more, *words), expect)


@pytest.fixture(scope="module")
def inline(home):
    """Undisturbed runs in one process."""
    made = {}

    def get(name, staleness=0, total=STEPS):
        key = (name, staleness, total)
        if key not in made:
            made[key] = home / "-".join(map(str, key))
            lag, length = f"placement.max_staleness={staleness}", f"trainer.total_steps={total}"
            train(home, name, made[key], lag, length)
            assert any(row["grad_norm"] > 0 for row in rows(made[key]))
        return made[key]

    return get


@pytest.mark.parametrize("name", ["grpo", "turns", "ppo"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_run(home, inline, tmp_path, name, workers):
    train(home, name, tmp_path / "run", *processes(workers))
    assert_same_run(inline(name), tmp_path / "run")
    log = (tmp_path / "run" / "logs" / "controller.log").read_text()
    assert log.count("ended: exit code 0") == workers


@pytest.mark.parametrize("workers", [1, 2])
def test_a_lag_is_the_same_lag_everywhere(home, inline, tmp_path, workers):
    words = processes(workers, "placement.max_staleness=2")
    train(home, "grpo", tmp_path / "run", *words)
    assert_same_run(inline("grpo", 2), tmp_path / "run")
    fresh, late = inline("grpo"), inline("grpo", 2)
    assert [row["sampling/staleness"] for row in rows(late)[:4]] == [0, 1, 2, 2]
    assert all(row["sampling/staleness"] == 0 for row in rows(fresh))
    assert all(row["mismatch_kl"] == 0 for row in rows(fresh))
    weights = [(checkpoint(run) / "model.safetensors").read_bytes() for run in (fresh, late)]
    assert weights[0] != weights[1]


def test_killed_and_stopped_workers_change_no_bit(home, inline, tmp_path):
    out = tmp_path / "run"
    words = processes(
        2, "placement.restarts=1000", "placement.lease=0.4", "trainer.total_steps=150"
    )
    more = ["checkpoint.every=4", "eval.every=8", f"out={out}"]
    process = start("run", home / "turns.yaml", *words, *more)
    draw = random.Random(5)
    victims = []
    while len(victims) < 6 and goes_on(process, out):
        time.sleep(draw.uniform(0, 0.02))
        # a stopped worker is silent until its lease is over; it is then killed and replaced
        number = signal.SIGKILL if victims else signal.SIGSTOP
        pids = sorted(worker_pids(process))
        if pids and hit(process, pid := draw.choice(pids), number):
            victims.append(pid)
    finish(process)
    assert len(victims) >= 4
    assert_same_run(inline("turns", total=150), out)
    assert not any(alive(pid) for pid in victims)
    assert "silent for 0.4 s" in (out / "logs" / "controller.log").read_text()


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_run_goes_on_in_another_placement(home, inline, tmp_path, staleness):
    out = tmp_path / "run"
    lag = f"placement.max_staleness={staleness}"
    train(home, "grpo", out, *processes(3), lag, "trainer.total_steps=8")
    finish(start("run", "--resume", out, "trainer.total_steps=12", "placement.mode=inline"))
    finish(start("run", "--resume", out, f"trainer.total_steps={STEPS}", *processes(2)))
    assert_same_run(inline("grpo", staleness), out)


def test_the_lag_of_a_run_stays(inline, home, tmp_path):
    out = tmp_path / "run"
    train(home, "grpo", out, "placement.max_staleness=1", "trainer.total_steps=4")
    more = ["trainer.total_steps=8", "placement.max_staleness=0"]
    assert "placement.max_staleness" in finish(start("run", "--resume", out, *more), expect=2)


def test_without_restarts_the_run_stops_where_it_can_go_on(home, inline, tmp_path):
    out = tmp_path / "run"
    words = processes(2, "placement.restarts=0", "checkpoint.every=4", "eval.every=8")
    process = start("run", home / "turns.yaml", *words, f"out={out}")
    comes_true(lambda: steps(out) > 1, process)
    os.kill(worker_pids(process)[0], signal.SIGKILL)
    errors = finish(process, expect=1)
    assert "signal 9 (Killed)" in errors
    assert f"--resume {out}" in errors
    finish(start("run", "--resume", out))
    assert_same_run(inline("turns"), out)


def test_workers_go_with_the_run_that_is_killed(home, tmp_path):
    out = tmp_path / "run"
    more = ["trainer.total_steps=100000", "eval.every=0", f"out={out}"]
    process = start("run", home / "grpo.yaml", *processes(2), *more)
    comes_true(lambda: steps(out) > 1, process)
    pids = worker_pids(process)
    assert len(pids) == 2
    process.kill()
    process.communicate()
    comes_true(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize(
    "name, words, said",
    [
        ("sft", ["placement.mode=processes"], "only grpo and ppo have workers"),
        ("grpo", ["placement.mode=processes", "placement.workers=9"], "8 groups (rollout.groups)"),
        ("grpo", ["placement.max_staleness=65"], "at most 64 iterations ahead"),
    ],
)
def test_what_cannot_be_placed_is_refused(home, tmp_path, name, words, said):
    assert said in train(home, name, tmp_path / "run", *words, expect=2)
