"""FSDP for a frozen base: each process keeps a part of every layer, and the whole of what is trained."""

from __future__ import annotations

from typing import Any

import torch


def shard_base(model: Any, device: torch.device) -> None:
    """Divide the frozen weights of each layer among the processes; a pass gathers them a layer at a time.

    Adapters stay whole in every process and are averaged by DDP, so that optimizer, checkpoints and the best adapter are
    what they are without sharding. Every process must make the same number of passes. (torch's `fully_shard`, FSDP2; the
    packed bytes of NF4 are divided as they are, while their scales, an eighth of a bit a weight, stay whole.)
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    kinds = set(base._no_split_modules)
    for layer in [module for module in base.modules() if type(module).__name__ in kinds]:
        trained = {parameter for parameter in layer.parameters() if parameter.requires_grad}
        # said aloud: left to itself torch takes each layer for a root, and roots stay whole after their pass
        fully_shard(layer, mesh=mesh, ignored_params=trained, reshard_after_forward=True)
    # generation then waits for the slowest process, as transformers does for models that it shards by itself
    base._is_fsdp_managed_module = True
    if device.type == "cuda":
        torch.cuda.empty_cache()
