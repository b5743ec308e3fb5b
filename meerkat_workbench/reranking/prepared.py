"""The prepared folder: judged queries in BEIR's form, split, with the pairs and triples of the training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from meerkat_workbench.core import artifacts, files
from meerkat_workbench.reranking.artifacts import (
    CANDIDATES,
    CORPUS,
    QRELS,
    QUERIES,
    PairRow,
    PreparedCounts,
    PreparedManifest,
    SplitSize,
    TripleRow,
)  # fmt: skip
from meerkat_workbench.reranking.negatives import ChosenNegatives, PairKind
from meerkat_workbench.reranking.splits import RankingSplit
from meerkat_workbench.retrieval.documents import (
    JudgedQueries,
    read_documents,
    read_judgements,
    read_queries,
    read_run,
    write_judgements,
    write_run,
)  # fmt: skip
from meerkat_workbench.trainers.pair_groups import Candidate, Group

RUN_NAME = "given"  # of the candidates that come with the data


def without_documents_of_others(judged: JudgedQueries, kept: set[str]) -> JudgedQueries:
    """The kept queries, over a corpus without the documents that only other queries are judged with.

    Documents of the test queries are then no negatives of the training, which would teach the model to rank them low.
    """
    theirs = {name for query in kept for name in judged.judgements.get(query, {})}
    others = {name for query, found in judged.judgements.items() if query not in kept for name in found} - theirs
    part = judged.of(sorted(kept))
    documents = {name: one for name, one in judged.documents.items() if name not in others}
    return JudgedQueries(part.queries, documents, part.judgements, part.relevant_from, part.candidates)


def training_pairs(judged: JudgedQueries, negatives: ChosenNegatives) -> Iterator[PairRow]:
    """Pairs of each query: its relevant documents, and its negatives. Graded judgements become labels between 0 and 1."""
    top = max((value for found in judged.judgements.values() for value in found.values()), default=1)
    for name, query in judged.queries.items():
        found = judged.judgements.get(name, {})
        rows = [(document, PairKind.POSITIVE) for document in sorted(judged.relevant(name))] + negatives.by_query.get(name, [])
        for document, kind in rows:
            label = max(0, found.get(document, 0)) / top
            yield PairRow(query_id=name, document_id=document, query=query.text, document=judged.documents[document].content,
                          label=label, kind=kind)  # fmt: skip


def triples(pairs: list[PairRow]) -> Iterator[TripleRow]:
    """Every positive of a query with every negative of it."""
    for group in grouped(pairs):
        positives = [row for row in group if row.kind is PairKind.POSITIVE]
        for positive in positives:
            for row in group:
                if row.kind is not PairKind.POSITIVE:
                    yield TripleRow(query_id=row.query_id, query=row.query, positive=positive.document, negative=row.document,
                                    negative_kind=row.kind)  # fmt: skip


def grouped(pairs: list[PairRow]) -> Iterator[list[PairRow]]:
    """The pairs of each query, which stand together."""
    group: list[PairRow] = []
    for row in pairs:
        if group and row.query_id != group[0].query_id:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def write(
    folder: Path,
    judged: JudgedQueries,
    split_of: Mapping[str, RankingSplit],
    groups: Mapping[str, str],
    pairs: list[PairRow],
    skipped: Mapping[str, int],
) -> PreparedCounts:
    """Write the prepared data, without its manifest."""
    artifacts.write_lines(folder / QUERIES, [judged.queries[name] for name in split_of])
    artifacts.write_lines(folder / CORPUS, judged.documents.values())
    sizes = {}
    for one in RankingSplit:
        part = judged.of(name for name, place in split_of.items() if place is one)
        write_judgements(folder / QRELS / f"{one}.tsv", part.judgements)
        if part.candidates:
            write_run(folder / CANDIDATES / f"{one}.run", part.candidates, RUN_NAME)
        sizes[str(one)] = SplitSize(
            len(part.queries), sum(map(len, part.judgements.values())), sum(len(part.relevant(name)) for name in part.queries)
        )
    artifacts.write_lines(folder / PairRow.FILE, pairs)
    artifacts.write_lines(folder / TripleRow.FILE, triples(pairs))
    group_sizes = Counter(groups[name] for name in split_of)
    counts = PreparedCounts(
        documents=len(judged.documents), queries=len(split_of), unanswered=len(judged.queries) - len(split_of), groups=len(group_sizes),
        largest_group=max(group_sizes.values()), splits=sizes, pairs=dict(Counter(str(row.kind) for row in pairs)), skipped=dict(skipped),
        candidates=sum(name in judged.candidates for name in split_of),
    )  # fmt: skip
    artifacts.write(folder / PreparedCounts.FILE, counts)
    return counts


def split_hashes(folder: Path) -> dict[RankingSplit, str]:
    """Hash of each split's judgements."""
    return {one: files.sha256_file(folder / QRELS / f"{one}.tsv") for one in RankingSplit}


@dataclass(frozen=True)
class PreparedData:
    """A prepared folder that is read."""

    folder: Path
    manifest: PreparedManifest

    @classmethod
    def open(cls, folder: Path) -> PreparedData:
        """Raises UserError if the folder is not finished."""
        return cls(folder, PreparedManifest.require(folder))

    def judged(self, split: RankingSplit) -> JudgedQueries:
        """The queries of a split over the whole corpus."""
        judgements = read_judgements(self.folder / QRELS / f"{split}.tsv")
        queries, run = read_queries(self.folder / QUERIES), self.folder / CANDIDATES / f"{split}.run"
        return JudgedQueries({name: queries[name] for name in judgements}, read_documents(self.folder / CORPUS), judgements,
                             self.manifest.relevant_from, read_run(run) if run.is_file() else {})  # fmt: skip

    def pairs(self) -> list[PairRow]:
        return artifacts.read_lines(PairRow, self.folder / PairRow.FILE)

    def groups(self, *, graded: bool) -> list[Group]:
        """Training groups.

        Args:
            graded: whether labels are the grades; otherwise a relevant document has 1 and any other 0.
        """
        return [Group(rows[0].query, [Candidate(row.document, row.label if graded else float(row.kind is PairKind.POSITIVE), row.kind is PairKind.MINED)
                                      for row in rows]) for rows in grouped(self.pairs())]  # fmt: skip
