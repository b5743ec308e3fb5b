"""Assigning every record of a catalogue to holdout, eval, train, pool, or to what is set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.data import contamination, dataset_folders
from workbench.data.catalogue import Catalogue
from workbench.data.dataset_folders import FIXED
from workbench.data.near_duplicates import FixedIndex
from workbench.data.splits import Item, draw_stratified, holdout_size, in_order
from workbench.shares import rounded


@dataclass
class Plan:
    """The splits of an iteration, in the order they are written."""

    splits: dict[str, list[Item]]
    set_aside: list[dict[str, str]]
    shares: dict[str, float]
    bases: dict[str, int]
    capped: dict[str, int]  # specialties whose share asks for more than there is: records missing
    small: dict[str, int] = field(default_factory=dict)


def split(
    catalogue: Catalogue,
    last: dict[str, Any] | None,
    *,
    shares: Mapping[str, float],
    first_shares: Mapping[str, float],
    holdout_wanted: int,
    eval_share: float,
    threshold: float,
    seed: int,
    contaminated: Mapping[int, tuple[str, contamination.BenchmarkQuestion]],
) -> Plan:
    """Assign every record to holdout, eval, train, pool or set-aside.

    Args:
        shares: absolute shares by specialty: (train + eval) / R, R being all records but the holdout.
        first_shares: for specialties that `shares` does not name.
        eval_share: the eval set's part of a specialty's first share.
        contaminated: rows of the catalogue that hold a benchmark's question, which are not trained on.
    """
    state = _Assignment(catalogue, threshold)
    by_specialty = state.rows_by_specialty()
    counted = last["share_base"] if last else {}
    new = [specialty for specialty in by_specialty if specialty not in counted]
    full_shares = {name: float(shares.get(name, first_shares.get(name, 0.0))) for name in by_specialty}

    state.set_aside_like([row for row, role in enumerate(catalogue.roles) if role in FIXED])
    drawn: list[int] = []
    for specialty in new:
        rows = by_specialty[specialty]
        count = holdout_size(len(rows), holdout_wanted)
        drawn += state.draw(state.open_rows(rows), count, seed, "holdout")
    state.set_aside_like(drawn)

    bases = {}
    for specialty, rows in by_specialty.items():
        held = sum(state.roles[row] == "holdout" for row in rows)
        bases[specialty] = (
            counted[specialty] + catalogue.added_by_specialty[specialty] if specialty in counted else len(rows) - held
        )

    orders = {specialty: state.in_order(rows, seed) for specialty, rows in by_specialty.items()}
    drawn = []
    for specialty in new:
        first = rounded(full_shares[specialty], bases[specialty])
        order = orders[specialty]
        drawn += state.draw(
            state.whole_groups(order[:first], order), max(rounded(eval_share, first), min(1, first // 2)), seed, "eval"
        )
    state.set_aside_like(drawn)

    state.set_aside_contaminated(contaminated)
    splits: dict[str, list[Item]] = {name: [] for name in dataset_folders.SPLITS}
    plan = Plan(splits, state.describe_set_aside(), full_shares, bases, {})
    for specialty, rows in by_specialty.items():
        for name in FIXED:
            members = [catalogue.items[row] for row in rows if state.roles[row] == name]
            splits[name] += sorted(members, key=lambda item: item.origin)
        order = state.open_rows(orders[specialty])
        evaluated = sum(state.roles[row] == "eval" for row in rows)
        wanted = max(0, rounded(full_shares[specialty], bases[specialty]) - evaluated)
        if wanted > len(order):
            plan.capped[specialty] = wanted - len(order)
        splits["train"] += [catalogue.items[row] for row in order[:wanted]]
        splits["pool"] += [catalogue.items[row] for row in order[wanted:]]
        held = sum(state.roles[row] == "holdout" for row in rows)
        if held < holdout_wanted:
            plan.small[specialty] = held
    return plan


class _Assignment:
    """Roles of the rows of a catalogue while the fixed sets are drawn."""

    def __init__(self, catalogue: Catalogue, threshold: float) -> None:
        self.items, self.prints, self.roles = catalogue.items, catalogue.prints, list(catalogue.roles)
        self.threshold = threshold
        self.reasons: dict[int, dict[str, str]] = {}  # of rows that are set aside: what they are like

    def rows_by_specialty(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, item in enumerate(self.items):
            rows.setdefault(item.record.specialty, []).append(row)
        return dict(sorted(rows.items()))

    def open_rows(self, rows: Sequence[int]) -> list[int]:
        return [row for row in rows if self.roles[row] == "open"]

    def in_order(self, rows: Sequence[int], seed: int) -> list[int]:
        """Open rows in the order in which training takes them."""
        row_of = {self.items[row].record.id: row for row in self.open_rows(rows)}
        return [row_of[item.record.id] for item in in_order((self.items[row] for row in row_of.values()), seed)]

    def whole_groups(self, rows: Sequence[int], among: Sequence[int]) -> list[int]:
        """Those of `rows` all of whose records with the same question, among `among`, are in `rows` too."""
        outside = {self.items[row].question_key for row in set(among) - set(rows)}
        return [row for row in rows if self.items[row].question_key not in outside]

    def draw(self, rows: Sequence[int], count: int, seed: int, role: str) -> list[int]:
        row_of = {self.items[row].record.id: row for row in rows}
        chosen = [row_of[item.record.id] for item in draw_stratified([self.items[r] for r in rows], count, seed, role)]
        for row in chosen:
            self.roles[row] = role
        return chosen

    def set_aside_like(self, fixed_rows: Sequence[int]) -> None:
        """Take out of train and pool whatever says the same as one of these rows."""
        if not fixed_rows:
            return
        index = FixedIndex([self.items[row].record for row in fixed_rows], self.prints.take(fixed_rows), self.threshold)
        role_of = {self.items[row].record.id: self.roles[row] for row in fixed_rows}
        rows = self.open_rows(range(len(self.items)))
        found = index.matches([self.items[row].record for row in rows], self.prints.take(rows))
        for place, (reason, other) in found.items():
            self._set_aside(rows[place], reason, role_of[other.id], other.id, other.specialty, other.question)

    def set_aside_contaminated(self, contaminated: Mapping[int, tuple[str, contamination.BenchmarkQuestion]]) -> None:
        for row, (reason, question) in contaminated.items():
            if self.roles[row] == "open":
                self._set_aside(row, reason, contamination.SET, question.name, "", question.text)

    def _set_aside(self, row: int, reason: str, split: str, like: str, like_specialty: str, like_question: str) -> None:
        self.roles[row] = "set_aside"
        self.reasons[row] = {
            "reason": reason,
            "split": split,
            "like": like,
            "like_specialty": like_specialty,
            "like_question": like_question,
        }

    def describe_set_aside(self) -> list[dict[str, str]]:
        listed = [
            {"id": self.items[row].record.id, "specialty": self.items[row].record.specialty,
             "question": self.items[row].record.question, **reason}
            for row, reason in self.reasons.items()
        ]  # fmt: skip
        return sorted(listed, key=lambda item: (item["specialty"], item["id"]))
