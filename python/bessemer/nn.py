"""Modules: named parameters in a tree. The built-in ones compute in C++, where they are defined."""

from bessemer import _native
from bessemer._native import Init, Tensor

__all__ = ["Conv2d", "GruCell", "Init", "Linear", "Mlp", "Module"]

_default_init = Init(0)


def _seed_default_init(seed):
    global _default_init
    _default_init = Init(seed)


class Module:
    """Base of everything with parameters.

    A subclass assigns tensors and modules as attributes, alone or in lists, tuples and dicts, and
    defines ``forward``.
    """

    def __call__(self, *inputs, **keywords):
        return self.forward(*inputs, **keywords)

    def forward(self, *inputs):
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def named_parameters(self, prefix=""):
        """(path, tensor) of every tensor that requires a gradient, in order of assignment."""
        found = []
        for name, value in vars(self).items():
            _collect(prefix + name, value, found)
        return found

    def parameters(self):
        return [tensor for _, tensor in self.named_parameters()]

    def zero_grad(self):
        for parameter in self.parameters():
            parameter.grad = None

    def state_dict(self):
        """Copies of the parameters by their path."""
        return {name: tensor.copy() for name, tensor in self.named_parameters()}

    def load_state_dict(self, state):
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


def _collect(path, value, found):
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
    def named_parameters(self, prefix=""):
        return [(prefix + name, tensor) for name, tensor in self._module.named_parameters()]

    def __reduce__(self):
        return _rebuild, (type(self), self._arguments, self.state_dict())


def _rebuild(kind, arguments, state):
    module = kind(**arguments)
    module.load_state_dict(state)
    return module


def _parameter(name):
    def read(self):
        return getattr(self._module, name)

    def write(self, value):
        setattr(self._module, name, value)

    return property(read, write)


class Linear(_Native):
    """act(x @ weight.T + bias), weight [out, in]. ``gain`` > 0: orthogonal weight and zero bias; 0:
    uniform in +-1/sqrt(in), as PyTorch."""

    weight, bias = _parameter("weight"), _parameter("bias")

    def __init__(self, inputs, outputs, *, gain=0.0, activation="none", init=None):
        self._arguments = dict(inputs=inputs, outputs=outputs, gain=gain, activation=activation)
        self._module = _native._Linear(inputs, outputs, init or _default_init, gain, activation)
        self.forward = self._module.forward


class Conv2d(_Native):
    """Cross-correlation of [N, C, H, W] with a square kernel."""

    weight, bias = _parameter("weight"), _parameter("bias")

    def __init__(self, inputs, outputs, kernel, *, stride=1, padding=0, gain=0.0, init=None):
        self._arguments = dict(
            inputs=inputs, outputs=outputs, kernel=kernel, stride=stride, padding=padding, gain=gain
        )
        self._module = _native._Conv2d(
            inputs, outputs, kernel, stride, padding, init or _default_init, gain
        )
        self.forward = self._module.forward


class GruCell(_Native):
    """Gated recurrent unit: forward(x [rows, in], h [rows, hidden]) is the next h."""

    weight_ih, weight_hh = _parameter("weight_ih"), _parameter("weight_hh")
    bias_ih, bias_hh = _parameter("bias_ih"), _parameter("bias_hh")

    def __init__(self, inputs, hidden, *, init=None):
        self._arguments = dict(inputs=inputs, hidden=hidden)
        self._module = _native._GruCell(inputs, hidden, init or _default_init)
        self.forward = self._module.forward


class Mlp(_Native):
    """Fully connected layers with ``activation`` between them.

    ``orthogonal``: weights with gain sqrt(2) in hidden layers and ``out_gain`` in the last.
    """

    def __init__(
        self,
        inputs,
        hidden,
        outputs,
        *,
        activation="tanh",
        orthogonal=True,
        out_gain=1.0,
        init=None,
    ):
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
        self.forward = self._module.forward
