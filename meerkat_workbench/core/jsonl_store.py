"""Records by key in a JSON-lines file, to which they are appended as they are made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Generic, TypeVar

import msgspec

from meerkat_workbench.core import artifacts, files
from meerkat_workbench.core.errors import UserError

ADOPT_BATCH_SIZE = 1000  # records of another file that are held in memory and written together


class KeyedRecord(artifacts.Artifact, frozen=True, kw_only=True):
    """A record of a store."""

    key: str


R = TypeVar("R", bound=KeyedRecord)


class JsonlIndex(Mapping[str, R]):
    """Records by key. They are read from disk on access, because there may be more than fit into memory."""

    def __init__(self, kind: type[R]) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._lines: dict[str, tuple[int, int, int]] = {}  # number of the file, start and length of the line in bytes
        self._files: list[IO[bytes]] = []

    def open(self, path: Path) -> int:
        """Open a file whose lines will be read; returns its number."""
        self._files.append(open(path, "rb"))  # noqa: SIM115 - stays open as long as its records may be read
        return len(self._files) - 1

    def put(self, key: str, file: int, start: int, length: int) -> None:
        """Set where the record with this key is: number of the file, start and length of its line in bytes."""
        self._lines[key] = (file, start, length)

    def __getitem__(self, key: str) -> R:
        file, start, length = self._lines[key]
        line = os.pread(self._files[file].fileno(), length, start)
        try:
            return self._decoder.decode(line.decode("utf-8", errors="replace"))
        except msgspec.MsgspecError as error:
            where = self._files[file].name
            raise UserError(f"has a line that is not a record ({error})", where=where, item=key, remedy="Restore it.") from None

    def __contains__(self, key: object) -> bool:
        return key in self._lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


class JsonlStore(Generic[R]):
    """A file of records, to which they are appended as they are made. A last line that a kill cut off is dropped.

    Args:
        name: of the file, `predictions` for `predictions.jsonl`.
        kind: the class of a record.
        rank: number of this process among those that share the work. Process 0 writes the main file, and every
            other process writes a part file.
    """

    def __init__(self, folder: Path, name: str, kind: type[R], rank: int = 0) -> None:
        self.name, self.kind, self.main_file = name, kind, folder / f"{name}.jsonl"
        self.path = folder / f"{name}.part{rank}.jsonl" if rank else self.main_file
        self._own_file: int | None = None  # number of the file that is appended to, once it exists
        lines, complete = self._read()
        if self.main_file.exists() and not rank and not (complete and lines == len(self.records)):
            # rewrite it without superseded records, and without a cut-off line, to which the next record would be joined
            artifacts.write_lines(self.main_file, self.records.values())
            self.reload()

    def add(self, records: Sequence[R]) -> None:
        """Append records and flush them to disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            start, lines = file.tell(), []
            for record in records:
                line = files.json_line(artifacts.to_json(record)).encode("utf-8", errors="replace")
                file.write(line)
                lines.append((record.key, start, len(line)))
                start += len(line)
            file.flush()
            os.fsync(file.fileno())
        if self._own_file is None:
            self._own_file = self.records.open(self.path)
        for key, start, length in lines:
            self.records.put(key, self._own_file, start, length)

    def lacks(self, key: str) -> bool:
        """Whether the record is still to be made."""
        return key not in self.records

    def adopt(self, others: Path, keys: set[str]) -> int:
        """Copy the records with these keys that this store lacks from another file; returns their number."""
        count = 0
        batch: list[R] = []
        for number, (_, _, row) in enumerate(files.json_lines(others, drop_torn_tail=True), start=1):
            if row["key"] in keys and self._takes(record := artifacts.from_json(self.kind, row, f"{others}, line {number}")):
                batch.append(record)
            if len(batch) == ADOPT_BATCH_SIZE:
                self.add(batch)
                count, batch = count + len(batch), []
        if batch:
            self.add(batch)
        return count + len(batch)

    def _takes(self, record: R) -> bool:
        return self.lacks(record.key)

    def merge_parts(self, keys: set[str]) -> None:
        """Move the records of part files, from this run or one that was killed, to this store."""
        for part in sorted(self.path.parent.glob(f"{self.name}.part*.jsonl")):
            self.adopt(part, keys)
            part.unlink()

    def reload(self) -> None:
        """Read the main file again."""
        self._read()

    def _read(self) -> tuple[int, bool]:
        """Index the main file. Returns the number of its complete lines, and whether it ends with a complete line."""
        self.records: JsonlIndex[R] = JsonlIndex(self.kind)
        self._own_file = None
        if not self.main_file.exists():
            return 0, True
        file, lines, end = self.records.open(self.main_file), 0, 0
        for start, length, row in files.json_lines(self.main_file, drop_torn_tail=True):
            self.records.put(row["key"], file, start, length)
            lines, end = lines + 1, start + length
        if self.path == self.main_file:
            self._own_file = file
        with open(self.main_file, "rb") as content:
            size = content.seek(0, os.SEEK_END)
            content.seek(max(0, size - 1))
            return lines, end == size and content.read() in (b"\n", b"")
