#!/usr/bin/env python3
"""Retrieval over all answers of a folder of specialty files: BM25, a bi-encoder, both fused, and reranked.

Each question must find its own answer among all of them. Only the test questions of a prepared folder are asked, so that a reranker that was
trained on its other questions may be measured too.

    python reranking.py prepare DATA=../shared/data/medquad DATASET_DIR=DATA_FOLDER
    python benchmarks/retrieval.py --data DATA_FOLDER --model RERANKER --queries 300
"""

from __future__ import annotations

import argparse
from pathlib import Path

import side_by_side

from meerkat_workbench.core import console, files
from meerkat_workbench.device import hub
from meerkat_workbench.reranking import corpus_index
from meerkat_workbench.reranking.prepared import PreparedData
from meerkat_workbench.reranking.splits import RankingSplit
from meerkat_workbench.retrieval import cross_encoder, fusion, measures
from meerkat_workbench.retrieval.documents import Run
from meerkat_workbench.retrieval.pipeline import RERANKER, Passage, RetrievalPipeline
from meerkat_workbench.stats import significance

NAMES = ("R@100", "nDCG@10", "RR@10", "Success@1")
DEPTH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder that reranking.py prepare wrote")
    parser.add_argument("--model", default="", help="a trained reranker; without one only the first stages are measured")
    parser.add_argument("--backend", default="torch", choices=cross_encoder.BACKENDS)
    parser.add_argument("--encoder", default="packaged")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--depth", type=int, default=50, help="candidates that the reranker reads")
    arguments = parser.parse_args()
    hub.silence_libraries()
    judged = PreparedData.open(arguments.data).judged(RankingSplit.TEST)
    asked = judged.of(sorted(judged.queries, key=files.sha256_of)[: arguments.queries])
    index = corpus_index.of(judged.documents.values(), "fused", arguments.encoder)
    runs: dict[str, Run] = {"BM25": {}, "bi-encoder": {}, "fused": {}}
    vectors = index.encoder.embed([query.text for query in asked.queries.values()]) if index.encoder else None
    assert vectors is not None
    dense = index.search_vectors(vectors, DEPTH)
    for (name, query), ranking in zip(asked.queries.items(), dense, strict=True):
        runs["BM25"][name] = index.bm25.search(query.text, DEPTH)
        runs["bi-encoder"][name] = ranking
        runs["fused"][name] = fusion.reciprocal_rank_fusion([runs["BM25"][name], ranking])[:DEPTH]
    if arguments.model:
        model, learnt = cross_encoder.load(arguments.model, arguments.backend), fusion.read(arguments.model)
        arms = {"reranked": None, "reranked, fused": learnt.for_rankers([RERANKER, *index.rankers()]) if learnt else None}
        for arm, weights in arms.items():
            if arm == "reranked" or weights:
                pipeline = RetrievalPipeline(index, model, weights, arguments.depth)
                runs[arm] = rerank(pipeline, runs["fused"], {name: query.text for name, query in asked.queries.items()})
    report(asked, runs, len(judged.documents))


def rerank(pipeline: RetrievalPipeline, first: Run, texts: dict[str, str]) -> Run:
    """The first `depth` documents of each ranking reordered, and the others after them."""
    from meerkat_workbench.retrieval.documents import Scored

    reordered: Run = {}
    with console.Progress("reranking", len(first), "queries") as progress:
        for name, ranking in first.items():
            candidates = [Passage(pipeline.index.documents[one.document_id], rank, one.score, rank, one.score)
                          for rank, one in enumerate(ranking[: pipeline.depth], start=1)]  # fmt: skip
            passages = pipeline.rerank(texts[name], candidates)
            order = [one.document.id for one in passages] + [one.document_id for one in ranking[pipeline.depth :]]
            reordered[name] = [Scored(document, -float(place)) for place, document in enumerate(order)]
            progress.advance()
    return reordered


def report(asked: object, runs: dict[str, Run], documents: int) -> None:
    scores = {name: measures.score(run, asked, NAMES) for name, run in runs.items()}  # type: ignore[arg-type]
    print(f"\n{side_by_side.machine()}\n{len(scores['fused'].query_ids)} questions over {documents:,} documents\n")
    print(f"| | {' | '.join(NAMES)} | nDCG@10 minus fused |\n|---|{'---|' * (len(NAMES) + 1)}")
    for name, found in scores.items():
        difference = significance.paired((found.values["nDCG@10"] - scores["fused"].values["nDCG@10"]).tolist())
        cell = "" if name == "fused" else f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
        print(f"| {name} | {' | '.join(f'{found.mean(one):.3f}' for one in NAMES)} | {cell} |")


if __name__ == "__main__":
    main()
