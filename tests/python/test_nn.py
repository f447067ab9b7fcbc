"""Modules and optimisers from Python."""

import copy
import pickle

import bessemer as bs
import numpy as np
import pytest
from bessemer import nn, optim


def test_linear():
    layer = nn.Linear(3, 2, activation="tanh", init=nn.Init(1))
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert layer.weight.shape == (2, 3) and layer.bias.shape == (2,)
    assert all(p.requires_grad for p in layer.parameters())
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    expected = np.tanh(x @ np.asarray(layer.weight).T + np.asarray(layer.bias))
    np.testing.assert_allclose(layer(bs.tensor(x)).numpy(), expected, rtol=1e-5, atol=1e-6)
    bound = 1 / np.sqrt(3)
    assert (np.abs(np.asarray(layer.weight)) <= bound).all()
    square = nn.Linear(4, 4, gain=2.0)
    product = np.asarray(square.weight) @ np.asarray(square.weight).T
    np.testing.assert_allclose(product, 4 * np.eye(4), atol=1e-5)
    assert square.bias.tolist() == [0, 0, 0, 0]
    layer.weight = bs.zeros(2, 3, requires_grad=True)
    assert layer(bs.tensor(x)).tolist() == [layer.bias.tanh().tolist()] * 4
    with pytest.raises(TypeError):
        layer(x)
    with pytest.raises(ValueError, match="did you mean"):
        nn.Linear(3, 2, activation="tahn")


def test_conv_and_gru():
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    assert conv(bs.ones(2, 3, 9, 9)).shape == (2, 8, 5, 5)
    cell = nn.GruCell(3, 4)
    assert [name for name, _ in cell.named_parameters()] == [
        "weight_ih",
        "weight_hh",
        "bias_ih",
        "bias_hh",
    ]
    x, h = (np.random.default_rng(1).normal(size=s).astype(np.float32) for s in [(2, 3), (2, 4)])
    wi, wh, bi, bh = (np.asarray(p) for p in cell.parameters())
    gates_x, gates_h = np.split(x @ wi.T + bi, 3, 1), np.split(h @ wh.T + bh, 3, 1)
    sigmoid = [1 / (1 + np.exp(-(a + b))) for a, b in zip(gates_x[:2], gates_h[:2], strict=True)]
    candidate = np.tanh(gates_x[2] + sigmoid[0] * gates_h[2])
    expected = (1 - sigmoid[1]) * candidate + sigmoid[1] * h
    np.testing.assert_allclose(
        cell(bs.tensor(x), bs.tensor(h)).numpy(), expected, rtol=1e-5, atol=1e-6
    )


class Policy(nn.Module):
    def __init__(self):
        self.trunk = nn.Mlp(4, [8], 8)
        self.heads = [nn.Linear(8, 2, gain=0.01), nn.Linear(8, 1)]
        self.log_std = bs.zeros(2, requires_grad=True)
        self.scale = bs.ones(1)  # needs no gradient: not a parameter

    def forward(self, x):
        features = self.trunk(x)
        return self.heads[0](features) * self.log_std.exp() * self.scale, self.heads[1](features)


def test_module_tree():
    policy = Policy()
    names = [name for name, _ in policy.named_parameters()]
    assert names[-1] == "log_std" and "heads.1.bias" in names and "scale" not in names
    assert len(set(names)) == len(names) == 9
    action, value = policy(bs.ones(5, 4))
    assert action.shape == (5, 2) and value.shape == (5, 1)
    (action.sum() + value.sum()).backward()
    assert all(p.grad is not None for p in policy.parameters())
    policy.zero_grad()
    assert all(p.grad is None for p in policy.parameters())
    with pytest.raises(NotImplementedError, match="forward"):
        nn.Module()(1)


def test_state_dict():
    one, two = Policy(), Policy()
    x = bs.ones(1, 4)
    assert one(x)[1].tolist() != two(x)[1].tolist()
    two.load_state_dict(one.state_dict())
    assert one(x)[1].tolist() == two(x)[1].tolist()
    bad = one.state_dict()
    bad["log_std"] = bs.zeros(3)
    with pytest.raises(ValueError, match="log_std"):
        two.load_state_dict(bad)
    del bad["log_std"]
    with pytest.raises(ValueError, match="log_std"):
        two.load_state_dict(bad)
    for twin in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert twin(x)[1].tolist() == one(x)[1].tolist()
        with bs.no_grad():
            twin.heads[1].bias += 1
        assert twin(x)[1].tolist() != one(x)[1].tolist()


def test_seeded_initialisation():
    bs.manual_seed(5)
    first = nn.Mlp(3, [4], 2)
    bs.manual_seed(5)
    second = nn.Mlp(3, [4], 2)
    third = nn.Mlp(3, [4], 2)
    x = bs.ones(1, 3)
    assert first(x).tolist() == second(x).tolist() != third(x).tolist()
    init = nn.Init(3)
    assert init.normal((2, 3), 0.5).shape == (2, 3) and init.next == 1


def adam_reference(parameters, gradients, lr, betas, eps, decay):
    m, v = np.zeros_like(parameters), np.zeros_like(parameters)
    for t, g in enumerate(gradients, 1):
        parameters = parameters - lr * decay * parameters
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        parameters = parameters - lr * (m / (1 - betas[0] ** t)) / (
            np.sqrt(v / (1 - betas[1] ** t)) + eps
        )
    return parameters


@pytest.mark.parametrize("kind,decay", [(optim.Adam, 0.0), (optim.AdamW, 0.1)])
def test_adam(kind, decay):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=7), rng.normal(size=(5, 7))
    parameter = bs.tensor(start, dtype="float32", requires_grad=True)
    optimiser = kind([parameter], lr=0.05, betas=(0.8, 0.9), eps=1e-5, weight_decay=decay)
    for gradient in gradients:
        parameter.grad = bs.tensor(gradient, dtype="float32")
        optimiser.step()
        optimiser.zero_grad()
        assert parameter.grad is None
    expected = adam_reference(start, gradients, 0.05, (0.8, 0.9), 1e-5, decay)
    np.testing.assert_allclose(np.asarray(parameter), expected, rtol=1e-5, atol=1e-6)


def test_optimiser_state():
    parameter = bs.tensor([1.0, 2.0], requires_grad=True)
    optimiser = optim.Adam([parameter], lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        (parameter * parameter).sum().backward()
        optimiser.step()
    saved, values = pickle.loads(pickle.dumps(optimiser.state_dict())), parameter.tolist()
    twin = bs.tensor(values, requires_grad=True)
    other = optim.Adam([twin], lr=1.0)
    other.load_state_dict(saved)
    for p, o in [(parameter, optimiser), (twin, other)]:
        o.zero_grad()
        (p * p).sum().backward()
        o.step()
    assert twin.tolist() == parameter.tolist() != values
    for arguments in [([],), ([parameter], -1.0)]:
        with pytest.raises(ValueError):
            optim.Adam(*arguments)
    with pytest.raises(TypeError):
        optim.Adam([3.0])


def test_clip_grad_norm():
    a, b = bs.zeros(2, requires_grad=True), bs.zeros(1, requires_grad=True)
    a.grad, b.grad = bs.tensor([3.0, 0.0]), bs.tensor([4.0])
    assert optim.clip_grad_norm_([a, b], 10.0) == pytest.approx(5)
    assert a.grad.tolist() == [3, 0]
    assert optim.clip_grad_norm_([a, b], 1.0) == pytest.approx(5)
    np.testing.assert_allclose([*a.grad.tolist(), *b.grad.tolist()], [0.6, 0, 0.8], rtol=1e-5)


def test_training_converges():
    bs.manual_seed(0)
    net = nn.Mlp(1, [32, 32], 1)
    optimiser = optim.Adam(net.parameters(), lr=1e-2)
    x = bs.tensor(np.linspace(-2, 2, 64, dtype=np.float32)[:, None])
    y = (x * 2).sin()
    for _ in range(300):
        optimiser.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < 1e-2
