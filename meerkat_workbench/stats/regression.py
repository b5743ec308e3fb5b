"""A paired difference at equal values of a covariate: the intercept of a straight line (ordinary least squares)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from meerkat_workbench.stats.significance import LEVEL, Estimate

MIN_PAIRS = 3  # a line through two points leaves no residual


@dataclass(frozen=True)
class Line:
    """A straight line: its value where the covariate is 0, and its slope. NaN if it cannot be fitted."""

    intercept: Estimate
    slope: float


def line(differences: Sequence[float], covariate: Sequence[float]) -> Line:
    """Fit a line to the differences of pairs.

    Args:
        differences: one for each pair, (n,).
        covariate: of each pair, (n,), such as the difference in log length.

    Returns:
        The intercept with its t interval and p value (n - 2 degrees of freedom); NaN with fewer than three pairs, or if the
        covariate is the same for all.
    """
    y, x = np.asarray(differences, float), np.asarray(covariate, float)
    if len(y) < MIN_PAIRS or not np.ptp(x) > 0:
        return Line(Estimate(len(y), math.nan, math.nan, math.nan), math.nan)
    fitted = stats.linregress(x, y)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(y) - 2)) * float(fitted.intercept_stderr)
    value = float(fitted.intercept)
    if fitted.intercept_stderr > 0:
        p = float(2 * stats.t.sf(abs(value) / float(fitted.intercept_stderr), len(y) - 2))
    else:  # every pair lies on the line
        p = 1.0 if value == 0 else 0.0
    return Line(Estimate(len(y), value, value - half, value + half, p), float(fitted.slope))
