"""OpenEnv's template echo environment behind its stock server, driven by its stock client.

Run by an interpreter that has openenv (bench/peers/setup-openenv makes one). Steps a second over
one WebSocket session.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import emit

STEPS, WARM_UP, REPEATS = 1000, 50, 3


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(kind, port):
    deadline = time.monotonic() + 60
    while True:
        try:
            client = kind(base_url=f"http://127.0.0.1:{port}").sync()
            client.__enter__()
            return client
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    binaries = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [binaries / "openenv", "init", "my_env"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        port = free_port()
        command = [binaries / "uvicorn", "server.app:app", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--log-level", "warning"]
        server = subprocess.Popen(command, cwd=Path(folder) / "my_env")
        sys.path.insert(0, folder)
        try:
            from my_env import MyEnv
            from my_env.models import MyAction

            client = connect(MyEnv, port)
            client.reset()
            for _ in range(WARM_UP):
                client.step(MyAction(message="hello"))
            rates = []
            for _ in range(REPEATS):
                begin = time.perf_counter()
                for _ in range(STEPS):
                    client.step(MyAction(message="hello"))
                rates.append(STEPS / (time.perf_counter() - begin))
            emit("openenv", "text echo", round(sorted(rates)[REPEATS // 2]), "steps/s")
            client.__exit__(None, None, None)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
