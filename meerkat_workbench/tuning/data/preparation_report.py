"""The report at the end of a preparation: sizes, changes and notes."""

from __future__ import annotations

from pathlib import Path

from meerkat_workbench.tuning.artifacts import (
    FIXED,
    ContaminationSummary,
    DatasetManifest,
    DatasetStatistics,
    IterationRecord,
    SetAsideRecord,
    Split,
    read_ledger,
)
from meerkat_workbench.tuning.data import renames

MAX_MOVES_SHOWN = 12
MAX_CONTAMINATED_SHOWN = 6


def print_report(folder: Path, manifest: DatasetManifest, *, up_to_date: bool) -> bool:
    """Print the report of the present iteration; returns whether it can be trained on and evaluated."""
    ledger = read_ledger(folder)
    record, previous = ledger[-1], ledger[-2] if len(ledger) > 1 else None
    state = "up to date" if up_to_date else f"prepared in {manifest.seconds} s"
    restored = f", the sets of iteration {record.restored_from}" if record.restored_from is not None else ""
    print(f"\niteration {record.iteration}{restored}: {state}")
    _print_sizes(record)
    if record.contamination:
        _print_contamination(record.contamination, folder)
    if record.notes.identical_dropped:
        print(f"  {record.notes.identical_dropped} identical pairs were dropped")
    if record.notes.invalid_skipped:
        print(f"  {record.notes.invalid_skipped} invalid records were left out (SKIP_INVALID=True)")
    if record.small_specialties:
        names = ", ".join(f"{name} ({count})" for name, count in record.small_specialties.items())
        print(f"  too small for a full holdout, so it holds fewer questions: {names}")
    if previous is not None:
        _print_changes(record, previous)
    details = (DatasetStatistics.FILE, SetAsideRecord.FILE, IterationRecord.FILE)
    print(f"  details: {', '.join(str(folder / name) for name in details)}")
    empty = [split for split in (Split.EVAL, Split.TRAIN) if not record.sizes.total(split)]
    if empty:
        names = " and ".join(empty)
        print(
            f"nothing can be trained and evaluated yet, because there are no records for {names}. Add records with other questions."
        )
    return not empty


def _print_sizes(record: IterationRecord) -> None:
    set_aside = sum(record.sizes.set_aside.values())
    print(f"  {len(record.shares)} specialties, {sum(map(record.sizes.total, Split)) + set_aside} records")
    or_benchmark = " or benchmark question" if record.contamination else ""
    for name, count, what in (
        ("holdout", record.sizes.total(Split.HOLDOUT), "fixed, never trained on, gives the headline figures"),
        ("eval", record.sizes.total(Split.EVAL), "fixed, never trained on, steers the next iteration"),
        ("train", record.sizes.total(Split.TRAIN), "grows"),
        ("pool", record.sizes.total(Split.POOL), "waits for later iterations"),
        ("set aside", set_aside, f"repeats a fixed record{or_benchmark}, so it is left out"),
    ):
        print(f"  {name:<10}{count:>9,}   {what}")


def _print_contamination(summary: ContaminationSummary, folder: Path) -> None:
    """Which benchmark questions the files contain."""
    print(f"  {summary.records} records contain one of {summary.questions:,} benchmark questions and are not trained on")
    for name, counts in (("in", summary.by_file), ("by", summary.by_kind)):
        if counts:
            shown = ", ".join(f"{what} {count}" for what, count in list(counts.items())[:MAX_CONTAMINATED_SHOWN])
            print(f"    {name} {shown}")
    if summary.records:
        print(f"    each is listed in {folder / SetAsideRecord.FILE} with the benchmark question")


def _print_changes(record: IterationRecord, previous: IterationRecord) -> None:
    """What changed since the previous iteration."""
    _print_specialties(record)
    _print_moves(record, renames.with_new_names(previous, record.specialties.renamed if record.specialties else {}))
    changes = record.changes
    returned = f", {changes.returned} came back" if changes.returned else ""
    print(
        f"  since iteration {previous.iteration}: {changes.added} records added, {changes.edited} edited, "
        f"{changes.removed} removed upstream{returned}"
    )
    if changes.fixed_waiting:
        print(
            f"  {changes.fixed_waiting} of the edited or removed records are in a fixed set, which keeps the old text (listed in "
            f"{DatasetStatistics.FILE}). --accept-edits takes the new text, but then scores do not compare with earlier iterations."
        )
    if record.comparability_break:
        print(f"  scores do not compare with earlier iterations: {record.comparability_break}")


def _print_specialties(record: IterationRecord) -> None:
    """Specialties added, removed, returned or renamed."""
    changes, sizes = record.specialties, record.sizes
    if changes is None:
        return
    for old, new in changes.renamed.items():
        print(f"  {old} is now called {new} (recognised by its records); it keeps its sets, its share and its curve")
    for name in changes.added:
        held = ", ".join(f"{sizes.of(split).get(name, 0)} {split}" for split in (Split.HOLDOUT, Split.EVAL, Split.TRAIN))
        print(f"  new specialty {name}: {held}; overall scores include its questions from now on")
    for name in changes.removed:
        fixed = sum(sizes.of(split).get(name, 0) for split in FIXED)
        kept = f"its {fixed} fixed questions are kept, so that scores compare (--accept-edits drops them)"
        print(f"  {name} has no records any more and is not trained on; {kept if fixed else 'it is gone'}")
    for name in changes.returned:
        print(f"  {name} has records again and continues as before")


def _print_moves(record: IterationRecord, previous: IterationRecord) -> None:
    """Specialties whose number of training records changed, with their shares."""
    train, train_before = record.sizes.train, previous.sizes.train
    moved = [name for name in record.shares if train.get(name, 0) != train_before.get(name, 0)]
    for name in moved[:MAX_MOVES_SHOWN]:
        print(
            f"  {name:<28} share {previous.shares.get(name, 0):.2f} -> {record.shares[name]:.2f}"
            f"   train {train_before.get(name, 0)} -> {train.get(name, 0)}"
        )
    if len(moved) > MAX_MOVES_SHOWN:
        print(f"  … and {len(moved) - MAX_MOVES_SHOWN} more")
    if not moved:
        print("  no specialty's share changed")
