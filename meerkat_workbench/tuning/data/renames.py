"""Renamed specialties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from meerkat_workbench.tuning.artifacts import IterationRecord, Sizes

T = TypeVar("T")


def rename_keys(values: Mapping[str, T], renamed: Mapping[str, str]) -> dict[str, T]:
    """Values by specialty, under the new names. `renamed` maps old names to new ones."""
    return {renamed.get(name, name): value for name, value in values.items()}


def with_new_names(record: IterationRecord, renamed: Mapping[str, str]) -> IterationRecord:
    """An iteration's record under the new names. `renamed` maps old names to new ones."""
    sizes = {name: rename_keys(counts, renamed) for name, counts in msgspec.structs.asdict(record.sizes).items()}
    return msgspec.structs.replace(
        record,
        shares=rename_keys(record.shares, renamed),
        share_base=rename_keys(record.share_base, renamed),
        specialty_adjustments=rename_keys(record.specialty_adjustments, renamed),
        sizes=Sizes(**sizes),
    )


def renamed_since(then: IterationRecord, now: IterationRecord) -> dict[str, str]:
    """Names of the specialties of iteration `then` that are different in iteration `now`: old name to new name."""
    name_now = {original: name for name, original in now.original_names.items()}
    originals = {name: then.original_names.get(name, name) for name in then.shares}
    present = {name: name_now.get(original, original) for name, original in originals.items()}
    return {name: new for name, new in present.items() if new != name}


def current_names(ledger: Sequence[IterationRecord], renamed: Mapping[str, str]) -> dict[str, str]:
    """Every former name of a specialty in a series, mapped to its present name.

    Args:
        renamed: old name to new name of specialties renamed since the ledger's last line.
    """
    last_names: dict[str, str] = {}
    for record in ledger:
        last_names |= renamed_since(record, ledger[-1])
    return {name: renamed.get(last, last) for name, last in last_names.items() if name not in ledger[-1].shares} | dict(renamed)
