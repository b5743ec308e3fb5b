"""Agreement between raters (Fleiss' kappa), and between two judgements of the same items (with Wilson's interval)."""

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
