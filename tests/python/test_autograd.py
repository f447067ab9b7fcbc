"""Gradients from Python."""

import threading

import bessemer as bs
import numpy as np
import pytest


def test_backward_and_accumulation():
    x = bs.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = (x * x).sum()
    assert y.requires_grad and not y.is_leaf and x.is_leaf and x.grad is None
    y.backward()
    assert x.grad.tolist() == [2, 4, 6]
    (x * 2).sum().backward()
    assert x.grad.tolist() == [4, 6, 8]
    x.grad = None
    (x * bs.tensor([1.0, 0.0, -1.0])).backward(gradient=bs.ones(3))
    assert x.grad.tolist() == [1, 0, -1]
    x.grad = bs.zeros(3)
    assert x.grad.tolist() == [0, 0, 0]
    with pytest.raises(TypeError):
        x.grad = 3


def test_graph_is_freed_unless_retained():
    x = bs.tensor([2.0], requires_grad=True)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8
    with pytest.raises(ValueError):
        y.backward()


def test_second_derivative():
    x = bs.tensor([1.0, 2.0], requires_grad=True)
    y = (x * x * x).sum()
    (first,) = bs.grad(y, x, create_graph=True)
    (second,) = bs.grad(first.sum(), [x])
    np.testing.assert_allclose(first.numpy(), [3, 12], rtol=1e-6)
    np.testing.assert_allclose(second.numpy(), [6, 12], rtol=1e-6)
    other = bs.tensor([1.0], requires_grad=True)
    assert bs.grad((x * x).sum(), [x, other])[1] is None


def test_modes():
    x = bs.tensor([1.0], requires_grad=True)
    assert bs.is_grad_enabled()
    with bs.no_grad():
        assert not bs.is_grad_enabled()
        assert not (x * 2).requires_grad
        with bs.enable_grad():
            assert (x * 2).requires_grad
    assert bs.is_grad_enabled()

    @bs.no_grad()
    def twice(t):
        """Doubles."""
        return t * 2

    assert not twice(x).requires_grad and twice.__doc__ == "Doubles."
    with pytest.raises(RuntimeError), bs.no_grad():
        raise RuntimeError
    assert bs.is_grad_enabled()
    seen = []
    with bs.no_grad():
        thread = threading.Thread(target=lambda: seen.append(bs.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_errors():
    x = bs.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError):
        (x * x).backward()  # not a scalar
    with pytest.raises(ValueError):
        bs.tensor(1.0).backward()
    with pytest.raises((TypeError, ValueError)):
        bs.tensor([1, 2], requires_grad=True)
    with pytest.raises(TypeError):
        bs.grad((x * x).sum(), "x")
    with pytest.raises(TypeError):
        bs.grad([1.0], x)


def test_gradient_through_indexing():
    x = bs.tensor(np.arange(12, dtype=np.float32).reshape(3, 4), requires_grad=True)
    rows, columns = bs.tensor([0, 2, 0]), bs.tensor([1, 3, 1])
    (x[rows, columns].sum() + x[1, ::2].sum() + x[x > 9].sum()).backward()
    expected = np.zeros((3, 4), np.float32)
    np.add.at(expected, ([0, 2, 0], [1, 3, 1]), 1)
    expected[1, ::2] += 1
    expected[x.numpy() > 9] += 1
    np.testing.assert_array_equal(x.grad.numpy(), expected)


def test_a_write_into_a_saved_tensor_is_noticed():
    x = bs.tensor([1.0], requires_grad=True)
    buffer = bs.tensor([2.0])
    y = (x * buffer).sum()
    buffer += 1
    with pytest.raises((ValueError, RuntimeError)):
        y.backward()


def test_gradients_match_finite_differences():
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=s) for s in [(5, 3), (5,), (2, 5)]]
    inputs = rng.normal(size=(4, 3))

    def loss(arrays):
        w1, b1, w2 = (bs.tensor(a, requires_grad=True) for a in arrays)
        hidden = bs.tanh(bs.tensor(inputs) @ w1.T + b1)
        value = -(hidden @ w2.T).log_softmax()[:, 0].mean()
        return value, (w1, b1, w2)

    value, leaves = loss(weights)
    value.backward()
    for which, leaf in enumerate(leaves):
        for at in np.ndindex(*leaf.shape):
            moved = [[w.copy() for w in weights] for _ in range(2)]
            moved[0][which][at] += 1e-6
            moved[1][which][at] -= 1e-6
            slope = (loss(moved[0])[0].item() - loss(moved[1])[0].item()) / 2e-6
            assert abs(slope - leaf.grad[at].item()) < 1e-7
