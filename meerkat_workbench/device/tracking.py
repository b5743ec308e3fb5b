"""Where a run is reported to beside its own files: Weights & Biases, MLflow, TensorBoard."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from meerkat_workbench.core.errors import UserError

Tracker = Literal["wandb", "mlflow", "tensorboard"]
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)
TENSORBOARD_FOLDER = "TENSORBOARD_LOGGING_DIR"  # the variable that transformers reads


class Tracking:
    """The trackers of a run.

    Args:
        wanted: names of trackers.
        output: the run's output folder; TensorBoard's files go there, where they outlive the checkpoints.
        tags: what the run was made from, such as commit and dataset.

    Raises:
        UserError: a name is unknown, or the tracker is not installed.
    """

    def __init__(self, wanted: Sequence[str], output: Path, tags: Mapping[str, str]) -> None:
        self.names, self.output, self.tags = list(dict.fromkeys(wanted)), output, dict(tags)
        for name in self.names:
            if name not in TRACKERS:
                raise UserError(f"{name!r} is none of {', '.join(TRACKERS)}", where="REPORT_TO", item=name)
            if importlib.util.find_spec(name) is None:
                remedy = f"pip install {name}, or leave it out."
                raise UserError(f"{name} is not installed", where="REPORT_TO", item=name, remedy=remedy)

    def set_environment(self) -> None:
        """Tell the trackers what the run is made from; what the user's environment says already stays.

        Call it before the trainer is made: wandb reads the environment once.
        """
        if "wandb" in self.names:
            os.environ.setdefault("WANDB_TAGS", ",".join(f"{name}:{value}" for name, value in self.tags.items()))
        if "mlflow" in self.names:
            os.environ.setdefault("MLFLOW_TAGS", json.dumps(self.tags))
        if "tensorboard" in self.names:
            os.environ.setdefault(TENSORBOARD_FOLDER, str(self.output / "tensorboard"))

    def write_tags(self) -> None:
        """Write the tags for TensorBoard, which has none, as texts; call it once the output folder is this run's."""
        if "tensorboard" in self.names:
            from torch.utils.tensorboard import SummaryWriter

            with SummaryWriter(os.environ[TENSORBOARD_FOLDER]) as writer:
                for name, value in self.tags.items():
                    writer.add_text(name, value)
