"""Learning curves of all specialties, fitted together: how much each specialty would gain from further records.

The model. After training on `x[t, k]` records of specialty k, evaluation t shows the mean score `m[t, k]`:

    m[t, k] = level[k] + gain[k] * f(e[t, k] / scale[k]) + noise[t, k]
    e[t, k] = (1 - s) * x[t, k] + s * mean(x[t, :])         effective records: records of other specialties help too
    (level[k], gain[k]) ~ N(mu, Sigma)                      one distribution for all specialties
    scale[k] = c * u * exp(w * z), z ~ N(0, 1)              u is the median number of records of the first training
    noise[:, k] ~ N(0, C[k])                                see `_noise`

A curve for one specialty alone cannot be estimated from a few noisy means. Therefore level and gain of all specialties share one normal
distribution, and its mean `mu` and covariance `Sigma` are fitted to all of them: empirical Bayes by expectation-maximisation (EM).

The shape f, the shared fraction s, the centre c and the width w of the scales, and the noise between training runs are unknown. So is
whether specialties differ in level, and whether they differ in gain. Every combination on a grid is one model. Each model is fitted and
weighted by its likelihood. z takes three quadrature points.

The fit. For one model, specialty and quadrature point, let X be the (evaluations, 2) matrix whose rows are `(1, f(e / scale))`. Then

    A = X' C^-1 X,  b = X' C^-1 m                           information about (level, gain), and weighted scores
    V = (A + Sigma^-1)^-1,  V (b + Sigma^-1 mu)             posterior covariance and mean of (level, gain)

The E step computes these and the posterior weights of the quadrature points (`_Models._posterior`). The M step computes new `mu` and
`Sigma` from them (`_Models._updated_prior`).

The power law is that of Hestness et al. (2017), arXiv:1712.00409; the other shapes are included because not every curve is a power law.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# each rises from 0 at no records to at most 1; the argument is effective records divided by the specialty's scale
SHAPES: dict[str, Callable[[Array], Array]] = {
    "power 0.4": lambda r: 1 - (1 + r) ** -0.4,
    "power 1": lambda r: 1 - 1 / (1 + r),
    "exponential": lambda r: 1 - np.exp(-r),
    "plateau": lambda r: np.minimum(1, r / 2),
    "late": lambda r: r**3 / (1 + r**3),
}
SHAPE_FUNCTIONS = tuple(SHAPES.values())
SCALES = np.array([0.3, 0.7, 1.5, 3.0, 6.0])  # centres of the scales, in medians of the records first trained on
SCALE_WIDTHS = (0.0, 0.5)  # standard deviation of log(scale) between specialties
QUADRATURE_POINTS = np.array([-1.2, 0.0, 1.2])  # with their weights, these approximate a standard normal distribution
QUADRATURE_WEIGHTS = np.array([0.3, 0.4, 0.3])
SHARED_FRACTIONS = (0.0, 0.7)  # fraction of a specialty's effective records that is the mean over all specialties
RUN_NOISE_SDS = (0.03, 0.15)  # of a specialty's true score between training runs, in standard deviations between questions
EM_STEPS = 12  # more steps change no recommendation
PRUNING_STEP = EM_STEPS // 4  # the step at which unlikely models are dropped
DIFFERENCE_PENALTY = 4.0  # log likelihood that a model must gain by letting specialties differ in level, or in gain
MAX_LOG_LIKELIHOOD_GAP = 25.0  # to the best model; a model with a larger gap is dropped at `PRUNING_STEP`
COVARIANCE_SHRINKAGE = 0.7  # factor on the fitted covariance of level and gain: few noisy means make it too large
MIN_SD_FRACTION = 1e-3  # smallest standard deviation of level or gain between specialties, in those between questions
PRIOR_VARIANCE_FRACTION = 0.02  # variance of the pseudo-specialty in `_updated_prior`, in variances between questions
FIRST_GAIN_SD_FRACTION = 0.3  # standard deviation of gains with which EM starts, in those between questions
UNKNOWN_VARIANCE_FACTOR = 1e6  # noise variance of a missing mean, in variances between questions: it then has no weight


@dataclass(frozen=True)
class Observations:
    """Results of the evaluations so far, oldest first; row 0 is the base model, trained on no records.

    Args:
        trained: (evaluations, specialties) records trained on.
        means: (evaluations, specialties) mean scores over the same questions, higher is better; NaN where there is none.
        questions: (specialties,) number of questions in these means.
        sd_question: standard deviation of scores between questions of a specialty.
        sd_change: standard deviation of the change of a question's score between two models.
    """

    trained: Array
    means: Array
    questions: Array
    sd_question: float
    sd_change: float


@dataclass(frozen=True)
class Curves:
    """Posterior draws of the learning curves.

    Attributes:
        level, gain: (draws, specialties) score without training, and what the score gains at most.
        scale: (draws, specialties) in records.
        shape: (draws,) index into `SHAPE_FUNCTIONS`.
        shared_fraction: (draws,) fraction of a specialty's effective records that is the mean over all specialties.
        gains_differ: the probability that specialties gain differently.
    """

    level: Array
    gain: Array
    scale: Array
    shape: NDArray[np.intp]
    shared_fraction: Array
    gains_differ: float

    def halves(self) -> tuple[Curves, Curves]:
        """The even and the odd draws: two samples of the same posterior."""
        even, odd = (
            Curves(
                self.level[half], self.gain[half], self.scale[half], self.shape[half], self.shared_fraction[half], self.gains_differ
            )
            for half in (slice(0, None, 2), slice(1, None, 2))
        )  # fmt: skip
        return even, odd

    def scores(self, records: Array) -> Array:
        """(draws, specialties) true scores after training on `records` (specialties,)."""
        return self.level + self.gain * self.learned(records)

    def learned(self, records: Array) -> Array:
        """(draws, specialties) fraction of the gain that training on `records` (specialties,) reaches."""
        return self._shape_values(_effective(self.shared_fraction[:, None], records, records.mean()) / self.scale)

    def learned_by(self, specialty: int, records: Array, mean: Array) -> Array:
        """(draws, numbers) fraction of the gain that one specialty reaches, for several numbers of its records.

        Args:
            specialty: index of the specialty.
            records: (numbers,) of its records.
            mean: (numbers,) mean records over all specialties, for each of these numbers.
        """
        return self._shape_values(_effective(self.shared_fraction[:, None], records, mean) / self.scale[:, specialty, None])

    def _shape_values(self, ratio: Array) -> Array:
        values = np.empty(ratio.shape)
        for shape in np.unique(self.shape):
            rows = self.shape == shape
            values[rows] = SHAPE_FUNCTIONS[shape](ratio[rows])
        return values


def _effective(shared_fraction: float | Array, records: Array, mean: float | Array) -> Array:
    """The records by which a specialty gains: partly its own, partly the mean over all specialties."""
    return np.asarray((1 - shared_fraction) * records + shared_fraction * mean)


def fit(seen: Observations, draws: int, seed: int) -> Curves:
    """Fit every model of the grid and draw curves from the posterior distribution."""
    means, known = np.where(np.isnan(seen.means), 0.0, seen.means), ~np.isnan(seen.means)
    grid = _grid(seen.trained)
    precision, log_noise = _noise(seen, known)
    fitted = _Models(grid, precision, means).fitted(seen.sd_question, log_noise, *_first_guess(seen))
    return _drawn(fitted, grid, draws, seed)


@dataclass(frozen=True)
class _Grid:
    """Designs, which are the combinations of shape, shared fraction and scale, and the learned fractions that follow from them."""

    shapes: NDArray[np.intp]  # (designs,)
    shared_fractions: Array  # (designs,)
    scales: Array  # (designs, points) in records
    unit_gain: Array  # (designs,) value of the shape at the records first trained on; gains are fitted in this unit
    learned: Array  # (designs, points, evaluations, specialties) values of the shape, in `unit_gain`
    one_scale: NDArray[np.bool_]  # (designs,) whether all specialties have the same scale


def _grid(trained: Array) -> _Grid:
    """All designs, for `trained` (evaluations, specialties)."""
    unit = float(np.median(trained[1])) if len(trained) > 1 else 0.0
    unit = unit or 1.0
    shapes, fractions, scales, units, learned, one_scale = [], [], [], [], [], []
    for shape, fraction, centre, width in itertools.product(range(len(SHAPE_FUNCTIONS)), SHARED_FRACTIONS, SCALES, SCALE_WIDTHS):
        records = _effective(fraction, trained, trained.mean(axis=1, keepdims=True))
        shapes.append(shape)
        fractions.append(fraction)
        scales.append(centre * unit * np.exp(width * QUADRATURE_POINTS))
        units.append(float(SHAPE_FUNCTIONS[shape](np.array(1 / centre))))
        learned.append(SHAPE_FUNCTIONS[shape](records[None] / scales[-1][:, None, None]) / units[-1])
        one_scale.append(width == 0)
    return _Grid(
        np.array(shapes), np.array(fractions), np.array(scales), np.array(units), np.array(learned), np.array(one_scale)
    )  # fmt: skip


def _noise(seen: Observations, known: NDArray[np.bool_]) -> tuple[Array, Array]:
    """The inverse of the noise covariance C, and its log determinant, for each size of the noise between training runs.

    The choice of questions moves all means of a specialty together. Answers and training runs move each mean separately.

    Returns:
        (runs, specialties, evaluations, evaluations) inverse covariances, and (runs,) log determinants summed over specialties.
    """
    evaluations, specialties = seen.means.shape
    answer_variance = seen.sd_change**2 / 2
    question_variance = max(seen.sd_question**2 - answer_variance, 0.0)
    diagonal = np.arange(evaluations)
    shape = (len(RUN_NOISE_SDS), specialties, evaluations, evaluations)
    covariance = np.zeros(shape) + (question_variance / seen.questions)[:, None, None]
    for row, run_sd in enumerate(RUN_NOISE_SDS):
        run_variance = np.where(diagonal > 0, (run_sd * seen.sd_question) ** 2, 0.0)  # the base has no training run
        unknown = np.where(known.T, 0.0, UNKNOWN_VARIANCE_FACTOR * seen.sd_question**2)
        covariance[row][:, diagonal, diagonal] += (answer_variance / seen.questions)[:, None] + run_variance + unknown
    # the log determinant also counts missing means: the same constant for all models, which cancels when they are compared
    return np.asarray(np.linalg.inv(covariance)), np.asarray(np.linalg.slogdet(covariance)[1].sum(-1))


def _first_guess(seen: Observations) -> tuple[float, float, float]:
    """Mean level, variance of levels, and mean gain, with which EM starts."""
    with np.errstate(invalid="ignore"):
        base, last = seen.means[0], seen.means[-1]
        level = base[~np.isnan(base)] if (~np.isnan(base)).any() else last[~np.isnan(last)]
        change = (last - base)[~np.isnan(last - base)]
    return float(level.mean()), float(level.var()), float(change.mean()) if len(change) else 0.0


@dataclass(frozen=True)
class _Vector:
    """Vectors (level, gain): two arrays of the same shape, whose first axis is models."""

    level: Array
    gain: Array

    def of_models(self, rows: NDArray) -> _Vector:
        return _Vector(self.level[rows], self.gain[rows])

    def plus(self, other: _Vector) -> _Vector:
        return _Vector(self.level + other.level, self.gain + other.gain)

    def minus(self, other: _Vector) -> _Vector:
        return _Vector(self.level - other.level, self.gain - other.gain)

    def dot(self, other: _Vector) -> Array:
        return self.level * other.level + self.gain * other.gain


@dataclass(frozen=True)
class _Symmetric:
    """Symmetric 2 x 2 matrices of level and gain: three arrays of entries, whose first axis is models.

    The products are written out, since numpy's own take many times as long for matrices this small.
    """

    level_level: Array
    level_gain: Array
    gain_gain: Array

    def of_models(self, rows: NDArray) -> _Symmetric:
        return _Symmetric(self.level_level[rows], self.level_gain[rows], self.gain_gain[rows])

    def plus(self, other: _Symmetric) -> _Symmetric:
        return _Symmetric(
            self.level_level + other.level_level, self.level_gain + other.level_gain, self.gain_gain + other.gain_gain
        )

    def determinant(self) -> Array:
        return self.level_level * self.gain_gain - self.level_gain * self.level_gain

    def inverse(self) -> _Symmetric:
        determinant = self.determinant()
        return _Symmetric(self.gain_gain / determinant, -self.level_gain / determinant, self.level_level / determinant)

    def times(self, vector: _Vector) -> _Vector:
        return _Vector(
            self.level_level * vector.level + self.level_gain * vector.gain,
            self.level_gain * vector.level + self.gain_gain * vector.gain,
        )

    def solve(self, vector: _Vector) -> _Vector:
        """The inverse times `vector`."""
        determinant = self.determinant()
        return _Vector(
            (self.gain_gain * vector.level - self.level_gain * vector.gain) / determinant,
            (self.level_level * vector.gain - self.level_gain * vector.level) / determinant,
        )


@dataclass(frozen=True)
class _Prior:
    """The normal distribution of (level, gain) over specialties in each model; all arrays are (models, 1, 1)."""

    mean: _Vector  # mu
    covariance: _Symmetric  # Sigma


@dataclass(frozen=True)
class _Posterior:
    """What each model concludes about each specialty at each quadrature point; arrays are (models, points, specialties)."""

    mean: _Vector
    covariance: _Symmetric
    point_weight: Array  # probability of the quadrature point; sums to 1 over points
    log_likelihood: Array  # (models, 1, specialties) summed over points; terms that all points share are left out

    def of_models(self, rows: NDArray) -> _Posterior:
        return _Posterior(
            self.mean.of_models(rows), self.covariance.of_models(rows), self.point_weight[rows], self.log_likelihood[rows]
        )


@dataclass(frozen=True)
class _Fitted:
    """The models that were not dropped, fitted."""

    weight: Array  # (models,) sums to 1
    design: NDArray[np.intp]  # (models,)
    same_gain: NDArray[np.bool_]  # (models,) whether all specialties gain alike
    posterior: _Posterior


class _Models:
    """All models: each design with each size of run noise, and with levels and gains that differ between specialties or not.

    Attributes (the first axis is models):
        design, run: (models,) indices into the grid and into `RUN_NOISE_SDS`.
        same_level, same_gain: (models,) whether all specialties have one level, and one gain.
        squares: (models,) m' C^-1 m, summed over specialties.
        information: A, (models, points, specialties).
        weighted_scores: b, (models, points, specialties).
    """

    def __init__(self, grid: _Grid, precision: Array, means: Array) -> None:
        """Compute A and b.

        Args:
            precision: C^-1, (runs, specialties, evaluations, evaluations).
            means: (evaluations, specialties), 0 where there is none.
        """
        scores = means.T
        # axes: d designs, n sizes of run noise, j quadrature points, k specialties, t and u evaluations
        weighted = np.einsum("nktu,ku->nkt", precision, scores)
        weighted_learned = np.einsum("nktu,djuk->dnjkt", precision, grid.learned, optimize=True)
        shape = designs, runs, points, specialties = weighted_learned.shape[:4]
        rows = self._combine(grid, designs, runs)
        self.squares = np.einsum("nkt,kt->n", weighted, scores)[self.run]

        def of_models(values: Array) -> Array:
            return np.ascontiguousarray(values.reshape(designs * runs, points, specialties)[rows])

        self.information = _Symmetric(
            of_models(np.broadcast_to(precision.sum((-1, -2))[None, :, None], shape)),
            of_models(weighted_learned.sum(-1)),
            of_models(np.einsum("dnjkt,djtk->dnjk", weighted_learned, grid.learned)),
        )
        self.weighted_scores = _Vector(
            of_models(np.broadcast_to(weighted.sum(-1)[None, :, None], shape)),
            of_models(np.einsum("djtk,nkt->dnjk", grid.learned, weighted)),
        )

    def _combine(self, grid: _Grid, designs: int, runs: int) -> NDArray[np.intp]:
        """Set the four (models,) attributes; return the index of each model's combination of design and run noise."""
        design, run = np.divmod(np.arange(designs * runs), runs)
        # specialties that gain alike are assumed to have one scale too
        one_scale = np.flatnonzero(grid.one_scale[design])
        rows = np.concatenate([np.arange(designs * runs), one_scale])
        self.same_level = np.repeat([False, True], len(rows))
        self.same_gain = np.tile(np.arange(len(rows)) >= designs * runs, 2)
        rows = np.tile(rows, 2)
        self.design, self.run = design[rows], run[rows]
        return rows

    def fitted(self, sd: float, log_noise: Array, level: float, level_variance: float, gain: float) -> _Fitted:
        """Fit all models by EM, and drop on the way those that are far less likely than the best.

        Args:
            sd: standard deviation of scores between questions.
            log_noise: (runs,) log determinants of the noise covariance.
            level, level_variance, gain: where EM starts.
        """
        prior = self._first_prior(sd, level, level_variance, gain)
        for step in range(EM_STEPS):
            posterior = self._posterior(prior)
            if step == PRUNING_STEP:
                evidence = self._log_evidence(prior, posterior, log_noise)
                likely = evidence >= evidence.max() - MAX_LOG_LIKELIHOOD_GAP
                self._keep(likely)
                posterior = posterior.of_models(likely)
            prior = self._updated_prior(posterior, sd)
        posterior = self._posterior(prior)
        evidence = self._log_evidence(prior, posterior, log_noise)
        weight = np.exp(evidence - evidence.max())
        return _Fitted(weight / weight.sum(), self.design, self.same_gain, posterior)

    def _first_prior(self, sd: float, level: float, level_variance: float, gain: float) -> _Prior:
        """The prior with which EM starts: level and gain are independent."""
        models = len(self.design)
        min_variance = (MIN_SD_FRACTION * sd) ** 2
        level_variances = np.where(self.same_level, min_variance, level_variance + min_variance)
        gain_variances = np.where(self.same_gain, min_variance, (FIRST_GAIN_SD_FRACTION * sd) ** 2)
        return _Prior(
            _Vector(np.full((models, 1, 1), level), np.full((models, 1, 1), gain)),
            _Symmetric(level_variances[:, None, None], np.zeros((models, 1, 1)), gain_variances[:, None, None]),
        )

    def _posterior(self, prior: _Prior) -> _Posterior:
        """The E step.

        With P = A + Sigma^-1 and c = b + Sigma^-1 mu, the posterior covariance is P^-1 and the posterior mean P^-1 c. A quadrature point
        of weight w has the likelihood w * exp(c' P^-1 c / 2) / sqrt(det P), up to a factor that all points share.
        """
        prior_precision = prior.covariance.inverse()
        precision = self.information.plus(prior_precision)
        covariance = precision.inverse()
        weighted = self.weighted_scores.plus(prior_precision.times(prior.mean))
        mean = covariance.times(weighted)
        log_likelihood = 0.5 * (mean.dot(weighted) - np.log(precision.determinant())) + np.log(QUADRATURE_WEIGHTS)[:, None]
        # subtracting the maximum keeps exp() from overflowing
        maximum = log_likelihood.max(1, keepdims=True)
        relative = np.exp(log_likelihood - maximum)
        total = relative.sum(1, keepdims=True)
        return _Posterior(mean, covariance, relative / total, maximum + np.log(total))

    def _log_evidence(self, prior: _Prior, posterior: _Posterior, log_noise: Array) -> Array:
        """(models,) log likelihood of each model less its penalty, up to a constant that all models share.

        To the sum of the posterior's terms it adds, for each specialty, -1/2 of

            log det C + m' C^-1 m + log det Sigma + mu' Sigma^-1 mu
        """
        specialties = posterior.log_likelihood.shape[-1]
        pull = prior.covariance.inverse().times(prior.mean)
        prior_terms = np.log(prior.covariance.determinant()) + pull.level * prior.mean.level + pull.gain * prior.mean.gain
        return np.asarray(
            posterior.log_likelihood.sum((1, 2))
            - 0.5 * (log_noise[self.run] + self.squares)
            - 0.5 * specialties * prior_terms[:, 0, 0]
            - DIFFERENCE_PENALTY * (2.0 - self.same_gain - self.same_level)
        )

    def _keep(self, rows: NDArray[np.bool_]) -> None:
        """Drop all other models."""
        self.design, self.run, self.squares = self.design[rows], self.run[rows], self.squares[rows]
        self.same_level, self.same_gain = self.same_level[rows], self.same_gain[rows]
        self.information, self.weighted_scores = self.information.of_models(rows), self.weighted_scores.of_models(rows)

    def _updated_prior(self, posterior: _Posterior, sd: float) -> _Prior:
        """The M step.

        Sigma is the expected outer product of (level, gain) - mu, averaged over the specialties and one pseudo-specialty of small variance,
        so that few specialties do not make it zero. The variances of what is the same in all specialties stay at their minimum.
        """
        mean = self._prior_mean(posterior)
        apart, covariance = posterior.mean.minus(mean), posterior.covariance
        specialties = posterior.point_weight.shape[-1]
        pseudo_variance, min_variance = PRIOR_VARIANCE_FRACTION * sd**2, (MIN_SD_FRACTION * sd) ** 2

        def average(product: Array, pseudo: float) -> Array:
            return np.asarray(((posterior.point_weight * product).sum((1, 2), keepdims=True) + pseudo) / (specialties + 1))

        level_level = average(covariance.level_level + apart.level * apart.level, pseudo_variance)
        level_gain = COVARIANCE_SHRINKAGE * average(covariance.level_gain + apart.level * apart.gain, 0.0)
        gain_gain = average(covariance.gain_gain + apart.gain * apart.gain, pseudo_variance)
        level_level[self.same_level] = gain_gain[self.same_gain] = min_variance
        level_gain[self.same_gain | self.same_level] = 0.0
        return _Prior(mean, _Symmetric(level_level, level_gain, gain_gain))

    def _prior_mean(self, posterior: _Posterior) -> _Vector:
        """mu by generalised least squares: the solution of sum(A - A V A) mu = sum(b - A V b), weighted by quadrature point.

        The mean of the posterior means would hardly move where specialties differ little.
        """
        info, cov, scores = self.information, posterior.covariance, self.weighted_scores
        # the four entries of A V, which is not symmetric
        level_level = info.level_level * cov.level_level + info.level_gain * cov.level_gain
        level_gain = info.level_level * cov.level_gain + info.level_gain * cov.gain_gain
        gain_level = info.level_gain * cov.level_level + info.gain_gain * cov.level_gain
        gain_gain = info.level_gain * cov.level_gain + info.gain_gain * cov.gain_gain

        def summed(values: Array) -> Array:
            return np.asarray((posterior.point_weight * values).sum((1, 2), keepdims=True))

        left = _Symmetric(
            summed(info.level_level - level_level * info.level_level - level_gain * info.level_gain),
            summed(info.level_gain - level_level * info.level_gain - level_gain * info.gain_gain),
            summed(info.gain_gain - gain_level * info.level_gain - gain_gain * info.gain_gain),
        )
        right = _Vector(
            summed(scores.level - level_level * scores.level - level_gain * scores.gain),
            summed(scores.gain - gain_level * scores.level - gain_gain * scores.gain),
        )
        return left.solve(right)


def _drawn(fitted: _Fitted, grid: _Grid, draws: int, seed: int) -> Curves:
    """Draw a model, then for each specialty a quadrature point of its scale, then its level and gain."""
    random = np.random.default_rng(seed)
    models = np.sort(random.choice(len(fitted.weight), draws, p=fitted.weight))[:, None]
    specialties = np.arange(fitted.posterior.point_weight.shape[-1])[None]
    cumulative = fitted.posterior.point_weight[models[:, 0]].cumsum(1)
    points = (random.random((draws, 1, specialties.size)) > cumulative).sum(1).clip(max=len(QUADRATURE_POINTS) - 1)
    mean, covariance = fitted.posterior.mean, fitted.posterior.covariance
    at = models, points, specialties
    # the Cholesky factor of each 2 x 2 covariance
    level_sd = np.sqrt(covariance.level_level[at])
    gain_with_level = covariance.level_gain[at] / level_sd
    gain_alone = np.sqrt(np.maximum(covariance.gain_gain[at] - gain_with_level**2, 0))
    normal = random.normal(size=(2, draws, specialties.size))
    gain = mean.gain[at] + gain_with_level * normal[0] + gain_alone * normal[1]
    design = fitted.design[models[:, 0]]
    return Curves(
        level=mean.level[at] + level_sd * normal[0],
        gain=gain / grid.unit_gain[design][:, None],
        scale=grid.scales[design][np.arange(draws)[:, None], points],
        shape=grid.shapes[design],
        shared_fraction=grid.shared_fractions[design],
        gains_differ=float(fitted.weight[~fitted.same_gain].sum()),
    )
