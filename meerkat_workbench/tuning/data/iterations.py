"""What later iterations must remember of earlier ones: the register of records, and how often a holdout was evaluated.

`register.parquet` has a row for each record ever seen, so that additions, edits and removals are told apart. The ledger,
`iterations.jsonl`, is `artifacts.IterationRecord`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from meerkat_workbench.core import artifacts
from meerkat_workbench.core.errors import UserError, did_you_mean
from meerkat_workbench.tuning.artifacts import HoldoutEvaluation, IterationRecord, Role

REGISTER = "register.parquet"
ARCHIVED_REGISTER = "register_then.parquet"  # the register as an iteration left it, which is archived with it
KEPT_IN_PLACE = (IterationRecord.FILE, REGISTER, HoldoutEvaluation.FILE)  # stay where they are when an iteration is archived
SCHEMA = pa.schema(
    [("id", pa.string()), ("specialty", pa.string()), ("question_key", pa.int64()), ("answer_key", pa.int64()),
     ("origin", pa.string()), ("since", pa.int32()), ("role", pa.string())]
)  # fmt: skip
MIN_SHARED_RECORDS = 0.9  # fraction of a vanished specialty's records that a new one must hold to be the same, renamed


@dataclass(slots=True)
class RegisteredRecord:
    """What is remembered of a record.

    Attributes:
        origin: id under which it was first seen; edits do not change it.
        since: iteration in which it was first seen.
        role: of a fixed set, open, or gone while the files lack it.
    """

    id: str
    specialty: str
    question_key: int
    answer_key: int
    origin: str
    since: int
    role: Role


@dataclass
class Changes:
    """How the files differ from the register. `edited` maps the old id to the new one; `returned` were gone before."""

    added: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    edited: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)


def read_register(folder: Path) -> dict[str, RegisteredRecord]:
    """Records by id; empty before the first iteration."""
    path = folder / REGISTER
    if not path.is_file():
        return {}
    try:
        columns = pq.read_table(path, schema=SCHEMA).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"cannot be read ({error})", where=path, remedy="Restore it, or begin a new series with --fresh."
        ) from None
    columns["role"] = list(map(Role, columns["role"]))
    return {row[0]: RegisteredRecord(*row) for row in zip(*columns.values(), strict=True)}


def write_register(path: Path, records: list[RegisteredRecord]) -> None:
    columns = {name: [getattr(record, name) for record in records] for name in SCHEMA.names}
    pq.write_table(pa.table(columns, SCHEMA), path, compression="zstd")


def compare(register: Mapping[str, RegisteredRecord], current: Mapping[str, tuple[str, int, int]]) -> Changes:
    """Additions, edits and removals.

    Args:
        current: id to (specialty, question key, answer key) of what the files hold now.

    A vanished record and a new one of the same specialty that share the question, or the answer, are one edited record.
    """
    changes = Changes(added=[i for i in current if i not in register])
    changes.returned = [record.id for record in register.values() if record.role == Role.GONE and record.id in current]
    vanished = [record for record in register.values() if record.id not in current and record.role != Role.GONE]
    by_question = {(current[i][0], current[i][1]): i for i in reversed(changes.added)}
    by_answer = {(current[i][0], current[i][2]): i for i in reversed(changes.added)}
    taken: set[str] = set()
    for old in vanished:
        for new in (by_question.get((old.specialty, old.question_key)), by_answer.get((old.specialty, old.answer_key))):
            if new is not None and new not in taken:
                changes.edited[old.id] = new
                taken.add(new)
                break
        else:
            changes.removed.append(old.id)
    changes.added = [i for i in changes.added if i not in taken]
    return changes


def find_renamed_specialties(
    register: Mapping[str, RegisteredRecord], current: Mapping[str, set[tuple[int, int]]]
) -> dict[str, str]:
    """Old name to new, of specialties that have vanished while another came with the same records.

    Args:
        register: records by id, of the vanished specialties among others.
        current: (question key, answer key) of what the files hold now, of each specialty that is new.
    """
    before: dict[str, set[tuple[int, int]]] = {}
    for record in register.values():
        if record.role != Role.GONE:
            before.setdefault(record.specialty, set()).add((record.question_key, record.answer_key))
    found: dict[str, str] = {}
    for old, had in sorted(before.items()):
        shared = {new: len(had & pairs) for new, pairs in sorted(current.items()) if new not in found.values()}
        best = max(shared, key=lambda name: shared[name], default=None)
        if best is not None and shared[best] >= MIN_SHARED_RECORDS * len(had):
            found[old] = best
    return found


def check_shares(shares: Mapping[str, Any], known: list[str], source: str) -> None:
    """UserError where a specialty is unknown or a share is not between 0 and 1."""
    for specialty, share in shares.items():
        if specialty not in known:
            hint = did_you_mean(specialty, known, f"There are {', '.join(known[:5])}, …")
            raise UserError(f"there is no specialty {specialty!r}", where=source, remedy=hint)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            fault = f"is {share!r}; a share is a number from 0 to 1 (0.8 for 80%)"
            raise UserError(fault, where=source, item=specialty)


def count_holdout_evaluation(folder: Path, evaluation: HoldoutEvaluation) -> int:
    """Record that an evaluation has seen this holdout, unless it was recorded before; returns how many have."""
    path = folder / HoldoutEvaluation.FILE
    known = artifacts.read_lines(HoldoutEvaluation, path, drop_torn_tail=True)
    if all(other.fingerprint != evaluation.fingerprint for other in known):
        known.append(evaluation)
        artifacts.write_lines(path, known)
    return len(known)
