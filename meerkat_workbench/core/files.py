"""Files that are complete or absent: atomic writes, JSON lines, hashes, and the cache folder."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from meerkat_workbench.core.errors import UserError


def cache_folder() -> Path:
    """Folder for files that can be made again at any time: MEERKAT_CACHE, or the operating system's cache folder of the user."""
    from platformdirs import user_cache_path

    setting = os.environ.get("MEERKAT_CACHE", "")
    return Path(setting).expanduser() if setting else user_cache_path("meerkat-workbench")


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_open(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that gets its name only when it is complete; after an exception the previous file is unchanged."""
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
            file.write(json_line(value))


def json_line(value: Any) -> str:
    """A JSON value as one line."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """The value in a JSON file that this project wrote; UserError if the file is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError("there is no such file", where=path, remedy="Restore it, or make its folder again.") from None
    except IsADirectoryError:
        raise UserError("is a folder, not a file", where=path, remedy="Name a file.") from None
    except (ValueError, RecursionError) as error:  # ValueError also for a number too long for Python, or bytes that are not UTF-8
        remedy = "Restore it, or remove its folder and run again."
        raise UserError(f"is not valid JSON ({error})", where=path, remedy=remedy) from None


def read_json_lines(path: Path, *, drop_torn_tail: bool = False) -> list[Any]:
    """The values of a JSON-lines file; with `drop_torn_tail`, a last line that a killed process left incomplete is dropped."""
    return [value for _, _, value in json_lines(path, drop_torn_tail=drop_torn_tail)]


def json_lines(path: Path, *, drop_torn_tail: bool = False) -> Iterator[tuple[int, int, Any]]:
    """Start and length in bytes, and the value, of each line of a JSON-lines file. Only one line is held in memory."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed by the `with` below
    except FileNotFoundError:
        return
    with file:
        start, size = 0, os.fstat(file.fileno()).st_size
        # a binary file breaks lines at \n only; texts may contain other Unicode line separators
        for number, line in enumerate(file, start=1):
            try:
                value = json.loads(
                    line.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="replace" if drop_torn_tail else "strict")
                )
            except (ValueError, RecursionError):
                if drop_torn_tail and start + len(line) >= size:
                    return
                remedy = "Restore the file, or run with --fresh."
                raise UserError("is not valid JSON", where=path, item=f"line {number}", remedy=remedy) from None
            yield start, len(line), value
            start += len(line)


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(value: Any) -> str:
    """Hash of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def short_hash(text: str) -> str:
    """The first 128 bits of SHA-256 as 32 hexadecimal digits; the format of record ids."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def sha256_folder(folder: Path, pattern: str = "*") -> str:
    """One hash of the names and contents of the files in a folder, without its subfolders."""
    return sha256_of({path.name: sha256_file(path) for path in sorted(folder.glob(pattern)) if path.is_file()})


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
