"""Common to all pictures: the palette, and figures that are drawn without a display."""

from __future__ import annotations

from typing import Any

BASE, FEW_SHOT, TUNED = "#8a8f98", "#c8913a", "#1f5f99"
BETTER, WORSE, NEUTRAL = "#2a7f4f", "#a8430f", "#9aa0a8"
GRID, FAINT = "0.93", "0.6"
DPI = 130


def pyplot() -> Any:
    """matplotlib's pyplot, which draws into files only."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def tidy(axis: Any) -> None:
    """Hide the upper and right lines of the frame."""
    axis.spines[["top", "right"]].set_visible(False)
