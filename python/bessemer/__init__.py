"""Bessemer: environments, tensors, training and recipes from Python.

docs/python.md is the tour.
"""

from bessemer import _native, losses, nn, optim
from bessemer._native import *  # noqa: F403  (the operations, one function a row of the op table)
from bessemer._native import __version__
from bessemer.envs import (
    AutoresetMode,
    Env,
    VectorEnv,
    connect,
    env_ids,
    env_spec,
    make,
    make_vec,
)
from bessemer.modes import enable_grad, no_grad, set_grad_enabled
from bessemer.random import manual_seed, rand, randn
from bessemer.runs import resume, run

float16, bfloat16, float32, float64 = "float16", "bfloat16", "float32", "float64"
int8, uint8, int32, int64 = "int8", "uint8", "int32", "int64"

__all__ = [
    *(name for name in dir(_native) if not name.startswith("_") and not name.endswith("Core")),
    "AutoresetMode",
    "Env",
    "VectorEnv",
    "__version__",
    "connect",
    "enable_grad",
    "env_ids",
    "env_spec",
    "losses",
    "make",
    "make_vec",
    "manual_seed",
    "nn",
    "no_grad",
    "optim",
    "rand",
    "randn",
    "resume",
    "run",
    "set_grad_enabled",
]
