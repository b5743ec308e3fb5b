"""Recommendations: which specialties get more training records in the next iteration, and how many.

`ranking.py` finds the specialties that are low. A low specialty may have learnt all it can, so a policy (`policies.py`) decides which
specialties get records from the budget. `training_recommendations.json` contains the decision, its reasons and its evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from meerkat_workbench.tuning.allocation import policies
from meerkat_workbench.tuning.allocation.learning_curves import Array, Curves, Observations
from meerkat_workbench.tuning.allocation.policies import PolicyName
from meerkat_workbench.tuning.allocation.ranking import WORST_FRACTION, Evidence
from meerkat_workbench.tuning.artifacts import PolicyDecision, Recommendations, SpecialtyAdvice
from meerkat_workbench.tuning.shares import records_for_share

TARGET_SHARE = 0.8  # of a specialty's records, by the specification
DEFAULT_BUDGET_FRACTION = 0.1  # of the records trained on; the budget where the lowest specialties have an empty pool
NATURAL_MIX = "in the proportions of the pool (the natural mix)"
NOTHING_TO_COMPARE = "Fewer than two specialties have scores on the eval split, so none can be compared with the others."
MAX_UNDECIDED_P = 0.5  # adjusted p up to which more questions may show that a specialty is low
MAX_UNDECIDED = 3  # specialties for which a sentence gives the number of questions that would decide
MIN_USEFUL_GAIN = 0.01  # gain in a score for which the needed number of new records is estimated
MAX_EXTRAPOLATION = 20  # multiple of a specialty's records beyond which no learning curve is trusted
MAX_NAMES = 5  # specialties named in one sentence


@dataclass(frozen=True)
class PoolState:
    """The records of each specialty.

    Args:
        shares: absolute share (train + eval) / R.
        share_base: R, the records that shares refer to.
        train: records trained on.
        pool: records that may be added.
    """

    shares: Mapping[str, float]
    share_base: Mapping[str, int]
    train: Mapping[str, int]
    pool: Mapping[str, int]

    def additions_to_target(self, name: str) -> int:
        """Records from the pool that raise the specialty to a share of 80%, or to all its records if it has reached that."""
        used, base = self._used(name), self.share_base[name]
        target = records_for_share(TARGET_SHARE, base)
        return max(0, min(self.pool.get(name, 0), (target if used < target else base) - used))

    def share_with(self, name: str, added: int) -> float:
        """The share for which preparation adds exactly this number of records; 0.8 or 1 where these give the same number."""
        used, base = self._used(name) + added, self.share_base[name]
        # six digits are exact for up to a million records
        return next(
            (share for share in (TARGET_SHARE, 1.0) if records_for_share(share, base) == used), min(1.0, round(used / base, 6))
        )

    def _used(self, name: str) -> int:
        return records_for_share(self.shares[name], self.share_base[name])


@dataclass(frozen=True)
class SpecialtyAllocation:
    """The records recommended for one specialty; gains are in its score, higher is better, and None if the policy predicts none."""

    specialty: str
    current_share: float
    recommended_share: float
    records_added: int
    records_left: int  # in the pool, before any are added
    expected_gain: float | None = None
    expected_gain_low: float | None = None  # bounds of an 80% interval
    expected_gain_high: float | None = None
    new_records_needed: int | None = None


@dataclass(frozen=True)
class AllocationPlan:
    """The decision of a policy.

    Args:
        policy, objective: as in the settings.
        budget: records that are added.
        iterations: the iterations whose evaluations the decision uses.
        given: the records of every specialty.
        allocation: the policy's own result, with its expected gains.
    """

    policy: PolicyName
    budget: int
    objective: str | Mapping[str, float]
    iterations: Sequence[int]
    given: Sequence[SpecialtyAllocation]
    allocation: policies.Allocation

    def of(self, name: str) -> SpecialtyAllocation:
        return next(item for item in self.given if item.specialty == name)


def default_budget(evidence: Sequence[Evidence], state: PoolState) -> int:
    """Records that the specification's rule would add: it raises the lowest fifth to a share of 80%, or to all if they have reached that.

    If the pools of these are empty, a tenth of the records trained on. Never more than the pool.
    """
    lowest = [item.specialty for item in evidence[: max(1, round(WORST_FRACTION * len(evidence)))]]
    wanted = sum(map(state.additions_to_target, lowest)) or round(DEFAULT_BUDGET_FRACTION * sum(state.train.values()))
    return min(wanted, sum(state.pool.values()))


def allocate(
    evidence: Sequence[Evidence],
    state: PoolState,
    observations: Observations,
    *,
    policy: PolicyName,
    budget: int | None,
    objective: str | Mapping[str, float],
    iterations: Sequence[int],
    seed: int,
) -> AllocationPlan:
    """Let the policy divide the budget among the specialties.

    Args:
        evidence: which specialties are low.
        state: the records of each specialty.
        observations: results of the evaluations so far; its columns are the specialties of `state`, sorted by name.
        budget: training records to add; None for the number that the specification's rule adds. Without a budget, the threshold rule
            raises only the specialties that do worse than the others by more than chance.
        objective: "mean", "worst_decile", or weights by specialty; a specialty without one has weight 1.
        iterations: the iterations of these evaluations.
        seed: of the policy's random draws.
    """
    names = sorted(state.shares)
    pool = np.array([float(state.pool.get(name, 0)) for name in names])
    if policy == policies.THRESHOLD and budget is None:
        supported = {item.specialty for item in evidence if item.supported}
        added = [state.additions_to_target(name) if name in supported else 0 for name in names]
        spent, allocation = sum(added), policies.Allocation(np.array(added, float))
    else:
        spent = default_budget(evidence, state) if budget is None else min(budget, int(pool.sum()))
        goal = objective if isinstance(objective, str) else np.array([float(objective.get(name, 1.0)) for name in names])
        to_target = np.array([float(state.additions_to_target(name)) for name in names])
        allocation = policies.POLICIES[policy](policies.PolicyInput(observations, pool, goal, to_target, seed), spent)
        added = round_allocation(allocation.added, pool, spent)
    gains = None
    if allocation.curves is not None:
        now = observations.trained[-1]
        gains = allocation.curves.scores(now + np.array(added)) - allocation.curves.scores(now)
    given = [
        _specialty_allocation(name, place, added[place], state, observations, allocation.curves, gains)
        for place, name in enumerate(names)
    ]
    return AllocationPlan(policy, spent, objective, iterations, given, allocation)


def round_allocation(added: Array, pool: Array, budget: int) -> list[int]:
    """Round to whole records that sum to the budget, by largest remainders; no specialty gets more than its pool."""
    rounded = np.minimum(np.floor(added + 1e-9), pool)
    for place in np.argsort(rounded - added, kind="stable"):
        if rounded.sum() < min(budget, round(float(added.sum()))) and rounded[place] < pool[place]:
            rounded[place] += 1
    return [int(value) for value in rounded]


def _specialty_allocation(
    name: str, place: int, added: int, state: PoolState, observations: Observations, curves: Curves | None, gains: Array | None
) -> SpecialtyAllocation:
    """The recommendation for one specialty.

    Args:
        place: its index in `observations`, `curves` and `gains`.
        gains: (draws, specialties) in each score, by all records that are added.
    """
    current, left = state.shares[name], state.pool.get(name, 0)
    given = SpecialtyAllocation(name, current, state.share_with(name, added) if added else current, added, left)
    if curves is None or gains is None:
        return given
    low, high = np.quantile(gains[:, place], [0.1, 0.9])
    return replace(
        given, expected_gain=float(gains[:, place].mean()), expected_gain_low=float(low), expected_gain_high=float(high),
        new_records_needed=None if left else _new_records_needed(curves, place, observations.trained[-1]),
    )  # fmt: skip


def _new_records_needed(curves: Curves, place: int, trained: Array) -> int | None:
    """New records of one specialty for an expected gain of `MIN_USEFUL_GAIN` in its score; None if no number up to the limit suffices.

    The limit is `MAX_EXTRAPOLATION`.
    """
    now = float(trained[place])
    if not now:
        return None
    more = np.unique(np.concatenate([[0.0], np.round(now * np.geomspace(0.02, MAX_EXTRAPOLATION - 1, 60))]))
    learned = curves.learned_by(place, now + more, trained.mean() + more / len(trained))
    gained = (curves.gain[:, place, None] * (learned - learned[:, :1])).mean(0)
    sufficient = np.flatnonzero(gained >= MIN_USEFUL_GAIN)
    return int(more[sufficient[0]]) if len(sufficient) else None


def recommend(
    evidence: Sequence[Evidence],
    plan: AllocationPlan,
    *,
    metric: str,
    overall_improvement: Mapping[str, float | None],
    improvement_split: str,
    iteration: int,
    caution: str = "",
    lower_is_better: bool = False,
) -> Recommendations:
    """The contents of `training_recommendations.json`.

    Args:
        overall_improvement: difference of each metric on `improvement_split`.
        caution: why the recommendations are unreliable; empty if they are reliable.
        lower_is_better: whether the scores in `evidence` have the opposite sign. Their sign is restored here. The sign of gains is not
            changed: a positive gain is an improvement.
    """
    sentences = _sentences(evidence, plan, metric)
    return Recommendations(
        low_performance_specialties=tuple(item.specialty for item in evidence if item.supported),
        recommended_sample_increases={item.specialty: item.recommended_share for item in plan.given if item.records_added},
        overall_improvement=dict(overall_improvement),
        measured_lowest_without_support=tuple(item.specialty for item in _undecided(evidence))[:MAX_NAMES],
        steering_metric=metric,
        policy=_decision(plan),
        sentences=(*sentences, *([caution] if caution else [])),
        evidence=tuple(_advice(item, plan.of(item.specialty), -1 if lower_is_better else 1) for item in evidence),
        caution=caution,
        iteration=iteration,
        overall_improvement_split=improvement_split,
    )


def _decision(plan: AllocationPlan) -> PolicyDecision:
    allocation = plan.allocation
    return PolicyDecision(
        name=plan.policy,
        budget=plan.budget,
        objective=plan.objective if isinstance(plan.objective, str) else dict(plan.objective),
        iterations=tuple(plan.iterations),
        expected_gain=allocation.gain,
        expected_gain_of_natural_mix=allocation.gain_of_mix,
        probability_better_than_natural_mix=allocation.probability,
        probability_that_training_helps=allocation.helps,
        probability_that_specialties_gain_differently=None if allocation.curves is None else allocation.curves.gains_differ,
        natural_mix_kept=allocation.kept,
    )


def _advice(item: Evidence, given: SpecialtyAllocation, sign: int) -> SpecialtyAdvice:
    """Evidence and recommendation for one specialty; `sign` is -1 if lower is better, and restores the sign of scores."""
    return SpecialtyAdvice(
        specialty=item.specialty,
        n=item.n,
        mean=_finite(sign * item.mean),
        shrunk=_finite(sign * item.shrunk),
        shrunk_se=_finite(item.shrunk_se),
        others=_finite(sign * item.others),
        p_below_others=_finite(item.p_below_others),
        p_adjusted=_finite(item.p_adjusted),
        probability_among_worst=_finite(item.probability_among_worst),
        supported=item.supported,
        questions_to_settle=item.questions_to_settle,
        current_share=given.current_share,
        recommended_share=given.recommended_share,
        records_added=given.records_added,
        records_left=given.records_left,
        expected_gain=_finite(given.expected_gain),
        expected_gain_low=_finite(given.expected_gain_low),
        expected_gain_high=_finite(given.expected_gain_high),
        new_records_needed=given.new_records_needed,
        reason=_reason(item, given),
    )


def _finite(value: float | None) -> float | None:
    """None for a value that cannot be computed, as with one question in a specialty: JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def _reason(item: Evidence, given: SpecialtyAllocation) -> str:
    """One sentence: how the specialty compares with the others, what it is given, and the expected gain."""
    gap = abs(item.others - item.mean)
    if item.supported:
        p = "below 0.001" if item.p_adjusted < 0.001 else f"{item.p_adjusted:.3f}"
        reason = f"worse than the others by {gap:.3f} on {item.n} questions (adjusted p {p})"
    elif item.questions_to_settle is None:
        reason = "not worse than the other specialties"
    else:
        reason = (
            f"measured worse than the others by {gap:.3f} on {item.n} questions, which chance can explain "
            f"(adjusted p {item.p_adjusted:.2f})"
        )
    if given.records_added:
        reason += f"; its share goes from {given.current_share:.2f} to {given.recommended_share:.2f}"
        if given.expected_gain is not None:
            reason += (
                f": {given.records_added} record{'s' * (given.records_added != 1)}, expected to improve its score by "
                f"{given.expected_gain:+.3f} (80% interval {given.expected_gain_low:+.3f} to {given.expected_gain_high:+.3f})"
            )
    return reason


def _sentences(evidence: Sequence[Evidence], plan: AllocationPlan, metric: str) -> list[str]:
    """The decision in words: which specialties are low, what is added, where new data is needed, and what is undecided."""
    if not evidence:
        return [NOTHING_TO_COMPARE, *_allocation_sentences(plan)]
    supported = [item.specialty for item in evidence if item.supported]
    if supported:
        count = "1 specialty does" if len(supported) == 1 else f"{len(supported)} specialties do"
        sentences = [f"{count} worse than the others in {metric} by more than chance explains: {', '.join(supported)}."]
    else:
        sentences = [f"No specialty does worse than the others in {metric} by more than chance explains."]
    sentences += _allocation_sentences(plan) + _new_data_sentences(supported, plan)
    by_p = sorted(_undecided(evidence), key=lambda item: item.p_adjusted)
    undecided = [item for item in by_p if item.p_adjusted <= MAX_UNDECIDED_P][:MAX_UNDECIDED] or by_p[:1]
    if undecided:
        sentences.append(
            f"Too few eval questions to decide: {', '.join(f'{item.specialty} {_more_questions(item)}' for item in undecided)}. "
            "A larger EVAL_SPLIT_SIZE draws more, in a new series (--fresh) whose scores cannot be compared with these. Or choose "
            "yourself in specialty_adjustments."
        )
    return sentences


def _undecided(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Specialties that measured worse than the others, but not by more than chance explains."""
    return [item for item in evidence if not item.supported and item.questions_to_settle is not None]


def _more_questions(item: Evidence) -> str:
    return f"(has {item.n}, needs about {max(1, (item.questions_to_settle or 0) - item.n):,} more)"


def _allocation_sentences(plan: AllocationPlan) -> list[str]:
    """How many records are added, by which policy, and for the learning curves the expected gain."""
    recipients = sorted((item for item in plan.given if item.records_added), key=lambda item: -item.records_added)
    added = sum(item.records_added for item in recipients)
    if not any(item.records_left for item in plan.given):
        return ["The pool is empty: only new data can help now."]
    if not added:
        return ["No records are added, because BUDGET is 0."] if plan.budget == 0 and plan.policy != policies.THRESHOLD else []
    addition = f"POLICY={plan.policy} adds {added:,} records to {len(recipients)} of {len(plan.given)} specialties"
    if plan.policy == policies.PROPORTIONAL:
        return [f"{addition}, {NATURAL_MIX}."]
    if plan.allocation.kept:
        return [f"{addition}, {NATURAL_MIX}: {_why_mix_was_kept(plan)}."]
    named = ", ".join(f"{item.specialty} {item.records_added}" for item in recipients[:MAX_NAMES])
    if plan.allocation.curves is None:
        return [f"{addition}{': ' if len(recipients) <= MAX_NAMES else '; most to '}{named}."]
    return [
        f"{addition}, where {_basis(plan)} predict the largest gain in the {_goal(plan)}: {plan.allocation.gain:+.3f}, against "
        f"{plan.allocation.gain_of_mix:+.3f} by the natural mix (probability that it gains more: {plan.allocation.probability:.2f}). "
        f"Most goes to {named}."
    ]


def _why_mix_was_kept(plan: AllocationPlan) -> str:
    allocation = plan.allocation
    if allocation.curves is None:
        return "no question of the eval split has a score"
    if allocation.helps is not None and allocation.helps < policies.MIN_PROBABILITY_TRAINING_HELPS:
        return (
            f"by {_basis(plan)}, it is too uncertain whether training raises the mean at all (probability {allocation.helps:.2f})"
        )
    return f"by {_basis(plan)}, no other mixture is likely to gain more in the {_goal(plan)} (probability {allocation.probability:.2f})"


def _basis(plan: AllocationPlan) -> str:
    count = len(plan.iterations)
    return f"the learning curves of the base and {'this iteration' if count == 1 else f'{count} iterations'}"


def _goal(plan: AllocationPlan) -> str:
    return plan.objective.replace("_", " ") if isinstance(plan.objective, str) else "weighted mean"


def _new_data_sentences(supported: Sequence[str], plan: AllocationPlan) -> list[str]:
    """Specialties with an empty pool that need new data: those that are low, and those that more records would help."""
    empty = [item for item in plan.given if not item.records_left and (item.specialty in supported or item.new_records_needed)]
    if not empty:
        return []
    empty.sort(key=lambda item: (item.specialty not in supported, item.new_records_needed or 0))
    names = ", ".join(item.specialty for item in empty[:MAX_NAMES])
    names += f" and {len(empty) - MAX_NAMES} more" if len(empty) > MAX_NAMES else ""
    needed = [f"{item.specialty} about {item.new_records_needed:,}" for item in empty[:MAX_NAMES] if item.new_records_needed]
    sentence = f"The pool is empty for {names}, which need new data, not larger shares."
    if needed:
        sentence += f" New questions needed for {MIN_USEFUL_GAIN:+g} in the score: {', '.join(needed)}."
    return [sentence]
