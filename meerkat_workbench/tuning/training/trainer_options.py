"""Turns settings into PEFT's and TRL's configurations; any of their other fields can be set under its own name."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meerkat_workbench.core.errors import UserError, did_you_mean, one_line
from meerkat_workbench.device import devices
from meerkat_workbench.device.devices import Precision

# fields that a setting of the script decides, so that each is set in one place
LORA_SETTINGS = {"r": "LORA_RANK", "lora_alpha": "LORA_ALPHA", "lora_dropout": "LORA_DROPOUT",
                 "target_modules": "LORA_TARGET_MODULES"}  # fmt: skip
LORA_FIXED = {"task_type", "modules_to_save", "inference_mode", "bias"}
TRAINER_SETTINGS = {
    "per_device_train_batch_size": "BATCH_SIZE", "gradient_accumulation_steps": "GRADIENT_ACCUMULATION_STEPS",
    "num_train_epochs": "NUM_EPOCHS", "learning_rate": "LEARNING_RATE", "lr_scheduler_type": "LR_SCHEDULER",
    "warmup_steps": "WARMUP_RATIO", "optim": "OPTIMIZER", "weight_decay": "WEIGHT_DECAY", "max_grad_norm": "MAX_GRAD_NORM",
    "save_steps": "SAVE_STEPS", "save_total_limit": "KEEP_CHECKPOINTS", "logging_steps": "LOGGING_STEPS",
    "report_to": "REPORT_TO", "seed": "RANDOM_SEED", "output_dir": "OUTPUT_DIR", "max_length": "MAX_SEQ_LENGTH",
    "eval_steps": "EVAL_STEPS", "gradient_checkpointing": "ACTIVATION_CHECKPOINTING", "bf16": "COMPUTE_DTYPE", "fp16": "COMPUTE_DTYPE",
}  # fmt: skip
# fields that would undo packing, masking or atomic checkpoints, or would have no effect, because the optimizer step is our own
TRAINER_FIXED = {"packing", "padding_free", "completion_only_loss", "assistant_only_loss", "dataset_kwargs", "save_strategy",
                 "eval_strategy", "remove_unused_columns", "load_best_model_at_end", "resume_from_checkpoint",
                 "gradient_checkpointing_kwargs", "data_seed", "use_cpu", "activation_checkpointing",
                 "activation_checkpointing_kwargs", "activation_offloading", "label_smoothing_factor", "loss_type",
                 "train_sampling_strategy", "neftune_noise_alpha", "accelerator_config",
                 "dataloader_num_workers", "dataloader_drop_last", "dataloader_prefetch_factor", "dataloader_pin_memory",
                 "dataloader_persistent_workers", "auto_find_batch_size"}  # fmt: skip
# initialisations that change the base's weights; the base that evaluation loads would then be another one
CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "eva", "lora_ga")
NOT_TRAINABLE = ("lm_head", "embed_out")


@dataclass(frozen=True)
class LoraOptions:
    """The shape of an adapter: the settings LORA_RANK, LORA_ALPHA, LORA_DROPOUT, LORA_TARGET_MODULES and LORA_OPTIONS."""

    rank: int
    alpha: int
    dropout: float
    target_modules: Sequence[str]
    more: Mapping[str, object]
    encoder_decoder: bool


@dataclass(frozen=True)
class TrainerOptions:
    """How a run is optimised, evaluated, saved and logged; `more` holds fields of the library's configuration."""

    examples_per_step: int  # in one process
    epochs: float
    learning_rate: float
    lr_scheduler: str
    warmup_ratio: float
    optimizer: str
    weight_decay: float
    max_grad_norm: float
    eval_steps: int
    save_steps: int
    keep_checkpoints: int
    logging_steps: int
    trackers: Sequence[str]
    seed: int
    run_name: str
    more: Mapping[str, object]
    encoder_decoder: bool

    @property
    def max_steps(self) -> int:
        """Optimizer steps after which training ends; 0 or less if only the epochs decide."""
        steps = self.more.get("max_steps", 0)
        return steps if isinstance(steps, int) else 0


def check_target_modules(names: Sequence[str]) -> None:
    """Raise UserError if no layer is named, or one that cannot be trained here."""
    if not names:
        remedy = "The default is q_proj,v_proj."
        raise UserError("is empty, so there is nothing to train", where="LORA_TARGET_MODULES", remedy=remedy)
    for name in names:
        if name.split(".")[-1] in NOT_TRAINABLE:
            raise UserError(
                "cannot be trained, because the loss never computes all of the logits that an adapter on it would change",
                where="LORA_TARGET_MODULES",
                item=name,
                remedy="Leave it out. all-linear adapts every layer below it.",
            )


def check_fields(setting: str, given: Mapping[str, object], kind: type, decided: Mapping[str, str], fixed: set[str]) -> None:
    """Raise UserError if a name is not a field of `kind`, is decided by a setting, or must not be changed.

    Args:
        setting: the setting that names the fields.
        decided: fields that another setting decides, with its name.
        fixed: fields that must not be changed.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    for field in given:
        if field in decided:
            raise UserError("has a setting of its own", where=setting, item=field, remedy=f"Use {decided[field]}.")
        if field in fixed:
            fault = "cannot be changed, because the data, masks and checkpoints of this project depend on it"
            raise UserError(fault, where=setting, item=field, remedy="Leave it out.")
        if field not in known:
            hint = did_you_mean(field, known, f"See {kind.__name__} in its library's documentation.")
            raise UserError(f"{kind.__name__} has no such field", where=setting, item=field, remedy=hint)


def lora_config(options: LoraOptions) -> Any:
    """PEFT's `LoraConfig` for an adapter."""
    from peft import LoraConfig

    check_fields("LORA_OPTIONS", options.more, LoraConfig, LORA_SETTINGS, LORA_FIXED)
    initialisation = str(options.more.get("init_lora_weights", "")).lower()
    if initialisation.startswith(CHANGE_THE_BASE):
        raise UserError(
            f"{initialisation} changes the base model's weights; then base and tuned model could not be compared, and a 4-bit "
            "base cannot be changed",
            where="LORA_OPTIONS",
            item="init_lora_weights",
            remedy="Leave it out; use_rslora and use_dora work.",
        )
    modules = list(options.target_modules)
    defaults = {"bias": "none", "task_type": "SEQ_2_SEQ_LM" if options.encoder_decoder else "CAUSAL_LM"}
    try:
        return LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha,
            lora_dropout=options.dropout,
            target_modules=modules[0] if modules == ["all-linear"] else modules,
            **(defaults | dict(options.more)),
        )
    except (TypeError, ValueError) as error:
        raise UserError(one_line(error), where="LORA_OPTIONS", remedy="Correct the value, or leave it out.") from error


def trainer_arguments(options: TrainerOptions, *, checkpoints: Path, precision: Precision) -> Any:
    """TRL's configuration of a run; for an encoder-decoder, that of transformers.

    A batch of the data loader is a whole optimizer step, which the trainer cuts into micro-batches.
    """
    from transformers import Seq2SeqTrainingArguments
    from trl import SFTConfig

    kind: Any = Seq2SeqTrainingArguments if options.encoder_decoder else SFTConfig
    check_fields("TRAINER_OPTIONS", options.more, kind, TRAINER_SETTINGS, TRAINER_FIXED)
    ours: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": options.examples_per_step,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": options.lr_scheduler,
        "warmup_steps": options.warmup_ratio,
        "optim": options.optimizer,
        "weight_decay": options.weight_decay,
        "max_grad_norm": options.max_grad_norm,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": devices.device().type == "cpu",
        "ddp_find_unused_parameters": False,
        "eval_strategy": "steps" if options.eval_steps else "epoch",
        "eval_steps": options.eval_steps or None,
        "save_strategy": "steps",
        "save_steps": options.save_steps,
        "save_total_limit": options.keep_checkpoints,
        "logging_steps": options.logging_steps,
        "logging_nan_inf_filter": False,
        "report_to": list(options.trackers),
        "run_name": options.run_name,
        "seed": options.seed,
        "data_seed": options.seed,
        "remove_unused_columns": False,
        "disable_tqdm": True,
    }
    if not options.encoder_decoder:
        ours |= {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    # if bf16 and fp16 are both off, the launcher's choice would apply
    os.environ["ACCELERATE_MIXED_PRECISION"] = devices.mixed_precision(precision)
    try:
        return kind(**(ours | dict(options.more)))
    except (TypeError, ValueError) as error:
        where = f"LR_SCHEDULER={options.lr_scheduler}, OPTIMIZER={options.optimizer}, TRAINER_OPTIONS"
        raise UserError(one_line(error), where=where, remedy="Correct the value that the message names.") from error
