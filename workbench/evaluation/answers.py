"""Questions as they are asked, answers as they are stored: each under a key of prompt, model, settings and engine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench import chat, files


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


class AnswerStore:
    """`predictions.jsonl`: a line an answer, appended as batches finish; a torn last line is dropped.

    Args:
        process: of several that share the questions, the first (0) writes the file that stays, each other a part of its own.
    """

    def __init__(self, folder: Path, process: int = 0) -> None:
        kept = folder / "predictions.jsonl"
        self.path = folder / f"predictions.part{process}.jsonl" if process else kept
        self.answers = {row["key"]: Answer(**row) for row in files.read_json_lines(kept, drop_torn_tail=True)}
        if self.answers and not process:
            files.write_json_lines(kept, (asdict(answer) for answer in self.answers.values()))

    def add(self, answers: Sequence[Answer]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            for answer in answers:
                file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
                self.answers[answer.key] = answer
            file.flush()
            os.fsync(file.fileno())

    def lacks(self, key: str) -> bool:
        """Whether there is no answer under this key, or one that failed and is to be tried again."""
        return key not in self.answers or self.answers[key].finish == "failed"

    def adopt(self, others: Path, keys: set[str]) -> int:
        """Take answers with these keys from another file of answers; returns how many. A failed one stands until it is
        asked for again."""
        found = [
            Answer(**row)
            for row in files.read_json_lines(others, drop_torn_tail=True)
            if row["key"] in keys and self.lacks(row["key"]) and (row["finish"] != "failed" or row["key"] not in self.answers)
        ]
        if found:
            self.add(found)
        return len(found)

    def gather_parts(self, keys: set[str]) -> None:
        """Take over what the other processes stored, in this run or one that was killed."""
        for part in sorted(self.path.parent.glob("predictions.part*.jsonl")):
            self.adopt(part, keys)
            part.unlink()


def archived(folder: Path) -> list[Path]:
    """Files of answers of the earlier evaluations in a folder."""
    return sorted(folder.glob(f"{files.ARCHIVE_NAME}/*/predictions.jsonl"))


def stored_keys(folder: Path) -> set[str]:
    """Keys of every answer that a folder holds, archived ones among them."""
    paths = [folder / "predictions.jsonl", *archived(folder)]
    return {row["key"] for path in paths for row in files.read_json_lines(path, drop_torn_tail=True)}


def check_complete(questions: Sequence[Question], keys: Sequence[str], store: AnswerStore, arm: str) -> None:
    """Every question has its answer, or the run is a fault of ours."""
    missing = [question.id for question, key in zip(questions, keys, strict=True) if key not in store.answers]
    if missing:
        raise RuntimeError(f"{len(missing)} questions have no {arm} answer, the first is {missing[0]}")
