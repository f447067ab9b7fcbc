"""LunarLander plays as Gymnasium's: the scores of five pilots have the same distribution.

Ours runs on Box2D 2.4, Gymnasium's on 2.3, so no trajectory is equal for ever, and the claim is a
statistical one. Reference: 1,000 episodes a case of Gymnasium itself, recorded by
lander_reference.py with its seeds and date. Seeds here are others, so both samples are independent.
"""

import json

import bessemer as bs
import lander_reference as reference
import numpy as np
import pytest

EPISODES, FIRST_SEED = 600, 100_000
RECORDED = json.loads(reference.FILE.read_text())

pytestmark = pytest.mark.skipif(
    "LunarLander-v3" not in bs.env_ids(), reason="built without Box2D: no LunarLander"
)


def kolmogorov_smirnov(a, b):
    """Two-sample statistic and its asymptotic p-value (Stephens' correction for finite samples)."""
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    below_a = np.searchsorted(a, both, "right") / len(a)
    below_b = np.searchsorted(b, both, "right") / len(b)
    distance = np.abs(below_a - below_b).max()
    root = np.sqrt(len(a) * len(b) / (len(a) + len(b)))
    scaled = (root + 0.12 + 0.11 / root) * distance
    if scaled < 0.3:  # the series converges too slowly, and p is 1 to nine digits
        return distance, 1.0
    k = np.arange(1, 101)
    p = 2 * np.sum((-1.0) ** (k - 1) * np.exp(-2 * (k * scaled) ** 2))
    return distance, float(np.clip(p, 0, 1))


def test_the_statistic_itself():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 1000), rng.normal(0.3, 1, 1000)
    distance, p = kolmogorov_smirnov(a, b)
    assert 0.08 < distance < 0.2 and p < 1e-4
    assert kolmogorov_smirnov(a, rng.normal(0, 1, 1000))[1] > 0.01
    assert kolmogorov_smirnov(a, a) == (0, 1)


@pytest.mark.parametrize("case", reference.CASES)
def test_scores_are_distributed_as_gymnasiums(case):
    ours, lengths = reference.scores(bs.make_vec, case, FIRST_SEED, EPISODES, 50, 12)
    theirs = np.array(RECORDED["cases"][case]["returns"])
    difference = ours.mean() - theirs.mean()
    error = np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs))
    distance, p = kolmogorov_smirnov(ours, theirs)
    print(
        f"\n{case}: ours {ours.mean():.1f} ± {ours.std():.1f} ({lengths.mean():.0f} steps), "
        f"Gymnasium {theirs.mean():.1f} ± {theirs.std():.1f} "
        f"({RECORDED['cases'][case]['mean_length']:.0f}), "
        f"difference {difference:+.1f} ± {1.96 * error:.1f}, KS {distance:.3f}, p {p:.2f}"
    )
    assert p > 0.01, f"Kolmogorov-Smirnov {distance:.3f}, p {p:.4f}"
    assert abs(difference) < 3 * error, (
        f"means differ by {difference:.1f}, three errors {3 * error:.1f}"
    )


def test_the_reference_is_gymnasiums():
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("Box2D", reason="Gymnasium's own LunarLander needs gymnasium[box2d]")
    returns, _ = reference.scores(gymnasium.make_vec, "heuristic", reference.REFERENCE_SEED, 20, 20)
    recorded = RECORDED["cases"]["heuristic"]["returns"][:20]
    np.testing.assert_allclose(returns, recorded, atol=0.06)
