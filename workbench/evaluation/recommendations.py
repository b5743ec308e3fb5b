"""Which specialties to feed more, from the tuned model's scores on the eval split.

Small samples are shrunk toward the mean of all specialties (empirical Bayes; tau^2 by Paule and Mandel through
statsmodels), ranked, and given a probability of being among the worst. A raise is recommended only where a specialty
does worse than the others by more than noise, with false discoveries controlled over all specialties.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from workbench.evaluation.significance import ALPHA, false_discovery_adjusted, pooled_variance, shrink

WORST_SHARE = 0.2  # "the worst" are this share of the specialties
DRAWS = 20_000
TARGET_SHARE = 0.8
NOTHING_TO_COMPARE = "Fewer than two specialties have scores on the eval split, so none can be compared with others."
NEAR = 0.5  # adjusted p up to which a specialty that is not supported is near the cut
NEAR_THE_CUT = 3  # specialties of which it is said what would settle them


@dataclass
class Evidence:
    """What is known of one specialty, on the eval split; scores are turned so that higher is better."""

    specialty: str
    n: int
    mean: float
    shrunk: float
    shrunk_se: float
    others: float
    p_below_others: float
    p_adjusted: float
    probability_among_worst: float
    supported: bool
    current_share: float
    recommended_share: float
    records_added: int
    questions_to_settle: int | None
    reason: str


def rank_specialties(
    scores: Mapping[str, Sequence[float]],
    *,
    shares: Mapping[str, float],
    share_base: Mapping[str, int],
    pool: Mapping[str, int],
    seed: int,
) -> list[Evidence]:
    """Evidence for each specialty, the lowest shrunk score first.

    Args:
        scores: of each question by specialty, higher is better; specialties without a score are left out.
        shares: present absolute shares, (train + eval) / R.
        share_base: R by specialty.
        pool: records left in the pool by specialty.
    """
    names = sorted(name for name, values in scores.items() if len(values))
    if len(names) < 2:
        return []
    arrays = [np.asarray(scores[name], float) for name in names]
    counts = np.array([len(array) for array in arrays])
    means = np.array([array.mean() for array in arrays])
    freedom = int((counts - 1).sum())
    pooled = pooled_variance(arrays)
    variances = np.maximum(pooled, 1e-12) / counts

    shrunk, shrunk_se = shrink(means, variances)
    worst = _probability_among_worst(shrunk, shrunk_se, seed)

    total, everything = counts.sum(), float((means * counts).sum())
    others = (everything - means * counts) / (total - counts)
    standard = np.sqrt(variances + pooled / (total - counts))
    p_values = stats.t.cdf((means - others) / standard, max(freedom, 1)) if freedom else np.full(len(names), np.nan)
    adjusted = false_discovery_adjusted(list(p_values))

    evidence = []
    for row, name in enumerate(names):
        supported = bool(adjusted[row] <= ALPHA and means[row] < others[row])
        gap = float(others[row] - means[row])
        current, base, left = float(shares.get(name, 0.0)), int(share_base.get(name, 0)), int(pool.get(name, 0))
        target = _next_share(current, base, left) if supported else current
        evidence.append(
            Evidence(
                name, int(counts[row]), float(means[row]), float(shrunk[row]), float(shrunk_se[row]), float(others[row]),
                float(p_values[row]), float(adjusted[row]), float(worst[row]), supported, current, target,
                min(left, round((target - current) * base)) if base else 0,
                None if supported or gap <= 0 else _questions_to_settle(gap, pooled, len(names)),
                _reason(int(counts[row]), gap, float(adjusted[row]), supported, current, target, left),
            )
        )  # fmt: skip
    return sorted(evidence, key=lambda item: (item.shrunk, item.mean, item.specialty))


def _probability_among_worst(shrunk: np.ndarray, se: np.ndarray, seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed).normal(shrunk, np.maximum(se, 1e-12), (DRAWS, len(shrunk)))
    worst = max(1, round(WORST_SHARE * len(shrunk)))
    places = draws.argsort(axis=1)[:, :worst]
    return np.bincount(places.ravel(), minlength=len(shrunk)) / DRAWS


def _next_share(current: float, base: int, left: int) -> float:
    """80%, or all once that is reached; never more than the pool can give."""
    wanted = TARGET_SHARE if current < TARGET_SHARE - 1e-9 else 1.0
    most = current + (left / base if base else 0.0)
    return round(min(wanted, most, 1.0), 4)


def _questions_to_settle(gap: float, variance: float, specialties: int) -> int:
    """Eval questions with which this gap would be found at 80% power, at the level the first discovery must pass."""
    z = stats.norm.ppf(1 - ALPHA / specialties) + stats.norm.ppf(0.8)
    return math.ceil(z * z * variance / (gap * gap))


def _reason(n: int, gap: float, p_adjusted: float, supported: bool, current: float, target: float, left: int) -> str:
    if gap <= 0:
        return "not worse than the other specialties"
    if not supported:
        return f"measured worse than the others by {gap:.3f} on {n} questions, which chance explains well enough (adjusted p {p_adjusted:.2f})"
    found = f"worse than the others by {gap:.3f} on {n} questions (adjusted p {p_adjusted:.3f})"
    if left == 0:
        return f"{found}; the pool holds no further record, so it needs new data, not a larger share"
    if target <= current:
        return f"{found}; its share is at its most already"
    return f"{found}; its share goes from {current:.2f} to {target:.2f}"


def advice(
    evidence: Sequence[Evidence], *, metric: str, overall_improvement: Mapping[str, float | None], lower_is_better: bool = False
) -> dict[str, Any]:
    """The contents of `training_recommendations.json`: the specification's three keys, and the evidence beside them.

    Args:
        lower_is_better: whether scores had been turned for the ranking; they are turned back here.
    """
    sign = -1 if lower_is_better else 1
    shown = [replace(item, mean=sign * item.mean, shrunk=sign * item.shrunk, others=sign * item.others) for item in evidence]
    supported = [item for item in evidence if item.supported]
    raised = [item for item in supported if item.recommended_share > item.current_share]
    unsupported = [item for item in evidence if not item.supported and item.questions_to_settle is not None]
    return {
        "low_performance_specialties": [item.specialty for item in supported],
        "recommended_sample_increases": {item.specialty: item.recommended_share for item in raised},
        "overall_improvement": dict(overall_improvement),
        "measured_lowest_without_support": [item.specialty for item in unsupported[:5]],
        "steering_metric": metric,
        "steering_split": "eval",
        "in_words": _in_words(supported, raised, unsupported, metric) if evidence else [NOTHING_TO_COMPARE],
        "evidence": [{name: _finite(value) for name, value in asdict(item).items()} for item in shown],
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN: what cannot be known (one question a specialty) is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _count(n: int) -> str:
    return "1 specialty does" if n == 1 else f"{n} specialties do"


def _in_words(
    supported: Sequence[Evidence], raised: Sequence[Evidence], unsupported: Sequence[Evidence], metric: str
) -> list[str]:
    if supported:
        named = ", ".join(item.specialty for item in supported)
        words = [f"{_count(len(supported))} worse than the others in {metric} by more than chance explains: {named}."]
    else:
        words = [f"No specialty does worse than the others in {metric} by more than chance explains, so no share is raised."]
    if raised:
        words.append(f"Raising {len(raised)} of these adds {sum(item.records_added for item in raised)} training records.")
    if len(raised) < len(supported):
        empty = [item.specialty for item in supported if item not in raised]
        words.append(f"Nothing is left to add for {', '.join(empty)}: they need new data.")
    order = sorted(unsupported, key=lambda item: item.p_adjusted)
    near = [item for item in order if item.p_adjusted <= NEAR][:NEAR_THE_CUT] or order[:1]
    if near:
        settle = ", ".join(f"{item.specialty} {_more(item)}" for item in near)
        words.append(
            f"Not settled, for want of eval questions: {settle}. "
            "A larger EVAL_SPLIT_SIZE draws them, in a new series (--fresh) whose scores no longer compare with these; or choose "
            "yourself in specialty_adjustments."
        )
    return words


def _more(item: Evidence) -> str:
    return f"(has {item.n}, about {max(1, (item.questions_to_settle or 0) - item.n):,} more)"
