"""Reading files that users provide: text, JSON and tables in the variants that occur in practice.

Text is UTF-8 with or without a byte-order mark, or UTF-16 or UTF-32 with one; gzip is unpacked. All line ends become \\n. Tables are
separated by commas, semicolons, tabs or vertical bars: the first delimiter is used with which the header has the needed columns. (Excel
writes semicolons in countries with a decimal comma.)

The errors raised here are clauses without the file's name, which the caller adds.
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
EXCEL_SEPARATOR_LINE = re.compile(r'"?sep=.?"?\s*', re.IGNORECASE)  # "sep=;", a line for Excel before the header
MARKDOWN_RULE = re.compile(r":?-{2,}:?|")  # a cell of the line below the header of a Markdown table
GZIP_MAGIC = b"\x1f\x8b"
REMEDIES = {  # what to do with data in a format that is not read, by suffix
    **dict.fromkeys([".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".docx", ".doc", ".rtf"], "save it as CSV (UTF-8)"),
    **dict.fromkeys([".numbers", ".sqlite", ".db", ".dta", ".sav", ".sas7bdat", ".rds", ".mdb"], "export it as CSV (UTF-8)"),
    **dict.fromkeys(
        [".parquet", ".arrow", ".feather", ".xml", ".yaml", ".yml", ".pkl", ".pickle", ".npy", ".h5"], "convert it to JSON lines"
    ),
    **dict.fromkeys([".jsonlines", ".jl"], "end its name in .jsonl"),
    **dict.fromkeys([".tab", ".psv", ".txt"], "end its name in .csv, if it is a table"),
    **dict.fromkeys([".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".gz"], "unpack it"),
}
# files without data that are common in a folder of data
OTHER_SUFFIXES = frozenset(
    [".md", ".rst", ".py", ".ipynb", ".sh", ".r", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".html", ".css", ".toml", ".cfg", ".ini", ".log", ".lock",
     ".bib", ".tex"]
)  # fmt: skip
README = re.compile(r"(?:readme|license|licence|changelog|copying|citation)(?:\.(?:md|txt|rst|cff))?", re.IGNORECASE)
NOT_DATA = frozenset(["thumbs.db", "desktop.ini", "__macosx"])


def is_not_data(path: Path) -> bool:
    """Whether a file's name shows that it is hidden, a program, a picture or documentation."""
    name = path.name.lower()
    return (
        name in NOT_DATA or name.startswith((".", "~$")) or path.suffix.lower() in OTHER_SUFFIXES or bool(README.fullmatch(name))
    ) and not name.endswith(".icloud")


def suffix_of(path: Path) -> str:
    """The suffix in lower case, ignoring .gz: ".json"."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzip."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(GZIP_MAGIC) or path.name.lower().endswith(".gz") else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"is not a complete gzip file ({error}); restore it") from None


def read_text(path: Path) -> str:
    """The text of a file with \\n line ends and without a byte-order mark; UserError if its encoding is not known."""
    content = read_bytes(path)
    try:
        if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # tested before UTF-16: its mark begins with UTF-16's
            text = content.decode("utf-32")
        elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = content.decode("utf-16")
        else:
            text = content.decode("utf-8-sig")
            if text[:100].count("\0") > 10:
                raise UserError("is UTF-16 or UTF-32 without a byte-order mark, or no text; save it as UTF-8")
    except UnicodeDecodeError as error:
        byte = content[error.start : error.start + 1]
        guess = byte.decode("cp1252", errors="replace")
        raise UserError(f"is not UTF-8 (byte {error.start}, {guess!r} if it is Windows' encoding); save it as UTF-8") from None
    # concatenated files have a byte-order mark in the middle; \x1a is the end-of-file character of DOS
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "").rstrip("\x1a")


def read_named(path: Path) -> str:
    """The same for a file that a user names: the errors name it, and say if it is not there."""
    if not path.is_file():
        raise UserError("there is no such file", where=path)
    try:
        return read_text(path)
    except UserError as error:
        raise error.within(path) from None


def parse_json(text: str) -> Any:
    """The value of a JSON text; UserError describes what is wrong with the text."""
    try:
        return json.loads(text, object_pairs_hook=_refuse_repeated_keys)
    except json.JSONDecodeError as error:
        raise UserError(
            f"is not valid JSON ({error.msg}, line {error.lineno} column {error.colno}); restore or correct it"
        ) from None
    except RecursionError:
        raise UserError("is nested too deeply to be read") from None
    except ValueError as error:  # Python refuses numbers of more than 4,300 digits
        raise UserError(
            f"holds a number that is too long ({str(error).partition(';')[0]}); write it as text, in quotes"
        ) from None


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Hook for `json.loads`, which would silently drop all but the last pair of a repeated key."""
    value = dict(pairs)
    if len(value) != len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise UserError(f"has the key {repeated!r} twice")
    return value


def json_lines(text: str) -> list[Any]:
    """The value of each line that is not empty; UserError names the first invalid line."""
    return [value for _, value in numbered_json_lines(text)]


def numbered_json_lines(text: str) -> list[tuple[int, Any]]:
    """The same with the number of each line, from 1."""
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append((number, parse_json(line.rstrip().removesuffix(","))))
            except UserError as error:
                raise UserError(error.fault, item=f"line {number}") from None
    return rows


def named_json_lines(path: Path) -> list[tuple[int, Any]]:
    """`numbered_json_lines` of a file that a user names, which the errors name too."""
    text = read_named(path)
    try:
        return numbered_json_lines(text)
    except UserError as error:
        raise error.within(path) from None


def objects_in_lines(text: str) -> list[Any] | None:
    """The objects of a text with one JSON object per line; None for any other text."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 2 or not all(line.lstrip().startswith("{") for line in lines):
        return None
    with contextlib.suppress(UserError):
        return json_lines(text)
    return None


def json_value(text: str, *, lines: bool) -> Any:
    """The value of a JSON text, or the list of values of JSON lines; each form is also read under the other's file name.

    Args:
        lines: whether the file is named as JSON lines.
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
    """A field's name for comparisons: in lower case, without spaces and quotes around it."""
    return str(name).strip().strip('"\ufeff').strip().lower()


def shorten_list(names: Sequence[Any]) -> str:
    """The first names, and the number of names if there are more."""
    more = f", … ({len(names)})" if len(names) > MAX_FIELDS_SHOWN else ""
    return ", ".join(str(name)[:40] for name in names[:MAX_FIELDS_SHOWN]) + more


@dataclass(frozen=True)
class Table:
    """The text of a table, its delimiter, and the names of its columns (see `normalized_field`)."""

    text: str
    delimiter: str
    columns: list[str]

    @classmethod
    def of(cls, text: str, *, wanted: Sequence[Sequence[str]], needs: str, tabs: bool = False) -> Self:
        """The table in a text, with the first delimiter with which the header has every needed column.

        Args:
            wanted: the names that each needed column may have.
            needs: description of the needed columns for error messages.
            tabs: whether to try tabs first.

        Raises:
            UserError: no delimiter gives the needed columns, or two columns have the same name.
        """
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        first, _, rest = text.partition("\n")
        if EXCEL_SEPARATOR_LINE.fullmatch(first):
            text = rest
        for delimiter in ("\t", ",", ";", "|") if tabs else (",", ";", "\t", "|"):
            try:
                reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter != "\t")
                names = next((row for row in reader if any(cell.strip() for cell in row)), [])
            except csv.Error:
                continue
            columns = [normalized_field(name) for name in names]
            if all(set(columns) & set(alternatives) for alternatives in wanted):
                if repeated := [name for name, count in Counter(filter(None, columns)).items() if count > 1]:
                    raise UserError(f"names the column {repeated[0]!r} twice; rename or remove one of them")
                return cls(text, delimiter, columns)
        shown = [name.strip() for name in text.partition("\n")[0].split("\t" if tabs else ",") if name.strip()]
        raise UserError(f"has the columns {shorten_list(shown) or 'none'}; it needs {needs}")

    @property
    def _index_columns(self) -> int:
        """1 if the first column has no name, as in tables from pandas with row numbers, else 0."""
        return int(not self.columns[0])

    def _fit_to_header(self, row: list[str]) -> list[str]:
        """The row without surplus empty fields at its end, or with empty fields for unnamed columns at the header's end."""
        while len(row) > len(self.columns) and not row[-1].strip():
            row = row[:-1]
        while len(row) < len(self.columns) and not self.columns[len(row)] and not any(self.columns[len(row) :]):
            row = [*row, ""]
        return row

    def rows(self) -> Iterator[dict[str, str] | str]:
        """Each row by column name, or a clause that describes what is wrong with it; UserError if the table cannot be read any further."""
        # the space after a comma is not part of the text, and a quote after it must open a quoted field
        reader = csv.reader(
            io.StringIO(self.text, newline=""), delimiter=self.delimiter, strict=True, skipinitialspace=self.delimiter != "\t"
        )
        try:
            next((row for row in reader if any(cell.strip() for cell in row)), None)
            for row in reader:
                if not any(cell.strip() for cell in row):  # an empty line, or a row of commas only, which Excel writes
                    continue
                if self.delimiter == "|" and all(MARKDOWN_RULE.fullmatch(cell.strip()) for cell in row):
                    continue
                row = self._fit_to_header(row)
                if len(row) == len(self.columns):
                    cells = list(zip(self.columns, row, strict=True))[self._index_columns :]
                    if any(cell.strip() for name, cell in cells if not name):
                        yield f"has a text under a column without a name; name it, or quote texts that hold {DELIMITERS[self.delimiter]}"
                    else:
                        yield dict(zip(self.columns, row, strict=True))
                    continue
                fault = f"has {len(row)} field{'s' * (len(row) != 1)} where the header has {len(self.columns)}"
                yield f"{fault}; quote texts that hold {DELIMITERS[self.delimiter]}" if len(row) > len(self.columns) else fault
        except csv.Error as error:
            raise UserError(f"is not valid CSV (line {reader.line_num}: {error}); correct the quotes there") from None
