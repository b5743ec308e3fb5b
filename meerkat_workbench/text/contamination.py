"""Benchmark questions that must not be trained on, and the records that contain one.

A record is contaminated in any of three cases:

- its question or its answer shares 13 consecutive words with a benchmark question (Brown et al. 2020, arXiv:2005.14165, appendix C);
- its question equals a benchmark question, which may be shorter than that;
- both questions are near-duplicates (MinHash finds candidates, the Jaccard index of their words decides).

As in Brown et al., 13 words that occur in more than ten records are a stock phrase and no evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
# Jaccard index of the words of two questions; it must be high, because there are no answers to tell similar questions apart
NEAR_DUPLICATE_JACCARD = 0.9
MAX_RECORDS_PER_NGRAM = 10  # an n-gram in more records is a stock phrase
QUESTION_FIELDS = ("question", "query", "prompt", "instruction", "input", "problem")
OTHER_FIELDS = {"answer", "response", "output", "completion", "id", "options", "choices", "answer_idx", "context", "source"}
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet")
HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
SETTING = "CONTAMINATION_SETS"
Kind = Literal["13 words in a row", "same question", "near-duplicate question"]


@dataclass(frozen=True, slots=True)
class BenchmarkQuestion:
    """A question of a benchmark; `name` is the name of its file and of the folder around it."""

    name: str
    text: str


# row of a record to how it contains a benchmark question, and which one
Contaminated = Mapping[int, tuple[Kind, BenchmarkQuestion]]


def find_files(folders: Sequence[str], setting: str = SETTING) -> list[Path]:
    """The benchmark files in these folders (or these files themselves).

    Args:
        setting: the setting that names the folders, for messages.

    Raises:
        UserError: a folder does not exist, has no benchmark file, or has a data file in a format that cannot be read.
    """
    benchmark_files: list[Path] = []
    for given in folders:
        folder = Path(given)
        if not folder.exists():
            raise UserError(
                "there is no such folder", where=setting, item=str(folder), remedy="Correct the path, or leave it out."
            )
        inside = [folder] if folder.is_file() else sorted(folder.rglob("*"))
        # files below a hidden folder are a program's own, such as the notes of a download
        inside = [path for path in inside if not path.is_dir() and not input_files.is_not_data(path)
                  and not any(part.startswith(".") for part in path.relative_to(folder).parts[:-1])]  # fmt: skip
        # an error, not a warning: questions of a benchmark that is skipped would be trained on
        if unread := [path for path in inside if input_files.suffix_of(path) not in SUFFIXES or not path.is_file()]:
            remedy = input_files.REMEDIES.get(unread[0].suffix.lower(), "save it as JSON lines or CSV")
            raise UserError(f"is not read; {remedy}, or remove it", where=setting, item=str(unread[0]))
        paths = [path for path in inside if input_files.suffix_of(path) in SUFFIXES and path.is_file()]
        if not paths:
            remedy = "Name the folder of the benchmark's files, or leave it out."
            raise UserError(f"holds no {', '.join(SUFFIXES)} file", where=setting, item=str(folder), remedy=remedy)
        benchmark_files += paths
    return benchmark_files


def read_questions(
    paths: Sequence[Path], known_form: Callable[[Path], list[str] | None] = lambda _: None
) -> list[BenchmarkQuestion]:
    """Every question in these files.

    Args:
        known_form: the questions of a file whose form the task knows; None for any other file, which is then read by its fields.

    Raises:
        UserError: a file cannot be read or has no question.
    """
    questions: list[BenchmarkQuestion] = []
    for path in paths:
        try:
            found = known_form(path)
            texts = [text.strip() for text in (_questions(path) if found is None else found) if text.strip()]
        except (UserError, ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
            remedy = "Correct it, or remove it."
            raise UserError(f"cannot be read ({error})", where=SETTING, item=str(path), remedy=remedy) from None
        if not texts:
            fields = ", ".join(QUESTION_FIELDS)
            remedy = f"Give a field {fields}, an object {{question: answer}}, or, in a .txt file, one question per line."
            raise UserError("holds no question", where=SETTING, item=str(path), remedy=remedy)
        questions += [BenchmarkQuestion(f"{path.parent.name}/{path.name}", text) for text in texts]
    return questions


def _questions(path: Path) -> Iterator[str]:
    kind = input_files.suffix_of(path)
    if kind == ".parquet":
        import pyarrow.parquet as pq

        yield from _questions_in_rows(pq.read_table(path).to_pylist())
        return
    text = input_files.read_text(path)
    if kind == ".txt":
        yield from text.split("\n")
    elif kind in (".csv", ".tsv"):
        needs = f"one of {', '.join(QUESTION_FIELDS)}"
        table = input_files.Table.of(text, wanted=[QUESTION_FIELDS], needs=needs, tabs=kind == ".tsv")
        for row in table.rows():
            if isinstance(row, str):  # what is wrong with the row
                raise UserError(f"a row {row}")
            yield from _questions_in_rows([row])
    else:
        value = input_files.json_value(text, lines=kind != ".json")
        yield from _questions_in_json(value)


def _questions_in_json(value: Any) -> Iterator[str]:
    """The questions in a JSON value. When in doubt a text counts as a question: one too many does no harm, a missed one is trained on."""
    if isinstance(value, list):
        yield from _questions_in_rows(value)
    elif isinstance(value, dict):
        names = {input_files.normalized_field(name) for name in value}
        if names & set(QUESTION_FIELDS) and names <= {*QUESTION_FIELDS, *OTHER_FIELDS}:
            yield from _questions_in_rows([value])
            return
        for name, entry in value.items():
            name_is_question = len(str(name).split()) > 1 or str(name).endswith("?")
            if isinstance(entry, list):
                yield from _questions_in_rows(entry)
            elif isinstance(entry, dict):
                yield from _questions_in_rows([name] if name_is_question else [entry])
                if name_is_question and {input_files.normalized_field(field) for field in entry} & set(QUESTION_FIELDS):
                    yield from _questions_in_rows([entry])
            else:
                yield str(name)


def _questions_in_rows(rows: Any) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str):
            yield row
            continue
        by_name = {input_files.normalized_field(name): value for name, value in row.items()} if isinstance(row, dict) else {}
        texts = [by_name[name] for name in QUESTION_FIELDS if isinstance(by_name.get(name), str)]
        if not texts:
            raise ValueError(f"row {number} has none of the fields {', '.join(QUESTION_FIELDS)}")
        yield from texts


def find_contaminated(records: Sequence[TextPair], prints: Fingerprints, questions: Sequence[BenchmarkQuestion]) -> Contaminated:
    """The contaminated records: row in `records` to the kind of contamination and the benchmark question.

    Args:
        prints: the fingerprints of `records`.
    """
    question_prints = fingerprint_texts([question.text for question in questions], [""] * len(questions), near=True)
    contaminated: dict[int, tuple[Kind, BenchmarkQuestion]] = {}
    question_by_key = {int(key): row for row, key in reversed(list(enumerate(question_prints.question_keys)))}
    for row, key in enumerate(prints.question_keys):
        if (question_row := question_by_key.get(int(key))) is not None:
            contaminated[row] = ("same question", questions[question_row])
    for row, question_row in _shared_ngrams([question.text for question in questions], records).items():
        contaminated.setdefault(row, ("13 words in a row", questions[question_row]))
    record_prints = fingerprint_texts([record.left for record in records], [""] * len(records), near=True)
    for row, question_row in candidate_pairs(record_prints.bands, question_prints.bands):
        if row not in contaminated and same_question(records[row].left, questions[question_row].text, NEAR_DUPLICATE_JACCARD):
            contaminated[row] = ("near-duplicate question", questions[question_row])
    return contaminated


def _shared_ngrams(questions: Sequence[str], records: Sequence[TextPair]) -> dict[int, int]:
    """Records that share a 13-gram with a question: row of the record to row of the question."""
    words, bounds = words_of_each(questions)
    id_of_word: dict[str, int] = {}
    ids = np.array([id_of_word.setdefault(word, len(id_of_word) + 1) for word in words], np.uint64)
    ngrams, text = _ngram_hashes(ids, bounds)
    wanted, first = np.unique(ngrams, return_index=True)
    question_of = text[first]
    hits: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    if len(wanted):
        for begin in range(0, len(records), BATCH):
            batch = records[begin : begin + BATCH]
            texts = [text for record in batch for text in (record.left, record.right)]
            rows, places = _find_ngrams(texts, id_of_word, wanted)
            hits.append((begin + rows // 2, places))
    if not hits:
        return {}
    rows, places = (np.concatenate(part) for part in zip(*hits, strict=True))
    pairs = np.unique(np.stack([rows, places]), axis=1)  # an n-gram counts once per record
    is_rare = np.bincount(pairs[1], minlength=len(wanted)) <= MAX_RECORDS_PER_NGRAM
    return {int(row): int(question_of[place]) for row, place in reversed(pairs.T.tolist()) if is_rare[place]}


def _ngram_hashes(ids: NDArray[np.uint64], bounds: Sequence[int]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hash of each 13-gram of word ids within a text, and the text's index; n-grams with an unknown word (id 0) are left out.

    Args:
        bounds: where each text's words begin and end, as returned by `words_of_each`.
    """
    count = len(ids) - NGRAM_WORDS + 1
    if count <= 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    unknown = np.concatenate([[0], np.cumsum(ids == 0)])
    start = np.flatnonzero(unknown[NGRAM_WORDS:] == unknown[:-NGRAM_WORDS])
    hashes = np.zeros(len(start), np.uint64)
    for offset in range(NGRAM_WORDS):
        hashes = (hashes ^ ids[start + offset]) * HASH_MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
    text = np.searchsorted(bounds, start, side="right") - 1
    inside = start + NGRAM_WORDS <= np.asarray(bounds)[text + 1]
    return hashes[inside], text[inside].astype(np.int64)


def _find_ngrams(
    texts: Sequence[str], id_of_word: dict[str, int], wanted: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which texts have which of the wanted n-grams: index into `texts`, index into `wanted`."""
    words, bounds = words_of_each(texts)
    ids = np.fromiter((id_of_word.get(word, 0) for word in words), np.uint64, len(words))
    ngrams, text = _ngram_hashes(ids, bounds)
    place = np.searchsorted(wanted, ngrams)
    known = wanted[np.minimum(place, len(wanted) - 1)] == ngrams
    return text[known], place[known].astype(np.int64)
