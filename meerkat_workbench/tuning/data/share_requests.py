"""Requested shares: those given now, those in the script, and recommended ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meerkat_workbench.core import files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.artifacts import IterationRecord, read_recommendations
from meerkat_workbench.tuning.data import iterations, renames
from meerkat_workbench.tuning.data.record_index import RecordIndex


@dataclass(frozen=True)
class IterationRequest:
    """The request for an iteration, for the ledger.

    Attributes:
        settings: the settings on which the fixed sets depend.
        adjustments: the shares that were changed for this iteration.
        written: the shares in the script, applied now or before.
        recommendations_sha256: hash of the file whose shares were taken; empty for none.
        template_sha256: hash of the chat format's rendering of a probe.
    """

    settings: Mapping[str, Any]
    adjustments: Mapping[str, float]
    written: Mapping[str, float]
    recommendations_sha256: str
    template_sha256: str


class ShareRequests:
    """Requested shares, under the present names of the specialties.

    Args:
        adjustments: the shares that are given now.
        in_script: the shares set in the script, which are the same in each run; None if there are none. Once applied, such a share
            does not override a later recommendation or rollback.

    Attributes:
        written: the shares in the script, for the ledger.
        superseded: present shares of those specialties in `written` whose share was changed after it was applied.
        adjustments: the shares to change.
    """

    def __init__(self, adjustments: Mapping[str, float], in_script: Mapping[str, float] | None) -> None:
        self._adjustments, self._in_script = adjustments, in_script
        self.written: dict[str, float] = {}
        self.superseded: dict[str, float] = {}
        self.adjustments: dict[str, float] = {}

    def shares(self, ledger: Sequence[IterationRecord], renamed: Mapping[str, str]) -> dict[str, float]:
        """The requested shares: those of the previous iteration, with the adjustments.

        Args:
            renamed: old name to new name of specialties renamed since the previous iteration.
        """
        last = renames.with_new_names(ledger[-1], renamed) if ledger else None
        self.adjustments = self._resolve(last, renames.current_names(ledger, renamed))
        return (last.shares if last else {}) | self.adjustments

    def print_superseded(self) -> None:
        """Print which shares of the script are not applied, and why."""
        for name, share in self.superseded.items():
            print(
                f"  {name}: the share {self.written[name]:g} in specialty_adjustments was applied in an earlier iteration. The share "
                f"{share:g}, which was chosen later, is kept. Write another number there to change it.",
                flush=True,
            )

    def check(self, index: RecordIndex, last: IterationRecord | None, first_shares: Mapping[str, float]) -> None:
        """UserError if a specialty is unknown or a share is not between 0 and 1."""
        known = sorted(index.specialties | set(last.shares if last else {}) | set(index.original_names.values()))
        iterations.check_shares(self.adjustments, known, "specialty_adjustments")
        iterations.check_shares(first_shares, known, "SPECIALTY_SAMPLE_PERCENTAGES")

    def for_ledger(self, settings: Mapping[str, Any], recommendations: Path | None, probe: str) -> IterationRequest:
        """The request for the ledger.

        Args:
            settings: the settings on which the fixed sets depend.
            recommendations: the file whose shares were taken.
            probe: the chat format's rendering of a probe.
        """
        digest = files.sha256_file(recommendations) if recommendations else ""
        return IterationRequest(settings, self.adjustments, self.written, digest, files.sha256_of(probe))

    def _resolve(self, last: IterationRecord | None, names: Mapping[str, str]) -> dict[str, float]:
        """The shares to change from those of the previous iteration. `names` maps old names to new ones."""
        applied, shares = (last.specialty_adjustments, last.shares) if last else ({}, {})
        self.written, self.superseded = dict(applied), {}
        if self._in_script is not None:
            self.written = renames.rename_keys(self._in_script, names)
            self.superseded = {
                name: shares[name]
                for name, share in self.written.items()
                if applied.get(name) == share and shares.get(name, share) != share
            }
        from_script = {} if self._in_script is None else self.written
        applicable = {name: share for name, share in from_script.items() if name not in self.superseded}
        return applicable | renames.rename_keys(self._adjustments, names)


def recommended_shares(path: Path, ledger: Sequence[IterationRecord]) -> dict[str, float]:
    """Shares from a recommendations file.

    Raises:
        UserError: the file was made for other sets than the present ones.
    """
    advice = read_recommendations(path)
    if not ledger:
        raise UserError(
            "needs an earlier iteration, but there is none", where=path, remedy="Run dataset_preparation.py without it first."
        )
    last = ledger[-1]
    same_sets = {
        record.iteration for record in ledger if (record.hashes, record.template_sha256) == (last.hashes, last.template_sha256)
    }
    if last.recommendations_sha256 != files.sha256_file(path) and advice.iteration not in same_sets:
        raise UserError(
            f"was made from iteration {advice.iteration}, but the present one is iteration {last.iteration}",
            where=path,
            remedy="Train and evaluate the present one first, or put the shares that you want into specialty_adjustments.",
        )
    return dict(advice.recommended_sample_increases)
