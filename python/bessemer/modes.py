"""Whether operations are recorded for gradients."""

import functools

from bessemer._native import _set_grad_mode


class set_grad_enabled:
    """Context manager and decorator: records operations inside it or not, on this thread."""

    def __init__(self, enabled):
        self._enabled = bool(enabled)
        self._before = []

    def __enter__(self):
        self._before.append(_set_grad_mode(self._enabled))
        return self

    def __exit__(self, *_):
        _set_grad_mode(self._before.pop())
        return False

    def __call__(self, function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            with set_grad_enabled(self._enabled):
                return function(*args, **kwargs)

        return wrapped


class no_grad(set_grad_enabled):
    """Nothing inside it is recorded."""

    def __init__(self):
        super().__init__(False)


class enable_grad(set_grad_enabled):
    """Records inside it, also within no_grad()."""

    def __init__(self):
        super().__init__(True)
