"""A series of iterations in one folder: fixed sets drawn once, training samples nested, nothing overwritten.

`dataset_preparation.py` calls these in turn: take stock of the records, split them, write the new iteration beside the
present one, and let them change places.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench import files, manifest
from workbench.data import contamination, dataset_folders, iterations
from workbench.data.dataset_folders import FIXED
from workbench.data.near_duplicates import Fingerprints, FixedIndex, fingerprint
from workbench.data.records import Record, record_id
from workbench.data.splits import Item, draw_stratified, holdout_size, in_order
from workbench.errors import UserError, began_afresh
from workbench.shares import rounded

STATISTICS = "dataset_stats.json"


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


@dataclass
class Plan:
    """The splits of an iteration, in the order they are written."""

    splits: dict[str, list[Item]]
    set_aside: list[dict[str, str]]
    shares: dict[str, float]
    bases: dict[str, int]
    capped: dict[str, int]  # specialties whose share asks for more than there is: records missing
    small: dict[str, int] = field(default_factory=dict)


def check_same_series(folder: Path, last: dict[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse settings that would draw other fixed sets than those of the series in `folder`."""
    for name, value in now.items():
        if last["settings"].get(name) != value:
            raise UserError(
                f"{folder}: {name} was {last['settings'].get(name)!r} when its fixed sets were drawn, now it is {value!r}. "
                "Scores would not compare. Put it back, name another OUTPUT_DIR, or begin a new series here with "
                "--fresh (the old one moves to its archive folder)."
            )


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
    template: dataset_folders.Template,
    system_message: str,
) -> Path:
    """Write an iteration whole into a folder beside the present one; returns it, still without its manifest."""
    building = folder / manifest.BUILDING
    files.remove(building)
    building.mkdir(parents=True)
    for name, items in plan.splits.items():
        records = [item.record for item in items]
        dataset_folders.write_split(building / dataset_folders.SPLITS[name], records, template, system_message)
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
