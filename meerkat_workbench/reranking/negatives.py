"""Negatives for training: documents that do not answer a query.

Four kinds, each with a number a query of its own: judged ones, answers to other questions, unrelated passages, and hard ones that a
first stage ranks high. Hard ones are where false negatives hide, so a candidate is skipped, and counted, if its similarity to the query
comes near the positive's, or if a teacher takes it for relevant.
"""

from __future__ import annotations

import enum
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from meerkat_workbench.core import console, files
from meerkat_workbench.retrieval import index as indexes
from meerkat_workbench.retrieval.cross_encoder import CrossEncoder, probability
from meerkat_workbench.retrieval.documents import JudgedQueries
from meerkat_workbench.retrieval.index import DocumentIndex
from meerkat_workbench.text import texts


class PairKind(enum.StrEnum):
    """Where a pair of query and document comes from."""

    POSITIVE = "positive"
    JUDGED = "judged"
    OTHER_QUESTION = "other_question"
    UNRELATED = "unrelated"
    MINED = "mined"


@dataclass(frozen=True)
class NegativeCounts:
    """Negatives of each query, by kind; judged ones are all used."""

    other_question: int = 1
    unrelated: int = 1
    mined: int = 4


@dataclass(frozen=True)
class MiningRules:
    """Which of the first stage's candidates become hard negatives.

    Attributes:
        first_rank, last_rank: the window of ranks, from 1. The very first ranks hold most of the false negatives.
        relative_margin: a candidate's cosine must be below the positive's by this fraction.
        teacher_below: a candidate's probability by the teacher must be below this.
    """

    first_rank: int = 1
    last_rank: int = 50
    relative_margin: float = 0.05
    teacher_below: float = 0.5


@dataclass
class ChosenNegatives:
    """Negatives by query, each with its kind, and how many candidates were skipped for which reason."""

    by_query: dict[str, list[tuple[str, PairKind]]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


def choose(
    judged: JudgedQueries,
    counts: NegativeCounts,
    rules: MiningRules,
    index: DocumentIndex | None,
    teacher: CrossEncoder | None,
    seed: int,
) -> ChosenNegatives:
    """Negatives of each query.

    Args:
        judged: the queries to train on, over the documents that may be their negatives.
        index: the first stage over these documents and perhaps others; None if no negatives are mined.
        teacher: a cross-encoder that filters false negatives; None for none.
    """
    chosen = ChosenNegatives()
    answers = _AnswerKeys(judged)
    pools = _Pools(judged)
    if index is not None and counts.mined:
        index.embed_queries([query.text for query in judged.queries.values()])
    with console.Progress("choosing negatives", len(judged.queries), "queries") as progress:
        for query in judged.queries:
            draw = random.Random(files.sha256_of([seed, query]))
            found = [(name, PairKind.JUDGED) for name in judged.judgements.get(query, {}) if name not in judged.relevant(query)]
            taken = {*judged.judgements.get(query, {})}
            if index is not None and counts.mined:
                found += _mined(query, judged, counts.mined, rules, index, teacher, answers, taken, chosen.skipped)
            for kind, pool, count in ((PairKind.OTHER_QUESTION, pools.answers, counts.other_question),
                                      (PairKind.UNRELATED, pools.unrelated, counts.unrelated)):  # fmt: skip
                found += [(name, kind) for name in _drawn(query, pool, count, answers, taken, draw, chosen.skipped)]
            chosen.by_query[query] = found
            progress.advance()
    return chosen


class _AnswerKeys:
    """Which documents answer a query, by their words: a copy of an answer under another id is no negative."""

    def __init__(self, judged: JudgedQueries) -> None:
        self.judged = judged
        self._key_of: dict[str, int] = {}

    def key(self, document: str) -> int:
        if document not in self._key_of:
            self._key_of[document] = texts.key_of_words(texts.words_of(self.judged.documents[document].content))
        return self._key_of[document]

    def answers(self, query: str) -> set[int]:
        return {self.key(name) for name in self.judged.relevant(query)}


class _Pools:
    """The documents that answer some query, and those that answer none, in a fixed order."""

    def __init__(self, judged: JudgedQueries) -> None:
        answering = {name for query in judged.queries for name in judged.relevant(query)}
        judged_at_all = {name for found in judged.judgements.values() for name in found}
        self.answers = sorted(answering)
        # without a corpus beside the answers, answers to other questions are the unrelated passages too
        self.unrelated = sorted(set(judged.documents) - judged_at_all) or self.answers


def _drawn(
    query: str, pool: Sequence[str], count: int, answers: _AnswerKeys, taken: set[str], draw: random.Random, skipped: Counter[str]
) -> list[str]:
    """`count` documents of a pool, without those that are taken or answer the query."""
    names: list[str] = []
    right = answers.answers(query)
    for _ in range(20 * count):  # with a small pool every draw may be taken already
        if len(names) == count or not pool:
            break
        name = pool[draw.randrange(len(pool))]
        if name in taken:
            continue
        taken.add(name)
        if answers.key(name) in right:
            skipped["is a copy of an answer"] += 1
            continue
        names.append(name)
    return names


def _mined(
    query: str, judged: JudgedQueries, count: int, rules: MiningRules, index: DocumentIndex, teacher: CrossEncoder | None,
    answers: _AnswerKeys, taken: set[str], skipped: Counter[str],
) -> list[tuple[str, PairKind]]:  # fmt: skip
    """The hardest candidates of the first stage that are not likely to be false negatives."""
    text = judged.queries[query].text
    # the index may hold more than the documents to train on
    ranking = [one.document_id for one in index.search(text, 2 * rules.last_rank) if one.document_id in judged.documents][
        : rules.last_rank
    ]
    names = [name for name in ranking[rules.first_rank - 1 :] if name not in taken]
    right = answers.answers(query)
    copies = [name for name in names if answers.key(name) in right]
    skipped["is a copy of an answer"] += len(copies)
    names = [name for name in names if name not in set(copies)]
    if names and indexes.DENSE in index.rankers():
        positives = [name for name in judged.relevant(query) if name in index.documents]
        cosine = _cosines(index, text, [*names, *positives])
        limit = (1 - rules.relative_margin) * min((cosine[name] for name in positives), default=np.inf)
        near = [name for name in names if cosine[name] > limit]
        skipped["is as similar to the query as its answer"] += len(near)
        names = [name for name in names if name not in set(near)]
    names = names[: 3 * count]  # the teacher reads no more than this
    if names and teacher is not None:
        believed = probability(teacher.logits([(text, judged.documents[name].content) for name in names]))
        liked = {name for name, value in zip(names, believed, strict=True) if value >= rules.teacher_below}
        skipped["is relevant to the teacher"] += len(liked)
        names = [name for name in names if name not in liked]
    taken.update(names[:count])
    return [(name, PairKind.MINED) for name in names[:count]]


def _cosines(index: DocumentIndex, text: str, names: Sequence[str]) -> Mapping[str, float]:
    return dict(zip(names, index.scores(text, names)[indexes.DENSE], strict=True))
