"""Abbreviations that a document defines itself, by the algorithm of Schwartz and Hearst (Pacific Symposium on Biocomputing 2003)."""

from __future__ import annotations

import regex

BRACKETED = regex.compile(r"\(([^()]{2,60})\)")
MAX_SHORT = 10  # characters of an abbreviation, and words of it
WORD = regex.compile(r"[^\s]+")
# two brackets before the word that ends both long forms: "ventricular septal (VSD) and midline (MD) defects"
SHARED_HEAD = regex.compile(r"\(([^()]{2,10})\),? (?:and|or) [^().;]{2,40}\(([^()]{2,10})\) (\p{L}+)")


def find(text: str) -> dict[str, str]:
    """Long forms by abbreviation, from "long form (LF)"; the first definition of each counts."""
    found = _with_shared_head(text)
    for match in BRACKETED.finditer(text):
        short = regex.split(r"[;,]\s", match[1])[0].strip()
        if not _may_be_short(short) or short in found:
            continue
        long = _longest_match(short, _words_before(text, match.start(), short))
        if long and short not in regex.findall(r"\w+", long):
            found[short] = long
    return found


def _with_shared_head(text: str) -> dict[str, str]:
    """Long forms of two abbreviations that share their last word. The initials of a long form must spell its abbreviation: the word stands behind the
    brackets, so a looser match would often be wrong."""
    found: dict[str, str] = {}
    for match in SHARED_HEAD.finditer(text):
        for number in (1, 2):
            short = match[number]
            long = _longest_match(short, f"{_words_before(text, match.start(number) - 1, short)} {match[3]}")
            if "".join(word[0] for word in regex.findall(r"\p{L}+", long)).lower() == short.lower():
                found.setdefault(short, long)
    return found


def _words_before(text: str, place: int, short: str) -> str:
    """The words before a place that may belong to the long form of an abbreviation."""
    words = WORD.findall(text[:place])
    return " ".join(words[-min(len(short) + 5, 2 * len(short)) :])


def _may_be_short(text: str) -> bool:
    return 2 <= len(text) <= MAX_SHORT and len(text.split()) <= 2 and bool(regex.search(r"\p{L}", text)) and text[0].isalnum()


def _longest_match(short: str, text: str) -> str:
    """The words before the bracket that hold the abbreviation's letters in order, the first of them at the start of a word."""
    place = len(text) - 1
    for number in range(len(short) - 1, -1, -1):
        letter = short[number].lower()
        if not letter.isalnum():
            continue
        while place >= 0 and (text[place].lower() != letter or (number == 0 and place > 0 and text[place - 1].isalnum())):
            place -= 1
        if place < 0:
            return ""
        place -= 1
    start = text.rfind(" ", 0, place + 1) + 1
    long = text[start:].strip().lstrip("([{-")
    return long if len(long) > len(short) and len(long.split()) <= len(short) + 5 else ""


def expand(mention: str, long_forms: dict[str, str]) -> str:
    """A mention with the abbreviations that the document defines written out: "CF patients" to "cystic fibrosis patients". A definition in
    the mention itself is taken out: "cystic fibrosis (CF)" is "cystic fibrosis"."""
    if mention in long_forms:
        return long_forms[mention]
    for short in long_forms:
        mention = mention.replace(f" ({short})", "")
    words = regex.sub(r"[\w-]+", lambda match: _long_form(match[0], long_forms), mention).split()
    # "HPT-JT syndrome", where the long form of HPT-JT ends with syndrome too
    return " ".join(word for place, word in enumerate(words) if not place or word.lower() != words[place - 1].lower())


def _long_form(word: str, long_forms: dict[str, str]) -> str:
    if word in long_forms:
        return long_forms[word]
    if word.endswith("s") and word[:-1] in long_forms:
        return long_forms[word[:-1]]
    return word
