"""`history.csv`: this iteration beside the earlier ones, each paired with the one before on the same questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from meerkat_workbench.core import files, runs
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.output import tables
from meerkat_workbench.stats import significance
from meerkat_workbench.stats.significance import Estimate
from meerkat_workbench.tuning.artifacts import TUNED, EvaluationManifest, HistoryRow, MetricComparison, SystemKind, answers_file
from meerkat_workbench.tuning.generation.systems import System
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable, paired_changes
from meerkat_workbench.tuning.scoring.metric_suite import MetricSuite

Bounds = Callable[[str], tuple[float, float]]  # of a metric by its name
DECODING_SETTINGS = ("MAX_NEW_TOKENS", "TEMPERATURE", "RANDOM_SEED", "BERTSCORE_MODEL", "ENDPOINT")


@dataclass(frozen=True)
class EvaluationId:
    """What a line of the history says of its evaluation, beside the scores.

    Attributes:
        evaluation: fingerprint of the evaluation.
        comparability_key: equal for evaluations whose scores compare.
        recipe: of the training.
        train: records that were trained on; `share`, the fraction of all records but the holdout that is used.
        train_seconds, train_tokens, seconds: spent in training, and in the evaluation.
    """

    iteration: int
    finished: str
    evaluation: str
    comparability_key: str
    adapter: str
    recipe: str
    train: int
    share: float
    train_seconds: float
    train_tokens: float
    seconds: float


def comparability_key(settings: Mapping[str, Any], suite: MetricSuite, series: Sequence[str], base: System) -> str:
    """What two evaluations must share for their scores to compare: prompts, base model, decoding and scoring settings.

    Which questions were asked may differ, as where a specialty was added in between: changes are paired question by question.

    Args:
        series: when the series of iterations began, and the hash of the prompt template.
        base: evaluations of another base do not compare.
    """
    how = {name: settings.get(name) for name in DECODING_SETTINGS}
    # a server's system has the adapter in its identity, which changes with each iteration
    identity = base.served_as if base.kind is SystemKind.ENDPOINT else base.identity
    return files.sha256_of([how, list(series), suite.lexicon_hash(), identity])[:12]


def extend(
    output: Path, comparison: Sequence[MetricComparison], tuned: AnswerTable, now: EvaluationId, bounds: Bounds
) -> list[HistoryRow]:
    """The earlier evaluations of this folder that compare, oldest first, and this one.

    Args:
        tuned: its answers.
        bounds: the least and the most that a metric can be.
    """
    # an evaluation done again, with another metric for example, takes the place of what it gave before
    before = {
        (row.adapter, row.split, row.metric): row
        for folder in _finished(output)
        for row in _comparable(folder, now)
        if row.adapter != now.adapter and row.iteration <= now.iteration
    }
    earlier = list(before.values())
    previous = _answers_of_last(output, earlier)
    rows = [_row(row, now, _change(tuned, previous, row, bounds)) for row in comparison if not row.missing]
    return sorted([*earlier, *rows], key=lambda row: (row.iteration, row.finished))


def _comparable(folder: Path, now: EvaluationId) -> list[HistoryRow]:
    rows = tables.read_rows(folder / HistoryRow.FILE, HistoryRow)
    return rows if all(row.alike == now.comparability_key for row in rows) else []


def _row(row: MetricComparison, now: EvaluationId, change: Estimate) -> HistoryRow:
    return HistoryRow(
        iteration=now.iteration, finished=now.finished, evaluation=now.evaluation, alike=now.comparability_key, adapter=now.adapter,
        recipe=now.recipe, train=now.train, share=now.share, train_seconds=now.train_seconds, train_tokens=now.train_tokens,
        seconds=now.seconds, split=row.split, metric=row.metric, n=row.n, base=row.base, tuned=row.tuned, tuned_low=row.tuned_low,
        tuned_high=row.tuned_high, difference=row.difference, ci_low=row.ci_low, ci_high=row.ci_high, change=change.mean,
        change_low=change.low, change_high=change.high, change_p=change.p,
    )  # fmt: skip


def _change(tuned: AnswerTable, previous: AnswerTable | None, row: MetricComparison, bounds: Bounds) -> Estimate:
    """The paired change of the tuned model's score since the evaluation before; NaN where there is none."""
    if previous is None or not previous.has_metric(row.metric):
        return significance.mean_interval([])
    differences, specialties = paired_changes(tuned, previous, row.split, row.metric)
    least, most = bounds(row.metric)
    return significance.stratified(differences, specialties, test=True).within(least - most, most - least)


def _finished(output: Path) -> list[Path]:
    """Folders of the finished evaluations in the archive that have a history, the oldest first."""
    found = [
        (done.finished, done.fingerprint, folder)
        for folder in runs.archived(output)
        if (done := EvaluationManifest.find(folder)) and (folder / HistoryRow.FILE).is_file()
    ]
    return [folder for *_, folder in sorted(found)]


def _answered(output: Path) -> list[tuple[HistoryRow, Path]]:
    """Archived evaluations that still hold their scored answers: a line of their own in their history, and their folder."""
    found = []
    for folder in _finished(output):
        if (folder / answers_file(TUNED)).is_file():
            done = EvaluationManifest.require(folder)
            rows = tables.read_rows(folder / HistoryRow.FILE, HistoryRow)
            own = next((row for row in rows if row.evaluation == done.fingerprint), None)
            if own is not None:
                found.append((own, folder))
    return found


def _answers_of_last(output: Path, rows: Sequence[HistoryRow]) -> AnswerTable | None:
    """The scored answers of the last of these evaluations, where its folder still holds them."""
    if not rows:
        return None
    last = max(rows, key=lambda row: (row.iteration, row.finished)).evaluation
    folder = next((folder for row, folder in _answered(output) if row.evaluation == last), None)
    return None if folder is None else AnswerTable.read(folder, TUNED)


def answers_before(output: Path, *, key: str, adapter: str, recipe: str, iteration: int) -> list[tuple[int, AnswerTable]]:
    """Iteration and scored answers of every earlier evaluation of the same training recipe that compares, oldest first.

    Args:
        key: the comparability key of this evaluation; the others are of it too.
    """
    found = {}
    for row, folder in _answered(output):
        if (row.alike, row.recipe) == (key, recipe) and row.adapter != adapter and row.iteration <= iteration:
            found[row.adapter] = (row.iteration, folder)  # the latest of an adapter that was evaluated twice
    earlier = sorted(found.values(), key=lambda item: item[0])
    return [(number, AnswerTable.read(folder, TUNED)) for number, folder in earlier]


def write(output: Path, rows: Sequence[HistoryRow]) -> None:
    tables.write_rows(output / HistoryRow.FILE, rows, HistoryRow)


def read(output: Path) -> list[HistoryRow]:
    """The history of a finished evaluation."""
    path = output / HistoryRow.FILE
    if not path.is_file():
        raise UserError("there is no such file", where=path, remedy="A finished `python evaluation.py` leaves it.")
    return tables.read_rows(path, HistoryRow)


def changed_since(rows: Sequence[HistoryRow], *, iteration: int, split: str, metric: str) -> HistoryRow | None:
    """The last line of an iteration that has a change since the one before; None where there is none."""
    found = [row for row in tables.where(rows, iteration=iteration, split=split, metric=metric) if not math.isnan(row.change_low)]
    return found[-1] if found else None


def turned(row: HistoryRow, *, lower_is_better: bool) -> HistoryRow:
    """The change of a line, turned so that more is better."""
    if not lower_is_better:
        return row
    return msgspec.structs.replace(row, change=-row.change, change_low=-row.change_high, change_high=-row.change_low)
