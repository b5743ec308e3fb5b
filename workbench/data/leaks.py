"""The guard of training and evaluation: nothing that is asked may say the same as something that is trained on.

Preparation sets such records aside (`series.py`). This looks again at what really lies in the folders, which may have been changed since.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path

from workbench.data.near_duplicates import FixedIndex, fingerprint
from workbench.data.records import Record
from workbench.errors import UserError

SHOWN = 5


def refuse(
    folder: Path, training: Sequence[Record], fixed: Mapping[str, Sequence[Record]], threshold: float, *, remedy: str
) -> None:
    """UserError where a training record says the same as a record of a fixed set, however it is written.

    Args:
        folder: where they stand, for the message.
        fixed: records by the name of their set.
        remedy: what to do.
        threshold: `NEAR_DUPLICATE_THRESHOLD` of the preparation; 0 finds equal questions and identical answers only.
    """
    collecting = gc.isenabled()
    gc.disable()  # records form no cycles, and there may be a million
    try:
        prints = fingerprint(training, near=threshold > 0)
        found = []
        for name, records in fixed.items():
            index = FixedIndex(records, fingerprint(records, near=threshold > 0), threshold)
            found += [(training[row], reason, name, other) for row, (reason, other) in index.matches(training, prints).items()]
    finally:
        if collecting:
            gc.enable()
    if found:
        shown = "".join(
            f"\n  {record.specialty} {record.id[:8]}: {record.question[:80]!r} ({reason} as {other.id[:8]} of the {name} set: "
            f"{other.question[:80]!r})"
            for record, reason, name, other in found[:SHOWN]
        )
        more = f"\n  … and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise UserError(
            f"{folder}: {len(found)} training records say the same as one of a fixed set, so scores would lie. {remedy}{shown}{more}"
        )
