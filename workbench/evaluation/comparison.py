"""Scores to tables: base against tuned, by metric and by specialty, each difference with its interval."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench import files, texts
from workbench.errors import UserError
from workbench.evaluation import answer_checks, significance
from workbench.evaluation.metrics import MetricSuite, Table

SPLITS = ("holdout", "eval")
# columns of texts: a specialty called "01" or "NA" is no number and no missing value
TEXTS = ("id", "split", "specialty", "question", "reference", "prediction", "reasoning", "finish_reason", "error", "metric", "signature",
         "missing", "verdict", "check", "says", "model", "evaluation", "alike", "adapter", "recipe", "finished")  # fmt: skip


def answers_table(questions: Sequence[Any], answers: Sequence[Any], scores: Table) -> pd.DataFrame:
    """A row a question: what was asked, what was answered and how it ended, every check (`answer_checks`) and metric."""
    rows = [
        {"id": q.id, "split": q.split, "specialty": q.specialty, "question": q.question, "reference": q.reference,
         "prediction": a.text, "finish_reason": a.finish, "tokens": a.tokens, "error": a.error,
         "reasoning": a.reasoning, **answer_checks.check(q.reference, a.text, a.finish, thinking_unfinished=a.thinking_unfinished)}
        for q, a in zip(questions, answers, strict=True)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    for name, values in scores.scores.items():
        table[name] = pd.array(values, dtype="Float64").to_numpy(dtype=float, na_value=np.nan)
    return table


def write_csv(table: pd.DataFrame, file: Any, *, header: bool = True) -> None:
    """CSV in which no text of a model or a file is run as a formula by a spreadsheet."""
    guarded = table.copy()
    for name in guarded.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in guarded.dtypes]]:
        guarded[name] = guarded[name].map(files.csv_cell)
    for name in guarded.columns[[pd.api.types.is_float_dtype(kind) for kind in guarded.dtypes]]:
        guarded[name] = guarded[name].map(lambda value: float(f"{value:.6g}"))
    # texts in quotes: a carriage return outside of them would end the row. (pandas would quote numbers too, were they given a format.)
    guarded.to_csv(file, index=False, header=header, quoting=csv.QUOTE_NONNUMERIC)


def read_csv(path: Path) -> pd.DataFrame:
    """A table that `write_csv` wrote, its texts as they were given to it; UserError with the remedy where it is broken."""
    try:
        names = pd.read_csv(path, nrows=0).columns
        there = [name for name in TEXTS if name in names]
        table = pd.read_csv(path, dtype=dict.fromkeys(there, str), keep_default_na=False, na_values=[""])
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path}: cannot be read ({error}). Restore it, or remove the folder that it stands in.") from None
    if not isinstance(table.index, pd.RangeIndex) or names.duplicated().any():
        raise UserError(f"{path}: has rows with more fields than its header. Restore it, or remove the folder that it stands in.")
    for name in there:
        table[name] = table[name].fillna("").map(files.from_csv_cell)
    return table


def _pairs(base: pd.DataFrame, tuned: pd.DataFrame, split: str, metric: str) -> pd.DataFrame:
    """Questions of a split on which both arms have a score, with the columns specialty, base and tuned."""
    here = base["split"] == split
    pairs = pd.DataFrame({"specialty": base["specialty"], "base": base[metric], "tuned": tuned[metric]})[here]
    return pairs.dropna(subset=["base", "tuned"])


def verdict(low: float, high: float, suite: MetricSuite, metric: str) -> str:
    """better, worse or within noise: what the interval of a difference allows to say; nothing of a metric that describes."""
    if suite.describes(metric):
        return ""
    if suite.lower_is_better(metric):
        low, high = -high, -low
    return "better" if low > 0 else "worse" if high < 0 else "within noise"


def by_metric(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    suite: MetricSuite,
    scores: Table,
    floor: tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]],
    seed: int,
) -> pd.DataFrame:
    """`model_comparison.csv`: a row a split and metric.

    Args:
        floor: of base and tuned, each split to metric to floor.
    """
    rows = []
    for split in SPLITS:
        if not (base["split"] == split).any():
            continue
        for metric in suite.names():
            pairs = _pairs(base, tuned, split, metric)
            strata = list(pairs["specialty"])
            least, most = suite.bounds(metric)
            difference = significance.stratified(list(pairs["tuned"] - pairs["base"]), strata, test=True, seed=seed)
            difference = difference.within(least - most, most - least)
            arms = {arm: significance.stratified(list(pairs[arm]), strata).within(least, most) for arm in ("base", "tuned")}
            rows.append(
                {"split": split, "metric": metric, "n": difference.n, "base": arms["base"].mean, "tuned": arms["tuned"].mean,
                 "difference": difference.mean, "ci_low": difference.low, "ci_high": difference.high, "p": difference.p,
                 "base_low": arms["base"].low, "base_high": arms["base"].high,
                 "tuned_low": arms["tuned"].low, "tuned_high": arms["tuned"].high,
                 "floor_base": floor[0].get(split, {}).get(metric, math.nan),
                 "floor_tuned": floor[1].get(split, {}).get(metric, math.nan),
                 "verdict": verdict(difference.low, difference.high, suite, metric),
                 "lower_is_better": suite.lower_is_better(metric), "signature": scores.signatures.get(metric, ""),
                 "missing": scores.missing.get(metric, "")}
            )  # fmt: skip
    return pd.DataFrame(rows)


def by_check(base: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """`answer_checks.csv`: a row a split and check: answers that fail it, by model, and those of one model only.

    Checks that look for English words are made where the reference is not in another language.

    p is two-sided for "as often in either", from the questions on which the two differ (McNemar's test, exact); `p_adjusted`
    over the checks (Benjamini-Hochberg).
    """
    rows: list[dict[str, Any]] = []
    for split in SPLITS:
        here = (base["split"] == split) & (base["finish_reason"] != "failed") & (tuned["finish_reason"] != "failed")
        if not here.any():
            continue
        found: list[dict[str, Any]] = []
        in_english = base["reference"].map(texts.english).ne(False)
        for check, says in answer_checks.CHECKS.items():
            looked_at = here & in_english if check in answer_checks.ENGLISH_ONLY else here
            if not looked_at.any():
                continue
            left, right = base.loc[looked_at, check].to_numpy(bool), tuned.loc[looked_at, check].to_numpy(bool)
            only_base, only_tuned = int((left & ~right).sum()), int((right & ~left).sum())
            found.append(
                {"split": split, "check": check, "says": says, "n": int(looked_at.sum()), "base": int(left.sum()),
                 "tuned": int(right.sum()), "only_base": only_base, "only_tuned": only_tuned,
                 "p": significance.mcnemar_p(only_base, only_tuned)}
            )  # fmt: skip
        adjusted = significance.false_discovery_adjusted([row["p"] for row in found])
        rows += [{**row, "p_adjusted": p} for row, p in zip(found, adjusted, strict=True)]
    return pd.DataFrame(
        rows, columns=["split", "check", "says", "n", "base", "tuned", "only_base", "only_tuned", "p", "p_adjusted"]
    )


def by_specialty(base: pd.DataFrame, tuned: pd.DataFrame, suite: MetricSuite, seed: int) -> pd.DataFrame:
    """`specialty_performance.csv`: a row a split, metric and specialty.

    p values are adjusted over the specialties (Benjamini-Hochberg); `shrunk` is the difference drawn toward that of all
    specialties, and `detectable` the smallest difference that one specialty alone would have shown after that correction.
    """
    rows = []
    for split in SPLITS:
        specialties = sorted(base.loc[base["split"] == split, "specialty"].unique())
        for metric in suite.names():
            pairs = _pairs(base, tuned, split, metric)
            least, most = suite.bounds(metric)
            found, differences = [], []
            for specialty in specialties:
                mine = pairs[pairs["specialty"] == specialty]
                values = (mine["tuned"] - mine["base"]).to_numpy(float)
                differences.append(values)
                difference = significance.paired(values.tolist(), seed).within(least - most, most - least)
                arms = {arm: significance.mean_interval(list(mine[arm])).within(least, most) for arm in ("base", "tuned")}
                sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
                found.append(
                    {"split": split, "metric": metric, "specialty": specialty, "n": difference.n, "base": arms["base"].mean,
                     "tuned": arms["tuned"].mean, "difference": difference.mean, "ci_low": difference.low,
                     "ci_high": difference.high, "p": difference.p, "tuned_low": arms["tuned"].low,
                     "tuned_high": arms["tuned"].high, "detectable": significance.smallest_detectable(sd, difference.n, len(specialties)),
                     "lower_is_better": suite.lower_is_better(metric)}
                )  # fmt: skip
            adjusted = significance.false_discovery_adjusted([row["p"] for row in found])
            shrunk = _shrunk(differences)
            for row, p_adjusted, drawn in zip(found, adjusted, shrunk, strict=True):
                says = verdict(row["ci_low"], row["ci_high"], suite, metric)
                known = p_adjusted <= significance.ALPHA or not says
                rows.append({**row, "p_adjusted": p_adjusted, "shrunk": drawn, "verdict": says if known else "within noise"})
    return pd.DataFrame(rows)


def _shrunk(groups: Sequence[np.ndarray]) -> list[float]:
    """Of each group its mean, shrunk; NaN where it has no value, or there are not two groups that have."""
    there = [place for place, group in enumerate(groups) if len(group)]
    found = [math.nan] * len(groups)
    if len(there) > 1:
        variance = max(significance.pooled_variance(groups), 1e-12)
        means = np.array([groups[place].mean() for place in there])
        shrunk, _ = significance.shrink(means, variance / np.array([len(groups[place]) for place in there]))
        for place, value in zip(there, shrunk, strict=True):
            found[place] = float(value)
    return found
