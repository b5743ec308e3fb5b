"""The table of a system's scored answers: a row for each question, with every check and metric."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from meerkat_workbench.core import files
from meerkat_workbench.output import tables
from meerkat_workbench.tuning.artifacts import Finish, answers_file
from meerkat_workbench.tuning.scoring.answer_checks import CHECKS

ROWS_AT_ONCE = 5000  # rows formatted at a time when the table is written


class Column(enum.StrEnum):
    """Columns of a table of answers; columns of checks and metrics come after them."""

    ID = "id"
    SPLIT = "split"
    SPECIALTY = "specialty"
    QUESTION = "question"
    REFERENCE = "reference"
    PREDICTION = "prediction"
    REASONING = "reasoning"
    FINISH = "finish_reason"
    TOKENS = "tokens"
    ERROR = "error"


TEXT_COLUMNS = frozenset(Column) - {Column.TOKENS}


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A question with a system's answer, for people to read."""

    id: str
    split: str
    specialty: str
    question: str
    reference: str
    prediction: str
    finish: str


class AnswerTable:
    """The table of one system (`base_model_results.csv`, `finetuned_model_results.csv`, …) as a data frame with named columns."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame

    @classmethod
    def read(cls, folder: Path, system: str) -> AnswerTable:
        """Read a system's table from a finished evaluation."""
        return cls(tables.read_frame(folder / answers_file(system), TEXT_COLUMNS))

    def write(self, folder: Path, system: str) -> None:
        with files.atomic_open(folder / answers_file(system)) as file:
            for start in range(0, max(1, len(self.frame)), ROWS_AT_ONCE):
                tables.write_frame(self.frame.iloc[start : start + ROWS_AT_ONCE], file, header=start == 0)

    def __len__(self) -> int:
        return len(self.frame)

    def __iter__(self) -> Iterator[AnsweredQuestion]:
        names = (Column.ID, Column.SPLIT, Column.SPECIALTY, Column.QUESTION, Column.REFERENCE, Column.PREDICTION, Column.FINISH)
        for row in zip(*(self.frame[name] for name in names), strict=True):
            yield AnsweredQuestion(*row)

    # --- columns

    @property
    def ids(self) -> pd.Series:
        return self.frame[Column.ID].astype(str)

    @property
    def splits(self) -> pd.Series:
        return self.frame[Column.SPLIT]

    @property
    def specialties(self) -> pd.Series:
        return self.frame[Column.SPECIALTY]

    @property
    def references(self) -> pd.Series:
        return self.frame[Column.REFERENCE]

    @property
    def predictions(self) -> pd.Series:
        return self.frame[Column.PREDICTION]

    @property
    def failed(self) -> pd.Series:
        """Whether an answer failed, (rows,)."""
        return self.frame[Column.FINISH] == Finish.FAILED

    @property
    def with_reasoning(self) -> int:
        """Number of answers that begin with a thinking block."""
        return int((self.frame[Column.REASONING] != "").sum())

    def has_metric(self, name: str) -> bool:
        return name in self.frame

    @property
    def metrics(self) -> list[str]:
        """Names of the columns that are metrics: numbers that are neither a check nor a count of tokens."""
        others = {*map(str, Column), *CHECKS}
        return [
            name for name in self.frame.columns if name not in others and pd.api.types.is_numeric_dtype(self.frame[name].dtype)
        ]

    def scores(self, metric: str) -> pd.Series:
        """A metric's value for each answer, (rows,); NaN if it has none."""
        return self.frame[metric]

    def fails(self, check: str) -> np.ndarray:
        """Whether each answer fails a check (`answer_checks.CHECKS`), (rows,) of bool."""
        return self.frame[check].to_numpy(bool)

    def score_matrix(self, metrics: Sequence[str]) -> np.ndarray:
        """Values of metrics, (rows, metrics) of float."""
        return self.frame[list(metrics)].to_numpy(float)

    def check_matrix(self) -> np.ndarray:
        """Whether each answer fails each check, (rows, checks) of bool, in the order of `CHECKS`."""
        return self.frame[list(CHECKS)].to_numpy(bool)

    # --- parts

    def where(self, mask: Any) -> AnswerTable:
        """The rows that a boolean mask selects."""
        return AnswerTable(self.frame[mask])

    def rows(self, indices: Sequence[int]) -> AnswerTable:
        """The rows at these indices, in this order."""
        return AnswerTable(self.frame.iloc[list(indices)])

    def of_split(self, split: str) -> AnswerTable:
        return self.where(self.splits == split)

    def answered(self) -> AnswerTable:
        """The rows whose answer did not fail."""
        return self.where(~self.failed)

    def scores_by_specialty(self, metric: str) -> dict[str, list[float]]:
        """A metric's values by specialty, without those that are missing."""
        scored = self.frame[self.scores(metric).notna()]
        return {str(name): rows[metric].tolist() for name, rows in scored.groupby(Column.SPECIALTY)}

    def with_scores(self, scores: Mapping[str, Sequence[float]]) -> AnswerTable:
        """The same table with further metrics; `scores` maps the name of a metric to a value for each row."""
        return AnswerTable(self.frame.assign(**{str(name): list(values) for name, values in scores.items()}))

    def with_renamed_specialties(self, renamed: Mapping[str, str]) -> AnswerTable:
        """The same table with other names of specialties; `renamed` maps old names to new."""
        if not renamed:
            return self
        return AnswerTable(self.frame.assign(**{Column.SPECIALTY: self.specialties.replace(dict(renamed))}))


def paired_changes(now: AnswerTable, before: AnswerTable, split: str, metric: str) -> tuple[list[float], list[str]]:
    """Change of a metric on each question of a split for which both tables have a value, and the specialty of each."""
    scores_now, scores_before = (
        pd.DataFrame({"id": table.ids, "score": table.scores(metric), "specialty": table.specialties})
        for table in (now.of_split(split), before.of_split(split))
    )
    both = scores_now.merge(scores_before, on="id", suffixes=("", "_before")).dropna(subset=["score", "score_before"])
    return (both["score"] - both["score_before"]).tolist(), both["specialty"].tolist()
