"""Checkpoints: whole or not there, whatever happens while one is written."""

import signal
import time
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from meerkat_workbench.core import artifacts, files
from meerkat_workbench.trainers import checkpoints
from meerkat_workbench.trainers.checkpoints import CompleteMarker, is_complete, latest_complete, remove_incomplete, seconds_at


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x, labels):
        return {"loss": ((self.weight * x).sum(-1) - labels).pow(2).mean()}


class SavesAtomically(Trainer):
    """The library's trainer with the one method that a trainer needs for such checkpoints."""

    started = time.time()

    def _save_checkpoint(self, model, trial):
        def save():
            super(SavesAtomically, self)._save_checkpoint(model, trial)

        checkpoints.save_atomically(self, save, Path(self.args.output_dir), seconds=time.time() - self.started)


def trainer(folder, steps=6, **more):
    rows = [{"x": torch.tensor([1.0, n]), "labels": torch.tensor(float(n))} for n in range(12)]
    settings = {"save_steps": 2, "save_total_limit": 2, "max_steps": steps, "per_device_train_batch_size": 2} | more
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="steps", **settings)
    return SavesAtomically(model=Line(), args=arguments, train_dataset=rows)


def test_a_checkpoint_has_its_name_only_once_it_is_whole_and_the_disk_is_bounded(tmp_path):
    trainer(tmp_path).train()
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["checkpoint-4", "checkpoint-6"]
    assert all(is_complete(tmp_path / name) for name in kept)
    assert latest_complete(tmp_path) == tmp_path / "checkpoint-6"
    assert artifacts.read(CompleteMarker, tmp_path / "checkpoint-6" / CompleteMarker.FILE).step == 6


def test_one_signal_that_comes_twice_at_once_stops_safely_and_a_second_one_at_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    stop = checkpoints.GracefulStop(None)
    with stop.listening():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # from the group, and from the process that waits
        assert stop.received == signal.SIGTERM
        now[0] += 10
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_the_seconds_of_earlier_parts_are_counted(tmp_path):
    first = trainer(tmp_path, steps=2)
    first.started = time.time() - 1000
    first.train()
    assert 1000 <= seconds_at(tmp_path / "checkpoint-2") < 1060
    files.write_json(tmp_path / "checkpoint-2" / CompleteMarker.FILE, {"step": 2, "files": {}})  # as earlier versions wrote it
    assert seconds_at(tmp_path / "checkpoint-2") == 0


def test_a_file_cut_short_or_lost_makes_a_checkpoint_not_whole_and_the_one_before_is_taken(tmp_path):
    trainer(tmp_path).train()
    optimizer = tmp_path / "checkpoint-6" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-1])
    assert latest_complete(tmp_path) == tmp_path / "checkpoint-4" and remove_incomplete(tmp_path) == ["checkpoint-6"]
    (tmp_path / "checkpoint-4" / CompleteMarker.FILE).unlink()
    assert latest_complete(tmp_path) is None and remove_incomplete(tmp_path) == ["checkpoint-4"]


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_leaves_the_last_one(tmp_path, monkeypatch):
    failing = trainer(tmp_path)
    original = failing._save_optimizer_and_scheduler

    def full_at_step_4(folder):
        if failing.state.global_step == 4:
            raise OSError(28, "No space left on device")
        original(folder)

    monkeypatch.setattr(failing, "_save_optimizer_and_scheduler", full_at_step_4)
    with pytest.raises(OSError, match="No space"):
        failing.train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    resumed = trainer(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    straight = trainer(tmp_path / "straight")
    straight.train()
    assert torch.equal(resumed.model.weight, straight.model.weight)


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path):
    (tmp_path / ".writing" / "checkpoint-8").mkdir(parents=True)
    assert remove_incomplete(tmp_path) == [] and latest_complete(tmp_path) is None and not (tmp_path / ".writing").exists()
