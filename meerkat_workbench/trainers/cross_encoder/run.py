"""A whole training of a cross-encoder, which resumes after a kill, is tracked, and keeps the best weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from datasets import Dataset

from meerkat_workbench.core import console, files, runs
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import Run
from meerkat_workbench.core.settings import Settings, as_dict
from meerkat_workbench.device import devices
from meerkat_workbench.device.tracking import Tracking
from meerkat_workbench.trainers import checkpointed
from meerkat_workbench.trainers.best_checkpoint import BEST_FOLDER
from meerkat_workbench.trainers.cross_encoder.model import BestWholeModel, build_model
from meerkat_workbench.trainers.cross_encoder.recipe import CrossEncoderRecipe
from meerkat_workbench.trainers.cross_encoder.trainer import build_trainer, steps_in_all
from meerkat_workbench.trainers.evaluator import E, Evaluator

CHECKPOINTS = "checkpoints"  # subfolder of a run


@dataclass(frozen=True)
class Trained(Generic[E]):
    """What a training measured.

    Attributes:
        kept, before: the evaluation of the kept weights, and the one before the first step.
        steps: of the optimizer.
    """

    kept: E
    before: E
    steps: int


def train(
    run: Run[Any], rows: Dataset, recipe: CrossEncoderRecipe, evaluator: Evaluator[E], *, patience: int, dataset: str, describe: Callable[[dict[str, float]], str],
    trackers: Sequence[str], config: Settings,
) -> Trained[E]:  # fmt: skip
    """Train from the last complete checkpoint, and leave the best weights in the run's folder `best`.

    Args:
        run: whose folder is claimed.
        rows: as `losses.training_rows` gives them.
        patience: evaluations without a new best after which training ends; 0 for no early end.
        dataset: fingerprint of the data, for the trackers.
        describe: puts the measures of an evaluation into words.

    Raises:
        UserError: the base is not there or cannot be made a cross-encoder, or there are too few rows for the processes.
        SystemExit: a signal stopped training after the current step, with a checkpoint.
    """
    steps = steps_in_all(len(rows), recipe, run.ranks.count)
    if not steps:
        raise UserError(f"are fewer than one batch of {recipe.batch_size} for each of {run.ranks.count} processes", where=f"{len(rows):,} rows of {recipe.loss}",
                        remedy="Use fewer processes, or a smaller BATCH_SIZE.")  # fmt: skip
    tracking = Tracking(trackers, run.folder, {"commit": (runs.git_state().commit or "none")[:12], "dataset": dataset[:12]})
    tracking.set_environment()
    with console.working(f"loading {recipe.base}"):
        model = build_model(recipe)
    best = BestWholeModel(evaluator, run.folder, run.folder / evaluator.kind.FILE, patience=patience)
    trainer = build_trainer(model, rows, recipe, best, run.folder / CHECKPOINTS, describe, as_dict(config))
    if run.ranks.is_main:
        print(f"{recipe.base} on {devices.describe()}, {run.ranks.count} process(es), computing in {recipe.precision}")
        print(f"{len(rows):,} rows of {recipe.loss}, {steps:,} steps")
    checkpointed.resume_and_train(run, trainer, run.folder / CHECKPOINTS, tracking.write_tags)
    return Trained(best.read_best(), best.history[0], trainer.state.global_step)


def remove_working_files(folder: Path) -> None:
    """Remove what only an unfinished run needs."""
    for name in (CHECKPOINTS, BEST_FOLDER):
        files.remove(folder / name)
