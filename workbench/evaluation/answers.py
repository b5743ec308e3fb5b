"""Questions as they are asked, answers as they are stored: each under a key of prompt, model, settings and engine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, ClassVar, Generic, Protocol, TypeVar

from workbench import chat, files
from workbench.errors import UserError

PREDICTIONS = "predictions"
EMPTY_THINKING = "(empty)"  # in place of a block that holds nothing, so that it is counted
BATCH = 1000  # records taken over from another file at once


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
    """What a model answered. `finish` is "stop", "length" or "failed"; `key` names prompt, model and settings.

    Stores hold the whole `text`; `without_thinking` puts what a reasoning model wrote first beside it.
    """

    key: str
    id: str
    arm: str
    text: str
    finish: str
    tokens: int
    error: str = ""
    reasoning: str = ""
    thinking_unfinished: bool = False


R = TypeVar("R", bound=Keyed)


def without_thinking(answer: Answer, prompt: str) -> Answer:
    """The answer as it is scored: without a leading `<think>…</think>`, which stands in `reasoning`.

    A block that was never closed holds no answer: the text is then empty. Where the template opened the block for the model, or a server
    left its start out, the thinking ends at `</think>` all the same.
    """
    text = answer.text.lstrip()
    opened = text.startswith(chat.THINK) or prompt.rstrip().endswith(chat.THINK)
    reasoning, closed, rest = text.partition(chat.END_OF_THINKING)
    if not opened and not closed:
        return answer
    reasoning = reasoning.removeprefix(chat.THINK).strip()
    return replace(
        answer, text=rest.strip() if closed else "", reasoning=reasoning or EMPTY_THINKING, thinking_unfinished=not closed
    )


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


class Records(Mapping[str, R]):
    """Records by key, read from their files when they are asked for: there may be more than memory should hold."""

    def __init__(self, kind: type[R]) -> None:
        self.kind = kind
        self._places: dict[str, tuple[int, int, int]] = {}  # file, where its line starts, how long it is
        self._files: list[IO[bytes]] = []

    def open(self, path: Path) -> int:
        """Number of a file whose lines are to be read."""
        self._files.append(open(path, "rb"))  # noqa: SIM115 - stays open as long as its records may be asked for
        return len(self._files) - 1

    def put(self, key: str, file: int, start: int, length: int) -> None:
        self._places[key] = (file, start, length)

    def __getitem__(self, key: str) -> R:
        file, start, length = self._places[key]
        line = os.pread(self._files[file].fileno(), length, start)
        return self.kind(**json.loads(line.decode("utf-8", errors="replace")))

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


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
        self._mine: int | None = None  # number of the file that is added to, once it is there
        lines, whole = self._read()
        if self.kept.exists() and not process and not (whole and lines == len(self.records)):
            # without its torn line, to which the next record would be glued, and without what was asked for again
            files.write_json_lines(self.kept, (asdict(record) for record in self.records.values()))
            self.read_again()

    def add(self, records: Sequence[R]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            start, places = file.tell(), []
            for record in records:
                line = (json.dumps(asdict(record), ensure_ascii=False) + "\n").encode("utf-8", errors="replace")
                file.write(line)
                places.append((record.key, start, len(line)))
                start += len(line)
            file.flush()
            os.fsync(file.fileno())
        if self._mine is None:
            self._mine = self.records.open(self.path)
        for place in places:
            self.records.put(place[0], self._mine, *place[1:])

    def lacks(self, key: str) -> bool:
        """Whether the record is still to be made."""
        return key not in self.records

    def adopt(self, others: Path, keys: set[str]) -> int:
        """Take records with these keys from another file; returns how many."""
        count, batch = 0, []
        for _, _, row in files.json_lines(others, drop_torn_tail=True):
            if row["key"] in keys and self._takes(record := self.kind(**row)):
                batch.append(record)
            if len(batch) == BATCH:
                self.add(batch)
                count, batch = count + len(batch), []
        if batch:
            self.add(batch)
        return count + len(batch)

    def _takes(self, record: R) -> bool:
        return self.lacks(record.key)

    def gather_parts(self, keys: set[str]) -> None:
        """Take over what the other processes stored, in this run or one that was killed."""
        for part in sorted(self.path.parent.glob(f"{self.name}.part*.jsonl")):
            self.adopt(part, keys)
            part.unlink()

    def read_again(self) -> None:
        """Know what the file that stays holds by now."""
        self._read()

    def _read(self) -> tuple[int, bool]:
        """Whole lines of the file that stays, and whether it ends with one."""
        self.records: Records[R] = Records(self.kind)
        self._mine = None
        if not self.kept.exists():
            return 0, True
        file, lines, end = self.records.open(self.kept), 0, 0
        for start, length, row in files.json_lines(self.kept, drop_torn_tail=True):
            self.records.put(row["key"], file, start, length)
            lines, end = lines + 1, start + length
        if self.path == self.kept:
            self._mine = file
        with open(self.kept, "rb") as whole:
            size = whole.seek(0, os.SEEK_END)
            whole.seek(max(0, size - 1))
            return lines, end == size and whole.read() in (b"\n", b"")


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
    return {row["key"] for path in paths for _, _, row in files.json_lines(path, drop_torn_tail=True)}


def check_complete(questions: Sequence[Question], keys: Sequence[str], store: AnswerStore, arm: str) -> None:
    """Every question has its answer, or the run is a fault of ours."""
    missing = [question.id for question, key in zip(questions, keys, strict=True) if key not in store.records]
    if missing:
        raise RuntimeError(f"{len(missing)} questions have no {arm} answer, the first is {missing[0]}")
