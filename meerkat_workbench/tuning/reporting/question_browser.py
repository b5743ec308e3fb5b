"""The data of the report's question browser: answers are cut into parts that equal the reference or differ from it."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import regex
from rapidfuzz.distance import LCSseq

from meerkat_workbench.text import texts
from meerkat_workbench.tuning.artifacts import TUNED
from meerkat_workbench.tuning.scoring.answer_checks import CHECKS
from meerkat_workbench.tuning.scoring.score_run import ScoredAnswers

MAX_QUESTIONS = 5000  # in one report; a web browser opens so many within three seconds
# a word, or a character of a script without spaces, with the white space after it
WORD_WITH_SPACE = regex.compile(rf"^\s+|(?:{texts.CHARACTER}|(?:(?!{texts.CHARACTER})\S)+)\s*", regex.V1)
# punctuation around a word, but not signs: "<7%" differs from ">7%", "-5" and ".5" from "5", "A-" from "A"
OUTER_PUNCTUATION = regex.compile(r"^(?:(?!\.\d)[\p{P}--[%–-]])+|[\p{P}--[%–-]]+$", regex.V1)


class BrowserRow(msgspec.Struct, frozen=True):
    """One question; its texts are cut into parts by `marked`.

    Attributes:
        reference: compared with the tuned answer.
        answers: by system, compared with the reference.
        scores: by system, in the order of `Browser.metrics`.
        checks: by system, the checks that its answer fails.
    """

    id: str
    split: str
    specialty: str
    question: str
    reference: list[str]
    answers: dict[str, list[str]]
    finish: dict[str, str]
    scores: dict[str, list[float | None]]
    checks: dict[str, list[str]]


class Browser(msgspec.Struct, frozen=True):
    """The data of the page's script; `of` is the number of all questions, `rows` holds those that are shown."""

    systems: list[str]
    metrics: list[str]
    steering: str
    lower_is_better: list[str]
    checks: dict[str, str]
    of: int
    rows: list[BrowserRow]

    def to_json(self) -> Any:
        return msgspec.to_builtins(self)


def contents(
    scored: ScoredAnswers, metrics: Sequence[str], steering: str, lower_is_better: Collection[str], seed: int
) -> Browser:
    """The browser's questions, with the tuned model's worst regressions in the steering metric first.

    Args:
        lower_is_better: the metrics for which less is better.
    """
    change = (scored.tuned.scores(steering) - scored.base.scores(steering)) * (-1 if steering in lower_is_better else 1)
    chosen = choose(list(change), seed)
    tables = {name: table.rows(chosen) for name, table in scored.tables.items()}
    scores = {name: [_rounded(row) for row in table.score_matrix(metrics)] for name, table in tables.items()}
    checks = {name: table.check_matrix() for name, table in tables.items()}
    rows = []
    for index, answers in enumerate(zip(*tables.values(), strict=True)):
        by_system = dict(zip(tables, answers, strict=True))
        question, reference = answers[0], answers[0].reference
        rows.append(
            BrowserRow(
                id=question.id, split=question.split, specialty=question.specialty, question=question.question,
                reference=marked(by_system[TUNED].prediction, reference),
                answers={name: marked(reference, answer.prediction) for name, answer in by_system.items()},
                finish={name: answer.finish for name, answer in by_system.items()},
                scores={name: scores[name][index] for name in tables},
                checks={
                    name: [check for check, fails in zip(CHECKS, checks[name][index], strict=True) if fails] for name in tables
                },
            )
        )  # fmt: skip
    return Browser(list(tables), list(metrics), steering, sorted(lower_is_better), dict(CHECKS), len(scored.base), rows)


def choose(change: Sequence[float], seed: int) -> list[int]:
    """Rows of the questions to show: all of them, or of too many the worst regressions and as many random others."""
    order = sorted(range(len(change)), key=lambda i: (math.isnan(change[i]), change[i]))
    if len(order) <= MAX_QUESTIONS:
        return order
    worst, rest = order[: MAX_QUESTIONS // 2], order[MAX_QUESTIONS // 2 :]
    drawn = set(random.Random(seed).sample(rest, MAX_QUESTIONS - len(worst)))
    return worst + [i for i in rest if i in drawn]


def marked(other: str, text: str) -> list[str]:
    """Cut `text` into parts that are alternately equal to `other` and different; joined, they give `text` again.

    Words are aligned by their longest common subsequence (rapidfuzz), ignoring case and punctuation.
    """
    pieces = WORD_WITH_SPACE.findall(text)
    other_words, words = (
        [OUTER_PUNCTUATION.sub("", texts.nfc(piece.strip())).casefold() for piece in text_pieces]
        for text_pieces in (WORD_WITH_SPACE.findall(other), pieces)
    )
    parts, same = [""], True
    for operation in LCSseq.opcodes(other_words, words):
        added = "".join(pieces[operation.dest_start : operation.dest_end])
        if not added:
            continue
        if (operation.tag == "equal") != same:
            parts.append("")
            same = not same
        parts[-1] += added
    return parts


def _rounded(values: Any) -> list[float | None]:
    return [None if math.isnan(value) else round(float(value), 4) for value in values]
