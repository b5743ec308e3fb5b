"""Which specialties are low, from the tuned model's scores on the eval split.

Small samples are shrunk toward the mean of all specialties (empirical Bayes; tau^2 by Paule and Mandel through statsmodels), ranked, and
given a probability of being among the worst. A specialty is named only where it does worse than the others by more than noise, with
false discoveries controlled over all specialties.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from meerkat_workbench.stats.significance import ALPHA, false_discovery_adjusted, pooled_variance, shrink

WORST_SHARE = 0.2  # "the worst" are this share of the specialties
DRAWS = 20_000


@dataclass(frozen=True)
class Evidence:
    """What is known of one specialty, on the eval split; scores are turned so that higher is better."""

    specialty: str
    n: int
    mean: float
    shrunk: float
    shrunk_se: float
    others: float
    p_below_others: float
    p_adjusted: float
    probability_among_worst: float
    supported: bool
    questions_to_settle: int | None


def rank_specialties(scores: Mapping[str, Sequence[float]], *, seed: int) -> list[Evidence]:
    """Evidence for each specialty, the lowest shrunk score first.

    Args:
        scores: of each question by specialty, higher is better; specialties without a score are left out.
    """
    names = sorted(name for name, values in scores.items() if len(values))
    if len(names) < 2:
        return []
    arrays = [np.asarray(scores[name], float) for name in names]
    counts = np.array([len(array) for array in arrays])
    means = np.array([array.mean() for array in arrays])
    freedom = int((counts - 1).sum())
    pooled = pooled_variance(arrays)
    variances = np.maximum(pooled, 1e-12) / counts

    shrunk, shrunk_se = shrink(means, variances)
    worst = _probability_among_worst(shrunk, shrunk_se, seed)

    total, everything = counts.sum(), float((means * counts).sum())
    others = (everything - means * counts) / (total - counts)
    standard = np.sqrt(variances + pooled / (total - counts))
    p_values = stats.t.cdf((means - others) / standard, max(freedom, 1)) if freedom else np.full(len(names), np.nan)
    adjusted = false_discovery_adjusted(list(p_values))

    evidence = []
    for row, name in enumerate(names):
        supported = bool(adjusted[row] <= ALPHA and means[row] < others[row])
        gap = float(others[row] - means[row])
        evidence.append(
            Evidence(
                name, int(counts[row]), float(means[row]), float(shrunk[row]), float(shrunk_se[row]), float(others[row]),
                float(p_values[row]), float(adjusted[row]), float(worst[row]), supported,
                None if supported or gap <= 0 else _questions_to_settle(gap, pooled, len(names)),
            )
        )  # fmt: skip
    return sorted(evidence, key=lambda item: (item.shrunk, item.mean, item.specialty))


def _probability_among_worst(shrunk: np.ndarray, se: np.ndarray, seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed).normal(shrunk, np.maximum(se, 1e-12), (DRAWS, len(shrunk)))
    worst = max(1, round(WORST_SHARE * len(shrunk)))
    places = draws.argsort(axis=1)[:, :worst]
    return np.bincount(places.ravel(), minlength=len(shrunk)) / DRAWS


def _questions_to_settle(gap: float, variance: float, specialties: int) -> int:
    """Eval questions with which this gap would be found at 80% power, at the level the first discovery must pass."""
    z = stats.norm.ppf(1 - ALPHA / specialties) + stats.norm.ppf(0.8)
    return math.ceil(z * z * variance / (gap * gap))
