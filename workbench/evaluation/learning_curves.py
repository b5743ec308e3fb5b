"""What further records would buy each specialty: learning curves of all specialties, fitted together.

A specialty trained on x records scores `level + gain * shape(x / scale)`. One curve a specialty cannot be read from a few noisy means,
so level and gain of all specialties are drawn from one normal distribution, whose mean and covariance are fitted to all of them (empirical
Bayes, by expectation and maximisation). Which shape, at which scale, how much scales differ, how far two training runs differ, and
whether specialties differ at all, in level or in gain, is not known either: every combination on a grid is fitted and weighed by its
likelihood.
The power law is that of Hestness et al. (2017), arXiv:1712.00409; the other shapes are there because not every curve is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# each from 0 at no records to at most 1; the first argument is records over the specialty's scale
SHAPES: dict[str, Callable[[Array], Array]] = {
    "power 0.4": lambda r: 1 - (1 + r) ** -0.4,
    "power 1": lambda r: 1 - 1 / (1 + r),
    "exponential": lambda r: 1 - np.exp(-r),
    "plateau": lambda r: np.minimum(1, r / 2),
    "late": lambda r: r**3 / (1 + r**3),
}
KINDS = tuple(SHAPES.values())
SCALES = np.array([0.3, 0.7, 1.5, 3.0, 6.0])  # over the median of the records first trained on
WIDTHS = (0.0, 0.5)  # of the logarithm of scales between specialties
PLACES = np.array([-1.2, 0.0, 1.2])  # three points that stand for a normal distribution of that width, and their weights
WEIGHTS = np.array([0.3, 0.4, 0.3])
RUNS = (0.03, 0.1, 0.25)  # of a specialty's true score between training runs, over the deviation between questions
STEPS = 12  # of the fit; more change no recommendation
DIFFERENT = 4.0  # what the log likelihood must gain before specialties are taken to differ in level, or in gain
TOGETHER = 0.7  # of the fitted covariance of level and gain that is believed: few noisy means make it too large


@dataclass(frozen=True)
class Observations:
    """What evaluations have shown, oldest first; row 0 is the base, trained on nothing.

    Args:
        trained: (evaluations, specialties) records trained on.
        means: (evaluations, specialties) mean scores over the same questions, higher is better; NaN where there is none.
        questions: (specialties,) of which these are means.
        sd_question: standard deviation of scores between questions of a specialty.
        sd_change: the same of the change of a question's score between two models.
    """

    trained: Array
    means: Array
    questions: Array
    sd_question: float
    sd_change: float


@dataclass(frozen=True)
class Curves:
    """Draws from what is believed of the curves: `level` and `gain` (draws, specialties), `scale` in records, `kind` (draws,)."""

    level: Array
    gain: Array
    scale: Array
    kind: NDArray[np.intp]
    gains_differ: float  # the probability that specialties gain differently

    def scores(self, records: Array) -> Array:
        """(draws, specialties) of true scores, trained on `records` (specialties,)."""
        return self.level + self.gain * self.learned(records)

    def learned(self, records: Array) -> Array:
        """Of the gain, what `records` (specialties,) bring: (draws, specialties)."""
        return self._shape(records / self.scale)

    def learned_by(self, specialty: int, records: Array) -> Array:
        """The same of one specialty, for several numbers of records: (draws, numbers)."""
        return self._shape(records / self.scale[:, specialty, None])

    def _shape(self, ratio: Array) -> Array:
        found = np.empty(ratio.shape)
        for kind in np.unique(self.kind):
            rows = self.kind == kind
            found[rows] = KINDS[kind](ratio[rows])
        return found


@dataclass(frozen=True)
class _Grid:
    """Combinations of shape and scale, and what they make of the records."""

    kinds: NDArray[np.intp]  # (designs,)
    scales: Array  # (designs, places) in records
    unit_gain: Array  # (designs,) of the shape at the records first trained on; gains are fitted over it
    learned: Array  # (designs, places, evaluations, specialties)
    one_scale: NDArray[np.bool_]  # (designs,)


def _grid(trained: Array) -> _Grid:
    unit = float(np.median(trained[1])) if len(trained) > 1 else 0.0
    unit = unit or 1.0
    kinds, scales, units, learned, one = [], [], [], [], []
    for kind, shape in enumerate(KINDS):
        for centre in SCALES:
            for width in WIDTHS:
                scale = centre * unit * np.exp(width * PLACES)
                kinds.append(kind)
                scales.append(scale)
                units.append(float(shape(np.array(1 / centre))))
                learned.append(shape(trained[None] / scale[:, None, None]) / units[-1])
                one.append(width == 0)
    return _Grid(np.array(kinds), np.array(scales), np.array(units), np.array(learned), np.array(one))


def fit(seen: Observations, draws: int, seed: int) -> Curves:
    """Curves drawn from their posterior distribution."""
    means, known = np.where(np.isnan(seen.means), 0.0, seen.means), ~np.isnan(seen.means)
    grid = _grid(seen.trained)
    precision, log_noise = _noise(seen, known)
    system = _Normal(grid, precision, means)
    model = system.fitted(seen.sd_question, log_noise, *_first_guess(seen))

    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(len(model.weight), draws, p=model.weight))
    count = means.shape[1]
    below = model.place_weight[chosen].cumsum(1)
    place = (random.random((draws, 1, count)) > below).sum(1).clip(max=len(PLACES) - 1)
    row, column = np.arange(draws)[:, None], np.arange(count)[None]
    mean, covariance = model.mean[chosen][row, place, column], model.covariance[chosen][row, place, column]
    sd_level = np.sqrt(covariance[..., 0, 0])
    with_level = covariance[..., 0, 1] / sd_level
    alone = np.sqrt(np.maximum(covariance[..., 1, 1] - with_level**2, 0))
    normal = random.normal(size=(2, draws, count))
    design = model.design[chosen]
    gain = mean[..., 1] + with_level * normal[0] + alone * normal[1]
    return Curves(
        mean[..., 0] + sd_level * normal[0],
        gain / grid.unit_gain[design][:, None],
        grid.scales[design][row, place],
        grid.kinds[design],
        float(model.weight[~model.same_gain].sum()),
    )


def _first_guess(seen: Observations) -> tuple[float, float, float]:
    """Mean level, its variance, mean gain."""
    with np.errstate(invalid="ignore"):
        base, last = seen.means[0], seen.means[-1]
        level = base[~np.isnan(base)] if (~np.isnan(base)).any() else last[~np.isnan(last)]
        change = (last - base)[~np.isnan(last - base)]
    return float(level.mean()), float(level.var()), float(change.mean()) if len(change) else 0.0


def _noise(seen: Observations, known: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Inverse covariances of the means, (runs, specialties, evaluations, evaluations), and their log determinants, (runs,).

    Which questions were drawn moves all means of a specialty together; answers and training runs move each alone.
    """
    evaluations, specialties = seen.means.shape
    of_answers = seen.sd_change**2 / 2
    of_questions = max(seen.sd_question**2 - of_answers, 0.0)
    place = np.arange(evaluations)
    found = np.zeros((len(RUNS), specialties, evaluations, evaluations)) + (of_questions / seen.questions)[:, None, None]
    for row, run in enumerate(RUNS):
        trained_alone = np.where(place > 0, (run * seen.sd_question) ** 2, 0.0)
        unknown = np.where(known.T, 0.0, 1e6 * seen.sd_question**2)
        found[row][:, place, place] += (of_answers / seen.questions)[:, None] + trained_alone + unknown
    # the noise of what was not seen is a constant of all models, and drops out when they are compared
    return np.asarray(np.linalg.inv(found)), np.asarray(np.linalg.slogdet(found)[1].sum(-1))


def _inverse(matrix: Array) -> tuple[Array, Array]:
    """Of symmetric 2 x 2 matrices, with their determinants; numpy's own takes twenty times as long for so many."""
    determinant = matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] ** 2
    found = np.empty_like(matrix)
    found[..., 0, 0], found[..., 1, 1] = matrix[..., 1, 1] / determinant, matrix[..., 0, 0] / determinant
    found[..., 0, 1] = found[..., 1, 0] = -matrix[..., 0, 1] / determinant
    return found, determinant


@dataclass(frozen=True)
class _Fitted:
    """Every model on the grid: its weight, and what it believes of each specialty at each place of its scale."""

    weight: Array  # (models,)
    design: NDArray[np.intp]  # (models,)
    same_gain: NDArray[np.bool_]  # (models,) whether all specialties gain alike
    place_weight: Array  # (models, places, specialties)
    mean: Array  # (models, places, specialties, 2): level and gain
    covariance: Array  # (models, places, specialties, 2, 2)


class _Normal:
    """The normal equations of level and gain, for every design and size of run noise; a model a row."""

    def __init__(self, grid: _Grid, precision: Array, means: Array) -> None:
        scores = means.T
        weighted = np.einsum("nktu,ku->nkt", precision, scores)
        through = np.einsum("nktu,djuk->dnjkt", precision, grid.learned, optimize=True)
        designs, runs, places, specialties = through.shape[:4]
        left = np.empty((designs, runs, places, specialties, 2, 2))
        left[..., 0, 0] = precision.sum((-1, -2))[None, :, None]
        left[..., 0, 1] = left[..., 1, 0] = through.sum(-1)
        left[..., 1, 1] = np.einsum("dnjkt,djtk->dnjk", through, grid.learned)
        right = np.empty((designs, runs, places, specialties, 2))
        right[..., 0] = weighted.sum(-1)[None, :, None]
        right[..., 1] = np.einsum("djtk,nkt->dnjk", grid.learned, weighted)
        models = designs * runs
        design, run = np.divmod(np.arange(models), runs)
        # specialties that gain alike are taken to have one scale too
        again = np.flatnonzero(grid.one_scale[design])
        rows = np.concatenate([np.arange(models), again])
        same_gain = np.arange(len(rows)) >= models
        self.same_gain, self.same_level = np.tile(same_gain, 2), np.repeat([False, True], len(rows))
        rows = np.tile(rows, 2)
        self.left = left.reshape(models, places, specialties, 2, 2)[rows]
        self.right = right.reshape(models, places, specialties, 2)[rows]
        self.design, self.run = design[rows], run[rows]
        self.squares = np.einsum("nkt,kt->n", weighted, scores)[self.run]

    def fitted(self, sd: float, log_noise: Array, level: float, level_variance: float, gain: float) -> _Fitted:
        models, _, specialties = self.left.shape[:3]
        least = (1e-3 * sd) ** 2
        centre = np.tile([level, gain], (models, 1))
        spread = np.zeros((models, 2, 2))
        spread[:, 0, 0] = np.where(self.same_level, least, level_variance + least)
        spread[:, 1, 1] = np.where(self.same_gain, least, (0.3 * sd) ** 2)
        prior = 0.02 * sd**2  # one specialty's worth of a small spread, so that few specialties do not make it nothing
        for step in range(STEPS + 1):
            inverse, determinant = _inverse(spread)
            covariance, precision = _inverse(self.left + inverse[:, None, None])
            pull = np.einsum("mij,mj->mi", inverse, centre)
            right = self.right + pull[:, None, None]
            mean = np.empty_like(right)
            for row in (0, 1):
                mean[..., row] = covariance[..., row, 0] * right[..., 0] + covariance[..., row, 1] * right[..., 1]
            likelihood = 0.5 * ((right * mean).sum(-1) - np.log(precision)) + np.log(WEIGHTS)[:, None]
            top = likelihood.max(1, keepdims=True)
            place = np.exp(likelihood - top)
            total = place.sum(1, keepdims=True)
            place /= total
            if step == STEPS:
                break
            centre = self._centre(covariance, place)
            apart = mean - centre[:, None, None]
            squares = covariance + apart[..., :, None] * apart[..., None, :]
            spread = ((place[..., None, None] * squares).sum((1, 2)) + prior * np.eye(2)) / (specialties + 1)
            spread[:, [0, 1], [1, 0]] *= TOGETHER
            apart_alone = self.same_gain | self.same_level
            spread[apart_alone, 0, 1] = spread[apart_alone, 1, 0] = 0.0
            spread[self.same_gain, 1, 1] = spread[self.same_level, 0, 0] = least
        evidence = (
            (top + np.log(total)).sum((1, 2))
            - 0.5
            * (log_noise[self.run] + specialties * np.log(determinant) + self.squares + specialties * (pull * centre).sum(-1))
            - DIFFERENT * (2.0 - self.same_gain - self.same_level)
        )
        weight = np.exp(evidence - evidence.max())
        return _Fitted(weight / weight.sum(), self.design, self.same_gain, place, mean, covariance)

    def _centre(self, covariance: Array, place: Array) -> Array:
        """(models, 2): mean level and gain by generalised least squares; the mean of the posterior means hardly moves where they differ little."""
        a, b, d = self.left[..., 0, 0], self.left[..., 0, 1], self.left[..., 1, 1]
        p, q, r = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
        # left @ covariance, row by row: written out, since for matrices this small every product of numpy's costs more
        against = (a * p + b * q, a * q + b * r, b * p + d * q, b * q + d * r)
        y, z = self.right[..., 0], self.right[..., 1]
        left = np.empty((len(place), 2, 2))
        left[:, 0, 0] = (place * (a - against[0] * a - against[1] * b)).sum((1, 2))
        left[:, 0, 1] = left[:, 1, 0] = (place * (b - against[0] * b - against[1] * d)).sum((1, 2))
        left[:, 1, 1] = (place * (d - against[2] * b - against[3] * d)).sum((1, 2))
        right = np.empty((len(place), 2))
        right[:, 0] = (place * (y - against[0] * y - against[1] * z)).sum((1, 2))
        right[:, 1] = (place * (z - against[2] * y - against[3] * z)).sum((1, 2))
        return np.asarray(np.einsum("mij,mj->mi", _inverse(left)[0], right))
