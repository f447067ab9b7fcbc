"""The commands about language models: show, doctor, chat and data show, on a run of seconds."""

import html.parser
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BESSEMER_BUILD", ROOT / "build"))
PROGRAM = BUILD / "forge" / "bessemer"
SFT = str(ROOT / "configs" / "sft_arithmetic.yaml")


def has_text():
    if not PROGRAM.exists():
        return False
    return subprocess.run([PROGRAM, "chat", "--help"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not has_text(), reason="the program is not built, or without text")


def bessemer(*words, expect=0, **options):
    done = subprocess.run(
        [PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=120, **options
    )
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


SMALL = [
    "trainer.total_steps=12",
    "trainer.batch_size=8",
    "trainer.warmup_steps=1",
    "model.num_hidden_layers=1",
    "model.hidden_size=32",
    "model.num_attention_heads=2",
    "eval.episodes=8",
    "eval.every=6",
    "metrics.console=false",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words") / "sft"
    bessemer("run", SFT, f"out={folder}", *SMALL)
    return folder


def test_show_has_the_answers_of_a_step(run):
    kept = [json.loads(line) for line in (run / "completions.jsonl").read_text().splitlines()]
    assert {one["step"] for one in kept} == {6, 12}
    last = bessemer("show", run).stdout
    assert "step 12, held-out items" in last and "step 6" not in last
    for one in kept:
        assert (one["prompt"] in last) == (one["step"] == 12) or one["step"] == 6
    assert "step 6" in bessemer("show", run, "--step", 6).stdout
    wrong = bessemer("show", run, "--step", 40, expect=1).stderr
    assert "the nearest is 12" in wrong
    assert "\x1b" not in last  # a pipe gets no colours


def test_show_as_a_page(run, tmp_path):
    page = tmp_path / "page.html"
    bessemer("show", run, "--html", page)
    text = page.read_text()
    assert text.startswith("<!doctype html>") and "step 6" in text and "step 12" in text
    assert len(re.findall(r'title="-?[0-9.e-]+ \(p = ', text)) > 10


class Page(html.parser.HTMLParser):
    """Which elements stand open, and what a text has smuggled in."""

    def __init__(self):
        super().__init__()
        self.open, self.foreign, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        if tag != "meta":
            self.open.append(tag)
        known = tag in "html head title meta style body h1 h2 p div span".split()
        if not known or any(name.startswith("on") for name, _ in attributes):
            self.foreign.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_a_page_holds_any_text(run, tmp_path):
    nasty = "</span><script>x</script>&amp;\"'><img src=x onerror=y>"
    shown = tmp_path / "run"
    shown.mkdir()
    line = {"step": 1, "prompt": nasty, "completion": nasty, "tokens": [nasty, "\x1b[0m"]}
    line.update(log_probs=[-0.5, None], finish=nasty, rewards={nasty: 1}, reward=0, oracle=nasty)
    (shown / "completions.jsonl").write_text(json.dumps(line) + "\n")
    bessemer("show", shown, "--html", tmp_path / "page.html")
    page = Page()
    page.feed((tmp_path / "page.html").read_text())
    page.close()
    assert page.open == [] and page.foreign == []
    assert page.text.count(nasty) == 5
    assert "\x1b" not in page.text


def test_output_that_does_not_arrive(run):
    with open("/dev/full", "w") as full:
        for words in (["show", run], ["data", "show", SFT], ["--help"]):
            done = subprocess.run([PROGRAM, *words], stdout=full, stderr=subprocess.PIPE, text=True)
            assert done.returncode == 1 and "No space left" in done.stderr
    # a reader that has seen enough ends the writer quietly
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([PROGRAM, "show", run], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == -13 and done.stderr == ""


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    folder = tmp_path / "sft"
    bessemer("run", SFT, f"out={folder}", *SMALL, "trainer.lr_schedule=constant")
    size = max(path.stat().st_size for path in folder.glob("*.jsonl"))

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 2000, size + 2000))

    # the weights are larger than that; without checkpoints the run ends at its .jsonl
    for every, name in ((13, "safetensors"), (100000, ".jsonl")):
        longer = ["trainer.total_steps=40000", f"checkpoint.every={every}"]
        done = bessemer("run", "--resume", folder, *longer, expect=1, preexec_fn=limit)
        assert name in done.stderr and "File too large" in done.stderr
        assert (folder / "checkpoints" / "latest").read_text() == "step-000000000012\n"
    assert "score" in bessemer("eval", folder, "--episodes", 4).stdout
    assert "12 rows" not in bessemer("doctor", folder).stdout


def test_doctor_says_what_it_looked_at(run, tmp_path):
    assert "12 rows of measurements" in bessemer("doctor", run).stdout
    assert "no run here" in bessemer("doctor", tmp_path, expect=1).stderr
    sick = tmp_path / "sick"
    shutil.copytree(run, sick)
    lines = [json.loads(line) for line in (sick / "metrics.jsonl").read_text().splitlines()]
    (sick / "metrics.jsonl").write_text(
        "".join(json.dumps({**line, "grad_norm": 0}) + "\n" for line in lines)
    )
    assert "PROBLEM: no gradient" in bessemer("doctor", sick, expect=1).stdout


def test_chat_answers_a_pipe_turn_by_turn(run):
    first = bessemer("chat", run, "--max-tokens", 4, input="1+2=\n").stdout
    both = bessemer("chat", run, "--max-tokens", 4, input="1+2=\n3+4=\n").stdout
    assert both.startswith(first)
    drawn = ["chat", run, "--max-tokens", "6", "--temperature", "5", "--seed"]
    a = bessemer(*drawn, 1, input="1+2=\n").stdout
    assert a == bessemer(*drawn, 1, input="1+2=\n").stdout
    assert a != bessemer(*drawn, 2, input="1+2=\n").stdout
    full = bessemer("chat", run, input="1" * 500 + "\n")
    assert re.search("context of [0-9]+ tokens", full.stderr)
    assert "--temperature takes" in bessemer("chat", run, "--temperature", "hot", expect=2).stderr


def test_data_show_marks_what_is_trained(tmp_path):
    said = bessemer("data", "show", SFT, "--count", 2).stdout
    answers = re.findall("⟦(\\d+)<\\|im_end\\|>⟧", said)
    sums = [int(a) + int(b) for a, b in re.findall(r"(\d+)\+(\d+)=", said)]
    assert [int(answer) for answer in answers] == sums and len(sums) == 2
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "p", "chosen": "good", "rejected": "bad"}\n')
    said = bessemer("data", "show", pairs).stdout
    assert "chosen: ⟦good<|im_end|>⟧" in said and "rejected: ⟦bad<|im_end|>⟧" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"prompt": "a", "completion": "b"}\n{"prompt"\n', ":2"),
        ('{"question": "a", "answer": "b"}\n', "question"),
        ('{"prompt": "a", "completion": ""}\n', ""),
        ("", ""),
    ],
)
def test_data_show_names_the_line(tmp_path, text, reason):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(text)
    said = bessemer("data", "show", bad, expect=1)
    assert reason in said.stderr


def test_folders_that_are_no_runs(run, tmp_path):
    for words in ("show", "doctor", "chat"):
        for path in (tmp_path, tmp_path / "none", run / "recipe.yaml"):
            said = bessemer(words, path, expect=1).stderr
            assert said.startswith("error: ") and str(path) in said
    assert "is a folder" in bessemer("data", "show", tmp_path, expect=1).stderr
    (tmp_path / "seed-0").mkdir()
    assert "seed-0" in bessemer("show", tmp_path, expect=1).stderr
    deep = tmp_path / "deep.jsonl"
    deep.write_text('{"text": ' + "[" * 200_000 + "\n")
    assert "nested" in bessemer("data", "show", deep, expect=1).stderr
