"""`history.csv`: this iteration beside the earlier ones, each paired with the one before on the same questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench import files, manifest
from workbench.errors import UserError
from workbench.evaluation import metrics, significance
from workbench.evaluation.comparison import read_csv

if TYPE_CHECKING:
    from workbench.evaluation.arms import Arm
    from workbench.evaluation.metrics import MetricSuite

Bounds = Callable[[str], tuple[float, float]]  # of a metric by its name
NAME, ANSWERS = "history.csv", "finetuned_model_results.csv"
TAKEN = ("split", "metric", "n", "base", "tuned", "tuned_low", "tuned_high", "difference", "ci_low", "ci_high")
# share of all records but the holdout that is used; seconds and tokens of training, seconds of the evaluation
SPENT = ("share", "train_seconds", "train_tokens", "seconds")
LATER = (*SPENT, "recipe")  # columns that evaluations of earlier versions lack
COLUMNS = ("iteration", "finished", "evaluation", "alike", "adapter", "recipe", "train", *SPENT, *TAKEN, "change", "change_low", "change_high",
           "change_p")  # fmt: skip


def alike(config: Mapping[str, Any], suite: MetricSuite, series: Any, base: Arm) -> str:
    """What two evaluations must share for their scores to be comparable: prompts, base, and how was asked and scored.

    Which questions were asked may differ, as where a specialty came in between: changes are paired question by question.

    Args:
        series: of the data: which fixed sets it began with, and how a question is put, system message included.
        base: earlier evaluations of another base are not alike.
    """
    how = {name: config.get(name) for name in ("MAX_NEW_TOKENS", "TEMPERATURE", "RANDOM_SEED", "BERTSCORE_MODEL", "ENDPOINT")}
    # a server's arm carries the adapter in its identity, which changes with each iteration
    return files.sha256_of([how, series, suite.lexicon_hash(), base.served_as if base.kind == "endpoint" else base.identity])[:12]


def extend(
    output: Path, comparison: pd.DataFrame, tuned: pd.DataFrame, about: dict[str, Any], bounds: Bounds = metrics.bounds_of
) -> pd.DataFrame:
    """The earlier evaluations of this folder that can be compared, oldest first, and this one.

    Args:
        comparison: `model_comparison.csv` of this evaluation.
        tuned: its answers, a row a question.
        about: `iteration`, `finished`, `evaluation` (fingerprint), `alike`, `adapter`, `recipe` (of its training), `train` (records
            trained on), and `SPENT`.
        bounds: the least and the most that a metric can be.
    """
    known = [table for table in _earlier(output) if (table["alike"] == about["alike"]).all()]
    # an evaluation done again, with another metric for example, stands in place of what it gave before
    before = pd.concat(known, ignore_index=True) if known else pd.DataFrame(columns=list(COLUMNS))
    before = before[(before["adapter"] != about["adapter"]) & (before["iteration"] <= about["iteration"])]
    before = before.drop_duplicates(["adapter", "split", "metric"], keep="last")
    rows = comparison.loc[comparison["missing"] == "", list(TAKEN)].assign(**about).reset_index(drop=True)
    now = rows.join(_changes(rows, tuned, _answers_of(output, before), bounds))[list(COLUMNS)]
    return (pd.concat([before, now], ignore_index=True) if len(before) else now).sort_values(
        ["iteration", "finished"], kind="stable", ignore_index=True
    )


def _archived(output: Path) -> list[tuple[str, Path]]:
    """Fingerprint and folder of each finished evaluation in the archive that has a history, the oldest first."""
    found = [(manifest.read(folder), folder) for folder in output.glob(f"{files.ARCHIVE_NAME}/*")]
    finished = [(done["finished"], done["fingerprint"], folder) for done, folder in found if done and (folder / NAME).is_file()]
    return [(fingerprint, folder) for _, fingerprint, folder in sorted(finished)]


def _earlier(output: Path) -> Iterator[pd.DataFrame]:
    """Histories of the archived evaluations, the oldest first."""
    for _, folder in _archived(output):
        yield _table(folder / NAME, COLUMNS)


def _answered(output: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """Of each archived evaluation that still holds its scored answers: a line of its own in its history, and their file."""
    for fingerprint, folder in _archived(output):
        if (folder / ANSWERS).is_file():
            rows = _table(folder / NAME, COLUMNS)
            for row in rows[rows["evaluation"] == fingerprint].head(1).to_dict("records"):
                yield {str(name): value for name, value in row.items()}, folder / ANSWERS


def _answers(path: Path) -> pd.DataFrame:
    return _table(path, ("id", "split", "specialty"))


def _answers_of(output: Path, before: pd.DataFrame) -> pd.DataFrame | None:
    """The scored answers of the last of these evaluations, where its folder still holds them."""
    if before.empty:
        return None
    last = before.sort_values(["iteration", "finished"])["evaluation"].iloc[-1]
    return next((_answers(path) for row, path in _answered(output) if row["evaluation"] == last), None)


def answers_before(output: Path, about: Mapping[str, Any]) -> list[tuple[int, pd.DataFrame]]:
    """Iteration and scored answers of every earlier evaluation of the same training recipe that compares with this one, oldest first.

    Args:
        about: `iteration`, `alike`, `adapter` and `recipe` of this evaluation.
    """
    found = {}
    for row, path in _answered(output):
        same = all(row[name] == about[name] for name in ("alike", "recipe"))
        if same and row["adapter"] != about["adapter"] and row["iteration"] <= about["iteration"]:
            found[row["adapter"]] = (int(row["iteration"]), path)  # the latest of an adapter that was evaluated twice
    earlier = sorted(found.values(), key=lambda item: item[0])
    return [(iteration, _answers(path)) for iteration, path in earlier]


def _changes(rows: pd.DataFrame, tuned: pd.DataFrame, previous: pd.DataFrame | None, bounds: Bounds) -> pd.DataFrame:
    """Of each row, the paired change of the tuned model's score since the evaluation before; NaN where there is none."""
    both = None if previous is None else tuned.merge(previous, on=["id", "split"], suffixes=("", " before"))
    found = []
    for split, metric in zip(rows["split"], rows["metric"], strict=True):
        estimate = significance.mean_interval([])
        if both is not None and f"{metric} before" in both:
            pairs = both[both["split"] == split].dropna(subset=[metric, f"{metric} before"])
            difference = (pairs[metric] - pairs[f"{metric} before"]).tolist()
            estimate = significance.stratified(difference, pairs["specialty"].tolist(), test=True)
            least, most = bounds(metric)
            estimate = estimate.within(least - most, most - least)
        found.append((estimate.mean, estimate.low, estimate.high, estimate.p))
    return pd.DataFrame(found, columns=["change", "change_low", "change_high", "change_p"])


def read(output: Path) -> pd.DataFrame:
    """`history.csv` of a finished evaluation."""
    path = output / NAME
    if not path.is_file():
        raise UserError(f"{path}: there is no such file. A finished `python evaluation.py` leaves it.")
    return _table(path, COLUMNS)


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file of ours that has these columns; UserError with the remedy where it is broken."""
    table = read_csv(path)
    for name in LATER:
        if name in columns and name not in table:
            table[name] = math.nan
    if lacking := [name for name in columns if name not in table]:
        raise UserError(f"{path}: lacks the column {lacking[0]}. Restore it, or remove the folder that it stands in.")
    return table


def as_text(table: pd.DataFrame, metric: str) -> str:
    """A line an iteration: what was trained on and spent, score with its interval, and the change since the one before."""
    shown = table[table["metric"] == metric]
    lines = []
    for split, rows in shown.groupby("split", sort=False):
        lines.append(
            f"{metric} on {split:<8}  trained on  share    tokens   minutes  asked    base   tuned   95% interval       since the one before, 95% interval"
        )
        for row in rows.to_dict("records"):
            change = (
                "–" if pd.isna(row["change"]) else f"{row['change']:+.3f}   {row['change_low']:+.3f} to {row['change_high']:+.3f}"
            )
            lines.append(
                f"  iteration {row['iteration']:<9}{row['train']:>9,}{_or_dash(row['share'], '.2f'):>7}{_or_dash(row['train_tokens'], ',.0f'):>10}"
                f"{_or_dash((row['train_seconds'] + row['seconds']) / 60, '.1f'):>10}{row['n']:>7,}{row['base']:>8.3f}{row['tuned']:>8.3f}   "
                f"{row['tuned_low']:.3f} to {row['tuned_high']:.3f}     {change}"
            )
    return "\n".join(lines)


def _or_dash(value: float, form: str) -> str:
    return "–" if pd.isna(value) else format(value, form)
