"""Ratings of clinicians and of a judge, their agreement, and claims."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from meerkat_workbench.core.artifacts import Artifact
from meerkat_workbench.output.tables import Row
from meerkat_workbench.stats.verdicts import Verdict
from meerkat_workbench.tuning.artifacts.names import (
    AnswerCriterion,
    AnswerVerdicts,
    ClaimMeasure,
    ClaimOf,
    ClaimVerdict,
    Judgement,
)


class RatingKeyEntry(msgspec.Struct, frozen=True):
    """The question of a line of the sheet, and the system whose answer is A."""

    id: str
    a: str


class RatingKey(Artifact, frozen=True, kw_only=True):
    """`rating_key.json`: which answer is whose. The raters must not see it."""

    FILE: ClassVar[str] = "rating_key.json"

    sheet: str
    questions: dict[str, RatingKeyEntry]


class RatingSheetRow(Row, frozen=True, kw_only=True):
    """`rating_sheet.csv`: one question with both answers in random order."""

    FILE: ClassVar[str] = "rating_sheet.csv"
    READ_BACK: ClassVar[tuple[str, str, str]] = ("sheet", "number", "better")  # columns that a completed sheet must have

    sheet: str
    number: int
    specialty: str
    question: str
    answer_a: str
    answer_b: str
    better: str = ""
    correct_a: str = ""
    complete_a: str = ""
    harm_a: str = ""
    correct_b: str = ""
    complete_b: str = ""
    harm_b: str = ""
    comment: str = ""

    @classmethod
    def criterion_column(cls, criterion: AnswerCriterion, answer: str) -> str:
        """The column of a criterion; `answer` is "A" or "B". Sheets of earlier versions do not have it."""
        return f"{criterion}_{answer.lower()}"


class RatingResult(Row, frozen=True, kw_only=True):
    """`rating_results.csv`: preferences over all questions and by specialty; `net` is from -1 (always the base) to 1."""

    FILE: ClassVar[str] = "rating_results.csv"

    specialty: str
    questions: int
    ratings: int
    tuned_wins: int
    ties: int
    base_wins: int
    net: float
    ci_low: float
    ci_high: float
    p: float


class MetricAgreement(Row, frozen=True, kw_only=True):
    """`rating_agreement.csv`: how often a metric prefers the answer that the raters prefer, with a Wilson interval."""

    FILE: ClassVar[str] = "rating_agreement.csv"

    metric: str
    questions: int
    agrees: float
    ci_low: float
    ci_high: float


class RatedCriterion(Row, frozen=True, kw_only=True):
    """`rating_criteria.csv`: for how many answers of each system raters say yes, by criterion.

    Attributes:
        questions: number of questions with a verdict on both answers; the raters of an answer are averaged first.
        ratings: number of verdicts, a rater's on one answer each.
        base, tuned: fraction of yes, with Wilson intervals.
        difference: tuned minus base, paired by question and stratified by specialty.
        kappa: agreement between raters on `common` answers, which all of them rated; NaN with one rater.
    """

    FILE: ClassVar[str] = "rating_criteria.csv"

    criterion: AnswerCriterion
    questions: int
    ratings: int
    base: float
    base_low: float
    base_high: float
    tuned: float
    tuned_low: float
    tuned_high: float
    difference: float
    ci_low: float
    ci_high: float
    p: float
    raters: int
    common: int
    kappa: float


class JudgeVerdict(Row, frozen=True, kw_only=True):
    """`judge_verdicts.csv`: what the judge says of one answer, by criterion; `grade` is its mean grade, NaN if it has none."""

    FILE: ClassVar[str] = "judge_verdicts.csv"

    id: str
    specialty: str
    system: str
    correct: Judgement
    complete: Judgement
    harm: Judgement
    grade: float
    words: int

    @property
    def verdicts(self) -> AnswerVerdicts:
        return AnswerVerdicts(self.correct, self.complete, self.harm)


class LengthControlled(Row, frozen=True, kw_only=True):
    """`judge_length.csv`: the judge's mean grade, tuned minus base, as it is and at equal length of the answers.

    Attributes:
        per_doubling: by how much the difference grows if the tuned answer is twice as long.
    """

    FILE: ClassVar[str] = "judge_length.csv"

    n: int
    difference: float
    ci_low: float
    ci_high: float
    at_equal_length: float
    at_equal_length_low: float
    at_equal_length_high: float
    per_doubling: float
    missing: str = ""


class JudgeAgreement(Row, frozen=True, kw_only=True):
    """`judge_agreement.csv`: how far the judge agrees with raters by one criterion, on the answers of both systems.

    Attributes:
        n: number of answers with a judge's verdict and a majority of raters.
        kappa: Cohen's kappa between the judge and the majority of raters.
        sensitivity: of `raters_yes` answers for which raters say yes, the fraction for which the judge does.
        specificity: of `raters_no` answers for which raters say no, the fraction for which the judge does not say yes.
        judged: number of answers, rated or not, for which both orders could be read.
        flips: number of them for which the judge's verdict changed with the order of the answers.
    """

    FILE: ClassVar[str] = "judge_agreement.csv"

    criterion: AnswerCriterion
    n: int
    kappa: float
    sensitivity: float
    raters_yes: int
    specificity: float
    raters_no: int
    judged: int
    flips: int


class JudgeCorrection(Row, frozen=True, kw_only=True):
    """`judge_corrected.csv`: the judge's rate of yes, corrected by its sensitivity and specificity on rated answers.

    Attributes:
        system: base, tuned, or their difference.
        n: number of judged answers, or of judged pairs.
        judged: the judge's own rate, or difference of rates.
        corrected: with a 95% interval that covers the judged and the rated answers; NaN with the reason in `missing`.
    """

    FILE: ClassVar[str] = "judge_corrected.csv"
    DIFFERENCE: ClassVar[str] = "tuned minus base"  # in place of a system

    criterion: AnswerCriterion
    system: str
    n: int
    judged: float
    corrected: float
    ci_low: float
    ci_high: float
    missing: str = ""


class ClaimRow(Row, frozen=True, kw_only=True):
    """`claims.csv`: one claim of a reference or of an answer, and what the other text says about it."""

    FILE: ClassVar[str] = "claims.csv"

    id: str
    specialty: str
    system: str
    claim_of: ClaimOf
    claim: str
    verdict: ClaimVerdict


class ClaimScore(Row, frozen=True, kw_only=True):
    """`claim_scores.csv`: the measures of one system's answer to one question. A value that cannot be known is NaN.

    Attributes:
        reference_claims, answer_claims: number of claims; NaN if the judge's list cannot be read.
        reference_decided, answer_decided: number of these with a verdict, the denominators below.
        claim_recall, claim_contradicted: fraction of the reference's claims that the answer entails or contradicts.
        claim_precision: fraction of the answer's claims that the reference supports.
        unsupported_claims: number of the answer's claims that the reference does not support.
    """

    FILE: ClassVar[str] = "claim_scores.csv"

    id: str
    specialty: str
    system: str
    reference_claims: float
    reference_decided: float
    answer_claims: float
    answer_decided: float
    claim_recall: float
    claim_contradicted: float
    claim_precision: float
    unsupported_claims: float

    def of(self, measure: ClaimMeasure) -> float:
        return float(getattr(self, measure))


class ClaimComparison(Row, frozen=True, kw_only=True):
    """`claim_comparison.csv`: one system against another in one measure of claims, paired by question.

    Attributes:
        score, against_score: means over the questions for which both have a value.
        p_adjusted: adjusted over the measures (Benjamini-Hochberg).
        missing: the reason if there is no such question.
    """

    FILE: ClassVar[str] = "claim_comparison.csv"

    system: str
    against: str
    measure: ClaimMeasure
    n: int
    against_score: float
    score: float
    difference: float
    ci_low: float
    ci_high: float
    p: float
    p_adjusted: float
    verdict: Verdict
    lower_is_better: bool
    missing: str = ""
