"""Writes the typed stubs of the package from the op table and the text below.

usage: ./bessemer python python/native/stubs.py [--check]
tests/python/test_stubs.py fails where they are not what this writes.
"""

import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "bessemer"

# Python types of parameters, by name; `default=None` adds None.
TYPES = {
    "dims": "int | Sequence[int]",
    "keepdim": "bool",
    "reverse": "bool",
    "descending": "bool",
    "dim": "int",
    "dim0": "int",
    "dim1": "int",
    "start": "int",
    "stop": "int",
    "step": "int",
    "end": "int",
    "before": "int",
    "after": "int",
    "stride": "int",
    "padding": "int",
    "classes": "int",
    "shape": "int | Sequence[int]",
    "dtype": "AnyDtype",
    "activation": "Activation | None",
    "eps": "float",
    "value": "float",
    "correction": "float",
    "theta": "float",
    "scale": "float",
    "inverse": "bool",
    "widen": "bool",
    "parts": "Sequence[TensorLike]",
}
# The same name means a tensor in most operations and a number in these.
SPECIAL = {("select", "index"): "int"}

HEAD = '''\
"""Written by python/native/stubs.py: the native module's types."""

import builtins
from collections.abc import Iterator, Sequence
from types import EllipsisType
from typing import Any, Literal, SupportsIndex, TypeAlias

from numpy.typing import ArrayLike, DTypeLike, NDArray

__version__: str

Dtype: TypeAlias = Literal[
    "bool",
    "uint8",
    "int8",
    "int32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
]
AnyDtype: TypeAlias = Dtype | DTypeLike
Activation: TypeAlias = Literal["none", "relu", "tanh", "sigmoid", "silu", "gelu"]
Number: TypeAlias = float | int | bool
TensorLike: TypeAlias = Tensor | Number | ArrayLike
_Index: TypeAlias = Tensor | NDArray[Any] | list[int]
_Key: TypeAlias = SupportsIndex | builtins.slice | EllipsisType | None | _Index
Key: TypeAlias = _Key | tuple[_Key, ...]

class Tensor:
    def __init__(
        self, data: TensorLike, dtype: AnyDtype | None = None, requires_grad: bool = False
    ) -> None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Dtype: ...
    @property
    def ndim(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def T(self) -> Tensor: ...
    @property
    def is_leaf(self) -> bool: ...
    requires_grad: bool
    grad: Tensor | None
    def item(self) -> Any: ...
    def tolist(self) -> Any: ...
    def numpy(self) -> NDArray[Any]: ...
    def detach(self) -> Tensor: ...
    def copy(self) -> Tensor: ...
    def requires_grad_(self, required: bool = True) -> Tensor: ...
    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool = False,
        create_graph: bool = False,
    ) -> None: ...
    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]: ...
    def __dlpack__(
        self,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __getitem__(self, key: Key) -> Tensor: ...
    def __setitem__(self, key: Key, value: TensorLike) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Tensor]: ...
    def __bool__(self) -> bool: ...
    def __float__(self) -> float: ...
    def __int__(self) -> int: ...
    def __index__(self) -> int: ...
    def __hash__(self) -> int: ...
    def __neg__(self) -> Tensor: ...
    def __pos__(self) -> Tensor: ...
    def __abs__(self) -> Tensor: ...
    def __invert__(self) -> Tensor: ...
'''

OPERATORS = ["add", "sub", "mul", "truediv", "floordiv", "pow", "matmul", "and", "or"]
IN_PLACE = ["iadd", "isub", "imul", "itruediv"]
COMPARISONS = ["lt", "le", "gt", "ge"]

TAIL = """
def tensor(
    data: TensorLike, dtype: AnyDtype | None = None, requires_grad: bool = False
) -> Tensor: ...
def zeros(
    *shape: int | Sequence[int], dtype: AnyDtype = ..., requires_grad: bool = False
) -> Tensor: ...
def ones(
    *shape: int | Sequence[int], dtype: AnyDtype = ..., requires_grad: bool = False
) -> Tensor: ...
def empty(
    *shape: int | Sequence[int], dtype: AnyDtype = ..., requires_grad: bool = False
) -> Tensor: ...
def full(
    shape: int | Sequence[int],
    value: Number,
    dtype: AnyDtype | None = None,
    requires_grad: bool = False,
) -> Tensor: ...
def arange(start: int, stop: int | None = None, step: int = 1, dtype: AnyDtype = ...) -> Tensor: ...
def from_numpy(array: NDArray[Any], /) -> Tensor: ...
def from_dlpack(x: Any, /) -> Tensor: ...
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> tuple[Tensor | None, ...]: ...
def is_grad_enabled() -> bool: ...
def _set_grad_mode(on: bool, /) -> bool: ...
def op_rows() -> list[dict[str, Any]]: ...
def set_threads(threads: int, /) -> None: ...
def get_threads() -> int: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
def memory_stats() -> tuple[int, int]: ...
def env_ids() -> list[str]: ...
def env_spec(id: str, /) -> dict[str, Any]: ...

class EnvCore:
    def __init__(
        self,
        id: str,
        options: dict[str, Any] | None = None,
        max_episode_steps: int | None = None,
        check_actions: bool = True,
    ) -> None: ...
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]: ...
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]: ...
    def save(self) -> bytes: ...
    def load(self, state: bytes, /) -> Any: ...
    def close(self) -> None: ...
    def _picture(self) -> NDArray[Any]: ...
    def _present(self) -> None: ...
    @property
    def _spec(self) -> dict[str, Any]: ...
    _show_always: bool
    _np_random: Any
    _np_random_seed: int | None

class VectorEnvCore:
    def __init__(
        self,
        id: str,
        num_envs: int,
        threads: int,
        autoreset: str,
        copy: bool = True,
        options: dict[str, Any] | None = None,
        max_episode_steps: int | None = None,
        statistics: bool = True,
        check_actions: bool = True,
        arithmetic: str = "lanes",
        address: str | None = None,
    ) -> None: ...
    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]: ...
    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]: ...
    def send(self, actions: Any, ids: Any = None) -> None: ...
    def recv(
        self, at_least: int | None = None
    ) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any], NDArray[Any]]: ...
    def save(self) -> list[bytes]: ...
    def load(self, states: Sequence[bytes], /) -> Any: ...
    def _picture(self, index: int, /) -> NDArray[Any]: ...
    @property
    def _spec(self) -> dict[str, Any]: ...
    @property
    def final_obs(self) -> Any: ...

class Init:
    def __init__(self, seed: int = 0) -> None: ...
    @property
    def seed(self) -> int: ...
    @property
    def next(self) -> int: ...
    def normal(self, shape: int | Sequence[int], std: float = 1.0) -> Tensor: ...
    def uniform(
        self, shape: int | Sequence[int], low: float = 0.0, high: float = 1.0
    ) -> Tensor: ...
    def orthogonal(self, shape: int | Sequence[int], gain: float = 1.0) -> Tensor: ...

# What the package wraps.
_Linear: Any
_Conv2d: Any
_GruCell: Any
_Decoder: Any
_Mlp: Any
_Adam: Any
_clip_grad_norm: Any
_nll_loss: Any
_reward_loss: Any
_dpo_loss: Any
_policy_loss: Any
_value_loss: Any
_group_advantages: Any
_token_gae: Any
"""

PACKAGE_HEAD = '''\
"""Written by python/native/stubs.py: what `import bessemer` offers."""

# ruff: noqa: I001
from bessemer import losses as losses
from bessemer import nn as nn
from bessemer import optim as optim
'''
PACKAGE_TAIL = """\
from bessemer.envs import AutoresetMode as AutoresetMode
from bessemer.envs import Env as Env
from bessemer.envs import VectorEnv as VectorEnv
from bessemer.envs import connect as connect
from bessemer.envs import make as make
from bessemer.envs import make_vec as make_vec
from bessemer.modes import enable_grad as enable_grad
from bessemer.modes import no_grad as no_grad
from bessemer.modes import set_grad_enabled as set_grad_enabled
from bessemer.random import manual_seed as manual_seed
from bessemer.random import rand as rand
from bessemer.random import randn as randn
from bessemer.runs import resume as resume
from bessemer.runs import run as run
"""
FLOATS, INTEGERS = (
    ["float16", "bfloat16", "float32", "float64"],
    ["int8", "uint8", "int32", "int64"],
)


def parameters(name, signature):
    """[(name, type, default or None)] of an operation's Python parameters."""
    out = []
    for part in signature.split(", "):
        parameter, _, default = part.partition("=")
        kind = SPECIAL.get((name, parameter)) or TYPES.get(parameter, "TensorLike")
        if default == "None" and "None" not in kind:
            kind += " | None"
        out.append((parameter, kind, default.replace("'", '"') or None))
    return out


def one_line(parts):
    return ", ".join(f"{n}: {t}" + (f" = {d}" if d else "") for n, t, d in parts)


def definition(name, parts, indent="", pair=False):
    """A def of one line, or of one line a parameter where that is too long."""
    names = one_line(parts) if not isinstance(parts, str) else parts
    result = "tuple[Tensor, Tensor]" if pair else "Tensor"
    line = f"{indent}def {name}({names}) -> {result}: ..."
    if len(line) <= 100:
        return line
    inner = f"{indent}    {names}"
    if len(inner) <= 100:
        return f"{indent}def {name}(\n{inner}\n{indent}) -> {result}: ..."
    rows = "".join(f"{indent}    {row},\n" for row in names.split(", "))
    return f"{indent}def {name}(\n{rows}{indent}) -> {result}: ..."


def native_stub(texts):
    lines = [HEAD.rstrip("\n")]
    for operator in OPERATORS:
        lines.append(f"    def __{operator}__(self, other: TensorLike) -> Tensor: ...")
        lines.append(f"    def __r{operator}__(self, other: TensorLike) -> Tensor: ...")
    for operator in [*IN_PLACE, *COMPARISONS]:
        lines.append(f"    def __{operator}__(self, other: TensorLike) -> Tensor: ...")
    for operator in ("eq", "ne"):
        lines.append(
            f"    def __{operator}__(self, other: object) -> Tensor: ...  # type: ignore[override]"
        )
    for name, signature, _, method, pair in texts:
        if method:
            rest = parameters(name, signature)[1:]
            # Sizes may be given one by one: x.reshape(2, 3).
            if rest and rest[-1][0] in ("shape", "dims") and len(rest) == 1 and not rest[0][2]:
                lines.append(definition(name, f"self, *{rest[0][0]}: int | Sequence[int]", "    "))
            else:
                given = "self" + (", " + one_line(rest) if rest else "")
                lines.append(definition(name, given, "    ", pair))
    lines.append("")
    for name, signature, _, _, pair in texts:
        lines.append(definition(name, parameters(name, signature), pair=pair))
    return "\n".join(lines) + "\n" + TAIL.lstrip("\n")


def package_stub(names):
    lines = [PACKAGE_HEAD.rstrip("\n")]
    lines += [f"from bessemer._native import {name} as {name}" for name in names]
    lines.append("from bessemer._native import __version__ as __version__")
    lines.append(PACKAGE_TAIL)
    lines += [f"{name}: str" for name in FLOATS + INTEGERS]
    return "\n".join(lines) + "\n"


def stubs():
    """{file name: text}."""
    from bessemer import _native

    # Runs and what only some builds have are typed by runs.py.
    names = sorted(n for n in dir(_native) if not n.startswith("_") and not n.endswith("Core"))
    return {
        "_native.pyi": native_stub(_native._function_texts()),
        "__init__.pyi": package_stub(names),
    }


def main():
    stale = [n for n, text in stubs().items() if read(n) != text]
    if "--check" in sys.argv:
        sys.exit(f"not current: {', '.join(stale)}; run python/native/stubs.py" if stale else 0)
    for name, text in stubs().items():
        (FOLDER / name).write_text(text)


def read(name):
    path = FOLDER / name
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    main()
