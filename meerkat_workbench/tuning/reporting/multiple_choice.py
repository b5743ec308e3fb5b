"""Multiple-choice questions: how many each model answers right, compared with the base by file and subject."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meerkat_workbench.core import files
from meerkat_workbench.output import tables
from meerkat_workbench.stats import agreement, significance
from meerkat_workbench.tuning.artifacts import ALL, BASE, BenchmarkResult, OutputFile, TrainingResult, Verdict, system_in_words
from meerkat_workbench.tuning.data import benchmark_overlap
from meerkat_workbench.tuning.data.benchmark_overlap import Overlap
from meerkat_workbench.tuning.data.multiple_choice import LETTERS, ChoiceItem

if TYPE_CHECKING:  # it loads torch
    from meerkat_workbench.tuning.generation.choice_scoring import ChoiceScoring

ACC, ACC_NORM = METRICS = ("acc", "acc_norm")
NO_SUBJECT = "(none)"
MAX_SUBJECTS_NAMED = 6
Right = Mapping[
    str, NDArray[np.float64]
]  # by metric: (items) 1 if the option picked is the right one, else 0; NaN if it has no scores


@dataclass(frozen=True)
class ChoiceSummary:
    """The results of an evaluation's multiple-choice questions.

    Attributes:
        rows: each model against the base, by file and subject.
        items: a row for each question.
        sentences: the summary.
    """

    rows: list[BenchmarkResult]
    items: pd.DataFrame
    sentences: list[str]

    @property
    def shown(self) -> list[BenchmarkResult]:
        """The rows of the report: `acc_norm` of whole files only, and only where it differs from `acc`."""
        return [row for row in self.rows if row.metric == ACC or (row.subject == ALL and _differs(row, self.rows))]

    def write(self, folder: Path) -> None:
        """Write `benchmark_results.csv` and `benchmark_items.csv`."""
        tables.write_rows(folder / BenchmarkResult.FILE, self.rows, BenchmarkResult)
        with files.atomic_open(folder / OutputFile.BENCHMARK_ITEMS) as file:
            tables.write_frame(self.items, file)


def picks(log_likelihoods: Sequence[float], choices: Sequence[str]) -> tuple[int, int]:
    """The options that a model picks: the likeliest (acc), and the likeliest for its length in characters (acc_norm).

    Both are those of lm-evaluation-harness 0.4.13.

    Args:
        log_likelihoods: in nats, of each option.
        choices: the continuations, without the space before them.
    """
    sums = np.asarray(log_likelihoods, float)
    return int(np.argmax(sums)), int(np.argmax(sums / [len(choice) for choice in choices]))


def summarise(scoring: ChoiceScoring | None, data_folder: Path, training: TrainingResult) -> ChoiceSummary | None:
    """Compare every model with the base, and the questions with what the tuned model was trained on; None without questions."""
    if scoring is None:
        return None
    items = scoring.benchmark.items
    overlap = benchmark_overlap.find(scoring.benchmark, data_folder, training.inputs.trained_on)
    scores = {arm.name: [found.log_likelihoods if found else None for found in scoring.scores(arm)] for arm in scoring.arms}
    cut = {arm.name: sum(bool(found and found.cut) for found in scoring.scores(arm)) for arm in scoring.arms}
    right = {name: _right(items, of_items) for name, of_items in scores.items()}
    rows = compare(items, right, scoring.missing)
    sentences = [
        *_sentences(rows),
        *_missing_sentences(scoring.missing, cut, right),
        *overlap.sentences(scoring.benchmark.folder),
    ]
    for file, count in scoring.benchmark.unanswered.items():
        sentences.append(f"{file}: questions that were not asked because their answer is not published: {count}.")
    return ChoiceSummary(rows, _item_table(items, scores, overlap), sentences)


def compare(items: Sequence[ChoiceItem], right: Mapping[str, Right], missing: Mapping[str, str]) -> list[BenchmarkResult]:
    """Each model against the base, in a row for each file, subject and metric; a file with one subject has one row.

    Args:
        right: by model, the base among them unless it could not be scored.
        missing: by the name of a model that could not be scored, the reason.
    """
    rows: list[BenchmarkResult] = []
    models = [name for name in (*right, *missing) if name != BASE]
    for file, subject, places in _groups(items):
        guessing = float(np.mean([1 / len(items[place].choices) for place in places]))
        for model in models:
            for metric in METRICS:
                row = BenchmarkResult(file=file, subject=subject, model=model, metric=metric, n=0, guessing=guessing)
                if model in missing:
                    rows.append(msgspec.structs.replace(row, missing=missing[model]))
                else:
                    base = right[BASE][metric][places] if BASE in right else None
                    rows.append(_compared(row, right[model][metric][places], base))
    return _adjusted(rows)


def _groups(items: Sequence[ChoiceItem]) -> Iterator[tuple[str, str, list[int]]]:
    """File, subject and the places of its items: first all items of a file, then those of each subject, if it has several."""
    for file in dict.fromkeys(item.file for item in items):
        in_file = [place for place, item in enumerate(items) if item.file == file]
        yield file, ALL, in_file
        by_subject: dict[str, list[int]] = {}
        for place in in_file:
            by_subject.setdefault(items[place].subject or NO_SUBJECT, []).append(place)
        if len(by_subject) > 1:
            for subject in sorted(by_subject):
                yield file, subject, by_subject[subject]


def _right(items: Sequence[ChoiceItem], scores: Sequence[Sequence[float] | None]) -> Right:
    right = np.full((len(METRICS), len(items)), np.nan)
    for place, (item, log_likelihoods) in enumerate(zip(items, scores, strict=True)):
        if log_likelihoods:
            right[:, place] = [picked == item.answer for picked in picks(log_likelihoods, item.choices)]
    return dict(zip(METRICS, right, strict=True))


def _compared(row: BenchmarkResult, model: NDArray[np.float64], base: NDArray[np.float64] | None) -> BenchmarkResult:
    """A row with its figures, on the questions that have scores of both models; without a base, of the model alone."""
    known = ~np.isnan(model) if base is None else ~np.isnan(model) & ~np.isnan(base)
    n = int(known.sum())
    if not n:
        return msgspec.structs.replace(row, missing="no question has a log-likelihood for each option")
    hits = int(model[known].sum())
    low, high = agreement.wilson(hits, n)
    row = msgspec.structs.replace(row, n=n, score=hits / n, low=low, high=high)
    if base is None:
        return row
    base_hits = int(base[known].sum())
    base_low, base_high = agreement.wilson(base_hits, n)
    only_base, only_model = int((base[known] > model[known]).sum()), int((base[known] < model[known]).sum())
    difference = significance.paired_proportions(only_base, only_model, n)
    return msgspec.structs.replace(
        row, base=base_hits / n, base_low=base_low, base_high=base_high, difference=difference.mean, ci_low=difference.low,
        ci_high=difference.high, only_base=only_base, only_model=only_model, p=difference.p,
    )  # fmt: skip


def _adjusted(rows: Sequence[BenchmarkResult]) -> list[BenchmarkResult]:
    """The rows with p values adjusted over the subjects of a file, or over the files, and with their verdicts."""
    families: dict[tuple[str, str, str], list[int]] = {}
    for place, row in enumerate(rows):
        families.setdefault((row.model, row.metric, ALL if row.subject == ALL else f"subjects of {row.file}"), []).append(place)
    done = list(rows)
    for places in families.values():
        for place, p in zip(places, significance.false_discovery_adjusted([rows[place].p for place in places]), strict=True):
            if not math.isnan(p):
                verdict = Verdict.of_test(rows[place].difference, p, significance.ALPHA)
                done[place] = msgspec.structs.replace(rows[place], p_adjusted=p, verdict=verdict)
    return done


# --- tables and sentences


def _item_table(
    items: Sequence[ChoiceItem], scores: Mapping[str, Sequence[Sequence[float] | None]], overlap: Overlap
) -> pd.DataFrame:
    """A row for each question: its options, and for each model what it picks and the log-likelihood of each option."""
    rows = []
    for place, item in enumerate(items):
        row: dict[str, object] = {
            "file": item.file, "item": item.name, "subject": item.subject, "question": item.question,
            "options": "\n".join(f"{LETTERS[number]}. {option}" for number, option in enumerate(item.options)),
            "answer": LETTERS[item.answer], "in_training": item.question in overlap.questions,
        }  # fmt: skip
        for model, of_items in scores.items():
            log_likelihoods = of_items[place]
            picked, by_length = picks(log_likelihoods, item.choices) if log_likelihoods else (None, None)
            row |= {
                f"{model}_picks": "" if picked is None else LETTERS[picked],
                f"{model}_right": None if picked is None else picked == item.answer,
                f"{model}_right_norm": None if by_length is None else by_length == item.answer,
                f"{model}_log_likelihoods": ", ".join(
                    f"{LETTERS[number]} {value:.4f}" for number, value in enumerate(log_likelihoods or ())
                ),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def _differs(row: BenchmarkResult, rows: Sequence[BenchmarkResult]) -> bool:
    """Whether a model or the base has another accuracy by `acc_norm` than by `acc` on a file."""
    [acc] = tables.where(rows, file=row.file, subject=row.subject, model=row.model, metric=ACC)
    return (row.score, row.base) != (acc.score, acc.base) and not row.missing


def _sentences(rows: Sequence[BenchmarkResult]) -> list[str]:
    sentences = []
    for row in tables.where(rows, subject=ALL, metric=ACC, missing=""):
        text = f"{row.file}: of {row.n} multiple-choice questions, {system_in_words(row.model)} answers {row.score:.1%} right"
        if math.isnan(row.base):
            sentences.append(f"{text} ({row.guessing:.1%} by guessing; the base could not be scored).")
            continue
        interval = f"95% interval {100 * row.ci_low:+.1f} to {100 * row.ci_high:+.1f}, exact McNemar p = {row.p:.2g}"
        text += f" and the base {row.base:.1%} ({row.guessing:.1%} by guessing): {100 * row.difference:+.1f} points ({interval})"
        sentences.append(f"{text}{_above_guessing(row)}.")
        changed = [other for other in tables.where(rows, file=row.file, model=row.model, metric=ACC) if other.subject != ALL]
        marked = [
            f"{other.subject} {100 * other.difference:+.1f}"
            for other in changed
            if other.verdict in (Verdict.BETTER, Verdict.WORSE)
        ]
        if marked:
            more = f" and {len(marked) - MAX_SUBJECTS_NAMED} more" if len(marked) > MAX_SUBJECTS_NAMED else ""
            sentences.append(
                f"{row.file}: {len(marked)} of {len(changed)} subjects change beyond chance (Benjamini-Hochberg): "
                f"{', '.join(marked[:MAX_SUBJECTS_NAMED])}{more}."
            )
    return sentences


def _above_guessing(row: BenchmarkResult) -> str:
    """A clause if neither model is shown to do better than guessing."""
    return "" if max(row.low, row.base_low) > row.guessing else ". Neither is shown to do better than guessing"


def _missing_sentences(missing: Mapping[str, str], cut: Mapping[str, int], right: Mapping[str, Right]) -> list[str]:
    sentences = [f"Multiple-choice questions are not scored for {name}: {reason}." for name, reason in missing.items()]
    for name, count in cut.items():
        if count:
            sentences.append(
                f"Multiple-choice questions that are longer than the input of {system_in_words(name)}, and lost their beginning: {count}."
            )
    for name, by_metric in right.items():
        if unscored := int(np.isnan(by_metric[ACC]).sum()):
            sentences.append(
                f"Multiple-choice questions with an option that has no finite log-likelihood for {system_in_words(name)}: {unscored}."
            )
    return sentences
