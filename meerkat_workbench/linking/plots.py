"""Charts of the linker: reliability, and accuracy of each ranker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from meerkat_workbench.linking.artifacts import AccuracyRow
from meerkat_workbench.output import plots
from meerkat_workbench.stats.calibration import ReliabilityBin


def reliability(path: Path, panels: Mapping[str, Sequence[ReliabilityBin]]) -> None:
    """A panel for each set of probabilities: how often links of about equal probability are right. The area of a dot is their number."""
    plt = plots.pyplot()
    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 4.6), squeeze=False, constrained_layout=True)
    for axis, (name, bins) in zip(axes[0], panels.items(), strict=True):
        axis.plot([0, 1], [0, 1], color=plots.FAINT, linewidth=1)
        most = max((one.n for one in bins), default=1)
        axis.scatter([one.said for one in bins], [one.happened for one in bins], s=[20 + 280 * one.n / most for one in bins],
                     color=plots.TUNED, alpha=0.8, linewidth=0)  # fmt: skip
        for one in bins:
            axis.annotate(f"{one.n:,}", (one.said, one.happened), textcoords="offset points", xytext=(0, -16), ha="center", fontsize=7,
                          color=plots.FAINT)  # fmt: skip
        axis.set_title(f"{name}, {sum(one.n for one in bins):,} links", fontsize=9, loc="left")
        axis.set_xlabel("probability of the link", fontsize=9)
        axis.set_xlim(-0.03, 1.03)
        axis.set_ylim(-0.06, 1.06)
        plots.tidy(axis)
        axis.grid(color=plots.GRID)
        axis.set_axisbelow(True)
    axes[0][0].set_ylabel("fraction that is right", fontsize=9)
    figure.savefig(path, dpi=plots.DPI)
    plt.close(figure)


def accuracy(path: Path, rows: Sequence[AccuracyRow], in_words: Mapping[str, str]) -> None:
    """Accuracy@1 of each ranker with its interval, on all, seen and unseen concepts, with training names, strictly counted."""
    plt = plots.pyplot()
    shown = [row for row in rows if row.protocol == "strict" and row.training_names and row.n]
    groups, rankers = list(dict.fromkeys(row.mentions for row in shown)), list(dict.fromkeys(row.ranker for row in shown))[::-1]
    figure, axes = plt.subplots(1, len(groups), figsize=(3.6 * len(groups) + 1.6, 0.9 + 0.42 * len(rankers)), squeeze=False, sharey=True,
                                constrained_layout=True)  # fmt: skip
    for axis, group in zip(axes[0], groups, strict=True):
        for row in shown:
            if row.mentions == group and row.n:
                place = rankers.index(row.ranker)
                spread = [[row.accuracy - row.low], [row.high - row.accuracy]]
                axis.errorbar(row.accuracy, place, xerr=spread, fmt="o", color=plots.TUNED, markersize=5)
        n = next((row.n for row in shown if row.mentions == group), 0)
        axis.set_title(f"{group} concepts, {n:,} mentions", fontsize=9, loc="left")
        axis.set_yticks(range(len(rankers)), [in_words.get(one, one) for one in rankers], fontsize=9)
        axis.set_ylim(-0.6, len(rankers) - 0.4)
        axis.set_xlabel("accuracy@1, 95% interval", fontsize=9)
        plots.tidy(axis)
        axis.grid(color=plots.GRID)
        axis.set_axisbelow(True)
    figure.savefig(path, dpi=plots.DPI)
    plt.close(figure)
