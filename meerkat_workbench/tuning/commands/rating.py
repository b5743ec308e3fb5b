"""`evaluation.py --rating-sheet` and `--ratings`: work on a finished evaluation and need no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from meerkat_workbench.core import artifacts, console, runs
from meerkat_workbench.core.commands import command_of
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.stats import agreement
from meerkat_workbench.tuning.artifacts import (
    BASE,
    TUNED,
    ClaimMeasure,
    EvaluationManifest,
    JudgeAgreement,
    JudgeCorrection,
    MetricAgreement,
    OutputFile,
    RatedCriterion,
    RatingKey,
    RatingResult,
    RatingSheetRow,
)
from meerkat_workbench.tuning.reporting import judge_agreement, rating
from meerkat_workbench.tuning.reporting.judge_agreement import JudgeCheck
from meerkat_workbench.tuning.reporting.rating import RatingSummary
from meerkat_workbench.tuning.scoring import claim_scores, judge_length
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
    """Print the combined results of raters' sheets, with the judge's errors if it was asked, and write them into tables."""
    EvaluationManifest.require(output)
    if not (output / RatingKey.FILE).is_file():
        remedy = f"Make a sheet first: {command_of(EvaluationManifest.SCRIPT)} --rating-sheet N."
        raise UserError(f"holds no {RatingKey.FILE}", where=output, remedy=remedy)
    base, tuned = _tables(output)
    ratings = rating.read_ratings(paths, artifacts.read(RatingKey, output / RatingKey.FILE))
    scored = claim_scores.with_claims({BASE: base, TUNED: tuned}, output)
    metrics = comparable_metrics(suite, scored[BASE], scored[TUNED])
    summary = rating.summarise(ratings, scored[BASE], scored[TUNED], metrics, seed)
    verdicts = judge_agreement.read_verdicts(output)
    check = judge_agreement.check_judge(ratings, verdicts) if verdicts else None
    with runs.locked(output):
        rating.write(output, summary)
        if check:
            check.write(output)
    _print(summary)
    _print_criteria(summary.criteria)
    if check:
        _print_judge(check)
    _print_metrics(summary.metrics)
    files = [
        RatingResult.FILE,
        RatedCriterion.FILE,
        *([JudgeAgreement.FILE, JudgeCorrection.FILE] if check else []),
        MetricAgreement.FILE,
    ]
    print(f"tables in {output}: {', '.join(files)}")


NOT_OF_THE_ANSWER = ("preference_accuracy", "preference_wins")  # they compare references, so they cannot prefer an answer


def comparable_metrics(suite: MetricSuite, base: AnswerTable, tuned: AnswerTable) -> dict[str, bool]:
    """The metrics in both tables that can prefer an answer, and whether less of each is better.

    Metrics of the suite that only describe are left out. A column of numbers that is not in the suite counts as a metric of
    which more is better, unless it is a measure of claims.
    """
    in_suite, of_claims = set(suite.names()), {str(measure): measure.lower_is_better for measure in ClaimMeasure}
    names = [name for name in dict.fromkeys([*suite.names(), *base.metrics]) if base.has_metric(name) and tuned.has_metric(name)]
    return {
        name: suite.lower_is_better(name) if name in in_suite else of_claims.get(name, False)
        for name in names
        if name not in NOT_OF_THE_ANSWER and (name not in in_suite or not suite.is_descriptive(name))
    }


def _tables(output: Path) -> tuple[AnswerTable, AnswerTable]:
    return AnswerTable.read(output, BASE), AnswerTable.read(output, TUNED)


def _print(summary: RatingSummary) -> None:
    total = summary.results[0]
    people = f"{summary.raters} rater{'s' * (summary.raters != 1)}"
    if not total.ratings:
        print(f"{people}, who gave no preference")
        return
    print(
        f"{total.ratings} preferences on {total.questions} questions by {people}: "
        f"tuned better {total.tuned_wins}, neither {total.ties}, base better {total.base_wins}\n"
        f"  net preference for the tuned model {total.net:+.2f} (95% interval {total.ci_low:+.2f} to {total.ci_high:+.2f}, p {total.p:.2g})"
    )
    if not math.isnan(summary.kappa):
        name = agreement.kappa_name(summary.raters)
        print(f"  agreement between raters on {summary.common} questions: {name} {summary.kappa:.2f}")


def _print_criteria(rows: Sequence[RatedCriterion]) -> None:
    if not rows:
        return
    print("  for how many answers raters say yes, with 95% intervals:")
    header = ["criterion", "questions", "base", "tuned", "difference", "kappa of raters"]
    cells = [
        [row.criterion, str(row.questions), _interval(row.base, row.base_low, row.base_high),
         _interval(row.tuned, row.tuned_low, row.tuned_high), _interval(row.difference, row.ci_low, row.ci_high, sign="+"),
         _number(row.kappa)]
        for row in rows
    ]  # fmt: skip
    console.print_table(header, cells, indent="    ")


def _print_judge(check: JudgeCheck) -> None:
    """Print how far the judge agrees with raters, and its corrected rates."""
    if check.agreement:
        print("  the judge against the majority of raters, on answers that both judged:")
        header = ["criterion", "answers", "kappa", "sensitivity", "specificity", "changed with the order"]
        cells = [
            [row.criterion, str(row.n), _number(row.kappa), f"{_number(row.sensitivity)} of {row.raters_yes}",
             f"{_number(row.specificity)} of {row.raters_no}", f"{row.flips} of {row.judged}"]
            for row in check.agreement
        ]  # fmt: skip
        console.print_table(header, cells, indent="    ")
        print("  for how many answers the judge says yes, and the same corrected by its sensitivity and specificity:")
        cells = [
            [row.criterion, row.system, str(row.n), _number(row.judged), _interval(row.corrected, row.ci_low, row.ci_high)]
            for row in check.corrected
        ]  # fmt: skip
        console.print_table(["criterion", "", "n", "judged", "corrected"], cells, texts=2, indent="    ")
        for criterion, missing in dict.fromkeys((row.criterion, row.missing) for row in check.corrected if row.missing):
            print(f"    {criterion} is not corrected: {missing}")
    print(f"  {judge_length.sentence(check.length)}")


def _print_metrics(rows: Sequence[MetricAgreement]) -> None:
    print("  how often each metric prefers the answer that raters prefer (chance: 50%), with its 95% interval:")
    for row in rows:
        if row.questions:
            print(
                f"    {row.metric:<22}{100 * row.agrees:>4.0f}%   {100 * row.ci_low:.0f} to {100 * row.ci_high:.0f}%, {row.questions} questions"
            )


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _interval(value: float, low: float, high: float, *, sign: str = "") -> str:
    if math.isnan(value):
        return "–"
    return f"{value:{sign}.2f}" + ("" if math.isnan(low) else f" ({low:{sign}.2f} to {high:{sign}.2f})")
