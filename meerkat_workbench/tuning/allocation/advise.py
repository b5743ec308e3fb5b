"""Turns scored answers into recommendations: which specialties get more training records in the next iteration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.allocation import curve_data, ranking, recommendations
from meerkat_workbench.tuning.allocation.objective import Objective
from meerkat_workbench.tuning.allocation.policies import PolicyName
from meerkat_workbench.tuning.artifacts import IterationRecord, Recommendations, Split
from meerkat_workbench.tuning.data import renames
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable
from meerkat_workbench.tuning.scoring.metric_suite import MetricSuite

MEASURED_ON_HOLDOUT_ONLY = ("preference_accuracy", "preference_wins")
FALLBACK_METRICS = ("ROUGE-L", "token_f1")  # tried in this order where the wanted steering metric is missing


@dataclass(frozen=True)
class AdviceOptions:
    """How the next iteration's records are divided: the settings POLICY, BUDGET and OBJECTIVE, and the seed."""

    policy: PolicyName
    budget: int | None
    objective: Objective
    seed: int


def check_steering_metric(wanted: str, suite: MetricSuite) -> None:
    """Check that the wanted metric exists and can rank answers.

    Raises:
        UserError: if it does not exist, or only describes answers.
    """
    where = f"STEERING_METRIC={wanted}"
    if suite.is_descriptive(wanted):
        remedy = "For example STEERING_METRIC=METEOR."
        raise UserError("only describes answers; no value of it is better than another", where=where, remedy=remedy)
    if wanted in MEASURED_ON_HOLDOUT_ONLY:
        fault = "is measured on the holdout only, and recommendations rest on the eval split"
        raise UserError(fault, where=where, remedy="For example STEERING_METRIC=content_f1.")
    if wanted not in suite.names():
        raise UserError("there is no such metric", where=where, remedy=f"There are {', '.join(suite.names())}.")


def steering_metric(wanted: str, suite: MetricSuite, missing: Mapping[str, str]) -> str:
    """The wanted metric. If it is missing, another one that is not, with a note on the console.

    Args:
        missing: the reason why a metric has no values, by metric.

    Raises:
        UserError: if every metric is missing.
    """
    for name in (wanted, *FALLBACK_METRICS, *suite.names()):
        if name not in missing and not suite.is_descriptive(name):
            if name != wanted:
                print(f"  STEERING_METRIC={wanted} is missing, so charts and recommendations use {name} instead")
            return name
    reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
    raise UserError(
        f"every metric is missing, so nothing can be recommended ({reasons})",
        where=f"STEERING_METRIC={wanted}",
        remedy="Correct the causes.",
    )


def recommend(
    base: AnswerTable, tuned: AnswerTable, earlier: Sequence[tuple[int, AnswerTable]], ledger: Sequence[IterationRecord],
    iteration: int, metric: str, options: AdviceOptions, *, lower_is_better: bool, improvement: Mapping[str, float],
    improvement_split: str, caution: str,
) -> Recommendations:  # fmt: skip
    """Recommendations from the tuned model's scores on the eval split.

    Args:
        base, tuned, earlier, ledger, iteration: as in `plan_allocation`.
        metric: the steering metric.
        improvement: difference of each metric on `improvement_split`, reported with the recommendations.
        caution: why the recommendations are unreliable; empty if they are reliable.
    """
    evidence, plan = plan_allocation(base, tuned, earlier, ledger, iteration, metric, options, lower_is_better=lower_is_better)
    overall_improvement = {name: round(value, 6) if math.isfinite(value) else None for name, value in improvement.items()}
    return recommendations.recommend(
        evidence, plan, metric=metric, overall_improvement=overall_improvement, improvement_split=improvement_split, iteration=iteration,
        caution=caution, lower_is_better=lower_is_better,
    )  # fmt: skip


def plan_allocation(
    base: AnswerTable, tuned: AnswerTable, earlier: Sequence[tuple[int, AnswerTable]], ledger: Sequence[IterationRecord],
    iteration: int, metric: str, options: AdviceOptions, *, lower_is_better: bool,
) -> tuple[list[ranking.Evidence], recommendations.AllocationPlan]:  # fmt: skip
    """Rank the specialties on the eval split, and divide the budget among them.

    Args:
        earlier: iteration and tuned answers of earlier comparable evaluations, oldest first.
        ledger: the iterations of the prepared folder.
        iteration: the one that the tuned model was trained on.
        metric: the steering metric.
    """
    sign = -1.0 if lower_is_better else 1.0
    scores = tuned.of_split(Split.EVAL).scores_by_specialty(metric)
    signed_scores = {name: [sign * value for value in values] for name, values in scores.items()}
    evidence = ranking.rank_specialties(signed_scores, seed=options.seed)
    # records and tables of earlier iterations use the present names of the specialties
    new_names = {record.iteration: renames.renamed_since(record, ledger[-1]) for record in ledger}
    records = {record.iteration: renames.with_new_names(record, new_names[record.iteration]) for record in ledger}
    comparable = [
        (number, table.with_renamed_specialties(new_names[number]))
        for number, table in earlier
        if number in records and table.has_metric(metric)
    ]
    record, iterations = records[iteration], [*(number for number, _ in comparable), iteration]
    observations = curve_data.collect_observations(
        base, [*(table for _, table in comparable), tuned], [records[number].sizes.train for number in iterations],
        sorted(record.shares), metric, sign=sign,
    )  # fmt: skip
    state = recommendations.PoolState(record.shares, record.share_base, record.sizes.train, record.sizes.pool)
    plan = recommendations.allocate(
        evidence, state, observations, policy=options.policy, budget=options.budget, objective=options.objective,
        iterations=iterations, seed=options.seed,
    )  # fmt: skip
    return evidence, plan
