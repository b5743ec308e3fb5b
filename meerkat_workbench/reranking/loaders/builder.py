"""Building judged queries from texts, for the forms that have no ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from meerkat_workbench.core import files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.retrieval.documents import Document, JudgedQueries, Judgements, Query
from meerkat_workbench.text import texts


@dataclass(frozen=True)
class QuestionAnswer:
    """A question with its answer, from a file of its own."""

    question: str
    answer: str


class JudgedQueriesBuilder:
    """Collects judged queries; equal texts become one query or one document."""

    def __init__(self) -> None:
        self.queries: dict[str, Query] = {}
        self.documents: dict[str, Document] = {}
        self.judgements: Judgements = {}

    def query(self, text: str, where: str) -> str:
        """The id of a query's text; UserError if it is empty."""
        text = texts.clean(text)
        if texts.is_blank(text):
            raise UserError("the query is empty", where=where, remedy="Fill it in, or remove the line.")
        name = f"q{files.short_hash(text)}"
        self.queries.setdefault(name, Query(id=name, text=text))
        return name

    def document(self, text: str, where: str, title: str = "") -> str:
        """The id of a document's text; UserError if it is empty."""
        text = texts.clean(text)
        if texts.is_blank(text):
            raise UserError("the document is empty", where=where, remedy="Fill it in, or remove the line.")
        name = f"d{files.short_hash(title + text)}"
        self.documents.setdefault(name, Document(id=name, text=text, title=title))
        return name

    def judge(self, query: str, document: str, relevance: int) -> None:
        """Add a judgement; of two for the same pair the higher one counts."""
        judged = self.judgements.setdefault(query, {})
        judged[document] = max(relevance, judged.get(document, relevance))

    def done(self, relevant_from: int = 1) -> JudgedQueries:
        return JudgedQueries(self.queries, self.documents, self.judgements, relevant_from)


def from_question_answers(pairs: Iterable[QuestionAnswer]) -> JudgedQueries:
    """Each answer is a document, relevant to its question. Equal questions are one query with several answers, and equal answers one document."""
    builder = JudgedQueriesBuilder()
    by_words: dict[int, str] = {}  # a question's words to the query that stands for it
    for pair in pairs:
        key = texts.key_of_words(texts.words_of(pair.question))
        query = by_words.get(key) or builder.query(pair.question, "question")
        by_words[key] = query
        builder.judge(query, builder.document(pair.answer, "answer"), 1)
    return builder.done()
