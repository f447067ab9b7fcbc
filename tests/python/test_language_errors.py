"""Bad input, a line each: data, weights, rewards, environments and settings that cannot be right
end in an error that says where, or in a marked episode; never in a crash, never in silence."""

import json
import shutil

import pytest
from language import MODEL, bessemer, checkpoint, has_text, make_sft, recipe, rows

pytestmark = pytest.mark.skipif(not has_text(), reason="the program is not built, or without text")

GOOD = '{"prompt": "a", "completion": "b"}\n'
PAIR = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
CHAT = '{"messages": [{"role": "%s", "content": "a"}]}\n'


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """sft: a trained policy; rm and rm300: reward models, the second of another vocabulary."""
    folder = tmp_path_factory.mktemp("errors")
    make_sft(folder)
    pairs = [{"prompt": f"q{i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    source = "data: {from: pairs.jsonl, holdout: 0.3}"
    text = "\n".join(
        line for line in recipe("reward", source, MODEL).splitlines() if "rollout" not in line
    )
    (folder / "rm.yaml").write_text(text)
    bessemer(folder, "run", "rm.yaml", "out=rm")
    bessemer(folder, "run", "rm.yaml", "out=rm300", "model.vocabulary=300")
    bessemer(folder, "run", "rm.yaml", "out=rm24", "model.max_position_embeddings=24")
    return folder


def run(folder, text, *words, expect=0):
    (folder / "it.yaml").write_text(text)
    return bessemer(folder, "run", "it.yaml", "out=it", "--force", *words, expect=expect)


def refused(folder, text, *words, expect=2):
    """What is said; nothing is left behind."""
    shutil.rmtree(folder / "it", ignore_errors=True)
    said = run(folder, text, *words, expect=expect).stderr
    assert not (folder / "it").exists()
    return said


# what is in the file, what is said of it; sft, then pairs
DATA = {
    "damaged line": (GOOD + '{"prompt": "a"\n', "bad.jsonl:2: is damaged: "),
    "no object": (GOOD + "[1, 2]\n", "bad.jsonl:2: is no JSON object"),
    "wrong columns": (
        GOOD + '{"question": "a", "answer": "b"}\n',
        "bad.jsonl:2: columns found: answer, question; accepted here: text | messages | prompt, ",
    ),
    "pairs for sft": (PAIR, "bad.jsonl:1: columns found: chosen, prompt, rejected; accepted here"),
    "wrong type": ('{"prompt": 3, "completion": "b"}\n', "bad.jsonl:1: column 'prompt' must be"),
    "another shape": (GOOD + '{"text": "a"}\n', "bad.jsonl:2: is of the shape 'text', the lines"),
    "empty file": ("", "bad.jsonl: there are no examples"),
    "blank lines": ("\n  \n", "bad.jsonl: there are no examples"),
    "empty completion": (
        '{"prompt": "a", "completion": ""}\n',
        "bad.jsonl:1: column 'completion' is empty",
    ),
    "all too long": (
        json.dumps({"prompt": "a" * 100, "completion": "b"}) + "\n",
        "bad.jsonl: all 1 examples are longer than 64 tokens",
    ),
    "nothing trained": (CHAT % "user", "bad.jsonl: nothing is trained"),
    "unknown role": (CHAT % "asistant", "bad.jsonl:1: unknown role 'asistant', did you mean"),
    "broken UTF-8": (
        GOOD.encode() + b'{"prompt": "\xff\xfe", "completion": "b"}\n',
        "bad.jsonl:2: is damaged: ",
    ),
    "half a surrogate": (
        '{"prompt": "\\ud800", "completion": "b"}\n',
        "bad.jsonl:1: is damaged: ",
    ),
    "binary": (bytes(range(256)), "bad.jsonl:1: is damaged: "),
}


@pytest.mark.parametrize("case", DATA)
def test_data(runs, case):
    text, reason = DATA[case]
    (runs / "bad.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused(runs, recipe("sft", "data: {from: bad.jsonl, holdout: 0.3}"))
    assert reason in said, said


PAIRS = {
    "empty answer": (
        '{"prompt": "a", "chosen": "", "rejected": "c"}\n',
        "bad.jsonl:1: column 'chosen' is empty",
    ),
    "the same twice": ('{"chosen": "ab", "rejected": "ab"}\n', "bad.jsonl:1: column 'chosen' is"),
    "completions": (
        GOOD,
        "bad.jsonl:1: columns found: completion, prompt; accepted here",
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_pairs(runs, case):
    text, reason = PAIRS[case]
    (runs / "bad.jsonl").write_text(text)
    text = recipe("dpo", "data: {from: bad.jsonl, holdout: 0.3}")
    said = refused(runs, "\n".join(x for x in text.splitlines() if "rollout" not in x))
    assert reason in said, said


def test_data_that_is_not_there(runs):
    said = refused(runs, recipe("sft", "data: {from: nowhere.jsonl}"), expect=1)
    assert "nowhere.jsonl" in said
    said = refused(runs, recipe("sft", "data: {from: sft}"), expect=1)
    assert "/sft: is a folder, not a file" in said


def test_completions_of_a_run_as_data(runs):
    (runs / "grpo.yaml").write_text(recipe("grpo", trainer={"lr": "1e-3", "total_steps": 6}))
    text = recipe("sft", "data: {from: {recipe: grpo.yaml}, holdout: 0.3}")
    (runs / "it.yaml").write_text(text)
    plan = bessemer(runs, "run", "it.yaml", "--dry-run").stdout
    folder = runs / next(w for w in plan.split() if w.startswith("runs/grpo-")).strip(",")
    bessemer(runs, "run", "grpo.yaml", f"out={folder}", "seed=1")
    lines = (folder / "completions.jsonl").read_text().splitlines()
    said = [json.loads(line) for line in lines]
    good = {**said[0], "kind": "train", "reward": 1, "advantage": 1}
    number = len(good["token_ids"])

    def put(**changes):
        one = {**good, **changes}
        (folder / "completions.jsonl").write_text(lines[0] + "\n" + json.dumps(one) + "\n")
        return refused(runs, text)

    assert ":2: " in put(token_ids=[9999] * number) and "9999" in put(token_ids=[9999] * number)
    assert ":2: has another number of log_probs than of token_ids" in put(log_probs=[])
    assert ":2: is no completion of a run" in put(token_ids="a")
    assert "no completion that was better" in put(advantage=0)
    never = [1] * number  # cut before its end token
    assert "no answer's end token is trained" in put(token_ids=never, log_probs=[-1] * number)
    shutil.rmtree(folder / "checkpoints")
    shutil.copytree(runs / "rm300/checkpoints", folder / "checkpoints")
    assert "another vocabulary" in put()


# how a copy of the run `sft` is hurt, and what is said when another run starts from it
def edit_json(name, **changes):
    def hurt(folder):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return hurt


def cut(name, count):
    def hurt(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:count])

    return hurt


WEIGHTS = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "cut weights": (cut("model.safetensors", 5000), "model.safetensors"),
    "cut header": (cut("model.safetensors", 20), "model.safetensors"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
    "cut tokenizer": (cut("tokenizer.json", 300), "tokenizer.json"),
    "cut config": (cut("config.json", 30), "config.json"),
    "another shape": (edit_json("config.json", hidden_size=64), "model.embed_tokens.weight"),
    "more layers": (edit_json("config.json", num_hidden_layers=3), "model.layers.2."),
    "another vocabulary": (edit_json("config.json", vocab_size=200), "model.embed_tokens.weight"),
    "another model": (edit_json("config.json", model_type="gpt2"), "gpt2"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_to_start_from(runs, case):
    hurt, reason = WEIGHTS[case]
    shutil.rmtree(runs / "hurt", ignore_errors=True)
    shutil.copytree(checkpoint(runs / "sft"), runs / "hurt")
    hurt(runs / "hurt")
    (runs / "it.yaml").write_text(recipe("sft", init="init: {from: hurt}"))
    done = bessemer(runs, "run", "it.yaml", "out=it", "--force", expect=None)
    assert done.returncode in (1, 2)
    assert "hurt" in done.stderr and reason in done.stderr, done.stderr


def test_weights_and_recipe_differ(runs):
    said = refused(runs, recipe("sft", init="init: {from: nowhere}"))
    assert "nowhere holds no language model" in said
    text = recipe("sft", model={"kind": "decoder", "hidden_size": 64})
    assert "model.hidden_size is 64, but" in refused(runs, text)
    assert "it.yaml" in refused(runs, text)
    said = refused(runs, recipe("sft"), f"model.path={runs}/sft")
    assert "model.path and init exclude each other" in said
    shutil.copytree(runs / "sft", runs / "moved")
    for old, new, reason in (
        ("hidden_size: 32", "hidden_size: 48", "has hidden_size 32, expected 48"),
        ("vocabulary: bytes", "vocabulary: 300", "another vocabulary"),
    ):
        text = (runs / "sft/recipe.yaml").read_text()
        assert old in text
        (runs / "moved/recipe.yaml").write_text(text.replace(old, new))
        done = bessemer(runs, "run", "--resume", "moved", expect=None)
        assert done.returncode in (1, 2) and reason in done.stderr, done.stderr
    said = bessemer(runs, "run", "--resume", "sft", "model.hidden_size=64", expect=2).stderr
    assert "model.hidden_size" in said


REWARD_MODELS = {
    "no reward model": ("sft", "is no reward model: it has no score.weight"),
    "another vocabulary": ("rm300", "reads another vocabulary than the policy writes"),
    "nowhere": ("nowhere", "nowhere holds no language model"),
}


@pytest.mark.parametrize("case", REWARD_MODELS)
def test_reward_models(runs, case):
    model, reason = REWARD_MODELS[case]
    said = refused(runs, recipe("grpo", reward={"from": "model", "model": model}))
    assert reason in said, said


def test_an_answer_beyond_the_reward_model(runs):
    run(runs, recipe("grpo", reward={"from": "model", "model": "rm24"}))
    assert all(r["faults"] > 0 for r in rows(runs / "it/metrics.jsonl"))
    said = [r for r in rows(runs / "it/completions.jsonl") if r["kind"] == "train"]
    marked = [s for s in said if s["reward"] is None]
    assert marked and all("the reward model's context of 24 tokens" in s["finish"] for s in marked)


REWARDS = {
    "raises": ("raise ValueError('no \\udcff')", "no"),
    "not a number": ("return [float('nan')] * len(completions)", "the score is nan"),
    "infinite": ("return [float('inf')] * len(completions)", "the score is inf"),
    "none": ("return [None] * len(completions)", "None"),
    "text": ("return ['good'] * len(completions)", "str"),
    "too few": ("return [1.0]", "1 scores for 8 completions"),
    "no list": ("return 1.0", "float"),
    "hangs": ("import time; time.sleep(60)", "no answer in time"),
    "ends": ("import os; os._exit(3)", "exit"),
}


@pytest.mark.parametrize("case", REWARDS)
def test_python_rewards(runs, case):
    body, reason = REWARDS[case]
    (runs / "score.py").write_text(f"def score(prompts, completions, **columns):\n    {body}\n")
    reward = {"from": "py:score.py:score", "deadline": 0.5 if case == "hangs" else 30}
    run(runs, recipe("grpo", reward=reward, trainer={"total_steps": 1}))
    (last,) = rows(runs / "it/metrics.jsonl")
    assert last["faults"] == 1 and last["grad_norm"] == 0
    said = [r for r in rows(runs / "it/completions.jsonl") if r["kind"] == "train"]
    assert said and all(s["reward"] is None and reason in s["finish"] for s in said), said[0]


def test_some_bad_rewards_leave_the_others(runs):
    body = "return [len(c) if i % 2 else float('nan') for i, c in enumerate(completions)]"
    (runs / "score.py").write_text(f"def score(prompts, completions, **columns):\n    {body}\n")
    run(runs, recipe("grpo", reward={"from": "py:score.py:score", "deadline": 30}))
    for row in rows(runs / "it/metrics.jsonl"):
        assert row["faults"] == 0.5 and row["reward"] > 0 and row["reward_std"] >= 0


FUNCTIONS = {
    "py:nowhere.py:score": "nowhere.py",
    "py:score.py:scor": "scor",
    "py:broken.py:score": "broken.py",
    "python:score.py:score": "reward.from must be env, model or py:FILE.py:FUNCTION",
}


@pytest.mark.parametrize("spec", FUNCTIONS)
def test_python_functions_that_are_not_there(runs, spec):
    (runs / "score.py").write_text("def score(prompts, completions, **columns):\n    return []\n")
    (runs / "broken.py").write_text("def score(:\n")
    (runs / "it.yaml").write_text(recipe("grpo", reward={"from": f"'{spec}'"}))
    done = bessemer(runs, "run", "it.yaml", "out=it", "--force", expect=None)
    assert done.returncode in (1, 2) and FUNCTIONS[spec] in done.stderr, done.stderr


SETTINGS = {
    "no spread": (recipe("grpo", rollout={"size": 1, "groups": 8}), "rollout.size is 1"),
    "half a group": (
        recipe("grpo", trainer={"batch_size": 6}),
        "trainer.batch_size is 6, which is not whole groups of rollout.size = 4",
    ),
    "too large": (recipe("ppo", trainer={"batch_size": 64}), "an iteration has only 8"),
    "beyond the context": (
        recipe("grpo", rollout={"max_tokens": 65}),
        "rollout.max_tokens is 65, but the model's context holds only 64 tokens",
    ),
    "overlong": (recipe("grpo", trainer={"overlong_buffer": 5}), "trainer.overlong_buffer"),
    "numbers": (recipe("grpo", "env: {id: CartPole-v1}"), "CartPole-v1 does not speak"),
    "a key of another": (recipe("sft", trainer={"beta": 0.1}), "'trainer.beta' means nothing to"),
    "both": (recipe("sft", init="init: {from: sft, recipe: sft.yaml}"), "exclude each other"),
    "no environment": (recipe("grpo", "model: {kind: decoder}"), "env.id"),
    "nothing to learn from": (recipe("sft", "model: {kind: decoder}"), "env.id"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(runs, case):
    text, reason = SETTINGS[case]
    said = refused(runs, text)
    assert reason in said, said


def test_prompts_beyond_the_context_are_marked(runs):
    text = recipe("grpo", init=MODEL.replace("64", "16"))
    run(runs, text, "eval.every=1")
    for row in rows(runs / "it/metrics.jsonl"):
        assert row["faults"] == 1 and row["eval/faults"] == 1 and row["eval/score"] == 0
    said = rows(runs / "it/completions.jsonl")
    assert {s["finish"] for s in said} == {"prompt_too_long"}
    assert all(s["reward"] is None for s in said)
    said = run(runs, recipe("sft", init=MODEL.replace("64", "16")), expect=1).stderr
    assert "longer than the model's context of 16 tokens" in said


def grow_vocabulary(folder, extra):
    """Rows of the embedding that no entry of the tokenizer stands for, as some published weights
    have."""
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body, name = (
        json.loads(data[8 : 8 + size]),
        data[8 + size :],
        "model.embed_tokens.weight",
    )
    rows_, width = header[name]["shape"]
    begin, end = header[name]["data_offsets"]
    header[name] = {"dtype": "F32", "shape": [rows_ + extra, width], "data_offsets": [0, 0]}
    grown = body[begin:end] + bytes(extra * width * 4)
    parts, offset = [], 0
    for key, tensor in header.items():
        if key == "__metadata__":
            continue
        part = grown if key == name else body[slice(*tensor["data_offsets"])]
        tensor["data_offsets"] = [offset, offset + len(part)]
        offset += len(part)
        parts.append(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file = len(text).to_bytes(8, "little") + text + b"".join(parts)
    (folder / "model.safetensors").write_bytes(file)
    edit_json("config.json", vocab_size=rows_ + extra)(folder)


def test_tokens_beyond_the_tokenizer_are_marked(runs):
    shutil.rmtree(runs / "hurt", ignore_errors=True)
    shutil.copytree(checkpoint(runs / "sft"), runs / "hurt")
    grow_vocabulary(runs / "hurt", 200)
    text = recipe("grpo", init="init: {from: hurt}", rollout={"temperature": 20})
    run(runs, text)
    assert all(0 < r["faults"] <= 1 for r in rows(runs / "it/metrics.jsonl"))
    said = [r for r in rows(runs / "it/completions.jsonl") if r["reward"] is None]
    assert said and all("beyond the tokenizer's vocabulary of 258" in s["finish"] for s in said)


def test_a_run_that_blows_up_keeps_its_last_good_state(runs):
    said = run(runs, recipe("sft", trainer={"lr": "1e30", "total_steps": 6}), expect=1).stderr
    assert "[sft] the " in said and "not finite" in said or "nan" in said
    assert "at step 2 (back at step 0, the last good one)" in said
    assert "the last good state is it/checkpoints/step-000000000000" in said
    bessemer(runs, "eval", "it")
    bessemer(runs, "run", "--resume", "it", "--fork", "out=well", "trainer.lr=1e-3", "--force")
    assert rows(runs / "well/metrics.jsonl")[-1]["step"] == 6
