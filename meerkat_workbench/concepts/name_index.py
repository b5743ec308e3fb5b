"""Finding concepts by name: equal names, character n-grams, and vectors of a bi-encoder, over every name of a vocabulary."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from filelock import FileLock
from nltk.stem.porter import PorterStemmer
from numpy.typing import NDArray

from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.core import files
from meerkat_workbench.retrieval.encoders import BiEncoder
from meerkat_workbench.text import texts

NGRAMS = (2, 4)  # characters
CHUNK = 256  # mentions that are compared with all names at a time
_stemmer = PorterStemmer()


@functools.lru_cache(maxsize=200_000)
def _stem(word: str) -> str:
    return str(_stemmer.stem(word)) if word.isascii() and word.isalpha() else word


@functools.lru_cache(maxsize=200_000)
def key(name: str) -> str:
    """A name without case, punctuation and word order, its words stemmed: equal for "Breast Cancers" and "cancer, breast"."""
    return " ".join(sorted(_stem(word) for word in texts.tokens(name) if word not in ("of", "the", "and")))


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
    """Every name of a vocabulary.

    Attributes:
        names, owners: (names,) each name and the concept that it belongs to.
    """

    def __init__(self, vocabulary: Vocabulary, encoder: BiEncoder | None) -> None:
        pairs = list(vocabulary.names())
        self.names, self.owners = [name for name, _ in pairs], [owner for _, owner in pairs]
        self.encoder = encoder
        self._rows_of_key: dict[str, list[int]] = {}
        for row, name in enumerate(self.names):
            self._rows_of_key.setdefault(key(name), []).append(row)
        self.vectors = _cached_vectors(self.names, encoder) if encoder else None

    def equal(self, mention: str) -> list[int]:
        """Rows of the names whose key is the mention's."""
        return self.with_key(key(mention))

    def with_key(self, name_key: str) -> list[int]:
        """Rows of the names with this key."""
        return self._rows_of_key.get(name_key, [])

    @functools.cached_property
    def _ngrams(self) -> tuple[Any, Any]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=NGRAMS, sublinear_tf=True, dtype=np.float32)
        return vectorizer, vectorizer.fit_transform([texts.comparable(name) for name in self.names]).T.tocsr()

    def by_ngrams(self, mentions: Sequence[str], k: int) -> list[Similar]:
        """The k most similar names of each mention, by the cosine of TF-IDF weights of character n-grams."""
        vectorizer, columns = self._ngrams
        found: list[Similar] = []
        for start in range(0, len(mentions), CHUNK):
            weights = vectorizer.transform([texts.comparable(one) for one in mentions[start : start + CHUNK]])
            found += [_best(row, k) for row in (weights @ columns).toarray()]
        return found

    def by_vectors(self, mentions: Sequence[str], k: int) -> list[Similar]:
        """The k most similar names of each mention, by the cosine of the encoder's vectors."""
        assert self.encoder is not None and self.vectors is not None
        found: list[Similar] = []
        vectors = self.encoder.embed(list(mentions), what="embedding mentions" if len(mentions) > CHUNK else "")
        for start in range(0, len(mentions), CHUNK):
            found += [_best(row, k) for row in vectors[start : start + CHUNK] @ self.vectors.T]
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
