"""FSDP for a frozen base: each process keeps a part of every layer, and the whole of what is trained."""

from __future__ import annotations

from typing import Any

import torch

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.llm import base_model


def layers_of(model: Any) -> dict[torch.nn.Module, list[torch.nn.Module]]:
    """The layers that are divided, by the stack that they stand in: one stack in a decoder, two in a T5."""
    base = base_model(model)
    kinds = set(base._no_split_modules or ())
    found: dict[torch.nn.Module, list[torch.nn.Module]] = {}
    for stack in base.modules():
        for child in stack.children():
            if isinstance(child, torch.nn.ModuleList):
                found.setdefault(stack, []).extend(layer for layer in child if type(layer).__name__ in kinds)
    found = {stack: layers for stack, layers in found.items() if layers}
    if not found:
        raise UserError(
            f"SHARD_BASE: {type(base).__name__} does not say what its layers are, so it cannot be divided. Leave it out."
        )
    return found


def bytes_freed(model: Any, processes: int) -> int:
    """Memory that sharding gives back to each process, less two whole layers: the one in use, and its gathered parts."""
    sizes = [
        sum(parameter.numel() * parameter.element_size() for parameter in layer.parameters() if not parameter.requires_grad)
        for layers in layers_of(model).values()
        for layer in layers
    ]
    return max(0, round(sum(sizes) * (1 - 1 / processes)) - 2 * max(sizes))


def shard_base(model: Any, device: torch.device) -> None:
    """Divide the frozen weights of each layer among the processes; a pass gathers them a layer at a time.

    Adapters stay whole in every process and are averaged by DDP, so that optimizer, checkpoints and the best adapter are
    what they are without sharding. Every process must make the same number of passes. (torch's `fully_shard`, FSDP2; the
    packed bytes of NF4 are divided as they are, while their scales, an eighth of a bit a weight, stay whole.)
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for stack, layers in layers_of(model).items():
        for layer in layers:
            trained = {parameter for parameter in layer.parameters() if parameter.requires_grad}
            fully_shard(layer, mesh=mesh, ignored_params=trained, reshard_after_forward=True)
        # the stack divides nothing of its own; as their common root it lets layers share streams and gather ahead
        rest = set(stack.parameters()) - {parameter for layer in layers for parameter in layer.parameters()}
        trained = {parameter for parameter in stack.parameters() if parameter.requires_grad}
        fully_shard(stack, mesh=mesh, ignored_params=rest | trained)
    # generation then waits for the slowest process, as transformers does for models that it shards by itself
    base_model(model)._is_fsdp_managed_module = True
    if device.type == "cuda":
        torch.cuda.empty_cache()
