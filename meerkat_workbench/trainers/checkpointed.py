"""A Hugging Face trainer that can be killed at any moment: atomic checkpoints, the best weights kept, evaluations caught up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerControl

from meerkat_workbench.core.errors import resume_command
from meerkat_workbench.core.runs import Run
from meerkat_workbench.trainers import checkpoints
from meerkat_workbench.trainers.best_checkpoint import BestCheckpoint, CatchUpEvaluation


class CheckpointedTrainer(Trainer):
    """Mixin for a class of a Hugging Face trainer. `keep_best` must be called after construction."""

    best: BestCheckpoint[Any]
    started: float  # time.time() at which the training would have begun without interruptions

    def keep_best(self, best: BestCheckpoint[Any]) -> None:
        """Give the trainer what evaluates its model and keeps the best weights."""
        self.best, self.started = best, time.time()
        self.add_callback(CatchUpEvaluation(self))

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Evaluate, save the weights if they are the best so far, and log the measures."""
        evaluation = self.best.update(self)
        metrics = {f"eval_{name}": value for name, value in self.best.evaluator.logged(evaluation).items()}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.best.patience_is_over:
            self.control.should_training_stop = True
            if self.accelerator.is_main_process:
                since, metric = self.best.evaluations_since_best(), self.best.evaluator.primary_metric
                print(f"  no better {metric} in {since} evaluations, so training ends here", flush=True)
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        save: Callable[[], None] = lambda: super(CheckpointedTrainer, self)._save_checkpoint(model, trial)  # noqa: E731
        checkpoints.save_atomically(self, save, Path(self.args.output_dir), seconds=time.time() - self.started)


def resume_and_train(run: Run[Any], trainer: CheckpointedTrainer, folder: Path, before_first_step: Callable[[], None]) -> None:
    """Train from the last complete checkpoint to the end.

    Args:
        folder: of the checkpoints.
        before_first_step: what to write once the run has its folder, such as the trackers' tags.

    Raises:
        SystemExit: a signal stopped training after the current step, with a checkpoint.
    """
    for name in run.ranks.agree(lambda: checkpoints.remove_incomplete(folder)):
        if run.ranks.is_main:
            print(f"  {name} is incomplete, because the run was stopped while writing it; it is not used")
    checkpoint = checkpoints.latest_complete(folder)
    if checkpoint is None:
        run.ranks.agree(trainer.best.forget)
        trainer.evaluate()
    else:
        if run.ranks.is_main:
            print(f"  resuming from {checkpoint.name}")
        run.started -= checkpoints.seconds_at(checkpoint)
    trainer.started = run.started
    if run.ranks.is_main:
        before_first_step()
    stop = checkpoints.GracefulStop(trainer.accelerator)
    trainer.add_callback(stop)
    with stop.listening():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.agreed and trainer.state.global_step < trainer.state.max_steps:
        if run.ranks.is_main:
            done, total = trainer.state.global_step, trainer.state.max_steps
            print(f"stopped at step {done} of {total}; {resume_command()} resumes from there")
        raise SystemExit(128 + stop.agreed)
    # an earlier run may have been killed between its last checkpoint and its last evaluation
    if trainer.best.last_step() < trainer.state.global_step:
        trainer.evaluate()
