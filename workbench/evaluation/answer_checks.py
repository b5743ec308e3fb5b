"""What is wrong with a single answer, whatever its score: another dose, a lost negation, cut off, refused, repeating.

Rules over words; they find what is plain to see and claim no more. Negation after NegEx (Chapman et al. 2001), with
fewer triggers. Our own definitions otherwise.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from workbench.evaluation import medical_metrics

# in the order of tables and sentences; each is a column of the results
CHECKS = {
    "number_differs": "give another dose or number than the reference, in the same unit",
    "negation_differs": "deny what the reference affirms, or affirm what it denies",
    "cut_off": "were cut off at MAX_NEW_TOKENS",
    "repeating": "repeat themselves",
    "refused": "decline to answer",
    "empty": "are empty",
    "thinking_unfinished": "never end their thinking, so that they hold no answer",
}
VALUE = re.compile(r"(-?\d+(?:\.\d+)?)(.+)")
NEGATION = re.compile(
    r"\b(?:no|not|never|without|nor|cannot|can't|don't|doesn't|isn't|aren't|shouldn't|mustn't|avoid|absence of|free of|"
    r"contraindicated|denies|negative for)\b"
)
SENTENCE = re.compile(r"[.;:!?\n]+\s*|,? but |,? however ")
NEGATED_WORDS = 5  # after the trigger, as in NegEx
REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:cannot|can't|can not|am not allowed|won't|will not) (?:\w+ ){0,2}?"
    r"(?:answer|help|provide|give|offer|assist|comment|advise|recommend|diagnose|discuss)|as an ai\b|as a language model)",
    re.IGNORECASE,
)
REFUSAL_WITHIN = 200  # characters: a refusal opens an answer
GRAM, LEAST_WORDS, REPEATED = 4, 24, 0.4


def check(reference: str, answer: str, finish: str, *, thinking_unfinished: bool = False) -> dict[str, bool]:
    """Which of `CHECKS` an answer fails; one that failed to be made fails none.

    Args:
        thinking_unfinished: whether it is a thinking block that was never closed.
    """
    if finish == "failed":
        return dict.fromkeys(CHECKS, False)
    return {
        "number_differs": number_differs(reference, answer),
        "negation_differs": bool(negation_differs(reference, answer)),
        "cut_off": finish == "length",
        "repeating": repeating(answer),
        "refused": bool(REFUSAL.search(answer[:REFUSAL_WITHIN])),
        "empty": not answer.strip(),
        "thinking_unfinished": thinking_unfinished,
    }


def number_differs(reference: str, answer: str) -> bool:
    """Whether, in a unit that both use, no value of the answer is one of the reference's."""
    wanted, given = _by_unit(reference), _by_unit(answer)
    return any(not wanted[unit] & given[unit] for unit in wanted.keys() & given.keys())


def _by_unit(text: str) -> dict[str, set[float]]:
    found: dict[str, set[float]] = defaultdict(set)
    for number in medical_metrics.numbers(text):
        if match := VALUE.fullmatch(number):  # a bare number says nothing without what it counts
            found[match[2]].add(float(match[1]))
    return found


def negation_differs(reference: str, answer: str) -> set[str]:
    """Medical words that one text only denies and the other only affirms."""
    affirmed, denied = _polarity(reference)
    affirmed_there, denied_there = _polarity(answer)
    return ((affirmed - denied) & (denied_there - affirmed_there)) | ((denied - affirmed) & (affirmed_there - denied_there))


def _polarity(text: str) -> tuple[set[str], set[str]]:
    """Medical words that stand affirmed, and those that stand denied."""
    affirmed: set[str] = set()
    denied: set[str] = set()
    for sentence in SENTENCE.split(text.lower()):
        match = NEGATION.search(sentence)
        before, after = (sentence, "") if match is None else (sentence[: match.start()], sentence[match.end() :])
        affirmed |= set(medical_metrics.medical_terms(before))
        words = after.split()
        denied |= set(medical_metrics.medical_terms(" ".join(words[:NEGATED_WORDS])))
        affirmed |= set(medical_metrics.medical_terms(" ".join(words[NEGATED_WORDS:])))
    return affirmed, denied


def repeating(text: str) -> bool:
    """Whether a large part of a text's runs of four words stood in it before."""
    words = text.lower().split()
    if len(words) < LEAST_WORDS:
        return False
    grams = Counter(zip(*(words[i:] for i in range(GRAM)), strict=False))
    return 1 - len(grams) / grams.total() > REPEATED
