"""Weights for the evidence of candidates: a conditional logit (McFadden 1974), which is a softmax over one mention's candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.core.artifacts import Artifact

# on half the sum of squared weights of standardised evidence; on five folds of NCBI disease, 10 to 100 for products made no difference
PENALTY, PENALTY_OF_PRODUCTS = 1.0, 30.0


class EvidenceWeights(Artifact, frozen=True, kw_only=True):
    """One weight for each kind of evidence.

    Attributes:
        names: of the evidence.
        weights: one for each name, and, with products, one for each product of two names (a name with itself, too), in the order of `columns`.
        none: score of "none of the candidates", which competes with them: a single poor candidate is not certain.
        products: whether there are products.
    """

    names: list[str]
    weights: list[float]
    none: float = 0.0
    products: bool = False

    def scores(self, evidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """(candidates,) weighted sums of (candidates, names) evidence."""
        return columns(evidence, self.products) @ np.array(self.weights)

    def probabilities(self, evidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """(candidates,) the softmax of their scores and that of "none of them"."""
        from scipy.special import softmax

        return softmax(np.append(self.scores(evidence), self.none))[:-1]


def columns(evidence: NDArray[np.float64], products: bool) -> NDArray[np.float64]:
    """(candidates, columns) what is weighted: the evidence, and the product of each two kinds of it if they are wanted."""
    if not products:
        return evidence
    return np.hstack([evidence, *(evidence[:, [one]] * evidence[:, one:] for one in range(evidence.shape[1]))])


def fit(
    tables: Sequence[NDArray[np.float64]], right: Sequence[NDArray[np.bool_]], names: Sequence[str], *, products: bool = False
) -> EvidenceWeights:
    """Weights that make the right candidates most likely, and "none of them" where no candidate is right. Mentions without candidates teach nothing.

    Args:
        tables: for each mention, (candidates, names) evidence.
        right: for each mention, (candidates,) which of them are right; their probabilities add up.
        products: whether products of two kinds of evidence get weights too, so that one kind can count more where another is present.

    Raises:
        ValueError: no mention has a right candidate.
    """
    from scipy.optimize import minimize

    used = [(table, rows) for table, rows in zip(tables, right, strict=True) if len(rows)]
    if not any(rows.any() for _, rows in used):
        raise ValueError("no mention has a right candidate")
    # the last row of each mention and the last column are "none of them"; 32 bits, because products of thousands of mentions take hundreds of megabytes
    sizes = np.array([len(rows) + 1 for _, rows in used])
    starts = np.cumsum(sizes) - sizes
    width = columns(np.zeros((1, len(names))), products).shape[1]
    stacked, hits = np.zeros((sizes.sum(), width + 1), np.float32), np.zeros(sizes.sum(), bool)
    for start, (table, rows) in zip(starts, used, strict=True):
        end = start + len(rows)
        stacked[start:end, :width], hits[start:end] = columns(table, products), rows
        stacked[end, width], hits[end] = 1.0, not rows.any()
    spread = stacked.std(axis=0)
    spread[spread < 1e-6] = spread[width] = 1.0
    stacked /= spread
    penalties = np.full(width + 1, PENALTY_OF_PRODUCTS)
    penalties[: len(names)], penalties[width] = PENALTY, 0.0

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = (stacked @ weights.astype(np.float32)).astype(np.float64)
        scores = np.exp(scores - np.repeat(np.maximum.reduceat(scores, starts), sizes))
        every, good = np.add.reduceat(scores, starts), np.maximum(np.add.reduceat(scores * hits, starts), 1e-300)
        shares = scores / np.repeat(every, sizes) - scores * hits / np.repeat(good, sizes)
        nats = -np.log(good / every).sum() + (penalties * weights**2).sum() / 2
        return float(nats), (shares.astype(np.float32) @ stacked).astype(np.float64) + penalties * weights

    found = minimize(loss, np.zeros(width + 1), jac=True, method="L-BFGS-B").x / spread
    return EvidenceWeights(names=list(names), weights=found[:-1].tolist(), none=float(found[-1]), products=products)
