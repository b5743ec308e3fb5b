"""Activation checkpointing, full or selective: which activations are kept for the backward pass and which are recomputed."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

# operators whose outputs are kept: they take most of the time, while the elementwise operations between them take most of
# the memory
SAVED_OPERATORS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.linear.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}


def _optional_operators() -> set[Any]:
    """Further operators to keep, if this machine's packages register them: torch's packed attention, and 4-bit layers on a CPU."""
    operators = set()
    for namespace, name in (("torch_attn", "_varlen_attn"), ("bitsandbytes", "gemm_4bit"), ("bitsandbytes", "gemv_4bit")):
        operator = getattr(getattr(torch.ops, namespace), name, None)
        if operator is not None:
            operators.add(operator.default)
    return operators


def _policy(saved: set[Any], _: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in saved else CheckpointPolicy.PREFER_RECOMPUTE


def options(checkpointing: str) -> dict[str, Any] | None:
    """`gradient_checkpointing_kwargs` for "selective" or "full"; None for "none".

    "selective" keeps the outputs of matrix products and of attention, with the selective contexts of
    torch.utils.checkpoint.
    """
    if checkpointing == "none":
        return None
    if checkpointing == "full":
        return {"use_reentrant": False}
    policy = functools.partial(_policy, SAVED_OPERATORS | _optional_operators())
    return {"use_reentrant": False, "context_fn": functools.partial(create_selective_checkpoint_contexts, policy)}
