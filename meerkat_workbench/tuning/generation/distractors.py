"""Distractors: answers of other questions, in the style of the reference, that a model which knows the answer finds less likely.

They are references of the same specialty from the fixed splits, which no model was trained on:

- the answer to another question on the same subject,
- the answer to the same kind of question on another subject, with the name of that subject replaced,
- if there are too few of these, the answer to any other question, with the name replaced.

The subject of a question is found by counting: its words occur in the questions of few specialties ("asthma"), the words for the kind of
question occur in many ("symptoms"). No word list is needed, so it works in any language that separates words by spaces.
"""

from __future__ import annotations

import enum
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meerkat_workbench.core import files
from meerkat_workbench.text import texts
from meerkat_workbench.tuning.data.records import Record
from meerkat_workbench.tuning.data.vocabulary import FUNCTION_WORDS

MIN_DISTRACTORS = 3  # a question with fewer has no preference
MIN_SPECIALTIES = 4  # with fewer, words are counted by question instead of by specialty
MAX_SUBJECT_SPREAD = 0.15  # of the specialties (or questions); a word in more of them does not name a subject
SAME = 0.5  # Jaccard index of two questions' subjects (or of their other words) from which these are the same
MAX_CANDIDATES = 40  # records of a specialty that are considered for one question
TOO_ALIKE = 0.8  # Jaccard index of two answers' words from which one may be right where the other is


class DistractorKind(enum.StrEnum):
    """How a distractor was made."""

    SAME_SUBJECT = "another question on the same subject"
    SAME_KIND = "the same kind of question on another subject, its name replaced"
    OTHER = "another question of the specialty, its name replaced"


@dataclass(frozen=True)
class Distractor:
    text: str
    kind: DistractorKind


@dataclass(frozen=True)
class _Parts:
    """A question's subject, as it is written, and its words: those of the subject and the others."""

    subject: str
    subject_words: frozenset[str]
    other_words: frozenset[str]


class DistractorMaker:
    """Makes distractors from the records of the fixed splits; those of a question are made once, for all systems."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.by_specialty: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            self.by_specialty[record.specialty].append(record)
        for records_of in self.by_specialty.values():
            records_of.sort(key=lambda record: files.sha256_of(record.id))  # an order that does not depend on the files
        self._spread: Counter[str] = Counter()  # number of groups whose questions hold a word
        groups = [[record.question for record in of_specialty] for of_specialty in self.by_specialty.values()]
        if len(groups) < MIN_SPECIALTIES:
            groups = [[question] for group in groups for question in group]
        for group in groups:
            self._spread.update({word for question in group for word in texts.tokens(question)})
        self._max_spread = max(1.0, MAX_SUBJECT_SPREAD * len(groups))
        self._made: dict[tuple[str, int], list[Distractor]] = {}  # by id of the question and number of distractors

    def distractors(self, record: Record, count: int) -> list[Distractor]:
        """At most `count` distractors of a question; an empty list if there are fewer than `MIN_DISTRACTORS`.

        They depend only on the records of the specialty.
        """
        key = (record.id, count)
        if key not in self._made:
            self._made[key] = self._make(record, count)
        return self._made[key]

    def _make(self, record: Record, count: int) -> list[Distractor]:
        parts = self._parts(record.question)
        found: dict[DistractorKind, list[Distractor]] = {kind: [] for kind in DistractorKind}
        seen = [frozenset(texts.tokens(record.response))]
        group = self.by_specialty[record.specialty]
        place = next((index for index, one in enumerate(group) if one.id == record.id), -1)
        for other in [*group[place + 1 :], *group[: max(place, 0)]][:MAX_CANDIDATES]:
            words = frozenset(texts.tokens(other.response))
            if not words or any(_jaccard(words, one) > TOO_ALIKE for one in seen):
                continue
            seen.append(words)
            distractor = _distractor(parts, self._parts(other.question), other.response)
            found[distractor.kind].append(distractor)
        alternating = itertools.zip_longest(found[DistractorKind.SAME_SUBJECT], found[DistractorKind.SAME_KIND])
        ordered = [one for pair in alternating for one in pair if one] + found[DistractorKind.OTHER]
        return ordered[:count] if len(ordered) >= min(count, MIN_DISTRACTORS) else []

    def _parts(self, question: str) -> _Parts:
        spans = [(match.span(), match.group().lower()) for match in texts.TOKEN.finditer(question)]
        names = [(span, word) for span, word in spans if self._spread[word] <= self._max_spread and word not in FUNCTION_WORDS]
        subject = frozenset(word for _, word in names)
        written = question[names[0][0][0] : names[-1][0][1]] if names else ""
        return _Parts(written, subject, frozenset(word for _, word in spans) - subject - FUNCTION_WORDS)


def _distractor(asked: _Parts, other: _Parts, answer: str) -> Distractor:
    """The answer to another question as a distractor."""
    if _jaccard(asked.subject_words, other.subject_words) >= SAME:
        return Distractor(answer, DistractorKind.SAME_SUBJECT)
    same_kind = asked.subject and other.subject and _jaccard(asked.other_words, other.other_words) >= SAME
    text = replace_name(answer, other.subject, asked.subject) if asked.subject and other.subject else answer
    return Distractor(text, DistractorKind.SAME_KIND if same_kind else DistractorKind.OTHER)


def replace_name(text: str, name: str, by: str) -> str:
    """Replace a name wherever it occurs in any case, with a capital where the old name has one at its start."""

    def written(match: re.Match[str]) -> str:
        capital = match.group()[:1].isupper() and not name[:1].isupper()
        return by[:1].upper() + by[1:] if capital else by

    pattern = r"\W+".join(re.escape(part) for part in re.split(r"\W+", name) if part)
    return re.sub(rf"(?<!\w){pattern}(?!\w)", written, text, flags=re.IGNORECASE) if pattern else text


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right) if left or right else 0.0


def counts(distractors: Iterable[Sequence[Distractor]]) -> dict[DistractorKind, int]:
    """Number of distractors of each kind."""
    kinds = [one.kind for of_question in distractors for one in of_question]
    return {kind: kinds.count(kind) for kind in DistractorKind}
