"""Blinded rating: a sheet of questions with both answers in random order, and what raters' sheets say together."""

from __future__ import annotations

import hashlib
import math
import random
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench import files, foreign_files
from workbench.errors import UserError
from workbench.evaluation import comparison, significance

RESULTS, AGREEMENT = "rating_results.csv", "rating_agreement.csv"
SHEET, PAGE, KEY = "rating_sheet.csv", "rating_sheet.html", "rating_key.json"
COLUMNS = ("sheet", "number", "specialty", "question", "answer_a", "answer_b", "better", "comment")
CHOICES = {"A": 1, "B": -1, "=": 0, "NEITHER": 0}  # which answer is better, seen from A


def make_sheet(output: Path, count: int, seed: int) -> int:
    """`write_sheet` from the answers of a finished evaluation."""
    return write_sheet(output, *_scored_answers(output), count, seed)


def report(output: Path, paths: Sequence[Path], lower_is_better: Mapping[str, bool], seed: int) -> None:
    """Print what raters' sheets say together, and leave it in `rating_results.csv` and `rating_agreement.csv`.

    Args:
        lower_is_better: the metrics that are held against the raters.
    """
    if not (output / KEY).is_file():
        raise UserError(f"{output}: holds no {KEY}. `python evaluation.py --rating-sheet N` makes a sheet first.")
    base, tuned = _scored_answers(output)
    ratings = read_ratings(paths, files.read_json(output / KEY))
    results = summarise(ratings, dict(zip(base["id"], base["specialty"], strict=True)), seed)
    numbers = {name: lower for name, lower in lower_is_better.items() if name in base}
    metrics = agreement_of_metrics(ratings, base, tuned, numbers)
    for name, table in ((RESULTS, results), (AGREEMENT, metrics)):
        with files.atomic_open(output / name) as file:
            table.to_csv(file, index=False, float_format="%.6g")
    total, (kappa, common) = results.iloc[0], agreement(ratings)
    print(
        f"{total['ratings']} ratings of {total['questions']} questions by {ratings['rater'].nunique()}: tuned better {total['tuned_wins']}, "
        f"neither {total['ties']}, base better {total['base_wins']}\n"
        f"  net preference for the tuned model {total['net']:+.2f} (95% interval {total['ci_low']:+.2f} to {total['ci_high']:+.2f}, p {total['p']:.2g})"
    )
    if not math.isnan(kappa):
        print(f"  agreement between raters on {common} questions: Fleiss' kappa {kappa:.2f}")
    print("  metrics that prefer what raters prefer (half would be chance):")
    for _, row in metrics[metrics["questions"] > 0].iterrows():
        print(
            f"    {row['metric']:<22}{100 * row['agrees']:>4.0f}%   {100 * row['ci_low']:.0f} to {100 * row['ci_high']:.0f}%, {row['questions']} questions"
        )
    print(f"by specialty: {output / RESULTS}, metrics: {output / AGREEMENT}")


def _scored_answers(output: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables of a finished evaluation."""
    base, tuned = (comparison.read_csv(output / f"{name}_model_results.csv") for name in ("base", "finetuned"))
    return base, tuned


def write_sheet(folder: Path, base: pd.DataFrame, tuned: pd.DataFrame, count: int, seed: int) -> int:
    """Write the sheet (CSV and HTML) and, apart from it, the key that says whose answer is A; returns its questions.

    Questions are taken in turn from every specialty of the holdout, or of eval where there is no holdout; those that a
    model failed to answer, or that both answer alike, are left out, as there is nothing to choose.
    """
    from jinja2 import Environment, FileSystemLoader

    split = "holdout" if (base["split"] == "holdout").any() else "eval"
    usable = (base["split"] == split) & (base["finish_reason"] != "failed") & (tuned["finish_reason"] != "failed")
    usable &= base["prediction"] != tuned["prediction"]
    chosen = _in_turn(base.loc[usable, ["id", "specialty"]], count, seed)
    if not chosen:
        raise UserError("both models answer every question alike, so there is nothing to rate.")
    sheet, sides = secrets.token_hex(4), random.Random(secrets.randbits(64))
    rows, key = [], {}
    for number, place in enumerate(chosen, start=1):
        tuned_first = sides.random() < 0.5
        first, second = (tuned, base) if tuned_first else (base, tuned)
        key[str(number)] = {"id": str(base.at[place, "id"]), "a": "tuned" if tuned_first else "base"}
        rows.append(
            {"sheet": sheet, "number": number, "specialty": base.at[place, "specialty"], "question": base.at[place, "question"],
             "answer_a": first.at[place, "prediction"], "answer_b": second.at[place, "prediction"], "better": "", "comment": ""}
        )  # fmt: skip
    guarded = pd.DataFrame(rows, columns=list(COLUMNS))
    for name in ("specialty", "question", "answer_a", "answer_b"):
        guarded[name] = guarded[name].fillna("").map(files.csv_cell)
    with files.atomic_open(folder / SHEET) as file:
        guarded.to_csv(file, index=False)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    files.write_text(folder / PAGE, environment.get_template("rating_sheet.html.j2").render(sheet=sheet, rows=rows))
    files.write_json(folder / KEY, {"sheet": sheet, "questions": key})
    return len(rows)


def _in_turn(questions: pd.DataFrame, count: int, seed: int) -> list[Any]:
    """Up to `count` rows, the specialties taking turns."""
    queues = []
    for name, part in questions.groupby("specialty"):
        places = sorted(part.index, key=lambda place: hashlib.sha256(f"{seed}|{part.at[place, 'id']}".encode()).digest())
        queues.append((hashlib.sha256(f"{seed}|{name}".encode()).digest(), places))
    found: list[Any] = []
    queues.sort(key=lambda queue: queue[0])
    while len(found) < count and any(places for _, places in queues):
        found += [places.pop(0) for _, places in queues if places]
    return found[:count]


def read_ratings(paths: Sequence[Path], key: Mapping[str, Any]) -> pd.DataFrame:
    """A row a rating: rater (the file's name), id, and preference: 1 for the tuned model, -1 for the base, 0 for neither.

    Raises:
        UserError: names file and row of what is no rating of this sheet.
    """
    rows = []
    for path in paths:
        try:  # a spreadsheet may have saved it with semicolons or tabs
            wanted = [("sheet",), ("number",), ("better",)]
            read = list(
                foreign_files.Table.of(foreign_files.text_of(path), wanted=wanted, needs="sheet, number and better").rows()
            )
        except (OSError, UserError) as error:
            raise UserError(f"--ratings {path}: cannot be read as CSV ({error}).") from error
        for line, row in enumerate(read, start=2):
            if isinstance(row, str):
                raise UserError(f"{path}, line {line}: {row}.")
            if row.get("sheet") != key["sheet"] or row.get("number") not in key["questions"]:
                raise UserError(
                    f"{path}, line {line}: is not of the last rating sheet ({key['sheet']}). Give the files made from it."
                )
            better = (row.get("better") or "").strip().upper()
            if not better:
                continue
            if better not in CHOICES:
                raise UserError(f'{path}, line {line}: "better" is {better[:20]!r}, and must be A, B, = (or neither) or empty.')
            of = key["questions"][row["number"]]
            rows.append({"rater": path.stem, "id": of["id"], "preference": CHOICES[better] * (1 if of["a"] == "tuned" else -1)})
    if not rows:
        raise UserError("--ratings: no question is rated. Fill the column better with A, B or =.")
    ratings = pd.DataFrame(rows)
    if ratings.duplicated(["rater", "id"]).any():
        raise UserError("--ratings: two files have the same name, or one rates a question twice. Name each after its rater.")
    return ratings


def summarise(ratings: pd.DataFrame, specialty_of: Mapping[str, str], seed: int) -> pd.DataFrame:
    """`rating_results.csv`: wins of the tuned model over all and a specialty; raters of one question are averaged first.

    `net` is the mean preference, from -1 (always the base) to 1, with its 95% interval.
    """
    mean = ratings.groupby("id")["preference"].mean()
    strata = [specialty_of[name] for name in mean.index]
    overall = significance.stratified(list(mean), strata, test=True, seed=seed).within(-1, 1)
    rows = [
        _counts("(all)", ratings, mean) | {"net": overall.mean, "ci_low": overall.low, "ci_high": overall.high, "p": overall.p}
    ]
    for name in sorted(set(strata)):
        ids = [one for one in mean.index if specialty_of[one] == name]
        estimate = significance.paired(list(mean[ids]), seed).within(-1, 1)
        mine = ratings[ratings["id"].isin(ids)]
        rows.append(
            _counts(name, mine, mean[ids])
            | {"net": estimate.mean, "ci_low": estimate.low, "ci_high": estimate.high, "p": estimate.p}
        )
    return pd.DataFrame(rows)


def _counts(name: str, ratings: pd.DataFrame, mean: pd.Series) -> dict[str, Any]:
    chosen = ratings["preference"]
    return {"specialty": name, "questions": len(mean), "ratings": len(ratings), "tuned_wins": int((chosen > 0).sum()),
            "ties": int((chosen == 0).sum()), "base_wins": int((chosen < 0).sum())}  # fmt: skip


def agreement(ratings: pd.DataFrame) -> tuple[float, int]:
    """Fleiss' kappa over questions that every rater rated, and their number; NaN with one rater."""
    from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

    table = ratings.pivot(index="id", columns="rater", values="preference").dropna()
    if table.shape[1] < 2 or table.empty:
        return float("nan"), len(table)
    counts, _ = aggregate_raters(table.to_numpy(int))
    return float(fleiss_kappa(counts)), len(table)


def agreement_of_metrics(
    ratings: pd.DataFrame, base: pd.DataFrame, tuned: pd.DataFrame, metrics: Mapping[str, bool]
) -> pd.DataFrame:
    """`rating_agreement.csv`: how often a metric prefers the answer that raters prefer, with a Wilson interval.

    Questions on which raters are even say nothing; a metric that is even counts half.

    Args:
        metrics: name to whether less is better.
    """
    from statsmodels.stats.proportion import proportion_confint

    mean = ratings.groupby("id")["preference"].mean()
    mean = mean[mean != 0]
    left, right = (table.set_index("id") for table in (base, tuned))
    rows = []
    for name, lower in metrics.items():
        change = (right.loc[mean.index, name] - left.loc[mean.index, name]) * (-1 if lower else 1)
        known = change.notna()
        agreed = np.where(change[known] == 0, 0.5, np.sign(change[known]) == np.sign(mean[known])).sum()
        low, high = proportion_confint(agreed, int(known.sum()), method="wilson") if known.any() else (np.nan, np.nan)
        rows.append({"metric": name, "questions": int(known.sum()), "agrees": agreed / known.sum() if known.any() else np.nan,
                     "ci_low": low, "ci_high": high})  # fmt: skip
    return pd.DataFrame(rows).sort_values("agrees", ascending=False, kind="stable")
