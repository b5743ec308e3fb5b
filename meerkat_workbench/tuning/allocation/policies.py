"""Rules that hand a budget of training records to the specialties; compared in benchmarks/policies.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from meerkat_workbench.tuning.allocation import learning_curves
from meerkat_workbench.tuning.allocation.learning_curves import Array, Curves, Observations

MEAN, WORST_DECILE = "mean", "worst_decile"
PolicyName = Literal["proportional", "learning_curves", "threshold", "uniform"]  # values of POLICY
LEARNING_CURVES: PolicyName = "learning_curves"
THRESHOLD: PolicyName = "threshold"
PROPORTIONAL: PolicyName = "proportional"
UNIFORM: PolicyName = "uniform"
DRAWS, BUDGET_STEPS = 200, 40
STRIDES = np.array([1, 3, 8, 20])  # parts tried at once, so that a curve that rises late is not given up
NATURAL_MIX_FRACTION = 0.1  # of a budget goes by the natural mix, whatever the curves say
EXPLORATION_FRACTION = (
    0.3  # of it to those that may be in the worst decile, though they have gained little so far; where that is the objective
)
# the natural mix is kept unless training is believed to have raised the mean at all, and what the curves recommend to gain more
MIN_PROBABILITY_TRAINING_HELPS, MIN_PROBABILITY_BETTER_THAN_MIX = 0.9, 0.5
RUN_EFFECT_SD = 0.05  # by how much one training run may move all specialties, in standard deviations of questions; assumed
DECILE_MARGIN_SD = 0.1  # how far beyond the worst decile a gain still counts, in standard deviations of questions
MEAN_WEIGHT_IN_DECILE = 1e-3  # of the mean in the worst decile's objective: once that cannot be helped, the others are


@dataclass(frozen=True)
class PolicyInput:
    """What a policy may know.

    Args:
        seen: what evaluations have shown.
        pool: (specialties,) records that may be added.
        objective: "mean", "worst_decile", or a weight for each specialty, (specialties,).
        to_target: (specialties,) records that raise each to the specification's 80%; None counts them from train and pool.
        seed: of the draws.
    """

    seen: Observations
    pool: Array
    objective: str | Array = MEAN
    to_target: Array | None = None
    seed: int = 0


@dataclass(frozen=True)
class Allocation:
    """Records to add, (specialties,), not yet whole, and what that is expected to bring.

    Args:
        gain, gain_of_mix: expected gain in the objective, of this and of the natural mix; None where a rule expects nothing.
        probability: that what the curves recommend gains more than the natural mix.
        helps: the probability that training has raised the mean at all.
        kept: whether the natural mix was kept because the curves do not tell enough.
        curves: what it is expected from; None where a rule expects nothing.
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
    """A budget by weights, none beyond its room; what one cannot take goes to the others."""
    added, left = np.zeros(len(weights)), min(budget, float(room.sum()))
    open_ = (room > 0) & (weights > 0)
    while left > 1e-9 and open_.any():
        part = np.where(open_, weights, 0.0)
        part = np.minimum(left * part / part.sum(), room - added)
        added += part
        left -= float(part.sum())
        open_ &= room - added > 1e-9
    return added


def threshold(situation: PolicyInput, budget: float) -> Allocation:
    """The specification's rule at a fixed budget: the weakest first, each to 80%, and to all once they are there."""
    trained, pool = situation.seen.trained[-1], situation.pool
    first = 0.8 * (trained + pool) - trained if situation.to_target is None else situation.to_target
    added = np.zeros(len(pool))
    for most in (np.clip(first, 0, pool), pool):
        for place in np.argsort(situation.seen.means[-1]):  # those without a score come last
            added[place] += max(0.0, min(most[place] - added[place], budget - added.sum()))
    return Allocation(added)


def proportional(situation: PolicyInput, budget: float) -> Allocation:
    """The natural mix: what the pools hold."""
    return Allocation(fill(situation.pool, situation.pool, budget))


def uniform(situation: PolicyInput, budget: float) -> Allocation:
    """As many records for each specialty, as far as its pool goes."""
    return Allocation(fill(np.ones(len(situation.pool)), situation.pool, budget))


def by_learning_curves(situation: PolicyInput, budget: float) -> Allocation:
    """Part after part where the objective is expected to gain most, by learning curves of all specialties.

    Nothing is made of noise: the natural mix is kept unless training is believed to help at all, and this to help more.
    """
    budget = min(budget, float(situation.pool.sum()))
    mix = fill(situation.pool, situation.pool, budget)
    if np.isnan(situation.seen.means[-1]).all():
        return Allocation(mix, kept=True)
    # what is expected of an allocation is asked of other draws than those it was chosen by, which would flatter it
    choosing, curves = learning_curves.fit(situation.seen, 2 * DRAWS, situation.seed).halves()
    now = situation.seen.trained[-1]
    added = _greedy(situation, choosing, budget, _reserve_floor(situation, choosing, mix))
    before, ours, natural = (curves.scores(now + more) for more in (np.zeros(len(mix)), added, mix))
    # a training run also moves all specialties together, which no curve of one of them shows
    together = RUN_EFFECT_SD * situation.seen.sd_question / np.sqrt(max(1, len(situation.seen.trained) - 1))
    of_runs = np.random.default_rng(situation.seed).normal(0, together, len(before))
    helps = float(((before - curves.level).mean(1) + of_runs > 0).mean())
    gain, gain_of_mix = (
        _objective_value(scores, situation.objective) - _objective_value(before, situation.objective)
        for scores in (ours, natural)
    )
    probability = float((gain > gain_of_mix).mean())
    kept = helps < MIN_PROBABILITY_TRAINING_HELPS or probability < MIN_PROBABILITY_BETTER_THAN_MIX
    expected = gain_of_mix if kept else gain
    return Allocation(mix if kept else added, float(expected.mean()), float(gain_of_mix.mean()), probability, helps, kept, curves)


def _reserve_floor(situation: PolicyInput, curves: Curves, mix: Array) -> Array:
    """What is given whatever the curves expect: a part by the natural mix, and, for the worst decile, one to those that may be in it."""
    added = NATURAL_MIX_FRACTION * mix
    if not isinstance(situation.objective, str) or situation.objective != WORST_DECILE:
        return added
    scores, worst = curves.scores(situation.seen.trained[-1]), worst_count(len(mix))
    among = (scores <= np.partition(scores, worst - 1, axis=1)[:, worst - 1, None]).mean(0)
    return added + fill(among, situation.pool - added, EXPLORATION_FRACTION * float(mix.sum()))


def worst_count(specialties: int) -> int:
    """Specialties in the worst decile."""
    return max(1, round(0.1 * specialties))


def _objective_value(scores: Array, objective: str | Array) -> Array:
    """The objective in each draw, (draws,), from scores (draws, specialties)."""
    if isinstance(objective, np.ndarray):
        return np.asarray(scores @ (objective / objective.sum()))
    if objective == MEAN:
        return np.asarray(scores.mean(1))
    worst = worst_count(scores.shape[1])
    return np.asarray(np.partition(scores, worst - 1, axis=1)[:, :worst].mean(1))


def _greedy(situation: PolicyInput, curves: Curves, budget: float, added: Array) -> Array:
    """`added`, and the rest of the budget in parts, each to where it gains most a record."""
    now, pool, added = situation.seen.trained[-1], situation.pool, added.copy()
    part = budget / BUDGET_STEPS
    strides = STRIDES * part
    scores, step = np.empty(curves.level.shape), np.empty((len(pool), len(strides)))
    gains = np.empty((*scores.shape, len(strides)))

    def look(place: int) -> None:
        """What this specialty scores now, and would gain by each step."""
        records = now[place] + added[place]
        step[place] = np.minimum(strides, max(0.0, pool[place] - added[place]))
        more = np.concatenate([[0.0], step[place]])
        learned = curves.learned_by(place, records + more, (now.sum() + added.sum() + more) / len(pool))
        scores[:, place] = curves.level[:, place] + curves.gain[:, place] * learned[:, 0]
        gains[:, place] = curves.gain[:, place, None] * (learned[:, 1:] - learned[:, :1])

    for place in range(len(pool)):
        look(place)
    left = budget - float(added.sum())
    while left > 1e-9:
        rate = _expected(situation, scores, gains) / np.maximum(step, 1e-9)
        rate[(step <= 1e-9) | (step > left + part)] = -np.inf
        best, stride = np.unravel_index(int(np.argmax(rate)), rate.shape)
        if rate[best, stride] == -np.inf:
            break
        taken = min(float(step[best, stride]), left)
        added[best] += taken
        left -= taken
        look(int(best))
    return added


def _expected(situation: PolicyInput, scores: Array, gains: Array) -> Array:
    """(specialties, strides): the objective's expected gain by each step."""
    if isinstance(situation.objective, np.ndarray):
        return np.asarray(gains.mean(0) * (situation.objective / situation.objective.sum())[:, None])
    of_mean = np.asarray(gains.mean(0) / scores.shape[1])
    if situation.objective == MEAN:
        return of_mean
    worst = worst_count(scores.shape[1])
    if worst >= scores.shape[1]:
        return of_mean
    bar = np.partition(scores, worst, axis=1)[:, worst, None, None] + DECILE_MARGIN_SD * situation.seen.sd_question
    room = bar - scores[..., None]
    inside = room > DECILE_MARGIN_SD * situation.seen.sd_question
    return np.asarray(np.where(inside, np.minimum(gains, room), 0.0).mean(0) / worst + MEAN_WEIGHT_IN_DECILE * of_mean)


POLICIES: Mapping[PolicyName, Policy] = {
    LEARNING_CURVES: by_learning_curves,
    THRESHOLD: threshold,
    PROPORTIONAL: proportional,
    UNIFORM: uniform,
}
