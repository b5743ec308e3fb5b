"""`make run`: two iterations on four sample specialties and SmolLM2-135M, then scores, answers, and which files to open.

Each step is the command that a user would type; it is printed before it runs. The demo can be repeated and interrupted: a
finished step is found up to date, and an unfinished one is resumed.
"""

from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path

from meerkat_workbench.core import runs, subprocesses
from meerkat_workbench.core.errors import run_script
from meerkat_workbench.output import tables
from meerkat_workbench.tuning.artifacts import (
    BASE,
    HEADLINE_METRICS,
    TUNED,
    MetricComparison,
    OutputFile,
    Recommendations,
    Split,
    read_ledger,
    read_recommendations,
)
from meerkat_workbench.tuning.scoring.answer_table import AnsweredQuestion, AnswerTable

ROOT = Path(__file__).resolve().parent.parent

DATASETS, RESULTS, EVALUATION = (Path(name) / "demo" for name in ("datasets", "results", "evaluation_results"))
ADVICE = EVALUATION / Recommendations.FILE


def run(number: int, *command: str) -> float:
    """Print a command and run it; returns the seconds that it took."""
    print(
        f"\n\033[1m[{number}] python {' '.join(command)}\033[0m"
        if sys.stdout.isatty()
        else f"\n[{number}] python {' '.join(command)}",
        flush=True,
    )
    started = time.time()
    code = subprocesses.run([sys.executable, *command], ROOT)
    if code:
        sys.exit(f"step {number} ended with exit code {code}; correct what it names and run `make run` again.")
    return time.time() - started


def headline(folder: Path) -> dict[str, MetricComparison]:
    """Base against tuned model on the holdout, by metric."""
    rows = tables.read_rows(folder / MetricComparison.FILE, MetricComparison)
    return {row.metric: row for row in tables.where(rows, split=Split.HOLDOUT) if row.n}


def answers(system: str) -> dict[str, AnsweredQuestion]:
    """A system's answers on the holdout, by question."""
    return {row.question: row for row in AnswerTable.read(ROOT / EVALUATION, system).of_split(Split.HOLDOUT)}


def print_answers() -> None:
    """What base and tuned model answer to the first holdout question of two specialties, chosen only by the order of the file."""
    base, tuned = answers(BASE), answers(TUNED)
    first = {row.specialty: question for question, row in reversed(base.items())}
    print("\nwhat they answer")
    for specialty, question in sorted(first.items())[:2]:
        print(f"  {specialty}: {question}")
        for name, text in (("reference", base[question].reference), (BASE, base[question].prediction),
                           (TUNED, tuned[question].prediction)):  # fmt: skip
            print(textwrap.fill(" ".join(text.split()), 116, initial_indent=f"    {name:<10}", subsequent_indent=" " * 14))


def main() -> None:
    started = time.time()
    steps: list[tuple[str, float]] = []

    def step(name: str, *command: str) -> None:
        steps.append((name, run(len(steps) + 1, *command)))

    # a second iteration that was begun is resumed, and not begun again from newer recommendations
    if len(read_ledger(ROOT / DATASETS)) < 2:
        step("prepare, iteration 1", "dataset_preparation.py", "--demo")
        step("train, iteration 1", "fine_tuning.py", "--demo")
        step("evaluate, iteration 1", "evaluation.py", "--demo")
        advice = read_recommendations(ROOT / ADVICE)
        if not advice.recommended_sample_increases:
            print("\nThe evidence supports no raise, so there is no second iteration to make: " + advice.sentences[-1])
            return
        step("prepare, iteration 2", "dataset_preparation.py", "--demo", "--recommendations", str(ADVICE))
    else:
        step("prepare", "dataset_preparation.py", "--demo")
    step("train, iteration 2", "fine_tuning.py", "--demo")
    step("evaluate, iteration 2", "evaluation.py", "--demo")

    print("\nthe two iterations, mean over the same holdout questions")
    first, second = headline(ROOT / EVALUATION / runs.ARCHIVE / "iteration_001"), headline(ROOT / EVALUATION)
    print(f"  {'':<24}{'base':>8}{'few-shot':>10}{'iteration 1':>14}{'iteration 2':>14}")
    for metric in HEADLINE_METRICS:
        if metric in first and metric in second:
            one, two = first[metric], second[metric]
            print(f"  {metric:<24}{one.base:>8.3f}{two.few_shot:>10.3f}{one.tuned:>14.3f}{two.tuned:>14.3f}")
    print_answers()
    raised = read_ledger(ROOT / DATASETS)[-1].adjustments
    print(f"  specialties fed more in iteration 2: {', '.join(raised)}")
    print(f"\n{time.time() - started:.0f} s: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in steps))
    print("\nopen")
    for path in (EVALUATION / OutputFile.REPORT, EVALUATION / OutputFile.SPECIALTY_ANALYSIS, EVALUATION / OutputFile.MODEL_COMPARISON,
                 RESULTS / OutputFile.TRAINING_CURVES):  # fmt: skip
        print(f"  {path}")
    print('next: python evaluation.py --demo --ask "What are the symptoms of gout?", or your own files (README.md)')


if __name__ == "__main__":
    run_script(main)
