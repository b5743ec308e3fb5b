"""Checkpoints that are complete or absent: written under another name, flushed, marked as complete, and then renamed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from meerkat_workbench.core import artifacts, files

WRITING = ".writing"
NAME = re.compile(r"checkpoint-(\d+)")
REPEATED_SIGNAL_S = 2.0  # repeats within this time count as the same signal


class CompleteMarker(artifacts.Artifact, frozen=True, kw_only=True):
    """`whole.json` in a checkpoint: its step, the seconds of training until then, and the size of each file."""

    FILE: ClassVar[str] = "whole.json"

    step: int
    seconds: float = 0.0  # earlier versions did not count them
    files: dict[str, int]


def save_atomically(trainer: Any, save: Callable[[], None], folder: Path, *, seconds: float) -> None:
    """Save a checkpoint so that a kill, a power cut or a full disk leaves the last one intact.

    transformers writes into the folder that a resume would choose, and deletes the old checkpoint before the new one is on disk.
    Here the new one is written into a folder that no resume looks at, flushed, marked and renamed. Only then are old ones deleted.

    Args:
        trainer: a Hugging Face trainer; every process of the run calls this.
        save: the trainer's own `_save_checkpoint`, which writes below `trainer.args.output_dir`.
        folder: the folder of the checkpoints.
        seconds: duration of the training so far.
    """
    writing, is_main = folder / WRITING, trainer.args.should_save
    if is_main:
        files.remove(writing)
    trainer.accelerator.wait_for_everyone()
    trainer.args.output_dir = str(writing)
    try:
        save()
    except BaseException:
        if is_main:
            files.remove(writing)
        raise
    finally:
        trainer.args.output_dir = str(folder)
    trainer.accelerator.wait_for_everyone()
    if is_main:
        step = trainer.state.global_step
        commit(writing / f"checkpoint-{step}", folder, step, seconds)
        files.remove(writing)
        rotate_checkpoints(str(folder), save_total_limit=trainer.args.save_total_limit)
    trainer.accelerator.wait_for_everyone()


def commit(written: Path, folder: Path, step: int, seconds: float) -> None:
    """Flush a checkpoint's files, mark it complete, and give it its name in `folder`."""
    paths = [path for path in sorted(written.rglob("*")) if path.is_file()]
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    sizes = {str(path.relative_to(written)): path.stat().st_size for path in paths}
    artifacts.write(written / CompleteMarker.FILE, CompleteMarker(step=step, seconds=round(seconds, 1), files=sizes))
    target = folder / written.name
    files.remove(target)
    os.replace(written, target)
    files.fsync_folder(folder)


def _numbered(folder: Path) -> list[Path]:
    """Checkpoints of a folder, the newest first."""
    by_step = [(int(match.group(1)), path) for path in folder.glob("checkpoint-*") if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(by_step, reverse=True)]


def latest_complete(folder: Path) -> Path | None:
    """The newest complete checkpoint, if there is one."""
    return next((path for path in _numbered(folder) if is_complete(path)), None)


def remove_incomplete(folder: Path) -> list[str]:
    """Remove incomplete checkpoints; returns their names. Call it in one process, before the others look for checkpoints."""
    files.remove(folder / WRITING)
    incomplete = [path for path in _numbered(folder) if not is_complete(path)]
    for path in incomplete:
        shutil.rmtree(path)
    return [path.name for path in incomplete]


def is_complete(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint exists at its full size."""
    marker = checkpoint / CompleteMarker.FILE
    if not marker.is_file():
        return False
    sizes = artifacts.read(CompleteMarker, marker).files
    return all((checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size for name, size in sizes.items())


def seconds_at(checkpoint: Path) -> float:
    """Seconds of training until this checkpoint, over all resumed runs."""
    return artifacts.read(CompleteMarker, checkpoint / CompleteMarker.FILE).seconds


class GracefulStop(TrainerCallback):
    """SIGTERM (preemption) and Ctrl-C end the training after the present step, with a checkpoint. A second signal ends it at once.

    The same signal often arrives twice: from a terminal or a scheduler, and from the process that waits for this one. Several
    processes agree at each step, so that all stop after the same step.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator, self.received, self.received_at = accelerator, 0, 0.0
        self.agreed = 0  # the signal that any process had received when the last step ended; the same in all processes

    @contextmanager
    def listening(self) -> Iterator[None]:
        def note(number: int, _: FrameType | None) -> None:
            if not self.received:
                self.received, self.received_at = number, time.monotonic()
                print("  stopping after this step, with a checkpoint (a second signal stops at once) …", flush=True)
            elif time.monotonic() - self.received_at > REPEATED_SIGNAL_S:
                raise KeyboardInterrupt

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.agreed = self.received
        if self.accelerator.num_processes > 1:
            import torch

            flag = torch.tensor(self.received, device=self.accelerator.device)
            self.agreed = int(self.accelerator.gather(flag[None]).max())
        if self.agreed and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.agreed:  # a machine that is about to be taken away does not wait for an evaluation
            control.should_evaluate = False
