"""The plan of a training run: its steps, memory and disk space, printed before the first step."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from meerkat_workbench.core import console
from meerkat_workbench.device import devices
from meerkat_workbench.device.devices import Precision

GB = 1e9
ADAM_BYTES = 16  # per trained parameter: an fp32 weight, its gradient and Adam's two moments
CHECKPOINT_BYTES = 12  # per trained parameter on disk: the weight and Adam's two moments
EFFICIENT_TOKENS = 8192  # tokens in a micro-batch at which unpacking 4-bit weights costs only 3%
MAX_TOKENS = 16384  # largest token budget that is chosen automatically, unless one example is longer
LOGIT_POSITIONS = 1024  # positions whose logits are in memory at once, with a vocabulary like Llama-3's

Checkpointing = Literal["auto", "none", "selective", "full"]  # values of ACTIVATION_CHECKPOINTING


@dataclass
class TrainingPlan:
    """Sizes of a run.

    `steps` and `steps_per_epoch` are optimizer steps, `trainable` and `parameters` are numbers of parameters, all others
    are bytes.
    """

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


@dataclass(frozen=True)
class MicroBatches:
    """How a step is split into micro-batches.

    Args:
        tokens: token budget of a micro-batch.
        checkpointing: which activations are kept for the backward pass.
        activations: bytes of those activations.
    """

    tokens: int
    checkpointing: str
    activations: int


def activation_bytes(config: Any, checkpointing: str, element_bytes: int) -> int:
    """Bytes of activations per token that are kept for the backward pass.

    Counts the tensors that a layer keeps, for Llama under QLoRA. "none" keeps inputs and outputs of both norms, the
    projections, the rotated queries and keys, and four tensors of the feed-forward width. "selective" keeps the outputs
    of matrix products and of attention. "full" keeps a layer's input. (After Korthikanti et al. 2022, who count another
    architecture.)

    Args:
        element_bytes: bytes of one element of these tensors.
    """
    width, layers = config.hidden_size, config.num_hidden_layers
    heads = getattr(config, "num_attention_heads", 1)
    key_width = width * (getattr(config, "num_key_value_heads", None) or heads) // heads
    feed_forward = getattr(config, "intermediate_size", None) or 4 * width
    products = element_bytes * (3 * width + 2 * key_width + 2 * feed_forward + width)
    everything = products + element_bytes * (12 * width + 2 * key_width + 2 * feed_forward)
    per_layer = {"none": everything, "selective": products + element_bytes * width, "full": element_bytes * width}[checkpointing]
    # recomputation holds all activations of one layer at a time
    return layers * per_layer + (0 if checkpointing == "none" else everything)


def choose_micro_batches(
    config: Any,
    *,
    step_tokens: int,
    longest: int,
    tokens: int,
    checkpointing: Checkpointing,
    free: int | None,
    precision: Precision,
) -> MicroBatches:
    """Choose the fastest way to split a step that fits in memory.

    The 4-bit weights are unpacked once per micro-batch, whatever its size (48% overhead at 512 tokens, 3% at 8k). So
    fewer, larger micro-batches are faster until recomputation costs more. The choice is the least recomputation with
    which `EFFICIENT_TOKENS` tokens fit.

    Args:
        step_tokens: tokens of one process in an average step; a larger micro-batch would not be full.
        longest: tokens of the longest example; a micro-batch must hold at least that many.
        tokens: the token budget that the user set, or 0 to choose one.
        checkpointing: "none", "selective", "full", or "auto" to choose.
        free: bytes for activations; None if memory is no limit (CPU).
        precision: of the activations.
    """
    modes = [checkpointing] if checkpointing != "auto" else ["none", "selective", "full"]
    element_bytes = devices.BYTES[precision]
    # logits in `precision`, their fp32 copy, and its gradient
    logit_bytes = (element_bytes + 8) * min(max(step_tokens, longest), LOGIT_POSITIONS) * config.vocab_size
    target = tokens or max(longest, min(MAX_TOKENS, step_tokens + longest))
    for mode in modes:
        per_token = activation_bytes(config, mode, element_bytes)
        fitting = target if free is None else min(target, max(0, free - logit_bytes) // per_token)
        if fitting >= min(target, max(longest, EFFICIENT_TOKENS)) or mode == modes[-1]:
            budget = tokens or max(longest, fitting)
            return MicroBatches(budget, mode, per_token * min(budget, max(step_tokens, longest)) + logit_bytes)
    raise AssertionError("the last mode is always accepted")


def make_plan(
    model: Any,
    *,
    examples: int,
    epochs: float,
    examples_per_step: int,
    max_steps: int,
    processes: int,
    activations: int,
    output: Path,
) -> TrainingPlan:
    """Plan a run from the loaded model.

    Args:
        examples: of one epoch, over all processes.
        examples_per_step: examples that one process contributes to a step.
        max_steps: a limit on the number of steps; 0 for none.
        activations: bytes, from `choose_micro_batches`.
        output: folder of the run; its disk need not contain it yet.
    """
    # no example is dropped: the remainder of an epoch is a smaller step of its own
    steps_per_epoch = math.ceil(examples / (processes * examples_per_step))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    existing_folder = next(p for p in (output, *output.resolve().parents) if p.exists())
    return TrainingPlan(
        steps=max_steps if max_steps > 0 else math.ceil(steps_per_epoch * epochs),
        steps_per_epoch=steps_per_epoch,
        trainable=trainable,
        parameters=_count_parameters(model),
        weights=sum(part.numel() * part.element_size() for part in map(_local_part, model.parameters())),
        adapter_state=trainable * ADAM_BYTES,
        activations=activations,
        checkpoint=trainable * CHECKPOINT_BYTES,
        disk_free=shutil.disk_usage(existing_folder).free,
    )


def _count_parameters(model: Any) -> int:
    """Number of parameters in the model's architecture; one element of packed 4-bit weights holds several."""
    sizes = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            packed = name == "weight" and hasattr(module, "quant_state")
            # keyed by identity, so that a head that shares the embeddings' weights is not counted twice
            sizes[id(parameter)] = module.in_features * module.out_features if packed else parameter.numel()
    return sum(sizes.values())


def _local_part(parameter: torch.Tensor) -> torch.Tensor:
    """The part of a parameter that this process holds: all of it unless the base is sharded."""
    local: torch.Tensor = getattr(parameter, "to_local", lambda: parameter)()
    return local


def plan_lines(plan: TrainingPlan, *, seconds_per_step: float | None, keep: int) -> list[str]:
    """The plan as lines of text.

    Args:
        seconds_per_step: measured time; None leaves the estimate of the run's time out.
        keep: number of checkpoints kept on disk.
    """
    lines = [
        f"model: {plan.parameters / 1e6:,.1f} M parameters, {plan.trainable / 1e6:,.3f} M of them trained "
        f"({100 * plan.trainable / plan.parameters:.2f}%)",
        f"steps: {plan.steps:,} ({plan.steps_per_epoch:,} an epoch)",
        f"memory: about {_size(plan.memory)} a device: {_size(plan.weights)} weights, {_size(plan.adapter_state)} adapter "
        f"and optimizer, up to {_size(plan.activations)} activations",
        f"disk: {_size(plan.checkpoint * (keep + 1))} for {keep} checkpoints and the best adapter; {_size(plan.disk_free)} free",
    ]
    if seconds_per_step is not None:
        total = seconds_per_step * plan.steps
        lines.append(
            f"time: {seconds_per_step:.2f} s a step, measured on two; about {console.duration(total)} without evaluation"
        )
    return lines


def _size(size: int) -> str:
    if size >= GB:
        return f"{size / GB:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
