"""A record: one question with its answer, and its id."""

from __future__ import annotations

from dataclasses import dataclass

from meerkat_workbench.core.files import short_hash


@dataclass(slots=True)
class Record:
    """One question with its answer. `id` is a hash of specialty (by its first name), question and answer."""

    id: str
    specialty: str
    question: str
    response: str

    @property
    def left(self) -> str:
        return self.question

    @property
    def right(self) -> str:
        return self.response


def make_record(specialty: str, question: str, response: str) -> Record:
    return Record(record_id(specialty, question, response), specialty, question, response)


def record_id(specialty: str, question: str, response: str) -> str:
    """`specialty` as it was called first: a renamed one keeps its records."""
    return short_hash(f"{specialty}\x1f{question}\x1f{response}")
