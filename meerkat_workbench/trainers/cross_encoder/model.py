"""Cross-encoders that are ready to train: a base, a head, and an adapter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder

from meerkat_workbench.core.errors import UserError, one_line
from meerkat_workbench.device import devices, hub
from meerkat_workbench.retrieval import heads
from meerkat_workbench.trainers.best_checkpoint import BestCheckpoint
from meerkat_workbench.trainers.cross_encoder.recipe import CrossEncoderRecipe, Head, LoraShape
from meerkat_workbench.trainers.evaluator import E


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
