"""What may be concluded from an evaluation, in sentences, and what may not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from meerkat_workbench.core.errors import resume_command
from meerkat_workbench.output.tables import where
from meerkat_workbench.stats import significance
from meerkat_workbench.text import texts
from meerkat_workbench.tuning.artifacts import BASE, TUNED, CheckComparison, MetricComparison, Split, Verdict
from meerkat_workbench.tuning.reporting.comparison import Comparison
from meerkat_workbench.tuning.scoring import answer_checks
from meerkat_workbench.tuning.scoring.score_run import ScoreRun

MAX_CUT_OFF_FRACTION = 0.05  # of the answers; beyond it MAX_NEW_TOKENS is worth raising
STYLE_FRACTION = 0.25  # of a score; where less than this lies above the floor, most of the score is style


def summary_sentences(comparison: Comparison, scored: ScoreRun, metric: str, holdout_evaluations: int) -> list[str]:
    """What may be concluded, and what may not.

    Args:
        metric: the steering metric.
        holdout_evaluations: evaluations that have seen this holdout.
    """
    rows = comparison.headline
    row, split = where(rows, metric=metric)[0], rows[0].split
    sentences = _overall(rows, row)
    if warning := warn_near_floor(row):
        sentences.append(warning)
    sentences += _power(comparison, scored, metric, split)
    sentences += [_check_sentence(check) for check in comparison.checks if check.split == split and (check.base or check.tuned)]
    other = sum(texts.is_english(reference) is False for reference in scored.base.of_split(split).references)
    if other:
        sentences.append(
            f"{other} references are not in English: denials and refusals are not looked for there, METEOR counts equal words alone, and "
            "medical_token_f1 needs terms of that language in MEDICAL_LEXICON."
        )
    for name in (BASE, TUNED):
        if failed := int(scored.tables[name].failed.sum()):
            sentences.append(f"{failed} questions got no answer from the {name} model; run {resume_command()} again.")
    if split in scored.corpus_bleu:
        bleu = scored.corpus_bleu[split]
        if BASE in bleu.scores and TUNED in bleu.scores:
            sentences.append(
                f"Corpus BLEU on the {split}: {bleu.scores[BASE]:.2f} base, {bleu.scores[TUNED]:.2f} tuned ({bleu.signature})."
            )
    times = f"{holdout_evaluations} time{'s' * (holdout_evaluations != 1)}"
    sentences.append(
        f"This holdout has been evaluated {times}; decisions made after each evaluation make its next result optimistic."
    )
    return sentences


def _overall(rows: Sequence[MetricComparison], row: MetricComparison) -> list[str]:
    verdicts = [one.verdict for one in rows if not one.missing and one.verdict is not Verdict.NONE]
    interval = (
        f"(95% interval {row.ci_low:+.3f} to {row.ci_high:+.3f})" if row.has_interval else "(too few questions for an interval)"
    )
    return [
        f"On {row.n} {row.split} questions the tuned model is better in {verdicts.count(Verdict.BETTER)} of {len(verdicts)} metrics, "
        f"worse in {verdicts.count(Verdict.WORSE)}, and within noise in {verdicts.count(Verdict.NOISE)}.",
        f"{row.metric}: {row.base:.3f} base, {row.tuned:.3f} tuned, difference {row.difference:+.3f} {interval}.",
    ]


def _power(comparison: Comparison, scored: ScoreRun, metric: str, split: str) -> list[str]:
    """The smallest difference that the questions of one specialty could show."""
    specialties = where(comparison.specialties, split=split, metric=metric)
    change = scored.tuned.scores(metric) - scored.base.scores(metric)
    sd = float(change[scored.tuned.splits == split].std())
    n = int(statistics.median(row.n for row in specialties)) if specialties else 0
    least = significance.smallest_detectable(sd, n, max(1, len(specialties)))
    if not math.isnan(least):
        return [f"{n} questions of one specialty cannot show a difference in {metric} below {least:.2f} (80% power, corrected for "
                f"{len(specialties)} specialties)."]  # fmt: skip
    if sd > 0:
        return [f"{n} questions of one specialty cannot show any difference by themselves, once corrected for {len(specialties)} "
                "specialties."]  # fmt: skip
    return []


def _check_sentence(check: CheckComparison) -> str:
    text = f"{check.tuned} of {check.n} answers of the tuned model {check.says} (base: {check.base})."
    many = check.check == answer_checks.CUT_OFF and check.tuned > MAX_CUT_OFF_FRACTION * check.n
    return f"{text} Raise MAX_NEW_TOKENS." if many else text


def warn_near_floor(row: MetricComparison) -> str:
    """A warning where most of a score is what any answer of the specialty would get; empty where it is not."""
    above = abs(row.tuned - row.floor_tuned)
    if not math.isfinite(above) or above > STYLE_FRACTION * abs(row.tuned):
        return ""
    return (
        f"Warning: answers that belong to other questions of the specialty score {row.floor_tuned:.3f} already, so most of "
        "the tuned model's score is style, not knowledge of the question."
    )


def caution(rows: Sequence[MetricComparison], metric: str) -> str:
    """Why recommendations by this metric on eval are not to be relied on; empty where nothing speaks against them."""
    found = where(rows, split=Split.EVAL, metric=metric)
    warning = warn_near_floor(found[0]) if found else ""
    if not warning:
        return ""
    return f"{warning} The gains and recommendations here are of style too: read the answers, and train longer or on more data, before you follow them."
