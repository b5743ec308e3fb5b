"""Probabilities that one can believe: calibrators of scores, and how far probabilities are from what happens.

Three calibrators are fitted: temperature (Guo et al. 2017), Platt's logistic regression (1999) and isotonic regression (Zadrozny and Elkan 2002). The
one with the lowest cross-validated negative log-likelihood is kept, or none if the scores as they are do better. Calibrators are stored as numbers in
JSON, never as pickles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.core.artifacts import Artifact

Method = Literal["none", "temperature", "platt", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)
BINS = 15
FOLDS = 5
CLIP = 1e-6  # probabilities stay this far from 0 and 1, so that one surprise does not cost infinitely much


class Calibrator(Artifact, frozen=True, kw_only=True):
    """A map from a score in log-odds to a probability.

    Attributes:
        method: "none" leaves probabilities as they are.
        slope, intercept: of the log-odds; of temperature and Platt.
        xs, ys: of isotonic: probabilities at these log-odds. Between them it rises linearly, so that different scores tie only where it is flat;
            `probabilities` adds a slope that is too small to see.
        losses: cross-validated negative log-likelihood of each method.
    """

    method: Method
    slope: float = 1.0
    intercept: float = 0.0
    xs: list[float] = []
    ys: list[float] = []
    losses: dict[str, float] = {}

    def probabilities(self, log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) probabilities of (n,) log-odds."""
        from scipy.special import expit

        if self.method == "isotonic":
            return np.clip(np.interp(log_odds, self.xs, self.ys), CLIP, 1 - CLIP)
        return np.clip(expit(self.slope * log_odds + self.intercept), CLIP, 1 - CLIP)


def log_odds_of(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds of probabilities, which are first moved away from 0 and 1."""
    clipped = np.clip(probabilities, 1e-9, 1 - 1e-9)
    return np.log(clipped) - np.log1p(-clipped)


def fit(method: Method, log_odds: NDArray[np.float64], right: NDArray[np.bool_]) -> Calibrator:
    """A calibrator of one method.

    Raises:
        ValueError: all are right, or all wrong.
    """
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    if right.all() or not right.any():
        raise ValueError("needs right and wrong examples")
    if method == "none":
        return Calibrator(method=method)
    if method == "isotonic":
        model = IsotonicRegression(out_of_bounds="clip").fit(log_odds, right.astype(float))
        return Calibrator(method=method, xs=model.X_thresholds_.tolist(), ys=model.y_thresholds_.tolist())
    if method == "platt":
        regression = LogisticRegression(C=1e4).fit(log_odds[:, None], right)
        return Calibrator(method=method, slope=float(regression.coef_[0, 0]), intercept=float(regression.intercept_[0]))
    regression = LogisticRegression(C=1e4, fit_intercept=False).fit(log_odds[:, None], right)
    return Calibrator(method=method, slope=float(regression.coef_[0, 0]))


def choose(
    log_odds: NDArray[np.float64], right: NDArray[np.bool_], groups: Sequence[str], methods: Sequence[Method] = METHODS
) -> Calibrator:
    """The calibrator of the method with the lowest negative log-likelihood on held-out groups, fitted on all examples.

    Args:
        groups: (n,) what must not be divided, such as documents.

    Raises:
        ValueError: all are right, or all wrong.
    """
    from sklearn.model_selection import GroupKFold

    folds = min(FOLDS, len(set(groups)))
    losses: dict[str, float] = {}
    for method in methods:
        given = np.full(len(right), np.nan)
        for train, test in GroupKFold(folds).split(log_odds, right, groups) if folds > 1 else []:
            if right[train].any() and not right[train].all():
                given[test] = fit(method, log_odds[train], right[train]).probabilities(log_odds[test])
        known = ~np.isnan(given)
        losses[method] = round(negative_log_likelihood(given[known], right[known]), 6) if known.any() else float("inf")
    best = min(methods, key=lambda method: losses[method])
    chosen = fit(best, log_odds, right)
    finite = {name: value for name, value in losses.items() if np.isfinite(value)}
    return Calibrator(
        method=chosen.method, slope=chosen.slope, intercept=chosen.intercept, xs=chosen.xs, ys=chosen.ys, losses=finite
    )


class CalibrationError(Artifact, frozen=True, kw_only=True):
    """How far probabilities are from what happened.

    Attributes:
        ece_width, ece_mass: expected calibration error over 15 bins of equal width, and of equal numbers of examples.
        brier: mean squared difference of probability and outcome.
        nll: mean negative log-likelihood, in nats.
    """

    n: int
    accuracy: float
    mean: float
    ece_width: float
    ece_mass: float
    brier: float
    nll: float


def measure(probabilities: NDArray[np.float64], right: NDArray[np.bool_]) -> CalibrationError:
    """The errors of (n,) probabilities; NaN if n is 0."""
    return CalibrationError(
        n=len(right), accuracy=_mean(right.astype(float)), mean=_mean(probabilities),
        ece_width=_expected_error(probabilities, right, np.minimum((probabilities * BINS).astype(int), BINS - 1)),
        ece_mass=_expected_error(probabilities, right, _bins_of_equal_mass(probabilities)),
        brier=_mean((probabilities - right) ** 2), nll=negative_log_likelihood(probabilities, right),
    )  # fmt: skip


def negative_log_likelihood(probabilities: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean negative log-likelihood in nats."""
    clipped = np.clip(probabilities, CLIP, 1 - CLIP)
    return _mean(-np.where(right, np.log(clipped), np.log1p(-clipped)))


class ReliabilityBin(Artifact, frozen=True, kw_only=True):
    """Examples of about equal probability: what was said, and what happened."""

    n: int
    said: float
    happened: float


def reliability(probabilities: NDArray[np.float64], right: NDArray[np.bool_]) -> list[ReliabilityBin]:
    """The non-empty bins of a reliability diagram, of equal width."""
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    return [ReliabilityBin(n=int(chosen.sum()), said=_mean(probabilities[chosen]), happened=_mean(right[chosen].astype(float)))
            for number in range(BINS) if (chosen := bins == number).any()]  # fmt: skip


def _bins_of_equal_mass(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) a bin for each value, by rank."""
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks * BINS // max(1, len(values))


def _expected_error(probabilities: NDArray[np.float64], right: NDArray[np.bool_], bins: NDArray[np.int64]) -> float:
    if not len(right):
        return float("nan")
    gaps = [
        abs(float((probabilities[chosen] - right[chosen]).sum())) for number in range(BINS) if (chosen := bins == number).any()
    ]
    return float(sum(gaps) / len(right))


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def population_stability(reference: NDArray[np.float64], present: NDArray[np.float64], bins: int = 10) -> float:
    """Population stability index between two samples of scores: 0 for equal distributions; above .25 is usually called a shift.

    The bins hold equal shares of the reference (Siddiqi 2006). Half a count is added to each, so that empty bins do not give infinity.
    """
    if not len(reference) or not len(present):
        return float("nan")
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))
    shares = []
    for values in (reference, present):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) + 0.5
        shares.append(counts / counts.sum())
    expected, found = shares
    return float(((found - expected) * np.log(found / expected)).sum())
