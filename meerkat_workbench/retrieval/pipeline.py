"""Two-stage retrieval: a first stage finds candidates, a cross-encoder reorders them.

pipeline = RetrievalPipeline.open(Path("results/index"))
pipeline.index_documents([Document(id="gout", text="Gout is treated with …")])
for passage in pipeline.retrieve_and_rerank("How is gout treated?", k=5):
    print(passage.rank, passage.probability, passage.document.text)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device.devices import ComputeDtype
from meerkat_workbench.retrieval import cross_encoder
from meerkat_workbench.retrieval import fusion as fusions
from meerkat_workbench.retrieval.cross_encoder import Backend, CrossEncoder
from meerkat_workbench.retrieval.documents import Document, ranked
from meerkat_workbench.retrieval.fusion import LinearFusion
from meerkat_workbench.retrieval.index import Change, DocumentIndex
from meerkat_workbench.text import texts

RERANKER = "reranker"  # name of the cross-encoder among the rankers of a fusion
DEPTH = 50  # candidates that the cross-encoder reads


@dataclass(frozen=True)
class Passage:
    """A document that was found.

    Attributes:
        rank: from 1, in the order in which it is returned.
        first_rank, first_score: in the first stage.
        logit, probability: of the cross-encoder; None if only the first stage ranked.
        score: by which the passages are ordered.
    """

    document: Document
    rank: int
    score: float
    first_rank: int
    first_score: float
    logit: float | None = None
    probability: float | None = None


class RetrievalPipeline:
    """An index, and a cross-encoder that reorders what it finds.

    Args:
        fusion: weights of the first stage's scores and the cross-encoder's logit. None orders by the logit alone.
        depth: candidates that the cross-encoder reads.
    """

    def __init__(
        self, index: DocumentIndex, reranker: CrossEncoder | None = None, fusion: LinearFusion | None = None, depth: int = DEPTH
    ) -> None:
        self.index, self.reranker, self.fusion, self.depth = index, reranker, fusion, depth

    @classmethod
    def open(
        cls, folder: Path, backend: Backend = "torch", depth: int = DEPTH, compute: ComputeDtype = "auto"
    ) -> RetrievalPipeline:
        """The pipeline of an index folder, with the cross-encoder that the index names and its fusion."""
        index = DocumentIndex.open(folder)
        name = index.description.reranker
        reranker = cross_encoder.load(name, backend, compute) if name else None
        learnt = fusions.read(name) if name else None
        return cls(index, reranker, learnt.for_rankers([RERANKER, *index.rankers()]) if learnt else None, depth)

    def index_documents(self, documents: Iterable[Document]) -> Change:
        """Add documents to the index; see `DocumentIndex.add`."""
        return self.index.add(documents)

    def retrieve(self, query: str, k: int = 10) -> list[Passage]:
        """The k best documents of the first stage.

        Raises:
            UserError: the query is empty, or the index holds no document.
        """
        _check_query(query)
        if not self.index.documents:
            raise UserError(
                "holds no document", where=self.index.folder, remedy="Add documents with `python reranking.py index`."
            )
        found = self.index.search(query, k)
        return [
            Passage(self.index.documents[one.document_id], rank, one.score, rank, one.score)
            for rank, one in enumerate(found, start=1)
        ]

    def retrieve_and_rerank(self, query: str, k: int = 10) -> list[Passage]:
        """The k best of the first `depth` documents, in the order of the cross-encoder; raises what `retrieve` raises."""
        candidates = self.retrieve(query, max(k, self.depth))
        return self.rerank(query, candidates)[:k] if self.reranker else candidates[:k]

    def rerank(self, query: str, candidates: Sequence[Passage]) -> list[Passage]:
        """Candidates of the first stage in the order of the cross-encoder."""
        assert self.reranker is not None
        logits = self.reranker.logits([(query, one.document.content) for one in candidates])
        ids = [one.document.id for one in candidates]
        scores: NDArray[np.float64] = logits
        if self.fusion is not None:
            scores = self.fusion.combine({RERANKER: logits, **self.index.scores(query, ids)})
        place = {name: row for row, name in enumerate(ids)}
        passages = []
        for rank, one in enumerate(ranked(zip(ids, map(float, scores), strict=True)), start=1):
            row = place[one.document_id]
            passages.append(Passage(candidates[row].document, rank, one.score, candidates[row].first_rank, candidates[row].first_score,
                                    float(logits[row]), float(cross_encoder.probability(logits[row]))))  # fmt: skip
        return passages


def _check_query(query: str) -> None:
    if texts.is_blank(query):
        raise UserError("is empty", where="--query", remedy="Ask something.")
