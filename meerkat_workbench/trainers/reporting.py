"""What trackers get of a training whose names are ours: `train/loss`, `val/loss`, `val/auroc`, … in MLflow, Weights & Biases and TensorBoard.

transformers' own callbacks start and end the runs; they would name the same measures differently in each tracker.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

from meerkat_workbench.device.tracking import Tracker

EVALUATION = "eval_"  # transformers' prefix of an evaluation's measures
MAX_VALUE = 500  # characters of a setting in MLflow
FORBIDDEN = re.compile(r"[^\w\-. /]")  # in MLflow's names


def tracked(logs: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log under our names. `eval_nDCG@10` becomes `val/nDCG_at_10`, because MLflow allows no @."""
    named = {}
    for name, value in logs.items():
        if isinstance(value, int | float):
            place = f"val/{name.removeprefix(EVALUATION)}" if name.startswith(EVALUATION) else f"train/{name}"
            named[FORBIDDEN.sub("_", place.replace("@", "_at_"))] = float(value)
    return named


class _MLflow(MLflowCallback):
    settings: Mapping[str, Any] = {}

    def setup(self, args: Any, state: Any, model: Any) -> None:
        super().setup(args, state, model)
        if state.is_world_process_zero:
            self._ml_flow.log_params({f"settings/{name}": str(value)[:MAX_VALUE] for name, value in self.settings.items()})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, model: Any = None, **keywords: Any) -> None:
        super().on_log(args, state, control, tracked(logs), model=model, **keywords)


class _Wandb(WandbCallback):
    settings: Mapping[str, Any] = {}

    def setup(self, args: Any, state: Any, model: Any, **keywords: Any) -> None:
        super().setup(args, state, model, **keywords)
        if state.is_world_process_zero:
            self._wandb.config.update({"settings": dict(self.settings)}, allow_val_change=True)

    def on_log(self, args: Any, state: Any, control: Any, model: Any = None, logs: Any = None, **_: Any) -> None:
        if not self._initialized:
            self.setup(args, state, model)
        if state.is_world_process_zero:
            self._wandb.log({**tracked(logs), "train/global_step": state.global_step})


class _TensorBoard(TensorBoardCallback):
    settings: Mapping[str, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        super().on_train_begin(args, state, control, **keywords)
        if state.is_world_process_zero and self.tb_writer is not None:
            self.tb_writer.add_text("settings", "  \n".join(f"{name}: {value}" for name, value in self.settings.items()))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero:
            if self.tb_writer is None:
                self._init_summary_writer(args)
            for name, value in tracked(logs).items():
                self.tb_writer.add_scalar(name, value, state.global_step)
            self.tb_writer.flush()


def callbacks(trackers: Sequence[Tracker | str], settings: Mapping[str, Any]) -> list[TrainerCallback]:
    """A callback for each tracker; the trainer itself is then made with report_to="none".

    Args:
        settings: of the run, which the trackers store beside those of the library.
    """
    kinds = {"mlflow": _MLflow, "wandb": _Wandb, "tensorboard": _TensorBoard}
    made: list[TrainerCallback] = []
    for name in trackers:
        callback: Any = kinds[name]()
        callback.settings = settings
        made.append(callback)
    return made
