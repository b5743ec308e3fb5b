"""Checks what a training run starts from: the base, an earlier adapter, and what they have already learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meerkat_workbench.core import files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device import hub
from meerkat_workbench.tuning import llm, model_folders
from meerkat_workbench.tuning.artifacts import Split, TrainingResult
from meerkat_workbench.tuning.data import dataset_folders, leakage

# settings that an adapter keeps when it is trained further
ADAPTER_SHAPE = ("LORA_RANK", "LORA_ALPHA", "LORA_TARGET_MODULES", "LORA_OPTIONS")


@dataclass(frozen=True)
class BaseModel:
    """The base model: its name in the settings, its folder or Hub name, and a hash of its weights."""

    name: str
    location: str
    weights: str

    @classmethod
    def find(cls, name: str) -> BaseModel:
        location = llm.locate(name)
        return cls(name, location, hub.weights_hash(location))

    def check_type(self, *, encoder_decoder: bool) -> None:
        """Raise UserError if MODEL_TYPE is not the type of the model."""
        is_encoder_decoder = llm.is_encoder_decoder(llm.load_config(self.location))
        if is_encoder_decoder != encoder_decoder:
            kind = "encoder-decoder" if is_encoder_decoder else "decoder"
            raise UserError(f"is a model of type {kind}", where=self.name, remedy=f"Set MODEL_TYPE={kind}.")


def adapter_hash(folder: str) -> str:
    """SHA-256 of an adapter's weights; empty for no adapter."""
    return files.sha256_file(Path(folder) / model_folders.ADAPTER_WEIGHTS) if folder else ""


def check_init_adapter(setting: str, output: Path) -> None:
    """Raise UserError if INIT_ADAPTER holds no adapter, or is the folder that this run writes to."""
    if not setting:
        return
    where = f"INIT_ADAPTER={setting}"
    if not model_folders.holds_adapter(Path(setting)):
        remedy = "Name the output folder of a finished training, or leave INIT_ADAPTER out."
        raise UserError(f"holds no adapter (no {model_folders.ADAPTER_WEIGHTS})", where=where, remedy=remedy)
    if Path(setting).resolve() == output.resolve():
        raise UserError(
            "is OUTPUT_DIR, where this run will write its own adapter",
            where=where,
            remedy=f"Name another OUTPUT_DIR, or an earlier adapter in {output / 'archive'}.",
        )


def check_adapter_fits(folder: Path, base: BaseModel, shape: Mapping[str, object]) -> None:
    """Raise UserError if an adapter was trained on another base, or has another shape than the settings.

    Args:
        shape: this run's settings of `ADAPTER_SHAPE`.
    """
    where, earlier = f"INIT_ADAPTER={folder}", TrainingResult.require(folder)
    if earlier.inputs.base_weights != base.weights:
        remedy = f"Set MODEL_NAME={earlier.base_model}, or leave INIT_ADAPTER out."
        raise UserError(f"was trained on {earlier.base_model}, not on {base.name}", where=where, remedy=remedy)
    for name, value in shape.items():
        trained_with = earlier.settings.get(name)
        if trained_with != value:
            fault = f"was trained with {name}={trained_with}, not {value}, and an adapter keeps its shape"
            raise UserError(fault, where=where, item=name, remedy=f"Set {name}={trained_with}.")


def check_leaks(data: Path, base: BaseModel, init_adapter: Path | None) -> tuple[str, ...]:
    """Raise UserError if the train set, or what base or adapter learnt earlier, repeats a record of the fixed sets.

    Returns:
        Hashes of all train sets that the model will have learnt from.
    """
    held_out = leakage.held_out_index(data)
    leakage.check_train_split(data, held_out)
    starts = [("INIT_ADAPTER", str(init_adapter or ""), "Train a new adapter: leave INIT_ADAPTER out."),
              ("MODEL_NAME", base.location, "Name a base that was not trained on them.")]  # fmt: skip
    models = [
        leakage.TrainedModel(f"{setting}={location}", record, remedy)
        for setting, location, remedy in starts
        if location and (record := leakage.read_training_record(location)) is not None
    ]
    for note in leakage.check_trained_models(data, held_out, models):
        print(f"  {note}", flush=True)
    learnt = [train_set for model in models if model.record for train_set in model.record.inputs.trained_on]
    return tuple(dict.fromkeys([*learnt, dataset_folders.hash_of_ids(data, Split.TRAIN)]))
