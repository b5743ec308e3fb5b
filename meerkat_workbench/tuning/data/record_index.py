"""All records that the next iteration may use, compared with those of earlier iterations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meerkat_workbench.text.near_duplicates import Fingerprints, fingerprint
from meerkat_workbench.tuning.artifacts import FIXED, IterationRecord, Role, WaitingRecord
from meerkat_workbench.tuning.data import dataset_folders, iterations
from meerkat_workbench.tuning.data.iterations import Changes, RegisteredRecord
from meerkat_workbench.tuning.data.records import Record, record_id
from meerkat_workbench.tuning.data.splits import SplitItem

FIXED_ROLES = (Role.HOLDOUT, Role.EVAL)


@dataclass
class RecordIndex:
    """All records that the next iteration may use. Row i of `fingerprints` and `roles` belongs to `items[i]`.

    Attributes:
        roles: HOLDOUT, EVAL or OPEN.
        fixed_waiting: fixed records that were edited or removed upstream and keep their old text.
        accepted: number of such records whose new text was taken (`--accept-edits`).
        pending: ids of new texts of fixed records that were not taken. They are not registered, so that the next iteration
            recognises them as edits too.
        gone: open records that the files lack. They are registered, so that they do not count as added when they return.
        renamed: old name to new name of specialties renamed since the previous iteration.
        original_names: first name of every specialty that was ever renamed.
        specialties: the specialties of the files.
    """

    items: list[SplitItem]
    fingerprints: Fingerprints
    roles: list[Role]
    changes: Changes
    added_by_specialty: Counter[str]
    fixed_waiting: list[WaitingRecord]
    accepted: int
    pending: set[str]
    gone: list[RegisteredRecord]
    iteration: int
    renamed: dict[str, str]
    original_names: dict[str, str]
    specialties: set[str]


def build_index(
    folder: Path,
    records: Mapping[str, Sequence[Record]],
    register: dict[str, RegisteredRecord],
    ledger: Sequence[IterationRecord],
    *,
    near: bool,
    accept_edits: bool,
) -> RecordIndex:
    """Compare the records with the register of earlier iterations.

    A specialty whose file has a new name is still the same, and its records keep their ids. A record edited upstream keeps its place
    in the splits. If it belongs to a fixed set, it also keeps its old text, which is read from the split, unless `accept_edits`.

    Args:
        folder: the prepared folder, from which old texts are read.
        near: whether the fingerprints will be used to find near-duplicates.
    """
    iteration, last = len(ledger) + 1, ledger[-1] if ledger else None
    flat = [record for specialty in sorted(records) for record in records[specialty]]
    fingerprints = fingerprint(flat, near=near)
    original_names, renamed = _track_renames(flat, fingerprints, register, last)
    current = {
        record.id: (record.specialty, int(fingerprints.question_keys[row]), int(fingerprints.answer_keys[row]))
        for row, record in enumerate(flat)
    }
    changes = iterations.compare(register, current)
    items, roles = _current_items(flat, fingerprints, register, changes, iteration, accept_edits=accept_edits)
    missing = [record for record in register.values() if record.role in FIXED_ROLES and record.id not in current]
    waiting: list[WaitingRecord] = []
    if missing and not accept_edits:
        old_records = _old_texts(folder, missing)
        items += [
            SplitItem(record, old.question_key, old.origin, old.since) for record, old in zip(old_records, missing, strict=True)
        ]
        roles += [old.role for old in missing]
        fingerprints = Fingerprints.concatenate([fingerprints, fingerprint(old_records, near=near)])
        waiting = [
            WaitingRecord(old.id, old.specialty, old.role, record.question, "edited" if old.id in changes.edited else "removed")
            for record, old in zip(old_records, missing, strict=True)
        ]
    return RecordIndex(
        items=items,
        fingerprints=fingerprints,
        roles=roles,
        changes=changes,
        added_by_specialty=Counter(current[i][0] for i in changes.added),
        fixed_waiting=waiting,
        accepted=len(missing) if accept_edits else 0,
        pending=set() if accept_edits else {changes.edited[old.id] for old in missing if old.id in changes.edited},
        gone=[
            replace(old, role=Role.GONE)
            for old in register.values()
            if old.role not in FIXED_ROLES and old.id not in current and old.id not in changes.edited
        ],
        iteration=iteration,
        renamed=renamed,
        original_names=original_names,
        specialties=set(records),
    )


def _current_items(
    flat: Sequence[Record],
    fingerprints: Fingerprints,
    register: Mapping[str, RegisteredRecord],
    changes: Changes,
    iteration: int,
    *,
    accept_edits: bool,
) -> tuple[list[SplitItem], list[Role]]:
    """The records of the files, with the place and role that they had in earlier iterations."""
    predecessor = {new: register[old] for old, new in changes.edited.items()}
    items: list[SplitItem] = []
    roles: list[Role] = []
    for row, record in enumerate(flat):
        old = register.get(record.id)
        # the new text of a fixed record is taken only if the user wants it; otherwise it is an open record (and is then set aside)
        if old is None and (before := predecessor.get(record.id)) and (accept_edits or before.role not in FIXED_ROLES):
            old = before
        key = int(fingerprints.question_keys[row])
        items.append(SplitItem(record, key, old.origin if old else record.id, old.since if old else iteration))
        roles.append(old.role if old and old.role != Role.GONE else Role.OPEN)
    return items, roles


def _old_texts(folder: Path, missing: Sequence[RegisteredRecord]) -> list[Record]:
    """The records of the fixed sets that the files lack, read from the splits."""
    texts = {record.id: record for split in FIXED for record in dataset_folders.read_records(folder, split)}
    for old in missing:
        texts[old.id].specialty = old.specialty
    return [texts[old.id] for old in missing]


def _track_renames(
    flat: Sequence[Record], fingerprints: Fingerprints, register: dict[str, RegisteredRecord], last: IterationRecord | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Find renamed specialties, and change `flat` and `register` so that their records match.

    Returns:
        The first name of every specialty that was ever renamed, and the old and new names since the previous iteration.
    """
    before, now = set(last.shares) if last else set(), {record.specialty for record in flat}
    renamed: dict[str, str] = {}
    if before - now and now - before:
        pairs: dict[str, set[tuple[int, int]]] = {name: set() for name in now - before}
        for row, record in enumerate(flat):
            if record.specialty in pairs:
                pairs[record.specialty].add((int(fingerprints.question_keys[row]), int(fingerprints.answer_keys[row])))
        vanished = {i: old for i, old in register.items() if old.specialty in before - now}
        renamed = iterations.find_renamed_specialties(vanished, pairs)
    original_names = dict(last.original_names) if last else {}
    for old_name, new_name in renamed.items():
        original_names[new_name] = original_names.pop(old_name, old_name)
    for name in now & set(original_names.values()) - set(original_names):
        original_names[name] = f"{name}, another"  # a new specialty under a name that was given up
    if original_names:
        for record in flat:
            if record.specialty in original_names:
                record.id = record_id(original_names[record.specialty], record.question, record.response)
    if renamed:
        for old in register.values():
            old.specialty = renamed.get(old.specialty, old.specialty)
    return original_names, renamed
