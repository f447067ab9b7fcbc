"""Drives the built program as people do: arguments, recipes, run folders, signals, full disks."""

import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BESSEMER_BUILD", ROOT / "build"))
PROGRAM = BUILD / "forge" / "bessemer"
CARTPOLE = str(ROOT / "configs" / "ppo_cartpole.yaml")
SMALL = ["trainer.total_steps=2048", "eval.episodes=3", "eval.seed=9", "metrics.console=false"]

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="the program is not built")


def bessemer(*words, expect=0, **options):
    done = subprocess.run(
        [PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=120, **options
    )
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def start(*words):
    return subprocess.Popen(
        [PROGRAM, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def rows(folder):
    """metrics.jsonl without what a clock says."""
    lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("time/fps", "time/time_elapsed")}
        for line in lines
    ]


def checkpoint(folder):
    root = pathlib.Path(folder) / "checkpoints"
    return root / (root / "latest").read_text().strip()


def assert_same_run(a, b):
    assert rows(a) == rows(b)
    assert checkpoint(a).name == checkpoint(b).name
    for name in ("model.safetensors", "train.safetensors"):
        assert (checkpoint(a) / name).read_bytes() == (checkpoint(b) / name).read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run that tests look at and never change."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    bessemer("run", CARTPOLE, f"out={out}", *SMALL, "seed=7", "eval.every=1024")
    return out


def test_version_and_help():
    assert bessemer("--version").stdout.startswith("bessemer ")
    text = bessemer("--help").stdout
    for command in ("run", "eval", "render", "env"):
        assert f"\n  {command} " in text
        assert f"bessemer {command}" in bessemer(command, "--help").stdout


def test_wrong_words_exit_with_2():
    assert "did you mean 'render'?" in bessemer("rendr", expect=2).stderr
    assert "did you mean '--dry-run'?" in bessemer("run", "--dryrun", expect=2).stderr
    assert "which recipe?" in bessemer("run", expect=2).stderr
    assert "which run folder?" in bessemer("eval", expect=2).stderr
    assert "did you mean 'list'?" in bessemer("env", "lst", expect=2).stderr
    assert "did you mean 'CartPole-v1'?" in bessemer("env", "info", "Cartpole-v1", expect=2).stderr
    assert "neither a run folder" in bessemer("render", "Nothing-v0", "--png", "x", expect=2).stderr
    bessemer(expect=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.lrr=1"], "unknown key 'lrr' in 'trainer', did you mean 'lr'?"),
        (["trainer.lr=fast"], "'trainer.lr' must be a number, got 'fast'"),
        (["env.num=0"], "'env.num' must be at least 1"),
        (["env.id=CartPol-v1"], "did you mean 'CartPole-v1'?"),
        (["env.options.wind=true"], "no option 'wind'"),
        (["placement.mode=process"], "did you mean 'processes'?"),
        (["env.keys=server.key"], "there is no env.address"),
        (["device=cuda"], "is not available in this version"),
        (["trainer.batch_size=100000"], "trainer.batch_size"),
        (["trainer.stop.eval/mean_reward=1"], "'eval.every' is above 0"),
    ],
)
def test_wrong_recipes_exit_with_2_and_leave_no_folder(tmp_path, words, message):
    out = tmp_path / "run"
    error = bessemer("run", CARTPOLE, f"out={out}", *words, expect=2).stderr
    assert message in error
    assert f"override '{words[0]}'" in error
    assert not out.exists()


def test_a_wrong_recipe_file_names_its_line(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("schema: 1\nenv:\n  id: CartPole-v1\n  nmu: 4\n")
    error = bessemer("run", recipe, expect=2).stderr
    assert f"{recipe}:4:3: unknown key 'nmu' in 'env', did you mean 'num'?" in error
    assert "cannot read" in bessemer("run", tmp_path / "none.yaml", expect=1).stderr


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    text = bessemer("run", CARTPOLE, "--dry-run", "placement.threads=2", cwd=tmp_path).stdout
    for word in ("threads       2", "256 samples", "parameters", "memory", "staleness"):
        assert word in text
    words = ["placement={mode: processes, workers: 3, threads: 3}"]
    text = bessemer("run", CARTPOLE, "--dry-run", *words, cwd=tmp_path).stdout
    assert "workers       3 processes of 1 thread, 2 or 3 instances each; lease 5 s" in text
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_its_files(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"recipe.yaml", "metrics.jsonl", "checkpoints", "eval.json"} <= names
    assert any(name.startswith("events.out.tfevents.") for name in names)
    result = json.loads((trained / "eval.json").read_text())
    assert {"mean", "std", "iqm", "interval", "returns", "lengths"} <= result.keys()
    assert len(result["returns"]) == 3 and result["step"] == 2048
    assert rows(trained)[-1]["step"] == 2048
    assert [row["step"] for row in rows(trained) if "eval/mean_reward" in row] == [1024, 2048]


def test_the_resolved_recipe_gives_the_same_run(trained, tmp_path):
    bessemer("run", trained / "recipe.yaml", f"out={tmp_path / 'again'}")
    assert_same_run(trained, tmp_path / "again")


def test_threads_do_not_matter(trained, tmp_path):
    bessemer("run", trained / "recipe.yaml", f"out={tmp_path / 'one'}", "placement.threads=1")
    assert_same_run(trained, tmp_path / "one")


def test_an_existing_run_is_refused_unless_forced(tmp_path):
    out = tmp_path / "run"
    words = ["run", CARTPOLE, f"out={out}", *SMALL]
    bessemer(*words)
    assert "--force" in bessemer(*words, expect=1).stderr
    bessemer(*words, "--force")
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "thesis.txt").write_text("years")
    error = bessemer("run", CARTPOLE, f"out={stranger}", "--force", expect=1).stderr
    assert "holds files that are no run" in error
    assert (stranger / "thesis.txt").exists()


def test_no_write_permission_is_a_clear_error(tmp_path):
    assert "cannot make the run folder" in bessemer("run", CARTPOLE, "out=/proc/x", expect=1).stderr
    if os.geteuid() == 0:
        return  # root may write anywhere else
    done = tmp_path / "done"
    bessemer("run", CARTPOLE, f"out={done}", *SMALL)
    for folder in (done, tmp_path):
        folder.chmod(0o500)
    for words in (["run", CARTPOLE, f"out={tmp_path}"], ["run", "--resume", done]):
        assert "ermission denied" in bessemer(*words, expect=1).stderr


LONG = ["trainer.total_steps=102400", "eval.episodes=3", "checkpoint.every=10240"]


def test_ctrl_c_stops_at_a_checkpoint_and_resume_is_bit_identical(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    bessemer("run", CARTPOLE, f"out={whole}", *LONG)
    process = start("run", CARTPOLE, f"out={cut}", *LONG)
    wait_until(lambda: (cut / "checkpoints" / "latest").exists(), process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert f"--resume {cut}" in error
    assert not (cut / "eval.json").exists()
    assert rows(cut)[-1]["step"] < 102400
    bessemer("run", "--resume", cut, "placement.threads=1")
    assert_same_run(whole, cut)
    assert (whole / "eval.json").read_text() == (cut / "eval.json").read_text()


def test_sigkill_and_resume_is_bit_identical(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = [*LONG, "checkpoint.every=256", "trainer.total_steps=25600"]
    words.remove("checkpoint.every=10240")
    words.remove("trainer.total_steps=102400")
    bessemer("run", CARTPOLE, f"out={whole}", *words)
    process = start("run", CARTPOLE, f"out={cut}", *words)
    for kill in range(4):
        wait_until(lambda: (cut / "checkpoints" / "latest").exists(), process)
        time.sleep(0.02 + 0.03 * kill)  # mostly inside the writing of a checkpoint
        process.kill()
        process.communicate()
        process = start("run", "--resume", cut)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert_same_run(whole, cut)


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    out = tmp_path / "run"
    process = start("run", CARTPOLE, f"out={out}", *SMALL, "eval.episodes=10000000")
    wait_until(lambda: (out / "checkpoints" / "latest").exists(), process)
    process.send_signal(signal.SIGINT)
    while "stopping after" not in (line := process.stderr.readline()):  # two at once would be one
        assert line
    time.sleep(0.3)
    assert process.poll() is None  # the final evaluation goes on
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_resume_refuses_what_would_be_another_run_and_fork_makes_it(trained, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    error = bessemer("run", "--resume", trained, "trainer.lr=0.1", expect=2).stderr
    assert "'trainer.lr' would make another run (0.001 -> 0.1); --fork out=NEW" in error
    assert (
        "a schedule"
        in bessemer("run", "--resume", trained, "trainer.total_steps=4096", expect=2).stderr
    )
    assert "there is no run folder" in bessemer("run", "--resume", tmp_path / "x", expect=1).stderr
    fork = tmp_path / "fork"
    words = ["trainer.lr=1e-4", "trainer.total_steps=3072", f"out={fork}"]
    bessemer("run", "--resume", trained, "--fork", *words)
    assert rows(fork)[0]["step"] == 2304
    assert "trained" in (fork / "parent.yaml").read_text()
    assert "complete" in bessemer("run", "--resume", trained).stderr
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*")}


def test_eval_is_repeatable(trained):
    first = bessemer("eval", trained, "--episodes", 5, "--seed", 9, "--json").stdout
    assert first == bessemer("eval", trained, "--episodes=5", "--seed=9", "--json").stdout
    result = json.loads(first)
    assert len(result["returns"]) == 5 and result["step"] == 2048
    assert result["interval"][0] <= result["iqm"] <= result["interval"][1]
    stored = json.loads((trained / "eval.json").read_text())
    assert result["returns"][:3] == stored["returns"]
    assert "IQM" in bessemer("eval", trained).stdout
    drawn = json.loads(bessemer("eval", trained, "--stochastic", "--json").stdout)
    assert drawn["deterministic"] is False


def test_damaged_foreign_and_newer_checkpoints_are_refused(trained, tmp_path):
    def copy(name):
        return pathlib.Path(shutil.copytree(trained, tmp_path / name))

    damaged = copy("damaged")
    model = checkpoint(damaged) / "model.safetensors"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    assert str(model) in bessemer("eval", damaged, expect=1).stderr

    short = copy("short")
    model = checkpoint(short) / "train.safetensors"
    model.write_bytes(model.read_bytes()[:-8])
    assert str(model) in bessemer("run", "--resume", short, expect=1).stderr

    newer = copy("newer")
    manifest = checkpoint(newer) / "manifest"
    manifest.write_text(manifest.read_text().replace("checkpoint 1", "checkpoint 2"))
    assert "newer than this version reads" in bessemer("eval", newer, expect=1).stderr

    foreign = copy("foreign")
    recipe = foreign / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("[64, 64]", "[32, 32]"))
    assert bessemer("eval", foreign, expect=1).stderr.startswith("error: ")

    recipe.write_text(recipe.read_text().replace("CartPole-v1", "Acrobot-v1"))
    assert bessemer("eval", foreign, expect=1).stderr.startswith("error: ")
    assert "it has no recipe.yaml" in bessemer("eval", tmp_path, expect=1).stderr


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    out = tmp_path / "run"
    words = ["run", CARTPOLE, f"out={out}", *SMALL, "trainer.lr_schedule=constant"]
    bessemer(*words, "trainer.clip_schedule=constant")
    good = checkpoint(out)
    limit = (good / "train.safetensors").stat().st_size // 2

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    quiet = ["metrics.jsonl=false", "metrics.tensorboard=false", "trainer.total_steps=4096"]
    error = bessemer("run", "--resume", out, *quiet, expect=1, preexec_fn=small_files).stderr
    assert "File too large" in error
    assert checkpoint(out) == good
    bessemer("eval", out)
    bessemer("run", "--resume", out)
    assert rows(out)[-1]["step"] == 2048 or checkpoint(out) != good


def test_a_small_disk_that_fills_up(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small file system")
    try:
        out = disk / "run"
        words = [*SMALL, "checkpoint.every=256", "checkpoint.keep=100"]
        error = bessemer("run", CARTPOLE, f"out={out}", *words, expect=1).stderr
        assert "No space left on device" in error
        assert bessemer("eval", out, "--json").stdout
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state(tmp_path):
    out = tmp_path / "run"
    words = [*SMALL, "trainer.lr=1e30", "trainer.max_grad_norm=1e30"]
    error = bessemer("run", CARTPOLE, f"out={out}", *words, expect=1).stderr
    assert "the last good state is" in error
    assert "eval" not in error
    assert json.loads(bessemer("eval", out, "--json").stdout)["mean"] > 0


def test_seeds_and_their_aggregate(tmp_path):
    recipe = tmp_path / "many.yaml"
    text = pathlib.Path(CARTPOLE).read_text()
    recipe.write_text("\n".join(x for x in text.splitlines() if not x.startswith("seed:")))
    out = tmp_path / "many"
    bessemer("run", recipe, "seeds=2", f"out={out}", *SMALL, "eval.bar=1")
    result = json.loads((out / "aggregate.json").read_text())
    assert result["seeds"] == [0, 1] and len(result["scores"]) == 2
    assert result["bar"] == 1 and result["reached"] == 2
    assert rows(out / "seed-0") != rows(out / "seed-1")
    assert "seed-0" in bessemer("eval", out, expect=1).stderr


def test_environments_as_json():
    specs = json.loads(bessemer("env", "list", "--json").stdout)
    assert "CartPole-v1" in [spec["id"] for spec in specs]
    spec = json.loads(bessemer("env", "info", "CartPole-v1", "--json").stdout)
    assert spec["observation"][0]["shape"] == [4]
    assert spec["action"][0]["n"] == [2]
    assert spec["max_episode_steps"] == 500
    assert "solved at    mean return 475" in bessemer("env", "info", "CartPole-v1").stdout


def headless():
    clean = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return clean | {"XDG_RUNTIME_DIR": "/nonexistent"}


def test_pictures_and_films_without_a_display(trained, tmp_path):
    features = (BUILD / "features.txt").read_text().split()
    error = bessemer("render", trained, "--human", expect=1, env=headless()).stderr
    assert error.startswith("error: ")
    if "png=yes" in features:
        for target in (trained, "CartPole-v1"):
            bessemer("render", target, "--png", tmp_path / "a.png", env=headless())
            assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        again = bessemer("render", "CartPole-v1", "--png", tmp_path / "b.png", env=headless())
        assert again.stdout.strip() == str(tmp_path / "b.png")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    if "video=yes" in features:
        assert (trained / "video.mp4").read_bytes()[4:8] == b"ftyp"
        bessemer("render", "CartPole-v1", cwd=tmp_path, env=headless())
        assert (tmp_path / "CartPole-v1.mp4").read_bytes()[4:8] == b"ftyp"
    assert (
        "one of --human"
        in bessemer("render", "CartPole-v1", "--human", "--png", "x.png", expect=2).stderr
    )


def test_tensorboard_reads_the_events(trained):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(trained), size_guidance={reader.SCALARS: 0})
    events.Reload()
    returns = events.Scalars("rollout/ep_rew_mean")
    assert [event.step for event in returns] == [row["step"] for row in rows(trained)]
    written = [row["rollout/ep_rew_mean"] for row in rows(trained)]
    assert [event.value for event in returns] == pytest.approx(written, rel=1e-6)


def test_serve_ask_conform_and_train(tmp_path):
    few = ["--instances", "24"]  # fewer than an evaluation has episodes
    server = start("env", "serve", "CartPole-v1", "Echo-v0", "--bind", "tcp://127.0.0.1:*", *few)
    try:
        line = server.stdout.readline()
        if not line and "no wire" in server.stderr.read():
            pytest.skip("built without the wire")
        address = line.split()[-1]
        info = json.loads(bessemer("env", "info", address, "--json").stdout)
        assert [env["id"] for env in info["envs"]] == ["CartPole-v1", "Echo-v0"]
        assert "CartPole-v1" in bessemer("env", "info", address).stdout
        checks = bessemer("env", "conform", address, "--id", "CartPole-v1").stdout
        assert checks.rstrip().endswith(" passed, 0 failed")
        # Training against the server gives the bits of training in one process.
        words = [CARTPOLE, *SMALL, "eval.episodes=30"]
        bessemer("run", *words, f"out={tmp_path / 'here'}")
        bessemer("run", *words, f"out={tmp_path / 'there'}", f"env.address={address}")
        assert rows(tmp_path / "here") == rows(tmp_path / "there")
        judged = [(tmp_path / side / "eval.json").read_text() for side in ("here", "there")]
        assert judged[0] == judged[1]
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    finally:
        server.kill()


def test_a_dead_address_is_a_clear_error(tmp_path):
    process = start(
        "run", CARTPOLE, *SMALL, f"out={tmp_path / 'run'}", "env.address=tcp://127.0.0.1:9"
    )
    _, errors = process.communicate(timeout=60)
    if "no wire" in errors:
        assert process.returncode == 2  # the key cannot be honoured by this build
    else:
        assert process.returncode == 1
        assert "no answer from tcp://127.0.0.1:9" in errors


def test_serving_beyond_loopback_is_refused():
    done = subprocess.run(
        [PROGRAM, "env", "serve", "CartPole-v1", "--bind", "tcp://0.0.0.0:*"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 1
    assert "loopback" in done.stderr or "no wire" in done.stderr
