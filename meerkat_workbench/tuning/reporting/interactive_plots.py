"""The report's interactive charts: Vega-Lite specifications, which Altair makes and Vega draws in the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from meerkat_workbench.output import plots
from meerkat_workbench.tuning.artifacts import (
    BASE,
    FEW_SHOT,
    TUNED,
    HistoryRow,
    SpecialtyPerformance,
    Split,
    SystemComparison,
    Verdict,
)

DIFFERENCE, OVER_FEW_SHOT, SCORES = "tuned minus base", "tuned minus few-shot base", "scores"  # views of the forest plot
COLOURS = {str(Verdict.BETTER): plots.BETTER, str(Verdict.WORSE): plots.WORSE, str(Verdict.NOISE): plots.NEUTRAL,
           BASE: plots.BASE, FEW_SHOT: plots.FEW_SHOT, TUNED: plots.TUNED}  # fmt: skip
COLOURED_BY = "verdict"  # the field of a datum that decides its colour: a verdict or a model
Point = dict[str, Any]  # one datum of a chart, with the fields that its encodings use
Specification = dict[str, Any]  # Vega-Lite


def specialties(rows: Sequence[SpecialtyPerformance], steering: str) -> Specification:
    """Forest plot with a line for each specialty, for a chosen metric and split; colour marks small adjusted p values."""
    shown = [row for row in rows if not math.isnan(row.difference + row.ci_low)]
    points: list[Point] = []
    for row in shown:
        common = {"specialty": row.specialty.replace("_", " "), "metric": row.metric, "split": row.split, "n": row.n}
        points += [
            {**common, "view": DIFFERENCE, "at": row.difference, "low": row.ci_low, "high": row.ci_high,
             COLOURED_BY: str(row.verdict or Verdict.NOISE), "adjusted p": row.p_adjusted, "shrunk": row.shrunk,
             "detectable": row.detectable, "order": row.difference},
            {**common, "view": SCORES, "at": row.base, COLOURED_BY: BASE, "order": row.tuned},
            {**common, "view": SCORES, "at": row.tuned, "low": row.tuned_low, "high": row.tuned_high, COLOURED_BY: TUNED,
             "order": row.tuned},
        ]  # fmt: skip
        if not math.isnan(row.few_shot):
            points += [
                {**common, "view": OVER_FEW_SHOT, "at": row.over_few_shot, "low": row.over_few_shot_low,
                 "high": row.over_few_shot_high, COLOURED_BY: str(Verdict.NOISE), "order": row.over_few_shot},
                {**common, "view": SCORES, "at": row.few_shot, COLOURED_BY: FEW_SHOT, "order": row.tuned},
            ]  # fmt: skip
    choices = [
        _choice("metric", [row.metric for row in shown], steering),
        _choice("split", [row.split for row in shown], Split.EVAL),
        _choice("view", list(dict.fromkeys(point["view"] for point in points)), DIFFERENCE),
    ]
    return _forest(points, "specialty", choices, ["adjusted p:Q", "shrunk:Q", "detectable:Q"])


def metrics(rows: Sequence[SystemComparison]) -> Specification:
    """Forest plot with a line for each metric: the difference of a chosen model from the base or the few-shot base."""
    # descriptive metrics are left out, because they have other scales
    shown = [row for row in rows if not row.missing and row.verdict is not Verdict.NONE and not math.isnan(row.difference)]
    points = [
        {"metric": _metric_label(row), "model": row.model, "split": row.split, "n": row.n,
         "minus": BASE, "at": row.difference, "low": row.ci_low, "high": row.ci_high, "base": row.base, "score": row.tuned,
         "floor": row.floor_tuned, COLOURED_BY: str(row.verdict)}
        for row in shown
    ]  # fmt: skip
    points += [
        {"metric": _metric_label(row), "model": row.model, "split": row.split, "n": row.n, "minus": FEW_SHOT,
         "at": row.over_few_shot, "low": row.over_few_shot_low, "high": row.over_few_shot_high, "base": row.few_shot,
         "score": row.tuned, "floor": row.floor_tuned, COLOURED_BY: str(row.over_few_shot_verdict)}
        for row in shown
        if not math.isnan(row.over_few_shot)
    ]  # fmt: skip
    choices = [_choice("split", [row.split for row in shown], Split.HOLDOUT)]
    if len({row.model for row in shown}) > 1:
        choices.append(_choice("model", [row.model for row in shown], TUNED))
    if any(point["minus"] == FEW_SHOT for point in points):
        choices.append(_choice("minus", [BASE, FEW_SHOT], BASE))
    order = list(dict.fromkeys(_metric_label(row) for row in shown))
    return _forest(points, "metric", choices, ["base:Q", "score:Q", "floor:Q"], order=order)


def _metric_label(row: SystemComparison) -> str:
    return row.metric + (" ↓" if row.lower_is_better else "")


def history(rows: Sequence[HistoryRow], steering: str) -> Specification:
    """Scores of base and tuned model by iteration, with the tuned model's interval."""
    points: list[Point] = []
    for row in rows:
        if not math.isnan(row.tuned):
            common = {"iteration": row.iteration, "metric": row.metric, "split": row.split, "n": row.n}
            points += [{**common, COLOURED_BY: BASE, "at": row.base},
                       {**common, COLOURED_BY: TUNED, "at": row.tuned, "low": row.tuned_low, "high": row.tuned_high}]  # fmt: skip
    choices = [
        _choice("metric", [row.metric for row in rows], steering),
        _choice("split", [row.split for row in rows], Split.HOLDOUT),
    ]
    base = _chart(points, choices).encode(x=alt.X("iteration:O", axis=alt.Axis(labelAngle=0)), color=_colour(points))
    line = base.mark_line(point=True).encode(
        y=alt.Y("at:Q", title=None, scale=alt.Scale(zero=False)),
        tooltip=[alt.Tooltip(name, format=".3f") for name in ("at:Q", "low:Q", "high:Q")] + [alt.Tooltip("n:Q")],
    )
    interval = base.mark_rule(strokeWidth=2, opacity=0.5).encode(y="low:Q", y2="high:Q")
    return _specification(alt.layer(interval, line), choices, height=220)


def _forest(
    points: list[Point],
    name: str,
    choices: Sequence[alt.Parameter],
    more: Sequence[str],
    *,
    order: list[str] | None = None,
) -> Specification:
    """Points with their intervals, a line for each item.

    Args:
        name: the field that names the items.
        more: further fields of the tooltip.
        order: the items from top to bottom; None puts the lowest "order" on top.
    """
    lines = len({point[name] for point in points})
    sort: Any = order or alt.EncodingSortField(field="order", op="max", order="ascending")
    base = _chart(points, choices).encode(
        y=alt.Y(f"{name}:N", sort=sort, title=None, axis=alt.Axis(labelLimit=180, grid=True)),
        color=_colour(points),
        tooltip=[
            alt.Tooltip(f"{name}:N"),
            alt.Tooltip("n:Q"),
            *(alt.Tooltip(field, format=".3f") for field in ("at:Q", "low:Q", "high:Q", *more)),
        ],
    )
    point = base.mark_point(filled=True, size=55, opacity=1).encode(x=alt.X("at:Q", title=None, scale=alt.Scale(zero=False)))
    interval = base.mark_rule(strokeWidth=2.4).encode(x="low:Q", x2="high:Q")
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 3]).encode(x="zero:Q")
    if any(choice.name == "view" for choice in choices):
        zero = zero.transform_filter(f"view != {SCORES!r}")
    return _specification(alt.layer(zero, interval, point), choices, height=max(120, 17 * lines))


def _colour(points: Sequence[Point]) -> alt.Color:
    """Colours of verdicts and models, the same in every chart; the legend lists only those in the chart."""
    present = [name for name in COLOURS if any(point[COLOURED_BY] == name for point in points)]
    scale = alt.Scale(domain=present, range=[COLOURS[name] for name in present])
    return alt.Color(f"{COLOURED_BY}:N", scale=scale, title=None, legend=alt.Legend(orient="top", labelFontSize=12))


def _choice(name: str, options: Sequence[str], first: str) -> alt.Parameter:
    """A drop-down list; `first` is selected at the start if it is among the options."""
    options = list(dict.fromkeys(map(str, options)))
    value = str(first) if first in options else options[0] if options else ""
    return alt.param(name=name, value=value, bind=alt.binding_select(options=options, name=f"{name} "))


def _chart(points: Sequence[Point], choices: Sequence[alt.Parameter]) -> alt.Chart:
    """A chart of the points that match the selections."""
    chart = alt.Chart(alt.Data(values=_without_nan(points)))
    for choice in choices:
        chart = chart.transform_filter(f"datum.{choice.name} == {choice.name}")
    return chart


def _specification(chart: Any, choices: Sequence[alt.Parameter], *, height: int) -> Specification:
    sized = chart.add_params(*choices).properties(width="container", height=height)
    specification: Specification = sized.configure_view(stroke=None).configure_axis(labelFontSize=12).to_dict()
    return specification


def _without_nan(points: Sequence[Point]) -> list[Point]:
    """The points with numbers rounded to four digits, and without NaN, which JSON cannot hold."""
    return [
        {name: round(value, 4) if isinstance(value, float) else value for name, value in point.items() if value == value}
        for point in points
    ]
