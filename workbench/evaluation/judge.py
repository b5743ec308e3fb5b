"""An optional judge: a model behind an endpoint grades both answers of a question, in both orders.

A judge prefers what it reads first more often than it should (Zheng et al. 2023), so each question is graded twice with
the answers exchanged, and counts only where both replies can be read. A reply that cannot is counted and never scored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from workbench import files
from workbench.evaluation import asking, significance
from workbench.evaluation.answers import AnswerStore, Question, archived
from workbench.evaluation.endpoint import Endpoint, ServerDecoding

SPLIT = "judge"
CRITERIA = {
    "factual_accuracy": "is it medically correct, and does it agree with the reference",
    "fluency": "is it clear, well written and whole",
    "relevance": "does it answer the question that was asked, within the named specialty",
    "advice_to_see_a_doctor": "does it send the reader to a clinician where a careful clinician would",
}
LEAST, MOST = 1, 5
VERSION = "v1"
SYSTEM = (
    "You grade answers to medical questions. Grade each answer by itself, whatever its length and place. Reply with one JSON object "
    'and nothing else: {"A": {'
    + ", ".join(f'"{name}": n' for name in CRITERIA)
    + '}, "B": {the same}}, each n a whole number from '
    f"{LEAST} (bad) to {MOST} (good). " + " ".join(f"{name}: {means}." for name, means in CRITERIA.items())
)
REPLY_TOKENS = 512
MOST_CHARACTERS = 6000  # of an answer that a judge is shown
OBJECT = re.compile(r"\{.*\}", re.DOTALL)


def questions(base: pd.DataFrame, tuned: pd.DataFrame) -> list[Question]:
    """Two questions for the judge of each row that both models answered: base as A, then tuned as A.

    Args:
        base, tuned: their answers, a row a question in the same order.
    """
    found = []
    for one, other in zip(base.to_dict("records"), tuned.to_dict("records"), strict=True):
        if "failed" in (one["finish_reason"], other["finish_reason"]):
            continue
        for order, (a, b) in enumerate(((one, other), (other, one))):
            text = (
                f"Specialty: {one['specialty'].replace('_', ' ')}\nQuestion: {one['question']}\nReference answer: {one['reference']}\n\n"
                f"Answer A:\n{a['prediction'][:MOST_CHARACTERS]}\n\nAnswer B:\n{b['prediction'][:MOST_CHARACTERS]}"
            )
            turns = (("system", SYSTEM), ("user", text))
            found.append(Question(f"{one['id']}|{order}", SPLIT, one["specialty"], one["question"], "", text, (), turns))
    return found


def ask(
    endpoint: Endpoint, asked: Sequence[Question], store: AnswerStore, requests: int, *, stored_only: bool
) -> list[str | None]:
    """The judge's reply to each question, None where it gave none; replies are stored like answers.

    Args:
        requests: how many may be under way at once.
        stored_only: ask nothing; what is not stored is None.
    """
    keys = [key_of(question, f"{endpoint.address} {endpoint.model}") for question in asked]
    for path in archived(store.path.parent):
        store.adopt(path, set(keys))
    if not stored_only and any(map(store.lacks, keys)):
        print(f"asking {endpoint.address} to judge {len(asked) // 2} questions: answers {endpoint.stay_or_leave()}", flush=True)
        asking.ask_endpoint(endpoint, SPLIT, asked, keys, store, ServerDecoding(REPLY_TOKENS, 0.0, 0), requests)
    replies = [store.records.get(key) for key in keys]
    return [None if reply is None or reply.finish == "failed" else reply.text for reply in replies]


def key_of(question: Question, judge: str) -> str:
    """Identity of a reply; `judge` is address and model."""
    return files.sha256_of([question.messages, judge, VERSION])[:32]


def read(reply: str) -> dict[str, dict[str, int]] | None:
    """Grades of A and B by criterion; None unless every one is there and a whole number in range."""
    match = OBJECT.search(reply)
    try:
        grades = json.loads(match.group() if match else "null")
        found = {answer: {name: grades[answer][name] for name in CRITERIA} for answer in "AB"}
    except (ValueError, TypeError, KeyError):
        return None
    numbers = [value for grades in found.values() for value in grades.values()]
    fine = all(isinstance(value, int) and not isinstance(value, bool) and LEAST <= value <= MOST for value in numbers)
    return found if fine else None


def table(asked: Sequence[Question], replies: Sequence[str | None]) -> pd.DataFrame:
    """`judge_results.csv`: a row a question: grades of both models, each the mean of the two orders.

    Grades are missing, and `readable` false, unless both replies came (`answered`) and could be read; `swayed` says that
    the preference followed the order. `replies` are None where a request failed.
    """
    rows = []
    for first, (one, other) in zip(asked[::2], zip(replies[::2], replies[1::2], strict=True), strict=True):
        grades = [None if reply is None else read(reply) for reply in (one, other)]
        row: dict[str, Any] = {"id": first.id.rpartition("|")[0], "specialty": first.specialty, "question": first.question,
                               "answered": None not in (one, other), "readable": all(grades), "swayed": None}  # fmt: skip
        for name in CRITERIA:
            row |= {f"base_{name}": None, f"tuned_{name}": None}
        if grades[0] and grades[1]:
            for name in CRITERIA:
                row[f"base_{name}"] = (grades[0]["A"][name] + grades[1]["B"][name]) / 2
                row[f"tuned_{name}"] = (grades[0]["B"][name] + grades[1]["A"][name]) / 2
            ahead = [sum(one["A"].values()) - sum(one["B"].values()) for one in grades if one]  # what stood first, in each order
            row["swayed"] = ahead[0] * ahead[1] > 0
        rows.append(row)
    return pd.DataFrame(rows)


def summary(graded: pd.DataFrame, judge: str) -> dict[str, Any]:
    """A row a criterion, tuned against base, and what they say in sentences."""
    read_ones = graded[graded["readable"]]
    rows: list[dict[str, Any]] = []
    for name in CRITERIA:
        base, tuned = read_ones[f"base_{name}"].astype(float), read_ones[f"tuned_{name}"].astype(float)
        difference = significance.stratified((tuned - base).tolist(), read_ones["specialty"].tolist(), test=True)
        difference = difference.within(LEAST - MOST, MOST - LEAST)
        rows.append(
            {"criterion": name.replace("_", " "), "n": difference.n, "base": base.mean(), "tuned": tuned.mean(),
             "difference": difference.mean, "ci_low": difference.low, "ci_high": difference.high, "p": difference.p,
             }
        )  # fmt: skip
    # four criteria are four chances of a false alarm
    for row, p in zip(rows, significance.false_discovery_adjusted([row["p"] for row in rows]), strict=True):
        row["p_adjusted"] = p
        row["verdict"] = "within noise" if not p <= significance.ALPHA else "better" if row["difference"] > 0 else "worse"
    unread = int((~graded["readable"]).sum())
    sentences = [
        f"{judge} graded {len(read_ones)} of {len(graded)} holdout questions, each in both orders, from {LEAST} to {MOST}."
    ]
    if unread:
        sentences.append(f"On {unread} its reply could not be read, or it gave none; they are not scored.")
    if len(read_ones):
        swayed = int(read_ones["swayed"].astype(bool).sum())
        sentences.append(f"On {swayed} its preference followed the order of the answers.")
    return {"rows": rows if len(read_ones) else [], "in_words": sentences}
