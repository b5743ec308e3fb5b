"""Policies: rules that divide a budget of training records among the specialties. `benchmarks/policies.py` compares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from meerkat_workbench.tuning.allocation import learning_curves
from meerkat_workbench.tuning.allocation.learning_curves import Array, Curves, Observations
from meerkat_workbench.tuning.allocation.objective import MEAN, WORST_DECILE

PolicyName = Literal["proportional", "learning_curves", "threshold", "uniform"]  # values of POLICY
LEARNING_CURVES: PolicyName = "learning_curves"
THRESHOLD: PolicyName = "threshold"
PROPORTIONAL: PolicyName = "proportional"
UNIFORM: PolicyName = "uniform"

DECILE_FRACTION = 0.1  # fraction of the specialties that are the worst decile
TARGET_FRACTION = 0.8  # the specification's target: train on this fraction of a specialty's records

# the policy `learning_curves`
POSTERIOR_DRAWS = 200
BUDGET_PARTS = 40  # equal parts into which the greedy search divides the budget
STEPS_IN_PARTS = np.array([1, 3, 8, 20])  # step sizes of the search; large steps find curves that rise late
NATURAL_MIX_FRACTION = 0.1  # fraction of the budget that goes by the natural mix, whatever the curves predict
# fraction of the budget that goes to specialties that may be in the worst decile, even if they have gained little so far; only where
# that is the objective
EXPLORATION_FRACTION = 0.3
# the natural mix is kept unless both probabilities reach these
MIN_PROBABILITY_TRAINING_HELPS = 0.9
MIN_PROBABILITY_BETTER_THAN_MIX = 0.5
# how much one training run moves all specialties together, in standard deviations between questions; assumed, not measured
RUN_EFFECT_SD = 0.05
DECILE_MARGIN_SD = 0.1  # how far above the worst decile a gain still counts, in standard deviations between questions
MEAN_WEIGHT_IN_DECILE = (
    1e-3  # weight of the mean in the worst decile's objective: it decides where no gain in the decile is expected
)
MIN_RECORDS = 1e-9  # less than this is rounding error


@dataclass(frozen=True)
class PolicyInput:
    """Everything a policy may use.

    Args:
        seen: the results of the evaluations so far.
        pool: (specialties,) records that may be added.
        objective: "mean", "worst_decile", or (specialties,) weights.
        to_target: (specialties,) records that raise each specialty to the specification's 80%; None computes them from train and pool.
        seed: of the posterior draws.
    """

    seen: Observations
    pool: Array
    objective: str | Array = MEAN
    to_target: Array | None = None
    seed: int = 0


@dataclass(frozen=True)
class Allocation:
    """The records that a policy adds, and the gain that it expects from them.

    Args:
        added: (specialties,) records, not yet rounded.
        gain, gain_of_mix: expected gain in the objective, by this allocation and by the natural mix; None if the policy predicts nothing.
        probability: that the allocation recommended by the curves gains more than the natural mix.
        helps: the probability that training has raised the mean score at all.
        kept: whether the natural mix was kept because the curves are too uncertain.
        curves: the draws behind the expected gains; None if the policy predicts nothing.
    """

    added: Array
    gain: float | None = None
    gain_of_mix: float | None = None
    probability: float | None = None
    helps: float | None = None
    kept: bool = False
    curves: Curves | None = None


Policy = Callable[[PolicyInput, float], Allocation]


def fill(weights: Array, room: Array, budget: float) -> Array:
    """Divide a budget by weights.

    No specialty gets more than its room; what it cannot take goes to the others.

    Args:
        weights, room: (specialties,).

    Returns:
        (specialties,) records, not rounded.
    """
    added, left = np.zeros(len(weights)), min(budget, float(room.sum()))
    open_ = (room > 0) & (weights > 0)
    while left > MIN_RECORDS and open_.any():
        part = np.where(open_, weights, 0.0)
        part = np.minimum(left * part / part.sum(), room - added)
        added += part
        left -= float(part.sum())
        open_ &= room - added > MIN_RECORDS
    return added


def threshold(situation: PolicyInput, budget: float) -> Allocation:
    """The specification's rule with a fixed budget: raise the weakest to 80% of their records first, then in a second round to all."""
    trained, pool = situation.seen.trained[-1], situation.pool
    to_target = situation.to_target
    if to_target is None:
        to_target = TARGET_FRACTION * (trained + pool) - trained
    added = np.zeros(len(pool))
    for limit in (np.clip(to_target, 0, pool), pool):
        for place in np.argsort(situation.seen.means[-1]):  # specialties without a score come last
            added[place] += max(0.0, min(limit[place] - added[place], budget - added.sum()))
    return Allocation(added)


def proportional(situation: PolicyInput, budget: float) -> Allocation:
    """The natural mix: in proportion to the pools."""
    return Allocation(fill(situation.pool, situation.pool, budget))


def uniform(situation: PolicyInput, budget: float) -> Allocation:
    """The same number of records for each specialty, as far as its pool allows."""
    return Allocation(fill(np.ones(len(situation.pool)), situation.pool, budget))


def by_learning_curves(situation: PolicyInput, budget: float) -> Allocation:
    """Spend the budget where the learning curves of all specialties predict the largest gain in the objective.

    Falls back to the natural mix unless training probably helps at all and this allocation probably gains more.
    """
    budget = min(budget, float(situation.pool.sum()))
    mix = fill(situation.pool, situation.pool, budget)
    if np.isnan(situation.seen.means[-1]).all():
        return Allocation(mix, kept=True)
    # gains are estimated on other draws than those that chose the allocation, for which it is optimistic
    choosing, curves = learning_curves.fit(situation.seen, 2 * POSTERIOR_DRAWS, situation.seed).halves()
    added = _greedy(situation, choosing, budget, _reserve_floor(situation, choosing, mix))
    now = situation.seen.trained[-1]
    before, with_added, with_mix = (curves.scores(now + more) for more in (np.zeros(len(mix)), added, mix))
    helps = _probability_training_helps(situation, curves, before)
    value_before = _objective_value(before, situation.objective)
    gain = _objective_value(with_added, situation.objective) - value_before
    gain_of_mix = _objective_value(with_mix, situation.objective) - value_before
    probability = float((gain > gain_of_mix).mean())
    kept = helps < MIN_PROBABILITY_TRAINING_HELPS or probability < MIN_PROBABILITY_BETTER_THAN_MIX
    expected = gain_of_mix if kept else gain
    return Allocation(mix if kept else added, float(expected.mean()), float(gain_of_mix.mean()), probability, helps, kept, curves)


def _probability_training_helps(situation: PolicyInput, curves: Curves, scores: Array) -> float:
    """The probability that training so far has raised the mean over specialties; `scores` are (draws, specialties) now."""
    # a training run also moves all specialties together, which the curve of a single specialty cannot show
    runs = max(1, len(situation.seen.trained) - 1)
    run_effect_sd = RUN_EFFECT_SD * situation.seen.sd_question / np.sqrt(runs)
    run_effects = np.random.default_rng(situation.seed).normal(0, run_effect_sd, len(scores))
    return float(((scores - curves.level).mean(1) + run_effects > 0).mean())


def _reserve_floor(situation: PolicyInput, curves: Curves, mix: Array) -> Array:
    """(specialties,) records added whatever the curves predict.

    A fraction of the budget goes by the natural mix. If the worst decile is the objective, another fraction goes to its likely members.
    """
    added = NATURAL_MIX_FRACTION * mix
    if not isinstance(situation.objective, str) or situation.objective != WORST_DECILE:
        return added
    scores, worst = curves.scores(situation.seen.trained[-1]), worst_count(len(mix))
    probability_worst = (scores <= np.partition(scores, worst - 1, axis=1)[:, worst - 1, None]).mean(0)
    return added + fill(probability_worst, situation.pool - added, EXPLORATION_FRACTION * float(mix.sum()))


def worst_count(specialties: int) -> int:
    """Number of specialties in the worst decile."""
    return max(1, round(DECILE_FRACTION * specialties))


def _objective_value(scores: Array, objective: str | Array) -> Array:
    """(draws,) value of the objective, from scores (draws, specialties)."""
    if isinstance(objective, np.ndarray):
        return np.asarray(scores @ (objective / objective.sum()))
    if objective == MEAN:
        return np.asarray(scores.mean(1))
    worst = worst_count(scores.shape[1])
    return np.asarray(np.partition(scores, worst - 1, axis=1)[:, :worst].mean(1))


def _greedy(situation: PolicyInput, curves: Curves, budget: float, reserved: Array) -> Array:
    """Add the rest of the budget step by step, each step where the gain per record is largest.

    Args:
        reserved: (specialties,) records that are added in any case.

    Returns:
        (specialties,) records, `reserved` included.
    """
    now, pool, added = situation.seen.trained[-1], situation.pool, reserved.copy()
    part = budget / BUDGET_PARTS
    step_sizes = STEPS_IN_PARTS * part
    scores, steps = np.empty(curves.level.shape), np.empty((len(pool), len(step_sizes)))
    gains = np.empty((*scores.shape, len(step_sizes)))

    def update(place: int) -> None:
        """Compute this specialty's present scores and its gain from each step."""
        records = now[place] + added[place]
        steps[place] = np.minimum(step_sizes, max(0.0, pool[place] - added[place]))
        more = np.concatenate([[0.0], steps[place]])
        learned = curves.learned_by(place, records + more, (now.sum() + added.sum() + more) / len(pool))
        scores[:, place] = curves.level[:, place] + curves.gain[:, place] * learned[:, 0]
        gains[:, place] = curves.gain[:, place, None] * (learned[:, 1:] - learned[:, :1])

    for place in range(len(pool)):
        update(place)
    left = budget - float(added.sum())
    while left > MIN_RECORDS:
        rate = _expected_gains(situation, scores, gains) / np.maximum(steps, MIN_RECORDS)
        rate[(steps <= MIN_RECORDS) | (steps > left + part)] = -np.inf
        best, step = np.unravel_index(int(np.argmax(rate)), rate.shape)
        if rate[best, step] == -np.inf:
            break
        taken = min(float(steps[best, step]), left)
        added[best] += taken
        left -= taken
        update(int(best))
    return added


def _expected_gains(situation: PolicyInput, scores: Array, gains: Array) -> Array:
    """(specialties, steps) expected gain in the objective by each step.

    Args:
        scores: (draws, specialties) now.
        gains: (draws, specialties, steps) of a specialty's score.
    """
    if isinstance(situation.objective, np.ndarray):
        return np.asarray(gains.mean(0) * (situation.objective / situation.objective.sum())[:, None])
    gain_of_mean = np.asarray(gains.mean(0) / scores.shape[1])
    if situation.objective == MEAN:
        return gain_of_mean
    worst = worst_count(scores.shape[1])
    if worst >= scores.shape[1]:
        return gain_of_mean
    # a member of the worst decile gains up to a margin above the lowest score outside it; what it gains beyond does not count
    margin = DECILE_MARGIN_SD * situation.seen.sd_question
    room = np.partition(scores, worst, axis=1)[:, worst, None, None] + margin - scores[..., None]
    gain_in_decile = np.where(room > margin, np.minimum(gains, room), 0.0).mean(0) / worst
    return np.asarray(gain_in_decile + MEAN_WEIGHT_IN_DECILE * gain_of_mean)


POLICIES: Mapping[PolicyName, Policy] = {
    LEARNING_CURVES: by_learning_curves,
    THRESHOLD: threshold,
    PROPORTIONAL: proportional,
    UNIFORM: uniform,
}
