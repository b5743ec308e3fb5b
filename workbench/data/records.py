"""Specialty files to records, with every fault named at once.

Three forms are read: `dataset_with_answers_{specialty}.json` as one object `{question: answer}`, the same file as a
list of objects with `question` and `answer` (or `response`), and CSV files with `question,answer` and an optional
`specialty` column.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import itertools
import json
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workbench import console
from workbench.chat import SPECIAL_TOKEN
from workbench.errors import UserError
from workbench.files import check_specialty_name, short_hash

PREFIX = "dataset_with_answers_"
FAULTS_SHOWN = 20
ANSWER_NAMES = ("answer", "response")
# "2.5", "1,000", "x-ray" and "mg/dl" are one word; a sign counts where a number follows and no word precedes
WORD = re.compile(r"\w+(?:[.,/'+-]\w+)*%?|[+-]\d+(?:[.,]\d+)*%?")


@dataclass(slots=True)
class Record:
    """One question with its answer. `id` is a hash of specialty (by its first name), question and answer."""

    id: str
    specialty: str
    question: str
    response: str


@dataclass
class Reading:
    """What the files held: records in order of specialty, and the counts a user is told."""

    records: dict[str, list[Record]]
    files: list[Path]
    identical_dropped: int
    invalid_skipped: int
    faults: list[str]


def make_record(specialty: str, question: str, response: str) -> Record:
    return Record(record_id(specialty, question, response), specialty, question, response)


def record_id(specialty: str, question: str, response: str) -> str:
    """`specialty` as it was called first: a renamed one keeps its records."""
    return short_hash(f"{specialty}\x1f{question}\x1f{response}")


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation; decimals, ranges, signs, percents and accents are kept."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return WORD.findall(text.lower())


def words_of_each(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The words of all texts in one list, and where each text's words begin and end in it.

    `words[bounds[i]:bounds[i + 1]]` are `words_of(texts[i])`. Twice as fast over thousands of texts: a word never spans
    white space, so that each distinct piece between white space has to be cut into words once only.
    """
    column = pa.array(texts, pa.string())
    if not all(map(str.isascii, texts)):
        column = pc.utf8_normalize(column, "NFKC")
    pieces = pc.utf8_split_whitespace(pc.utf8_lower(column))
    coded = pieces.flatten().dictionary_encode()
    words_of_piece = [WORD.findall(piece) for piece in coded.dictionary.to_pylist()]
    sizes = np.array([len(words) for words in words_of_piece], np.int64)
    starts = np.cumsum(sizes) - sizes
    codes = coded.indices.to_numpy()
    counts = sizes[codes]
    ends = np.concatenate([[0], np.cumsum(counts)])
    # a piece's words stand at starts[code] and on; the text's words are those ranges one after the other
    places = np.repeat(starts[codes] - ends[:-1], counts) + np.arange(ends[-1])
    vocabulary = np.array([*itertools.chain.from_iterable(words_of_piece)], dtype=object)
    return vocabulary[places].tolist(), ends[pieces.offsets.to_numpy()].tolist()


def key_of_words(words: list[str]) -> int:
    """64-bit hash of a normalised text, signed, as parquet stores it."""
    return int.from_bytes(hashlib.sha256(" ".join(words).encode("utf-8")).digest()[:8], "big", signed=True)


def find_files(folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """The specialty files of a folder, sorted; UserError where there are none.

    Args:
        only: specialties whose files are wanted, all by default. A CSV file may hold several, so that it is always among them.
    """
    if not folder.is_dir():
        raise UserError(f"DATA_DIR={folder}: there is no such folder. It must hold {PREFIX}{{specialty}}.json files.")
    found = sorted([*folder.glob(f"{PREFIX}*.json"), *folder.glob("*.csv")])
    if not found:
        raise UserError(
            f"DATA_DIR={folder}: holds no specialty file. They are named {PREFIX}{{specialty}}.json, or are CSV files "
            "with the columns question,answer and, if they hold several, specialty."
        )
    return [path for path in found if not only or path.suffix == ".csv" or path.stem.removeprefix(PREFIX) in only]


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """json's hook: an object in which a key stands twice would lose a pair without a word."""
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise UserError(f"{key!r} stands twice as a key")
            seen.add(key)
    return value


def _read_json(path: Path) -> Iterator[tuple[int, str, Any, Any]]:
    """Yield (position from 1, specialty, question, answer); raises UserError where the file cannot be read at all."""
    specialty = check_specialty_name(path.stem.removeprefix(PREFIX), path.name)
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_refuse_repeated_keys)
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 (byte {error.start}). Save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"is not whole JSON ({error.msg}, line {error.lineno} column {error.colno}). Restore or mend the file"
        ) from None
    except RecursionError:
        raise UserError("is nested too deeply to be a specialty file") from None
    if isinstance(value, dict):
        for position, (question, answer) in enumerate(value.items(), start=1):
            yield position, specialty, question, answer
    elif isinstance(value, list):
        for position, item in enumerate(value, start=1):
            if not isinstance(item, dict):
                yield position, specialty, None, None
                continue
            answer = next((item[name] for name in ANSWER_NAMES if name in item), None)
            yield position, specialty, item.get("question"), answer
    else:
        raise UserError(f"holds a {type(value).__name__}, not an object {{question: answer}} or a list of objects")


def _read_csv(path: Path) -> Iterator[tuple[int, str, Any, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    own_name = path.stem.removeprefix(PREFIX)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            answer_name = next((name for name in ANSWER_NAMES if name in columns), None)
            if "question" not in columns or answer_name is None:
                raise UserError(f"has the columns {', '.join(columns) or 'none'}; it needs question and answer")
            for position, row in enumerate(reader, start=1):
                specialty = (row.get("specialty") or own_name).strip()
                yield position, check_specialty_name(specialty, path.name), row["question"], row[answer_name]
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 (byte {error.start}). Save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"is not valid CSV ({error})") from None


def _fault_of(question: Any, answer: Any) -> str | None:
    for name, value in (("question", question), ("answer", answer)):
        if value is None:
            return f'"{name}" is missing'
        if not isinstance(value, str):
            return f'"{name}" is a {type(value).__name__}, not text'
        if not value.strip():
            return f'"{name}" is empty'
        if "<" in value and (special := SPECIAL_TOKEN.search(value)):
            return f'"{name}" holds {special.group()}, a control token of chat templates'
        if not value.isascii() and any(0xD800 <= ord(character) <= 0xDFFF for character in value):
            return f'"{name}" holds half of a surrogate pair'
    return None


def read_folder(folder: Path, *, skip_invalid: bool, paths: list[Path] | None = None, only: Sequence[str] = ()) -> Reading:
    """Read and validate every specialty file of `folder` (or `paths`, as `find_files` gave them), and keep the specialties of `only`.

    Pairs that are identical within a specialty are dropped and counted. Surrounding white space is not part of a text.

    Raises:
        UserError: names the first twenty faults and how many more there are, unless `skip_invalid` (a file that cannot
            be read at all is always refused: nothing of it would be left).
    """
    reading = Reading({}, find_files(folder) if paths is None else paths, 0, 0, [])
    unreadable = []
    with console.Progress("reading", len(reading.files), "files") as progress:
        for path in reading.files:
            try:
                _read_file(path, reading)
            except UserError as error:
                unreadable.append(str(error) if path.name in str(error) else f"{path.name}: {error}.")
            progress.advance()
    if unreadable or (reading.faults and not skip_invalid):
        every = unreadable + reading.faults
        shown = "\n  ".join(every[:FAULTS_SHOWN])
        more = f"\n  … and {len(every) - FAULTS_SHOWN} more" if len(every) > FAULTS_SHOWN else ""
        remedy = "Mend them" + (", or set SKIP_INVALID=True to leave bad records out." if not unreadable else ".")
        raise UserError(f"{folder}: {len(every)} fault{'s' * (len(every) > 1)}. {remedy}\n  {shown}{more}")
    reading.invalid_skipped = len(reading.faults)
    for name in only:
        if name not in reading.records:
            known = sorted({*reading.records, *(path.stem.removeprefix(PREFIX) for path in folder.glob(f"{PREFIX}*.json"))})
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known[:6])}{' …' if len(known) > 6 else ''}."
            raise UserError(f"SPECIALTIES: {folder} holds no specialty {name!r}. {hint}")
    reading.records = {specialty: reading.records[specialty] for specialty in sorted(only or reading.records)}
    if not any(reading.records.values()):
        raise UserError(f"{folder}: holds no valid record.")
    return reading


def _read_file(path: Path, reading: Reading) -> None:
    reader = _read_csv if path.suffix == ".csv" else _read_json
    seen: dict[str, set[str]] = {}
    count = 0
    for position, specialty, question, answer in reader(path):
        count += 1
        fault = _fault_of(question, answer)
        if fault is not None:
            reading.faults.append(f"{path.name}, record {position}: {fault}.")
            continue
        record = make_record(specialty, question.strip(), answer.strip())
        records = reading.records.setdefault(specialty, [])
        if specialty not in seen:
            seen[specialty] = {other.id for other in records}
        ids = seen[specialty]
        if record.id in ids:
            reading.identical_dropped += 1
            continue
        ids.add(record.id)
        records.append(record)
    if count == 0:
        reading.faults.append(f"{path.name}: holds no record.")
