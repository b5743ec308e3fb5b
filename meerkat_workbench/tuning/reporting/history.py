"""`history.csv`: this iteration beside the earlier ones; each is paired with the one before on the same questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from meerkat_workbench.core import files, runs
from meerkat_workbench.core.commands import command_of
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.output import tables
from meerkat_workbench.stats import significance
from meerkat_workbench.stats.significance import Estimate
from meerkat_workbench.tuning.artifacts import TUNED, EvaluationManifest, HistoryRow, MetricComparison, SystemKind, answers_file
from meerkat_workbench.tuning.generation.systems import System
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable, paired_changes
from meerkat_workbench.tuning.scoring.metric_suite import MetricSuite

Bounds = Callable[[str], tuple[float, float]]  # lowest and highest value of a metric, by its name
DECODING_SETTINGS = ("MAX_NEW_TOKENS", "TEMPERATURE", "RANDOM_SEED", "BERTSCORE_MODEL", "ENDPOINT")


@dataclass(frozen=True)
class EvaluationId:
    """What a row of the history holds about its evaluation besides scores.

    Attributes:
        evaluation: fingerprint of the evaluation.
        comparability_key: equal for evaluations whose scores are comparable.
        recipe: hash of the training settings.
        train: number of training records.
        share: train and eval records divided by all records outside the holdout.
        train_seconds, train_tokens: cost of the training.
        seconds: time of the evaluation.
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
    """A hash of what must be equal for two evaluations to be comparable: prompts, base model, decoding and scoring settings.

    The questions may differ, for example if a specialty was added in between, because changes are paired question by question.

    Args:
        series: the time when the series of iterations began, and the hash of the prompt template.
        base: the base model.
    """
    decoding = {name: settings.get(name) for name in DECODING_SETTINGS}
    # the identity of a server includes the adapter, which changes with each iteration
    identity = base.served_as if base.kind is SystemKind.ENDPOINT else base.identity
    return files.sha256_of([decoding, list(series), suite.lexicon_hash(), *suite.linker_hash(), identity])[:12]


def extend(
    output: Path, comparison: Sequence[MetricComparison], tuned: AnswerTable, now: EvaluationId, bounds: Bounds
) -> list[HistoryRow]:
    """The rows of this evaluation after those of the earlier comparable evaluations in this folder, oldest first.

    Args:
        comparison: base and tuned model in every metric.
        tuned: the tuned model's answers.
        bounds: the lowest and highest value of a metric.
    """
    # a repeated evaluation, for example with another metric, replaces its earlier rows
    before = {
        (row.adapter, row.split, row.metric): row
        for folder in _finished(output)
        for row in _comparable(folder, now)
        if row.adapter != now.adapter and row.iteration <= now.iteration
    }
    earlier = list(before.values())
    previous = _answers_of_latest(output, earlier)
    rows = [_row(row, now, _change(tuned, previous, row, bounds)) for row in comparison if not row.missing]
    return sorted([*earlier, *rows], key=lambda row: (row.iteration, row.finished))


def _comparable(folder: Path, now: EvaluationId) -> list[HistoryRow]:
    """The rows of a folder's history; none if one of them is not comparable with this evaluation."""
    rows = tables.read_rows(folder / HistoryRow.FILE, HistoryRow)
    return rows if all(row.comparability_key == now.comparability_key for row in rows) else []


def _row(row: MetricComparison, now: EvaluationId, change: Estimate) -> HistoryRow:
    return HistoryRow(
        iteration=now.iteration, finished=now.finished, evaluation=now.evaluation, comparability_key=now.comparability_key, adapter=now.adapter,
        recipe=now.recipe, train=now.train, share=now.share, train_seconds=now.train_seconds, train_tokens=now.train_tokens,
        seconds=now.seconds, split=row.split, metric=row.metric, n=row.n, base=row.base, tuned=row.tuned, tuned_low=row.tuned_low,
        tuned_high=row.tuned_high, difference=row.difference, ci_low=row.ci_low, ci_high=row.ci_high, change=change.mean,
        change_low=change.low, change_high=change.high, change_p=change.p,
    )  # fmt: skip


def _change(tuned: AnswerTable, previous: AnswerTable | None, row: MetricComparison, bounds: Bounds) -> Estimate:
    """The paired change of the tuned model's score since the previous evaluation; NaN if there is none."""
    if previous is None or not previous.has_metric(row.metric):
        return significance.mean_interval([])
    differences, specialties = paired_changes(tuned, previous, row.split, row.metric)
    low, high = bounds(row.metric)
    return significance.stratified(differences, specialties, test=True).within(low - high, high - low)


def _finished(output: Path) -> list[Path]:
    """Folders of the finished evaluations in the archive that have a history, oldest first."""
    finished = [
        (done.finished, done.fingerprint, folder)
        for folder in runs.archived(output)
        if (done := EvaluationManifest.find(folder)) and (folder / HistoryRow.FILE).is_file()
    ]
    return [folder for *_, folder in sorted(finished)]


def _answered(output: Path) -> list[tuple[HistoryRow, Path]]:
    """Archived evaluations that still have their scored answers: one of their own history rows, and their folder."""
    answered = []
    for folder in _finished(output):
        if (folder / answers_file(TUNED)).is_file():
            done = EvaluationManifest.require(folder)
            rows = tables.read_rows(folder / HistoryRow.FILE, HistoryRow)
            own_row = next((row for row in rows if row.evaluation == done.fingerprint), None)
            if own_row is not None:
                answered.append((own_row, folder))
    return answered


def _answers_of_latest(output: Path, rows: Sequence[HistoryRow]) -> AnswerTable | None:
    """The scored answers of the latest of these evaluations; None if its folder no longer has them."""
    if not rows:
        return None
    latest = max(rows, key=lambda row: (row.iteration, row.finished)).evaluation
    folder = next((folder for row, folder in _answered(output) if row.evaluation == latest), None)
    return None if folder is None else AnswerTable.read(folder, TUNED)


def answers_before(output: Path, *, key: str, adapter: str, recipe: str, iteration: int) -> list[tuple[int, AnswerTable]]:
    """Iteration and scored answers of each earlier comparable evaluation with the same training recipe, oldest first.

    Args:
        key, adapter, recipe, iteration: of this evaluation; `key` is its comparability key.
    """
    by_adapter = {}
    for row, folder in _answered(output):
        # an empty recipe is unknown, so it equals none
        if (
            recipe
            and (row.comparability_key, row.recipe) == (key, recipe)
            and row.adapter != adapter
            and row.iteration <= iteration
        ):
            by_adapter[row.adapter] = (row.iteration, folder)  # the latest if an adapter was evaluated twice
    earlier = sorted(by_adapter.values(), key=lambda item: item[0])
    return [(number, AnswerTable.read(folder, TUNED)) for number, folder in earlier]


def write(output: Path, rows: Sequence[HistoryRow]) -> None:
    tables.write_rows(output / HistoryRow.FILE, rows, HistoryRow)


def read(output: Path) -> list[HistoryRow]:
    """Read the history of a finished evaluation; UserError if there is none."""
    path = output / HistoryRow.FILE
    if not path.is_file():
        raise UserError(
            "there is no such file", where=path, remedy=f"Run `{command_of(EvaluationManifest.SCRIPT)}` first, which writes it."
        )
    return tables.read_rows(path, HistoryRow)


def last_row_with_change(rows: Sequence[HistoryRow], *, iteration: int, split: str, metric: str) -> HistoryRow | None:
    """The last row of an iteration that has a change since the iteration before; None if there is none."""
    with_change = [
        row for row in tables.where(rows, iteration=iteration, split=split, metric=metric) if not math.isnan(row.change_low)
    ]
    return with_change[-1] if with_change else None


def with_gain_positive(row: HistoryRow, *, lower_is_better: bool) -> HistoryRow:
    """The row with its change signed so that more is better."""
    if not lower_is_better:
        return row
    return msgspec.structs.replace(row, change=-row.change, change_low=-row.change_high, change_high=-row.change_low)
