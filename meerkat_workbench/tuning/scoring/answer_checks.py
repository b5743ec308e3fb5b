"""What is wrong with a single answer, whatever its score: another dose, a lost negation, cut off, refused, repeating.

Rules over words; they find what is plain to see and claim no more. Negation after NegEx (Chapman et al. 2001), with
fewer triggers. Our own definitions otherwise.
"""

from __future__ import annotations

import math
import re
from collections import Counter

from meerkat_workbench.text import negation, quantities, texts
from meerkat_workbench.text.quantities import Quantity
from meerkat_workbench.tuning.artifacts import Finish
from meerkat_workbench.tuning.scoring import medical_metrics

CUT_OFF, THINKING_UNFINISHED = "cut_off", "thinking_unfinished"
# in the order of tables and sentences; each is a column of the results
CHECKS = {
    "number_differs": "give another dose or number than the reference, in the same unit",
    "negation_differs": "deny what the reference affirms, or affirm what it denies",
    CUT_OFF: "were cut off at MAX_NEW_TOKENS",
    "repeating": "repeat themselves",
    "refused": "decline to answer",
    "empty": "are empty",
    THINKING_UNFINISHED: "never end their thinking, so that they hold no answer",
}
ENGLISH_ONLY = ("negation_differs", "refused")  # rules over English words
REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:cannot|can't|can not|am not allowed|won't|will not) (?:\w+ ){0,2}?"
    r"(?:answer|help|provide|give|offer|assist|comment|advise|recommend|diagnose|discuss)|as an ai\b|as a language model)",
    re.IGNORECASE,
)
REFUSAL_WITHIN = 200  # characters: a refusal opens an answer
NGRAM_WORDS, MIN_WORDS, MAX_REPEATED_FRACTION = 4, 24, 0.4
MAX_POWERS_OF_TEN, POWER_TOLERANCE = 3, 1e-6  # a thousandfold dose is a slip of units; beyond it the two are of different things


def check(reference: str, answer: str, finish: Finish, *, thinking_unfinished: bool = False) -> dict[str, bool]:
    """Which of `CHECKS` an answer fails; one that failed to be made fails none.

    Args:
        thinking_unfinished: whether it is a thinking block that was never closed.
    """
    if finish == Finish.FAILED:
        return dict.fromkeys(CHECKS, False)
    return {
        "number_differs": number_differs(reference, answer),
        "negation_differs": bool(negation_differs(reference, answer)),
        CUT_OFF: finish == Finish.LENGTH,
        "repeating": repeating(answer),
        "refused": bool(REFUSAL.search(answer[:REFUSAL_WITHIN])),
        "empty": not answer.strip(),
        THINKING_UNFINISHED: thinking_unfinished,
    }


def number_differs(reference: str, answer: str) -> bool:
    """Whether the answer gives another amount than the reference.

    It does where, in a unit that both use, none of its values is one of the reference's, or where one of its doses is a tenth, ten times
    (or another power of ten) one of the reference's and is none of them. Bare numbers say nothing without what they count.
    """
    wanted, given = ([quantity for quantity in one if quantity.unit] for one in quantities.find_in_both(reference, answer))
    for kind in {one.kind for one in wanted} & {one.kind for one in given}:
        # "48 hours" agrees with "2 days", though hours are not held against days otherwise
        asked = [one for one in wanted if one.kind == kind]
        if not any(one.same(other) for one in asked for other in given):
            return True
    return any(
        _powers_of_ten_apart(one, other)
        for other in given
        if other.is_dose and not any(one.same(other) for one in wanted)
        for one in wanted
        if one.kind == other.kind
    )


def _powers_of_ten_apart(left: Quantity, right: Quantity) -> bool:
    power = left.powers_of_ten_from(right)
    return math.isfinite(power) and 0 < abs(round(power)) <= MAX_POWERS_OF_TEN and abs(power - round(power)) < POWER_TOLERANCE


def negation_differs(reference: str, answer: str) -> set[str]:
    """Medical words that one text only denies and the other only affirms."""
    affirmed, denied = _polarity(reference)
    affirmed_there, denied_there = _polarity(answer)
    return ((affirmed - denied) & (denied_there - affirmed_there)) | ((denied - affirmed) & (affirmed_there - denied_there))


def _polarity(text: str) -> tuple[set[str], set[str]]:
    """Medical words that are affirmed, and those that are denied."""
    affirmed, denied = (
        {term for part in parts for term in medical_metrics.medical_terms(part)} for parts in negation.affirmed_and_denied(text)
    )
    return affirmed, denied


def repeating(text: str) -> bool:
    """Whether a large part of a text's runs of four words stood in it before."""
    words = list(texts.tokens(text)) if texts.script_without_spaces(text) else text.lower().split()
    if len(words) < MIN_WORDS:
        return False
    grams = Counter(zip(*(words[i:] for i in range(NGRAM_WORDS)), strict=False))
    return 1 - len(grams) / grams.total() > MAX_REPEATED_FRACTION
