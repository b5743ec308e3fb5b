"""Optimizer steps that are divided into micro-batches by a budget of tokens, not by a number of examples.

`TokenBudgetTrainer` is a layer between a task's trainer class and the library's. A `StepLoss` computes the loss of one kind of
model: any loss that is a sum over examples which can be divided among micro-batches (with in-batch negatives it cannot).

The way of one optimizer step:
1. `batch_sampler.step_loader` gives this process's examples of the step.
2. `TokenBudgetTrainer.training_step` sums their tokens over all processes, and halves the budget if memory runs out.
3. `_forward_backward` divides them into micro-batches, and adds up the gradients of each.
4. `StepLoss.summed` is the loss of a micro-batch; for a chat model `tuning/training/answer_trainer.py: DecoderLoss`, which packs the
   examples (`packing.py`) and calls the model's forward that `add_answer_loss` put in place.
5. The library clips the gradient (`_clip_grad_norm` checks it) and calls the optimizer.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

from meerkat_workbench.core import console
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device import devices
from meerkat_workbench.trainers.batch_sampler import EXAMPLES, step_loader
from meerkat_workbench.trainers.best_checkpoint import BestCheckpoint
from meerkat_workbench.trainers.checkpointed import CheckpointedTrainer

MIN_LOSS_SCALE = 1.0  # of an fp16 loss: if a gradient overflows at this scale, the scale is not the cause


class LossExample(Protocol):
    """An example as the trainer sees it."""

    @property
    def id(self) -> str: ...


X = TypeVar("X", bound=LossExample)


@dataclass(frozen=True)
class TokenLosses:
    """Losses of a micro-batch, token by token. All tensors are (supervised tokens,).

    Attributes:
        nats: loss of each token.
        correct: whether the model finds this token the most likely.
        example: index of the token's example.
    """

    nats: torch.Tensor
    correct: torch.Tensor
    example: torch.Tensor


class StepLoss(Protocol[X]):
    """The loss of examples under one kind of model."""

    def supervised(self, example: X) -> int:
        """Number of tokens of an example that the loss counts."""

    def length(self, example: X) -> int:
        """Number of tokens of an example that the budget counts."""

    def micro_batches(self, examples: Sequence[X], budget: int) -> list[list[X]]:
        """The examples in groups of at most `budget` tokens each. A longer example is a group of its own."""

    def summed(self, model: torch.nn.Module, examples: Sequence[X]) -> torch.Tensor:
        """Sum of the loss over the supervised tokens of a micro-batch in nats, a scalar () with its gradient."""

    def token_losses(self, model: torch.nn.Module, examples: Sequence[X]) -> TokenLosses:
        """Losses of each supervised token of a micro-batch."""

    def context(self, model: torch.nn.Module) -> contextlib.AbstractContextManager[Any]:
        """A context for the forward and backward pass of a micro-batch."""


class NotFiniteError(UserError):
    """A loss or gradient is not finite, so every later step would be lost."""

    def __init__(self, what: str, step: int, examples: Sequence[LossExample] = ()) -> None:
        names = ", ".join(str(example.id)[:8] for example in examples[:8]) + (" …" if len(examples) > 8 else "")
        super().__init__(
            "is not finite",
            where=f"{what} of step {step}",
            item=names,
            remedy="Lower LEARNING_RATE, then run the same command with --fresh. The last good checkpoint and the best weights so far "
            "are kept in OUTPUT_DIR.",
        )


class TokenBudgetTrainer(CheckpointedTrainer, Generic[X]):
    """Mixin for a class of a Hugging Face trainer: steps cut by tokens, atomic checkpoints, best weights, resumable order.

    A batch of the data loader is what this process contributes to an optimizer step. The loss of a micro-batch is summed and divided
    by the supervised tokens of the whole step, over all processes, so that the gradient is the same however the step is divided. If
    memory runs out, the budget is halved and the step is repeated. `configure` must be called after construction.
    """

    examples: Sequence[X]
    step_loss: StepLoss[X]
    tokens_per_batch: int
    skipped_steps = 0  # of this process since it started
    lockstep = False  # with a sharded base each pass gathers weights, so all processes must make the same number of passes

    def configure(
        self, *, examples: Sequence[X], step_loss: StepLoss[X], best: BestCheckpoint[Any], tokens_per_batch: int
    ) -> None:
        """Give the trainer its parts.

        Args:
            examples: the training set. It replaces the dataset that the library's trainer was built with.
            tokens_per_batch: most tokens of a micro-batch. A longer example is a micro-batch of its own.
        """
        self.examples, self.step_loss, self.tokens_per_batch = examples, step_loss, tokens_per_batch
        self.train_dataset = examples
        self.keep_best(best)

    # --- one optimizer step

    def training_step(self, model: torch.nn.Module, inputs: dict[str, list[X]], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward over this process's examples of a step; returns the loss in nats per supervised token."""
        examples = inputs[EXAMPLES]
        model.train()
        self.count_tokens(sum(map(self.step_loss.length, examples)))
        supervised = max(1, self._sum_over_processes(sum(map(self.step_loss.supervised, examples))))
        longest = max(map(self.step_loss.length, examples), default=0)

        def attempt(budget: int) -> torch.Tensor:
            self.tokens_per_batch = budget
            return self._forward_backward(model, examples, supervised)

        def halved(budget: int) -> None:
            model.zero_grad(set_to_none=True)
            print(f"  memory ran out; micro-batches hold {budget:,} tokens from here on", flush=True)

        loss = devices.halve_on_oom(self.tokens_per_batch, attempt, minimum=longest, halved=halved, failed=self._out_of_memory)
        if not torch.isfinite(loss):
            raise NotFiniteError("loss", self.state.global_step + 1, examples)
        return loss

    def _forward_backward(self, model: torch.nn.Module, examples: Sequence[X], supervised: int) -> torch.Tensor:
        passes = self.passes(examples)
        total = torch.zeros((), device=self.accelerator.device)
        for number, (group, counts) in enumerate(passes, start=1):
            last = number == len(passes)
            # DDP averages gradients over processes, while `supervised` is the sum over all of them
            scale = self.accelerator.num_processes / supervised if counts else 0.0
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model), self._loss_context():
                with self.compute_loss_context_manager():
                    loss = self.step_loss.summed(model, group) * scale
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def passes(self, examples: Sequence[X]) -> list[tuple[list[X], bool]]:
        """(micro-batch, counts) pairs; padding passes keep ranks with fewer micro-batches in lockstep."""
        groups = self.step_loss.micro_batches(examples, self.tokens_per_batch)
        wanted = len(groups)
        if self.lockstep:
            wanted = int(self.accelerator.gather(torch.tensor([wanted], device=self.accelerator.device)).max())
        # DDP waits for all, so a process that has no example in an epoch's last step makes one pass as well
        padding = max(1, wanted) - len(groups)
        return [(group, True) for group in groups] + [([self.examples[0]], False) for _ in range(padding)]

    def _loss_context(self) -> contextlib.AbstractContextManager[Any]:
        return self.step_loss.context(self.accelerator.unwrap_model(self.model))

    def _sum_over_processes(self, number: int) -> int:
        if self.accelerator.num_processes == 1:
            return number
        return int(self.accelerator.reduce(torch.tensor(number, device=self.accelerator.device), "sum"))

    def _out_of_memory(self, budget: int, longest: int) -> None:
        """Raise UserError if the step must not, or cannot, be divided further."""
        if self.accelerator.num_processes > 1:  # DDP cannot repeat a step that other processes have started too
            raise UserError(
                f"a GPU's memory ran out at {budget:,} tokens a micro-batch",
                where="MAX_TOKENS_PER_BATCH",
                remedy=f"Run the same command with MAX_TOKENS_PER_BATCH={budget // 2}; it resumes from the last checkpoint.",
            )
        if budget <= longest:
            raise UserError(
                f"the GPU's memory does not hold one example of {longest:,} tokens",
                where="MAX_SEQ_LENGTH",
                remedy="Lower MAX_SEQ_LENGTH, train fewer weights, or set ACTIVATION_CHECKPOINTING=full.",
            )

    def count_tokens(self, tokens: int) -> None:
        """Called with the number of tokens of each step; trainers that log it override this."""

    # --- the order of examples

    def get_train_dataloader(self) -> Any:
        """A data loader whose batches are this process's examples of an optimizer step."""
        return step_loader(
            self.examples, self.args.per_device_train_batch_size, self.args.seed, self.accelerator.process_index,
            self.accelerator.num_processes,
        )  # fmt: skip

    # --- gradients

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        # the scale of an fp16 loss starts too high: steps whose gradients overflow are skipped, and the scale is halved
        scaler = getattr(self.accelerator, "scaler", None)
        if not math.isfinite(float(norm)):
            if scaler is None or scaler.get_scale() <= MIN_LOSS_SCALE:
                raise NotFiniteError("gradient", self.state.global_step + 1)
            self.skipped_steps += 1
        return norm

    def check_not_all_skipped(self) -> None:
        """UserError if every step of an fp16 run was skipped because its gradients overflowed; prints how many if some were."""
        if not self.skipped_steps:
            return
        if self.skipped_steps >= self.state.global_step:
            raise UserError(
                f"all {self.skipped_steps} steps were skipped because their gradients overflow in fp16, so nothing was learnt",
                where="COMPUTE_DTYPE",
                remedy="Run the same command with --fresh and COMPUTE_DTYPE=fp32, or with more steps.",
            )
        if self.accelerator.is_main_process:
            print(f"  {self.skipped_steps} steps were skipped while the scale of the fp16 loss was found", flush=True)

    def train(self, *arguments: Any, **keywords: Any) -> Any:
        _sync_trained_only(self.model)
        return super().train(*arguments, **keywords)

    def _wrap_model(self, model: torch.nn.Module, *arguments: Any, **keywords: Any) -> torch.nn.Module:
        """With a sharded base, wrap in DDP here: accelerate refuses DDP on GPUs for any model that holds a sharded tensor."""
        if not self.lockstep or isinstance(model, torch.nn.parallel.DistributedDataParallel):
            wrapped: torch.nn.Module = super()._wrap_model(model, *arguments, **keywords)
            return wrapped
        in_mixed_precision = self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
        return torch.nn.parallel.DistributedDataParallel(in_mixed_precision)

    # --- evaluations

    def token_losses(self, examples: Sequence[X]) -> Iterator[tuple[list[X], TokenLosses]]:
        """Losses of examples under the present weights, micro-batch by micro-batch; call it without gradients."""
        model = self.accelerator.unwrap_model(self.model)
        for group, counts in self.passes(examples):
            with self.accelerator.autocast(), self._loss_context():
                losses = self.step_loss.token_losses(model, group)
            if counts:
                yield group, TokenLosses(losses.nats.cpu(), losses.correct.cpu(), losses.example.cpu())


def _sync_trained_only(model: torch.nn.Module) -> None:
    """Make DDP ignore weights that are not trained, because every process has read them from the same files.

    DDP would otherwise send the first process's weights to all others at the start (6 GB for 8B in 4 bits), and buffers at each step.
    """
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        model, [*frozen, *(name for name, _ in model.named_buffers())]
    )


def time_two_steps(trainer: TokenBudgetTrainer[Any]) -> float:
    """Seconds that an optimizer step takes: the faster of two, forward and backward. Changes no state."""
    random_state, cuda_state = torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    model = trainer.accelerator.unwrap_model(trainer.model)
    seconds, total = [], 0
    with console.working("timing two steps"):
        for batch in itertools.islice(trainer.get_train_dataloader(), 2):
            started = time.perf_counter()
            trainer.training_step(model, batch)
            devices.synchronize()
            seconds.append(time.perf_counter() - started)
            total += sum(map(trainer.step_loss.length, batch[EXAMPLES]))
            model.zero_grad(set_to_none=True)
    torch.set_rng_state(random_state)
    if cuda_state is not None:
        torch.cuda.set_rng_state(cuda_state)
    trainer.count_tokens(-total)
    return min(seconds)
