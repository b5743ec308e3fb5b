"""An optimizer step cut into micro-batches by a budget of tokens, not by a count of examples."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Sequence
from typing import Any

import torch

from workbench import console, devices
from workbench.errors import UserError
from workbench.training.keeping import KeepsBest, NotFiniteError

Row = dict[str, Any]


class CutsSteps(KeepsBest):
    """Mixin: a batch of the dataloader is what a process contributes to an optimizer step, cut as memory allows.

    The loss of a micro-batch is summed and divided by the supervised tokens of the whole step, over all processes, so
    that the optimizer sees the same gradient whatever the cut. Where memory runs out the budget is halved and the step
    begun again. A trainer that uses it states `supervised`, `length`, `cut`, `summed_loss` and `token_losses`.
    """

    tokens_per_batch: int

    def supervised(self, row: Row) -> int:
        """Tokens of an example that the loss counts."""
        raise NotImplementedError

    def length(self, row: Row) -> int:
        """Tokens of an example that the budget counts."""
        raise NotImplementedError

    def cut(self, rows: Sequence[Row]) -> list[list[Row]]:
        """The examples in groups, each a micro-batch."""
        raise NotImplementedError

    def summed_loss(self, model: torch.nn.Module, rows: Sequence[Row]) -> torch.Tensor:
        """Nats over the supervised tokens of a micro-batch, (), with its gradient."""
        raise NotImplementedError

    def token_losses(self, model: torch.nn.Module, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Nats and correctness of each learnt token of a micro-batch, and the row each belongs to, all (learnt tokens,)."""
        raise NotImplementedError

    @torch.no_grad()
    def measure_examples(self) -> list[dict[str, Any]]:
        """Loss in nats, learnt tokens and correct ones of each eval example; the processes share the work."""
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        # examples are shared out before they are cut: budgets may differ from device to device
        own = sorted(self.eval_examples, key=lambda example: example.id)
        own = own[self.accelerator.process_index :: self.accelerator.num_processes]
        rows = [{"id": e.id, "specialty": e.specialty, "input_ids": e.input_ids, "labels": e.labels} for e in own]
        measured = []
        with console.Progress("eval loss", len(rows), "examples") as progress:
            for group, counts in self._passes(rows):
                with self.accelerator.autocast(), self.around_a_pass():
                    losses, correct, row_of = (tensor.cpu() for tensor in self.token_losses(model, group))
                if not counts:
                    continue
                for place, row in enumerate(group):
                    here = row_of == place
                    measured.append({"id": row["id"], "specialty": row["specialty"], "tokens": int(here.sum()),
                                     "nats": float(losses[here].sum()), "correct": int(correct[here].sum())})  # fmt: skip
                progress.advance(len(group))
        if was_training:
            model.train()
        if self.accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            measured = gather_object(measured)
        return sorted(measured, key=lambda row: str(row["id"]))

    def _wrap_model(self, model: torch.nn.Module, *arguments: Any, **keywords: Any) -> torch.nn.Module:
        """With a sharded base, DDP here: accelerate refuses DDP on GPUs for any model that holds a divided tensor."""
        if not self.in_lockstep or isinstance(model, torch.nn.parallel.DistributedDataParallel):
            wrapped: torch.nn.Module = super()._wrap_model(model, *arguments, **keywords)
            return wrapped
        in_mixed_precision = self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
        return torch.nn.parallel.DistributedDataParallel(in_mixed_precision)

    def around_a_pass(self) -> Any:
        """A context for forward and backward of a micro-batch."""
        return contextlib.nullcontext()

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward over the examples of an optimizer step; returns the loss in nats a supervised token."""
        rows = inputs["examples"]
        model.train()
        count = max(1, self._across_processes(sum(map(self.supervised, rows))))
        while True:
            try:
                loss = self._forward_backward(model, rows, count)
                break
            except torch.OutOfMemoryError:
                self._halve_budget(rows)
                model.zero_grad(set_to_none=True)
        if not torch.isfinite(loss):
            raise NotFiniteError("loss", self.state.global_step + 1, rows)
        return loss

    def _forward_backward(self, model: torch.nn.Module, rows: list[Row], count: int) -> torch.Tensor:
        passes = self._passes(rows)
        total = torch.zeros((), device=self.accelerator.device)
        for number, (group, counts) in enumerate(passes, start=1):
            last = number == len(passes)
            # DDP averages gradients over processes, while `count` is that of all of them
            scale = self.accelerator.num_processes / count if counts else 0.0
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model), self.around_a_pass():
                with self.compute_loss_context_manager():
                    loss = self.summed_loss(model, group) * scale
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _passes(self, rows: Sequence[Row]) -> list[tuple[list[Row], bool]]:
        """Micro-batches, and whether they count; those that do not keep this process beside others that have more."""
        groups = self.cut(rows)
        wanted = len(groups)
        if self.in_lockstep:
            wanted = int(self.accelerator.gather(torch.tensor([wanted], device=self.accelerator.device)).max())
        # DDP waits for all, so a process that has no example in an epoch's last step makes one pass as well
        idle = max(1, wanted) - len(groups)
        return [(group, True) for group in groups] + [([self.train_dataset[0]], False) for _ in range(idle)]

    def _across_processes(self, number: int) -> int:
        if self.accelerator.num_processes == 1:
            return number
        return int(self.accelerator.reduce(torch.tensor(number, device=self.accelerator.device), "sum"))

    def _halve_budget(self, rows: list[Row]) -> None:
        if self.accelerator.num_processes > 1:  # DDP cannot begin a step again that others have begun with it
            raise UserError(
                f"a GPU's memory ran out at {self.tokens_per_batch:,} tokens a micro-batch. Run the same command with "
                f"MAX_TOKENS_PER_BATCH={self.tokens_per_batch // 2}; it goes on from the last checkpoint."
            )
        longest = max(map(self.length, rows))
        if self.tokens_per_batch <= longest:
            raise UserError(
                f"the GPU's memory does not hold one example of {longest:,} tokens. Lower MAX_SEQ_LENGTH or LORA_RANK, or set "
                "ACTIVATION_CHECKPOINTING=full."
            )
        self.tokens_per_batch = max(longest, self.tokens_per_batch // 2)
        devices.free_memory()
        print(f"  memory ran out; micro-batches hold {self.tokens_per_batch:,} tokens from here on", flush=True)


def time_two_steps(trainer: CutsSteps) -> float:
    """Seconds an optimizer step takes, from forward and backward of two; changes no state."""
    random_state, tokens = torch.get_rng_state(), getattr(trainer, "_total_train_tokens", 0)
    cuda_state = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    model = trainer.accelerator.unwrap_model(trainer.model)
    seconds = []
    with console.working("timing two steps"):
        for batch in itertools.islice(trainer.get_train_dataloader(), 2):
            started = time.perf_counter()
            trainer.training_step(model, batch)
            devices.synchronize()
            seconds.append(time.perf_counter() - started)
            model.zero_grad(set_to_none=True)
    torch.set_rng_state(random_state)
    if cuda_state is not None:
        torch.cuda.set_rng_state(cuda_state)
    trainer._total_train_tokens = tokens
    return min(seconds)
