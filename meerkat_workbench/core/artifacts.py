"""Artifacts: typed, versioned records that one program writes and another reads.

An artifact is a frozen `msgspec.Struct`. JSON is checked against its fields when it is read. A field that is missing and has no
default, or one of another type, is a `UserError` that names the file and the field. Fields that this version does not know are
ignored, so that older code reads newer files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from meerkat_workbench.core import files
from meerkat_workbench.core.errors import UserError


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every artifact. `upgrade` brings what earlier versions wrote to the present form."""

    @classmethod
    def upgrade(cls, value: dict[str, Any]) -> dict[str, Any]:
        """`value` as this version would have written it; classes whose form has changed override this."""
        return value


A = TypeVar("A", bound=Artifact)


def to_json(artifact: msgspec.Struct) -> Any:
    """The artifact as JSON values; NaN becomes null, which JSON has instead."""
    return _without_nan(msgspec.to_builtins(artifact))


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    return [_without_nan(one) for one in value] if isinstance(value, list) else value


def from_json(kind: type[A], value: Any, source: Path | str) -> A:
    """An artifact from JSON values.

    Raises:
        UserError: the value is no such artifact; names `source` and the field.
    """
    if not isinstance(value, dict):
        raise UserError(f"holds a {type(value).__name__}, not a {kind.__name__}", where=source, remedy="Restore it.")
    try:
        return msgspec.convert(kind.upgrade(value), kind)
    except (msgspec.ValidationError, KeyError, AttributeError, TypeError) as error:
        fault = f"is not a {kind.__name__} of this workbench ({error})"
        raise UserError(fault, where=source, remedy="Restore it, or remove it and run again.") from None


def write(path: Path, artifact: msgspec.Struct) -> None:
    files.write_json(path, to_json(artifact))


def read(kind: type[A], path: Path) -> A:
    return from_json(kind, files.read_json(path), path)


def write_lines(path: Path, artifacts: Iterable[msgspec.Struct]) -> None:
    """JSON lines, one artifact each."""
    files.write_json_lines(path, map(to_json, artifacts))


def read_lines(kind: type[A], path: Path, *, drop_torn_tail: bool = False) -> list[A]:
    """Artifacts of a JSON-lines file; none where there is no file."""
    return list(_lines(kind, path, drop_torn_tail=drop_torn_tail))


def _lines(kind: type[A], path: Path, *, drop_torn_tail: bool) -> Iterator[A]:
    for number, (_, _, value) in enumerate(files.json_lines(path, drop_torn_tail=drop_torn_tail), start=1):
        yield from_json(kind, value, f"{path}, line {number}")
