"""How long scoring many stored answers takes, and how much memory: the texts should stay on disk.

    python benchmarks/scoring.py [--answers 100000] [--words 60]

Answers are made up and have the number of words that is asked for; half of each answer is the reference's own text. BERTScore is left
out: its time is the encoder's (benchmarks/metrics.py), and it bounds its memory itself. It prints the most memory that this process held,
beside what it held once libraries were loaded. The output is in benchmarks/results/scoring.md.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it

from meerkat_workbench.tuning.artifacts import TUNED, Finish, Prediction, Split
from meerkat_workbench.tuning.generation.generation_run import ScoredText
from meerkat_workbench.tuning.generation.prediction_store import PredictionStore
from meerkat_workbench.tuning.generation.questions import Question
from meerkat_workbench.tuning.scoring import score_run
from meerkat_workbench.tuning.scoring.metric_suite import MetricSuite

SPECIALTIES = 42


class Peak(threading.Thread):
    """Watches the memory that this process holds of its own (resident, without what is mapped from files); `bytes` is the most."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0

    def run(self) -> None:
        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, own_memory(process))
            time.sleep(0.05)


def own_memory(process: psutil.Process) -> int:
    """Bytes that a process holds of its own."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def made_up(count: int, words: int, seed: int = 0) -> Iterator[tuple[Question, str]]:
    """Questions and their answers."""
    draw = random.Random(seed)
    vocabulary = [
        f"{a}{b}{c}"
        for a in ("card", "neur", "hepat", "derm", "gastr")
        for b in ("o", "i")
        for c in ("itis", "pathy", "logy", "ectomy", "gram", "algia")
    ]
    vocabulary += ["the", "of", "and", "is", "with", "patient", "5 mg", "daily", "not", "may", "pain", "fever", "treat", "dose"]
    for number in range(count):
        reference = " ".join(draw.choices(vocabulary, k=words))
        answer = reference[: len(reference) // 2] + " " + " ".join(draw.choices(vocabulary, k=words // 2))
        split = Split.HOLDOUT if number % 2 else Split.EVAL
        yield (
            Question(f"{number:08d}", split, f"specialty{number % SPECIALTIES}", f"Question {number}?", reference, "", ()),
            answer,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = PredictionStore(folder)
        batch: list[Prediction] = []
        for question, answer in made_up(options.answers, options.words):
            batch.append(
                Prediction(key=question.id, id=question.id, system=TUNED, text=answer, finish=Finish.STOP, tokens=options.words)
            )
            if len(batch) == 1000:
                store.add(batch)
                batch = []
        store.add(batch)
        size = store.main_file.stat().st_size
        suite = MetricSuite("left-out")  # no encoder of this name is there, so BERTScore is missing
        before = own_memory(psutil.Process())
        peak = Peak()
        peak.start()
        started = time.time()
        store = PredictionStore(folder)
        asked = (question for question, _ in made_up(options.answers, options.words))
        answers = (ScoredText(question, store.records[question.id], None) for question in asked)
        table, _ = score_run.score(suite, answers, folder)
        scored = time.time()
        floors = score_run.floors(suite, table, 0)
        table.write(folder, TUNED)
        print(
            f"{os.cpu_count()} cores; {len(table):,} answers of {options.words} words, {size / 2**20:.0f} MiB: scored in {scored - started:.0f} s, "
            f"floors and CSV in {time.time() - scored:.0f} s; memory of the process's own {before / 2**20:.0f} MiB before, "
            f"{peak.bytes / 2**20:.0f} MiB at most; ROUGE-L {table.scores('ROUGE-L').mean():.3f}, floor {floors[Split.EVAL]['ROUGE-L']:.3f}"
        )


if __name__ == "__main__":
    main()
