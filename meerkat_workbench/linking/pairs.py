"""Training pairs of the cross-encoder: each mention with its concept, and with concepts that it does not mean.

Pairs are made and written a few hundred mentions at a time, so that memory does not grow with the corpus. A concept is one
text with its names, so no synonym of the right concept can become a negative. A concept that shares a name with the right one is not taken either.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from meerkat_workbench.concepts import candidates as candidate_lists
from meerkat_workbench.concepts import linker, name_forms
from meerkat_workbench.concepts.candidates import DEPTH, MentionInContext
from meerkat_workbench.concepts.name_index import NameIndex
from meerkat_workbench.concepts.pubtator import AnnotatedDocument
from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.core.chunks import chunks
from meerkat_workbench.linking.artifacts import LinkPairKind, LinkPairRow

CHUNK = 512  # mentions whose candidates are found at a time
MOST_KEPT = 50_000  # mentions whose similar concepts stay in memory


@dataclass(frozen=True)
class LinkNegatives:
    """Negatives of each mention, and names of the vocabulary that stand for mentions.

    Attributes:
        synonym_mentions: names of the vocabulary, drawn at random, that are trained on as if they were mentions without context.
    """

    semantic: int
    same_type: int
    random: int
    synonym_mentions: int
    seed: int


@dataclass
class PairCounts:
    """What was written; filled while the pairs are drawn."""

    pairs: Counter[LinkPairKind] = field(default_factory=Counter)
    groups: int = 0
    synonym_groups: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class _Positive:
    """A mention with its right concepts. `name` is the vocabulary's name that stands for it, if it does."""

    mention: MentionInContext
    gold: tuple[str, ...]
    name: str = ""


class PairMaker:
    """Draws the pairs."""

    def __init__(self, vocabulary: Vocabulary, index: NameIndex, rules: LinkNegatives) -> None:
        self.vocabulary, self.index, self.rules = vocabulary, index, rules
        self.counts = PairCounts()
        self._draw = random.Random(rules.seed)
        self._ids = list(vocabulary.concepts)
        self._near: dict[str, list[str]] = {}  # similar concepts of the mentions so far: a corpus repeats its mentions
        self._of_type: dict[str, list[str]] = {}
        for concept in vocabulary.concepts.values():
            for one in concept.types:
                self._of_type.setdefault(one, []).append(concept.id)

    def pairs(self, documents: Iterable[AnnotatedDocument]) -> Iterator[LinkPairRow]:
        """The pairs of all mentions with one concept that the vocabulary has, then those of the drawn names."""
        for chunk in chunks(itertools.chain(self._mentions(documents), self._names()), CHUNK):
            yield from self._of_chunk(chunk)

    def _mentions(self, documents: Iterable[AnnotatedDocument]) -> Iterator[_Positive]:
        for document in documents:
            for one, mention in zip(candidate_lists.in_context(document), document.mentions, strict=True):
                found = tuple(
                    sorted(name for name in candidate_lists.gold(mention, self.vocabulary) if name in self.vocabulary.concepts)
                )
                if len(found) == 1 and not mention.composite:
                    yield _Positive(one, found)

    def _names(self) -> Iterator[_Positive]:
        """Names of concepts that have another name, drawn without putting back."""
        rows = [row for row, owner in enumerate(self.index.owners) if len(self.vocabulary.concepts[owner].names) > 1]
        for row in self._draw.sample(rows, min(self.rules.synonym_mentions, len(rows))):
            name = self.index.names[row]
            yield _Positive(MentionInContext(name, name), (self.index.owners[row],), name)

    def _of_chunk(self, chunk: Sequence[_Positive]) -> Iterator[LinkPairRow]:
        texts = [text for text in dict.fromkeys(one.mention.long_form for one in chunk) if text not in self._near]
        if len(self._near) + len(texts) > MOST_KEPT:
            self._near.clear()
            texts = list(dict.fromkeys(one.mention.long_form for one in chunk))
        encoded = self.index.encode(texts)
        similar = self.index.by_vectors(encoded, DEPTH) if self.index.encoder else self.index.by_ngrams(encoded, DEPTH)
        for text, names in zip(texts, similar, strict=True):
            self._near[text] = list(dict.fromkeys(self.index.owners[row] for row in names.rows.tolist()))
        for one in chunk:
            yield from self._of_mention(one, self._near[one.mention.long_form])

    def _of_mention(self, positive: _Positive, near: Sequence[str]) -> Iterator[LinkPairRow]:
        group = self.counts.groups
        self.counts.groups += 1
        self.counts.synonym_groups += bool(positive.name)
        right = self._not_negatives(positive.gold)
        chosen: dict[str, LinkPairKind] = dict.fromkeys(positive.gold, LinkPairKind.POSITIVE)
        self.counts.skipped += len(right & set(near) - set(positive.gold))
        similar = [one for one in near if one not in right][: self.rules.semantic]
        chosen |= dict.fromkeys(similar, LinkPairKind.SEMANTIC)
        types = self.vocabulary.concepts[positive.gold[0]].types
        self._add(chosen, right, self._of_type.get(types[0], []) if types else [], self.rules.same_type, LinkPairKind.SAME_TYPE)
        self._add(chosen, right, self._ids, self.rules.random, LinkPairKind.RANDOM)
        mention = linker.describe_mention(positive.mention)
        for concept_id, kind in chosen.items():
            self.counts.pairs[kind] += 1
            # a name that stands for a mention must not be read off the concept
            without = positive.name if kind is LinkPairKind.POSITIVE else ""
            concept = linker.describe_concept(self.vocabulary.concepts[concept_id], self.vocabulary, without=without)
            yield LinkPairRow(group=group, document_id=positive.mention.document_id, concept_id=concept_id, mention=mention,
                              concept=concept, label=float(kind is LinkPairKind.POSITIVE), kind=kind)  # fmt: skip

    def _not_negatives(self, gold: Sequence[str]) -> set[str]:
        """The right concepts, and those that share a name with one of them."""
        return {
            owner
            for concept_id in gold
            for name in self.vocabulary.concepts[concept_id].names
            for row in self.index.with_key(name_forms.key(name))
            for owner in (self.index.owners[row],)
        } | set(gold)

    def _add(self, chosen: dict[str, LinkPairKind], right: set[str], ids: Sequence[str], count: int, kind: LinkPairKind) -> None:
        wanted = len(chosen) + count
        for _ in range(20 * count):
            if len(chosen) >= wanted or not ids:
                return
            one = self._draw.choice(ids)
            if one not in right:
                chosen.setdefault(one, kind)
