"""MS MARCO passages (Bajaj et al. 2016), the TREC Deep Learning tracks on them (Craswell et al. 2020), and MS MARCO's triples."""

from __future__ import annotations

import random
from pathlib import Path

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.reranking.loaders import rows
from meerkat_workbench.reranking.loaders.builder import JudgedQueriesBuilder
from meerkat_workbench.retrieval.documents import Document, JudgedQueries, Query, read_all_judgements


def read_msmarco(folder: Path, more_documents: int, seed: int) -> JudgedQueries:
    """MS MARCO passages (Bajaj et al. 2016) and the TREC Deep Learning tracks on them (Craswell et al. 2020).

    The folder has `collection*.tsv` (id, text), one or more `*queries*.tsv` (id, text), and one or more `*qrels*` in TREC's form.
    """
    qrels = [path for path in sorted(folder.iterdir()) if "qrels" in path.name.lower() and path.is_file()]
    topics = [path for path in sorted(folder.iterdir()) if "queries" in path.name.lower() and path.is_file()]
    for paths, what in (
        (qrels, "qrels (such as qrels.dev.tsv or 2019qrels-pass.txt)"),
        (topics, "queries (such as queries.dev.tsv)"),
    ):
        if not paths:
            raise UserError(f"holds no {what}", where=folder)
    judgements = read_all_judgements(qrels)
    queries = {name: Query(id=name, text=text) for path in topics for name, text in rows.two_columns(path) if name in judgements}
    wanted = {document for name in queries for document in judgements[name]}
    documents: dict[str, Document] = {}
    draw, others, seen = random.Random(seed), list[Document](), 0
    for path in sorted(folder.glob("collection*.tsv*")):
        for name, text in rows.two_columns(path):
            if name in wanted:
                documents[name] = Document(id=name, text=text)
            else:  # a sample of the others of fixed size (reservoir sampling)
                seen += 1
                place = len(others) if len(others) < more_documents else draw.randrange(seen)
                if place < more_documents:
                    others[place : place + 1] = [Document(id=name, text=text)]
    if missing := wanted - set(documents):
        raise UserError(f"lacks {len(missing)} judged passages, such as {min(missing)}", where=folder / "collection.tsv")
    kept = {name: judgements[name] for name in queries}
    graded = any(value > 1 for found in kept.values() for value in found.values())
    # TREC DL: 0 and 1 count as not relevant, 2 and 3 as relevant
    return JudgedQueries(queries, documents | {one.id: one for one in others}, kept, 2 if graded else 1)


def read_triples(path: Path) -> JudgedQueries:
    """MS MARCO's triples: query, relevant passage and irrelevant passage, separated by tabs, without a header."""
    builder = JudgedQueriesBuilder()
    for number, line in rows.lines(path):
        where = f"{path.name}, line {number}"
        cells = line.split("\t")
        if len(cells) != 3:
            raise UserError(f"has {len(cells)} columns, not query, relevant and irrelevant passage", where=where)
        query = builder.query(cells[0], where)
        builder.judge(query, builder.document(cells[1], where), 1)
        builder.judge(query, builder.document(cells[2], where), 0)
    return builder.done()
