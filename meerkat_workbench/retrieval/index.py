"""An index of documents in a folder, for the first stage of retrieval: BM25 over words, and vectors of a bi-encoder.

The folder holds `index.json`, which is written last and names the present generation, and a subfolder `generation-N` with the documents and
their vectors. A change writes the next generation and then `index.json`, so that a kill at any moment leaves the last state.
Chroma and Pinecone keep their vectors elsewhere; when an index is opened, theirs are compared with the documents and completed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.core import artifacts, files, runs
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.retrieval import fusion, vector_stores
from meerkat_workbench.retrieval.bm25 import Bm25
from meerkat_workbench.retrieval.documents import Document, Ranking, Scored, read_documents
from meerkat_workbench.retrieval.encoders import BiEncoder
from meerkat_workbench.retrieval.vector_stores import StoreKind, VectorStore
from meerkat_workbench.text import texts

FirstStageKind = Literal["bm25", "dense", "fused"]
FUSED_DEPTH = 100  # documents of each ranking that are fused, at least
BM25, DENSE = "bm25", "dense"  # names of the first stage's rankers
CHROMA = "chroma"  # subfolder of Chroma's vectors


class IndexDescription(artifacts.Artifact, frozen=True, kw_only=True):
    """`index.json`: what an index was made with.

    Attributes:
        encoder, encoder_identity: name of the bi-encoder and identity of its weights; empty for an index of words alone.
        width: of its vectors.
        pinecone_index: name of the index on Pinecone.
        reranker: folder of the cross-encoder that this index was made for; empty for none.
    """

    FILE: ClassVar[str] = "index.json"

    version: int = 1
    generation: int
    documents: int
    first_stage: FirstStageKind
    encoder: str = ""
    encoder_identity: str = ""
    width: int = 0
    store: StoreKind = "faiss"
    pinecone_index: str = ""
    reranker: str = ""


@dataclass(frozen=True)
class Change:
    """What `DocumentIndex.add` did: documents that are new, have another text than before, or were there already."""

    added: int
    replaced: int
    unchanged: int


class DocumentIndex:
    """Documents, their BM25 index and their vectors. Make one with `create`, or open one with `open`."""

    def __init__(self, folder: Path, description: IndexDescription, encoder: BiEncoder | None) -> None:
        self.folder, self.description, self.encoder = folder, description, encoder
        path = self._generation(description.generation) / "corpus.jsonl"
        self.documents: dict[str, Document] = read_documents(path) if description.documents or path.is_file() else {}
        self.store = self._open_store() if encoder else None
        self._bm25: Bm25 | None = None
        self._query_vectors: dict[str, NDArray[np.float32]] = {}

    @classmethod
    def create(
        cls, folder: Path, first_stage: FirstStageKind, encoder_name: str, *, store: StoreKind = "faiss", pinecone_index: str = "",
        reranker: str = "",
    ) -> DocumentIndex:  # fmt: skip
        """An empty index, which is written when documents are added.

        Raises:
            UserError: the folder holds something else.
        """
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name.startswith("generation-") or path.name == CHROMA:  # of a run that was killed before its first index.json
                files.remove(path)
            elif path.name not in runs.NOT_OF_A_RUN:
                raise UserError(
                    "holds other files", where=folder, item=path.name, remedy="Name another INDEX_DIR, or remove this one."
                )
        encoder = None if first_stage == BM25 else BiEncoder(encoder_name)
        description = IndexDescription(
            generation=0, documents=0, first_stage=first_stage, encoder=encoder_name if encoder else "",
            encoder_identity=encoder.identity if encoder else "", width=encoder.width if encoder else 0, store=store,
            pinecone_index=pinecone_index, reranker=reranker,
        )  # fmt: skip
        made = cls(folder, description, encoder)
        if made.store is not None and made.store.ids():
            fault = f"holds {len(made.store.ids())} vectors already, which an index would delete"
            raise UserError(fault, where=pinecone_index or folder, remedy="Name another PINECONE_INDEX.")
        return made

    @classmethod
    def open(cls, folder: Path) -> DocumentIndex:
        """The index of a folder.

        Raises:
            UserError: there is none, or its bi-encoder is another one now, so that queries and documents could not be compared.
        """
        if not (folder / IndexDescription.FILE).is_file():
            raise UserError("is not an index", where=folder, remedy="`python reranking.py index` makes one.")
        description = artifacts.read(IndexDescription, folder / IndexDescription.FILE)
        encoder = BiEncoder(description.encoder) if description.encoder else None
        if encoder and encoder.identity != description.encoder_identity:
            fault = f"was made by other weights of {description.encoder} than those that are there now"
            raise UserError(fault, where=folder, remedy="Restore that model, or make the index again.")
        opened = cls(folder, description, encoder)
        if opened.store is not None and description.store != "faiss":
            with contextlib.suppress(UserError), runs.locked(folder):  # a run that is changing it completes it itself
                opened._complete(opened.store)
        return opened

    def _generation(self, number: int) -> Path:
        return self.folder / f"generation-{number}"

    def _open_store(self) -> VectorStore:
        if self.description.store == "chroma":
            return vector_stores.ChromaStore(self.folder / CHROMA)
        if self.description.store == "pinecone":
            return vector_stores.PineconeStore(self.description.pinecone_index)
        return vector_stores.FaissStore(self._generation(self.description.generation), self.description.width)

    def _complete(self, store: VectorStore) -> None:
        """Bring a store that was changed by a killed run back to the documents."""
        there, wanted = set(store.ids()), {_key(document): document for document in self.documents.values()}
        if gone := [key for key in there if key not in wanted]:
            store.delete(gone)
        if missing := [document for key, document in wanted.items() if key not in there]:
            self._embed_and_add(store, missing)

    def _embed_and_add(self, store: VectorStore, documents: Sequence[Document]) -> None:
        assert self.encoder is not None
        vectors = self.encoder.embed([one.content for one in documents], what="embedding documents")
        store.add([_key(one) for one in documents], vectors)

    # --- changes

    def add(self, documents: Iterable[Document]) -> Change:
        """Add documents; one whose id is there already replaces it. Nothing changes if one of them is refused.

        Raises:
            UserError: an empty text, or an id twice.
        """
        new, replaced, unchanged = dict[str, Document](), list[str](), 0
        for document in documents:
            if texts.is_blank(document.content):
                raise UserError("this document has no text", where="documents", item=document.id, remedy="Leave it out.")
            if document.id in new:
                raise UserError(
                    "two documents have this id", where="documents", item=document.id, remedy="Give each an id of its own."
                )
            present = self.documents.get(document.id)
            if present == document:
                unchanged += 1
                continue
            if present is not None:
                replaced.append(document.id)
            new[document.id] = document
        if new:
            self._change(gone=replaced, new=list(new.values()))
        return Change(len(new) - len(replaced), len(replaced), unchanged)

    def delete(self, document_ids: Iterable[str]) -> None:
        """Delete documents.

        Raises:
            UserError: a document is not there; nothing is deleted then.
        """
        gone = list(dict.fromkeys(document_ids))
        for name in gone:
            if name not in self.documents:
                raise UserError("this document is not in the index", where=self.folder, item=name)
        if gone:
            self._change(gone=gone, new=[])

    def _change(self, gone: Sequence[str], new: Sequence[Document]) -> None:
        with runs.locked(self.folder):
            self._check_unchanged()
            if self.store is not None:
                self.store.delete([_key(self.documents[name]) for name in gone])
                self._embed_and_add(self.store, new)
            dropped = set(gone)
            self.documents = {name: one for name, one in self.documents.items() if name not in dropped} | {
                one.id: one for one in new
            }
            self._bm25 = None
            number = self.description.generation + 1
            files.remove(self._generation(number))
            self._generation(number).mkdir(parents=True)
            artifacts.write_lines(self._generation(number) / "corpus.jsonl", self.documents.values())
            if self.store is not None:
                if isinstance(self.store, vector_stores.FaissStore):
                    self.store.folder = self._generation(number)
                self.store.save()
            self._describe(generation=number, documents=len(self.documents))
            files.remove(self._generation(number - 1))

    def _check_unchanged(self) -> None:
        """Raise UserError if another run has changed the index since this one read it."""
        path = self.folder / IndexDescription.FILE
        present = artifacts.read(IndexDescription, path).generation if path.is_file() else 0
        if present != self.description.generation:
            raise UserError("was changed by another run meanwhile", where=self.folder, remedy="Run the command again.")

    def _describe(self, **changed: Any) -> None:
        self.description = msgspec.structs.replace(self.description, **changed)
        artifacts.write(self.folder / IndexDescription.FILE, self.description)

    def use_reranker(self, folder: str) -> None:
        """Name the cross-encoder that reorders what this index finds."""
        with runs.locked(self.folder):
            self._check_unchanged()
            self._describe(reranker=folder)

    # --- search

    @property
    def bm25(self) -> Bm25:
        if self._bm25 is None:
            self._bm25 = Bm25(list(self.documents.values()))
        return self._bm25

    def rankers(self) -> tuple[str, ...]:
        """Names of the rankers of the first stage."""
        return {"bm25": (BM25,), "dense": (DENSE,), "fused": (BM25, DENSE)}[self.description.first_stage]

    def search(self, query: str, k: int) -> Ranking:
        """The k documents that the first stage ranks best."""
        depth = max(k, FUSED_DEPTH) if self.description.first_stage == "fused" else k
        rankings = []
        if BM25 in self.rankers():
            rankings.append(self.bm25.search(query, depth))
        if DENSE in self.rankers():
            rankings += self.search_vectors(self._embed_query(query), depth)
        return rankings[0] if len(rankings) == 1 else fusion.reciprocal_rank_fusion(rankings)[:k]

    def search_vectors(self, queries: NDArray[np.float32], k: int) -> list[Ranking]:
        """For each query's vector, (queries, width), the k documents with the largest cosines."""
        found = self._dense().search(queries, k)
        return [[Scored(_id_of(one.document_id), one.score) for one in ranking] for ranking in found]

    def scores(self, query: str, document_ids: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """By ranker, (document_ids,) the scores of these documents."""
        scores = {}
        if BM25 in self.rankers():
            scores[BM25] = self.bm25.scores_of(query, document_ids)
        if DENSE in self.rankers():
            vectors = self._dense().vectors([_key(self.documents[name]) for name in document_ids])
            scores[DENSE] = (vectors @ self._embed_query(query)[0]).astype(np.float64)
        return scores

    def _dense(self) -> VectorStore:
        assert self.store is not None
        return self.store

    def embed_queries(self, queries: Sequence[str]) -> None:
        """Embed queries that will be searched, all at once, which is many times as fast as one by one."""
        if self.encoder is not None:
            new = [query for query in dict.fromkeys(queries) if query not in self._query_vectors]
            self._query_vectors |= dict(zip(new, self.encoder.embed(new, what="embedding queries"), strict=True))

    def _embed_query(self, query: str) -> NDArray[np.float32]:
        if query not in self._query_vectors:
            self.embed_queries([query])
        return self._query_vectors[query][None]


def _key(document: Document) -> str:
    """A document's id in a store. It begins with a hash of the text, so that a vector of an earlier text is noticed."""
    return f"{files.short_hash(document.content)}:{document.id}"


def _id_of(key: str) -> str:
    return key.partition(":")[2]
