"""A key-value cache that grows in place.

transformers' `DynamicCache` copies all keys and values at each step. With a prompt of 300 tokens this takes a third of a step on a CPU.
Here each layer keeps some free room behind its tokens, and is copied only when that is used up.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from meerkat_workbench.tuning import llm

GROWTH = 128  # tokens of free room that a copy makes; on a CPU free room takes no memory until it is used


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer with full attention, (rows, heads, tokens, width); both are views of larger tensors."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values, and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rooms = self._room or (self.keys, self.values)
        key_room, self.keys = _append(self.keys, key_states, rooms[0])
        value_room, self.values = _append(self.values, value_states, rooms[1])
        self._room = (key_room, value_room)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows. They stay in the same room, so that memory is not fragmented by copies of another size."""
        rows, length = len(indices), self.get_seq_length()
        if self._room is None or not length or rows > len(self._room[0]):
            self._room = None
            super().batch_select_indices(indices)
            return
        for room, held in zip(self._room, (self.keys, self.values), strict=True):
            room[:rows, ..., :length, :] = held[indices]
        key_room, value_room = (room[:rows] for room in self._room)
        self._room = (key_room, value_room)
        self.keys, self.values = key_room[..., :length, :], value_room[..., :length, :]

    def reset(self) -> None:
        """Free all keys and values."""
        self._room = None
        super().reset()


def _append(held: torch.Tensor, new: torch.Tensor, room: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Append along the second last axis; returns the room that holds the result, and the result.

    Args:
        room: holds `held` at its beginning, unless rows were selected since.
    """
    length = held.shape[-2] if held.numel() else 0
    end = length + new.shape[-2]
    holds = held.numel() and room.untyped_storage().data_ptr() == held.untyped_storage().data_ptr()
    if not holds or room.shape[-2] < end:
        room = new.new_empty((*new.shape[:-2], end + GROWTH, new.shape[-1]))
        if length:
            room[..., :length, :] = held
    room[..., length:end, :] = new
    return room, room[..., :end, :]


def growing_cache(config: Any) -> DynamicCache:
    """An empty cache for a decoder with this configuration. Layers with a sliding window stay transformers' own."""
    cache = DynamicCache(config=llm.text_config(config))
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
