"""What may be concluded from an evaluation, in sentences, and what may not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from workbench import texts
from workbench.errors import again
from workbench.evaluation import significance

if TYPE_CHECKING:
    import pandas as pd

MANY_CUT_OFF = 0.05  # share of answers from which MAX_NEW_TOKENS is worth raising


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the split that is reported: the holdout's, or those of eval where no holdout was asked."""
    return table[table["split"] == ("holdout" if (table["split"] == "holdout").any() else table["split"].iloc[0])]


def in_words(headline: pd.DataFrame, scored: dict[str, Any], metric: str, looks: int) -> list[str]:
    """What may be concluded, and what may not.

    Args:
        headline: rows of `model_comparison.csv` of the split that is reported.
        scored: tables of the evaluation: base, tuned, specialties, checks, corpus_bleu.
        looks: evaluations that have looked at this holdout.
    """
    verdicts = [verdict for verdict in headline.loc[headline["missing"] == "", "verdict"] if verdict]
    row, split = headline[headline["metric"] == metric].iloc[0], headline["split"].iloc[0]
    sentences = [
        f"On {int(row['n'])} {split} questions the tuned model is better in {verdicts.count('better')} of {len(verdicts)} metrics, "
        f"worse in {verdicts.count('worse')}, and within noise in {verdicts.count('within noise')}.",
        f"{metric}: {row['base']:.3f} base, {row['tuned']:.3f} tuned, difference {row['difference']:+.3f} "
        + (
            f"(95% interval {row['ci_low']:+.3f} to {row['ci_high']:+.3f})."
            if math.isfinite(row["ci_low"])
            else "(too few questions for an interval)."
        ),
    ]
    if warning := little_above_floor(row):
        sentences.append(warning)
    by_specialty = scored["specialties"]
    held = by_specialty[(by_specialty["split"] == split) & (by_specialty["metric"] == metric)]
    both = scored["tuned"][metric] - scored["base"][metric]
    sd = float(both[scored["tuned"]["split"] == split].std())
    n = int(held["n"].median()) if len(held) else 0
    least = significance.smallest_detectable(sd, n, max(1, len(held)))
    if least == least:
        sentences.append(
            f"{n} questions of one specialty cannot show a difference in {metric} below {least:.2f} (80% power, corrected for "
            f"{len(held)} specialties)."
        )
    elif sd > 0:
        sentences.append(
            f"{n} questions of one specialty cannot show any difference by themselves, once corrected for {len(held)} specialties."
        )
    checks = scored["checks"]
    for _, row in checks[(checks["split"] == split) & ((checks["base"] > 0) | (checks["tuned"] > 0))].iterrows():
        text = f"{row['tuned']} of {row['n']} answers of the tuned model {row['says']} (base: {row['base']})."
        if row["check"] == "cut_off" and row["tuned"] > MANY_CUT_OFF * row["n"]:
            text += " Raise MAX_NEW_TOKENS."
        sentences.append(text)
    other = int(scored["base"].loc[scored["base"]["split"] == split, "reference"].map(texts.english).eq(False).sum())
    if other:
        sentences.append(
            f"{other} references are not in English: denials and refusals are not looked for there, METEOR counts equal words alone, and "
            "medical_token_f1 needs terms of that language in MEDICAL_LEXICON."
        )
    for name in ("base", "tuned"):
        failed = int((scored[name]["finish_reason"] == "failed").sum())
        if failed:
            sentences.append(f"{failed} questions got no answer from the {name} model; run {again()} again.")
    corpus = scored["corpus_bleu"].get(split, {})
    if "base" in corpus and "tuned" in corpus:
        sentences.append(
            f"Corpus BLEU on the {split}: {corpus['base']:.2f} base, {corpus['tuned']:.2f} tuned ({corpus['signature']})."
        )
    sentences.append(
        f"This holdout has been looked at {looks} time{'s' * (looks != 1)}; choices made after each look make its next figure rosier."
    )
    return sentences


def little_above_floor(row: Any) -> str:
    """A warning where most of a score is what any answer of the specialty would get; empty where it is not."""
    above = abs(row["tuned"] - row["floor_tuned"])
    if not math.isfinite(above) or above > 0.25 * abs(row["tuned"]):
        return ""
    return (
        f"Beware: answers handed to other questions of the specialty score {row['floor_tuned']:.3f} already, so most of "
        "what the tuned model scores is style, not knowledge of the question asked."
    )


def caution(comparison: pd.DataFrame, metric: str) -> str:
    """Why recommendations by this metric on eval are not to be relied on; empty where nothing speaks against them."""
    rows = comparison[(comparison["split"] == "eval") & (comparison["metric"] == metric)]
    warning = "" if rows.empty else little_above_floor(rows.iloc[0])
    if not warning:
        return ""
    advised = "Gains and recommendations here are of style too: read answers, and train longer or on more"
    return f"{warning} {advised}, before you feed by them."
