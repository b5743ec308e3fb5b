"""Writes and prints the results of an evaluation: tables, charts, recommendations, the report, and the closing table."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meerkat_workbench.core import artifacts, console, files, runs
from meerkat_workbench.output import tables
from meerkat_workbench.output.tables import where
from meerkat_workbench.tuning.artifacts import (
    EvaluationManifest,
    EvaluationVerdict,
    HoldoutEvaluation,
    MetricComparison,
    OutputFile,
    Recommendations,
    Split,
    read_recommendations,
)
from meerkat_workbench.tuning.data import iterations
from meerkat_workbench.tuning.generation.subject import EvaluationSubject
from meerkat_workbench.tuning.reporting import history, plots, report, summary_text
from meerkat_workbench.tuning.reporting.comparison import Comparison, headline
from meerkat_workbench.tuning.reporting.history import Bounds, EvaluationId
from meerkat_workbench.tuning.reporting.multiple_choice import ChoiceSummary
from meerkat_workbench.tuning.reporting.open_book import OpenBookSummary
from meerkat_workbench.tuning.reporting.report import Heading, ReportContents
from meerkat_workbench.tuning.scoring import claim_scores, judge, retention
from meerkat_workbench.tuning.scoring.claims import ClaimFindings
from meerkat_workbench.tuning.scoring.judge import JudgedQuestion
from meerkat_workbench.tuning.scoring.score_run import ScoredAnswers

if TYPE_CHECKING:  # it loads torch
    from meerkat_workbench.tuning.generation.jobs import DecodingOptions

MAX_SPECIALTIES_PRINTED = 12


@dataclass(frozen=True)
class EvaluationResult:
    """A finished evaluation.

    Attributes:
        metrics: base against tuned model, a row for each split and metric.
        verdict: what tuning did to knowledge and style; None in the folders of earlier versions.
        recommendations: for the next iteration.
    """

    folder: Path
    manifest: EvaluationManifest
    metrics: list[MetricComparison]
    verdict: EvaluationVerdict | None
    recommendations: Recommendations

    @classmethod
    def read(cls, folder: Path) -> EvaluationResult:
        """Read the result of a finished evaluation."""
        return cls(
            folder,
            EvaluationManifest.require(folder),
            tables.read_rows(folder / MetricComparison.FILE, MetricComparison),
            artifacts.read(EvaluationVerdict, path) if (path := folder / EvaluationVerdict.FILE).is_file() else None,
            read_recommendations(folder / Recommendations.FILE),
        )


@dataclass(frozen=True)
class Findings:
    """Everything that an evaluation found; `judged` and `claims` are None without a judge, `choices` without multiple-choice questions,
    `open_book` without RETRIEVAL."""

    scored: ScoredAnswers
    comparison: Comparison
    verdict: EvaluationVerdict
    recommendations: Recommendations
    judged: list[JudgedQuestion] | None
    claims: ClaimFindings | None = None
    choices: ChoiceSummary | None = None
    open_book: OpenBookSummary | None = None

    @property
    def failed(self) -> int:
        """Number of failed answers and grades; another run asks for them again."""
        of_claims = self.claims.replies.unanswered if self.claims else 0
        return self.scored.failed + sum(not question.answered for question in self.judged or ()) + of_claims


def evaluation_id(subject: EvaluationSubject, key: str, fingerprint: str, started: float) -> EvaluationId:
    """What the history holds about this evaluation.

    Args:
        key: the comparability key of the evaluation.
        started: `time.time()` at the start of the evaluation.
    """
    record, training = subject.record, subject.training
    used = record.sizes.total(Split.TRAIN) + record.sizes.total(Split.EVAL)
    return EvaluationId(
        iteration=subject.iteration, finished=runs.now(), evaluation=fingerprint, comparability_key=key,
        adapter=training.outputs.adapter, recipe=training.recipe, train=record.sizes.total(Split.TRAIN),
        share=used / max(1, sum(record.share_base.values())), train_seconds=training.seconds,
        train_tokens=math.nan if training.tokens is None else training.tokens, seconds=time.time() - started,
    )  # fmt: skip


def write(
    output: Path, subject: EvaluationSubject, findings: Findings, now: EvaluationId, bounds: Bounds, facts: Mapping[str, object],
    judge_name: str, seed: int,
) -> list[str]:  # fmt: skip
    """Write tables, charts, recommendations and the report.

    Args:
        bounds: the lowest and highest value of a metric.
        facts: models, questions and decoding settings, for the report's heading.
        judge_name: name of the judge's model; empty if no judge was asked.

    Returns:
        The summary, in sentences.
    """
    scored, comparison, metric = findings.scored, findings.comparison, findings.recommendations.steering_metric
    for system, table in scored.tables.items():
        table.write(output, system)
    comparison.write(output)
    if scored.retention is not None:
        retention.write(output, scored.retention)
    if findings.judged is not None:
        judge.write(output, findings.judged)
    artifacts.write(output / EvaluationVerdict.FILE, findings.verdict)
    artifacts.write(output / Recommendations.FILE, findings.recommendations)
    _draw(output, comparison, findings.recommendations)
    retained = None if scored.retention is None else retention.summarise(scored.retention)
    judged = None if findings.judged is None else judge.summarise(findings.judged, judge_name)
    if judged is not None and findings.claims is not None:
        judged = claim_scores.write(output, findings.claims, judged, seed)
    # another policy or metric on the same answers does not count as another evaluation of the holdout
    evaluation = HoldoutEvaluation(
        fingerprint=files.sha256_of([now.comparability_key, now.adapter]), time=runs.now(), adapter=now.adapter
    )
    times = iterations.count_holdout_evaluation(subject.data_folder, evaluation)
    sentences = summary_text.summary_sentences(comparison, scored, findings.verdict.headline, metric, times)
    sentences += [*(retained.sentences if retained else []), *(judged.sentences if judged else [])]
    if findings.choices is not None:
        findings.choices.write(output)
        sentences += findings.choices.sentences
    if findings.open_book is not None:
        findings.open_book.write(output)
        sentences += findings.open_book.sentences
    rows = history.extend(output, comparison.metrics, scored.tuned, now, bounds)
    history.write(output, rows)
    plots.progress(output / OutputFile.PROGRESS, rows, metric)
    heading = Heading(subject.iteration, {**facts, "evaluations of this holdout": times}, sentences)
    shown = ReportContents(heading, scored, comparison, findings.verdict, rows, findings.recommendations, retained, judged, seed,
                           findings.choices, findings.open_book)  # fmt: skip
    report.write(output / OutputFile.REPORT, shown)
    return sentences


def _draw(output: Path, comparison: Comparison, recommendations: Recommendations) -> None:
    """Draw the two static plots of the comparison."""
    on_eval = any(row.split == Split.EVAL for row in comparison.specialties)
    split = Split.EVAL if on_eval else comparison.headline[0].split
    rows = where(comparison.specialties, split=split, metric=recommendations.steering_metric)
    supported = recommendations.low_performance_specialties
    if note := plots.specialty_analysis(output / OutputFile.SPECIALTY_ANALYSIS, rows, supported):
        print(f"  {note}")
    plots.model_comparison(output / OutputFile.MODEL_COMPARISON, comparison.headline)


def facts_of(
    subject: EvaluationSubject, scored: ScoredAnswers, *, models: Mapping[str, object], decoding: DecodingOptions, endpoint: str,
    load_in_4bit: bool, precision: str,
) -> dict[str, object]:  # fmt: skip
    """Models, questions and decoding settings by name, for the report's heading.

    Args:
        models: further models by name, as in the settings.
        endpoint: address of the server that answers; empty for this machine.
        load_in_4bit, precision: how the models of this machine are loaded and computed.
    """
    base = f"asked at {endpoint}" if endpoint else f"{'NF4, ' if load_in_4bit else ''}computed in {precision}"
    kind = "model" if subject.training.settings.get("FULL_FINE_TUNING") else "adapter"
    splits = scored.base.splits
    counts = ", ".join(f"{int((splits == split).sum())} {split}" for split in dict.fromkeys(splits))
    return {
        "base": f"{subject.base_name} ({base})",
        "tuned": f"{kind} in {subject.adapter}, weights of step {subject.training.kept.step}",
        **models,
        "iteration": subject.iteration,
        "questions": counts,
        "system message of both": subject.data.system_message or "(none)",
        "decoding of both": f"temperature {decoding.temperature:g}, at most {decoding.max_new_tokens} new tokens",
    }


def print_result(result: EvaluationResult, preparation: str) -> None:
    """Print the closing table: the headline figures, and which specialties get more records.

    Args:
        preparation: the command that prepares the next iteration.
    """
    rows = headline(result.metrics)
    print()
    few_shot = any(math.isfinite(row.few_shot) for row in rows)
    over = ["over few-shot", "95% interval"] if few_shot else ["95% interval"]
    header = [rows[0].split, "base", *(["few-shot"] if few_shot else []), "tuned", "over base", *over, "floor"]
    console.print_table(header, [_cells(row, few_shot=few_shot) for row in rows], indent="")
    for row in rows:
        if row.missing:
            print(f"{row.metric} is missing: {row.missing[:120]}")
    if result.verdict:
        print(f"\n{result.verdict.headline.conclusion}")
    advice = result.recommendations
    print("\nnext iteration")
    for sentence in advice.sentences:
        print(f"  {sentence}")
    _print_increases(advice, result.folder)
    pages = (OutputFile.REPORT, OutputFile.SPECIALTY_ANALYSIS, OutputFile.MODEL_COMPARISON)
    print(f"\nopen {', '.join(str(result.folder / name) for name in pages)}")
    if advice.recommended_sample_increases:
        print(f"next: {preparation}")
    else:
        print("next: set shares yourself in specialty_adjustments of dataset_preparation.py, or collect more eval questions")


def _cells(row: MetricComparison, *, few_shot: bool) -> Sequence[str]:
    """One line of the closing table; the interval is that of the last difference."""
    if row.missing or not row.n:
        empty = ["–"] * (6 if few_shot else 4)
        return [f"  {row.metric}", *empty[:-1], "missing" if row.missing else "no value", "–"]
    low, high = (row.over_few_shot_low, row.over_few_shot_high) if few_shot else (row.ci_low, row.ci_high)
    interval = f"{low:+.3f} to {high:+.3f}" if math.isfinite(low) else "–" if few_shot else "too few to tell"
    floor = f"{row.floor_tuned:.3f}" if math.isfinite(row.floor_tuned) else "–"
    over = [_number(row.over_few_shot, "+.3f")] if few_shot else []
    examples = [_number(row.few_shot, ".3f")] if few_shot else []
    change = _number(row.difference, "+.3f")
    return [f"  {row.metric}", f"{row.base:.3f}", *examples, f"{row.tuned:.3f}", change, *over, interval, floor]


def _number(value: float, form: str) -> str:
    return format(round(value, 3) + 0.0, form) if math.isfinite(value) else "–"  # never -0.000


def _print_increases(advice: Recommendations, folder: Path) -> None:
    """Print the specialties that get more records, largest increase first."""
    increased = sorted((item for item in advice.evidence if item.records_added), key=lambda item: -item.records_added)
    for item in increased[:MAX_SPECIALTIES_PRINTED]:
        records = f"{item.records_added} record{'s' * (item.records_added != 1)}"
        print(f"    {item.specialty:<28} share {item.current_share:.2f} -> {item.recommended_share:.2f}, {records}")
    if len(increased) > MAX_SPECIALTIES_PRINTED:
        print(f"    … and {len(increased) - MAX_SPECIALTIES_PRINTED} more, in {folder / Recommendations.FILE}")
