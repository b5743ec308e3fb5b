"""Files that are whole or absent: atomic writes, JSON lines, hashes, and the lock on an output folder."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import regex

from workbench.errors import UserError

LOCK_NAME = ".lock"
ARCHIVE_NAME = "archive"
FORMULA = re.compile(r"'*[=+\-@\t\r]")  # text that a spreadsheet runs, or such text behind apostrophes
# letters of any script with their marks; the joiners stand inside Hindi and Persian words
SPECIALTY_NAME = regex.compile(r"[\p{L}\p{N}_](?:[\p{L}\p{M}\p{N}\p{P} +\u200C\u200D](?<![/\\:*?\"<>|])){0,99}")
LONGEST_NAME = 200  # bytes: file systems allow a file's name 255


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_open(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that takes its name only once it is whole; an exception leaves what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8", newline=None if "b" in mode else "") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_open(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    with atomic_open(path) as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file of ours; UserError with the remedy where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file.") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a file.") from None
    except (ValueError, RecursionError) as error:  # also a number too long for Python, and bytes that are not UTF-8
        raise UserError(f"{path}: is not valid JSON ({error}). Restore it, or remove its folder and run again.") from None


def read_json_lines(path: Path, *, drop_torn_tail: bool = False) -> list[Any]:
    """Values of a JSON-lines file; with `drop_torn_tail` a last line cut off by a kill is left out."""
    return [value for _, _, value in json_lines(path, drop_torn_tail=drop_torn_tail)]


def json_lines(path: Path, *, drop_torn_tail: bool = False) -> Iterator[tuple[int, int, Any]]:
    """Of each line of a JSON-lines file: where it starts, its length in bytes, its value; no more than a line is held."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - what is opened here is closed below
    except FileNotFoundError:
        return
    with file:
        at, size = 0, os.fstat(file.fileno()).st_size
        for number, line in enumerate(file, start=1):  # only a line end ends a line: a text may hold other separators of Unicode
            try:
                value = json.loads(
                    line.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="replace" if drop_torn_tail else "strict")
                )
            except (ValueError, RecursionError):
                if drop_torn_tail and at + len(line) >= size:
                    return
                raise UserError(f"{path}, line {number}: is not valid JSON. Restore the file, or run with --fresh.") from None
            yield at, len(line), value
            at += len(line)


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(value: Any) -> str:
    """Hash of a JSON value, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def short_hash(text: str) -> str:
    """128 bits of SHA-256 as 32 hexadecimal digits: the form of record ids."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def sha256_folder(folder: Path, pattern: str = "*") -> str:
    """One hash over the names and contents of the files in a folder (not of folders below it)."""
    return sha256_of({path.name: sha256_file(path) for path in sorted(folder.glob(pattern)) if path.is_file()})


def check_specialty_name(name: str, source: str) -> str:
    """`name` in NFC, if it is safe as part of a file's name and of a table; UserError otherwise."""
    name = unicodedata.normalize("NFC", name)
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in name):
        raise UserError(f"{source!a}: its name is not UTF-8. Rename the file.")
    if not SPECIALTY_NAME.fullmatch(name) or ".." in name or len(name.encode()) > LONGEST_NAME:
        raise UserError(
            f"{source}: {name[:120]!r} cannot be a specialty's name. Begin with a letter or digit, leave / \\ : * ? \" < > | "
            f"and '..' out, and take at most 100 letters ({LONGEST_NAME} bytes)."
        )
    return name


def csv_cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula, made harmless by a leading apostrophe (OWASP's rule).

    One that has the apostrophe already gets another, so that `from_csv_cell` gives back what was written.
    """
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def from_csv_cell(value: Any) -> Any:
    """What `csv_cell` was given."""
    return value[1:] if isinstance(value, str) and value.startswith("'") and FORMULA.match(value) else value


@contextlib.contextmanager
def output_lock(folder: Path) -> Iterator[None]:
    """Own an output folder; UserError names the process that owns it already."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f"{LOCK_NAME}.pid"
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        pid = holder.read_text().strip() if holder.exists() else "unknown"
        raise UserError(
            f"{folder}: another run (process {pid}) is writing here. Wait for it, stop it, or name another OUTPUT_DIR."
        ) from None
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def own_entries(folder: Path) -> list[Path]:
    """What a run left in an output folder: all but the archive, the lock, the committed README, folders that are
    empty, and folders that are outputs themselves, such as results/demo in results.

    (TRL's trainer makes its empty checkpoint folder when it is built, before anything is claimed.)
    """
    keep = {ARCHIVE_NAME, LOCK_NAME, f"{LOCK_NAME}.pid", "README.md"}
    if not folder.is_dir():
        return []
    entries = sorted(path for path in folder.iterdir() if path.name not in keep)
    return [path for path in entries if not path.is_dir() or (any(path.iterdir()) and not (path / LOCK_NAME).exists())]


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
