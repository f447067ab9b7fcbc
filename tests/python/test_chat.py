"""`bessemer chat`: on a terminal and through a pipe."""

import json
import os
import pty
import re
import select
import time

import pytest
from language import ENV, MODEL, PROGRAM, bessemer, checkpoint, has_text, make_sft, recipe

pytestmark = pytest.mark.skipif(not has_text(), reason="the program is not built, or without text")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`sft` answers and stops; `endless` never learned to stop."""
    folder = tmp_path_factory.mktemp("chat")
    make_sft(folder)
    text = recipe("sft", ENV, MODEL.replace("64", "65536"), trainer={"total_steps": 1})
    (folder / "endless.yaml").write_text(text)
    bessemer(folder, "run", "endless.yaml", "out=endless")
    return folder


class Terminal:
    """The program on a terminal of its own."""

    def __init__(self, folder, *words):
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execv(PROGRAM, [str(PROGRAM), "chat", *map(str, words)])
        self.seen = b""

    def until(self, pattern, seconds=60):
        """What came up to the pattern."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < end, self.seen[-500:]
            if select.select([self.file], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.file, 65536)
                except OSError:  # the program is gone
                    raise AssertionError(self.seen[-500:]) from None
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def type(self, text):
        os.write(self.file, text)

    def leave(self, seconds=60):
        """The exit status; what is still written is read away."""
        end = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.file)
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < end, self.seen[-500:]
            if select.select([self.file], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.file, 65536)
                except OSError:
                    pass


def test_ctrl_c_stops_an_answer_and_a_second_one_leaves(runs):
    terminal = Terminal(runs, "endless", "--max-tokens", 60000)
    assert b"Ctrl-C stops an answer" in terminal.until(b"> ")
    terminal.type(b"hello\n")
    # tokens come while the answer goes on: there is no prompt behind them
    said = terminal.until(rb"hello\r\n(?s:.{40})")
    assert b"\r\n> " not in said.split(b"hello", 1)[1]
    terminal.type(b"\x03")
    terminal.until(rb"\r\n> ")
    terminal.type(b"again\n")  # the conversation goes on
    terminal.until(rb"again\r\n(?s:.{40})")
    terminal.type(b"\x03")
    terminal.until(rb"\r\n> ")
    terminal.type(b"\x03")
    assert terminal.leave() == 130


def test_a_terminal_gets_text_and_no_controls(runs):
    terminal = Terminal(runs, "endless", "--temperature", 50, "--max-tokens", 400, "--seed", 3)
    terminal.until(b"> ")
    terminal.type(b"hello\n")
    terminal.until(rb"hello\r\n")
    said = terminal.until(rb"\r\n> ").decode()  # whole characters only
    said = said.removesuffix("> ").replace("\r\n", "")
    assert "\u00b7" in said and not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", said)
    terminal.type(b"\n")  # an empty line is no turn
    terminal.until(b"> ")
    terminal.type(b"\x04")
    assert terminal.leave() == 0


def test_a_pipe_gets_an_answer_a_line(runs):
    one = bessemer(runs, "chat", "sft", input=b"1+2=\n").stdout
    two = bessemer(runs, "chat", "sft", input=b"1+2=\n\n3+4=").stdout  # the last without its end
    assert two.startswith(one) and two.count("\n") == 2
    assert bessemer(runs, "chat", "sft", input=b"").stdout == ""
    cut = bessemer(runs, "chat", "endless", "--max-tokens", 5, input=b"x\n")
    assert len(cut.stdout) <= 6 and cut.stderr == ""
    broken = bessemer(runs, "chat", "sft", input=b"\xff\xfe\xc3\n")  # bytes that are no text
    assert broken.stdout.endswith("\n")
    system = ["chat", "sft", "--temperature", "2", "--max-tokens", "12"]
    plain = bessemer(runs, *system, input=b"1+2=\n").stdout
    told = bessemer(runs, *system, "--system", "Be brief.", input=b"1+2=\n").stdout
    assert plain != told


def test_a_conversation_that_outgrows_the_context_begins_anew(runs):
    lines = b"".join(b"%d+%d=\n" % (i % 10, i % 10) for i in range(12))
    said = bessemer(runs, "chat", "sft", input=lines)
    assert "fills the model's context of 64 tokens: it begins anew" in said.stderr
    answers = said.stdout.splitlines()
    assert len(answers) == 12 and all(re.fullmatch("[0-9]+", a) for a in answers), answers
    long = bessemer(runs, "chat", "sft", input=b"1" * 500 + b"\n1+2=\n")
    assert "this line does not fit into the model's context of 64 tokens" in long.stderr
    assert len(long.stdout.splitlines()) == 2 and long.stdout.splitlines()[1]
    full = bessemer(runs, "chat", "sft", "--temperature", 50, input=b"hello\n1+2=\n")
    assert "the answer ends with the model's context" in full.stderr


def test_folders_that_cannot_speak(runs, tmp_path):
    assert "holds no language model" in bessemer(runs, "chat", "nowhere", expect=1).stderr
    assert (
        "--temperature takes"
        in bessemer(runs, "chat", "sft", "--temperature", "x", expect=2).stderr
    )
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in checkpoint(runs / "sft").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    # the tokenizer of another model, larger than the weights' vocabulary
    text = json.loads((broken / "tokenizer.json").read_text())
    extra = {**text["added_tokens"][-1], "id": 258, "content": "<|extra|>"}
    text["added_tokens"].append(extra)
    (broken / "tokenizer.json").write_text(json.dumps(text))
    assert "damaged checkpoint" in bessemer(runs, "chat", broken, expect=1).stderr
    (broken / "manifest").unlink()
    said = bessemer(runs, "chat", broken, expect=1).stderr
    assert "has 259 tokens, the weights beside it only 258" in said
