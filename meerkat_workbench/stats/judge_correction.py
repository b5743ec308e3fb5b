"""Rates of yes that a judge reports, corrected by its sensitivity and specificity on items that people rated.

Rogan and Gladen (1978): theta = (p + q0 - 1) / (q0 + q1 - 1), where p is the fraction of yes that the judge gives, q1 its
sensitivity and q0 its specificity. The interval is that of Lee et al., "How to Correctly Report LLM-as-a-Judge Evaluations"
(arXiv 2511.21140): a Wald interval on adjusted counts that covers the judged and the rated sample. The formulas take the two
samples as independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Z = NormalDist().inv_cdf(0.975)  # of 95% intervals
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """How often the judge agrees with raters on rated items.

    Attributes:
        positives, true_positives: items for which raters say yes, and those of them for which the judge does.
        negatives, true_negatives: items for which raters say no, and those of them for which the judge does not say yes.
    """

    positives: int
    true_positives: int
    negatives: int
    true_negatives: int

    @property
    def sensitivity(self) -> float:
        return self.true_positives / self.positives if self.positives else math.nan

    @property
    def specificity(self) -> float:
        return self.true_negatives / self.negatives if self.negatives else math.nan

    @property
    def fault(self) -> str:
        """Why rates cannot be corrected; empty if they can."""
        if not self.positives or not self.negatives:
            return f"there is no judged answer for which raters say {'no' if self.positives else 'yes'}"
        if self.sensitivity + self.specificity <= 1:
            return "sensitivity and specificity of the judge add up to 1 or less, so it is no better than chance"
        if _youden(self) <= 0:
            return "too few answers are rated to tell the judge from chance"
        return ""


@dataclass(frozen=True)
class PairedCounts:
    """Pairs of items by what the judge says of both: yes for both, for the first or the second only, or for neither."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither


@dataclass(frozen=True)
class Corrected:
    """A corrected rate or difference with its 95% interval; NaN with the reason in `missing`.

    Attributes:
        n: number of judged items, or of pairs.
        judged: what the judge itself reports.
    """

    n: int
    judged: float
    value: float
    low: float
    high: float
    missing: str = ""


def corrected_rate(judged_yes: int, n: int, calibration: Calibration) -> Corrected:
    """The corrected fraction of yes, clipped to 0 and 1.

    Args:
        judged_yes: number of the `n` judged items for which the judge says yes.
    """
    fault = calibration.fault if n else "the judge judged no answer"
    if fault:
        return Corrected(n, judged_yes / n if n else math.nan, math.nan, math.nan, math.nan, fault)
    q1, q0 = calibration.sensitivity, calibration.specificity
    theta = (judged_yes / n + q0 - 1) / (q0 + q1 - 1)
    low, high = rate_interval(*(np.array([count], float) for count in (
        judged_yes, n, calibration.true_positives, calibration.positives, calibration.true_negatives, calibration.negatives)))  # fmt: skip
    return Corrected(n, judged_yes / n, float(np.clip(theta, 0, 1)), float(low[0]), float(high[0]))


def rate_interval(
    judged_yes: Floats, n: Floats, true_positives: Floats, positives: Floats, true_negatives: Floats, negatives: Floats
) -> tuple[Floats, Floats]:
    """The 95% interval of corrected rates, for many samples at once; all arguments are counts of the same shape.

    arXiv 2511.21140: z^2 / 2 is added to yes and no of the judged items, 1 to right and wrong of the rated ones, and the centre
    is moved by 2 z^2 (theta q1 (1 - q1) / m1 - (1 - theta) q0 (1 - q0) / m0), computed from the adjusted counts.

    Returns:
        Lower and upper ends, clipped to 0 and 1; NaN where adjusted sensitivity and specificity add up to 1 or less.
    """
    p, size = (judged_yes + Z**2 / 2) / (n + Z**2), n + Z**2
    q1, v1 = _adjusted(true_positives, positives)
    q0, v0 = _adjusted(true_negatives, negatives)
    youden = np.where(q0 + q1 > 1, q0 + q1 - 1, np.nan)
    theta = (p + q0 - 1) / youden
    centre = theta + 2 * Z**2 * (theta * v1 - (1 - theta) * v0)
    error = np.sqrt(p * (1 - p) / size + (1 - theta) ** 2 * v0 + theta**2 * v1) / youden
    return np.clip(centre - Z * error, 0, 1), np.clip(centre + Z * error, 0, 1)


def corrected_difference(pairs: PairedCounts, calibration: Calibration) -> Corrected:
    """The corrected difference of two paired rates, second minus first, if the judge errs alike on both.

    The difference of the judge's rates is divided by q0 + q1 - 1, in which p cancels.
    """
    fault = calibration.fault if pairs.n else "the judge judged no pair of answers"
    judged = (pairs.only_second - pairs.only_first) / pairs.n if pairs.n else math.nan
    if fault:
        return Corrected(pairs.n, judged, math.nan, math.nan, math.nan, fault)
    value = judged / (calibration.sensitivity + calibration.specificity - 1)
    low, high = difference_interval(*(np.array([count], float) for count in (
        pairs.only_first, pairs.only_second, pairs.n, calibration.true_positives, calibration.positives, calibration.true_negatives,
        calibration.negatives)))  # fmt: skip
    return Corrected(pairs.n, judged, float(np.clip(value, -1, 1)), float(low[0]), float(high[0]))


def difference_interval(
    only_first: Floats, only_second: Floats, n: Floats, true_positives: Floats, positives: Floats, true_negatives: Floats,
    negatives: Floats,
) -> tuple[Floats, Floats]:  # fmt: skip
    """The 95% interval of corrected paired differences, for many samples at once; all arguments are counts of the same shape.

    The delta method on adjusted counts: those of `rate_interval` for the rated items, and half a pair in each of the four cells
    for the judged ones (Agresti and Min 2005).

    Returns:
        Lower and upper ends, clipped to -1 and 1; NaN where adjusted sensitivity and specificity add up to 1 or less.
    """
    first, second, size = only_first + 0.5, only_second + 0.5, n + 2
    change = (second - first) / size
    q1, v1 = _adjusted(true_positives, positives)
    q0, v0 = _adjusted(true_negatives, negatives)
    youden = np.where(q0 + q1 > 1, q0 + q1 - 1, np.nan)
    value = change / youden
    error = np.sqrt(((first + second) / size - change**2) / size + value**2 * (v0 + v1)) / youden
    return np.clip(value - Z * error, -1, 1), np.clip(value + Z * error, -1, 1)


def _adjusted(right: Floats, total: Floats) -> tuple[Floats, Floats]:
    """A fraction after one right and one wrong item more, and its variance."""
    fraction = (right + 1) / (total + 2)
    return fraction, fraction * (1 - fraction) / (total + 2)


def _youden(calibration: Calibration) -> float:
    """Sensitivity plus specificity minus 1, from the adjusted counts."""
    q1 = (calibration.true_positives + 1) / (calibration.positives + 2)
    q0 = (calibration.true_negatives + 1) / (calibration.negatives + 2)
    return q0 + q1 - 1
