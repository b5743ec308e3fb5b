"""Paired comparison of two systems: intervals, sign-flip permutation tests, strata, false discoveries.

A difference is that of the two systems' scores on one question. Formulas: Student (1908) for one stratum, Cochran's stratified standard
error over strata, Fisher's sign-flip permutation, Benjamini and Hochberg (1995). The permutation test is written in numpy, because
scipy's permutation_test takes some 30 ms for each specialty and metric; the tests compare the two.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

LEVEL = 0.95  # of intervals
ALPHA = 0.05  # level at which a difference is significant
POWER = 0.8  # probability with which a smallest detectable difference is found
MAX_EXACT = 12  # differences up to which all sign patterns (4,096) are counted; beyond that patterns are drawn
RESAMPLES = 9_999  # drawn sign patterns
MAX_SIGNS_AT_ONCE = 2_000_000  # bounds the memory of drawn sign patterns


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval. `p` is two-sided, for a true mean of zero. NaN if n is too small."""

    n: int
    mean: float
    low: float
    high: float
    p: float = math.nan

    def within(self, low: float, high: float) -> Estimate:
        """The same with the interval cut to the possible range of the mean, which the t interval of a few questions can exceed."""
        return replace(self, low=float(np.clip(self.low, low, high)), high=float(np.clip(self.high, low, high)))


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean and t interval of one sample."""
    array = np.asarray(values, float)
    if len(array) < 2:
        return Estimate(len(array), float(array.mean()) if len(array) else math.nan, math.nan, math.nan)
    half = stats.t.ppf((1 + LEVEL) / 2, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array))
    return Estimate(len(array), float(array.mean()), float(array.mean() - half), float(array.mean() + half))


def clustered_mean(values: Sequence[float], groups: Sequence[str]) -> Estimate:
    """Mean over all values with a t interval that treats each group, such as a document, as one independent draw.

    The standard error is that of a ratio estimator (Cochran, Sampling Techniques, 1977): sums of residuals by group. NaN bounds for one group.
    """
    array = np.asarray(values, float)
    _, places = np.unique(np.asarray(groups), return_inverse=True)
    count = int(places.max()) + 1 if len(places) else 0
    mean = float(array.mean()) if len(array) else math.nan
    if count < 2:
        return Estimate(len(array), mean, math.nan, math.nan)
    sums = np.bincount(places, array - mean, count)
    half = stats.t.ppf((1 + LEVEL) / 2, count - 1) * math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(array)
    return Estimate(len(array), mean, mean - half, mean + half)


def paired(differences: Sequence[float], seed: int = 0) -> Estimate:
    """Mean difference with its t interval and the p value of a sign-flip permutation, exact up to `MAX_EXACT` questions."""
    estimate = mean_interval(differences)
    if estimate.n < 2:
        return estimate
    return Estimate(estimate.n, estimate.mean, estimate.low, estimate.high, sign_flip_p(np.asarray(differences, float), seed))


def sign_flip_p(differences: NDArray[np.float64], seed: int = 0) -> float:
    """Two-sided p value for a mean of zero, under which either sign of each difference is equally likely."""
    differences = differences[differences != 0]  # flipping the sign of zero changes nothing
    if len(differences) < 2:  # a single difference has the same size with either sign
        return 1.0
    # sums that differ only by rounding count as equal, as in scipy.stats.permutation_test
    observed = abs(differences.sum()) * (1 - 1e-12)
    if len(differences) <= MAX_EXACT:
        return float((np.abs(_sign_patterns(len(differences)) @ differences) >= observed).mean())
    draw, as_large, done = np.random.default_rng(seed), 0, 0
    while done < RESAMPLES:  # in parts, so that memory does not grow with the number of questions
        part = min(RESAMPLES - done, max(1, MAX_SIGNS_AT_ONCE // len(differences)))
        signs = draw.integers(0, 2, (part, len(differences)), dtype=np.int8) * 2.0 - 1.0
        as_large += int((np.abs(signs @ differences) >= observed).sum())
        done += part
    return (as_large + 1) / (RESAMPLES + 1)


@functools.cache
def _sign_patterns(n: int) -> NDArray[np.float64]:
    """(2^n, n) all patterns of n signs."""
    return np.asarray(((np.arange(2**n)[:, None] >> np.arange(n)) & 1) * 2 - 1, np.float64)


def stratified(values: Sequence[float], strata: Sequence[str], *, test: bool = False, seed: int = 0) -> Estimate:
    """Mean over all questions, with fixed strata: SE^2 = sum of w_k^2 s_k^2 / n_k over strata k, w_k = n_k / n.

    Args:
        values: one for each question.
        strata: the stratum of each value, such as its specialty.
        test: whether to compute p, by flipping signs.
        seed: of the drawn sign patterns.
    """
    array, labels = np.asarray(values, float), np.asarray(strata)
    if len(array) < 2:
        return mean_interval(values)
    groups = _collapsed([array[labels == name] for name in np.unique(labels)])
    variance = sum((len(group) / len(array)) ** 2 * group.var(ddof=1) / len(group) for group in groups)
    if variance == 0 and len(groups) > 1:  # no stratum varies: what is left is how the strata differ
        return paired(values, seed) if test else mean_interval(values)
    half = stats.t.ppf((1 + LEVEL) / 2, len(array) - len(groups)) * math.sqrt(variance)
    mean = float(array.mean())
    return Estimate(len(array), mean, mean - half, mean + half, sign_flip_p(array, seed) if test else math.nan)


def _collapsed(groups: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Strata of two questions or more. Those of one question, whose variance nobody knows, become one stratum, and a single one of them joins the
    smallest other (collapsed strata, Cochran 1977, section 5A.12)."""
    single, kept = [group for group in groups if len(group) == 1], [group for group in groups if len(group) > 1]
    if len(single) == 1 and kept:
        single.append(kept.pop(min(range(len(kept)), key=lambda place: len(kept[place]))))
    return [*kept, np.concatenate(single)] if single else kept


def mcnemar_p(only_one: int, only_other: int) -> float:
    """Two-sided exact p value for two paired proportions being equal, from the pairs that differ (McNemar 1947).

    Args:
        only_one, only_other: pairs in which only the first, or only the second, has the property.
    """
    differing = only_one + only_other
    return float(stats.binomtest(only_one, differing, 0.5).pvalue) if differing else 1.0


def paired_proportions(only_one: int, only_other: int, n: int) -> Estimate:
    """The difference of two paired proportions (other minus one) with its 95% interval, and the exact McNemar p value.

    The interval is Wald's after half a pair is added to each of the four cells (Agresti and Min 2005, doi:10.1002/sim.1781). Without
    that, it would have no width if no pair differs.

    Args:
        only_one, only_other: pairs in which only the first, or only the second, has the property.
        n: number of pairs.
    """
    if not n:
        return Estimate(0, math.nan, math.nan, math.nan)
    one, other, total = only_one + 0.5, only_other + 0.5, n + 2
    shift = (other - one) / total
    half = stats.norm.ppf((1 + LEVEL) / 2) * math.sqrt((one + other) / total - shift**2) / math.sqrt(total)
    interval = Estimate(n, (only_other - only_one) / n, shift - half, shift + half, mcnemar_p(only_one, only_other))
    return interval.within(-1, 1)


def false_discovery_adjusted(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg adjusted p values; NaN stays NaN and is not counted as a comparison."""
    array = np.asarray(p_values, float)
    known = ~np.isnan(array)
    adjusted = np.full(len(array), np.nan)
    if known.any():
        adjusted[known] = stats.false_discovery_control(array[known], method="bh")
    return [float(value) for value in adjusted]


def family_adjusted(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (1979): the chance of any false alarm among all of them is bounded; NaN stays NaN and is not counted."""
    array = np.asarray(p_values, float)
    known = np.flatnonzero(~np.isnan(array))
    adjusted, largest = np.full(len(array), np.nan), 0.0
    for rank, place in enumerate(known[np.argsort(array[known], kind="stable")]):
        largest = max(largest, min(1.0, float(array[place]) * (len(known) - rank)))
        adjusted[place] = largest
    return [float(value) for value in adjusted]


def smallest_detectable(sd: float, n: int, comparisons: int = 1) -> float:
    """The smallest true difference that n paired questions detect with 80% power (t test, two-sided, .05).

    Args:
        sd: standard deviation of the differences.
        comparisons: number of comparisons made together; each must then be significant at .05 divided by this number.

    Returns:
        The difference; NaN if no difference can be significant, because flipping n signs gives no p below 2 / 2^n.
    """
    level = ALPHA / comparisons
    return _smallest_in_sd(n, level) * sd if n >= 2 and sd > 0 and 2.0 ** (1 - n) <= level else math.nan


@functools.cache
def _smallest_in_sd(n: int, level: float) -> float:
    """The same in standard deviations of the differences: the effect for which the t test (noncentral t) has `POWER`.

    statsmodels' TTestPower gives the same result, but fails for some n, 73 among them. The probability of a significant difference with
    the wrong sign is left out; at this power it is negligible.
    """
    critical = stats.t.ppf(1 - level / 2, n - 1)
    guess = (critical + stats.t.ppf(POWER, n - 1)) / math.sqrt(n)
    effect = optimize.brentq(
        lambda effect: float(stats.nct.sf(critical, n - 1, effect * math.sqrt(n))) - POWER, 0.3 * guess, 1.2 * guess
    )
    return float(effect)
