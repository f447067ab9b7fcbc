"""What small PyTorch operations cost from Python, one thread."""

import torch
from figures import emit, nanoseconds

torch.set_num_threads(1)
a, b = torch.ones(4), torch.ones(4)
ga, gb = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
with torch.no_grad():
    emit("torch", "add (4,) no grad, Python", nanoseconds(lambda: a + b, 50000), "ns")
emit("torch", "add (4,) grad, Python", nanoseconds(lambda: ga + gb, 50000), "ns")
emit(
    "torch",
    "mul, add, sum, backward (4,), Python",
    nanoseconds(lambda: (ga * gb + ga).sum().backward(), 5000),
    "ns",
)
