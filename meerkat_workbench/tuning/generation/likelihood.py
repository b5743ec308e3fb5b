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
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.artifacts import Likelihood
from meerkat_workbench.tuning.generation.generator import active_adapter
from meerkat_workbench.tuning.generation.prefixes import Prefix, PrefixStates, mask_and_positions, shared_prefix_length

# tokens in a batch, including padding; a CPU gains nothing from more, which only take memory
MAX_BATCH_TOKENS, MAX_BATCH_TOKENS_ON_CPU = 4096, 1024
POSITIONS_AT_ONCE = 256  # positions whose loss is computed at once, so that no fp32 copy of all logits is needed
VERSION = "v1"


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
    ids = {text.key: tuple(chat.encode_text(tokenizer, text.text)) for text in lacking}
    store.add([Likelihood(key=key, loss=None) for key, text_ids in ids.items() if not text_ids])
    shared = shared_prefix_length([text.prompt_ids for text in lacking])
    rows = {text.key: Continuation(text.prompt_ids, ids[text.key], shared) for text in lacking if ids[text.key]}
    order = sorted(rows, key=lambda key: -len(rows[key].prompt_ids) - len(rows[key].ids))
    start = 0
    with active_adapter(model, adapter), console.Progress("likelihood of answers", len(order), "texts") as progress:
        scorer = Scorer(model, tokenizer.pad_token_id)
        while start < len(order):
            longest = rows[order[start]]
            size = max(1, batch_tokens(model) // (len(longest.prompt_ids) - shared + len(longest.ids)))
            keys = order[start : start + size]
            found = measure_batch(scorer, [rows[key] for key in keys])
            store.add(
                [Likelihood(key=key, loss=round(-float(values.mean()), 6)) for key, values in zip(keys, found, strict=True)]
            )
            start += len(keys)
            progress.advance(len(keys))


def batch_tokens(model: Any) -> int:
    """The most tokens in a batch, including padding."""
    return MAX_BATCH_TOKENS_ON_CPU if model.device.type == "cpu" else MAX_BATCH_TOKENS


def measure_batch(scorer: Scorer, rows: Sequence[Continuation]) -> list[torch.Tensor]:
    """`Scorer.log_probabilities`; the rows computed together are halved if memory runs out."""
    return devices.halve_on_oom(len(rows), lambda at_once: scorer.log_probabilities(rows, at_once))


@dataclass(frozen=True, slots=True)
class Continuation:
    """A text after a prompt.

    Attributes:
        prefix_length: tokens at the beginning of the prompt that other rows share, so that they are computed once; may be 0.
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    prefix_length: int = 0


class Scorer:
    """Computes how likely one loaded model, with its active adapter, finds texts.

    Args:
        model: a decoder or encoder-decoder.
    """

    def __init__(self, model: Any, pad_id: int) -> None:
        self.model, self.pad_id = model, pad_id
        self._prefixes = None if model.config.is_encoder_decoder else PrefixStates(model)

    @torch.inference_mode()
    def log_probabilities(self, rows: Sequence[Continuation], at_once: int) -> list[torch.Tensor]:
        """The log-probability of each token of each text, in nats, (tokens,) each; `at_once` rows are computed together."""
        found = []
        for start in range(0, len(rows), at_once):
            batch = rows[start : start + at_once]
            for logits, row in zip(self.logits(batch), batch, strict=True):
                found.append(_log_probabilities(logits, row.ids))
        return found

    @torch.inference_mode()
    def logits(self, rows: Sequence[Continuation]) -> list[torch.Tensor]:
        """The model's logits for each token of each text, (tokens, vocabulary) each."""
        with devices.autocast(self.model):
            return self._encoder_decoder_logits(rows) if self._prefixes is None else self._decoder_logits(rows, self._prefixes)

    def _decoder_logits(self, rows: Sequence[Continuation], prefixes: PrefixStates) -> list[torch.Tensor]:
        read, cache = self._read_shared(rows, prefixes)
        counts = [sum(map(len, parts)) for parts in zip(*read, strict=True)]
        # nothing follows the last token, so it is not given to the model
        suffixes = [(row.prompt_ids + row.ids[:-1])[count:] for row, count in zip(rows, counts, strict=True)]
        # padded on the left, so that all texts end at the same position and only their logits are computed
        ids = tensors.pad(suffixes, self.pad_id, self.model.device, left=True)
        mask, positions = mask_and_positions([*read, suffixes], self.model.device)
        longest = max(len(row.ids) for row in rows)
        logits = prefixes.forward(ids, mask, positions, cache, [None] * len(rows), positions_kept=max(1, longest))
        return [row_logits[len(row_logits) - len(row.ids) :] for row_logits, row in zip(logits, rows, strict=True)]

    def _read_shared(self, rows: Sequence[Continuation], prefixes: PrefixStates) -> tuple[list[list[Prefix]], Any]:
        """Give the model once what several rows share: their prefix, and the whole prompt if several texts follow the same one.

        Returns:
            The parts of each row that the model has read, and the cache that holds them. The last token of a prompt is not among them,
            because its logits are those of the text's first token.
        """
        shared = [prefixes.usable(row.prompt_ids[: row.prefix_length]) for row in rows]
        prompts = {row.prompt_ids: place for place, row in enumerate(rows)}
        if len(prompts) == len(rows) or not prefixes.full_attention:
            return [shared], prefixes.cache(shared, [None] * len(rows))
        places = list(prompts.values())
        before, nobody = [shared[place] for place in places], [None] * len(places)
        rest = [rows[place].prompt_ids[len(prefix) : -1] for place, prefix in zip(places, before, strict=True)]
        cache = prefixes.cache(before, nobody)
        if any(rest):
            mask, positions = mask_and_positions([before, rest], self.model.device)
            ids = tensors.pad(rest, self.pad_id, self.model.device, left=True)
            prefixes.forward(ids, mask, positions, cache, nobody, positions_kept=1)
        index_of = {prompt: index for index, prompt in enumerate(prompts)}
        of_row = [index_of[row.prompt_ids] for row in rows]
        cache.batch_select_indices(torch.tensor(of_row, device=self.model.device))
        return [[part[index] for index in of_row] for part in (before, rest)], cache

    def _encoder_decoder_logits(self, rows: Sequence[Continuation]) -> list[torch.Tensor]:
        prompts = [row.prompt_ids for row in rows]
        decoder_inputs = [(self.model.config.decoder_start_token_id, *row.ids[:-1]) for row in rows]
        logits = self.model(
            input_ids=tensors.pad(prompts, self.pad_id, self.model.device),
            attention_mask=tensors.mask_of(prompts, self.model.device),
            decoder_input_ids=tensors.pad(decoder_inputs, self.pad_id, self.model.device),
        ).logits
        return [row_logits[: len(row.ids)] for row_logits, row in zip(logits, rows, strict=True)]


def _log_probabilities(logits: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """The log-probability of each token, (tokens,), from logits of (tokens, vocabulary)."""
    if not ids:
        return logits.new_zeros(0)
    targets = torch.tensor(ids, device=logits.device)
    chunks = [slice(start, start + POSITIONS_AT_ONCE) for start in range(0, len(ids), POSITIONS_AT_ONCE)]
    losses = [torch.nn.functional.cross_entropy(logits[chunk].float(), targets[chunk], reduction="none") for chunk in chunks]
    return -torch.cat(losses)
