"""Measures of logits against outcomes that are true or false."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def cross_entropy(logits: NDArray[np.float64], outcomes: NDArray[np.bool_]) -> float:
    """Mean binary cross-entropy in nats, from logits without overflow."""
    return round(float(np.mean(np.logaddexp(0, logits) - logits * outcomes)), 6)


def auroc(logits: NDArray[np.float64], outcomes: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve; None if all outcomes are equal."""
    from sklearn.metrics import roc_auc_score

    return round(float(roc_auc_score(outcomes, logits)), 6) if 0 < outcomes.sum() < len(outcomes) else None


def f1(logits: NDArray[np.float64], outcomes: NDArray[np.bool_]) -> float:
    """F1 of "true", said where the probability is at least .5."""
    from sklearn.metrics import f1_score

    return round(float(f1_score(outcomes, logits >= 0, zero_division=0.0)), 6)
