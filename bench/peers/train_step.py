"""The peer of bench_language_decoder train: a training step of 14 M parameters in PyTorch, eager
and compiled.

usage: train_step.py [--threads 1] [--mode eager|compiled] [--seconds 6]
Llama's shape, 6 layers x 384 x 6 heads, vocabulary 8192, tied; 4 sequences of 512 tokens, every
token trained; AdamW (fused).
"""

import argparse
import os
import statistics
import tempfile
import time

import torch
import torch.nn.functional as F
from figures import emit
from torch import nn

VOCABULARY, WIDTH, INNER, HEADS, LAYERS = 8192, 384, 1024, 6, 6
SEQUENCES, LENGTH = 4, 512


def rotate(x, angles):
    a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm, self.inner_norm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attention_out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate_up = nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.down = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x, angles):
        heads = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, HEADS, -1))
        q, k, v = heads.transpose(1, 3).unbind(2)  # [sequences, heads, tokens, dim]
        seen = F.scaled_dot_product_attention(
            rotate(q, angles), rotate(k, angles), v, is_causal=True
        )
        x = x + self.attention_out(seen.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.inner_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])
        self.norm = nn.RMSNorm(WIDTH)
        half = WIDTH // HEADS // 2
        rates = 10000.0 ** (-torch.arange(half) / half)
        self.register_buffer("angles", torch.arange(LENGTH)[:, None] * rates)

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, self.angles)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mode", choices=["eager", "compiled"])
    parser.add_argument("--seconds", type=float, default=6)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    decoder = Decoder()
    adam = torch.optim.AdamW(decoder.parameters(), lr=1e-4, fused=True)
    text = torch.randint(VOCABULARY, (SEQUENCES, LENGTH + 1))
    for mode in [args.mode] if args.mode else ["eager", "compiled"]:
        net = torch.compile(decoder) if mode == "compiled" else decoder

        def step(net=net):
            adam.zero_grad()
            net(text[:, :-1], text[:, 1:]).backward()
            adam.step()

        for _ in range(2):
            step()
        seconds, end = [], time.perf_counter() + args.seconds
        while time.perf_counter() < end or len(seconds) < 3:
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        rate = SEQUENCES * LENGTH / statistics.median(seconds)
        emit("torch", f"decoder 14 M train step, {mode}", round(rate), "tokens/s")


if __name__ == "__main__":
    # Kernels that a run left in the shared cache corrupt the heap of one with other instructions.
    with tempfile.TemporaryDirectory(prefix="inductor-") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        main()
