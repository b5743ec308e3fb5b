"""`history.csv`: this iteration beside the earlier ones, each paired with the one before on the same questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench import files, manifest
from workbench.errors import UserError
from workbench.evaluation import significance
from workbench.evaluation.comparison import SPLITS

if TYPE_CHECKING:
    from workbench.evaluation.answering import Asked
    from workbench.evaluation.metrics import MetricSuite

NAME, ANSWERS = "history.csv", "finetuned_model_results.csv"
TAKEN = ("split", "metric", "n", "base", "tuned", "tuned_low", "tuned_high", "difference", "ci_low", "ci_high")
COLUMNS = ("iteration", "finished", "evaluation", "alike", "adapter", "train", *TAKEN, "change", "change_low", "change_high",
           "change_p")  # fmt: skip


def alike(config: Mapping[str, Any], suite: MetricSuite, base: Asked) -> str:
    """What two evaluations must share for their scores to be comparable: prompts, base, and how was asked and scored.

    Args:
        base: the base as it was asked; earlier evaluations of another base or prompt are not alike.
    """
    counted = ("MAX_NEW_TOKENS", "TEMPERATURE", "RANDOM_SEED", "BERTSCORE_MODEL", "ENDPOINT")
    prompts = sorted((question.split, question.id, question.prompt) for question in base.questions if question.split in SPLITS)
    how = {name: config.get(name) for name in counted}
    # a server's arm carries the adapter in its identity, which changes with each iteration
    identity = base.arm.served_as if base.arm.kind == "endpoint" else base.arm.identity
    return files.sha256_of([how, prompts, suite.lexicon_hash(), identity])[:12]


def extend(output: Path, comparison: pd.DataFrame, tuned: pd.DataFrame, about: dict[str, Any]) -> pd.DataFrame:
    """The earlier evaluations of this folder that can be compared, oldest first, and this one.

    Args:
        comparison: `model_comparison.csv` of this evaluation.
        tuned: its answers, a row a question.
        about: `iteration`, `finished`, `evaluation` (fingerprint), `alike`, `adapter`, `train` (records trained on).
    """
    known = [table for table in _earlier(output) if (table["alike"] == about["alike"]).all()]
    # an evaluation done again, with another metric for example, stands in place of what it gave before
    before = pd.concat(known, ignore_index=True) if known else pd.DataFrame(columns=list(COLUMNS))
    before = before[(before["adapter"] != about["adapter"]) & (before["iteration"] <= about["iteration"])]
    before = before.drop_duplicates(["adapter", "split", "metric"], keep="last")
    rows = comparison.loc[comparison["missing"] == "", list(TAKEN)].assign(**about).reset_index(drop=True)
    now = rows.join(_changes(rows, tuned, _answers_of(output, before)))[list(COLUMNS)]
    return (pd.concat([before, now], ignore_index=True) if len(before) else now).sort_values(
        ["iteration", "finished"], kind="stable", ignore_index=True
    )


def _archived(output: Path) -> list[tuple[str, Path]]:
    """Fingerprint and folder of each finished evaluation in the archive, the oldest first."""
    found = [(manifest.read(folder), folder) for folder in output.glob(f"{files.ARCHIVE_NAME}/*")]
    finished = [(done["finished"], done["fingerprint"], folder) for done, folder in found if done]
    return [(fingerprint, folder) for _, fingerprint, folder in sorted(finished)]


def _earlier(output: Path) -> Iterator[pd.DataFrame]:
    """Histories of the archived evaluations, the oldest first."""
    for _, folder in _archived(output):
        if (folder / NAME).is_file():
            yield _table(folder / NAME, COLUMNS)


def _answers_of(output: Path, before: pd.DataFrame) -> pd.DataFrame | None:
    """The scored answers of the last of these evaluations, where its folder still holds them."""
    if before.empty:
        return None
    last = before.sort_values(["iteration", "finished"])["evaluation"].iloc[-1]
    for fingerprint, folder in _archived(output):
        if fingerprint == last and (folder / ANSWERS).is_file():
            return _table(folder / ANSWERS, ("id", "split", "specialty"))
    return None


def _changes(rows: pd.DataFrame, tuned: pd.DataFrame, previous: pd.DataFrame | None) -> pd.DataFrame:
    """Of each row, the paired change of the tuned model's score since the evaluation before; NaN where there is none."""
    both = None if previous is None else tuned.merge(previous, on=["id", "split"], suffixes=("", " before"))
    found = []
    for split, metric in zip(rows["split"], rows["metric"], strict=True):
        estimate = significance.mean_interval([])
        if both is not None and f"{metric} before" in both:
            pairs = both[both["split"] == split].dropna(subset=[metric, f"{metric} before"])
            difference = (pairs[metric] - pairs[f"{metric} before"]).tolist()
            estimate = significance.stratified(difference, pairs["specialty"].tolist(), test=True)
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
    try:
        table = pd.read_csv(path, dtype={"id": str, "evaluation": str, "alike": str, "adapter": str})
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path}: cannot be read ({error}). Restore it, or remove the folder that it stands in.") from None
    if lacking := [name for name in columns if name not in table]:
        raise UserError(f"{path}: lacks the column {lacking[0]}. Restore it, or remove the folder that it stands in.")
    return table


def as_text(table: pd.DataFrame, metric: str) -> str:
    """A line an iteration: records trained on, score with its interval, and the change since the one before."""
    shown = table[table["metric"] == metric]
    lines = []
    for split, rows in shown.groupby("split", sort=False):
        lines.append(f"{metric} on {split:<8}  trained on   base   tuned   95% interval       since the one before, 95% interval")
        for row in rows.to_dict("records"):
            change = (
                "–" if pd.isna(row["change"]) else f"{row['change']:+.3f}   {row['change_low']:+.3f} to {row['change_high']:+.3f}"
            )
            lines.append(
                f"  iteration {row['iteration']:<10}{row['train']:>10,}{row['base']:>8.3f}{row['tuned']:>8.3f}   "
                f"{row['tuned_low']:.3f} to {row['tuned_high']:.3f}     {change}"
            )
    return "\n".join(lines)
