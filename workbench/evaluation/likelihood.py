"""How likely a model finds a text: the mean loss a token of an answer after its prompt, in nats.

The base's figure for each answer says how far from its own language an answer is; each model's figure for fixed texts
says what tuning changed elsewhere.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench import files
from workbench.evaluation.answers import Store
from workbench.evaluation.asking import speaking_as

MOST_TOKENS = 4096  # of a batch, padding included
PIECE = 256  # places whose logits are turned into losses at once, so that no copy of all of them is needed
VERSION = "v1"


@dataclass(slots=True)
class Likelihood:
    """What is stored of a text: `loss` is the mean a token, in nats, None where the text has no token."""

    key: str
    loss: float | None


@dataclass(frozen=True, slots=True)
class Text:
    """A text whose likelihood is wanted; `key` names it, its prompt and the model."""

    key: str
    prompt_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class _Encoded:
    key: str
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]


def key_of(prompt: str, text: str, model_identity: str) -> str:
    return files.sha256_of([prompt, text, model_identity, VERSION])[:32]


def measure(model: Any, adapter: str | None, tokenizer: Any, texts: Sequence[Text], store: Store[Likelihood]) -> None:
    """Store the likelihood of each text that the store lacks, a batch at a time.

    Args:
        adapter: the one that speaks, None for the base.
    """
    todo = {text.key: text for text in texts if store.lacks(text.key)}.values()
    if not todo:
        return
    ids = [tuple(tokenizer(text.text, add_special_tokens=False)["input_ids"]) for text in todo]
    encoded = [_Encoded(text.key, text.prompt_ids, found) for text, found in zip(todo, ids, strict=True)]
    store.add([Likelihood(text.key, None) for text in encoded if not text.ids])
    order = sorted((text for text in encoded if text.ids), key=lambda text: -len(text.prompt_ids) - len(text.ids))
    start = 0
    with speaking_as(model, adapter):
        while start < len(order):
            size = max(1, MOST_TOKENS // (len(order[start].prompt_ids) + len(order[start].ids)))
            batch = order[start : start + size]
            losses = _losses(model, batch, tokenizer.pad_token_id)
            store.add([Likelihood(text.key, round(loss, 6)) for text, loss in zip(batch, losses, strict=True)])
            start += len(batch)


@torch.inference_mode()
def _losses(model: Any, batch: Sequence[_Encoded], pad_id: int) -> list[float]:
    try:
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            logits = _encoder_decoder(model, batch, pad_id) if model.config.is_encoder_decoder else _decoder(model, batch, pad_id)
        return [_mean_loss(row, text.ids) for row, text in zip(logits, batch, strict=True)]
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    gc.collect()
    torch.cuda.empty_cache()
    half = (len(batch) + 1) // 2
    return _losses(model, batch[:half], pad_id) + _losses(model, batch[half:], pad_id)


def _decoder(model: Any, batch: Sequence[_Encoded], pad_id: int) -> list[torch.Tensor]:
    """Of each text, (tokens, vocabulary): the logits that stand for its tokens."""
    rows = [(*text.prompt_ids, *text.ids) for text in batch]
    width, longest = max(map(len, rows)), max(len(text.ids) for text in batch)
    # padded on the left, so that the texts end together and only their logits are made
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=longest + 1
    ).logits  # fmt: skip
    return [row[-len(text.ids) - 1 : -1] for row, text in zip(logits, batch, strict=True)]


def _encoder_decoder(model: Any, batch: Sequence[_Encoded], pad_id: int) -> list[torch.Tensor]:
    def padded(rows: list[tuple[int, ...]], fill: int) -> torch.Tensor:
        width = max(map(len, rows))
        return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], device=model.device)

    prompts = [text.prompt_ids for text in batch]
    mask = padded([(1,) * len(prompt) for prompt in prompts], 0)
    before = padded([(model.config.decoder_start_token_id, *text.ids[:-1]) for text in batch], pad_id)
    logits = model(input_ids=padded(prompts, pad_id), attention_mask=mask, decoder_input_ids=before).logits
    return [row[: len(text.ids)] for row, text in zip(logits, batch, strict=True)]


def _mean_loss(logits: torch.Tensor, ids: Sequence[int]) -> float:
    wanted = torch.tensor(ids, device=logits.device)
    total = 0.0
    for start in range(0, len(ids), PIECE):
        part = slice(start, start + PIECE)
        total += float(torch.nn.functional.cross_entropy(logits[part].float(), wanted[part], reduction="sum"))
    return total / len(ids)
