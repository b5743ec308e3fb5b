"""Records: one question with its answer and an id."""

from __future__ import annotations

from dataclasses import dataclass

from meerkat_workbench.core.files import short_hash


@dataclass(slots=True)
class Record:
    """One question with its answer. `id` is a hash of the specialty's original name, the question and the answer."""

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
    """A record with the id of its texts."""
    return Record(record_id(specialty, question, response), specialty, question, response)


def record_id(specialty: str, question: str, response: str) -> str:
    """Hash of a record. `specialty` is the specialty's original name, so that records keep their ids when it is renamed."""
    return short_hash(f"{specialty}\x1f{question}\x1f{response}")
