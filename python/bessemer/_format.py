"""How a tensor prints."""

import numpy as np

from bessemer._native import Tensor


def tensor_text(tensor: Tensor) -> str:
    """Elements as NumPy prints them, with the dtype where it is not the usual one of its kind."""
    plain = tensor.detach()
    if plain.dtype in ("float16", "bfloat16"):
        plain = plain.cast("float32")
    with np.printoptions(precision=4, floatmode="maxprec_equal" if plain.ndim == 0 else "maxprec"):
        text = np.array2string(plain._look(), separator=", ", prefix="tensor(")
    notes = []
    if tensor.size == 0:
        notes.append(f"shape={tensor.shape}")
    if tensor.dtype not in ("float32", "int64", "bool"):
        notes.append(f"dtype={tensor.dtype}")
    if tensor.requires_grad:
        notes.append("requires_grad=True")
    return f"tensor({', '.join([text, *notes])})"
