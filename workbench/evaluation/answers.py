"""Questions as they are asked, answers as they are stored: each under a key of prompt, model, settings and engine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from workbench import chat, files
from workbench.errors import UserError

PREDICTIONS = "predictions"


@dataclass(frozen=True, slots=True)
class Question:
    """A question as one model is asked it.

    `prompt` is the text that a model of this machine is given, `prompt_ids` the same as its token ids, and `messages` the
    conversation for a server, as (role, content).
    """

    id: str
    split: str
    specialty: str
    question: str
    reference: str
    prompt: str
    prompt_ids: tuple[int, ...]
    messages: tuple[tuple[str, str], ...] = ()


class Keyed(Protocol):
    """A record that a store keeps: a dataclass with a key."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    key: str


@dataclass(slots=True)
class Answer:
    """What a model answered. `finish` is "stop", "length" or "failed"; `key` names prompt, model and settings."""

    key: str
    id: str
    arm: str
    text: str
    finish: str
    tokens: int
    error: str = ""


R = TypeVar("R", bound=Keyed)


def asked_like(sample: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The row of another question under the prompt of `sample`, a row of a prepared split, whatever template made it."""
    before, found, after = sample["formatted_prompt"].rpartition(sample["question"])
    if not found:
        raise UserError(
            "the prepared prompts do not hold their question word for word, so no other question can be put in its place. "
            "For --ask and retention they must; RETENTION=False leaves the latter out."
        )
    turns = [{**turn, "content": text} if turn["role"] == "user" else turn for turn in sample["messages"]]
    return {**sample, "question": text, "formatted_prompt": before + text + after, "messages": turns}


def questions_of(split: str, rows: Any, tokenizer: Any, limit: int | None, *, encoder_decoder: bool = False) -> list[Question]:
    """The questions of a split, at most `limit` a specialty, in the order of the file.

    Args:
        tokenizer: None where a server is asked, which has its own.
    """
    encode = chat.encode_source if encoder_decoder else chat.encode_prompt
    taken: dict[str, int] = {}
    found = []
    for row in rows:
        specialty = row["specialty"]
        taken[specialty] = taken.get(specialty, 0) + 1
        if limit is not None and taken[specialty] > limit:
            continue
        prompt = row["formatted_prompt"]
        ids = () if tokenizer is None else tuple(encode(tokenizer, prompt))
        asked = tuple((turn["role"], turn["content"]) for turn in row["messages"][:-1])
        found.append(Question(row["id"], split, specialty, row["question"], row["response"], prompt, ids, asked))
    return found


def answer_key(question: Question, model_identity: str, decoding: Any, engine: str) -> str:
    """Identity of an answer: equal only for the same prompt, weights, settings (a dataclass) and engine."""
    return files.sha256_of([question.prompt, model_identity, asdict(decoding), engine])[:32]


class Store(Generic[R]):
    """A file of JSON lines, a line a record under its key, appended as records come; a torn last line is dropped.

    Args:
        name: of the file, `predictions` for `predictions.jsonl`.
        kind: the dataclass of a record.
        process: of several that share the work, the first (0) writes the file that stays, each other a part of its own.
    """

    def __init__(self, folder: Path, name: str, kind: type[R], process: int = 0) -> None:
        self.name, self.kind, self.kept = name, kind, folder / f"{name}.jsonl"
        self.path = folder / f"{name}.part{process}.jsonl" if process else self.kept
        self.read_again()
        if self.kept.exists() and not process:  # without its torn line, to which the next record would be glued
            files.write_json_lines(self.kept, (asdict(record) for record in self.records.values()))

    def add(self, records: Sequence[R]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
                self.records[record.key] = record
            file.flush()
            os.fsync(file.fileno())

    def lacks(self, key: str) -> bool:
        """Whether the record is still to be made."""
        return key not in self.records

    def adopt(self, others: Path, keys: set[str]) -> int:
        """Take records with these keys from another file; returns how many."""
        rows = (row for row in files.read_json_lines(others, drop_torn_tail=True) if row["key"] in keys)
        found = [record for record in (self.kind(**row) for row in rows) if self._takes(record)]
        if found:
            self.add(found)
        return len(found)

    def _takes(self, record: R) -> bool:
        return self.lacks(record.key)

    def gather_parts(self, keys: set[str]) -> None:
        """Take over what the other processes stored, in this run or one that was killed."""
        for part in sorted(self.path.parent.glob(f"{self.name}.part*.jsonl")):
            self.adopt(part, keys)
            part.unlink()

    def read_again(self) -> None:
        """Know what the file that stays holds by now."""
        rows = files.read_json_lines(self.kept, drop_torn_tail=True)
        self.records: dict[str, R] = {row["key"]: self.kind(**row) for row in rows}


class AnswerStore(Store[Answer]):
    """`predictions.jsonl`. A failed answer stands until it is asked for again."""

    def __init__(self, folder: Path, process: int = 0) -> None:
        super().__init__(folder, PREDICTIONS, Answer, process)

    def lacks(self, key: str) -> bool:
        return key not in self.records or self.records[key].finish == "failed"

    def _takes(self, record: Answer) -> bool:
        return self.lacks(record.key) and (record.finish != "failed" or record.key not in self.records)


def archived(folder: Path, name: str = PREDICTIONS) -> list[Path]:
    """Files of answers, or other records, of the earlier evaluations in a folder."""
    return sorted(folder.glob(f"{files.ARCHIVE_NAME}/*/{name}.jsonl"))


def stored_keys(folder: Path) -> set[str]:
    """Keys of every answer that a folder holds, archived ones among them."""
    paths = [folder / f"{PREDICTIONS}.jsonl", *archived(folder)]
    return {row["key"] for path in paths for row in files.read_json_lines(path, drop_torn_tail=True)}


def check_complete(questions: Sequence[Question], keys: Sequence[str], store: AnswerStore, arm: str) -> None:
    """Every question has its answer, or the run is a fault of ours."""
    missing = [question.id for question, key in zip(questions, keys, strict=True) if key not in store.records]
    if missing:
        raise RuntimeError(f"{len(missing)} questions have no {arm} answer, the first is {missing[0]}")
