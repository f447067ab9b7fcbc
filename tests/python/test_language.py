"""Language models through the program: data files, prerequisites, Python rewards, resumption."""

import concurrent.futures
import fcntl
import json
import os
import signal
import statistics
import subprocess

import pytest
from language import MODEL, PROGRAM, bessemer, checkpoint, has_text, rows

pytestmark = pytest.mark.skipif(not has_text(), reason="the program is not built, or without text")

SFT = f"""schema: 1
env: {{id: Arithmetic-v0, options: {{digits: 1, operators: "+"}}}}
{MODEL}
rollout: {{max_tokens: 4}}
trainer: {{algo: sft, total_steps: 6, batch_size: 8}}
eval: {{every: 3, episodes: 8}}
checkpoint: {{every: 2}}
metrics: {{console: false, tensorboard: false}}
placement: {{threads: 1}}
"""
GRPO = """schema: 1
env: {id: Arithmetic-v0, options: {digits: 1, operators: "+"}}
init: {recipe: sft.yaml}
reward: {from: py:score.py:short, deadline: 60}
rollout: {groups: 2, size: 4, max_tokens: 4}
trainer: {algo: grpo, total_steps: 3, batch_size: 8}
eval: {episodes: 4}
metrics: {console: false, tensorboard: false}
placement: {threads: 1}
"""
SCORE = """
def short(prompts, completions, oracle, env_reward, **columns):
    assert len(prompts) == len(completions) == len(oracle) == len(env_reward)
    assert all(str(eval(p[:-1])) == o for p, o in zip(prompts, oracle))
    return [-float(len(c)) for c in completions]
"""


def test_run_resume_eval_show(tmp_path):
    (tmp_path / "sft.yaml").write_text(SFT)
    bessemer(tmp_path, "run", "sft.yaml", "out=whole")
    whole = checkpoint(tmp_path / "whole")
    files = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert files | {"train.safetensors"} <= {p.name for p in whole.iterdir()}
    assert "add_generation_prompt" in (whole / "tokenizer_config.json").read_text()
    scored = json.loads((tmp_path / "whole/eval.json").read_text())
    assert 0 <= scored["score"] <= 1 and len(scored["returns"]) == 8

    bessemer(tmp_path, "run", "sft.yaml", "out=cut", "trainer.total_steps=4")
    bessemer(tmp_path, "run", "--resume", "cut", "trainer.total_steps=6")
    for name in ("metrics.jsonl", "completions.jsonl"):
        want, got = rows(tmp_path / "whole" / name), rows(tmp_path / "cut" / name)
        if name == "completions.jsonl":  # the shorter run was judged once more, at its own end
            got = [r for r in got if r["step"] != 4]
        assert got == want
    for name in ("model.safetensors", "train.safetensors"):
        assert (checkpoint(tmp_path / "cut") / name).read_bytes() == (whole / name).read_bytes()

    judged = json.loads(bessemer(tmp_path, "eval", "whole", "--json").stdout)
    assert judged["score"] == scored["score"]
    assert "eval" in (tmp_path / "whole/completions.jsonl").read_text()
    assert bessemer(tmp_path, "show", "whole").stdout


def test_python_reward_and_prerequisite(tmp_path):
    (tmp_path / "sft.yaml").write_text(SFT)
    (tmp_path / "grpo.yaml").write_text(GRPO)
    (tmp_path / "score.py").write_text(SCORE)
    plan = bessemer(tmp_path, "run", "grpo.yaml", "--dry-run").stdout
    assert "missing: is run first" in plan and not (tmp_path / "runs").exists()
    bessemer(tmp_path, "run", "grpo.yaml", "out=g")
    (first,) = (tmp_path / "runs").iterdir()
    assert first.name.startswith("sft-") and (first / "eval.json").exists()
    said = rows(tmp_path / "g/completions.jsonl")
    tokens = 0
    for row in rows(tmp_path / "g/metrics.jsonl"):
        # every answer of so small an iteration is kept: what its row says of them, as TRL would
        own = [s for s in said if s["kind"] == "train" and s["step"] == row["step"]]
        rewards = [s["reward"] for s in own]
        assert row["reward"] == pytest.approx(statistics.mean(rewards))
        assert row["reward_std"] == pytest.approx(statistics.stdev(rewards))
        frame = len("_user\n") + len("_\n") + len("_assistant\n")  # _ is one token
        tokens += sum(frame + len(s["prompt"]) + len(s["token_ids"]) for s in own)
        assert row["num_tokens"] == tokens
        assert row["mismatch_kl"] == 0
        assert row["sampling/importance_sampling_ratio/min"] == 1
        assert row["sampling/importance_sampling_ratio/max"] == 1
        assert row["reward"] <= 0 and row["faults"] == 0 and "rewards/env/mean" in row
    assert {s["kind"] for s in said} == {"train", "eval"}
    assert all(len(s["tokens"]) == len(s["log_probs"]) == len(s["token_ids"]) for s in said)


def test_processes_that_want_the_same_prerequisite(tmp_path):
    """One makes it, the others wait; whoever waits can be interrupted, and goes on where the one
    that made it is gone."""
    (tmp_path / "sft.yaml").write_text(SFT)
    (tmp_path / "grpo.yaml").write_text(GRPO.replace("py:score.py:short, deadline: 60", "env"))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in [
            pool.submit(bessemer, tmp_path, "run", "grpo.yaml", f"out={o}") for o in "abc"
        ]:
            done.result()
    (first,) = (tmp_path / "runs").iterdir()
    bessemer(tmp_path, "run", "sft.yaml", "out=alone", "seed=1")
    assert rows(first / "metrics.jsonl") == rows(tmp_path / "alone" / "metrics.jsonl")
    for name in "bc":
        assert rows(tmp_path / name / "metrics.jsonl") == rows(tmp_path / "a" / "metrics.jsonl")

    (first / "eval.json").unlink()  # as of a process that is on its way
    folder = os.open(first, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    words = [PROGRAM, "run", "grpo.yaml"]
    for out in ("stopped", "waited"):
        with subprocess.Popen([*words, f"out={out}"], cwd=tmp_path, stderr=subprocess.PIPE) as one:
            while b"its end is waited for" not in one.stderr.readline():
                assert one.poll() is None
            if out == "stopped":
                one.send_signal(signal.SIGINT)
                said = one.stderr.read()
                assert one.wait() == 130 and b"stopped before the first step" in said
            else:
                os.close(folder)  # with the lock
                one.stderr.read()
                assert one.wait() == 0
    assert not (tmp_path / "stopped").exists() and (first / "eval.json").exists()
    assert rows(tmp_path / "waited" / "metrics.jsonl") == rows(tmp_path / "a" / "metrics.jsonl")


def test_reward_that_raises_marks_episodes(tmp_path):
    (tmp_path / "sft.yaml").write_text(SFT)
    (tmp_path / "grpo.yaml").write_text(GRPO)
    (tmp_path / "score.py").write_text(
        "def short(prompts, completions, **c):\n    raise ValueError('no')\n"
    )
    bessemer(tmp_path, "run", "grpo.yaml", "out=g")
    assert all(row["faults"] == 1 for row in rows(tmp_path / "g/metrics.jsonl"))
    said = [s for s in rows(tmp_path / "g/completions.jsonl") if s["kind"] == "train"]
    assert all(s["reward"] is None and "no" in s["finish"] for s in said)


def test_data_files(tmp_path):
    recipe = SFT.replace("eval: {every: 3, episodes: 8}", "eval: {episodes: 8}")
    recipe = "\n".join(line for line in recipe.splitlines() if not line.startswith("env:"))
    (tmp_path / "sft.yaml").write_text(recipe + "\ndata: {from: texts.jsonl, holdout: 0.3}\n")
    data = tmp_path / "texts.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": f"{i}:", "completion": "x"}) + "\n" for i in range(40))
    )
    bessemer(tmp_path, "run", "sft.yaml", "out=a")
    scored = json.loads((tmp_path / "a/eval.json").read_text())
    assert 0 < len(scored["returns"]) <= 8 and scored["eval/loss"] > 0

    data.write_text('{"prompt": "a", "completion": "b"}\n{"question": "a"}\n')
    wrong = bessemer(tmp_path, "run", "sft.yaml", "out=b", expect=2).stderr
    assert "texts.jsonl:2: columns found: question; accepted here: " in wrong
    assert not (tmp_path / "b").exists()


ECHO = """
import gymnasium as gym
with open("made.txt", "a") as file:
    file.write("x")
class Echo(gym.Env):
    observation_space = action_space = gym.spaces.Text(50)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.word = "".join(self.np_random.choice(list("abc"), 3))
        return self.word, {}
    def step(self, action):
        return "", float(len(action)), True, False, {}
"""


def test_a_python_environment_teaches_and_is_kept(tmp_path):
    """Its processes live as long as the run: a longer one starts no more of them."""
    pytest.importorskip("gymnasium")
    (tmp_path / "echo.py").write_text(ECHO)
    (tmp_path / "sft.yaml").write_text(SFT)
    text = GRPO.replace("py:score.py:short, deadline: 60", "env")
    text = text.replace('Arithmetic-v0, options: {digits: 1, operators: "+"}', "py:echo.py:Echo")
    (tmp_path / "grpo.yaml").write_text(text)
    made = []
    for steps in (1, 4):
        bessemer(tmp_path, "run", "grpo.yaml", f"out=g{steps}", f"trainer.total_steps={steps}")
        made.append((tmp_path / "made.txt").read_text())
        (tmp_path / "made.txt").unlink()
    assert made[0] == made[1]
    measured = rows(tmp_path / "g4/metrics.jsonl")
    assert len(measured) == 4 and all(r["faults"] == 0 and r["reward"] > 0 for r in measured)
    more = ("trainer.total_steps=4", "placement.mode=processes")
    bessemer(tmp_path, "run", "grpo.yaml", "out=w4", *more)
    for name in ("model.safetensors", "train.safetensors"):
        here, there = (checkpoint(tmp_path / out) / name for out in ("g4", "w4"))
        assert here.read_bytes() == there.read_bytes()
