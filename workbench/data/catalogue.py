"""Taking stock: every record that the next iteration may use, held against what earlier iterations saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.data import dataset_folders, iterations
from workbench.data.dataset_folders import FIXED
from workbench.data.near_duplicates import Fingerprints, fingerprint
from workbench.data.records import Record, record_id
from workbench.data.splits import Item


@dataclass
class Catalogue:
    """Every record the next iteration may use. Row i of `prints` and `roles` speaks of `items[i]`."""

    items: list[Item]
    prints: Fingerprints
    roles: list[str]  # "holdout", "eval" or "open"
    changes: iterations.Changes
    added_by_specialty: Counter[str]
    fixed_waiting: list[dict[str, str]]  # fixed records that were edited or removed upstream and keep their old text
    accepted: int  # such records that --accept-edits took in
    pending: set[str]  # ids of the new texts that wait; not registered, so that they are known as edits next time too
    gone: list[iterations.Entry]  # open records that the files lack; remembered, so that on return they are no addition
    iteration: int
    renamed: dict[str, str]  # specialties' old names to new
    known_as: dict[str, str]  # of all that were ever renamed, the first name
    in_files: set[str]  # specialties


def take_stock(
    folder: Path, records: Mapping[str, Sequence[Record]], last: dict[str, Any] | None, *, near: bool, accept_edits: bool
) -> Catalogue:
    """Hold the records against the register of earlier iterations; `last` is the ledger's last line.

    A specialty whose file has another name now is the same one, and its records keep their ids. Records edited upstream keep
    the place of their former selves. One that stands in a fixed set keeps its old text there, read back from the split, unless
    `accept_edits`.
    """
    register = iterations.read_register(folder)
    iteration = len(iterations.read_ledger(folder)) + 1
    flat = [record for specialty in sorted(records) for record in records[specialty]]
    prints = fingerprint(flat, near=near)
    known_as, renamed = _follow_names(flat, prints, register, last)
    current = {
        record.id: (record.specialty, int(prints.question_keys[row]), int(prints.answer_keys[row]))
        for row, record in enumerate(flat)
    }
    changes = iterations.compare(register, current)
    predecessor = {new: register[old] for old, new in changes.edited.items()}
    items, roles = [], []
    for row, record in enumerate(flat):
        entry = register.get(record.id)
        # the new text of a fixed record goes in only when asked; else it is an open one (and is then set aside)
        if entry is None and (old := predecessor.get(record.id)) and (accept_edits or old.role not in FIXED):
            entry = old
        key = int(prints.question_keys[row])
        items.append(Item(record, key, entry.origin if entry else record.id, entry.since if entry else iteration))
        roles.append(entry.role if entry and entry.role != iterations.GONE else "open")
    missing = [e for e in register.values() if e.role in FIXED and e.id not in current]
    waiting: list[dict[str, str]] = []
    if missing and not accept_edits:
        old_texts = {r.id: r for split in FIXED for r in dataset_folders.read_records(folder, split)}
        for entry in missing:
            old_texts[entry.id].specialty = entry.specialty
        kept = [old_texts[entry.id] for entry in missing]
        extra = fingerprint(kept, near=near)
        items += [Item(r, e.question_key, e.origin, e.since) for r, e in zip(kept, missing, strict=True)]
        roles += [entry.role for entry in missing]
        prints = Fingerprints.concatenate([prints, extra])
        waiting = [
            {"id": e.id, "specialty": e.specialty, "split": e.role, "question": old_texts[e.id].question,
             "upstream": "edited" if e.id in changes.edited else "removed"}
            for e in missing
        ]  # fmt: skip
    added = Counter(current[i][0] for i in changes.added)
    pending = set() if accept_edits else {changes.edited[entry.id] for entry in missing if entry.id in changes.edited}
    accepted = len(missing) if accept_edits else 0
    gone = [
        replace(entry, role=iterations.GONE)
        for entry in register.values()
        if entry.role not in FIXED and entry.id not in current and entry.id not in changes.edited
    ]
    return Catalogue(
        items, prints, roles, changes, added, waiting, accepted, pending, gone, iteration, renamed, known_as, set(records)
    )


def _follow_names(
    flat: Sequence[Record], prints: Fingerprints, register: dict[str, iterations.Entry], last: dict[str, Any] | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Give the records of renamed specialties, in `flat` and in the register, one identity; returns first names, and what is new."""
    before, now = set(last["shares"]) if last else set(), {record.specialty for record in flat}
    renamed: dict[str, str] = {}
    if before - now and now - before:
        pairs: dict[str, set[tuple[int, int]]] = {name: set() for name in now - before}
        for row, record in enumerate(flat):
            if record.specialty in pairs:
                pairs[record.specialty].add((int(prints.question_keys[row]), int(prints.answer_keys[row])))
        vanished = {i: entry for i, entry in register.items() if entry.specialty in before - now}
        renamed = iterations.find_renamed(vanished, pairs)
    known_as = iterations.known_as(last)
    for old, new in renamed.items():
        known_as[new] = known_as.pop(old, old)
    for name in now & set(known_as.values()) - set(known_as):
        known_as[name] = f"{name}, another"  # a new specialty under a name that was given up
    if known_as:
        for record in flat:
            if record.specialty in known_as:
                record.id = record_id(known_as[record.specialty], record.question, record.response)
    if renamed:
        for entry in register.values():
            entry.specialty = renamed.get(entry.specialty, entry.specialty)
    return known_as, renamed
