"""The subject of an evaluation: a trained model and its data, checked to belong together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meerkat_workbench.core import runs
from meerkat_workbench.core.commands import command_of
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning import llm
from meerkat_workbench.tuning.artifacts import (
    FIXED,
    DatasetManifest,
    EvaluationManifest,
    IterationRecord,
    SystemKind,
    TrainingResult,
)
from meerkat_workbench.tuning.data import leakage, ledger
from meerkat_workbench.tuning.data.leakage import TrainedModel
from meerkat_workbench.tuning.generation.systems import Loading, System


@dataclass(frozen=True)
class EvaluationSubject:
    """A trained model and its data.

    Attributes:
        adapter: folder of the adapter, or of the whole model after full fine-tuning.
        data_folder: the prepared folder; the questions of its holdout and eval are asked.
        base_name: the base model, as the settings name it.
    """

    adapter: Path
    data_folder: Path
    base_name: str
    training: TrainingResult
    data: DatasetManifest

    @classmethod
    def load(cls, adapter: Path, data_folder: Path, base_name: str | None) -> EvaluationSubject:
        """Read both folders.

        Args:
            base_name: None takes the base that the adapter was trained on.

        Raises:
            UserError: the folders do not belong together.
        """
        training, data = TrainingResult.require(adapter), DatasetManifest.require(data_folder)
        subject = cls(adapter, data_folder, base_name or training.base_model, training, data)
        subject._check_sets()
        return subject

    def _check_sets(self) -> None:
        """Raise UserError if the adapter was trained beside another holdout or eval set than that of the data."""
        in_training, now = self.training.inputs.splits, self.data.splits
        different = [split for split in FIXED if in_training.of(split) != now.of(split)]
        if not different:
            return
        number = self.training.iteration
        can_restore = any(record.iteration == number and record.hashes == in_training for record in self.ledger)
        restore = f" Or restore the adapter's sets: {self.preparation_command('--iteration', str(number))}" if can_restore else ""
        raise UserError(
            f"was trained with a different {' and '.join(different)} split than the one in {self.data_folder}, so its scores on this "
            "data would not be comparable with those of its own iteration",
            where=self.adapter,
            remedy=f"Train on {self.data_folder} (and name this model in MODELS, to ask both).{restore}",
        )

    @property
    def iteration(self) -> int:
        return self.training.iteration

    @functools.cached_property
    def ledger(self) -> list[IterationRecord]:
        return ledger.require_ledger(self.data_folder)

    @functools.cached_property
    def record(self) -> IterationRecord:
        """The iteration that the adapter was trained on."""
        return ledger.find_iteration(self.data_folder, self.iteration)

    @property
    def series(self) -> list[str]:
        """The time when the series of iterations began, and the hash of its prompt template.

        Split hashes are excluded: a restarted series with the same seed draws the same splits but is a different series.
        """
        return [self.ledger[0].made, self.ledger[-1].template_sha256]

    def finished_evaluation(self, output: Path) -> EvaluationManifest | None:
        """The latest finished evaluation of this adapter on this data, in an output folder or its archive."""
        found = [
            done
            for folder in (output, *runs.archived(output))
            if (done := EvaluationManifest.find(folder))
            and (done.inputs.adapter, done.inputs.dataset) == (self.training.outputs.adapter, self.data.fingerprint)
        ]
        return max(found, key=lambda done: done.finished, default=None)

    def preparation_command(self, *more: str) -> str:
        """The command that prepared the data, with these arguments added."""
        arguments = list(self.data.arguments)
        if self.data.output_dir != self.data_folder:  # moved since
            arguments = [
                *(argument for argument in arguments if not argument.startswith("OUTPUT_DIR=")),
                f"OUTPUT_DIR={self.data_folder}",
            ]
        return command_of(DatasetManifest.SCRIPT, *arguments, *more)

    def locate_base(self, loading: Loading) -> str:
        """Find the base.

        Raises:
            UserError: this machine cannot run it, or the adapter was not trained on it.
        """
        llm.require_device_for(self.base_name, load_in_4bit=loading.load_in_4bit, precision=loading.precision)
        location = llm.locate(self.base_name)
        llm.check_base(self.training.inputs.base_weights, location, where=self.adapter, expected=self.training.base_model,
                       remedy="Leave BASE_MODEL_PATH out, or train an adapter for this base.")  # fmt: skip
        return location

    def check_leaks(self, systems: Sequence[System]) -> None:
        """Check that no model has learnt the questions that are asked, and print what could not be checked.

        Args:
            systems: base and tuned model first.

        Raises:
            UserError: a model may have learnt such a question, as far as its training is known.
        """
        models = [TrainedModel(str(self.adapter), self.training, "Prepare the data again, and train on it.")]
        for system in systems[2:]:
            if system.kind in (SystemKind.ADAPTER, SystemKind.MODEL):
                record = leakage.read_training_record(system.source)
                name = f"MODELS: {system.name} ({system.source})"
                models.append(TrainedModel(name, record, f"Leave {system.name} out of MODELS."))
            elif system.kind is SystemKind.ENDPOINT and not system.few_shot:
                models.append(TrainedModel(f"MODELS: {system.name} ({system.served_as})", None, ""))
        for note in leakage.check_trained_models(self.data_folder, leakage.held_out_index(self.data_folder), models):
            print(f"  {note}", flush=True)
