"""Where an index keeps its vectors: FAISS in a file (the default), Chroma in a folder, or Pinecone on its servers.

FAISS searches exactly; its file holds numbers alone, no pickle. Chroma searches approximately (HNSW). Pinecone needs PINECONE_API_KEY and
a network; its part follows its client's documentation and has not been tried.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.core import files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device import hub
from meerkat_workbench.retrieval.documents import Ranking, ranked

StoreKind = Literal["faiss", "chroma", "pinecone"]
BATCH = 1000  # vectors of one request to Chroma or Pinecone
CHROMA_COLLECTION = "passages"
Vectors = NDArray[np.float32]  # (texts, width), unit vectors


class VectorStore(Protocol):
    """Vectors by document id. Scores are products of unit vectors: cosine similarities."""

    def ids(self) -> list[str]: ...

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Add vectors under ids that the store does not hold."""

    def delete(self, ids: Sequence[str]) -> None: ...

    def search(self, queries: Vectors, k: int) -> list[Ranking]:
        """For each query, the k documents with the largest products."""

    def vectors(self, ids: Sequence[str]) -> Vectors:
        """The vectors of these documents."""

    def save(self) -> None:
        """Write what is not written yet."""


class FaissStore:
    """Vectors in memory and in one FAISS file, with an exact search.

    Args:
        folder: of `vectors.faiss` and `ids.json`; read if they are there.
    """

    def __init__(self, folder: Path, width: int) -> None:
        import faiss

        self.folder, self._ids = folder, list[str]()
        self._row: dict[str, int] = {}  # of each id
        self._index: Any = faiss.IndexFlatIP(width)
        if (folder / "vectors.faiss").is_file():
            self._index = hub.load(str(folder), lambda: faiss.read_index(str(folder / "vectors.faiss")), any_error=True)
            self._ids = list(files.read_json(folder / "ids.json"))
            if self._index.ntotal != len(self._ids) or self._index.d != width:
                fault = (
                    f"holds {self._index.ntotal} vectors of width {self._index.d} for {len(self._ids)} documents of width {width}"
                )
                raise UserError(fault, where=folder, remedy="Remove the index and make it again.")
            self._take(self._ids)

    def _take(self, ids: Sequence[str]) -> None:
        self._ids, self._row = list(ids), {name: place for place, name in enumerate(ids)}

    def ids(self) -> list[str]:
        return self._ids

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        self._index.add(np.ascontiguousarray(vectors, np.float32))
        self._take([*self._ids, *ids])

    def delete(self, ids: Sequence[str]) -> None:
        gone = set(ids)
        rows = np.array([row for row, name in enumerate(self._ids) if name in gone], np.int64)
        if len(rows):
            self._index.remove_ids(rows)  # a flat index moves the others up, in order
            self._take([name for name in self._ids if name not in gone])

    def search(self, queries: Vectors, k: int) -> list[Ranking]:
        k = min(k, len(self._ids))
        if not k:
            return [[] for _ in queries]
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        return [
            ranked((self._ids[row], float(score)) for row, score in zip(*pair, strict=True))
            for pair in zip(rows, scores, strict=True)
        ]

    def vectors(self, ids: Sequence[str]) -> Vectors:
        return (
            np.stack([self._index.reconstruct(self._row[name]) for name in ids])
            if ids
            else np.zeros((0, self._index.d), np.float32)
        )

    def save(self) -> None:
        import faiss

        self.folder.mkdir(parents=True, exist_ok=True)
        # two files that belong together: the ids are written last, and a count that differs is noticed when they are read
        temporary = self.folder / ".vectors.faiss.tmp"
        faiss.write_index(self._index, str(temporary))
        os.replace(temporary, self.folder / "vectors.faiss")
        files.write_json(self.folder / "ids.json", self._ids)


class ChromaStore:
    """Vectors in a Chroma folder, which Chroma itself keeps on disk."""

    def __init__(self, folder: Path) -> None:
        _require("chromadb", "chroma")
        import chromadb

        folder.mkdir(parents=True, exist_ok=True)
        client = chromadb.PersistentClient(str(folder), chromadb.Settings(anonymized_telemetry=False))
        self._collection: Any = client.get_or_create_collection(
            CHROMA_COLLECTION, configuration={"hnsw": {"space": "ip"}}, embedding_function=None
        )

    def ids(self) -> list[str]:
        return list(self._collection.get(include=[])["ids"])

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        for start in range(0, len(ids), BATCH):
            self._collection.add(ids=list(ids[start : start + BATCH]), embeddings=vectors[start : start + BATCH])

    def delete(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), BATCH):
            self._collection.delete(ids=list(ids[start : start + BATCH]))

    def search(self, queries: Vectors, k: int) -> list[Ranking]:
        k = min(k, self._collection.count())
        if not k:
            return [[] for _ in queries]
        found = self._collection.query(query_embeddings=queries, n_results=k, include=["distances"])
        # the distance of inner products is 1 - product
        return [ranked((name, 1.0 - distance) for name, distance in zip(*pair, strict=True))
                for pair in zip(found["ids"], found["distances"], strict=True)]  # fmt: skip

    def vectors(self, ids: Sequence[str]) -> Vectors:
        found = self._collection.get(ids=list(ids), include=["embeddings"])
        by_id = dict(zip(found["ids"], np.asarray(found["embeddings"], np.float32), strict=True))
        return np.stack([by_id[name] for name in ids]) if ids else np.zeros((0, 0), np.float32)

    def save(self) -> None:
        """Nothing: Chroma writes at once."""


class PineconeStore:
    """Vectors in an index on Pinecone's servers, through Pinecone's own client.

    Args:
        name: of the Pinecone index, made with the metric "dotproduct" and the encoder's width.
    """

    def __init__(self, name: str) -> None:
        _require("pinecone", "pinecone")
        import pinecone

        key = os.environ.get("PINECONE_API_KEY", "")
        if not key:
            raise UserError("needs PINECONE_API_KEY", where="VECTOR_STORE=pinecone", remedy="Set it in the environment.")
        self._index: Any = hub.load(name, lambda: pinecone.Pinecone(api_key=key).Index(name), any_error=True)

    def ids(self) -> list[str]:
        return [str(getattr(one, "id", one)) for page in self._index.list() for one in page]

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        for start in range(0, len(ids), 100):  # Pinecone takes 2 MB a request
            rows = zip(ids[start : start + 100], vectors[start : start + 100].tolist(), strict=True)
            self._index.upsert(vectors=[{"id": name, "values": values} for name, values in rows])

    def delete(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), BATCH):
            self._index.delete(ids=list(ids[start : start + BATCH]))

    def search(self, queries: Vectors, k: int) -> list[Ranking]:
        answers = [self._index.query(vector=query.tolist(), top_k=k) for query in queries]
        return [ranked((match.id, float(match.score)) for match in answer.matches) for answer in answers]

    def vectors(self, ids: Sequence[str]) -> Vectors:
        found = self._index.fetch(ids=list(ids)).vectors
        return np.asarray([found[name].values for name in ids], np.float32)

    def save(self) -> None:
        """Nothing: Pinecone keeps its vectors itself."""


def _require(package: str, kind: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"needs the package {package}", where=f"VECTOR_STORE={kind}", remedy=f"Run `pip install {package}`.")
