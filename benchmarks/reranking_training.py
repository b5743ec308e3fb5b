#!/usr/bin/env python3
"""How fast does a reranker train beside sentence-transformers' own example, at the same settings?

Both train the same base on the same pairs with binary cross-entropy, from the same seed, without evaluations: once through the workbench, and once as the
library's documentation shows it (`CrossEncoder(base, num_labels=1)`, `BinaryCrossEntropyLoss`, `CrossEncoderTrainer`). Each in a process of its own.

    python benchmarks/reranking_training.py --data datasets/demo_reranking --steps 30
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import side_by_side
from datasets import Dataset

from meerkat_workbench.device import hub
from meerkat_workbench.reranking.prepared import PreparedData
from meerkat_workbench.trainers.cross_encoder.losses import training_rows
from meerkat_workbench.trainers.cross_encoder.model import build_model
from meerkat_workbench.trainers.cross_encoder.recipe import CrossEncoderRecipe
from meerkat_workbench.trainers.cross_encoder.trainer import build_trainer

ARMS = ("example", "workbench, head classifier", "workbench, head compare")


def recipe_of(arguments: argparse.Namespace, head: str) -> CrossEncoderRecipe:
    return CrossEncoderRecipe(base="packaged", loss="bce", head=head, max_length=arguments.max_length, batch_size=arguments.batch_size,
                              max_steps=arguments.steps)  # fmt: skip


def rows_of(arguments: argparse.Namespace) -> Dataset:
    """As many pairs as the steps need, in the loss's form."""
    groups = PreparedData.open(arguments.data).groups(graded=False)
    rows = Dataset.from_list(list(training_rows(groups, recipe_of(arguments, "compare"))))
    return rows.shuffle(seed=0).select(range(min(len(rows), arguments.steps * arguments.batch_size)))


def example(rows: Dataset, arguments: argparse.Namespace, folder: str) -> float:
    """Seconds of the library's example."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    model = CrossEncoder(str(hub.locate_encoder("packaged", "")), num_labels=1, max_length=arguments.max_length)
    settings = CrossEncoderTrainingArguments(
        output_dir=folder, max_steps=arguments.steps, per_device_train_batch_size=arguments.batch_size, learning_rate=2e-5, warmup_steps=0.1,
        save_strategy="no", report_to="none", seed=42, logging_steps=10,
    )  # fmt: skip
    trainer = CrossEncoderTrainer(model=model, args=settings, train_dataset=rows, loss=BinaryCrossEntropyLoss(model))
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started


def workbench(rows: Dataset, arguments: argparse.Namespace, folder: str, head: str) -> float:
    """Seconds of the workbench's trainer."""
    recipe = recipe_of(arguments, head)
    model = build_model(recipe)
    trainer = build_trainer(model, rows, recipe, None, Path(folder), lambda _: "")
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder that reranking.py prepare wrote")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--arm", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    hub.silence_libraries()
    if arguments.arm:
        rows = rows_of(arguments)
        with tempfile.TemporaryDirectory() as folder:
            head = arguments.arm.rpartition(" ")[2]
            taken = example(rows, arguments, folder) if arguments.arm == "example" else workbench(rows, arguments, folder, head)
        side_by_side.report({"seconds": taken, "pairs": len(rows)})
        return
    print(f"{side_by_side.machine()}\n{arguments.steps} steps of {arguments.batch_size} pairs, {arguments.max_length} tokens\n")
    print("| arm | pairs/s | seconds |\n|---|---|---|")
    for arm, found in side_by_side.run(__file__, [*ARMS] * arguments.repeats):
        print(f"| {arm} | {found} |" if isinstance(found, str) else f"| {arm} | {found['pairs'] / found['seconds']:.1f} | {found['seconds']:.0f} |",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
