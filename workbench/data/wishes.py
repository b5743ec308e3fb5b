"""Shares that are asked for: by the user now, by what stands written in the script, and by recommendations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench import files
from workbench.data import iterations
from workbench.errors import UserError


class Wishes:
    """Shares that are asked for, by the names that specialties have now.

    Args:
        adjustments: asked for now.
        standing: written down and given to each run alike; None where nothing is. What an earlier run has taken of these does not
            undo what was recommended, or brought back, since.
    """

    def __init__(self, adjustments: Mapping[str, float], standing: Mapping[str, float] | None) -> None:
        self._adjustments, self._standing = adjustments, standing
        self.written: dict[str, float] = {}  # what stands written, to be remembered in the ledger
        self.overtaken: dict[str, float] = {}  # of that, what was changed since it was taken, as it is now

    def under(self, last: dict[str, Any] | None, called: Mapping[str, str]) -> dict[str, float]:
        """What is to be adjusted of the shares of the ledger's last line; `called` is old name to new."""
        taken = last.get("specialty_adjustments", {}) if last else {}
        shares = last["shares"] if last else {}
        self.written, self.overtaken = dict(taken), {}
        if self._standing is not None:
            self.written = iterations.renamed_keys(self._standing, called)
            self.overtaken = {name: shares[name] for name, share in self.written.items()
                              if taken.get(name) == share and shares.get(name, share) != share}  # fmt: skip
        news = {} if self._standing is None else {n: s for n, s in self.written.items() if n not in self.overtaken}
        return news | iterations.renamed_keys(self._adjustments, called)


def recommended_shares(path: Path, ledger: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Shares from a recommendations file, if they were made for the sets that are in place."""
    advice = iterations.read_recommendations(path)
    if not ledger:
        raise UserError(f"{path}: there is no iteration yet to build on. Run dataset_preparation.py without it first.")
    last = ledger[-1]
    alike = ("hashes", "template_sha256")
    in_place = {line["iteration"] for line in ledger if all(line[name] == last[name] for name in alike)}
    if last["recommendations_sha256"] != files.sha256_file(path) and advice.get("iteration") not in in_place:
        raise UserError(
            f"{path}: was made from iteration {advice.get('iteration')}, but iteration {last['iteration']} is in place. "
            "Train and evaluate that one first, or put the shares you want into specialty_adjustments."
        )
    return {str(name): share for name, share in advice["recommended_sample_increases"].items()}
