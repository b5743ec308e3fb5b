"""An optional judge: a model on a server grades both answers to a question, in both orders.

A judge prefers the answer that it reads first more often than it should (Zheng et al. 2023). Each question is therefore graded
twice, with the answers exchanged, and is scored only if both replies can be read. An unreadable reply is counted and never
scored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from meerkat_workbench.core import files
from meerkat_workbench.output import tables
from meerkat_workbench.stats import significance
from meerkat_workbench.tuning.artifacts import Finish, OutputFile, Split, Verdict
from meerkat_workbench.tuning.generation import generator
from meerkat_workbench.tuning.generation.endpoint import Endpoint, ServerDecoding
from meerkat_workbench.tuning.generation.prediction_store import PredictionStore, archived_files
from meerkat_workbench.tuning.generation.questions import JUDGE, Question
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable
from meerkat_workbench.tuning.scoring.score_run import ScoredAnswers

CRITERIA = {
    "factual_accuracy": "is it medically correct, and does it agree with the reference",
    "fluency": "is it clear, well written and whole",
    "relevance": "does it answer the question that was asked, within the named specialty",
    "advice_to_see_a_doctor": "does it send the reader to a clinician where a careful clinician would",
}
MIN_GRADE, MAX_GRADE = 1, 5
VERSION = "v1"
SYSTEM = (
    "You grade answers to medical questions. Grade each answer by itself, whatever its length and place. Reply with one JSON object "
    'and nothing else: {"A": {'
    + ", ".join(f'"{name}": n' for name in CRITERIA)
    + '}, "B": {the same}}, each n a whole number from '
    f"{MIN_GRADE} (bad) to {MAX_GRADE} (good). " + " ".join(f"{name}: {means}." for name, means in CRITERIA.items())
)
REPLY_TOKENS = 512
MAX_ANSWER_CHARACTERS = 6000  # of each answer in a request
OBJECT = re.compile(r"\{.*\}", re.DOTALL)
Grades = dict[str, float]  # by criterion


@dataclass(frozen=True)
class JudgedQuestion:
    """A question with the grades of both answers, each the mean of the two orders.

    Attributes:
        answered: whether both requests were answered.
        base, tuned: grades; None unless both replies could be read.
        swayed: whether the preference changed with the order of the answers; None without grades.
    """

    id: str
    specialty: str
    question: str
    answered: bool
    base: Grades | None
    tuned: Grades | None
    swayed: bool | None

    @property
    def readable(self) -> bool:
        return self.base is not None


@dataclass(frozen=True)
class CriterionRow:
    """One criterion, tuned against base."""

    criterion: str
    n: int
    base: float
    tuned: float
    difference: float
    ci_low: float
    ci_high: float
    p_adjusted: float
    verdict: Verdict


@dataclass(frozen=True)
class JudgeSummary:
    """A row for each criterion, and sentences that summarise them."""

    rows: list[CriterionRow]
    sentences: list[str]


def questions(base: AnswerTable, tuned: AnswerTable) -> list[Question]:
    """The judge's questions: two for each question that both models answered, first with base as A, then with tuned as A.

    Args:
        base, tuned: the models' answers, a row for each question in the same order.
    """
    requests = []
    for of_base, of_tuned in zip(base, tuned, strict=True):
        if Finish.FAILED in (of_base.finish, of_tuned.finish):
            continue
        for order, (a, b) in enumerate(((of_base, of_tuned), (of_tuned, of_base))):
            text = (
                f"Specialty: {a.specialty.replace('_', ' ')}\nQuestion: {a.question}\nReference answer: {a.reference}\n\n"
                f"Answer A:\n{a.prediction[:MAX_ANSWER_CHARACTERS]}\n\nAnswer B:\n{b.prediction[:MAX_ANSWER_CHARACTERS]}"
            )
            turns = (("system", SYSTEM), ("user", text))
            requests.append(Question(f"{a.id}|{order}", JUDGE, a.specialty, a.question, "", text, (), turns))
    return requests


def judge_run(
    endpoint: Endpoint, scored: ScoredAnswers, store: PredictionStore, requests: int, *, stored_only: bool
) -> list[JudgedQuestion]:
    """Ask a judge to grade the answers to the holdout questions."""
    base, tuned = (table.of_split(Split.HOLDOUT) for table in (scored.base, scored.tuned))
    return judge_answers(endpoint, base, tuned, store, requests, stored_only=stored_only)


def judge_answers(
    endpoint: Endpoint, base: AnswerTable, tuned: AnswerTable, store: PredictionStore, requests: int, *, stored_only: bool
) -> list[JudgedQuestion]:
    """Ask a judge to grade both models' answers; its replies are stored like answers.

    Args:
        requests: requests at a time.
        stored_only: use stored replies only, and ask nothing.
    """
    asked = questions(base, tuned)
    keys = [key_of(question, f"{endpoint.address} {endpoint.model}") for question in asked]
    for path in archived_files(store.path.parent):
        store.adopt(path, set(keys))
    if not stored_only and any(map(store.lacks, keys)):
        print(f"asking {endpoint.address} to judge {len(asked) // 2} questions: answers {endpoint.stay_or_leave()}", flush=True)
        generator.generate_remote(endpoint, JUDGE, asked, keys, store, ServerDecoding(REPLY_TOKENS, 0.0, 0), requests)
    replies = [store.records.get(key) for key in keys]
    texts = [None if reply is None or reply.finish == Finish.FAILED else reply.text for reply in replies]
    return combine(asked, texts)


def key_of(question: Question, judge: str) -> str:
    """The key of a reply; `judge` is address and model."""
    return files.sha256_of([question.messages, judge, VERSION])[:32]


def read_grades(reply: str) -> dict[str, dict[str, int]] | None:
    """Parse the grades of A and B by criterion; None unless every grade is a whole number in range."""
    match = OBJECT.search(reply)
    try:
        grades = json.loads(match.group() if match else "null")
        found = {answer: {name: grades[answer][name] for name in CRITERIA} for answer in "AB"}
    except (ValueError, TypeError, KeyError):
        return None
    numbers = [value for grades in found.values() for value in grades.values()]
    valid = all(isinstance(value, int) and not isinstance(value, bool) and MIN_GRADE <= value <= MAX_GRADE for value in numbers)
    return found if valid else None


def combine(asked: Sequence[Question], replies: Sequence[str | None]) -> list[JudgedQuestion]:
    """Combine the two orders of each question; a reply is None if its request failed."""
    judged = []
    for first, both in zip(asked[::2], zip(replies[::2], replies[1::2], strict=True), strict=True):
        base_first, tuned_first = (None if reply is None else read_grades(reply) for reply in both)
        base = tuned = swayed = None
        if base_first and tuned_first:
            base = {name: (base_first["A"][name] + tuned_first["B"][name]) / 2 for name in CRITERIA}
            tuned = {name: (base_first["B"][name] + tuned_first["A"][name]) / 2 for name in CRITERIA}
            # by how much the judge prefers the answer that it read first
            lead_of_first = [sum(grades["A"].values()) - sum(grades["B"].values()) for grades in (base_first, tuned_first)]
            swayed = lead_of_first[0] * lead_of_first[1] > 0
        name = first.id.rpartition("|")[0]
        judged.append(JudgedQuestion(name, first.specialty, first.question, None not in both, base, tuned, swayed))
    return judged


def write(folder: Path, judged: Sequence[JudgedQuestion]) -> None:
    """Write `judge_results.csv`, a row for each question."""
    rows = []
    for one in judged:
        row: dict[str, Any] = {"id": one.id, "specialty": one.specialty, "question": one.question, "answered": one.answered,
                               "readable": one.readable, "swayed": one.swayed}  # fmt: skip
        for name in CRITERIA:
            row |= {f"base_{name}": one.base and one.base[name], f"tuned_{name}": one.tuned and one.tuned[name]}
        rows.append(row)
    with files.atomic_open(folder / OutputFile.JUDGE_RESULTS) as file:
        tables.write_frame(pd.DataFrame(rows), file)


def summarise(judged: Sequence[JudgedQuestion], judge: str) -> JudgeSummary:
    """Compare tuned with base by each criterion; `judge` is the model's name."""
    graded = [(one, one.base, one.tuned) for one in judged if one.base and one.tuned]
    strata = [one.specialty for one, _, _ in graded]
    estimates = {
        name: significance.stratified([tuned[name] - base[name] for _, base, tuned in graded], strata, test=True)
        for name in CRITERIA
    }
    # four criteria give four chances of a false alarm
    adjusted = significance.false_discovery_adjusted([estimate.p for estimate in estimates.values()])
    rows = []
    for (name, estimate), p in zip(estimates.items(), adjusted, strict=True):
        difference = estimate.within(MIN_GRADE - MAX_GRADE, MAX_GRADE - MIN_GRADE)
        verdict = Verdict.NOISE if not p <= significance.ALPHA else Verdict.BETTER if difference.mean > 0 else Verdict.WORSE
        base, tuned = (significance.mean_interval([pair[side][name] for pair in graded]).mean for side in (1, 2))  # type: ignore[index]
        rows.append(CriterionRow(name.replace("_", " "), difference.n, base, tuned, difference.mean, difference.low, difference.high, p,
                                 verdict))  # fmt: skip
    sentences = [
        f"{judge} graded {len(graded)} of {len(judged)} holdout questions, each in both orders, from {MIN_GRADE} to {MAX_GRADE}."
    ]
    if unread := len(judged) - len(graded):
        sentences.append(f"{unread} questions are not scored, because a reply is missing or could not be read.")
    if graded:
        swayed = sum(bool(one.swayed) for one, _, _ in graded)
        sentences.append(f"On {swayed} questions the judge's preference changed with the order of the answers.")
    return JudgeSummary(rows if graded else [], sentences)
