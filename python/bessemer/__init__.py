"""Bessemer: environments, tensors, training and recipes from Python.

docs/python.md is the tour.
"""

from bessemer._native import (
    Tensor,
    __version__,
    arange,
    empty,
    from_dlpack,
    from_numpy,
    full,
    grad,
    is_grad_enabled,
    ones,
    tensor,
    zeros,
)
