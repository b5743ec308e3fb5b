"""FSDP for a frozen base: each process keeps a part of every layer, and all trained parameters in full."""

from __future__ import annotations

from typing import Any

import torch

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.llm import base_model


def layers_of(model: Any) -> dict[torch.nn.Module, list[torch.nn.Module]]:
    """The layers to shard, by the stack that contains them: one stack in a decoder, two in a T5.

    Raises:
        UserError: the model does not declare which of its modules are layers.
    """
    base = base_model(model)
    layer_types = set(base._no_split_modules or ())
    layers_by_stack: dict[torch.nn.Module, list[torch.nn.Module]] = {}
    for stack in base.modules():
        for child in stack.children():
            if isinstance(child, torch.nn.ModuleList):
                layers = [layer for layer in child if type(layer).__name__ in layer_types]
                layers_by_stack.setdefault(stack, []).extend(layers)
    layers_by_stack = {stack: layers for stack, layers in layers_by_stack.items() if layers}
    if not layers_by_stack:
        fault = "does not declare its layers (_no_split_modules), so it cannot be sharded"
        raise UserError(fault, where="SHARD_BASE", item=type(base).__name__, remedy="Leave SHARD_BASE out.")
    return layers_by_stack


def bytes_freed(model: Any, processes: int) -> int:
    """Bytes that sharding frees in each process, less two whole layers: the one in use, and its gathered parts."""
    sizes = [
        sum(parameter.numel() * parameter.element_size() for parameter in layer.parameters() if not parameter.requires_grad)
        for layers in layers_of(model).values()
        for layer in layers
    ]
    return max(0, round(sum(sizes) * (1 - 1 / processes)) - 2 * max(sizes))


def shard_base(model: Any, device: torch.device) -> None:
    """Shard the frozen weights of each layer among the processes; a pass gathers them one layer at a time.

    Uses torch's `fully_shard` (FSDP2). Adapters stay whole in every process, and DDP averages their gradients, so the
    optimizer, the checkpoints and the best adapter are the same as without sharding. Every process must make the same
    number of passes. The packed bytes of NF4 are sharded as they are; their scales, an eighth of a bit per weight, stay
    whole.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for stack, layers in layers_of(model).items():
        for layer in layers:
            trained = {parameter for parameter in layer.parameters() if parameter.requires_grad}
            fully_shard(layer, mesh=mesh, ignored_params=trained, reshard_after_forward=True)
        # the stack shards nothing of its own; as the layers' common root it lets them share streams and gather ahead
        rest = set(stack.parameters()) - {parameter for layer in layers for parameter in layer.parameters()}
        trained = {parameter for parameter in stack.parameters() if parameter.requires_grad}
        fully_shard(stack, mesh=mesh, ignored_params=rest | trained)
    # makes generation wait for the slowest process, as transformers does for models that it shards itself
    base_model(model)._is_fsdp_managed_module = True
    if device.type == "cuda":
        torch.cuda.empty_cache()
