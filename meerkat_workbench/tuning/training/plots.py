"""Plots the curves of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from meerkat_workbench.output import plots
from meerkat_workbench.tuning.artifacts import EvalPoint


def draw(path: Path, log: Sequence[Mapping[str, float]], history: Sequence[EvalPoint], kept_step: int) -> None:
    """Plot loss, token accuracy and (if answers were sampled) their scores against optimizer steps.

    Args:
        log: the log of transformers; its entries with a loss are plotted.
        kept_step: the step whose weights were kept; a vertical line marks it.
    """
    plt = plots.pyplot()
    sampled = [point for point in history if point.rouge_l is not None]
    panels = 3 if sampled else 2
    figure, axes = plt.subplots(1, panels, figsize=(5.2 * panels, 4), constrained_layout=True)
    training = [(row["step"], row["loss"]) for row in log if "loss" in row]
    steps = [point.step for point in history]
    if training:
        axes[0].plot(*zip(*training, strict=True), color=plots.FAINT, linewidth=1.2, label="training loss")
    axes[0].plot(steps, [point.loss for point in history], "o-", color=plots.TUNED, label="eval loss")
    axes[1].plot(steps, [point.token_accuracy for point in history], "o-", color=plots.TUNED, label="eval token accuracy")
    specialty_losses = [sorted(summary.loss for summary in point.specialties.values()) for point in history]
    if specialty_losses and len(specialty_losses[0]) > 3:
        low = [losses[len(losses) // 10] for losses in specialty_losses]
        high = [losses[-1 - len(losses) // 10] for losses in specialty_losses]
        axes[0].fill_between(steps, low, high, color=plots.TUNED, alpha=0.15, label="middle 80% of specialties")
    if sampled:
        sampled_steps = [point.step for point in sampled]
        axes[2].plot(sampled_steps, [point.rouge_l for point in sampled], "o-", color=plots.TUNED, label="ROUGE-L")
        axes[2].plot(sampled_steps, [point.bertscore_f1 for point in sampled], "o-", color=plots.BETTER, label="bertscore_f1")
        axes[2].set_ylabel(f"score of {len(sampled[0].answers)} sample answers")
    axes[0].set_ylabel("loss, nats per token")
    axes[1].set_ylabel("token accuracy")
    for axis in axes:
        axis.axvline(kept_step, color=plots.WORSE, linestyle=":", linewidth=1.2, label=f"kept: step {kept_step}")
        axis.set_xlabel("optimizer step")
        plots.tidy(axis)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
