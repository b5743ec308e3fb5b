"""Settings to PEFT's and TRL's own configurations; whatever those offer passes through by its own name."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench import devices
from workbench.devices import Precision
from workbench.errors import UserError

# fields that a setting of ours states, so that a run has one place to look for each
LORA_SETTINGS = {"r": "LORA_RANK", "lora_alpha": "LORA_ALPHA", "lora_dropout": "LORA_DROPOUT",
                 "target_modules": "LORA_TARGET_MODULES"}  # fmt: skip
TRAINER_SETTINGS = {
    "per_device_train_batch_size": "BATCH_SIZE", "gradient_accumulation_steps": "GRADIENT_ACCUMULATION_STEPS",
    "num_train_epochs": "NUM_EPOCHS", "learning_rate": "LEARNING_RATE", "lr_scheduler_type": "LR_SCHEDULER",
    "warmup_steps": "WARMUP_RATIO", "optim": "OPTIMIZER", "weight_decay": "WEIGHT_DECAY", "max_grad_norm": "MAX_GRAD_NORM",
    "save_steps": "SAVE_STEPS", "save_total_limit": "KEEP_CHECKPOINTS", "logging_steps": "LOGGING_STEPS",
    "report_to": "REPORT_TO", "seed": "RANDOM_SEED", "output_dir": "OUTPUT_DIR", "max_length": "MAX_SEQ_LENGTH",
    "eval_steps": "EVAL_STEPS", "gradient_checkpointing": "ACTIVATION_CHECKPOINTING", "bf16": "COMPUTE_DTYPE", "fp16": "COMPUTE_DTYPE",
}  # fmt: skip
# what would undo packing, masking or whole checkpoints, or would do nothing, since a step here is our own
TRAINER_FIXED = {"packing", "padding_free", "completion_only_loss", "assistant_only_loss", "dataset_kwargs", "save_strategy",
                 "eval_strategy", "remove_unused_columns", "load_best_model_at_end", "resume_from_checkpoint",
                 "gradient_checkpointing_kwargs", "data_seed", "use_cpu", "activation_checkpointing",
                 "activation_checkpointing_kwargs", "activation_offloading", "label_smoothing_factor", "loss_type",
                 "train_sampling_strategy", "neftune_noise_alpha", "accelerator_config",
                 "dataloader_num_workers", "dataloader_drop_last", "dataloader_prefetch_factor", "dataloader_pin_memory",
                 "dataloader_persistent_workers", "auto_find_batch_size"}  # fmt: skip
# these write another base than the one that evaluation loads: without the adapter it would not be the base any more
CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "eva", "lora_ga")
REPORTERS = ("wandb", "mlflow", "tensorboard")


def check_fields(name: str, given: Mapping[str, Any], kind: type, stated: Mapping[str, str], fixed: set[str]) -> None:
    """UserError where a name is no field of `kind`, is another setting's, or must stay as it is."""
    known = {field.name for field in dataclasses.fields(kind)}
    for field in given:
        if field in stated:
            raise UserError(f"{name}: {field} is set by {stated[field]}. Use that setting.")
        if field in fixed:
            raise UserError(
                f"{name}: {field} cannot be changed here; the data, masks and checkpoints of this project rest on it."
            )
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"See {kind.__name__} in its library's documentation."
            raise UserError(f"{name}: {kind.__name__} has no field {field!r}. {hint}")


def lora_config(config: Any) -> Any:
    """PEFT's configuration of the adapter that the settings describe."""
    from peft import LoraConfig

    task = "SEQ_2_SEQ_LM" if config.MODEL_TYPE == "encoder-decoder" else "CAUSAL_LM"

    given = dict(config.LORA_OPTIONS)
    check_fields("LORA_OPTIONS", given, LoraConfig, LORA_SETTINGS, {"task_type", "modules_to_save", "inference_mode", "bias"})
    start = str(given.get("init_lora_weights", "")).lower()
    if start.startswith(CHANGE_THE_BASE):
        raise UserError(
            f"LORA_OPTIONS: init_lora_weights={start} changes the base model's weights, so base and tuned model could not be "
            "compared, and a 4-bit base cannot be changed. Leave it out; use_rslora and use_dora work."
        )
    modules = config.LORA_TARGET_MODULES
    try:
        return LoraConfig(
            r=config.LORA_RANK,
            lora_alpha=config.LORA_ALPHA,
            lora_dropout=config.LORA_DROPOUT,
            target_modules=modules[0] if modules == ["all-linear"] else modules,
            **{"bias": "none", "task_type": task} | given,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"LORA_OPTIONS: {' '.join(str(error).split())[:240]}") from error


def reporters(config: Any) -> list[str]:
    """Where the run is reported to, each once; UserError for one that is not installed."""
    import importlib.util

    wanted = list(dict.fromkeys([*config.REPORT_TO, *(["wandb"] if config.USE_WANDB else [])]))
    for name in wanted:
        if name not in REPORTERS:
            raise UserError(f"REPORT_TO: {name!r} is none of {', '.join(REPORTERS)}.")
        if importlib.util.find_spec(name) is None:
            raise UserError(f"REPORT_TO: {name} is not installed. pip install {name}, or leave it out.")
    return wanted


def tag_reports(wanted: list[str], output: Path, tags: Mapping[str, str]) -> None:
    """Let the reporters know what a run was made from; what the user's environment says already stays.

    Call it before the trainer is made: wandb reads the environment once. TensorBoard's files go beside the adapter,
    where they outlive the checkpoints.
    """
    if "wandb" in wanted:
        os.environ.setdefault("WANDB_TAGS", ",".join(f"{name}:{value}" for name, value in tags.items()))
    if "mlflow" in wanted:
        os.environ.setdefault("MLFLOW_TAGS", json.dumps(dict(tags)))
    if "tensorboard" in wanted:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(output / "tensorboard"))


def write_tags(wanted: list[str], tags: Mapping[str, str]) -> None:
    """The same for TensorBoard, which knows no tags, as texts; once the output folder is this run's."""
    if "tensorboard" in wanted:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(os.environ["TENSORBOARD_LOGGING_DIR"]) as writer:
            for name, value in tags.items():
                writer.add_text(name, value)


def trainer_arguments(config: Any, *, checkpoints: Path, precision: Precision) -> Any:
    """TRL's (or, for an encoder-decoder, transformers') configuration of the run.

    A batch of the dataloader is a whole optimizer step, which the trainer cuts.
    """
    from transformers import Seq2SeqTrainingArguments
    from trl import SFTConfig

    decoder = config.MODEL_TYPE == "decoder"
    kind: Any = SFTConfig if decoder else Seq2SeqTrainingArguments
    given = dict(config.TRAINER_OPTIONS)
    check_fields("TRAINER_OPTIONS", given, kind, TRAINER_SETTINGS, TRAINER_FIXED)
    ours: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": config.BATCH_SIZE * config.GRADIENT_ACCUMULATION_STEPS,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": config.NUM_EPOCHS,
        "learning_rate": config.LEARNING_RATE,
        "lr_scheduler_type": config.LR_SCHEDULER,
        "warmup_steps": config.WARMUP_RATIO,
        "optim": config.OPTIMIZER,
        "weight_decay": config.WEIGHT_DECAY,
        "max_grad_norm": config.MAX_GRAD_NORM,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": devices.device().type == "cpu",
        "ddp_find_unused_parameters": False,
        "eval_strategy": "steps" if config.EVAL_STEPS else "epoch",
        "eval_steps": config.EVAL_STEPS or None,
        "save_strategy": "steps",
        "save_steps": config.SAVE_STEPS,
        "save_total_limit": config.KEEP_CHECKPOINTS,
        "logging_steps": config.LOGGING_STEPS,
        "logging_nan_inf_filter": False,
        "report_to": reporters(config),
        "run_name": Path(config.OUTPUT_DIR).name,
        "seed": config.RANDOM_SEED,
        "data_seed": config.RANDOM_SEED,
        "remove_unused_columns": False,
        "disable_tqdm": True,
    }
    if decoder:
        ours |= {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    # a launcher's own word would otherwise stand where both flags are off
    os.environ["ACCELERATE_MIXED_PRECISION"] = devices.mixed_precision(precision)
    try:
        return kind(**ours | given)
    except (TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:240]
        raise UserError(f"LR_SCHEDULER={config.LR_SCHEDULER}, OPTIMIZER={config.OPTIMIZER}, TRAINER_OPTIONS: {said}") from error
