"""The leak guard of training and evaluation: nothing that is asked may say the same as something that was trained on.

Preparation sets such records aside (`split_assignment`). This module checks what really lies in the folders, which may have been
changed since, and what models learnt in earlier iterations, whose train sets lie in the archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meerkat_workbench.core import artifacts, files, runs
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text.leakage import HeldOutIndex, Leak
from meerkat_workbench.tuning.artifacts import FIXED, DatasetManifest, ExportRecord, Split, TrainingResult
from meerkat_workbench.tuning.data import dataset_folders
from meerkat_workbench.tuning.data.records import Record

MAX_LEAKS_SHOWN = 5
TrainingRecord = TrainingResult | ExportRecord  # what lies beside a trained model


@dataclass(frozen=True)
class TrainedModel:
    """A trained model that is to be asked, or trained further.

    Args:
        name: for messages, such as the setting that names it.
        record: what lies beside it, as `read_training_record` reads it; None where nothing is known.
        remedy: what to do where it may not be used.
    """

    name: str
    record: TrainingRecord | None
    remedy: str


@dataclass(frozen=True)
class TrainSet:
    """A train set that lies in a folder: its hash as the folder's manifest names it, and of the records that are there."""

    folder: Path
    named: str
    holds: str


def held_out_index(folder: Path) -> HeldOutIndex[Record]:
    """The fixed sets of a prepared folder, to compare training records with."""
    manifest = DatasetManifest.require(folder)
    fixed = {str(split): dataset_folders.read_records(folder, split) for split in FIXED}
    return HeldOutIndex(fixed, manifest.near_duplicate_threshold)


def raise_on_leaks(found: Sequence[Leak[Record]], where: str, remedy: str) -> None:
    """UserError where anything was found."""
    if not found:
        return
    shown = "".join(
        f"\n  {leak.training.specialty} {leak.training.id[:8]}: {leak.training.question[:80]!r} ({leak.reason} as "
        f"{leak.held_out.id[:8]} of the {leak.held_out_set} set: {leak.held_out.question[:80]!r})"
        for leak in found[:MAX_LEAKS_SHOWN]
    )
    more = f"\n  … and {len(found) - MAX_LEAKS_SHOWN} more" if len(found) > MAX_LEAKS_SHOWN else ""
    raise UserError(
        f"{len(found)} training records say the same as one of a fixed set, so scores would be too high",
        where=where,
        remedy=f"{remedy}{shown}{more}",
    )


def check_train_split(folder: Path, held_out: HeldOutIndex[Record]) -> None:
    """UserError where the train set of a prepared folder repeats its fixed sets."""
    found = held_out.leaks_in(dataset_folders.read_records(folder, Split.TRAIN))
    raise_on_leaks(found, str(folder), "Run python dataset_preparation.py again, which makes changed sets anew.")


def check_trained_models(folder: Path, held_out: HeldOutIndex[Record], models: Sequence[TrainedModel]) -> list[str]:
    """UserError where a model may have learnt what the fixed sets of a prepared folder ask.

    Every train set of these models that lies in the folder or its archive is compared with the fixed sets. A model that was trained
    beside other fixed sets, as before a specialty was added, passes only if all of its train sets lie there.

    Returns:
        What could not be checked, in sentences: models that were trained beside these fixed sets, which preparation had kept apart from
        all that they learnt, and models of which nothing is known.
    """
    now = DatasetManifest.require(folder).splits
    present, unreadable = find_train_sets(folder) if any(model.record for model in models) else ([], [])
    note = f" ({', '.join(map(str, unreadable))} cannot be read)" if unreadable else ""
    leaks_by_folder: dict[Path, list[Leak[Record]]] = {}
    notes = []
    for model in models:
        if model.record is None:
            notes.append(f"{model.name}: what it was trained on is not known here; it may have learnt what is asked")
            continue
        learnt, beside = set(model.record.inputs.trained_on), model.record.inputs.splits
        if not learnt <= {train_set.holds for train_set in present}:
            if any(beside.of(split) != now.of(split) for split in FIXED):
                raise UserError(
                    f"was trained beside another holdout or eval set, and {folder} with its archive does not hold all that it was "
                    f"trained on{note}, so it may have learnt questions that are asked here",
                    where=model.name,
                    remedy=model.remedy,
                )
            notes.append(
                f"{model.name}: not all that it was trained on lies in {folder} and its archive{note}, so that was not checked again"
            )
        for train_set in present:
            if learnt & {train_set.named, train_set.holds}:
                if train_set.folder not in leaks_by_folder:
                    records = dataset_folders.read_records(train_set.folder, Split.TRAIN)
                    leaks_by_folder[train_set.folder] = held_out.leaks_in(records)
                raise_on_leaks(
                    leaks_by_folder[train_set.folder], f"{model.name}: was trained on {train_set.folder}", model.remedy
                )
    return notes


def read_training_record(model: str) -> TrainingRecord | None:
    """What `fine_tuning.py` left beside a model or its export; None where nothing did.

    Args:
        model: a folder, or a name on the Hugging Face Hub.
    """
    folder = Path(model)
    if not folder.is_dir():
        path = _download_export_record(model)
    elif _holds_manifest(folder):
        return TrainingResult.find(folder)
    else:
        path = folder / ExportRecord.FILE
    return artifacts.read(ExportRecord, path) if path is not None and path.is_file() else None


def _holds_manifest(folder: Path) -> bool:
    """Whether a folder has a manifest of this workbench; a model may have a file of that name which is another tool's."""
    path = folder / runs.MANIFEST
    value = files.read_json(path) if path.is_file() else None
    return isinstance(value, dict) and "fingerprint" in value


def _download_export_record(name: str) -> Path | None:
    """The record that an export keeps on the Hub; None where there is none, or no network."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        stored = try_to_load_from_cache(name, ExportRecord.FILE)
        return Path(stored if isinstance(stored, str) else hf_hub_download(name, ExportRecord.FILE))
    except (OSError, ValueError):  # no such name or file, no network, a proxy's refusal: the model itself may be stored here
        return None


def find_train_sets(folder: Path) -> tuple[list[TrainSet], list[Path]]:
    """The train sets that lie in a prepared folder and in its archive, and the folders there that cannot be read."""
    found, unreadable = [], []
    archive = runs.ARCHIVE  # a series that was archived whole has an archive of its own
    for path in [folder, *sorted(folder.glob(f"{archive}/*")), *sorted(folder.glob(f"{archive}/*/{archive}/*"))]:
        try:
            manifest = DatasetManifest.find(path)
            if manifest:
                found.append(TrainSet(path, manifest.splits.train, dataset_folders.hash_of_ids(path, Split.TRAIN)))
        except UserError:
            unreadable.append(path)
    return found, unreadable
