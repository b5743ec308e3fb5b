"""Turns scores into tables that compare base and tuned model by metric, check and specialty, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from meerkat_workbench.output import tables
from meerkat_workbench.output.tables import write_rows
from meerkat_workbench.stats import shrinkage, significance
from meerkat_workbench.stats.significance import Estimate
from meerkat_workbench.text import texts
from meerkat_workbench.tuning.artifacts import (
    BASE,
    FEW_SHOT,
    FIXED,
    TUNED,
    CheckComparison,
    MetricComparison,
    SpecialtyPerformance,
    Split,
    SystemComparison,
    Verdict,
)
from meerkat_workbench.tuning.scoring import answer_checks
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable, Column
from meerkat_workbench.tuning.scoring.metric_suite import MetricScores, MetricSuite
from meerkat_workbench.tuning.scoring.score_run import Floors, ScoredAnswers


@dataclass(frozen=True)
class Comparison:
    """The base compared with the tuned model and the other systems.

    Attributes:
        metrics: tuned model against base, a row for each split and metric.
        systems: every system against the base, a row for each split and metric.
        specialties: tuned model against base, a row for each split, metric and specialty.
        checks: tuned model against base, a row for each split and check.
    """

    metrics: list[MetricComparison]
    systems: list[SystemComparison]
    specialties: list[SpecialtyPerformance]
    checks: list[CheckComparison]

    @property
    def headline(self) -> list[MetricComparison]:
        """`headline` of `metrics`."""
        return headline(self.metrics)

    def write(self, folder: Path) -> None:
        write_rows(folder / MetricComparison.FILE, self.metrics, MetricComparison)
        write_rows(folder / SpecialtyPerformance.FILE, self.specialties, SpecialtyPerformance)
        write_rows(folder / CheckComparison.FILE, self.checks, CheckComparison)
        if len({row.model for row in self.systems}) > 1:
            write_rows(folder / SystemComparison.FILE, self.systems, SystemComparison)


def headline(rows: Sequence[MetricComparison]) -> list[MetricComparison]:
    """The rows of the split that gives the headline figures: the holdout, or the first split if no holdout was asked."""
    split = Split.HOLDOUT if any(row.split == Split.HOLDOUT for row in rows) else rows[0].split
    return tables.where(rows, split=split)


def compare(scored: ScoredAnswers, suite: MetricSuite, seed: int) -> Comparison:
    """Compare every system with the base."""
    few_shot = scored.tables.get(FEW_SHOT)
    by_system = {
        name: by_metric(
            scored.base, table, suite, scored.metrics, scored.floors[BASE], scored.floors[name], seed,
            few_shot=few_shot if name != FEW_SHOT else None,
        )
        for name, table in scored.tables.items()
        if name != BASE
    }  # fmt: skip
    return Comparison(
        metrics=by_system[TUNED],
        systems=[SystemComparison.of(row, name) for name, rows in by_system.items() for row in rows],
        specialties=by_specialty(scored.base, scored.tuned, suite, seed, few_shot=few_shot),
        checks=by_check(scored.base, scored.tuned, few_shot=few_shot),
    )


def _pairs(base: AnswerTable, tuned: AnswerTable, split: str, metric: str) -> pd.DataFrame:
    """Specialty and both scores of each question of a split on which both systems have a score."""
    pairs = pd.DataFrame({Column.SPECIALTY: base.specialties, BASE: base.scores(metric), TUNED: tuned.scores(metric)})
    return pairs[base.splits == split].dropna(subset=[BASE, TUNED])


def _paired(pairs: pd.DataFrame, low: float, high: float, seed: int) -> Estimate:
    """The mean difference of the pairs over all specialties, cut to its possible range."""
    differences, strata = list(pairs[TUNED] - pairs[BASE]), list(pairs[Column.SPECIALTY])
    return significance.stratified(differences, strata, test=True, seed=seed).within(low, high)


def verdict(low: float, high: float, suite: MetricSuite, metric: str) -> Verdict:
    """The verdict that the interval of a difference supports; NONE for a descriptive metric."""
    if suite.is_descriptive(metric):
        return Verdict.NONE
    if suite.lower_is_better(metric):
        low, high = -high, -low
    return Verdict.BETTER if low > 0 else Verdict.WORSE if high < 0 else Verdict.NOISE


def by_metric(
    base: AnswerTable, tuned: AnswerTable, suite: MetricSuite, scores: MetricScores, base_floors: Floors, tuned_floors: Floors, seed: int,
    *, few_shot: AnswerTable | None = None,
) -> list[MetricComparison]:  # fmt: skip
    """A row for each split and metric.

    Args:
        few_shot: answers of the few-shot base, with which the tuned model is compared too; None if it was not asked.
    """
    rows = []
    for split in FIXED:
        if not (base.splits == split).any():
            continue
        for metric in suite.names():
            pairs = _pairs(base, tuned, split, metric)
            strata = list(pairs[Column.SPECIALTY])
            low, high = suite.bounds(metric)
            difference = _paired(pairs, low - high, high - low, seed)
            over = pairs.iloc[:0] if few_shot is None else _pairs(few_shot, tuned, split, metric)
            over_difference = _paired(over, low - high, high - low, seed)
            of_base, of_tuned = (significance.stratified(list(pairs[name]), strata).within(low, high) for name in (BASE, TUNED))
            rows.append(
                MetricComparison(
                    split=str(split), metric=metric, n=difference.n, base=of_base.mean, tuned=of_tuned.mean,
                    difference=difference.mean, ci_low=difference.low, ci_high=difference.high, p=difference.p,
                    base_low=of_base.low, base_high=of_base.high, tuned_low=of_tuned.low, tuned_high=of_tuned.high,
                    floor_base=base_floors.get(split, {}).get(metric, math.nan),
                    floor_tuned=tuned_floors.get(split, {}).get(metric, math.nan),
                    verdict=verdict(difference.low, difference.high, suite, metric), lower_is_better=suite.lower_is_better(metric),
                    signature=scores.signatures.get(metric, ""), missing=scores.missing.get(metric, ""),
                    few_shot=float(over[BASE].mean()), over_few_shot=over_difference.mean, over_few_shot_low=over_difference.low,
                    over_few_shot_high=over_difference.high, over_few_shot_p=over_difference.p,
                    over_few_shot_verdict=verdict(over_difference.low, over_difference.high, suite, metric) if len(over) else Verdict.NONE,
                )
            )  # fmt: skip
    return rows


def by_check(base: AnswerTable, tuned: AnswerTable, *, few_shot: AnswerTable | None = None) -> list[CheckComparison]:
    """A row for each split and check.

    Checks that look for English words are made unless the reference is in another language. The p value is two-sided, for the
    hypothesis that both models fail a check equally often (exact McNemar test), and is adjusted over the checks
    (Benjamini-Hochberg).
    """
    rows: list[CheckComparison] = []
    in_english = np.array([texts.is_english(reference) is not False for reference in base.references], bool)
    for split in FIXED:
        answered = ((base.splits == split) & ~base.failed & ~tuned.failed).to_numpy(bool)
        counts = []
        for check, says in answer_checks.CHECKS.items():
            checked = answered & in_english if check in answer_checks.ENGLISH_ONLY else answered
            if checked.any():
                base_fails, tuned_fails = base.fails(check)[checked], tuned.fails(check)[checked]
                only_base, only_tuned = int((base_fails & ~tuned_fails).sum()), int((tuned_fails & ~base_fails).sum())
                examples_fail = None if few_shot is None else int(few_shot.fails(check)[checked].sum())
                counts.append((check, says, base_fails, tuned_fails, examples_fail, only_base, only_tuned))
        p_values = [significance.mcnemar_p(only_base, only_tuned) for *_, only_base, only_tuned in counts]
        adjusted = significance.false_discovery_adjusted(p_values) if counts else []
        rows += [
            CheckComparison(
                split=str(split), check=check, says=says, n=len(base_fails), base=int(base_fails.sum()),
                tuned=int(tuned_fails.sum()),
                only_base=only_base, only_tuned=only_tuned, p=p, p_adjusted=p_adjusted, few_shot=examples_fail,
            )
            for (check, says, base_fails, tuned_fails, examples_fail, only_base, only_tuned), p, p_adjusted in zip(
                counts, p_values, adjusted, strict=True
            )
        ]  # fmt: skip
    return rows


def by_specialty(
    base: AnswerTable, tuned: AnswerTable, suite: MetricSuite, seed: int, *, few_shot: AnswerTable | None = None
) -> list[SpecialtyPerformance]:
    """A row for each split, metric and specialty."""
    rows = []
    for split in FIXED:
        names = sorted(base.of_split(split).specialties.unique())
        for metric in suite.names():
            of_base = _specialties(_pairs(base, tuned, split, metric), names, split, metric, suite, seed)
            over = None if few_shot is None else _pairs(few_shot, tuned, split, metric)
            rows += of_base if over is None else [_with_few_shot(row, over, suite, seed) for row in of_base]
    return rows


def _with_few_shot(row: SpecialtyPerformance, pairs: pd.DataFrame, suite: MetricSuite, seed: int) -> SpecialtyPerformance:
    """The row with the few-shot base; `pairs` are of all specialties."""
    low, high = suite.bounds(row.metric)
    part = pairs[pairs[Column.SPECIALTY] == row.specialty]
    over = significance.paired((part[TUNED] - part[BASE]).tolist(), seed).within(low - high, high - low)
    return msgspec.structs.replace(
        row, few_shot=float(part[BASE].mean()), over_few_shot=over.mean, over_few_shot_low=over.low, over_few_shot_high=over.high
    )


def _specialties(
    pairs: pd.DataFrame, specialties: Sequence[str], split: Split, metric: str, suite: MetricSuite, seed: int
) -> list[SpecialtyPerformance]:
    """One metric on one split; p values are adjusted over the specialties, and differences are shrunk toward their mean."""
    low, high = suite.bounds(metric)
    pairs_by_specialty = [pairs[pairs[Column.SPECIALTY] == specialty] for specialty in specialties]
    differences = [(part[TUNED] - part[BASE]).to_numpy(float) for part in pairs_by_specialty]
    estimates = [significance.paired(values.tolist(), seed).within(low - high, high - low) for values in differences]
    adjusted = significance.false_discovery_adjusted([estimate.p for estimate in estimates])
    rows = []
    for index, (name, shrunk) in enumerate(zip(specialties, _shrunk_means(differences), strict=True)):
        difference, values, part = estimates[index], differences[index], pairs_by_specialty[index]
        of_base, of_tuned = (significance.mean_interval(list(part[system])).within(low, high) for system in (BASE, TUNED))
        sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        unadjusted = verdict(difference.low, difference.high, suite, metric)
        is_significant = adjusted[index] <= significance.ALPHA or unadjusted is Verdict.NONE
        rows.append(
            SpecialtyPerformance(
                split=str(split), metric=metric, specialty=name, n=difference.n, base=of_base.mean, tuned=of_tuned.mean,
                difference=difference.mean, ci_low=difference.low, ci_high=difference.high, p=difference.p,
                tuned_low=of_tuned.low, tuned_high=of_tuned.high,
                detectable=significance.smallest_detectable(sd, difference.n, len(specialties)),
                lower_is_better=suite.lower_is_better(metric), p_adjusted=adjusted[index], shrunk=shrunk,
                verdict=unadjusted if is_significant else Verdict.NOISE,
            )
        )  # fmt: skip
    return rows


def _shrunk_means(groups: Sequence[np.ndarray]) -> list[float]:
    """The shrunk mean of each group; NaN if the group is empty, or if fewer than two groups have values."""
    nonempty = [index for index, group in enumerate(groups) if len(group)]
    shrunk_means = [math.nan] * len(groups)
    if len(nonempty) > 1:
        variance = max(shrinkage.pooled_variance(groups), 1e-12)
        means = np.array([groups[index].mean() for index in nonempty])
        shrunk, _ = shrinkage.shrink(means, variance / np.array([len(groups[index]) for index in nonempty]))
        for index, value in zip(nonempty, shrunk, strict=True):
            shrunk_means[index] = float(value)
    return shrunk_means
