"""Negations in English: which words negate, and how far they reach.

After NegEx (Chapman et al. 2001), with fewer triggers.
"""

from __future__ import annotations

import re

# a negation anywhere in a clause before the words that it negates
NEGATION = re.compile(r"\b(?:not|no|never|without|cannot|unless)\b|n[’']t\b")
# words and phrases that negate the next few words
TRIGGER = re.compile(
    r"\b(?:no|not|never|without|nor|cannot|can't|don't|doesn't|isn't|aren't|shouldn't|mustn't|avoid|absence of|free of|"
    r"contraindicated|denies|negative for)\b"
)
CLAUSE_END = re.compile(r"[.;:!?,\n]|\bbut\b|\bhowever\b")
SENTENCE_END = re.compile(r"[.;:!?\n]+\s*|,? but |,? however ")
MAX_NEGATED_WORDS = 5  # after the trigger, as in NegEx


def affirmed(pattern: str, text: str) -> bool:
    """Whether a clause contains the pattern without negating it. An even number of negations is none: "not without a doctor"."""
    for clause in CLAUSE_END.split(text.lower()):
        for match in re.finditer(pattern, clause, re.IGNORECASE):
            if len(NEGATION.findall(clause[: match.start()])) % 2 == 0:
                return True
    return False


def affirmed_and_denied(text: str) -> tuple[list[str], list[str]]:
    """The affirmed parts of a text, and its negated parts: the first words after each sentence's first trigger."""
    affirmed_parts: list[str] = []
    denied_parts: list[str] = []
    for sentence in SENTENCE_END.split(text.lower()):
        trigger = TRIGGER.search(sentence)
        if trigger is None:
            affirmed_parts.append(sentence)
            continue
        words = sentence[trigger.end() :].split()
        affirmed_parts += [sentence[: trigger.start()], " ".join(words[MAX_NEGATED_WORDS:])]
        denied_parts.append(" ".join(words[:MAX_NEGATED_WORDS]))
    return affirmed_parts, denied_parts
