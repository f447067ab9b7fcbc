"""The programs of examples/ do what they say."""

import importlib.util
import pathlib

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ppo_learns(capsys):
    ppo = load("ppo")
    curve, _ = ppo.train(ppo.parse(["--steps", "40000", "--seed", "3"]))
    assert curve[0][0] == 2048
    assert max(score for _, score in curve) > 300  # random actions reach about 22
    assert "deterministic" in capsys.readouterr().out


def test_ppo_repeats_itself():
    ppo = load("ppo")
    curves = [ppo.train(ppo.parse(["--steps", "4096", "--seed", "5"]))[0] for _ in range(2)]
    assert curves[0] == curves[1]
