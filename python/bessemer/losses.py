"""Losses of post-training over packed tokens, as the trainers compute them (docs/post_training.md
has formulas and sources). Gradients flow to the first tensors of each.

Tokens of all sequences lie side by side: sequence s is ``[offsets[s], offsets[s + 1])``. ``mask``
says which tokens are in the loss, by default all.
"""

from bessemer import _native
from bessemer._native import Tensor

__all__ = ["dpo", "group_advantages", "nll", "policy", "reward", "token_gae", "value"]


def _scalar(loss: float, *parts: tuple[Tensor, Tensor]) -> Tensor:
    """`loss` with these gradients: the differences are 0, their slopes are not."""
    out = _native.tensor(loss)
    for tensor, gradient in parts:
        out = out + ((tensor - tensor.detach()) * gradient).sum()
    return out


def nll(
    log_prob: Tensor,
    offsets: Tensor,
    mask: Tensor | None = None,
    denominator: float | None = None,
) -> Tensor:
    """Negative log-likelihood over ``denominator``, by default the number of tokens in the loss."""
    loss, gradient = _native._nll_loss(log_prob, offsets, mask, denominator)
    return _scalar(loss, (log_prob, gradient))


def reward(
    chosen: Tensor, rejected: Tensor, margin: Tensor | None = None, center: float = 0.0
) -> Tensor:
    """Bradley-Terry on the rewards [pairs] of chosen and rejected answers."""
    loss, d_chosen, d_rejected = _native._reward_loss(chosen, rejected, margin, center)
    return _scalar(loss, (chosen, d_chosen), (rejected, d_rejected))


def dpo(
    log_prob: Tensor,
    ref_log_prob: Tensor | None,
    offsets: Tensor,
    mask: Tensor | None = None,
    *,
    loss: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    length_normalize: bool = False,
) -> Tensor:
    """Sequences 2i and 2i + 1 are the chosen and the rejected answer of pair i. ``loss``: sigmoid,
    ipo or hinge. ``ref_log_prob`` None: free of a reference."""
    number, gradient = _native._dpo_loss(
        log_prob, ref_log_prob, offsets, mask, loss, beta, label_smoothing, length_normalize
    )
    return _scalar(number, (log_prob, gradient))


def policy(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    offsets: Tensor,
    mask: Tensor | None = None,
    *,
    clip_range: float = 0.2,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
    aggregation: str = "token_mean",
    max_tokens: float = 0.0,
    kl_coef: float = 0.0,
    kl: str = "k3",
    ref_log_prob: Tensor | None = None,
) -> Tensor:
    """Clipped policy gradient of GRPO, its variants and PPO; ``advantage`` has one entry a token.
    ``aggregation``: token_mean, sequence_mean or constant (over sequences * ``max_tokens``)."""
    loss, gradient = _native._policy_loss(
        log_prob,
        old_log_prob,
        advantage,
        ref_log_prob,
        offsets,
        mask,
        clip_range,
        clip_range_high,
        dual_clip,
        aggregation,
        max_tokens,
        kl_coef,
        kl,
    )
    return _scalar(loss, (log_prob, gradient))


def value(
    value: Tensor,
    old_value: Tensor,
    returns: Tensor,
    offsets: Tensor,
    mask: Tensor | None = None,
    *,
    clip_range: float = 0.2,
) -> Tensor:
    """The critic's clipped squared error over tokens, halved."""
    loss, gradient = _native._value_loss(value, old_value, returns, offsets, mask, clip_range)
    return _scalar(loss, (value, gradient))


def group_advantages(rewards: Tensor, size: int, scale: str = "group") -> Tensor:
    """Advantages of answers whose ``size`` neighbours share a prompt. ``scale``: group, none, batch
    or leave_one_out; a NaN reward is left out and gets 0."""
    advantages: Tensor = _native._group_advantages(rewards, size, scale)
    return advantages


def token_gae(
    reward: Tensor,
    value: Tensor,
    offsets: Tensor,
    mask: Tensor | None = None,
    *,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """(advantages, returns) along each sequence's tokens in the loss."""
    pair: tuple[Tensor, Tensor] = _native._token_gae(
        reward, value, offsets, mask, gamma, gae_lambda
    )
    return pair
