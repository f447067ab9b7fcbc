"""The same tensors through TRL's own loss code and through ours: values and gradients.

TRL's trainers are made without a model and are handed what one would give. Its trainers have no
critic: token_value_loss and token_gae are held against tables in tests/trainer/token_loss.cpp.
"""

import collections
import importlib.util
import types

import bessemer as bs
import numpy as np
import pytest
from bessemer import losses

for package in ("torch", "trl", "accelerate"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(
            f"{package} is not installed: bench/peers/setup --language installs it",
            allow_module_level=True,
        )

import accelerate  # noqa: E402
import torch  # noqa: E402
import trl  # noqa: E402

CPU = accelerate.Accelerator(cpu=True)


class Batch:
    """Sequences of different lengths: padded for TRL, packed for us. Some tokens inside are not
    trained, as those of an environment are not."""

    def __init__(self, sequences=6, seed=0):
        self.random = np.random.default_rng(seed)
        self.lengths = self.random.integers(3, 12, sequences)
        self.width = int(self.lengths.max())
        self.inside = np.arange(self.width) < self.lengths[:, None]
        self.mask = self.inside & (self.random.random(self.inside.shape) < 0.8)
        self.mask[:, 0] = True
        self.offsets = bs.tensor(np.concatenate([[0], np.cumsum(self.lengths)]))
        self.packed_mask = self.packed(self.mask.astype(np.uint8))

    def draw(self, low, high):
        return self.random.uniform(low, high, self.inside.shape).astype(np.float32)

    def packed(self, padded, requires_grad=False):
        return bs.tensor(padded[self.inside], requires_grad=requires_grad)

    def padded(self, packed):
        out = np.zeros(self.inside.shape)
        out[self.inside] = np.asarray(packed)
        return out


def log_probs_near(batch, spread):
    """Of the policy, of the weights that sampled and of the reference."""
    first = batch.draw(-4, -0.1)
    return first, first + batch.draw(-spread, spread), first + batch.draw(-0.5, 0.5)


def trainer_of(kind, **attributes):
    trainer = object.__new__(kind)
    trainer.__dict__ |= dict(
        model=types.SimpleNamespace(training=False),
        accelerator=CPU,
        aux_loss_enabled=False,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        _total_train_tokens=0,
    )
    trainer.__dict__ |= attributes
    return trainer


def check(theirs, their_leaf, ours, our_leaf, unpack=np.asarray):
    theirs.backward()
    ours.backward()
    np.testing.assert_allclose(ours.item(), theirs.item(), rtol=1e-5, atol=1e-5)
    gradient = unpack(our_leaf.grad.numpy())
    np.testing.assert_allclose(gradient, their_leaf.grad.numpy(), rtol=1e-5, atol=1e-5)


def head_outputs(log_probs, mask):
    """What TRL's fused head returns; log-probabilities are 0 where nothing is trained."""
    zeros = torch.zeros_like(log_probs)
    return types.SimpleNamespace(
        log_probs=log_probs * mask,
        label_mask=mask,
        entropy=zeros,
        mean_logits=zeros,
        is_top1=zeros.bool(),
    )


@pytest.mark.parametrize("accumulated", [False, True])
def test_sft(accumulated):
    batch = Batch()
    values = batch.draw(-6, -0.1)
    leaf, mask = torch.tensor(values, requires_grad=True), torch.tensor(batch.mask)
    total = 3.0 * batch.mask.sum() if accumulated else None
    trainer = trainer_of(
        trl.SFTTrainer,
        compute_loss_func=None,
        label_smoother=None,
        args=types.SimpleNamespace(loss_type="nll", average_tokens_across_devices=False),
    )
    theirs = trainer.compute_loss(
        lambda **_: head_outputs(leaf, mask), {"labels": None}, num_items_in_batch=total
    )
    own = batch.packed(values, requires_grad=True)
    ours = losses.nll(own, batch.offsets, batch.packed_mask, total)
    check(theirs, leaf, ours, own, batch.padded)


@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize("center", [0.0, 0.01])
def test_reward(margin, center):
    random = np.random.default_rng(1)
    values = random.normal(0, 2, 10).astype(np.float32)
    margins = random.uniform(0, 1, 5).astype(np.float32) if margin else None
    leaf = torch.tensor(values, requires_grad=True)
    trainer = trainer_of(
        trl.RewardTrainer,
        args=types.SimpleNamespace(center_rewards_coefficient=center or None),
    )
    inputs = {"attention_mask": torch.ones(10, 1)}
    if margin:
        inputs["margin"] = torch.tensor(margins)
    theirs = trainer.compute_loss(lambda **_: types.SimpleNamespace(logits=leaf[:, None]), inputs)
    own = bs.tensor(values, requires_grad=True)
    ours = losses.reward(own[:5], own[5:], bs.tensor(margins) if margin else None, center=center)
    check(theirs, leaf, ours, own)


# TRL's name and ours. Its sigmoid knows no label smoothing; "aot" is that loss on a sorted batch,
# and a batch of one pair is sorted. Its ipo is always divided by the length.
PREFERENCES = [
    ("sigmoid", dict(loss="sigmoid"), 3),
    ("hinge", dict(loss="hinge"), 3),
    ("ipo", dict(loss="ipo", length_normalize=True), 3),
    ("sigmoid_norm", dict(loss="sigmoid", length_normalize=True), 3),
    ("aot", dict(loss="sigmoid", label_smoothing=0.1), 1),
]


@pytest.mark.parametrize("reference", [True, False], ids=["reference", "reference-free"])
@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize("name, options, pairs", PREFERENCES, ids=[p[0] for p in PREFERENCES])
def test_dpo(name, options, pairs, beta, reference):
    batch = Batch(2 * pairs, seed=2)
    values, _, ref_values = log_probs_near(batch, 0)
    order = np.concatenate([np.arange(0, 2 * pairs, 2), np.arange(1, 2 * pairs, 2)])
    leaf = torch.tensor(values, requires_grad=True)  # ours in order: chosen, rejected, chosen, ...
    mask = torch.tensor(batch.mask)[order]
    sums = torch.tensor((ref_values * batch.mask).sum(1, dtype=float) * reference)[order].float()
    trainer = trainer_of(
        trl.DPOTrainer,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[name],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=options.get("label_smoothing", 0.0),
        use_weighting=False,
    )
    prompt = torch.zeros(2 * pairs, 1, dtype=torch.bool)  # its first token predicts the next one
    tokens = torch.zeros(2 * pairs, 1 + batch.width, dtype=torch.long)
    inputs = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "completion_mask": torch.cat([prompt, mask], 1),
        "ref_chosen_logps": sums[:pairs],
        "ref_rejected_logps": sums[pairs:],
    }
    theirs = trainer._compute_loss(lambda **_: head_outputs(leaf[order], mask), inputs, False)
    own = batch.packed(values, requires_grad=True)
    ours = losses.dpo(
        own,
        batch.packed(ref_values) if reference else None,
        batch.offsets,
        batch.packed_mask,
        beta=beta,
        **options,
    )
    check(theirs, leaf, ours, own, batch.padded)


AGGREGATIONS = {
    "grpo": "sequence_mean",
    "bnpo": "token_mean",
    "dapo": "token_mean",
    "dr_grpo": "constant",
}


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("high", [0.2, 0.28], ids=["clip", "clip-higher"])
@pytest.mark.parametrize("delta", [None, 1.5], ids=["", "two-sided"])
@pytest.mark.parametrize("loss_type", AGGREGATIONS)
def test_grpo(loss_type, delta, high, beta):
    batch = Batch(8, seed=3)
    values, old, ref = log_probs_near(batch, 0.8)  # ratios from 0.45 to 2.2: every branch
    advantage = batch.random.normal(0, 1, 8).astype(np.float32)
    leaf, mask = torch.tensor(values, requires_grad=True), torch.tensor(batch.mask).float()
    trainer = trainer_of(
        trl.GRPOTrainer,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=beta,
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=high,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        max_completion_length=batch.width,
        args=types.SimpleNamespace(delta=delta, use_bias_correction_kl=False),
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, torch.zeros_like(leaf), None),
    )
    tokens = torch.zeros(batch.inside.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": tokens,
        "prompt_mask": tokens,
        "completion_ids": tokens,
        "completion_mask": mask,
        "advantages": torch.tensor(advantage),
        "old_per_token_logps": torch.tensor(old),
        "ref_per_token_logps": torch.tensor(ref),
        "num_items_in_batch": mask.sum(),
    }
    theirs = trainer._compute_loss(None, inputs)
    own = batch.packed(values, requires_grad=True)
    ours = losses.policy(
        own,
        batch.packed(old),
        batch.packed(np.repeat(advantage[:, None], batch.width, 1)),
        batch.offsets,
        batch.packed_mask,
        clip_range_high=high,
        dual_clip=delta,
        aggregation=AGGREGATIONS[loss_type],
        max_tokens=batch.width,
        kl_coef=beta,
        ref_log_prob=batch.packed(ref),
    )
    check(theirs, leaf, ours, own, batch.padded)
