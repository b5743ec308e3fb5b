"""How likely a model finds a text: the mean loss per token of an answer after its prompt, in nats.

The base's figure for each answer says how far from its own language an answer is; each model's figure for fixed texts says what tuning
changed elsewhere.
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

MAX_BATCH_TOKENS = 4096  # of a batch, padding included
POSITIONS_AT_ONCE = 256  # positions whose logits are turned into losses at once, so that no copy of all of them is needed
VERSION = "v1"
TokenPair = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of a prompt, and of the text after it


@dataclass(frozen=True, slots=True)
class Text:
    """A text whose likelihood is wanted; `key` names it, its prompt and the model."""

    key: str
    prompt_ids: tuple[int, ...]
    text: str


def key_of(prompt: str, text: str, model_identity: str) -> str:
    return files.sha256_of([prompt, text, model_identity, VERSION])[:32]


def measure(model: Any, adapter: str | None, tokenizer: Any, texts: Sequence[Text], store: JsonlStore[Likelihood]) -> None:
    """Store the likelihood of each text that the store lacks, a batch at a time.

    Args:
        adapter: the one that is active, None for the base.
    """
    todo = {text.key: text for text in texts if store.lacks(text.key)}.values()
    if not todo:
        return
    ids = {text.key: tuple(tokenizer(text.text, add_special_tokens=False)["input_ids"]) for text in todo}
    store.add([Likelihood(key=key, loss=None) for key, found in ids.items() if not found])
    encoded = [(text.key, (text.prompt_ids, ids[text.key])) for text in todo if ids[text.key]]
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
    """Mean loss of each text, in as few passes as memory allows."""

    @torch.inference_mode()
    def attempt(at_once: int) -> list[float]:
        found = []
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            logits = logits_of(model, part, pad_id)
            found += [_mean_loss(of_row, ids) for of_row, (_, ids) in zip(logits, part, strict=True)]
        return found

    return devices.halve_on_oom(len(rows), attempt)


@torch.inference_mode()
def logits_of(model: Any, rows: Sequence[TokenPair], pad_id: int) -> list[torch.Tensor]:
    """For each text after its prompt, (tokens, vocabulary): the model's logits at the position of each of its tokens."""
    with devices.autocast(model):
        return _encoder_decoder(model, rows, pad_id) if model.config.is_encoder_decoder else _decoder(model, rows, pad_id)


def _decoder(model: Any, rows: Sequence[TokenPair], pad_id: int) -> list[torch.Tensor]:
    # padded on the left, so that the texts end together and only their logits are made
    whole = [prompt + ids for prompt, ids in rows]
    mask = tensors.mask_of(whole, model.device, left=True)
    logits = model(
        input_ids=tensors.pad(whole, pad_id, model.device, left=True),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=max(len(ids) for _, ids in rows) + 1,
    ).logits
    return [of_row[-len(ids) - 1 : -1] for of_row, (_, ids) in zip(logits, rows, strict=True)]


def _encoder_decoder(model: Any, rows: Sequence[TokenPair], pad_id: int) -> list[torch.Tensor]:
    prompts = [prompt for prompt, _ in rows]
    starts = [(model.config.decoder_start_token_id, *ids[:-1]) for _, ids in rows]
    logits = model(
        input_ids=tensors.pad(prompts, pad_id, model.device),
        attention_mask=tensors.mask_of(prompts, model.device),
        decoder_input_ids=tensors.pad(starts, pad_id, model.device),
    ).logits
    return [of_row[: len(ids)] for of_row, (_, ids) in zip(logits, rows, strict=True)]


def _mean_loss(logits: torch.Tensor, ids: Sequence[int]) -> float:
    wanted = torch.tensor(ids, device=logits.device)
    total = 0.0
    for start in range(0, len(ids), POSITIONS_AT_ONCE):
        part = slice(start, start + POSITIONS_AT_ONCE)
        total += float(torch.nn.functional.cross_entropy(logits[part].float(), wanted[part], reduction="sum"))
    return total / len(ids)
