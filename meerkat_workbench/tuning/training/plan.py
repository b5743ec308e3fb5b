"""What a training run will cost: steps, memory, disk; printed before the first step."""

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
ADAM_BYTES = 16  # an fp32 weight, its gradient and Adam's two moments
CHECKPOINT_BYTES = 12  # weight and two moments on disk
EFFICIENT_TOKENS = 8192  # tokens in a micro-batch from which unpacking 4-bit weights costs 3%
MAX_TOKENS = 16384
LOGIT_POSITIONS = 1024  # positions whose logits are held at once, with a vocabulary like Llama-3's


Checkpointing = Literal["auto", "none", "selective", "full"]  # values of ACTIVATION_CHECKPOINTING


@dataclass
class TrainingPlan:
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


@dataclass(frozen=True)
class MicroBatches:
    """How a step is cut: tokens in a micro-batch, what is kept for the backward pass, and the bytes that takes."""

    tokens: int
    checkpointing: str
    activations: int


def activation_bytes(config: Any, checkpointing: str, number: int) -> int:
    """Bytes a token that wait for the backward pass, by a count of the tensors a layer keeps, of `number` bytes an element.

    Counted on Llama under QLoRA: "none" keeps inputs and outputs of both norms, the projections, the rotated queries
    and keys and four tensors of the feed-forward width; "selective" the outputs of matrix products and of attention;
    "full" a layer's input. (After Korthikanti et al. 2022, whose count is of another architecture.)
    """
    width, layers = config.hidden_size, config.num_hidden_layers
    heads = getattr(config, "num_attention_heads", 1)
    keys = width * (getattr(config, "num_key_value_heads", None) or heads) // heads
    wide = getattr(config, "intermediate_size", None) or 4 * width
    products = number * (3 * width + 2 * keys + 2 * wide + width)
    everything = products + number * (12 * width + 2 * keys + 2 * wide)
    a_layer = {"none": everything, "selective": products + number * width, "full": number * width}[checkpointing]
    # whatever is recomputed is recomputed a layer at a time
    return layers * a_layer + (0 if checkpointing == "none" else everything)


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
    """The fastest way to cut a step that the memory holds.

    Args:
        step_tokens: tokens a process has in an average step; more in a micro-batch would stand empty.
        longest: tokens of the longest example, the least a micro-batch must hold.
        tokens: a budget that is asked for, or 0 to choose one.
        checkpointing: "none", "selective", "full", or "auto" to choose.
        free: bytes for activations; None where memory is no limit (CPU).

    The 4-bit weights are unpacked once a micro-batch whatever its size (48% overhead at 512 tokens, 3% at 8k), so fewer
    and larger ones win until recomputation costs more: the least recomputation with which `EFFICIENT_TOKENS` tokens fit is taken.
    """
    modes = [checkpointing] if checkpointing != "auto" else ["none", "selective", "full"]
    number = devices.BYTES[precision]
    # logits as they are computed, their fp32 copy, and its gradient
    head = (number + 8) * min(max(step_tokens, longest), LOGIT_POSITIONS) * config.vocab_size
    wanted = tokens or max(longest, min(MAX_TOKENS, step_tokens + longest))
    for mode in modes:
        a_token = activation_bytes(config, mode, number)
        fits = wanted if free is None else min(wanted, max(0, free - head) // a_token)
        if fits >= min(wanted, max(longest, EFFICIENT_TOKENS)) or mode == modes[-1]:
            chosen = tokens or max(longest, fits)
            return MicroBatches(chosen, mode, a_token * min(chosen, max(step_tokens, longest)) + head)
    raise AssertionError("the last mode is always taken")


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
    """Work out a run from the loaded model; `examples_per_step` is what one process contributes to a step.

    `max_steps` ends it earlier where it is above 0.
    """
    # no example is left out: the last, smaller step of an epoch is one of its own
    steps_per_epoch = math.ceil(examples / (processes * examples_per_step))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    existing = next(p for p in (output, *output.resolve().parents) if p.exists())
    return TrainingPlan(
        steps=max_steps if max_steps > 0 else math.ceil(steps_per_epoch * epochs),
        steps_per_epoch=steps_per_epoch,
        trainable=trainable,
        parameters=_parameters(model),
        weights=sum(local.numel() * local.element_size() for local in map(_own_part, model.parameters())),
        adapter_state=trainable * ADAM_BYTES,
        activations=activations,
        checkpoint=trainable * CHECKPOINT_BYTES,
        disk_free=shutil.disk_usage(existing).free,
    )


def _parameters(model: Any) -> int:
    """Parameters as the model's architecture counts them: packed 4-bit weights hold several in one element."""
    sizes = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            packed = name == "weight" and hasattr(module, "quant_state")
            # by identity: a head that shares the embeddings' weights has none of its own
            sizes[id(parameter)] = module.in_features * module.out_features if packed else parameter.numel()
    return sum(sizes.values())


def _own_part(parameter: torch.Tensor) -> torch.Tensor:
    """What this process holds of a parameter, which is less than all where the base is sharded."""
    own: torch.Tensor = getattr(parameter, "to_local", lambda: parameter)()
    return own


def plan_lines(plan: TrainingPlan, *, seconds_per_step: float | None, keep: int) -> list[str]:
    """The plan in words."""
    text = [
        f"model: {plan.parameters / 1e6:,.1f} M parameters, {plan.trainable / 1e6:,.3f} M of them trained "
        f"({100 * plan.trainable / plan.parameters:.2f}%)",
        f"steps: {plan.steps:,} ({plan.steps_per_epoch:,} an epoch)",
        f"memory: about {_size(plan.memory)} a device: {_size(plan.weights)} weights, {_size(plan.adapter_state)} adapter "
        f"and optimizer, up to {_size(plan.activations)} activations",
        f"disk: {_size(plan.checkpoint * (keep + 1))} for {keep} checkpoints and the best adapter; {_size(plan.disk_free)} free",
    ]
    if seconds_per_step is not None:
        whole = seconds_per_step * plan.steps
        text.append(f"time: {seconds_per_step:.2f} s a step, measured on two; about {console.duration(whole)} without evaluation")
    return text


def _size(count: int) -> str:
    if count >= GB:
        return f"{count / GB:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.2f} MB"
