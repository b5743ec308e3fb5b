"""Intervals, p values and shrinkage against other implementations, and the ranking of specialties made from them."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from meerkat_workbench.stats import shrinkage, significance
from meerkat_workbench.tuning.allocation.ranking import rank_specialties

DIFFERENCES = [0.3, 0.1, -0.2, 0.4, 0.5, 0.1, 0.0, 0.2]


def test_the_interval_is_student_t():
    estimate = significance.paired(DIFFERENCES)
    expected = stats.ttest_1samp(DIFFERENCES, 0).confidence_interval()
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))


def test_the_p_value_counts_every_flip_of_signs():
    observed = abs(np.mean(DIFFERENCES))
    flips = [np.mean([s * d for s, d in zip(signs, DIFFERENCES, strict=True)]) for signs in itertools.product((1, -1), repeat=8)]
    assert significance.paired(DIFFERENCES).p == pytest.approx(np.mean([abs(f) >= observed - 1e-12 for f in flips]))


def test_the_p_value_is_that_of_scipy():
    for n in (5, 9, 40):
        values = np.random.default_rng(n).normal(0.3, 1, n)
        expected = stats.permutation_test(
            (values,), lambda v, axis: v.mean(axis=axis), permutation_type="samples", n_resamples=9999, vectorized=True, rng=0
        ).pvalue
        assert significance.sign_flip_p(values) == pytest.approx(expected, abs=1e-12 if n <= 12 else 0.02)


def test_one_question_has_no_p_value_and_no_difference_has_p_1():
    assert math.isnan(significance.paired([0.5]).p)
    assert significance.paired([0.0] * 5).p == 1 and significance.paired([0.0, 0.0, 0.7]).p == 1


def test_the_stratified_error_is_smaller_than_the_plain_one_where_specialties_differ():
    values = [0.0, 0.1, 0.2, 1.0, 1.1, 1.2]
    strata = ["a"] * 3 + ["b"] * 3
    estimate = significance.stratified(values, strata)
    # each stratum: w = 1/2, s^2 = 0.01, n = 3
    half = stats.t.ppf(0.975, 4) * math.sqrt(2 * 0.25 * 0.01 / 3)
    assert (estimate.mean, estimate.high - estimate.mean) == pytest.approx((0.6, half))


def test_strata_of_one_question_are_one_stratum():
    values = [0.0, 0.0, 0.0, 0.0, 0.0, 0.67, 0.0]
    strata = ["a", "a", "a", "b", "b", "c", "d"]  # only a stratum of one question differs
    estimate = significance.stratified(values, strata, test=True)
    variance = (2 / 7) ** 2 * np.var([0.67, 0.0], ddof=1) / 2
    half = stats.t.ppf(0.975, 7 - 3) * math.sqrt(variance)
    assert (
        (estimate.low, estimate.high) == pytest.approx((0.67 / 7 - half, 0.67 / 7 + half))
        and estimate.low < 0
        and estimate.p == 1
    )
    lonely = significance.stratified(values[:-1], strata[:-1])  # it joins the smallest other
    half = stats.t.ppf(0.975, 6 - 2) * math.sqrt((3 / 6) ** 2 * np.var([0.0, 0.0, 0.67], ddof=1) / 3)
    assert (lonely.low, lonely.high) == pytest.approx((0.67 / 6 - half, 0.67 / 6 + half))


def test_where_no_stratum_varies_their_differences_make_the_interval():
    estimate = significance.stratified([0.0, 0.0, 0.0, 0.0, 0.5, 0.5], ["a", "a", "b", "b", "c", "c"], test=True)
    assert estimate == significance.paired([0.0, 0.0, 0.0, 0.0, 0.5, 0.5]) and estimate.low < 0


def test_intervals_cover_and_false_alarms_stay_at_the_stated_rate():
    draw = np.random.default_rng(0)
    strata = [str(k) for k in range(10) for _ in range(10)]
    covered = alarms = 0
    for _ in range(400):
        offsets = np.repeat(draw.normal(0, 0.5, 10), 10)
        values = offsets + draw.normal(0, 1, 100)
        estimate = significance.stratified(list(values), strata)
        covered += estimate.low <= offsets.mean() <= estimate.high
        alarms += significance.sign_flip_p(draw.normal(0, 1, 10)) <= 0.05
    assert 0.92 <= covered / 400 <= 0.98 and alarms / 400 <= 0.08


def test_adjusted_p_values_are_those_of_benjamini_and_hochberg_and_skip_unknown_ones():
    assert significance.false_discovery_adjusted([0.01, math.nan, 0.04, 0.03]) == pytest.approx(
        [0.03, math.nan, 0.04, 0.04], nan_ok=True
    )


def test_ten_questions_show_one_standard_deviation_at_best():
    from statsmodels.stats.power import TTestPower

    assert significance.smallest_detectable(1.0, 10) == pytest.approx(1.0, abs=0.01)
    for n in (6, 16, 73, 87, 420, 100_000):  # a second implementation finds that power
        effect = significance.smallest_detectable(1.0, n)
        assert TTestPower().power(effect, n, 0.05) == pytest.approx(0.8, abs=1e-3), n


def test_a_difference_that_no_specialty_can_show_after_correction_has_no_size():
    assert math.isnan(significance.smallest_detectable(1.0, 5))  # flipping five signs gives no p below .0625
    assert math.isnan(significance.smallest_detectable(1.0, 10, 42))
    assert significance.smallest_detectable(1.0, 16, 42) > significance.smallest_detectable(1.0, 16) > 0


def test_shrinking_pulls_means_to_their_centre_by_their_uncertainty():
    means, variances = np.array([0.1, 0.2, 0.6]), np.array([0.001, 0.001, 0.001])
    shrunk, errors = shrinkage.shrink(means, variances)
    assert all(abs(shrunk - means.mean()) < abs(means - means.mean())) and (errors < 0.001**0.5).all()
    assert shrinkage.shrink(means, variances * 1000)[0] == pytest.approx([0.3] * 3)
    assert shrinkage.shrink(np.zeros(3), variances)[0] == pytest.approx([0.0] * 3)


def specialties(low: float, count: int = 20, n: int = 12, seed: int = 0):
    draw = np.random.default_rng(seed)
    return {f"s{k:02d}": list(draw.normal(low if k == 0 else 0.5, 0.15, n)) for k in range(count)}


def test_a_specialty_far_below_the_others_is_supported():
    evidence = rank_specialties(specialties(0.2), seed=0)
    assert evidence[0].specialty == "s00" and evidence[0].supported and evidence[0].probability_among_worst > 0.95
    # a false discovery among the 19 others is possible, and rare
    assert sum(len([i for i in rank_specialties(specialties(0.2, seed=s), seed=0) if i.supported]) for s in range(20)) <= 24


def test_hardly_any_run_names_a_specialty_where_none_differs():
    false = sum(any(item.supported for item in rank_specialties(specialties(0.5, seed=seed), seed=0)) for seed in range(100))
    assert false <= 10


def test_small_samples_are_shrunk_toward_the_others():
    evidence = {item.specialty: item for item in rank_specialties(specialties(0.2), seed=0)}
    assert evidence["s00"].mean < evidence["s00"].shrunk < evidence["s00"].others


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (3, 9), (0, 12), (40, 41)])
def test_the_p_value_of_mcnemar_is_that_of_statsmodels(one, other):
    from statsmodels.stats.contingency_tables import mcnemar

    expected = mcnemar([[5, one], [other, 7]], exact=True).pvalue if one + other else 1.0
    assert significance.mcnemar_p(one, other) == pytest.approx(expected)


def test_a_mean_over_groups_of_one_has_the_usual_interval_and_equal_values_in_groups_widen_it():
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    alone = significance.clustered_mean(values, list("abcdef"))
    usual = significance.mean_interval(values)
    assert (alone.low, alone.high) == pytest.approx((usual.low, usual.high))
    repeated = significance.clustered_mean(
        [one for one in values for _ in range(4)], [name for name in "abcdef" for _ in range(4)]
    )
    assert (repeated.low, repeated.high) == pytest.approx((usual.low, usual.high))  # four copies say no more than one
