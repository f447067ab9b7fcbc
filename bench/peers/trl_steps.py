"""The peer of bench_language_steps: TRL's seconds of one whole SFT, DPO and GRPO step on the CPU.

usage: trl_steps.py [--threads 1] [--steps 5] [--only sft|dpo|grpo]
A Llama of 14 M random parameters in float32; prompts of 64 random tokens, answers of 64 (in GRPO
never shorter: the end token is forbidden). 8 texts or 8 pairs a step; GRPO: 2 prompts with 8
answers each at temperature 1, beta 0.04. AdamW, no gradient checkpointing.
"""

import argparse
import os
import pathlib
import random
import statistics
import tempfile
import time
import warnings

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
warnings.filterwarnings("ignore")

import tokenizers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402
from figures import emit  # noqa: E402

VOCABULARY, PROMPT, ANSWER, ROWS = 8192, 64, 64, 64


class Clock(transformers.TrainerCallback):
    """Seconds from the end of each step to the end of the next one."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter())

    def median(self):
        return statistics.median(b - a for a, b in zip(self.ends, self.ends[1:], strict=False))


def word_tokenizer():
    """One token a word, t0 t1 ..., so that texts have exactly the lengths wanted."""
    special = ["<end>", "<pad>", "<unknown>"]
    names = special + [f"t{i}" for i in range(VOCABULARY - len(special))]
    core = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, "<unknown>")
    )
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", pad_token="<pad>", unk_token="<unknown>"
    )


def make_model(folder):
    tokenizer = word_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def text(count):
    return " ".join(f"t{random.randrange(VOCABULARY - 3)}" for _ in range(count)) + " "


def different_words(completions, **_):
    return [float(len(set(answer.split()))) for answer in completions]


def work(algorithm):
    """Trainer, settings, a row of data, other arguments. An answer ends with the end token."""
    if algorithm == "sft":
        return (
            trl.SFTTrainer,
            trl.SFTConfig,
            dict(per_device_train_batch_size=8, max_length=PROMPT + ANSWER),
            lambda: {"prompt": text(PROMPT), "completion": text(ANSWER - 1)},
            {},
        )
    if algorithm == "dpo":
        return (
            trl.DPOTrainer,
            trl.DPOConfig,
            dict(per_device_train_batch_size=8, max_length=PROMPT + ANSWER, beta=0.1),
            lambda: {
                "prompt": text(PROMPT),
                "chosen": text(ANSWER - 1),
                "rejected": text(ANSWER - 1),
            },
            {},
        )
    settings = dict(
        per_device_train_batch_size=16,
        num_generations=8,
        max_completion_length=ANSWER,
        temperature=1.0,
        beta=0.04,
        loss_type="grpo",
        generation_kwargs={"min_new_tokens": ANSWER},
    )
    rest = dict(reward_funcs=different_words)
    return trl.GRPOTrainer, trl.GRPOConfig, settings, lambda: {"prompt": text(PROMPT)}, rest


def measure(algorithm, folder, tokenizer, steps):
    trainer_type, config_type, settings, row, rest = work(algorithm)
    clock = Clock()
    config = config_type(
        output_dir=str(pathlib.Path(folder) / algorithm),
        max_steps=steps + 1,  # the first one warms up
        learning_rate=1e-5,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32"},
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **settings,
    )
    trainer_type(
        model=folder,
        args=config,
        train_dataset=Dataset.from_list([row() for _ in range(ROWS)]),
        processing_class=tokenizer,
        callbacks=[clock],
        **rest,
    ).train()
    emit("trl", f"{algorithm.upper()} step, 14 M", round(clock.median(), 3), "s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["sft", "dpo", "grpo"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    random.seed(1)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_model(folder)
        for algorithm in [args.only] if args.only else ["sft", "dpo", "grpo"]:
            measure(algorithm, folder, tokenizer, args.steps)


if __name__ == "__main__":
    main()
