"""Can a better style pass for knowledge? Five trials of the verdict, beside the verdict that it replaced.

    python benchmarks/style.py                            sample specialties (about 40 minutes on two slow cores)
    python benchmarks/style.py --data FOLDER --specialties cardiology neurology --most-words 60 --pairs 60 --new-tokens 96

a  A rewriter shortens and rephrases the base's answers in the manner of the references. It must not gain in knowledge.
b  In the references themselves one dose is changed tenfold, one negation turned, or one drug swapped. The answers must lose.
c  A model tuned on the holdout pairs (a leak on purpose) must gain greatly.
d  A model tuned on train pairs whose answers are shuffled within a specialty (right style, wrong content) must gain in style only.
e  In worlds without any difference in knowledge (answers of few-shot base and tuned model exchanged at random), how often is a gain seen?

An ordinary training is shown too. The verdict before this one: ROUGE-L against the base, with a warning if other questions' answers score
nearly as well. The output on a named machine is in benchmarks/results/style.md.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side

sys.path.insert(0, str(side_by_side.ROOT))
import dataset_preparation
import evaluation
import fine_tuning
from meerkat_workbench.output.tables import where
from meerkat_workbench.tuning.artifacts import (
    BASE,
    FEW_SHOT,
    TUNED,
    Finish,
    MetricComparison,
    Outcome,
    Prediction,
    Split,
    Verdict,
)
from meerkat_workbench.tuning.data import dataset_folders, leakage
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord
from meerkat_workbench.tuning.data.vocabulary import ReferenceVocabulary
from meerkat_workbench.tuning.generation.generation_run import ScoredText
from meerkat_workbench.tuning.generation.questions import Question
from meerkat_workbench.tuning.reporting import comparison, summary_text, verdict
from meerkat_workbench.tuning.scoring import score_run
from meerkat_workbench.tuning.scoring.answer_table import AnsweredQuestion, AnswerTable
from meerkat_workbench.tuning.scoring.metric_suite import MetricScores, MetricSuite
from meerkat_workbench.tuning.scoring.score_run import ScoredAnswers

SEED = 42
WORLDS = 300
SAMPLE = ["cardiology", "dermatology", "neurology", "psychiatry"]
DOSE = re.compile(r"\b(\d+(?:\.\d+)?)(?=\s?(?:mg|micrograms?|mcg|µg|g|ml|mL|units?|mmol|ng|%)\b)")
AFFIRMATION = re.compile(r"\b(is|are|was|were|can|may|should)\b(?! not)")
DRUG = re.compile(
    r"\b[a-z]*(?:mycin|cillin|oxacin|azole|prazole|sartan|statin|olol|dipine|pril|gliptin|gliflozin|parin|xaban|mab|vir|triptan|setron|"
    r"azepam|profen|coxib|lukast|terol|sone|solone|nisone|onide|thiazide|semide|formin|cycline|trexate|oxetine|pramine|apine|idone)\b"
)
FILLER = re.compile(
    r"^(?:sure|certainly|of course|in (?:summary|conclusion|general)|overall|it is important to note that)[,:!]?\s*", re.I
)


@dataclass(frozen=True)
class Trial:
    """One line of the result."""

    name: str
    expected: str
    before: str
    knowledge: str
    style: str
    detail: str


class FewMetrics(MetricSuite):
    """Only the metrics that the verdicts need, for many worlds."""

    def names(self) -> list[str]:
        return ["ROUGE-L", "content_above_floor", "preference_wins", "length_ratio"]


def old_verdict(rows: Sequence[MetricComparison]) -> str:
    """The verdict of versions before this one."""
    row = where(rows, metric="ROUGE-L")[0]
    if row.verdict is Verdict.BETTER and summary_text.warn_near_floor(row):
        return "better, mostly by style"
    return str(row.verdict)


# --- models


def prepare(options: argparse.Namespace, folder: Path) -> Path:
    """Prepare the first short pairs of each specialty."""
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    for name in options.specialties:
        file = f"dataset_with_answers_{name}.json"
        pairs = json.loads((options.data / file).read_text(encoding="utf-8"))
        short = [(question, answer) for question, answer in pairs.items() if len(answer.split()) <= options.most_words]
        (files / file).write_text(json.dumps(dict(short[: options.pairs])), encoding="utf-8")
    output = folder / "datasets"
    dataset_preparation.prepare(dataset_preparation.DatasetConfig(
        DATA_DIR=str(files), OUTPUT_DIR=str(output), HOLDOUT_SAMPLES_PER_SPECIALTY=options.questions, INITIAL_TRAIN_PERCENTAGE=0.6,
        EVAL_SPLIT_SIZE=0.1, CHAT_TEMPLATE="smollm2",
    ), {})  # fmt: skip
    return output


def with_train_set(data: Path, target: Path, records: Iterable[PreparedRecord], *, by_heart: bool) -> Path:
    """A copy of a prepared folder with another train set.

    Args:
        by_heart: whether the records are the eval set too. Training keeps the weights that do best on the eval set, and would otherwise
            keep those of before the records were learnt by heart.
    """
    from datasets import Dataset

    copy = target.with_name(f".{target.name}.tmp")  # a killed copy is not taken for a finished one
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(data, copy)
    rows = [{name: getattr(record, name) for name in dataset_folders.SCHEMA.names} for record in records]
    for split in (Split.TRAIN, *([Split.EVAL] if by_heart else [])):
        folder = copy / dataset_folders.FOLDERS[split]
        shutil.rmtree(folder)
        Dataset.from_list(rows).save_to_disk(str(folder))
    return copy.rename(target)


def with_answer(record: PreparedRecord, answer: str) -> PreparedRecord:
    end = record.formatted_chat[len(record.formatted_prompt) + len(record.response) :]
    turns = [*record.messages[:-1], {"role": "assistant", "content": answer}]
    return replace(record, response=answer, messages=turns, formatted_chat=record.formatted_prompt + answer + end)


def shuffled(records: Sequence[PreparedRecord]) -> list[PreparedRecord]:
    """The records with the answers of other records of their specialty."""
    found: list[PreparedRecord] = []
    for name in sorted({record.specialty for record in records}):
        group = [record for record in records if record.specialty == name]
        half = len(group) // 2  # neighbours may be on the same subject
        found += [with_answer(record, group[(place + half) % len(group)].response) for place, record in enumerate(group)]
    return found


def train(data: Path, output: Path, epochs: int) -> None:
    fine_tuning.train(fine_tuning.TrainingConfig(**{
        **fine_tuning.DEMO, "DATASET_DIR": str(data), "OUTPUT_DIR": str(output), "NUM_EPOCHS": epochs,
    }))  # fmt: skip


def evaluate(data: Path, adapter: Path, output: Path, new_tokens: int) -> tuple[ScoredAnswers, Sequence[MetricComparison], Any]:
    """Evaluate an adapter; returns its scored answers, comparison and verdict."""
    result = evaluation.evaluate(evaluation.EvaluationConfig(**{
        **evaluation.DEMO, "DATASET_DIR": str(data), "FINETUNED_MODEL_PATH": str(adapter), "OUTPUT_DIR": str(output), "MAX_NEW_TOKENS": new_tokens,
    }))  # fmt: skip
    tables = {name: AnswerTable.read(output, name) for name in (BASE, TUNED, FEW_SHOT)}
    scored = ScoredAnswers(tables, MetricScores(), {name: {} for name in tables}, {}, None)
    return scored, result.metrics, verdict.reach(scored, seed=SEED)


# --- answers


def rewrite(answer: str, question: str, words: int, opening: str) -> str:
    """Shorten and rephrase an answer in the manner of the references: no list marks, no filler, no sentence that repeats the question."""
    text = re.sub(r"(?m)^\s*(?:[-*•]|\d+[.)])\s*|\*\*|#+\s*", "", answer)
    asked = set(re.findall(r"\w+", question.lower()))
    kept: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text):
        sentence = FILLER.sub("", sentence.strip())
        said = set(re.findall(r"\w+", sentence.lower()))
        if said and len(said & asked) / len(said) < 0.6:
            kept.append(sentence)
        if len(" ".join(kept).split()) >= words:
            break
    return f"{opening} {' '.join(' '.join(kept).split()[:words])}".strip()


def opening_of(question: str, train_records: Sequence[PreparedRecord]) -> str:
    """The first words of the answer to the train question with the most words in common."""
    asked = set(re.findall(r"\w+", question.lower()))
    nearest = max(train_records, key=lambda record: len(asked & set(re.findall(r"\w+", record.question.lower()))))
    return " ".join(nearest.response.split()[:4])


def changed_dose(text: str, _: Sequence[str]) -> str | None:
    match = DOSE.search(text)
    return text[: match.start()] + f"{float(match[1]) * 10:g}" + text[match.end() :] if match else None


def turned_negation(text: str, _: Sequence[str]) -> str | None:
    if " not " in text:
        return text.replace(" not ", " ", 1)
    return AFFIRMATION.sub(r"\1 not", text, count=1) if AFFIRMATION.search(text) else None


def swapped_drug(text: str, drugs: Sequence[str]) -> str | None:
    match = DRUG.search(text)
    others = [drug for drug in drugs if match and drug not in text]
    return text.replace(match.group(), others[len(text) % len(others)]) if match and others else None


def scored_table(suite: MetricSuite, asked: Sequence[AnsweredQuestion], answers: Sequence[str], vocabulary: ReferenceVocabulary,
                 folder: Path) -> AnswerTable:  # fmt: skip
    scored = (
        ScoredText(
            Question(one.id, one.split, one.specialty, one.question, one.reference, "", ()),
            Prediction(key="", id=one.id, system="", text=answer, finish=Finish.STOP, tokens=1), None,
        )
        for one, answer in zip(asked, answers, strict=True)
    )  # fmt: skip
    return score_run.score(suite, scored, vocabulary, folder)[0]


def compare_answers(suite: MetricSuite, asked: Sequence[AnsweredQuestion], before: Sequence[str], after: Sequence[str],
                    vocabulary: ReferenceVocabulary, folder: Path) -> tuple[ScoredAnswers, list[MetricComparison], Any]:  # fmt: skip
    """Answers before and after a change, as if they were of the base and of a tuned model."""
    tables = {name: scored_table(suite, asked, answers, vocabulary, folder) for name, answers in ((BASE, before), (TUNED, after))}
    floors = {name: score_run.floors(suite, table, vocabulary, SEED) for name, table in tables.items()}
    scored = ScoredAnswers(tables, MetricScores(), floors, {}, None)
    rows = comparison.compare(scored, suite, SEED).metrics
    return scored, rows, verdict.reach(scored, seed=SEED)


def share_that_loses(scored: ScoredAnswers) -> float:
    """Fraction of answers that are worse after the change in content or in one of the checks of harm."""
    worse = (scored.tuned.scores(verdict.CONTENT) < scored.base.scores(verdict.CONTENT) - 1e-9).to_numpy(copy=True)
    for check in verdict.HARMS:
        worse |= scored.tuned.fails(check) & ~scored.base.fails(check)
    return float(worse.mean())


# --- trials


def trial(name: str, expected: str, rows: Sequence[MetricComparison], found: Any, detail: str) -> Trial:
    headline = found.headline
    before = old_verdict([row for row in rows if row.split == headline.split])
    return Trial(name, expected, before, str(headline.knowledge.outcome), str(headline.style.outcome), detail)


def figures(rows: Sequence[MetricComparison], few_shot: bool) -> str:
    parts = []
    for metric in ("ROUGE-L", verdict.CONTENT, verdict.PREFERENCE):
        row = where(rows, metric=metric, split=Split.HOLDOUT)[0]
        if row.n:
            middle = f", few-shot {row.few_shot:.3f}" if few_shot else ""
            parts.append(f"{metric} {row.base:.3f}{middle}, tuned {row.tuned:.3f}")
    return "; ".join(parts)


def changes(table: AnswerTable, vocabulary: ReferenceVocabulary, folder: Path) -> list[Trial]:
    """Trial b on the references of the fixed splits."""
    asked = list(table)
    drugs = sorted({match.group() for one in asked for match in DRUG.finditer(one.reference)})
    kinds: dict[str, Callable[[str, Sequence[str]], str | None]] = {
        "one dose tenfold": changed_dose, "one negation turned": turned_negation, "one drug swapped": swapped_drug,
    }  # fmt: skip
    found = []
    with MetricSuiteOf() as suite:
        for name, change in kinds.items():
            pairs = [(one, changed) for one in asked if (changed := change(one.reference, drugs)) and changed != one.reference]
            questions = [replace(one, split=str(Split.HOLDOUT)) for one, _ in pairs]
            scored, rows, reached = compare_answers(
                suite, questions, [one.reference for one, _ in pairs], [text for _, text in pairs], vocabulary, folder
            )
            row = where(rows, metric="ROUGE-L")[0]
            detail = (f"{len(pairs)} answers; {share_that_loses(scored):.0%} lose in content or a check; ROUGE-L {row.base:.3f} to "
                      f"{row.tuned:.3f}")  # fmt: skip
            found.append(trial(f"b {name}", "knowledge lost", rows, reached, detail))
    return found


class MetricSuiteOf:
    """A suite that closes its workers."""

    def __enter__(self) -> MetricSuite:
        self.suite = MetricSuite("packaged")
        return self.suite

    def __exit__(self, *_: object) -> None:
        self.suite.close()


def null_worlds(scored: ScoredAnswers) -> Trial:
    """Trial e: exchange few-shot base and tuned model on random questions, so that tuning gained nothing over prompting."""
    draw, suite = np.random.default_rng(SEED), FewMetrics("packaged")
    frames = {name: scored.tables[name].of_split(Split.HOLDOUT).frame.reset_index(drop=True) for name in scored.tables}
    gained = style = old = 0
    for _ in range(WORLDS):
        flip = draw.random(len(frames[TUNED])) < 0.5
        one, other = frames[TUNED].copy(), frames[FEW_SHOT].copy()
        one.loc[flip], other.loc[flip] = frames[FEW_SHOT].loc[flip], frames[TUNED].loc[flip]
        world = ScoredAnswers({BASE: AnswerTable(frames[BASE]), TUNED: AnswerTable(one), FEW_SHOT: AnswerTable(other)}, MetricScores(),
                              {name: {} for name in frames}, {}, None)  # fmt: skip
        rows = comparison.by_metric(world.base, world.tuned, suite, MetricScores(), {}, {}, SEED, few_shot=world.tables[FEW_SHOT])
        headline = verdict.reach(world, seed=SEED).headline
        gained += headline.knowledge.outcome is Outcome.GAINED
        style += headline.style.outcome is Outcome.GAINED
        old += where(rows, metric="ROUGE-L")[0].verdict is Verdict.BETTER
    return Trial("e no difference in knowledge", "gain in at most 2.5%", f"better in {old / WORLDS:.1%}", f"gained in {gained / WORLDS:.1%}",
                 f"gained in {style / WORLDS:.1%}", f"{WORLDS} worlds")  # fmt: skip


def followed(tables: dict[str, dict[str, AnswerTable]]) -> list[str]:
    """How far each metric moves with knowledge (leaked against shuffled pairs) and with style (shuffled pairs against base), in SDs."""
    lines = ["| metric | knowledge | style |", "|---|---|---|"]
    ranked = []
    for metric in MetricSuite("packaged").names():
        values = {name: tables[arm][system].of_split(Split.HOLDOUT).scores(metric).to_numpy(float)
                  for name, arm, system in (("leaked", "leaked", TUNED), ("shuffled", "shuffled", TUNED), ("base", "shuffled", BASE))}  # fmt: skip
        effects = []
        for high, low in (("leaked", "shuffled"), ("shuffled", "base")):
            difference = values[high] - values[low]
            difference = difference[~np.isnan(difference)]
            effects.append(difference.mean() / difference.std(ddof=1) if len(difference) > 1 and difference.std() else np.nan)
        ranked.append((metric, *effects))
    ranked.sort(key=lambda row: -(row[1] - abs(row[2])) if not np.isnan(row[1] + row[2]) else np.inf)
    return [*lines, *(f"| {metric} | {knowledge:+.2f} | {style:+.2f} |" for metric, knowledge, style in ranked)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=side_by_side.ROOT / "examples/specialties")
    parser.add_argument("--specialties", nargs="+", default=SAMPLE)
    parser.add_argument("--questions", type=int, default=15, help="holdout questions of each specialty")
    parser.add_argument("--most-words", type=int, default=1_000_000, help="pairs with longer answers are left out")
    parser.add_argument("--pairs", type=int, default=1_000_000, help="of each specialty, the first ones")
    parser.add_argument("--new-tokens", type=int, default=64, help="of an answer")
    parser.add_argument(
        "--arms", nargs="+", default=["tuned", "shuffled", "leaked"], help="trainings; tuned also has trials a, b and e"
    )
    parser.add_argument(
        "--leak-epochs", type=int, default=6, help="over the holdout; long answers need more to be learnt by heart"
    )
    parser.add_argument("--work", type=Path, help="folder to work in, and to go on in; by default a temporary one")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    data = work / "datasets"
    if not data.is_dir():
        prepare(arguments, work)
    train_records = list(dataset_folders.read_split(data, Split.TRAIN))
    holdout = list(dataset_folders.read_split(data, Split.HOLDOUT))
    # the guard refuses what these trials do on purpose
    leakage.check_train_split = lambda *_: None  # type: ignore[assignment]
    leakage.check_trained_models = lambda *_: []  # type: ignore[assignment]

    trials: list[Trial] = []
    tables: dict[str, dict[str, AnswerTable]] = {}
    arms = {
        "tuned": (None, 2, "as it is"),
        "shuffled": (shuffled(train_records), 2, "style only"),
        "leaked": (holdout, arguments.leak_epochs, "knowledge gained"),
    }
    for name, (records, epochs, expected) in ((name, arms[name]) for name in arguments.arms):
        folder = data if records is None else work / f"data_{name}"
        if not folder.is_dir() and records is not None:
            with_train_set(data, folder, records, by_heart=name == "leaked")
        train(folder, work / f"adapter_{name}", epochs)
        scored, rows, reached = evaluate(
            data, work / f"adapter_{name}", work / "scores", arguments.new_tokens
        )  # one folder, so that answers of base and few-shot base are reused
        tables[name] = scored.tables
        letter = {"tuned": "  an ordinary training", "shuffled": "d shuffled pairs", "leaked": "c trained on the holdout"}[name]
        trials.append(trial(letter, expected, rows, reached, figures(rows, few_shot=True)))
        if name == "tuned":
            trials.append(null_worlds(scored))
            vocabulary = ReferenceVocabulary.of(dataset_folders.read_fixed_records(data))
            base = scored.base
            asked, answers = list(base), list(base.predictions)
            words = int(np.median([len(record.response.split()) for record in train_records]))
            rewritten = [rewrite(one.prediction, one.question, words, opening_of(one.question, train_records)) for one in asked]
            with MetricSuiteOf() as suite:
                _, changed, result = compare_answers(suite, asked, answers, rewritten, vocabulary, work)
            trials.append(trial("a rewriter of style", "no knowledge gained", changed, result, figures(changed, few_shot=False)))
            trials += changes(base, vocabulary, work)
        print_table(trials, tables)


def print_table(trials: Sequence[Trial], tables: dict[str, dict[str, AnswerTable]]) -> None:
    print(f"\n{side_by_side.machine()}\n\n| trial | expected | verdict before | knowledge | style | |\n|---|---|---|---|---|---|")
    for one in sorted(trials, key=lambda one: one.name):
        print(f"| {one.name} | {one.expected} | {one.before} | {one.knowledge} | {one.style} | {one.detail} |")
    if {"leaked", "shuffled"} <= set(tables):
        print("\nWhat each metric follows, in standard deviations of the paired difference\n")
        print("\n".join(followed(tables)), flush=True)


if __name__ == "__main__":
    main()
