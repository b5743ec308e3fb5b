"""What every picture shares: one palette, and figures that are drawn without a display."""

from __future__ import annotations

from typing import Any

BASE, TUNED = "#8a8f98", "#1f5f99"
BETTER, WORSE, NEUTRAL = "#2a7f4f", "#a8430f", "#9aa0a8"
GRID, FAINT = "0.93", "0.6"
DPI = 130


def pyplot() -> Any:
    """matplotlib's pyplot, drawing into files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def tidy(axis: Any) -> None:
    """Without the frame's upper and right lines."""
    axis.spines[["top", "right"]].set_visible(False)
