"""Every answer scored, a chunk at a time: the texts held in memory do not grow with the questions.

Scores are few bytes an answer and stay in memory; questions, references and answers stand in an Arrow file that is mapped into memory and
is gone when the tables are. The tables read like any other.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from workbench.evaluation import comparison, text_metrics
from workbench.evaluation.answers import Answer, Question
from workbench.evaluation.metrics import MEASURED, NO_VALUE, MetricSuite, Table, shuffled_within

CHUNK = 5000  # answers scored at once
TEXTS = ("question", "reference", "prediction", "reasoning", "error")
SCHEMA = pa.schema([(name, pa.string()) for name in TEXTS])
Scored = tuple[Question, Answer, float | None]  # the last is the base's loss on the answer


def score(suite: MetricSuite, answers: Iterable[Scored], folder: Path) -> tuple[pd.DataFrame, Table]:
    """A row a question with every check and metric, and what is to be said of the metrics.

    Args:
        answers: in the order of the rows.
        folder: where the texts may stand while the table is in use.

    Returns:
        The table, and a `Table` without scores: these are the table's columns.
    """
    said, frames = Table(), []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".texts-") as temporary:
        path = Path(temporary) / "texts.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
            for chunk in _chunks(answers):
                pairs = [
                    None if answer.finish == "failed" else (question.reference, answer.text) for question, answer, _ in chunk
                ]
                scores = suite.score(pairs, measured={"log_perplexity": [loss for _, _, loss in chunk]})
                said.missing |= scores.missing
                said.signatures |= scores.signatures
                said.notes = scores.notes  # the last says it of all
                frame = comparison.answers_table([q for q, _, _ in chunk], [a for _, a, _ in chunk], scores)
                writer.write_table(pa.Table.from_pandas(frame[list(TEXTS)], schema=SCHEMA, preserve_index=False))
                frames.append(frame.drop(columns=list(TEXTS)).copy())  # a view would hold the texts
        # mapped, and held by the mapping alone once the folder is gone
        texts = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    table = pd.concat(frames, ignore_index=True)
    for name in _missing(said, table):
        table[name] = np.nan
    for name in suite.names():
        if name in table and name not in said.missing and table[name].isna().all() and (table["finish_reason"] != "failed").any():
            said.missing[name] = NO_VALUE.get(name, "it gave no value for any answer")
    order = ["id", "split", "specialty", "question", "reference", "prediction", "reasoning", "finish_reason", "tokens", "error"]
    for name in TEXTS:
        table[name] = pd.Series(pd.arrays.ArrowExtensionArray(texts[name]))
    return table[[*order, *(name for name in table.columns if name not in order)]], said


def _chunks(answers: Iterable[Scored]) -> Iterator[list[Scored]]:
    rows = iter(answers)
    while chunk := list(itertools.islice(rows, CHUNK)):
        yield chunk


def _missing(said: Table, table: pd.DataFrame) -> list[str]:
    """Metrics that failed in a chunk, which are missing as a whole; what a model measures is missing only where no chunk has it."""
    for name in MEASURED:
        if name in said.missing and table[name].notna().any():
            del said.missing[name]
    return [name for name in said.missing if name in table]


def floors(suite: MetricSuite, table: pd.DataFrame, seed: int) -> dict[str, dict[str, float]]:
    """Split to metric to its floor: the mean when answers are shuffled among the questions of a specialty."""
    found = {}
    for split in comparison.SPLITS:
        part = table[(table["split"] == split) & (table["finish_reason"] != "failed")]
        if part.empty:
            continue
        order = shuffled_within(list(part["specialty"]), seed)
        total, known, missing = dict.fromkeys(suite.names(), 0.0), dict.fromkeys(suite.names(), 0), set()
        for start in range(0, len(part), CHUNK):
            references = part["reference"].iloc[start : start + CHUNK]
            predictions = part["prediction"].iloc[np.asarray(order[start : start + CHUNK])]
            scores = suite.score(list(zip(references, predictions, strict=True)))
            missing |= set(scores.missing)
            for name, values in scores.scores.items():
                there = [value for value in values if value is not None]
                total[name] += sum(there)
                known[name] += len(there)
        found[split] = {name: total[name] / known[name] if known[name] and name not in missing else math.nan for name in total}
    return found


def corpus_bleu(table: pd.DataFrame) -> dict[str, tuple[float, str]]:
    """Split to corpus BLEU and its signature, of the answers that did not fail."""
    found = {}
    for split in comparison.SPLITS:
        part = table[(table["split"] == split) & (table["finish_reason"] != "failed")]
        if not part.empty:
            chunks = (part.iloc[start : start + CHUNK] for start in range(0, len(part), CHUNK))
            found[split] = text_metrics.corpus_bleu((list(one["reference"]), list(one["prediction"])) for one in chunks)
    return found


def write_csv(table: pd.DataFrame, file: Any) -> None:
    """`comparison.write_csv`, a chunk at a time."""
    for start in range(0, max(1, len(table)), CHUNK):
        comparison.write_csv(table.iloc[start : start + CHUNK], file, header=start == 0)
