"""What the sweep of the op table (test_ops.py) evaluates rows' texts with: references in NumPy, and
draws that are the same on every machine and with every NumPy."""

import math

import numpy as np

np_erf = np.vectorize(math.erf, otypes=[np.float64])


def np_log_softmax(x):
    shifted = x - np.max(x, axis=-1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def np_linear_scan(a, b, dim, reverse):
    a, b = np.broadcast_arrays(a, b)
    a, b = np.moveaxis(a, dim, 0), np.moveaxis(b, dim, 0)
    y = np.zeros(b.shape, np.result_type(a, b))
    previous = np.zeros(b.shape[1:], y.dtype)
    for t in reversed(range(len(b))) if reverse else range(len(b)):
        previous = y[t] = a[t] * previous + b[t]
    return np.moveaxis(y, 0, dim)


def np_scatter_add(x, dim, index, source):
    out = x.copy()
    places = list(np.indices(index.shape))
    places[dim] = index
    np.add.at(out, tuple(places), source)
    return out


def np_activation(z, activation):
    return {
        "none": lambda: z,
        "relu": lambda: np.maximum(z, 0),
        "tanh": lambda: np.tanh(z),
        "sigmoid": lambda: 1 / (1 + np.exp(-z)),
        "silu": lambda: z / (1 + np.exp(-z)),
        "gelu": lambda: 0.5 * z * (1 + np_erf(z / math.sqrt(2))),
    }[activation]()


def np_linear(x, weight, bias, activation):
    return np_activation(x @ weight.T + (0 if bias is None else bias), activation)


def np_activation_backward(y, g, activation):
    return g * {"relu": y > 0, "tanh": 1 - y * y, "sigmoid": y * (1 - y)}[activation]


def patches(x, weight, stride, padding):
    """[N, C, KH, KW, OH, OW]: what each weight sees."""
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    windows = np.lib.stride_tricks.sliding_window_view(x, weight[2:], axis=(2, 3))
    return np.moveaxis(windows[:, :, ::stride, ::stride], (4, 5), (2, 3))


def np_conv2d(x, weight, bias, stride, padding):
    y = np.einsum("ncijhw,ocij->nohw", patches(x, weight.shape, stride, padding), weight)
    return y if bias is None else y + bias[:, None, None]


def np_conv2d_backward_weight(x, g, height, width, stride, padding):
    shape = (g.shape[1], x.shape[1], height, width)
    seen = patches(x, shape, stride, padding)[..., : g.shape[2], : g.shape[3]]
    return np.einsum("ncijhw,nohw->ocij", seen, g)


def np_conv2d_backward_input(g, weight, height, width, stride, padding):
    out = np.zeros((len(g), weight.shape[1], height + 2 * padding, width + 2 * padding))
    for i in range(g.shape[2]):
        for j in range(g.shape[3]):
            part = np.einsum("no,ocij->ncij", g[:, :, i, j], weight)
            rows = slice(i * stride, i * stride + weight.shape[2])
            columns = slice(j * stride, j * stride + weight.shape[3])
            out[:, :, rows, columns] += part
    return out[:, :, padding : padding + height, padding : padding + width]


def np_layer_norm(x, weight, bias, eps):
    centered = x - x.mean(-1, keepdims=True)
    y = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps)
    return y * (1 if weight is None else weight) + (0 if bias is None else bias)


def np_categorical_sample(logits, uniform):
    below = np.cumsum(np.exp(np_log_softmax(logits)), axis=-1) <= uniform[..., None]
    return below.sum(-1)


def np_rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * (1 if weight is None else weight)


def np_rope(x, positions, theta, inverse):
    half = x.shape[2] // 2
    angle = positions[:, None, None] * theta ** (-2.0 * np.arange(half) / x.shape[2])
    sine, a, b = np.sin(-angle if inverse else angle), x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * sine, b * np.cos(angle) + a * sine], -1)


def np_linear_cross_entropy(x, weight, targets, inverse_temperature):
    scale = 1 if inverse_temperature is None else inverse_temperature
    log_p = np_log_softmax(scale * (x @ weight.T))
    return log_p[np.arange(len(x)), targets], -np.sum(np.exp(log_p) * log_p, -1)


def np_linear_nll(x, weight, targets, token_weights, inverse_temperature):
    log_prob = np_linear_cross_entropy(x, weight, targets, inverse_temperature)[0]
    scale = 1 if inverse_temperature is None else inverse_temperature
    hit = np.argmax(scale * (x @ weight.T), -1) == targets if len(x) else np.zeros(0, bool)
    return -np.sum(token_weights * log_prob), hit


def np_sample_tokens(logits, uniform, temperature, top_k, top_p):
    n = logits.shape[-1]
    log_p = np_log_softmax(logits / np.where(temperature == 0, 1, temperature)[:, None])
    tokens = np.zeros(len(logits), np.int64)
    for r, p in enumerate(np.exp(log_p)):
        order = np.argsort(-p, kind="stable")[: 1 if temperature[r] == 0 else top_k[r] or n]
        before = np.cumsum(p[order]) - p[order]
        kept = np.sort(order[before < top_p[r] * p[order].sum()])
        cumulative = np.cumsum(p[kept])
        tokens[r] = kept[np.argmax(cumulative > uniform[r] * cumulative[-1])]
    return tokens, log_p[np.arange(len(logits)), tokens]


def np_attention(q, k, v, segments, scale):
    out = np.zeros(q.shape)
    group = q.shape[1] // k.shape[1]
    ends = [*segments[1:, 0], len(q)][: len(segments)]
    for (first, prefix), end in zip(segments, ends, strict=True):
        before = np.arange(segments[prefix, 0], ends[prefix]) if prefix >= 0 else np.arange(0)
        tokens = np.concatenate([before, np.arange(first, end)]).astype(int)
        for token in range(first, end):
            seen = tokens[: len(before) + token - first + 1]
            for head in range(q.shape[1]):
                scores = k[seen, head // group] @ q[token, head] * (scale or q.shape[2] ** -0.5)
                out[token, head] = np.exp(np_log_softmax(scores)) @ v[seen, head // group]
    return out


FUNCTIONS = {name: value for name, value in globals().items() if name.startswith("np")}


class Draws:
    """R, I, B, U, Z and S of a row's samples: floats in the row's domain, indices below a bound,
    booleans, floats in [0, 1), floats of which some are 0, and given segments. Element k of draw d
    is a hash of (seed, d, k)."""

    def __init__(self, domain, seed=1):
        self.low, self.high = domain
        self.seed = seed
        self.count = 0

    def unit(self, shape):
        self.count += 1
        with np.errstate(over="ignore"):
            z = np.arange(math.prod(shape), dtype=np.uint64)
            z += np.uint64(self.seed * 1_000_003 + self.count * 7_919)
            z *= np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
        return ((z >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)

    def R(self, *shape):
        return self.low + (self.high - self.low) * self.unit(shape)

    def U(self, *shape):
        return Uniform(self.unit(shape))

    def I(self, bound, *shape):  # noqa: E743 (the letter of the table)
        return (self.unit(shape) * bound).astype(np.int64)

    def B(self, *shape):
        return self.unit(shape) < 0.5

    def Z(self, *shape):
        values = self.R(*shape)
        values.reshape(-1)[::5] = 0
        return values

    def S(self, *rows):
        return np.array(rows, np.int64).reshape(-1, 2)

    def names(self):
        return {letter: getattr(self, letter) for letter in "RUIBZS"}


class Uniform(np.ndarray):
    """Numbers that stay in [0, 1) whatever dtype is swept: not an argument to differentiate."""

    def __new__(cls, values):
        return np.asarray(values).view(cls)
