"""What the Python boundary costs: small operations and environment steps.

usage: ./bessemer python bench/python_overhead.py [--envs | --eager] [--json]
Medians of interleaved repeats. Beside each figure stands what else is installed: PyTorch for
operations, Gymnasium for environments; bench/peers/compare holds them against more.
"""

import argparse
import json
import statistics
import time

import bessemer as bs

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    torch = None
try:
    import gymnasium
except ImportError:
    gymnasium = None

REPEATS, SECONDS = 9, 0.05


class Subject:
    """A loop to time: `body(n)` does n rounds of `work` units."""

    def __init__(self, name, body, work=1):
        self.name, self.body, self.work = name, body, work
        self.rounds, self.times = 1, []

    def run(self):
        start = time.perf_counter()
        self.body(self.rounds)
        return time.perf_counter() - start

    def calibrate(self):
        while (spent := self.run()) < SECONDS / 4:
            self.rounds *= 2
        self.rounds = max(1, int(self.rounds * SECONDS / spent))

    def median(self):
        """Seconds of one unit of work."""
        return statistics.median(self.times) / (self.rounds * self.work)


def measure(subjects):
    for subject in subjects:
        subject.calibrate()
    for _ in range(REPEATS):  # in turns: a slow spell of the machine hits all of them
        for subject in subjects:
            subject.times.append(subject.run())


def loop(statement, setup, names):
    """A function that repeats a statement n times without a call of its own around it."""
    scope = dict(names)
    exec(setup, scope)
    text = f"def body(n):\n    for _ in range(n):\n        {statement}\n"
    exec(text, scope)
    return scope["body"]


EAGER = [
    ("add (4,) no grad, Python", "a + b"),
    ("add (4,) grad, Python", "w + b"),
    ("mul, add, sum, backward (4,), Python", "(w * a + b).sum().backward()"),
    ("tanh (4,), Python", "a.tanh()"),
    ("a + 1.0 (4,), Python", "a + 1.0"),
    ("matmul (8, 8), Python", "m @ m"),
    ("x[1:3] (4,), Python", "a[1:3]"),
    ("item(), Python", "s.item()"),
]
SETUP = (
    "a, b = lib.ones(4), lib.ones(4)\nw = lib.ones(4, requires_grad=True)\n"
    "m, s = lib.ones(8, 8), lib.ones(1)\n"
)


def eager(report):
    for work, statement in EAGER:
        subjects = [Subject("bessemer", loop(statement, SETUP, {"lib": bs}))]
        if torch:
            subjects.append(Subject("torch", loop(statement, SETUP, {"lib": torch})))
        measure(subjects)
        report(work, subjects, "ns")


def one(env, actions):
    """Steps one environment, resetting it when an episode ends."""
    env.reset(seed=0)
    count = len(actions)

    def body(n):
        step = env.step
        for i in range(n):
            _, _, terminated, truncated, _ = step(actions[i % count])
            if terminated or truncated:
                env.reset()

    return body


def many(env, actions):
    env.reset(seed=0)
    count = len(actions)

    def body(n):
        step = env.step
        for i in range(n):
            step(actions[i % count])

    return body


ENVS = [
    ("CartPole-v1", 1, 1),
    ("CartPole-v1", 1024, 1),
    ("CartPole-v1", 8192, 1),
    ("Pendulum-v1", 1, 1),
    ("Pendulum-v1", 1024, 1),
    ("LunarLander-v3", 1, 1),
    ("LunarLander-v3", 64, 1),
    ("LunarLander-v3", 64, 2),
]


def draws(space, count, rounds=64):
    space.seed(0)
    return [space.sample() for _ in range(rounds if count > 1 else 4096)]


def environments(report):
    for env_id, count, threads in ENVS:
        if env_id not in bs.env_ids():
            continue
        plural = "s" if threads > 1 else ""
        work = f"{env_id}, {count} instances, {threads} thread{plural}, Python"
        subjects = []
        if count == 1:
            env = bs.make(env_id)
            subjects.append(Subject("bessemer", one(env, draws(env.action_space, 1))))
            if gymnasium and env_id in gymnasium.registry:
                try:
                    other = gymnasium.make(env_id)
                    actions = draws(other.action_space, 1)
                    subjects.append(Subject("gymnasium", one(other, actions)))
                except gymnasium.error.DependencyNotInstalled:
                    pass
        else:
            for name, copy in (("bessemer", False), ("bessemer, copies", True)):
                env = bs.make_vec(env_id, count, threads=threads, copy=copy)
                actions = draws(env.action_space, count)
                subjects.append(Subject(name, many(env, actions), count))
            if gymnasium and env_id == "CartPole-v1":
                other = gymnasium.make_vec(env_id, count)  # its NumPy batch
                subjects.append(Subject("gymnasium", many(other, actions), count))
        measure(subjects)
        report(work, subjects, "steps/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eager", action="store_true", help="small operations only")
    parser.add_argument("--envs", action="store_true", help="environments only")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()

    def report(work, subjects, unit):
        def value(subject):
            return 1 / subject.median() if unit == "steps/s" else subject.median() * 1e9

        ours = value(subjects[0])
        ratios = []
        for other in subjects[1:]:
            theirs = value(other)
            ratios.append(
                (other.name, theirs, ours / theirs if unit == "steps/s" else theirs / ours)
            )
        if options.json:
            line = {"work": work, "value": ours, "unit": unit}
            for name, theirs, ratio in ratios:
                line[name] = {"value": theirs, "ratio": ratio}
            print(json.dumps(line), flush=True)
        else:
            beside = "".join(f"  {ratio:8.3g} x {name}" for name, _, ratio in ratios)
            print(f"{work:58} {ours:12.5g} {unit:8}{beside}", flush=True)

    if not options.envs:
        eager(report)
    if not options.eager:
        environments(report)


if __name__ == "__main__":
    main()
