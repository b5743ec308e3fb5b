"""Training of cross-encoders on groups of candidates, by sentence-transformers' `CrossEncoderTrainer`.

A group is one query (or mention) with documents (or concepts) and a label each. The losses read groups in three forms: single pairs
(bce, weighted-bce, mse), a positive with its negatives (cached-mnrl, margin-mse), or the whole list (lambda, ranknet).
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments, losses

from meerkat_workbench.core.errors import UserError, one_line
from meerkat_workbench.device import devices, hub
from meerkat_workbench.device.devices import Precision
from meerkat_workbench.retrieval import heads
from meerkat_workbench.trainers import reporting
from meerkat_workbench.trainers.best_checkpoint import BestCheckpoint
from meerkat_workbench.trainers.checkpointed import CheckpointedTrainer
from meerkat_workbench.trainers.evaluator import E
from meerkat_workbench.trainers.pair_groups import Group
from meerkat_workbench.trainers.progress import ProgressCallback

Loss = Literal["bce", "weighted-bce", "mse", "cached-mnrl", "margin-mse", "lambda", "ranknet"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
Head = Literal["auto", "compare", "mean", "classifier"]
WEIGHTS = "model.safetensors"  # of a checkpoint: every weight, so that adapters and heads are restored alike
MINI_BATCH = 32  # pairs that the cached and listwise losses read at a time


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


# --- the model


def build_model(recipe: CrossEncoderRecipe) -> CrossEncoder:
    """A cross-encoder with one score, ready to train, with an adapter if the recipe has one.

    Raises:
        UserError: the base is not there, or cannot be made a cross-encoder.
    """
    location = hub.locate_encoder(recipe.base, "microsoft/MiniLM-L12-H384-uncased")
    torch.manual_seed(recipe.seed)  # a new head is drawn
    device = str(devices.device())
    length = min(recipe.max_length, _positions(location))
    makers: dict[Head, Callable[[], CrossEncoder]] = {
        "classifier": lambda: _with_own_head(location, length, device),
        "mean": lambda: _with_mean_head(location, length, device),
        "compare": lambda: heads.with_comparing_head(location, length, device),
    }
    model = hub.load(recipe.base, makers[_choose_head(location) if recipe.head == "auto" else recipe.head], any_error=True)
    model.activation_fn = torch.nn.Sigmoid()
    if recipe.lora:
        _add_adapter(model, recipe.lora)
    return model


def _positions(location: str) -> int:
    """The most tokens that an encoder has positions for. RoBERTa and its kin count them from the padding token's id on."""
    config = hub.load_config(location)
    positions = getattr(config, "max_position_embeddings", None) or 1_000_000
    offset = (
        (config.pad_token_id or 0) + 1 if "roberta" in config.model_type or config.model_type in ("camembert", "mpnet") else 0
    )
    return int(positions) - offset if positions > 0 else 1_000_000


def _choose_head(location: str) -> Head:
    folder = Path(location)
    if (folder / "modules.json").is_file():  # a sentence-transformers model: a cross-encoder has a module that gives scores
        trained = any('"scores"' in path.read_text(encoding="utf-8") for path in folder.glob("*/config.json"))
        return "classifier" if trained else "compare"
    names = getattr(hub.load_config(location), "architectures", None) or []
    return "classifier" if any(name.endswith("ForSequenceClassification") for name in names) else "mean"


def _with_own_head(location: str, max_length: int, device: str) -> CrossEncoder:
    if heads.compares_halves(Path(location)):
        model = heads.load_comparing(Path(location), device)
        model.max_seq_length = max_length
        return model
    return CrossEncoder(location, num_labels=1, max_length=max_length, device=device)


def _with_mean_head(location: str, max_length: int, device: str) -> CrossEncoder:
    """The encoder, the mean of its tokens, a layer with GELU, and one score: the head of Ettin's rerankers without its norm."""
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    encoder = Transformer(location, max_seq_length=max_length)
    width = encoder.get_embedding_dimension()
    hidden = Dense(width, width, activation_function=torch.nn.GELU())
    score = Dense(width, 1, activation_function=torch.nn.Identity(), module_output_name="scores")
    return CrossEncoder(modules=[encoder, Pooling(width, pooling_mode="mean"), hidden, score], device=device)


def _add_adapter(model: CrossEncoder, shape: LoraShape) -> None:
    """Put an adapter on the encoder. Its head stays trainable: a classifier inside is listed in `modules_to_save`, others lie outside."""
    from peft import LoraConfig, get_peft_model

    inner: Any = model[0].model
    heads = [name for name, _ in inner.named_children() if name in ("classifier", "score", "pooler") and name != "pooler"]
    config = LoraConfig(r=shape.rank, lora_alpha=shape.alpha, lora_dropout=shape.dropout, target_modules="all-linear",
                        modules_to_save=heads or None, bias="none")  # fmt: skip
    try:
        model[0].model = get_peft_model(inner, config)
    except ValueError as error:
        raise UserError(f"cannot take an adapter ({one_line(error)})", where="LORA_RANK", remedy="Set LORA_RANK=0.") from error


def merged_copy(model: CrossEncoder) -> CrossEncoder:
    """The model itself, or, if it has an adapter, a copy with the adapter merged, which is saved whole with its head."""
    if not hasattr(model[0].model, "merge_and_unload"):
        return model
    copied = copy.deepcopy(model)
    inner: Any = copied[0].model
    copied[0].model = inner.merge_and_unload()
    return copied


class BestWholeModel(BestCheckpoint[E]):
    """Keeps the best weights as a whole model, its adapter merged into a copy."""

    def _save(self, model: Any, evaluation: E) -> None:
        super()._save(merged_copy(model), evaluation)


# --- the rows


def training_rows(groups: Iterable[Group], recipe: CrossEncoderRecipe) -> Iterator[dict[str, Any]]:
    """Rows in the form of the recipe's loss. Groups that cannot teach it anything are left out."""
    draw = random.Random(recipe.seed)
    for group in groups:
        if recipe.loss in ("bce", "mse"):
            yield from ({"query": group.query, "document": one.document, "label": float(one.label)} for one in group.candidates)
        elif recipe.loss == "weighted-bce":
            for one in group.candidates:
                weight = recipe.hard_weight if one.hard and one.label < 0.5 else 1.0
                yield {"query": group.query, "document": one.document, "weight": weight, "label": float(one.label)}
        elif recipe.loss in ("lambda", "ranknet"):
            if len({one.label for one in group.candidates}) > 1:
                yield {"query": group.query, "documents": [one.document for one in group.candidates],
                       "labels": [float(one.label) for one in group.candidates]}  # fmt: skip
        else:
            yield from _with_negatives(group, recipe, draw)


def _with_negatives(group: Group, recipe: CrossEncoderRecipe, draw: random.Random) -> Iterator[dict[str, Any]]:
    """A row for each positive with `recipe.negatives` candidates of lower labels, some of them twice if there are too few."""
    top = max((one.label for one in group.candidates), default=0.0)
    threshold = 0.5 if 0 < top <= 1 else top
    for positive in group.candidates:
        if positive.label < threshold:
            continue
        lower = [one for one in group.candidates if one.label < min(positive.label, threshold)]
        if not lower:
            continue
        draw.shuffle(lower)
        chosen = [lower[number % len(lower)] for number in range(recipe.negatives)]
        row: dict[str, Any] = {"query": group.query, "positive": positive.document}
        row |= {f"negative_{number}": one.document for number, one in enumerate(chosen, start=1)}
        if recipe.loss == "margin-mse":
            row["label"] = [positive.label - one.label for one in chosen]
        yield row


class WeightedBinaryCrossEntropy(losses.BinaryCrossEntropyLoss):
    """BCE in which each pair has a weight of its own: the columns are query, document, weight and label."""

    def forward(
        self, inputs: list[Any], labels: torch.Tensor, prompt: str | None = None, task: str | None = None
    ) -> torch.Tensor:
        queries, documents, weights = inputs
        features = self.model.preprocess(list(zip(queries, documents, strict=True)), prompt=prompt, task=task)
        features = {name: value.to(self.model.device) if hasattr(value, "to") else value for name, value in features.items()}
        logits = self.model(features)["scores"].view(-1)
        weight = torch.as_tensor(weights, dtype=logits.dtype, device=logits.device)
        nats = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, labels.to(logits), reduction="none", pos_weight=self.pos_weight
        )
        return (nats * weight).sum() / weight.sum()


def make_loss(model: CrossEncoder, recipe: CrossEncoderRecipe) -> torch.nn.Module:
    """The loss of a recipe."""
    pos_weight = torch.tensor(recipe.pos_weight, device=model.device) if recipe.pos_weight != 1 else None
    makers: dict[Loss, Callable[[], torch.nn.Module]] = {
        "bce": lambda: losses.BinaryCrossEntropyLoss(model, pos_weight=pos_weight),
        "weighted-bce": lambda: WeightedBinaryCrossEntropy(model, pos_weight=pos_weight),
        # of probabilities, so that a score of such a model is one: its labels are grades from 0 to 1
        "mse": lambda: losses.MSELoss(model, activation_fn=torch.nn.Sigmoid()),
        "margin-mse": lambda: losses.MarginMSELoss(model, activation_fn=torch.nn.Sigmoid()),
        "cached-mnrl": lambda: losses.CachedMultipleNegativesRankingLoss(
            model, num_negatives=recipe.negatives, mini_batch_size=MINI_BATCH
        ),
        "lambda": lambda: losses.LambdaLoss(model, mini_batch_size=MINI_BATCH),
        "ranknet": lambda: losses.RankNetLoss(model, mini_batch_size=MINI_BATCH),
    }
    return makers[recipe.loss]()


# --- the trainer


class CheckpointedCrossEncoderTrainer(CheckpointedTrainer, CrossEncoderTrainer):
    """sentence-transformers' trainer with atomic checkpoints that hold every weight of the model in one file.

    Its own checkpoints of a model with an adapter lose the head (sentence-transformers issue 3980).
    """

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        from safetensors.torch import save_model

        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        from safetensors.torch import load_model

        load_model(self.model, str(Path(checkpoint_path) / WEIGHTS))

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Nothing: the model card is written from the run's own record."""


def build_trainer(
    model: CrossEncoder, rows: Dataset, recipe: CrossEncoderRecipe, best: BestCheckpoint[Any] | None,
    checkpoints: Path, describe: Callable[[dict[str, float]], str],
    tracked: Mapping[str, Any] | None = None,
) -> CheckpointedCrossEncoderTrainer:  # fmt: skip
    """A trainer that is ready to train.

    Args:
        rows: what `training_rows` gives.
        best: what evaluates the model and keeps the best weights; None trains to the end without evaluations and checkpoints.
        checkpoints: their folder.
        describe: puts the measures of an evaluation into words.
        tracked: settings of the run, for the trackers.
    """
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(checkpoints), num_train_epochs=recipe.epochs, max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=recipe.batch_size, gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate, warmup_steps=recipe.warmup, weight_decay=recipe.weight_decay, lr_scheduler_type="linear",
        save_strategy="steps" if best else "no", save_steps=recipe.save_steps, save_total_limit=recipe.keep_checkpoints,
        eval_strategy="no" if best is None else "steps" if recipe.eval_steps else "epoch", eval_steps=recipe.eval_steps or None,
        logging_steps=recipe.logging_steps, report_to="none", run_name=recipe.run_name or None,
        seed=recipe.seed, bf16=recipe.precision == "bf16", fp16=recipe.precision == "fp16", use_cpu=devices.device().type == "cpu",
        disable_tqdm=True, dataloader_num_workers=0,
        # in-batch negatives of cached-mnrl must not be the positive of another row
        batch_sampler="no_duplicates" if recipe.loss == "cached-mnrl" else "batch_sampler",
    )  # fmt: skip
    trainer = CheckpointedCrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows.select(range(min(1, len(rows)))),
        loss=make_loss(model, recipe),
    )
    _print_progress(trainer, describe)
    for callback in reporting.callbacks(recipe.trackers, tracked or {}):
        trainer.add_callback(callback)
    if best is not None:
        trainer.keep_best(best)
    return trainer


def _print_progress(trainer: Any, describe: Callable[[dict[str, float]], str]) -> None:
    """Replace the library's bar and its printed logs with ours."""
    from transformers import PrinterCallback
    from transformers import ProgressCallback as LibraryProgress

    for callback in (PrinterCallback, LibraryProgress):
        trainer.remove_callback(callback)
    trainer.add_callback(ProgressCallback(describe))


def steps_in_all(rows: int, recipe: CrossEncoderRecipe, processes: int) -> int:
    """Optimizer steps of a whole training.

    Several processes need equally many whole batches, so the library leaves out the last few rows of an epoch, which are others in each epoch.
    """
    batches = math.ceil(rows / recipe.batch_size) if processes == 1 else rows // recipe.batch_size // processes
    return recipe.max_steps or math.ceil(math.ceil(batches / recipe.accumulation) * recipe.epochs)
