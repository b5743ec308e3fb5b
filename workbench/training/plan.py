"""What a training run will cost: steps, memory, disk; printed before the first step."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GB = 1e9
ADAM_BYTES = 16  # an fp32 weight, its gradient and Adam's two moments
CHECKPOINT_BYTES = 12  # weight and two moments on disk


@dataclass
class Plan:
    """Sizes of a run; bytes unless said otherwise."""

    steps: int
    steps_per_epoch: int
    trainable: int
    parameters: int
    weights: int
    adapter_state: int
    activations: int
    checkpoint: int
    disk_free: int

    @property
    def memory(self) -> int:
        return self.weights + self.adapter_state + self.activations


def make_plan(
    model: Any,
    *,
    examples: int,
    longest: int,
    epochs: float,
    batch_size: int,
    accumulation: int,
    processes: int,
    checkpointing: bool,
    vocabulary: int,
    output_dir: Path,
) -> Plan:
    """Work out a run from the loaded model; `longest` in tokens, `batch_size` in examples a device."""
    config = model.config
    # the trainer drops no batch: the last, smaller one is a step of its own
    steps_per_epoch = max(1, math.ceil(math.ceil(math.ceil(examples / processes) / batch_size) / accumulation))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    tokens = batch_size * longest
    # bf16 tensors a layer keeps for the backward pass: about 17 of hidden width (Korthikanti et al. 2022, without
    # attention scores, which SDPA does not store); with checkpointing one a layer, and one layer whole
    a_layer = 2 * tokens * config.hidden_size * 17
    layers = config.num_hidden_layers
    activations = 2 * tokens * config.hidden_size * layers + a_layer if checkpointing else a_layer * layers
    logits = 6 * tokens * vocabulary
    existing = next(p for p in (output_dir, *output_dir.resolve().parents) if p.exists())
    return Plan(
        steps=math.ceil(steps_per_epoch * epochs),
        steps_per_epoch=steps_per_epoch,
        trainable=trainable,
        parameters=_parameters(model),
        weights=sum(p.numel() * p.element_size() for p in model.parameters()),
        adapter_state=trainable * ADAM_BYTES,
        activations=activations + min(logits, 6 * 8192 * vocabulary),
        checkpoint=trainable * CHECKPOINT_BYTES,
        disk_free=shutil.disk_usage(existing).free,
    )


def _parameters(model: Any) -> int:
    """Parameters as the model's architecture counts them: a packed 4-bit tensor holds two a byte of storage."""
    total = 0
    for parameter in model.parameters():
        quantised = parameter.__class__.__name__ == "Params4bit"
        total += parameter.numel() * parameter.element_size() * 2 if quantised else parameter.numel()
    return total


def lines(plan: Plan, *, seconds_a_step: float | None, keep: int) -> list[str]:
    """The plan in words."""
    text = [
        f"model: {plan.parameters / 1e6:,.1f} M parameters, {plan.trainable / 1e6:,.3f} M of them trained "
        f"({100 * plan.trainable / plan.parameters:.2f}%)",
        f"steps: {plan.steps:,} ({plan.steps_per_epoch:,} an epoch)",
        f"memory: about {_size(plan.memory)} a device: {_size(plan.weights)} weights, {_size(plan.adapter_state)} adapter "
        f"and optimizer, up to {_size(plan.activations)} activations",
        f"disk: {_size(plan.checkpoint * (keep + 1))} for {keep} checkpoints and the best adapter; {_size(plan.disk_free)} free",
    ]
    if seconds_a_step is not None:
        whole = seconds_a_step * plan.steps
        text.append(f"time: {seconds_a_step:.2f} s a step, measured on two; about {_duration(whole)} without evaluation")
    return text


def _size(count: int) -> str:
    return f"{count / GB:.1f} GB" if count >= GB else f"{count / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
