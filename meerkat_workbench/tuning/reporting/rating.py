"""Blinded rating: makes a sheet of questions with both answers in random order, and combines the filled sheets of raters.

Raters say which answer is better, and of each answer by itself whether it is correct, complete and could cause harm.
"""

from __future__ import annotations

import hashlib
import math
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from meerkat_workbench.core import artifacts, files, input_files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.output import page
from meerkat_workbench.output.tables import write_rows
from meerkat_workbench.stats import agreement, significance
from meerkat_workbench.tuning.artifacts import (
    ALL,
    BASE,
    NO_VERDICTS,
    TUNED,
    AnswerCriterion,
    AnswerVerdicts,
    Judgement,
    MetricAgreement,
    OutputFile,
    RatedCriterion,
    RatingKey,
    RatingKeyEntry,
    RatingResult,
    RatingSheetRow,
    Split,
)
from meerkat_workbench.tuning.scoring import answer_criteria
from meerkat_workbench.tuning.scoring.answer_table import AnsweredQuestion, AnswerTable

PAGE_TEMPLATE = Path(__file__).with_name("rating_sheet.html.j2")
CHOICES = {"A": 1, "B": -1, "=": 0, "NEITHER": 0}  # preference for answer A
ANSWERS = ("A", "B")


@dataclass(frozen=True)
class Rating:
    """What one rater says about one question.

    Attributes:
        preference: 1 for the tuned model, -1 for the base, 0 for neither; None if it was not given.
        base, tuned: the verdicts on each answer by itself.
    """

    rater: str
    id: str
    preference: int | None
    base: AnswerVerdicts = NO_VERDICTS
    tuned: AnswerVerdicts = NO_VERDICTS

    @property
    def is_empty(self) -> bool:
        return self.preference is None and self.base == self.tuned == NO_VERDICTS

    def of(self, system: str) -> AnswerVerdicts:
        """The verdicts on the answer of `BASE` or `TUNED`."""
        return self.tuned if system == TUNED else self.base


@dataclass(frozen=True)
class RatingSummary:
    """The combined results of all raters.

    Attributes:
        results: preferences over all questions, then by specialty.
        kappa: agreement on preferences (`agreement.kappa`) on the questions that every rater rated; NaN with one rater.
        common: number of these questions.
        criteria: a row for each criterion that somebody rated.
        metrics: how often each metric prefers the answer that raters prefer, the best metric first.
    """

    results: list[RatingResult]
    raters: int
    kappa: float
    common: int
    criteria: list[RatedCriterion]
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
    files.write_text(folder / OutputFile.RATING_PAGE, _page(sheet, rows))
    artifacts.write(folder / RatingKey.FILE, RatingKey(sheet=sheet, questions=key))
    return len(rows)


def _page(sheet: str, rows: Sequence[RatingSheetRow]) -> str:
    """The sheet as a page; what a rater chooses there is saved under the columns of `RatingSheetRow`."""
    columns = {answer: {RatingSheetRow.criterion_column(criterion, answer): question
                        for criterion, question in answer_criteria.QUESTIONS.items()} for answer in ANSWERS}  # fmt: skip
    saved = [RatingSheetRow.READ_BACK[-1], *(column for of_answer in columns.values() for column in of_answer)]
    return page.render(PAGE_TEMPLATE, sheet=sheet, rows=rows, columns=columns, saved=saved, yes=Judgement.YES, no=Judgement.NO)


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
    """Read the ratings in raters' files; each file is named after its rater. Sheets that hold preferences only are read too.

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
        rating = _read_line(row, key, path, f"line {line}")
        if not rating.is_empty:
            ratings.append(rating)
    return ratings


def _read_line(row: Mapping[str, str], key: RatingKey, path: Path, line: str) -> Rating:
    """One line of a rater's sheet; UserError if it belongs to another sheet, or if a cell cannot be read."""
    sheet, number, better = ((row.get(name) or "").strip() for name in RatingSheetRow.READ_BACK)
    entry = key.questions.get(number)
    if sheet != key.sheet or entry is None:
        remedy = "Give files that raters filled in from that sheet."
        raise UserError(f"does not belong to the last rating sheet ({key.sheet})", where=path, item=line, remedy=remedy)
    better = better.upper()
    if better and better not in CHOICES:
        fault = f'"better" is {better[:20]!r}, but must be A, B, = (or neither) or empty'
        raise UserError(fault, where=path, item=line, remedy="Correct the cell.")
    of_a, of_b = (_read_verdicts(row, answer, path, line) for answer in ANSWERS)
    a_is_tuned = entry.a == TUNED
    preference = CHOICES[better] * (1 if a_is_tuned else -1) if better else None
    return Rating(path.stem, entry.id, preference, of_b if a_is_tuned else of_a, of_a if a_is_tuned else of_b)


def _read_verdicts(row: Mapping[str, str], answer: str, path: Path, line: str) -> AnswerVerdicts:
    verdicts = []
    for criterion in AnswerCriterion:
        column = RatingSheetRow.criterion_column(criterion, answer)
        cell = row.get(column) or ""
        verdict = answer_criteria.read_yes_no(cell)
        if verdict is None:
            fault = f'"{column}" is {cell[:20]!r}, but must be yes, no or empty'
            raise UserError(fault, where=path, item=line, remedy="Correct the cell.")
        verdicts.append(verdict)
    return AnswerVerdicts(*verdicts)


# --- what the ratings give together


def summarise(
    ratings: Sequence[Rating], base: AnswerTable, tuned: AnswerTable, metrics: Mapping[str, bool], seed: int
) -> RatingSummary:
    """Summarise what raters prefer, how far they agree, and which metrics agree with them.

    Args:
        metrics: metrics to compare with the raters, and whether less is better.
    """
    by_rater: dict[str, dict[str, int]] = {}
    for rating in ratings:
        if rating.preference is not None:
            by_rater.setdefault(rating.rater, {})[rating.id] = rating.preference
    matrix = _common(by_rater)
    specialty_of = dict(zip(base.ids, base.specialties, strict=True))
    return RatingSummary(
        results=preferences(ratings, specialty_of, seed),
        raters=len({rating.rater for rating in ratings}),
        kappa=agreement.kappa(matrix),
        common=len(matrix),
        criteria=rated_criteria(ratings, specialty_of, seed),
        metrics=metric_agreement(ratings, base, tuned, metrics),
    )


def _common(by_rater: Mapping[str, Mapping[Any, int]]) -> np.ndarray:
    """The ratings of the items that every rater rated, (items, raters) of int."""
    if not by_rater:
        return np.empty((0, 0), int)
    common = sorted(set.intersection(*(set(given) for given in by_rater.values())))
    return np.array([[given[name] for given in by_rater.values()] for name in common], int).reshape(len(common), len(by_rater))


def _mean_preferences(ratings: Sequence[Rating]) -> dict[str, float]:
    """The mean preference of the raters of each question."""
    by_question: dict[str, list[int]] = {}
    for rating in ratings:
        if rating.preference is not None:
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
    signs = [rating.preference for rating in ratings if rating.preference is not None]
    return RatingResult(
        specialty=specialty, questions=questions, ratings=len(signs), tuned_wins=sum(sign > 0 for sign in signs),
        ties=sum(sign == 0 for sign in signs), base_wins=sum(sign < 0 for sign in signs), net=net.mean, ci_low=net.low, ci_high=net.high,
        p=net.p,
    )  # fmt: skip


def mean_verdicts(ratings: Sequence[Rating], system: str, criterion: AnswerCriterion) -> dict[str, float]:
    """The fraction of raters who say yes of each question's answer, by question; without questions that nobody rated."""
    given: dict[str, list[bool]] = {}
    for rating in ratings:
        verdict = rating.of(system).of(criterion)
        if verdict in (Judgement.YES, Judgement.NO):
            given.setdefault(rating.id, []).append(verdict is Judgement.YES)
    return {name: sum(values) / len(values) for name, values in sorted(given.items())}


def rated_criteria(ratings: Sequence[Rating], specialty_of: Mapping[str, str], seed: int) -> list[RatedCriterion]:
    """For how many answers of each system raters say yes, and how far they agree: a row for each criterion that somebody rated."""
    rows = []
    for criterion in AnswerCriterion:
        base, tuned = (mean_verdicts(ratings, system, criterion) for system in (BASE, TUNED))
        both = [name for name in base if name in tuned]
        if not base and not tuned:
            continue
        strata = [specialty_of[name] for name in both]
        difference = significance.stratified([tuned[name] - base[name] for name in both], strata, test=True, seed=seed).within(
            -1, 1
        )
        (base_rate, *of_base), (tuned_rate, *of_tuned) = (_rate([of[name] for name in both]) for of in (base, tuned))
        by_rater = _verdicts_by_rater(ratings, criterion)
        matrix = _common(by_rater)
        rows.append(RatedCriterion(
            criterion=criterion, questions=len(both), ratings=sum(map(len, by_rater.values())), base=base_rate, base_low=of_base[0],
            base_high=of_base[1], tuned=tuned_rate, tuned_low=of_tuned[0], tuned_high=of_tuned[1], difference=difference.mean,
            ci_low=difference.low, ci_high=difference.high, p=difference.p, raters=len(by_rater), common=len(matrix),
            kappa=agreement.kappa(matrix),
        ))  # fmt: skip
    return rows


def _rate(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Wilson interval; for means of several raters the interval is rather too wide."""
    return (sum(values) / len(values) if values else math.nan, *agreement.wilson(sum(values), len(values)))


def _verdicts_by_rater(ratings: Sequence[Rating], criterion: AnswerCriterion) -> dict[str, dict[tuple[str, str], int]]:
    """1 for yes and 0 for no, by rater and then by answer (system and question)."""
    by_rater: dict[str, dict[tuple[str, str], int]] = {}
    for rating in ratings:
        for system in (BASE, TUNED):
            verdict = rating.of(system).of(criterion)
            if verdict in (Judgement.YES, Judgement.NO):
                by_rater.setdefault(rating.rater, {})[system, rating.id] = int(verdict is Judgement.YES)
    return by_rater


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
    write_rows(folder / RatedCriterion.FILE, summary.criteria, RatedCriterion)
    write_rows(folder / MetricAgreement.FILE, summary.metrics, MetricAgreement)
