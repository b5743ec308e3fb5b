"""`make run`: two iterations on four sample specialties and SmolLM2-135M, then answers of both, and what to open.

Each step is the command a user would type, printed before it runs. Safe to repeat and to interrupt: what is done is
found up to date, what is half done goes on.
"""

from __future__ import annotations

import csv
import json
import sys
import textwrap
import time
from pathlib import Path

from meerkat_workbench.core import subprocesses
from meerkat_workbench.core.errors import run_script

ROOT = Path(__file__).resolve().parent.parent

DATASETS, RESULTS, EVALUATION = (Path(name) / "demo" for name in ("datasets", "results", "evaluation_results"))
ADVICE = EVALUATION / "training_recommendations.json"


def run(number: int, *command: str) -> float:
    print(
        f"\n\033[1m[{number}] python {' '.join(command)}\033[0m"
        if sys.stdout.isatty()
        else f"\n[{number}] python {' '.join(command)}",
        flush=True,
    )
    started = time.time()
    ended = subprocesses.run([sys.executable, *command], ROOT)
    if ended:
        sys.exit(f"step {number} ended with exit code {ended}; mend what it names and run `make run` again.")
    return time.time() - started


def iterations() -> list[dict]:
    ledger = ROOT / DATASETS / "iterations.jsonl"
    return [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.is_file() else []


def headline(folder: Path) -> dict[str, dict[str, float]]:
    with open(folder / "model_comparison.csv", newline="") as file:
        return {row["metric"]: row for row in csv.DictReader(file) if row["split"] == "holdout" and row["n"] != "0"}


def answers(name: str) -> dict[str, dict[str, str]]:
    """Rows of a table of answers on the holdout, by question."""
    with open(ROOT / EVALUATION / name, newline="", encoding="utf-8") as file:
        return {row["question"]: row for row in csv.DictReader(file) if row["split"] == "holdout"}


def print_answers() -> None:
    """What base and tuned model answer to the first holdout question of two specialties, chosen by nothing but the order of the file."""
    base, tuned = answers("base_model_results.csv"), answers("finetuned_model_results.csv")
    first = {row["specialty"]: question for question, row in reversed(base.items())}
    print("\nwhat they answer")
    for specialty, question in sorted(first.items())[:2]:
        print(f"  {specialty}: {question}")
        for name, text in (("reference", base[question]["reference"]), ("base", base[question]["prediction"]),
                           ("tuned", tuned[question]["prediction"])):  # fmt: skip
            print(textwrap.fill(" ".join(text.split()), 116, initial_indent=f"    {name:<10}", subsequent_indent=" " * 14))


def main() -> None:
    started = time.time()
    steps: list[tuple[str, float]] = []

    def step(name: str, *command: str) -> None:
        steps.append((name, run(len(steps) + 1, *command)))

    # a second iteration that was begun is gone on with, not begun again from newer advice
    if len(iterations()) < 2:
        step("prepare, iteration 1", "dataset_preparation.py", "--demo")
        step("train, iteration 1", "fine_tuning.py", "--demo")
        step("evaluate, iteration 1", "evaluation.py", "--demo")
        advice = json.loads((ROOT / ADVICE).read_text())
        if not advice["recommended_sample_increases"]:
            print("\nThe evidence supports no raise, so there is no second iteration to make: " + advice["in_words"][-1])
            return
        step("prepare, iteration 2", "dataset_preparation.py", "--demo", "--recommendations", str(ADVICE))
    else:
        step("prepare", "dataset_preparation.py", "--demo")
    step("train, iteration 2", "fine_tuning.py", "--demo")
    step("evaluate, iteration 2", "evaluation.py", "--demo")

    print("\nthe two iterations, mean over the same holdout questions")
    first, second = headline(ROOT / EVALUATION / "archive" / "iteration_001"), headline(ROOT / EVALUATION)
    print(f"  {'':<24}{'base':>8}{'iteration 1':>14}{'iteration 2':>14}")
    for metric in ("ROUGE-L", "METEOR", "bertscore_f1", "token_f1", "factual_exact_match", "medical_token_f1"):
        if metric in first and metric in second:
            one, two = first[metric], second[metric]
            print(f"  {metric:<24}{float(one['base']):>8.3f}{float(one['tuned']):>14.3f}{float(two['tuned']):>14.3f}")
    print_answers()
    raised = iterations()[-1]["adjustments"]
    print(f"  specialties fed more in iteration 2: {', '.join(raised)}")
    print(f"\n{time.time() - started:.0f} s: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in steps))
    print("\nopen")
    for path in (EVALUATION / "report.html", EVALUATION / "specialty_analysis.png", EVALUATION / "model_comparison.png",
                 RESULTS / "training_curves.png"):  # fmt: skip
        print(f"  {path}")
    print('next: python evaluation.py --demo --ask "What are the symptoms of gout?", or your own files (README.md)')


if __name__ == "__main__":
    run_script(main)
