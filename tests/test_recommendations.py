"""Which specialties get more records: the policies, the learning curves they rest on, and the recommendations made from them."""

import math

import numpy as np
import pandas as pd
import pytest

from meerkat_workbench.tuning.allocation import curve_data, learning_curves, policies
from meerkat_workbench.tuning.allocation.learning_curves import Observations
from meerkat_workbench.tuning.allocation.ranking import rank_specialties
from meerkat_workbench.tuning.allocation.recommendations import (
    MIN_USEFUL_GAIN,
    NOTHING_TO_COMPARE,
    PoolState,
    allocate,
    default_budget,
    recommend,
    round_allocation,
)
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable

NAMES = [f"s{number:02d}" for number in range(20)]


def scores(low, n=12, seed=0):
    draw = np.random.default_rng(seed)
    return {name: list(draw.normal(low if place == 0 else 0.5, 0.15, n)) for place, name in enumerate(NAMES)}


def pool_state(pool=20, share=0.5, names=NAMES):
    return PoolState(dict.fromkeys(names, share), dict.fromkeys(names, 50), dict.fromkeys(names, 15), dict.fromkeys(names, pool))


def observed(curve, trained, noise=0.0, questions=16, seed=0):
    """Evaluations of specialties that score `curve(records)`."""
    draw = np.random.default_rng(seed)
    trained = np.asarray(trained, float)
    means = np.array([curve(row) for row in trained]) + draw.normal(0, noise / math.sqrt(questions), trained.shape)
    return Observations(
        trained, means, np.full(trained.shape[1], float(questions)), max(noise, 0.02), math.sqrt(2) * max(noise, 0.01)
    )


def plan_of(evidence, stock=None, observations=None, **more):
    stock = stock or pool_state()
    specialties = len(stock.shares)
    observations = observations or observed(lambda x: 0.3 + 0.0 * x, [[0.0] * specialties, [15.0] * specialties])
    options = {"policy": "threshold", "budget": None, "objective": "mean", "iterations": [1], "seed": 0}
    return allocate(evidence, stock, observations, **(options | more))


def recommended(evidence, plan, **more):
    return recommend(
        evidence, plan, metric="ROUGE-L", overall_improvement={"ROUGE-L": 0.1}, improvement_split="holdout", iteration=1, **more
    )


def advice_on(recommendations, name):
    return next(item for item in recommendations.evidence if item.specialty == name)


def test_the_threshold_rule_raises_a_supported_specialty_to_80_percent_and_then_to_all():
    evidence = rank_specialties(scores(0.2), seed=0)
    given = plan_of(evidence).of("s00")
    assert (given.recommended_share, given.records_added) == (0.8, 15)
    assert plan_of(evidence, pool_state(share=0.8, pool=10)).of("s00").recommended_share == 1.0


def test_a_raise_is_capped_by_the_pool_and_an_empty_pool_is_reported():
    evidence = rank_specialties(scores(0.2), seed=0)
    capped = plan_of(evidence, pool_state(pool=5)).of("s00")
    assert (capped.recommended_share, capped.records_added) == (0.6, 5)
    state = pool_state()
    for pools in (dict.fromkeys(NAMES, 0), {**state.pool, "s00": 0}):
        empty = recommended(evidence, plan_of(evidence, PoolState(state.shares, state.share_base, state.train, pools)))
        low = advice_on(empty, "s00")
        assert "s00" not in empty.recommended_sample_increases and empty.low_performance_specialties[0] == "s00"
        assert (low.supported, low.records_left, low.records_added) == (True, 0, 0)
        assert sum("s00" in sentence for sentence in empty.sentences) == 2  # it is low, and its pool is empty
    enough = recommended(evidence, plan_of(evidence))
    assert enough.recommended_sample_increases["s00"] == 0.8


def test_where_no_specialty_is_supported_none_is_raised_and_what_would_settle_it_is_reported():
    evidence = rank_specialties(scores(0.5, seed=1), seed=0)
    found = recommended(evidence, plan_of(evidence))
    assert found.recommended_sample_increases == {} and found.overall_improvement == {"ROUGE-L": 0.1}
    assert found.low_performance_specialties == () and not any(item.supported for item in found.evidence)
    assert len(found.measured_lowest_without_support) == 5 and evidence[0].questions_to_settle > 12
    [settle] = [sentence for sentence in found.sentences if "EVAL_SPLIT_SIZE" in sentence]
    nearest = min((item for item in evidence if item.questions_to_settle), key=lambda item: item.p_adjusted)
    assert nearest.specialty in settle and f"{nearest.questions_to_settle - nearest.n:,}" in settle
    assert "specialty_adjustments" in settle


@pytest.mark.parametrize("policy", list(policies.POLICIES))
def test_every_policy_spends_exactly_its_budget_and_no_pool_twice(policy):
    evidence = rank_specialties(scores(0.2), seed=0)
    observations = observed(lambda x: 0.2 + 0.3 * (1 - np.exp(-x / 20)), [[0.0] * 20, [15.0] * 20], noise=0.1)
    for budget in (0, 1, 37, 400, 10_000):
        plan = plan_of(evidence, observations=observations, policy=policy, budget=budget)
        added = [item.records_added for item in plan.given]
        assert sum(added) == min(budget, 400) == plan.budget and max(added) <= 20 and min(added) >= 0
        found = recommended(evidence, plan)
        assert set(found.recommended_sample_increases) == {item.specialty for item in plan.given if item.records_added}
        assert found.policy.name == policy and found.policy.budget == plan.budget


def test_the_default_budget_is_what_raising_the_lowest_fifth_to_80_percent_adds():
    evidence = rank_specialties(scores(0.2), seed=0)
    assert default_budget(evidence, pool_state()) == 4 * 15
    assert plan_of(evidence, policy="proportional").budget == 60
    # where these have all they can have, a tenth of the training set
    low = [item.specialty for item in evidence[:4]]
    given = pool_state()
    spent = PoolState(
        {name: 1.0 if name in low else 0.5 for name in NAMES},
        given.share_base,
        given.train,
        {name: 0 if name in low else 20 for name in NAMES},
    )
    assert default_budget(evidence, spent) == 30


def test_whole_records_keep_the_sum_and_the_pools():
    assert round_allocation(np.array([1.5, 1.5, 1.0]), np.array([9.0, 9.0, 9.0]), 4) == [2, 1, 1]
    assert round_allocation(np.array([2.0, 0.4, 0.6]), np.array([2.0, 9.0, 9.0]), 3) == [2, 0, 1]


def test_curves_are_fitted_to_the_scores_of_earlier_shares():
    trained = [[0.0] * 12, list(np.linspace(10, 40, 12)), list(np.linspace(60, 20, 12))]
    level, gain = np.linspace(0.2, 0.4, 12), np.linspace(0.05, 0.3, 12)
    observations = observed(lambda x: level + gain * (1 - np.exp(-x / 25)), trained, noise=0.02)
    curves = learning_curves.fit(observations, 400, 0)
    truth = level + gain * (1 - np.exp(-80 / 25))
    predicted = curves.scores(np.full(12, 80.0))
    assert np.abs(predicted.mean(0) - truth).max() < 0.03
    assert curves.gains_differ > 0.99


def test_where_specialties_gain_alike_the_curves_say_so():
    believed = []
    for seed in range(20):
        observations = observed(
            lambda x: 0.3 + 0.2 * (1 - np.exp(-x / 20)), [[0.0] * 42, [12.0] * 42, [20.0] * 42], noise=0.16, seed=seed
        )
        believed.append(learning_curves.fit(observations, 50, 0).gains_differ)
    assert np.mean(believed) < 0.2 and np.mean(np.array(believed) > 0.5) <= 0.1


def test_by_learning_curves_a_low_specialty_that_gains_nothing_gets_no_records():
    gain = np.where(np.arange(20) < 10, 0.0, 0.3)
    observations = observed(
        lambda x: np.where(np.arange(20) < 10, 0.2, 0.4) + gain * (1 - np.exp(-x / 30)), [[0.0] * 20, [15.0] * 20], noise=0.05
    )
    evidence = rank_specialties(
        {name: list(np.full(16, observations.means[-1, place]) + np.linspace(-0.1, 0.1, 16)) for place, name in enumerate(NAMES)},
        seed=0,
    )
    plan = plan_of(evidence, observations=observations, policy="learning_curves", budget=100)
    added = np.array([plan.of(name).records_added for name in NAMES])
    # but for the tenth that goes by the natural mix
    assert added[:10].sum() <= 10 < 90 <= added[10:].sum() and not plan.allocation.kept
    threshold = plan_of(evidence, observations=observations, policy="threshold", budget=100)
    assert sum(threshold.of(name).records_added for name in NAMES[:10]) == 100
    found = recommended(evidence, plan)
    assert found.policy.expected_gain > found.policy.expected_gain_of_natural_mix > 0
    assert 0 <= found.policy.probability_that_specialties_gain_differently <= 1
    assert (found.policy.objective, found.policy.iterations, found.policy.natural_mix_kept) == ("mean", (1,), False)
    [decision] = [sentence for sentence in found.sentences if "POLICY=learning_curves" in sentence]
    gains = (found.policy.expected_gain, found.policy.expected_gain_of_natural_mix)
    assert all(f"{gain:+.3f}" in decision for gain in gains)
    assert f"{found.policy.probability_better_than_natural_mix:.2f}" in decision


def test_where_training_is_not_known_to_help_the_natural_mix_is_kept_and_why_is_reported():
    kept = 0
    evidence = rank_specialties(scores(0.5), seed=0)
    for seed in range(20):
        observations = observed(lambda x: 0.3 + 0.0 * x, [[0.0] * 20, [15.0] * 20], noise=0.2, seed=seed)
        plan = plan_of(evidence, observations=observations, policy="learning_curves", budget=100)
        if plan.allocation.kept:
            kept += 1
            assert {item.records_added for item in plan.given} == {5}
            found = recommended(evidence, plan)
            assert found.policy.natural_mix_kept
            [decision] = [sentence for sentence in found.sentences if "POLICY=learning_curves" in sentence]
            helps, better = found.policy.probability_that_training_helps, found.policy.probability_better_than_natural_mix
            assert f"{helps if helps < policies.MIN_PROBABILITY_TRAINING_HELPS else better:.2f}" in decision
    assert kept >= 17


def test_the_objective_decides_which_specialties_get_records():
    level = np.linspace(0.1, 0.6, 20)
    observations = observed(
        lambda x: level + np.linspace(0.1, 0.3, 20) * (1 - np.exp(-x / 30)), [[0.0] * 20, [15.0] * 20], noise=0.05
    )
    evidence = rank_specialties(scores(0.5), seed=0)
    added = {}
    for objective in ("mean", "worst_decile", {"s19": 100.0, "s18": 0.0}):
        plan = plan_of(evidence, observations=observations, policy="learning_curves", budget=60, objective=objective)
        added[str(objective)] = np.array([plan.of(name).records_added for name in NAMES])
    assert added["mean"][10:].sum() > 45 and added["worst_decile"][:4].sum() > 45
    assert added[str(objective)][19] == 20 and added[str(objective)][18] <= 1


def test_an_empty_pool_is_reported_with_the_number_of_new_questions_needed():
    observations = observed(lambda x: 0.2 + 0.3 * (1 - np.exp(-x / 60)), [[0.0] * 20, [15.0] * 20], noise=0.02)
    evidence = rank_specialties(scores(0.2), seed=0)
    pools = pool_state()
    spent = PoolState(pools.shares, pools.share_base, pools.train, {name: 0 if name == "s00" else 20 for name in NAMES})
    plan = plan_of(evidence, spent, observations, policy="learning_curves", budget=50)
    needed = plan.of("s00").new_records_needed
    # 0.3 * exp(-15/60) * (1 - exp(-n/60)) = 0.01 at n = 2.6
    assert needed is not None and 1 <= needed <= 6
    found = recommended(evidence, plan)
    assert advice_on(found, "s00").new_records_needed == needed and advice_on(found, "s00").records_left == 0
    [sentence_on_new_data] = [sentence for sentence in found.sentences if f"{MIN_USEFUL_GAIN:+g}" in sentence]
    assert "s00" in sentence_on_new_data and str(needed) in sentence_on_new_data
    assert not any(name in sentence_on_new_data for name in NAMES[1:])


def test_gains_count_as_better_where_lower_is_better():
    observations = observed(lambda x: -3.0 + 0.5 * (1 - np.exp(-x / 30)), [[0.0] * 20, [15.0] * 20], noise=0.02)
    low = {name: list(-np.array(values)) for name, values in scores(0.8).items()}
    evidence = rank_specialties(low, seed=0)
    plan = plan_of(evidence, observations=observations, policy="learning_curves", budget=50)
    first = recommended(evidence, plan, lower_is_better=True).evidence[0]
    assert first.mean > 0 and first.expected_gain > 0


def test_a_specialty_without_scores_gets_records_by_what_is_known_of_the_others():
    observations = observed(lambda x: 0.2 + 0.3 * (1 - np.exp(-x / 30)), [[0.0] * 20, [15.0] * 20], noise=0.05)
    observations.means[:, 3] = np.nan
    evidence = rank_specialties({name: values for name, values in scores(0.5).items() if name != "s03"}, seed=0)
    for policy in policies.POLICIES:
        plan = plan_of(evidence, observations=observations, policy=policy, budget=200)
        assert sum(item.records_added for item in plan.given) == 200
    by_curves = plan_of(evidence, observations=observations, policy="learning_curves", budget=200)
    assert math.isfinite(by_curves.of("s03").expected_gain)


def test_one_specialty_alone_gets_the_budget():
    one = pool_state(names=["s00"])
    observations = observed(lambda x: 0.2 + 0.01 * x, [[0.0], [15.0]], noise=0.05)
    for policy in policies.POLICIES:
        assert plan_of([], one, observations, policy=policy, budget=7).of("s00").records_added == 7
    found = recommended([], plan_of([], one, observations, policy="proportional", budget=7))
    assert found.recommended_sample_increases == {"s00": pytest.approx(0.64)} and found.sentences[0] == NOTHING_TO_COMPARE


def test_observations_are_means_over_eval_questions_and_the_scatter_of_scores_and_changes():
    def table(shift):
        rows = [{"id": f"{name}{k}", "split": split, "specialty": name, "ROUGE-L": 0.1 * k + shift + (name == "b") * 0.2}
                for name in "ab" for k in range(4) for split in ("eval", "holdout")]  # fmt: skip
        return AnswerTable(pd.DataFrame(rows))

    found = curve_data.collect_observations(
        table(0.0), [table(0.1), table(0.2)], [{"a": 5, "b": 6}, {"a": 7}], ["a", "b", "c"], "ROUGE-L", sign=1
    )
    assert found.trained.tolist() == [[0, 0, 0], [5, 6, 0], [7, 0, 0]]
    assert (
        found.means[:, :2] == pytest.approx(np.array([[0.15, 0.35], [0.25, 0.45], [0.35, 0.55]]))
        and np.isnan(found.means[:, 2]).all()
    )
    assert found.sd_question == pytest.approx(np.std([0, 0.1, 0.2, 0.3], ddof=1)) and found.sd_change < 1e-3
    assert curve_data.collect_observations(table(0.0), [table(0.1)], [{}], ["a"], "ROUGE-L", sign=-1).means[
        1, 0
    ] == pytest.approx(-0.25)


def test_a_raise_adds_what_preparation_counts_and_a_specialty_at_80_percent_is_never_stuck_below_it():
    # of 56 records 65% are 36 and 80% are 45, as preparation rounds them
    demo = PoolState(dict.fromkeys(NAMES, 0.65), dict.fromkeys(NAMES, 56), dict.fromkeys(NAMES, 20), dict.fromkeys(NAMES, 20))
    evidence = rank_specialties(scores(0.2), seed=0)
    given = plan_of(evidence, demo).of("s00")
    assert (given.recommended_share, given.records_added) == (0.8, 9)
    almost = PoolState({**demo.shares, "s00": 0.792857}, demo.share_base, demo.train, demo.pool)
    assert plan_of(evidence, almost).of("s00").records_added == 1
    assert demo.share_with("s00", 5) == pytest.approx(41 / 56, abs=1e-6)
    raised = plan_of(evidence, PoolState({**demo.shares, "s00": 0.8}, demo.share_base, demo.train, demo.pool)).of("s00")
    assert (raised.recommended_share, raised.records_added) == (1.0, 11)


def test_with_a_budget_the_threshold_rule_has_the_same_80_percent():
    demo = PoolState(dict.fromkeys(NAMES, 0.65), dict.fromkeys(NAMES, 56), dict.fromkeys(NAMES, 20), dict.fromkeys(NAMES, 20))
    observations = observed(lambda x: np.linspace(0.1, 0.5, 20), [[0.0] * 20, [20.0] * 20])
    plan = plan_of(rank_specialties(scores(0.2), seed=0), demo, observations, budget=20)
    assert [plan.of(name).records_added for name in NAMES[:4]] == [9, 9, 2, 0]


def test_where_no_question_has_a_score_the_natural_mix_is_kept():
    observations = observed(lambda x: 0.3 + 0.0 * x, [[0.0] * 20, [15.0] * 20])
    observations.means[:] = np.nan
    plan = plan_of([], observations=observations, policy="learning_curves", budget=40)
    assert {item.records_added for item in plan.given} == {2}
    decision = recommended([], plan).policy
    assert decision.natural_mix_kept and decision.expected_gain is None and decision.probability_that_training_helps is None


def test_a_spent_pool_and_a_budget_of_0_are_reported_differently():
    evidence = rank_specialties(scores(0.5, seed=1), seed=0)  # none is supported
    nothing_wanted = recommended(evidence, plan_of(evidence, policy="proportional", budget=0))
    nothing_left = recommended(evidence, plan_of(evidence, pool_state(pool=0), policy="threshold", budget=5))
    for found in (nothing_wanted, nothing_left):
        assert found.policy.budget == 0 and found.recommended_sample_increases == {}
    [why_nothing_wanted] = set(nothing_wanted.sentences) - set(nothing_left.sentences)
    [why_nothing_left] = set(nothing_left.sentences) - set(nothing_wanted.sentences)
    assert "BUDGET" in why_nothing_wanted and "BUDGET" not in why_nothing_left


def test_means_of_other_questions_are_not_compared():
    def table(places, shift=0.0):
        rows = [{"id": f"q{k}", "split": "eval", "specialty": "a", "ROUGE-L": 0.1 * k + shift} for k in places]
        return AnswerTable(pd.DataFrame(rows))

    # an evaluation of two of eight questions says nothing beside one of all; one of seven does, on those seven
    found = curve_data.collect_observations(
        table(range(8)), [table([0, 1]), table(range(7), 0.1), table(range(8), 0.2)], [{"a": 1}] * 3, ["a"], "ROUGE-L", sign=1
    )
    assert np.isnan(found.means[1, 0]) and found.questions.tolist() == [7]
    assert found.means[[0, 2, 3], 0] == pytest.approx([0.3, 0.4, 0.5])
