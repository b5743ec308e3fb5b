"""Whom to feed in the next iteration, and with how much.

Who is low is one question (`ranking.py`); whom to feed is another, since a low specialty may have learnt all it can. A policy
(`policies.py`) hands a budget of records to the specialties, and `training_recommendations.json` says what, why, and on which evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from workbench.evaluation import policies
from workbench.evaluation.learning_curves import Array, Curves, Observations
from workbench.evaluation.ranking import WORST_SHARE, Evidence
from workbench.shares import rounded

TARGET_SHARE = 0.8
NOTHING_TO_COMPARE = "Fewer than two specialties have scores on the eval split, so none can be compared with others."
NEAR = 0.5  # adjusted p up to which a specialty that is not supported is near the cut
NEAR_THE_CUT = 3  # specialties of which it is said what would settle them
ENOUGH = 0.01  # of a score: what more data should be expected to gain, where it is said how much of it is needed
FARTHEST = 20  # times its records, beyond which no learning curve is trusted
MOST_NAMED = 5  # specialties that a sentence names


@dataclass(frozen=True)
class Stock:
    """What there is of each specialty: absolute share (train + eval) / R, R itself, records trained on, records in the pool."""

    shares: Mapping[str, float]
    share_base: Mapping[str, int]
    train: Mapping[str, int]
    pool: Mapping[str, int]

    def additions_to_target(self, name: str) -> int:
        """Records from the pool that raise it to 80%, or to all once that is reached."""
        used, base = self._used(name), self.share_base[name]
        target = rounded(TARGET_SHARE, base)
        return max(0, min(self.pool.get(name, 0), (target if used < target else base) - used))

    def share_with(self, name: str, added: int) -> float:
        """The share under which preparation adds exactly these records; a round one where that will do."""
        used, base = self._used(name) + added, self.share_base[name]
        # six digits stand for exactly these records where there are a million
        return next((share for share in (TARGET_SHARE, 1.0) if rounded(share, base) == used), min(1.0, round(used / base, 6)))

    def _used(self, name: str) -> int:
        return rounded(self.shares[name], self.share_base[name])


@dataclass(frozen=True)
class Given:
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
class Feeding:
    """What a policy decided.

    Args:
        policy, budget, objective: as the settings have them; the budget as it was spent.
        iterations: whose evaluations it rests on.
        given: every specialty's part.
        allocation: what the policy expects.
    """

    policy: str
    budget: int
    objective: str | Mapping[str, float]
    iterations: Sequence[int]
    given: Sequence[Given]
    allocation: policies.Allocation

    def of(self, name: str) -> Given:
        return next(item for item in self.given if item.specialty == name)


def default_budget(evidence: Sequence[Evidence], stock: Stock) -> int:
    """Records that the specification's rule would add: the lowest fifth to 80% of theirs, or to all where they are there.

    Where these have nothing left, a tenth of what is trained on; never more than the pool.
    """
    lowest = [item.specialty for item in evidence[: max(1, round(WORST_SHARE * len(evidence)))]]
    wanted = sum(map(stock.additions_to_target, lowest)) or round(0.1 * sum(stock.train.values()))
    return min(wanted, sum(stock.pool.values()))


def feed(
    evidence: Sequence[Evidence],
    stock: Stock,
    seen: Observations,
    *,
    policy: str,
    budget: int | None,
    objective: str | Mapping[str, float],
    iterations: Sequence[int],
    seed: int,
) -> Feeding:
    """What the policy gives each specialty of the stock.

    Args:
        seen: what evaluations have shown of the stock's specialties, in the order of their names.
        budget: training records to add; None for what the specification's rule adds. The threshold rule without a budget raises
            those, and only those, that do worse than the others by more than chance.
        objective: "mean", "worst decile", or weights by specialty; those not named weigh 1.
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
        allocation = policies.POLICIES[policy](policies.Situation(seen, pool, goal, to_target, seed), spent)
        added = whole(allocation.added, pool, spent)
    gains = None
    if allocation.curves is not None:
        now = seen.trained[-1]
        gains = allocation.curves.scores(now + np.array(added)) - allocation.curves.scores(now)
    given = [_given(name, place, added[place], stock, seen, allocation.curves, gains) for place, name in enumerate(names)]
    return Feeding(policy, spent, objective, iterations, given, allocation)


def whole(added: Array, pool: Array, budget: int) -> list[int]:
    """Whole records that sum to the budget, by largest remainders, none beyond its pool."""
    found = np.minimum(np.floor(added + 1e-9), pool)
    for place in np.argsort(found - added, kind="stable"):
        if found.sum() < min(budget, round(float(added.sum()))) and found[place] < pool[place]:
            found[place] += 1
    return [int(value) for value in found]


def _given(
    name: str, place: int, added: int, stock: Stock, seen: Observations, curves: Curves | None, gains: Array | None
) -> Given:
    """A specialty's part; `gains` are (draws, specialties), of all that is added."""
    current, left = stock.shares[name], stock.pool.get(name, 0)
    given = Given(name, current, stock.share_with(name, added) if added else current, added, left)
    if curves is None or gains is None:
        return given
    low, high = np.quantile(gains[:, place], [0.1, 0.9])
    return replace(
        given, expected_gain=float(gains[:, place].mean()), expected_gain_low=float(low), expected_gain_high=float(high),
        new_records_needed=None if left else _new_records_needed(curves, place, seen.trained[-1]),
    )  # fmt: skip


def _new_records_needed(curves: Curves, place: int, trained: Array) -> int | None:
    """More records of one specialty with which `ENOUGH` is expected to be gained in it; None where no number in sight would do."""
    now = float(trained[place])
    if not now:
        return None
    more = np.unique(np.concatenate([[0.0], np.round(now * np.geomspace(0.02, FARTHEST - 1, 60))]))
    learned = curves.learned_by(place, now + more, trained.mean() + more / len(trained))
    gained = (curves.gain[:, place, None] * (learned - learned[:, :1])).mean(0)
    enough = np.flatnonzero(gained >= ENOUGH)
    return int(more[enough[0]]) if len(enough) else None


def advice(
    evidence: Sequence[Evidence],
    feeding: Feeding,
    *,
    metric: str,
    overall_improvement: Mapping[str, float | None],
    lower_is_better: bool = False,
) -> dict[str, Any]:
    """The contents of `training_recommendations.json`: the specification's three keys, and the evidence beside them.

    Args:
        lower_is_better: whether scores had been turned for the ranking; they are turned back here. Gains are not: a gain is better.
    """
    sign = -1 if lower_is_better else 1
    shown = [replace(item, mean=sign * item.mean, shrunk=sign * item.shrunk, others=sign * item.others) for item in evidence]
    allocation = feeding.allocation
    return {
        "low_performance_specialties": [item.specialty for item in evidence if item.supported],
        "recommended_sample_increases": {item.specialty: item.recommended_share for item in feeding.given if item.records_added},
        "overall_improvement": dict(overall_improvement),
        "measured_lowest_without_support": [item.specialty for item in _unsettled(evidence)][:MOST_NAMED],
        "steering_metric": metric,
        "steering_split": "eval",
        "policy": {
            "name": feeding.policy,
            "budget": feeding.budget,
            "objective": feeding.objective if isinstance(feeding.objective, str) else dict(feeding.objective),
            "iterations": list(feeding.iterations),
            "expected_gain": allocation.gain,
            "expected_gain_of_natural_mix": allocation.gain_of_mix,
            "probability_better_than_natural_mix": allocation.probability,
            "probability_that_training_helps": allocation.helps,
            "probability_that_specialties_gain_differently": None
            if allocation.curves is None
            else allocation.curves.gains_differ,
            "natural_mix_kept": allocation.kept,
        },
        "in_words": _in_words(evidence, feeding, metric),
        "evidence": [
            {name: _finite(value) for name, value in (asdict(item) | asdict(given)).items()} | {"reason": _reason(item, given)}
            for item, given in ((item, feeding.of(item.specialty)) for item in shown)
        ],
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN: what cannot be known (one question a specialty) is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _reason(item: Evidence, given: Given) -> str:
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
                f": {given.records_added} record{'s' * (given.records_added != 1)}, expected to better its score by {given.expected_gain:+.3f} "
                f"(80% interval {given.expected_gain_low:+.3f} to {given.expected_gain_high:+.3f})"
            )
    return found


def _in_words(evidence: Sequence[Evidence], feeding: Feeding, metric: str) -> list[str]:
    if not evidence:
        return [NOTHING_TO_COMPARE, *_feeding_in_words(feeding)]
    supported = [item.specialty for item in evidence if item.supported]
    if supported:
        count = "1 specialty does" if len(supported) == 1 else f"{len(supported)} specialties do"
        words = [f"{count} worse than the others in {metric} by more than chance explains: {', '.join(supported)}."]
    else:
        words = [f"No specialty does worse than the others in {metric} by more than chance explains."]
    words += _feeding_in_words(feeding) + _new_data_in_words(supported, feeding)
    order = sorted(_unsettled(evidence), key=lambda item: item.p_adjusted)
    near = [item for item in order if item.p_adjusted <= NEAR][:NEAR_THE_CUT] or order[:1]
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


def _feeding_in_words(feeding: Feeding) -> list[str]:
    """What is added, by which rule, and what that is expected to bring."""
    fed = sorted((item for item in feeding.given if item.records_added), key=lambda item: -item.records_added)
    added = sum(item.records_added for item in fed)
    allocation = feeding.allocation
    if not any(item.records_left for item in feeding.given):
        return ["The pool is spent: only new data can help now."]
    if not added:
        return ["No records are added, for BUDGET is 0."] if feeding.budget == 0 and feeding.policy != policies.THRESHOLD else []
    spent = f"By POLICY={feeding.policy}, {added:,} records are added, to {len(fed)} of {len(feeding.given)} specialties"
    if feeding.policy == policies.PROPORTIONAL:
        return [f"{spent}, in the proportions of the pool (the natural mix)."]
    named = ", ".join(f"{item.specialty} {item.records_added}" for item in fed[:MOST_NAMED])
    if allocation.kept and allocation.curves is None:
        return [f"{spent}, in the proportions of the pool (the natural mix): no question of the eval split has a score."]
    if allocation.curves is None:
        return [f"{spent}{': ' if len(fed) <= MOST_NAMED else '; most to '}{named}."]
    goal = feeding.objective if isinstance(feeding.objective, str) else "weighted mean"
    many = len(feeding.iterations)
    basis = f"the learning curves of the base and {'this iteration' if many == 1 else f'{many} iterations'}"
    if allocation.kept:
        if allocation.helps is not None and allocation.helps < policies.HELPS:
            why = f"by {basis} it is not sure enough that training raises the mean at all (probability {allocation.helps:.2f})"
        else:
            why = f"by {basis} no other mixture is likely to gain more in the {goal} (probability {allocation.probability:.2f})"
        return [f"{spent}, in the proportions of the pool (the natural mix): {why}."]
    return [
        f"{spent}, where {basis} expect most in the {goal}: {allocation.gain:+.3f}, for {allocation.gain_of_mix:+.3f} in the proportions "
        f"of the pool (more with a probability of {allocation.probability:.2f}). Most goes to {named}."
    ]


def _new_data_in_words(supported: Sequence[str], feeding: Feeding) -> list[str]:
    """Specialties whose pool is empty and that would need new data, not a larger share: the low ones, and those that more would help."""
    empty = [item for item in feeding.given if not item.records_left and (item.specialty in supported or item.new_records_needed)]
    if not empty:
        return []
    empty.sort(key=lambda item: (item.specialty not in supported, item.new_records_needed or 0))
    words = f"The pool is empty for {', '.join(item.specialty for item in empty[:MOST_NAMED])}"
    words += f" and {len(empty) - MOST_NAMED} more" if len(empty) > MOST_NAMED else ""
    wanted = [f"{item.specialty} about {item.new_records_needed:,}" for item in empty[:MOST_NAMED] if item.new_records_needed]
    told = f": new questions for {ENOUGH:+g} in the score would be {', '.join(wanted)}" if wanted else ""
    return [f"{words}, which need new data, not larger shares{told}."]
