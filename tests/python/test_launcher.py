"""The launcher in a pretended machine: every tool it calls is a script that logs its call."""

import os
import pathlib
import pty
import shutil
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = "bash env find sed cut grep mkdir touch cat head tail flock mv rm sh chmod tr sort".split()
PACKAGES = "g++ meson ninja-build pkg-config python3-dev python3-venv libyaml-cpp-dev libbox2d-dev"

FAKES = {
    "dpkg-query": 'for p in $INSTALLED; do echo "$p ii "; done',
    "apt-get": (
        'echo "apt-get $*" >>"$LOG"\n[ "$APT" = works ] || { echo "E: no network" >&2; exit 100; }'
    ),
    "meson": (
        'echo "meson $*" >>"$LOG"\nfor a in "$@"; do case $a in */build) b=$a ;; esac; done\n'
        'mkdir -p "$b" && touch "$b/build.ninja" && printf "$FEATURES" >"$b/features.txt"'
    ),
    "ninja": (
        'echo "ninja $*" >>"$LOG"\nmkdir -p "$2/forge"\n'
        'printf \'#!/bin/sh\\necho program "$@"\\n\' >"$2/forge/bessemer"\n'
        'chmod +x "$2/forge/bessemer"'
    ),
    "c++": "",
    "id": 'echo "$USER_ID"',
}


class Machine:
    """A copy of the launcher, empty source folders, and a PATH with nothing real but TOOLS."""

    def __init__(self, folder):
        self.source = folder / "source"
        self.bin = folder / "bin"
        self.log = folder / "log"
        self.bin.mkdir()
        self.source.mkdir()
        shutil.copy(ROOT / "bessemer", self.source)
        rooms = "core autograd envs rollout trainer forge python tests bench"
        for room in rooms.split():
            (self.source / room).mkdir()
        for name in ("meson.build", "meson_options.txt", "forge/main.cpp"):
            (self.source / name).write_text("x")
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        for name, body in FAKES.items():
            self.fake(name, body)
        site = self.source / ".venv" / "lib" / "python3.11" / "site-packages"
        for package in ("pybind11", "numpy", "gymnasium", "pytest", "zmq", "msgpack"):
            (site / package).mkdir(parents=True)
        python = self.source / ".venv" / "bin" / "python"
        python.parent.mkdir()
        python.write_text('#!/bin/sh\necho python "$@"\n')
        python.chmod(0o755)
        self.environment = {
            "PATH": str(self.bin),
            "LOG": str(self.log),
            "INSTALLED": PACKAGES,
            "APT": "works",
            "USER_ID": "0",
            "FEATURES": "forge=yes\\npng=yes\\nvideo=no\\ntests=yes\\npython=yes\\n",
        }

    def fake(self, name, body):
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def command(self, words):
        return [str(self.source / "bessemer"), *words]

    def run(self, *words, expect=0, **environment):
        done = subprocess.run(
            self.command(words),
            env=self.environment | environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    def calls(self):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_the_first_call_installs_configures_and_builds(machine):
    done = machine.run("run", "r.yaml", "a=b")
    assert done.stdout == "program run r.yaml a=b\n"
    install, setup, build = machine.calls()
    assert install.startswith("apt-get install -y -q --no-install-recommends ")
    assert "libsdl2-dev" in install and " g++ " not in install
    assert setup.startswith("meson setup ")
    assert build.endswith("forge/bessemer")
    assert "Debian packages to install: " in done.stderr
    assert "video: MP4" in done.stderr


def test_nothing_is_done_again_until_a_source_changes(machine):
    machine.run("env", "list")
    machine.calls()
    assert machine.run("env", "list").stdout == "program env list\n"
    assert machine.calls() == []
    time.sleep(0.02)
    (machine.source / "forge" / "main.cpp").write_text("y")
    machine.run("env", "list")
    assert [call.split()[0] for call in machine.calls()] == ["ninja"]
    (machine.source / "core" / "new.cpp").write_text("z")
    machine.run("env", "list")
    assert len(machine.calls()) == 1
    (machine.source / "core" / "new.cpp").unlink()
    machine.run("env", "list")
    assert len(machine.calls()) == 1


def test_no_network_prints_the_command_and_builds_with_what_is_there(machine):
    done = machine.run("env", "list", APT="broken")
    assert done.stdout == "program env list\n"
    assert "E: no network" in done.stderr
    assert "apt-get install -y --no-install-recommends cppzmq-dev doctest-dev" in done.stderr
    assert "video: MP4 (libavcodec-dev" in done.stderr
    machine.calls()
    assert machine.run("env", "list").stderr == ""  # it is not asked for again


def test_without_root_it_takes_sudo_or_says_so(machine):
    error = machine.run("env", "list", USER_ID="1000").stderr
    assert "Not root, and no sudo. As root: apt-get install" in error
    machine.fake("sudo", 'echo "sudo $*" >>"$LOG"; [ "$1" = -n ] && shift; exec "$@"')
    machine.calls()
    machine.run("setup", USER_ID="1000")
    assert machine.calls()[0].startswith("sudo -n apt-get install -y")


def test_packages_that_come_later_are_found(machine):
    machine.run("env", "list", APT="broken")
    machine.calls()
    # apt works now: the packages are there after it ran
    machine.fake("apt-get", f'echo "apt-get $*" >>"$LOG"; touch {machine.log}.done')
    machine.fake(
        "dpkg-query",
        f'shift 3; [ -e {machine.log}.done ] && INSTALLED="$*"\n'
        'for p in $INSTALLED; do echo "$p ii "; done',
    )
    machine.run("setup")
    assert any("--wipe" in call for call in machine.calls() if call.startswith("meson"))
    machine.run("setup")
    assert not any("--wipe" in call for call in machine.calls())


def test_no_apt_is_said(machine):
    (machine.bin / "apt-get").unlink()
    assert "There is no apt-get here" in machine.run("env", "list").stderr


def test_a_command_that_needs_a_missing_feature_stops(machine):
    error = machine.run("render", "x", "--video", "f.mp4", expect=1).stderr
    assert "needs the feature 'video'" in error and "libavformat-dev" in error
    assert machine.run("render", "x", "--png", "f.png").stdout == "program render x --png f.png\n"
    lost = {"FEATURES": "forge=no\\npython=no\\n"}
    (machine.source / "build" / ".launcher" / "configured").unlink()
    time.sleep(0.02)
    (machine.source / "forge" / "main.cpp").write_text("y")
    error = machine.run("run", "r.yaml", expect=1, **lost).stderr
    assert "needs the feature 'forge'" in error and "libyaml-cpp-dev" in error
    assert "needs the feature 'python'" in machine.run("python", expect=1, **lost).stderr
    (machine.source / "build" / "features.txt").write_text("tests=no\n")
    assert "needs the feature 'tests'" in machine.run("test", expect=1).stderr


def test_on_a_terminal_it_asks_and_a_no_is_kept(machine):
    output = b""
    try:
        pid, terminal = pty.fork()
    except OSError as error:
        pytest.skip(f"no terminals here: {error}")
    if pid == 0:
        os.execve(
            machine.source / "bessemer", machine.command(["env", "list"]), machine.environment
        )
    while b"[Y/n]" not in output:
        output += os.read(terminal, 4096)
    os.write(terminal, b"n\n")
    try:
        while piece := os.read(terminal, 4096):
            output += piece
    except OSError:  # the other end is closed
        pass
    assert os.waitpid(pid, 0)[1] == 0
    assert b"Not installed. The command is: apt-get install" in output
    assert b"program env list" in output
    assert not any(call.startswith("apt-get") for call in machine.calls())
    machine.run("env", "list")
    assert machine.calls() == []
    machine.run("setup", "-y")  # looks again
    assert any(call.startswith("apt-get") for call in machine.calls())


def test_without_a_compiler_or_meson_it_says_what_to_install(machine):
    (machine.bin / "c++").unlink()
    assert "apt-get install -y g++" in machine.run("env", "list", expect=1).stderr
    (machine.bin / "meson").unlink()
    assert "apt-get install -y meson ninja-build" in machine.run("env", "list", expect=1).stderr


def test_warnings_are_errors_in_ci(machine):
    machine.run("env", "list", CI="true")
    assert any("-Dwerror=true" in call for call in machine.calls())


def test_a_failed_build_shows_what_the_compiler_said(machine):
    machine.fake("ninja", "echo '[1/2] Compiling'; echo 'main.cpp:1: error: no'; exit 1")
    done = machine.run("env", "list", expect=1)
    assert "main.cpp:1: error: no" in done.stderr and "The build failed." in done.stderr


def test_python_gets_the_built_package(machine):
    done = machine.run("python", "-c", "print(1)", "-y")
    assert done.stdout == "python -c print(1) -y\n"


def test_help_builds_nothing(machine):
    assert "./bessemer COMMAND" in machine.run("--help").stdout
    assert machine.run(expect=2).stdout.startswith("Bessemer")
    assert machine.calls() == []
