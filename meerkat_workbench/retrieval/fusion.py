"""Joining several rankings of the same candidates: reciprocal ranks, or a weighted sum of scores whose weights are learnt.

Reciprocal rank fusion (Cormack, Clarke and Buettcher 2009) needs no data. A weighted sum does better where judged queries exist to learn
its weights from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.core import artifacts
from meerkat_workbench.retrieval.documents import Ranking, ranked

RRF_K = 10  # the usual 60 is for long lists; 10 did better on lists of about ten (benchmarks/results/mediqa.md)


def reciprocal_rank_fusion(rankings: Sequence[Ranking], k: int = RRF_K) -> Ranking:
    """Documents by the sum of 1 / (k + rank) over the rankings that hold them."""
    sums: dict[str, float] = {}
    for ranking in rankings:
        for rank, one in enumerate(ranking, start=1):
            sums[one.document_id] = sums.get(one.document_id, 0.0) + 1 / (k + rank)
    return ranked(sums)


class LinearFusion(artifacts.Artifact, frozen=True, kw_only=True):
    """A weighted sum of the scores of several rankers, each standardised over a query's candidates.

    Attributes:
        features: names of the rankers.
        weights: one for each feature.
    """

    features: list[str]
    weights: list[float]

    def combine(self, scores: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """(candidates,) the fused scores of one query's candidates; `scores` holds (candidates,) for each feature."""
        parts = [weight * standardised(scores[name]) for name, weight in zip(self.features, self.weights, strict=True)]
        return np.sum(parts, axis=0)


class Fusions(artifacts.Artifact, frozen=True, kw_only=True):
    """`fusion.json` in the folder of a cross-encoder: a fusion for each set of rankers that a first stage may give."""

    FILE: ClassVar[str] = "fusion.json"

    fusions: list[LinearFusion]

    def for_rankers(self, rankers: Collection[str]) -> LinearFusion | None:
        """The fusion of exactly these rankers."""
        return next((one for one in self.fusions if set(one.features) == set(rankers)), None)


def read(model: Path | str) -> Fusions | None:
    """The fusions of a cross-encoder's folder; None if it has none."""
    path = Path(model) / Fusions.FILE
    return artifacts.read(Fusions, path) if path.is_file() else None


def standardised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores with mean 0 and standard deviation 1 over the candidates; all 0 if they are equal."""
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 1e-12 else np.zeros(len(scores))


def fit_linear(
    queries: Sequence[tuple[Mapping[str, NDArray[np.float64]], NDArray[np.bool_]]], features: Sequence[str]
) -> LinearFusion:
    """Learn the weights that put relevant candidates before others: logistic regression over pairs of candidates (RankNet's loss,
    Burges et al. 2005), without an intercept. Each query has the same weight, however many pairs it has.

    Args:
        queries: for each query the scores of its candidates by feature, (candidates,) each, and which of them are relevant. Queries
            whose candidates are all relevant, or none of them, teach nothing.
        features: the scores to use.
    """
    from sklearn.linear_model import LogisticRegression

    differences, weights = [], []
    for scores, relevant in queries:
        if relevant.all() or not relevant.any():
            continue
        table = np.stack([standardised(scores[name]) for name in features], axis=1)
        pairs = (table[relevant][:, None] - table[~relevant][None]).reshape(-1, len(features))
        differences.append(pairs)
        weights.append(np.full(len(pairs), 1 / len(pairs)))
    if not differences:
        return LinearFusion(features=list(features), weights=[1.0] * len(features))
    better, weight = np.concatenate(differences), np.concatenate(weights)
    # each pair is also given the other way round, because a regression needs both classes
    model = LogisticRegression(fit_intercept=False, C=10.0)
    model.fit(np.concatenate([better, -better]), np.repeat([1, 0], len(better)), np.concatenate([weight, weight]))
    return LinearFusion(features=list(features), weights=[float(value) for value in model.coef_[0]])
