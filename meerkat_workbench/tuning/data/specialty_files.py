"""Reading specialty files into records. All faults are reported at once, and so is everything that is not read.

The formats are JSON (`dataset_with_answers_{specialty}.json`), JSON lines (`.jsonl`, `.ndjson`) and tables (`.csv`, `.tsv`, with any
name), each with or without gzip compression (`.gz`). See `rows` for the form of their rows.
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
# letters of any script with their combining marks; Hindi and Persian words contain zero-width joiners
SPECIALTY_NAME = regex.compile(r"[\p{L}\p{N}_](?:[\p{L}\p{M}\p{N}\p{P} +\u200C\u200D](?<![/\\:*?\"<>|])){0,99}")
MAX_NAME_BYTES = 200  # file systems allow 255 bytes for a file's name
MAX_UNREAD_SHOWN = 40
MAX_FAULTS_SHOWN = 20
CONTEXT_NAMES = {
    "input",
    "context",
    "contexts",
    "passage",
    "options",
    "history",
}  # a question may mean something else without these fields
ROW_SUFFIXES, TABLE_SUFFIXES = (".json", ".jsonl", ".ndjson"), (".csv", ".tsv")


@dataclass(frozen=True)
class UnreadFile:
    """A file that looks like data but is not read."""

    path: Path
    why: str  # the reason, and what to do

    def may_be_of(self, specialty: str) -> bool:
        """Whether the file's name contains the specialty's name, with any separators between the words."""
        own, wanted = (" ".join(texts.tokens(name)) for name in (self.path.name.removesuffix(".icloud"), specialty))
        return f" {wanted} " in f" {own} "


@dataclass
class FoundFiles:
    """The data files in a folder: those that are read, sorted, and those that are not."""

    paths: list[Path]
    unread: list[UnreadFile]


@dataclass
class LoadedRecords:
    """The content of the files, and what to report about it.

    Attributes:
        records: records by specialty; the specialties are in alphabetical order.
        faults: what is wrong, one entry per invalid record or empty file.
        notes: remarks for the user, for instance on fields that were not read.
    """

    records: dict[str, list[Record]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    identical_dropped: int = 0
    invalid_skipped: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check_no_specialty_lost(self, known: set[str], found: FoundFiles) -> None:
        """UserError if a specialty of earlier iterations has no records now, but an unread file may hold them.

        Args:
            known: the specialties of earlier iterations that are still wanted.
        """
        for name in sorted(known - set(self.records)):
            for unread in found.unread:
                if unread.may_be_of(name):
                    raise UserError(
                        f"{name} has records in earlier iterations, and this file, which may belong to it, is not read ({unread.why})",
                        where=unread.path.name,
                        remedy=f"Do that, or remove the file if {name} is to be dropped.",
                    )


# --- finding the files


def find_files(folder: Path, only: Sequence[str] = ()) -> FoundFiles:
    """The specialty files of a folder; UserError if there are none.

    Args:
        only: the wanted specialties, by default all. Files whose rows may name a specialty are always included.
    """
    where = f"DATA_DIR={folder}"
    if not folder.is_dir():
        fault = "is a file" if folder.exists() else "there is no such folder"
        raise UserError(fault, where=where, remedy=f"It must be a folder of {PREFIX}{{specialty}}.json files.")
    only = [texts.nfc(name) for name in only]
    found = FoundFiles([], [])
    for path in sorted(folder.iterdir()):
        why = _reason_unread(path)
        if why is None:
            found.paths.append(path)
        elif why:
            found.unread.append(UnreadFile(path, why))
    if not found.paths:
        listed = "".join(f"\n  {unread.path.name}: {unread.why}" for unread in found.unread[:MAX_FAULTS_SHOWN])
        raise UserError(
            "holds no specialty file",
            where=where,
            remedy=f"Specialty files are named {PREFIX}{{specialty}}.json (or .jsonl), or are CSV files with the columns question and "
            f"answer, and specialty if a file holds several.{listed}",
        )
    found.paths = [path for path in found.paths if not only or specialty_of(path) in only or _may_name_specialties(path)]
    return found


def _reason_unread(path: Path) -> str | None:
    """None for a file that is read; the reason and the remedy for one that looks like data but is not read; empty for any other file."""
    name, kind = path.name.lower(), input_files.suffix_of(path)
    known = kind in ROW_SUFFIXES or kind in TABLE_SUFFIXES
    if name.startswith("._"):  # checked by name, before the file is opened
        return "is a macOS metadata file without data; remove it" if known else ""
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
        count = sum(input_files.suffix_of(file) in kinds for file in path.rglob("*") if not file.name.startswith((".", "~$")))
        return f"is a folder with {count} data file{'s' * (count > 1)}; put them here, or name it as DATA_DIR" if count else ""
    if not path.is_file():
        return "is not a regular file (a pipe or a device)"
    if kind in TABLE_SUFFIXES or (kind in ROW_SUFFIXES and name.startswith(PREFIX)):
        return None
    if kind in ROW_SUFFIXES:
        return f"name it {PREFIX}{path.name} if it belongs to a specialty"
    if not name.startswith(PREFIX) and input_files.is_not_data(path):
        return ""
    return input_files.REMEDIES.get(
        path.suffix.lower(), f"save it as {PREFIX}{{specialty}}.json, .jsonl, .csv or .tsv if it belongs to a specialty"
    )


def specialty_of(path: Path) -> str:
    """The specialty that a file's name gives."""
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
        return True  # `read_folder` will report what is wrong


def print_unread(found: FoundFiles) -> None:
    """Print the files that are not read, and why."""
    for unread in found.unread[:MAX_UNREAD_SHOWN]:
        print(f"  not read: {unread.path.name} ({unread.why})", flush=True)
    if len(found.unread) > MAX_UNREAD_SHOWN:
        print(f"  … and {len(found.unread) - MAX_UNREAD_SHOWN} more that are not read", flush=True)


# --- reading a folder


def check_specialty_name(name: str, source: str) -> str:
    """`name` in NFC; UserError if it is not safe as part of a file's name or of a table.

    Args:
        source: the file that the name comes from, for error messages.
    """
    name = texts.nfc(name)
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in name):
        raise UserError("its name is not UTF-8", where=f"{source!a}", remedy="Rename the file.")
    if not SPECIALTY_NAME.fullmatch(name) or ".." in name or len(name.encode()) > MAX_NAME_BYTES:
        raise UserError(
            "cannot be a specialty's name",
            where=source,
            item=repr(name[:120]),
            remedy="It must begin with a letter or digit, must not contain / \\ : * ? \" < > | or '..', and may have at most 100 letters "
            f"({MAX_NAME_BYTES} bytes).",
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
    """What is wrong with a pair, or None."""
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
    """Read and validate every specialty file of `folder`, and keep the specialties of `only` (by default all).

    Repeated pairs within a specialty are dropped and counted. Texts are stored in NFC with \\n line ends and without white space at their
    ends.

    Args:
        found: the result of `find_files`, which is called if this is None.
        control_tokens: the control tokens of the tokenizer in use, which no text may contain.

    Raises:
        UserError: lists the first twenty faults and the number of the others. With `skip_invalid`, invalid records are no error, but a
            file that cannot be read at all still is.
    """
    only = [texts.nfc(name) for name in only]
    loaded = LoadedRecords(files=(find_files(folder) if found is None else found).paths)
    unreadable: list[str] = []
    with console.Progress("reading", len(loaded.files), "files") as progress:
        for path in loaded.files:
            try:
                _read_file(path, loaded, control_tokens)
            except UserError as error:
                unreadable.append(str(error) if error.where else f"{path.name}: {error}.")
            progress.advance()
    if unreadable or (loaded.faults and not skip_invalid):
        faults = unreadable + loaded.faults
        shown = "\n  ".join(faults[:MAX_FAULTS_SHOWN])
        more = f"\n  … and {len(faults) - MAX_FAULTS_SHOWN} more" if len(faults) > MAX_FAULTS_SHOWN else ""
        skip = "" if unreadable else ", or set SKIP_INVALID=True to leave bad records out"
        remedy = f"Correct {'them' if len(faults) > 1 else 'it'}{skip}."
        raise UserError(f"{len(faults)} fault{'s' * (len(faults) > 1)}", where=folder, remedy=f"{remedy}\n  {shown}{more}")
    loaded.invalid_skipped = len(loaded.faults)
    for name in only:
        if name not in loaded.records:
            known = sorted(
                {
                    *loaded.records,
                    *(specialty_of(path) for path in find_files(folder).paths if input_files.suffix_of(path) in ROW_SUFFIXES),
                }
            )
            known_names = f"There are {', '.join(known[:6])}{' …' if len(known) > 6 else ''}."
            remedy = did_you_mean(name, known, known_names)
            raise UserError(f"is no specialty of {folder}", where="SPECIALTIES", item=name, remedy=remedy)
    loaded.records = {specialty: loaded.records[specialty] for specialty in sorted(only or loaded.records)}
    if not any(loaded.records.values()):
        raise UserError("holds no valid record", where=folder)
    for specialty, records in loaded.records.items():
        if len(records) > 1 and len({record.question for record in records}) == 1:
            loaded.notes.append(
                f"{specialty}: all {len(records)} questions are equal ({records[0].question[:60]!r}), so they count as one and cannot be divided"
            )
    return loaded


def _read_file(path: Path, loaded: LoadedRecords, control_tokens: ControlTokens) -> None:
    """Add the records of a file to `loaded`, together with its faults and notes."""
    ids_by_specialty: dict[str, set[str]] = {}
    unread: Counter[str] = Counter()
    specialty_of_file = specialty_of(path)
    count = 0
    for count, pair in enumerate(_pairs_of(path), start=1):
        where = f"{path.name}, record {count}"
        fault = pair if isinstance(pair, str) else find_fault(pair.question, pair.answer, control_tokens)
        if fault is None and not isinstance(pair, str) and not isinstance(pair.specialty, str):
            fault = f'"{rows.SPECIALTY}" is a {type(pair.specialty).__name__}, not text'
        if fault is not None or isinstance(pair, str):
            loaded.faults.append(f"{where}: {fault}.")
            continue
        unread.update(pair.unread)
        try:
            specialty = check_specialty_name(pair.specialty.strip() or specialty_of_file, path.name)
        except UserError as error:
            if not pair.specialty.strip():
                raise
            loaded.faults.append(str(UserError(error.fault, where=where, item=error.item, remedy=error.remedy)))
            continue
        record = make_record(specialty, texts.clean(pair.question), texts.clean(pair.answer))
        records = loaded.records.setdefault(specialty, [])
        if specialty not in ids_by_specialty:
            ids_by_specialty[specialty] = {other.id for other in records}
        ids = ids_by_specialty[specialty]
        if record.id in ids:
            loaded.identical_dropped += 1
            continue
        ids.add(record.id)
        records.append(record)
    if count == 0:
        loaded.faults.append(f"{path.name}: holds no record.")
    if unread:
        loaded.notes.append(_note_on_unread_fields(path, unread))


def _note_on_unread_fields(path: Path, unread: Counter[str]) -> str:
    most_common = unread.most_common(input_files.MAX_FIELDS_SHOWN)
    note = f"{path.name}: not read: {', '.join(f'{name!r} of {count} records' for name, count in most_common)}"
    if context := sorted(set(unread) & CONTEXT_NAMES):
        names = " and ".join(map(repr, context))
        note += f". If a question cannot be understood without {names}, put that into the question"
    if "system" in unread:
        note += ". The system message of every question is the setting SYSTEM_MESSAGE"
    return note
