"""What further records would buy each specialty: learning curves of all specialties, fitted together.

A specialty trained on x records scores `level + gain * shape(x / scale)`, where a part of x may be the mean of all: one specialty's
records teach the others too. One curve a specialty cannot be read from a few noisy means,
so level and gain of all specialties are drawn from one normal distribution, whose mean and covariance are fitted to all of them (empirical
Bayes, by expectation and maximisation). Which shape, at which scale, how much scales differ, how far two training runs differ, and
whether specialties differ at all, in level or in gain, is not known either: every combination on a grid is fitted and weighed by its
likelihood.
The power law is that of Hestness et al. (2017), arXiv:1712.00409; the other shapes are there because not every curve is one.
"""

from __future__ import annotations

import itertools
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
SCALE_WIDTHS = (0.0, 0.5)  # of the logarithm of scales between specialties
QUADRATURE_POINTS = np.array(
    [-1.2, 0.0, 1.2]
)  # three points that stand for a normal distribution of that width, and their weights
QUADRATURE_WEIGHTS = np.array([0.3, 0.4, 0.3])
SHARED_FRACTIONS = (0.0, 0.7)  # of the records by which a specialty gains, the part that is the mean of all specialties
RUN_NOISE_SDS = (0.03, 0.15)  # of a specialty's true score between training runs, over the deviation between questions
EM_STEPS = 12  # of the fit; more change no recommendation
DIFFERENCE_PENALTY = 4.0  # what the log likelihood must gain before specialties are taken to differ in level, or in gain
MAX_LOG_LIKELIHOOD_GAP = 25.0  # by how much less log likelihood than the best a model is dropped on the way
COVARIANCE_SHRINKAGE = 0.7  # of the fitted covariance of level and gain that is believed: few noisy means make it too large


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
    """Draws from what is believed of the curves.

    `level`, `gain` and `scale`, in records, are (draws, specialties); `kind` of shape and the part of `others` are (draws,).
    """

    level: Array
    gain: Array
    scale: Array
    kind: NDArray[np.intp]
    others: Array
    gains_differ: float  # the probability that specialties gain differently

    def halves(self) -> tuple[Curves, Curves]:
        """Every second draw, and the others: two samples of the same belief."""
        one, other = (
            Curves(self.level[half], self.gain[half], self.scale[half], self.kind[half], self.others[half], self.gains_differ)
            for half in (slice(0, None, 2), slice(1, None, 2))
        )
        return one, other

    def scores(self, records: Array) -> Array:
        """(draws, specialties) of true scores, trained on `records` (specialties,)."""
        return self.level + self.gain * self.learned(records)

    def learned(self, records: Array) -> Array:
        """Of the gain, what `records` (specialties,) bring: (draws, specialties)."""
        return self._shape(_effective(self.others[:, None], records, records.mean()) / self.scale)

    def learned_by(self, specialty: int, records: Array, mean: Array) -> Array:
        """The same of one specialty, for several numbers of records, and of the mean of all there would be: (draws, numbers)."""
        return self._shape(_effective(self.others[:, None], records, mean) / self.scale[:, specialty, None])

    def _shape(self, ratio: Array) -> Array:
        found = np.empty(ratio.shape)
        for kind in np.unique(self.kind):
            rows = self.kind == kind
            found[rows] = KINDS[kind](ratio[rows])
        return found


def _effective(others: float | Array, records: Array, mean: float | Array) -> Array:
    """Records by which a specialty gains: its own in part, and in part the mean of all."""
    return np.asarray((1 - others) * records + others * mean)


@dataclass(frozen=True)
class _Grid:
    """Combinations of shape and scale, and what they make of the records."""

    kinds: NDArray[np.intp]  # (designs,)
    others: Array  # (designs,)
    scales: Array  # (designs, places) in records
    unit_gain: Array  # (designs,) of the shape at the records first trained on; gains are fitted over it
    learned: Array  # (designs, places, evaluations, specialties)
    one_scale: NDArray[np.bool_]  # (designs,)


def _grid(trained: Array) -> _Grid:
    unit = float(np.median(trained[1])) if len(trained) > 1 else 0.0
    unit = unit or 1.0
    kinds, parts, scales, units, learned, one = [], [], [], [], [], []
    for kind, others, centre, width in itertools.product(range(len(KINDS)), SHARED_FRACTIONS, SCALES, SCALE_WIDTHS):
        records = _effective(others, trained, trained.mean(axis=1, keepdims=True))
        kinds.append(kind)
        parts.append(others)
        scales.append(centre * unit * np.exp(width * QUADRATURE_POINTS))
        units.append(float(KINDS[kind](np.array(1 / centre))))
        learned.append(KINDS[kind](records[None] / scales[-1][:, None, None]) / units[-1])
        one.append(width == 0)
    return _Grid(np.array(kinds), np.array(parts), np.array(scales), np.array(units), np.array(learned), np.array(one))


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
    place = (random.random((draws, 1, count)) > below).sum(1).clip(max=len(QUADRATURE_POINTS) - 1)
    row, column = np.arange(draws)[:, None], np.arange(count)[None]
    chosen, which = chosen[:, None], (place, column)
    level_variance, both = model.level_level[chosen, *which], model.level_gain[chosen, *which]
    sd_level = np.sqrt(level_variance)
    with_level = both / sd_level
    alone = np.sqrt(np.maximum(model.gain_gain[chosen, *which] - with_level**2, 0))
    normal = random.normal(size=(2, draws, count))
    design = model.design[chosen[:, 0]]
    gain = model.gain[chosen, *which] + with_level * normal[0] + alone * normal[1]
    return Curves(
        model.level[chosen, *which] + sd_level * normal[0],
        gain / grid.unit_gain[design][:, None],
        grid.scales[design][row, place],
        grid.kinds[design],
        grid.others[design],
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
    found = np.zeros((len(RUN_NOISE_SDS), specialties, evaluations, evaluations)) + (of_questions / seen.questions)[:, None, None]
    for row, run in enumerate(RUN_NOISE_SDS):
        trained_alone = np.where(place > 0, (run * seen.sd_question) ** 2, 0.0)
        unknown = np.where(known.T, 0.0, 1e6 * seen.sd_question**2)
        found[row][:, place, place] += (of_answers / seen.questions)[:, None] + trained_alone + unknown
    # the noise of what was not seen is a constant of all models, and drops out when they are compared
    return np.asarray(np.linalg.inv(found)), np.asarray(np.linalg.slogdet(found)[1].sum(-1))


@dataclass(frozen=True)
class _Fitted:
    """Models of the grid that are likely enough: their weight, and what each believes of every specialty at each place of its scale.

    `level`, `gain`, and their variances `level_level`, `level_gain`, `gain_gain` are (models, places, specialties).
    """

    weight: Array  # (models,)
    design: NDArray[np.intp]  # (models,)
    same_gain: NDArray[np.bool_]  # (models,) whether all specialties gain alike
    place_weight: Array  # (models, places, specialties)
    level: Array
    gain: Array
    level_level: Array
    level_gain: Array
    gain_gain: Array


class _Normal:
    """The normal equations of level and gain, for every design and size of run noise; a model a row.

    Of a symmetric 2 x 2 matrix a specialty the three entries are three arrays, and products are written out: numpy's own for matrices
    this small take many times as long.
    """

    def __init__(self, grid: _Grid, precision: Array, means: Array) -> None:
        scores = means.T
        weighted = np.einsum("nktu,ku->nkt", precision, scores)
        through = np.einsum("nktu,djuk->dnjkt", precision, grid.learned, optimize=True)
        designs, runs, places, specialties = through.shape[:4]
        models = designs * runs
        design, run = np.divmod(np.arange(models), runs)
        # specialties that gain alike are taken to have one scale too
        again = np.flatnonzero(grid.one_scale[design])
        rows = np.concatenate([np.arange(models), again])
        self.same_level = np.repeat([False, True], len(rows))
        self.same_gain = np.tile(np.arange(len(rows)) >= models, 2)
        rows = np.tile(rows, 2)
        self.design, self.run = design[rows], run[rows]
        self.squares = np.einsum("nkt,kt->n", weighted, scores)[self.run]

        def of_models(values: Array) -> Array:
            return np.ascontiguousarray(values.reshape(models, places, specialties)[rows])

        shape = (designs, runs, places, specialties)
        self.a = of_models(np.broadcast_to(precision.sum((-1, -2))[None, :, None], shape))
        self.b = of_models(through.sum(-1))
        self.d = of_models(np.einsum("dnjkt,djtk->dnjk", through, grid.learned))
        self.y = of_models(np.broadcast_to(weighted.sum(-1)[None, :, None], shape))
        self.z = of_models(np.einsum("djtk,nkt->dnjk", grid.learned, weighted))

    def fitted(self, sd: float, log_noise: Array, level: float, level_variance: float, gain: float) -> _Fitted:
        """By expectation and maximisation; what is far less likely than the best is dropped on the way."""
        models, _, specialties = self.a.shape
        least = (1e-3 * sd) ** 2
        prior = 0.02 * sd**2  # one specialty's worth of a small spread, so that few specialties do not make it nothing
        centre = np.tile([[level], [gain]], models)[..., None, None]  # (2, models, 1, 1)
        spread = np.zeros((3, models, 1, 1))  # of level, of both, of gain
        spread[0, :, 0, 0] = np.where(self.same_level, least, level_variance + least)
        spread[2, :, 0, 0] = np.where(self.same_gain, least, (0.3 * sd) ** 2)
        for step in range(EM_STEPS + 1):
            determinant = spread[0] * spread[2] - spread[1] ** 2
            inverse = spread[2] / determinant, -spread[1] / determinant, spread[0] / determinant
            pull = inverse[0] * centre[0] + inverse[1] * centre[1], inverse[1] * centre[0] + inverse[2] * centre[1]
            a, b, d = self.a + inverse[0], self.b + inverse[1], self.d + inverse[2]
            precision = a * d - b * b
            p, q, r = d / precision, -b / precision, a / precision  # the covariance of level and gain
            y, z = self.y + pull[0], self.z + pull[1]
            means = p * y + q * z, q * y + r * z
            likelihood = 0.5 * (means[0] * y + means[1] * z - np.log(precision)) + np.log(QUADRATURE_WEIGHTS)[:, None]
            top = likelihood.max(1, keepdims=True)
            place = np.exp(likelihood - top)
            total = place.sum(1, keepdims=True)
            place /= total
            if step in (EM_STEPS // 4, EM_STEPS):
                evidence = (
                    (top + np.log(total)).sum((1, 2))
                    - 0.5 * (log_noise[self.run] + self.squares)
                    - 0.5 * specialties * (np.log(determinant) + pull[0] * centre[0] + pull[1] * centre[1])[:, 0, 0]
                    - DIFFERENCE_PENALTY * (2.0 - self.same_gain - self.same_level)
                )
                if step == EM_STEPS:
                    break
                kept = evidence >= evidence.max() - MAX_LOG_LIKELIHOOD_GAP
                self._keep(kept)
                p, q, r, place = p[kept], q[kept], r[kept], place[kept]
                means = means[0][kept], means[1][kept]
            centre = self._centre(p, q, r, place)
            apart = means[0] - centre[0], means[1] - centre[1]
            spread = np.stack([
                (place * (own + one * other)).sum((1, 2), keepdims=True)
                for own, one, other in ((p, apart[0], apart[0]), (q, apart[0], apart[1]), (r, apart[1], apart[1]))
            ])  # fmt: skip
            spread = (spread + prior * np.array([1.0, 0.0, 1.0])[:, None, None, None]) / (specialties + 1)
            spread[1] *= COVARIANCE_SHRINKAGE
            spread[1, self.same_gain | self.same_level] = 0.0
            spread[0, self.same_level] = spread[2, self.same_gain] = least
        weight = np.exp(evidence - evidence.max())
        return _Fitted(weight / weight.sum(), self.design, self.same_gain, place, *means, p, q, r)

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        for name, values in vars(self).items():
            setattr(self, name, values[kept])

    def _centre(self, p: Array, q: Array, r: Array, place: Array) -> Array:
        """(2, models, 1, 1): mean level and gain by generalised least squares.

        The mean of the posterior means would hardly move where specialties differ little.
        """
        a, b, d, y, z = self.a, self.b, self.d, self.y, self.z
        against = (a * p + b * q, a * q + b * r, b * p + d * q, b * q + d * r)

        def summed(values: Array) -> Array:
            return np.asarray((place * values).sum((1, 2), keepdims=True))

        level_level = summed(a - against[0] * a - against[1] * b)
        level_gain = summed(b - against[0] * b - against[1] * d)
        gain_gain = summed(d - against[2] * b - against[3] * d)
        level, gain = summed(y - against[0] * y - against[1] * z), summed(z - against[2] * y - against[3] * z)
        determinant = level_level * gain_gain - level_gain**2
        return np.stack([gain_gain * level - level_gain * gain, level_level * gain - level_gain * level]) / determinant
