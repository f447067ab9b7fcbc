"""The sweep of the op table: every row, from what the row says of itself (core/ops/op.h).

Forward against NumPy in float64 for each dtype, odd strides bit for bit, gradients and second
derivatives against central differences, every instruction set of the machine, golden hashes of
float32 results.

    python tests/python/test_ops.py --write-golden    after a deliberate change of bits
"""

import ast
import hashlib
import json
import os
import pathlib
import subprocess
import sys

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    import conftest  # noqa: F401 (finds the built package)

import bessemer as bs
import numpy as np
import pytest
from op_reference import FUNCTIONS, Draws, Uniform

ROWS = {row["name"]: row for row in bs.op_rows()}
SWEPT = [name for name, row in ROWS.items() if row["samples"] or row["kind"] in ("unary", "binary")]
GOLDEN = pathlib.Path(__file__).with_name("golden_ops.json")

UNARY_SAMPLES = (
    "[dict(x=R(3, 4)), dict(x=R(0, 3)), dict(x=R()), dict(x=R(2, 1, 5)), dict(x=R(1100))]"
)
BINARY_SAMPLES = (
    "[dict(a=R(3, 4), b=R(3, 4)), dict(a=R(3, 1), b=R(4)), dict(a=R(), b=R(2, 3)), "
    "dict(a=R(2, 1, 4), b=R(3, 1)), dict(a=R(0, 3), b=R(1, 3)), dict(a=R(), b=R()), "
    "dict(a=R(1100), b=R(1100)), dict(a=R(1100), b=R())]"
)
# Rows of these kinds may refuse integers and booleans (as a TypeError); all others take them.
MAY_REFUSE = {"fused", "contraction", "random"}
# Half results are rounded once a row, but these decompose into rows that round in between.
HALF_STEPS = {"linear": 4, "layer_norm": 2}
# Results are float32 at least, whatever the inputs are.
WIDE = {"linear_cross_entropy", "linear_nll", "sample_tokens"}
# A draw next to a boundary may fall on either side: compared in float64 only.
DRAWS = {"categorical_sample", "sample_tokens"}
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def signature(row):
    """Names and defaults of a row's parameters."""
    arguments = ast.parse(f"def f({row['signature']}): pass").body[0].args
    names = [argument.arg for argument in arguments.args]
    values = [ast.literal_eval(value) for value in arguments.defaults]
    return names, dict(zip(names[len(names) - len(values) :], values, strict=True))


def samples(name, seed=1):
    row = ROWS[name]
    kinds = {"unary": UNARY_SAMPLES, "binary": BINARY_SAMPLES}
    draws = Draws(ast.literal_eval(row["domain"]), seed)
    return eval(row["samples"] or kinds[row["kind"]], draws.names())


def reference(name, sample):
    names, defaults = signature(ROWS[name])
    values = {key: sample.get(key, defaults.get(key)) for key in names}
    with np.errstate(all="ignore"):
        results = eval(ROWS[name]["numpy"], {"np": np, **FUNCTIONS, **values})
    return [np.asarray(result) for result in parts(results)]


def parts(result):
    """A row's results as a list: rows with several give tuples."""
    return list(result) if isinstance(result, tuple) else [result]


def is_float(value):
    return isinstance(value, np.ndarray | np.float64) and value.dtype == np.float64


def sweepable(value):
    return is_float(value) and not isinstance(value, Uniform)


def tensor(value, dtype):
    """A drawn array in `dtype`; indices and conditions stay what they are."""
    if sweepable(value):
        return bs.tensor(value, dtype="float64").cast(dtype)
    return bs.tensor(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


def numbers(t):
    """A tensor's elements as float64, or as they are where they are not floating."""
    if t.dtype in ("float16", "bfloat16", "float32"):
        t = t.cast("float64")
    return t.numpy()


def run(name, sample, dtype):
    """The tensors given, and the list of results."""
    tensors = {key: tensor(value, dtype) for key, value in sample.items()}
    with bs.no_grad():
        return tensors, parts(getattr(bs, name)(**tensors))


def rounded(tensors, sample):
    """The sample with the values that the tensors really hold."""
    return {
        key: numbers(t) if sweepable(sample[key]) else sample[key] for key, t in tensors.items()
    }


def close(got, expected, epsilon, what):
    assert got.shape == expected.shape, what
    if expected.dtype.kind in "biu" and got.dtype.kind in "biu":
        np.testing.assert_array_equal(got, expected, err_msg=what)
        return
    scale = np.max(np.abs(expected[np.isfinite(expected)]), initial=1.0)
    np.testing.assert_allclose(got, expected, rtol=epsilon, atol=epsilon * scale, err_msg=what)


def tolerance(name, dtype):
    """Relative to the largest element: rounding of a chain of a few dozen operations; half results
    round once, from float32."""
    if dtype in ("float16", "bfloat16"):
        return EPSILON[dtype] * 0.51 * HALF_STEPS.get(name, 1) + 32 * EPSILON["float32"]
    return 64 * EPSILON[dtype]


def test_every_row_is_swept_or_has_a_test_of_its_own():
    assert sorted(set(ROWS) - set(SWEPT)) == [
        "attention_backward",  # tests/core_ops/attention_test.cpp, as the next
        "attention_paged",
        "random_normal",
        "random_uniform",
    ]


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("name", SWEPT)
def test_forward(name, dtype):
    for sample in samples(name):
        if name == "cast":
            sample = {**sample, "dtype": dtype}
        tensors, results = run(name, sample, dtype)
        if name in DRAWS and dtype != "float64":
            continue
        given = rounded(tensors, sample)
        references = reference(name, given) if name != "cast" else [sample["x"]]
        wide = (name in WIDE or sample.get("widen")) and "16" in dtype
        floating = "float32" if wide else dtype
        what = f"{name} {dtype} {sample}"
        for result, expected in zip(results, references, strict=True):
            if expected.dtype == bool and name != "where":
                assert result.dtype == "bool"
            elif expected.dtype.kind == "f":
                assert result.dtype == floating
            close(numbers(result), expected, tolerance(name, floating), what)


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8", "bool"])
@pytest.mark.parametrize("name", SWEPT)
def test_integers(name, dtype):
    for sample in samples(name):
        whole = {
            key: (np.abs(value) * 1.4 + 0.6).astype(np.int64) % 3 if sweepable(value) else value
            for key, value in sample.items()
        }
        if ROWS[name]["kind"] in ("unary", "binary"):  # domains may exclude 0
            whole = {
                key: value + 1 if sweepable(sample[key]) else value for key, value in whole.items()
            }
        if dtype == "bool":
            whole = {
                key: value != 0 if sweepable(sample[key]) else value for key, value in whole.items()
            }
        tensors = {
            key: bs.tensor(np.asarray(value)).cast(dtype)
            if sweepable(sample[key])
            else tensor(value, None)
            for key, value in whole.items()
        }
        try:
            (result,) = parts(getattr(bs, name)(**tensors))
        except TypeError as error:
            assert ROWS[name]["kind"] in MAY_REFUSE and name != "matmul", name
            assert str(error).startswith(f"[{name}]") and "float" in str(error)
            continue
        # The reference in the integers themselves; where the row gives floats, in float64.
        native = dtype if dtype != "bool" else "int64"
        if result.dtype.startswith("float"):
            native = "float64"
        exact = {
            key: np.asarray(value).astype(native) if sweepable(sample[key]) else value
            for key, value in whole.items()
        }
        (expected,) = reference(name, exact)
        got = result.numpy()
        if dtype == "bool" and expected.dtype != bool and got.dtype == bool:
            expected = expected != 0
        close(
            got.astype(np.float64),
            expected.astype(np.float64),
            64 * EPSILON["float32"],
            f"{name} {whole}",
        )


def strided_versions(t):
    """Tensors with t's elements that lie differently in memory."""
    if t.ndim == 0:
        return []
    versions = [t.flip(t.ndim - 1).contiguous().flip(t.ndim - 1)]
    gaps = bs.stack([t, bs.zeros_like(t)], dim=t.ndim)
    versions.append(gaps.select(t.ndim, 0))
    if t.ndim > 1:
        order = tuple(reversed(range(t.ndim)))
        versions.append(t.permute(order).contiguous().permute(order))
    return versions


@pytest.mark.parametrize("name", SWEPT)
def test_strides_do_not_change_bits(name):
    for sample in samples(name):
        tensors, expected = run(name, sample, "float32")
        keys = [key for key, value in tensors.items() if isinstance(value, bs.Tensor)]
        for which in range(3):
            turned = dict(tensors)
            for key in keys:
                versions = strided_versions(tensors[key])
                if which < len(versions):
                    turned[key] = versions[which]
            with bs.no_grad():
                results = parts(getattr(bs, name)(**turned))
            for got, want in zip(results, expected, strict=True):
                assert got.shape == want.shape and got.dtype == want.dtype
                assert got.numpy().tobytes() == want.numpy().tobytes(), f"{name} {which} {sample}"


# --- derivatives -------------------------------------------------------------------------------


def weights_like(shape, seed):
    return Draws((-1, 1), seed).R(*shape)


class Scalar:
    """A row as a function of its floating arguments to one number: a fixed combination of its
    elements."""

    def __init__(self, name, sample):
        self.name = name
        self.keys = [key for key, value in sample.items() if sweepable(value)]
        self.fixed = {
            key: tensor(value, None) for key, value in sample.items() if not sweepable(value)
        }
        self.point = [sample[key] for key in self.keys]

    def leaves(self, arrays):
        return [bs.tensor(np.asarray(a), dtype="float64", requires_grad=True) for a in arrays]

    def value(self, leaves):
        given = {**self.fixed, **dict(zip(self.keys, leaves, strict=True))}
        total = bs.tensor(0.0, dtype="float64")
        for i, y in enumerate(parts(getattr(bs, self.name)(**given))):
            total = total + (y * bs.tensor(weights_like(y.shape, 77 + i), dtype="float64")).sum()
        return total

    def gradients(self, leaves, create_graph=False):
        found = bs.grad(self.value(leaves), leaves, create_graph=create_graph)
        return [
            bs.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)
        ]

    def slope(self, leaves, create_graph=False):
        """A fixed combination of the gradients: what second derivatives are taken of."""
        total = bs.tensor(0.0, dtype="float64")
        for i, g in enumerate(self.gradients(leaves, create_graph)):
            total = total + (g * bs.tensor(weights_like(g.shape, 500 + i), dtype="float64")).sum()
        return total


def compare_with_differences(function, gradients, point, what, epsilon):
    """Gradients against central differences along three directions."""
    step = 1e-6
    for seed in range(3):
        directions = [weights_like(np.shape(x), 900 + 10 * seed + i) for i, x in enumerate(point)]
        above = function([x + step * d for x, d in zip(point, directions, strict=True)])
        below = function([x - step * d for x, d in zip(point, directions, strict=True)])
        expected = (above - below) / (2 * step)
        got = sum(float(np.sum(g * d)) for g, d in zip(gradients, directions, strict=True))
        size = sum(float(np.sum(np.abs(g * d))) for g, d in zip(gradients, directions, strict=True))
        assert abs(got - expected) <= epsilon * (1 + size), f"{what}: {got} is not {expected}"


@pytest.mark.parametrize("name", [n for n in SWEPT if ROWS[n]["differentiable"]])
def test_gradient(name):
    for sample in samples(name, seed=2):
        f = Scalar(name, sample)
        leaves = f.leaves(f.point)
        found = f.gradients(leaves)
        for g, leaf in zip(found, leaves, strict=True):
            assert g.shape == leaf.shape and g.dtype == "float64"
        compare_with_differences(
            lambda arrays, f=f: f.value(f.leaves(arrays)).item(),
            [g.numpy() for g in found],
            f.point,
            f"{name} {sample}",
            1e-7,
        )


@pytest.mark.parametrize("name", [n for n in SWEPT if ROWS[n]["differentiable_twice"]])
def test_second_derivative(name):
    for sample in samples(name, seed=3):
        f = Scalar(name, sample)
        leaves = f.leaves(f.point)
        slope = f.slope(leaves, create_graph=True)
        found = [np.zeros(np.shape(x)) for x in f.point]
        if slope.requires_grad:
            for i, g in enumerate(bs.grad(slope, leaves)):
                if g is not None:
                    found[i] = g.numpy()
        compare_with_differences(
            lambda arrays, f=f: f.slope(f.leaves(arrays)).item(),
            found,
            f.point,
            f"{name} {sample}",
            1e-6,
        )


def test_rows_without_a_gradient_give_none():
    for name in SWEPT:
        if ROWS[name]["differentiable"]:
            continue
        sample = samples(name)[0]
        leaves = {
            key: bs.tensor(np.asarray(v), dtype="float64", requires_grad=True)
            if sweepable(v)
            else tensor(v, None)
            for key, v in sample.items()
        }
        assert not any(y.requires_grad for y in parts(getattr(bs, name)(**leaves))), name


# --- instruction sets and golden hashes --------------------------------------------------------


def float32_results():
    """Every row on every sample in float32: {"name/sample/output": array}."""
    return {
        f"{name}/{i}/{j}": result.numpy()
        for name in SWEPT
        for i, sample in enumerate(samples(name))
        for j, result in enumerate(run(name, sample, "float32")[1])
    }


def digest(results):
    """A short hash of each row's float32 results; a NaN counts as one whatever its bits."""
    rows = {}
    for key, array in results.items():
        if array.dtype.kind == "f":
            array = np.where(np.isnan(array), np.float32(np.nan), array)
        row = rows.setdefault(key.split("/")[0], hashlib.sha256())
        row.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return {name: row.hexdigest()[:16] for name, row in rows.items()}


@pytest.fixture(scope="module")
def by_isa(tmp_path_factory):
    """float32 results of every instruction set that this machine has, each from its own process."""
    folder = tmp_path_factory.mktemp("isa")
    found = {}
    for isa in bs.available_isas():
        path = folder / f"{isa}.npz"
        subprocess.run(
            [sys.executable, __file__, "--results", str(path)],
            check=True,
            env={**os.environ, "BESSEMER_ISA": isa},
            timeout=120,
        )
        with np.load(path) as file:
            assert file["isa"] == isa
            found[isa] = {key: file[key] for key in file.files if key != "isa"}
    return found


def test_every_instruction_set_agrees_with_numpy(by_isa):
    for isa, results in by_isa.items():
        for name in SWEPT:
            for i, sample in enumerate(samples(name)):
                tensors = {key: tensor(value, "float32") for key, value in sample.items()}
                if name == "cast" or name in DRAWS:
                    continue
                for j, expected in enumerate(reference(name, rounded(tensors, sample))):
                    got = results[f"{name}/{i}/{j}"]
                    got = got.astype(np.float64) if got.dtype == np.float32 else got
                    close(got, expected, tolerance(name, "float32"), f"{isa} {name} {sample}")


def test_instruction_sets_with_fma_agree_bit_for_bit(by_isa):
    hashes = {isa: digest(results) for isa, results in by_isa.items() if isa != "baseline"}
    first = next(iter(hashes.values()), {})
    for isa, rows in hashes.items():
        assert rows == first, isa


def test_golden_hashes(by_isa):
    """The canonical order: these bits are the same on every machine with FMA. A row is held to them
    from when they were last written."""
    golden = json.loads(GOLDEN.read_text())
    assert set(golden) <= set(SWEPT)
    for isa, results in by_isa.items():
        if isa != "baseline":
            rows = digest(results)
            assert {name: rows[name] for name in golden} == golden, isa


def test_threads_do_not_change_bits():
    before = bs.get_threads()
    big = bs.tensor(weights_like((700, 600), 1))
    try:
        results = []
        for threads in (1, 2, 3):
            bs.set_threads(threads)
            parts = [big @ big.T, big.sum(), big.sum(0), big.tanh(), big * big, bs.linear(big, big)]
            results.append([part.numpy().tobytes() for part in parts])
        assert results[0] == results[1] == results[2]
    finally:
        bs.set_threads(before)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--results"]:
        np.savez(sys.argv[2], isa=bs.isa(), **float32_results())
    elif sys.argv[1:] == ["--write-golden"]:
        GOLDEN.write_text(json.dumps(digest(float32_results()), indent=1) + "\n")
    else:
        sys.exit(__doc__)
