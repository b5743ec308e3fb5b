"""Checks of single answers, independent of their scores: another dose, a lost negation, cut off, refused, repeating.

The checks are rules over words, which find only obvious faults. Negation is detected as in NegEx (Chapman et al. 2001),
with fewer triggers. All other definitions are this project's own.
"""

from __future__ import annotations

import math
import re
from collections import Counter

from meerkat_workbench.text import negation, quantities, texts
from meerkat_workbench.text.quantities import Quantity
from meerkat_workbench.tuning.artifacts import Finish
from meerkat_workbench.tuning.scoring import medical_metrics

CUT_OFF, THINKING_UNFINISHED, UNSUPPORTED = "cut_off", "thinking_unfinished", "number_unsupported"
# each check is a column of the results; tables and sentences use this order
CHECKS = {
    "number_differs": "give another dose or number than the reference, in the same unit",
    UNSUPPORTED: "give a dose or number with a unit that neither reference nor question holds",
    "negation_differs": "deny what the reference affirms, or affirm what it denies",
    CUT_OFF: "were cut off at MAX_NEW_TOKENS",
    "repeating": "repeat themselves",
    "refused": "decline to answer",
    "empty": "are empty",
    THINKING_UNFINISHED: "never end their thinking, so they hold no answer",
}
ENGLISH_ONLY = ("negation_differs", "refused")  # rules over English words
REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:cannot|can't|can not|am not allowed|won't|will not) (?:\w+ ){0,2}?"
    r"(?:answer|help|provide|give|offer|assist|comment|advise|recommend|diagnose|discuss)|as an ai\b|as a language model)",
    re.IGNORECASE,
)
MAX_REFUSAL_START = 200  # characters of an answer that are searched for a refusal, which comes first
NGRAM_WORDS, MIN_WORDS, MAX_REPEATED_FRACTION = 4, 24, 0.4
# a dose up to a thousand times too large or small is a mistake in the unit; beyond that the two doses are of different things
MAX_POWERS_OF_TEN, POWER_TOLERANCE = 3, 1e-6


def check(
    reference: str, answer: str, finish: Finish, *, question: str = "", thinking_unfinished: bool = False
) -> dict[str, bool]:
    """Which of `CHECKS` an answer fails; an answer that could not be generated fails none.

    Args:
        thinking_unfinished: whether the answer is a thinking block that was never closed.
    """
    if finish == Finish.FAILED:
        return dict.fromkeys(CHECKS, False)
    return {
        "number_differs": number_differs(reference, answer),
        UNSUPPORTED: number_unsupported(question, reference, answer),
        "negation_differs": bool(negation_differs(reference, answer)),
        CUT_OFF: finish == Finish.LENGTH,
        "repeating": repeating(answer),
        "refused": bool(REFUSAL.search(answer[:MAX_REFUSAL_START])),
        "empty": not answer.strip(),
        THINKING_UNFINISHED: thinking_unfinished,
    }


def number_differs(reference: str, answer: str) -> bool:
    """Whether the answer gives another amount than the reference.

    This is so if, in a unit that both use, no value of the answer equals one of the reference. It is also so if one of the
    answer's doses is none of the reference's, but ten times, a tenth (or another power of ten) of one of them. Numbers
    without a unit are ignored, because it is not known what they count.
    """
    expected, given = ([quantity for quantity in found if quantity.unit] for found in quantities.find_in_both(reference, answer))
    for kind in {quantity.kind for quantity in expected} & {quantity.kind for quantity in given}:
        # compared with all of `given`: "48 hours" equals "2 days", although hours and days are different kinds
        of_kind = [quantity for quantity in expected if quantity.kind == kind]
        if not any(quantity.same(other) for quantity in of_kind for other in given):
            return True
    return any(
        _powers_of_ten_apart(quantity, other)
        for other in given
        if other.is_dose and not any(quantity.same(other) for quantity in expected)
        for quantity in expected
        if quantity.kind == other.kind
    )


def number_unsupported(question: str, reference: str, answer: str) -> bool:
    """Whether the answer gives a number with a unit that is in neither text, such as a dose that appears from nowhere.

    Such a number may be right, but nothing here says so. Numbers without a unit are ignored, because many only count a list.
    """
    expected, given = quantities.find_in_both(reference, answer)
    supported = (*expected, *quantities.find(question))
    return any(quantity.unit and not any(quantity.same(other) for other in supported) for quantity in given)


def _powers_of_ten_apart(left: Quantity, right: Quantity) -> bool:
    """Whether two amounts differ by a power of ten, of at most a thousand."""
    power = left.powers_of_ten_from(right)
    return math.isfinite(power) and 0 < abs(round(power)) <= MAX_POWERS_OF_TEN and abs(power - round(power)) < POWER_TOLERANCE


def negation_differs(reference: str, answer: str) -> set[str]:
    """Medical words that one text only denies and the other only affirms."""
    affirmed, denied = _polarity(reference)
    answer_affirmed, answer_denied = _polarity(answer)
    return ((affirmed - denied) & (answer_denied - answer_affirmed)) | ((denied - affirmed) & (answer_affirmed - answer_denied))


def _polarity(text: str) -> tuple[set[str], set[str]]:
    """The medical words that a text affirms, and those that it denies."""
    affirmed, denied = (
        {term for part in parts for term in medical_metrics.medical_terms(part)} for parts in negation.affirmed_and_denied(text)
    )
    return affirmed, denied


def repeating(text: str) -> bool:
    """Whether many of a text's four-word n-grams occur in it more than once."""
    words = list(texts.tokens(text)) if texts.script_without_spaces(text) else text.lower().split()
    if len(words) < MIN_WORDS:
        return False
    ngrams = Counter(zip(*(words[i:] for i in range(NGRAM_WORDS)), strict=False))
    return 1 - len(ngrams) / ngrams.total() > MAX_REPEATED_FRACTION
