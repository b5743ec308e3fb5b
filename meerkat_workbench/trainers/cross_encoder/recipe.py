"""What a training of a cross-encoder is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

from meerkat_workbench.device import devices
from meerkat_workbench.device.devices import Precision

Loss = Literal["bce", "weighted-bce", "mse", "cached-mnrl", "margin-mse", "lambda", "ranknet"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
Head = Literal["auto", "compare", "mean", "classifier"]


@dataclass(frozen=True)
class LoraShape:
    """Rank and scale of an adapter on the encoder's linear layers. Head and adapter are saved as one whole model."""

    rank: int
    alpha: int
    dropout: float = 0.0


@dataclass(frozen=True)
class CrossEncoderRecipe:
    """What is trained and how.

    Attributes:
        base: a model's folder or Hub name, or "packaged".
        head: "classifier" is the base's own head over its first token, "mean" a new one over the mean of all tokens, "compare" a new one
            over the means of the two halves (`retrieval.heads`). "auto" keeps a head that was trained, and gives a bi-encoder
            "compare" and any other base "mean".
        pos_weight: weight of relevant pairs in bce and weighted-bce.
        hard_weight: weight of hard negatives in weighted-bce.
        negatives: of each positive, in cached-mnrl and margin-mse.
        batch_size: rows of a step on each device; a row is a pair, a positive with its negatives, or a list, by the loss.
        warmup: fraction of the steps.
    """

    base: str
    loss: Loss
    head: Head = "auto"
    max_length: int = 256
    lora: LoraShape | None = None
    pos_weight: float = 1.0
    hard_weight: float = 1.5
    negatives: int = 4
    epochs: float = 1.0
    max_steps: int = 0
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    eval_steps: int = 0
    save_steps: int = 100
    keep_checkpoints: int = 2
    logging_steps: int = 10
    seed: int = 42
    precision: Precision = "fp32"
    trackers: Sequence[str] = field(default_factory=list)
    run_name: str = ""


class CrossEncoderSettings(Protocol):
    """The settings that every script which trains a cross-encoder has."""

    MODEL_NAME: str
    HEAD: Head
    POS_WEIGHT: float
    HARD_NEGATIVE_WEIGHT: float
    LOSS_NEGATIVES: int
    LORA_RANK: int
    LORA_ALPHA: int
    MAX_LENGTH: int
    NUM_EPOCHS: float
    BATCH_SIZE: int
    GRADIENT_ACCUMULATION_STEPS: int
    LEARNING_RATE: float
    WARMUP_RATIO: float
    WEIGHT_DECAY: float
    EVAL_STEPS: int
    SAVE_STEPS: int
    LOGGING_STEPS: int
    COMPUTE_DTYPE: Literal["auto", "bf16", "fp16", "fp32"]
    REPORT_TO: list[str]
    OUTPUT_DIR: str
    RANDOM_SEED: int


def recipe_of(config: CrossEncoderSettings, loss: Loss) -> CrossEncoderRecipe:
    """The recipe of a script's settings. `loss` is apart, because scripts allow different ones."""
    return CrossEncoderRecipe(
        base=config.MODEL_NAME, loss=loss, head=config.HEAD, max_length=config.MAX_LENGTH,
        lora=LoraShape(config.LORA_RANK, config.LORA_ALPHA) if config.LORA_RANK else None, pos_weight=config.POS_WEIGHT,
        hard_weight=config.HARD_NEGATIVE_WEIGHT, negatives=config.LOSS_NEGATIVES, epochs=config.NUM_EPOCHS, batch_size=config.BATCH_SIZE,
        accumulation=config.GRADIENT_ACCUMULATION_STEPS, learning_rate=config.LEARNING_RATE, warmup=config.WARMUP_RATIO,
        weight_decay=config.WEIGHT_DECAY, eval_steps=config.EVAL_STEPS, save_steps=config.SAVE_STEPS, logging_steps=config.LOGGING_STEPS,
        seed=config.RANDOM_SEED, precision=devices.resolve_precision(config.COMPUTE_DTYPE), trackers=config.REPORT_TO,
        run_name=Path(config.OUTPUT_DIR).name,
    )  # fmt: skip
