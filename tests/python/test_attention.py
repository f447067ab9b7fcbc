"""Attention beside PyTorch, where it is installed: values and gradients of packed segments."""

import bessemer as bs
import numpy as np
import pytest

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("dim", [16, 64])
def test_packed_segments_and_a_prefix_are_what_torch_gives_each_sequence(dim):
    draws = np.random.default_rng(3)
    heads, kv_heads, tokens = 6, 2, 150
    segments = [(0, -1), (60, 0), (95, 0), (130, -1)]  # a prompt, two answers, another sequence
    shapes = [(tokens, heads, dim), (tokens, kv_heads, dim), (tokens, kv_heads, dim)]
    arrays = [draws.standard_normal(shape).astype(np.float32) for shape in shapes]
    slope = draws.standard_normal(shapes[0]).astype(np.float32)

    ours = [bs.tensor(a, requires_grad=True) for a in arrays]
    y = bs.attention(*ours, bs.tensor(np.array(segments)))
    found = bs.grad((y * bs.tensor(slope)).sum(), ours)

    theirs = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
    ends = [first for first, _ in segments[1:]] + [tokens]
    parts = []
    for (first, prefix), end in zip(segments, ends, strict=True):
        before = range(segments[prefix][0], ends[prefix]) if prefix >= 0 else range(0)
        seen = [*before, *range(first, end)]
        q, k, v = (x[seen].transpose(0, 1) for x in theirs)
        out = torch.nn.functional.scaled_dot_product_attention(
            q,
            k.repeat_interleave(heads // kv_heads, 0),
            v.repeat_interleave(heads // kv_heads, 0),
            is_causal=True,
        )
        parts.append(out.transpose(0, 1)[len(before) :])
    expected = torch.cat(parts)
    (expected * torch.tensor(slope)).sum().backward()

    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-5)
    for ours_gradient, x in zip(found, theirs, strict=True):
        np.testing.assert_allclose(ours_gradient.numpy(), x.grad.numpy(), rtol=2e-5, atol=2e-5)
