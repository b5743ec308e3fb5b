"""Decoding prompts in batches: left padding, a shared prefix, and continuous batching.

transformers' `generate` keeps every row of a batch until the longest answer ends. Here finished rows are dropped from
the key-value cache, and waiting rows may take their place (continuous batching, after Orca, Yu et al. 2022). A prefix
that several prompts share is computed once. Rows of one batch may be answered by different adapters or by the base alone.
Encoder-decoder models go through `generate`.
"""

from __future__ import annotations

import collections
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from meerkat_workbench.device import devices, tensors
from meerkat_workbench.tuning import llm
from meerkat_workbench.tuning.artifacts import Finish
from meerkat_workbench.tuning.generation.growing_cache import growing_cache
from meerkat_workbench.tuning.generation.prefixes import PrefixStates, mask_and_positions

NO_ADAPTER = "__base__"  # PEFT's name for no adapter
# finished rows are dropped once this fraction of a batch or less is unfinished
MAX_UNFINISHED_FRACTION_TO_COMPACT = 0.75
# waiting rows join once this fraction of a batch is free; each time they join, the cache is copied
MIN_FREE_FRACTION_TO_REFILL = 0.25


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are generated. Temperature 0 is greedy; `seed` is used only above it."""

    max_new_tokens: int
    temperature: float
    seed: int
    stop_ids: tuple[int, ...]
    pad_id: int


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt to answer.

    Args:
        name: seeds the row's random draws.
        adapter: the adapter that answers; None for the one that is active.
        prefix_length: tokens at the beginning that other prompts share, so that they are computed once; may be 0.
    """

    name: str
    prompt_ids: tuple[int, ...]
    adapter: str | None = None
    prefix_length: int = 0


@dataclass(frozen=True, slots=True)
class Decoded:
    """Token ids of an answer, and how it ended: STOP or LENGTH.

    Attributes:
        loss: the model's mean loss per token of `ids` in nats; None if there are none, or the model is an encoder-decoder.
    """

    ids: list[int]
    finish: Finish
    loss: float | None = field(default=None, compare=False)  # sums in another order differ in the last digits


@functools.lru_cache(maxsize=4096)  # each decoding step asks for the same seeds again
def seed_of(decoding: Decoding, name: str) -> int:
    """The seed of a question's random draws, a signed 64-bit number."""
    return int.from_bytes(hashlib.sha256(f"{decoding.seed}|{name}".encode()).digest()[:8], "big", signed=True)


def gumbel_noise(seeds: torch.Tensor, steps: torch.Tensor, width: int) -> torch.Tensor:
    """Gumbel noise of each row at its step, (rows, width): the same for every model, batch and device.

    The argmax of the logits plus this noise times the temperature is a sample from the softmax at that temperature
    (the Gumbel-max trick, Maddison et al. 2014). The noise is a hash of seed, step and token id (the finaliser of
    splitmix64, Steele et al. 2014), because drawing 128,000 numbers a row on the CPU would take longer than a GPU's step.

    Args:
        seeds, steps: (rows,), int64.
        width: size of the vocabulary.
    """
    token_ids = torch.arange(width, dtype=torch.int64, device=seeds.device)
    mixed = (
        seeds[:, None] + (token_ids[None] + steps[:, None] * 2**32) * -0x61C8864680B583EB
    )  # 2^64 / golden ratio, as a signed number
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ _logical_shift_right(mixed, shift)) * factor
    mixed = mixed ^ _logical_shift_right(mixed, 31)
    uniform = (_logical_shift_right(mixed, 40).float() + 0.5) / 2**24
    return -torch.log(-torch.log(uniform))


def _logical_shift_right(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift right and fill with zeros; torch's own shift fills with the sign bit."""
    return (values >> bits) & (2 ** (64 - bits) - 1)


def _ignore(_: int) -> None:
    pass


@dataclass
class _Batch:
    """The rows that are being decoded. A slot is a row's position in the batch.

    Args:
        cache: keys and values of every slot.
        mask: (slots, columns of the cache), 0 where a column is not the row's.
        logits: (slots, vocabulary), of each row's next token.
        row_indices: index of each slot's row in the list of rows to decode.
        done: whether each slot's row has ended and only waits to be dropped.
    """

    cache: Any
    mask: torch.Tensor
    logits: torch.Tensor
    row_indices: list[int]
    done: list[bool]

    @classmethod
    def empty(cls) -> _Batch:
        return cls(None, torch.empty(0), torch.empty(0), [], [])

    def unfinished(self) -> list[int]:
        """The slots whose rows are still being decoded."""
        return [slot for slot, done in enumerate(self.done) if not done]

    def drop_finished(self) -> None:
        """Drop the rows that are done."""
        slots = self.unfinished()
        if len(slots) == len(self.row_indices):
            return
        slot_tensor = torch.tensor(slots, device=self.mask.device)
        self.cache.batch_select_indices(slot_tensor)
        self.mask, self.logits = self.mask[slot_tensor], self.logits[slot_tensor]
        self.row_indices, self.done = [self.row_indices[slot] for slot in slots], [False] * len(slots)

    def merge(self, new: _Batch, config: Any) -> _Batch:
        """Both batches as one, left-padded to one length; finished rows and columns that no row uses are dropped."""
        self.drop_finished()
        used = self.mask.any(0)
        masks = (self.mask[:, used], new.mask)
        columns = max(mask.shape[1] for mask in masks)

        def padded_concat(old_states: torch.Tensor, new_states: torch.Tensor) -> torch.Tensor:
            parts = (old_states[:, :, used], new_states)
            return torch.cat([torch.nn.functional.pad(part, (0, 0, columns - part.shape[2], 0)) for part in parts])

        cache = growing_cache(config)
        for layer, (old_layer, new_layer) in enumerate(zip(self.cache.layers, new.cache.layers, strict=True)):
            cache.update(padded_concat(old_layer.keys, new_layer.keys), padded_concat(old_layer.values, new_layer.values), layer)
            # freed now, so that memory holds only one layer twice at a time
            old_layer.reset()
            new_layer.reset()
        mask = torch.cat([torch.nn.functional.pad(mask, (columns - mask.shape[1], 0)) for mask in masks])
        logits = torch.cat([self.logits, new.logits])
        row_indices = self.row_indices + new.row_indices
        return _Batch(cache, mask, logits, row_indices, [False] * len(row_indices))


class Decoder:
    """Decodes prompts with one loaded model.

    Args:
        model: a decoder or encoder-decoder, with or without adapters (PEFT).
    """

    def __init__(self, model: Any, decoding: Decoding) -> None:
        self.model, self.decoding = model, decoding
        self.prefixes = PrefixStates(model)
        base = llm.base_model(model)
        # all processes gather the weights of a sharded base together, so they must make the same steps
        self._in_lockstep = bool(getattr(base, "_is_fsdp_managed_module", False))

    @torch.inference_mode()
    def decode(
        self, rows: Sequence[PromptRow], batch_size: int | None = None, *, refill: bool = False,
        on_tokens: Callable[[int], None] = _ignore, on_answer: Callable[[int], None] = _ignore,
    ) -> list[Decoded]:  # fmt: skip
        """Decode an answer to each prompt.

        Args:
            batch_size: rows decoded at a time; None for all of them.
            refill: let waiting rows take the place of finished ones, instead of decoding one batch after another.
            on_tokens: called after each step with the number of new tokens.
            on_answer: called at the end of each answer with its number of tokens.

        Returns:
            Answers in the order of `rows`.
        """
        batch_size = batch_size or max(1, len(rows))
        part_size = len(rows) if refill and self.prefixes.full_attention else batch_size
        decode_part = self._generate if self.model.config.is_encoder_decoder else self._decode
        with devices.autocast(self.model):
            parts = [rows[start : start + part_size] for start in range(0, len(rows), max(1, part_size))]
            return [answer for part in parts for answer in decode_part(part, batch_size, on_tokens, on_answer)]

    def _decode(
        self, rows: Sequence[PromptRow], batch_size: int, on_tokens: Callable[[int], None], on_answer: Callable[[int], None]
    ) -> list[Decoded]:
        stop_ids, max_new_tokens = set(self.decoding.stop_ids), self.decoding.max_new_tokens
        answers: list[list[int]] = [[] for _ in rows]
        finishes, losses = [Finish.LENGTH] * len(rows), [0.0] * len(rows)  # losses are summed
        waiting, batch = collections.deque(range(len(rows))), _Batch.empty()
        while waiting or batch.unfinished():
            free = batch_size - len(batch.unfinished())
            if waiting and (not batch.unfinished() or free >= MIN_FREE_FRACTION_TO_REFILL * batch_size):
                new = self._prefill(rows, [waiting.popleft() for _ in range(min(free, len(waiting)))])
                batch = batch.merge(new, self.model.config) if batch.unfinished() else new
            tokens = self._choose(
                batch.logits, [rows[i].name for i in batch.row_indices], [len(answers[i]) for i in batch.row_indices]
            )  # fmt: skip
            losses_of_tokens = self._losses(batch.logits, tokens)
            on_tokens(sum(tokens[slot] not in stop_ids for slot in batch.unfinished()))
            for slot, (i, token) in enumerate(zip(batch.row_indices, tokens, strict=True)):
                if batch.done[slot]:
                    continue
                if token in stop_ids:
                    batch.done[slot], finishes[i] = True, Finish.STOP
                else:
                    answers[i].append(token)
                    losses[i] += losses_of_tokens[slot]
                    batch.done[slot] = len(answers[i]) == max_new_tokens
                if batch.done[slot]:
                    on_answer(len(answers[i]))
            if not batch.unfinished():
                continue
            if len(batch.unfinished()) <= MAX_UNFINISHED_FRACTION_TO_COMPACT * len(batch.row_indices):
                batch.drop_finished()
            last_tokens = [
                self.decoding.pad_id if done else answers[i][-1] for i, done in zip(batch.row_indices, batch.done, strict=True)
            ]
            batch.mask = torch.nn.functional.pad(batch.mask, (0, 1), value=1)
            ids = torch.tensor(last_tokens, device=self.model.device)[:, None]
            # a token's position is the number of the row's tokens before it, wherever they are in the cache
            positions = batch.mask.sum(1, keepdim=True) - 1
            adapters = [rows[i].adapter for i in batch.row_indices]
            batch.logits = self._forward(ids, batch.mask, positions, batch.cache, adapters)
        return [
            Decoded(ids, finish, loss / len(ids) if ids else None)
            for ids, finish, loss in zip(answers, finishes, losses, strict=True)
        ]

    def _prefill(self, rows: Sequence[PromptRow], row_indices: list[int]) -> _Batch:
        """A batch of these rows' prompts, with the logits of their first new tokens."""
        device, batch_rows = self.model.device, [rows[i] for i in row_indices]
        prefixes = [self.prefixes.usable(row.prompt_ids[: row.prefix_length]) for row in batch_rows]
        suffixes = [row.prompt_ids[len(prefix) :] for row, prefix in zip(batch_rows, prefixes, strict=True)]
        ids = tensors.pad(suffixes, self.decoding.pad_id, device, left=True)
        # both parts are padded on the left; padding is masked and does not count in positions
        mask, positions = mask_and_positions([prefixes, suffixes], device)
        adapters = [row.adapter for row in batch_rows]
        cache = self.prefixes.cache(prefixes, adapters)
        logits = self._forward(ids, mask, positions, cache, adapters)
        return _Batch(cache, mask, logits, row_indices, [False] * len(row_indices))

    def _forward(self, ids: Any, mask: Any, positions: Any, cache: Any, adapters: Sequence[str | None]) -> torch.Tensor:
        """Logits of the last position, (rows, vocabulary)."""
        return self.prefixes.forward(ids, mask, positions, cache, adapters, positions_kept=1)[:, -1].float()

    def _losses(self, logits: torch.Tensor, tokens: Sequence[int]) -> list[float]:
        """The loss of each row's chosen token in nats, whatever the temperature."""
        chosen = logits.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0]
        losses: list[float] = (logits.logsumexp(1) - chosen).tolist()
        return losses

    def _choose(self, logits: torch.Tensor, names: Sequence[str], steps: Sequence[int]) -> list[int]:
        """The next token of each row.

        Args:
            logits: (rows, vocabulary).
            steps: number of tokens that each answer has so far.
        """
        if self.decoding.temperature > 0:
            seeds = torch.tensor([seed_of(self.decoding, name) for name in names], device=logits.device)
            noise = gumbel_noise(seeds, torch.tensor(steps, device=logits.device), logits.shape[1])
            logits = logits + self.decoding.temperature * noise
        tokens = logits.argmax(-1)
        if self._in_lockstep:
            torch.distributed.broadcast(tokens, 0)
        chosen: list[int] = tokens.tolist()
        return chosen

    def _generate(
        self, rows: Sequence[PromptRow], batch_size: int, on_tokens: Callable[[int], None], on_answer: Callable[[int], None]
    ) -> list[Decoded]:
        device, prompts = self.model.device, [row.prompt_ids for row in rows]
        decoder = self

        class GumbelLogitsProcessor(LogitsProcessor):
            def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
                seeds = torch.tensor([seed_of(decoder.decoding, row.name) for row in rows], device=scores.device)
                noise = gumbel_noise(seeds, torch.full_like(seeds, input_ids.shape[1] - 1), scores.shape[1])
                return scores.float() + decoder.decoding.temperature * noise

        settings = GenerationConfig(
            max_new_tokens=self.decoding.max_new_tokens,
            do_sample=False,  # the logits processor samples, so that a question's draws do not depend on its batch
            eos_token_id=list(self.decoding.stop_ids),
            pad_token_id=self.decoding.pad_id,
            decoder_start_token_id=self.model.config.decoder_start_token_id,
            use_cache=True,
        )
        output = self.model.generate(
            input_ids=tensors.pad(prompts, self.decoding.pad_id, device),
            attention_mask=tensors.mask_of(prompts, device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([GumbelLogitsProcessor()] if self.decoding.temperature > 0 else []),
        )
        answers = []
        for ids in output[:, 1:].tolist():
            stop = next((i for i, token in enumerate(ids) if token in self.decoding.stop_ids), None)
            answer = Decoded(ids if stop is None else ids[:stop], Finish.LENGTH if stop is None else Finish.STOP)
            answers.append(answer)
            on_tokens(len(answer.ids))
            on_answer(len(answer.ids))
        return answers
