"""Finding concepts by name: equal names, character n-grams, and vectors of a bi-encoder, over every name of a vocabulary."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from meerkat_workbench.concepts import name_forms
from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.core import files
from meerkat_workbench.retrieval.encoders import BiEncoder

NGRAMS = (2, 4)  # characters
CHUNK = 256  # mentions that are compared with all names at a time, at most
MOST_SIMILARITIES = 20_000_000  # of mentions with names, in memory


class EncodedNames:
    """Names as numbers, made when they are asked for.

    Attributes:
        ngrams: sparse (names, n-grams), unit rows of TF-IDF weights.
        vectors: (names, width), unit vectors of the bi-encoder; None without one.
    """

    def __init__(self, ngrams: Callable[[], Any], vectors: Callable[[], NDArray[np.float32] | None]) -> None:
        self._ngrams, self._vectors = ngrams, vectors

    @functools.cached_property
    def ngrams(self) -> Any:
        return self._ngrams()

    @functools.cached_property
    def vectors(self) -> NDArray[np.float32] | None:
        return self._vectors()


@dataclass(frozen=True)
class Similar:
    """Names that are similar to one mention, the best first.

    Attributes:
        rows: of the names in the index.
        scores: similarities, from 0 to 1.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]


class NameIndex:
    """Every name of a vocabulary, and further names of its and of other concepts, which only similarity finds.

    Attributes:
        names, owners: (names,) each name and the concept that it belongs to, those of the vocabulary first. The first name of a concept is its
            preferred one.
    """

    def __init__(self, vocabulary: Vocabulary, encoder: BiEncoder | None) -> None:
        pairs = list(vocabulary.names())
        self.names, self.owners, self.encoder = [name for name, _ in pairs], [owner for _, owner in pairs], encoder
        self._rows_of_key: dict[str, list[int]] = {}
        for row, name in enumerate(self.names):
            self._rows_of_key.setdefault(name_forms.key(name), []).append(row)
        self._preferred = {owner: row for row, owner in reversed(list(enumerate(self.owners)))}
        self._vectors = [_cached_vectors(self.names, encoder)] if encoder else []
        self._vocabulary_index: NameIndex | None = None  # without further names, where this one has some

    def with_more(self, more: Sequence[tuple[str, str]]) -> NameIndex:
        """The same with further names, (name, concept id) each, such as those of training mentions. They are no names of the vocabulary, so
        `equal` and `with_key` do not find them."""
        if not more:
            return self
        made = copy.copy(self)
        made._vocabulary_index = self
        vectors = _cached_vectors([name for name, _ in more], self.encoder) if self.encoder else None
        made._set_further(more, vectors)
        return made

    def with_other(self, more: Sequence[tuple[str, str]]) -> NameIndex:
        """The same with other further names. Vectors of names that it has already are not computed again."""
        if self._vocabulary_index is None:
            return self.with_more(more)
        start = len(self._vocabulary_index.names)
        made = copy.copy(self)
        if not self.encoder:
            made._set_further(more, None)
            return made
        row_of = {name: row for row, name in enumerate(self.names[start:])}
        new = list(dict.fromkeys(name for name, _ in more if name not in row_of))
        known = np.concatenate([self._vectors[1], self.encoder.embed(new, what="")])
        row_of |= {name: row for row, name in enumerate(new, start=len(self._vectors[1]))}
        made._set_further(more, known[[row_of[name] for name, _ in more]])
        return made

    def _set_further(self, more: Sequence[tuple[str, str]], vectors: NDArray[np.float32] | None) -> None:
        base = self._vocabulary_index
        assert base is not None
        self.names, self.owners = [*base.names, *(name for name, _ in more)], [*base.owners, *(owner for _, owner in more)]
        self._vectors = [] if vectors is None else [*base._vectors, vectors]
        self._preferred = dict(base._preferred)
        for row, (_, owner) in enumerate(more, start=len(base.names)):
            self._preferred.setdefault(owner, row)
        self.__dict__.pop("_blocks", None)

    def equal(self, mention: str) -> list[int]:
        """Rows of the vocabulary's names whose key is the mention's."""
        return self.with_key(name_forms.key(mention))

    def with_key(self, name_key: str) -> list[int]:
        """Rows of the vocabulary's names with this key."""
        return self._rows_of_key.get(name_key, []) if name_key else []

    # --- similarity

    @functools.cached_property
    def _fitted(self) -> tuple[Any, Any]:
        """TF-IDF weights of character n-grams, learnt on the vocabulary's names, and these names' weights, sparse (n-grams, names)."""
        if self._vocabulary_index is not None:
            return self._vocabulary_index._fitted
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=NGRAMS, sublinear_tf=True, dtype=np.float32)
        return vectorizer, vectorizer.fit_transform([name_forms.comparable(name) for name in self.names]).T.tocsr()

    @functools.cached_property
    def _blocks(self) -> list[Any]:
        """Sparse (n-grams, names) weights of the vocabulary's names, and of the further ones."""
        further = self.names[len(self._vocabulary_index.names) :] if self._vocabulary_index else []
        return [self._fitted[1], *([self._weights(further).T.tocsr()] if further else [])]

    def _weights(self, names: Sequence[str]) -> Any:
        vectorizer, columns = self._fitted
        return vectorizer.transform([name_forms.comparable(name) for name in names]) if names else columns[:, :0].T

    def encode(self, names: Sequence[str], *, what: str = "") -> EncodedNames:
        """Names that are compared with those of the index. `what` names the step, for its progress."""
        return EncodedNames(
            lambda: self._weights(names), lambda: self.encoder.embed(list(names), what=what) if self.encoder else None
        )

    def encode_preferred(self, concept_ids: Sequence[str]) -> EncodedNames:
        """The preferred names of concepts."""
        rows = [self._preferred[one] for one in concept_ids]
        return EncodedNames(
            lambda: self._weights([self.names[row] for row in rows]), lambda: self._vectors_of(rows) if self.encoder else None
        )

    def _vectors_of(self, rows: Sequence[int]) -> NDArray[np.float32]:
        first = len(self._vectors[0])
        found = np.empty((len(rows), self._vectors[0].shape[1]), np.float32)
        for place, row in enumerate(rows):
            found[place] = self._vectors[0][row] if row < first else self._vectors[1][row - first]
        return found

    @property
    def _chunk(self) -> int:
        """Mentions that are compared with all names at a time: their similarities take 80 MB at most."""
        return max(1, min(CHUNK, MOST_SIMILARITIES // len(self.names)))

    def by_ngrams(self, mentions: EncodedNames, k: int) -> list[Similar]:
        """The k most similar names of each mention, by the cosine of TF-IDF weights of character n-grams."""
        found: list[Similar] = []
        for start in range(0, mentions.ngrams.shape[0], self._chunk):
            part = mentions.ngrams[start : start + self._chunk]
            found += [_best(row, k) for row in np.concatenate([(part @ block).toarray() for block in self._blocks], axis=1)]
        return found

    def by_vectors(self, mentions: EncodedNames, k: int) -> list[Similar]:
        """The k most similar names of each mention, by the cosine of the encoder's vectors.

        Raises:
            ValueError: the index has no encoder.
        """
        if mentions.vectors is None:
            raise ValueError("this index has no encoder")
        found: list[Similar] = []
        for start in range(0, len(mentions.vectors), self._chunk):
            part = mentions.vectors[start : start + self._chunk]
            found += [_best(row, k) for row in np.concatenate([part @ block.T for block in self._vectors], axis=1)]
        return found


def _best(scores: NDArray[np.float32], k: int) -> Similar:
    k = min(k, len(scores))
    rows = np.argpartition(-scores, k - 1)[:k]
    rows = rows[np.lexsort((rows, -scores[rows]))]
    return Similar(rows.astype(np.int64), scores[rows].astype(np.float64))


def _cached_vectors(names: Sequence[str], encoder: BiEncoder) -> NDArray[np.float32]:
    """(names, width) unit vectors, from the cache if they are there: 70,000 names take minutes on two cores."""
    folder = files.cache_folder() / "names"
    path = folder / f"{files.sha256_of([list(names), encoder.identity])[:24]}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            vectors = encoder.embed(names, what="embedding names")
            with files.atomic_open(path, "wb") as file:
                np.save(file, vectors)
        return np.load(path, mmap_mode="r")
