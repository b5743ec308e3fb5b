"""Files that others wrote: text, JSON and tables in the forms that people really have.

Text is UTF-8, with or without a byte-order mark, or UTF-16 with one; gzip is unpacked. Line ends are made one kind. Fields of tables are separated by
commas, semicolons, tabs or vertical bars, whichever makes their header hold the columns that are needed: Excel writes semicolons where the comma is
decimal.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from meerkat_workbench.core.errors import UserError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
MAX_FIELDS_SHOWN = 8
EXCEL_SEPARATOR_LINE = re.compile(r'"?sep=.?"?\s*', re.IGNORECASE)  # "sep=;", which Excel writes before the header
MARKDOWN_RULE = re.compile(r":?-{2,}:?|")  # below the header of a Markdown table
GZIP = b"\x1f\x8b"
REMEDIES = {  # of files that hold data in a form that is not read
    **dict.fromkeys([".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".docx", ".doc", ".rtf"], "save it as CSV (UTF-8)"),
    **dict.fromkeys([".numbers", ".sqlite", ".db", ".dta", ".sav", ".sas7bdat", ".rds", ".mdb"], "export it as CSV (UTF-8)"),
    **dict.fromkeys(
        [".parquet", ".arrow", ".feather", ".xml", ".yaml", ".yml", ".pkl", ".pickle", ".npy", ".h5"], "convert it to JSON lines"
    ),
    **dict.fromkeys([".jsonlines", ".jl"], "end its name in .jsonl"),
    **dict.fromkeys([".tab", ".psv", ".txt"], "end its name in .csv, if it is a table"),
    **dict.fromkeys([".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".gz"], "unpack it"),
}


# of files that stand beside data and are none
OTHER_SUFFIXES = frozenset(
    [".md", ".rst", ".py", ".ipynb", ".sh", ".r", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".html", ".css", ".toml", ".cfg", ".ini", ".log", ".lock",
     ".bib", ".tex"]
)  # fmt: skip
README = re.compile(r"(?:readme|license|licence|changelog|copying|citation)(?:\.(?:md|txt|rst|cff))?", re.IGNORECASE)
NOT_DATA = frozenset(["thumbs.db", "desktop.ini", "__macosx"])


def is_not_data(path: Path) -> bool:
    """Whether a file is hidden, a program's, a picture or a text about the data, by its name."""
    name = path.name.lower()
    return (
        name in NOT_DATA or name.startswith((".", "~$")) or path.suffix.lower() in OTHER_SUFFIXES or bool(README.fullmatch(name))
    ) and not name.endswith(".icloud")


def suffix_of(path: Path) -> str:
    """Its ending, without .gz and in lower case: ".json"."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_bytes(path: Path) -> bytes:
    """What a file holds, unpacked."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(GZIP) or path.name.lower().endswith(".gz") else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"is not whole gzip ({error}). Restore the file") from None


def read_text(path: Path) -> str:
    """The text of a file, its line ends of one kind, without a byte-order mark; UserError where it is no text that can be told."""
    content = read_bytes(path)
    try:
        if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # before UTF-16, whose mark it begins with
            text = content.decode("utf-32")
        elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = content.decode("utf-16")
        else:
            text = content.decode("utf-8-sig")
            if text[:100].count("\0") > 10:
                raise UserError("is UTF-16 or UTF-32 without a byte-order mark, or no text. Save it as UTF-8")
    except UnicodeDecodeError as error:
        byte = content[error.start : error.start + 1]
        guess = byte.decode("cp1252", errors="replace")
        raise UserError(f"is not UTF-8 (byte {error.start}, {guess!r} if it is Windows' encoding). Save it as UTF-8") from None
    # more marks, where files were put together; the sign with which DOS ended a file
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "").rstrip("\x1a")


def parse_json(text: str) -> Any:
    """The value; UserError says what is wrong with it."""
    try:
        return json.loads(text, object_pairs_hook=_refuse_repeated_keys)
    except json.JSONDecodeError as error:
        raise UserError(
            f"is not whole JSON ({error.msg}, line {error.lineno} column {error.colno}). Restore or mend the file"
        ) from None
    except RecursionError:
        raise UserError("is nested too deeply to be read") from None
    except ValueError as error:  # Python refuses numbers of more than 4,300 digits
        raise UserError(
            f"holds a number that is too long ({str(error).partition(';')[0]}). Write it as text, in quotes"
        ) from None


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """json's hook: an object in which a key stands twice would lose a pair without a word."""
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise UserError(f"{twice!r} stands twice as a key")
    return value


def json_lines(text: str) -> list[Any]:
    """The value of each line; UserError names the line that has none."""
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(parse_json(line.rstrip().removesuffix(",")))
            except UserError as error:
                raise UserError(f"line {number} {error}") from None
    return rows


def objects_in_lines(text: str) -> list[Any] | None:
    """Rows where each line is an object; None where it is not so."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 2 or not all(line.lstrip().startswith("{") for line in lines):
        return None
    with contextlib.suppress(UserError):
        return json_lines(text)
    return None


def json_value(text: str, *, lines: bool) -> Any:
    """The value of a JSON text, or the list of its lines' values; either form is read under the other's name.

    Args:
        lines: whether its name says that it holds JSON lines.
    """
    if lines and not text.lstrip().startswith("["):
        try:
            return json_lines(text)
        except UserError:
            with contextlib.suppress(UserError):
                return parse_json(text)
            raise
    try:
        return parse_json(text)
    except UserError:
        if (rows := objects_in_lines(text)) is None:
            raise
        return rows


def normalized_field(name: Any) -> str:
    """A field's name as it is compared: capitals, spaces and quotes around it do not count."""
    return str(name).strip().strip('"\ufeff').strip().lower()


def shorten_list(names: Sequence[Any]) -> str:
    """The first few names, and how many there are."""
    more = f", … ({len(names)})" if len(names) > MAX_FIELDS_SHOWN else ""
    return ", ".join(str(name)[:40] for name in names[:MAX_FIELDS_SHOWN]) + more


@dataclass(frozen=True)
class Table:
    """A table's text, how its fields are separated, and its columns by `plain_name`."""

    text: str
    delimiter: str
    columns: list[str]

    @classmethod
    def of(cls, text: str, *, wanted: Sequence[Sequence[str]], needs: str, tabs: bool = False) -> Self:
        """The table with the first delimiter under which its header names what is wanted.

        Args:
            wanted: of each column that is needed, the names that it may have.
            needs: the same in words, for errors.
            tabs: whether tabs are the likeliest.

        Raises:
            UserError: no delimiter does, or a column stands twice.
        """
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        first, _, rest = text.partition("\n")
        if EXCEL_SEPARATOR_LINE.fullmatch(first):
            text = rest
        for delimiter in ("\t", ",", ";", "|") if tabs else (",", ";", "\t", "|"):
            try:
                read = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter != "\t")
                names = next((row for row in read if any(cell.strip() for cell in row)), [])
            except csv.Error:
                continue
            columns = [normalized_field(name) for name in names]
            if all(set(columns) & set(alternatives) for alternatives in wanted):
                if twice := [name for name, count in Counter(filter(None, columns)).items() if count > 1]:
                    raise UserError(f"names the column {twice[0]!r} twice. Give each its own name, or take one out")
                return cls(text, delimiter, columns)
        shown = [name.strip() for name in text.partition("\n")[0].split("\t" if tabs else ",") if name.strip()]
        raise UserError(f"has the columns {shorten_list(shown) or 'none'}; it needs {needs}")

    @property
    def _index(self) -> int:
        """1 where the first column has no name, as pandas writes row numbers, else 0."""
        return int(not self.columns[0])

    def _fitted(self, row: list[str]) -> list[str]:
        """A row without the empty fields that it has more than the header, or with those that the header has more than it."""
        while len(row) > len(self.columns) and not row[-1].strip():
            row = row[:-1]
        while len(row) < len(self.columns) and not self.columns[len(row)] and not any(self.columns[len(row) :]):
            row = [*row, ""]
        return row

    def rows(self) -> Iterator[dict[str, str] | str]:
        """Each row by column, or what is wrong with it; UserError where the table cannot be read on."""
        # a space behind a comma is no part of a text, and must not make its quotes one
        reader = csv.reader(
            io.StringIO(self.text, newline=""), delimiter=self.delimiter, strict=True, skipinitialspace=self.delimiter != "\t"
        )
        try:
            next((row for row in reader if any(cell.strip() for cell in row)), None)
            for row in reader:
                if not any(cell.strip() for cell in row):  # an empty line, or Excel's row of nothing but commas
                    continue
                if self.delimiter == "|" and all(MARKDOWN_RULE.fullmatch(cell.strip()) for cell in row):
                    continue
                row = self._fitted(row)
                if len(row) == len(self.columns):
                    if any(cell.strip() for name, cell in list(zip(self.columns, row, strict=True))[self._index :] if not name):
                        yield f"has a text under a column without a name; name it, or quote texts that hold {DELIMITERS[self.delimiter]}"
                    else:
                        yield dict(zip(self.columns, row, strict=True))
                    continue
                what = f"has {len(row)} field{'s' * (len(row) != 1)} where the header has {len(self.columns)}"
                yield f"{what}; quote texts that hold {DELIMITERS[self.delimiter]}" if len(row) > len(self.columns) else what
        except csv.Error as error:
            raise UserError(f"is not valid CSV (line {reader.line_num}: {error}). Mend the quotes there") from None
