"""Draws that depend on nothing but a seed and how many came before."""

import itertools

from bessemer import nn
from bessemer._native import random_normal, random_uniform, tensor

_seed = tensor(0)
_counter = itertools.count()


def manual_seed(seed):
    """Starts the streams of rand(), randn() and of modules' initialisation anew."""
    global _seed, _counter
    _seed = tensor(int(seed))
    _counter = itertools.count()
    nn._seed_default_init(int(seed))


def _shape(sizes):
    return sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes


def rand(*shape):
    """float32 in [0, 1)."""
    return random_uniform(_shape(shape), _seed, tensor(next(_counter)))


def randn(*shape):
    """Standard normal float32."""
    return random_normal(_shape(shape), _seed, tensor(next(_counter)))
