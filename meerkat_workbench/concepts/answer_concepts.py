"""Which concepts of a reference an answer names, and which it names that the reference does not: precision, recall and F1.

Mentions are found by the vocabulary's names and linked in their context. Mentions from which the linker abstains do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meerkat_workbench.concepts import candidates, mention_finder
from meerkat_workbench.concepts.artifacts import identity
from meerkat_workbench.concepts.linker import Linker
from meerkat_workbench.core.chunks import chunks

CHUNK = 200  # texts whose mentions are linked at a time


@dataclass(frozen=True)
class ConceptScores:
    """Scores of one answer. Precision is None if the answer names no concept."""

    precision: float | None
    recall: float
    f1: float


class AnswerConcepts:
    """Scores answers by the concepts that they share with their references. The concepts of each text are found once.

    Args:
        folder: of a calibrated linker.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.linker = folder, Linker.load(folder)
        self._concepts_of: dict[str, frozenset[str]] = {}

    @property
    def signature(self) -> str:
        """How the scores are computed."""
        return f"over concepts that the linker {identity(self.folder)} finds by the vocabulary's names; v1"

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[ConceptScores | None]:
        """For each (reference, answer) the scores; None if the reference names no concept."""
        self._find([text for pair in pairs for text in pair])
        return [_compare(self._concepts_of[reference], self._concepts_of[answer]) for reference, answer in pairs]

    def _find(self, texts: Sequence[str]) -> None:
        for part in chunks([text for text in dict.fromkeys(texts) if text not in self._concepts_of], CHUNK):
            documents = [mention_finder.find(text, self.linker.generator.vocabulary_names) for text in part]
            links = iter(
                self.linker.links(
                    [one for document in documents for one in candidates.in_context(document)], what="linking concepts"
                )
            )
            for text, document in zip(part, documents, strict=True):
                found = [next(links) for _ in document.mentions]
                self._concepts_of[text] = frozenset(link.concept_id for link in found if link.concept_id)


def _compare(wanted: frozenset[str], given: frozenset[str]) -> ConceptScores | None:
    if not wanted:
        return None
    shared = len(wanted & given)
    precision, recall = shared / len(given) if given else None, shared / len(wanted)
    return ConceptScores(precision, recall, 2 * shared / (len(wanted) + len(given)))
