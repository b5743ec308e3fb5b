"""Measuring a reranker: every ranker on the same candidates, each compared with the first stage, query by query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from meerkat_workbench.core import console, files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import Run
from meerkat_workbench.core.settings import Settings
from meerkat_workbench.device.devices import ComputeDtype
from meerkat_workbench.output import tables
from meerkat_workbench.reranking import candidates as candidate_lists
from meerkat_workbench.reranking import corpus_index, plots
from meerkat_workbench.reranking.artifacts import MeasureRow, PreparedManifest, RankingEvaluationManifest, RerankerManifest
from meerkat_workbench.reranking.candidates import FIRST_STAGE, FUSED, Candidates
from meerkat_workbench.reranking.prepared import PreparedData
from meerkat_workbench.reranking.splits import RankingSplit
from meerkat_workbench.retrieval import cross_encoder, fusion, measures
from meerkat_workbench.retrieval.cross_encoder import Backend
from meerkat_workbench.retrieval.documents import JudgedQueries, read_run, write_run
from meerkat_workbench.retrieval.documents import Run as RankingRun
from meerkat_workbench.retrieval.index import BM25, DENSE, FirstStageKind
from meerkat_workbench.retrieval.measures import QueryScores
from meerkat_workbench.retrieval.pipeline import RERANKER
from meerkat_workbench.stats import significance
from meerkat_workbench.stats.significance import ALPHA, Estimate
from meerkat_workbench.stats.verdicts import Verdict

RUNS, PER_QUERY, CHART = "runs", "query_scores.csv", "ranking_measures.png"
IN_WORDS = {
    candidate_lists.SYSTEM: "order of the data", BM25: "BM25", DENSE: "bi-encoder", FIRST_STAGE: "first stage",
    RERANKER: "reranker", FUSED: "first stage and reranker, fused",
}  # fmt: skip


@dataclass(frozen=True)
class EvaluationSpec:
    """What is measured.

    Attributes:
        model: folder of the reranker; empty measures the first stage alone.
        names: measures; the sentence at the end is about the first.
        fusion: whether the cross-encoder is fused with the first stage, if its folder has a fusion.
        caution: what makes the figures flatter, for the last sentence; empty for nothing.
        compute: see `cross_encoder.scoring_precision`.
    """

    model: str
    backend: Backend
    split: RankingSplit
    first_stage: FirstStageKind
    encoder: str
    depth: int
    names: Sequence[str]
    batch_size: int | None
    fusion: bool = True
    caution: str = ""
    compute: ComputeDtype = "auto"


@dataclass(frozen=True)
class Measured:
    """The rankings of every ranker on the same queries, and their scores."""

    judged: JudgedQueries
    runs: dict[str, RankingRun]
    scores: dict[str, QueryScores]
    truncated: int = 0
    pairs: int = 0

    def with_run(self, name: str, run: RankingRun, names: Sequence[str]) -> Measured:
        """The same with one more ranking."""
        if not set(run) & set(self.judged.queries):
            raise UserError(
                "ranks none of the queries of this split", where="--run", remedy="Check the ids, or name another SPLIT."
            )
        runs, scores = {**self.runs, name: run}, {**self.scores, name: measures.score(run, self.judged, names)}
        return Measured(self.judged, runs, scores, self.truncated, self.pairs)

    @property
    def final(self) -> str:
        """The ranker that a user of the reranker gets."""
        return next(name for name in (FUSED, RERANKER, FIRST_STAGE) if name in self.runs)


def rank_all(data: PreparedData, spec: EvaluationSpec) -> Measured:
    """Rank the candidates of a split's queries by every ranker."""
    judged = data.judged(spec.split)
    if not judged.queries:
        raise UserError(
            f"has no {spec.split} queries", where=data.folder, remedy="Name another SPLIT, or prepare with a share for it."
        )
    index = corpus_index.of(judged.documents.values(), spec.first_stage, spec.encoder)
    found = candidate_lists.of_first_stage(judged, index, spec.depth)
    truncated = 0
    if spec.model:
        model = cross_encoder.load(spec.model, spec.backend, spec.compute)
        found = candidate_lists.rerank(found, judged, model, batch_size=spec.batch_size)
        truncated = model.truncated
        learnt = fusion.read(spec.model) if spec.fusion else None
        weights = learnt.for_rankers([*found[0].first_stage_rankers, RERANKER]) if learnt else None
        if weights:
            found = candidate_lists.fuse(found, weights, FUSED)
    return _measured(judged, found, spec.names, truncated)


def _measured(judged: JudgedQueries, found: Sequence[Candidates], names: Sequence[str], truncated: int) -> Measured:
    rankers = [name for name in IN_WORDS if name in found[0].scores]
    if len(found[0].first_stage_rankers) == 1:  # one ranker alone is the first stage
        rankers = [name for name in rankers if name not in found[0].first_stage_rankers]
    runs = {name: candidate_lists.run_of(found, name) for name in rankers}
    scores = {name: measures.score(run, judged, names) for name, run in runs.items()}
    return Measured(judged, runs, scores, truncated, sum(len(one.document_ids) for one in found))


def compare(measured: Measured, names: Sequence[str]) -> list[MeasureRow]:
    """A row for each ranker and measure, with its paired difference from the first stage. p is adjusted over all comparisons (Holm)."""
    reference = measured.scores[FIRST_STAGE]
    found: list[tuple[str, str, Estimate, Estimate]] = []
    for ranker, scores in measured.scores.items():
        for name in names:
            mean = significance.mean_interval(scores.values[name].tolist()).within(0, 1)
            difference = significance.paired((scores.values[name] - reference.values[name]).tolist()) if ranker != FIRST_STAGE else Estimate(
                mean.n, math.nan, math.nan, math.nan)  # fmt: skip
            found.append((ranker, name, mean, difference))
    adjusted = significance.family_adjusted([difference.p for *_, difference in found])
    return [
        MeasureRow(
            ranker=ranker, measure=name, n=mean.n, score=mean.mean, low=mean.low, high=mean.high, difference=difference.mean,
            ci_low=difference.low, ci_high=difference.high, p_adjusted=p,
            verdict=Verdict.NONE if ranker == FIRST_STAGE else Verdict.of_test(difference.mean, p, ALPHA),
            signature=measured.scores[ranker].signatures[name],
        )
        for (ranker, name, mean, difference), p in zip(found, adjusted, strict=True)
    ]  # fmt: skip


def verdict_sentence(rows: Sequence[MeasureRow], final: str, measure: str) -> str:
    """One sentence: whether the reranker helped."""
    by_ranker = {row.ranker: row for row in rows if row.measure == measure}
    first = by_ranker[FIRST_STAGE]
    if final == FIRST_STAGE:
        return f"No reranker was measured; the first stage has {measure} {first.score:.3f} on {first.n} queries."
    row = by_ranker[final]
    how = "Fused with the first stage, the reranker" if final == FUSED else "The reranker"
    change = f"{measure} {first.score:.3f} to {row.score:.3f}, {row.difference:+.3f} ({row.ci_low:+.3f} to {row.ci_high:+.3f}), {row.n} queries"
    if row.verdict == Verdict.BETTER:
        said = f"{how} helped: {change}."
    elif row.verdict == Verdict.WORSE:
        said = f"{how} made the order worse, so use the first stage alone: {change}."
    else:
        said = f"{how} made no difference beyond noise: {change}."
    alone = by_ranker[RERANKER] if final == FUSED and RERANKER in by_ranker else None
    if alone is not None and alone.verdict == Verdict.WORSE:
        said += f" Alone it is worse than the first stage ({measure} {alone.score:.3f}): a small cross-encoder often loses to a good bi-encoder."
    return said


def caution(data: PreparedManifest, trained: RerankerManifest | None, split: RankingSplit) -> str:
    """What makes the figures of a split flatter than those on new questions; empty for nothing that is known.

    Args:
        trained: the manifest of the reranker; None if it was trained elsewhere.
    """
    if trained is None:
        return ""
    if trained.data_splits.get(RankingSplit.TRAIN) != data.split_hashes[RankingSplit.TRAIN]:
        return "Caution: the reranker was trained on other data or another split, so it may have learnt these questions."
    if split is RankingSplit.VALIDATION:
        return "Caution: the weights were chosen and fused on these validation questions, so new ones will do worse."
    return "Caution: the reranker was trained on these questions." if split is RankingSplit.TRAIN else ""


def evaluate(
    run: Run[RankingEvaluationManifest],
    data: PreparedData,
    spec: EvaluationSpec,
    config: Settings,
    weights: str,
    run_file: Path | None,
) -> RankingEvaluationManifest:
    """Measure, and write the table, the chart and the TREC runs.

    Args:
        weights: hash of the reranker's weights, or of the run file.
        run_file: a TREC run made elsewhere, measured in place of the reranker.
    """
    measured = rank_all(data, spec)
    if run_file is not None:
        given = {query: ranking[: spec.depth] for query, ranking in read_run(run_file).items()}  # as deep as the first stage
        measured = measured.with_run(RERANKER, given, spec.names)
    run.claim()
    return report(run, measured, spec, config, data.manifest.fingerprint, weights)


def report(
    run: Run[RankingEvaluationManifest], measured: Measured, spec: EvaluationSpec, config: Settings, data: str, weights: str
) -> RankingEvaluationManifest:
    """Write what was measured into the run's folder, and print it."""
    rows = compare(measured, spec.names)
    sentence = " ".join(filter(None, [verdict_sentence(rows, measured.final, spec.names[0]), spec.caution]))
    tables.write_rows(run.folder / MeasureRow.FILE, rows, MeasureRow)
    for name, ranking in measured.runs.items():
        write_run(run.folder / RUNS / f"{name}.run", ranking, name)
    with files.atomic_open(run.folder / PER_QUERY) as file:
        tables.write_frame(per_query(measured, spec.names), file)
    plots.measures(run.folder / CHART, rows, IN_WORDS, spec.names)
    manifest = run.manifest(
        config, iteration=1, data=data, weights=weights, split=spec.split, sentence=sentence,
        measures={name: {one: round(scores.mean(one), 6) for one in spec.names} for name, scores in measured.scores.items()},
    )  # fmt: skip
    run.finish(manifest)
    print_result(run.folder, rows, measured, spec.names, sentence)
    return manifest


def per_query(measured: Measured, names: Sequence[str]) -> pd.DataFrame:
    """A row for each query and ranker, with every measure."""
    frames = []
    for ranker, scores in measured.scores.items():
        texts = [measured.judged.queries[name].text for name in scores.query_ids]
        frames.append(
            pd.DataFrame(
                {"query_id": scores.query_ids, "query": texts, "ranker": ranker, **{one: scores.values[one] for one in names}}
            )
        )
    return pd.concat(frames, ignore_index=True)


def print_result(folder: Path, rows: Sequence[MeasureRow], measured: Measured, names: Sequence[str], sentence: str) -> None:
    by_ranker: dict[str, dict[str, MeasureRow]] = {}
    for row in rows:
        by_ranker.setdefault(row.ranker, {})[row.measure] = row
    marks = {Verdict.BETTER: "+", Verdict.WORSE: "-"}
    cells = [[IN_WORDS.get(ranker, ranker), *(f"{found[name].score:.3f}{marks.get(Verdict(found[name].verdict), ' ')}" for name in names)]
             for ranker, found in by_ranker.items()]  # fmt: skip
    console.print_table(["ranker", *(f"{name} " for name in names)], cells)
    print(f"  {rows[0].n} queries; + better and - worse than the first stage beyond noise (paired, Holm)")
    if measured.truncated:
        print(f"  {measured.truncated:,} of {measured.pairs:,} pairs are longer than the reranker's input and were cut")
    print(f"{folder / MeasureRow.FILE}, {folder / CHART}; {folder / RUNS} holds the TREC runs")
    print(sentence)
