"""Prefixes that several prompts share, such as a system message or the examples of a specialty: computed once, for all rows."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import torch

from meerkat_workbench.device import tensors
from meerkat_workbench.tuning import llm
from meerkat_workbench.tuning.generation.growing_cache import growing_cache

MIN_PREFIX_TOKENS = 8  # a shorter shared prefix is not worth a forward pass of its own
MAX_PREFIXES_KEPT = 64  # prefixes whose keys and values stay in memory; others are computed again
Prefix = tuple[int, ...]  # token ids
LayerStates = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values of each layer, (1, heads, length, width)


class PrefixStates:
    """Keys and values of prefixes, for one loaded decoder with or without adapters (PEFT)."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.full_attention = has_full_attention(model.config)
        # a dictionary, because a cached method would refer to itself and keep the model in memory
        self._kept: dict[tuple[Prefix, str | None], LayerStates] = {}
        parameters = inspect.signature(type(llm.base_model(model)).forward).parameters
        self._can_keep_some = "logits_to_keep" in parameters

    def usable(self, prefix: Prefix) -> Prefix:
        """The prefix, or an empty one if it is too short to be worth it or the model's attention does not allow it."""
        return prefix if len(prefix) >= MIN_PREFIX_TOKENS and self.full_attention else ()

    def forward(
        self, ids: Any, mask: Any, positions: Any, cache: Any, adapters: Sequence[str | None], *, positions_kept: int
    ) -> torch.Tensor:
        """Logits of the last `positions_kept` positions or more, (rows, positions, vocabulary)."""
        named = {"adapter_names": [str(name) for name in adapters]} if any(name is not None for name in adapters) else {}
        kept = {"logits_to_keep": positions_kept} if self._can_keep_some else {}
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **kept, **named
        )
        logits: torch.Tensor = output.logits
        return logits

    def cache(self, prefixes: Sequence[Prefix], adapters: Sequence[str | None]) -> Any:
        """A cache that holds each row's prefix, padded on the left; empty if no row has one."""
        cache = growing_cache(self.model.config)
        rows_of: dict[tuple[Prefix, str | None], list[int]] = {}
        for row, (prefix, adapter) in enumerate(zip(prefixes, adapters, strict=True)):
            if prefix:
                rows_of.setdefault((prefix, adapter), []).append(row)
        states = {key: self._states(*key) for key in rows_of}
        for key in list(self._kept)[:-MAX_PREFIXES_KEPT]:
            del self._kept[key]
        longest = max(map(len, prefixes))
        for layer, of_layer in enumerate(zip(*states.values(), strict=True)):
            _, heads, _, width = of_layer[0][0].shape
            keys, values = (of_layer[0][0].new_zeros(len(prefixes), heads, longest, width) for _ in (0, 1))
            for (prefix, _), rows, (prefix_keys, prefix_values) in zip(rows_of, rows_of.values(), of_layer, strict=True):
                keys[rows, :, longest - len(prefix) :] = prefix_keys
                values[rows, :, longest - len(prefix) :] = prefix_values
            cache.update(keys, values, layer)
        return cache

    def _states(self, prefix: Prefix, adapter: str | None) -> LayerStates:
        key = (prefix, adapter)
        states = self._kept.pop(key) if key in self._kept else self._compute(prefix, adapter)
        self._kept[key] = states  # the last used stands last
        return states

    def _compute(self, prefix: Prefix, adapter: str | None) -> LayerStates:
        """Keys and values of a prefix in each layer, (1, heads, length, width)."""
        cache = growing_cache(self.model.config)
        ids = torch.tensor([prefix], device=self.model.device)
        positions = torch.arange(len(prefix), device=ids.device)[None]
        self.forward(ids, torch.ones_like(ids), positions, cache, [adapter], positions_kept=1)
        return [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]  # without the room behind them


def mask_and_positions(parts: Sequence[Sequence[Sequence[int]]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The attention mask of rows that are given to a model in parts, (rows, columns), and the positions of the tokens of the last part.

    Each part is padded on the left; padding is masked and does not count in positions, (rows, longest row of the last part).

    Args:
        parts: each with the token ids of every row; the model's cache holds all parts but the last.
    """
    mask = torch.cat([tensors.mask_of(part, device, left=True) for part in parts if any(part)], 1)
    return mask, (mask.cumsum(1) - 1)[:, -max(map(len, parts[-1])) :].clamp(min=0)


def has_full_attention(config: Any) -> bool:
    """Whether each token of a decoder attends to all tokens before it.

    Sliding-window attention would count the masked padding between prefix and suffix as part of the window.
    """
    kinds, window = llm.attention_kinds(config)
    return not config.is_encoder_decoder and kinds == {"full_attention"} and window is None


def shared_prefix_length(prompts: Sequence[tuple[int, ...]]) -> int:
    """Number of tokens that all prompts begin with; at least one token of each prompt is left out."""
    if not prompts:
        return 0
    # a prefix that the first and the last prompt in sorted order share is shared by all between them
    equal_pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(min(prompts), max(prompts), strict=False))
    return min(sum(1 for _ in equal_pairs), min(map(len, prompts)) - 1)


def prefix_lengths(prompts: Sequence[tuple[int, ...]], groups: Sequence[str]) -> list[int]:
    """The number of tokens at the beginning of each prompt that are computed only once.

    This is what the prompts of its group share, such as the examples of a specialty, if it is much longer than what all share.
    """
    of_all = shared_prefix_length(prompts)
    members: dict[str, list[tuple[int, ...]]] = {}
    for prompt, group in zip(prompts, groups, strict=True):
        members.setdefault(group, []).append(prompt)
    of_group = {group: shared_prefix_length(inside) if len(inside) > 1 else of_all for group, inside in members.items()}
    return [length if (length := of_group[group]) >= 2 * of_all else of_all for group in groups]
