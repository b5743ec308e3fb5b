"""Weights for the evidence of candidates: a conditional logit (McFadden 1974), which is a softmax over one mention's candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.core.artifacts import Artifact


class EvidenceWeights(Artifact, frozen=True, kw_only=True):
    """One weight for each kind of evidence, by name."""

    names: list[str]
    weights: list[float]

    def scores(self, evidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """(candidates,) weighted sums of (candidates, names) evidence."""
        return evidence @ np.array(self.weights)


def probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(candidates,) the softmax of scores."""
    from scipy.special import softmax

    return softmax(scores) if len(scores) else scores


def fit(
    tables: Sequence[NDArray[np.float64]], right: Sequence[NDArray[np.bool_]], names: Sequence[str], penalty: float = 1.0
) -> EvidenceWeights:
    """Weights that make the right candidates most likely. Mentions without a right candidate, or with right ones only, teach nothing.

    Args:
        tables: for each mention, (candidates, names) evidence.
        right: for each mention, (candidates,) which of them are right; their probabilities add up.
        penalty: on half the sum of squared weights, of standardised evidence.
    """
    from scipy.optimize import minimize

    used = [(table, rows) for table, rows in zip(tables, right, strict=True) if rows.any() and not rows.all()]
    if not used:
        return EvidenceWeights(names=list(names), weights=[1.0] * len(names))
    stacked = np.concatenate([table for table, _ in used])
    hits = np.concatenate([rows for _, rows in used])
    starts = np.cumsum([0, *(len(rows) for _, rows in used)])[:-1]
    sizes = np.diff(np.append(starts, len(stacked)))
    spread = stacked.std(axis=0)
    spread[spread < 1e-9] = 1.0
    scaled = stacked / spread

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = scaled @ weights
        scores = np.exp(scores - np.repeat(np.maximum.reduceat(scores, starts), sizes))
        every, good = np.add.reduceat(scores, starts), np.add.reduceat(scores * hits, starts)
        share_all, share_good = scores / np.repeat(every, sizes), scores * hits / np.repeat(np.maximum(good, 1e-300), sizes)
        nats = -np.log(np.maximum(good, 1e-300) / every).sum() + penalty * (weights @ weights) / 2
        return float(nats), scaled.T @ (share_all - share_good) + penalty * weights

    found = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B")
    return EvidenceWeights(names=list(names), weights=[float(value) for value in found.x / spread])
