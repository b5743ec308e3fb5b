"""The ledger of iterations, and the register of records: what later iterations must remember of earlier ones.

`iterations.jsonl` has a line an iteration: shares, sizes, hashes, what it was derived from, what changed upstream.
`register.parquet` has a row a record ever seen, so that additions, edits and removals are told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workbench import files
from workbench.errors import UserError

LEDGER, REGISTER, LOOKS = "iterations.jsonl", "register.parquet", "holdout_looks.jsonl"
LASTING = (LEDGER, REGISTER, LOOKS)  # these stay where they are when an iteration is archived
REGISTER_THEN = "register_then.parquet"  # the register as an iteration left it, which is archived with it
SCHEMA = pa.schema(
    [("id", pa.string()), ("specialty", pa.string()), ("question_key", pa.int64()), ("answer_key", pa.int64()),
     ("origin", pa.string()), ("since", pa.int32()), ("role", pa.string())]
)  # fmt: skip


GONE = "gone"
SAME_SPECIALTY = 0.9  # of a vanished specialty's records, where a new one that holds them is the same under another name


@dataclass(slots=True)
class Entry:
    """What is remembered of a record; `role` is "holdout", "eval", "open", or "gone" while the files lack it."""

    id: str
    specialty: str
    question_key: int
    answer_key: int
    origin: str
    since: int
    role: str


@dataclass
class Changes:
    """How the files differ from the register. `edited` maps the old id to the new one; `returned` were gone before."""

    added: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    edited: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    return files.read_json_lines(folder / LEDGER)


def read_register(folder: Path) -> dict[str, Entry]:
    """Entries by id; empty before the first iteration."""
    path = folder / REGISTER
    if not path.is_file():
        return {}
    try:
        columns = pq.read_table(path, schema=SCHEMA).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Restore it, or begin a new series with --fresh.") from None
    return {row[0]: Entry(*row) for row in zip(*columns.values(), strict=True)}


def write_register(path: Path, entries: list[Entry]) -> None:
    columns = {name: [getattr(entry, name) for entry in entries] for name in SCHEMA.names}
    pq.write_table(pa.table(columns, SCHEMA), path, compression="zstd")


def compare(register: Mapping[str, Entry], current: Mapping[str, tuple[str, int, int]]) -> Changes:
    """Additions, edits and removals.

    Args:
        register: entries by id.
        current: id to (specialty, question key, answer key) of what the files hold now.

    A vanished record and a new one of the same specialty that share the question, or the answer, are one edited record.
    """
    changes = Changes(added=[i for i in current if i not in register])
    changes.returned = [entry.id for entry in register.values() if entry.role == GONE and entry.id in current]
    vanished = [entry for entry in register.values() if entry.id not in current and entry.role != GONE]
    by_question = {(current[i][0], current[i][1]): i for i in reversed(changes.added)}
    by_answer = {(current[i][0], current[i][2]): i for i in reversed(changes.added)}
    taken: set[str] = set()
    for entry in vanished:
        for new in (by_question.get((entry.specialty, entry.question_key)), by_answer.get((entry.specialty, entry.answer_key))):
            if new is not None and new not in taken:
                changes.edited[entry.id] = new
                taken.add(new)
                break
        else:
            changes.removed.append(entry.id)
    changes.added = [i for i in changes.added if i not in taken]
    return changes


def known_as(entry: Mapping[str, Any] | None) -> dict[str, str]:
    """Of renamed specialties, the name by which their records are known; a line of the ledger."""
    return dict(entry.get("known_as", {})) if entry else {}


def find_renamed(register: Mapping[str, Entry], current: Mapping[str, set[tuple[int, int]]]) -> dict[str, str]:
    """Old name to new, of specialties that have vanished while another came with the same records.

    Args:
        register: entries by id, of the vanished specialties among others.
        current: (question key, answer key) of what the files hold now, of each specialty that is new.
    """
    before: dict[str, set[tuple[int, int]]] = {}
    for entry in register.values():
        if entry.role != GONE:
            before.setdefault(entry.specialty, set()).add((entry.question_key, entry.answer_key))
    found: dict[str, str] = {}
    for old, had in sorted(before.items()):
        shared = {new: len(had & pairs) for new, pairs in sorted(current.items()) if new not in found.values()}
        best = max(shared, key=lambda name: shared[name], default=None)
        if best is not None and shared[best] >= SAME_SPECIALTY * len(had):
            found[old] = best
    return found


def under_new_names(entry: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """A line of the ledger as it reads once specialties are called otherwise; `renamed` is old name to new."""

    of_each = ("shares", "share_base", "specialty_adjustments")
    sizes = {split: renamed_keys(counts, renamed) for split, counts in entry["sizes"].items()}
    return {**entry, **{name: renamed_keys(entry.get(name, {}), renamed) for name in of_each}, "sizes": sizes}


def renamed_keys(of_each: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Values by specialty, as specialties are called otherwise."""
    return {renamed.get(name, name): value for name, value in of_each.items()}


def names_since(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """How specialties of one line of the ledger are called in a later one, where that is otherwise."""
    first, called = known_as(then), {first: name for name, first in known_as(now).items()}
    identity = {name: first.get(name, name) for name in then["shares"]}
    present = {name: called.get(known, known) for name, known in identity.items()}
    return {name: new for name, new in present.items() if new != name}


def present_names(ledger: Sequence[Mapping[str, Any]], renamed: Mapping[str, str]) -> dict[str, str]:
    """Every name that a specialty had in a series to the one it has now, where that is another.

    Args:
        renamed: old name to new, of what is called otherwise since the ledger's last line.
    """
    found: dict[str, str] = {}
    for line in ledger:
        found |= names_since(line, ledger[-1])
    return {name: renamed.get(now, now) for name, now in found.items() if name not in ledger[-1]["shares"]} | dict(renamed)


def check_shares(shares: Mapping[str, float], known: list[str], source: str) -> None:
    """UserError where a specialty is unknown or a share is not between 0 and 1."""
    import difflib

    for specialty, share in shares.items():
        if specialty not in known:
            near = difflib.get_close_matches(specialty, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known[:5])}, …"
            raise UserError(f"{source}: there is no specialty {specialty!r}. {hint}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise UserError(f"{source}: {specialty} is {share!r}; a share is a number from 0 to 1 (0.8 for 80%).")


def read_recommendations(path: Path) -> dict[str, Any]:
    """What `evaluation.py` wrote; UserError unless it has `recommended_sample_increases`."""
    value = files.read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("recommended_sample_increases"), dict):
        raise UserError(
            f"{path}: has no recommended_sample_increases. Give it the training_recommendations.json of evaluation.py."
        )
    return value


def holdout_looks(folder: Path) -> int:
    """How many finished evaluations have looked at this holdout."""
    return len(files.read_json_lines(folder / LOOKS, drop_torn_tail=True))


def count_holdout_look(folder: Path, look: dict[str, Any]) -> int:
    """Add a look unless the same evaluation was counted before; returns the number of looks."""
    looks = files.read_json_lines(folder / LOOKS, drop_torn_tail=True)
    if all(other.get("fingerprint") != look["fingerprint"] for other in looks):
        looks.append(look)
        files.write_json_lines(folder / LOOKS, looks)
    return len(looks)
