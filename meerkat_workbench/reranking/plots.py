"""The chart of an evaluation: what each ranker gains over the first stage, by measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from meerkat_workbench.output import plots
from meerkat_workbench.reranking.artifacts import MeasureRow
from meerkat_workbench.stats.verdicts import Verdict

COLOURS = {Verdict.BETTER: plots.BETTER, Verdict.WORSE: plots.WORSE}


def measures(path: Path, rows: Sequence[MeasureRow], in_words: Mapping[str, str], names: Sequence[str]) -> None:
    """Score of each ranker with its interval on the left, and the paired difference from the first stage on the right, for each measure."""
    plt = plots.pyplot()
    rankers = list(dict.fromkeys(row.ranker for row in rows))[::-1]
    figure, axes = plt.subplots(len(names), 2, figsize=(10, 0.7 + len(names) * (0.55 + 0.26 * len(rankers))), squeeze=False,
                                sharey=True, constrained_layout=True)  # fmt: skip
    for (left, right), name in zip(axes, names, strict=True):
        for row in rows:
            if row.measure != name:
                continue
            place, colour = rankers.index(row.ranker), COLOURS.get(Verdict(row.verdict), plots.NEUTRAL)
            left.errorbar(
                row.score, place, xerr=[[row.score - row.low], [row.high - row.score]], fmt="o", color=plots.TUNED, markersize=5
            )
            if row.difference == row.difference:
                spread = [[row.difference - row.ci_low], [row.ci_high - row.difference]]
                right.errorbar(row.difference, place, xerr=spread, fmt="o", color=colour, markersize=5)
        left.set_title(f"{name}, 95% interval", fontsize=9, loc="left")
        right.set_title(f"{name} minus first stage, paired", fontsize=9, loc="left")
        right.axvline(0, color=plots.FAINT, linewidth=0.8)
        left.set_yticks(range(len(rankers)), [in_words.get(one, one) for one in rankers], fontsize=9)
        left.set_ylim(-0.6, len(rankers) - 0.4)
        for axis in (left, right):
            plots.tidy(axis)
            axis.grid(axis="y", color=plots.GRID)
            axis.set_axisbelow(True)
    figure.savefig(path, dpi=plots.DPI)
    plt.close(figure)
