"""Which specialties are low, by the tuned model's scores on the eval split.

The means are shrunk toward the mean of all specialties (empirical Bayes; tau^2 by Paule and Mandel, through statsmodels) and ranked. Each
specialty gets a probability of being among the worst. It is named as low only if it does worse than the others by more than noise, with
false discoveries controlled over all specialties.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from meerkat_workbench.stats.shrinkage import pooled_variance, shrink
from meerkat_workbench.stats.significance import ALPHA, POWER, false_discovery_adjusted

WORST_FRACTION = 0.2  # "the worst" are this fraction of the specialties
DRAWS = 20_000  # for the probability of being among the worst
MIN_VARIANCE = 1e-12  # variance of equal scores, which must not be zero


@dataclass(frozen=True)
class Evidence:
    """The evidence on one specialty from the eval split; scores are signed so that higher is better.

    Attributes:
        n: number of questions.
        mean, shrunk, shrunk_se: raw mean, shrunk mean and its standard error.
        others: mean over the questions of all other specialties.
        p_below_others, p_adjusted: one-sided p value of doing worse than the others, and the same adjusted for all specialties.
        probability_among_worst: of being among the worst `WORST_FRACTION`.
        supported: whether it does worse than the others by more than noise.
        questions_to_settle: questions with which its gap to the others would be significant; None if it is supported, or not below
            the others.
    """

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
        scores: the scores of each specialty's questions, higher is better; specialties without a score are left out.
        seed: of the draws.

    Returns:
        The evidence; empty if fewer than two specialties have scores.
    """
    names = sorted(name for name, values in scores.items() if len(values))
    if len(names) < 2:
        return []
    arrays = [np.asarray(scores[name], float) for name in names]
    counts = np.array([len(array) for array in arrays])
    means = np.array([array.mean() for array in arrays])
    freedom = int((counts - 1).sum())
    pooled = pooled_variance(arrays)
    variances = np.maximum(pooled, MIN_VARIANCE) / counts

    shrunk, shrunk_se = shrink(means, variances)
    worst = _probability_among_worst(shrunk, shrunk_se, seed)

    other_counts = counts.sum() - counts
    others = (float((means * counts).sum()) - means * counts) / other_counts
    standard_errors = np.sqrt(variances + pooled / other_counts)
    p_values = stats.t.cdf((means - others) / standard_errors, max(freedom, 1)) if freedom else np.full(len(names), np.nan)
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


def _probability_among_worst(shrunk: np.ndarray, standard_errors: np.ndarray, seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed).normal(shrunk, np.maximum(standard_errors, 1e-12), (DRAWS, len(shrunk)))
    worst_count = max(1, round(WORST_FRACTION * len(shrunk)))
    worst = draws.argsort(axis=1)[:, :worst_count]
    return np.bincount(worst.ravel(), minlength=len(shrunk)) / DRAWS


def _questions_to_settle(gap: float, variance: float, specialties: int) -> int:
    """Eval questions with which a gap of this size would be found with 80% power, at the level that the first discovery must pass."""
    z = stats.norm.ppf(1 - ALPHA / specialties) + stats.norm.ppf(POWER)
    return math.ceil(z * z * variance / (gap * gap))
