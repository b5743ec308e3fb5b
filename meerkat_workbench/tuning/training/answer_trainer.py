"""Trains decoders with TRL's `SFTTrainer`: the loss counts only the answer's tokens, in packs, with adapters in fp32."""

from __future__ import annotations

import types
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers.utils import ModelOutput
from trl import SFTTrainer

from meerkat_workbench.trainers.token_budget import TokenBudgetTrainer, TokenLosses
from meerkat_workbench.tuning.llm import base_model
from meerkat_workbench.tuning.training.examples import Example
from meerkat_workbench.tuning.training.packing import Pack, collate_pack, pack, packed


class DecoderLoss:
    """The loss of a decoder on packs of whole examples (see `trainers.token_budget.StepLoss`)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def supervised(self, example: Example) -> int:
        return sum(label != -100 for label in example.labels[1:])

    def length(self, example: Example) -> int:
        return len(example.input_ids)

    def micro_batches(self, examples: Sequence[Example], budget: int) -> list[list[Example]]:
        groups = pack([self.length(example) for example in examples], budget)
        return [[examples[index] for index in group] for group in groups]

    def context(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        return packed(base_model(model))

    def summed(self, model: torch.nn.Module, examples: Sequence[Example]) -> torch.Tensor:
        loss: torch.Tensor = model(**collate_pack(examples).inputs(self.device), answer_loss=True).loss
        return loss

    def token_losses(self, model: torch.nn.Module, examples: Sequence[Example]) -> TokenLosses:
        collated: Pack = collate_pack(examples)
        outputs = model(**collated.inputs(self.device), answer_loss=True)
        # position p predicts the token at p + 1; the bounds show which example that token belongs to
        ends = torch.tensor(collated.bounds[1:])
        example_indices = torch.bucketize(outputs.kept.nonzero()[:, 1].cpu() + 1, ends, right=True)
        return TokenLosses(outputs.losses, outputs.correct, example_indices)


class AnswerTrainer(TokenBudgetTrainer[Example], SFTTrainer):
    """Trains a decoder on the answer's tokens only, in packs of whole examples."""

    def __init__(self, *, model: Any, **keywords: Any) -> None:
        # TRL rounds an existing adapter to bf16; a resumed run would then differ from one that was not stopped
        adapter_weights = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad and "lora_" in name
        }
        super().__init__(model=model, **keywords)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        for name, parameter in self.model.named_parameters():
            if name in adapter_weights:
                parameter.data.copy_(adapter_weights[name])
        add_answer_loss(base_model(self.model))

    def count_tokens(self, tokens: int) -> None:
        self._total_train_tokens += tokens  # TRL logs them

    def train(self, *arguments: Any, **keywords: Any) -> Any:
        dtypes = {parameter.dtype for parameter in self.model.parameters() if parameter.requires_grad}
        if dtypes != {torch.float32}:
            raise RuntimeError(f"adapter weights must be float32 before training, found {dtypes}")
        return super().train(*arguments, **keywords)


class FrozenHeadLoss(torch.autograd.Function):
    """Summed cross-entropy under a head that is not trained, without holding the logits of all positions at once.

    The gradient of the hidden states, (softmax - target) times the head's weights, is computed chunk by chunk in the forward
    pass, so the backward pass recomputes nothing. (The idea of Liger's fused linear cross-entropy, Hsu et al. 2024, in plain torch
    and without a gradient for the head.)
    """

    # logits held at once. On a GPU: 0.5 GB in fp32, 1,024 positions with Llama-3's vocabulary. On a CPU: what its cache holds
    CHUNK: ClassVar = {"cuda": 2**27, "mps": 2**25, "cpu": 2**22}

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """hidden (n, width), weight (vocabulary, width), targets (n,) -> summed loss (), losses (n,), correct (n,)."""
        losses = torch.empty(len(targets), device=hidden.device)
        correct = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        rows = max(1, FrozenHeadLoss.CHUNK[hidden.device.type] // len(weight))
        for start in range(0, len(targets), rows):
            chunk, wanted = slice(start, start + rows), targets[start : start + rows, None]
            logits = (hidden[chunk] @ weight.T).float()
            highest, best = logits.max(-1, keepdim=True)
            wanted_logits = logits.gather(1, wanted)
            # in place: on a CPU a copy of the logits costs as much as the product that makes them
            sums = logits.sub_(highest).exp_().sum(-1, keepdim=True)
            losses[chunk] = (sums.log() + highest - wanted_logits)[:, 0]
            correct[chunk] = (best == wanted)[:, 0]
            if gradient is not None:
                logits.div_(sums).scatter_add_(1, wanted, torch.full_like(sums, -1))
                gradient[chunk] = logits.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(losses, correct)
        return losses.sum(), losses, correct

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        # in fp32: the scale of an fp16 loss may exceed what fp16 can hold
        return (gradient.float() * gradients[0].float()).to(gradient.dtype), None, None


def add_answer_loss(base: Any) -> None:
    """Give a causal language model `forward(..., answer_loss=True)`: logits at the supervised positions only.

    The prompt's logits, which the loss ignores, cost as much as the answer's; with a large vocabulary they take most of the
    memory. The loss is a sum, which the caller divides by the supervised tokens of the whole step.
    """
    usual_forward = base.forward
    config = base.config
    # a head that does more than multiply (Gemma's soft cap, Granite's and Cohere's scales) runs in the model's own code
    changes_logits = any(getattr(config, name, None) for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"))
    head = getattr(base, "lm_head", None)
    # an adapter's layer on the head also has a weight, but does more than multiply by it, so the type must be exact
    is_plain_linear = type(head) is torch.nn.Linear and getattr(head, "bias", None) is None
    use_frozen_head = not changes_logits and is_plain_linear and hasattr(base, "model")

    def forward(self: Any, *arguments: Any, answer_loss: bool = False, **inputs: Any) -> Any:
        if not answer_loss:
            return usual_forward(*arguments, **inputs)
        labels = inputs.pop("labels")[:, 1:]
        inputs["use_cache"] = False
        kept = labels != -100
        targets = labels[kept]
        if use_frozen_head:
            hidden = self.model(**inputs).last_hidden_state[:, :-1][kept]
            weight = self.lm_head.weight
            loss, losses, correct = FrozenHeadLoss.apply(hidden.to(weight.dtype), weight, targets)
            return AnswerOutput(loss, losses, correct, kept)
        logits = usual_forward(**inputs).logits[:, :-1][kept].float()
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return AnswerOutput(losses.sum(), losses, logits.argmax(-1) == targets, kept)

    base.forward = types.MethodType(forward, base)


@dataclass
class AnswerOutput(ModelOutput):
    """Losses of the supervised tokens.

    Attributes:
        loss: their sum, ().
        losses: loss of each, (supervised tokens,).
        correct: whether each is the model's most likely token, (supervised tokens,).
        kept: mask of the positions that predict them, (batch, length - 1).
    """

    loss: torch.Tensor | None = None
    losses: torch.Tensor | None = None
    correct: torch.Tensor | None = None
    kept: torch.Tensor | None = None
