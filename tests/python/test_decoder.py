"""The decoder from Python, against a float64 reimplementation and against transformers."""

import copy

import bessemer as bs
import numpy as np
import pytest
from bessemer import nn, optim

SHAPE = dict(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=128,
    rope_theta=500.0,
)
TOKENS = np.array([(i * i * 7 + i) % 50 for i in range(60)])


def spread(decoder):
    """Weights larger than at initialisation, so that attention is far from uniform."""
    for tensor in decoder.parameters():
        if tensor.ndim == 2:
            tensor.detach()[...] = tensor.detach() * 12.0
    return decoder


def reference(decoder, tokens):
    """Llama's forward pass in float64."""
    w = {name: np.asarray(t.detach()).astype(float) for name, t in decoder.named_parameters()}
    heads, kv = SHAPE["num_attention_heads"], SHAPE["num_key_value_heads"]
    dim = SHAPE["hidden_size"] // heads

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[name]

    angles = np.outer(np.arange(len(tokens)), SHAPE["rope_theta"] ** (-np.arange(0, dim, 2) / dim))
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def rotate(x):
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    x = w["model.embed_tokens.weight"][tokens]
    mask = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
    for i in range(SHAPE["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        h = norm(x, layer + "input_layernorm.weight")
        q, k, v = (
            (h @ w[f"{layer}self_attn.{n}_proj.weight"].T).reshape(len(tokens), -1, dim)
            for n in "qkv"
        )
        q, k = rotate(q), rotate(k)
        k, v = (np.repeat(t, heads // kv, 1) for t in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(dim) + mask
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        seen = np.einsum("hij,jhd->ihd", p, v).reshape(len(tokens), -1)
        x = x + seen @ w[layer + "self_attn.o_proj.weight"].T
        h = norm(x, layer + "post_attention_layernorm.weight")
        gate = h @ w[layer + "mlp.gate_proj.weight"].T
        up = h @ w[layer + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[layer + "mlp.down_proj.weight"].T
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return norm(x, "model.norm.weight") @ head.T


@pytest.mark.parametrize("tied", [True, False])
def test_logits(tied):
    decoder = spread(nn.Decoder(**SHAPE, tie_word_embeddings=tied, seed=3))
    logits = decoder(bs.tensor(TOKENS)).detach().numpy()
    np.testing.assert_allclose(logits, reference(decoder, TOKENS), atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_the_folder(tied, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    decoder = spread(nn.Decoder(**SHAPE, tie_word_embeddings=tied, seed=3))
    decoder.save(tmp_path)
    theirs, info = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float32
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        expected = theirs(torch.tensor(TOKENS)[None]).logits[0].numpy()
    logits = decoder(bs.tensor(TOKENS)).detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)

    theirs.save_pretrained(tmp_path / "theirs")
    back = nn.Decoder.load(tmp_path / "theirs")
    np.testing.assert_array_equal(back(bs.tensor(TOKENS)).detach().numpy(), logits)


def test_folder_and_copies(tmp_path):
    decoder = nn.Decoder(**SHAPE, seed=3)
    decoder.save(tmp_path / "model")
    expected = decoder(bs.tensor(TOKENS)).detach().numpy()
    loaded = nn.Decoder.load(tmp_path / "model")
    for other in (loaded, copy.deepcopy(decoder), copy.deepcopy(loaded)):
        np.testing.assert_array_equal(other(bs.tensor(TOKENS)).detach().numpy(), expected)
    half = nn.Decoder.load(tmp_path / "model", dtype="bfloat16", checkpoint=True)
    assert half.hidden(bs.tensor(TOKENS)).dtype == bs.bfloat16
    with pytest.raises(OSError, match="config.json"):
        nn.Decoder.load(tmp_path / "none")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(ValueError, match="mamba"):
        nn.Decoder.load(tmp_path / "model")


def test_errors():
    decoder = nn.Decoder(**SHAPE)
    with pytest.raises(IndexError, match="50"):
        decoder(bs.tensor([1, 50]))
    with pytest.raises(ValueError, match="context of 128"):
        decoder(bs.zeros(129, dtype=bs.int64))
    with pytest.raises(ValueError, match="float16"):
        nn.Decoder(**SHAPE, dtype="float16")
    with pytest.raises(ValueError, match="num_key_value_heads"):
        nn.Decoder(**(SHAPE | dict(num_key_value_heads=4)))


def test_training():
    decoder = nn.Decoder(**SHAPE)
    adam = optim.Adam(decoder.parameters(), lr=1e-2)
    tokens = bs.tensor(TOKENS[:20])
    weights = bs.ones(20) / 20
    losses = []
    for _ in range(20):
        adam.zero_grad()
        hidden = decoder.hidden(tokens)
        loss, _ = bs.linear_nll(hidden, decoder.output_weight, bs.tensor(TOKENS[1:21]), weights)
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
