"""The observations that learning curves are fitted to: what the evaluations so far measured for each specialty."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from meerkat_workbench.stats.shrinkage import pooled_variance
from meerkat_workbench.tuning.allocation.learning_curves import Array, Observations
from meerkat_workbench.tuning.artifacts import Split
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable

# an evaluation is compared with the latest one only if it asked more than this fraction of its questions
ID, SPECIALTY, SCORE, SCORE_BEFORE, CHANGE = "id", "specialty", "score", "score before", "change"  # columns of the frames here
MIN_COMMON_FRACTION = 0.5
MIN_VARIANCE = 1e-8  # a variance of zero would make the scores certain


def collect_observations(
    base: AnswerTable,
    tuned: Sequence[AnswerTable],
    trained: Sequence[Mapping[str, int]],
    names: Sequence[str],
    metric: str,
    *,
    sign: float,
) -> Observations:
    """Collect means over the same eval questions, and the standard deviations of scores and of their changes.

    Args:
        base: the base model's scored answers, one row for each question.
        tuned: the scored answers of each tuned model, oldest first.
        trained: for each tuned model, the records of each specialty that it was trained on.
        names: specialties, in the order of the columns.
        metric: the metric whose scores are observed.
        sign: -1 if lower is better.
    """
    tables = [_eval_scores(table, metric, sign) for table in (base, *tuned)]
    means, questions = np.full((len(tables), len(names)), np.nan), np.ones(len(names))
    for column, name in enumerate(names):
        scores = [table[table[SPECIALTY] == name].set_index(ID)[SCORE] for table in tables]
        means[:, column], questions[column] = _comparable_means(scores)
    change_variances = []
    for before, after in itertools.pairwise(tables):
        pairs = after.merge(before, on=ID, suffixes=("", " before"))
        pairs[CHANGE] = pairs[SCORE] - pairs[SCORE_BEFORE]
        change_variances.append(_variance(pairs, CHANGE))
    # the base was trained on no records
    records = np.array([[0.0] * len(names), *([float(counts.get(name, 0)) for name in names] for counts in trained)])
    return Observations(
        records,
        means,
        questions,
        math.sqrt(_variance(tables[-1], SCORE)),
        math.sqrt(float(np.mean(change_variances))),
    )


def _comparable_means(scores: Sequence[pd.Series]) -> tuple[Array, int]:
    """Means of one specialty over the questions that all comparable evaluations asked.

    Means over different questions cannot be compared, so an evaluation that asked too few of the latest one's questions has no mean.

    Args:
        scores: of each evaluation, by question, oldest first.

    Returns:
        (evaluations,) means, NaN where there is none, and the number of questions, at least 1.
    """
    latest = scores[-1].index
    comparable = [len(one.index.intersection(latest)) > MIN_COMMON_FRACTION * len(latest) for one in scores]
    indices = [one.index for one, compares in zip(scores, comparable, strict=True) if compares]
    common = functools.reduce(lambda left, right: left.intersection(right), indices, latest)
    means = [
        one.loc[common].mean() if compares and len(common) else math.nan for one, compares in zip(scores, comparable, strict=True)
    ]
    return np.array(means, float), max(1, len(common))


def _eval_scores(table: AnswerTable, metric: str, sign: float) -> pd.DataFrame:
    frame = pd.DataFrame({ID: table.ids, SPECIALTY: table.specialties, SCORE: sign * table.scores(metric)})
    return frame[(table.splits == Split.EVAL) & frame[SCORE].notna()]


def _variance(table: pd.DataFrame, column: str) -> float:
    """The variance within specialties, at least `MIN_VARIANCE`."""
    groups = [part.to_numpy(float) for _, part in table.groupby(SPECIALTY)[column]]
    return max(pooled_variance(groups) if groups else 0.0, MIN_VARIANCE)
