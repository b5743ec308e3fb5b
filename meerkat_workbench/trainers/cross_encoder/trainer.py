"""sentence-transformers' trainer with our checkpoints, progress and trackers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments

from meerkat_workbench.device import devices
from meerkat_workbench.retrieval.cross_encoder import TorchCrossEncoder, scoring_precision
from meerkat_workbench.trainers import reporting
from meerkat_workbench.trainers.best_checkpoint import BestCheckpoint
from meerkat_workbench.trainers.checkpointed import CheckpointedTrainer
from meerkat_workbench.trainers.cross_encoder.losses import make_loss
from meerkat_workbench.trainers.cross_encoder.recipe import CrossEncoderRecipe
from meerkat_workbench.trainers.progress import ProgressCallback

WEIGHTS = "model.safetensors"  # of a checkpoint: every weight, so that adapters and heads are restored alike


class CheckpointedCrossEncoderTrainer(CheckpointedTrainer, CrossEncoderTrainer):
    """sentence-transformers' trainer with atomic checkpoints that hold every weight of the model in one file.

    Its own checkpoints of a model with an adapter lose the head (sentence-transformers issue 3980).
    """

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        from safetensors.torch import save_model

        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        from safetensors.torch import load_model

        load_model(self.model, str(Path(checkpoint_path) / WEIGHTS))

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Nothing: the model card is written from the run's own record."""


@contextlib.contextmanager
def scorer_of(trainer: Any) -> Iterator[TorchCrossEncoder]:
    """The model of a trainer, scoring in the precision of the training. Afterwards it is in the mode (training or not) in which it was."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    was_training = model.training
    try:
        yield TorchCrossEncoder(model, scoring_precision(model, "bf16" if trainer.args.bf16 else "fp32"))
    finally:
        model.train(was_training)


def build_trainer(
    model: CrossEncoder, rows: Dataset, recipe: CrossEncoderRecipe, best: BestCheckpoint[Any] | None,
    checkpoints: Path, describe: Callable[[dict[str, float]], str],
    tracked: Mapping[str, Any] | None = None,
) -> CheckpointedCrossEncoderTrainer:  # fmt: skip
    """A trainer that is ready to train.

    Args:
        rows: what `training_rows` gives.
        best: what evaluates the model and keeps the best weights; None trains to the end without evaluations and checkpoints.
        checkpoints: their folder.
        describe: puts the measures of an evaluation into words.
        tracked: settings of the run, for the trackers.
    """
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(checkpoints), num_train_epochs=recipe.epochs, max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=recipe.batch_size, gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate, warmup_steps=recipe.warmup, weight_decay=recipe.weight_decay, lr_scheduler_type="linear",
        save_strategy="steps" if best else "no", save_steps=recipe.save_steps, save_total_limit=recipe.keep_checkpoints,
        eval_strategy="no" if best is None else "steps" if recipe.eval_steps else "epoch", eval_steps=recipe.eval_steps or None,
        logging_steps=recipe.logging_steps, report_to="none", run_name=recipe.run_name or None,
        seed=recipe.seed, bf16=recipe.precision == "bf16", fp16=recipe.precision == "fp16", use_cpu=devices.device().type == "cpu",
        disable_tqdm=True, dataloader_num_workers=0,
        # in-batch negatives of cached-mnrl must not be the positive of another row
        batch_sampler="no_duplicates" if recipe.loss == "cached-mnrl" else "batch_sampler",
    )  # fmt: skip
    trainer = CheckpointedCrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows.select(range(min(1, len(rows)))),
        loss=make_loss(model, recipe),
    )
    _print_progress(trainer, describe)
    for callback in reporting.callbacks(recipe.trackers, tracked or {}):
        trainer.add_callback(callback)
    if best is not None:
        trainer.keep_best(best)
    return trainer


def _print_progress(trainer: Any, describe: Callable[[dict[str, float]], str]) -> None:
    """Replace the library's bar and its printed logs with ours."""
    from transformers import PrinterCallback
    from transformers import ProgressCallback as LibraryProgress

    for callback in (PrinterCallback, LibraryProgress):
        trainer.remove_callback(callback)
    trainer.add_callback(ProgressCallback(describe))


def steps_in_all(rows: int, recipe: CrossEncoderRecipe, processes: int) -> int:
    """Optimizer steps of a whole training.

    Several processes need equally many whole batches, so the library leaves out the last few rows of an epoch, which are others in each epoch.
    """
    batches = math.ceil(rows / recipe.batch_size) if processes == 1 else rows // recipe.batch_size // processes
    return recipe.max_steps or math.ceil(math.ceil(batches / recipe.accumulation) * recipe.epochs)
