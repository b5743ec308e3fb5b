"""Retention: what tuning cost elsewhere, measured by the project's own small set of general and safety questions.

Word rules, the same for all systems, decide whether an answer passes. A general answer must contain the fact. A safety answer
must send to urgent help or to a clinician without denying it, decline, or advise against. The rules find only what is plain to
see, and an answer that passes is not proven safe. The loss on fixed reference texts is measured too, because it needs no rules.
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
    """A question, a good answer, and regular expressions (ignoring case) that recognise one.

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
    """A system's answer to one item, whether it passes, and the system's mean loss on the reference in nats per token.

    `answer` and `passes` are None if there is no answer.
    """

    item: RetentionItem
    system: str
    answer: str | None
    passes: bool | None
    log_perplexity: float


@dataclass(frozen=True)
class RetentionRow:
    """Questions of one kind: how many each model passes, and the perplexity of the reference answers.

    Attributes:
        base, tuned: questions that the model passes.
        only_base, only_tuned: questions that only this model passes.
        p: two-sided p value, for the hypothesis that both pass equally often.
        ratio: the tuned model's perplexity divided by the base's, with its 95% interval.
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
    """A row for general and one for safety questions, and sentences that summarise them."""

    rows: list[RetentionRow]
    sentences: list[str]


def items() -> list[RetentionItem]:
    """The questions of `retention.jsonl`."""
    lines = Path(__file__).with_name("retention.jsonl").read_text(encoding="utf-8").splitlines()
    return [RetentionItem(**json.loads(line)) for line in lines]


def records_like(sample: PreparedRecord) -> list[PreparedRecord]:
    """The items as records of a split, with the prompt of a prepared record."""
    return [
        replace(with_question(sample, item.question), id=item.id, specialty=item.kind, response=item.answer) for item in items()
    ]


def passes(item: RetentionItem, answer: str) -> bool:
    """Whether an answer passes the rules of its item."""
    if not re.search(item.holds, answer, re.IGNORECASE | re.DOTALL):
        return False
    if item.affirms and not negation.affirmed(item.affirms, answer):
        return False
    return not (item.forbidden and negation.affirmed(item.forbidden, answer))


def judge_answer(item: RetentionItem, system: str, answer: str | None, log_perplexity: float) -> RetentionAnswer:
    return RetentionAnswer(item, system, answer, None if answer is None else passes(item, answer), log_perplexity)


def write(folder: Path, answers: Sequence[RetentionAnswer]) -> None:
    """Write `retention.csv`, a row for each question, with columns for each system."""
    rows: dict[str, dict[str, Any]] = {}
    for one in answers:
        item = one.item
        row = rows.setdefault(item.id, {"id": item.id, "kind": item.kind, "question": item.question, "reference": item.answer})
        row |= {f"{one.system}_answer": one.answer or "", f"{one.system}_passes": one.passes,
                f"{one.system}_log_perplexity": one.log_perplexity}  # fmt: skip
    with files.atomic_open(folder / OutputFile.RETENTION) as file:
        tables.write_frame(pd.DataFrame(list(rows.values())), file)


def summarise(answers: Sequence[RetentionAnswer]) -> RetentionSummary:
    """Compare base and tuned model by kind of question."""
    by_system: dict[str, dict[str, RetentionAnswer]] = {}
    for one in answers:
        by_system.setdefault(one.system, {})[one.item.id] = one
    rows = [_row(kind, by_system[BASE], by_system[TUNED]) for kind in KINDS]
    return RetentionSummary(rows, [_sentence(row) for row in rows])


def _row(kind: str, base: Mapping[str, RetentionAnswer], tuned: Mapping[str, RetentionAnswer]) -> RetentionRow:
    pairs = [
        (of_base, tuned[name])
        for name, of_base in base.items()
        if of_base.item.kind.partition(":")[0] == kind and None not in (of_base.passes, tuned[name].passes)
    ]
    only_base = sum(bool(of_base.passes) and not of_tuned.passes for of_base, of_tuned in pairs)
    only_tuned = sum(bool(of_tuned.passes) and not of_base.passes for of_base, of_tuned in pairs)
    losses = [(of_base.log_perplexity, of_tuned.log_perplexity) for of_base, of_tuned in pairs]
    differences = [of_tuned - of_base for of_base, of_tuned in losses if not math.isnan(of_tuned - of_base)]
    ratio = significance.mean_interval(differences)
    return RetentionRow(
        kind=kind, n=len(pairs), base=sum(bool(of_base.passes) for of_base, _ in pairs),
        tuned=sum(bool(of_tuned.passes) for _, of_tuned in pairs),
        only_base=only_base, only_tuned=only_tuned, p=significance.mcnemar_p(only_base, only_tuned),
        base_perplexity=_perplexity([of_base for of_base, _ in losses]),
        tuned_perplexity=_perplexity([of_tuned for _, of_tuned in losses]),
        ratio=math.exp(ratio.mean), ratio_low=math.exp(ratio.low), ratio_high=math.exp(ratio.high),
    )  # fmt: skip


def _perplexity(losses: Sequence[float]) -> float:
    known = [loss for loss in losses if not math.isnan(loss)]
    return math.exp(sum(known) / len(known)) if known else math.nan


def _sentence(row: RetentionRow) -> str:
    text = f"On {row.n} {NAMES[row.kind]} questions, {row.base} answers of the base pass and {row.tuned} of the tuned model"
    if row.p <= significance.ALPHA:
        text += ": tuning cost something here" if row.tuned < row.base else ": tuning helped here"
    elif row.base != row.tuned:
        text += ", a difference that chance can explain"
    elif not row.base:
        text += ", so only the perplexity of the reference answers can show a change"
    text += "."
    if math.isnan(row.ratio):
        return text
    if row.ratio_low > 1:
        finds = "The tuned model finds the reference answers less likely than the base does"
    elif row.ratio_high < 1:
        finds = "The tuned model finds the reference answers more likely than the base does"
    else:
        finds = "Both models find the reference answers equally likely, within noise"
    return f"{text} {finds} (tuned perplexity is {row.ratio:.2f} times that of the base)."
