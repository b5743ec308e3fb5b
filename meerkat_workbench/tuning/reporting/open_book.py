"""What passages buy: each model with passages against the same model without, over all questions and by specialty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meerkat_workbench.output import tables
from meerkat_workbench.stats import significance
from meerkat_workbench.stats.significance import ALPHA
from meerkat_workbench.stats.verdicts import Verdict
from meerkat_workbench.tuning.artifacts import ALL, FIXED, HEADLINE_METRICS, OpenBookRow, Split, open_book_name, system_in_words
from meerkat_workbench.tuning.scoring.metric_suite import MetricSuite
from meerkat_workbench.tuning.scoring.score_run import ScoredAnswers


@dataclass(frozen=True)
class OpenBookSummary:
    """Rows of `open_book.csv`, and their sentences.

    Attributes:
        shown: the rows over all specialties of the headline metrics, for the report.
        by_specialty: the rows by specialty of the steering metric, for the report.
    """

    rows: list[OpenBookRow]
    sentences: list[str]
    shown: list[OpenBookRow]
    by_specialty: list[OpenBookRow]

    def write(self, folder: Path) -> None:
        tables.write_rows(folder / OpenBookRow.FILE, self.rows, OpenBookRow)


def summarise(scored: ScoredAnswers, suite: MetricSuite, metric: str, left_out: int, seed: int) -> OpenBookSummary | None:
    """Compare every open-book system with the same system without passages; None if there is none.

    Args:
        metric: the steering metric, which the sentences and the table by specialty are about.
        left_out: passages that repeat a held-out reference.
    """
    pairs = [name for name in scored.tables if open_book_name(name) in scored.tables]
    if not pairs:
        return None
    rows = [row for name in pairs for row in _compare(scored, name, suite, seed)]
    split = Split.HOLDOUT if any(row.split == Split.HOLDOUT for row in rows) else rows[0].split
    of_split = tables.where(rows, split=split)
    sentences = [_sentence(row) for name in pairs for row in tables.where(of_split, model=name, specialty=ALL, metric=metric)]
    if left_out:
        sentences.append(
            f"{left_out} retrieved passages repeat a held-out reference word for word and were left out: the index holds the test."
        )
    shown = [row for row in tables.where(of_split, specialty=ALL) if row.metric in HEADLINE_METRICS]
    return OpenBookSummary(rows, sentences, shown, [row for row in tables.where(of_split, metric=metric) if row.specialty != ALL])


def _compare(scored: ScoredAnswers, name: str, suite: MetricSuite, seed: int) -> list[OpenBookRow]:
    """Rows of one model: for each split and metric all specialties together, and each of them (adjusted by Benjamini-Hochberg)."""
    closed, opened = scored.tables[name], scored.tables[open_book_name(name)]
    rows: list[OpenBookRow] = []
    for split in FIXED:
        for metric in suite.names():
            if not (closed.has_metric(metric) and opened.has_metric(metric)):
                continue
            before, after = closed.scores(metric), opened.scores(metric)
            known = (closed.splits == split) & before.notna() & after.notna()
            if not known.any():
                continue
            specialties = closed.specialties[known]
            whole = _row(split, ALL, metric, name, before[known], after[known], list(specialties), suite, seed)
            each = [_row(split, one, metric, name, before[known][specialties == one], after[known][specialties == one], None, suite, seed)
                    for one in sorted(specialties.unique())]  # fmt: skip
            adjusted = significance.false_discovery_adjusted([row.p for row in each])
            rows += [_decided(whole, whole.p, suite), *(_decided(row, p, suite) for row, p in zip(each, adjusted, strict=True))]
    return rows


def _row(
    split: Split,
    specialty: str,
    metric: str,
    name: str,
    before: object,
    after: object,
    strata: Sequence[str] | None,
    suite: MetricSuite,
    seed: int,
) -> OpenBookRow:
    import numpy as np

    closed, opened = np.asarray(before, float), np.asarray(after, float)
    differences = (opened - closed).tolist()
    low, high = suite.bounds(metric)
    found = (
        significance.stratified(differences, strata, test=True, seed=seed) if strata else significance.paired(differences, seed)
    )
    found = found.within(low - high, high - low)
    return OpenBookRow(
        model=name, split=str(split), specialty=specialty, metric=metric, n=found.n, closed=float(closed.mean()), open=float(opened.mean()),
        difference=found.mean, ci_low=found.low, ci_high=found.high, p=found.p,
    )  # fmt: skip


def _decided(row: OpenBookRow, p: float, suite: MetricSuite) -> OpenBookRow:
    import msgspec

    decided = Verdict.NONE if suite.is_descriptive(row.metric) else Verdict.of_test(
        row.difference, p, ALPHA, lower_is_better=suite.lower_is_better(row.metric))  # fmt: skip
    return msgspec.structs.replace(row, p_adjusted=p, verdict=decided)


def _sentence(row: OpenBookRow) -> str:
    said = {Verdict.BETTER: "answers better with passages", Verdict.WORSE: "answers worse with passages"}.get(
        Verdict(row.verdict), "answers no differently with passages, beyond noise"
    )
    name = system_in_words(row.model)
    return (f"With passages: {name} {said}: {row.metric} {row.closed:.3f} to {row.open:.3f}, {row.difference:+.3f} "
            f"(95% interval {row.ci_low:+.3f} to {row.ci_high:+.3f}), {row.n} questions.")  # fmt: skip
