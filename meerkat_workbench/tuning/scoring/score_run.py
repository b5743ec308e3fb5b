"""Scores every answer, a chunk at a time, so that the memory for texts does not grow with the number of questions.

Scores take a few bytes per answer and stay in memory. Questions, references and answers are in an Arrow file that is mapped into
memory and disappears with the tables. The tables can be used like any other.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from meerkat_workbench.tuning.artifacts import BASE, FEW_SHOT, FIXED, OPEN_BOOK, TUNED, CorpusBleu, Finish
from meerkat_workbench.tuning.data.vocabulary import ReferenceVocabulary
from meerkat_workbench.tuning.generation.questions import RETENTION
from meerkat_workbench.tuning.scoring import answer_checks, retention, text_metrics
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable, Column
from meerkat_workbench.tuning.scoring.metric_suite import (
    MEASURED,
    REASONS_WITHOUT_VALUE,
    MetricScores,
    MetricSuite,
    ScoredPair,
    Scores,
    shuffle_within_groups,
)
from meerkat_workbench.tuning.scoring.retention import RetentionAnswer

if TYPE_CHECKING:  # it loads torch, and workers of a process that has loaded it cannot be forked
    from meerkat_workbench.tuning.generation.generation_run import GenerationRun, ScoredText
    from meerkat_workbench.tuning.generation.preference import PreferenceFacts

CHUNK = 5000  # answers scored at a time
TEXTS = (Column.QUESTION, Column.REFERENCE, Column.PREDICTION, Column.REASONING, Column.ERROR)
SCHEMA = pa.schema([(str(name), pa.string()) for name in TEXTS])
Floors = Mapping[str, Mapping[str, float]]  # split to metric to floor


@dataclass(frozen=True)
class ScoredAnswers:
    """Scored answers of every system.

    Attributes:
        tables: by system, the base first, a row for each question in the same order.
        metrics: signatures, missing metrics and notes of the tuned model; the scores are columns of the tables.
        floors: by system, the value of each metric when answers are shuffled among the questions of a specialty.
        corpus_bleu: by split.
        retention: answers to general and safety questions; None if they were not asked.
        preference: how preferences were measured; None if they were not.
    """

    tables: dict[str, AnswerTable]
    metrics: MetricScores
    floors: dict[str, Floors]
    corpus_bleu: dict[str, CorpusBleu]
    retention: list[RetentionAnswer] | None
    preference: PreferenceFacts | None = None

    @property
    def base(self) -> AnswerTable:
        return self.tables[BASE]

    @property
    def tuned(self) -> AnswerTable:
        return self.tables[TUNED]

    @property
    def missing(self) -> dict[str, str]:
        """The reason of each metric that could not be computed."""
        return self.metrics.missing

    @property
    def failed(self) -> int:
        """Number of failed answers, of all systems."""
        return sum(int(table.failed.sum()) for table in self.tables.values())


def score_answers(
    suite: MetricSuite, run: GenerationRun, vocabulary: ReferenceVocabulary, folder: Path, *, seed: int, with_retention: bool
) -> ScoredAnswers:
    """Score every answer of every system, and print what could not be scored.

    Args:
        vocabulary: of the dataset's references.
        folder: for the file of texts, while the tables are in use.
    """
    run.check_complete()
    count = sum(len(job.questions) for job in run.jobs.values())
    print(f"scoring {count} answers by {len(suite.names())} metrics …", flush=True)
    chance = _chance(run)
    tables: dict[str, AnswerTable] = {}
    scores: dict[str, MetricScores] = {}
    floors_by_system: dict[str, Floors] = {}
    bleu: dict[str, CorpusBleu] = {}
    for system in run.jobs:
        answers = (scored for scored in run.answers(system) if scored.question.split != RETENTION)
        tables[system], scores[system] = score(suite, answers, vocabulary, folder)
        shuffled = floors(suite, tables[system], vocabulary, seed)
        floors_by_system[system] = {
            split: {**values, **(chance if _has_preferences(tables[system].of_split(split)) else {})}
            for split, values in shuffled.items()
        }
        for split, (value, signature) in corpus_bleu(tables[system]).items():
            before = bleu[split].scores if split in bleu else {}
            bleu[split] = CorpusBleu(bleu[split].signature if split in bleu else signature, {**before, system: value})
    # the likelihood of the answers of the few-shot base, and of systems with passages, is not measured
    measured = [system for system in scores if system != FEW_SHOT and not system.endswith(OPEN_BOOK)]
    missing = {name: reason for system in measured for name, reason in scores[system].missing.items()}
    _print_notes(missing, scores[TUNED].notes, tables)
    general = retention_answers(run) if with_retention else None
    return ScoredAnswers(tables, replace(scores[TUNED], missing=missing), floors_by_system, bleu, general, run.preference_facts())


def _has_preferences(table: AnswerTable) -> bool:
    return table.has_metric("preference_wins") and bool(table.scores("preference_wins").notna().any())


def _chance(run: GenerationRun) -> dict[str, float]:
    """What a model that guesses gets in the preference metrics."""
    preferences = list(run.preferences_of(BASE).values())
    if not preferences:
        return {}
    return {"preference_accuracy": sum(one.chance for one in preferences) / len(preferences), "preference_wins": 0.5}


def _print_notes(missing: Mapping[str, str], notes: Iterable[str], tables: Mapping[str, AnswerTable]) -> None:
    for name, reason in missing.items():
        print(f"  {name} is missing: {reason}")
    for note in notes:
        print(f"  {note}")
    for system, table in tables.items():
        if count := table.with_reasoning:
            unfinished = int(table.fails(answer_checks.THINKING_UNFINISHED).sum())
            more = f"; {unfinished} of them never end it, so they have no answer (raise MAX_NEW_TOKENS)" if unfinished else ""
            print(
                f"  {count} answers of {system} begin with a thinking block, which is not scored (see the column reasoning){more}"
            )


def retention_answers(run: GenerationRun) -> list[RetentionAnswer]:
    """Every system's answers to general and safety questions, judged by their rules."""
    judged = []
    items = {item.id: item for item in retention.items()}
    for system in run.jobs:
        losses = run.losses_of_references(system)
        for scored in run.answers(system):
            if scored.question.split == RETENTION:
                prediction = scored.prediction
                text = None if prediction.finish == Finish.FAILED else prediction.text
                loss = losses.get(scored.question.id, math.nan)
                judged.append(retention.judge_answer(items[scored.question.id], system, text, loss))
    return judged


def score(
    suite: MetricSuite, answers: Iterable[ScoredText], vocabulary: ReferenceVocabulary, folder: Path
) -> tuple[AnswerTable, MetricScores]:
    """Score one system's answers.

    Args:
        answers: in the order of the rows.
        vocabulary: of the dataset's references.
        folder: for the file of texts, while the table is in use.

    Returns:
        The table, a row for each question with every check and metric, and `MetricScores` with signatures, missing metrics and
        notes. Its scores are empty, because they are columns of the table.
    """
    summary, frames = MetricScores(), []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".texts-") as temporary:
        path = Path(temporary) / "texts.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
            for chunk in _chunks(answers):
                scores = suite.score([_pair(scored) for scored in chunk], vocabulary=vocabulary, measured=_measured(chunk))
                summary.missing |= scores.missing
                summary.signatures |= scores.signatures
                summary.notes = scores.notes  # those of the last chunk count the answers of all chunks
                frame = _frame(chunk, scores)
                writer.write_table(pa.Table.from_pandas(frame[list(TEXTS)], schema=SCHEMA, preserve_index=False))
                frames.append(frame.drop(columns=list(TEXTS)).copy())  # a copy, because a view would keep the texts in memory
        # the mapping keeps the file's contents after the folder is removed
        texts = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    frame = pd.concat(frames, ignore_index=True)
    _mark_missing(summary, frame, suite)
    for name in TEXTS:
        frame[name] = pd.Series(pd.arrays.ArrowExtensionArray(texts[name]))
    order = [str(name) for name in Column]
    return AnswerTable(frame[[*order, *(name for name in frame.columns if name not in order)]]), summary


def _pair(scored: ScoredText) -> ScoredPair | None:
    """Reference and answer; None if the answer failed."""
    asked = scored.question
    if scored.prediction.finish == Finish.FAILED:
        return None
    return ScoredPair(asked.reference, scored.prediction.text, asked.question, asked.id, asked.specialty)


def _measured(chunk: Sequence[ScoredText]) -> dict[str, Scores]:
    """The values that models measured, by metric."""
    preferences = [scored.preference for scored in chunk]
    return {
        "preference_accuracy": [None if one is None else one.right for one in preferences],
        "preference_wins": [None if one is None else one.wins for one in preferences],
        "log_perplexity": [scored.loss for scored in chunk],
    }


def _frame(chunk: Iterable[ScoredText], scores: MetricScores) -> pd.DataFrame:
    """A row for each question: question, answer, how it ended, every check and metric."""
    rows = [
        {
            Column.ID: one.question.id, Column.SPLIT: str(one.question.split), Column.SPECIALTY: one.question.specialty,
            Column.QUESTION: one.question.question, Column.REFERENCE: one.question.reference, Column.PREDICTION: one.prediction.text,
            Column.FINISH: str(one.prediction.finish), Column.TOKENS: one.prediction.tokens, Column.ERROR: one.prediction.error,
            Column.REASONING: one.prediction.reasoning,
            **answer_checks.check(one.question.reference, one.prediction.text, one.prediction.finish, question=one.question.question,
                                  thinking_unfinished=one.prediction.thinking_unfinished),
        }
        for one in chunk
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    frame.columns = pd.Index([str(name) for name in frame.columns])
    for name, values in scores.scores.items():
        frame[name] = pd.array(values, dtype="Float64").to_numpy(dtype=float, na_value=np.nan)
    return frame


def _chunks(answers: Iterable[ScoredText]) -> Iterator[list[ScoredText]]:
    rows = iter(answers)
    while chunk := list(itertools.islice(rows, CHUNK)):
        yield chunk


def _mark_missing(summary: MetricScores, frame: pd.DataFrame, suite: MetricSuite) -> None:
    """Mark a metric that failed in any chunk as missing; one that a model measures, only if no chunk has a value."""
    for name in MEASURED:
        if name in summary.missing and frame[name].notna().any():
            del summary.missing[name]
    for name in summary.missing:
        if name in frame:
            frame[name] = np.nan
    answered = (frame[Column.FINISH] != Finish.FAILED).any()
    for name in suite.names():
        if name in frame and name not in summary.missing and frame[name].isna().all() and answered:
            summary.missing[name] = REASONS_WITHOUT_VALUE.get(name, "it gave no value for any answer")


def floors(suite: MetricSuite, table: AnswerTable, vocabulary: ReferenceVocabulary, seed: int) -> Floors:
    """The floor of each metric by split: its mean when answers are shuffled among the questions of a specialty."""
    by_split: dict[str, dict[str, float]] = {}
    for split in FIXED:
        answered = table.of_split(split).answered()
        if not len(answered):
            continue
        order = shuffle_within_groups(list(answered.specialties), seed)
        total, known, missing = dict.fromkeys(suite.names(), 0.0), dict.fromkeys(suite.names(), 0), set()
        for start in range(0, len(answered), CHUNK):
            asked = answered.rows(range(start, min(start + CHUNK, len(answered))))
            predictions = answered.predictions.iloc[np.asarray(order[start : start + CHUNK])]
            pairs = [
                ScoredPair(one.reference, other, one.question, one.id, one.specialty)
                for one, other in zip(asked, predictions, strict=True)
            ]
            scores = suite.score(pairs, vocabulary=vocabulary)
            missing |= set(scores.missing)
            for name, values in scores.scores.items():
                present = [value for value in values if value is not None]
                total[name] += sum(present)
                known[name] += len(present)
        by_split[split] = {name: total[name] / known[name] if known[name] and name not in missing else math.nan for name in total}
    return by_split


def corpus_bleu(table: AnswerTable) -> dict[str, tuple[float, str]]:
    """Corpus BLEU and its signature by split, over the answers that did not fail."""
    by_split = {}
    for split in FIXED:
        answered = table.of_split(split).answered()
        if len(answered):
            chunks = (answered.rows(range(start, min(start + CHUNK, len(answered)))) for start in range(0, len(answered), CHUNK))
            by_split[str(split)] = text_metrics.corpus_bleu((list(chunk.references), list(chunk.predictions)) for chunk in chunks)
    return by_split
