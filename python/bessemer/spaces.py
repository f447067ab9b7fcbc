"""Spaces of an environment's channels: Gymnasium's where it is installed, else small ones."""

import numpy as np

try:
    import gymnasium
    from gymnasium import spaces as gym_spaces
    from gymnasium.vector.utils import batch_space
except ImportError:  # the package works without it
    gymnasium = None


class Space:
    """Shape, dtype, sample() and contains(), as much as a training loop asks for."""

    def __init__(self, shape, dtype, seed=None):
        self.shape = shape
        self.dtype = None if dtype is None else np.dtype(dtype)
        self.np_random = np.random.default_rng(seed)

    def seed(self, seed=None):
        self.np_random = np.random.default_rng(seed)
        return seed

    def __contains__(self, value):
        return self.contains(value)


class Box(Space):
    def __init__(self, low, high, shape, dtype=np.float32):
        super().__init__(shape, dtype)
        self.low = np.full(shape, low, dtype=dtype)
        self.high = np.full(shape, high, dtype=dtype)

    def sample(self):
        bounded = np.isfinite(self.low) & np.isfinite(self.high)
        inside = self.np_random.uniform(
            np.where(bounded, self.low, 0.0), np.where(bounded, self.high, 1.0)
        )
        return np.where(bounded, inside, self.np_random.normal(size=self.shape)).astype(self.dtype)

    def contains(self, value):
        value = np.asarray(value)
        return value.shape == self.shape and bool(
            np.all(value >= self.low) and np.all(value <= self.high)
        )

    def __repr__(self):
        return f"Box({self.low.min()}, {self.high.max()}, {self.shape}, {self.dtype})"


class Discrete(Space):
    def __init__(self, n, start=0, dtype=np.int64):
        super().__init__((), dtype)
        self.n, self.start = n, start

    def sample(self):
        return self.start + int(self.np_random.integers(self.n))

    def contains(self, value):
        return self.start <= int(value) < self.start + self.n

    def __repr__(self):
        return f"Discrete({self.n})"


class MultiDiscrete(Space):
    def __init__(self, nvec, start=0, dtype=np.int64):
        self.nvec = np.asarray(nvec)
        super().__init__(self.nvec.shape, dtype)
        self.start = start

    def sample(self):
        return (self.start + self.np_random.integers(self.nvec)).astype(self.dtype)

    def contains(self, value):
        value = np.asarray(value)
        return value.shape == self.shape and bool(
            np.all(value >= self.start) and np.all(value < self.start + self.nvec)
        )

    def __repr__(self):
        return f"MultiDiscrete({self.nvec})"


class Text(Space):
    def __init__(self, max_length):
        super().__init__((), None)
        self.max_length = max_length

    def sample(self):
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))
        return "".join(self.np_random.choice(letters, self.np_random.integers(1, 17)))

    def contains(self, value):
        return isinstance(value, str) and len(value) <= self.max_length

    def __repr__(self):
        return f"Text({self.max_length})"


class Tuple(Space):
    def __init__(self, spaces):
        super().__init__(None, None)
        self.spaces = tuple(spaces)

    def sample(self):
        return tuple(space.sample() for space in self.spaces)

    def contains(self, value):
        return len(value) == len(self.spaces) and all(
            v in space for v, space in zip(value, self.spaces, strict=True)
        )


class Dict(Space):
    def __init__(self, spaces):
        super().__init__(None, None)
        self.spaces = dict(spaces)

    def sample(self):
        return {name: space.sample() for name, space in self.spaces.items()}

    def contains(self, value):
        return value.keys() == self.spaces.keys() and all(
            value[name] in space for name, space in self.spaces.items()
        )


def _box(channel, shape):
    def bound(values, fallback):
        if not values:
            return fallback
        return values[0] if len(values) == 1 else np.reshape(values, channel["shape"])

    dtype = np.dtype(channel["dtype"])
    limits = (-np.inf, np.inf)
    if dtype.kind in "iu":
        limits = (np.iinfo(dtype).min, np.iinfo(dtype).max)
    low = np.broadcast_to(bound(channel["low"], limits[0]), shape).astype(dtype)
    high = np.broadcast_to(bound(channel["high"], limits[1]), shape).astype(dtype)
    if gymnasium:
        return gym_spaces.Box(low, high, shape, dtype)
    return Box(low, high, shape, dtype)


# What Gymnasium's Text draws from and accepts: printable characters and line breaks.
CHARSET = "".join(map(chr, range(32, 127))) + "\n\t"
UNBOUNDED_TEXT = 65536


def _leaf(channel, rows):
    lead = () if rows is None else (rows,)
    shape = lead + channel["shape"]
    kind, start = channel["kind"], channel["start"]
    if kind == "text":
        length = channel["max_length"] or UNBOUNDED_TEXT
        if gymnasium:
            one = gym_spaces.Text(length, min_length=0, charset=CHARSET)
            return one if rows is None else batch_space(one, rows)
        return Text(length) if rows is None else Tuple(Text(length) for _ in range(rows))
    if kind == "box":
        return _box(channel, shape)
    dtype = np.dtype(channel["dtype"])
    if kind == "multi_binary":
        if gymnasium and rows is None:
            return gym_spaces.MultiBinary(channel["shape"])
        if gymnasium:
            return gym_spaces.Box(0, 1, shape, np.int8)
        return MultiDiscrete(np.full(shape, 2), dtype=dtype)
    if kind == "discrete" and rows is None:
        n = channel["n"][0]
        return gym_spaces.Discrete(n, start=start) if gymnasium else Discrete(n, start, dtype)
    nvec = np.broadcast_to(channel["n"], shape).copy()
    if gymnasium:
        starts = np.full(shape, start, dtype=np.int64)
        return gym_spaces.MultiDiscrete(nvec, dtype=dtype, start=starts)
    return MultiDiscrete(nvec, start, dtype)


def space_of(channels, rows=None):
    """The space of an environment's channels; `rows` adds a leading dimension."""
    if len(channels) == 1:
        return _leaf(channels[0], rows)
    tree = {}
    for channel in channels:
        *path, leaf = channel["name"].split(".")
        level = tree
        for name in path:
            level = level.setdefault(name, {})
        level[leaf] = _leaf(channel, rows)

    def close(level):
        spaces = {k: close(v) if isinstance(v, dict) else v for k, v in level.items()}
        return gym_spaces.Dict(spaces) if gymnasium else Dict(spaces)

    return close(tree)
