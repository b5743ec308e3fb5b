"""`evaluation.py --rating-sheet` and `--ratings`: work on a finished evaluation and need no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from meerkat_workbench.core import artifacts, runs
from meerkat_workbench.core.commands import command_of
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.artifacts import (
    BASE,
    TUNED,
    EvaluationManifest,
    MetricAgreement,
    OutputFile,
    RatingKey,
    RatingResult,
    RatingSheetRow,
)
from meerkat_workbench.tuning.reporting import rating
from meerkat_workbench.tuning.reporting.rating import RatingSummary
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable
from meerkat_workbench.tuning.scoring.metric_suite import MetricSuite


def make_sheet(output: Path, count: int, seed: int) -> None:
    """Write a blinded sheet of `count` questions, and print what to do with it."""
    if count < 1:
        raise UserError("must be at least 1", where=f"--rating-sheet {count}")
    EvaluationManifest.require(output)
    with runs.locked(output):
        written = rating.write_sheet(output, *_tables(output), count, seed)
    page, sheet = output / OutputFile.RATING_PAGE, output / RatingSheetRow.FILE
    print(
        f"{written} questions, both answers in random order: {page} (or {sheet})\n"
        f"Send raters one of these two files, and not {RatingKey.FILE}. "
        f"When the filled files are back: {command_of(EvaluationManifest.SCRIPT, f'OUTPUT_DIR={output}')} --ratings FILE…"
    )


def report(output: Path, paths: Sequence[Path], suite: MetricSuite, seed: int) -> None:
    """Print the combined results of raters' sheets, and write them into two tables."""
    EvaluationManifest.require(output)
    if not (output / RatingKey.FILE).is_file():
        remedy = f"Make a sheet first: {command_of(EvaluationManifest.SCRIPT)} --rating-sheet N."
        raise UserError(f"holds no {RatingKey.FILE}", where=output, remedy=remedy)
    base, tuned = _tables(output)
    ratings = rating.read_ratings(paths, artifacts.read(RatingKey, output / RatingKey.FILE))
    metrics = {
        name: suite.lower_is_better(name) for name in suite.names() if not suite.is_descriptive(name) and base.has_metric(name)
    }
    summary = rating.summarise(ratings, base, tuned, metrics, seed)
    with runs.locked(output):
        rating.write(output, summary)
    _print(summary)
    print(f"results by specialty: {output / RatingResult.FILE}, agreement of metrics: {output / MetricAgreement.FILE}")


def _tables(output: Path) -> tuple[AnswerTable, AnswerTable]:
    return AnswerTable.read(output, BASE), AnswerTable.read(output, TUNED)


def _print(summary: RatingSummary) -> None:
    total = summary.results[0]
    print(
        f"{total.ratings} ratings of {total.questions} questions by {summary.raters} rater{'s' * (summary.raters != 1)}: "
        f"tuned better {total.tuned_wins}, "
        f"neither {total.ties}, base better {total.base_wins}\n"
        f"  net preference for the tuned model {total.net:+.2f} (95% interval {total.ci_low:+.2f} to {total.ci_high:+.2f}, p {total.p:.2g})"
    )
    if not math.isnan(summary.kappa):
        print(f"  agreement between raters on {summary.common} questions: Fleiss' kappa {summary.kappa:.2f}")
    print("  how often each metric prefers the answer that raters prefer (chance: 50%), with its 95% interval:")
    for row in summary.metrics:
        if row.questions:
            print(
                f"    {row.metric:<22}{100 * row.agrees:>4.0f}%   {100 * row.ci_low:.0f} to {100 * row.ci_high:.0f}%, {row.questions} questions"
            )
