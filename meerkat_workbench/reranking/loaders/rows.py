"""Lines and rows of the files that hold judged queries. Errors name the file, the line and what is wrong with it."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from meerkat_workbench.core import input_files
from meerkat_workbench.core.errors import UserError, one_line
from meerkat_workbench.text import texts

MAX_LABEL = 1000


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with text and their numbers, from 1, read one by one."""
    opened: Any = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise UserError(f"cannot be read ({one_line(error)})", where=path, remedy="Save it as UTF-8.") from None


def two_columns(path: Path) -> Iterator[tuple[str, str]]:
    """Id and text of each line."""
    for number, line in lines(path):
        name, tab, text = line.partition("\t")
        if not tab or texts.is_blank(text):
            raise UserError("is not an id, a tab and a text", where=f"{path.name}, line {number}")
        yield name, texts.clean(text)


def rows_of(path: Path, wanted: Sequence[Sequence[str]], needs: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of JSON lines, JSON or a table, with where each stands."""
    try:
        text = input_files.read_text(path)
        if input_files.suffix_of(path) in (".jsonl", ".ndjson", ".json"):
            found = input_files.json_value(text, lines=input_files.suffix_of(path) != ".json")
            rows: Iterable[Any] = [{input_files.normalized_field(name): value for name, value in row.items()} if isinstance(row, dict) else "is not an object"
                                   for row in (found if isinstance(found, list) else [found])]  # fmt: skip
        else:
            rows = input_files.Table.of(text, wanted=wanted, needs=needs, tabs=input_files.suffix_of(path) == ".tsv").rows()
        for number, row in enumerate(rows, start=1):
            where = f"{path.name}, row {number}"
            if isinstance(row, str):
                raise UserError(row, where=where)
            yield where, row
    except UserError as error:
        raise error if error.where else error.within(path) from None


def first(row: dict[str, Any], names: Sequence[str], where: str, needs: str) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise UserError(f"has no {names[0]}; it needs {needs}", where=where)


def label(value: Any, where: str, *, most: int = MAX_LABEL) -> int:
    """A label as a whole number from 0 to `most`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number <= most or number != int(number):
        raise UserError(
            f"has the label {value!r}; a label is a whole number from 0 to {most}", where=where, remedy="0 means not relevant."
        )
    return int(number)
