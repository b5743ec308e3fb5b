"""The guard of training and evaluation: nothing that is asked may say the same as something that was trained on.

Preparation sets such records aside (`series.py`). This looks again at what really lies in the folders, which may have been changed
since, and at what models learnt in earlier iterations, whose train sets lie in the archive.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import files, manifest
from workbench.data import dataset_folders
from workbench.data.dataset_folders import FIXED
from workbench.data.near_duplicates import FixedIndex, fingerprint
from workbench.data.records import Record
from workbench.errors import UserError

SHOWN = 5
UNKNOWN = "unknown"  # stands for train sets that nobody wrote down
EXPORT = "export.json"


@dataclass(frozen=True)
class Learner:
    """A trained model that is to be asked, or gone on with.

    Args:
        name: for messages, such as the setting that names it.
        trained: what `fine_tuning.py` left beside it, as `training_of` reads it.
        remedy: what to do where it may not be used.
    """

    name: str
    trained: Mapping[str, Any]
    remedy: str


@dataclass(frozen=True)
class TrainSet:
    """A train set that lies in a folder: its hash as the folder's manifest names it, and of the records that are there."""

    folder: Path
    named: str
    holds: str


class FixedQuestions:
    """The records of the fixed sets, to hold training records against.

    Args:
        fixed: records by the name of their set.
        threshold: `NEAR_DUPLICATE_THRESHOLD` of the preparation; 0 finds equal questions and identical answers only.
    """

    def __init__(self, fixed: Mapping[str, Sequence[Record]], threshold: float) -> None:
        self.near = threshold > 0
        with _no_collection():
            self.indexes = {
                name: FixedIndex(records, fingerprint(records, near=self.near), threshold) for name, records in fixed.items()
            }

    @classmethod
    def of(cls, folder: Path) -> FixedQuestions:
        """Those of a prepared folder."""
        made = manifest.require(folder, "dataset_preparation.py")
        fixed = {split: dataset_folders.read_records(folder, split) for split in FIXED}
        return cls(fixed, made["settings"]["NEAR_DUPLICATE_THRESHOLD"])

    def refuse(self, training: Sequence[Record], where: str, remedy: str) -> None:
        """UserError where a training record says the same as one of these, however it is written."""
        with _no_collection():
            prints = fingerprint(training, near=self.near)
            found = [
                (training[row], reason, name, other)
                for name, index in self.indexes.items()
                for row, (reason, other) in index.matches(training, prints).items()
            ]
        if found:
            shown = "".join(
                f"\n  {record.specialty} {record.id[:8]}: {record.question[:80]!r} ({reason} as {other.id[:8]} of the {name} set: "
                f"{other.question[:80]!r})"
                for record, reason, name, other in found[:SHOWN]
            )
            more = f"\n  … and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise UserError(
                f"{where}: {len(found)} training records say the same as one of a fixed set, so scores would lie. {remedy}{shown}{more}"
            )


def refuse_prepared(folder: Path) -> None:
    """UserError where the train set of a prepared folder holds what its fixed sets ask."""
    remedy = "Run python dataset_preparation.py again, which makes changed sets anew."
    FixedQuestions.of(folder).refuse(dataset_folders.read_records(folder, "train"), str(folder), remedy)


def refuse_learnt(folder: Path, learners: Sequence[Learner]) -> None:
    """UserError where a model may have learnt what the fixed sets of a prepared folder ask.

    Each train set of theirs that lies in the folder or its archive is looked into. A model that was trained beside other fixed
    sets, as before a specialty was added, passes only if all of them do lie there.
    """
    if not learners:
        return
    now = manifest.require(folder, "dataset_preparation.py")["splits"]
    lying, questions = train_sets(folder), FixedQuestions.of(folder)
    for learner in learners:
        learnt = set(trained_on(learner.trained))
        beside = learner.trained["inputs"]["splits"]
        if any(beside[split] != now[split] for split in FIXED) and not learnt <= {one.holds for one in lying}:
            raise UserError(
                f"{learner.name}: was trained beside another holdout or eval set, and {folder} with its archive does not hold all that it "
                f"was trained on, so it may have learnt questions of this one. {learner.remedy}"
            )
        for one in lying:
            if learnt & {one.named, one.holds}:
                where = f"{learner.name}: was trained on {one.folder}"
                questions.refuse(dataset_folders.read_records(one.folder, "train"), where, learner.remedy)


def trained_on(trained: Mapping[str, Any]) -> list[str]:
    """Hashes of the train sets that a model has learnt from, those of the models that it went on from too."""
    inputs = trained["inputs"]
    if "trained_on" in inputs:
        return list(inputs["trained_on"])
    before = [UNKNOWN] if trained.get("settings", {}).get("INIT_ADAPTER") else []
    return [*before, inputs["splits"]["train"]]


def training_of(folder: Path) -> dict[str, Any] | None:
    """What `fine_tuning.py` left beside a model, or its export; None where the model is none of ours."""
    for name in (manifest.MANIFEST, EXPORT):
        if (folder / name).is_file():
            found = files.read_json(folder / name)
            if isinstance(found, dict) and "splits" in found.get("inputs", {}):
                return found
    return None


def train_sets(folder: Path) -> list[TrainSet]:
    """The train sets that lie in a prepared folder and in its archive; what cannot be read there does not lie there."""
    found = []
    for path in [folder, *sorted(folder.glob(f"{files.ARCHIVE_NAME}/*"))]:
        try:
            made = manifest.read(path)
            if made and "splits" in made:
                found.append(TrainSet(path, made["splits"]["train"], dataset_folders.hash_of_ids(path, "train")))
        except UserError:
            continue
    return found


@contextmanager
def _no_collection() -> Iterator[None]:
    """Records form no cycles, there may be a million, and each full collection would walk them all."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
