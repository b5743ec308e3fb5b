"""Paired comparison of two arms: intervals, sign-flip permutation, strata, false discoveries.

d is the difference of the two arms on one question. Formulas: Student (1908) for one specialty, Cochran's stratified
standard error over specialties, Fisher's sign-flip permutation, Benjamini and Hochberg (1995). Signs are flipped with
numpy: scipy's permutation_test, against which the tests hold it, takes some 30 ms a specialty and metric.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

LEVEL = 0.95
ALPHA = 0.05  # at which a difference is called one
POWER = 0.8  # with which a smallest difference would be shown
EXACT_UP_TO = 12  # 4,096 sign patterns; beyond that they are drawn
RESAMPLES = 9_999


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; `p` is two-sided for "no difference". NaN where n is too small to tell."""

    n: int
    mean: float
    low: float
    high: float
    p: float = math.nan

    def within(self, low: float, high: float) -> Estimate:
        """The interval cut at what the mean can be: a few questions' t interval reaches beyond it."""
        return replace(self, low=float(np.clip(self.low, low, high)), high=float(np.clip(self.high, low, high)))


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean and t interval of one sample."""
    array = np.asarray(values, float)
    if len(array) < 2:
        return Estimate(len(array), float(array.mean()) if len(array) else math.nan, math.nan, math.nan)
    half = stats.t.ppf((1 + LEVEL) / 2, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array))
    return Estimate(len(array), float(array.mean()), float(array.mean() - half), float(array.mean() + half))


def paired(differences: Sequence[float], seed: int = 0) -> Estimate:
    """Mean difference with its t interval and the p value of a sign-flip permutation, exact up to 12 questions."""
    estimate = mean_interval(differences)
    if estimate.n < 2:
        return estimate
    return Estimate(estimate.n, estimate.mean, estimate.low, estimate.high, sign_flip_p(np.asarray(differences, float), seed))


def sign_flip_p(differences: NDArray[np.float64], seed: int = 0) -> float:
    """Two-sided p value for a mean of zero, when each difference may as well have had the other sign."""
    differences = differences[differences != 0]  # a difference of zero keeps its sign whatever is flipped
    if len(differences) < 2:  # one difference is as large with either sign
        return 1.0
    # sums that are equal but for rounding count as equal, as in scipy.stats.permutation_test
    observed = abs(differences.sum()) * (1 - 1e-12)
    if len(differences) <= EXACT_UP_TO:
        return float((np.abs(_every_sign(len(differences)) @ differences) >= observed).mean())
    draw, as_large, done = np.random.default_rng(seed), 0, 0
    while done < RESAMPLES:  # in parts, so that memory does not grow with the questions
        part = min(RESAMPLES - done, max(1, 2_000_000 // len(differences)))
        signs = draw.integers(0, 2, (part, len(differences)), dtype=np.int8) * 2.0 - 1.0
        as_large += int((np.abs(signs @ differences) >= observed).sum())
        done += part
    return (as_large + 1) / (RESAMPLES + 1)


@functools.cache
def _every_sign(n: int) -> NDArray[np.float64]:
    """(2^n, n) of every pattern of signs."""
    return np.asarray(((np.arange(2**n)[:, None] >> np.arange(n)) & 1) * 2 - 1, np.float64)


def stratified(values: Sequence[float], strata: Sequence[str], *, test: bool = False, seed: int = 0) -> Estimate:
    """Mean over all questions with specialties as fixed strata: SE^2 = sum w_k^2 s_k^2 / n_k, w_k = n_k / n.

    Strata of one question share the pooled variance. With `test`, p comes from flipping signs.
    """
    array, labels = np.asarray(values, float), np.asarray(strata)
    if len(array) < 2:
        return mean_interval(values)
    groups = [array[labels == name] for name in np.unique(labels)]
    freedom = sum(len(group) - 1 for group in groups)
    if freedom < 1:
        return paired(values, seed) if test else mean_interval(values)
    pooled = sum(((group - group.mean()) ** 2).sum() for group in groups) / freedom
    variance = sum(
        (len(group) / len(array)) ** 2 * (group.var(ddof=1) if len(group) > 1 else pooled) / len(group) for group in groups
    )
    half = stats.t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(variance)
    mean = float(array.mean())
    return Estimate(len(array), mean, mean - half, mean + half, sign_flip_p(array, seed) if test else math.nan)


def pooled_variance(groups: Sequence[NDArray[np.float64]]) -> float:
    """One variance within all groups: at ten questions a specialty's own is too noisy to weigh by."""
    freedom = sum(len(group) - 1 for group in groups if len(group))
    return float(sum(((group - group.mean()) ** 2).sum() for group in groups if len(group)) / max(freedom, 1))


def shrink(means: NDArray[np.float64], variances: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means drawn toward their common centre by how uncertain they are, and their standard errors (empirical Bayes).

    The variance between true means, tau^2, is Paule and Mandel's, through statsmodels. At least two means.
    """
    from statsmodels.stats.meta_analysis import combine_effects

    with np.errstate(divide="ignore", invalid="ignore"):  # a heterogeneity of nothing, where all means are equal
        result = combine_effects(means, variances, method_re="iterated")
    weight = variances / (variances + max(0.0, float(result.tau2)))
    return weight * float(result.mean_effect_re) + (1 - weight) * means, np.sqrt((1 - weight) * variances)


def mcnemar_p(only_one: int, only_other: int) -> float:
    """Two-sided exact p value for two paired shares being equal, from the pairs in which they differ (McNemar 1947)."""
    differing = only_one + only_other
    return float(stats.binomtest(only_one, differing, 0.5).pvalue) if differing else 1.0


def false_discovery_adjusted(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg adjusted p values; NaN stays NaN and does not count."""
    array = np.asarray(p_values, float)
    known = ~np.isnan(array)
    adjusted = np.full(len(array), np.nan)
    if known.any():
        adjusted[known] = stats.false_discovery_control(array[known], method="bh")
    return [float(value) for value in adjusted]


def smallest_detectable(sd: float, n: int, comparisons: int = 1) -> float:
    """The smallest true difference that n paired questions would show with 80% power (t test, two-sided, .05).

    Args:
        comparisons: how many are made at once: a single one must then pass .05 divided by them. NaN where it cannot,
            since flipping n signs gives no smaller p than 2 / 2^n.
    """
    level = ALPHA / comparisons
    return _smallest_in_sd(n, level) * sd if n >= 2 and sd > 0 and 2.0 ** (1 - n) <= level else math.nan


@functools.cache
def _smallest_in_sd(n: int, level: float) -> float:
    """In standard deviations of the differences: where the power of the t test (noncentral t) is `POWER`.

    statsmodels' TTestPower finds the same and fails for some n, 73 among them. The chance of a difference that is shown with
    the wrong sign is left out; at this power it is nil.
    """
    least = stats.t.ppf(1 - level / 2, n - 1)
    near = (least + stats.t.ppf(POWER, n - 1)) / math.sqrt(n)
    found = optimize.brentq(lambda sd: float(stats.nct.sf(least, n - 1, sd * math.sqrt(n))) - POWER, 0.3 * near, 1.2 * near)
    return float(found)
