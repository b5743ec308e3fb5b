"""The candidates of each query with the scores of every ranker: the first stage's, and later the cross-encoder's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.core import console
from meerkat_workbench.retrieval import fusion
from meerkat_workbench.retrieval.cross_encoder import CrossEncoder, Pair
from meerkat_workbench.retrieval.documents import JudgedQueries, Ranking, Run, ranked
from meerkat_workbench.retrieval.fusion import LinearFusion
from meerkat_workbench.retrieval.index import BM25, DocumentIndex
from meerkat_workbench.retrieval.pipeline import RERANKER

SYSTEM = "system"  # the order in which a system gave the candidates
FUSED = "fused"  # the first stage and the cross-encoder together
FIRST_STAGE = "first_stage"  # all rankers but the cross-encoder, joined by reciprocal ranks


@dataclass(frozen=True)
class Candidates:
    """The candidates of one query.

    Attributes:
        scores: by ranker, (candidates,); a higher score ranks better.
        relevant: (candidates,).
        relevance: (candidates,) the judgements, 0 for documents without one.
    """

    query_id: str
    document_ids: list[str]
    scores: dict[str, NDArray[np.float64]]
    relevant: NDArray[np.bool_]
    relevance: NDArray[np.int64]

    def ranking(self, ranker: str) -> Ranking:
        return ranked(zip(self.document_ids, map(float, self.scores[ranker]), strict=True))

    def with_scores(self, ranker: str, scores: NDArray[np.float64]) -> Candidates:
        """The same with the scores of one more ranker."""
        return Candidates(self.query_id, self.document_ids, {**self.scores, ranker: scores}, self.relevant, self.relevance)

    @property
    def first_stage_rankers(self) -> list[str]:
        return [name for name in self.scores if name not in (RERANKER, FIRST_STAGE, FUSED)]


def of_first_stage(judged: JudgedQueries, index: DocumentIndex, depth: int) -> list[Candidates]:
    """The candidates of every query that has a relevant document: those of the data, or the first stage's best `depth`."""
    found = []
    index.embed_queries([query.text for query in judged.queries.values()])
    with console.Progress("first stage", len(judged.queries), "queries") as progress:
        for name, query in judged.queries.items():
            progress.advance()
            if not judged.relevant(name):
                continue
            given = judged.candidates.get(name)
            ranking = given or index.search(query.text, depth)
            ids = [one.document_id for one in ranking]
            scores = {SYSTEM: np.array([one.score for one in given])} if given else {}
            scores |= index.scores(query.text, ids)
            # without given candidates the first stage is the index's own ranking, which is what a search serves
            scores[FIRST_STAGE] = _reciprocal_ranks(ids, scores) if given else np.array([one.score for one in ranking])
            relevant, judgements = judged.relevant(name), judged.judgements[name]
            found.append(Candidates(name, ids, scores, np.array([one in relevant for one in ids], bool),
                                    np.array([max(0, judgements.get(one, 0)) for one in ids], np.int64)))  # fmt: skip
    return found


def _reciprocal_ranks(ids: Sequence[str], scores: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """(candidates,) the scores of reciprocal rank fusion. BM25 does not rank documents without a common word, whose scores are 0."""
    rankings = [
        ranked((document, float(score)) for document, score in zip(ids, one, strict=True) if ranker != BM25 or score > 0)
        for ranker, one in scores.items()
    ]
    by_id = {one.document_id: one.score for one in fusion.reciprocal_rank_fusion(rankings)}
    return np.array([by_id.get(name, 0.0) for name in ids])


def pairs_of(candidates: Sequence[Candidates], judged: JudgedQueries) -> list[Pair]:
    """Every query with each of its candidates, as a cross-encoder reads them."""
    return [
        (judged.queries[one.query_id].text, judged.documents[name].content) for one in candidates for name in one.document_ids
    ]


def rerank(
    candidates: Sequence[Candidates],
    judged: JudgedQueries,
    model: CrossEncoder,
    *,
    batch_size: int | None = None,
    what: str = "reranking",
) -> list[Candidates]:
    """The candidates with the cross-encoder's logits."""
    logits = model.logits(pairs_of(candidates, judged), batch_size=batch_size, what=what)
    bounds = np.cumsum([0, *(len(one.document_ids) for one in candidates)])
    return [one.with_scores(RERANKER, logits[start:end]) for one, start, end in zip(candidates, bounds, bounds[1:], strict=False)]


def fit_fusion(candidates: Sequence[Candidates], features: Sequence[str]) -> LinearFusion:
    """Weights of a fusion, learnt on these candidates; see `fusion.fit_linear`."""
    return fusion.fit_linear([(one.scores, one.relevant) for one in candidates], features)


def fuse(candidates: Sequence[Candidates], weights: LinearFusion, name: str) -> list[Candidates]:
    """The candidates with the fused scores under `name`."""
    return [one.with_scores(name, weights.combine(one.scores)) for one in candidates]


def run_of(candidates: Sequence[Candidates], ranker: str) -> Run:
    """The rankings of one ranker."""
    return {one.query_id: one.ranking(ranker) for one in candidates}
