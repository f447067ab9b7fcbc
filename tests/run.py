"""Runs the doctest programs of a build and the Python tests; ends with "N passed, N failed"."""

import argparse
import concurrent.futures
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 1200


class Outcome:
    def __init__(self, name, passed=0, failed=0, skipped=0, text="", seconds=0.0):
        self.name, self.text, self.seconds = name, text, seconds
        self.passed, self.failed, self.skipped = passed, failed, skipped


def execute(command, **options):
    """Exit code and output; a hang or a death by signal is a failure that says so."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_SECONDS,
            **options,
        )
    except subprocess.TimeoutExpired as error:
        text = (error.stdout or b"").decode(errors="replace")
        return 1, f"{text}\nstopped after {LIMIT_SECONDS} s"
    text = done.stdout.decode(errors="replace")
    if done.returncode < 0:
        text += f"\nended by {signal.Signals(-done.returncode).name}"
    return done.returncode, text


def doctest_cases(program, needle):
    """Names of the program's cases whose name or file contains `needle`."""
    listed = subprocess.run([program, "--list-test-cases", "--reporters=xml"], capture_output=True)
    cases = ElementTree.fromstring(listed.stdout).iter("TestCase")
    needle = needle.lower()
    room = Path(program).name.lower()
    return [
        case.get("name")
        for case in cases
        if needle in f"{room} {case.get('name')} {case.get('filename')}".lower()
    ]


def run_doctest(program, needle):
    name = Path(program).name
    command = [program, "--reporters=xml"]
    if needle:
        names = doctest_cases(program, needle)
        if not names:
            return Outcome(name)
        # doctest separates its filters by commas and has the wildcard ? for any character
        command.append("--test-case=" + ",".join(n.replace(",", "?") for n in names))
    begin = time.monotonic()
    code, text = execute(command)
    seconds = time.monotonic() - begin
    try:
        report = ElementTree.fromstring(text[text.index("<?xml") :])
        counts = report.find("OverallResultsTestCases")
        passed, failed = int(counts.get("successes")), int(counts.get("failures"))
    except (ValueError, ElementTree.ParseError, AttributeError):
        return Outcome(name, failed=1, text=f"{name} did not finish (exit {code})\n{text[-4000:]}")
    if failed == 0 and code == 0:
        return Outcome(name, passed, seconds=seconds)
    plain = execute([program, "--no-version", *command[2:]])[1]
    return Outcome(name, passed, max(failed, 1), text=plain, seconds=seconds)


def python_environment(build):
    environment = dict(os.environ)
    parts = [str(build / "python"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(p for p in parts if p)
    environment["BESSEMER_BUILD"] = str(build)
    return environment


def run_pytest(file, build, needle):
    """One file of Python tests in a process of its own, so that a crash takes no other with it."""
    name = f"tests/python/{file.name}"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", str(file), f"--junitxml={report}"]
        command += ["-p", "no:cacheprovider"] + (["-k", needle] if needle else [])
        begin = time.monotonic()
        code, text = execute(command, env=python_environment(build), cwd=ROOT)
        seconds = time.monotonic() - begin
        if code == 5:  # nothing was selected
            return Outcome(name)
        try:
            suite = ElementTree.parse(report).getroot().find("testsuite")
            total, skipped = int(suite.get("tests")), int(suite.get("skipped"))
            failed = int(suite.get("failures")) + int(suite.get("errors"))
        except (OSError, ElementTree.ParseError, AttributeError):
            return Outcome(name, failed=1, text=f"{name} did not finish (exit {code})\n{text}")
    failed = max(failed, 1 if code else 0)
    shown = text if failed else ""
    return Outcome(name, total - failed - skipped, failed, skipped, shown, seconds)


def python_jobs(build, needle):
    """Functions to run; where pytest is missing, one that says so."""
    files = sorted((ROOT / "tests" / "python").glob("test_*.py"))
    if (
        files
        and subprocess.run([sys.executable, "-c", "import pytest"], capture_output=True).returncode
    ):
        text = "pytest is not installed: Python tests left out"
        return [lambda: Outcome("pytest", skipped=len(files), text=text)]
    # the large files first, so that none is left over at the end
    files.sort(key=lambda file: -file.stat().st_size)
    return [lambda file=file: run_pytest(file, build, needle) for file in files]


def main():
    parser = argparse.ArgumentParser(prog="bessemer test", description=__doc__)
    parser.add_argument("filter", nargs="?", default="", help="part of a test's name or file")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="the build folder")
    options = parser.parse_args()
    build = options.build.resolve()

    programs = sorted(
        str(path)
        for path in build.glob("tests/**/test_*")
        if path.is_file() and os.access(path, os.X_OK)
    )
    cores = len(os.sched_getaffinity(0))
    total = Outcome("total")
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        jobs = [pool.submit(job) for job in python_jobs(build, options.filter)]
        jobs += [pool.submit(run_doctest, program, options.filter) for program in programs]
        for job in concurrent.futures.as_completed(jobs):
            outcome = job.result()
            total.passed += outcome.passed
            total.failed += outcome.failed
            total.skipped += outcome.skipped
            if outcome.text:
                print(outcome.text.rstrip())
            if outcome.passed or outcome.failed:
                print(
                    f"{outcome.name}: {outcome.passed} passed, {outcome.failed} failed "
                    f"({outcome.seconds:.1f} s)",
                    flush=True,
                )
    if options.filter and not (total.passed or total.failed or total.skipped):
        print(f"no test matches '{options.filter}'")
        return 2
    skipped = f", {total.skipped} skipped" if total.skipped else ""
    print(f"{total.passed} passed, {total.failed} failed{skipped}")
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
