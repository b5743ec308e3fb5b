"""Whom to feed: the policies, the learning curves they rest on, and what is said of it."""

import math

import numpy as np
import pandas as pd
import pytest

from meerkat_workbench.tuning.allocation import curve_data, learning_curves, policies
from meerkat_workbench.tuning.allocation.learning_curves import Observations
from meerkat_workbench.tuning.allocation.ranking import rank_specialties
from meerkat_workbench.tuning.allocation.recommendations import PoolState, advice, allocate, default_budget, round_allocation

NAMES = [f"s{number:02d}" for number in range(20)]


def scores(low, n=12, seed=0):
    draw = np.random.default_rng(seed)
    return {name: list(draw.normal(low if place == 0 else 0.5, 0.15, n)) for place, name in enumerate(NAMES)}


def stock(pool=20, share=0.5, names=NAMES):
    return PoolState(dict.fromkeys(names, share), dict.fromkeys(names, 50), dict.fromkeys(names, 15), dict.fromkeys(names, pool))


def seen(curve, trained, noise=0.0, questions=16, seed=0):
    """Evaluations of specialties that score `curve(records)`."""
    draw = np.random.default_rng(seed)
    trained = np.asarray(trained, float)
    means = np.array([curve(row) for row in trained]) + draw.normal(0, noise / math.sqrt(questions), trained.shape)
    return Observations(
        trained, means, np.full(trained.shape[1], float(questions)), max(noise, 0.02), math.sqrt(2) * max(noise, 0.01)
    )


def fed(evidence, of=None, see=None, **more):
    of = of or stock()
    see = see or seen(lambda x: 0.3 + 0.0 * x, [[0.0] * len(of.shares), [15.0] * len(of.shares)])
    asked = {"policy": "threshold", "budget": None, "objective": "mean", "iterations": [1], "seed": 0}
    return allocate(evidence, of, see, **(asked | more))


def told(evidence, feeding, **more):
    return advice(evidence, feeding, metric="ROUGE-L", overall_improvement={"ROUGE-L": 0.1}, **more)


def test_the_threshold_rule_raises_a_supported_specialty_to_80_percent_and_then_to_all():
    evidence = rank_specialties(scores(0.2), seed=0)
    given = fed(evidence).of("s00")
    assert (given.recommended_share, given.records_added) == (0.8, 15)
    assert fed(evidence, stock(share=0.8, pool=10)).of("s00").recommended_share == 1.0


def test_a_raise_is_capped_by_the_pool_and_an_empty_pool_asks_for_data():
    evidence = rank_specialties(scores(0.2), seed=0)
    capped = fed(evidence, stock(pool=5)).of("s00")
    assert (capped.recommended_share, capped.records_added) == (0.6, 5)
    empty = told(evidence, fed(evidence, stock(pool=0)))
    assert empty["recommended_sample_increases"] == {}
    assert "The pool is empty for s00" in " ".join(empty["in_words"]) and "which need new data, not larger shares" in " ".join(
        empty["in_words"]
    )


def test_unsupported_advice_says_so_and_what_would_settle_it():
    evidence = rank_specialties(scores(0.5, seed=1), seed=0)
    text = told(evidence, fed(evidence))
    assert text["recommended_sample_increases"] == {} and text["overall_improvement"] == {"ROUGE-L": 0.1}
    assert "No specialty" in text["in_words"][0] and "eval questions" in text["in_words"][1]
    assert len(text["measured_lowest_without_support"]) == 5 and evidence[0].questions_to_settle > 12


@pytest.mark.parametrize("policy", list(policies.POLICIES))
def test_every_policy_spends_exactly_its_budget_and_no_pool_twice(policy):
    evidence = rank_specialties(scores(0.2), seed=0)
    see = seen(lambda x: 0.2 + 0.3 * (1 - np.exp(-x / 20)), [[0.0] * 20, [15.0] * 20], noise=0.1)
    for budget in (0, 1, 37, 400, 10_000):
        feeding = fed(evidence, see=see, policy=policy, budget=budget)
        added = [item.records_added for item in feeding.given]
        assert sum(added) == min(budget, 400) == feeding.budget and max(added) <= 20 and min(added) >= 0
        text = told(evidence, feeding)
        assert set(text["recommended_sample_increases"]) == {item.specialty for item in feeding.given if item.records_added}
        assert text["policy"]["name"] == policy and text["policy"]["budget"] == feeding.budget


def test_without_a_budget_it_is_what_raising_the_lowest_fifth_to_80_percent_adds():
    evidence = rank_specialties(scores(0.2), seed=0)
    assert default_budget(evidence, stock()) == 4 * 15
    assert fed(evidence, policy="proportional").budget == 60
    # where these have all they can have, a tenth of the training set
    low = [item.specialty for item in evidence[:4]]
    given = stock()
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


def test_curves_are_read_from_what_past_shares_bought():
    trained = [[0.0] * 12, list(np.linspace(10, 40, 12)), list(np.linspace(60, 20, 12))]
    level, gain = np.linspace(0.2, 0.4, 12), np.linspace(0.05, 0.3, 12)
    see = seen(lambda x: level + gain * (1 - np.exp(-x / 25)), trained, noise=0.02)
    curves = learning_curves.fit(see, 400, 0)
    truth = level + gain * (1 - np.exp(-80 / 25))
    predicted = curves.scores(np.full(12, 80.0))
    assert np.abs(predicted.mean(0) - truth).max() < 0.03
    assert curves.gains_differ > 0.99


def test_where_specialties_gain_alike_the_curves_say_so():
    believed = []
    for seed in range(20):
        see = seen(lambda x: 0.3 + 0.2 * (1 - np.exp(-x / 20)), [[0.0] * 42, [12.0] * 42, [20.0] * 42], noise=0.16, seed=seed)
        believed.append(learning_curves.fit(see, 50, 0).gains_differ)
    assert np.mean(believed) < 0.2 and np.mean(np.array(believed) > 0.5) <= 0.1


def test_by_learning_curves_a_specialty_that_has_learnt_all_it_can_is_not_fed_though_it_is_low():
    gain = np.where(np.arange(20) < 10, 0.0, 0.3)
    see = seen(
        lambda x: np.where(np.arange(20) < 10, 0.2, 0.4) + gain * (1 - np.exp(-x / 30)), [[0.0] * 20, [15.0] * 20], noise=0.05
    )
    evidence = rank_specialties(
        {name: list(np.full(16, see.means[-1, place]) + np.linspace(-0.1, 0.1, 16)) for place, name in enumerate(NAMES)}, seed=0
    )
    feeding = fed(evidence, see=see, policy="learning curves", budget=100)
    added = np.array([feeding.of(name).records_added for name in NAMES])
    # but for the tenth that goes by the natural mix
    assert added[:10].sum() <= 10 < 90 <= added[10:].sum() and not feeding.allocation.kept
    threshold = fed(evidence, see=see, policy="threshold", budget=100)
    assert sum(threshold.of(name).records_added for name in NAMES[:10]) == 100
    text = told(evidence, feeding)
    assert text["policy"]["expected_gain"] > text["policy"]["expected_gain_of_natural_mix"] > 0
    assert 0 <= text["policy"]["probability_that_specialties_gain_differently"] <= 1
    assert "where the learning curves of the base and this iteration expect most in the mean" in " ".join(text["in_words"])


def test_where_training_is_not_known_to_help_the_natural_mix_is_kept_and_why_is_said():
    kept = 0
    evidence = rank_specialties(scores(0.5), seed=0)
    for seed in range(20):
        see = seen(lambda x: 0.3 + 0.0 * x, [[0.0] * 20, [15.0] * 20], noise=0.2, seed=seed)
        feeding = fed(evidence, see=see, policy="learning curves", budget=100)
        if feeding.allocation.kept:
            kept += 1
            assert {item.records_added for item in feeding.given} == {5}
            assert "in the proportions of the pool (the natural mix): by the learning curves" in " ".join(
                told(evidence, feeding)["in_words"]
            )
    assert kept >= 17


def test_the_objective_decides_whom_more_is_expected_of():
    level = np.linspace(0.1, 0.6, 20)
    see = seen(lambda x: level + np.linspace(0.1, 0.3, 20) * (1 - np.exp(-x / 30)), [[0.0] * 20, [15.0] * 20], noise=0.05)
    evidence = rank_specialties(scores(0.5), seed=0)
    added = {}
    for objective in ("mean", "worst decile", {"s19": 100.0, "s18": 0.0}):
        feeding = fed(evidence, see=see, policy="learning curves", budget=60, objective=objective)
        added[str(objective)] = np.array([feeding.of(name).records_added for name in NAMES])
    assert added["mean"][10:].sum() > 45 and added["worst decile"][:4].sum() > 45
    assert added[str(objective)][19] == 20 and added[str(objective)][18] <= 1


def test_an_empty_pool_is_told_with_how_many_new_questions_it_would_take():
    see = seen(lambda x: 0.2 + 0.3 * (1 - np.exp(-x / 60)), [[0.0] * 20, [15.0] * 20], noise=0.02)
    evidence = rank_specialties(scores(0.2), seed=0)
    pools = stock()
    spent = PoolState(pools.shares, pools.share_base, pools.train, {name: 0 if name == "s00" else 20 for name in NAMES})
    feeding = fed(evidence, spent, see, policy="learning curves", budget=50)
    needed = feeding.of("s00").new_records_needed
    # 0.3 * exp(-15/60) * (1 - exp(-n/60)) = 0.01 at n = 2.6
    assert needed is not None and 1 <= needed <= 6
    assert (
        f"The pool is empty for s00, which need new data, not larger shares: new questions for +0.01 in the score would be s00 about {needed}."
        in told(evidence, feeding)["in_words"]
    )


def test_gains_count_as_better_where_lower_is_better():
    see = seen(lambda x: -3.0 + 0.5 * (1 - np.exp(-x / 30)), [[0.0] * 20, [15.0] * 20], noise=0.02)
    low = {name: list(-np.array(values)) for name, values in scores(0.8).items()}
    evidence = rank_specialties(low, seed=0)
    text = told(evidence, fed(evidence, see=see, policy="learning curves", budget=50), lower_is_better=True)
    assert text["evidence"][0]["mean"] > 0 and text["evidence"][0]["expected_gain"] > 0


def test_a_specialty_without_scores_is_fed_by_what_is_believed_of_the_others():
    see = seen(lambda x: 0.2 + 0.3 * (1 - np.exp(-x / 30)), [[0.0] * 20, [15.0] * 20], noise=0.05)
    see.means[:, 3] = np.nan
    evidence = rank_specialties({name: values for name, values in scores(0.5).items() if name != "s03"}, seed=0)
    for policy in policies.POLICIES:
        feeding = fed(evidence, see=see, policy=policy, budget=200)
        assert sum(item.records_added for item in feeding.given) == 200
    assert math.isfinite(fed(evidence, see=see, policy="learning curves", budget=200).of("s03").expected_gain)


def test_one_specialty_alone_is_fed():
    one = stock(names=["s00"])
    see = seen(lambda x: 0.2 + 0.01 * x, [[0.0], [15.0]], noise=0.05)
    for policy in policies.POLICIES:
        assert fed([], one, see, policy=policy, budget=7).of("s00").records_added == 7
    text = told([], fed([], one, see, policy="proportional", budget=7))
    assert text["recommended_sample_increases"] == {"s00": pytest.approx(0.64)} and "Fewer than two" in text["in_words"][0]


def test_observations_are_means_over_eval_questions_and_the_scatter_of_scores_and_changes():
    def table(shift):
        rows = [{"id": f"{name}{k}", "split": split, "specialty": name, "ROUGE-L": 0.1 * k + shift + (name == "b") * 0.2}
                for name in "ab" for k in range(4) for split in ("eval", "holdout")]  # fmt: skip
        return pd.DataFrame(rows)

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
    given = fed(evidence, demo).of("s00")
    assert (given.recommended_share, given.records_added) == (0.8, 9)
    almost = PoolState({**demo.shares, "s00": 0.792857}, demo.share_base, demo.train, demo.pool)
    assert fed(evidence, almost).of("s00").records_added == 1 and demo.share_with("s00", 5) == pytest.approx(41 / 56, abs=1e-6)
    raised = PoolState({**demo.shares, "s00": 0.8}, demo.share_base, demo.train, demo.pool)
    assert (fed(evidence, raised).of("s00").recommended_share, fed(evidence, raised).of("s00").records_added) == (1.0, 11)


def test_with_a_budget_the_threshold_rule_has_the_same_80_percent():
    demo = PoolState(dict.fromkeys(NAMES, 0.65), dict.fromkeys(NAMES, 56), dict.fromkeys(NAMES, 20), dict.fromkeys(NAMES, 20))
    see = seen(lambda x: np.linspace(0.1, 0.5, 20), [[0.0] * 20, [20.0] * 20])
    feeding = fed(rank_specialties(scores(0.2), seed=0), demo, see, budget=20)
    assert [feeding.of(name).records_added for name in NAMES[:4]] == [9, 9, 2, 0]


def test_where_no_question_has_a_score_the_natural_mix_is_kept():
    see = seen(lambda x: 0.3 + 0.0 * x, [[0.0] * 20, [15.0] * 20])
    see.means[:] = np.nan
    feeding = fed([], see=see, policy="learning curves", budget=40)
    assert {item.records_added for item in feeding.given} == {2}
    assert "no question of the eval split has a score" in " ".join(told([], feeding)["in_words"])


def test_a_spent_pool_and_a_budget_of_nothing_are_told_apart():
    evidence = rank_specialties(scores(0.5), seed=0)
    assert "BUDGET is 0" in " ".join(told(evidence, fed(evidence, policy="proportional", budget=0))["in_words"])
    assert "The pool is spent" in " ".join(told(evidence, fed(evidence, stock(pool=0), policy="threshold", budget=5))["in_words"])


def test_means_of_other_questions_are_not_compared():
    def table(places, shift=0.0):
        return pd.DataFrame([{"id": f"q{k}", "split": "eval", "specialty": "a", "ROUGE-L": 0.1 * k + shift} for k in places])

    # an evaluation of two of eight questions says nothing beside one of all; one of seven does, on those seven
    found = curve_data.collect_observations(
        table(range(8)), [table([0, 1]), table(range(7), 0.1), table(range(8), 0.2)], [{"a": 1}] * 3, ["a"], "ROUGE-L", sign=1
    )
    assert np.isnan(found.means[1, 0]) and found.questions.tolist() == [7]
    assert found.means[[0, 2, 3], 0] == pytest.approx([0.3, 0.4, 0.5])
