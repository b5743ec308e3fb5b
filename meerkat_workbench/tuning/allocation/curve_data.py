"""What the evaluations so far have shown of every specialty, as learning curves are fitted to it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from meerkat_workbench.stats.significance import pooled_variance
from meerkat_workbench.tuning.allocation.learning_curves import Observations
from meerkat_workbench.tuning.artifacts import Split
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable

MIN_COMMON_QUESTIONS = 0.5  # of the questions of this evaluation, which an earlier one must share to be compared with it


def collect_observations(
    base: AnswerTable,
    tuned: Sequence[AnswerTable],
    trained: Sequence[Mapping[str, int]],
    names: Sequence[str],
    metric: str,
    *,
    sign: float,
) -> Observations:
    """Means over the same eval questions, and how far questions and answers scatter.

    Args:
        base: the base's scored answers, a row a question.
        tuned: those of each tuned model, oldest first.
        trained: records of each specialty that each of them was trained on.
        names: specialties, in the order of the columns.
        sign: -1 where lower is better.
    """
    tables = [_eval_scores(table, metric, sign) for table in (base, *tuned)]
    means, asked = np.full((len(tables), len(names)), np.nan), np.ones(len(names))
    for column, name in enumerate(names):
        of_name = [table[table["specialty"] == name].set_index("id")["score"] for table in tables]
        # means of other questions do not compare: an evaluation that has too few of the present ones is left out
        there = [
            scores
            for scores in of_name
            if len(scores.index.intersection(of_name[-1].index)) > MIN_COMMON_QUESTIONS * len(of_name[-1])
        ]
        common = functools.reduce(
            lambda left, right: left.intersection(right), (scores.index for scores in there), of_name[-1].index
        )
        for row, scores in enumerate(of_name):
            if len(common) and any(scores is one for one in there):
                means[row, column] = scores.loc[common].mean()
        asked[column] = max(1, len(common))
    changes = []
    for before, after in itertools.pairwise(tables):
        pairs = after.merge(before, on="id", suffixes=("", " before"))
        pairs["change"] = pairs["score"] - pairs["score before"]
        changes.append(_variance(pairs, "change"))
    # the base was trained on nothing
    records = np.array([[0.0] * len(names), *([float(one.get(name, 0)) for name in names] for one in trained)])
    return Observations(
        records,
        means,
        asked,
        math.sqrt(_variance(tables[-1], "score")),
        math.sqrt(float(np.mean(changes))),
    )


def _eval_scores(table: AnswerTable, metric: str, sign: float) -> pd.DataFrame:
    frame = pd.DataFrame({"id": table.ids, "specialty": table.specialties, "score": sign * table.scores(metric)})
    return frame[(table.splits == Split.EVAL) & frame["score"].notna()]


def _variance(table: pd.DataFrame, column: str) -> float:
    """Within specialties; never nothing, since a score that does not scatter would be taken for certain."""
    groups = [part.to_numpy(float) for _, part in table.groupby("specialty")[column]]
    return max(pooled_variance(groups) if groups else 0.0, 1e-8)
