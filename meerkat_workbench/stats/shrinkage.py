"""Shrinkage: noisy means of groups, drawn toward their common centre (empirical Bayes)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pooled_variance(groups: Sequence[NDArray[np.float64]]) -> float:
    """One variance within all groups. A group's own variance is too noisy for a weight if it has about ten values."""
    freedom = sum(len(group) - 1 for group in groups if len(group))
    return float(sum(((group - group.mean()) ** 2).sum() for group in groups if len(group)) / max(freedom, 1))


def shrink(means: NDArray[np.float64], variances: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shrink means toward their common centre, the more the less certain they are.

    The variance between true means, tau^2, is estimated by the method of Paule and Mandel, through statsmodels.

    Args:
        means: (groups,), at least two.
        variances: (groups,) squared standard errors of the means.

    Returns:
        The shrunk means and their standard errors, (groups,) each.
    """
    from statsmodels.stats.meta_analysis import combine_effects

    with np.errstate(divide="ignore", invalid="ignore"):  # where all means are equal, their heterogeneity is 0 / 0
        result = combine_effects(means, variances, method_re="iterated")
    weight = variances / (variances + max(0.0, float(result.tau2)))
    return weight * float(result.mean_effect_re) + (1 - weight) * means, np.sqrt((1 - weight) * variances)
