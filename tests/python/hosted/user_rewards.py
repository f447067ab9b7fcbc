"""Reward functions, good and bad, for tests/envs_wire/reward_test.cpp."""

import os
import time


def lengths(completions, prompts, bonus=None, **columns):
    extra = bonus or [0] * len(completions)
    return [float(len(c)) + b for c, b in zip(completions, extra, strict=True)]


def some_bad(completions, **columns):
    values = [1.0, float("nan"), None, "x", 2]
    return values[: len(completions)]


def hangs_on_xx(completions, **columns):
    if "xx" in completions:
        time.sleep(1000)
    return [1.0] * len(completions)


def too_few(completions, **columns):
    return [1.0]


def raises(prompts, completions):
    raise ZeroDivisionError(f"no reward for {completions[0]}")


def dies(completions, **columns):
    os._exit(9)
