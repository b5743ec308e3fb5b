"""Checkpoints that are whole or not there: written under another name, flushed, renamed, and then marked."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from workbench import files

WHOLE = "whole.json"
WRITING = ".writing"
NAME = re.compile(r"checkpoint-(\d+)")
ECHO = 2.0  # seconds within which a signal that comes again is the same one


class WholeCheckpoints(Trainer):
    """Mixin: a kill, a power cut or a full disk while a checkpoint is written leaves the last one as it was.

    transformers writes into the folder that a resume would choose, and deletes the old one before the new one is on
    disk. Here the new one is written into a folder that no resume looks at, flushed, and renamed; only then do
    old ones go. In it stands `whole.json`, with the step, the seconds spent so far and the size of each file.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.began = time.time()

    def counts_from(self, began: float) -> None:
        """Checkpoints name the seconds since then: `time.time()` at the start, less what was spent before a kill."""
        self.began = began

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        writing = Path(self.args.output_dir) / WRITING
        if self.args.should_save:
            files.remove(writing)
        self.accelerator.wait_for_everyone()
        before = self.args.output_dir
        self.args.output_dir = str(writing)
        try:
            super()._save_checkpoint(model, trial)
        except BaseException:
            self.args.output_dir = before
            if self.args.should_save:
                files.remove(writing)
            raise
        self.args.output_dir = before
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            settle(
                writing / f"checkpoint-{self.state.global_step}", Path(before), self.state.global_step, time.time() - self.began
            )
            files.remove(writing)
            rotate_checkpoints(before, save_total_limit=self.args.save_total_limit)
        self.accelerator.wait_for_everyone()


def settle(written: Path, folder: Path, step: int, seconds: float) -> None:
    """Flush a checkpoint's files, mark it whole, and give it its name in `folder`."""
    for path in sorted(written.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    sizes = {str(path.relative_to(written)): path.stat().st_size for path in sorted(written.rglob("*")) if path.is_file()}
    files.write_json(written / WHOLE, {"step": step, "seconds": round(seconds, 1), "files": sizes})
    target = folder / written.name
    files.remove(target)
    os.replace(written, target)
    files.fsync_folder(folder)


def _numbered(folder: Path) -> list[Path]:
    """Checkpoints of a folder, the newest first."""
    found = [(int(match.group(1)), path) for path in folder.glob("checkpoint-*") if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest_whole(folder: Path) -> Path | None:
    """The newest whole checkpoint, if there is one."""
    return next((path for path in _numbered(folder) if is_whole(path)), None)


def clear_torn(folder: Path) -> list[str]:
    """Remove what is not whole; returns the names. For one process, before others look."""
    files.remove(folder / WRITING)
    torn = [path for path in _numbered(folder) if not is_whole(path)]
    for path in torn:
        shutil.rmtree(path)
    return [path.name for path in torn]


def is_whole(checkpoint: Path) -> bool:
    """Whether every file that was written is there at its full size."""
    if not (checkpoint / WHOLE).is_file():
        return False
    sizes = files.read_json(checkpoint / WHOLE)["files"]
    return all((checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size for name, size in sizes.items())


def seconds_until(checkpoint: Path) -> float:
    """What the training took until this checkpoint, in all its parts; 0 where an earlier version did not count it."""
    return float(files.read_json(checkpoint / WHOLE).get("seconds", 0))


class StopSafely(TrainerCallback):
    """SIGTERM (preemption) and Ctrl-C end the training after the step under way, with a checkpoint; a second one at once.

    The same signal often comes twice, from a terminal or a scheduler and from the process that waits for this one; what follows
    within seconds is no second.

    Several processes agree at each step, so that all stop after the same one.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator, self.received, self.since = accelerator, 0, 0.0
        self.agreed = 0  # the signal that some process had received when the last step ended, the same on all

    @contextmanager
    def listening(self) -> Iterator[None]:
        def note(number: int, _: FrameType | None) -> None:
            if not self.received:
                self.received, self.since = number, time.monotonic()
                print("  stopping after this step, with a checkpoint (a second signal stops at once) …", flush=True)
            elif time.monotonic() - self.since > ECHO:
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
        if self.agreed:  # a machine that is being taken away does not wait for an evaluation
            control.should_evaluate = False
