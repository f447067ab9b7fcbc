"""One JSON line a figure, medians of repeats: shared by the peer programs."""

import json
import statistics
import time


def emit(peer, work, value, unit, **more):
    print(
        json.dumps({"peer": peer, "work": work, "value": value, "unit": unit, **more}), flush=True
    )


def steps_per_second(step, count, seconds=0.5, repeats=3):
    """Median rate of `step()`, which does `count` environment steps."""
    for _ in range(5):
        step()
    rates = []
    for _ in range(repeats):
        calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            step()
            calls += 1
        rates.append(calls * count / (time.perf_counter() - start))
    return statistics.median(rates)


def nanoseconds(body, loops, repeats=7):
    times = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        for _ in range(loops):
            body()
        times.append((time.perf_counter_ns() - start) / loops)
    return statistics.median(times)


def seconds(body, least=0.5):
    """Median seconds of `body()`, after one that is not counted: at least five of them, and for
    `least` seconds."""
    body()
    times, end = [], time.perf_counter() + least
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        body()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
