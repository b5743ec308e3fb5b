"""The words of a dataset's references: stems, and the words that are too common to tell what an answer knows."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from nltk.stem.porter import PorterStemmer

from meerkat_workbench.core import files
from meerkat_workbench.text import quantities, texts
from meerkat_workbench.tuning.data.records import Record

MAX_COMMON_FRACTION, MIN_COMMON_COUNT = 0.05, 3  # a word in more than 5% of the references, and in three of them, is common
MAX_OTHERS = 8  # references of other questions that make the floor of one answer
FUNCTION_WORDS = texts.ENGLISH_FUNCTION_WORDS | texts.FOREIGN_FUNCTION_WORDS
_stemmer = PorterStemmer()


@dataclass(frozen=True)
class ReferenceVocabulary:
    """What is known of all references of a dataset's fixed splits.

    Attributes:
        common: stems of words that do not count, because many references hold them.
        others: by specialty, some of its records, whose references make the floors.
    """

    common: frozenset[str] = frozenset()
    others: dict[str, list[Record]] = field(default_factory=dict)

    @functools.cached_property
    def hash(self) -> str:
        """Hash of the common words."""
        return files.sha256_of(sorted(self.common))[:12]

    @classmethod
    def of(cls, records: Iterable[Record]) -> ReferenceVocabulary:
        """Count the words of all references, and choose the records of the floors; the order of the records does not matter."""
        counts: Counter[str] = Counter()
        total = 0
        chosen: dict[str, list[Record]] = {}
        for record in records:
            total += 1
            counts.update(stems(record.response, english=texts.is_english(record.response) is not False))
            of_specialty = chosen.setdefault(record.specialty, [])
            of_specialty.append(record)
            of_specialty.sort(key=lambda record: files.sha256_of(record.id))
            del of_specialty[MAX_OTHERS + 1 :]
        limit = max(MIN_COMMON_COUNT - 1, MAX_COMMON_FRACTION * total)
        return cls(frozenset(word for word, count in counts.items() if count > limit), chosen)


@functools.lru_cache(maxsize=65536)
def stem(word: str, *, english: bool) -> str:
    """The stem of a lower-case English word (Porter 1980); any other word as it is."""
    return str(_stemmer.stem(word)) if english else word


@functools.lru_cache(maxsize=16384)
def stems(text: str, *, english: bool) -> frozenset[str]:
    """Stems of a text's words without function words, numbers and their units. A name with digits ("B12", "CYP3A4") is a word.

    If words are not separated by spaces, pairs of characters take the place of words.
    """
    if texts.script_without_spaces(text):
        return frozenset(word for word in texts.words_of(text) if word.isalpha())
    function_words = texts.ENGLISH_FUNCTION_WORDS if english else texts.FOREIGN_FUNCTION_WORDS
    words, in_quantity = set(), False  # in_quantity: a number or a unit after one stands before
    for word in texts.tokens(text):
        is_number = word[0].isdigit()
        in_quantity = is_number or (in_quantity and quantities.is_unit(word))
        if len(word) > 1 and not in_quantity:
            words.add(word)
    return frozenset(stem(word, english=english) for word in words - function_words)
