"""Rates that a judge reports, corrected by its errors: formulas, coverage in simulation, and what cannot be corrected."""

import math

import numpy as np
import pytest

from meerkat_workbench.stats import agreement, judge_correction, regression
from meerkat_workbench.stats.judge_correction import Calibration, PairedCounts

RUNS = 4000
# true rate, sensitivity, specificity, judged items, rated items with yes and with no
SETTINGS = [
    (0.5, 0.9, 0.8, 200, 40, 40),
    (0.8, 0.9, 0.7, 300, 60, 25),
    (0.3, 0.8, 0.9, 100, 20, 40),
    (0.95, 0.85, 0.85, 200, 60, 20),
    (0.6, 0.7, 0.7, 200, 40, 40),
]


def rated(draw, sensitivity, specificity, positives, negatives):
    """Counts of rated items of many simulated judges: true positives, positives, true negatives, negatives."""
    counts = draw.binomial(positives, sensitivity, RUNS), positives, draw.binomial(negatives, specificity, RUNS), negatives
    return [np.broadcast_to(np.asarray(count, float), RUNS) for count in counts]


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_interval_of_a_corrected_rate_covers_the_true_rate_about_as_often_as_it_says(setting):
    theta, sensitivity, specificity, n, positives, negatives = setting
    draw = np.random.default_rng(0)
    reported = theta * sensitivity + (1 - theta) * (1 - specificity)
    judged = draw.binomial(n, reported, RUNS).astype(float)
    low, high = judge_correction.rate_interval(
        judged, np.full(RUNS, float(n)), *rated(draw, sensitivity, specificity, positives, negatives)
    )
    assert 0.92 < np.mean((low <= theta) & (high >= theta)) < 0.99
    uncorrected = np.abs(judged / n - theta) <= 1.96 * np.sqrt(judged / n * (1 - judged / n) / n)
    assert uncorrected.mean() < 0.92 or abs(reported - theta) < 0.05  # there the judge's errors cancel


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_interval_of_a_corrected_difference_covers_the_true_difference_about_as_often_as_it_says(setting):
    theta, sensitivity, specificity, n, positives, negatives = setting
    draw = np.random.default_rng(1)
    second = theta - 0.2
    truth = draw.random((RUNS, n, 1)) < np.array([theta, second])  # the same question is easy or hard for both
    yes = np.where(truth, draw.random((RUNS, n, 2)) < sensitivity, draw.random((RUNS, n, 2)) > specificity)
    only_first, only_second = ((yes[..., a] & ~yes[..., b]).sum(axis=1).astype(float) for a, b in ((0, 1), (1, 0)))
    low, high = judge_correction.difference_interval(
        only_first, only_second, np.full(RUNS, float(n)), *rated(draw, sensitivity, specificity, positives, negatives)
    )
    assert 0.92 < np.mean((low <= second - theta) & (high >= second - theta)) < 0.99


def test_the_interval_is_rather_too_wide_than_too_narrow_where_the_rated_items_are_among_the_judged_ones():
    draw, n, of_rated = np.random.default_rng(2), 200, 60
    truth = draw.random((RUNS, n)) < 0.7
    yes = np.where(truth, draw.random((RUNS, n)) < 0.85, draw.random((RUNS, n)) > 0.8)
    true, says = truth[:, :of_rated], yes[:, :of_rated]
    counts = (yes.sum(1), np.full(RUNS, n), (true & says).sum(1), true.sum(1), (~true & ~says).sum(1), (~true).sum(1))
    low, high = judge_correction.rate_interval(*(count.astype(float) for count in counts))
    assert np.mean((low <= 0.7) & (high >= 0.7)) > 0.95


def test_a_perfect_judge_is_not_corrected_and_an_erring_one_is_by_the_formula():
    perfect = judge_correction.corrected_rate(60, 100, Calibration(30, 30, 20, 20))
    assert perfect.judged == 0.6 and perfect.value == pytest.approx(0.6) and perfect.low < 0.6 < perfect.high
    erring = judge_correction.corrected_rate(50, 100, Calibration(40, 32, 20, 18))
    assert erring.value == pytest.approx((0.5 + 0.9 - 1) / (0.8 + 0.9 - 1))
    assert judge_correction.corrected_rate(5, 100, Calibration(40, 32, 20, 16)).value == 0  # clipped
    difference = judge_correction.corrected_difference(PairedCounts(30, 10, 24, 36), Calibration(40, 32, 20, 18))
    assert difference.judged == 0.14 and difference.value == pytest.approx(0.2) and difference.low < 0.2 < difference.high


def test_more_rated_items_give_a_narrower_interval():
    few, many = (judge_correction.corrected_rate(120, 200, Calibration(n, n * 9 // 10, n, n * 8 // 10)) for n in (10, 100))
    assert few.value == many.value and many.high - many.low < few.high - few.low


@pytest.mark.parametrize(
    ("calibration", "n"),
    [
        (Calibration(20, 10, 20, 10), 50),  # a judge that guesses
        (Calibration(20, 2, 20, 2), 50),  # one that says the opposite
        (Calibration(0, 0, 20, 18), 50),
        (Calibration(20, 18, 0, 0), 50),
        (Calibration(2, 2, 1000, 10), 50),  # above chance before the adjustment only
        (Calibration(20, 18, 20, 18), 0),
    ],
)
def test_what_cannot_be_corrected_is_missing_with_its_reason(calibration, n):
    rate = judge_correction.corrected_rate(n // 2, n, calibration)
    difference = judge_correction.corrected_difference(PairedCounts(n, 0, 0, 0), calibration)
    for one in (rate, difference):
        assert one.missing and all(map(math.isnan, (one.value, one.low, one.high)))


def test_cohen_kappa_is_that_of_statsmodels_and_unknown_where_all_say_the_same():
    from statsmodels.stats import inter_rater

    draw = np.random.default_rng(3)
    one = draw.integers(0, 3, 200)
    other = np.where(draw.random(200) < 0.6, one, draw.integers(0, 3, 200))
    table, _ = inter_rater.to_table(np.column_stack([one, other]))
    assert agreement.cohen_kappa(one.tolist(), other.tolist()) == pytest.approx(inter_rater.cohens_kappa(table).kappa)
    assert agreement.kappa(np.column_stack([one, other])) == agreement.cohen_kappa(one.tolist(), other.tolist())
    three = np.column_stack([one, other, one])
    assert agreement.kappa(three) == agreement.fleiss_kappa(three)
    assert all(math.isnan(value) for value in (
        agreement.cohen_kappa([1, 1], [1, 1]), agreement.cohen_kappa([], []), agreement.kappa(np.ones((4, 3), int)), agreement.kappa(np.ones((4, 1), int)),
    ))  # fmt: skip


def test_the_intercept_of_a_line_is_that_of_statsmodels():
    import statsmodels.api

    draw = np.random.default_rng(4)
    x = draw.normal(size=40)
    y = 0.3 + 0.5 * x + draw.normal(size=40)
    fitted = statsmodels.api.OLS(y, statsmodels.api.add_constant(x)).fit()
    line = regression.line(y.tolist(), x.tolist())
    assert line.intercept.mean == pytest.approx(fitted.params[0]) and line.slope == pytest.approx(fitted.params[1])
    assert (line.intercept.low, line.intercept.high) == pytest.approx(tuple(fitted.conf_int()[0]))
    assert line.intercept.p == pytest.approx(fitted.pvalues[0])


def test_no_line_is_fitted_to_two_pairs_or_to_one_value_of_the_covariate():
    for y, x in (([1.0, 2.0], [0.0, 1.0]), ([1.0, 2.0, 3.0], [0.5] * 3), ([], [])):
        line = regression.line(y, x)
        assert math.isnan(line.slope) and math.isnan(line.intercept.mean) and line.intercept.n == len(y)
