"""The guard of training and evaluation: nothing that is asked may say the same as something that was trained on.

Preparation sets such records aside (`assignment.py`). This looks again at what really lies in the folders, which may have been changed
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
        trained: what `fine_tuning.py` left beside it, as `training_of` reads it; None where nothing is known.
        remedy: what to do where it may not be used.
    """

    name: str
    trained: Mapping[str, Any] | None
    remedy: str


@dataclass(frozen=True)
class TrainSet:
    """A train set that lies in a folder: its hash as the folder's manifest names it, and of the records that are there."""

    folder: Path
    named: str
    holds: str


@dataclass(frozen=True)
class Repetition:
    """A training record, and the record of a fixed set that says the same."""

    record: Record
    reason: str
    split: str
    fixed: Record


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

    def repeated_in(self, training: Sequence[Record]) -> list[Repetition]:
        """The training records that say the same as one of these, however they are written."""
        with _no_collection():
            prints = fingerprint(training, near=self.near)
            return [
                Repetition(training[row], reason, name, other)
                for name, index in self.indexes.items()
                for row, (reason, other) in index.matches(training, prints).items()
            ]


def refuse(found: Sequence[Repetition], where: str, remedy: str) -> None:
    """UserError where anything was found."""
    if found:
        shown = "".join(
            f"\n  {one.record.specialty} {one.record.id[:8]}: {one.record.question[:80]!r} ({one.reason} as {one.fixed.id[:8]} of the "
            f"{one.split} set: {one.fixed.question[:80]!r})"
            for one in found[:SHOWN]
        )
        more = f"\n  … and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise UserError(
            f"{where}: {len(found)} training records say the same as one of a fixed set, so scores would lie. {remedy}{shown}{more}"
        )


def refuse_prepared(folder: Path, questions: FixedQuestions) -> None:
    """UserError where the train set of a prepared folder holds what its fixed sets ask."""
    found = questions.repeated_in(dataset_folders.read_records(folder, "train"))
    refuse(found, str(folder), "Run python dataset_preparation.py again, which makes changed sets anew.")


def refuse_learnt(folder: Path, questions: FixedQuestions, learners: Sequence[Learner]) -> list[str]:
    """UserError where a model may have learnt what the fixed sets of a prepared folder ask.

    Each train set of theirs that lies in the folder or its archive is looked into. A model that was trained beside other fixed
    sets, as before a specialty was added, passes only if all of them do lie there.

    Returns what could not be looked into, in sentences: of models that were trained beside these fixed sets, which preparation
    had kept apart from all that they learnt, and of models of which nothing is known.
    """
    now = manifest.require(folder, "dataset_preparation.py")["splits"]
    lying, unreadable = train_sets(folder) if any(learner.trained for learner in learners) else ([], [])
    beyond = f" ({', '.join(map(str, unreadable))} cannot be read)" if unreadable else ""
    looked_into: dict[Path, list[Repetition]] = {}
    notes = []
    for learner in learners:
        if learner.trained is None:
            notes.append(f"{learner.name}: what it was trained on is not known here; it may have learnt what is asked")
            continue
        learnt = set(trained_on(learner.trained))
        beside = learner.trained["inputs"]["splits"]
        if not learnt <= {train_set.holds for train_set in lying}:
            if any(beside[split] != now[split] for split in FIXED):
                raise UserError(
                    f"{learner.name}: was trained beside another holdout or eval set, and {folder} with its archive does not hold all that it "
                    f"was trained on{beyond}, so it may have learnt questions that are asked here. {learner.remedy}"
                )
            notes.append(
                f"{learner.name}: not all that it was trained on lies in {folder} and its archive{beyond}, so that was not looked into again"
            )
        for train_set in lying:
            if learnt & {train_set.named, train_set.holds}:
                if train_set.folder not in looked_into:
                    records = dataset_folders.read_records(train_set.folder, "train")
                    looked_into[train_set.folder] = questions.repeated_in(records)
                refuse(looked_into[train_set.folder], f"{learner.name}: was trained on {train_set.folder}", learner.remedy)
    return notes


def trained_on(trained: Mapping[str, Any]) -> list[str]:
    """Hashes of the train sets that a model has learnt from, those of the models that it went on from too."""
    inputs = trained["inputs"]
    if "trained_on" in inputs:
        return list(inputs["trained_on"])
    before = [UNKNOWN] if trained.get("settings", {}).get("INIT_ADAPTER") else []
    return [*before, inputs["splits"]["train"]]


def training_of(model: str) -> dict[str, Any] | None:
    """What `fine_tuning.py` left beside a model, or its export; None where nothing did.

    Args:
        model: a folder, or a name on the Hugging Face Hub.
    """
    folder = Path(model)
    found = _of_hub(model) if not folder.is_dir() else None
    for path in [found] if found else [folder / manifest.MANIFEST, folder / EXPORT]:
        if path.is_file():
            trained = files.read_json(path)
            inputs = trained.get("inputs") if isinstance(trained, dict) else None
            splits = inputs.get("splits") if isinstance(inputs, dict) else None
            if isinstance(splits, dict) and {*FIXED, "train"} <= set(splits):
                return dict(trained)
    return None


def _of_hub(name: str) -> Path | None:
    """The file that an export keeps on the Hub, as `--push` brought it there; None where there is none, or no network."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        stored = try_to_load_from_cache(name, EXPORT)
        return Path(stored if isinstance(stored, str) else hf_hub_download(name, EXPORT))
    except Exception:  # no such name or file, no network, a proxy's refusal: the model itself may be stored here all the same
        return None


def train_sets(folder: Path) -> tuple[list[TrainSet], list[Path]]:
    """The train sets that lie in a prepared folder and in its archive, and the folders there that cannot be read."""
    found, unreadable = [], []
    archive = files.ARCHIVE_NAME  # one that was set aside whole has its own
    for path in [folder, *sorted(folder.glob(f"{archive}/*")), *sorted(folder.glob(f"{archive}/*/{archive}/*"))]:
        try:
            made = manifest.read(path)
            if made and "splits" in made:
                found.append(TrainSet(path, made["splits"]["train"], dataset_folders.hash_of_ids(path, "train")))
        except UserError:
            unreadable.append(path)
    return found, unreadable


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
