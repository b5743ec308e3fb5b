"""Makes each model's questions from prepared records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from meerkat_workbench.core import files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord

RETENTION, JUDGE = "retention", "judge"  # in place of a split: general and safety questions, and requests to a judge


@dataclass(frozen=True, slots=True)
class Question:
    """A question as one model is asked it.

    Attributes:
        split: a split of the prepared data, RETENTION or JUDGE.
        prompt: the text for a model of this machine.
        prompt_ids: token ids of the prompt; empty for a server.
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
    """Put another question into the prompt of a prepared record, whatever its template.

    Raises:
        UserError: the prompt does not contain the record's question.
    """
    before, found, after = sample.formatted_prompt.rpartition(sample.question)
    if not found:
        raise UserError(
            "the prepared prompts do not contain their question word for word, so no other question can take its place",
            remedy="--ask and RETENTION need such prompts. Set RETENTION=False, and do not use --ask.",
        )
    turns = [{**turn, "content": text} if turn["role"] == "user" else turn for turn in sample.messages]
    return replace(sample, question=text, formatted_prompt=before + text + after, messages=turns)


def questions_of(
    split: str, records: Iterable[PreparedRecord], tokenizer: Any, limit: int | None, *, encoder_decoder: bool = False
) -> list[Question]:
    """The questions of a split in the order of the file, at most `limit` for each specialty.

    Args:
        tokenizer: None for a server, which has its own.
    """
    encode = chat.encode_source if encoder_decoder else chat.encode_prompt
    count_by_specialty: dict[str, int] = {}
    questions = []
    for record in records:
        count_by_specialty[record.specialty] = count_by_specialty.get(record.specialty, 0) + 1
        if limit is not None and count_by_specialty[record.specialty] > limit:
            continue
        prompt = record.formatted_prompt
        ids = () if tokenizer is None else tuple(encode(tokenizer, prompt))
        turns = tuple((turn["role"], turn["content"]) for turn in record.messages[:-1])
        questions.append(Question(record.id, split, record.specialty, record.question, record.response, prompt, ids, turns))
    return questions


def answer_key(question: Question, identity: str, decoding: dict[str, Any], engine: str) -> str:
    """The key of an answer: equal only for the same prompt, weights (`identity`), decoding settings and engine."""
    return files.sha256_of([question.prompt, identity, decoding, engine])[:32]
