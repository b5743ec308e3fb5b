"""What the backward pass keeps and what it computes again: activation checkpointing, whole or selective."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

# outputs of these are kept: they are most of the work, and elementwise operations between them most of the memory
PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.linear.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}


def _kept_by_name() -> set[Any]:
    """Products of packages whose operators have names only: torch's packed attention and 4-bit layers on a CPU."""
    found = set()
    for namespace, name in (("torch_attn", "_varlen_attn"), ("bitsandbytes", "gemm_4bit"), ("bitsandbytes", "gemv_4bit")):
        operator = getattr(getattr(torch.ops, namespace), name, None)
        if operator is not None:
            found.add(operator.default)
    return found


def _policy(products: set[Any], _: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in products else CheckpointPolicy.PREFER_RECOMPUTE


def options(checkpointing: str) -> dict[str, Any] | None:
    """`gradient_checkpointing_kwargs` for "selective" or "full"; None for "none".

    "selective" keeps the outputs of matrix products and of attention (torch.utils.checkpoint's selective contexts).
    """
    if checkpointing == "none":
        return None
    if checkpointing == "full":
        return {"use_reentrant": False}
    policy = functools.partial(_policy, PRODUCTS | _kept_by_name())
    return {"use_reentrant": False, "context_fn": functools.partial(create_selective_checkpoint_contexts, policy)}
