"""The report's charts that answer to the pointer: Vega-Lite specifications, made with Altair, drawn by Vega in the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from workbench.evaluation.charts import COLOURS

DIFFERENCE, SCORES = "tuned minus base", "scores"


def specialties(table: pd.DataFrame, steering: str) -> dict[str, Any]:
    """Forest plot: a line a specialty, by metric and split of choice; differences coloured where the adjusted p allows it.

    Args:
        table: `specialty_performance.csv`.
    """
    shown = table.dropna(subset=["difference", "ci_low"])
    rows = []
    for row in shown.to_dict("records"):
        about = {"specialty": row["specialty"].replace("_", " "), "metric": row["metric"], "split": row["split"], "n": row["n"]}
        rows.append(
            {**about, "view": DIFFERENCE, "at": row["difference"], "low": row["ci_low"], "high": row["ci_high"],
             "verdict": row["verdict"] or "within noise", "adjusted p": row["p_adjusted"], "shrunk": row["shrunk"],
             "detectable": row["detectable"], "order": row["difference"]}
        )  # fmt: skip
        rows.append({**about, "view": SCORES, "at": row["base"], "verdict": "base", "order": row["tuned"]})
        rows.append({**about, "view": SCORES, "at": row["tuned"], "low": row["tuned_low"], "high": row["tuned_high"],
                     "verdict": "tuned", "order": row["tuned"]})  # fmt: skip
    choices = [
        _choice("metric", list(dict.fromkeys(shown["metric"])), steering),
        _choice("split", list(dict.fromkeys(shown["split"])), "eval"),
        _choice("view", [DIFFERENCE, SCORES], DIFFERENCE),
    ]
    return _forest(rows, "specialty", choices, ["adjusted p:Q", "shrunk:Q", "detectable:Q"])


def metrics(models: pd.DataFrame) -> dict[str, Any]:
    """A line a metric: each model's difference from the base.

    Args:
        models: `models_comparison.csv`: rows of `model_comparison.csv` with the columns model and score.
    """
    # metrics that only describe have scales of their own
    shown = models[(models["missing"] == "") & (models["verdict"] != "")].dropna(subset=["difference"])
    rows = [
        {"metric": row["metric"] + (" ↓" if row["lower_is_better"] else ""), "model": row["model"], "split": row["split"],
         "n": row["n"], "at": row["difference"], "low": row["ci_low"], "high": row["ci_high"], "base": row["base"],
         "score": row["score"], "floor": row["floor_tuned"], "verdict": row["verdict"]}
        for row in shown.to_dict("records")
    ]  # fmt: skip
    choices = [_choice("split", list(dict.fromkeys(shown["split"])), "holdout")]
    if shown["model"].nunique() > 1:
        choices.append(_choice("model", list(dict.fromkeys(shown["model"])), "tuned"))
    order = list(dict.fromkeys(row["metric"] for row in rows))
    return _forest(rows, "metric", choices, ["base:Q", "score:Q", "floor:Q"], order=order)


def history(table: pd.DataFrame, steering: str) -> dict[str, Any]:
    """Score of base and tuned model by iteration, with the tuned one's interval.

    Args:
        table: `history.csv`.
    """
    rows = []
    for row in table.dropna(subset=["tuned"]).to_dict("records"):
        about = {"iteration": row["iteration"], "metric": row["metric"], "split": row["split"], "n": row["n"]}
        rows.append({**about, "verdict": "base", "at": row["base"]})
        rows.append({**about, "verdict": "tuned", "at": row["tuned"], "low": row["tuned_low"], "high": row["tuned_high"]})
    choices = [
        _choice("metric", list(dict.fromkeys(table["metric"])), steering),
        _choice("split", list(dict.fromkeys(table["split"])), "holdout"),
    ]
    base = _rows(rows, choices).encode(x=alt.X("iteration:O", axis=alt.Axis(labelAngle=0)), color=_colour(rows))
    line = base.mark_line(point=True).encode(
        y=alt.Y("at:Q", title=None, scale=alt.Scale(zero=False)),
        tooltip=[alt.Tooltip(name, format=".3f") for name in ("at:Q", "low:Q", "high:Q")] + [alt.Tooltip("n:Q")],
    )
    bar = base.mark_rule(strokeWidth=2, opacity=0.5).encode(y="low:Q", y2="high:Q")
    return _finished(alt.layer(bar, line), choices, height=220)


def _forest(
    rows: list[dict[str, Any]],
    name: str,
    choices: Sequence[alt.Parameter],
    more: Sequence[str],
    *,
    order: list[str] | None = None,
) -> dict[str, Any]:
    """Points with their intervals, a line an item; without `order` the lowest `order` stands on top."""
    lines = len({row[name] for row in rows})
    sort: Any = order or alt.EncodingSortField(field="order", op="max", order="ascending")
    base = _rows(rows, choices).encode(
        y=alt.Y(f"{name}:N", sort=sort, title=None, axis=alt.Axis(labelLimit=180, grid=True)),
        color=_colour(rows),
        tooltip=[
            alt.Tooltip(f"{name}:N"),
            alt.Tooltip("n:Q"),
            *(alt.Tooltip(x, format=".3f") for x in ("at:Q", "low:Q", "high:Q", *more)),
        ],
    )
    point = base.mark_point(filled=True, size=55, opacity=1).encode(x=alt.X("at:Q", title=None, scale=alt.Scale(zero=False)))
    bar = base.mark_rule(strokeWidth=2.4).encode(x="low:Q", x2="high:Q")
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 3]).encode(x="zero:Q")
    if any(choice.name == "view" for choice in choices):
        zero = zero.transform_filter(f"view == {DIFFERENCE!r}")
    return _finished(alt.layer(zero, bar, point), choices, height=max(120, 17 * lines))


def _colour(rows: Sequence[dict[str, Any]]) -> alt.Color:
    """The same colour for the same verdict or model everywhere; the legend names what the chart has."""
    there = [name for name in COLOURS if any(row["verdict"] == name for row in rows)]
    scale = alt.Scale(domain=there, range=[COLOURS[name] for name in there])
    return alt.Color("verdict:N", scale=scale, title=None, legend=alt.Legend(orient="top", labelFontSize=12))


def _choice(name: str, options: list[str], first: str) -> alt.Parameter:
    value = first if first in options else options[0] if options else ""
    return alt.param(name=name, value=value, bind=alt.binding_select(options=options, name=f"{name} "))


def _rows(rows: Sequence[dict[str, Any]], choices: Sequence[alt.Parameter]) -> alt.Chart:
    """A chart of those rows whose fields are what is chosen."""
    chart = alt.Chart(alt.Data(values=_finite(rows)))
    for choice in choices:
        chart = chart.transform_filter(f"datum.{choice.name} == {choice.name}")
    return chart


def _finished(chart: Any, choices: Sequence[alt.Parameter], *, height: int) -> dict[str, Any]:
    """The specification with its choices."""
    finished = chart.add_params(*choices).properties(width="container", height=height)
    found: dict[str, Any] = finished.configure_view(stroke=None).configure_axis(labelFontSize=12).to_dict()
    return found


def _finite(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what JSON has no word for, and to four places."""
    return [
        {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items() if value == value}
        for row in rows
    ]
