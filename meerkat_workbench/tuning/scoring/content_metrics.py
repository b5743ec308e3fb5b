"""Content beyond the question: what an answer knows of its reference that the question did not tell it.

A unit of content is a word, a number with its unit, or a term of MEDICAL_LEXICON. These do not count:

- what the question holds, because repeating the question is no knowledge;
- function words, and the words that many references of the dataset hold ("treatment", "usually"), because tuning on any
  answers of the same style teaches them.

Longer answers, and answers in the vocabulary of the specialty, still find more of any reference. `above_floor` subtracts what an answer
finds in the references of other questions of its specialty. So neither length nor phrasing raises it. The definitions are this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meerkat_workbench.text import quantities, texts
from meerkat_workbench.text.quantities import Quantity
from meerkat_workbench.tuning.data import vocabulary
from meerkat_workbench.tuning.data.records import Record
from meerkat_workbench.tuning.data.vocabulary import MAX_OTHERS, ReferenceVocabulary
from meerkat_workbench.tuning.scoring import medical_metrics

SIGNATURES = {
    "content_recall": "words, numbers with units and lexicon terms of the reference beyond the question and the dataset's common words, "
                      "fraction that the answer holds; Porter stems for English; v2",
    "content_precision": "the same units of the answer, fraction that the reference holds; v2",
    "content_f1": "harmonic mean of content_recall and content_precision; v2",
    "content_above_floor": f"content_recall minus that of the same answer on up to {MAX_OTHERS} other references of the specialty; v2",
}  # fmt: skip


@dataclass(frozen=True)
class Content:
    """The units of a text: stems of words, terms of a lexicon, and numbers with units."""

    words: frozenset[str] = frozenset()
    numbers: tuple[Quantity, ...] = ()

    def __len__(self) -> int:
        return len(self.words) + len(self.numbers)

    def without(self, other: Content) -> Content:
        return Content(self.words - other.words, tuple(number for number in self.numbers if not other.holds(number)))

    def holds(self, number: Quantity) -> bool:
        return any(number.same(other) for other in self.numbers)

    def found_in(self, other: Content) -> int:
        """Number of units that another text holds too."""
        return len(self.words & other.words) + sum(map(other.holds, self.numbers))


@dataclass(frozen=True)
class ContentScores:
    """Scores of one answer, from 0 to 1."""

    recall: float
    precision: float

    @property
    def f1(self) -> float:
        total = self.recall + self.precision
        return 2 * self.recall * self.precision / total if total else 0.0


def _content(text: str, numbers: Sequence[Quantity], *, english: bool, common: frozenset[str], lexicon: str) -> Content:
    words = vocabulary.stems(text, english=english) - common
    if lexicon:
        words |= {term for term in medical_metrics.medical_terms(text, lexicon) if " " in term}
    return Content(words, tuple(dict.fromkeys(number for number in numbers if number.unit)))


def content_scores(
    question: str, reference: str, answer: str, common: frozenset[str] = frozenset(), lexicon: str = ""
) -> ContentScores | None:
    """Recall and precision of an answer's content beyond the question; None if the reference holds nothing beyond it.

    Args:
        common: stems of words that do not count (`ReferenceVocabulary`).
        lexicon: a file of medical terms; its terms of several words are units too.
    """
    in_reference, in_answer = quantities.find_in_both(reference, answer)
    english = texts.is_english(reference) is not False

    def units(text: str, numbers: Sequence[Quantity]) -> Content:
        return _content(text, numbers, english=english, common=common, lexicon=lexicon)

    known = units(question, quantities.find(question))
    expected, given = units(reference, in_reference).without(known), units(answer, in_answer).without(known)
    if not len(expected):
        return None
    precision = given.found_in(expected) / len(given) if len(given) else 0.0
    return ContentScores(expected.found_in(given) / len(expected), precision)


def above_floor(asked: Record, answer: str, references: ReferenceVocabulary, lexicon: str = "") -> float | None:
    """`content_recall` minus the mean recall of the same answer on references of other questions of the specialty, from -1 to 1.

    Only content beyond the asked question counts in all of them. An answer that knows nothing about its question scores 0 on average,
    whatever its length and style.

    Args:
        asked: the question with its reference.

    Returns:
        None if the reference holds nothing beyond the question, or the specialty has no other such reference.
    """

    def recall(text: str) -> float | None:
        scores = content_scores(asked.question, text, answer, references.common, lexicon)
        return None if scores is None else scores.recall

    own = recall(asked.response)
    candidates = references.others.get(asked.specialty, [])
    panel = [record for record in candidates if record.id != asked.id and record.response != asked.response][:MAX_OTHERS]
    others = [value for record in panel if (value := recall(record.response)) is not None]
    return None if own is None or not others else own - sum(others) / len(others)
