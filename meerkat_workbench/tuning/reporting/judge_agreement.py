"""Raters and the judge, joined: how far the judge agrees with raters, and its rates corrected by what they show of its errors.

The judge says yes only if it does so in both orders; a verdict that changes with the order counts as not yes. It thus says
something of every answer that it read, and the correction covers this rule like any other error. Answers without a readable
reply are left out. The truth of an answer is what most of its raters say; answers on which they are divided evenly are left
out.

Sensitivity and specificity are those on the rated answers of both systems together: the judge is taken to err alike on both,
and on unrated answers as on rated ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meerkat_workbench.output.tables import read_rows, write_rows
from meerkat_workbench.stats import agreement, judge_correction
from meerkat_workbench.stats.judge_correction import Calibration, Corrected, PairedCounts
from meerkat_workbench.tuning.artifacts import (
    BASE,
    TUNED,
    AnswerCriterion,
    JudgeAgreement,
    JudgeCorrection,
    Judgement,
    JudgeVerdict,
    LengthControlled,
)
from meerkat_workbench.tuning.reporting.rating import Rating, mean_verdicts
from meerkat_workbench.tuning.scoring import judge_length


@dataclass(frozen=True)
class JudgeCheck:
    """The judge of an evaluation, checked against raters.

    Attributes:
        agreement: a row for each criterion that somebody rated.
        corrected: for each of these criteria the rates of base and tuned model, and their difference.
        length: the difference in mean grade at equal length of the answers.
    """

    agreement: list[JudgeAgreement]
    corrected: list[JudgeCorrection]
    length: LengthControlled

    def write(self, folder: Path) -> None:
        write_rows(folder / JudgeAgreement.FILE, self.agreement, JudgeAgreement)
        write_rows(folder / JudgeCorrection.FILE, self.corrected, JudgeCorrection)
        write_rows(folder / LengthControlled.FILE, [self.length], LengthControlled)


def read_verdicts(folder: Path) -> list[JudgeVerdict]:
    """The judge's verdicts in a finished evaluation; none if no judge was asked, or if it was before verdicts were."""
    path = folder / JudgeVerdict.FILE
    return read_rows(path, JudgeVerdict) if path.is_file() else []


def check_judge(ratings: Sequence[Rating], verdicts: Sequence[JudgeVerdict]) -> JudgeCheck:
    """Compare the judge with raters.

    Args:
        verdicts: the judge's, of base and tuned model.
    """
    rows: list[JudgeAgreement] = []
    corrected: list[JudgeCorrection] = []
    for criterion in AnswerCriterion:
        truth = {
            (system, name): mean > 0.5
            for system in (BASE, TUNED)
            for name, mean in mean_verdicts(ratings, system, criterion).items()
            if mean != 0.5
        }
        if not truth:
            continue
        judged = {(row.system, row.id): row.verdicts.of(criterion) for row in verdicts}
        read = {answer: verdict for answer, verdict in judged.items() if verdict is not Judgement.NONE}
        says_yes = {answer: verdict is Judgement.YES for answer, verdict in read.items()}
        pairs = [(truth[answer], says_yes[answer]) for answer in truth if answer in says_yes]
        calibration = _calibration(pairs)
        rows.append(JudgeAgreement(
            criterion=criterion, n=len(pairs), kappa=agreement.cohen_kappa([int(rater) for rater, _ in pairs], [int(one) for _, one in pairs]),
            sensitivity=calibration.sensitivity, raters_yes=calibration.positives, specificity=calibration.specificity,
            raters_no=calibration.negatives, judged=len(read), flips=list(read.values()).count(Judgement.UNDECIDED),
        ))  # fmt: skip
        corrected += _corrections(criterion, says_yes, calibration)
    return JudgeCheck(rows, corrected, judge_length.at_equal_length(verdicts))


def _calibration(pairs: Sequence[tuple[bool, bool]]) -> Calibration:
    """Counts of the pairs of what raters and the judge say."""
    return Calibration(
        positives=sum(rater for rater, _ in pairs), true_positives=pairs.count((True, True)),
        negatives=sum(not rater for rater, _ in pairs), true_negatives=pairs.count((False, False)),
    )  # fmt: skip


def _corrections(
    criterion: AnswerCriterion, says_yes: dict[tuple[str, str], bool], calibration: Calibration
) -> list[JudgeCorrection]:
    """The judge's rates on all answers that it read, and their paired difference, corrected."""
    of_base, of_tuned = ({name: yes for (of, name), yes in says_yes.items() if of == system} for system in (BASE, TUNED))
    pairs = [(yes, of_tuned[name]) for name, yes in of_base.items() if name in of_tuned]
    counts = PairedCounts(*(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))
    found = {
        BASE: judge_correction.corrected_rate(sum(of_base.values()), len(of_base), calibration),
        TUNED: judge_correction.corrected_rate(sum(of_tuned.values()), len(of_tuned), calibration),
        JudgeCorrection.DIFFERENCE: judge_correction.corrected_difference(counts, calibration),
    }
    return [_row(criterion, system, one) for system, one in found.items()]


def _row(criterion: AnswerCriterion, system: str, one: Corrected) -> JudgeCorrection:
    return JudgeCorrection(criterion=criterion, system=system, n=one.n, judged=one.judged, corrected=one.value, ci_low=one.low,
                           ci_high=one.high, missing=one.missing)  # fmt: skip
