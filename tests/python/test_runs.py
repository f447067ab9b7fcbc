"""Recipes from Python: metrics, overrides, errors, interruption, resumption."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import bessemer as bs
import pytest

pytestmark = pytest.mark.skipif(not hasattr(bs._native, "_run"), reason="this build has no recipes")

RECIPE = """
schema: 1
seed: 3
env: {id: CartPole-v1, num: 4}
model: {hidden: [16]}
rollout: {steps: 32}
trainer: {algo: ppo, total_steps: 1024, epochs: 2, batch_size: 64}
eval: {episodes: 3}
metrics: {console: false, tensorboard: false}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def test_run(recipe, tmp_path):
    out = tmp_path / "run"
    result = bs.run(recipe, {"out": out, "trainer.lr": 1e-3}, announce=False)
    assert result["run/steps"] == 1024 and result["run/end"] == "steps"
    assert pathlib.Path(result["run/folder"]) == out
    assert result["train/learning_rate"] == pytest.approx(1e-3)
    assert len(result["eval/returns"]) == 3
    assert {"rollout/ep_rew_mean", "train/approx_kl", "eval/mean_reward"} <= result.keys()
    assert (out / "recipe.yaml").exists() and (out / "metrics.jsonl").exists()
    again = bs.run(str(recipe), [f"out={tmp_path / 'again'}", "trainer.lr=1e-3"], announce=False)
    assert again["eval/returns"] == result["eval/returns"]
    with pytest.raises(ValueError, match="run"):
        bs.run(recipe, {"out": out}, announce=False)
    bs.run(recipe, {"out": out, "trainer.total_steps": 256}, force=True, announce=False)
    longer = bs.resume(out, {"trainer.total_steps": 512}, announce=False)
    assert longer["run/steps"] == 512


def test_errors(recipe, tmp_path):
    out = tmp_path / "run"
    for overrides, error, text in [
        ({"trainer.lrr": 1}, ValueError, "lr"),
        ({"trainer.lr": "fast"}, ValueError, "lr"),
        ({"env.id": "CartPoel-v1"}, ValueError, "CartPole-v1"),
        ("trainer.lr=1", TypeError, "dict"),
    ]:
        with pytest.raises(error, match=text):
            bs.run(recipe, overrides if isinstance(overrides, str) else {"out": out, **overrides})
    with pytest.raises(OSError):
        bs.run(tmp_path / "missing.yaml")
    with pytest.raises(ValueError):
        bs.resume(tmp_path)


def test_other_threads_go_on(recipe, tmp_path):
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    try:
        bs.run(recipe, {"out": tmp_path / "run", "trainer.total_steps": 20_000}, announce=False)
    finally:
        end = time.perf_counter()
        stop.set()
        thread.join()
    assert sum(start < tick < end for tick in ticks) > 5


INTERRUPTED = """
import sys
import bessemer as bs
try:
    bs.run(sys.argv[1], {"out": sys.argv[2], "trainer.total_steps": 100_000})
except KeyboardInterrupt as stop:
    print("stopped:", stop)
"""


def test_ctrl_c(recipe, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(recipe), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "bessemer.resume" in printed
    assert any((out / "checkpoints").iterdir())
    assert int(printed.split("after ")[1].split()[0]) < 100_000
    result = bs.resume(out, announce=False)
    assert result["run/steps"] >= 100_000 and result["run/end"] == "steps"


def test_workers_from_python(recipe, tmp_path, monkeypatch):
    features = pathlib.Path(os.environ["BESSEMER_PROGRAM"]).parents[1] / "features.txt"
    if "wire=yes" not in features.read_text().split():
        pytest.skip("built without the wire")
    here = bs.run(recipe, {"out": tmp_path / "here"}, announce=False)
    placement = "{mode: processes, workers: 2}"
    there = bs.run(recipe, [f"out={tmp_path / 'there'}", f"placement={placement}"], announce=False)
    assert there["eval/returns"] == here["eval/returns"]
    assert there["workers/running"] == 2
    monkeypatch.setenv("BESSEMER_PROGRAM", "no-such-program")
    with pytest.raises(OSError, match="no program 'no-such-program' in PATH"):
        bs.run(recipe, [f"out={tmp_path / 'none'}", f"placement={placement}"], announce=False)
