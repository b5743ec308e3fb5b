"""Assignment of every record of an index: to holdout, eval, train or pool, or set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from meerkat_workbench.text.contamination import Contaminated
from meerkat_workbench.text.near_duplicates import FixedIndex
from meerkat_workbench.tuning.artifacts import FIXED, IterationRecord, Role, SetAsideRecord, Split
from meerkat_workbench.tuning.data.record_index import FIXED_ROLES, RecordIndex
from meerkat_workbench.tuning.data.records import Record
from meerkat_workbench.tuning.data.splits import SplitItem, draw_stratified, holdout_size, pool_order
from meerkat_workbench.tuning.shares import records_for_share

BENCHMARK = "benchmark"  # in place of the split, if a set-aside record contains a benchmark question


@dataclass(frozen=True)
class SplitSettings:
    """How records are divided.

    Attributes:
        shares: absolute shares by specialty: (train + eval) / R, where R is all records but the holdout.
        first_shares: shares of specialties that are not in `shares`.
        holdout_size: wanted holdout questions of each specialty.
        eval_fraction: fraction of a specialty's first share that becomes its eval set.
        threshold: Jaccard index from which two records are near-duplicates; 0 turns that off.
    """

    shares: Mapping[str, float]
    first_shares: Mapping[str, float]
    holdout_size: int
    eval_fraction: float
    threshold: float
    seed: int


@dataclass
class SplitPlan:
    """The splits of an iteration, in the order of the files.

    Attributes:
        share_base: number of records of each specialty without the holdout, to which shares refer.
        capped: number of records that a share asks for but that do not exist, by specialty.
        small: number of holdout questions of specialties with fewer than wanted.
    """

    splits: dict[Split, list[SplitItem]]
    set_aside: list[SetAsideRecord]
    shares: dict[str, float]
    share_base: dict[str, int]
    capped: dict[str, int] = field(default_factory=dict)
    small: dict[str, int] = field(default_factory=dict)


def assign_splits(
    index: RecordIndex, last: IterationRecord | None, settings: SplitSettings, contaminated: Contaminated
) -> SplitPlan:
    """Assign every record.

    First, fixed sets are drawn for specialties that have none. Then every record that repeats a fixed one is set aside. The rest goes
    to train up to the share of the specialty, and to the pool.

    Args:
        last: the previous iteration; None for the first.
        contaminated: rows of the index that contain a benchmark question; they are not trained on.
    """
    state = _Assignment(index, settings)
    base_before = last.share_base if last else {}
    by_specialty = state.rows_by_specialty()
    new = [specialty for specialty in by_specialty if specialty not in base_before]
    shares = {name: float(settings.shares.get(name, settings.first_shares.get(name, 0.0))) for name in by_specialty}

    state.set_aside_repeats([row for row, role in enumerate(index.roles) if role in FIXED_ROLES])
    state.draw_holdout({name: by_specialty[name] for name in new})
    share_base = {
        name: base_before[name] + index.added_by_specialty[name]
        if name in base_before
        else len(rows) - state.count(rows, Role.HOLDOUT)
        for name, rows in by_specialty.items()
    }
    orders = {name: state.in_pool_order(rows) for name, rows in by_specialty.items()}
    state.draw_eval(
        {name: orders[name] for name in new}, {name: records_for_share(shares[name], share_base[name]) for name in new}
    )
    state.set_aside_contaminated(contaminated)

    plan = SplitPlan({split: [] for split in Split}, state.describe_set_aside(), shares, share_base)
    for name, rows in by_specialty.items():
        state.fill_splits(plan, name, rows, orders[name])
    return plan


class _Assignment:
    """Roles of the rows of an index while the fixed sets are drawn."""

    def __init__(self, index: RecordIndex, settings: SplitSettings) -> None:
        self.items, self.fingerprints, self.roles = index.items, index.fingerprints, list(index.roles)
        self.settings = settings
        self.repeats: dict[int, SetAsideRecord] = {}  # by row

    def rows_by_specialty(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, item in enumerate(self.items):
            rows.setdefault(item.record.specialty, []).append(row)
        return dict(sorted(rows.items()))

    def count(self, rows: Sequence[int], role: Role) -> int:
        return sum(self.roles[row] == role for row in rows)

    def open_rows(self, rows: Sequence[int]) -> list[int]:
        return [row for row in rows if self.roles[row] == Role.OPEN]

    def in_pool_order(self, rows: Sequence[int]) -> list[int]:
        """Open rows, in the order in which training takes them."""
        row_of = {self.items[row].record.id: row for row in self.open_rows(rows)}
        return [row_of[item.record.id] for item in pool_order((self.items[row] for row in row_of.values()), self.settings.seed)]

    # --- drawing

    def draw_holdout(self, rows_of: Mapping[str, Sequence[int]]) -> None:
        """Draw the holdout of new specialties, and set aside records that repeat it."""
        drawn: list[int] = []
        for rows in rows_of.values():
            count = holdout_size(len(rows), self.settings.holdout_size)
            drawn += self._draw(self.open_rows(rows), count, Role.HOLDOUT)
        self.set_aside_repeats(drawn)

    def draw_eval(self, orders: Mapping[str, Sequence[int]], first_records: Mapping[str, int]) -> None:
        """Draw the eval set of new specialties from their first share, and set aside records that repeat it."""
        drawn: list[int] = []
        for name, order in orders.items():
            first = first_records[name]
            count = max(records_for_share(self.settings.eval_fraction, first), min(1, first // 2))
            drawn += self._draw(self._complete_groups(order[:first], order), count, Role.EVAL)
        self.set_aside_repeats(drawn)

    def _complete_groups(self, rows: Sequence[int], among: Sequence[int]) -> list[int]:
        """The rows that have no record with the same question outside of `rows`, among `among`."""
        outside = {self.items[row].question_key for row in set(among) - set(rows)}
        return [row for row in rows if self.items[row].question_key not in outside]

    def _draw(self, rows: Sequence[int], count: int, role: Role) -> list[int]:
        row_of = {self.items[row].record.id: row for row in rows}
        drawn = draw_stratified([self.items[row] for row in rows], count, self.settings.seed, role)
        chosen = [row_of[item.record.id] for item in drawn]
        for row in chosen:
            self.roles[row] = role
        return chosen

    # --- setting aside

    def set_aside_repeats(self, fixed_rows: Sequence[int]) -> None:
        """Set aside every open record that repeats one of these rows."""
        if not fixed_rows:
            return
        records = [self.items[row].record for row in fixed_rows]
        index = FixedIndex(records, self.fingerprints.take(fixed_rows), self.settings.threshold)
        role_of = {self.items[row].record.id: self.roles[row] for row in fixed_rows}
        rows = self.open_rows(range(len(self.items)))
        matches = index.matches([self.items[row].record for row in rows], self.fingerprints.take(rows))
        for position, (reason, other) in matches.items():
            self._set_aside(rows[position], reason, role_of[other.id], other.id, other)

    def set_aside_contaminated(self, contaminated: Contaminated) -> None:
        """Set aside every open record that contains a benchmark question."""
        for row, (reason, question) in contaminated.items():
            if self.roles[row] == Role.OPEN:
                self._set_aside(row, reason, BENCHMARK, question.name, Record(question.name, "", question.text, ""))

    def _set_aside(self, row: int, reason: str, split: str, like: str, other: Record) -> None:
        record = self.items[row].record
        self.roles[row] = Role.SET_ASIDE
        self.repeats[row] = SetAsideRecord(
            id=record.id, specialty=record.specialty, question=record.question, reason=reason, split=str(split), like=like,
            like_specialty=other.specialty, like_question=other.question,
        )  # fmt: skip

    def describe_set_aside(self) -> list[SetAsideRecord]:
        return sorted(self.repeats.values(), key=lambda record: (record.specialty, record.id))

    # --- the result

    def fill_splits(self, plan: SplitPlan, specialty: str, rows: Sequence[int], order: Sequence[int]) -> None:
        """Put a specialty's records into the splits of the plan. `order` are its rows in pool order."""
        for split in FIXED:
            members = [self.items[row] for row in rows if self.roles[row] == Role(split)]
            plan.splits[split] += sorted(members, key=lambda item: item.origin)
        free = self.open_rows(order)
        wanted = records_for_share(plan.shares[specialty], plan.share_base[specialty]) - self.count(rows, Role.EVAL)
        wanted = max(0, wanted)
        if wanted > len(free):
            plan.capped[specialty] = wanted - len(free)
        plan.splits[Split.TRAIN] += [self.items[row] for row in free[:wanted]]
        plan.splits[Split.POOL] += [self.items[row] for row in free[wanted:]]
        holdout = self.count(rows, Role.HOLDOUT)
        if holdout < self.settings.holdout_size:
            plan.small[specialty] = holdout
