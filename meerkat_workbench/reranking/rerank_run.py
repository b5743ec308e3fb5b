"""Reordering any first stage's TREC run with a cross-encoder."""

from __future__ import annotations

from pathlib import Path

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.retrieval.cross_encoder import CrossEncoder
from meerkat_workbench.retrieval.documents import Run, Scored, ranked, read_documents, read_queries, read_run, write_run


def rerank_file(run: Path, queries: Path, corpus: Path, output: Path, model: CrossEncoder, depth: int) -> None:
    """Reorder the first `depth` documents of each query by the cross-encoder's logit; those below follow in their own order.

    Raises:
        UserError: the run names a query or a document that its file lacks.
    """
    given, known, documents = read_run(run), read_queries(queries), read_documents(corpus)
    for query, ranking in given.items():
        if query not in known:
            raise UserError(
                "ranks documents for a query that is not in the queries", where=run, item=query, remedy=f"Add it to {queries}."
            )
        for one in ranking:
            if one.document_id not in documents:
                raise UserError(
                    "ranks a document that is not in the corpus", where=run, item=one.document_id, remedy=f"Add it to {corpus}."
                )
    read = {query: ranking[:depth] for query, ranking in given.items()}
    pairs = [(known[query].text, documents[one.document_id].content) for query, ranking in read.items() for one in ranking]
    logits = iter(model.logits(pairs, what="reranking"))
    reordered: Run = {}
    for query, ranking in read.items():
        best = ranked((one.document_id, float(next(logits))) for one in ranking)
        lowest = best[-1].score if best else 0.0
        reordered[query] = best + [
            Scored(one.document_id, lowest - place) for place, one in enumerate(given[query][depth:], start=1)
        ]
    write_run(output, reordered, "reranked")
    print(f"{output}: {len(reordered):,} queries, {len(pairs):,} pairs scored, ordered by the cross-encoder alone")
    print("  a small cross-encoder may lose to its first stage: `evaluate --run` tells, where there are judgements")
    if model.truncated:
        print(f"  {model.truncated:,} pairs are longer than {model.max_length} tokens and were cut")
