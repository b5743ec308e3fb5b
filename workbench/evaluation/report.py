"""`report.html`: one file that opens offline in any browser; all text of models and files is escaped.

Tables by DataTables (from itables), charts by Vega-Lite (from vl-convert); both bring their JavaScript, which is put
into the file.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Hashable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.evaluation import conclusions, explorer, interactive, significance

TEMPLATE = "report.html.j2"
SHOWN_METRICS = ("ROUGE-L", "METEOR", "bertscore_f1", "token_f1", "factual_exact_match", "medical_token_f1")
TIE = 0.02  # a question whose score moved less is the same
WORST = 5  # regressions shown above all else
VERDICT_WORDS = {
    "better": "The tuned model is better",
    "worse": "The tuned model is worse",
    "within noise": "No difference beyond chance",
}
STYLE = "The tuned model scores better, mostly by style"
ENDS_SCRIPT = re.compile(r"</script|<!--|<script", re.IGNORECASE)


def write(
    path: Path,
    *,
    heading: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    comparison: pd.DataFrame,
    specialties: pd.DataFrame,
    models: pd.DataFrame,
    checks: pd.DataFrame,
    history: pd.DataFrame,
    metric: str,
    advice: Mapping[str, Any],
    retention: Mapping[str, Any] | None = None,
    judged: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Render the report.

    Args:
        heading: iteration, facts (models, questions, decoding), what may be concluded, and the specialties' names.
        tables: a row a question, by arm; `base` and `tuned` are among them.
        comparison, specialties, models, checks, history: the tables of the CSV files of those names.
        metric: the one that steers, by which questions are sorted at first.
        retention, judged: sentences (`in_words`) and `rows`; None where there is no such thing.
    """
    from workbench import files

    present = comparison[comparison["missing"] == ""]
    lower = sorted(set(present.loc[present["lower_is_better"].astype(bool), "metric"]))
    contents = explorer.contents(tables, list(dict.fromkeys(present["metric"])), metric, lower, seed)
    charts = {"metrics": interactive.metrics(models), "forest": interactive.specialties(specialties, metric)}
    earlier = _iterations(history, metric)
    if earlier:
        charts["iterations"] = interactive.history(history, metric)
    shown_checks = conclusions.headline(checks) if len(checks) else checks
    text = _template().render(
        heading=heading,
        glance=glance(tables["base"], tables["tuned"], comparison, metric),
        worst=_worst(contents, metric),
        tables=[
            {"split": split, "rows": part.to_dict("records")} for split, part in comparison.groupby("split", sort=False)
        ],
        models=_models(models),
        checks=shown_checks.to_dict("records"),
        retention=retention, judged=judged, advice=advice, metric=metric, history=earlier,
        explorer=contents, charts=charts,
        **_libraries(),
    )  # fmt: skip
    files.write_text(path, text)


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    environment.filters["script_json"] = _script_json
    return environment.get_template(TEMPLATE)


def _libraries() -> dict[str, Any]:
    """What the page runs, by the template's names: ours, and the two libraries' own bundles."""
    import vl_convert
    from markupsafe import Markup

    tables = resources.files("itables") / "html"
    here = Path(__file__).parent
    texts = {
        "tables_style": (tables / "dt_bundle.css").read_text(encoding="utf-8"),
        # in base64: the source itself holds "<script", which would confuse the page's parser
        "tables_script": base64.b64encode((tables / "dt_bundle.js").read_bytes()).decode(),
        "vega_script": vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"),
        "style": (here / "report.css").read_text(encoding="utf-8"),
        "script": (here / "report.js").read_text(encoding="utf-8"),
    }
    if broken := [name for name, text in texts.items() if ENDS_SCRIPT.search(text)]:
        raise RuntimeError(f"{', '.join(broken)} would end the page's script; another version of the library is needed")
    return {name: Markup(text) for name, text in texts.items()}


def _script_json(value: Any) -> Any:
    """JSON in which no text ends the script that holds it."""
    from markupsafe import Markup

    return Markup(json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))


def _number(value: Any, form: str = "{:.3f}") -> str:
    return "–" if value is None or value == "" or math.isnan(value) else form.format(value)


def glance(base: pd.DataFrame, tuned: pd.DataFrame, comparison: pd.DataFrame, metric: str) -> dict[str, Any]:
    """What stands on top: the verdict of the steering metric on the holdout, and questions better, same and worse."""
    headline = conclusions.headline(comparison)
    split = headline["split"].iloc[0]
    headline = headline[headline["missing"] == ""]
    row = headline[headline["metric"] == metric].iloc[0]
    here = base["split"] == split
    sign = -1 if row["lower_is_better"] else 1
    change = (sign * (tuned.loc[here, metric] - base.loc[here, metric])).dropna()
    won = np.sign(change.where(change.abs() > TIE, 0.0))
    net = significance.stratified(won.tolist(), base.loc[won.index, "specialty"].tolist()).within(-1, 1)
    verdicts = list(headline["verdict"])
    words, tone = VERDICT_WORDS[row["verdict"]], row["verdict"]
    if tone == "better" and conclusions.little_above_floor(row):
        words, tone = STYLE, ""
    return {
        "split": split, "verdict": tone, "words": words,
        **{name: row[name] for name in ("base", "tuned", "difference", "ci_low", "ci_high")},
        "metrics": sum(bool(verdict) for verdict in verdicts), "better": verdicts.count("better"),
        "worse": verdicts.count("worse"), "won": int((won > 0).sum()), "same": int((won == 0).sum()),
        "lost": int((won < 0).sum()), "n": len(won), "tie": TIE, "net": net,
    }  # fmt: skip


def _worst(contents: Mapping[str, Any], metric: str) -> list[dict[str, Any]]:
    """The questions on which the tuned model lost most, of those that the explorer holds, which stand first in it."""
    place, sign = contents["metrics"].index(metric), -1 if metric in contents["lower_is_better"] else 1
    found: list[dict[str, Any]] = []
    for row in contents["rows"]:
        base, tuned = (row["scores"][arm][place] for arm in ("base", "tuned"))
        if len(found) == WORST or base is None or tuned is None or sign * (tuned - base) >= -TIE:
            break
        texts = {arm: "".join(row["answers"][arm]) for arm in ("base", "tuned")}
        found.append({**row, **texts, "reference": "".join(row["reference"]), "change": sign * (tuned - base)})
    return found


def _models(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """A row a model and shown metric of the holdout; none where only the tuned one was asked."""
    if table["model"].nunique() < 2:
        return []
    shown = table[(table["split"] == "holdout") & table["metric"].isin(SHOWN_METRICS) & (table["missing"] == "")]
    return shown.sort_values(["metric", "score"], ascending=[True, False]).to_dict("records")


def _iterations(history: pd.DataFrame, metric: str) -> list[dict[Hashable, Any]]:
    """A row an iteration of the steering metric on the holdout; none before there are two."""
    shown = history[(history["metric"] == metric) & (history["split"] == "holdout")]
    return shown.to_dict("records") if len(shown) > 1 else []
