"""Writes the tables of a training run: what each specialty learnt, and the sample answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from meerkat_workbench.output.tables import write_rows
from meerkat_workbench.tuning.artifacts import ALL, EvalPoint, SampleAnswerRow, SpecialtyEvalRow, SpecialtyLearningRow


def write_evaluations(folder: Path, history: Sequence[EvalPoint]) -> None:
    """Write a row for each evaluation and specialty: loss, perplexity and token accuracy on the eval split."""
    rows = [
        SpecialtyEvalRow(step=point.step, epoch=point.epoch, specialty=name, **msgspec.structs.asdict(summary))
        for point in history
        for name, summary in {ALL: point.overall, **point.specialties}.items()
    ]
    write_rows(folder / SpecialtyEvalRow.FILE, rows, SpecialtyEvalRow)


def write_learning(folder: Path, history: Sequence[EvalPoint], kept_step: int) -> None:
    """Write a row for each specialty, the least learnt first: eval loss before training and with the weights that were kept."""
    first, kept = history[0].specialties, next(point for point in history if point.step == kept_step).specialties
    rows = [
        SpecialtyLearningRow(
            specialty=name, examples=before.examples, tokens=before.tokens, loss_before=before.loss, loss_after=kept[name].loss,
            loss_change=round(kept[name].loss - before.loss, 6), token_accuracy_before=before.token_accuracy,
            token_accuracy_after=kept[name].token_accuracy, learnt=kept[name].loss < before.loss,
        )
        for name, before in first.items()
    ]  # fmt: skip
    write_rows(folder / SpecialtyLearningRow.FILE, sorted(rows, key=lambda row: -row.loss_change), SpecialtyLearningRow)


def write_sample_answers(folder: Path, history: Sequence[EvalPoint]) -> None:
    """Write the model's answers to the same few eval questions at each evaluation; no file if none were asked."""
    rows = [
        SampleAnswerRow(
            question=sample.question, step=point.step, epoch=point.epoch, answer=sample.answer, reference=sample.reference
        )
        for point in history
        for sample in point.answers
    ]
    if rows:
        write_rows(folder / SampleAnswerRow.FILE, sorted(rows, key=lambda row: (row.question, row.step)), SampleAnswerRow)
