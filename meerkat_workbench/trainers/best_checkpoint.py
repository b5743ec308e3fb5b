"""The best weights so far: every evaluation is recorded, and the weights of the best one are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Generic

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from meerkat_workbench.core import artifacts, files
from meerkat_workbench.trainers.evaluator import E, Evaluator

BEST_FOLDER = "best"
BEST_EVALUATION = "evaluation.json"


class BestCheckpoint(Generic[E]):
    """Evaluates a model while it is trained and keeps the weights of the best evaluation.

    Args:
        folder: the run's output folder; the weights go into `best` below it.
        history_file: where every evaluation is recorded, so that a resumed run knows the best of the whole run.
        patience: training ends after this many evaluations without a new best; 0 turns this off.
    """

    def __init__(self, evaluator: Evaluator[E], folder: Path, history_file: Path, *, patience: int = 0) -> None:
        self.evaluator, self.folder, self.history_file, self.patience = evaluator, folder / BEST_FOLDER, history_file, patience
        self._history: list[E] = []

    @property
    def history(self) -> list[E]:
        """Evaluations so far, including those before a resume."""
        return self._history or artifacts.read_lines(self.evaluator.kind, self.history_file, drop_torn_tail=True)

    def forget(self) -> None:
        """Remove the record of an earlier run that left no checkpoint, so that this run starts anew."""
        files.remove(self.history_file)

    def best(self) -> E:
        """The first evaluation with the best value so far."""
        sign = -1 if self.evaluator.greater_is_better else 1
        return min(self._history, key=lambda evaluation: (sign * self.evaluator.primary(evaluation), evaluation.step))

    def update(self, trainer: Any) -> E:
        """Evaluate the trainer's model, record the evaluation, and save the weights if it is the best so far."""
        evaluation = self.evaluator.evaluate(trainer)
        self._history = [old for old in self.history if old.step < evaluation.step] + [evaluation]
        if trainer.accelerator.is_main_process:
            if self.best() is evaluation:
                self._save(trainer.accelerator.unwrap_model(trainer.model), evaluation)
            artifacts.write_lines(self.history_file, self._history)
        trainer.accelerator.wait_for_everyone()
        return evaluation

    def _save(self, model: Any, evaluation: E) -> None:
        """Save an adapter or a whole model with its evaluation under a temporary name, then rename the folder."""
        temporary = self.folder.with_name(f".{self.folder.name}.tmp")
        files.remove(temporary)
        model.save_pretrained(str(temporary), safe_serialization=True)
        artifacts.write(temporary / BEST_EVALUATION, evaluation)
        files.remove(self.folder)
        temporary.rename(self.folder)

    def read_best(self) -> E:
        """The evaluation of the saved weights."""
        return artifacts.read(self.evaluator.kind, self.folder / BEST_EVALUATION)

    def evaluations_since_best(self) -> int:
        return sum(old.step > self.best().step for old in self._history)

    @property
    def patience_is_over(self) -> bool:
        return bool(self.patience) and self.evaluations_since_best() >= self.patience

    def last_step(self) -> int:
        """Step of the last evaluation; -1 before the first."""
        return max((evaluation.step for evaluation in self.history), default=-1)


class CatchUpEvaluation(TrainerCallback):
    """On resume, run the evaluation that was due when the previous run was killed."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        every = args.eval_steps if args.eval_strategy == "steps" else len(self.trainer.get_train_dataloader())
        due = state.global_step and state.global_step % int(every or 1) == 0
        if due and self.trainer.best.last_step() < state.global_step:
            self.trainer.evaluate()
