"""The least probability at which a link is made: one for each semantic type with enough examples, else of its parent, else of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.core.artifacts import Artifact

Level = Literal["type", "parent", "default"]
Tier = Literal["high", "medium", "low", "none"]
HIGH_PROBABILITY, HIGH_MARGIN = 0.8, 0.3  # a link that one may use unseen
MEDIUM_PROBABILITY = 0.5


class Threshold(Artifact, frozen=True, kw_only=True):
    """A threshold and what it does on the documents on which it was chosen.

    Attributes:
        value: links of at least this probability are made.
        n: links of the type.
    """

    value: float
    n: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Decision:
    """A threshold that decides about a type, and where it comes from."""

    value: float
    level: Level
    type: str


class Thresholds(Artifact, frozen=True, kw_only=True):
    """Thresholds by type, with a default. `by_type` also holds parents, whose examples are those of all types below them."""

    by_type: dict[str, Threshold]
    default: Threshold

    def decide(self, type_id: str, vocabulary: Vocabulary) -> Decision:
        """The threshold of a type: its own, that of its nearest ancestor with one, or the default."""
        if type_id in self.by_type:
            return Decision(self.by_type[type_id].value, "type", type_id)
        for ancestor in vocabulary.ancestors(type_id):
            if ancestor in self.by_type:
                return Decision(self.by_type[ancestor].value, "parent", ancestor)
        return Decision(self.default.value, "default", "")


def best(probabilities: NDArray[np.float64], right: NDArray[np.bool_], linkable: int, precision: float | None) -> Threshold:
    """The threshold of the largest F1, or of the largest recall among those that reach a precision (1.0 where none does, which links nothing).

    Args:
        probabilities, right: (n,) of each mention's best candidate; 0 for a mention without one.
        linkable: mentions that have a right concept in the vocabulary, for recall.
        precision: that links must reach; None maximises F1.
    """
    probabilities, right = probabilities[probabilities > 0], right[probabilities > 0]
    order = np.argsort(-probabilities, kind="stable")
    values, hits = probabilities[order], np.cumsum(right[order])
    last_of_equal = np.append(np.diff(values) != 0, True) if len(values) else np.zeros(0, bool)
    options = [
        _threshold(float(values[place]), int(hits[place]), int(place) + 1, linkable, len(values))
        for place in np.flatnonzero(last_of_equal)
    ]
    if precision is not None:
        reached = [one for one in options if one.precision >= precision]
        return max(reached, key=lambda one: (one.recall, one.value)) if reached else _threshold(1.0, 0, 0, linkable, len(values))
    return max(options, key=lambda one: (one.f1, one.value)) if options else _threshold(1.0, 0, 0, linkable, 0)


def _threshold(value: float, hits: int, made: int, linkable: int, n: int) -> Threshold:
    precision, recall = hits / made if made else 0.0, hits / linkable if linkable else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return Threshold(value=value, n=n, precision=round(precision, 6), recall=round(recall, 6), f1=round(f1, 6))


def fit(
    types: Sequence[str], probabilities: NDArray[np.float64], right: NDArray[np.bool_], linkable: NDArray[np.bool_],
    vocabulary: Vocabulary, min_support: int, precision: float | None = None,
) -> Thresholds:  # fmt: skip
    """Thresholds of all types and ancestors with at least `min_support` mentions.

    Args:
        types: (n,) type of each mention's best candidate.
        linkable: (n,) whether the mention has a right concept in the vocabulary.
    """
    rows: dict[str, list[int]] = {}
    for row, type_id in enumerate(types):
        for one in [type_id, *vocabulary.ancestors(type_id)] if type_id else []:
            rows.setdefault(one, []).append(row)
    found = {
        one: best(probabilities[places], right[places], int(linkable[places].sum()), precision)
        for one, places in sorted(rows.items())
        if len(places) >= min_support
    }
    return Thresholds(by_type=found, default=best(probabilities, right, int(linkable.sum()), precision))


def tier_of(probability: float, margin: float, threshold: float) -> Tier:
    """How far a link can be trusted.

    Args:
        margin: probability of the best candidate minus that of the second.
    """
    if probability < threshold:
        return "none"
    if probability >= HIGH_PROBABILITY and margin >= HIGH_MARGIN:
        return "high"
    return "medium" if probability >= MEDIUM_PROBABILITY else "low"
