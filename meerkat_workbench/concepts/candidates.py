"""Candidate concepts of mentions: from equal names, character n-grams, word vectors and training mentions, with the evidence for each."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.concepts import abbreviations, coordination, name_forms
from meerkat_workbench.concepts.name_index import CHUNK, NGRAMS, EncodedNames, NameIndex, Similar
from meerkat_workbench.concepts.pubtator import AnnotatedDocument, Mention
from meerkat_workbench.concepts.vocabulary import Concept, Vocabulary
from meerkat_workbench.core import files
from meerkat_workbench.core.artifacts import Artifact
from meerkat_workbench.core.chunks import chunks

# what speaks for a candidate, in the order of the columns
EVIDENCE = (
    "equal_name", "preferred_name", "name_unshared", "part_equal", "ngrams", "cosine", "ngrams_behind", "cosine_behind", "trained", "trained_share",
    "prior", "in_document", "type_agrees", "type_differs", "words_covered", "preferred_ngrams", "preferred_cosine", "preferred_words",
    "number_added", "number_lost",
)  # fmt: skip
CONTEXT = 100  # characters before and after a mention
DEPTH = 60  # names that n-grams and vectors each give
LIMIT = 64  # candidates of a mention at most


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
    """A line of `training_names.jsonl`: how often training mentions with this key mean this concept. `name` is one of them.

    Attributes:
        abbreviated: the name is an abbreviation as written. The same mentions count in the row of its long form, too.
    """

    FILE = "training_names.jsonl"

    key: str
    name: str
    concept_id: str
    count: int
    abbreviated: bool = False


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
        self._by_key: dict[str, Counter[str]] = {}
        self.by_concept: Counter[str] = Counter()
        for row in self.rows:
            self._by_key.setdefault(row.key, Counter())[row.concept_id] += row.count
            self.by_concept[row.concept_id] += 0 if row.abbreviated else row.count

    @classmethod
    def count(cls, documents: Iterable[AnnotatedDocument], vocabulary: Vocabulary) -> TrainingNames:
        """The names in annotated documents, without composites. Abbreviations count as written, too: other documents use them undefined."""
        counts: Counter[tuple[str, str, bool]] = Counter()
        name_of_key: dict[str, str] = {}
        for document in documents:
            for one, mention in zip(in_context(document), document.mentions, strict=True):
                if mention.composite:
                    continue
                long_key, key = name_forms.key(one.long_form), name_forms.key(one.text)
                names = [(long_key, one.long_form, False), *([(key, one.text, True)] if key != long_key else [])]
                for key, name, abbreviated in names:
                    name_of_key.setdefault(key, name)
                    counts.update((key, vocabulary.resolve(concept), abbreviated) for concept in mention.concept_ids)
        return cls(TrainingName(key=key, name=name_of_key[key], concept_id=concept, count=count, abbreviated=abbreviated)
                   for (key, concept, abbreviated), count in sorted(counts.items()))  # fmt: skip

    def of_key(self, key: str) -> Counter[str]:
        """Counts by concept of the mentions with a key. Names of symbols alone have no key, and no counts."""
        return self._by_key.get(key, Counter()) if key else Counter()

    def names(self) -> list[tuple[str, str]]:
        """(name, concept id) of every row, the most frequent first, without abbreviations: similar letters say nothing about what those mean."""
        rows = sorted((row for row in self.rows if not row.abbreviated), key=lambda row: -row.count)
        return [(row.name, row.concept_id) for row in rows]

    def new_concepts(self, vocabulary: Vocabulary) -> list[Concept]:
        """Concepts that training mentions mean and a vocabulary lacks, such as those that are newer, with the names of their mentions."""
        names: dict[str, list[str]] = {}
        for name, concept_id in self.names():
            if concept_id not in vocabulary.concepts:
                names.setdefault(concept_id, []).append(name)
        return [Concept(id=one, name=found[0], synonyms=found[1:]) for one, found in names.items()]


@dataclass(frozen=True)
class _Found:
    """What was found for a mention, by concept.

    Attributes:
        equal: concepts with an equal name in the vocabulary.
        trained: counts of training mentions with an equal name.
        of_parts: concepts of the parts of a coordination.
        ngrams, vectors: the largest similarity of each concept's names.
    """

    mention: MentionInContext
    key: str
    equal: set[str]
    trained: Counter[str]
    of_parts: set[str]
    ngrams: dict[str, float]
    vectors: dict[str, float]


class CandidateGenerator:
    """Finds candidates by the names of a vocabulary and of training mentions.

    Args:
        vocabulary_names: the index of the vocabulary's names.

    Attributes:
        base: the vocabulary as it was given.
        vocabulary: the same with the concepts that only training mentions know.
        all_names: the index of all names, those of training mentions too.
    """

    def __init__(self, vocabulary: Vocabulary, vocabulary_names: NameIndex, training: TrainingNames) -> None:
        self.base, self.vocabulary_names, self.training = vocabulary, vocabulary_names, training
        self.vocabulary = vocabulary.with_more(training.new_concepts(vocabulary))
        self.all_names = vocabulary_names.with_more(training.names())

    def with_training(self, training: TrainingNames) -> CandidateGenerator:
        """The same with the names of other training mentions."""
        made = copy.copy(self)
        made.all_names, made.training = self.all_names.with_other(training.names()), training
        made.vocabulary = self.base.with_more(training.new_concepts(self.base))
        return made

    def find(self, mentions: Sequence[MentionInContext], given: Sequence[str] = ()) -> list[Candidates]:
        """The candidates of each mention; none where no name is similar at all. Equal long forms are looked up once.

        Args:
            given: ids of concepts that are added to the candidates of each.
        """
        texts = list(dict.fromkeys(one.long_form for one in mentions))
        encoded = self.all_names.encode(texts, what="embedding mentions" if len(texts) > CHUNK else "")
        ngrams = self.all_names.by_ngrams(encoded, DEPTH)
        vectors = self.all_names.by_vectors(encoded, DEPTH) if self.all_names.encoder else None
        places = {text: place for place, text in enumerate(texts)}
        found: list[Candidates] = []
        for chunk in chunks(mentions, CHUNK):
            rows = [places[one.long_form] for one in chunk]
            looked_up = [
                self._look_up(one, ngrams[row], vectors[row] if vectors else None) for one, row in zip(chunk, rows, strict=True)
            ]
            ids = [self._candidate_ids(one, given) for one in looked_up]
            preferred = self._similarity_to_preferred(encoded, rows, ids)
            found += [Candidates(one.mention, own, self._evidence(one, own, *similar))
                      for one, own, similar in zip(looked_up, ids, preferred, strict=True)]  # fmt: skip
        return found

    def _look_up(self, mention: MentionInContext, ngrams: Similar, vectors: Similar | None) -> _Found:
        key = name_forms.key(mention.long_form)
        equal = {self.all_names.owners[row] for row in self.all_names.with_key(key)}
        return _Found(mention, key, equal, self.training.of_key(key), self._concepts_of_parts(mention.long_form),
                      self._best_of_concepts(ngrams), self._best_of_concepts(vectors) if vectors else {})  # fmt: skip

    def _candidate_ids(self, found: _Found, given: Sequence[str]) -> list[str]:
        by_ngrams, by_vectors = found.ngrams, found.vectors
        near = sorted({*by_ngrams, *by_vectors}, key=lambda one: (-by_ngrams.get(one, 0.0) - by_vectors.get(one, 0.0), one))
        ids = dict.fromkeys([*sorted(found.equal), *sorted(found.trained), *sorted(found.of_parts), *near])
        return list(dict.fromkeys([*list(ids)[:LIMIT], *given]))

    def _similarity_to_preferred(
        self, mentions: EncodedNames, rows: Sequence[int], ids: Sequence[Sequence[str]]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """For each mention, (candidates,) cosines of n-grams and of vectors with the candidates' preferred names."""
        places = {one: place for place, one in enumerate(dict.fromkeys(one for own in ids for one in own))}
        names = self.all_names.encode_preferred(list(places))
        for row, own in zip(rows, ids, strict=True):
            chosen = [places[one] for one in own]
            ngrams = (names.ngrams[chosen] @ mentions.ngrams[row].T).toarray().ravel() if own else np.zeros(0, np.float32)
            if names.vectors is None or mentions.vectors is None:
                yield ngrams, np.zeros(len(own), np.float32)
            else:
                yield ngrams, names.vectors[chosen] @ mentions.vectors[row]

    def _evidence(
        self, found: _Found, ids: Sequence[str], preferred_ngrams: NDArray[np.float32], preferred_cosines: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """(ids, EVIDENCE)."""
        mention, trained, by_ngrams, by_vectors = found.mention, found.trained, found.ngrams, found.vectors
        top = [max(similar.values(), default=0.0) for similar in (by_ngrams, by_vectors)]
        in_document, total = self._concepts_of(mention.others, found.key), sum(trained.values())
        words, numbers = name_forms.words(mention.long_form), name_forms.numbers(mention.long_form)
        rows = []
        for place, one in enumerate(ids):
            concept = self.vocabulary.concepts[one]
            of_type = self.vocabulary.has_type(concept, mention.type)
            rows.append([
                float(one in found.equal),
                float(bool(found.key) and name_forms.key(concept.name) == found.key),
                1 / len(found.equal) if one in found.equal else 0.0,
                float(one in found.of_parts),
                by_ngrams.get(one, 0.0), by_vectors.get(one, 0.0),
                by_ngrams.get(one, 0.0) - top[0], by_vectors.get(one, 0.0) - top[1],
                math.log1p(trained[one]), trained[one] / total if total else 0.0,
                math.log1p(self.training.by_concept[one]),
                float(one in in_document),
                float(of_type),
                float(bool(mention.type and concept.types) and not of_type),
                max(_common_share(words, name_forms.words(name)) for name in concept.names),
                float(preferred_ngrams[place]), float(preferred_cosines[place]), _common_share(words, name_forms.words(concept.name)),
                float(bool(name_forms.numbers(concept.name) - numbers)),
                float(bool(numbers) and not numbers <= {number for name in concept.names for number in name_forms.numbers(name)}),
            ])  # fmt: skip
        return np.array(rows, float).reshape(len(ids), len(EVIDENCE))

    def _best_of_concepts(self, similar: Similar) -> dict[str, float]:
        best: dict[str, float] = {}
        for row, score in zip(similar.rows.tolist(), similar.scores.tolist(), strict=True):
            if score > 0:
                best.setdefault(self.all_names.owners[row], score)
        return best

    def _concepts_of(self, names: Sequence[str], except_key: str) -> set[str]:
        """Concepts of the document's other mentions, by equal names and training mentions."""
        found: set[str] = set()
        for name in names:
            if name_forms.key(name) != except_key:
                found.update(self.all_names.owners[row] for row in self.all_names.equal(name))
                found.update(self.training.of_key(name_forms.key(name)))
        return found

    def _concepts_of_parts(self, name: str) -> set[str]:
        """Concepts whose names equal a part of a coordination, in the vocabulary or in training mentions."""
        parts = coordination.conjuncts(name)
        found: set[str] = set()
        for part in parts if len(parts) > 1 else []:
            found.update(self.all_names.owners[row] for row in self.all_names.equal(part))
            found.update(one for one, _ in self.training.of_key(name_forms.key(part)).most_common(1))
        return found


def _common_share(words: frozenset[str], others: frozenset[str]) -> float:
    """Share of the common words, of all words of two names together (Jaccard)."""
    return len(words & others) / len(words | others) if words or others else 0.0


# weights of one version do not fit another's evidence; the last number counts changes in how evidence is computed
EVIDENCE_VERSION = files.sha256_of([EVIDENCE, DEPTH, LIMIT, NGRAMS, 2])[:12]


def gold(mention: Mention, vocabulary: Vocabulary) -> set[str]:
    """The ids that are right for a mention, as the vocabulary has them."""
    return {vocabulary.resolve(one) for one in mention.concept_ids}
