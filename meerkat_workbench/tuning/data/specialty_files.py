"""Specialty files to records, with every fault named at once, and everything that is not read.

Read are JSON (`dataset_with_answers_{specialty}.json`), JSON lines (`.jsonl`, `.ndjson`) and tables (`.csv`, `.tsv`, under any name),
compressed (`.gz`) or not. What their rows look like: `rows`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import regex

from meerkat_workbench.core import console, input_files
from meerkat_workbench.core.errors import UserError, did_you_mean
from meerkat_workbench.text import texts
from meerkat_workbench.tuning.chat import ControlTokens
from meerkat_workbench.tuning.data import rows
from meerkat_workbench.tuning.data.records import Record, make_record
from meerkat_workbench.tuning.data.rows import Pair

PREFIX = "dataset_with_answers_"
# letters of any script with their marks; the joiners stand inside Hindi and Persian words
SPECIALTY_NAME = regex.compile(r"[\p{L}\p{N}_](?:[\p{L}\p{M}\p{N}\p{P} +\u200C\u200D](?<![/\\:*?\"<>|])){0,99}")
MAX_NAME_BYTES = 200  # file systems allow a file's name 255 bytes
MAX_UNREAD_SHOWN = 40
MAX_FAULTS_SHOWN = 20
CONTEXT_NAMES = {"input", "context", "contexts", "passage", "options", "history"}  # without these a question may be another one
ROW_SUFFIXES, TABLE_SUFFIXES = (".json", ".jsonl", ".ndjson"), (".csv", ".tsv")


@dataclass(frozen=True)
class UnreadFile:
    """A file that looks like data and is not read."""

    path: Path
    why: str  # and what to do

    def may_be_of(self, specialty: str) -> bool:
        """Whether its name holds that of a specialty, however words are joined there."""
        own, wanted = (" ".join(texts.tokens(name)) for name in (self.path.name.removesuffix(".icloud"), specialty))
        return f" {wanted} " in f" {own} "


@dataclass
class FoundFiles:
    """What a folder holds: the files that are read, sorted, and those that are not."""

    paths: list[Path]
    unread: list[UnreadFile]


@dataclass
class LoadedRecords:
    """What the files held: records in order of specialty, and what a user is told.

    Attributes:
        notes: sentences, such as which fields were not read.
    """

    records: dict[str, list[Record]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    identical_dropped: int = 0
    invalid_skipped: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check_no_specialty_lost(self, known: set[str], found: FoundFiles) -> None:
        """UserError where a specialty seems to be gone, and only its file is not read any more.

        Args:
            known: the specialties of earlier iterations that are still wanted.
        """
        for name in sorted(known - set(self.records)):
            for one in found.unread:
                if one.may_be_of(name):
                    raise UserError(
                        f"{name} has records in earlier iterations, and this file, which may be its own, is not read ({one.why})",
                        where=one.path.name,
                        remedy=f"Do that, or, if {name} is to go, take the file away.",
                    )


# --- which files


def find_files(folder: Path, only: Sequence[str] = ()) -> FoundFiles:
    """The specialty files of a folder; UserError where there are none.

    Args:
        only: specialties that are wanted, all by default. Files whose rows may name a specialty are always among those found.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "there is no such folder"
        raise UserError(f"DATA_DIR={folder}: {what}. It must be a folder of {PREFIX}{{specialty}}.json files.")
    only = [texts.nfc(name) for name in only]
    found = FoundFiles([], [])
    for path in sorted(folder.iterdir()):
        why = _reason_unread(path)
        if why is None:
            found.paths.append(path)
        elif why:
            found.unread.append(UnreadFile(path, why))
    if not found.paths:
        listed = "".join(f"\n  {one.path.name}: {one.why}" for one in found.unread[:MAX_FAULTS_SHOWN])
        raise UserError(
            f"DATA_DIR={folder}: holds no specialty file. They are named {PREFIX}{{specialty}}.json (or .jsonl), or are CSV files "
            f"with the columns question,answer and, if they hold several, specialty.{listed}"
        )
    found.paths = [path for path in found.paths if not only or specialty_of(path) in only or _may_name_specialties(path)]
    return found


def _reason_unread(path: Path) -> str | None:
    """None for a file that is read; why it is not and what to do for what looks like data; empty for anything else."""
    name, kind = path.name.lower(), input_files.suffix_of(path)
    known = kind in ROW_SUFFIXES or kind in TABLE_SUFFIXES
    if name.startswith("._"):  # before any look into it
        return "is a Mac's note about another file, and holds no data; remove it" if known else ""
    if name.startswith(".") and name.endswith(".icloud"):
        return "is in iCloud and not on this machine; download it"
    if name.startswith((".", "~$")) or name in input_files.NOT_DATA:
        return ""
    if path.is_symlink() and not path.exists():
        return "is a link to a file that is not there; restore the file, or remove the link"
    if path.is_dir():
        if known:
            return "is a folder; put the file itself here"
        kinds = {*ROW_SUFFIXES, *TABLE_SUFFIXES, *input_files.REMEDIES}
        inside = sum(input_files.suffix_of(one) in kinds for one in path.rglob("*") if not one.name.startswith((".", "~$")))
        return (
            f"is a folder with {inside} file{'s' * (inside > 1)} of data; put them here, or name it as DATA_DIR" if inside else ""
        )
    if not path.is_file():
        return "is no file that can be read (a pipe or a device)"
    if kind in TABLE_SUFFIXES or (kind in ROW_SUFFIXES and name.startswith(PREFIX)):
        return None
    if kind in ROW_SUFFIXES:
        return f"name it {PREFIX}{path.name}, if it is a specialty's"
    if not name.startswith(PREFIX) and input_files.is_not_data(path):
        return ""
    return input_files.REMEDIES.get(
        path.suffix.lower(), f"save it as {PREFIX}{{specialty}}.json, .jsonl, .csv or .tsv, if it is a specialty's"
    )


def specialty_of(path: Path) -> str:
    """What a file's name says of its specialty."""
    name = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name
    stem = texts.nfc(
        Path(name).stem if input_files.suffix_of(path) in (*ROW_SUFFIXES, *TABLE_SUFFIXES) else name.partition(".")[0]
    )
    return stem[len(PREFIX) :] if stem.lower().startswith(PREFIX) else stem


def _may_name_specialties(path: Path) -> bool:
    if input_files.suffix_of(path) in TABLE_SUFFIXES:
        return True
    try:
        return rows.SPECIALTY in input_files.read_text(path).lower()
    except (UserError, OSError):
        return True  # reading it says what is wrong


def print_unread(found: FoundFiles) -> None:
    """Name the files that are not read, and why."""
    for one in found.unread[:MAX_UNREAD_SHOWN]:
        print(f"  not read: {one.path.name} ({one.why})", flush=True)
    if len(found.unread) > MAX_UNREAD_SHOWN:
        print(f"  … and {len(found.unread) - MAX_UNREAD_SHOWN} more that are not read", flush=True)


# --- a folder


def check_specialty_name(name: str, source: str) -> str:
    """`name` in NFC, if it is safe as part of a file's name and of a table; UserError otherwise."""
    name = texts.nfc(name)
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in name):
        raise UserError(f"{source!a}: its name is not UTF-8. Rename the file.")
    if not SPECIALTY_NAME.fullmatch(name) or ".." in name or len(name.encode()) > MAX_NAME_BYTES:
        raise UserError(
            f"{source}: {name[:120]!r} cannot be a specialty's name. Begin with a letter or digit, leave / \\ : * ? \" < > | "
            f"and '..' out, and take at most 100 letters ({MAX_NAME_BYTES} bytes)."
        )
    return name


def _pairs_of(path: Path) -> Iterator[Pair | str]:
    text, kind = input_files.read_text(path), input_files.suffix_of(path)
    return (
        rows.pairs_of_table(text, tabs=kind == ".tsv")
        if kind in TABLE_SUFFIXES
        else rows.pairs_of_json(text, lines=kind != ".json")
    )


def find_fault(question: Any, answer: Any, control_tokens: ControlTokens) -> str | None:
    """What is wrong with a pair; None where nothing is."""
    for name, value in (("question", question), ("answer", answer)):
        if value is None:
            return f'"{name}" is missing'
        if not isinstance(value, str):
            return f'"{name}" is a {type(value).__name__}, not text'
        if texts.is_blank(value):
            return f'"{name}" is empty'
        if token := control_tokens.in_text(value):
            return f'"{name}" holds {token}, a control token of the model\'s tokenizer'
        if not value.isascii() and any(0xD800 <= ord(character) <= 0xDFFF for character in value):
            return f'"{name}" holds half of a surrogate pair'
    return None


def read_folder(
    folder: Path,
    *,
    skip_invalid: bool,
    found: FoundFiles | None = None,
    only: Sequence[str] = (),
    control_tokens: ControlTokens = ControlTokens(),  # noqa: B008  frozen
) -> LoadedRecords:
    """Read and validate every specialty file of `folder`, and keep the specialties of `only`.

    Pairs that are identical within a specialty are dropped and counted. Texts are kept in NFC, with line ends of one kind; white space
    around them is not part of them.

    Args:
        found: as `find_files` gave it.
        control_tokens: those of the tokenizer in use, which no text may hold.

    Raises:
        UserError: names the first twenty faults and how many more there are, unless `skip_invalid` (a file that cannot
            be read at all is always refused: nothing of it would be left).
    """
    only = [texts.nfc(name) for name in only]
    reading = LoadedRecords(files=(find_files(folder) if found is None else found).paths)
    unreadable = []
    with console.Progress("reading", len(reading.files), "files") as progress:
        for path in reading.files:
            try:
                _read_file(path, reading, control_tokens)
            except UserError as error:
                unreadable.append(str(error) if path.name in str(error) else f"{path.name}: {error}.")
            progress.advance()
    if unreadable or (reading.faults and not skip_invalid):
        every = unreadable + reading.faults
        shown = "\n  ".join(every[:MAX_FAULTS_SHOWN])
        more = f"\n  … and {len(every) - MAX_FAULTS_SHOWN} more" if len(every) > MAX_FAULTS_SHOWN else ""
        remedy = "Mend them" + (", or set SKIP_INVALID=True to leave bad records out." if not unreadable else ".")
        raise UserError(f"{folder}: {len(every)} fault{'s' * (len(every) > 1)}. {remedy}\n  {shown}{more}")
    reading.invalid_skipped = len(reading.faults)
    for name in only:
        if name not in reading.records:
            known = sorted(
                {
                    *reading.records,
                    *(specialty_of(path) for path in find_files(folder).paths if input_files.suffix_of(path) in ROW_SUFFIXES),
                }
            )
            hint = did_you_mean(name, known, f"There are {', '.join(known[:6])}{' …' if len(known) > 6 else ''}.")
            raise UserError(f"{folder} holds no specialty {name!r}", where="SPECIALTIES", remedy=hint)
    reading.records = {specialty: reading.records[specialty] for specialty in sorted(only or reading.records)}
    if not any(reading.records.values()):
        raise UserError(f"{folder}: holds no valid record.")
    for specialty, records in reading.records.items():
        if len(records) > 1 and len({record.question for record in records}) == 1:
            reading.notes.append(
                f"{specialty}: all {len(records)} questions are equal ({records[0].question[:60]!r}), so that they count as one and cannot be divided"
            )
    return reading


def _read_file(path: Path, reading: LoadedRecords, control_tokens: ControlTokens) -> None:
    seen: dict[str, set[str]] = {}
    unread: Counter[str] = Counter()
    own_name = specialty_of(path)
    count = 0
    for count, pair in enumerate(_pairs_of(path), start=1):
        fault = pair if isinstance(pair, str) else find_fault(pair.question, pair.answer, control_tokens)
        if fault is None and not isinstance(pair, str) and not isinstance(pair.specialty, str):
            fault = f'"{rows.SPECIALTY}" is a {type(pair.specialty).__name__}, not text'
        if fault is not None or isinstance(pair, str):
            reading.faults.append(f"{path.name}, record {count}: {fault}.")
            continue
        unread.update(pair.unread)
        try:
            specialty = check_specialty_name(pair.specialty.strip() or own_name, path.name)
        except UserError as error:
            if not pair.specialty.strip():
                raise
            reading.faults.append(f"{path.name}, record {count}{str(error).removeprefix(path.name)}")
            continue
        record = make_record(specialty, texts.clean(pair.question), texts.clean(pair.answer))
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
    if unread:
        reading.notes.append(
            f"{path.name}: not read: {', '.join(f'{name!r} of {n} records' for name, n in unread.most_common(input_files.MAX_FIELDS_SHOWN))}"
        )
        if context := sorted(set(unread) & CONTEXT_NAMES):
            reading.notes[-1] += (
                f". If a question cannot be understood without {' and '.join(map(repr, context))}, put that into the question"
            )
        if "system" in unread:
            reading.notes[-1] += ". What the model is told before each question is SYSTEM_MESSAGE"
