"""Going back: the sets of an earlier iteration, exactly, as a new iteration."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from meerkat_workbench.core import artifacts, runs
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import Run
from meerkat_workbench.tuning.artifacts import (
    FIXED,
    DatasetManifest,
    DatasetStatistics,
    IterationRecord,
    SpecialtyChanges,
    Split,
    UpstreamChanges,
    read_ledger,
)
from meerkat_workbench.tuning.data import dataset_folders, iterations, renames


def restore(folder: Path, number: int) -> tuple[DatasetManifest, bool]:
    """Bring the sets of iteration `number` of a prepared folder back; returns its manifest, and whether anything was changed."""
    with Run(folder, DatasetManifest, kept=iterations.KEPT_IN_PLACE) as run:
        before = DatasetManifest.find(folder)
        after = restore_iteration(run, number, read_ledger(folder))
        return after, before is None or after != before


def restore_iteration(run: Run[DatasetManifest], number: int, ledger: Sequence[IterationRecord]) -> DatasetManifest:
    """Bring the sets of an earlier iteration back, as a new iteration; returns the manifest that now lies in the folder.

    Nothing is lost: the present iteration is archived, and the ledger goes on. Records that were added or edited since are so again
    for the iteration that follows. Where these sets are in place already, nothing is done.
    """
    wanted = next((record for record in ledger if record.iteration == number), None)
    if wanted is None:
        known = ", ".join(str(record.iteration) for record in ledger) or "none"
        raise UserError(f"its ledger has no iteration {number}; it has {known}", where=run.folder, item=f"--iteration {number}")
    present = DatasetManifest.find(run.folder)
    in_place = present is not None and number in (present.iteration, present.restored_from)
    if present is not None and in_place and not edited_splits(run.folder, present):
        return present
    source = _find_archived(run.folder, wanted)
    run.claim()
    shutil.copytree(source, run.workspace, ignore=shutil.ignore_patterns(runs.MANIFEST), dirs_exist_ok=True)
    shutil.copyfile(source / iterations.ARCHIVED_REGISTER, run.workspace / iterations.REGISTER)
    record = _new_record(wanted, ledger)
    artifacts.write_lines(run.workspace / IterationRecord.FILE, [*ledger, record])
    path = run.workspace / DatasetStatistics.FILE
    statistics = artifacts.read(DatasetStatistics, path)
    artifacts.write(path, msgspec.structs.replace(statistics, iteration=record.iteration))
    then = DatasetManifest.require(source)
    manifest = msgspec.structs.replace(then, iteration=record.iteration, restored_from=number, finished=runs.now())
    return run.finish(manifest)


def _new_record(wanted: IterationRecord, ledger: Sequence[IterationRecord]) -> IterationRecord:
    """The ledger's line of the iteration that restores `wanted`."""
    last = ledger[-1]
    same = all(last.hashes.of(split) == wanted.hashes.of(split) for split in FIXED)
    return msgspec.structs.replace(
        wanted,
        iteration=len(ledger) + 1,
        made=runs.now(),
        derived_from=last.hashes,
        adjustments={},
        specialty_adjustments=last.specialty_adjustments,
        recommendations_sha256="",
        restored_from=wanted.iteration,
        comparability_break="" if same else f"the fixed sets are those of iteration {wanted.iteration} again",
        changes=UpstreamChanges(fixed_waiting=wanted.changes.fixed_waiting),
        specialties=SpecialtyChanges(renamed=renames.renamed_since(last, wanted), absent=wanted.absent),
    )


def edited_splits(folder: Path, manifest: DatasetManifest) -> list[str]:
    """Folders of splits that no longer hold the records that the manifest names: they were changed by hand."""
    return [
        dataset_folders.FOLDERS[split]
        for split in Split
        if dataset_folders.hash_of_ids(folder, split) != manifest.splits.of(split)
    ]


def _find_archived(folder: Path, wanted: IterationRecord) -> Path:
    """The archived folder that holds these sets complete."""
    for path in runs.archived(folder):
        then = DatasetManifest.find(path)
        complete = then is not None and then.iteration == wanted.iteration and then.splits == wanted.hashes
        if then is not None and complete and not edited_splits(path, then) and (path / iterations.ARCHIVED_REGISTER).is_file():
            return path
    raise UserError(
        f"does not hold the sets of iteration {wanted.iteration} complete, so they cannot be brought back",
        where=folder / runs.ARCHIVE,
    )
