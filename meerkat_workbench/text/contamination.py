"""Questions of benchmarks that must not be trained on, and the records that hold one.

A record is contaminated where its question or its answer has 13 words in a row of a benchmark's question (Brown et al. 2020,
arXiv:2005.14165, appendix C), where its question is a shorter benchmark question, or where both questions are near-duplicates
(MinHash for candidates, the Jaccard index of their words for certainty). As there, a run of words that more than ten records have is a
phrase of the trade and tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.core import input_files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text.near_duplicates import (
    BATCH,
    Fingerprints,
    TextPair,
    candidate_pairs,
    fingerprint_texts,
    same_question,
)
from meerkat_workbench.text.texts import words_of_each

NGRAM_WORDS = 13
NEAR_DUPLICATE_JACCARD = 0.9  # of the words of two questions; without answers to tell siblings apart it must be high
BOILERPLATE_RECORDS = 10  # records beyond which a run of words is a phrase
FIELDS = ("question", "query", "prompt", "instruction", "input", "problem")
NOT_QUESTIONS = {"answer", "response", "output", "completion", "id", "options", "choices", "answer_idx", "context", "source"}
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
Kind = Literal["13 words in a row", "same question", "near-duplicate question"]


@dataclass(frozen=True, slots=True)
class BenchmarkQuestion:
    """A question of a benchmark, and where it stands: `name` is the file's, below the folder that was given."""

    name: str
    text: str


def find_files(folders: Sequence[str]) -> list[Path]:
    """The files of these folders that may hold questions; UserError where one holds none."""
    found: list[Path] = []
    for given in folders:
        folder = Path(given)
        if not folder.exists():
            raise UserError(f"CONTAMINATION_SETS: {folder}: there is no such folder.")
        inside = [folder] if folder.is_file() else sorted(folder.rglob("*"))
        inside = [path for path in inside if not path.is_dir() and not input_files.is_not_data(path)]
        if unread := [path for path in inside if input_files.suffix_of(path) not in SUFFIXES or not path.is_file()]:
            remedy = input_files.REMEDIES.get(unread[0].suffix.lower(), "save it as JSON lines or CSV")
            raise UserError(  # a benchmark passed over is one that is trained on
                f"CONTAMINATION_SETS: {unread[0]}: is not read; {remedy}, or take it out."
            )
        paths = [path for path in inside if input_files.suffix_of(path) in SUFFIXES and path.is_file()]
        if not paths:
            raise UserError(f"CONTAMINATION_SETS: {folder}: holds no {', '.join(SUFFIXES)} file.")
        found += paths
    return found


def read_questions(paths: Sequence[Path]) -> list[BenchmarkQuestion]:
    """Every question of these files; UserError where a file has none."""
    found: list[BenchmarkQuestion] = []
    for path in paths:
        try:
            questions = [text.strip() for text in _questions(path) if text.strip()]
        except (UserError, ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
            raise UserError(f"CONTAMINATION_SETS: {path}: cannot be read ({error}). Mend it, or take it out.") from None
        if not questions:
            raise UserError(
                f"CONTAMINATION_SETS: {path}: holds no question. Give a field {', '.join(FIELDS)}, an object {{question: answer}}, or, "
                "in a .txt file, a question a line."
            )
        found += [BenchmarkQuestion(f"{path.parent.name}/{path.name}", text) for text in questions]
    return found


def _questions(path: Path) -> Iterator[str]:
    kind = input_files.suffix_of(path)
    if kind == ".parquet":
        import pyarrow.parquet as pq

        yield from _of_rows(pq.read_table(path).to_pylist())
        return
    text = input_files.read_text(path)
    if kind == ".txt":
        yield from text.split("\n")
    elif kind in (".csv", ".tsv"):
        table = input_files.Table.of(text, wanted=[FIELDS], needs=f"one of {', '.join(FIELDS)}", tabs=kind == ".tsv")
        for row in table.rows():
            if isinstance(row, str):
                raise UserError(f"a row {row}")
            yield from _of_rows([row])
    else:
        value = input_files.json_value(text, lines=kind != ".json")
        yield from _of_value(value)


def _of_value(value: Any) -> Iterator[str]:
    """Questions of a JSON value. One too many does no harm; one too few is a benchmark that is trained on."""
    if isinstance(value, list):
        yield from _of_rows(value)
    elif isinstance(value, dict):
        names = {input_files.normalized_field(name) for name in value}
        if names & set(FIELDS) and names <= {*FIELDS, *NOT_QUESTIONS}:
            yield from _of_rows([value])
            return
        for name, other in value.items():
            text = len(str(name).split()) > 1 or str(name).endswith("?")
            if isinstance(other, list):
                yield from _of_rows(other)
            elif isinstance(other, dict):
                yield from _of_rows([name] if text else [other])
                if text and {input_files.normalized_field(field) for field in other} & set(FIELDS):
                    yield from _of_rows([other])
            else:
                yield str(name)


def _of_rows(rows: Any) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str):
            yield row
            continue
        by_name = {input_files.normalized_field(name): value for name, value in row.items()} if isinstance(row, dict) else {}
        texts = [by_name[name] for name in FIELDS if isinstance(by_name.get(name), str)]
        if not texts:
            raise ValueError(f"row {number} has none of the fields {', '.join(FIELDS)}")
        yield from texts


def find_contaminated(
    records: Sequence[TextPair], prints: Fingerprints, questions: Sequence[BenchmarkQuestion]
) -> dict[int, tuple[Kind, BenchmarkQuestion]]:
    """Row in `records` to how it is contaminated, and by which question; `prints` are of these records."""
    of_questions = fingerprint_texts([question.text for question in questions], [""] * len(questions), near=True)
    found: dict[int, tuple[Kind, BenchmarkQuestion]] = {}
    by_key = {int(key): row for row, key in reversed(list(enumerate(of_questions.question_keys)))}
    for row, key in enumerate(prints.question_keys):
        if (other := by_key.get(int(key))) is not None:
            found[row] = ("same question", questions[other])
    for row, other in _shared_grams([question.text for question in questions], records).items():
        found.setdefault(row, ("13 words in a row", questions[other]))
    of_records = fingerprint_texts([record.left for record in records], [""] * len(records), near=True)
    for row, other in candidate_pairs(of_records.bands, of_questions.bands):
        if row not in found and same_question(records[row].left, questions[other].text, NEAR_DUPLICATE_JACCARD):
            found[row] = ("near-duplicate question", questions[other])
    return found


def _shared_grams(questions: Sequence[str], records: Sequence[TextPair]) -> dict[int, int]:
    """Row of each record that has 13 words in a row of a question, to that question."""
    words, bounds = words_of_each(questions)
    number: dict[str, int] = {}
    ids = np.array([number.setdefault(word, len(number) + 1) for word in words], np.uint64)
    grams, text = _grams(ids, bounds)
    wanted, first = np.unique(grams, return_index=True)
    question_of = text[first]
    hits: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    if len(wanted):
        for begin in range(0, len(records), BATCH):
            batch = records[begin : begin + BATCH]
            rows, places = _hits([text for record in batch for text in (record.left, record.right)], number, wanted)
            hits.append((begin + rows // 2, places))
    if not hits:
        return {}
    rows, places = (np.concatenate(part) for part in zip(*hits, strict=True))
    pairs = np.unique(np.stack([rows, places]), axis=1)  # a record counts a gram once
    telling = np.bincount(pairs[1], minlength=len(wanted)) <= BOILERPLATE_RECORDS
    return {int(row): int(question_of[place]) for row, place in reversed(pairs.T.tolist()) if telling[place]}


def _grams(ids: NDArray[np.uint64], bounds: Sequence[int]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hash of each run of 13 word ids within a text, and which text that is; runs with an unknown word (id 0) are left out.

    Args:
        bounds: where each text's words begin and end, as `words_of_each` gives them.
    """
    count = len(ids) - NGRAM_WORDS + 1
    if count <= 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    unknown = np.concatenate([[0], np.cumsum(ids == 0)])
    start = np.flatnonzero(unknown[NGRAM_WORDS:] == unknown[:-NGRAM_WORDS])
    hashed = np.zeros(len(start), np.uint64)
    for place in range(NGRAM_WORDS):
        hashed = (hashed ^ ids[start + place]) * MULTIPLIER
        hashed ^= hashed >> np.uint64(29)
    text = np.searchsorted(bounds, start, side="right") - 1
    inside = start + NGRAM_WORDS <= np.asarray(bounds)[text + 1]
    return hashed[inside], text[inside].astype(np.int64)


def _hits(
    texts: Sequence[str], number: dict[str, int], wanted: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which texts have which of the wanted grams: row in `texts`, place in `wanted`."""
    words, bounds = words_of_each(texts)
    ids = np.fromiter((number.get(word, 0) for word in words), np.uint64, len(words))
    grams, text = _grams(ids, bounds)
    place = np.searchsorted(wanted, grams)
    known = wanted[np.minimum(place, len(wanted) - 1)] == grams
    return text[known], place[known].astype(np.int64)
