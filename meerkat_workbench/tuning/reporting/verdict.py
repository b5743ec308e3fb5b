"""The verdict on an evaluation, in two lines: what tuning did to knowledge, and what it did to style.

Knowledge is compared with the few-shot base, which was shown the style in its prompt, so that style cannot pass for knowledge. It is gained
only if a measure that style does not raise is better beyond noise and no measure is worse. Style is compared with the base as it is.

The p values are adjusted for the number of measures that can show a gain, and of those that can only show harm (Holm 1979). So if nothing
changed, a false "gained" comes in at most 2.5% of evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meerkat_workbench.output.tables import where
from meerkat_workbench.stats import significance
from meerkat_workbench.stats.significance import Estimate
from meerkat_workbench.tuning.artifacts import (
    BASE,
    FEW_SHOT,
    FIXED,
    TUNED,
    ClaimMeasure,
    ClaimScore,
    EvaluationVerdict,
    MetricComparison,
    Outcome,
    SplitVerdict,
    Verdict,
    VerdictEvidence,
    VerdictLine,
)
from meerkat_workbench.tuning.scoring import answer_checks, claim_scores
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable
from meerkat_workbench.tuning.scoring.score_run import ScoredAnswers

CONTENT, PREFERENCE, OVERLAP, LENGTH = "content_above_floor", "preference_wins", "ROUGE-L", "length_distance"
# fewer of these may only mean shorter answers, so they can show a loss of knowledge and never a gain
HARMS = (answer_checks.UNSUPPORTED, "number_differs", "negation_differs")
NAMES = {
    CONTENT: "content beyond the question, above the floor",
    PREFERENCE: "distractors found less likely than the right answer",
    answer_checks.UNSUPPORTED: "answers with an unsupported number",
    "number_differs": "answers with another number than the reference",
    "negation_differs": "answers that deny what the reference affirms, or the reverse",
    str(ClaimMeasure.RECALL): "claims of the reference that the answer entails",
    str(ClaimMeasure.CONTRADICTED): "claims of the reference that the answer contradicts",
    OVERLAP: "ROUGE-L",
    LENGTH: "distance from the reference's length, |ln ratio|",
    answer_checks.CUT_OFF: "answers cut off",
}
SYSTEM_NAMES = {BASE: "the base", FEW_SHOT: "the few-shot base"}
SHOWN_DIGITS = 3


@dataclass(frozen=True)
class Measure:
    """A measure of the tuned model and of another system on the same questions.

    Attributes:
        estimate: mean of the paired differences, tuned minus other, with interval and p.
        can_gain: whether a better value shows that something was gained.
    """

    name: str
    other: float
    tuned: float
    estimate: Estimate
    lower_is_better: bool = False
    can_gain: bool = True


def reach(
    scored: ScoredAnswers, metrics: Sequence[MetricComparison], claims: Sequence[ClaimScore] = (), *, seed: int
) -> EvaluationVerdict:
    """The verdict on each split.

    Args:
        metrics: tuned model against base and few-shot base.
        claims: what a judge found in the answers to the holdout questions.
        seed: of the permutation tests.
    """
    splits = [str(split) for split in FIXED if where(metrics, split=split)]
    return EvaluationVerdict(
        splits=tuple(_judge_split(scored, metrics, claims if split == splits[0] else (), split, seed) for split in splits)
    )


def _judge_split(
    scored: ScoredAnswers, metrics: Sequence[MetricComparison], claims: Sequence[ClaimScore], split: str, seed: int
) -> SplitVerdict:
    against = FEW_SHOT if FEW_SHOT in scored.tables else BASE
    other, tuned, base = (table.of_split(split) for table in (scored.tables[against], scored.tuned, scored.base))
    rows = where(metrics, split=split)
    knowledge = [
        *(_of_metric(rows, name, over_few_shot=against == FEW_SHOT) for name in (CONTENT, PREFERENCE)),
        *(_of_check(name, other, tuned, seed, can_gain=False) for name in HARMS),
        *(_of_claims(claims, against, seed) if claims else ()),
    ]
    style = [
        _of_metric(rows, OVERLAP, over_few_shot=False),
        _of_values(LENGTH, _length_distance(base), _length_distance(tuned), base, seed, lower_is_better=True),
        _of_check(answer_checks.CUT_OFF, base, tuned, seed, can_gain=True),
    ]
    lines = (_line("Knowledge", knowledge, against), _line("Style", style, BASE))
    return SplitVerdict(split, *lines, conclusion=_conclusion(*lines))


def _of_metric(rows: Sequence[MetricComparison], name: str, *, over_few_shot: bool) -> Measure:
    found = where(rows, metric=name)
    if not found:
        return Measure(name, math.nan, math.nan, significance.mean_interval([]))
    row = found[0]
    if over_few_shot:
        estimate = Estimate(row.n, row.over_few_shot, row.over_few_shot_low, row.over_few_shot_high, row.over_few_shot_p)
        return Measure(name, row.few_shot, row.tuned, estimate, row.lower_is_better)
    return Measure(
        name, row.base, row.tuned, Estimate(row.n, row.difference, row.ci_low, row.ci_high, row.p), row.lower_is_better
    )


def _of_check(name: str, other: AnswerTable, tuned: AnswerTable, seed: int, *, can_gain: bool) -> Measure:
    of_other, of_tuned = (np.where(table.failed, np.nan, table.fails(name).astype(float)) for table in (other, tuned))
    return _of_values(name, of_other, of_tuned, other, seed, lower_is_better=True, can_gain=can_gain)


def _of_claims(scores: Sequence[ClaimScore], against: str, seed: int) -> list[Measure]:
    """Claims of the reference that an answer entails can show a gain, and those that it contradicts only harm.

    The other measures of claims depend on how much an answer says.
    """
    return [
        Measure(
            row.measure, row.against_score, row.score, Estimate(row.n, row.difference, row.ci_low, row.ci_high, row.p),
            row.lower_is_better, can_gain=row.measure is ClaimMeasure.RECALL,
        )
        for row in claim_scores.compare(scores, TUNED, against, seed)
        if row.measure in (ClaimMeasure.RECALL, ClaimMeasure.CONTRADICTED)
    ]  # fmt: skip


def _of_values(
    name: str, other: np.ndarray, tuned: np.ndarray, table: AnswerTable, seed: int, *, lower_is_better: bool, can_gain: bool = True
) -> Measure:  # fmt: skip
    """A measure from its values for each question, (rows,) each; NaN is left out."""
    known = ~np.isnan(other + tuned)
    strata = table.specialties.to_numpy()[known].tolist()
    estimate = significance.stratified((tuned - other)[known].tolist(), strata, test=True, seed=seed)
    of_other, of_tuned = (float(values[known].mean()) if known.any() else math.nan for values in (other, tuned))
    return Measure(name, of_other, of_tuned, estimate, lower_is_better, can_gain)


def _length_distance(table: AnswerTable) -> np.ndarray:
    """How far each answer's length is from the reference's, |ln(ratio)|, (rows,); an empty answer counts as a tenth."""
    if not table.has_metric("length_ratio"):
        return np.full(len(table), np.nan)
    ratios: np.ndarray = table.scores("length_ratio").to_numpy(float)
    return np.abs(np.log(np.clip(ratios, 0.1, None)))


def _line(title: str, measures: Sequence[Measure], against: str) -> VerdictLine:
    measured = [measure for measure in measures if measure.estimate.n > 1]
    evidence: list[VerdictEvidence] = []
    for can in (True, False):  # what can show a gain, and what can only show harm
        family = [measure for measure in measured if measure.can_gain == can]
        adjusted = significance.family_adjusted([measure.estimate.p for measure in family])
        evidence += [_evidence(measure, p) for measure, p in zip(family, adjusted, strict=True)]
    can_gain = {measure.name for measure in measured if measure.can_gain}
    better = [one for one in evidence if one.verdict is Verdict.BETTER and one.measure in can_gain]
    worse = [one for one in evidence if one.verdict is Verdict.WORSE]
    if not can_gain:
        outcome = Outcome.NOT_MEASURED
    elif better and worse:
        outcome = Outcome.MIXED
    else:
        outcome = Outcome.GAINED if better else Outcome.LOST if worse else Outcome.NO_DIFFERENCE
    shown = [*better, *worse] or [one for one in evidence if one.measure in can_gain]
    words = "; ".join(map(_in_words, shown))
    compared = "" if outcome is Outcome.NOT_MEASURED else f" against {SYSTEM_NAMES.get(against, against)}"
    sentence = f"{title}: {outcome}{compared}" + (f" ({words})." if words else ".")
    return VerdictLine(outcome, against, sentence, tuple(evidence))


def _evidence(measure: Measure, p: float) -> VerdictEvidence:
    estimate = measure.estimate
    if not p <= significance.ALPHA or not estimate.mean:
        verdict = Verdict.NOISE
    else:
        verdict = Verdict.BETTER if (estimate.mean < 0) == measure.lower_is_better else Verdict.WORSE
    return VerdictEvidence(
        measure=measure.name, n=estimate.n, other=_known(measure.other), tuned=_known(measure.tuned), difference=_known(estimate.mean),
        ci_low=_known(estimate.low), ci_high=_known(estimate.high), p_adjusted=_known(p), verdict=verdict,
    )  # fmt: skip


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


def _in_words(one: VerdictEvidence) -> str:
    name = NAMES.get(one.measure, one.measure)
    if one.difference is None or one.other is None or one.tuned is None:
        return f"{name}: no value"
    interval = f", {one.ci_low:+.{SHOWN_DIGITS}f} to {one.ci_high:+.{SHOWN_DIGITS}f}" if one.ci_low is not None else ""
    return f"{name}: {one.other:.{SHOWN_DIGITS}f} to {one.tuned:.{SHOWN_DIGITS}f}, {one.difference:+.{SHOWN_DIGITS}f}{interval}, n {one.n}"


def _conclusion(knowledge: VerdictLine, style: VerdictLine) -> str:
    """Both lines in one sentence."""
    styled = style.outcome is Outcome.GAINED
    if knowledge.outcome is Outcome.GAINED:
        return "The tuned model knows more" + (", and its style is closer to the references." if styled else ".")
    if knowledge.outcome is Outcome.LOST:
        return ("The tuned model learnt to sound right, not to be right: it lost knowledge." if styled
                else "The tuned model lost knowledge.")  # fmt: skip
    if knowledge.outcome is Outcome.MIXED:
        return "The tuned model gained knowledge in one measure and lost it in another: read the answers before you go on."
    if styled:
        return "The tuned model learnt to sound right, not to be right: its style is closer to the references, but no gain in knowledge can be shown."
    if style.outcome is Outcome.NO_DIFFERENCE:
        return "Tuning changed neither knowledge nor style beyond noise."
    return "No gain in knowledge can be shown."
