"""Recipes from Python."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bessemer import _native

Overrides = Mapping[str, object] | Iterable[str] | None


def _override_list(overrides: Overrides) -> list[str]:
    if overrides is None:
        return []
    if isinstance(overrides, Mapping):
        return [f"{key}={_text(value)}" for key, value in overrides.items()]
    if isinstance(overrides, str):
        raise TypeError("overrides: expected a dict or a list of 'a.b=c', got one str")
    return [str(item) for item in overrides]


def _text(value: object) -> str:
    # As YAML reads it back.
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return str(value)


def _need(name: str) -> Callable[..., dict[str, Any]]:
    function: Callable[..., dict[str, Any]] | None = getattr(_native, name, None)
    if function is None:
        raise RuntimeError("this build cannot run recipes: it was made without yaml-cpp")
    return function


def run(
    recipe: str | os.PathLike[str],
    overrides: Overrides = None,
    *,
    force: bool = False,
    announce: bool = True,
) -> dict[str, Any]:
    """Trains what a recipe says; returns its final metrics and where they are.

    ``overrides``: a dict {"trainer.lr": 1e-3} or a list ["trainer.lr=1e-3"]. ``force`` replaces a
    run that is in the folder already. Ctrl-C stops at a checkpoint and raises KeyboardInterrupt.
    """
    return _need("_run")(os.fspath(recipe), _override_list(overrides), force, announce)


def resume(
    folder: str | os.PathLike[str], overrides: Overrides = None, *, announce: bool = True
) -> dict[str, Any]:
    """Goes on with an interrupted run, or a finished one with more steps."""
    return _need("_resume")(os.fspath(folder), _override_list(overrides), announce)
