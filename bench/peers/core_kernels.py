"""CPU kernels of PyTorch: GFLOP/s of linear layers, GB/s of memory-bound ones.

usage: core_kernels.py [--threads 1]
"""

import argparse

import torch
from figures import emit, seconds

parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, default=1)
threads = parser.parse_args().threads
torch.set_num_threads(threads)


def figure(work, amount, unit, body):
    emit("torch", work, round(amount / seconds(body) / 1e9, 2), unit, threads=threads)


with torch.no_grad():
    for rows in (1, 8, 64, 512):
        x, layer = torch.randn(rows, 576), torch.nn.Linear(576, 1536)
        figure(
            f"linear {rows} x 576 -> 1536",
            2 * rows * 576 * 1536,
            "GFLOP/s",
            lambda x=x, f=layer: f(x),
        )
    x = torch.randn(1 << 24)
    y, out, rows = torch.randn_like(x), torch.empty_like(x), x.view(-1, 1024)
    figure("copy 64 MiB", 2 * x.nbytes, "GB/s", lambda: out.copy_(x))
    figure("add 64 MiB", 3 * x.nbytes, "GB/s", lambda: torch.add(x, y, out=out))
    figure("exp 64 MiB", 2 * x.nbytes, "GB/s", lambda: torch.exp(x, out=out))
    figure("tanh 64 MiB", 2 * x.nbytes, "GB/s", lambda: torch.tanh(x, out=out))
    figure("softmax 16384 x 1024", 2 * x.nbytes, "GB/s", lambda: torch.softmax(rows, -1))

for tokens in (128, 1024, 4096):
    qkv = [torch.randn(1, 9, tokens, 64, requires_grad=True) for _ in range(3)]
    flops = 4 * 9 * 64 * tokens * tokens / 2  # causal: half of all pairs

    def attend(qkv=qkv):
        return torch.nn.functional.scaled_dot_product_attention(*qkv, is_causal=True)

    def both(attend=attend):
        attend().sum().backward()

    shape = f"9 heads x {tokens} x 64"
    with torch.no_grad():
        figure(f"attention causal forward {shape}", flops, "GFLOP/s", attend)
    figure(f"attention causal forward+backward {shape}", 3.5 * flops, "GFLOP/s", both)
