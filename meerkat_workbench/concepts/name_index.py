"""Finding concepts by name: equal names, character n-grams, and vectors of a bi-encoder, over every name of a vocabulary."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from filelock import FileLock
from nltk.stem.porter import PorterStemmer
from numpy.typing import NDArray

from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.core import files
from meerkat_workbench.core.chunks import chunks
from meerkat_workbench.retrieval.encoders import BiEncoder
from meerkat_workbench.text import texts

NGRAMS = (2, 4)  # characters
UNCOUNTED = ("of", "the", "and")  # words of a name that make no difference
AMERICAN = {"aemi": "emi", "haem": "hem", "oedem": "edem", "tumour": "tumor", "oesoph": "esoph", "paed": "ped", "gynaec": "gynec", "caec": "cec",
            "coeli": "celi", "anaes": "anes", "orrhoea": "orrhea", "leuco": "leuko", "foet": "fet", "fibre": "fiber", "colour": "color"}  # fmt: skip
BRITISH = re.compile("|".join(AMERICAN))
EDGES = re.compile(
    rf"^(?:{'|'.join(UNCOUNTED)})\b|\b(?:{'|'.join(UNCOUNTED)})$", re.IGNORECASE
)  # a mention neither begins nor ends with them
CHUNK = 256  # mentions that are compared with all names at a time, at most
MOST_SIMILARITIES = 20_000_000  # of mentions with names, in memory
_stemmer = PorterStemmer()


@functools.lru_cache(maxsize=200_000)
def _stem(word: str) -> str:
    return str(_stemmer.stem(american(word))) if word.isascii() and word.isalpha() else word


def american(text: str) -> str:
    """A text in lower case with American spelling of the word parts that medicine spells in two ways: "tumour" and "haemophilia"."""
    return BRITISH.sub(lambda match: AMERICAN[match[0]], text.lower())


def _comparable(name: str) -> str:
    """A name whose character n-grams are compared."""
    return american(texts.comparable(name))


@functools.lru_cache(maxsize=200_000)
def key(name: str) -> str:
    """A name without case, punctuation and word order, its words stemmed: equal for "Breast Cancers" and "cancer, breast"."""
    return " ".join(sorted(_stem(word) for word in texts.tokens(name) if word not in UNCOUNTED))


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
    """Every name of a vocabulary, and further names of its concepts that only similarity finds.

    Attributes:
        names, owners: (names,) each name and the concept that it belongs to, those of the vocabulary first.
    """

    def __init__(self, vocabulary: Vocabulary, encoder: BiEncoder | None) -> None:
        pairs = list(vocabulary.names())
        self.names, self.owners, self.encoder = [name for name, _ in pairs], [owner for _, owner in pairs], encoder
        self._rows_of_key: dict[str, list[int]] = {}
        for row, name in enumerate(self.names):
            self._rows_of_key.setdefault(key(name), []).append(row)
        self._vectors = [_cached_vectors(self.names, encoder)] if encoder else []
        self._first: NameIndex | None = None  # the index of the vocabulary alone

    def with_more(self, more: Sequence[tuple[str, str]]) -> NameIndex:
        """The same with further names, (name, concept id) each, such as those of training mentions. They are no names of the vocabulary, so
        `equal` and `with_key` do not find them."""
        if not more:
            return self
        made = copy.copy(self)
        made._first = self
        made.names, made.owners = [*self.names, *(name for name, _ in more)], [*self.owners, *(owner for _, owner in more)]
        if self.encoder:
            made._vectors = [*self._vectors, _cached_vectors([name for name, _ in more], self.encoder)]
        made.__dict__.pop("_ngrams", None)
        return made

    def equal(self, mention: str) -> list[int]:
        """Rows of the vocabulary's names whose key is the mention's."""
        return self.with_key(key(mention))

    def with_key(self, name_key: str) -> list[int]:
        """Rows of the vocabulary's names with this key."""
        return self._rows_of_key.get(name_key, []) if name_key else []

    @functools.cached_property
    def _ngrams(self) -> tuple[Any, Any]:
        from scipy.sparse import hstack
        from sklearn.feature_extraction.text import TfidfVectorizer

        if self._first is not None:  # the weights are those of the vocabulary's names
            vectorizer, columns = self._first._ngrams
            more = vectorizer.transform([_comparable(name) for name in self.names[len(self._first.names) :]])
            return vectorizer, hstack([columns, more.T]).tocsr()
        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=NGRAMS, sublinear_tf=True, dtype=np.float32)
        return vectorizer, vectorizer.fit_transform([_comparable(name) for name in self.names]).T.tocsr()

    @property
    def _chunk(self) -> int:
        """Mentions that are compared with all names at a time: their similarities take 80 MB at most."""
        return max(1, min(CHUNK, MOST_SIMILARITIES // len(self.names)))

    def by_ngrams(self, mentions: Sequence[str], k: int) -> list[Similar]:
        """The k most similar names of each mention, by the cosine of TF-IDF weights of character n-grams."""
        vectorizer, columns = self._ngrams
        found: list[Similar] = []
        for part in chunks(mentions, self._chunk):
            weights = vectorizer.transform([_comparable(one) for one in part])
            found += [_best(row, k) for row in (weights @ columns).toarray()]
        return found

    def by_vectors(self, mentions: Sequence[str], k: int) -> list[Similar]:
        """The k most similar names of each mention, by the cosine of the encoder's vectors."""
        assert self.encoder is not None
        found: list[Similar] = []
        vectors = self.encoder.embed(list(mentions), what="embedding mentions" if len(mentions) > CHUNK else "")
        for start in range(0, len(mentions), self._chunk):
            part = vectors[start : start + self._chunk]
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
