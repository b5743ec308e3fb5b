"""Which learning rate, and which layers: LoRA on the packaged SmolLM2, on a slice of real questions.

    python benchmarks/learning_rates.py FOLDER [--work WORK]
    python benchmarks/learning_rates.py --table

FOLDER holds specialty files. The eight specialties with most short answers give 36 pairs each, which are prepared once. Then
fine_tuning.py trains every recipe below on them, as a user would, and the eval loss of each epoch is noted. A row is added when its run
is done, and a run that has its row is not repeated. Rows go to benchmarks/results/learning_rates.csv; the table and the conclusions are
in benchmarks/results/learning_rates.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from meerkat_workbench.core import artifacts, files
from meerkat_workbench.tuning.artifacts import EvalPoint, TrainingConfigFile, TrainingResult

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "learning_rates.csv"
SPECIALTIES, PAIRS, MIN_WORDS, MAX_WORDS = 8, 36, 12, 50  # specialties, pairs of each, words of an answer
PREPARATION = (
    "CHAT_TEMPLATE=smollm2",
    "HOLDOUT_SAMPLES_PER_SPECIALTY=6",
    "INITIAL_TRAIN_PERCENTAGE=0.5",
    "EVAL_SPLIT_SIZE=0.4",
)
TRAINING = ("MODEL_NAME=smollm2", "LORA_DROPOUT=0", "NUM_EPOCHS=2", "BATCH_SIZE=8", "GRADIENT_ACCUMULATION_STEPS=1",
            "MAX_SEQ_LENGTH=384", "SAMPLE_QUESTIONS=0")  # fmt: skip
COLUMNS = ("name", "modules", "rank", "rate", "parameters", "before", "epoch_1", "epoch_2", "seconds")


@dataclass(frozen=True)
class Recipe:
    """An adapter and how it is trained; alpha is always twice the rank."""

    modules: str
    rank: int
    rate: float

    @property
    def name(self) -> str:
        return f"{self.modules.replace(',', '+')} rank {self.rank}, {self.rate:g}"


# the specification's adapter (q and v, rank 8), and two with the same number of parameters (4.9 M): all-linear with rank 16, and q and v
# with rank 85
RECIPES = [
    *(Recipe("all-linear", 16, rate) for rate in (2e-4, 1e-3)),
    Recipe("q_proj,v_proj", 8, 2e-4),
    *(Recipe("all-linear", 16, rate) for rate in (5e-4, 1e-4)),
    *(Recipe("q_proj,v_proj", 85, rate) for rate in (1e-3, 5e-4)),
    Recipe("q_proj,v_proj", 8, 1e-3),
]


def short_pairs(source: Path, target: Path) -> None:
    """Write pairs with short answers, of the specialties that have most of them; the same pairs on every machine."""
    target.mkdir(parents=True, exist_ok=True)
    short = {}
    for path in sorted(source.glob("dataset_with_answers_*.json")):
        pairs = json.loads(path.read_text(encoding="utf-8")).items()
        short[path.name] = sorted(pair for pair in pairs if MIN_WORDS <= len(pair[1].split()) <= MAX_WORDS)
    for name in sorted(short, key=lambda name: (-len(short[name]), name))[:SPECIALTIES]:
        kept = random.Random(name).sample(short[name], PAIRS)
        (target / name).write_text(json.dumps(dict(kept), ensure_ascii=False), encoding="utf-8")


def run(*command: str) -> None:
    """Run a script as a user would; its output is shown."""
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


def rows() -> list[dict[str, str]]:
    """Rows of the recipes that are done."""
    if not RESULTS.is_file():
        return []
    with open(RESULTS, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def train(recipe: Recipe, data: Path, work: Path) -> dict[str, object]:
    """Train one recipe and return its row."""
    output = work / recipe.name.replace(" ", "_").replace(",", "")
    run("fine_tuning.py", *TRAINING, f"DATASET_DIR={data}", f"OUTPUT_DIR={output}", f"LORA_TARGET_MODULES={recipe.modules}",
        f"LORA_RANK={recipe.rank}", f"LORA_ALPHA={2 * recipe.rank}", f"LEARNING_RATE={recipe.rate}")  # fmt: skip
    before, first, second = (point.loss for point in artifacts.read_lines(EvalPoint, output / EvalPoint.FILE))
    config = artifacts.read(TrainingConfigFile, output / TrainingConfigFile.FILE)
    return {"name": recipe.name, "modules": recipe.modules, "rank": recipe.rank, "rate": recipe.rate,
            "parameters": config.trainable_parameters, "before": before, "epoch_1": first, "epoch_2": second,
            "seconds": TrainingResult.require(output).seconds}  # fmt: skip


def table() -> str:
    """The rows as a Markdown table."""
    head = [
        "| Layers | rank | parameters | rate | eval loss before | after 1 epoch | after 2 | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines = [
        f"| {row['modules']} | {row['rank']} | {int(row['parameters']) / 1e6:.2f} M | {float(row['rate']):g} | {float(row['before']):.3f} "
        f"| {float(row['epoch_1']):.3f} | {float(row['epoch_2']):.3f} | {float(row['seconds']):.0f} |"
        for row in sorted(rows(), key=lambda row: (row["modules"], -int(row["rank"]), float(row["rate"])))
    ]
    return "\n".join([*head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "learning_rates")
    parser.add_argument("--table", action="store_true", help="print the table of the rows, and end")
    options = parser.parse_args()
    if options.table or options.folder is None:
        print(table())
        return
    work = options.work.resolve()
    if not (work / "files").is_dir():
        short_pairs(options.folder, work / "files")
    run("dataset_preparation.py", f"DATA_DIR={work / 'files'}", f"OUTPUT_DIR={work / 'data'}", *PREPARATION)
    for recipe in RECIPES:
        done = rows()
        if recipe.name in {row["name"] for row in done}:
            continue
        print(f"\n{recipe.name}", flush=True)
        row = train(recipe, work / "data", work)
        with files.atomic_open(RESULTS) as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows([*done, row])
    print(table())


if __name__ == "__main__":
    main()
