"""Measures how likely a model finds a text: the mean loss per token of an answer after its prompt, in nats.

The base's loss on an answer shows how far the answer is from the base's own language. Each model's loss on fixed texts shows what
tuning changed elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from meerkat_workbench.core import console, files
from meerkat_workbench.core.jsonl_store import JsonlStore
from meerkat_workbench.device import devices, tensors
from meerkat_workbench.tuning.artifacts import Likelihood
from meerkat_workbench.tuning.generation.generator import active_adapter

MAX_BATCH_TOKENS = 4096  # in a batch, including padding
POSITIONS_AT_ONCE = 256  # positions whose loss is computed at once, so that no fp32 copy of all logits is needed
VERSION = "v1"
TokenPair = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of a prompt and of the text after it


@dataclass(frozen=True, slots=True)
class Text:
    """A text whose likelihood is wanted; `key` identifies text, prompt and model."""

    key: str
    prompt_ids: tuple[int, ...]
    text: str


def key_of(prompt: str, text: str, model_identity: str) -> str:
    """The key of a text's likelihood after a prompt, under a model."""
    return files.sha256_of([prompt, text, model_identity, VERSION])[:32]


def measure(model: Any, adapter: str | None, tokenizer: Any, texts: Sequence[Text], store: JsonlStore[Likelihood]) -> None:
    """Measure and store the likelihood of each text that the store lacks, batch by batch.

    Args:
        adapter: the active adapter; None for the base.
    """
    lacking = {text.key: text for text in texts if store.lacks(text.key)}.values()
    if not lacking:
        return
    ids = {text.key: tuple(tokenizer(text.text, add_special_tokens=False)["input_ids"]) for text in lacking}
    store.add([Likelihood(key=key, loss=None) for key, text_ids in ids.items() if not text_ids])
    encoded = [(text.key, (text.prompt_ids, ids[text.key])) for text in lacking if ids[text.key]]
    encoded.sort(key=lambda item: -sum(map(len, item[1])))
    start = 0
    with active_adapter(model, adapter), console.Progress("likelihood of answers", len(encoded), "texts") as progress:
        while start < len(encoded):
            size = max(1, MAX_BATCH_TOKENS // sum(map(len, encoded[start][1])))
            keys, rows = zip(*encoded[start : start + size], strict=True)
            losses = _losses(model, rows, tokenizer.pad_token_id)
            store.add([Likelihood(key=key, loss=round(loss, 6)) for key, loss in zip(keys, losses, strict=True)])
            start += len(rows)
            progress.advance(len(rows))


def _losses(model: Any, rows: Sequence[TokenPair], pad_id: int) -> list[float]:
    """Mean loss per token of each text; the batch is halved if memory runs out."""

    @torch.inference_mode()
    def attempt(at_once: int) -> list[float]:
        losses = []
        for start in range(0, len(rows), at_once):
            batch = rows[start : start + at_once]
            logits = logits_of(model, batch, pad_id)
            losses += [_mean_loss(row_logits, ids) for row_logits, (_, ids) in zip(logits, batch, strict=True)]
        return losses

    return devices.halve_on_oom(len(rows), attempt)


@torch.inference_mode()
def logits_of(model: Any, rows: Sequence[TokenPair], pad_id: int) -> list[torch.Tensor]:
    """The model's logits for each token of each text after its prompt, (tokens, vocabulary) each."""
    with devices.autocast(model):
        logits = _encoder_decoder_logits if model.config.is_encoder_decoder else _decoder_logits
        return logits(model, rows, pad_id)


def _decoder_logits(model: Any, rows: Sequence[TokenPair], pad_id: int) -> list[torch.Tensor]:
    # padded on the left, so that all texts end at the same position and only their logits are computed; nothing follows the last token,
    # so it is not given to the model
    conversations = [prompt + ids[:-1] for prompt, ids in rows]
    mask = tensors.mask_of(conversations, model.device, left=True)
    logits = model(
        input_ids=tensors.pad(conversations, pad_id, model.device, left=True),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=max(len(ids) for _, ids in rows),
    ).logits
    return [row_logits[-len(ids) :] for row_logits, (_, ids) in zip(logits, rows, strict=True)]


def _encoder_decoder_logits(model: Any, rows: Sequence[TokenPair], pad_id: int) -> list[torch.Tensor]:
    prompts = [prompt for prompt, _ in rows]
    decoder_inputs = [(model.config.decoder_start_token_id, *ids[:-1]) for _, ids in rows]
    logits = model(
        input_ids=tensors.pad(prompts, pad_id, model.device),
        attention_mask=tensors.mask_of(prompts, model.device),
        decoder_input_ids=tensors.pad(decoder_inputs, pad_id, model.device),
    ).logits
    return [row_logits[: len(ids)] for row_logits, (_, ids) in zip(logits, rows, strict=True)]


def _mean_loss(logits: torch.Tensor, ids: Sequence[int]) -> float:
    targets = torch.tensor(ids, device=logits.device)
    total = 0.0
    for start in range(0, len(ids), POSITIONS_AT_ONCE):
        chunk = slice(start, start + POSITIONS_AT_ONCE)
        total += float(torch.nn.functional.cross_entropy(logits[chunk].float(), targets[chunk], reduction="sum"))
    return total / len(ids)
