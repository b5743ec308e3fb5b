"""Evaluates the eval split during training: loss, perplexity and token accuracy, overall and by specialty, and sample answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from meerkat_workbench.core import console
from meerkat_workbench.trainers.token_budget import NotFiniteError, TokenBudgetTrainer
from meerkat_workbench.tuning.artifacts import EvalPoint, LossSummary, SampleAnswer
from meerkat_workbench.tuning.training.examples import Example

BestMetric = Literal["loss", "token_accuracy", "ROUGE-L", "bertscore_f1"]
SAMPLED_METRICS: tuple[BestMetric, ...] = ("ROUGE-L", "bertscore_f1")


@dataclass(frozen=True)
class SampleScores:
    """Mean ROUGE-L and BERTScore of a model's answers to a few eval questions, and the answers."""

    rouge_l: float
    bertscore_f1: float
    answers: tuple[SampleAnswer, ...]


@dataclass(frozen=True)
class ExampleLoss:
    """One eval example: its loss in nats, its supervised tokens, and how many of them are correct."""

    id: str
    specialty: str
    nats: float
    tokens: int
    correct: int


def metric_value(point: EvalPoint, metric: BestMetric) -> float:
    """The value of a metric in an evaluation; NaN if it was not measured."""
    values = {
        "loss": point.loss,
        "token_accuracy": point.token_accuracy,
        "ROUGE-L": point.rouge_l,
        "bertscore_f1": point.bertscore_f1,
    }
    value = values[metric]
    return math.nan if value is None else value


class LossEvaluator:
    """Evaluates a trainer's model on the eval split (see `trainers.evaluator.Evaluator`).

    Args:
        metric: the metric that decides which weights are kept.
        sample: scores a model's sample answers; called in one process, or in lockstep in all of them. None for no sample answers.
    """

    kind = EvalPoint

    def __init__(
        self, examples: Sequence[Example], metric: BestMetric, sample: Callable[[Any], SampleScores] | None = None
    ) -> None:
        self.examples, self.metric, self.sample = sorted(examples, key=lambda example: example.id), metric, sample
        self.primary_metric: str = metric
        self.greater_is_better = metric != "loss"

    def primary(self, evaluation: EvalPoint) -> float:
        return metric_value(evaluation, self.metric)

    def logged(self, evaluation: EvalPoint) -> dict[str, float]:
        metrics = {"loss": evaluation.loss, "perplexity": evaluation.perplexity, "token_accuracy": evaluation.token_accuracy}
        if evaluation.rouge_l is not None and evaluation.bertscore_f1 is not None:
            metrics |= {"ROUGE-L": evaluation.rouge_l, "bertscore_f1": evaluation.bertscore_f1}
        return metrics

    def evaluate(self, trainer: TokenBudgetTrainer[Example]) -> EvalPoint:
        losses = self.measure(trainer)
        overall = summarise(losses)
        if not math.isfinite(overall.loss):
            raise NotFiniteError("eval loss", trainer.state.global_step)
        names = sorted({loss.specialty for loss in losses})
        sampled = self._sampled(trainer)
        return EvalPoint(
            step=trainer.state.global_step, epoch=round(trainer.state.epoch or 0.0, 4), examples=overall.examples,
            tokens=overall.tokens, loss=overall.loss, perplexity=overall.perplexity, token_accuracy=overall.token_accuracy,
            rouge_l=sampled.rouge_l if sampled else None, bertscore_f1=sampled.bertscore_f1 if sampled else None,
            answers=sampled.answers if sampled else (),
            specialties={name: summarise([loss for loss in losses if loss.specialty == name]) for name in names},
        )  # fmt: skip

    @torch.no_grad()
    def measure(self, trainer: TokenBudgetTrainer[Example]) -> list[ExampleLoss]:
        """Measure the loss of each eval example; the processes share the work, and all of them get the whole list."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        # examples are divided among processes before they are cut into micro-batches: token budgets may differ between devices
        own = self.examples[trainer.accelerator.process_index :: trainer.accelerator.num_processes]
        measured: list[ExampleLoss] = []
        with in_eval_mode(model), console.Progress("eval loss", len(own), "examples") as progress:
            for group, losses in trainer.token_losses(own):
                for index, example in enumerate(group):
                    of_example = losses.example == index
                    nats, correct = float(losses.nats[of_example].sum()), int(losses.correct[of_example].sum())
                    measured.append(ExampleLoss(example.id, example.specialty, nats, int(of_example.sum()), correct))
                progress.advance(len(group))
        if trainer.accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            measured = gather_object(measured)
        return sorted(measured, key=lambda loss: loss.id)

    def _sampled(self, trainer: TokenBudgetTrainer[Example]) -> SampleScores | None:
        """Scores of sample answers, which one process makes, or all of them in lockstep; every process gets them."""
        if self.sample is None:
            return None
        scores: list[SampleScores | None] = [None]
        if trainer.accelerator.is_main_process or trainer.lockstep:
            model = trainer.accelerator.unwrap_model(trainer.model)
            with in_eval_mode(model):
                scores = [self.sample(model)]
        if trainer.accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(scores)
        return scores[0]


class in_eval_mode:  # noqa: N801  reads as a statement
    """A context in which a model is in eval mode; afterwards its former mode is restored."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.was_training = model, model.training

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        if self.was_training:
            self.model.train()


def summarise(losses: Sequence[ExampleLoss]) -> LossSummary:
    """Token-weighted loss, perplexity and token accuracy of examples."""
    tokens = sum(loss.tokens for loss in losses)
    mean = sum(loss.nats for loss in losses) / tokens
    return LossSummary(
        examples=len(losses),
        tokens=tokens,
        loss=round(mean, 6),
        perplexity=round(math.exp(min(mean, 50)), 4),
        token_accuracy=round(sum(loss.correct for loss in losses) / tokens, 6),
    )


def describe_evaluation(metrics: dict[str, float]) -> str:
    """An evaluation's logged metrics as text."""
    text = (
        f"eval loss {metrics['eval_loss']:.4f}, perplexity {metrics['eval_perplexity']:.2f}, "
        f"token accuracy {metrics['eval_token_accuracy']:.3f}"
    )
    if "eval_ROUGE-L" in metrics:
        text += f", sample ROUGE-L {metrics['eval_ROUGE-L']:.3f}, BERTScore {metrics['eval_bertscore_f1']:.3f}"
    return text
