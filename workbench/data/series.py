"""A series of iterations in one folder: each is written beside the present one, then they change places; nothing is overwritten."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench import chat, files, manifest
from workbench.data import dataset_folders, iterations
from workbench.data.assignment import Plan
from workbench.data.catalogue import Catalogue
from workbench.data.dataset_folders import FIXED
from workbench.errors import UserError, began_afresh

STATISTICS = "dataset_stats.json"


def check_same_series(folder: Path, last: dict[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse settings that would draw other fixed sets than those of the series in `folder`."""
    for name, value in now.items():
        if last["settings"].get(name) != value:
            raise UserError(
                f"{folder}: {name} was {last['settings'].get(name)!r} when its fixed sets were drawn, now it is {value!r}. "
                "Scores would not compare. Put it back, name another OUTPUT_DIR, or begin a new series here with "
                "--fresh (the old one moves to its archive folder)."
            )


def _sizes(plan: Plan) -> dict[str, dict[str, int]]:
    sizes = {name: Counter(item.record.specialty for item in items) for name, items in plan.splits.items()}
    sizes["set_aside"] = Counter(item["specialty"] for item in plan.set_aside)
    return {name: dict(sorted(counts.items())) for name, counts in sizes.items()}


def ledger_entry(
    plan: Plan,
    catalogue: Catalogue,
    last: dict[str, Any] | None,
    *,
    settings: Mapping[str, Any],
    adjustments: Mapping[str, float],
    written: Mapping[str, float],
    advice: str,
    probe: str,
) -> dict[str, Any]:
    """The line that this iteration adds to the ledger.

    Args:
        adjustments: the shares that this iteration was given.
        written: those that stand in `specialty_adjustments` of the script, taken now or before.
    """
    breaks = []
    if catalogue.accepted:
        breaks.append(f"{catalogue.accepted} edits of fixed records were accepted")
    if last is not None and last["template_sha256"] != files.sha256_of(probe):
        breaks.append("the system message or the chat template changed")
    changes = catalogue.changes
    return {
        "iteration": catalogue.iteration,
        "made": manifest.now(),
        "derived_from": last["hashes"] if last else None,
        "adjustments": dict(adjustments),
        "specialty_adjustments": dict(written),
        "recommendations_sha256": advice,
        "comparability_break": "; ".join(breaks),
        "changes": {"added": len(changes.added) if last else 0, "edited": len(changes.edited),
                    "removed": len(changes.removed), "returned": len(changes.returned), "fixed_waiting": len(catalogue.fixed_waiting)},
        "specialties": _specialty_changes(catalogue, plan, last),
        "known_as": catalogue.known_as,
        "shares": plan.shares,
        "share_base": plan.bases,
        "capped": plan.capped,
        "small_specialties": plan.small,
        "sizes": _sizes(plan),
        "hashes": {name: files.sha256_of(sorted(i.record.id for i in items)) for name, items in plan.splits.items()},
        "template_sha256": files.sha256_of(probe),
        "settings": dict(settings),
    }  # fmt: skip


def _specialty_changes(catalogue: Catalogue, plan: Plan, last: dict[str, Any] | None) -> dict[str, Any]:
    """Specialties that came, went or are called otherwise since the iteration before; `absent` are all that have no record now."""
    before = set(last["shares"]) if last else set()  # under the new names
    was_absent = set(last.get("specialties", {}).get("absent", ())) if last else set()
    absent = before - catalogue.in_files
    return {
        "added": sorted(set(plan.shares) - before) if last else [],
        "removed": sorted(absent - was_absent),
        "returned": sorted(was_absent & catalogue.in_files),
        "renamed": catalogue.renamed,
        "absent": sorted(absent),
    }


def write(
    folder: Path,
    plan: Plan,
    catalogue: Catalogue,
    ledger: list[dict[str, Any]],
    chat_format: chat.ChatFormat,
) -> Path:
    """Write an iteration whole into a folder beside the present one; returns it, still without its manifest."""
    building = folder / manifest.BUILDING
    files.remove(building)
    building.mkdir(parents=True)
    for name, items in plan.splits.items():
        records = [item.record for item in items]
        dataset_folders.write_split(building / dataset_folders.SPLITS[name], records, chat_format)
    files.write_json_lines(building / "set_aside.jsonl", plan.set_aside)
    files.write_json_lines(building / iterations.LEDGER, ledger)
    files.write_json(building / STATISTICS, _statistics(plan, catalogue, ledger[-1]))
    roles = {item.record.id: name for name in FIXED for item in plan.splits[name]}
    entries = [
        iterations.Entry(
            item.record.id, item.record.specialty, int(catalogue.prints.question_keys[row]),
            int(catalogue.prints.answer_keys[row]), item.origin, item.since, roles.get(item.record.id, "open"),
        )
        for row, item in enumerate(catalogue.items)
        if item.record.id not in catalogue.pending
    ]  # fmt: skip
    iterations.write_register(building / iterations.REGISTER, entries + catalogue.gone)
    shutil.copyfile(building / iterations.REGISTER, building / iterations.REGISTER_THEN)
    return building


def _statistics(plan: Plan, catalogue: Catalogue, entry: dict[str, Any]) -> dict[str, Any]:
    rows: dict[str, list[int]] = {}
    for row, item in enumerate(catalogue.items):
        rows.setdefault(item.record.specialty, []).append(row)
    words = {name: catalogue.prints.word_counts[rows[name]].mean(axis=0) for name in plan.shares}
    sizes = entry["sizes"]
    by_specialty = {
        name: {
            "share": plan.shares[name],
            "share_base": plan.bases[name],
            **{split_name: sizes[split_name].get(name, 0) for split_name in sizes},
            "question_words_mean": round(float(words[name][0]), 1),
            "answer_words_mean": round(float(words[name][1]), 1),
        }
        for name in plan.shares
    }
    return {
        "iteration": entry["iteration"],
        "total": {name: sum(counts.values()) for name, counts in sizes.items()},
        "specialties": by_specialty,
        "fixed_records_changed_upstream": catalogue.fixed_waiting,
        "share_is": "(train + eval) / share_base; share_base is all records of the specialty but the holdout",
    }


def finish_interrupted(folder: Path) -> None:
    """Let a whole new iteration take the place of the present one; safe to repeat after a kill at any point."""
    building = folder / manifest.BUILDING
    if not (building / manifest.MANIFEST).is_file():
        return
    present, coming = manifest.read(folder), manifest.read(building)
    if present is not None and coming is not None and present["iteration"] != coming["iteration"]:
        manifest.archive(folder, present, keep=(*iterations.LASTING, manifest.BUILDING))
    for entry in sorted(building.iterdir(), key=lambda path: path.name == manifest.MANIFEST):
        target = folder / entry.name
        if target.is_dir():
            files.remove(target)
        os.replace(entry, target)
    building.rmdir()


def archive_all(folder: Path) -> None:
    """Set a whole series aside, ledger and register included."""
    files.remove(folder / manifest.BUILDING)
    if files.own_entries(folder):
        manifest.archive(folder, {"iteration": "series"})
    began_afresh()
