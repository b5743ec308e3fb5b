"""Training a reranker: from the prepared pairs to the best weights, fused with the first stage."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from meerkat_workbench.core import artifacts, files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import Run
from meerkat_workbench.core.settings import Settings
from meerkat_workbench.device import devices, hub
from meerkat_workbench.reranking import candidates as candidate_lists
from meerkat_workbench.reranking import corpus_index, evaluator
from meerkat_workbench.reranking.artifacts import MODEL, RankingPoint, RerankerManifest
from meerkat_workbench.reranking.candidates import FUSED, Candidates
from meerkat_workbench.reranking.evaluator import RankingEvaluator
from meerkat_workbench.reranking.prepared import PreparedData
from meerkat_workbench.reranking.splits import RankingSplit
from meerkat_workbench.retrieval import cross_encoder as scoring
from meerkat_workbench.retrieval import measures
from meerkat_workbench.retrieval.documents import JudgedQueries
from meerkat_workbench.retrieval.fusion import Fusions
from meerkat_workbench.retrieval.index import FirstStageKind
from meerkat_workbench.retrieval.pipeline import RERANKER
from meerkat_workbench.trainers.best_checkpoint import BEST_EVALUATION, BEST_FOLDER
from meerkat_workbench.trainers.cross_encoder import run as cross_encoder_run
from meerkat_workbench.trainers.cross_encoder.losses import training_rows
from meerkat_workbench.trainers.cross_encoder.recipe import CrossEncoderRecipe
from meerkat_workbench.trainers.cross_encoder.run import Trained

GRADED = ("mse", "margin-mse", "lambda", "ranknet")  # losses that take grades as they are


@dataclass(frozen=True)
class TrainingSpec:
    """What is trained, and how it is measured.

    Attributes:
        measures: the first decides which weights are kept.
        eval_queries: validation queries that each evaluation ranks; 0 for all.
        depth: candidates of a query.
        patience: evaluations without a new best after which training ends; 0 for no early end.
    """

    recipe: CrossEncoderRecipe
    measures: Sequence[str]
    first_stage: FirstStageKind
    encoder: str
    eval_queries: int
    depth: int
    patience: int
    fusion: bool


def train(
    run: Run[RerankerManifest], data: PreparedData, spec: TrainingSpec, config: Settings, trackers: Sequence[str]
) -> RerankerManifest:
    """Train from the last complete checkpoint, and keep the best weights with their fusion in `model`."""
    groups = data.groups(graded=spec.recipe.loss in GRADED)
    rows = Dataset.from_list(list(training_rows(groups, spec.recipe)))
    if not len(rows):
        raise UserError("has no pairs that this loss can learn from", where=data.folder, item=f"LOSS={spec.recipe.loss}",
                        remedy="Choose another loss, or more negatives.")  # fmt: skip
    # one process makes the index of the corpus, and the others find it in the cache
    run.ranks.agree(lambda: validation_candidates(data, spec.first_stage, spec.encoder, 1, 1) and None)
    validation = validation_candidates(data, spec.first_stage, spec.encoder, spec.eval_queries, spec.depth)
    run.claim()
    trained = cross_encoder_run.train(
        run, rows, spec.recipe, RankingEvaluator(*validation, spec.measures), patience=spec.patience, dataset=data.manifest.fingerprint,
        describe=evaluator.describe, trackers=trackers, config=config,
    )  # fmt: skip
    return run.ranks.agree(lambda: _finish(run, data, spec, config, trained, validation))


def validation_candidates(
    data: PreparedData, first_stage: FirstStageKind, encoder: str, queries: int, depth: int
) -> tuple[list[Candidates], JudgedQueries]:
    """The candidates of the validation queries, and the queries.

    Args:
        queries: how many; the same ones each time. 0 for all.
        depth: candidates of each.
    """
    judged = data.judged(RankingSplit.VALIDATION)
    names = sorted(judged.queries, key=files.sha256_of)[: queries or None]
    judged = judged.of(names)
    if not names:
        raise UserError("has no validation queries", where=data.folder, remedy="Prepare it with VALIDATION_SHARE above 0.")
    index = corpus_index.of(judged.documents.values(), first_stage, encoder)
    return candidate_lists.of_first_stage(judged, index, depth), judged


def _finish(
    run: Run[RerankerManifest], data: PreparedData, spec: TrainingSpec, config: Settings, trained: Trained[RankingPoint],
    validation: tuple[list[Candidates], JudgedQueries],
) -> RerankerManifest:  # fmt: skip
    model_folder, best_folder = run.folder / MODEL, run.folder / BEST_FOLDER
    files.remove(model_folder)
    shutil.copytree(best_folder, model_folder)  # a copy, because a kill until the manifest is written comes back to here
    (model_folder / BEST_EVALUATION).unlink()
    fused: dict[str, float] = {}
    if spec.fusion:
        fusions, fused = learn_fusions(model_folder, *validation, spec.measures)
        artifacts.write(model_folder / Fusions.FILE, fusions)
    manifest = run.manifest(
        config, iteration=1, device=devices.describe(), data=data.manifest.fingerprint, data_splits=data.manifest.split_hashes,
        base_weights=hub.weights_hash(hub.locate_encoder(spec.recipe.base, "")), weights=scoring.identity(model_folder),
        kept=trained.kept, before=trained.before, fused=fused, steps=trained.steps, processes=run.ranks.count,
    )  # fmt: skip
    run.finish(manifest)
    cross_encoder_run.remove_working_files(run.folder)
    return manifest


def learn_fusions(
    model_folder: Path, found: Sequence[Candidates], judged: JudgedQueries, names: Sequence[str]
) -> tuple[Fusions, dict[str, float]]:
    """Fusions of the logit with each set of the first stage's rankers, learnt on the validation queries, and the measures there of the
    fusion with all of them."""
    scored = candidate_lists.rerank(found, judged, scoring.load(str(model_folder)), what="fusing with the first stage")
    rankers = scored[0].first_stage_rankers
    sets = [list(chosen) for count in range(1, len(rankers) + 1) for chosen in itertools.combinations(rankers, count)]
    fusions = Fusions(fusions=[candidate_lists.fit_fusion(scored, [*chosen, RERANKER]) for chosen in sets])
    run = candidate_lists.run_of(candidate_lists.fuse(scored, fusions.fusions[-1], FUSED), FUSED)
    scores = measures.score(run, judged.of(one.query_id for one in scored), names)
    return fusions, {name: round(scores.mean(name), 6) for name in names}
