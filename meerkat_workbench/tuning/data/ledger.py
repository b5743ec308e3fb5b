"""Reading the ledger of a prepared folder."""

from __future__ import annotations

from pathlib import Path

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.artifacts import IterationRecord, read_ledger


def require_ledger(folder: Path) -> list[IterationRecord]:
    """The iterations of a prepared folder, oldest first; UserError if there are none."""
    if not (iterations := read_ledger(folder)):
        raise UserError(
            "is missing or empty", where=folder / IterationRecord.FILE, remedy="Restore it, or prepare the data again."
        )
    return iterations


def find_iteration(folder: Path, number: int) -> IterationRecord:
    """The iteration on which an adapter was trained; UserError if the ledger does not have it."""
    iteration = next((record for record in require_ledger(folder) if record.iteration == number), None)
    if iteration is None:
        remedy = "Name the folder that it was trained on, or train again."
        raise UserError(f"its ledger has no iteration {number}, on which the adapter was trained", where=folder, remedy=remedy)
    return iteration
