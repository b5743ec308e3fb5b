"""Blinded rating: makes a sheet of questions with both answers in random order, and combines the filled sheets of raters."""

from __future__ import annotations

import hashlib
import math
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from meerkat_workbench.core import artifacts, files, input_files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.output import page
from meerkat_workbench.output.tables import write_rows
from meerkat_workbench.stats import agreement, significance
from meerkat_workbench.tuning.artifacts import (
    ALL,
    BASE,
    TUNED,
    MetricAgreement,
    OutputFile,
    RatingKey,
    RatingKeyEntry,
    RatingResult,
    RatingSheetRow,
    Split,
)
from meerkat_workbench.tuning.scoring.answer_table import AnsweredQuestion, AnswerTable

PAGE_TEMPLATE = Path(__file__).with_name("rating_sheet.html.j2")
CHOICES = {"A": 1, "B": -1, "=": 0, "NEITHER": 0}  # preference for answer A


@dataclass(frozen=True)
class Rating:
    """One rater's preference on one question: 1 for the tuned model, -1 for the base, 0 for neither."""

    rater: str
    id: str
    preference: int


@dataclass(frozen=True)
class RatingSummary:
    """The combined results of all raters.

    Attributes:
        results: over all questions, then by specialty.
        kappa: Fleiss' kappa on the questions that every rater rated; NaN with one rater.
        common: number of these questions.
        metrics: how often each metric prefers the answer that raters prefer, the best metric first.
    """

    results: list[RatingResult]
    raters: int
    kappa: float
    common: int
    metrics: list[MetricAgreement]


# --- the sheet


def write_sheet(folder: Path, base: AnswerTable, tuned: AnswerTable, count: int, seed: int) -> int:
    """Write the sheet (CSV and HTML) and the key, a separate file that says whose answer is A.

    Questions are taken in turn from every specialty of the holdout, or of eval if there is no holdout. A question is left out
    if a model failed to answer it, or if both answers are equal.

    Returns:
        Number of questions in the sheet.

    Raises:
        UserError: no question is left.
    """
    split = Split.HOLDOUT if (base.splits == Split.HOLDOUT).any() else Split.EVAL
    usable = (base.splits == split) & ~base.failed & ~tuned.failed & (base.predictions != tuned.predictions)
    pairs = dict(zip(base.where(usable).ids, zip(base.where(usable), tuned.where(usable), strict=True), strict=True))
    chosen = _round_robin([of_base for of_base, _ in pairs.values()], count, seed)
    if not chosen:
        remedy = "Rate the evaluation of another model."
        raise UserError("no question has two different answers, so there is nothing to rate", where=folder, remedy=remedy)
    sheet, sides = secrets.token_hex(4), random.Random(secrets.randbits(64))
    rows, key = [], {}
    for number, question in enumerate(chosen, start=1):
        tuned_first = sides.random() < 0.5
        of_base, of_tuned = pairs[str(question.id)]
        first, second = (of_tuned, of_base) if tuned_first else (of_base, of_tuned)
        key[str(number)] = RatingKeyEntry(str(question.id), TUNED if tuned_first else BASE)
        rows.append(RatingSheetRow(sheet=sheet, number=number, specialty=question.specialty, question=question.question,
                                   answer_a=first.prediction, answer_b=second.prediction))  # fmt: skip
    write_rows(folder / RatingSheetRow.FILE, rows, RatingSheetRow)
    files.write_text(folder / OutputFile.RATING_PAGE, page.render(PAGE_TEMPLATE, sheet=sheet, rows=rows))
    artifacts.write(folder / RatingKey.FILE, RatingKey(sheet=sheet, questions=key))
    return len(rows)


def _round_robin(questions: Sequence[AnsweredQuestion], count: int, seed: int) -> list[AnsweredQuestion]:
    """Up to `count` questions, from each specialty in turn, in an order that depends only on the seed and the ids."""
    by_specialty: dict[str, list[AnsweredQuestion]] = {}
    for question in sorted(questions, key=lambda question: _order(seed, str(question.id))):
        by_specialty.setdefault(question.specialty, []).append(question)
    queues = [by_specialty[name] for name in sorted(by_specialty, key=lambda name: _order(seed, name))]
    chosen: list[AnsweredQuestion] = []
    while len(chosen) < count and any(queues):
        chosen += [queue.pop(0) for queue in queues if queue]
    return chosen[:count]


def _order(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}|{name}".encode()).digest()


# --- the ratings


def read_ratings(paths: Sequence[Path], key: RatingKey) -> list[Rating]:
    """Read the ratings in raters' files; each file is named after its rater.

    Raises:
        UserError: a file or line is not a rating of this sheet, or nothing is rated.
    """
    ratings = [rating for path in paths for rating in _read_sheet(path, key)]
    if not ratings:
        raise UserError("no question is rated", where="--ratings", remedy='Fill in the column "better" with A, B or =.')
    if len({(rating.rater, rating.id) for rating in ratings}) < len(ratings):
        fault = "two files have the same name, or a file rates a question twice"
        raise UserError(fault, where="--ratings", remedy="Name each file after its rater.")
    return ratings


def _read_sheet(path: Path, key: RatingKey) -> list[Rating]:
    try:  # a spreadsheet may have saved it with semicolons or tabs
        text = input_files.read_text(path)
        names = RatingSheetRow.READ_BACK
        table = input_files.Table.of(text, wanted=[(name,) for name in names], needs=" and ".join(names))
        rows = list(table.rows())
    except (OSError, UserError) as error:
        raise UserError(
            f"cannot be read as CSV ({error})", where=f"--ratings {path}", remedy="Save the sheet as CSV again."
        ) from error
    ratings = []
    for line, row in enumerate(rows, start=2):
        if isinstance(row, str):
            raise UserError(row, where=path, item=f"line {line}", remedy="Correct the line, or save the sheet as CSV again.")
        sheet, number, better = ((row.get(name) or "").strip() for name in names)
        entry = key.questions.get(number)
        if sheet != key.sheet or entry is None:
            remedy = "Give files that raters filled in from that sheet."
            raise UserError(
                f"does not belong to the last rating sheet ({key.sheet})", where=path, item=f"line {line}", remedy=remedy
            )
        better = better.upper()
        if better and better not in CHOICES:
            fault = f'"better" is {better[:20]!r}, but must be A, B, = (or neither) or empty'
            raise UserError(fault, where=path, item=f"line {line}", remedy="Correct the cell.")
        if better:
            ratings.append(Rating(path.stem, entry.id, CHOICES[better] * (1 if entry.a == TUNED else -1)))
    return ratings


def summarise(
    ratings: Sequence[Rating], base: AnswerTable, tuned: AnswerTable, metrics: Mapping[str, bool], seed: int
) -> RatingSummary:
    """Summarise what raters prefer, how far they agree, and which metrics agree with them.

    Args:
        metrics: metrics to compare with the raters, and whether less is better.
    """
    by_rater: dict[str, dict[str, int]] = {}
    for rating in ratings:
        by_rater.setdefault(rating.rater, {})[rating.id] = rating.preference
    common = sorted(set.intersection(*(set(preferences) for preferences in by_rater.values())))
    matrix = pd.DataFrame({rater: [preferences[name] for name in common] for rater, preferences in by_rater.items()}).to_numpy(
        int
    )
    return RatingSummary(
        results=preferences(ratings, dict(zip(base.ids, base.specialties, strict=True)), seed),
        raters=len(by_rater),
        kappa=agreement.fleiss_kappa(matrix),
        common=len(common),
        metrics=metric_agreement(ratings, base, tuned, metrics),
    )


def _mean_preferences(ratings: Sequence[Rating]) -> dict[str, float]:
    """The mean preference of the raters of each question."""
    by_question: dict[str, list[int]] = {}
    for rating in ratings:
        by_question.setdefault(rating.id, []).append(rating.preference)
    return {name: sum(values) / len(values) for name, values in sorted(by_question.items())}


def preferences(ratings: Sequence[Rating], specialty_of: Mapping[str, str], seed: int) -> list[RatingResult]:
    """Preferences over all questions, then by specialty; the ratings of each question are averaged first."""
    mean = _mean_preferences(ratings)
    strata = [specialty_of[name] for name in mean]
    overall = significance.stratified(list(mean.values()), strata, test=True, seed=seed).within(-1, 1)
    rows = [_result(ALL, ratings, len(mean), overall)]
    for specialty in sorted(set(strata)):
        of_specialty = {name: value for name, value in mean.items() if specialty_of[name] == specialty}
        estimate = significance.paired(list(of_specialty.values()), seed).within(-1, 1)
        rows.append(_result(specialty, [rating for rating in ratings if rating.id in of_specialty], len(of_specialty), estimate))
    return rows


def _result(specialty: str, ratings: Sequence[Rating], questions: int, net: significance.Estimate) -> RatingResult:
    signs = [rating.preference for rating in ratings]
    return RatingResult(
        specialty=specialty, questions=questions, ratings=len(signs), tuned_wins=sum(sign > 0 for sign in signs),
        ties=sum(sign == 0 for sign in signs), base_wins=sum(sign < 0 for sign in signs), net=net.mean, ci_low=net.low, ci_high=net.high,
        p=net.p,
    )  # fmt: skip


def metric_agreement(
    ratings: Sequence[Rating], base: AnswerTable, tuned: AnswerTable, metrics: Mapping[str, bool]
) -> list[MetricAgreement]:
    """How often each metric prefers the answer that raters prefer, the best metric first.

    Questions without a majority of raters are left out; a metric that scores both answers equally counts half.
    """
    mean = {name: value for name, value in _mean_preferences(ratings).items() if value}
    rows = []
    for metric, lower in metrics.items():
        change = pd.Series((tuned.scores(metric) - base.scores(metric)).to_numpy() * (-1 if lower else 1), index=base.ids)
        known = {name: value for name, value in mean.items() if not math.isnan(change[name])}
        agreed = agreement.fraction_agreeing([change[name] for name in known], list(known.values()))
        low, high = agreement.wilson(agreed, len(known))
        agrees = agreed / len(known) if known else math.nan
        rows.append(MetricAgreement(metric=metric, questions=len(known), agrees=agrees, ci_low=low, ci_high=high))
    return sorted(rows, key=lambda row: -row.agrees if not math.isnan(row.agrees) else math.inf)


def write(folder: Path, summary: RatingSummary) -> None:
    write_rows(folder / RatingResult.FILE, summary.results, RatingResult)
    write_rows(folder / MetricAgreement.FILE, summary.metrics, MetricAgreement)
