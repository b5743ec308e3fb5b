"""Tables of a training run: what each specialty learnt, and what the model said on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from workbench import files


def write_evaluations(path: Path, history: list[dict[str, Any]]) -> None:
    """A row an evaluation and specialty: loss, perplexity and token accuracy on the eval split."""
    rows = [
        {"step": row["step"], "epoch": row["epoch"], "specialty": files.csv_cell(name), **numbers}
        for row in history
        for name, numbers in {"(all)": {k: row[k] for k in ("examples", "tokens", "loss", "perplexity", "token_accuracy")},
                              **row["specialties"]}.items()
    ]  # fmt: skip
    with files.atomic_open(path) as file:
        pd.DataFrame(rows).to_csv(file, index=False)


def write_learning(path: Path, history: list[dict[str, Any]], kept_step: int) -> None:
    """A row a specialty, the least learnt first: eval loss before training and with the adapter that was kept."""
    first, kept = history[0]["specialties"], next(row for row in history if row["step"] == kept_step)["specialties"]
    rows = [
        {
            "specialty": files.csv_cell(name),
            "examples": first[name]["examples"],
            "tokens": first[name]["tokens"],
            "loss_before": first[name]["loss"],
            "loss_after": kept[name]["loss"],
            "loss_change": round(kept[name]["loss"] - first[name]["loss"], 6),
            "token_accuracy_before": first[name]["token_accuracy"],
            "token_accuracy_after": kept[name]["token_accuracy"],
            "learnt": kept[name]["loss"] < first[name]["loss"],
        }
        for name in first
    ]
    with files.atomic_open(path) as file:
        pd.DataFrame(rows).sort_values("loss_change", ascending=False).to_csv(file, index=False)


def write_sample_answers(path: Path, history: list[dict[str, Any]]) -> None:
    """What the model answered to the same few eval questions at each evaluation."""
    rows = [
        {"question": files.csv_cell(a["question"]), "step": row["step"], "epoch": row["epoch"],
         "answer": files.csv_cell(a["answer"]), "reference": files.csv_cell(a["reference"])}
        for row in history for a in row.get("answers", [])
    ]  # fmt: skip
    if rows:
        with files.atomic_open(path) as file:
            pd.DataFrame(rows).sort_values(["question", "step"], kind="stable").to_csv(file, index=False)
