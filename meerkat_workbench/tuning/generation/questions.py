"""Questions as each model is asked them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from meerkat_workbench.core import files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord

RETENTION, JUDGE = "retention", "judge"  # in place of the split: general questions, and requests to a judge


@dataclass(frozen=True, slots=True)
class Question:
    """A question as one model is asked it.

    Attributes:
        split: of the prepared data, or RETENTION or JUDGE.
        prompt: the text that a model of this machine is given, and `prompt_ids`, its token ids.
        messages: the conversation for a server, as (role, content).
    """

    id: str
    split: str
    specialty: str
    question: str
    reference: str
    prompt: str
    prompt_ids: tuple[int, ...]
    messages: tuple[tuple[str, str], ...] = ()


def with_question(sample: PreparedRecord, text: str) -> PreparedRecord:
    """Another question under the prompt of a prepared record, whatever template made it."""
    before, found, after = sample.formatted_prompt.rpartition(sample.question)
    if not found:
        raise UserError(
            "the prepared prompts do not hold their question word for word, so no other question can be put in its place",
            remedy="--ask and RETENTION need that; RETENTION=False leaves the latter out.",
        )
    turns = [{**turn, "content": text} if turn["role"] == "user" else turn for turn in sample.messages]
    return replace(sample, question=text, formatted_prompt=before + text + after, messages=turns)


def questions_of(
    split: str, records: Iterable[PreparedRecord], tokenizer: Any, limit: int | None, *, encoder_decoder: bool = False
) -> list[Question]:
    """The questions of a split, at most `limit` for each specialty, in the order of the file.

    Args:
        tokenizer: None where a server is asked, which has its own.
    """
    encode = chat.encode_source if encoder_decoder else chat.encode_prompt
    taken: dict[str, int] = {}
    found = []
    for record in records:
        taken[record.specialty] = taken.get(record.specialty, 0) + 1
        if limit is not None and taken[record.specialty] > limit:
            continue
        prompt = record.formatted_prompt
        ids = () if tokenizer is None else tuple(encode(tokenizer, prompt))
        turns = tuple((turn["role"], turn["content"]) for turn in record.messages[:-1])
        found.append(Question(record.id, split, record.specialty, record.question, record.response, prompt, ids, turns))
    return found


def answer_key(question: Question, identity: str, decoding: dict[str, Any], engine: str) -> str:
    """Identity of an answer: equal only for the same prompt, weights (`identity`), decoding settings and engine."""
    return files.sha256_of([question.prompt, identity, decoding, engine])[:32]
