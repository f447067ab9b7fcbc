"""Recipes from Python."""

import os

from bessemer import _native


def _override_list(overrides):
    if overrides is None:
        return []
    if isinstance(overrides, dict):
        return [f"{key}={_text(value)}" for key, value in overrides.items()]
    if isinstance(overrides, str):
        raise TypeError("overrides: expected a dict or a list of 'a.b=c', got one str")
    return [str(item) for item in overrides]


def _text(value):
    # As YAML reads it back.
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return str(value)


def _need(name):
    function = getattr(_native, name, None)
    if function is None:
        raise RuntimeError("this build cannot run recipes: it was made without yaml-cpp")
    return function


def run(recipe, overrides=None, *, force=False, announce=True):
    """Trains what a recipe says; returns its final metrics and where they are.

    ``overrides``: a dict {"trainer.lr": 1e-3} or a list ["trainer.lr=1e-3"]. ``force`` replaces a
    run that is in the folder already. Ctrl-C stops at a checkpoint and raises KeyboardInterrupt.
    """
    return _need("_run")(os.fspath(recipe), _override_list(overrides), force, announce)


def resume(folder, overrides=None, *, announce=True):
    """Goes on with an interrupted run, or a finished one with more steps."""
    return _need("_resume")(os.fspath(folder), _override_list(overrides), announce)
