"""The static plots of an evaluation: specialties with intervals, metrics with floors, and progress by iteration."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from meerkat_workbench.output import fonts, plots
from meerkat_workbench.output.tables import where
from meerkat_workbench.stats.significance import ALPHA
from meerkat_workbench.tuning.artifacts import HistoryRow, MetricComparison, SpecialtyPerformance, Split, Verdict

PROGRESS_METRICS = ("ROUGE-L", "bertscore_f1", "factual_exact_match", "content_above_floor", "preference_accuracy")
VERDICT_COLOURS = {
    Verdict.BETTER: plots.BETTER,
    Verdict.WORSE: plots.WORSE,
    Verdict.NOISE: plots.NEUTRAL,
    Verdict.NONE: plots.NEUTRAL,
}
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8, "loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3}


def specialty_analysis(path: Path, rows: Sequence[SpecialtyPerformance], supported: Collection[str]) -> str:
    """Forest plot: base and tuned score of each specialty, and their paired difference with its 95% interval.

    Args:
        rows: of one metric and split.
        supported: specialties that are recommended for more data; they are marked.

    Returns:
        A note about letters that no font has; empty if there are none.
    """
    plt = plots.pyplot()
    # the lowest score at the bottom, and below it the specialties without a score
    ordered = sorted(rows, key=lambda row: (row.tuned == row.tuned, row.tuned))
    labels = fonts.labels([row.specialty.replace("_", " ") for row in ordered])
    with plt.rc_context({"font.family": labels.families}):
        height = 1.8 + 0.235 * len(ordered)
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(11, height), sharey=True, width_ratios=(1.15, 1), constrained_layout=True
        )
        _draw_scores(left, ordered, labels.texts, supported)
        _draw_differences(right, ordered)
        for axis in (left, right):
            plots.tidy(axis)
            axis.grid(axis="y", color=plots.GRID)
            axis.set_axisbelow(True)
            axis.set_ylim(-0.8, len(ordered) - 0.2)
            axis.legend(**LEGEND)
        note = f"{ordered[0].split} split; questions in brackets" + ("; ▸ recommended for more data" if supported else "")
        figure.suptitle(f"{ordered[0].metric} by specialty ({note})", fontsize=11)
        figure.savefig(path, dpi=plots.DPI)
        plt.close(figure)
    return labels.note()


def _draw_scores(axis: Any, rows: Sequence[SpecialtyPerformance], labels: Sequence[str], supported: Collection[str]) -> None:
    positions = range(len(rows))
    tuned = [row.tuned for row in rows]
    known = [score for score in tuned if score == score]
    axis.hlines(
        positions, [row.tuned_low for row in rows], [row.tuned_high for row in rows], color=plots.TUNED, alpha=0.35, linewidth=3
    )
    axis.plot([row.base for row in rows], positions, "o", color=plots.BASE, markersize=4.5, label="base")
    if any(row.few_shot == row.few_shot for row in rows):
        axis.plot([row.few_shot for row in rows], positions, "D", color=plots.FEW_SHOT, markersize=4, label="few-shot base")
    axis.plot(tuned, positions, "o", color=plots.TUNED, markersize=5.5, label="tuned, 95% interval")
    if known:
        axis.axvline(sum(known) / len(known), color=plots.TUNED, linestyle=":", linewidth=1, label="mean")
    direction = " (lower is better)" if rows[0].lower_is_better else ""
    axis.set(xlabel=f"{rows[0].metric}{direction}", yticks=list(positions))
    marks = ["▸ " if row.specialty in supported else "" for row in rows]
    axis.set_yticklabels([f"{mark}{label} ({row.n})" for mark, label, row in zip(marks, labels, rows, strict=True)], fontsize=8)


def _draw_differences(axis: Any, rows: Sequence[SpecialtyPerformance]) -> None:
    for position, row in enumerate(rows):
        colour = VERDICT_COLOURS[row.verdict]
        axis.hlines(position, row.ci_low, row.ci_high, color=colour, linewidth=2.2)
        axis.plot(row.difference, position, "o", color=colour, markersize=5)
    for verdict in (Verdict.BETTER, Verdict.WORSE, Verdict.NOISE):
        axis.plot([], [], "o-", color=VERDICT_COLOURS[verdict], label=verdict)
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.set(xlabel=f"tuned minus base, {rows[0].metric}, 95% interval\n(coloured if the adjusted p is at most {ALPHA})")


def model_comparison(path: Path, rows: Sequence[MetricComparison]) -> None:
    """Scores of base and tuned model in each metric with its floor, and their difference with its 95% interval.

    Args:
        rows: of one split.
    """
    plt = plots.pyplot()
    # descriptive metrics are left out, because they have other scales
    shown = [row for row in rows if not row.missing and row.verdict is not Verdict.NONE][::-1]
    positions = range(len(shown))
    height = 1.9 + 0.36 * len(shown)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, height), sharey=True, width_ratios=(1.2, 1), constrained_layout=True)
    few_shot = any(row.few_shot == row.few_shot for row in shown)
    bars = [("base", plots.BASE, [row.base for row in shown]), ("tuned", plots.TUNED, [row.tuned for row in shown])]
    if few_shot:
        bars.insert(1, ("few-shot base", plots.FEW_SHOT, [row.few_shot for row in shown]))
    thick = 0.8 / len(bars)
    for place, (name, colour, values) in enumerate(bars):
        middle = (len(bars) - 1) / 2 - place
        left.barh([position + middle * thick for position in positions], values, 0.92 * thick, color=colour, label=name)
    floors = {"color": "black", "linewidth": 1.4}
    for values, top in (([row.floor_base for row in shown], 0.4), ([row.floor_tuned for row in shown], thick - 0.4)):
        left.vlines(values, [p + top - thick for p in positions], [p + top for p in positions], **floors)
    left.barh([], [], color="black", height=0.01, label="floor: answers shuffled within a specialty")
    left.set(yticks=list(positions), xlabel="mean over questions")
    left.set_yticklabels([f"{row.metric}{' ↓' if row.lower_is_better else ''}" for row in shown])
    for position, row in enumerate(shown):
        colour = VERDICT_COLOURS[row.verdict]
        right.hlines(position, row.ci_low, row.ci_high, color=colour, linewidth=2.4)
        right.plot(row.difference, position, "o", color=colour)
        right.annotate(f"{row.difference:+.3f}", (row.ci_high, position), (6, -3), textcoords="offset points", fontsize=8)
        if few_shot:
            over = VERDICT_COLOURS[row.over_few_shot_verdict]
            right.hlines(position - 0.22, row.over_few_shot_low, row.over_few_shot_high, color=over, linewidth=1.2)
            right.plot(row.over_few_shot, position - 0.22, "D", color=over, markersize=4, markerfacecolor="white")
    right.axvline(0, color="0.3", linewidth=0.8)
    hollow = "; hollow: minus few-shot base" if few_shot else ""
    right.set(xlabel=f"tuned minus base, 95% interval{hollow}")
    right.margins(x=0.18)
    for axis in (left, right):
        plots.tidy(axis)
    left.legend(**LEGEND)
    missing = [row.metric for row in rows if row.missing]
    title = f"Base and tuned model, {rows[0].split} split, {max((row.n for row in shown), default=0)} questions"
    figure.suptitle(title + (f" (missing: {', '.join(missing)})" if missing else ""), fontsize=11)
    figure.savefig(path, dpi=plots.DPI)
    plt.close(figure)


def progress(path: Path, history: Sequence[HistoryRow], steering: str) -> None:
    """Scores of base and tuned model by iteration, a panel for each metric; the tuned model has its 95% interval.

    Args:
        steering: the steering metric, in the first panel.
    """
    plt = plots.pyplot()
    shown = where(history, split=Split.HOLDOUT) or list(history)
    present = {row.metric for row in shown}
    names = [steering, *(name for name in PROGRESS_METRICS if name in present and name != steering)]
    figure, axes = plt.subplots(1, len(names), figsize=(3.1 * len(names), 3.1), constrained_layout=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        rows = sorted(where(shown, metric=name), key=lambda row: (row.iteration, row.finished))
        positions = range(len(rows))  # two evaluations of one iteration are drawn side by side
        error = ([row.tuned - row.tuned_low for row in rows], [row.tuned_high - row.tuned for row in rows])
        axis.plot(positions, [row.base for row in rows], "o--", color=plots.BASE, markersize=4, label="base")
        axis.errorbar(positions, [row.tuned for row in rows], yerr=error, fmt="o-", color=plots.TUNED, markersize=5, capsize=3,
                      label="tuned, 95% interval")  # fmt: skip
        axis.set(title=name, xlabel="iteration", xticks=list(positions), xticklabels=[row.iteration for row in rows])
        axis.margins(x=0.2)
        plots.tidy(axis)
    figure.suptitle(f"Scores by iteration, {shown[0].split} split", fontsize=11)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=plots.DPI)
    plt.close(figure)
