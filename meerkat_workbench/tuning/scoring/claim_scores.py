"""Compares systems by the claims of their answers, paired by question."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from meerkat_workbench.output.tables import read_rows, write_rows
from meerkat_workbench.stats import significance
from meerkat_workbench.tuning.artifacts import BASE, TUNED, ClaimComparison, ClaimMeasure, ClaimRow, ClaimScore, Verdict
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable

if TYPE_CHECKING:  # it loads torch
    from meerkat_workbench.tuning.scoring.claims import ClaimFindings, ReplyCounts
    from meerkat_workbench.tuning.scoring.judge import JudgeSummary

NO_PAIR = "no question has a value for both systems"


def compare(scores: Iterable[ClaimScore], system: str, against: str, seed: int = 0) -> list[ClaimComparison]:
    """Compare one system with another by each measure of claims, over the questions on which both have a value.

    Intervals are stratified by specialty. A verdict needs a p value below .05 after Benjamini-Hochberg over the measures.

    Args:
        scores: of these and possibly other systems.
        system, against: names of two systems, such as "tuned" and "base".
        seed: of the drawn sign patterns.

    Returns:
        A row for each measure. A measure without a pair of values is missing, with its reason.
    """
    by_system: dict[str, dict[str, ClaimScore]] = {system: {}, against: {}}
    for score in scores:
        if score.system in by_system:
            by_system[score.system][score.id] = score
    pairs = [(score, by_system[against][name]) for name, score in by_system[system].items() if name in by_system[against]]
    values = {measure: _values(pairs, measure) for measure in ClaimMeasure}
    estimates = {measure: _estimate(measure, of_measure, seed) for measure, of_measure in values.items()}
    adjusted = significance.false_discovery_adjusted([estimate.p for estimate in estimates.values()])
    rows = []
    for (measure, estimate), p in zip(estimates.items(), adjusted, strict=True):
        first, second = ([pair[side] for pair, _ in values[measure]] for side in (0, 1))
        rows.append(ClaimComparison(
            system=system, against=against, measure=measure, n=estimate.n, against_score=significance.mean_interval(second).mean,
            score=significance.mean_interval(first).mean, difference=estimate.mean, ci_low=estimate.low, ci_high=estimate.high,
            p=estimate.p, p_adjusted=p, verdict=_verdict(estimate, p, measure), lower_is_better=measure.lower_is_better,
            missing="" if estimate.n else NO_PAIR,
        ))  # fmt: skip
    return rows


def _values(pairs: Iterable[tuple[ClaimScore, ClaimScore]], measure: ClaimMeasure) -> list[tuple[tuple[float, float], str]]:
    """Both values and the specialty of each question on which both systems have a value."""
    values = [((one.of(measure), other.of(measure)), one.specialty) for one, other in pairs]
    return [(pair, specialty) for pair, specialty in values if not any(map(math.isnan, pair))]


def _estimate(measure: ClaimMeasure, values: Sequence[tuple[tuple[float, float], str]], seed: int) -> significance.Estimate:
    differences = [one - other for (one, other), _ in values]
    estimate = significance.stratified(differences, [specialty for _, specialty in values], test=True, seed=seed)
    largest = math.inf if measure is ClaimMeasure.UNSUPPORTED else 1  # the others are fractions
    return estimate.within(-largest, largest)


def _verdict(estimate: significance.Estimate, p: float, measure: ClaimMeasure) -> Verdict:
    if not estimate.n:
        return Verdict.NONE
    return Verdict.of_test(estimate.mean, p, significance.ALPHA, lower_is_better=measure.lower_is_better)


def compare_with_base(findings: ClaimFindings, seed: int) -> list[ClaimComparison]:
    """Every system compared with the base (see `compare`)."""
    systems = dict.fromkeys(score.system for score in findings.scores)
    return [row for system in systems if system != BASE for row in compare(findings.scores, system, BASE, seed)]


def sentences(replies: ReplyCounts) -> list[str]:
    """What became of the judge's replies about claims."""
    found = [
        f"The judge cut {replies.passages} references and answers into claims, {replies.without_claims} of which have no verifiable "
        f"claim, and compared {replies.checks} claims with the other text, each in both orders."
    ]
    if replies.undecided:
        found.append(f"{replies.undecided} verdicts on claims changed with the order of claim and text, and are not scored.")
    if replies.uncut or replies.unread:
        found.append(
            f"{replies.uncut} lists of claims and {replies.unread} verdicts on claims are missing or could not be read, and are not "
            "scored."
        )
    return found


def write(folder: Path, findings: ClaimFindings, judged: JudgeSummary, seed: int) -> JudgeSummary:
    """Write the tables of claims, of each answer's measures, and of the comparisons with the base.

    Returns:
        The judge's summary with these comparisons and their sentences.
    """
    rows = compare_with_base(findings, seed)
    write_rows(folder / ClaimRow.FILE, findings.claims, ClaimRow)
    write_rows(folder / ClaimScore.FILE, findings.scores, ClaimScore)
    write_rows(folder / ClaimComparison.FILE, rows, ClaimComparison)
    return replace(judged, claims=rows, sentences=[*judged.sentences, *sentences(findings.replies), *_results(rows)])


def _results(rows: Sequence[ClaimComparison]) -> list[str]:
    """What the comparison of the tuned model with the base shows."""
    row_of = {row.measure: row for row in rows if row.system == TUNED and row.n}
    texts_of = {
        ClaimMeasure.RECALL: "claims of the reference that the answer entails",
        ClaimMeasure.PRECISION: "claims of the answer that the reference supports",
        ClaimMeasure.CONTRADICTED: "claims of the reference that the answer contradicts",
    }
    return [
        f"{words[0].upper()}{words[1:]}: {row.against_score:.0%} base, {row.score:.0%} tuned (difference {row.difference:+.0%}, "
        f"95% interval {row.ci_low:+.0%} to {row.ci_high:+.0%}, {row.n} questions)."
        for measure, words in texts_of.items()
        if (row := row_of.get(measure))
    ]


def with_claims(tables: Mapping[str, AnswerTable], folder: Path) -> dict[str, AnswerTable]:
    """Tables of answers with the measures of claims as further columns, if the evaluation in the folder has them.

    Args:
        tables: by system. A question without a value has NaN.
    """
    if not (folder / ClaimScore.FILE).is_file():
        return dict(tables)
    by_system: dict[str, dict[str, ClaimScore]] = {system: {} for system in tables}
    for score in read_rows(folder / ClaimScore.FILE, ClaimScore):
        if score.system in by_system:
            by_system[score.system][score.id] = score
    return {
        system: table.with_scores({
            measure: [by_system[system][name].of(measure) if name in by_system[system] else math.nan for name in table.ids]
            for measure in ClaimMeasure
        })
        for system, table in tables.items()
    }  # fmt: skip
