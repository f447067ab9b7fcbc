"""Wall clocks that jump: deadlines, leases and restarts run on the clock that cannot."""

import pathlib
import shutil
import subprocess

import pytest
from processes import CARTPOLE, PROGRAM, needs_program

pytestmark = needs_program

JUMPS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
/* Hours ahead and hours back, in turns. */
static long jump(void) {
  static int calls;
  return (__atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED) & 1 ? 1 : -1) * 7200L;
}
int clock_gettime(clockid_t clock, struct timespec *t) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int done = real(clock, t);
  if (clock == CLOCK_REALTIME) t->tv_sec += jump();
  return done;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
  int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
  int done = real(t, zone);
  t->tv_sec += jump();
  return done;
}
time_t time(time_t *out) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (out) *out = t.tv_sec;
  return t.tv_sec;
}
"""


@pytest.fixture(scope="module")
def jumping(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("clock")
    source, library = folder / "jumps.c", folder / "jumps.so"
    source.write_text(JUMPS)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "PATH": "/usr/bin:/bin"}


def run(folder, *words, env=None):
    done = subprocess.run(
        [PROGRAM, "run", CARTPOLE, "trainer.total_steps=4096", "eval.episodes=3", *words]
        + ["metrics.console=false", "metrics.tensorboard=false", f"out={folder}"],
        capture_output=True,
        text=True,
        timeout=120,
        env=env,
    )
    return done


def weights(folder):
    root = pathlib.Path(folder) / "checkpoints"
    return (root / (root / "latest").read_text().strip() / "model.safetensors").read_bytes()


def test_the_library_makes_the_wall_clock_jump(jumping):
    said = [
        int(subprocess.check_output(["date", "+%s"], env=jumping | {"LD_PRELOAD": preload}))
        for preload in ("", jumping["LD_PRELOAD"])
    ]
    assert abs(said[0] - said[1]) > 3600


@pytest.mark.parametrize(
    "placement",
    [
        ["placement.mode=processes", "placement.workers=2"],
        ["placement.server=true"],
    ],
    ids=["workers", "server"],
)
def test_processes_work_while_the_wall_clock_jumps(jumping, tmp_path, placement):
    plain = run(tmp_path / "plain")
    assert plain.returncode == 0, plain.stderr
    done = run(tmp_path / "jumps", *placement, env=jumping)
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "plain") == weights(tmp_path / "jumps")
    logs = "".join(path.read_text() for path in (tmp_path / "jumps" / "logs").glob("*.log"))
    assert "lease" not in logs and "restart" not in logs, logs
