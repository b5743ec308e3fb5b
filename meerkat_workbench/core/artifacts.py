"""Artifacts: typed, versioned records that one program writes and another reads.

An artifact is a frozen `msgspec.Struct`. JSON is checked against its fields when it is read. A field that is missing and has no
default, or one of another type, is a `UserError` that names the file and the field. Fields that this version does not know are
ignored, so that older code reads newer files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from meerkat_workbench.core import files
from meerkat_workbench.core.errors import UserError

JsonObject = dict[str, Any]  # an object as `json.loads` returns it


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """Base class of every artifact. `upgrade` converts what earlier versions wrote to the present form."""

    @classmethod
    def upgrade(cls, value: JsonObject) -> JsonObject:
        """`value` as this version would have written it. Classes whose form has changed override this."""
        return value


A = TypeVar("A", bound=Artifact)


def to_json(artifact: msgspec.Struct) -> Any:
    """The artifact as JSON values. NaN and infinities, which JSON lacks, become null."""
    return _finite_or_null(msgspec.to_builtins(artifact))


def _finite_or_null(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite_or_null(item) for name, item in value.items()}
    return [_finite_or_null(item) for item in value] if isinstance(value, list) else value


def from_json(kind: type[A], value: Any, source: Path | str) -> A:
    """An artifact from JSON values.

    Raises:
        UserError: the value is not such an artifact; names `source` and the field.
    """
    if not isinstance(value, dict):
        raise UserError(f"holds a {type(value).__name__}, not a {kind.__name__}", where=source, remedy="Restore it.")
    try:
        return msgspec.convert(kind.upgrade(value), kind)
    except (msgspec.ValidationError, KeyError, AttributeError, TypeError) as error:
        fault = f"is not a {kind.__name__} of this workbench ({error})"
        raise UserError(fault, where=source, remedy="Restore it, or remove it and run again.") from None


def write(path: Path, artifact: msgspec.Struct) -> None:
    """Write an artifact as a JSON file."""
    files.write_json(path, to_json(artifact))


def read(kind: type[A], path: Path) -> A:
    """Read an artifact from a JSON file; raises what `from_json` raises."""
    return from_json(kind, files.read_json(path), path)


def write_lines(path: Path, artifacts: Iterable[msgspec.Struct]) -> None:
    """Write artifacts as JSON lines."""
    files.write_json_lines(path, map(to_json, artifacts))


def read_lines(kind: type[A], path: Path, *, drop_torn_tail: bool = False) -> list[A]:
    """Artifacts of a JSON-lines file; an empty list if there is no file."""
    return list(_lines(kind, path, drop_torn_tail=drop_torn_tail))


def _lines(kind: type[A], path: Path, *, drop_torn_tail: bool) -> Iterator[A]:
    for number, (_, _, value) in enumerate(files.json_lines(path, drop_torn_tail=drop_torn_tail), start=1):
        yield from_json(kind, value, f"{path}, line {number}")
