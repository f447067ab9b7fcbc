"""The peer of bench_language_kernels: PyTorch on rows over 64 MiB, and a linear layer with cross
entropy.

usage: language_kernels.py [--threads 1]
"""

import argparse
import re

import torch
import torch.nn.functional as F
from figures import emit, seconds

parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, default=1)
threads = parser.parse_args().threads
torch.set_num_threads(threads)


def figure(work, amount, unit, body):
    spent = seconds(body)
    value = spent if unit == "s" else amount / spent / 1e9
    emit("torch", work, round(value, 3), unit, threads=threads)


def status_mebibytes(key):
    with open("/proc/self/status") as status:
        return int(re.search(rf"{key}:\s*(\d+) kB", status.read())[1]) / 1024


def peak_mebibytes(body):
    """Memory that `body` needs at its peak beyond what is resident before it."""
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # the peak starts again
    before = status_mebibytes("VmRSS")
    body()
    return status_mebibytes("VmHWM") - before


def loss(hidden, vocabulary, targets):
    hidden.grad = vocabulary.grad = None
    F.cross_entropy(hidden @ vocabulary.T, targets, reduction="sum").backward()


def operands(rows, width, count):
    hidden = torch.randn(rows, width, requires_grad=True)
    vocabulary = torch.nn.Parameter(torch.randn(count, width) * 0.02)
    return hidden, vocabulary, torch.randint(0, count, (rows,))


loss(*operands(64, 64, 64))  # libraries load what they need
hidden, vocabulary, targets = operands(512, 576, 49152)
work = "linear + cross entropy 512 x 576 x 49152"
# Gradients are no temporaries. The weight's is made when some temporaries are gone already, so the
# peak may lie before or after that: without it, and with it.
vocabulary.requires_grad = False
before = peak_mebibytes(lambda: loss(hidden, vocabulary, targets)) - hidden.nbytes / 2**20
vocabulary.requires_grad = True
gradients = (hidden.nbytes + vocabulary.nbytes) / 2**20
hidden.grad = None
after = peak_mebibytes(lambda: loss(hidden, vocabulary, targets)) - gradients
emit("torch", f"{work}, peak temporaries", round(max(before, after), 1), "MiB", threads=threads)
figure(work, 0, "s", lambda: loss(hidden, vocabulary, targets))

x = torch.randn(16384, 1024)
out, weight, moved = torch.empty_like(x), torch.ones(1024), 2 * x.nbytes
with torch.no_grad():
    figure("copy 64 MiB", moved, "GB/s", lambda: out.copy_(x))
    figure("rms_norm", moved, "GB/s", lambda: F.rms_norm(x, (1024,), weight))
    figure("layer_norm", moved, "GB/s", lambda: F.layer_norm(x, (1024,), weight, weight))
    figure("softmax", moved, "GB/s", lambda: torch.softmax(x, -1))
    figure("gelu", moved, "GB/s", lambda: F.gelu(x))
    figure("silu", moved, "GB/s", lambda: F.silu(x))
parameter = torch.nn.Parameter(torch.randn(1 << 24))
parameter.grad = torch.randn_like(parameter)
adamw = torch.optim.AdamW([parameter], fused=True)
figure("AdamW fused, 16 M parameters", 28 * parameter.numel(), "GB/s", adamw.step)
