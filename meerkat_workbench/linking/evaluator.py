"""Measures a cross-encoder on the validation mentions while it is trained, beside the first stage."""

from __future__ import annotations

from typing import Any

import numpy as np

from meerkat_workbench.concepts import linker
from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.linking import scoring
from meerkat_workbench.linking.artifacts import LinkingPoint
from meerkat_workbench.linking.scoring import GoldMentions
from meerkat_workbench.stats import binary
from meerkat_workbench.trainers.cross_encoder.trainer import scorer_of


class LinkingEvaluator:
    """Scores the first candidates of the validation mentions; implements `trainers.evaluator.Evaluator`.

    Args:
        mentions: with their first candidates.
        first_stage: its accuracy@1 on these mentions.
    """

    kind = LinkingPoint
    greater_is_better = True
    primary_metric = "accuracy@1"

    def __init__(self, mentions: GoldMentions, words: Vocabulary, first_stage: float) -> None:
        self.mentions, self.words = mentions, words
        self.right = mentions.right()
        self.first_stage = first_stage

    def evaluate(self, trainer: Any) -> LinkingPoint:
        """Every process scores the same mentions, so that all have the same record without exchanging it."""
        with scorer_of(trainer) as scorer:
            of_mentions = linker.cross_encoder_logits(self.mentions.found, scorer, self.words, "validation")
        logits, right = np.concatenate(of_mentions), np.concatenate(self.right)
        hit = scoring.hits(of_mentions, self.right)
        return LinkingPoint(
            step=trainer.state.global_step, epoch=round(trainer.state.epoch or 0.0, 4), mentions=len(hit), pairs=len(logits),
            loss=binary.cross_entropy(logits, right), auroc=binary.auroc(logits, right), f1=binary.f1(logits, right),
            accuracy=round(float(hit.mean()), 6), first_stage=self.first_stage,
        )  # fmt: skip

    def primary(self, evaluation: LinkingPoint) -> float:
        return evaluation.accuracy

    def logged(self, evaluation: LinkingPoint) -> dict[str, float]:
        auroc = {} if evaluation.auroc is None else {"auroc": evaluation.auroc}
        return {"loss": evaluation.loss, **auroc, "f1": evaluation.f1, "accuracy@1": evaluation.accuracy,
                "first_stage/accuracy@1": evaluation.first_stage}  # fmt: skip


def describe(logged: dict[str, float]) -> str:
    """One evaluation in words."""
    values = {name.removeprefix("eval_"): value for name, value in logged.items()}
    auroc = [f"AUROC {values['auroc']:.3f}"] if "auroc" in values else []
    return ", ".join([f"loss {values['loss']:.3f}", *auroc,
                      f"accuracy@1 {values['accuracy@1']:.3f} (first stage {values['first_stage/accuracy@1']:.3f})"])  # fmt: skip
