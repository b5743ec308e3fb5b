"""The judge's mean grade at equal length of the answers, because a judge that prefers longer answers finds longer answers better.

The difference of two grades is regressed on the difference of the logarithms of the answers' lengths. The intercept is what
remains if both are equally long (as in length-controlled AlpacaEval, Dubois et al. 2024, arXiv 2404.04475, there with a
logistic regression).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from meerkat_workbench.stats import regression, significance
from meerkat_workbench.tuning.artifacts import BASE, TUNED, JudgeVerdict, LengthControlled


def at_equal_length(rows: Sequence[JudgeVerdict]) -> LengthControlled:
    """The difference of mean grades, tuned minus base, as it is and at equal length.

    Args:
        rows: two for each question, one for each system; questions without two grades, or with an empty answer, are left out.
    """
    of_base, of_tuned = ({row.id: row for row in rows if row.system == system} for system in (BASE, TUNED))
    pairs = [(of_base[name], row) for name, row in of_tuned.items() if name in of_base]
    pairs = [(base, tuned) for base, tuned in pairs if not math.isnan(base.grade + tuned.grade) and base.words and tuned.words]
    differences = [tuned.grade - base.grade for base, tuned in pairs]
    plain = significance.stratified(differences, [base.specialty for base, _ in pairs])
    fitted = regression.line(differences, [math.log(tuned.words / base.words) for base, tuned in pairs])
    missing = (
        "" if not math.isnan(fitted.slope) else "it needs three questions whose answers differ in length to different degrees"
    )
    return LengthControlled(
        n=len(pairs), difference=plain.mean, ci_low=plain.low, ci_high=plain.high, at_equal_length=fitted.intercept.mean,
        at_equal_length_low=fitted.intercept.low, at_equal_length_high=fitted.intercept.high,
        per_doubling=fitted.slope * math.log(2), missing=missing,
    )  # fmt: skip


def sentence(row: LengthControlled) -> str:
    """The difference at equal length in words."""
    if row.missing:
        return f"The difference in grade at equal length is missing: {row.missing}."
    return (
        f"The mean grade of the tuned model differs from that of the base by {row.difference:+.2f}, and at equal length of the answers {row.at_equal_length:+.2f} "
        f"(95% interval {row.at_equal_length_low:+.2f} to {row.at_equal_length_high:+.2f})."
    )
