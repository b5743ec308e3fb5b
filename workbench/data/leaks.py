"""The guard of training and evaluation: nothing that is asked may say the same as something that is trained on.

Preparation sets such records aside (`series.py`). This looks again at what really lies in the folders, which may have been changed since.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench import files, manifest
from workbench.data import dataset_folders
from workbench.data.near_duplicates import FixedIndex, fingerprint
from workbench.data.records import Record
from workbench.errors import UserError

SHOWN = 5
FIXED = ("holdout", "eval")


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


def refuse_sets(folder: Path, sets: Sequence[Path], *, remedy: str) -> None:
    """`refuse` for the train sets in these folders, and the fixed sets of a prepared folder."""
    fixed = {split: dataset_folders.read_records(folder, split) for split in FIXED}
    threshold = manifest.require(folder, "dataset_preparation.py")["settings"]["NEAR_DUPLICATE_THRESHOLD"]
    for path in sets:
        refuse(path, dataset_folders.read_records(path, "train"), fixed, threshold, remedy=remedy)


def refuse_learnt(folder: Path, trained: Sequence[Mapping[str, Any]], *, remedy: str) -> None:
    """`refuse_sets` for what models have learnt, as far as it lies in a prepared folder or its archive.

    Args:
        trained: manifests of `fine_tuning.py`.
    """
    lies = train_sets(folder)
    learnt = dict.fromkeys(train for one in trained for train in trained_on(one) if train in lies)
    refuse_sets(folder, [lies[train] for train in learnt], remedy=remedy)


def can_be_asked(folder: Path, trained: Mapping[str, Any]) -> bool:
    """Whether a trained model was trained beside the fixed sets of a prepared folder, or where what it learnt lies there.

    The second is so for earlier iterations, whatever specialties came and went since; `refuse_learnt` then looks.
    """
    now = manifest.require(folder, "dataset_preparation.py")["splits"]
    same = all(trained["inputs"]["splits"][split] == now[split] for split in FIXED)
    return same or set(trained_on(trained)) <= set(train_sets(folder))


def trained_on(trained: Mapping[str, Any]) -> list[str]:
    """Hashes of the train sets that a model has seen, those of the adapters that it goes on from too."""
    inputs = trained["inputs"]
    return list(inputs.get("trained_on") or [inputs["splits"]["train"]])


def train_sets(folder: Path) -> dict[str, Path]:
    """Where each train set that was prepared in a folder lies, by its hash: there, or in its archive."""
    folders = [*sorted(folder.glob(f"{files.ARCHIVE_NAME}/*")), folder]
    return {done["splits"]["train"]: path for path in folders if (done := manifest.read(path)) and "splits" in done}
