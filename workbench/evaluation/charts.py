"""The two charts: every specialty with its interval, and every metric with its floor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.evaluation import fonts
from workbench.evaluation.significance import ALPHA

if TYPE_CHECKING:
    import pandas as pd

PROGRESS_METRICS = ("ROUGE-L", "METEOR", "bertscore_f1", "factual_exact_match")
BASE, TUNED = "#8a8f98", "#1f5f99"
COLOURS = {"better": "#2a7f4f", "worse": "#b3541e", "within noise": "#9aa0a8", "base": BASE, "tuned": TUNED}
VERDICTS = ("better", "worse", "within noise")


def specialty_analysis(path: Path, table: pd.DataFrame, *, metric: str, split: str, supported: list[str]) -> str:
    """Forest plot: base and tuned score of each specialty, and their paired difference with its 95% interval.

    Returns what is to be said of its letters, in one sentence; empty where there is nothing.

    Args:
        table: rows of `specialty_performance.csv` for one metric and split.
        supported: specialties that the recommendations name; they are marked.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    table = table.sort_values("tuned", ascending=True, na_position="first").reset_index(drop=True)
    named = fonts.labels([name.replace("_", " ") for name in table["specialty"]])
    with plt.rc_context({"font.family": named.families}):
        _draw_specialties(path, table, named.texts, metric=metric, split=split, supported=supported)
    return named.note()


def _draw_specialties(
    path: Path, table: pd.DataFrame, labels: list[str], *, metric: str, split: str, supported: list[str]
) -> None:
    import matplotlib.pyplot as plt

    rows = range(len(table))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 1.8 + 0.235 * len(table)), sharey=True, width_ratios=(1.15, 1), constrained_layout=True
    )
    left.hlines(rows, table["tuned_low"], table["tuned_high"], color=TUNED, alpha=0.35, linewidth=3)
    left.plot(table["base"], rows, "o", color=BASE, markersize=4.5, label="base")
    left.plot(table["tuned"], rows, "o", color=TUNED, markersize=5.5, label="tuned, 95% interval")
    left.axvline(table["tuned"].mean(), color=TUNED, linestyle=":", linewidth=1, label="mean")
    lower = table["lower_is_better"].iloc[0]
    left.set(xlabel=f"{metric}{' (lower is better)' if lower else ''}", yticks=list(rows))
    left.set_yticklabels([f"{'▸ ' if name in supported else ''}{label} ({n})"
                          for name, label, n in zip(table["specialty"], labels, table["n"], strict=True)], fontsize=8)  # fmt: skip
    for row, item in table.iterrows():
        colour = COLOURS[item["verdict"]]
        right.hlines(row, item["ci_low"], item["ci_high"], color=colour, linewidth=2.2)
        right.plot(item["difference"], row, "o", color=colour, markersize=5)
    for verdict in VERDICTS:
        right.plot([], [], "o-", color=COLOURS[verdict], label=verdict)
    right.axvline(0, color="0.3", linewidth=0.8)
    right.set(xlabel=f"tuned minus base, {metric}, 95% interval\n(coloured where the adjusted p is at most {ALPHA})")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.93")
        axis.set_axisbelow(True)
        axis.set_ylim(-0.8, len(table) - 0.2)
        axis.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    note = f"{split} split; questions in brackets" + ("; ▸ recommended for more data" if supported else "")
    figure.suptitle(f"{metric} by specialty ({note})", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def model_comparison(path: Path, table: pd.DataFrame, *, split: str) -> None:
    """Base and tuned in every metric, with the 95% interval of their difference and the floor of each metric.

    Args:
        table: rows of `model_comparison.csv` for one split.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # metrics that only describe have scales of their own
    shown = table[(table["missing"].fillna("") == "") & (table["verdict"] != "")].iloc[::-1].reset_index(drop=True)
    absent = table[table["missing"].fillna("") != ""]
    rows = range(len(shown))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 1.9 + 0.36 * len(shown)), sharey=True, width_ratios=(1.2, 1), constrained_layout=True
    )
    left.barh([r + 0.19 for r in rows], shown["base"], 0.36, color=BASE, label="base")
    left.barh([r - 0.19 for r in rows], shown["tuned"], 0.36, color=TUNED, label="tuned")
    left.vlines(shown["floor_base"], [r + 0.01 for r in rows], [r + 0.37 for r in rows], color="black", linewidth=1.4)
    left.vlines(shown["floor_tuned"], [r - 0.37 for r in rows], [r - 0.01 for r in rows], color="black", linewidth=1.4,
                label="floor: answers shuffled within a specialty")  # fmt: skip
    left.set(yticks=list(rows), xlabel="mean over questions")
    left.set_yticklabels(
        [f"{name}{' ↓' if low else ''}" for name, low in zip(shown["metric"], shown["lower_is_better"], strict=True)]
    )
    for row, item in shown.iterrows():
        colour = COLOURS[item["verdict"]]
        right.hlines(row, item["ci_low"], item["ci_high"], color=colour, linewidth=2.4)
        right.plot(item["difference"], row, "o", color=colour)
        right.annotate(f"{item['difference']:+.3f}", (item["ci_high"], row), (6, -3), textcoords="offset points", fontsize=8)
    right.axvline(0, color="0.3", linewidth=0.8)
    right.set(xlabel="tuned minus base, 95% interval")
    right.margins(x=0.18)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    title = f"Base and tuned model, {split} split, {int(shown['n'].max()) if len(shown) else 0} questions"
    figure.suptitle(title + (f" (missing: {', '.join(absent['metric'])})" if len(absent) else ""), fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def progress(path: Path, history: pd.DataFrame, steering: str) -> None:
    """Score of base and tuned model by iteration, a panel a metric, the tuned one with its 95% interval.

    Args:
        history: `history.csv`.
        steering: the metric in the first panel.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = history[history["split"] == "holdout"]
    shown = shown if len(shown) else history
    there = set(shown["metric"])
    names = [steering, *(name for name in PROGRESS_METRICS if name in there and name != steering)]
    figure, axes = plt.subplots(1, len(names), figsize=(3.1 * len(names), 3.1), constrained_layout=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        rows = shown[shown["metric"] == name].sort_values(["iteration", "finished"])
        # two evaluations of one iteration stand beside each other
        places = range(len(rows))
        error = (rows["tuned"] - rows["tuned_low"], rows["tuned_high"] - rows["tuned"])
        axis.plot(places, rows["base"], "o--", color=BASE, markersize=4, label="base")
        axis.errorbar(
            places, rows["tuned"], yerr=error, fmt="o-", color=TUNED, markersize=5, capsize=3, label="tuned, 95% interval"
        )
        axis.set(title=name, xlabel="iteration", xticks=list(places), xticklabels=list(rows["iteration"]))
        axis.margins(x=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Iteration after iteration, {shown['split'].iloc[0]} split", fontsize=11)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
