"""Progress of a training run: steps done, loss, rate and time left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from meerkat_workbench.core import console


class ProgressCallback(TrainerCallback):
    """Shows a progress line while a model is trained, and a line for each evaluation.

    Args:
        describe: puts the logged measures of an evaluation (`eval_loss`, …) into words.
    """

    def __init__(self, describe: Callable[[dict[str, float]], str]) -> None:
        self.describe = describe
        self.steps: console.Progress | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.steps = console.Progress("training", state.max_steps, "steps", done=state.global_step)
        self.steps.__enter__()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if self.steps is not None and logs and "loss" in logs:
            self.steps.note = f"loss {float(logs['loss']):.3f}"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.steps is not None:
            self.steps.advance()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        text = f"  epoch {state.epoch or 0:.2f}: {self.describe(metrics)}"
        if self.steps is not None:
            self.steps.say(text)
        elif state.is_world_process_zero:
            print(text, flush=True)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.steps is not None:
            self.steps.__exit__(None, None, None)
