"""Decoding prompts in batches: left padding, one shared prefix, rows that leave when they are done and others that join.

transformers' `generate` keeps every row of a batch until the longest answer ends. Here finished rows are dropped from
the key-value cache, waiting ones may take their place (continuous batching, after Orca, Yu et al. 2022), what all prompts
begin with is computed once, and rows of one batch may be answered by different adapters or by the base alone.
Encoder-decoder models go through `generate`.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList

from meerkat_workbench.device import devices, tensors
from meerkat_workbench.tuning import llm
from meerkat_workbench.tuning.artifacts import Finish

NO_ADAPTER = "__base__"  # PEFT's name for no adapter
MIN_PREFIX_TOKENS = 8  # tokens that prompts must share for a prefix to be worth a pass of its own
COMPACT_BELOW = 0.75  # rows are dropped once this share of a batch or less is still being answered
REFILL_ABOVE = 0.25  # waiting rows join once this share of a batch is free: each joining copies the cache


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are made. Temperature 0 is greedy; `seed` counts only above it."""

    max_new_tokens: int
    temperature: float
    seed: int
    stop_ids: tuple[int, ...]
    pad_id: int


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt to be answered: `name` seeds its draws, `adapter` answers it (None: whatever is active)."""

    name: str
    prompt_ids: tuple[int, ...]
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """Token ids of an answer, and how it ended: STOP or LENGTH."""

    ids: list[int]
    finish: Finish


@functools.lru_cache(maxsize=4096)  # a question's is wanted at each of its steps
def seed_of(decoding: Decoding, name: str) -> int:
    """Where a question's draws begin, a signed 64-bit number."""
    return int.from_bytes(hashlib.sha256(f"{decoding.seed}|{name}".encode()).digest()[:8], "big", signed=True)


def gumbel_noise(seeds: torch.Tensor, steps: torch.Tensor, width: int) -> torch.Tensor:
    """Gumbel noise of each row at its step, (rows, width): the same for every model, batch and device.

    Adding it, times the temperature, to the logits and taking the largest draws from the softmax at that temperature
    (the Gumbel-max trick, Maddison et al. 2014). The noise is worked out from seed, step and place (the finaliser of
    splitmix64, Steele et al. 2014), since drawing 128,000 numbers a row on the CPU would take longer than a GPU's step.

    Args:
        seeds, steps: (rows,), int64.
    """
    place = torch.arange(width, dtype=torch.int64, device=seeds.device)
    mixed = (
        seeds[:, None] + (place[None] + steps[:, None] * 2**32) * -0x61C8864680B583EB
    )  # 2^64 / golden ratio, as a signed number
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ _logical_shift_right(mixed, shift)) * factor
    mixed = mixed ^ _logical_shift_right(mixed, 31)
    uniform = (_logical_shift_right(mixed, 40).float() + 0.5) / 2**24
    return -torch.log(-torch.log(uniform))


def _logical_shift_right(values: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right, with zeros coming in: torch copies the sign."""
    return (values >> bits) & (2 ** (64 - bits) - 1)


def _ignore(_: int) -> None:
    pass


@dataclass
class _Batch:
    """Rows that are being answered.

    Args:
        mask: (rows, columns of the cache), 0 where a column is not the row's.
        logits: (rows, vocabulary), of each row's next token.
        places: which row each is; `done` says which of them have ended and only wait to be dropped.
    """

    cache: Any
    mask: torch.Tensor
    logits: torch.Tensor
    places: list[int]
    done: list[bool]

    @classmethod
    def empty(cls) -> _Batch:
        return cls(None, torch.empty(0), torch.empty(0), [], [])

    def going(self) -> list[int]:
        """Where in the batch rows are still being answered."""
        return [place for place, over in enumerate(self.done) if not over]

    def drop_finished(self) -> None:
        """Drop the rows that are done."""
        kept = self.going()
        if len(kept) == len(self.places):
            return
        chosen = torch.tensor(kept, device=self.mask.device)
        self.cache.batch_select_indices(chosen)
        self.mask, self.logits = self.mask[chosen], self.logits[chosen]
        self.places, self.done = [self.places[place] for place in kept], [False] * len(kept)

    def merge(self, fresh: _Batch, config: Any) -> _Batch:
        """Both batches as one, without rows that are done and columns that no row uses; padded on the left to one length."""
        self.drop_finished()
        used = self.mask.any(0)
        masks = (self.mask[:, used], fresh.mask)
        columns = max(mask.shape[1] for mask in masks)

        def together(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
            parts = (old[:, :, used], new)
            return torch.cat([torch.nn.functional.pad(part, (0, 0, columns - part.shape[2], 0)) for part in parts])

        cache = DynamicCache(config=llm.text_config(config))
        for layer, (old, new) in enumerate(zip(self.cache.layers, fresh.cache.layers, strict=True)):
            cache.update(together(old.keys, new.keys), together(old.values, new.values), layer)
            old.keys = old.values = new.keys = new.values = None  # so that memory holds one layer twice, not all
        mask = torch.cat([torch.nn.functional.pad(mask, (columns - mask.shape[1], 0)) for mask in masks])
        logits = torch.cat([self.logits, fresh.logits])
        return _Batch(cache, mask, logits, self.places + fresh.places, [False] * (len(self.places) + len(fresh.places)))


class Decoder:
    """Answers batches with one loaded model.

    Args:
        model: a decoder or encoder-decoder, with or without adapters (PEFT).
        prefix: token ids that every prompt begins with, computed once for each adapter; may be empty.
    """

    def __init__(self, model: Any, decoding: Decoding, prefix: Sequence[int] = ()) -> None:
        self.model, self.decoding = model, decoding
        self._full_attention = has_full_attention(model.config)
        self.prefix = tuple(prefix) if len(prefix) >= MIN_PREFIX_TOKENS and self._full_attention else ()
        self._prefix_states: dict[str | None, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        base = llm.base_model(model)
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(type(base).forward).parameters else {}
        # weights of a sharded base are gathered by all processes at once, which must then make the same steps
        self._in_lockstep = bool(getattr(base, "_is_fsdp_managed_module", False))

    @torch.inference_mode()
    def decode(
        self, rows: Sequence[PromptRow], at_once: int | None = None, *, refill: bool = False,
        made: Callable[[int], None] = _ignore, ended: Callable[[int], None] = _ignore,
    ) -> list[Decoded]:  # fmt: skip
        """Answers in the order of `rows`.

        Args:
            at_once: rows that are answered at a time, all by default.
            refill: let waiting rows take the place of those that are done, instead of one batch after another.
            made: told after each step how many tokens it made; the default does nothing.
            ended: told the tokens of each answer as it ends.
        """
        at_once = at_once or max(1, len(rows))
        size = len(rows) if refill and self._full_attention else at_once
        answer = self._generate if self.model.config.is_encoder_decoder else self._decode
        with devices.autocast(self.model):
            parts = [rows[start : start + size] for start in range(0, len(rows), max(1, size))]
            return [one for part in parts for one in answer(part, at_once, made, ended)]

    def _decode(
        self, rows: Sequence[PromptRow], at_once: int, made: Callable[[int], None], ended: Callable[[int], None]
    ) -> list[Decoded]:
        stops, limit = set(self.decoding.stop_ids), self.decoding.max_new_tokens
        answers: list[list[int]] = [[] for _ in rows]
        ends = [Finish.LENGTH] * len(rows)
        waiting, batch = collections.deque(range(len(rows))), _Batch.empty()
        while waiting or batch.going():
            free = at_once - len(batch.going())
            if waiting and (not batch.going() or free >= REFILL_ABOVE * at_once):
                fresh = self._begin(rows, [waiting.popleft() for _ in range(min(free, len(waiting)))])
                batch = batch.merge(fresh, self.model.config) if batch.going() else fresh
            tokens = self._choose(
                batch.logits, [rows[i].name for i in batch.places], [len(answers[i]) for i in batch.places]
            )  # fmt: skip
            made(sum(tokens[place] not in stops for place in batch.going()))
            for place, (i, token) in enumerate(zip(batch.places, tokens, strict=True)):
                if batch.done[place]:
                    continue
                if token in stops:
                    batch.done[place], ends[i] = True, Finish.STOP
                else:
                    answers[i].append(token)
                    batch.done[place] = len(answers[i]) == limit
                if batch.done[place]:
                    ended(len(answers[i]))
            if not batch.going():
                continue
            if len(batch.going()) <= COMPACT_BELOW * len(batch.places):
                batch.drop_finished()
            last = [self.decoding.pad_id if over else answers[i][-1] for i, over in zip(batch.places, batch.done, strict=True)]
            batch.mask = torch.nn.functional.pad(batch.mask, (0, 1), value=1)
            ids = torch.tensor(last, device=self.model.device)[:, None]
            # as many as the row has tokens before this one, wherever in the cache they stand
            positions = batch.mask.sum(1, keepdim=True) - 1
            batch.logits = self._forward(ids, batch.mask, positions, batch.cache, [rows[i].adapter for i in batch.places])
        return [Decoded(ids, finish) for ids, finish in zip(answers, ends, strict=True)]

    def _begin(self, rows: Sequence[PromptRow], places: list[int]) -> _Batch:
        """A batch of the prompts of `rows` at these places, with the logits of their first tokens."""
        device, given = self.model.device, len(self.prefix)
        rests = [rows[i].prompt_ids[given:] for i in places]
        ids = tensors.pad(rests, self.decoding.pad_id, device, left=True)
        width = ids.shape[1]
        gaps = torch.tensor([width - len(rest) for rest in rests], device=device)[:, None]
        # the prefix stands first, the gap between it and the rest is masked, and positions count without it
        mask = torch.ones(len(rests), given + width, dtype=torch.long, device=device)
        columns = torch.arange(given + width, device=device)
        mask[(columns >= given) & (columns < given + gaps)] = 0
        positions = (mask.cumsum(1) - 1)[:, given:].clamp(min=0)
        mine = [rows[i] for i in places]
        cache = self._cache_of(mine)
        logits = self._forward(ids, mask, positions, cache, [row.adapter for row in mine])
        return _Batch(cache, mask, logits, places, [False] * len(places))

    def _forward(self, ids: Any, mask: Any, positions: Any, cache: Any, adapters: Sequence[str | None]) -> torch.Tensor:
        """Logits of the last position, (rows, vocabulary)."""
        named = {"adapter_names": [str(name) for name in adapters]} if any(name is not None for name in adapters) else {}
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            **self._last_only, **named,
        )  # fmt: skip
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def _choose(self, logits: torch.Tensor, names: Sequence[str], steps: Sequence[int]) -> list[int]:
        """The next token of each row: `steps` says how many it has."""
        if self.decoding.temperature > 0:
            seeds = torch.tensor([seed_of(self.decoding, name) for name in names], device=logits.device)
            noise = gumbel_noise(seeds, torch.tensor(steps, device=logits.device), logits.shape[1])
            logits = logits + self.decoding.temperature * noise
        tokens = logits.argmax(-1)
        if self._in_lockstep:
            torch.distributed.broadcast(tokens, 0)
        chosen: list[int] = tokens.tolist()
        return chosen

    def _cache_of(self, rows: Sequence[PromptRow]) -> Any:
        """A cache that holds the prefix for each row, or an empty one."""
        cache = DynamicCache(config=llm.text_config(self.model.config))
        if self.prefix:
            kinds = list(dict.fromkeys(row.adapter for row in rows))
            states = [self._prefix_of(kind) for kind in kinds]
            which = torch.tensor([kinds.index(row.adapter) for row in rows], device=self.model.device)
            for layer, parts in enumerate(zip(*states, strict=True)):
                keys, values = (torch.cat([part[side] for part in parts])[which] for side in (0, 1))
                cache.update(keys, values, layer)
        return cache

    def _prefix_of(self, adapter: str | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of the prefix in each layer, (1, heads, length, width)."""
        if adapter not in self._prefix_states:
            cache = DynamicCache(config=llm.text_config(self.model.config))
            ids = torch.tensor([self.prefix], device=self.model.device)
            self._forward(ids, torch.ones_like(ids), torch.arange(len(self.prefix), device=ids.device)[None], cache, [adapter])
            self._prefix_states[adapter] = [(layer.keys, layer.values) for layer in cache.layers]
        return self._prefix_states[adapter]

    def _generate(
        self, rows: Sequence[PromptRow], at_once: int, made: Callable[[int], None], ended: Callable[[int], None]
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
            do_sample=False,  # sampling is in the processor, so that a question's draw is its own
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
        found = []
        for row in output[:, 1:].tolist():
            stop = next((place for place, token in enumerate(row) if token in self.decoding.stop_ids), None)
            answer = Decoded(row if stop is None else row[:stop], Finish.LENGTH if stop is None else Finish.STOP)
            found.append(answer)
            made(len(answer.ids))
            ended(len(answer.ids))
        return found


def has_full_attention(config: Any) -> bool:
    """Whether each token of a decoder attends to all before it. A window counts the gap between prefix and rest as if it were text."""
    kinds, window = llm.attention_kinds(config)
    return not config.is_encoder_decoder and kinds == {"full_attention"} and window is None


def shared_prefix(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all prompts begin with, short of the shortest one's last token."""
    if not prompts:
        return ()
    # what the first and the last in order share, all between them share
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(min(prompts), max(prompts), strict=False))
    return tuple(token for token, _ in alike)[: min(map(len, prompts)) - 1]
