"""Draws that depend on nothing but a seed and how many came before."""

import itertools
from collections.abc import Sequence

from bessemer import nn
from bessemer._native import Tensor, random_normal, random_uniform, tensor

_seed = tensor(0)
_counter = itertools.count()


def manual_seed(seed: int) -> None:
    """Starts the streams of rand(), randn() and of modules' initialisation anew."""
    global _seed, _counter
    _seed = tensor(int(seed))
    _counter = itertools.count()
    nn._seed_default_init(int(seed))


def _shape(sizes: tuple[int | Sequence[int], ...]) -> Sequence[int]:
    if len(sizes) == 1 and not isinstance(sizes[0], int):
        return sizes[0]
    return [int(size) for size in sizes]  # type: ignore[arg-type]


def rand(*shape: int | Sequence[int]) -> Tensor:
    """float32 in [0, 1)."""
    return random_uniform(_shape(shape), _seed, tensor(next(_counter)))


def randn(*shape: int | Sequence[int]) -> Tensor:
    """Standard normal float32."""
    return random_normal(_shape(shape), _seed, tensor(next(_counter)))
