"""Writes and prints the results of training: the best weights, tables, the plot, and a comparison of finished runs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meerkat_workbench.core import artifacts, console, files
from meerkat_workbench.trainers.best_checkpoint import BEST_EVALUATION, BEST_FOLDER
from meerkat_workbench.trainers.token_budget import TokenBudgetTrainer
from meerkat_workbench.tuning import llm
from meerkat_workbench.tuning.artifacts import EvalPoint, OutputFile, SpecialtyLearningRow, TrainingConfigFile, TrainingResult
from meerkat_workbench.tuning.training import plots, tables
from meerkat_workbench.tuning.training.build import CHECKPOINTS
from meerkat_workbench.tuning.training.eval_loss import SAMPLED_METRICS, metric_value
from meerkat_workbench.tuning.training.examples import Example

NOT_COPIED = (BEST_EVALUATION, "README.md")


def write_best(output: Path, trainer: TokenBudgetTrainer[Example], tokenizer: Any) -> list[EvalPoint]:
    """Write the best weights and all that is needed to use them into the output folder, with the log, the tables and the plot.

    Returns:
        Every evaluation of the run.
    """
    best = output / BEST_FOLDER
    for path in best.iterdir():
        if path.name not in NOT_COPIED:
            shutil.copyfile(path, output / path.name)
    tokenizer.save_pretrained(str(output))
    llm.write_generation_config(output, tokenizer)
    log = [row for row in trainer.state.log_history if "loss" in row]
    history = artifacts.read_lines(EvalPoint, output / EvalPoint.FILE)
    kept = artifacts.read(EvalPoint, best / BEST_EVALUATION)
    files.write_json_lines(output / OutputFile.TRAINING_LOG, log)
    tables.write_evaluations(output, history)
    tables.write_learning(output, history, kept.step)
    tables.write_sample_answers(output, history)
    plots.draw(output / OutputFile.TRAINING_CURVES, log, history, kept.step)
    return history


def write_config(output: Path, result: TrainingResult, *, audit: Sequence[str], trainable: int, seconds_per_step: float) -> None:
    """Write `training_config.json`, for people to read."""
    config = TrainingConfigFile(
        settings=result.settings, iteration=result.iteration, kept=result.kept, audit=tuple(audit), trainable_parameters=trainable,
        seconds_a_step=round(seconds_per_step, 3),
    )  # fmt: skip
    artifacts.write(output / TrainingConfigFile.FILE, config)


def remove_working_files(output: Path) -> None:
    """Remove the checkpoints and the folder of the best weights, which a finished run no longer needs."""
    for name in (CHECKPOINTS, BEST_FOLDER):
        files.remove(output / name)


def print_report(output: Path, result: TrainingResult) -> None:
    """Print the closing table: the eval split before training and with the weights that were kept."""
    kept, before = result.kept, result.before
    print(
        f"\niteration {result.iteration}, eval split                  before      after (step {kept.step}, epoch {kept.epoch:g})"
    )
    for value_before, value_after, text in (
        (before.loss, kept.loss, "loss, nats per token"),
        (before.perplexity, kept.perplexity, "perplexity"),
        (before.token_accuracy, kept.token_accuracy, "token accuracy"),
    ):
        print(f"  {text:<32}{value_before:>12.3f}{value_after:>11.3f}")
    if kept.rouge_l is not None and before.rouge_l is not None:
        for name in SAMPLED_METRICS:
            text = f"{name}, {result.settings['SAMPLE_QUESTIONS']} sample answers"
            print(f"  {text:<32}{metric_value(before, name):>12.3f}{metric_value(kept, name):>11.3f}")
    curves, by_specialty = output / OutputFile.TRAINING_CURVES, output / SpecialtyLearningRow.FILE
    print(f"  adapter: {output}, curves: {curves}, by specialty: {by_specialty}")


def print_comparison(folders: Sequence[Path]) -> None:
    """Print loss, perplexity, token accuracy and sample scores of finished runs, a line for each evaluation (`--compare`)."""
    rows = []
    for folder in folders:
        result = TrainingResult.require(folder)
        for point in artifacts.read_lines(EvalPoint, folder / EvalPoint.FILE):
            kept = "kept" if point.step == result.kept.step else ""
            sampled = ["-" if value is None else f"{value:.3f}" for value in (point.rouge_l, point.bertscore_f1)]
            rows.append([str(folder)[-27:], Path(result.base_model).name[:23], f"{point.epoch:.2f}", f"{point.loss:.3f}",
                         f"{point.perplexity:.2f}", f"{point.token_accuracy:.3f}", *sampled, kept])  # fmt: skip
    console.print_table(["run", "model", "epoch", "loss", "perplexity", "accuracy", "ROUGE-L", "BERTScore", ""], rows, texts=2)
    print("Loss, perplexity and accuracy depend on the tokenizer. Compare different models by ROUGE-L and BERTScore.")
