"""Experiment trackers that a run reports to besides its own files: Weights & Biases, MLflow, TensorBoard."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from meerkat_workbench.core.errors import UserError

Tracker = Literal["wandb", "mlflow", "tensorboard"]
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)
TENSORBOARD_FOLDER = "TENSORBOARD_LOGGING_DIR"  # the variable that transformers reads


class Tracking:
    """The trackers of a run.

    Args:
        wanted: names of trackers.
        output: the run's output folder. TensorBoard's files go there, so that they remain when checkpoints are deleted.
        tags: what the run is made from, such as commit and dataset.

    Raises:
        UserError: a name is unknown, or the tracker is not installed.
    """

    def __init__(self, wanted: Sequence[str], output: Path, tags: Mapping[str, str]) -> None:
        self.names, self.output, self.tags = list(dict.fromkeys(wanted)), output, dict(tags)
        for name in self.names:
            if name not in TRACKERS:
                raise UserError(f"is not one of {', '.join(TRACKERS)}", where="REPORT_TO", item=name)
            if importlib.util.find_spec(name) is None:
                remedy = f"Run `pip install {name}`, or leave it out."
                raise UserError("is not installed", where="REPORT_TO", item=name, remedy=remedy)

    def set_environment(self) -> None:
        """Set the trackers' environment variables; those that the user has set are kept.

        Call it before the trainer is made, because wandb reads the environment once.
        """
        if "wandb" in self.names:
            os.environ.setdefault("WANDB_TAGS", ",".join(f"{name}:{value}" for name, value in self.tags.items()))
        if "mlflow" in self.names:
            os.environ.setdefault("MLFLOW_TAGS", json.dumps(self.tags))
        if "tensorboard" in self.names:
            os.environ.setdefault(TENSORBOARD_FOLDER, str(self.output / "tensorboard"))

    def write_tags(self) -> None:
        """Write the tags as texts for TensorBoard, which has no tags. Call it after the run has claimed its output folder."""
        if "tensorboard" in self.names:
            from torch.utils.tensorboard import SummaryWriter

            with SummaryWriter(os.environ[TENSORBOARD_FOLDER]) as writer:
                for name, value in self.tags.items():
                    writer.add_text(name, value)


def choose_mlflow_store(address: str, folder: Path = Path("mlruns")) -> str:
    """Send MLflow's runs to the server at `address`, or, where nothing listens there, to a store in `folder`; returns its address.

    MLFLOW_TRACKING_URI, if the user has set it, decides instead.
    """
    chosen = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not chosen:
        chosen = address if _listens(address) else _local_store(folder)
        if chosen != address:
            print(f"no MLflow server at {address}; runs go to {folder}. `mlflow ui --backend-store-uri {chosen}` shows them")
        os.environ["MLFLOW_TRACKING_URI"] = chosen
    return chosen


def _local_store(folder: Path) -> str:
    """A database in a folder, or plain files, which MLflow only still allows, where mlflow-skinny has no database."""
    folder.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("sqlalchemy"):
        return f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return folder.resolve().as_uri()


def _listens(address: str) -> bool:
    """Whether something accepts connections at an address such as http://127.0.0.1:8080."""
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), timeout=2):
            return True
    except OSError:
        return False
