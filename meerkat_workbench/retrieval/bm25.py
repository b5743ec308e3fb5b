"""BM25 (Robertson and Zaragoza 2009; Lucene's variant) over documents, by bm25s. The words are those of `texts`, so any script works."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from nltk.stem.porter import PorterStemmer
from numpy.typing import NDArray

from meerkat_workbench.retrieval.documents import Document, Ranking, ranked
from meerkat_workbench.text import texts

K1, B = 1.5, 0.75
_stemmer = PorterStemmer()


@functools.lru_cache(maxsize=200_000)
def _stem(word: str) -> str:
    """The stem of a word in ASCII letters (Porter 1980, for English); any other word as it is."""
    return str(_stemmer.stem(word)) if word.isascii() and word.isalpha() else word


def tokens_of(text: str) -> list[str]:
    """Stems of a text's words without English function words; pairs of characters in scripts without spaces."""
    return [_stem(word) for word in texts.words_of(text) if word not in texts.ENGLISH_FUNCTION_WORDS]


class Bm25:
    """An index of words over documents, in memory. It is built anew when documents change, because each word's weight changes then."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.ids = [document.id for document in documents]
        self._row = {name: place for place, name in enumerate(self.ids)}
        self._index: Any = None
        tokens = [tokens_of(document.content) for document in documents]
        if any(tokens):
            import bm25s

            self._index = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
            self._index.index(tokens, show_progress=False)

    def scores(self, query: str) -> NDArray[np.float64]:
        """(documents,) the score of each document, 0 without a common word."""
        words = [word for word in tokens_of(query) if self._index is not None and word in self._index.vocab_dict]
        if not words:
            return np.zeros(len(self.ids))
        scores: NDArray[np.float64] = self._index.get_scores(words).astype(np.float64)
        return scores

    def scores_of(self, query: str, document_ids: Sequence[str]) -> NDArray[np.float64]:
        """(document_ids,) the scores of these documents."""
        return self.scores(query)[[self._row[name] for name in document_ids]]

    def search(self, query: str, k: int) -> Ranking:
        """The best k documents that share a word with the query."""
        scores = self.scores(query)
        k = min(k, len(scores))
        best = np.argpartition(-scores, k - 1)[:k].tolist() if k else []
        return ranked((self.ids[place], float(scores[place])) for place in best if scores[place] > 0)
