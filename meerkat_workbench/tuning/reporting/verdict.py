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

from meerkat_workbench.stats import significance
from meerkat_workbench.stats.significance import Estimate
from meerkat_workbench.text import texts
from meerkat_workbench.tuning.artifacts import (
    BASE,
    FEW_SHOT,
    FIXED,
    TUNED,
    ClaimMeasure,
    ClaimScore,
    EvaluationVerdict,
    Outcome,
    SplitVerdict,
    Verdict,
    VerdictEvidence,
    VerdictLine,
    system_in_words,
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
SHOWN_DIGITS = 3
MAX_LEFT_OUT = 0.05  # of the questions; if more are left out of the content, the sentence says so


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


def reach(scored: ScoredAnswers, claims: Sequence[ClaimScore] = (), *, seed: int) -> EvaluationVerdict:
    """The verdict on each split.

    Args:
        claims: what a judge found in the answers to the holdout questions.
        seed: of the permutation tests.
    """
    splits = [str(split) for split in FIXED if (scored.base.splits == split).any()]
    return EvaluationVerdict(
        splits=tuple(_judge_split(scored, claims if split == splits[0] else (), split, seed) for split in splits)
    )


def _judge_split(scored: ScoredAnswers, claims: Sequence[ClaimScore], split: str, seed: int) -> SplitVerdict:
    against = FEW_SHOT if FEW_SHOT in scored.tables else BASE
    other, tuned, base = (table.of_split(split) for table in (scored.tables[against], scored.tuned, scored.base))
    knowledge = _Pair(other, tuned, seed)
    style = _Pair(base, tuned, seed)
    lines = (
        _line("Knowledge", [
            knowledge.metric(CONTENT, only_complete=True),
            knowledge.metric(PREFERENCE),
            *(knowledge.check(name, can_gain=False) for name in HARMS),
            *(_of_claims(claims, against, seed) if claims else ()),
        ], against, knowledge.note_on_cut_off(against)),
        _line("Style", [style.metric(OVERLAP), style.length(), style.check(answer_checks.CUT_OFF, can_gain=True)], BASE),
    )  # fmt: skip
    return SplitVerdict(split, *lines, conclusion=_conclusion(*lines))


class _Pair:
    """Answers of two systems to the same questions, as measures."""

    def __init__(self, other: AnswerTable, tuned: AnswerTable, seed: int) -> None:
        self.other, self.tuned, self.seed = other, tuned, seed
        self.complete = ~(other.fails(answer_checks.CUT_OFF) | tuned.fails(answer_checks.CUT_OFF))

    def metric(self, name: str, *, only_complete: bool = False) -> Measure:
        """A metric of which more is better.

        Args:
            only_complete: leave out questions to which an answer was cut off, because it might have said more.
        """
        values = [
            table.scores(name).to_numpy(float) if table.has_metric(name) else np.full(len(table), np.nan)
            for table in (self.other, self.tuned)
        ]
        if only_complete:
            values = [np.where(self.complete, one, np.nan) for one in values]
        return self._measure(name, *values)

    def check(self, name: str, *, can_gain: bool) -> Measure:
        """The fraction of answers that fail a check; answers in other languages are left out of checks of English words."""
        values = [np.where(table.failed, np.nan, table.fails(name).astype(float)) for table in (self.other, self.tuned)]
        if name in answer_checks.ENGLISH_ONLY:
            english = np.array([texts.is_english(reference) is not False for reference in self.other.references], bool)
            values = [np.where(english, one, np.nan) for one in values]
        return self._measure(name, *values, lower_is_better=True, can_gain=can_gain)

    def length(self) -> Measure:
        """The distance of an answer's length from the reference's."""
        return self._measure(LENGTH, _length_distance(self.other), _length_distance(self.tuned), lower_is_better=True)

    def note_on_cut_off(self, against: str) -> str:
        """What the cut-off answers leave out; empty if hardly any are cut off."""
        left_out = int((~self.complete).sum())
        if left_out <= MAX_LEFT_OUT * len(self.complete):
            return ""
        return (
            f"Content is compared on {len(self.complete) - left_out} of {len(self.complete)} questions, because an answer of "
            f"{system_in_words(against)} or the tuned model to the others was cut off: raise MAX_NEW_TOKENS."
        )

    def _measure(
        self, name: str, other: np.ndarray, tuned: np.ndarray, *, lower_is_better: bool = False, can_gain: bool = True
    ) -> Measure:
        """A measure from its values for each question, (rows,) each; NaN is left out."""
        known = ~np.isnan(other + tuned)
        strata = self.other.specialties.to_numpy()[known].tolist()
        estimate = significance.stratified((tuned - other)[known].tolist(), strata, test=True, seed=self.seed)
        of_other, of_tuned = (float(values[known].mean()) if known.any() else math.nan for values in (other, tuned))
        return Measure(name, of_other, of_tuned, estimate, lower_is_better, can_gain)


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


def _length_distance(table: AnswerTable) -> np.ndarray:
    """How far each answer's length is from the reference's, |ln(ratio)|, (rows,); an empty answer counts as a tenth."""
    if not table.has_metric("length_ratio"):
        return np.full(len(table), np.nan)
    ratios: np.ndarray = table.scores("length_ratio").to_numpy(float)
    return np.abs(np.log(np.clip(ratios, 0.1, None)))


def _line(title: str, measures: Sequence[Measure], against: str, note: str = "") -> VerdictLine:
    measured = [measure for measure in measures if measure.estimate.n > 1]
    evidence: list[VerdictEvidence] = []
    for can in (True, False):  # what can show a gain, and what can only show harm
        family = [measure for measure in measured if measure.can_gain == can]
        adjusted = significance.family_adjusted([measure.estimate.p for measure in family])
        evidence += [_evidence(measure, p) for measure, p in zip(family, adjusted, strict=True)]
    can_gain = [one for one in evidence if one.can_gain]
    better = [one for one in can_gain if one.verdict is Verdict.BETTER]
    worse = [one for one in evidence if one.verdict is Verdict.WORSE]
    if not can_gain:
        outcome = Outcome.NOT_MEASURED
    elif better and worse:
        outcome = Outcome.MIXED
    else:
        outcome = Outcome.GAINED if better else Outcome.LOST if worse else Outcome.NO_DIFFERENCE
    shown = [*better, *worse] or can_gain
    compared = "" if outcome is Outcome.NOT_MEASURED else f" against {system_in_words(against)}"
    sentence = f"{title}: {outcome}{compared}." + (f" {note}" if note else "")
    return VerdictLine(outcome, against, sentence, tuple(evidence), tuple(map(_in_words, shown)))


def _evidence(measure: Measure, p: float) -> VerdictEvidence:
    estimate = measure.estimate
    verdict = Verdict.of_test(estimate.mean, p, significance.ALPHA, lower_is_better=measure.lower_is_better)
    return VerdictEvidence(
        measure=measure.name, n=estimate.n, other=_known(measure.other), tuned=_known(measure.tuned), difference=_known(estimate.mean),
        ci_low=_known(estimate.low), ci_high=_known(estimate.high), p_adjusted=_known(p), verdict=verdict,
        can_gain=measure.can_gain,
    )  # fmt: skip


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


def _in_words(one: VerdictEvidence) -> str:
    name = NAMES.get(one.measure, one.measure)
    if one.difference is None or one.other is None or one.tuned is None:
        return f"{name}: no value"
    interval = f" ({one.ci_low:+.{SHOWN_DIGITS}f} to {one.ci_high:+.{SHOWN_DIGITS}f})" if one.ci_low is not None else ""
    p = f", adjusted p {one.p_adjusted:.2g}" if one.p_adjusted is not None else ""
    values = f"from {one.other:.{SHOWN_DIGITS}f} to {one.tuned:.{SHOWN_DIGITS}f}"
    difference = round(one.difference, SHOWN_DIGITS) + 0.0  # so that it is never -0
    return f"{name}: {values}, difference {difference:+.{SHOWN_DIGITS}f}{interval}{p}, {one.n} questions"


STYLE_WORDS = {
    Outcome.GAINED: "its style is closer to the references",
    Outcome.LOST: "its style is farther from the references",
    Outcome.MIXED: "its style is closer to the references in one measure and farther in another",
    Outcome.NO_DIFFERENCE: "its style has not changed beyond noise",
    Outcome.NOT_MEASURED: "its style was not measured",
}


def _conclusion(knowledge: VerdictLine, style: VerdictLine) -> str:
    """Both lines in one sentence."""
    words, closer = STYLE_WORDS[style.outcome], style.outcome is Outcome.GAINED
    match knowledge.outcome:
        case Outcome.GAINED:
            return f"The tuned model knows more, and {words}."
        case Outcome.LOST if closer:
            return "The tuned model learnt to sound right, not to be right: it lost knowledge."
        case Outcome.LOST:
            return f"The tuned model lost knowledge, and {words}."
        case Outcome.MIXED:
            return f"The tuned model gained knowledge in one measure and lost it in another, and {words}: read the answers before you go on."
        case Outcome.NOT_MEASURED:
            return f"Whether the tuned model knows more was not measured; {words}."
    if closer and _hints_at_gain(knowledge):
        return (
            "The tuned model's style is closer to the references. It may know more, but these questions are too few to show it."
        )
    if closer:
        return f"The tuned model learnt to sound right, not to be right: {words}, but no gain in knowledge can be shown."
    if style.outcome is Outcome.NO_DIFFERENCE:
        return "Tuning changed neither knowledge nor style beyond noise."
    return f"No gain in knowledge of the tuned model can be shown, and {words}."


def _hints_at_gain(knowledge: VerdictLine) -> bool:
    """Whether the interval of a measure that can show a gain lies above zero, although its adjusted p is too large."""
    return any(one.can_gain and one.ci_low is not None and one.ci_low > 0 for one in knowledge.evidence)
