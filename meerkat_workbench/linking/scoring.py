"""Mentions of documents with their candidates and their right concepts, scored by any ranker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.concepts import candidates as candidate_lists
from meerkat_workbench.concepts import linker
from meerkat_workbench.concepts.candidates import EVIDENCE, CandidateGenerator, Candidates
from meerkat_workbench.concepts.linker import Linker
from meerkat_workbench.concepts.pubtator import AnnotatedDocument, Mention
from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.linking.prepared import LinkingData
from meerkat_workbench.linking.splits import LinkSplit
from meerkat_workbench.retrieval.cross_encoder import Pair

# Scores that differ by less are equal. The vectors of a name that two concepts share can differ by rounding, which depends on batch and processor.
TIE = 1e-6


@dataclass(frozen=True)
class GoldMentions:
    """Mentions with right concepts.

    Attributes:
        wanted: for each mention, the ids that are right; empty if nobody knows one.
        found: for each mention, its candidates.
    """

    mentions: list[Mention]
    wanted: list[set[str]]
    found: list[Candidates]

    @classmethod
    def joined(cls, parts: Iterable[GoldMentions]) -> GoldMentions:
        """The mentions of several parts."""
        all_parts = list(parts)
        return cls([one for part in all_parts for one in part.mentions], [one for part in all_parts for one in part.wanted],
                   [one for part in all_parts for one in part.found])  # fmt: skip

    @property
    def documents(self) -> list[str]:
        """(mentions,) the document of each."""
        return [one.document_id for one in self.mentions]

    def right(self) -> list[NDArray[np.bool_]]:
        """For each mention, (candidates,) which are right."""
        return [
            np.array([one in wanted for one in found.concept_ids], bool)
            for wanted, found in zip(self.wanted, self.found, strict=True)
        ]

    def with_candidates(self, found: Sequence[Candidates]) -> GoldMentions:
        """The same mentions with other candidates."""
        return GoldMentions(self.mentions, self.wanted, list(found))

    def where(self, chosen: Sequence[bool]) -> GoldMentions:
        """The chosen mentions."""
        kept = [number for number, one in enumerate(chosen) if one]
        return GoldMentions(
            [self.mentions[one] for one in kept], [self.wanted[one] for one in kept], [self.found[one] for one in kept]
        )

    def linkable(self, words: Vocabulary) -> NDArray[np.bool_]:
        """(mentions,) whether the vocabulary has a right concept."""
        return np.array([any(one in words.concepts for one in wanted) for wanted in self.wanted], bool)


def gold_mentions(
    documents: Sequence[AnnotatedDocument], generator: CandidateGenerator, where: str, *, half_typed: bool = False
) -> GoldMentions:
    """The mentions of documents with their candidates.

    Args:
        where: the split, for messages.
        half_typed: whether every second mention keeps its type, so that weights and probabilities suit mentions with and without one.
            Otherwise no mention does, because a corpus' types are those of the right concepts.

    Raises:
        UserError: the documents have no mention.
    """
    mentions = [mention for document in documents for mention in document.mentions]
    if not mentions:
        raise UserError("have no mention", where=f"the documents for {where}", remedy="Give this split more documents.")
    seen = [
        one if half_typed and number % 2 else candidate_lists.without_type(one)
        for number, one in enumerate(one for document in documents for one in candidate_lists.in_context(document))
    ]
    return GoldMentions(mentions, [candidate_lists.gold(one, generator.vocabulary) for one in mentions], generator.find(seen))


def hits(scores: Sequence[NDArray[np.float64]], right: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """(mentions,) whether a right candidate has the highest score. Where a wrong one ties with it, the mention counts as an error."""
    return np.array(
        [bool(len(one)) and bool(rows[one >= one.max() - TIE].all()) for one, rows in zip(scores, right, strict=True)], bool
    )


def single_evidence(found: Sequence[Candidates], name: str) -> list[NDArray[np.float64]]:
    """For each mention, (candidates,) one kind of evidence alone."""
    column = EVIDENCE.index(name)
    return [one.evidence[:, column] for one in found]


def validation_pairs(data: LinkingData, found: Linker, most: int) -> list[Pair]:
    """Mentions of the validation documents with their first candidates, as the cross-encoder reads them; at most `most`."""
    mentions = gold_mentions(data.documents(LinkSplit.VALIDATION), found.generator, LinkSplit.VALIDATION)
    return list(dict.fromkeys(linker.pairs_of(found.first(mentions.found), found.vocabulary)))[:most]
