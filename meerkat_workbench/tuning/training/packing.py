"""Whole examples packed into micro-batches by a budget of tokens, and attention that keeps them apart.

Padding a batch of MedQuAD answers to its longest wastes more than half of the work; packing wastes none. No example is
cut, and none sees another: positions begin again at 0, and attention is computed example by example (torch's
variable-length flash attention where the GPU has it, SDPA an example otherwise), without a mask of the whole pack.
Packs are made by best-fit decreasing (Johnson 1974), which needs at most 11/9 of the fewest packs possible, plus one.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import importlib
import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.llm import attention_kinds, text_config
from meerkat_workbench.tuning.training.examples import Example

varlen_attn: Any = None
with contextlib.suppress(ImportError):  # before torch 2.10
    varlen_attn = importlib.import_module("torch.nn.attention.varlen").varlen_attn

IMPLEMENTATION = "packed_examples"  # a name that has no mask function, so that no mask of the whole pack is made


@dataclass(frozen=True)
class Pack:
    """Examples as one row of ids: tensors of (1, tokens), and where each example begins and the last ends."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    bounds: tuple[int, ...]

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """Keywords of a model's forward pass; on a GPU the bounds are there as the tensor that flash attention reads too."""
        found: dict[str, Any] = {
            "input_ids": self.input_ids.to(device),
            "position_ids": self.position_ids.to(device),
            "labels": self.labels.to(device),
            "bounds": self.bounds,
        }
        if device.type == "cuda":
            found["cumulative"] = torch.tensor(self.bounds, dtype=torch.int32, device=device)
        return found


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of examples, grouped so that a group's lengths sum to `budget` at most; one that is longer stands alone."""
    groups: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, group), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect.bisect_left(room, (lengths[index], -1))
        if place < len(room):
            left, group = room.pop(place)
            groups[group].append(index)
        else:
            left, group = budget, len(groups)
            groups.append([index])
        bisect.insort(room, (left - lengths[index], group))
    return groups


def collate_pack(examples: Sequence[Example]) -> Pack:
    """Examples as one row of ids."""
    bounds = (0, *itertools.accumulate(len(example.input_ids) for example in examples))
    labels: list[int] = []
    for example in examples:
        labels += [-100, *example.labels[1:]]  # an example's first token follows nothing; the one before is another's
    return Pack(
        input_ids=torch.tensor([[i for example in examples for i in example.input_ids]]),
        position_ids=torch.cat([torch.arange(end - start) for start, end in itertools.pairwise(bounds)])[None],
        labels=torch.tensor([labels]),
        bounds=bounds,
    )


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    bounds: Sequence[int] | None = None,
    cumulative: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each example of a pack; for transformers' attention registry.

    Args:
        query, key, value: (1, heads, tokens, width); key and value may have fewer heads.
        bounds: where examples begin and the last ends; `cumulative` is the same as an int32 tensor on the device.

    Returns:
        (1, tokens, heads, width), and None for the attention weights, which are never formed.
    """
    if bounds is None:
        raise RuntimeError(f'attention "{IMPLEMENTATION}" is for packs only; wrap packed passes in `packed(model)`')
    if varlen_attn is not None and _has_flash(query.device) and query.dtype in (torch.bfloat16, torch.float16) and not dropout:
        if cumulative is None:
            cumulative = torch.tensor(bounds, dtype=torch.int32, device=query.device)
        longest = max(end - start for start, end in itertools.pairwise(bounds))
        if "enable_gqa" not in _VARLEN:
            groups = query.shape[1] // key.shape[1]
            key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        mixed: torch.Tensor = varlen_attn(q, k, v, cumulative, cumulative, longest, longest, scale=scaling, **_VARLEN)
        return mixed[None], None
    parts = [
        sdpa_attention_forward(
            module, query[:, :, start:end], key[:, :, start:end], value[:, :, start:end], None,
            scaling=scaling, dropout=dropout, is_causal=True,
        )[0]
        for start, end in itertools.pairwise(bounds)
    ]  # fmt: skip
    return torch.cat(parts, dim=1), None


def check_attention(config: Any, longest: int) -> None:
    """UserError for models whose layers attend to anything but the whole example before a token, which packs cannot do yet."""
    kinds, window = attention_kinds(config)
    windowed = window is not None and window < longest
    if (
        kinds - {"full_attention", "sliding_attention"}
        or windowed
        or getattr(text_config(config), "attn_logit_softcapping", None)
    ):
        raise UserError(
            f"its attention ({', '.join(sorted(kinds))}, window {window}) cannot be packed",
            where=str(getattr(config, "name_or_path", "")),
            remedy=f"Take a model with full attention, or, for a window alone, MAX_SEQ_LENGTH={window or longest}.",
        )


@functools.cache
def _has_flash(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _varlen_options() -> dict[str, Any]:
    """How this torch's `varlen_attn` is told to be causal (a flag at first, a window later) and to share key heads."""
    names = inspect.signature(varlen_attn).parameters if varlen_attn is not None else {}
    causal: dict[str, Any] = {"is_causal": True} if "is_causal" in names else {"window_size": (-1, 0)}
    return causal | ({"enable_gqa": True} if "enable_gqa" in names else {})


_VARLEN = _varlen_options()
AttentionInterface.register(IMPLEMENTATION, packed_attention)


@contextlib.contextmanager
def packed(base: Any) -> Iterator[None]:
    """Within it the model attends within examples of packs; the backward pass belongs inside as well.

    Outside, padded batches and generation need their masks, which the packed implementation never sees.
    """
    before = base.config._attn_implementation
    base.config._attn_implementation = IMPLEMENTATION
    try:
        yield
    finally:
        base.config._attn_implementation = before
