"""The order of the training examples: random, and the same after a resume."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader

EXAMPLES = "examples"  # the one key of a batch


class ResumableBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Indices of this process's examples in each optimizer step, in a random order that depends on seed and epoch alone.

    transformers' own samplers draw from the global generator, whose state differs after a resume: the rest of the epoch would then
    have other examples than the killed run had left. If the last step of an epoch is small, accelerate fills it with examples that
    the epoch has had; here a process gets fewer examples, or none.

    Args:
        count: examples of the whole training set.
        examples: examples of a step for each process.
        process: index of this process.
        processes: number of processes.
    """

    def __init__(self, count: int, examples: int, seed: int, process: int, processes: int) -> None:
        self.count, self.step, self.seed, self.epoch = count, examples * processes, seed, 0
        self.process, self.processes = process, processes

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.count / self.step)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        order = torch.randperm(self.count, generator=generator).tolist()
        for start in range(0, self.count, self.step):
            yield order[start : start + self.step][self.process :: self.processes]


def keep_as_list(examples: list[Any]) -> dict[str, list[Any]]:
    """Collate without making tensors, because the trainer divides a step by the memory that is left at that time."""
    return {EXAMPLES: examples}


def step_loader(examples: Sequence[Any], per_process: int, seed: int, process: int, processes: int) -> Any:
    """A data loader whose batches are this process's examples of an optimizer step, uncollated (`keep_as_list`)."""
    sampler = ResumableBatchSampler(len(examples), per_process, seed, process, processes)
    loader: Any = torch.utils.data.DataLoader(examples, batch_sampler=sampler, collate_fn=keep_as_list)  # type: ignore[arg-type]
    # the examples are already divided among the processes, and accelerate would divide them again
    return prepare_data_loader(loader, num_processes=1, process_index=0)
