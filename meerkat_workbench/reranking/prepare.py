"""Preparing the data of a reranker: judged queries are split by group, and negatives are chosen for the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meerkat_workbench.core import console, files
from meerkat_workbench.core.runs import Run, RunState
from meerkat_workbench.core.settings import Settings
from meerkat_workbench.reranking import corpus_index, prepared
from meerkat_workbench.reranking import negatives as negative_sampling
from meerkat_workbench.reranking import splits as query_splits
from meerkat_workbench.reranking.artifacts import PairRow, PreparedCounts, PreparedManifest, TripleRow
from meerkat_workbench.reranking.negatives import MiningRules, NegativeCounts
from meerkat_workbench.reranking.splits import RankingSplit
from meerkat_workbench.retrieval import cross_encoder
from meerkat_workbench.retrieval.documents import JudgedQueries
from meerkat_workbench.retrieval.index import FirstStageKind


@dataclass(frozen=True)
class PreparationSpec:
    """How the data are split and which negatives are chosen.

    Attributes:
        inputs: the files that were read, by path, with their SHA-256.
        shares: fractions of the queries for validation and test.
        first_stage, encoder: what mines hard negatives.
        teacher: a reranker that filters false negatives; empty for none.
    """

    inputs: Mapping[str, str]
    shares: Mapping[RankingSplit, float]
    counts: NegativeCounts
    rules: MiningRules
    first_stage: FirstStageKind
    encoder: str
    teacher: str
    seed: int


def prepare(
    run: Run[PreparedManifest], read: Callable[[], JudgedQueries], spec: PreparationSpec, config: Settings, fingerprint: str
) -> PreparedManifest:
    """Split, choose negatives, and write the folder; a finished one with the same fingerprint is left as it is."""
    if run.find(fingerprint) is RunState.FINISHED:
        print(f"{run.folder}: up to date")
        return run.finished()
    judged = read()
    with console.working("grouping questions"):
        groups = query_splits.group_queries(judged)  # a minute for 15,000 questions
        split_of = query_splits.split(judged, groups, spec.shares, spec.seed)
    train = prepared.without_documents_of_others(
        judged, {name for name, place in split_of.items() if place is RankingSplit.TRAIN}
    )
    run.claim()
    # over the whole corpus, so that training and evaluation find the same index in the cache
    index = corpus_index.of(judged.documents.values(), spec.first_stage, spec.encoder) if spec.counts.mined else None
    teacher = cross_encoder.load(spec.teacher) if spec.teacher else None
    chosen = negative_sampling.choose(train, spec.counts, spec.rules, index, teacher, spec.seed)
    counts = prepared.write(run.folder, judged, split_of, groups, list(prepared.training_pairs(train, chosen)), chosen.skipped)
    manifest = run.finish(run.manifest(config, iteration=1, inputs=dict(spec.inputs), relevant_from=judged.relevant_from,
                                       split_hashes=prepared.split_hashes(run.folder)))  # fmt: skip
    print_counts(run.folder, counts)
    return manifest


def print_counts(folder: Path, counts: PreparedCounts) -> None:
    """Print what was prepared."""
    console.print_table(
        ["split", "queries", "judged pairs", "relevant"],
        [[name, f"{size.queries:,}", f"{size.judged:,}", f"{size.relevant:,}"] for name, size in counts.splits.items()],
    )
    print(
        f"{counts.documents:,} documents; {counts.groups:,} groups of questions, the largest of {counts.largest_group:,} queries"
    )
    if counts.unanswered:
        print(f"{counts.unanswered:,} queries have no relevant document and are left out")
    print("training pairs: " + ", ".join(f"{number:,} {kind.replace('_', ' ')}" for kind, number in counts.pairs.items()))
    for reason, number in counts.skipped.items():
        print(f"  {number:,} candidates skipped as likely false negatives: the document {reason}")
    print(f"{folder / PairRow.FILE} holds the pairs, {folder / TripleRow.FILE} the triples")


def input_hashes(path: Path) -> dict[str, str]:
    """SHA-256 of each file of an input, a file or a folder."""
    paths = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file() and not one.name.startswith("."))
    return {str(one): files.sha256_file(one) for one in paths}
