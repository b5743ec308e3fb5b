"""Specialties that are called otherwise than before, and the names they had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from meerkat_workbench.tuning.artifacts import IterationRecord, Sizes

T = TypeVar("T")


def rename_keys(values: Mapping[str, T], renamed: Mapping[str, str]) -> dict[str, T]:
    """Values by specialty, under the new names; `renamed` is old name to new."""
    return {renamed.get(name, name): value for name, value in values.items()}


def with_new_names(record: IterationRecord, renamed: Mapping[str, str]) -> IterationRecord:
    """An iteration's record as it reads once specialties are renamed; `renamed` is old name to new."""
    sizes = {name: rename_keys(counts, renamed) for name, counts in msgspec.structs.asdict(record.sizes).items()}
    return msgspec.structs.replace(
        record,
        shares=rename_keys(record.shares, renamed),
        share_base=rename_keys(record.share_base, renamed),
        specialty_adjustments=rename_keys(record.specialty_adjustments, renamed),
        sizes=Sizes(**sizes),
    )


def renamed_since(then: IterationRecord, now: IterationRecord) -> dict[str, str]:
    """How specialties of one iteration are called in a later one, where that is another name."""
    first, called = then.original_names, {original: name for name, original in now.original_names.items()}
    identity = {name: first.get(name, name) for name in then.shares}
    present = {name: called.get(original, original) for name, original in identity.items()}
    return {name: new for name, new in present.items() if new != name}


def current_names(ledger: Sequence[IterationRecord], renamed: Mapping[str, str]) -> dict[str, str]:
    """Every name that a specialty had in a series to the one it has now, where that is another name.

    Args:
        renamed: old name to new, of what was renamed since the ledger's last line.
    """
    found: dict[str, str] = {}
    for record in ledger:
        found |= renamed_since(record, ledger[-1])
    return {name: renamed.get(now, now) for name, now in found.items() if name not in ledger[-1].shares} | dict(renamed)
