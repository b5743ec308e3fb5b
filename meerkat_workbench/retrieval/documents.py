"""Queries, documents, relevance judgements and rankings, in the forms of BEIR and TREC.

BEIR keeps `queries.jsonl` and `corpus.jsonl` with `_id`, `text` and `title`, and judgements as tab-separated tables with a header. TREC keeps
judgements as `query 0 document relevance` and rankings as `query Q0 document rank score name`. Both forms of judgements are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from meerkat_workbench.core import artifacts, files, input_files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text import texts

QRELS_HEADER = ("query-id", "corpus-id", "score")


class Query(artifacts.Artifact, frozen=True, kw_only=True):
    """A row of `queries.jsonl`."""

    id: str = msgspec.field(name="_id")
    text: str


class Document(artifacts.Artifact, frozen=True, kw_only=True):
    """A row of `corpus.jsonl`."""

    id: str = msgspec.field(name="_id")
    text: str
    title: str = ""

    @property
    def content(self) -> str:
        """Title and text, as models and indexes read them."""
        return f"{self.title}\n{self.text}" if self.title else self.text


RowType = TypeVar("RowType", Query, Document)


@dataclass(frozen=True, slots=True)
class Scored:
    """A document in a ranking."""

    document_id: str
    score: float


Ranking = list[Scored]  # best first
Run = dict[str, Ranking]  # by query id
Judgements = dict[str, dict[str, int]]  # by query id and document id; 0 or less is not relevant


@dataclass(frozen=True)
class JudgedQueries:
    """Queries with relevance judgements over a corpus, and where there is one, the ranking in which a system gave the documents.

    Attributes:
        judgements: of each query; documents that are not named are not relevant.
        relevant_from: the least relevance that counts as relevant, in measures that know only relevant or not.
        candidates: for some or all queries, the only documents that are ranked, in a system's order.
    """

    queries: dict[str, Query]
    documents: dict[str, Document]
    judgements: Judgements
    relevant_from: int = 1
    candidates: Run = field(default_factory=dict)

    def relevant(self, query_id: str) -> set[str]:
        """Ids of a query's relevant documents."""
        return {name for name, value in self.judgements.get(query_id, {}).items() if value >= self.relevant_from}

    def with_threshold(self, relevant_from: int) -> JudgedQueries:
        """The same with another least relevance."""
        return replace(self, relevant_from=relevant_from)

    def of(self, query_ids: Iterable[str]) -> JudgedQueries:
        """The same with these queries only, over the same corpus."""
        kept = [name for name in query_ids if name in self.queries]
        return JudgedQueries(
            {name: self.queries[name] for name in kept}, self.documents,
            {name: self.judgements[name] for name in kept if name in self.judgements}, self.relevant_from,
            {name: self.candidates[name] for name in kept if name in self.candidates},
        )  # fmt: skip


def ranked(scores: Mapping[str, float] | Iterable[tuple[str, float]], limit: int | None = None) -> Ranking:
    """Documents by score, the best first; equal scores by id, so that the order never depends on the input's."""
    pairs = scores.items() if isinstance(scores, Mapping) else scores
    order = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    return [Scored(name, float(score)) for name, score in order[:limit]]


def decreasing_scores(ranking: Sequence[Scored]) -> list[float]:
    """The scores of a ranking, lowered where needed so that each is below the one before it.

    Evaluators order equal scores by id, and trec_eval compares in 32 bits. With these scores every tool sees the ranking's own order.
    """
    lowered: list[float] = []
    for one in ranking:
        score = np.float32(one.score)
        if lowered and not score < np.float32(lowered[-1]):
            score = np.nextafter(np.float32(lowered[-1]), np.float32(-math.inf))
        lowered.append(float(score))
    return lowered


# --- files


def read_queries(path: Path) -> dict[str, Query]:
    """Queries of a `queries.jsonl` by id; see `_read_rows` for the errors."""
    return {row.id: row for row in _read_rows(path, Query, lambda row: row.text)}


def read_documents(path: Path) -> dict[str, Document]:
    """Documents of a `corpus.jsonl` by id; see `_read_rows` for the errors."""
    return {row.id: row for row in _read_rows(path, Document, lambda row: row.content)}


def _read_rows(path: Path, kind: type[RowType], text_of: Callable[[RowType], str]) -> list[RowType]:
    """Rows of a BEIR file.

    Raises:
        UserError: no such file, a line that is not such a row, an id twice, or a text without a visible character.
    """
    values = input_files.named_json_lines(path)
    rows, seen = list[RowType](), set[str]()
    for number, value in values:
        if isinstance(value, dict) and isinstance(value.get("_id"), int):
            value["_id"] = str(value["_id"])
        row = artifacts.from_json(kind, value, f"{path}, line {number}")
        if row.id in seen:
            raise UserError(
                "this id occurs twice", where=f"{path}, line {number}", item=row.id, remedy="Give each row an id of its own."
            )
        if texts.is_blank(text_of(row)):
            raise UserError(
                "this text is empty", where=f"{path}, line {number}", item=row.id, remedy="Fill it in, or remove the row."
            )
        seen.add(row.id)
        rows.append(row)
    return rows


def write_judgements(path: Path, judgements: Judgements) -> None:
    """Write judgements in BEIR's form."""
    lines = ["\t".join(QRELS_HEADER)]
    lines += [f"{query}\t{document}\t{value}" for query, found in judgements.items() for document, value in found.items()]
    files.write_text(path, "\n".join(lines) + "\n")


def read_judgements(path: Path) -> Judgements:
    """Judgements in BEIR's form (a header and three columns) or TREC's (four columns).

    Raises:
        UserError: no such file, or a line of another form.
    """
    judgements: Judgements = {}
    for number, line in _lines(path):
        cells = line.split("\t") if "\t" in line else line.split()
        if number == 1 and tuple(cells) == QRELS_HEADER:
            continue
        if len(cells) == 4:
            cells = [cells[0], cells[2], cells[3]]
        try:
            query, document, value = cells
            judgements.setdefault(query, {})[document] = int(value)
        except ValueError:
            remedy = "Write query, document and relevance (BEIR), or query, 0, document and relevance (TREC); the relevance is a whole number."
            raise UserError("is not a judgement", where=f"{path}, line {number}", remedy=remedy) from None
    return judgements


def read_all_judgements(paths: Sequence[Path]) -> Judgements:
    """The judgements of several files together; of two for the same pair the later file's counts.

    Raises:
        UserError: as `read_judgements`.
    """
    judgements: Judgements = {}
    for path in paths:
        for query, found in read_judgements(path).items():
            judgements.setdefault(query, {}).update(found)
    return judgements


def write_run(path: Path, run: Run, name: str) -> None:
    """Write rankings in TREC's form, with scores that give every tool the same order.

    Raises:
        UserError: an id holds white space, which the form cannot express.
    """
    lines = []
    for query, ranking in run.items():
        for identifier in (query, *(one.document_id for one in ranking)):
            if len(identifier.split()) != 1:
                fault = "is an id with white space, which a TREC run cannot hold"
                raise UserError(fault, where=path, item=repr(identifier), remedy="Rename it.")
        for rank, (one, score) in enumerate(zip(ranking, decreasing_scores(ranking), strict=True), start=1):
            lines.append(f"{query} Q0 {one.document_id} {rank} {score:.9g} {name}")
    files.write_text(path, "".join(f"{line}\n" for line in lines))


def read_run(path: Path) -> Run:
    """Rankings in TREC's form, ordered as trec_eval orders them, whatever the ranks say: by score in 32 bits, equal scores by id from the last.

    Raises:
        UserError: no such file, a line of another form, or a document twice for a query.
    """
    scores: dict[str, dict[str, float]] = {}
    for number, line in _lines(path):
        try:
            query, _, document, rank, text, _ = line.split()
            score, _ = float(text), int(rank)
        except ValueError:
            remedy = "Write query, Q0, document, rank, score and name, separated by spaces."
            raise UserError("is not a line of a TREC run", where=f"{path}, line {number}", remedy=remedy) from None
        if document in scores.setdefault(query, {}):
            raise UserError(
                "ranks this document twice", where=f"{path}, line {number}", item=f"query {query}, document {document}"
            )
        scores[query][document] = score
    return {query: _as_trec_eval(found) for query, found in scores.items()}


def _as_trec_eval(scores: Mapping[str, float]) -> Ranking:
    by_id = sorted(scores.items(), reverse=True)
    return [Scored(name, score) for name, score in sorted(by_id, key=lambda pair: -np.float32(pair[1]))]


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines with text and their numbers, from 1."""
    text = input_files.read_named(path)
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
