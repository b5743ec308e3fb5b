"""Going back: the sets of an earlier iteration, exactly, as a new one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench import files, manifest
from workbench.data import dataset_folders, iterations
from workbench.data.dataset_folders import FIXED
from workbench.data.series import STATISTICS, finish_interrupted
from workbench.errors import UserError


def restore(folder: Path, number: int, ledger: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Bring the sets of an earlier iteration back, as a new iteration; returns the manifest that now stands in `folder`.

    Nothing is lost: the present iteration is archived, and the ledger goes on. Records that were added or edited since are
    so again for the iteration that follows.
    """
    wanted = next((entry for entry in ledger if entry["iteration"] == number), None)
    if wanted is None:
        known = ", ".join(str(entry["iteration"]) for entry in ledger) or "none"
        raise UserError(f"{folder}: its ledger has no iteration {number}; it has {known}.")
    present = manifest.read(folder)
    if (
        present is not None
        and number in (present["iteration"], present.get("restored_from"))
        and not changed_by_hand(folder, present)
    ):
        return {**present, "up_to_date": True}
    source = _archived(folder, wanted)
    building = folder / manifest.BUILDING
    files.remove(building)
    shutil.copytree(source, building, ignore=shutil.ignore_patterns(manifest.MANIFEST))
    shutil.copyfile(source / iterations.REGISTER_THEN, building / iterations.REGISTER)
    coming = len(ledger) + 1
    same = all(ledger[-1]["hashes"][split] == wanted["hashes"][split] for split in FIXED)
    broken = "" if same else f"the fixed sets are those of iteration {number} again"
    entry = {**wanted, "iteration": coming, "made": manifest.now(), "derived_from": ledger[-1]["hashes"], "adjustments": {},
             "specialty_adjustments": ledger[-1].get("specialty_adjustments", {}),
             "recommendations_sha256": "", "restored_from": number, "comparability_break": broken,
             "changes": dict.fromkeys(wanted["changes"], 0) | {"fixed_waiting": wanted["changes"]["fixed_waiting"]},
             "specialties": {"added": [], "removed": [], "returned": [], "renamed": iterations.names_since(ledger[-1], wanted),
                             "absent": wanted.get("specialties", {}).get("absent", [])}}  # fmt: skip
    files.write_json_lines(building / iterations.LEDGER, [*ledger, entry])
    statistics = files.read_json(building / STATISTICS)
    files.write_json(building / STATISTICS, {**statistics, "iteration": coming})
    then = files.read_json(source / manifest.MANIFEST)
    manifest.finish(building, {**then, "iteration": coming, "restored_from": number, "finished": manifest.now()})
    finish_interrupted(folder)
    return {**manifest.require(folder, "dataset_preparation.py"), "up_to_date": False}


def changed_by_hand(folder: Path, made: Mapping[str, Any]) -> list[str]:
    """Splits of a prepared folder that no longer hold the records that its manifest names."""
    return [
        dataset_folders.SPLITS[split]
        for split, digest in made["splits"].items()
        if dataset_folders.hash_of_ids(folder, split) != digest
    ]


def _archived(folder: Path, wanted: Mapping[str, Any]) -> Path:
    """The archived folder that holds these sets whole."""
    for path in sorted((folder / files.ARCHIVE_NAME).glob("*")):
        then = manifest.read(path)
        whole = then is not None and then["iteration"] == wanted["iteration"] and then.get("splits") == wanted["hashes"]
        if then is not None and whole and not changed_by_hand(path, then) and (path / iterations.REGISTER_THEN).is_file():
            return path
    raise UserError(
        f"{folder / files.ARCHIVE_NAME}: does not hold the sets of iteration {wanted['iteration']} whole, so they cannot be brought back."
    )
