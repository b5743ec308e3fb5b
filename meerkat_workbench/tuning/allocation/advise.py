"""From scored answers to recommendations: which specialties get more training records in the next iteration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from meerkat_workbench.core import settings
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.allocation import curve_data, policies, ranking, recommendations
from meerkat_workbench.tuning.allocation.policies import PolicyName
from meerkat_workbench.tuning.artifacts import IterationRecord, Recommendations, Split
from meerkat_workbench.tuning.data import renames
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable
from meerkat_workbench.tuning.scoring.metric_suite import MetricSuite

Objective = str | dict[str, float]
FALLBACK_METRICS = ("ROUGE-L", "token_f1")  # steer where the wanted metric is missing


@dataclass(frozen=True)
class AdviceOptions:
    """How the next iteration's records are divided: the settings POLICY, BUDGET and OBJECTIVE, and the seed."""

    policy: PolicyName
    budget: int | None
    objective: Objective
    seed: int


def parse_objective(given: Objective) -> Objective:
    """OBJECTIVE: "mean", "worst_decile", or weights by specialty."""
    if given in (policies.MEAN, policies.WORST_DECILE):
        return given
    weights: Any
    try:
        weights = settings.yaml_value(given) if isinstance(given, str) else given
    except yaml.YAMLError:
        weights = None
    numbers = list(weights.values()) if isinstance(weights, dict) else []
    if not numbers or not all(type(value) in (int, float) and 0 <= value < math.inf for value in numbers) or not any(numbers):
        raise UserError(
            f'must be "{policies.MEAN}", "{policies.WORST_DECILE}", or weights of at least 0',
            where=f"OBJECTIVE={given}",
            remedy="For example OBJECTIVE='{cardiology: 3}' (specialties not named weigh 1).",
        )
    return {str(name): float(value) for name, value in weights.items()}


def check_objective(objective: Objective, record: IterationRecord) -> None:
    """UserError where a weight is of a specialty that the data does not have."""
    if not isinstance(objective, str) and (unknown := sorted(set(objective) - set(record.shares))):
        raise UserError(f"there is no specialty {unknown[0]!r} in the data", where="OBJECTIVE", item=unknown[0])


def check_steering_metric(wanted: str, suite: MetricSuite) -> None:
    """UserError where there is no such metric, or no value of it is better than another."""
    where = f"STEERING_METRIC={wanted}"
    if suite.is_descriptive(wanted):
        raise UserError("only describes answers; no value of it is better than another", where=where)
    if wanted not in suite.names():
        raise UserError("there is no such metric", where=where, remedy=f"There are {', '.join(suite.names())}.")


def steering_metric(wanted: str, suite: MetricSuite, missing: Mapping[str, str]) -> str:
    """The wanted metric, or, where that is missing, another one that is not; the console says so."""
    for name in (wanted, *FALLBACK_METRICS, *suite.names()):
        if name not in missing and not suite.is_descriptive(name):
            if name != wanted:
                print(f"  STEERING_METRIC={wanted} is missing, so {name} steers: charts and recommendations rest on {name}")
            return name
    reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
    raise UserError(f"every metric is missing, so nothing can be recommended: {reasons}")


def recommend(
    base: AnswerTable, tuned: AnswerTable, earlier: Sequence[tuple[int, AnswerTable]], ledger: Sequence[IterationRecord],
    iteration: int, metric: str, options: AdviceOptions, *, lower_is_better: bool, improvement: Mapping[str, float],
    improvement_split: str, caution: str,
) -> Recommendations:  # fmt: skip
    """Recommendations from the tuned model's scores on the eval split.

    Args:
        improvement: difference of each metric on `improvement_split`, which is reported beside them.
        caution: why they are not to be relied on; empty where nothing speaks against them.
    """
    evidence, plan = plan_allocation(base, tuned, earlier, ledger, iteration, metric, options, lower_is_better=lower_is_better)
    known = {name: round(value, 6) if math.isfinite(value) else None for name, value in improvement.items()}
    return recommendations.recommend(
        evidence, plan, metric=metric, overall_improvement=known, improvement_split=improvement_split, iteration=iteration,
        caution=caution, lower_is_better=lower_is_better,
    )  # fmt: skip


def plan_allocation(
    base: AnswerTable, tuned: AnswerTable, earlier: Sequence[tuple[int, AnswerTable]], ledger: Sequence[IterationRecord],
    iteration: int, metric: str, options: AdviceOptions, *, lower_is_better: bool,
) -> tuple[list[ranking.Evidence], recommendations.AllocationPlan]:  # fmt: skip
    """Rank the specialties on the eval split, and divide the budget among them.

    Args:
        earlier: iteration and tuned answers of earlier evaluations that compare, oldest first.
        ledger: the iterations of the prepared folder.
        iteration: that the tuned model was trained on.
    """
    sign = -1.0 if lower_is_better else 1.0
    scores = tuned.of_split(Split.EVAL).scores_by_specialty(metric)
    turned = {name: [sign * value for value in values] for name, values in scores.items()}
    evidence = ranking.rank_specialties(turned, seed=options.seed)
    # every record and table under the names that specialties have now
    names = {record.iteration: renames.renamed_since(record, ledger[-1]) for record in ledger}
    records = {record.iteration: renames.with_new_names(record, names[record.iteration]) for record in ledger}
    known = [
        (number, table.with_renamed_specialties(names[number]))
        for number, table in earlier
        if number in records and table.has_metric(metric)
    ]
    record, numbers = records[iteration], [*(number for number, _ in known), iteration]
    observations = curve_data.collect_observations(
        base, [*(table for _, table in known), tuned], [records[number].sizes.train for number in numbers], sorted(record.shares), metric,
        sign=sign,
    )  # fmt: skip
    pool = recommendations.PoolState(record.shares, record.share_base, record.sizes.train, record.sizes.pool)
    plan = recommendations.allocate(
        evidence, pool, observations, policy=options.policy, budget=options.budget, objective=options.objective, iterations=numbers,
        seed=options.seed,
    )  # fmt: skip
    return evidence, plan
