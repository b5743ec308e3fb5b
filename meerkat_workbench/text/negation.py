"""Negations in English: which words deny, and how far they reach.

After NegEx (Chapman et al. 2001), with fewer triggers.
"""

from __future__ import annotations

import re

# a denial anywhere in a clause before what it denies
DENIAL = re.compile(r"\b(?:not|no|never|without|cannot|unless)\b|n[’']t\b")
# words and phrases that deny the next few words
TRIGGER = re.compile(
    r"\b(?:no|not|never|without|nor|cannot|can't|don't|doesn't|isn't|aren't|shouldn't|mustn't|avoid|absence of|free of|"
    r"contraindicated|denies|negative for)\b"
)
CLAUSE = re.compile(r"[.;:!?,\n]|\bbut\b|\bhowever\b")
SENTENCE = re.compile(r"[.;:!?\n]+\s*|,? but |,? however ")
WORDS_DENIED = 5  # after the trigger, as in NegEx


def affirmed(pattern: str, text: str) -> bool:
    """Whether a clause says it and does not deny it: "not without a doctor" denies twice, which is no denial."""
    for clause in CLAUSE.split(text.lower()):
        for match in re.finditer(pattern, clause, re.IGNORECASE):
            if len(DENIAL.findall(clause[: match.start()])) % 2 == 0:
                return True
    return False


def affirmed_and_denied(text: str) -> tuple[list[str], list[str]]:
    """Parts of a text that are affirmed, and parts that are denied: the first words after a trigger."""
    yes: list[str] = []
    no: list[str] = []
    for sentence in SENTENCE.split(text.lower()):
        match = TRIGGER.search(sentence)
        if match is None:
            yes.append(sentence)
            continue
        words = sentence[match.end() :].split()
        yes += [sentence[: match.start()], " ".join(words[WORDS_DENIED:])]
        no.append(" ".join(words[:WORDS_DENIED]))
    return yes, no
