"""Checkpoints that are whole or not used: a marker is written last, and resume takes the newest one that bears it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from workbench import files

WHOLE = "whole.json"
NAME = re.compile(r"checkpoint-(\d+)")


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, and the names of those passed over; the latter are removed."""
    found = sorted(
        ((int(match.group(1)), path) for path in folder.glob("checkpoint-*") if (match := NAME.fullmatch(path.name))),
        reverse=True,
    )
    torn: list[str] = []
    for _, path in found:
        if (path / WHOLE).is_file():
            return path, torn
        torn.append(path.name)
        shutil.rmtree(path, ignore_errors=True)
    return None, torn


class MarkWhole(TrainerCallback):
    """Marks a checkpoint once all its files are on disk."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and args.output_dir is not None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            files.write_json(folder / WHOLE, {"step": state.global_step, "epoch": state.epoch})
