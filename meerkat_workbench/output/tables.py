"""Tables as CSV files that spreadsheets open safely and that read back as they were written.

A `Row` class is the schema of a small table: its fields are the columns, and its `FILE` is the file's name. Large tables are data frames.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec
import pandas as pd

from meerkat_workbench.core import files
from meerkat_workbench.core.errors import UserError

FORMULA = re.compile(r"'*[=+\-@\t\r]")  # text that a spreadsheet runs, also after apostrophes
DIGITS = 6  # significant digits of a number that is written
RESTORE = "Restore it, or remove its folder."


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a table. An unknown number is NaN."""

    FILE: ClassVar[str] = ""


RowType = TypeVar("RowType", bound=Row)


def escape_formula(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would run as a formula (OWASP's rule).

    Text that already has the apostrophe gets another one, so that `unescape_formula` restores the text.
    """
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def unescape_formula(value: Any) -> Any:
    """Undo `escape_formula`."""
    return value[1:] if isinstance(value, str) and value.startswith("'") and FORMULA.match(value) else value


def write_frame(frame: pd.DataFrame, file: Any, *, header: bool = True) -> None:
    """Write a data frame to an open file."""
    guarded = frame.copy()
    for name in guarded.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in guarded.dtypes]]:
        guarded[name] = guarded[name].map(escape_formula)
    for name in guarded.columns[[pd.api.types.is_float_dtype(kind) for kind in guarded.dtypes]]:
        guarded[name] = guarded[name].map(lambda value: float(f"{value:.{DIGITS}g}"))
    # texts are quoted, because a carriage return outside of quotes would end the row; numbers are rounded above, because pandas would
    # quote them too if it formatted them
    guarded.to_csv(file, index=False, header=header, quoting=csv.QUOTE_NONNUMERIC)


def read_frame(path: Path, texts: Collection[str]) -> pd.DataFrame:
    """A table as a data frame.

    Args:
        texts: columns of text. A specialty called "01" or "NA" is then neither a number nor a missing value.

    Raises:
        UserError: the file is missing or broken.
    """
    try:
        names = pd.read_csv(path, nrows=0).columns
        present = [name for name in names if name in texts]
        table = pd.read_csv(path, dtype=dict.fromkeys(present, str), keep_default_na=False, na_values=[""])
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"cannot be read ({error})", where=path, remedy=RESTORE) from None
    if not isinstance(table.index, pd.RangeIndex) or names.duplicated().any():
        raise UserError("has rows with more fields than its header", where=path, remedy=RESTORE)
    for name in present:
        table[name] = table[name].fillna("").map(unescape_formula)
    return table


def to_frame(rows: Iterable[Row], kind: type[Row]) -> pd.DataFrame:
    """Rows as a data frame with the columns of their class."""
    fields = msgspec.structs.fields(kind)
    cells = [[_plain(getattr(row, field.name)) for field in fields] for row in rows]
    return pd.DataFrame(cells, columns=[field.encode_name for field in fields])


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value  # text of an enum becomes plain text


def write_rows(path: Path, rows: Iterable[RowType], kind: type[RowType]) -> None:
    """Write a table. Without rows it still has its header."""
    with files.atomic_open(path) as file:
        write_frame(to_frame(rows, kind), file)


def read_rows(path: Path, kind: type[RowType]) -> list[RowType]:
    """A table's rows.

    Raises:
        UserError: the file is missing or broken, or lacks a column that has no default.
    """
    fields = msgspec.structs.fields(kind)
    texts = [field.encode_name for field in fields if _holds_text(field.type)]
    frame = read_frame(path, texts)
    for field in fields:
        if field.required and field.encode_name not in frame:
            raise UserError("this column is missing", where=path, item=field.encode_name, remedy=RESTORE)
    present = [field for field in fields if field.encode_name in frame]
    columns = [frame[field.encode_name].tolist() for field in present]
    rows = []
    for number, values in enumerate(zip(*columns, strict=True), start=2):
        cells = {field.encode_name: _cell(value, field.type) for field, value in zip(present, values, strict=True)}
        try:
            rows.append(msgspec.convert(cells, kind, strict=False))
        except msgspec.ValidationError as error:
            raise UserError(str(error), where=path, item=f"line {number}", remedy="Restore it.") from None
    return rows


def _holds_text(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, str)


def _cell(value: Any, kind: Any) -> Any:
    if kind is float:
        return math.nan if value is None else float(value)
    return int(value) if kind is int and isinstance(value, float) and value.is_integer() else value


def where(rows: Sequence[RowType], **wanted: Any) -> list[RowType]:
    """The rows whose fields have these values."""
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
