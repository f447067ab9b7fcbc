"""A process that runs user code: Gymnasium environments or a reward function.

envs/server/python_host.cpp starts it and talks to it over the socket that is descriptor 3, so
that what the code prints never meets the protocol. A frame is a u32 length, a letter, a payload:

    to here    L load   D describe   I probe   M make   R reset   A act   P picture   W save
               X restore   C call (a reward function)
    from here  S spec   K done   O outcome   G picture   B state   V scores   E error
               F fault   Z fault, and this process ends

Numbers are little-endian; maps are msgpack; arrays are raw.
"""

import importlib
import importlib.util
import inspect
import math
import os
import pickle
import resource
import socket
import struct
import sys
import traceback

try:
    import msgpack
    import numpy as np
except ImportError as error:
    sys.exit(
        f"{sys.executable} lacks {error.name}: Bessemer runs Python code with NumPy and msgpack"
    )

# Where a space's dtype has no channel of its own, the next wider one carries it.
DTYPES = {
    "bool": "bool",
    "uint8": "uint8",
    "int8": "int8",
    "int16": "int32",
    "uint16": "int32",
    "int32": "int32",
    "uint32": "int64",
    "int64": "int64",
    "uint64": "int64",
    "float16": "float16",
    "float32": "float32",
    "float64": "float64",
}
KINDS = {
    "Box": "box",
    "Discrete": "discrete",
    "MultiDiscrete": "multi_discrete",
    "MultiBinary": "multi_binary",
    "Text": "text",
}
REASON = 4000  # characters of a traceback that are kept


class Unusable(Exception):
    """The caller's mistake: a target, option or space that cannot be used."""


# Spaces as channels


class Leaf:
    """One channel and where its value lies in an observation or action."""

    def __init__(self, name, space, path):
        kind = type(space).__name__
        if kind not in KINDS:
            raise Unusable(
                f"the space of '{name}' is a {kind}; Dict and Tuple of {', '.join(KINDS)} can be "
                "used"
            )
        self.name, self.space, self.path, self.offset = name, space, path, None
        self.kind = KINDS[kind]
        self.text = self.kind == "text"
        self.scalar = self.kind == "discrete"
        self.shape = () if self.text or self.scalar else tuple(space.shape)
        given = "uint8" if self.text else np.dtype(space.dtype).name
        if given not in DTYPES:
            raise Unusable(f"the space of '{name}' has dtype {given}")
        self.dtype = np.dtype(DTYPES[given])
        if self.kind == "multi_discrete":
            starts = np.asarray(space.start)
            if not np.all(starts == starts.flat[0]):
                self.offset = starts  # the channel counts from 0

    def channel(self):
        space, low, high, n, start, longest = self.space, [], [], [], 0, 0
        if self.kind == "box":
            low, high = bounds(space.low, -np.inf), bounds(space.high, np.inf)
        elif self.kind == "discrete":
            n, start = [int(space.n)], int(space.start)
        elif self.kind == "multi_discrete":
            n = [int(k) for k in np.asarray(space.nvec).flat]
            start = 0 if self.offset is not None else int(np.asarray(space.start).flat[0])
        elif self.text:
            wide = any(ord(c) > 127 for c in space.characters)
            longest = int(space.max_length) * (4 if wide else 1)
        return channel(
            self.name, self.kind, self.dtype, self.shape, low, high, n, start, self.text, longest
        )

    def pack(self, value):
        """The value's bytes, or a complaint."""
        if self.text:
            if not isinstance(value, str):
                raise TypeError(f"'{self.name}' is a {type(value).__name__}, its space says str")
            data = value.encode()
            return struct.pack("<I", len(data)) + data
        array = np.asarray(value)
        if array.dtype != self.dtype and not np.can_cast(array.dtype, self.dtype, "same_kind"):
            raise TypeError(f"'{self.name}' is {array.dtype}, its space says {self.dtype}")
        if array.shape != self.shape:
            raise ValueError(f"'{self.name}' has shape {array.shape}, its space says {self.shape}")
        if self.offset is not None:
            array = array - self.offset
        return array.astype(self.dtype, copy=False).tobytes()

    def unpack(self, data):
        if self.text:
            return data.decode(errors="replace")
        array = np.frombuffer(data, self.dtype)
        if self.scalar:
            return self.space.dtype.type(array[0])
        array = array.reshape(self.shape)
        if self.offset is not None:
            array = array + self.offset
        return array.astype(self.space.dtype)  # a copy: the environment may keep or change it


def channel(name, kind, dtype, shape, low=(), high=(), n=(), start=0, ragged=False, longest=0):
    return {
        "name": name,
        "kind": kind,
        "dtype": np.dtype(dtype).name,
        "shape": list(shape),
        "low": list(low),
        "high": list(high),
        "n": list(n),
        "start": start,
        "ragged": ragged,
        "max_length": longest,
    }


def bounds(values, unbounded):
    """None, one, or one an element."""
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    if np.all(flat == unbounded):
        return []
    return [float(flat[0])] if np.all(flat == flat[0]) else [float(x) for x in flat]


def leaves(space, name="", path=()):
    kind = type(space).__name__
    if kind not in ("Dict", "Tuple"):
        return [Leaf(name, space, path)]
    items = space.spaces.items() if kind == "Dict" else enumerate(space.spaces)
    found = []
    for key, inner in items:
        if "." in str(key):
            raise Unusable(f"the key '{key}' of a Dict space has a dot")
        found += leaves(inner, f"{name}.{key}" if name else str(key), (*path, key))
    return found


class Action:
    """One channel for the action space; leaves of one kind are joined."""

    def __init__(self, space):
        self.space = space
        self.leaves = leaves(space, "action")
        kinds = {leaf.kind for leaf in self.leaves}
        self.joined = len(self.leaves) > 1 or bool(self.leaves[0].path)
        if not self.joined:
            return
        if kinds <= {"discrete", "multi_discrete"}:
            self.dtype = np.dtype(np.int64)
        elif kinds == {"box"} and len({leaf.dtype for leaf in self.leaves}) == 1:
            self.dtype = self.leaves[0].dtype
        else:
            raise Unusable(
                "a Dict or Tuple of actions can be used when all of it is Discrete or "
                f"MultiDiscrete, or all Box of one dtype; here it is {', '.join(sorted(kinds))}"
            )

    def channel(self):
        if not self.joined:
            return self.leaves[0].channel()
        size = sum(math.prod(leaf.shape) for leaf in self.leaves)
        if self.leaves[0].kind == "box":
            low, high = (
                np.concatenate([np.reshape(getattr(leaf.space, side), -1) for leaf in self.leaves])
                for side in ("low", "high")
            )
            return channel("action", "box", self.dtype, (size,), low.tolist(), high.tolist())
        n = [k for leaf in self.leaves for k in leaf.channel()["n"]]
        return channel("action", "multi_discrete", self.dtype, (size,), n=n)

    def unpack(self, data):
        if not self.joined:
            return self.leaves[0].unpack(data)
        flat = np.frombuffer(data, self.dtype)
        values, at = {}, 0
        for leaf in self.leaves:
            size = math.prod(leaf.shape)
            part = flat[at : at + size].reshape(leaf.shape)
            at += size
            if leaf.kind != "box":
                part = part + leaf.space.start
            part = part.astype(leaf.space.dtype)
            values[leaf.path] = part[()] if leaf.scalar else part
        return gather(self.space, values)


def gather(space, values, path=()):
    kind = type(space).__name__
    if kind == "Dict":
        return {key: gather(inner, values, (*path, key)) for key, inner in space.spaces.items()}
    if kind == "Tuple":
        return tuple(gather(inner, values, (*path, i)) for i, inner in enumerate(space.spaces))
    return values[path]


# What the target is


def find_target(target):
    """`file.py:Name` or `package.module:Name`."""
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise Unusable(f"'{target}' is no target: expected file.py:Name or module:Name")
    if where.endswith(".py"):
        path = os.path.abspath(where)
        if not os.path.isfile(path):
            raise Unusable(f"there is no file {where}")
        sys.path.insert(0, os.path.dirname(path))
        module_name = os.path.splitext(os.path.basename(path))[0]
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # pickle and dataclasses look here
        spec.loader.exec_module(module)
    else:
        sys.path.insert(0, os.getcwd())
        module = importlib.import_module(where)
    found = getattr(module, name, None)
    if not callable(found):
        have = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        ]
        raise Unusable(f"{where} has no '{name}'; it has: {', '.join(have) or 'nothing to call'}")
    return found


def option(name, default, annotation=None):
    """An option of the specification, of the default's type."""
    kind = {bool: "boolean", int: "integer", float: "number"}.get(type(default), "text")
    text = str(default).lower() if kind == "boolean" else str(default)
    if default is None or default is inspect.Parameter.empty:
        text = ""
    return {
        "name": name,
        "type": kind,
        "fallback": text,
        "min": -math.inf,
        "max": math.inf,
        "doc": getattr(annotation, "__name__", "") if annotation is not None else "",
    }


def typed(text, default, annotation):
    """An option's text as the type that the parameter has."""
    wanted = type(default) if isinstance(default, (bool, int, float, str)) else annotation
    if wanted in (bool, "bool"):
        return text in ("true", "True", "1")
    if wanted in (int, "int"):
        return int(float(text))
    if wanted in (float, "float"):
        return float(text)
    if wanted in (str, "str"):
        return text
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            pass
    return {"true": True, "false": False, "": None}.get(text, text)


def parameters(target):
    keep = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        found = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {p.name: p for p in found if p.kind in keep}


# Environments


class Environments:
    def __init__(self, target):
        self.target, self.instances, self.arguments, self.infos = target, [], {}, []
        known = parameters(target)
        self.draws = known.pop("render_mode", None) is not None
        self.known = known

    def create(self):
        arguments = dict(self.arguments)
        if self.draws:
            arguments["render_mode"] = "rgb_array"
        env = self.target(**arguments)
        for name in ("reset", "step", "observation_space", "action_space"):
            if not hasattr(env, name):
                raise Unusable(
                    f"{type(env).__name__} has no {name}: it is no Gymnasium environment"
                )
        return env

    def use(self, options):
        self.arguments = {}
        for name, text in options.items():
            if name not in self.known:
                raise Unusable(
                    f"{self.target.__name__} has no option '{name}'; it has: "
                    f"{', '.join(self.known) or 'none'}"
                )
            parameter = self.known[name]
            self.arguments[name] = typed(text, parameter.default, parameter.annotation)
        for name, parameter in self.known.items():
            if parameter.default is inspect.Parameter.empty and name not in options:
                raise Unusable(f"{self.target.__name__} needs the option '{name}'")

    def look(self, env):
        self.observed = leaves(env.observation_space)
        if not self.observed[0].path:
            self.observed[0].name = "obs"
        self.action = Action(env.action_space)

    def describe(self, options):
        self.use(options)
        env = self.create()
        self.look(env)
        meta = getattr(env, "metadata", None) or {}
        registered = getattr(env, "spec", None)
        threshold = getattr(registered, "reward_threshold", None)
        close(env)
        return {
            "id": self.target.__name__,
            "doc": (inspect.getdoc(self.target) or "").strip().split("\n")[0],
            "observation": [leaf.channel() for leaf in self.observed],
            "action": [self.action.channel()],
            "rewards": [],
            "infos": [],
            "action_mask": False,
            "rows": 1,
            "max_episode_steps": int(getattr(registered, "max_episode_steps", None) or 0),
            "reward_threshold": None if threshold is None else float(threshold),
            "render_fps": float(meta.get("render_fps") or 50),
            "render_width": 600,
            "render_height": 400,
            "options": [option(p.name, p.default, p.annotation) for p in self.known.values()],
            "reset_options": [option(k, v) for k, v in (meta.get("reset_options") or {}).items()],
        }

    def probe(self, options):
        """Numeric infos that a reset and a step show, and the size of a picture."""
        self.use(options)
        env = self.create()
        env.action_space.seed(0)
        shown, found = [env.reset(seed=0)[1]], {}
        frame = env.render() if self.draws else None
        size = frame.shape[:2] if isinstance(frame, np.ndarray) and frame.ndim == 3 else (400, 600)
        shown.append(env.step(env.action_space.sample())[4])
        close(env)
        for info in shown:
            for name, value in info.items():
                array = np.asarray(value)
                if isinstance(name, str) and array.dtype.name in DTYPES and array.ndim <= 4:
                    found.setdefault(name, array)
        infos = [
            channel(name, "box", DTYPES[array.dtype.name], array.shape)
            for name, array in found.items()
        ]
        return {"infos": infos[:16], "render_height": size[0], "render_width": size[1]}

    def make(self, options, count, infos):
        self.use(options)
        self.instances = [self.create() for _ in range(count)]
        self.look(self.instances[0])
        self.infos = [(i["name"], np.dtype(i["dtype"]), tuple(i["shape"])) for i in infos]

    def outcome(self, at, flags, reward, observation, info):
        parts = [struct.pack("<cIBd", b"O", at, flags, reward)]
        for leaf in self.observed:
            value = observation
            for key in leaf.path:
                value = value[key]
            parts.append(leaf.pack(value))
        for name, dtype, shape in self.infos:
            parts.append(info_bytes(info, name, dtype, shape))
        return b"".join(parts)

    def reset(self, at, rebuild, seed, options):
        if rebuild:
            close(self.instances[at])
            self.instances[at] = None  # before the new one: memory may be short
            self.instances[at] = self.create()
        result = self.instances[at].reset(seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError("reset() gave no (observation, info)")
        return self.outcome(at, 0, 0.0, *result)

    def step(self, at, data):
        result = self.instances[at].step(self.action.unpack(data))
        if not isinstance(result, tuple) or len(result) != 5:
            raise TypeError("step() gave no (observation, reward, terminated, truncated, info)")
        observation, reward, terminated, truncated, info = result
        try:
            number = float(reward)
        except (TypeError, ValueError):
            raise TypeError(f"the reward is a {type(reward).__name__}, not a number") from None
        if not math.isfinite(number):
            raise ValueError(f"the reward is {number}")
        flags = (1 if terminated else 0) | (2 if truncated else 0)
        return self.outcome(at, flags, number, observation, info)

    def picture(self, at):
        frame = np.asarray(self.instances[at].render())
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise TypeError(
                f"render() gave {frame.dtype} {frame.shape}, expected uint8 (height, width, 3)"
            )
        return struct.pack("<cIII", b"G", at, *frame.shape[:2]) + frame.tobytes()


def info_bytes(info, name, dtype, shape):
    """Zeros, or NaN where the dtype has it, for what this step does not say."""
    array = np.asarray(info.get(name) if isinstance(info, dict) else None)
    if array.shape != shape or not np.can_cast(array.dtype, dtype, "same_kind"):
        array = np.full(shape, np.nan if dtype.kind == "f" else 0)
    return array.astype(dtype).tobytes()


def close(env):
    try:
        env.close()
    except Exception:  # it is gone either way
        pass


# Rewards


def score(function, prompts, completions, columns):
    """One number or one reason for each completion."""
    arguments = {**columns, "prompts": prompts, "completions": completions}
    try:
        known = inspect.signature(function).parameters.values()
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known):
            names = {p.name for p in known}
            arguments = {k: v for k, v in arguments.items() if k in names}
    except (TypeError, ValueError):
        pass
    scores = function(**arguments)
    scores = scores.tolist() if hasattr(scores, "tolist") else list(scores)
    if len(scores) != len(completions):
        raise ValueError(f"{len(scores)} scores for {len(completions)} completions")
    out = []
    for value in scores:
        try:
            number = float(value)
            out.append(number if math.isfinite(number) else f"the score is {number}")
        except (TypeError, ValueError):
            out.append(f"the score is a {type(value).__name__}, not a number")
    return out


# The loop


def reason(error):
    """The traceback without this file's own frames."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename == __file__ and trace.tb_next:
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    if trace and trace.tb_frame.f_code.co_filename == __file__:
        lines = traceback.format_exception_only(type(error), error)
    return "".join(lines).strip()[-REASON:]


class Host:
    def __init__(self, channel):
        self.channel, self.subject = channel, None

    def frames(self):
        """Payloads as they come, until the other side closes."""
        buffer, at = b"", 0
        while True:
            while len(buffer) - at >= 4:
                (size,) = struct.unpack_from("<I", buffer, at)
                if len(buffer) - at - 4 < size:
                    break
                yield buffer[at + 4 : at + 4 + size]
                at += 4 + size
            piece = self.channel.recv(1 << 20)
            if not piece:
                return
            buffer, at = buffer[at:] + piece, 0

    def send(self, payload):
        self.channel.sendall(struct.pack("<I", len(payload)) + payload)

    def load(self, target, kind, memory):
        if memory:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        found = find_target(target)
        self.subject = Environments(found) if kind == "env" else found

    def call(self, letter, arguments):
        """What concerns the whole process; an error is answered as such."""
        try:
            if letter == b"L":
                self.load(**arguments)
                self.send(b"K")
            elif letter == b"D":
                self.send(b"S" + msgpack.packb(self.subject.describe(**arguments)))
            elif letter == b"I":
                self.send(b"S" + msgpack.packb(self.subject.probe(**arguments)))
            elif letter == b"M":
                self.subject.make(**arguments)
                self.send(b"K")
            else:
                scores = score(self.subject, **arguments)
                self.send(b"V" + msgpack.packb({"scores": scores}))
        except BaseException as error:
            usage = isinstance(error, Unusable)
            text = str(error) if usage else reason(error)
            last = isinstance(error, MemoryError)
            self.send(b"E" + msgpack.packb({"usage": usage, "text": text, "last": last}))
            if last:
                os._exit(1)

    def act(self, letter, at, rest):
        """What concerns one instance; an exception is its fault."""
        try:
            if letter == b"A":
                self.send(self.subject.step(at, rest))
            elif letter == b"R":
                flags, seed = struct.unpack_from("<BQ", rest)
                options = msgpack.unpackb(rest[9:]) if len(rest) > 9 else None
                seed = seed if flags & 2 else None
                self.send(self.subject.reset(at, flags & 1, seed, options))
            elif letter == b"P":
                self.send(self.subject.picture(at))
            elif letter == b"W":
                state = pickle.dumps(self.subject.instances[at])
                self.send(struct.pack("<cI", b"B", at) + state)
            elif letter == b"X":
                self.subject.instances[at] = pickle.loads(rest)
                self.send(struct.pack("<cI", b"B", at))
        except BaseException as error:
            # Memory that a module holds on to comes back with a new process alone.
            last = isinstance(error, MemoryError)
            text = reason(error).encode(errors="replace")
            self.send(struct.pack("<cI", b"Z" if last else b"F", at) + text)
            if last:
                os._exit(1)

    def run(self):
        for frame in self.frames():
            letter, payload = frame[:1], frame[1:]
            if letter in (b"L", b"D", b"I", b"M", b"C"):
                self.call(letter, msgpack.unpackb(payload))
            else:
                self.act(letter, struct.unpack_from("<I", payload)[0], payload[4:])
        for env in getattr(self.subject, "instances", []):
            close(env)


if __name__ == "__main__":
    os.set_inheritable(3, False)
    sys.stdout.reconfigure(line_buffering=True)
    Host(socket.socket(fileno=3)).run()
