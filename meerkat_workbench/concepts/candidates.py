"""Candidate concepts of mentions: from equal names, character n-grams, word vectors and training mentions, with the evidence for each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.concepts import abbreviations, coordination, name_index
from meerkat_workbench.concepts.name_index import NGRAMS, NameIndex, Similar
from meerkat_workbench.concepts.pubtator import AnnotatedDocument, Mention
from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.core import files
from meerkat_workbench.core.artifacts import Artifact

# what speaks for a candidate, in the order of the columns
EVIDENCE = (
    "equal_name", "preferred_name", "name_unshared", "part_equal", "ngrams", "cosine", "ngrams_behind", "cosine_behind", "trained", "trained_share",
    "prior", "in_document", "type_agrees", "type_differs", "words_covered",
)  # fmt: skip
CONTEXT = 100  # characters before and after a mention
DEPTH, LIMIT = 60, 64


@dataclass(frozen=True)
class MentionInContext:
    """A mention as the linker sees it.

    Attributes:
        text: as written.
        long_form: with the abbreviations that its document defines written out; equal to `text` where there are none.
        type: of the corpus or the user; empty if unknown.
        others: long forms of the document's other mentions.
    """

    text: str
    long_form: str
    left: str = ""
    right: str = ""
    type: str = ""
    document_id: str = ""
    others: tuple[str, ...] = ()


class TrainingName(Artifact, frozen=True, kw_only=True):
    """A line of `training_names.jsonl`: how often training mentions with this key mean this concept. `name` is one of them."""

    FILE = "training_names.jsonl"

    key: str
    name: str
    concept_id: str
    count: int


def without_type(mention: MentionInContext) -> MentionInContext:
    """A mention whose type nobody knows. Corpora give the type of the right concept, which a user does not have."""
    return replace(mention, type="")


@dataclass(frozen=True)
class Candidates:
    """The candidates of a mention, and (candidates, EVIDENCE) what speaks for each."""

    mention: MentionInContext
    concept_ids: list[str]
    evidence: NDArray[np.float64]

    def first(self, k: int, scores: NDArray[np.float64]) -> Candidates:
        """The k candidates of the highest scores, the best first."""
        order = np.argsort(-scores, kind="stable")[:k]
        return replace(self, concept_ids=[self.concept_ids[place] for place in order], evidence=self.evidence[order])


def in_context(document: AnnotatedDocument) -> list[MentionInContext]:
    """The mentions of a document as the linker sees them."""
    long_forms = abbreviations.find(document.text)
    expanded = [abbreviations.expand(one.text, long_forms) for one in document.mentions]
    others = tuple(dict.fromkeys(expanded))
    found = []
    for one, long_form in zip(document.mentions, expanded, strict=True):
        left, right = document.context(one, CONTEXT)
        found.append(MentionInContext(one.text, long_form, left, right, one.type, document.id, others))
    return found


class TrainingNames:
    """Names that training mentions gave to concepts."""

    def __init__(self, rows: Iterable[TrainingName]) -> None:
        self.rows = list(rows)
        self.by_key: dict[str, Counter[str]] = {}
        self.by_concept: Counter[str] = Counter()
        for row in self.rows:
            self.by_key.setdefault(row.key, Counter())[row.concept_id] += row.count
            self.by_concept[row.concept_id] += row.count

    @classmethod
    def count(cls, documents: Iterable[AnnotatedDocument], vocabulary: Vocabulary) -> TrainingNames:
        """The names in annotated documents, without composites."""
        counts: Counter[tuple[str, str]] = Counter()
        name_of_key: dict[str, str] = {}
        for document in documents:
            for one, mention in zip(in_context(document), document.mentions, strict=True):
                if not mention.composite:
                    key = name_index.key(one.long_form)
                    name_of_key.setdefault(key, one.long_form)
                    counts.update((key, vocabulary.resolve(concept)) for concept in mention.concept_ids)
        return cls(TrainingName(key=key, name=name_of_key[key], concept_id=concept, count=count)
                   for (key, concept), count in sorted(counts.items()))  # fmt: skip

    def names(self, vocabulary: Vocabulary) -> list[tuple[str, str]]:
        """(name, concept id) of the names whose concepts the vocabulary has."""
        return [(row.name, row.concept_id) for row in self.rows if row.concept_id in vocabulary.concepts]


class CandidateGenerator:
    """Finds candidates by the names of a vocabulary and of training mentions.

    Args:
        names: the index of the vocabulary's names.
        depth: names that n-grams and vectors each give.
        limit: candidates of a mention at most.
    """

    def __init__(
        self, vocabulary: Vocabulary, names: NameIndex, training: TrainingNames, *, depth: int = DEPTH, limit: int = LIMIT
    ) -> None:
        self.names, self.index = names, names.with_more(training.names(vocabulary))
        self.vocabulary, self.training, self.depth, self.limit = vocabulary, training, depth, limit

    def find(self, mentions: Sequence[MentionInContext]) -> list[Candidates]:
        """The candidates of each mention; none where no name is similar at all. Equal long forms are looked up once."""
        texts = list(dict.fromkeys(one.long_form for one in mentions))
        ngrams = dict(zip(texts, self.index.by_ngrams(texts, self.depth), strict=True))
        vectors = dict(zip(texts, self.index.by_vectors(texts, self.depth), strict=True)) if self.index.encoder else {}
        return [self._of_mention(one, ngrams[one.long_form], vectors.get(one.long_form)) for one in mentions]

    def with_concepts(self, mention: MentionInContext, concept_ids: Sequence[str]) -> Candidates:
        """The candidates of a mention, and concepts that are given among them."""
        [ngrams] = self.index.by_ngrams([mention.long_form], self.depth)
        [vectors] = self.index.by_vectors([mention.long_form], self.depth) if self.index.encoder else [None]
        return self._of_mention(mention, ngrams, vectors, concept_ids)

    def _of_mention(
        self, mention: MentionInContext, ngrams: Similar, vectors: Similar | None, given: Sequence[str] = ()
    ) -> Candidates:
        by_ngrams, by_vectors = self._best_of_concepts(ngrams), self._best_of_concepts(vectors) if vectors else {}
        equal = {self.index.owners[row] for row in self.index.equal(mention.long_form)}
        trained = self.training.by_key.get(name_index.key(mention.long_form), Counter())
        near = sorted({*by_ngrams, *by_vectors}, key=lambda one: (-by_ngrams.get(one, 0.0) - by_vectors.get(one, 0.0), one))
        ids = [
            one
            for one in dict.fromkeys(
                [*sorted(equal), *sorted(trained), *sorted(self._concepts_of_parts(mention.long_form)), *near]
            )
            if one in self.vocabulary.concepts
        ]
        ids = list(dict.fromkeys([*ids[: self.limit], *given]))
        return Candidates(mention, ids, self._evidence(mention, ids, by_ngrams, by_vectors))

    def _evidence(
        self, mention: MentionInContext, ids: Sequence[str], by_ngrams: Mapping[str, float], by_vectors: Mapping[str, float]
    ) -> NDArray[np.float64]:
        """(ids, EVIDENCE)."""
        key = name_index.key(mention.long_form)
        equal = {self.index.owners[row] for row in self.index.equal(mention.long_form)}
        trained = self.training.by_key.get(key, Counter())
        of_parts = self._concepts_of_parts(mention.long_form)
        top = [max(found.values(), default=0.0) for found in (by_ngrams, by_vectors)]
        in_document, total, words = self._concepts_of(mention.others, key), sum(trained.values()), set(key.split())
        rows = [
            [
                float(one in equal),
                float(name_index.key(self.vocabulary.concepts[one].name) == key),
                1 / len(equal) if one in equal else 0.0,
                float(one in of_parts),
                by_ngrams.get(one, 0.0), by_vectors.get(one, 0.0),
                by_ngrams.get(one, 0.0) - top[0], by_vectors.get(one, 0.0) - top[1],
                math.log1p(trained[one]), trained[one] / total if total else 0.0,
                math.log1p(self.training.by_concept[one]),
                float(one in in_document),
                float(bool(mention.type) and mention.type in self.vocabulary.concepts[one].types),
                float(bool(mention.type and self.vocabulary.concepts[one].types) and mention.type not in self.vocabulary.concepts[one].types),
                self._covered(words, one),
            ]
            for one in ids
        ]  # fmt: skip
        return np.array(rows, float).reshape(len(ids), len(EVIDENCE))

    def _best_of_concepts(self, similar: Similar) -> dict[str, float]:
        best: dict[str, float] = {}
        for row, score in zip(similar.rows.tolist(), similar.scores.tolist(), strict=True):
            if score > 0:
                best.setdefault(self.index.owners[row], score)
        return best

    def _concepts_of(self, names: Sequence[str], except_key: str) -> set[str]:
        """Concepts of the document's other mentions, by equal names and training mentions."""
        found: set[str] = set()
        for name in names:
            if name_index.key(name) != except_key:
                found.update(self.index.owners[row] for row in self.index.equal(name))
                found.update(self.training.by_key.get(name_index.key(name), ()))
        return found

    def _concepts_of_parts(self, name: str) -> set[str]:
        """Concepts whose names equal a part of a coordination, in the vocabulary or in training mentions."""
        parts = coordination.conjuncts(name)
        found: set[str] = set()
        for part in parts if len(parts) > 1 else []:
            found.update(self.index.owners[row] for row in self.index.equal(part))
            found.update(one for one, _ in self.training.by_key.get(name_index.key(part), Counter()).most_common(1))
        return found

    def _covered(self, words: set[str], concept_id: str) -> float:
        """Largest share of common words, of the mention's and a name's words together (Jaccard)."""
        concept = self.vocabulary.concepts.get(concept_id)
        shares = [len(words & there) / len(words | there) for name in (concept.names if concept else [])
                  if (there := set(name_index.key(name).split())) | words]  # fmt: skip
        return max(shares, default=0.0)


EVIDENCE_VERSION = files.sha256_of([EVIDENCE, DEPTH, LIMIT, NGRAMS])[:12]  # weights of one version do not fit another's evidence


def gold(mention: Mention, vocabulary: Vocabulary) -> set[str]:
    """The ids that are right for a mention, as the vocabulary has them."""
    return {vocabulary.resolve(one) for one in mention.concept_ids}
