"""Finds the package: in BESSEMER_BUILD, in build/ beside the sources, or installed."""

import os
import pathlib
import signal
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BESSEMER_BUILD", ROOT / "build"))

if (BUILD / "python" / "bessemer").is_dir():
    sys.path.insert(0, str(BUILD / "python"))
    # For programs that tests start, and processes that runs start.
    os.environ.setdefault("BESSEMER_PROGRAM", str(BUILD / "forge" / "bessemer"))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(BUILD / "python"), os.environ.get("PYTHONPATH")])
    )

# Whoever is started in the background of a shell ignores Ctrl-C, and so would what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
