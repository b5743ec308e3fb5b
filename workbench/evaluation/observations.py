"""What the evaluations so far have shown of every specialty, as learning curves are fitted to it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from workbench.evaluation.learning_curves import Observations
from workbench.evaluation.significance import pooled_variance


def collect(
    base: pd.DataFrame,
    tuned: Sequence[pd.DataFrame],
    trained: Sequence[Mapping[str, int]],
    names: Sequence[str],
    metric: str,
    *,
    sign: float,
) -> Observations:
    """Means over the eval questions, and how far questions and answers scatter.

    Args:
        base: the base's scored answers, a row a question.
        tuned: those of each tuned model, oldest first.
        trained: records of each specialty that each of them was trained on.
        names: specialties, in the order of the columns.
        sign: -1 where lower is better.
    """
    tables = [_eval_scores(table, metric, sign) for table in (base, *tuned)]
    means = np.array([[table.loc[table["specialty"] == name, "score"].mean() for name in names] for table in tables])
    asked = tables[-1].groupby("specialty")["score"].count()
    changes = []
    for before, after in itertools.pairwise(tables):
        pairs = after.merge(before, on="id", suffixes=("", " before"))
        pairs["change"] = pairs["score"] - pairs["score before"]
        changes.append(_variance(pairs, "change"))
    # records counts of the base are nothing of anything
    records = np.array([[0.0] * len(names), *([float(one.get(name, 0)) for name in names] for one in trained)])
    return Observations(
        records,
        means,
        np.array([max(1.0, float(asked.get(name, 0))) for name in names]),
        math.sqrt(_variance(tables[-1], "score")),
        math.sqrt(float(np.mean(changes))),
    )


def _eval_scores(table: pd.DataFrame, metric: str, sign: float) -> pd.DataFrame:
    on_eval = table[(table["split"] == "eval") & table[metric].notna()]
    return pd.DataFrame({"id": on_eval["id"].astype(str), "specialty": on_eval["specialty"], "score": sign * on_eval[metric]})


def _variance(table: pd.DataFrame, column: str) -> float:
    """Within specialties; never nothing, since a score that does not scatter would be taken for certain."""
    groups = [part.to_numpy(float) for _, part in table.groupby("specialty")[column]]
    return max(pooled_variance(groups) if groups else 0.0, 1e-8)
