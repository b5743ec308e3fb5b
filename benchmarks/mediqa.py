#!/usr/bin/env python3
"""Does the reranker improve the order of real medical answers? Cross-validated by question on MEDIQA 2019 task 3.

The 233 training and validation questions are divided into folds by group: questions that share an answer, or say nearly the same, stay together.
For each fold a cross-encoder is trained on the other folds; its logits on the held-out fold are then fused with the first stage. The
weights of the fusion are learnt on the held-out logits of the other folds. Every figure is over all questions that have a relevant answer.

    python benchmarks/mediqa.py --data ../shared/data/mediqa --base FOLDER_OF_A_TRAINED_RERANKER
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import side_by_side
from datasets import Dataset

from meerkat_workbench.core import files
from meerkat_workbench.device import hub
from meerkat_workbench.reranking import candidates as lists
from meerkat_workbench.reranking import corpus_index, splits
from meerkat_workbench.reranking.candidates import FIRST_STAGE, SYSTEM, Candidates
from meerkat_workbench.reranking.loaders import mediqa
from meerkat_workbench.retrieval import measures
from meerkat_workbench.retrieval.cross_encoder import TorchCrossEncoder
from meerkat_workbench.retrieval.documents import JudgedQueries
from meerkat_workbench.retrieval.index import BM25, DENSE
from meerkat_workbench.retrieval.pipeline import RERANKER
from meerkat_workbench.stats import significance
from meerkat_workbench.trainers.cross_encoder.losses import training_rows
from meerkat_workbench.trainers.cross_encoder.model import build_model
from meerkat_workbench.trainers.cross_encoder.recipe import LOSSES, CrossEncoderRecipe
from meerkat_workbench.trainers.cross_encoder.trainer import build_trainer
from meerkat_workbench.trainers.pair_groups import Candidate, Group

NAMES = ("AP", "P@1", "RR@10", "nDCG@10")
TOP = 3  # the largest relevance: grade 4 of 4
LINEAR, FUSED, FUSED_ZERO = "fused, weights learnt", "fused with the trained cross-encoder", "fused with the base"
ZERO = "base without training here"


def group_of(one: Candidates, judged: JudgedQueries, *, graded: bool) -> Group:
    labels = one.relevance / TOP if graded else one.relevant.astype(float)
    return Group(judged.queries[one.query_id].text, [Candidate(judged.documents[name].content, float(label))
                                                     for name, label in zip(one.document_ids, labels, strict=True)])  # fmt: skip


def stacked(found: Sequence[Candidates], fold_of: dict[str, int], features: Sequence[str], name: str) -> list[Candidates]:
    """The fused scores of each fold, by weights that were learnt on the others."""
    fused: dict[str, Candidates] = {}
    for fold in sorted(set(fold_of.values())):
        weights = lists.fit_fusion([one for one in found if fold_of[one.query_id] != fold], features)
        print(
            f"  fold {fold}: "
            + ", ".join(f"{feature} {weight:+.2f}" for feature, weight in zip(features, weights.weights, strict=True))
        )
        fused |= {one.query_id: one for one in lists.fuse([one for one in found if fold_of[one.query_id] == fold], weights, name)}
    return [fused[one.query_id] for one in found]


def train_fold(found: Sequence[Candidates], judged: JudgedQueries, recipe: CrossEncoderRecipe) -> TorchCrossEncoder:
    graded = recipe.loss in ("lambda", "ranknet", "mse", "margin-mse")
    rows = Dataset.from_list(list(training_rows([group_of(one, judged, graded=graded) for one in found], recipe)))
    model = build_model(recipe)
    build_trainer(model, rows, recipe, None, files.cache_folder() / "mediqa", lambda _: "").train()
    return TorchCrossEncoder(model)


def print_table(found: Sequence[Candidates], judged: JudgedQueries) -> None:
    rankers = [
        name for name in (SYSTEM, BM25, DENSE, FIRST_STAGE, LINEAR, ZERO, RERANKER, FUSED_ZERO, FUSED) if name in found[0].scores
    ]
    asked = judged.of(one.query_id for one in found)
    scores = {name: measures.score(lists.run_of(found, name), asked, NAMES) for name in rankers}
    print(f"\n{side_by_side.machine()}\n{len(found)} questions\n\n| ranker | {' | '.join(NAMES)} |\n|---|{'---|' * len(NAMES)}")
    for name in rankers:
        print(f"| {name} | {' | '.join(f'{scores[name].mean(one):.3f}' for one in NAMES)} |")
    print("\n| ranker | minus | " + " | ".join(NAMES) + f" |\n|---|---|{'---|' * len(NAMES)}")
    for name in rankers[rankers.index(FIRST_STAGE) + 1 :]:
        for reference in (DENSE, FIRST_STAGE, *([LINEAR] if name in (FUSED, FUSED_ZERO) else [])):
            cells = []
            for one in NAMES:
                found_difference = significance.paired((scores[name].values[one] - scores[reference].values[one]).tolist())
                cells.append(f"{found_difference.mean:+.3f} ({found_difference.low:+.3f} to {found_difference.high:+.3f})")
            print(f"| {name} | {reference} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the MEDIQA XML files")
    parser.add_argument("--base", default="packaged", help="the cross-encoder to start from, or packaged")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each fold, whose logits are averaged")
    parser.add_argument("--loss", default="ranknet", choices=LOSSES)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--batch-size", type=int, default=2, help="rows of a step; a row of ranknet and lambda is a question")
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--no-training", action="store_true", help="first stage, fusion and the base only")
    arguments = parser.parse_args()
    hub.silence_libraries()
    judged = mediqa.read_mediqa(arguments.data)
    groups = splits.group_queries(judged)
    order = sorted(set(groups.values()), key=files.sha256_of)
    fold_of = {name: order.index(group) % arguments.folds for name, group in groups.items()}
    found = lists.of_first_stage(judged, corpus_index.of(judged.documents.values(), "fused", "packaged"), 50)
    found = stacked(found, fold_of, [SYSTEM, BM25, DENSE], LINEAR)
    recipe = CrossEncoderRecipe(
        base=arguments.base, loss=arguments.loss, max_length=arguments.max_length, epochs=arguments.epochs, batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate, logging_steps=1000,
    )  # fmt: skip
    if arguments.base != "packaged":
        scored = lists.rerank(found, judged, TorchCrossEncoder(build_model(recipe)), what="base")
        found = [one.with_scores(ZERO, other.scores[RERANKER]) for one, other in zip(found, scored, strict=True)]
        found = stacked(found, fold_of, [SYSTEM, BM25, DENSE, ZERO], FUSED_ZERO)
    if not arguments.no_training:
        started = time.time()
        logits: dict[str, list[np.ndarray]] = {}
        for fold in range(arguments.folds):
            for seed in range(arguments.seeds):
                model = train_fold([one for one in found if fold_of[one.query_id] != fold], judged, replace(recipe, seed=seed))
                for one in lists.rerank([one for one in found if fold_of[one.query_id] == fold], judged, model):
                    logits.setdefault(one.query_id, []).append(one.scores[RERANKER])
            print(f"  fold {fold}: {time.time() - started:.0f} s so far", flush=True)
        found = [one.with_scores(RERANKER, np.mean(logits[one.query_id], axis=0)) for one in found]
        found = stacked(found, fold_of, [SYSTEM, BM25, DENSE, RERANKER], FUSED)
    print_table(found, judged)


if __name__ == "__main__":
    main()
