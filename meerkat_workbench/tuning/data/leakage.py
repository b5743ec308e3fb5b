"""The leak check of training and evaluation: no fixed record may be repeated in what a model was trained on.

Preparation sets such records aside (`split_assignment`). This module checks the records that are in the folders, which may have been
changed since, and the train sets of earlier iterations, which are in the archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meerkat_workbench.core import artifacts, files, runs
from meerkat_workbench.core.commands import command_of
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text.leakage import HeldOutIndex, Leak
from meerkat_workbench.tuning.artifacts import FIXED, DatasetManifest, ExportRecord, Split, TrainingResult
from meerkat_workbench.tuning.data import dataset_folders
from meerkat_workbench.tuning.data.records import Record

MAX_LEAKS_SHOWN = 5
TrainingRecord = TrainingResult | ExportRecord  # the record, beside a trained model, of what it was trained on


@dataclass(frozen=True)
class TrainedModel:
    """A trained model that is to be evaluated, or trained further.

    Attributes:
        name: for messages, such as the setting that names it.
        record: what it was trained on, as `read_training_record` reads it; None if unknown.
        remedy: what to do if it must not be used.
    """

    name: str
    record: TrainingRecord | None
    remedy: str


@dataclass(frozen=True)
class TrainSet:
    """The train set of a folder.

    Attributes:
        hash_in_manifest: its hash in the folder's manifest.
        hash_of_records: the hash of the records that are there.
    """

    folder: Path
    hash_in_manifest: str
    hash_of_records: str


def held_out_index(folder: Path) -> HeldOutIndex[Record]:
    """The fixed sets of a prepared folder, for comparison with training records."""
    manifest = DatasetManifest.require(folder)
    fixed = {str(split): dataset_folders.read_records(folder, split) for split in FIXED}
    return HeldOutIndex(fixed, manifest.near_duplicate_threshold)


def raise_on_leaks(leaks: Sequence[Leak[Record]], where: str, remedy: str) -> None:
    """UserError that names the leaks, if there are any."""
    if not leaks:
        return
    shown = "".join(
        f"\n  {leak.training.specialty} {leak.training.id[:8]}: {leak.training.question[:80]!r} ({leak.reason} as "
        f"{leak.held_out.id[:8]} of the {leak.held_out_set} set: {leak.held_out.question[:80]!r})"
        for leak in leaks[:MAX_LEAKS_SHOWN]
    )
    more = f"\n  … and {len(leaks) - MAX_LEAKS_SHOWN} more" if len(leaks) > MAX_LEAKS_SHOWN else ""
    raise UserError(
        f"{len(leaks)} training records repeat a record of a fixed set, so scores would be too high",
        where=where,
        remedy=f"{remedy}{shown}{more}",
    )


def check_train_split(folder: Path, held_out: HeldOutIndex[Record]) -> None:
    """UserError if the train set of a prepared folder repeats its fixed sets."""
    leaks = held_out.leaks_in(dataset_folders.read_records(folder, Split.TRAIN))
    raise_on_leaks(leaks, str(folder), f"Run `{command_of(DatasetManifest.SCRIPT)}` again; it restores sets that were changed.")


def check_trained_models(folder: Path, held_out: HeldOutIndex[Record], models: Sequence[TrainedModel]) -> list[str]:
    """UserError if a model may have been trained on records of the fixed sets of a prepared folder.

    Every train set of these models that is in the folder or its archive is compared with the fixed sets. If a model was trained when
    the fixed sets were others, for example before a specialty was added, all of its train sets must be there.

    Returns:
        What could not be checked, in sentences: train sets that are missing while the fixed sets are the same, which preparation had
        kept apart, and models whose train sets are unknown.
    """
    now = DatasetManifest.require(folder).splits
    present, unreadable = find_train_sets(folder) if any(model.record for model in models) else ([], [])
    note = f" ({', '.join(map(str, unreadable))} cannot be read)" if unreadable else ""
    leaks_by_folder: dict[Path, list[Leak[Record]]] = {}
    notes = []
    for model in models:
        if model.record is None:
            notes.append(
                f"{model.name}: its train sets are unknown, so it may have been trained on the questions of the fixed sets"
            )
            continue
        trained_on, then = set(model.record.inputs.trained_on), model.record.inputs.splits
        if not trained_on <= {train_set.hash_of_records for train_set in present}:
            if any(then.of(split) != now.of(split) for split in FIXED):
                raise UserError(
                    f"was trained with a different holdout or eval split, and not all of its train sets are in {folder} and its "
                    f"archive{note}, so it may have been trained on questions of the present sets",
                    where=model.name,
                    remedy=model.remedy,
                )
            notes.append(
                f"{model.name}: not all of its train sets are in {folder} and its archive{note}, so they were not checked again"
            )
        for train_set in present:
            if trained_on & {train_set.hash_in_manifest, train_set.hash_of_records}:
                if train_set.folder not in leaks_by_folder:
                    records = dataset_folders.read_records(train_set.folder, Split.TRAIN)
                    leaks_by_folder[train_set.folder] = held_out.leaks_in(records)
                raise_on_leaks(
                    leaks_by_folder[train_set.folder], f"{model.name}: was trained on {train_set.folder}", model.remedy
                )
    return notes


def read_training_record(model: str) -> TrainingRecord | None:
    """What `fine_tuning.py` recorded in the folder of a model or its export; None if there is no such record.

    Args:
        model: a folder, or a name on the Hugging Face Hub.
    """
    folder = Path(model)
    if not folder.is_dir():
        path = _download_export_record(model)
    elif (path := folder / runs.MANIFEST).is_file() and runs.manifest_class(files.read_json(path)):
        return TrainingResult.find(folder)
    else:
        path = folder / ExportRecord.FILE
    value = files.read_json(path) if path is not None and path.is_file() else None
    # a model's folder may have files of these names from other tools
    return artifacts.from_json(ExportRecord, value, path) if path is not None and ExportRecord.matches(value) else None


def _download_export_record(name: str) -> Path | None:
    """The record of an export on the Hub; None if there is none, or no network."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        stored = try_to_load_from_cache(name, ExportRecord.FILE)
        return Path(stored if isinstance(stored, str) else hf_hub_download(name, ExportRecord.FILE))
    except Exception:  # no such name or file, no network, a proxy's refusal; the model itself may be on this machine
        return None


def find_train_sets(folder: Path) -> tuple[list[TrainSet], list[Path]]:
    """The train sets in a prepared folder and its archive, and the folders there that cannot be read."""
    train_sets, unreadable = [], []
    archive = runs.ARCHIVE  # a series that was archived whole has an archive of its own
    for path in [folder, *sorted(folder.glob(f"{archive}/*")), *sorted(folder.glob(f"{archive}/*/{archive}/*"))]:
        try:
            manifest = DatasetManifest.find(path)
            if manifest:
                train_sets.append(TrainSet(path, manifest.splits.train, dataset_folders.hash_of_ids(path, Split.TRAIN)))
        except UserError:
            unreadable.append(path)
    return train_sets, unreadable
