"""Tables of pairs: Quora's questions, and query, document and label."""

from __future__ import annotations

from pathlib import Path

from meerkat_workbench.reranking.loaders import rows
from meerkat_workbench.reranking.loaders.builder import JudgedQueriesBuilder
from meerkat_workbench.retrieval.documents import JudgedQueries

QUERY_NAMES, DOCUMENT_NAMES = ("query", "question"), ("document", "passage", "answer", "text")
LABEL_NAMES = ("label", "relevance", "score", "is_duplicate")


def read_quora(path: Path) -> JudgedQueries:
    """Quora's question pairs (2017): columns question1, question2 and is_duplicate, separated by tabs or commas."""
    builder = JudgedQueriesBuilder()
    for where, row in rows.rows_of(
        path, [("question1",), ("question2",), ("is_duplicate",)], "question1, question2 and is_duplicate"
    ):
        query = builder.query(row["question1"], where)
        builder.judge(query, builder.document(row["question2"], where), rows.label(row["is_duplicate"], where, most=1))
    return builder.done()


def read_table(path: Path) -> JudgedQueries:
    """JSON lines or a table with the columns query, document and label, and optionally title. A label of 1 or more is relevant."""
    builder = JudgedQueriesBuilder()
    needs = "query, document and label"
    for where, row in rows.rows_of(path, [QUERY_NAMES, DOCUMENT_NAMES, LABEL_NAMES], needs):
        query = builder.query(str(rows.first(row, QUERY_NAMES, where, needs)), where)
        document = builder.document(str(rows.first(row, DOCUMENT_NAMES, where, needs)), where, str(row.get("title") or ""))
        builder.judge(query, document, rows.label(rows.first(row, LABEL_NAMES, where, needs), where))
    return builder.done()
