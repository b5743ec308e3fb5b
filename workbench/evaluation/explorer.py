"""Every question of an evaluation as the report's explorer shows it: answers cut where they leave the reference."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import regex
from rapidfuzz.distance import LCSseq

from workbench import texts
from workbench.evaluation.answer_checks import CHECKS

MOST = 5000  # questions in one file; a browser opens them within three seconds
# a word, or a character of a script without spaces, with the white space behind it
PIECE = regex.compile(rf"^\s+|(?:{texts.CHARACTER}|(?:(?!{texts.CHARACTER})\S)+)\s*", regex.V1)
# punctuation around a word; signs count: "<7%" is not ">7%", "-5" and ".5" not "5", "A-" not "A"
EDGE = regex.compile(r"^(?:(?!\.\d)[\p{P}--[%–-]])+|[\p{P}--[%–-]]+$", regex.V1)


def contents(
    tables: Mapping[str, pd.DataFrame], metrics: Sequence[str], steering: str, lower_is_better: Sequence[str], seed: int
) -> dict[str, Any]:
    """What the explorer's script reads, ready for JSON.

    Args:
        tables: of each arm, `base` and `tuned` among them, a row a question in the same order.
        lower_is_better: those of `metrics` where less is better.
    """
    base, tuned = tables["base"], tables["tuned"]
    change = (tuned[steering] - base[steering]) * (-1 if steering in lower_is_better else 1)
    chosen = choose(list(change), seed)
    arms = {name: table.iloc[chosen] for name, table in tables.items()}
    scores = {name: [_rounded(row) for row in table[list(metrics)].to_numpy(float)] for name, table in arms.items()}
    checks = {name: table[list(CHECKS)].to_numpy(bool) for name, table in arms.items()}
    columns = ("id", "split", "specialty", "question", "reference")
    rows = []
    for place, (name, split, specialty, question, reference) in enumerate(
        zip(*(arms["base"][column] for column in columns), strict=True)
    ):
        answers = {arm: (table["prediction"].iloc[place], table["finish_reason"].iloc[place]) for arm, table in arms.items()}
        rows.append(
            {"id": name, "split": split, "specialty": specialty, "question": question,
             "reference": marked(answers["tuned"][0], reference),
             "answers": {arm: marked(reference, text) for arm, (text, _) in answers.items()},
             "finish": {arm: finish for arm, (_, finish) in answers.items()},
             "scores": {arm: scores[arm][place] for arm in arms},
             "checks": {arm: [check for check, fails in zip(CHECKS, checks[arm][place], strict=True) if fails] for arm in arms}}
        )  # fmt: skip
    return {
        "arms": list(arms), "metrics": list(metrics), "steering": steering, "lower_is_better": list(lower_is_better),
        "checks": CHECKS, "of": len(base), "rows": rows,
    }  # fmt: skip


def choose(change: Sequence[float], seed: int) -> list[int]:
    """Places of the questions shown: all, or of too many the worst regressions and a random half beside them."""
    order = sorted(range(len(change)), key=lambda i: (math.isnan(change[i]), change[i]))
    if len(order) <= MOST:
        return order
    worst, rest = order[: MOST // 2], order[MOST // 2 :]
    drawn = set(random.Random(seed).sample(rest, MOST - len(worst)))
    return worst + [i for i in rest if i in drawn]


def marked(other: str, text: str) -> list[str]:
    """`text` in parts, in turn the same as in `other` and not the same; joined they are `text` again.

    Words are aligned by their longest common subsequence (rapidfuzz), case and punctuation aside.
    """
    pieces = PIECE.findall(text)
    there, here = (
        [EDGE.sub("", texts.nfc(piece.strip())).casefold() for piece in found] for found in (PIECE.findall(other), pieces)
    )
    parts, same = [""], True
    for operation in LCSseq.opcodes(there, here):
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
