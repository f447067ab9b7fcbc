"""Tiny language runs for tests: recipes of a second, and the program that runs them."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BESSEMER_BUILD", ROOT / "build"))
PROGRAM = BUILD / "forge" / "bessemer"

ENV = 'env: {id: Arithmetic-v0, options: {digits: 1, operators: "+"}}'
MODEL = "model: {kind: decoder, hidden_size: 32, num_hidden_layers: 2, max_position_embeddings: 64}"
QUIET = "metrics: {console: false, tensorboard: false}\nplacement: {threads: 1}"


def has_text():
    if not PROGRAM.exists():
        return False
    return subprocess.run([PROGRAM, "chat", "--help"], capture_output=True).returncode == 0


def bessemer(folder, *words, expect=0, timeout=120, **options):
    environment = dict(os.environ, BESSEMER_PYTHON=sys.executable)
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT / "python"), environment.get("PYTHONPATH", "")]
    )
    done = subprocess.run(
        [PROGRAM, *map(str, words)],
        capture_output=True,
        timeout=timeout,
        cwd=folder,
        env=environment,
        **options,
    )
    done.stdout, done.stderr = (s.decode(errors="replace") for s in (done.stdout, done.stderr))
    said = f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert expect in (None, done.returncode), said
    return done


def rows(file):
    """JSON lines without what a clock says."""
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")}
        for line in pathlib.Path(file).read_text().splitlines()
    ]


def checkpoint(folder):
    root = pathlib.Path(folder) / "checkpoints"
    return root / (root / "latest").read_text().strip()


def recipe(algo, source=ENV, init="init: {from: sft}", more="", **sections):
    """A recipe of a few steps; `sections` are further keys of rollout, trainer, eval and so on."""
    keys = {
        "rollout": {"max_tokens": "4"},
        "trainer": {"algo": algo, "total_steps": "2", "batch_size": "8"},
        "eval": {"episodes": "8"},
    }
    if algo != "sft":
        keys["rollout"]["size"] = "4"
    if algo in ("grpo", "ppo"):
        keys["rollout"]["groups"] = "2"
    for section, values in sections.items():
        keys.setdefault(section, {}).update({k: str(v) for k, v in values.items()})
    if algo == "ppo":
        keys.setdefault("model", {})["kind"] = "decoder"
    lines = [
        f"{section}: {{{', '.join(f'{k}: {v}' for k, v in values.items())}}}"
        for section, values in keys.items()
    ]
    return "\n".join(["schema: 1", source, init, *lines, QUIET, more]) + "\n"


def make_sft(folder, steps=150):
    """A run in folder/sft that answers in the right shape, now and then right."""
    text = recipe("sft", init=MODEL, trainer={"total_steps": steps, "batch_size": 16, "lr": "5e-3"})
    (folder / "sft.yaml").write_text(text)
    bessemer(folder, "run", "sft.yaml", "out=sft")
