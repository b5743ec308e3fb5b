"""Finding mentions in a text by the names of a vocabulary: the longest run of words that equals a name."""

from __future__ import annotations

import regex

from meerkat_workbench.concepts import abbreviations, name_forms
from meerkat_workbench.concepts.name_index import NameIndex
from meerkat_workbench.concepts.pubtator import AnnotatedDocument, Mention
from meerkat_workbench.text import texts

MAX_WORDS = 8  # of a name
MAX_CHARACTERS = 24  # of a name in a script without spaces
MAX_ABBREVIATION = 5  # letters
WORD = regex.compile(rf"{texts.CHARACTER}|{texts.LETTER}+", regex.V1)
BREAK = regex.compile(r"[.;:!?()\n]")  # a name does not go on beyond these


def find(text: str, index: NameIndex) -> AnnotatedDocument:
    """The mentions of a text, without concepts. Words that the text defines as abbreviations count as their long forms."""
    words = list(WORD.finditer(text))
    long_forms = abbreviations.find(text)
    found: list[Mention] = []
    place = 0
    while place < len(words):
        most = MAX_CHARACTERS if texts.CHARACTERS.match(words[place][0]) else MAX_WORDS
        length = _longest_name(text, words[place : place + most], index, long_forms)
        if length:
            start, end = words[place].start(), words[place + length - 1].end()
            found.append(Mention("", start, end, text[start:end], ""))
        place += max(1, length)
    return AnnotatedDocument("", text, found)


def _longest_name(text: str, words: list[regex.Match[str]], index: NameIndex, long_forms: dict[str, str]) -> int:
    """Words of the longest name that begins with the first; 0 if none does."""
    for length in range(len(words), 0, -1):
        span = text[words[0].start() : words[length - 1].end()]
        if not BREAK.search(span) and _is_name(span, index, long_forms):
            return length
    return 0


def _is_name(span: str, index: NameIndex, long_forms: dict[str, str]) -> bool:
    if name_forms.EDGES.search(span):
        return False
    if span in long_forms:
        return bool(index.equal(long_forms[span]))
    rows = index.equal(span) if span.lower() not in texts.ENGLISH_FUNCTION_WORDS else []
    # "ALL" is a leukemia and "all" is not, so an abbreviation must be written as the vocabulary writes it
    return any(not _is_abbreviation(index.names[row]) or index.names[row] in (span, span.removesuffix("s")) for row in rows)


def _is_abbreviation(name: str) -> bool:
    letters = [letter for letter in name if letter.isalpha()]
    return len(letters) <= MAX_ABBREVIATION and sum(letter.isupper() for letter in letters) > len(letters) / 2
