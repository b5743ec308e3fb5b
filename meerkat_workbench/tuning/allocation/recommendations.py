"""Whom to feed in the next iteration, and with how much.

Who is low is one question (`ranking.py`); whom to feed is another, since a low specialty may have learnt all it can. A policy
(`policies.py`) hands a budget of records to the specialties, and `training_recommendations.json` says what, why, and on which evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from meerkat_workbench.tuning.allocation import policies
from meerkat_workbench.tuning.allocation.learning_curves import Array, Curves, Observations
from meerkat_workbench.tuning.allocation.policies import PolicyName
from meerkat_workbench.tuning.allocation.ranking import WORST_SHARE, Evidence
from meerkat_workbench.tuning.artifacts import PolicyDecision, Recommendations, SpecialtyAdvice
from meerkat_workbench.tuning.shares import records_for_share

TARGET_SHARE = 0.8
NOTHING_TO_COMPARE = "Fewer than two specialties have scores on the eval split, so none can be compared with others."
NEAR_CUT_P = 0.5  # adjusted p up to which a specialty that is not supported is near the cut
MAX_NEAR_CUT = 3  # specialties of which it is said what would settle them
MIN_USEFUL_GAIN = 0.01  # of a score: what more data should be expected to gain, where it is said how much of it is needed
MAX_EXTRAPOLATION = 20  # times its records, beyond which no learning curve is trusted
MAX_NAMES = 5  # specialties that a sentence names


@dataclass(frozen=True)
class PoolState:
    """What there is of each specialty: absolute share (train + eval) / R, R itself, records trained on, records in the pool."""

    shares: Mapping[str, float]
    share_base: Mapping[str, int]
    train: Mapping[str, int]
    pool: Mapping[str, int]

    def additions_to_target(self, name: str) -> int:
        """Records from the pool that raise it to 80%, or to all once that is reached."""
        used, base = self._used(name), self.share_base[name]
        target = records_for_share(TARGET_SHARE, base)
        return max(0, min(self.pool.get(name, 0), (target if used < target else base) - used))

    def share_with(self, name: str, added: int) -> float:
        """The share under which preparation adds exactly these records; a round one where that will do."""
        used, base = self._used(name) + added, self.share_base[name]
        # six digits stand for exactly these records where there are a million
        return next(
            (share for share in (TARGET_SHARE, 1.0) if records_for_share(share, base) == used), min(1.0, round(used / base, 6))
        )

    def _used(self, name: str) -> int:
        return records_for_share(self.shares[name], self.share_base[name])


@dataclass(frozen=True)
class SpecialtyAllocation:
    """What one specialty is to be given; gains are of its score, higher being better, and None where a rule expects none."""

    specialty: str
    current_share: float
    recommended_share: float
    records_added: int
    records_left: int  # in the pool, before these
    expected_gain: float | None = None
    expected_gain_low: float | None = None  # of an 80% interval
    expected_gain_high: float | None = None
    new_records_needed: int | None = None


@dataclass(frozen=True)
class AllocationPlan:
    """What a policy decided.

    Args:
        policy, budget, objective: as the settings have them; the budget as it was spent.
        iterations: whose evaluations it rests on.
        given: every specialty's part.
        allocation: what the policy expects.
    """

    policy: PolicyName
    budget: int
    objective: str | Mapping[str, float]
    iterations: Sequence[int]
    given: Sequence[SpecialtyAllocation]
    allocation: policies.Allocation

    def of(self, name: str) -> SpecialtyAllocation:
        return next(item for item in self.given if item.specialty == name)


def default_budget(evidence: Sequence[Evidence], stock: PoolState) -> int:
    """Records that the specification's rule would add: the lowest fifth to 80% of theirs, or to all where they are there.

    Where these have nothing left, a tenth of what is trained on; never more than the pool.
    """
    lowest = [item.specialty for item in evidence[: max(1, round(WORST_SHARE * len(evidence)))]]
    wanted = sum(map(stock.additions_to_target, lowest)) or round(0.1 * sum(stock.train.values()))
    return min(wanted, sum(stock.pool.values()))


def allocate(
    evidence: Sequence[Evidence],
    stock: PoolState,
    observations: Observations,
    *,
    policy: PolicyName,
    budget: int | None,
    objective: str | Mapping[str, float],
    iterations: Sequence[int],
    seed: int,
) -> AllocationPlan:
    """What the policy gives each specialty of the stock.

    Args:
        observations: what evaluations have shown of the stock's specialties, in the order of their names.
        budget: training records to add; None for what the specification's rule adds. The threshold rule without a budget raises
            those, and only those, that do worse than the others by more than chance.
        objective: "mean", "worst_decile", or weights by specialty; those not named weigh 1.
        iterations: whose evaluations these are.
    """
    names = sorted(stock.shares)
    pool = np.array([float(stock.pool.get(name, 0)) for name in names])
    if policy == policies.THRESHOLD and budget is None:
        supported = {item.specialty for item in evidence if item.supported}
        added = [stock.additions_to_target(name) if name in supported else 0 for name in names]
        spent, allocation = sum(added), policies.Allocation(np.array(added, float))
    else:
        spent = default_budget(evidence, stock) if budget is None else min(budget, int(pool.sum()))
        goal = objective if isinstance(objective, str) else np.array([float(objective.get(name, 1.0)) for name in names])
        to_target = np.array([float(stock.additions_to_target(name)) for name in names])
        allocation = policies.POLICIES[policy](policies.PolicyInput(observations, pool, goal, to_target, seed), spent)
        added = round_allocation(allocation.added, pool, spent)
    gains = None
    if allocation.curves is not None:
        now = observations.trained[-1]
        gains = allocation.curves.scores(now + np.array(added)) - allocation.curves.scores(now)
    given = [
        _specialty_allocation(name, place, added[place], stock, observations, allocation.curves, gains)
        for place, name in enumerate(names)
    ]
    return AllocationPlan(policy, spent, objective, iterations, given, allocation)


def round_allocation(added: Array, pool: Array, budget: int) -> list[int]:
    """Whole records that sum to the budget, by largest remainders, none beyond its pool."""
    found = np.minimum(np.floor(added + 1e-9), pool)
    for place in np.argsort(found - added, kind="stable"):
        if found.sum() < min(budget, round(float(added.sum()))) and found[place] < pool[place]:
            found[place] += 1
    return [int(value) for value in found]


def _specialty_allocation(
    name: str, place: int, added: int, stock: PoolState, observations: Observations, curves: Curves | None, gains: Array | None
) -> SpecialtyAllocation:
    """A specialty's part; `gains` are (draws, specialties), of all that is added."""
    current, left = stock.shares[name], stock.pool.get(name, 0)
    given = SpecialtyAllocation(name, current, stock.share_with(name, added) if added else current, added, left)
    if curves is None or gains is None:
        return given
    low, high = np.quantile(gains[:, place], [0.1, 0.9])
    return replace(
        given, expected_gain=float(gains[:, place].mean()), expected_gain_low=float(low), expected_gain_high=float(high),
        new_records_needed=None if left else _new_records_needed(curves, place, observations.trained[-1]),
    )  # fmt: skip


def _new_records_needed(curves: Curves, place: int, trained: Array) -> int | None:
    """More records of one specialty with which `ENOUGH` is expected to be gained in it; None where no number in sight would do."""
    now = float(trained[place])
    if not now:
        return None
    more = np.unique(np.concatenate([[0.0], np.round(now * np.geomspace(0.02, MAX_EXTRAPOLATION - 1, 60))]))
    learned = curves.learned_by(place, now + more, trained.mean() + more / len(trained))
    gained = (curves.gain[:, place, None] * (learned - learned[:, :1])).mean(0)
    enough = np.flatnonzero(gained >= MIN_USEFUL_GAIN)
    return int(more[enough[0]]) if len(enough) else None


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
        caution: why the recommendations are not to be relied on; empty where nothing speaks against them.
        lower_is_better: whether scores had been turned for the ranking; they are turned back here. Gains are not: a gain is better.
    """
    sentences = _sentences(evidence, plan, metric)
    return Recommendations(
        low_performance_specialties=tuple(item.specialty for item in evidence if item.supported),
        recommended_sample_increases={item.specialty: item.recommended_share for item in plan.given if item.records_added},
        overall_improvement=dict(overall_improvement),
        measured_lowest_without_support=tuple(item.specialty for item in _unsettled(evidence))[:MAX_NAMES],
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
    """How a specialty stands and what it is given; `sign` turns scores back where lower is better."""
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
    """JSON has no NaN: what cannot be known (one question in a specialty) is null."""
    return value if value is not None and math.isfinite(value) else None


def _reason(item: Evidence, given: SpecialtyAllocation) -> str:
    """How a specialty stands among the others, what it is given, and what that is expected to bring."""
    gap = abs(item.others - item.mean)
    if item.supported:
        p = "below 0.001" if item.p_adjusted < 0.001 else f"{item.p_adjusted:.3f}"
        found = f"worse than the others by {gap:.3f} on {item.n} questions (adjusted p {p})"
    elif item.questions_to_settle is None:
        found = "not worse than the other specialties"
    else:
        found = (
            f"measured worse than the others by {gap:.3f} on {item.n} questions, which chance explains well enough "
            f"(adjusted p {item.p_adjusted:.2f})"
        )
    if given.records_added:
        found += f"; its share goes from {given.current_share:.2f} to {given.recommended_share:.2f}"
        if given.expected_gain is not None:
            found += (
                f": {given.records_added} record{'s' * (given.records_added != 1)}, expected to improve its score by "
                f"{given.expected_gain:+.3f} (80% interval {given.expected_gain_low:+.3f} to {given.expected_gain_high:+.3f})"
            )
    return found


def _sentences(evidence: Sequence[Evidence], plan: AllocationPlan, metric: str) -> list[str]:
    if not evidence:
        return [NOTHING_TO_COMPARE, *_allocation_sentences(plan)]
    supported = [item.specialty for item in evidence if item.supported]
    if supported:
        count = "1 specialty does" if len(supported) == 1 else f"{len(supported)} specialties do"
        words = [f"{count} worse than the others in {metric} by more than chance explains: {', '.join(supported)}."]
    else:
        words = [f"No specialty does worse than the others in {metric} by more than chance explains."]
    words += _allocation_sentences(plan) + _new_data_sentences(supported, plan)
    order = sorted(_unsettled(evidence), key=lambda item: item.p_adjusted)
    near = [item for item in order if item.p_adjusted <= NEAR_CUT_P][:MAX_NEAR_CUT] or order[:1]
    if near:
        settle = ", ".join(f"{item.specialty} {_more(item)}" for item in near)
        words.append(
            f"Not settled, for want of eval questions: {settle}. "
            "A larger EVAL_SPLIT_SIZE draws them, in a new series (--fresh) whose scores no longer compare with these; or choose "
            "yourself in specialty_adjustments."
        )
    return words


def _unsettled(evidence: Sequence[Evidence]) -> list[Evidence]:
    return [item for item in evidence if not item.supported and item.questions_to_settle is not None]


def _more(item: Evidence) -> str:
    return f"(has {item.n}, about {max(1, (item.questions_to_settle or 0) - item.n):,} more)"


def _allocation_sentences(plan: AllocationPlan) -> list[str]:
    """What is added, by which rule, and what that is expected to bring."""
    fed = sorted((item for item in plan.given if item.records_added), key=lambda item: -item.records_added)
    added = sum(item.records_added for item in fed)
    allocation = plan.allocation
    if not any(item.records_left for item in plan.given):
        return ["The pool is spent: only new data can help now."]
    if not added:
        return ["No records are added, for BUDGET is 0."] if plan.budget == 0 and plan.policy != policies.THRESHOLD else []
    spent = f"By POLICY={plan.policy}, {added:,} records are added, to {len(fed)} of {len(plan.given)} specialties"
    if plan.policy == policies.PROPORTIONAL:
        return [f"{spent}, in the proportions of the pool (the natural mix)."]
    named = ", ".join(f"{item.specialty} {item.records_added}" for item in fed[:MAX_NAMES])
    if allocation.kept and allocation.curves is None:
        return [f"{spent}, in the proportions of the pool (the natural mix): no question of the eval split has a score."]
    if allocation.curves is None:
        return [f"{spent}{': ' if len(fed) <= MAX_NAMES else '; most to '}{named}."]
    goal = plan.objective if isinstance(plan.objective, str) else "weighted mean"
    many = len(plan.iterations)
    basis = f"the learning curves of the base and {'this iteration' if many == 1 else f'{many} iterations'}"
    if allocation.kept:
        if allocation.helps is not None and allocation.helps < policies.MIN_PROBABILITY_TRAINING_HELPS:
            why = f"by {basis} it is not sure enough that training raises the mean at all (probability {allocation.helps:.2f})"
        else:
            why = f"by {basis} no other mixture is likely to gain more in the {goal} (probability {allocation.probability:.2f})"
        return [f"{spent}, in the proportions of the pool (the natural mix): {why}."]
    return [
        f"{spent}, where {basis} expect most in the {goal}: {allocation.gain:+.3f}, for {allocation.gain_of_mix:+.3f} in the proportions "
        f"of the pool (more with a probability of {allocation.probability:.2f}). Most goes to {named}."
    ]


def _new_data_sentences(supported: Sequence[str], plan: AllocationPlan) -> list[str]:
    """Specialties whose pool is empty and that would need new data, not a larger share: the low ones, and those that more would help."""
    empty = [item for item in plan.given if not item.records_left and (item.specialty in supported or item.new_records_needed)]
    if not empty:
        return []
    empty.sort(key=lambda item: (item.specialty not in supported, item.new_records_needed or 0))
    words = f"The pool is empty for {', '.join(item.specialty for item in empty[:MAX_NAMES])}"
    words += f" and {len(empty) - MAX_NAMES} more" if len(empty) > MAX_NAMES else ""
    wanted = [f"{item.specialty} about {item.new_records_needed:,}" for item in empty[:MAX_NAMES] if item.new_records_needed]
    told = f": new questions for {MIN_USEFUL_GAIN:+g} in the score would be {', '.join(wanted)}" if wanted else ""
    return [f"{words}, which need new data, not larger shares{told}."]
