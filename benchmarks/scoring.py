"""How long scoring many stored answers takes, and how much memory: the texts are to stay on disk.

    python benchmarks/scoring.py [--answers 100000] [--words 60]

Answers are made up, as many words long as asked, half of each the reference's own. BERTScore is left out: its time is the encoder's
(benchmarks/metrics.py), and its memory is bounded by itself. Printed is what this process holds at most, beside what it held once
libraries were loaded; what it printed stands in benchmarks/results/scoring.md.
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

from meerkat_workbench.tuning.generation.prediction_store import Prediction, PredictionStore, Question
from meerkat_workbench.tuning.scoring import score_run
from meerkat_workbench.tuning.scoring.metric_suite import MetricSuite

SPECIALTIES = 42


class Peak(threading.Thread):
    """The most memory that this process has held of its own (resident, without what is mapped from files)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        process = psutil.Process()
        while True:
            self.most = max(self.most, process.memory_info().rss - process.memory_info().shared)
            time.sleep(0.05)


def made_up(count: int, words: int, seed: int = 0) -> Iterator[tuple[Question, str]]:
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
        said = reference[: len(reference) // 2] + " " + " ".join(draw.choices(vocabulary, k=words // 2))
        split = "holdout" if number % 2 else "eval"
        yield Question(f"{number:08d}", split, f"specialty{number % SPECIALTIES}", f"Question {number}?", reference, "", ()), said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = PredictionStore(folder)
        batch: list[Prediction] = []
        for question, said in made_up(options.answers, options.words):
            batch.append(Prediction(question.id, question.id, "tuned", said, "stop", options.words))
            if len(batch) == 1000:
                store.add(batch)
                batch = []
        store.add(batch)
        size = store.kept.stat().st_size
        suite = MetricSuite("left-out")
        before = psutil.Process().memory_info()
        peak = Peak()
        peak.start()
        started = time.time()
        store = PredictionStore(folder)
        answers = ((question, store.records[question.id], None) for question, _ in made_up(options.answers, options.words))
        table, _ = score_run.score(suite, answers, folder)
        scored = time.time()
        floors = score_run.floors(suite, table, 0)
        with open(folder / "results.csv", "w", newline="", encoding="utf-8") as file:
            score_run.write_csv(table, file)
        print(
            f"{os.cpu_count()} cores; {len(table):,} answers of {options.words} words, {size / 2**20:.0f} MiB: scored in {scored - started:.0f} s, "
            f"floors and CSV in {time.time() - scored:.0f} s; memory of the process's own {(before.rss - before.shared) / 2**20:.0f} MiB before, "
            f"{peak.most / 2**20:.0f} MiB at most; ROUGE-L {table['ROUGE-L'].mean():.3f}, floor {floors['eval']['ROUGE-L']:.3f}"
        )


if __name__ == "__main__":
    main()
