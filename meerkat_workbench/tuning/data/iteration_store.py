"""Writing an iteration: its splits, its line of the ledger, its statistics and the register of records."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from meerkat_workbench.core import artifacts, files, runs
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.artifacts import (
    FIXED,
    ContaminationSummary,
    DatasetStatistics,
    IterationRecord,
    LoadNotes,
    Role,
    SetAsideRecord,
    Sizes,
    SpecialtyChanges,
    SpecialtyStatistics,
    Split,
    SplitHashes,
    UpstreamChanges,
)
from meerkat_workbench.tuning.data import dataset_folders, iterations
from meerkat_workbench.tuning.data.iterations import RegisteredRecord
from meerkat_workbench.tuning.data.record_index import RecordIndex
from meerkat_workbench.tuning.data.share_requests import IterationRequest
from meerkat_workbench.tuning.data.specialty_files import LoadedRecords
from meerkat_workbench.tuning.data.split_assignment import BENCHMARK, SplitPlan


def check_same_series(folder: Path, ledger: Sequence[IterationRecord], now: Mapping[str, object]) -> None:
    """UserError if settings would draw other fixed sets than those of the series in `folder`.

    Args:
        now: the settings on which the fixed sets depend.
    """
    earlier = ledger[-1].settings if ledger else now
    for name in {**earlier, **now}:  # a setting that was added later is in neither at the value that changes nothing
        before, value = earlier.get(name), now.get(name)
        if before != value:
            raise UserError(
                f"was {before!r} when the fixed sets were drawn and is {value!r} now, so scores would not compare",
                where=folder,
                item=name,
                remedy="Set it back, name another OUTPUT_DIR, or start a new series here with --fresh (the old one moves to the "
                "archive folder).",
            )


def iteration_record(
    plan: SplitPlan,
    index: RecordIndex,
    last: IterationRecord | None,
    request: IterationRequest,
    loaded: LoadedRecords,
    *,
    benchmark_questions: int | None,
) -> IterationRecord:
    """The line that this iteration adds to the ledger.

    Args:
        last: the previous iteration, under the specialties' present names.
        benchmark_questions: number of benchmark questions; None if no benchmark was given.
    """
    breaks = []
    if index.accepted:
        breaks.append(f"{index.accepted} edits of fixed records were accepted")
    if last is not None and last.template_sha256 != request.template_sha256:
        breaks.append("the system message or the chat template changed")
    changes = index.changes
    hashes = {split: files.sha256_of(sorted(item.record.id for item in items)) for split, items in plan.splits.items()}
    return IterationRecord(
        iteration=index.iteration,
        made=runs.now(),
        derived_from=last.hashes if last else None,
        adjustments=dict(request.adjustments),
        specialty_adjustments=dict(request.written),
        recommendations_sha256=request.recommendations_sha256,
        comparability_break="; ".join(breaks),
        changes=UpstreamChanges(
            added=len(changes.added) if last else 0, edited=len(changes.edited), removed=len(changes.removed),
            returned=len(changes.returned), fixed_waiting=len(index.fixed_waiting),
        ),
        specialties=_specialty_changes(index, plan, last),
        original_names=index.original_names,
        shares=plan.shares,
        share_base=plan.share_base,
        capped=plan.capped,
        small_specialties=plan.small,
        sizes=_sizes(plan),
        hashes=SplitHashes(**{str(split): digest for split, digest in hashes.items()}),
        template_sha256=request.template_sha256,
        settings=dict(request.settings),
        notes=LoadNotes(loaded.identical_dropped, loaded.invalid_skipped),
        contamination=None if benchmark_questions is None else contamination_summary(plan.set_aside, benchmark_questions),
    )  # fmt: skip


def _sizes(plan: SplitPlan) -> Sizes:
    counts = {str(split): Counter(item.record.specialty for item in items) for split, items in plan.splits.items()}
    counts["set_aside"] = Counter(record.specialty for record in plan.set_aside)
    return Sizes(**{name: dict(sorted(of_split.items())) for name, of_split in counts.items()})


def _specialty_changes(index: RecordIndex, plan: SplitPlan, last: IterationRecord | None) -> SpecialtyChanges:
    """Specialties added, removed, returned or renamed since the previous iteration. `last` already has the new names."""
    before, was_absent = (set(last.shares), set(last.absent)) if last else (set(), set())
    absent = before - index.specialties
    return SpecialtyChanges(
        added=tuple(sorted(set(plan.shares) - before)) if last else (),
        removed=tuple(sorted(absent - was_absent)),
        returned=tuple(sorted(was_absent & index.specialties)),
        renamed=index.renamed,
        absent=tuple(sorted(absent)),
    )


def contamination_summary(set_aside: Sequence[SetAsideRecord], questions: int) -> ContaminationSummary:
    """Number of benchmark questions, and of the records that were left out because of them."""
    contaminated = [record for record in set_aside if record.split == BENCHMARK]
    return ContaminationSummary(
        questions=questions,
        records=len(contaminated),
        by_file=dict(Counter(record.like for record in contaminated).most_common()),
        by_kind=dict(Counter(record.reason for record in contaminated).most_common()),
    )


def write(
    folder: Path, plan: SplitPlan, index: RecordIndex, ledger: Sequence[IterationRecord], chat_format: chat.ChatFormat
) -> None:
    """Write an iteration into an empty folder, without its manifest."""
    for split, items in plan.splits.items():
        records = [item.record for item in items]
        dataset_folders.write_split(folder / dataset_folders.FOLDERS[split], records, chat_format)
    artifacts.write_lines(folder / SetAsideRecord.FILE, plan.set_aside)
    artifacts.write_lines(folder / IterationRecord.FILE, ledger)
    artifacts.write(folder / DatasetStatistics.FILE, _statistics(plan, index, ledger[-1]))
    roles = {item.record.id: Role(split) for split in FIXED for item in plan.splits[split]}
    present = [
        RegisteredRecord(
            item.record.id, item.record.specialty, int(index.fingerprints.question_keys[row]),
            int(index.fingerprints.answer_keys[row]), item.origin, item.since, roles.get(item.record.id, Role.OPEN),
        )
        for row, item in enumerate(index.items)
        if item.record.id not in index.pending
    ]  # fmt: skip
    iterations.write_register(folder / iterations.REGISTER, present + index.gone)
    shutil.copyfile(folder / iterations.REGISTER, folder / iterations.ARCHIVED_REGISTER)


def _statistics(plan: SplitPlan, index: RecordIndex, record: IterationRecord) -> DatasetStatistics:
    rows: dict[str, list[int]] = {}
    for row, item in enumerate(index.items):
        rows.setdefault(item.record.specialty, []).append(row)
    words = {name: index.fingerprints.word_counts[rows[name]].mean(axis=0) for name in plan.shares}
    sizes = {split: record.sizes.of(split) for split in Split}
    return DatasetStatistics(
        iteration=record.iteration,
        total={**{str(split): sum(counts.values()) for split, counts in sizes.items()},
               "set_aside": sum(record.sizes.set_aside.values())},
        specialties={
            name: SpecialtyStatistics(
                share=plan.shares[name],
                share_base=plan.share_base[name],
                **{str(split): counts.get(name, 0) for split, counts in sizes.items()},
                set_aside=record.sizes.set_aside.get(name, 0),
                question_words_mean=round(float(words[name][0]), 1),
                answer_words_mean=round(float(words[name][1]), 1),
            )
            for name in plan.shares
        },
        fixed_records_changed_upstream=tuple(index.fixed_waiting),
    )  # fmt: skip
