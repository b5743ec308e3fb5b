"""Stores answers, and strips their thinking blocks for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from meerkat_workbench.core import files, runs
from meerkat_workbench.core.jsonl_store import JsonlStore
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.artifacts import Finish, Prediction
from meerkat_workbench.tuning.generation.questions import Question

EMPTY_THINKING = "(empty)"  # in place of an empty thinking block, so that it is counted


def strip_thinking(prediction: Prediction, prompt: str) -> Prediction:
    """The answer as it is scored: without a leading `<think>…</think>`, which moves to `reasoning`.

    If the block was never closed, there is no answer, and the text is empty. The thinking also ends at `</think>` if the template
    opened the block for the model, or if a server left its start out.
    """
    text = prediction.text.lstrip()
    opened = text.startswith(chat.THINK) or prompt.rstrip().endswith(chat.THINK)
    reasoning, closed, rest = text.partition(chat.END_OF_THINKING)
    if not opened and not closed:
        return prediction
    reasoning = reasoning.removeprefix(chat.THINK).strip()
    return msgspec.structs.replace(
        prediction, text=rest.strip() if closed else "", reasoning=reasoning or EMPTY_THINKING, thinking_unfinished=not closed
    )


class PredictionStore(JsonlStore[Prediction]):
    """The store of `predictions.jsonl`. A failed answer stays in it until a new answer replaces it."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        super().__init__(folder, Path(Prediction.FILE).stem, Prediction, rank)

    def lacks(self, key: str) -> bool:
        return key not in self.records or self.records[key].finish == Finish.FAILED

    def _takes(self, record: Prediction) -> bool:
        return self.lacks(record.key) and (record.finish != Finish.FAILED or record.key not in self.records)


def archived_files(folder: Path, name: str = Prediction.FILE) -> list[Path]:
    """Files of answers (or of other records) of the archived evaluations in a folder."""
    return [path / name for path in runs.archived(folder) if (path / name).is_file()]


def stored_keys(folder: Path, name: str = Prediction.FILE) -> set[str]:
    """Keys of every answer (or other record) in a folder, including those of archived evaluations."""
    paths = [folder / name, *archived_files(folder, name)]
    return {row["key"] for path in paths for _, _, row in files.json_lines(path, drop_torn_tail=True)}


def check_complete(questions: Sequence[Question], keys: Sequence[str], store: PredictionStore, system: str) -> None:
    """Raise RuntimeError unless every question has an answer; a missing one is a bug of ours."""
    missing = [question.id for question, key in zip(questions, keys, strict=True) if key not in store.records]
    if missing:
        raise RuntimeError(f"{len(missing)} questions have no answer from {system}; the first is {missing[0]}")
