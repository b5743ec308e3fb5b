"""Whole examples packed into micro-batches up to a token budget, and attention that keeps the examples separate.

Padding a batch of MedQuAD answers to the longest one wastes more than half of the work; packing wastes none. No example
is cut, and no example attends to another. Positions restart at 0 for each example, and attention is computed within
each example: by torch's variable-length flash attention if the GPU has it, otherwise by one SDPA call per example.
Neither needs a mask of the whole pack. Packs are built by best-fit decreasing (Johnson 1974), which needs at most 11/9
of the smallest possible number of packs, plus one.
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

IMPLEMENTATION = "packed_examples"  # transformers has no mask function for this name, so it builds no mask of the whole pack


@dataclass(frozen=True)
class Pack:
    """Examples concatenated into one row of ids.

    Args:
        input_ids, position_ids, labels: (1, tokens).
        bounds: the offset at which each example begins, and the end of the last one.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    bounds: tuple[int, ...]

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """Keyword arguments for a model's forward pass; on a GPU also `bounds` as a tensor for flash attention."""
        inputs: dict[str, Any] = {
            "input_ids": self.input_ids.to(device),
            "position_ids": self.position_ids.to(device),
            "labels": self.labels.to(device),
            "bounds": self.bounds,
        }
        if device.type == "cuda":
            inputs["cumulative"] = torch.tensor(self.bounds, dtype=torch.int32, device=device)
        return inputs


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group examples so that the lengths of each group sum to at most `budget`; a longer example forms its own group.

    Args:
        lengths: tokens of each example.
        budget: tokens per group.

    Returns:
        The indices of each group's examples.
    """
    groups: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, group), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        best_fit = bisect.bisect_left(free, (lengths[index], -1))
        if best_fit < len(free):
            left, group = free.pop(best_fit)
            groups[group].append(index)
        else:
            left, group = budget, len(groups)
            groups.append([index])
        bisect.insort(free, (left - lengths[index], group))
    return groups


def collate_pack(examples: Sequence[Example]) -> Pack:
    """Concatenate examples into one row of ids."""
    bounds = (0, *itertools.accumulate(len(example.input_ids) for example in examples))
    labels: list[int] = []
    for example in examples:
        labels += [
            -100,
            *example.labels[1:],
        ]  # nothing predicts an example's first token: the token before it belongs to another example
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
    """Causal attention within each example of a pack, for transformers' attention registry.

    Args:
        query, key, value: (1, heads, tokens, width); key and value may have fewer heads.
        bounds: the offset at which each example begins, and the end of the last one.
        cumulative: `bounds` as an int32 tensor on the device.

    Returns:
        (1, tokens, heads, width), and None in place of the attention weights, which are not computed.
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
        output: torch.Tensor = varlen_attn(q, k, v, cumulative, cumulative, longest, longest, scale=scaling, **_VARLEN)
        return output[None], None
    parts = [
        sdpa_attention_forward(
            module, query[:, :, start:end], key[:, :, start:end], value[:, :, start:end], None,
            scaling=scaling, dropout=dropout, is_causal=True,
        )[0]
        for start, end in itertools.pairwise(bounds)
    ]  # fmt: skip
    return torch.cat(parts, dim=1), None


def check_attention(config: Any, longest: int) -> None:
    """Check that packing supports the model's attention: each token must attend to the whole example before it.

    Args:
        longest: tokens of the longest example; a window at least that wide is no restriction.

    Raises:
        UserError: it does not.
    """
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
            remedy=f"Use a model with full attention. If only the window is the problem, set MAX_SEQ_LENGTH={window or longest}.",
        )


@functools.cache
def _has_flash(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _varlen_options() -> dict[str, Any]:
    """Options of `varlen_attn` for causal attention (a flag in older torch, a window in newer) and shared key heads."""
    parameters = inspect.signature(varlen_attn).parameters if varlen_attn is not None else {}
    causal: dict[str, Any] = {"is_causal": True} if "is_causal" in parameters else {"window_size": (-1, 0)}
    return causal | ({"enable_gqa": True} if "enable_gqa" in parameters else {})


_VARLEN = _varlen_options()
AttentionInterface.register(IMPLEMENTATION, packed_attention)


@contextlib.contextmanager
def packed(base: Any) -> Iterator[None]:
    """A context in which the model uses packed attention; it must also contain the backward pass.

    Elsewhere the model keeps its own attention, because padded batches and generation need masks, which packed attention
    ignores.
    """
    original = base.config._attn_implementation
    base.config._attn_implementation = IMPLEMENTATION
    try:
        yield
    finally:
        base.config._attn_implementation = original
