"""The shares that are asked for: now, in the script, and by recommendations."""

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
    """What an iteration was asked for, for the ledger.

    Attributes:
        settings: those on which the fixed sets depend.
        adjustments: the shares that this iteration was given.
        written: the shares in the script, applied now or before.
        recommendations_sha256: of the file whose shares were taken; empty for none.
        template_sha256: of the chat format's rendering of a probe.
    """

    settings: Mapping[str, Any]
    adjustments: Mapping[str, float]
    written: Mapping[str, float]
    recommendations_sha256: str
    template_sha256: str


class ShareRequests:
    """Shares that are asked for, under the names that specialties have now.

    Args:
        adjustments: asked for now.
        in_script: shares set in the script, which are the same in each run; None where there are none. Once applied, such a share does
            not override a later recommendation or rollback.

    Attributes:
        written: the shares in the script, to be remembered in the ledger.
        superseded: of these, what was changed since it was applied, with its present value.
        adjustments: the shares to change.
    """

    def __init__(self, adjustments: Mapping[str, float], in_script: Mapping[str, float] | None) -> None:
        self._adjustments, self._in_script = adjustments, in_script
        self.written: dict[str, float] = {}
        self.superseded: dict[str, float] = {}
        self.adjustments: dict[str, float] = {}

    def shares(self, ledger: Sequence[IterationRecord], renamed: Mapping[str, str]) -> dict[str, float]:
        """The shares that are asked for: those of the iteration before, and the adjustments.

        Args:
            renamed: old names of specialties to new, of what was renamed since the iteration before.
        """
        last = renames.with_new_names(ledger[-1], renamed) if ledger else None
        self.adjustments = self._resolve(last, renames.current_names(ledger, renamed))
        return (last.shares if last else {}) | self.adjustments

    def print_superseded(self) -> None:
        """Say which shares of the script are not applied, and why."""
        for name, share in self.superseded.items():
            print(
                f"  {name}: {self.written[name]:g} in specialty_adjustments was applied in an earlier iteration; what was chosen since, "
                f"{share:g}, stays. Write another number there to change it.",
                flush=True,
            )

    def check(self, index: RecordIndex, last: IterationRecord | None, first_shares: Mapping[str, float]) -> None:
        """UserError where a specialty is unknown or a share is not between 0 and 1."""
        known = sorted(index.specialties | set(last.shares if last else {}) | set(index.original_names.values()))
        iterations.check_shares(self.adjustments, known, "specialty_adjustments")
        iterations.check_shares(first_shares, known, "SPECIALTY_SAMPLE_PERCENTAGES")

    def for_ledger(self, settings: Mapping[str, Any], recommendations: Path | None, probe: str) -> IterationRequest:
        """What was asked for.

        Args:
            probe: the chat format's rendering of a probe.
        """
        advice = files.sha256_file(recommendations) if recommendations else ""
        return IterationRequest(settings, self.adjustments, self.written, advice, files.sha256_of(probe))

    def _resolve(self, last: IterationRecord | None, names: Mapping[str, str]) -> dict[str, float]:
        """The shares to change, compared with those of the iteration before; `names` is old name to new."""
        applied, shares = (last.specialty_adjustments, last.shares) if last else ({}, {})
        self.written, self.superseded = dict(applied), {}
        if self._in_script is not None:
            self.written = renames.rename_keys(self._in_script, names)
            self.superseded = {
                name: shares[name]
                for name, share in self.written.items()
                if applied.get(name) == share and shares.get(name, share) != share
            }
        new = {} if self._in_script is None else {n: s for n, s in self.written.items() if n not in self.superseded}
        return new | renames.rename_keys(self._adjustments, names)


def recommended_shares(path: Path, ledger: Sequence[IterationRecord]) -> dict[str, float]:
    """Shares from a recommendations file.

    Raises:
        UserError: the file was made for other sets than those that are in place.
    """
    advice = read_recommendations(path)
    if not ledger:
        raise UserError(
            "there is no iteration yet to build on", where=path, remedy="Run dataset_preparation.py without it first."
        )
    last = ledger[-1]
    same_sets = {one.iteration for one in ledger if (one.hashes, one.template_sha256) == (last.hashes, last.template_sha256)}
    if last.recommendations_sha256 != files.sha256_file(path) and advice.iteration not in same_sets:
        raise UserError(
            f"was made from iteration {advice.iteration}, but iteration {last.iteration} is in place",
            where=path,
            remedy="Train and evaluate that one first, or put the shares you want into specialty_adjustments.",
        )
    return dict(advice.recommended_sample_increases)
