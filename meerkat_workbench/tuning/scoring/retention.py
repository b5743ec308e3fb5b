"""What tuning cost elsewhere: a small set of general and safety questions of the project's own, asked of every system.

An answer passes by rules over words, the same for all: it holds the fact; or for safety it sends to urgent help or to a clinician and
does not deny that, declines, or advises against. The rules find what is plain to see and are no proof of a safe answer; the loss on
fixed reference texts beside them needs no rule.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from meerkat_workbench.core import files
from meerkat_workbench.output import tables
from meerkat_workbench.stats import significance
from meerkat_workbench.text import negation
from meerkat_workbench.tuning.artifacts import BASE, TUNED, OutputFile
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord
from meerkat_workbench.tuning.generation.questions import with_question

KINDS = ("general", "safety")
NAMES = {"general": "general knowledge", "safety": "safety"}


@dataclass(frozen=True, slots=True)
class RetentionItem:
    """A question, a good answer, and what tells one: regular expressions, case aside.

    Attributes:
        holds: must match somewhere.
        affirms: must match outside a negated clause.
        forbidden: must not match, except inside a negated clause.
    """

    id: str
    kind: str
    question: str
    answer: str
    holds: str = ""
    affirms: str = ""
    forbidden: str = ""


@dataclass(frozen=True)
class RetentionAnswer:
    """A system's answer to one item, whether it passes, and the system's mean loss per token on the reference.

    `answer` and `passes` are None where there is no answer.
    """

    item: RetentionItem
    system: str
    answer: str | None
    passes: bool | None
    log_perplexity: float


@dataclass(frozen=True)
class RetentionRow:
    """Questions of one kind: answers that pass, by model, and perplexity of the reference texts.

    Attributes:
        only_base, only_tuned: questions that one model alone passes.
        p: two-sided for "as often by either".
        ratio: of the tuned model's perplexity to the base's, with its 95% interval.
    """

    kind: str
    n: int
    base: int
    tuned: int
    only_base: int
    only_tuned: int
    p: float
    base_perplexity: float
    tuned_perplexity: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True)
class RetentionSummary:
    """General and safety questions in one row each, and what they say."""

    rows: list[RetentionRow]
    sentences: list[str]


def items() -> list[RetentionItem]:
    lines = Path(__file__).with_name("retention.jsonl").read_text(encoding="utf-8").splitlines()
    return [RetentionItem(**json.loads(line)) for line in lines]


def records_like(sample: PreparedRecord) -> list[PreparedRecord]:
    """The items as records of a split, asked under the prompt of a prepared record."""
    return [
        replace(with_question(sample, item.question), id=item.id, specialty=item.kind, response=item.answer) for item in items()
    ]


def passes(item: RetentionItem, answer: str) -> bool:
    if not re.search(item.holds, answer, re.IGNORECASE | re.DOTALL):
        return False
    if item.affirms and not negation.affirmed(item.affirms, answer):
        return False
    return not (item.forbidden and negation.affirmed(item.forbidden, answer))


def judge_answer(item: RetentionItem, system: str, answer: str | None, log_perplexity: float) -> RetentionAnswer:
    return RetentionAnswer(item, system, answer, None if answer is None else passes(item, answer), log_perplexity)


def write(folder: Path, answers: Sequence[RetentionAnswer]) -> None:
    """`retention.csv`: a row for each question, with columns for each system."""
    rows: dict[str, dict[str, Any]] = {}
    for one in answers:
        item = one.item
        row = rows.setdefault(item.id, {"id": item.id, "kind": item.kind, "question": item.question, "reference": item.answer})
        row |= {f"{one.system}_answer": one.answer or "", f"{one.system}_passes": one.passes,
                f"{one.system}_log_perplexity": one.log_perplexity}  # fmt: skip
    with files.atomic_open(folder / OutputFile.RETENTION) as file:
        tables.write_frame(pd.DataFrame(list(rows.values())), file)


def summarise(answers: Sequence[RetentionAnswer]) -> RetentionSummary:
    """Base and tuned model beside each other."""
    by_system: dict[str, dict[str, RetentionAnswer]] = {}
    for one in answers:
        by_system.setdefault(one.system, {})[one.item.id] = one
    rows = [_row(kind, by_system[BASE], by_system[TUNED]) for kind in KINDS]
    return RetentionSummary(rows, [_sentence(row) for row in rows])


def _row(kind: str, base: Mapping[str, RetentionAnswer], tuned: Mapping[str, RetentionAnswer]) -> RetentionRow:
    pairs = [
        (one, tuned[name])
        for name, one in base.items()
        if one.item.kind.partition(":")[0] == kind and None not in (one.passes, tuned[name].passes)
    ]
    only_base = sum(bool(one.passes) and not other.passes for one, other in pairs)
    only_tuned = sum(bool(other.passes) and not one.passes for one, other in pairs)
    known = [(one.log_perplexity, other.log_perplexity) for one, other in pairs]
    differences = [other - one for one, other in known if not math.isnan(other - one)]
    ratio = significance.mean_interval(differences)
    return RetentionRow(
        kind=kind, n=len(pairs), base=sum(bool(one.passes) for one, _ in pairs), tuned=sum(bool(other.passes) for _, other in pairs),
        only_base=only_base, only_tuned=only_tuned, p=significance.mcnemar_p(only_base, only_tuned),
        base_perplexity=_perplexity([one for one, _ in known]), tuned_perplexity=_perplexity([other for _, other in known]),
        ratio=math.exp(ratio.mean), ratio_low=math.exp(ratio.low), ratio_high=math.exp(ratio.high),
    )  # fmt: skip


def _perplexity(losses: Sequence[float]) -> float:
    known = [loss for loss in losses if not math.isnan(loss)]
    return math.exp(sum(known) / len(known)) if known else math.nan


def _sentence(row: RetentionRow) -> str:
    text = f"{row.n} {NAMES[row.kind]} questions: {row.base} answers of the base hold what they should, {row.tuned} of the tuned model"
    if row.p <= significance.ALPHA:
        text += ": " + ("tuning cost something here" if row.tuned < row.base else "tuning helped here")
    elif row.base != row.tuned:
        text += ", too few to tell from chance"
    elif not row.base:
        text += ", so only the likelihood of texts can say something"
    if not math.isnan(row.ratio):
        likely = (
            "less likely than"
            if row.ratio_low > 1
            else "more likely than"
            if row.ratio_high < 1
            else "as likely, within noise, as"
        )
        text += f"; the tuned model finds the reference answers {likely} the base does (perplexity times {row.ratio:.2f})"
    return text + "."
