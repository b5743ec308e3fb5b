"""The picture of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

BLUE, GREEN, KEPT = "#1f5f99", "#2f7d4f", "#b3541e"


def draw(path: Path, log: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]], kept_step: int) -> None:
    """Loss, token accuracy and, where answers were sampled, their scores against optimizer steps.

    A line marks the adapter that was kept.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sampled = [row for row in evaluations if "ROUGE-L" in row]
    panels = 3 if sampled else 2
    figure, axes = plt.subplots(1, panels, figsize=(5.2 * panels, 4), constrained_layout=True)
    training = [(row["step"], row["loss"]) for row in log if "loss" in row]
    steps = [row["step"] for row in evaluations]
    if training:
        axes[0].plot(*zip(*training, strict=True), color="0.6", linewidth=1.2, label="training loss")
    axes[0].plot(steps, [row["loss"] for row in evaluations], "o-", color=BLUE, label="eval loss")
    axes[1].plot(steps, [row["token_accuracy"] for row in evaluations], "o-", color=BLUE, label="eval token accuracy")
    spread = [sorted(s["loss"] for s in row["specialties"].values()) for row in evaluations]
    if spread and len(spread[0]) > 3:
        low = [values[len(values) // 10] for values in spread]
        high = [values[-1 - len(values) // 10] for values in spread]
        axes[0].fill_between(steps, low, high, color=BLUE, alpha=0.15, label="middle 80% of specialties")
    if sampled:
        asked = len(sampled[0]["answers"])
        for name, colour in (("ROUGE-L", BLUE), ("bertscore_f1", GREEN)):
            axes[2].plot([row["step"] for row in sampled], [row[name] for row in sampled], "o-", color=colour, label=name)
        axes[2].set_ylabel(f"score of {asked} sample answers")
    axes[0].set_ylabel("loss, nats a token")
    axes[1].set_ylabel("token accuracy")
    for axis in axes:
        axis.axvline(kept_step, color=KEPT, linestyle=":", linewidth=1.2, label=f"kept: step {kept_step}")
        axis.set_xlabel("optimizer step")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
