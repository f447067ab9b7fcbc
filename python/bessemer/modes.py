"""Whether operations are recorded for gradients."""

import functools
from collections.abc import Callable
from typing import Literal, ParamSpec, Self, TypeVar

from bessemer._native import _set_grad_mode

P = ParamSpec("P")
R = TypeVar("R")


class set_grad_enabled:
    """Context manager and decorator: records operations inside it or not, on this thread."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = bool(enabled)
        self._before: list[bool] = []

    def __enter__(self) -> Self:
        self._before.append(_set_grad_mode(self._enabled))
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        _set_grad_mode(self._before.pop())
        return False

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            with set_grad_enabled(self._enabled):
                return function(*args, **kwargs)

        return wrapped


class no_grad(set_grad_enabled):
    """Nothing inside it is recorded."""

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(set_grad_enabled):
    """Records inside it, also within no_grad()."""

    def __init__(self) -> None:
        super().__init__(True)
