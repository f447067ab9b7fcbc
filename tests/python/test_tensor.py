"""Tensors from Python: creation, operators, indexing, NumPy and DLPack, pickling, errors."""

import copy
import gc
import itertools
import pickle
import weakref

import bessemer as bs
import numpy as np
import pytest

DTYPES = ["bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64"]


def array(*shape, dtype="float32"):
    rng = np.random.default_rng(len(shape))
    if dtype == "bool":
        return rng.integers(2, size=shape).astype(bool)
    if np.dtype(dtype).kind in "iu":
        return rng.integers(0, 100, size=shape).astype(dtype)
    return rng.normal(size=shape).astype(dtype)


def same(tensor, expected):
    expected = np.asarray(expected)
    assert tensor.shape == expected.shape
    assert tensor.dtype == expected.dtype.name
    np.testing.assert_array_equal(tensor.numpy(), expected)


def test_creation():
    same(bs.tensor(1.5), np.float32(1.5))
    same(bs.tensor(7), np.int64(7))
    same(bs.tensor(True), np.bool_(True))
    same(bs.tensor([[1.0, 2], [3, 4]]), np.array([[1, 2], [3, 4]], np.float32))
    same(bs.tensor([1, 2]), np.array([1, 2], np.int64))
    same(bs.tensor([1, 2], dtype="float64"), np.array([1, 2], np.float64))
    same(bs.tensor(np.float64(2.5), dtype=np.float32), np.float32(2.5))
    same(bs.tensor([np.zeros(2), np.ones(2)]), np.array([[0, 0], [1, 1]], np.float64))
    same(bs.Tensor([1.0]), np.array([1], np.float32))
    same(bs.zeros((2, 3)), np.zeros((2, 3), np.float32))
    same(bs.zeros(2, 3, dtype="int32"), np.zeros((2, 3), np.int32))
    same(bs.ones(3), np.ones(3, np.float32))
    same(bs.full((2,), 2**60), np.full(2, 2**60))
    same(bs.full((2,), 1.5), np.full(2, 1.5, np.float32))
    same(bs.arange(4), np.arange(4))
    same(bs.arange(5, -2, -3), np.arange(5, -2, -3))
    same(bs.arange(1, 4, dtype="float32"), np.arange(1, 4, dtype=np.float32))
    same(bs.tensor(2**62 + 1), np.int64(2**62 + 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_shares_memory(dtype):
    source = array(3, 4, dtype=dtype)
    shared = bs.from_numpy(source)
    assert shared.dtype == dtype
    np.testing.assert_array_equal(shared.numpy(), source)
    source[0, 0] = 1
    assert shared[0, 0].item() == 1
    shared[1, 1] = 0
    assert source[1, 1] == 0
    view = shared.numpy()
    assert np.shares_memory(view, source)
    same(bs.from_numpy(source[::2, ::-1]), source[::2, ::-1])
    assert bs.tensor(source).numpy().tolist() == source.tolist() == shared.tolist()


def test_numpy_view_protects_what_gradients_need():
    weight = bs.tensor([1.0, 2.0], requires_grad=True)
    assert not weight.numpy().flags.writeable
    x = bs.tensor([3.0, 4.0])
    assert x.numpy().flags.writeable
    product = (weight * x).sum()  # x is saved for the gradient of weight
    assert not x.numpy().flags.writeable
    product.backward()
    del product
    assert x.numpy().flags.writeable
    frozen = np.ones(2)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        bs.from_numpy(frozen)[0] = 2.0


def test_writes_through_numpy_are_seen_by_products():
    x = bs.tensor([[1.0, 2.0]])
    source = np.ones((3, 2), np.float32)
    for weight, write in [(bs.from_numpy(source), source), (bs.ones(3, 2), None)]:
        assert bs.linear(x, weight).tolist() == [[3, 3, 3]]
        view = weight.numpy() if write is None else write
        view[0] = 5
        assert bs.linear(x, weight).tolist() == [[15, 3, 3]]
        view[0] = 7
        assert bs.linear(x, weight).tolist() == [[21, 3, 3]]


def test_arrays_keep_each_other_alive():
    view = bs.tensor(np.arange(1000.0)).numpy()
    gc.collect()
    assert view.sum() == 499500
    shared = bs.from_numpy(np.arange(1000.0))
    gc.collect()
    assert shared.sum().item() == 499500


def test_array_protocol():
    x = bs.tensor([[1.0, 2.0]])
    assert np.asarray(x).dtype == np.float32
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    assert np.shares_memory(np.asarray(x), x.numpy())
    assert not np.shares_memory(np.array(x), x.numpy())
    assert np.exp(x).shape == (1, 2)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(x, dtype=np.int32, copy=False)
    assert isinstance(np.ones((1, 2), np.float32) + x, bs.Tensor)


def test_dlpack():
    x = bs.tensor([[1.0, 2.0], [3.0, 4.0]])
    there = np.from_dlpack(x)
    assert np.shares_memory(there, x.numpy())
    source = np.arange(6, dtype=np.int32).reshape(2, 3)[:, ::2]
    back = bs.from_dlpack(source)
    same(back, source)
    assert np.shares_memory(back.numpy(), source)
    assert x.__dlpack_device__() == (1, 0)
    capsule = x.__dlpack__()
    same(bs.from_dlpack(capsule), x.numpy())
    with pytest.raises(ValueError, match="used before"):
        bs.from_dlpack(capsule)
    with pytest.raises(TypeError, match="no __dlpack__"):
        bs.from_dlpack([1, 2])
    weight = bs.tensor([1.0], requires_grad=True)
    assert not np.from_dlpack(weight).flags.writeable
    assert weight.__dlpack__(max_version=(1, 0)) is not None
    with pytest.raises(ValueError, match="read-only"):
        weight.__dlpack__()
    same(bs.from_dlpack(bs.tensor([1.0]).cast("bfloat16")).cast("float32"), np.ones(1, np.float32))


def test_operators():
    a, b = array(3, 4), array(4)
    x, y = bs.tensor(a), bs.tensor(b)
    same(x + y, a + b)
    same(x - 1, a - np.float32(1))
    same(1 - x, np.float32(1) - a)
    same(x * 2.5, a * np.float32(2.5))
    same(x / y, a / b)
    same(-x, -a)
    same(+x, a)
    same(abs(x), np.abs(a))
    same(x**2, a * a)
    np.testing.assert_allclose((bs.tensor([1.0, 2]) ** 3).numpy(), [1, 8], rtol=1e-6)
    np.testing.assert_allclose((2 ** bs.tensor([1.0, 2])).numpy(), [2, 4], rtol=1e-6)
    same(bs.tensor([7.0, -7.0]) // 2, np.array([3, -4], np.float32))
    same(x < y, a < b)
    same(x >= 0, a >= 0)
    same((x > 0) & ~(x > 1), (a > 0) & ~(a > 1))
    same((x > 1) | (x < 0), (a > 1) | (a < 0))
    np.testing.assert_allclose((x @ bs.tensor(a.T.copy())).numpy(), a @ a.T, rtol=1e-5)
    same(x == x, np.ones((3, 4), bool))
    assert (x == None) is False  # noqa: E711
    assert (x != "text") is True
    same(bs.arange(3) + 1, np.arange(3) + 1)
    assert (bs.arange(3) + 0.5).dtype == "float32"
    assert (bs.arange(3) / 2).dtype == "float32"
    same(np.float32(2) * y, np.float32(2) * b)
    with pytest.raises(TypeError):
        x + "text"
    with pytest.raises(TypeError, match="bool"):
        bs.arange(2) & bs.arange(2)


def test_in_place():
    x = bs.zeros(3)
    before = x
    x += 1
    x -= bs.tensor([0.5, 0, 0])
    x *= 2
    x /= 4
    assert x is before
    same(x, np.array([0.25, 0.5, 0.5], np.float32))
    total = bs.tensor(0.0)
    alias = total
    weight = bs.tensor(2.0, requires_grad=True)
    total += weight * 3  # has a history now: another tensor
    assert total is not alias and total.requires_grad
    with pytest.raises(ValueError, match="leaf"):
        weight += 1
    with bs.no_grad():
        weight += 1
    assert weight.item() == 3 and weight.is_leaf
    counts = bs.arange(3)
    with pytest.raises(TypeError, match="float32"):
        counts += 0.5


KEYS = [
    0,
    -1,
    slice(1, 3),
    slice(None, None, 2),
    slice(None, None, -1),
    slice(4, 0, -2),
    slice(10, 20),
    None,
    ...,
    (0, 1),
    (slice(None), 2),
    (..., 0),
    (0, ..., None),
    (None, slice(None), 1, None),
    (slice(1, None), slice(None, -1), 0),
    np.array([2, 0, 2]),
    (np.array([0, 3]), np.array([1, -1])),
    (slice(None), np.array([[0, 1], [2, 0]])),
    (np.array([[0], [1]]), np.array([1, 2])),
    (..., np.array([1, 0])),
    (2, np.array([0, 1])),
    [1, 1],
    np.array([True, False, True, True, False]),
    (slice(None), np.array([True, False, True])),
    np.arange(15).reshape(5, 3) % 2 == 0,
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_get_item(key):
    source = np.arange(30, dtype=np.float32).reshape(5, 3, 2)
    x = bs.tensor(source)
    same(x[key], source[key])
    wrapped = (
        tuple(bs.tensor(k) if isinstance(k, np.ndarray) else k for k in key)
        if isinstance(key, tuple)
        else (bs.tensor(key) if isinstance(key, np.ndarray) else key)
    )
    same(x[wrapped], source[key])


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_set_item(key):
    source = np.zeros((5, 3, 2), np.float32)
    x = bs.tensor(source)
    part = np.broadcast_to(np.float32(7), source[key].shape)
    source[key] = part
    x[key] = bs.tensor(np.array(part))
    same(x, source)
    source[key] = 3
    x[key] = 3
    same(x, source)
    transposed = bs.zeros(2, 3, 5)
    transposed.T[key] = 3
    same(transposed.T, np.where(source == 3, np.float32(3), np.float32(0)))


def test_index_errors():
    x = bs.zeros(3, 4)
    for key, error in [
        (3, IndexError),
        (-4, IndexError),
        ((0, 0, 0), IndexError),
        ((..., ...), IndexError),
        (np.array([0, 3]), IndexError),
        (np.array([True, False]), IndexError),
        ("a", TypeError),
        (1.5, TypeError),
        (np.array([0.5]), TypeError),
    ]:
        with pytest.raises(error):
            x[key]
        with pytest.raises(error):
            x[key] = 0
    with pytest.raises(ValueError):
        x[0] = bs.zeros(3)
    with pytest.raises(TypeError, match="deleted"):
        del x[0]
    with pytest.raises(TypeError, match="int64"):
        bs.arange(3)[0] = 0.5
    weight = bs.zeros(3, requires_grad=True)
    with pytest.raises(ValueError, match="gradient"):
        weight[0] = 1.0
    with pytest.raises(ValueError, match="not recorded"):
        x[0, 0] = weight[0]


def test_python_protocols():
    x = bs.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert len(x) == 2 and [row.tolist() for row in x] == [[1, 2], [3, 4]]
    assert x.size == 4 and x.ndim == 2 and x.nbytes == 16 and x.device == "cpu"
    assert x.strides == (2, 1) and x.T.strides == (1, 2)
    assert float(x[0, 1]) == 2.0 and int(x[1, 1]) == 4 and bool(x[0, 0])
    assert [10, 20, 30][bs.tensor(1)] == 20
    with pytest.raises(ValueError, match="ambiguous"):
        bool(x)
    with pytest.raises(TypeError):
        len(bs.tensor(1.0))
    with pytest.raises(TypeError):
        iter(bs.tensor(1.0))
    with pytest.raises(ValueError, match="exactly one"):
        x.item()
    assert {x: 1}[x] == 1
    reference = weakref.ref(x)
    assert reference() is x
    del x
    assert reference() is None


def test_repr():
    assert repr(bs.tensor([1.0, 2.5])) == "tensor([1. , 2.5])"
    assert repr(bs.tensor([1, 2])) == "tensor([1, 2])"
    assert repr(bs.tensor([1, 2], dtype="int32")) == "tensor([1, 2], dtype=int32)"
    assert repr(bs.tensor(1.0, requires_grad=True)) == "tensor(1., requires_grad=True)"
    assert repr(bs.zeros(0, 3)) == "tensor([], shape=(0, 3))"
    assert repr(bs.tensor([1.0]).cast("bfloat16")) == "tensor([1.], dtype=bfloat16)"


def test_copies_and_pickles():
    x = bs.tensor(array(2, 3), requires_grad=True)
    for other in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x), copy.copy(x)):
        same(other, x.numpy())
        assert other.requires_grad and other.is_leaf
        assert not np.shares_memory(other.numpy(), x.numpy())
    for dtype in [*DTYPES, "bfloat16"]:
        y = bs.tensor([0, 1, 2]).cast(dtype)
        assert pickle.loads(pickle.dumps(y)).tolist() == y.tolist()
        assert y.copy().dtype == dtype
    assert pickle.loads(pickle.dumps(bs.zeros(2, 0).T)).shape == (0, 2)


def test_arguments():
    x = bs.tensor(array(2, 3))
    same(x.reshape(3, 2), x.numpy().reshape(3, 2))
    same(x.reshape((3, -1)), x.numpy().reshape(3, 2))
    same(bs.reshape(x, shape=[6]), x.numpy().reshape(6))
    same(x.permute(1, 0), x.numpy().T)
    same(x.sum(0), x.numpy().sum(0))
    assert x.sum(dims=(0, 1), keepdim=True).shape == (1, 1)
    assert x.softmax().shape == (2, 3)
    same(bs.maximum(x, 0), np.maximum(x.numpy(), 0))
    same(bs.where(x > 0, x, 0), np.where(x.numpy() > 0, x.numpy(), np.float32(0)))
    same(x.clamp(-0.5, 0.5), np.clip(x.numpy(), np.float32(-0.5), np.float32(0.5)))
    same(bs.concat([x, x], dim=1), np.concatenate([x.numpy()] * 2, 1))
    same(bs.stack([x, x]), np.stack([x.numpy()] * 2))
    same(x.cast(np.float64), x.numpy().astype(np.float64))
    assert x.cast(int).dtype == "int64"
    for call, error, text in [
        (lambda: x.sum(axis=0), TypeError, "no parameter 'axis'"),
        (lambda: x.sum(dim=0), TypeError, "did you mean 'dims'"),
        (lambda: x.sum(0, False, 1), TypeError, "at most 2"),
        (lambda: x.sum(0, dims=0), TypeError, "twice"),
        (lambda: x.sum("0"), TypeError, "integer"),
        (lambda: x.cumsum(1.5), TypeError, "integer"),
        (lambda: x.reshape(), TypeError, "needs the argument 'shape'"),
        (lambda: x.reshape(4), ValueError, "reshape"),
        (lambda: x.cast("float23"), ValueError, "float23"),
        (lambda: x.cast("flaot32"), ValueError, "did you mean 'float32'"),
        (lambda: bs.exp("text"), TypeError, "tensor"),
        (lambda: bs.exp(None), TypeError, "tensor"),
        (lambda: x @ bs.zeros(2, 2), ValueError, "inner sizes|matmul"),
        (
            lambda: bs.linear(x, bs.zeros(4, 3), activation="relux"),
            ValueError,
            "did you mean 'relu'",
        ),
        (lambda: bs.tensor([[1.0], [1.0, 2.0]]), ValueError, "ragged"),
        (lambda: bs.tensor({"a": 1}), TypeError, "dict"),
        (lambda: bs.tensor(np.array([1 + 2j])), TypeError, "complex128"),
        (lambda: bs.zeros(-1), ValueError, "negative"),
        (lambda: bs.zeros([1] * 9), ValueError, "at most 8"),
        (lambda: bs.arange(0, 5, 0), ValueError, "step"),
    ]:
        with pytest.raises(error, match=text):
            call()


def test_memory_error():
    with pytest.raises(MemoryError):
        bs.zeros(2**40, 2**20)


def test_functions_have_docs_and_signatures():
    rows = bs.op_rows()
    assert len({row["name"] for row in rows}) == len(rows) > 60
    for row in rows:
        function = getattr(bs, row["name"])
        assert function.__doc__ == row["doc"], row["name"]
        assert function.__text_signature__ == f"({row['signature']})"
        if row["signature"].split(",")[0] in ("x", "a"):
            assert hasattr(bs.Tensor, row["name"])


def test_no_leak_of_objects():
    x = bs.tensor([1.0, 2.0], requires_grad=True)
    before = bs.memory_stats()[0]
    for _ in range(1000):
        (x * x + x).sum().backward()
        x.grad = None
    assert bs.memory_stats()[0] <= before + 4096


def test_random_streams():
    bs.manual_seed(3)
    first = bs.rand(4), bs.randn(2, 2), bs.rand((4,))
    bs.manual_seed(3)
    second = bs.rand(4), bs.randn(2, 2), bs.rand((4,))
    for a, b in zip(first, second, strict=True):
        same(a, b.numpy())
    for a, b in itertools.combinations([first[0], first[2]], 2):
        assert a.tolist() != b.tolist()
    draws = bs.randn(20000).numpy()
    assert abs(draws.mean()) < 0.03 and abs(draws.std() - 1) < 0.03
