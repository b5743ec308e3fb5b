"""The summary of an evaluation in sentences: what can be concluded from it, and what cannot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from meerkat_workbench.core.errors import resume_command
from meerkat_workbench.output.tables import where
from meerkat_workbench.stats import significance
from meerkat_workbench.text import texts
from meerkat_workbench.tuning.artifacts import BASE, TUNED, CheckComparison, MetricComparison, Split, SplitVerdict, Verdict
from meerkat_workbench.tuning.reporting.comparison import Comparison
from meerkat_workbench.tuning.scoring import answer_checks
from meerkat_workbench.tuning.scoring.score_run import ScoredAnswers

if TYPE_CHECKING:  # it loads torch
    from meerkat_workbench.tuning.generation.preference import PreferenceFacts

MAX_CUT_OFF_FRACTION = 0.05  # of the answers; if more are cut off, the summary advises to raise MAX_NEW_TOKENS
STYLE_FRACTION = 0.25  # if at most this part of a score is above the floor, most of the score is style


def summary_sentences(
    comparison: Comparison, scored: ScoredAnswers, verdict: SplitVerdict, metric: str, holdout_evaluations: int
) -> list[str]:
    """What can be concluded from an evaluation, and what cannot.

    Args:
        verdict: on the split of the headline figures.
        metric: the steering metric.
        holdout_evaluations: how often this holdout has been evaluated.
    """
    rows = comparison.headline
    row, split = where(rows, metric=metric)[0], rows[0].split
    sentences = [verdict.conclusion]
    for line in (verdict.knowledge, verdict.style):
        sentences += [line.sentence, *(f"  {words}" for words in line.decisive)]
    sentences += _overall(rows, row)
    if warning := warn_near_floor(row):
        sentences.append(warning)
    sentences += _preference(rows, scored.preference)
    sentences += _power(comparison, scored, metric, split)
    sentences += [_check_sentence(check) for check in comparison.checks if check.split == split and (check.base or check.tuned)]
    other = sum(texts.is_english(reference) is False for reference in scored.base.of_split(split).references)
    if other:
        sentences.append(
            f"{other} references are not in English. For these, reversed negations and refusals are not checked, METEOR counts "
            "only identical words, and medical_token_f1 needs terms of that language in MEDICAL_LEXICON."
        )
    for name, table in scored.tables.items():
        if failed := int(table.failed.sum()):
            sentences.append(f"{failed} questions got no answer from the {name} model. Run {resume_command()} again to ask them.")
    if split in scored.corpus_bleu:
        bleu = scored.corpus_bleu[split]
        if BASE in bleu.scores and TUNED in bleu.scores:
            sentences.append(
                f"Corpus BLEU on the {split}: {bleu.scores[BASE]:.2f} base, {bleu.scores[TUNED]:.2f} tuned ({bleu.signature})."
            )
    times = f"{holdout_evaluations} time{'s' * (holdout_evaluations != 1)}"
    sentences.append(
        f"This holdout has been evaluated {times}. Decisions that are made after an evaluation make the next result optimistic."
    )
    return sentences


def _overall(rows: Sequence[MetricComparison], row: MetricComparison) -> list[str]:
    verdicts = [metric_row.verdict for metric_row in rows if not metric_row.missing and metric_row.verdict is not Verdict.NONE]
    interval = (
        f"(95% interval {row.ci_low:+.3f} to {row.ci_high:+.3f})" if row.has_interval else "(too few questions for an interval)"
    )
    over = [one.over_few_shot_verdict for one in rows if not one.missing and one.over_few_shot_verdict is not Verdict.NONE]
    few_shot = f", and than the few-shot base in {over.count(Verdict.BETTER)} of {len(over)}" if over else ""
    return [
        f"On {row.n} {row.split} questions, the tuned model is better than the base in {verdicts.count(Verdict.BETTER)} of "
        f"{len(verdicts)} metrics{few_shot}. Most metrics reward style.",
        f"{row.metric}: {row.base:.3f} base, {row.tuned:.3f} tuned, difference {row.difference:+.3f} {interval}.",
    ]


def _preference(rows: Sequence[MetricComparison], facts: PreferenceFacts | None) -> list[str]:
    """How often each model finds the reference most likely, and how the distractors were made."""
    found = where(rows, metric="preference_accuracy")
    if facts is None or not found or not found[0].n:
        return []
    row = found[0]
    few_shot = f", {row.few_shot:.0%} few-shot base" if math.isfinite(row.few_shot) else ""
    blind = (
        f", and the base without the question {facts.answer_only:.0%} (of {facts.answer_only_n})" if facts.answer_only_n else ""
    )
    kinds = "; ".join(f"{count} answer {kind}" for kind, count in facts.kinds.items() if count)
    return [
        f"The reference is found more likely than all distractors on {row.base:.0%} of {row.n} questions by the base{few_shot}, "
        f"{row.tuned:.0%} tuned; guessing gives {facts.chance:.0%}{blind}. Of the distractors, {kinds}."
    ]


def _power(comparison: Comparison, scored: ScoredAnswers, metric: str, split: str) -> list[str]:
    """The smallest difference that the questions of one specialty can show."""
    specialties = where(comparison.specialties, split=split, metric=metric)
    change = scored.tuned.scores(metric) - scored.base.scores(metric)
    sd = float(change[scored.tuned.splits == split].std())
    n = int(statistics.median(row.n for row in specialties)) if specialties else 0
    detectable = significance.smallest_detectable(sd, n, max(1, len(specialties)))
    if not math.isnan(detectable):
        return [f"With {n} questions a specialty, the smallest difference in {metric} that is reliably detected within one "
                f"specialty is {detectable:.2f} (80% power, corrected for {len(specialties)} specialties)."]  # fmt: skip
    if sd > 0:
        return [f"With {n} questions a specialty, no difference within one specialty can be shown (corrected for "
                f"{len(specialties)} specialties)."]  # fmt: skip
    return []


def _check_sentence(check: CheckComparison) -> str:
    """How many answers of both models fail a check, with advice if many are cut off."""
    few_shot = "" if check.few_shot is None else f", few-shot base: {check.few_shot}"
    text = f"{check.tuned} of {check.n} answers of the tuned model {check.says} (base: {check.base}{few_shot})."
    many_cut_off = check.check == answer_checks.CUT_OFF and check.tuned > MAX_CUT_OFF_FRACTION * check.n
    return f"{text} Raise MAX_NEW_TOKENS." if many_cut_off else text


def warn_near_floor(row: MetricComparison) -> str:
    """A warning if other questions' answers would score nearly as well; empty if they would not."""
    above = abs(row.tuned - row.floor_tuned)
    if not math.isfinite(above) or above > STYLE_FRACTION * abs(row.tuned):
        return ""
    return (
        f"Warning: answers to other questions of the same specialty already score {row.floor_tuned:.3f}, so most of "
        "the tuned model's score is style, not knowledge of the question."
    )


def caution(rows: Sequence[MetricComparison], verdict: SplitVerdict | None, metric: str) -> str:
    """Why recommendations by this metric on eval are unreliable; empty if they are reliable.

    Args:
        verdict: on the eval split.
    """
    eval_rows = where(rows, split=Split.EVAL, metric=metric)
    reasons = [warn_near_floor(eval_rows[0])] if eval_rows else []
    if verdict is not None and verdict.only_style:
        reasons.append(f"On eval: {verdict.conclusion}")
    if not (found := [reason for reason in reasons if reason]):
        return ""
    return (
        f"{' '.join(found)} Gains and recommendations therefore also reflect style. Read the answers, and train longer or on more data, "
        "before you follow them."
    )
