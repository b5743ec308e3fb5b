"""Measures a cross-encoder on the validation queries while it is trained, beside the first stage alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from meerkat_workbench.reranking import candidates as candidate_lists
from meerkat_workbench.reranking.artifacts import RankingPoint
from meerkat_workbench.reranking.candidates import FIRST_STAGE, Candidates
from meerkat_workbench.retrieval import measures
from meerkat_workbench.retrieval.documents import JudgedQueries
from meerkat_workbench.retrieval.pipeline import RERANKER
from meerkat_workbench.stats import binary
from meerkat_workbench.trainers.cross_encoder.trainer import scorer_of


class RankingEvaluator:
    """Scores the candidates of the validation queries; implements `trainers.evaluator.Evaluator`.

    Args:
        candidates: of the validation queries, with the first stage's scores.
        names: ranking measures; the first decides which weights are kept.
    """

    kind = RankingPoint
    greater_is_better = True

    def __init__(self, candidates: Sequence[Candidates], judged: JudgedQueries, names: Sequence[str]) -> None:
        self.candidates, self.judged, self.names = list(candidates), judged.of(one.query_id for one in candidates), names
        self.primary_metric = names[0]
        self.first_stage = self.measures(self.candidates, FIRST_STAGE)
        self.scored: list[Candidates] = []  # of the last evaluation

    def measures(self, candidates: Sequence[Candidates], ranker: str) -> dict[str, float]:
        """The means of a ranker's measures."""
        scores = measures.score(candidate_lists.run_of(candidates, ranker), self.judged, self.names)
        return {name: round(scores.mean(name), 6) for name in self.names}

    def evaluate(self, trainer: Any) -> RankingPoint:
        """Every process scores the same candidates, so that all have the same record without exchanging it."""
        with scorer_of(trainer) as scorer:
            self.scored = candidate_lists.rerank(self.candidates, self.judged, scorer, what="validation")
        logits = np.concatenate([one.scores[RERANKER] for one in self.scored])
        relevant = np.concatenate([one.relevant for one in self.scored])
        return RankingPoint(
            step=trainer.state.global_step, epoch=round(trainer.state.epoch or 0.0, 4), queries=len(self.scored), pairs=len(logits),
            loss=binary.cross_entropy(logits, relevant), auroc=binary.auroc(logits, relevant), f1=binary.f1(logits, relevant),
            measures=self.measures(self.scored, RERANKER), first_stage=self.first_stage,
        )  # fmt: skip

    def primary(self, evaluation: RankingPoint) -> float:
        return evaluation.measures[self.primary_metric]

    def logged(self, evaluation: RankingPoint) -> dict[str, float]:
        beside = {f"first_stage/{name}": value for name, value in evaluation.first_stage.items()}
        auroc = {} if evaluation.auroc is None else {"auroc": evaluation.auroc}
        return {"loss": evaluation.loss, **auroc, "f1": evaluation.f1, **evaluation.measures, **beside}


def describe(logged: dict[str, float]) -> str:
    """One evaluation in words: "loss 0.512, AUROC 0.811, nDCG@10 0.643 (first stage 0.671)"."""
    values = {name.removeprefix("eval_"): value for name, value in logged.items()}
    ranked = [f"{name} {value:.3f} (first stage {values[f'first_stage/{name}']:.3f})"
              for name, value in values.items() if f"first_stage/{name}" in values]  # fmt: skip
    auroc = [f"AUROC {values['auroc']:.3f}"] if "auroc" in values else []
    return ", ".join([f"loss {values['loss']:.3f}", *auroc, *ranked])
