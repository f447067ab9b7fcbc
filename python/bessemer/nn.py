"""Modules: named parameters in a tree. The built-in ones compute in C++, where they are defined."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from bessemer import _native
from bessemer._native import Init, Tensor

__all__ = ["Conv2d", "Decoder", "GruCell", "Init", "Linear", "Mlp", "Module"]

_default_init = Init(0)


def _seed_default_init(seed: int) -> None:
    global _default_init
    _default_init = Init(seed)


class Module:
    """Base of everything with parameters.

    A subclass assigns tensors and modules as attributes, alone or in lists, tuples and dicts, and
    defines ``forward``.
    """

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        return self.forward(*inputs, **keywords)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def named_parameters(self, prefix: str = "") -> list[tuple[str, Tensor]]:
        """(path, tensor) of every tensor that requires a gradient, in order of assignment."""
        found: list[tuple[str, Tensor]] = []
        for name, value in vars(self).items():
            _collect(prefix + name, value, found)
        return found

    def parameters(self) -> list[Tensor]:
        return [tensor for _, tensor in self.named_parameters()]

    def zero_grad(self) -> None:
        for parameter in self.parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the parameters by their path."""
        return {name: tensor.copy() for name, tensor in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Writes saved parameters back; names and shapes must be the module's."""
        mine = dict(self.named_parameters())
        if mine.keys() != state.keys():
            different = sorted(mine.keys() ^ state.keys())
            raise ValueError(f"load_state_dict: {', '.join(different)} on one side only")
        for name, tensor in mine.items():
            given = tuple(state[name].shape)
            if given != tensor.shape:
                raise ValueError(f"load_state_dict: {name} is {given}, expected {tensor.shape}")
        for name, tensor in mine.items():
            tensor.detach()[...] = state[name]


def _collect(path: str, value: object, found: list[tuple[str, Tensor]]) -> None:
    if isinstance(value, Tensor):
        if value.requires_grad and value.is_leaf:
            found.append((path, value))
    elif isinstance(value, Module):
        found.extend(value.named_parameters(path + "."))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _collect(f"{path}.{i}", item, found)
    elif isinstance(value, dict):
        for key, item in value.items():
            _collect(f"{path}.{key}", item, found)


class _Native(Module):
    # Python's side of a C++ module; the C++ object owns the parameters.
    _module: Any
    _arguments: dict[str, Any]

    def named_parameters(self, prefix: str = "") -> list[tuple[str, Tensor]]:
        return [(prefix + name, tensor) for name, tensor in self._module.named_parameters()]

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = self._module.forward(*inputs)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._arguments, self.state_dict())


def _rebuild(kind: type[_Native], arguments: dict[str, Any], state: dict[str, Tensor]) -> _Native:
    module = kind(**arguments)
    module.load_state_dict(state)
    return module


def _parameter(name: str) -> Any:
    def read(self: _Native) -> Any:
        return getattr(self._module, name)

    def write(self: _Native, value: Tensor) -> None:
        setattr(self._module, name, value)

    return property(read, write)


class Linear(_Native):
    """act(x @ weight.T + bias), weight [out, in]. ``gain`` > 0: orthogonal weight and zero bias; 0:
    uniform in +-1/sqrt(in), as PyTorch."""

    weight, bias = _parameter("weight"), _parameter("bias")

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        gain: float = 0.0,
        activation: str = "none",
        init: Init | None = None,
    ) -> None:
        self._arguments = dict(inputs=inputs, outputs=outputs, gain=gain, activation=activation)
        self._module = _native._Linear(inputs, outputs, init or _default_init, gain, activation)


class Conv2d(_Native):
    """Cross-correlation of [N, C, H, W] with a square kernel."""

    weight, bias = _parameter("weight"), _parameter("bias")

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        gain: float = 0.0,
        init: Init | None = None,
    ) -> None:
        self._arguments = dict(
            inputs=inputs, outputs=outputs, kernel=kernel, stride=stride, padding=padding, gain=gain
        )
        self._module = _native._Conv2d(
            inputs, outputs, kernel, stride, padding, init or _default_init, gain
        )


class GruCell(_Native):
    """Gated recurrent unit: forward(x [rows, in], h [rows, hidden]) is the next h."""

    weight_ih, weight_hh = _parameter("weight_ih"), _parameter("weight_hh")
    bias_ih, bias_hh = _parameter("bias_ih"), _parameter("bias_hh")

    def __init__(self, inputs: int, hidden: int, *, init: Init | None = None) -> None:
        self._arguments = dict(inputs=inputs, hidden=hidden)
        self._module = _native._GruCell(inputs, hidden, init or _default_init)


class Mlp(_Native):
    """Fully connected layers with ``activation`` between them.

    ``orthogonal``: weights with gain sqrt(2) in hidden layers and ``out_gain`` in the last.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: str = "tanh",
        orthogonal: bool = True,
        out_gain: float = 1.0,
        init: Init | None = None,
    ) -> None:
        self._arguments = dict(
            inputs=inputs,
            hidden=list(hidden),
            outputs=outputs,
            activation=activation,
            orthogonal=orthogonal,
            out_gain=out_gain,
        )
        self._module = _native._Mlp(
            inputs, list(hidden), outputs, activation, init or _default_init, orthogonal, out_gain
        )


class Decoder(_Native):
    """A decoder in Llama's shape: keywords are keys of Hugging Face's config.json.

    ``dtype``: "float32", or "bfloat16" activations over float32 weights. ``checkpoint``: layers are
    computed again in the backward pass instead of being kept.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_size: int,
        intermediate_size: int,
        num_hidden_layers: int,
        num_attention_heads: int,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        max_position_embeddings: int = 2048,
        rope_theta: float = 10000.0,
        rms_norm_eps: float = 1e-5,
        tie_word_embeddings: bool = True,
        dtype: str = "float32",
        checkpoint: bool = False,
        seed: int = 0,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self._arguments = dict(config)
        for key in ("dtype", "checkpoint", "seed"):
            del config[key]
        self._module = _native._Decoder(json.dumps(config), dtype, checkpoint, seed)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, dtype: str = "float32", checkpoint: bool = False
    ) -> "Decoder":
        """Reads config.json and model.safetensors, as `transformers` saves a Llama."""
        self = cls.__new__(cls)
        self._module = _native._Decoder.load(os.fspath(folder), dtype, checkpoint)
        shape = json.loads(self._module.config())
        known = cls.__init__.__kwdefaults__ or {}
        named = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        keys = (*named, "num_attention_heads", *(k for k in known if k in shape))
        self._arguments = {k: shape[k] for k in keys}
        self._arguments |= dict(dtype=dtype, checkpoint=checkpoint)
        return self

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes a folder that `transformers` loads."""
        self._module.save(os.fspath(folder))

    @property
    def output_weight(self) -> Tensor:
        """[vocab_size, hidden_size]: what linear_cross_entropy takes beside hidden rows."""
        weight: Tensor = self._module.output_weight()
        return weight

    def hidden(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Rows after the final norm of packed tokens [T]; ``segments`` as `attention` takes them,
        by default one sequence."""
        if segments is None:
            segments = _native.tensor([[0, -1]])
        rows: Tensor = self._module.hidden(tokens, segments)
        return rows

    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Logits [T, vocab_size]."""
        logits: Tensor = self._module.logits(self.hidden(tokens, segments))
        return logits
