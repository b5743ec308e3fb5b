"""Agreement between raters (Cohen's and Fleiss' kappa), and between two judgements of the same items (with Wilson's interval)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fleiss_kappa(ratings: NDArray[np.int_]) -> float:
    """Fleiss' kappa, through statsmodels.

    Args:
        ratings: (items, raters) categories.

    Returns:
        Kappa; NaN with one rater or no item.
    """
    from statsmodels.stats import inter_rater

    if ratings.ndim != 2 or ratings.shape[1] < 2 or not len(ratings):
        return math.nan
    counts, _ = inter_rater.aggregate_raters(ratings)
    return float(inter_rater.fleiss_kappa(counts))


def cohen_kappa(one: Sequence[int], other: Sequence[int]) -> float:
    """Cohen's kappa of two raters (Cohen 1960).

    Args:
        one, other: their categories of the same items, (items,).

    Returns:
        Kappa; NaN without an item, or if both put every item into the same category.
    """
    first, second = np.asarray(one), np.asarray(other)
    if not len(first):
        return math.nan
    observed = float((first == second).mean())
    by_chance = sum(float((first == name).mean() * (second == name).mean()) for name in np.union1d(first, second))
    return (observed - by_chance) / (1 - by_chance) if by_chance < 1 else math.nan


def kappa(ratings: NDArray[np.int_]) -> float:
    """Agreement between raters: Cohen's kappa of two, Fleiss' of more.

    Args:
        ratings: (items, raters) categories.

    Returns:
        Kappa; NaN with one rater, without an item, or if all ratings are the same.
    """
    if ratings.ndim != 2 or ratings.shape[1] < 2 or not len(ratings) or (ratings == ratings[0, 0]).all():
        return math.nan
    return cohen_kappa(ratings[:, 0].tolist(), ratings[:, 1].tolist()) if ratings.shape[1] == 2 else fleiss_kappa(ratings)


def kappa_name(raters: int) -> str:
    """Which kappa `kappa` computes for this number of raters."""
    return "Cohen's kappa" if raters == 2 else "Fleiss' kappa"


def wilson(agreed: float, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of the fraction `agreed / total`, through statsmodels; NaN if `total` is 0."""
    from statsmodels.stats.proportion import proportion_confint

    if not total:
        return math.nan, math.nan
    low, high = proportion_confint(agreed, total, method="wilson")
    return float(low), float(high)


def fraction_agreeing(one: Sequence[float], other: Sequence[float]) -> float:
    """The number of items for which `one` has the same sign as `other`; a zero in `one` counts half."""
    first, second = np.asarray(one, float), np.asarray(other, float)
    return float(np.where(first == 0, 0.5, np.sign(first) == np.sign(second)).sum())
