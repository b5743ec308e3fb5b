"""The picture of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw(path: Path, log: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]], best_step: int) -> None:
    """Training and eval loss, and token accuracy, against optimizer steps; a line marks the adapter that was kept."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    training = [(row["step"], row["loss"]) for row in log if "loss" in row]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    left.plot(*zip(*training, strict=True), color="0.6", linewidth=1.2, label="training loss") if training else None
    steps = [row["step"] for row in evaluations]
    left.plot(steps, [row["loss"] for row in evaluations], "o-", color="#1f5f99", label="eval loss")
    right.plot(steps, [row["token_accuracy"] for row in evaluations], "o-", color="#1f5f99", label="eval token accuracy")
    spread = [sorted(s["loss"] for s in row["specialties"].values()) for row in evaluations]
    if spread and len(spread[0]) > 3:
        low = [values[len(values) // 10] for values in spread]
        high = [values[-1 - len(values) // 10] for values in spread]
        left.fill_between(steps, low, high, color="#1f5f99", alpha=0.15, label="middle 80% of specialties")
    for axis, label in ((left, "loss, nats a token"), (right, "token accuracy")):
        axis.axvline(best_step, color="#b3541e", linestyle=":", linewidth=1.2, label=f"kept: step {best_step}")
        axis.set(xlabel="optimizer step", ylabel=label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
