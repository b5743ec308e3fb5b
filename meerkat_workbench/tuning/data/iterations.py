"""What later iterations need to know of earlier ones: the register of records, and how often a holdout was evaluated.

`register.parquet` has a row for each record ever seen, so that additions, edits and removals can be distinguished. The ledger,
`iterations.jsonl`, consists of `artifacts.IterationRecord`.
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
ARCHIVED_REGISTER = "register_then.parquet"  # a copy of the register that is archived with its iteration
KEPT_IN_PLACE = (IterationRecord.FILE, REGISTER, HoldoutEvaluation.FILE)  # not moved when an iteration is archived
SCHEMA = pa.schema(
    [("id", pa.string()), ("specialty", pa.string()), ("question_key", pa.int64()), ("answer_key", pa.int64()),
     ("origin", pa.string()), ("since", pa.int32()), ("role", pa.string())]
)  # fmt: skip
MIN_SHARED_FRACTION = 0.9  # of a vanished specialty's records, in a new one that counts as the same specialty, renamed


@dataclass(slots=True)
class RegisteredRecord:
    """The row of a record in the register.

    Attributes:
        origin: id under which it was first seen; edits do not change it.
        since: iteration in which it was first seen.
        role: its fixed set, open, or gone while the files lack it.
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
    """How the files differ from the register, by record ids. `edited` maps old ids to new ones; `returned` were gone before."""

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
            f"cannot be read ({error})", where=path, remedy="Restore it, or start a new series with --fresh."
        ) from None
    columns["role"] = list(map(Role, columns["role"]))
    return {row[0]: RegisteredRecord(*row) for row in zip(*columns.values(), strict=True)}


def write_register(path: Path, records: list[RegisteredRecord]) -> None:
    columns = {name: [getattr(record, name) for record in records] for name in SCHEMA.names}
    pq.write_table(pa.table(columns, SCHEMA), path, compression="zstd")


def compare(register: Mapping[str, RegisteredRecord], current: Mapping[str, tuple[str, int, int]]) -> Changes:
    """Additions, edits and removals.

    A vanished record and a new one of the same specialty with the same question, or the same answer, are one edited record.

    Args:
        current: (specialty, question key, answer key) of each record that the files have now, by id.
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
    """Old name to new name of specialties that have vanished while a new one has the same records.

    Args:
        register: records of the vanished specialties, by id.
        current: (question key, answer key) of each record of the new specialties, by specialty.
    """
    before: dict[str, set[tuple[int, int]]] = {}
    for record in register.values():
        if record.role != Role.GONE:
            before.setdefault(record.specialty, set()).add((record.question_key, record.answer_key))
    renamed: dict[str, str] = {}
    for old, pairs_before in sorted(before.items()):
        shared = {new: len(pairs_before & pairs) for new, pairs in sorted(current.items()) if new not in renamed.values()}
        best = max(shared, key=lambda name: shared[name], default=None)
        if best is not None and shared[best] >= MIN_SHARED_FRACTION * len(pairs_before):
            renamed[old] = best
    return renamed


def check_shares(shares: Mapping[str, Any], known: list[str], source: str) -> None:
    """UserError if a specialty is unknown or a share is not between 0 and 1."""
    for specialty, share in shares.items():
        if specialty not in known:
            hint = did_you_mean(specialty, known, f"The specialties are {', '.join(known[:5])}, …")
            raise UserError("there is no such specialty", where=source, item=specialty, remedy=hint)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            fault = f"is {share!r}; a share is a number from 0 to 1 (0.8 for 80%)"
            raise UserError(fault, where=source, item=specialty)


def count_holdout_evaluation(folder: Path, evaluation: HoldoutEvaluation) -> int:
    """Record that an evaluation has used this holdout, unless it is recorded already; returns how many have used it."""
    path = folder / HoldoutEvaluation.FILE
    recorded = artifacts.read_lines(HoldoutEvaluation, path, drop_torn_tail=True)
    if all(other.fingerprint != evaluation.fingerprint for other in recorded):
        recorded.append(evaluation)
        artifacts.write_lines(path, recorded)
    return len(recorded)
