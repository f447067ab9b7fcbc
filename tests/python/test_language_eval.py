"""`eval` and `render` of every kind of language run."""

import json
import re
import shutil

import pytest
from language import MODEL, bessemer, has_text, make_sft, recipe, rows

pytestmark = pytest.mark.skipif(not has_text(), reason="the program is not built, or without text")

ANSWERS = {"eval/reward", "eval/rewards/exact", "eval/clipped_ratio", "eval/mean_turns"}
REWARDS = {"eval/loss", "eval/accuracy", "eval/margin", "eval/mean_reward"}
PREFERENCES = {"eval/loss", "eval/rewards/accuracies", "eval/rewards/margins", "eval/logps/chosen"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run of each algorithm, on the environment and (f_...) on a file."""
    folder = tmp_path_factory.mktemp("runs")
    make_sft(folder)
    lines = [{"prompt": f"{i}+1=", "chosen": f"ok{i}", "rejected": f"no{i}"} for i in range(60)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    said = [{"prompt": one["prompt"], "completion": one["chosen"]} for one in lines]
    (folder / "said.jsonl").write_text("".join(json.dumps(one) + "\n" for one in said))
    for algo in ("reward", "dpo", "grpo", "ppo"):
        (folder / f"{algo}.yaml").write_text(recipe(algo))
    for algo, file in (("sft", "said"), ("reward", "pairs"), ("dpo", "pairs")):
        source = f"data: {{from: {file}.jsonl, holdout: 0.2}}"
        sections = {} if algo == "sft" else {"rollout": {}}
        text = recipe(algo, source, **sections)
        if algo != "sft":
            text = re.sub("rollout: .*\n", "", text)
        (folder / f"f_{algo}.yaml").write_text(text)
    for name in ("reward", "dpo", "grpo", "ppo", "f_sft", "f_reward", "f_dpo"):
        bessemer(folder, "run", f"{name}.yaml", f"out={name}", "eval.every=1")
    return folder


@pytest.mark.parametrize(
    ("name", "unit", "names"),
    [
        ("sft", "items", ANSWERS),
        ("dpo", "items", ANSWERS),
        ("grpo", "items", ANSWERS),
        ("ppo", "items", ANSWERS),
        ("reward", "pairs", REWARDS),
        ("f_sft", "examples", {"eval/loss", "eval/mean_token_accuracy"}),
        ("f_reward", "pairs", REWARDS),
        ("f_dpo", "pairs", PREFERENCES),
    ],
)
def test_eval_has_the_numbers_of_the_run(runs, name, unit, names):
    before = json.loads((runs / name / "eval.json").read_text())
    again = json.loads(bessemer(runs, "eval", name, "--json").stdout)
    assert again == before
    assert names <= again.keys()
    if name != "sft":
        last = rows(runs / name / "metrics.jsonl")[-1]
        assert {k: last[k] for k in names} == {k: again[k] for k in names}
    said = bessemer(runs, "eval", name).stdout
    assert re.match(rf"score [0-9.]+ on [0-9]+ held-out {unit}, ", said), said


def test_a_reward_model_learns_to_tell_pairs_apart(runs):
    more = ["trainer.total_steps=60", "trainer.lr=3e-3", "out=longer"]
    bessemer(runs, "run", "f_reward.yaml", *more)
    judged = json.loads(bessemer(runs, "eval", "longer", "--json").stdout)
    assert judged["eval/accuracy"] == judged["score"] > 0.8
    assert judged["eval/margin"] > 0.1
    assert judged["eval/min_reward"] < judged["eval/mean_reward"] < judged["eval/max_reward"]


def test_eval_sets_what_it_judges_by_and_nothing_else(runs):
    easy = json.loads(bessemer(runs, "eval", "sft", "--json", "eval.split=train").stdout)
    hard = json.loads(bessemer(runs, "eval", "sft", "--json", "env.options.digits=3").stdout)
    assert easy["returns"] != hard["returns"] and hard["score"] == 0
    few = json.loads(bessemer(runs, "eval", "sft", "--json", "eval.episodes=3").stdout)
    assert len(few["returns"]) == 3
    wrong = bessemer(runs, "eval", "sft", "trainer.lr=1", expect=2).stderr
    assert "only keys of env, eval and placement" in wrong
    wrong = bessemer(runs, "eval", "sft", "env.options.digit=1", expect=1).stderr
    assert "digit" in wrong and "did you mean 'digits'" in wrong
    assert "more than one run folder" in bessemer(runs, "eval", "sft", "dpo", expect=2).stderr


def test_eval_of_something_else_says_what_it_is(runs):
    for path, text in (
        ("nowhere", "there is no run folder nowhere"),
        ("dpo.yaml", "is a recipe, not a run; ./bessemer run dpo.yaml makes one"),
        ("sft/checkpoints", "did you mean sft?"),
        ("sft/metrics.jsonl", "did you mean sft?"),
    ):
        assert text in bessemer(runs, "eval", path, expect=1).stderr
    # pairs are made by the weights that the run started from
    shutil.copytree(runs / "reward", runs / "orphan")
    text = (runs / "orphan/recipe.yaml").read_text()
    (runs / "orphan/recipe.yaml").write_text(text.replace(f"{runs}/sft", f"{runs}/gone"))
    assert (
        f"{runs}/gone holds no language model" in bessemer(runs, "eval", "orphan", expect=1).stderr
    )


def test_eval_of_answers_needs_no_other_recipe(runs):
    text = recipe("grpo", init="init: {recipe: first.yaml}")
    (runs / "first.yaml").write_text((runs / "sft.yaml").read_text())
    (runs / "second.yaml").write_text(text)
    bessemer(runs, "run", "second.yaml", "out=second")
    before = json.loads((runs / "second/eval.json").read_text())
    (runs / "first.yaml").unlink()
    assert json.loads(bessemer(runs, "eval", "second", "--json").stdout) == before


def test_render_names_what_a_language_run_has_instead(runs):
    said = bessemer(runs, "render", "grpo", expect=1).stderr
    assert "bessemer show grpo" in said and "bessemer chat grpo" in said
    said = bessemer(runs, "render", "reward", "--png", "x.png", expect=1).stderr
    assert "bessemer eval reward" in said and "chat" not in said


def test_runs_that_could_not_be_judged_are_refused_first(runs):
    said = bessemer(runs, "run", "f_sft.yaml", "data.holdout=0", "out=none", expect=2).stderr
    assert "data.holdout is 0, which leaves none of the 60 examples" in said
    assert not (runs / "none").exists()
    names = ["trainer.stop.eval/acuracy=1", "eval.every=1"]
    said = bessemer(runs, "run", "f_reward.yaml", "out=none", *names, expect=2).stderr
    assert "did you mean 'eval/accuracy'" in said
    # random weights are never right: there is nothing to prefer
    text = recipe("reward", init=MODEL)
    (runs / "blank.yaml").write_text(text)
    said = bessemer(runs, "run", "blank.yaml", "out=blank", expect=1).stderr
    assert "no item of 160 gave a pair" in said
