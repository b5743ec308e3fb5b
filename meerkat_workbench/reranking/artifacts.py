"""What `reranking.py` writes and reads: prepared data, a trained reranker, an evaluation of it."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from meerkat_workbench.core.artifacts import Artifact
from meerkat_workbench.core.runs import Manifest
from meerkat_workbench.output.tables import Row
from meerkat_workbench.reranking.negatives import PairKind
from meerkat_workbench.reranking.splits import RankingSplit
from meerkat_workbench.trainers.evaluator import Evaluation

SCRIPT = "reranking.py"
# files of a prepared folder, in BEIR's form
QUERIES, CORPUS, QRELS, CANDIDATES = "queries.jsonl", "corpus.jsonl", "qrels", "candidates"
MODEL = "model"  # subfolder of a training's output: the reranker itself


class PairRow(Artifact, frozen=True, kw_only=True):
    """A line of `pairs_train.jsonl`: a query, a document, and whether the document answers it.

    Attributes:
        label: relevance divided by the largest relevance of the data; 0 for negatives.
    """

    FILE: ClassVar[str] = "pairs_train.jsonl"

    query_id: str
    document_id: str
    query: str
    document: str
    label: float
    kind: PairKind


class TripleRow(Artifact, frozen=True, kw_only=True):
    """A line of `triples_train.jsonl`: a query, a document that answers it, and one that does not."""

    FILE: ClassVar[str] = "triples_train.jsonl"

    query_id: str
    query: str
    positive: str
    negative: str
    negative_kind: PairKind


class SplitSize(msgspec.Struct, frozen=True):
    """Queries of a split, and their judged pairs."""

    queries: int
    judged: int
    relevant: int


class PreparedCounts(Artifact, frozen=True, kw_only=True):
    """`reranking_stats.json`, for people.

    Attributes:
        unanswered: queries without a relevant document, which are left out.
        groups: groups of queries that say nearly the same or share a relevant document; each is in one split.
        pairs: of the training, by kind.
        skipped: candidates that are likely false negatives, by reason.
        candidates: queries whose candidates are given with the data.
    """

    FILE: ClassVar[str] = "reranking_stats.json"

    documents: int
    queries: int
    unanswered: int
    groups: int
    largest_group: int
    splits: dict[str, SplitSize]
    pairs: dict[str, int]
    skipped: dict[str, int]
    candidates: int


class PreparedManifest(Manifest, frozen=True, kw_only=True):
    """The manifest of a prepared folder.

    Attributes:
        inputs: files that were read, by path, with their SHA-256.
        relevant_from: the least relevance that counts as relevant.
        split_hashes: of each split's queries and judgements.
    """

    STAGE: ClassVar[str] = "reranking preparation"
    SCRIPT: ClassVar[str] = f"{SCRIPT} prepare"

    inputs: dict[str, str]
    relevant_from: int
    split_hashes: dict[RankingSplit, str]


class RankingPoint(Evaluation, frozen=True, kw_only=True):
    """One evaluation on the validation queries during training, a line of `ranking_history.jsonl`.

    Attributes:
        loss: mean binary cross-entropy of the candidates.
        auroc, f1: over all pairs; f1 at a probability of .5. AUROC is None if all candidates are relevant, or none.
        measures: ranking measures of the cross-encoder alone.
        first_stage: the same of the first stage alone.
    """

    FILE: ClassVar[str] = "ranking_history.jsonl"

    queries: int
    pairs: int
    loss: float
    auroc: float | None
    f1: float
    measures: dict[str, float]
    first_stage: dict[str, float]


class RerankerManifest(Manifest, frozen=True, kw_only=True):
    """The manifest of a training.

    Attributes:
        data, data_splits: fingerprint of the prepared data, and hashes of its splits.
        weights: SHA-256 of the reranker's weights.
        kept, before: the evaluation of the weights that were kept, and the one before the first step.
        fused: the kept weights fused with the first stage, on the validation queries on which the fusion was learnt.
    """

    STAGE: ClassVar[str] = "reranking training"
    SCRIPT: ClassVar[str] = f"{SCRIPT} train"

    data: str
    data_splits: dict[RankingSplit, str]
    base_weights: str
    weights: str
    kept: RankingPoint
    before: RankingPoint
    fused: dict[str, float]
    steps: int
    processes: int = 1


class MeasureRow(Row, frozen=True, kw_only=True):
    """A line of `ranking_measures.csv`: one measure of one ranker, with its paired difference from the first stage.

    Attributes:
        p_adjusted: sign-flip permutation, adjusted over all comparisons of the table (Holm).
        verdict: against the first stage (`stats.verdicts.Verdict`); empty for the first stage itself.
    """

    FILE: ClassVar[str] = "ranking_measures.csv"

    ranker: str
    measure: str
    n: int
    score: float
    low: float
    high: float
    difference: float
    ci_low: float
    ci_high: float
    p_adjusted: float
    verdict: str
    signature: str


class RankingEvaluationManifest(Manifest, frozen=True, kw_only=True):
    """The manifest of an evaluation.

    Attributes:
        data, weights: fingerprint of the prepared data, and hash of the reranker, or of a run made elsewhere.
        measures: of each ranker, by measure.
        sentence: whether the reranker helped.
    """

    STAGE: ClassVar[str] = "reranking evaluation"
    SCRIPT: ClassVar[str] = f"{SCRIPT} evaluate"

    data: str
    weights: str
    split: RankingSplit
    measures: dict[str, dict[str, float]]
    sentence: str
