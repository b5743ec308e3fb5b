"""`evaluation.py --history`: prints this iteration beside the earlier ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from meerkat_workbench.core import console
from meerkat_workbench.output.tables import where
from meerkat_workbench.tuning.artifacts import HistoryRow, Recommendations, read_recommendations
from meerkat_workbench.tuning.reporting import history

HEADER = [
    "iteration",
    "trained on",
    "share",
    "tokens",
    "minutes",
    "asked",
    "base",
    "tuned",
    "95% interval",
    "change, 95% interval",
]


def print_history(output: Path, metric: str) -> None:
    """Print the history of a finished evaluation.

    Args:
        metric: the metric to print; if the history lacks it, the steering metric of the evaluation is printed.
    """
    rows = history.read(output)
    if not where(rows, metric=metric):
        path = output / Recommendations.FILE
        metric = read_recommendations(path).steering_metric if path.is_file() else metric
    shown = where(rows, metric=metric)
    for split in dict.fromkeys(row.split for row in shown):
        print(f"{metric} on the {split} split; changes are since the iteration before")
        console.print_table(HEADER, _cells(where(shown, split=split)), texts=0)


def _cells(rows: Sequence[HistoryRow]) -> list[list[str]]:
    """The cells of each row: training data and cost, scores with an interval, and the change since the iteration before."""
    return [
        [
            str(row.iteration),
            f"{row.train:,}",
            _or_dash(row.share, ".2f"),
            _or_dash(row.train_tokens, ",.0f"),
            _or_dash((row.train_seconds + row.seconds) / 60, ".1f"),
            f"{row.n:,}",
            _or_dash(row.base, ".3f"),
            _or_dash(row.tuned, ".3f"),
            f"{_or_dash(row.tuned_low, '.3f')} to {_or_dash(row.tuned_high, '.3f')}",
            "–" if math.isnan(row.change) else f"{row.change:+.3f} ({row.change_low:+.3f} to {row.change_high:+.3f})",
        ]
        for row in rows
    ]


def _or_dash(value: float, format_spec: str) -> str:
    return "–" if math.isnan(value) else format(value, format_spec)
