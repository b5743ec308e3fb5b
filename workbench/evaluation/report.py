"""`report.html`: one file that opens offline in any browser; all text of models and files is escaped."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.evaluation.answer_checks import CHECKS

TEMPLATE = "report.html.j2"
SHOWN_METRICS = ("ROUGE-L", "METEOR", "bertscore_f1", "token_f1", "factual_exact_match", "medical_token_f1")


def _number(value: Any, form: str = "{:.3f}") -> str:
    return "–" if value is None or (isinstance(value, float) and math.isnan(value)) else form.format(value)


def _picture(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""


def verdict(row: pd.Series) -> str:
    """better, worse or unclear: what the interval of a difference allows to say."""
    gain = (row["ci_low"], row["ci_high"]) if not row["lower_is_better"] else (-row["ci_high"], -row["ci_low"])
    if math.isnan(gain[0]):
        return "unclear"
    return "better" if gain[0] > 0 else "worse" if gain[1] < 0 else "unclear"


def _marks(row: pd.Series) -> list[str]:
    """The checks that an answer fails, as words for its line in the explorer."""
    return [name.replace("_", " ") for name in CHECKS if bool(row.get(name, False))]


def questions(base: pd.DataFrame, tuned: pd.DataFrame, metric: str, lower_is_better: bool) -> list[dict[str, Any]]:
    """Every question with both answers, the worst regression first."""
    rows = []
    for (_, left), (_, right) in zip(base.iterrows(), tuned.iterrows(), strict=True):
        change = right[metric] - left[metric]
        rows.append(
            {"id": left["id"], "split": left["split"], "specialty": left["specialty"], "question": left["question"],
             "reference": left["reference"], "base": left["prediction"], "tuned": right["prediction"],
             "base_finish": left["finish_reason"], "tuned_finish": right["finish_reason"],
             "base_marks": _marks(left), "tuned_marks": _marks(right),
             "base_score": _number(left[metric]), "tuned_score": _number(right[metric]),
             "change": None if pd.isna(change) else (-change if lower_is_better else change)}
        )  # fmt: skip
    return sorted(rows, key=lambda row: (row["change"] is None, row["change"] or 0.0))


def _models(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    """A row a model and shown metric of the holdout; none where only the tuned one was asked."""
    if table is None or table["model"].nunique() < 2:
        return []
    shown = table[(table["split"] == "holdout") & table["metric"].isin(SHOWN_METRICS) & (table["missing"] == "")]
    return [
        {**row, "verdict": verdict(row)} for _, row in shown.sort_values(["metric", "score"], ascending=[True, False]).iterrows()
    ]


def write(
    path: Path,
    *,
    heading: dict[str, Any],
    comparison: pd.DataFrame,
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    metric: str,
    lower_is_better: bool,
    advice: dict[str, Any],
    pictures: dict[str, Path],
    models: pd.DataFrame | None = None,
    checks: pd.DataFrame | None = None,
) -> None:
    """Render the report.

    Args:
        heading: what stands at its top (models, iteration, device, prompt).
        checks: rows of `answer_checks.csv`.
        models: where more than the tuned one were asked, each against the base: rows of `models_comparison.csv`.
    """
    from jinja2 import Environment, FileSystemLoader

    from workbench import files

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    tables = []
    for split in comparison["split"].unique():
        part = comparison[comparison["split"] == split]
        tables.append({"split": split, "rows": [{**row, "verdict": verdict(row)} for _, row in part.iterrows()]})
    text = environment.get_template(TEMPLATE).render(
        heading=heading,
        tables=tables,
        advice=advice,
        metric=metric,
        models=_models(models),
        checks=[]
        if checks is None
        else [row for _, row in checks[checks["split"] == checks["split"].iloc[:1].squeeze()].iterrows()],
        questions=questions(base, tuned, metric, lower_is_better),
        pictures={name: _picture(picture) for name, picture in pictures.items()},
    )
    files.write_text(path, text)
