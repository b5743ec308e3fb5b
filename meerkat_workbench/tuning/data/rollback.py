"""Going back to an earlier iteration: a new iteration with exactly the same sets."""

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
    """Restore the sets of iteration `number` of a prepared folder; returns its manifest, and whether anything was changed."""
    with Run(folder, DatasetManifest, kept=iterations.KEPT_IN_PLACE) as run:
        before = DatasetManifest.find(folder)
        after = restore_iteration(run, number, read_ledger(folder))
        return after, before is None or after != before


def restore_iteration(run: Run[DatasetManifest], number: int, ledger: Sequence[IterationRecord]) -> DatasetManifest:
    """Restore the sets of an earlier iteration as a new iteration; returns the new manifest.

    Nothing is lost: the present iteration is archived, and the ledger continues. Records that were added or edited since then count
    as added or edited again in the next iteration. If these sets are already in place, nothing is done.
    """
    wanted = next((record for record in ledger if record.iteration == number), None)
    if wanted is None:
        known = ", ".join(str(record.iteration) for record in ledger) or "none"
        remedy = "Name one of these."
        raise UserError(
            f"there is no such iteration; the ledger has {known}", where=run.folder, item=f"--iteration {number}", remedy=remedy
        )
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
    """The ledger's line for the iteration that restores `wanted`."""
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
    """Folders of splits whose records are not those of the manifest, because they were changed by hand."""
    return [
        dataset_folders.FOLDERS[split]
        for split in Split
        if dataset_folders.hash_of_ids(folder, split) != manifest.splits.of(split)
    ]


def _find_archived(folder: Path, wanted: IterationRecord) -> Path:
    """The archived folder with these sets, if they are complete; else UserError."""
    for path in runs.archived(folder):
        then = DatasetManifest.find(path)
        complete = then is not None and then.iteration == wanted.iteration and then.splits == wanted.hashes
        if then is not None and complete and not edited_splits(path, then) and (path / iterations.ARCHIVED_REGISTER).is_file():
            return path
    raise UserError(
        f"does not have the complete sets of iteration {wanted.iteration}, so they cannot be restored",
        where=folder / runs.ARCHIVE,
        remedy="Restore the archive folder from a backup, or name another iteration.",
    )
