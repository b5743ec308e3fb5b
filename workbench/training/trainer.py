"""TRL's `SFTTrainer` with our ids, masks and packs, adapters in fp32, and an evaluation that speaks of specialties."""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import ModelOutput
from trl import SFTTrainer

from workbench import files
from workbench.errors import UserError
from workbench.training.checkpoints import WholeCheckpoints
from workbench.training.examples import Example
from workbench.training.packing import KeepApart, Pack, join, pack, packed

BEST = "best"
LINE_EVERY_S = 15.0


class AnswerTrainer(WholeCheckpoints, SFTTrainer):
    """Trains on the answer's tokens alone, in packs, and evaluates them overall and a specialty.

    A batch of the dataloader is what a process contributes to an optimizer step. It is packed into as few micro-batches
    as the token budget allows; where memory runs out the budget is halved and the step begun again, so that the
    optimizer sees the same examples whatever the machine.

    Args:
        eval_examples: what `evaluate` measures; the rest goes to `SFTTrainer`.
        best_folder: where the adapter with the lowest eval loss so far is kept.
        tokens_per_batch: tokens in a micro-batch; an example that is longer makes one of its own.
    """

    def __init__(self, *, eval_examples: Sequence[Example], best_folder: Path, tokens_per_batch: int, **keywords: Any) -> None:
        super().__init__(data_collator=KeepApart(), **keywords)
        self.eval_examples, self.best_folder, self.tokens_per_batch = list(eval_examples), best_folder, tokens_per_batch
        self.eval_history: list[dict[str, Any]] = []
        adapter_to_fp32(self.model)
        add_answer_loss(base_of(self.model))

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward over the examples of an optimizer step; returns the loss in nats a supervised token."""
        rows = inputs["examples"]
        model.train()
        count = self._across_processes(sum(1 for row in rows for label in row["labels"][1:] if label != -100))
        while True:
            try:
                loss = self._forward_backward(model, rows, max(count, 1))
                break
            except torch.OutOfMemoryError:
                self._halve_budget(rows)
                model.zero_grad(set_to_none=True)
        if not torch.isfinite(loss):
            raise NotFiniteError("loss", self.state.global_step + 1, rows)
        self._total_train_tokens += sum(len(row["input_ids"]) for row in rows)
        return loss

    def _forward_backward(self, model: torch.nn.Module, rows: list[dict[str, Any]], count: int) -> torch.Tensor:
        base = base_of(self.accelerator.unwrap_model(model))
        groups = pack([len(row["input_ids"]) for row in rows], self.tokens_per_batch)
        if self.is_fsdp_enabled:  # every forward pass gathers weights from all processes, so all must take as many
            most = int(self.accelerator.gather(torch.tensor([len(groups)], device=self.accelerator.device)).max())
            groups = pack([len(row["input_ids"]) for row in rows], self.tokens_per_batch, at_least=most)
        total = torch.zeros((), device=self.accelerator.device)
        for number, group in enumerate(groups, start=1):
            joined = to_device(join([rows[index] for index in group]), self.accelerator.device)
            last = number == len(groups)
            # DDP averages gradients over processes, while `count` is that of all of them
            scale = self.accelerator.num_processes / count
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model), packed(base):
                with self.compute_loss_context_manager():
                    loss = model(**joined, answer_loss=True).loss * scale
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _across_processes(self, number: int) -> int:
        if self.accelerator.num_processes == 1:
            return number
        return int(self.accelerator.reduce(torch.tensor(number, device=self.accelerator.device), "sum"))

    def _halve_budget(self, rows: list[dict[str, Any]]) -> None:
        longest = max(len(row["input_ids"]) for row in rows)
        if self.tokens_per_batch <= longest:
            raise UserError(
                f"the GPU's memory does not hold one example of {longest:,} tokens. Lower MAX_SEQ_LENGTH or LORA_RANK, or set "
                "ACTIVATION_CHECKPOINTING=full."
            )
        self.tokens_per_batch = max(longest, self.tokens_per_batch // 2)
        torch.cuda.empty_cache()
        print(f"  memory ran out; micro-batches hold {self.tokens_per_batch:,} tokens from here on", flush=True)

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        if not math.isfinite(float(norm)):
            raise NotFiniteError("gradient", self.state.global_step + 1, [])
        return norm

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return EpochOrder(len(dataset), self.args.seed)

    def train(self, *arguments: Any, **keywords: Any) -> Any:
        assert_fp32_adapter(self.model)
        return super().train(*arguments, **keywords)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Eval loss (nats a token), perplexity and token accuracy; keeps the adapter where the loss is the lowest."""
        measured = measure(self.model, self.eval_examples, self.accelerator, self.tokens_per_batch)
        total = summarise(measured)
        by_specialty = {
            name: summarise([row for row in measured if row["specialty"] == name])
            for name in sorted({row["specialty"] for row in measured})
        }
        entry = {"step": self.state.global_step, "epoch": round(self.state.epoch or 0.0, 4), **total, "specialties": by_specialty}
        self.eval_history = [old for old in self._stored_history() if old["step"] < entry["step"]] + [entry]
        lowest = min(self.eval_history, key=lambda old: (old["loss"], old["step"]))
        if self.accelerator.is_main_process:
            if lowest is entry:
                save_adapter(self.accelerator.unwrap_model(self.model), self.best_folder, entry)
            files.write_json_lines(self._history_file, self.eval_history)
        self.accelerator.wait_for_everyone()
        metrics = {
            "eval_loss": total["loss"],
            "eval_perplexity": total["perplexity"],
            "eval_token_accuracy": total["token_accuracy"],
        }
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def last_evaluated_step(self) -> int:
        return max((int(entry["step"]) for entry in self._stored_history()), default=-1)

    @property
    def _history_file(self) -> Path:
        return self.best_folder.parent / "eval_history.jsonl"

    def _stored_history(self) -> list[dict[str, Any]]:
        """Evaluations before a resume, so that the best adapter is the best of the whole run."""
        return self.eval_history or files.read_json_lines(self._history_file, drop_torn_tail=True)


class NotFiniteError(UserError):
    """A loss or gradient that is not a number: what comes after it would be lost."""

    def __init__(self, what: str, step: int, rows: Sequence[dict[str, Any]]) -> None:
        names = ", ".join(str(row["id"])[:8] for row in rows[:8]) + (" …" if len(rows) > 8 else "")
        super().__init__(
            f"the {what} of step {step} is not finite{f' (records {names})' if names else ''}. Lower LEARNING_RATE, then run "
            "the same command with --fresh; the last good checkpoint and the best adapter so far are kept in OUTPUT_DIR."
        )


class EpochOrder(torch.utils.data.Sampler[int]):
    """A random order of examples that depends on nothing but seed and epoch.

    transformers' own samplers draw from the global generator, which stands elsewhere after a resume: the rest of the
    epoch would then be other examples than the killed run had left.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        return iter(torch.randperm(self.count, generator=generator).tolist())


def to_device(joined: Pack, device: torch.device) -> Pack:
    """A pack on the device; on a GPU the bounds go along as the tensor that flash attention reads."""
    moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in joined.items()}
    if device.type == "cuda":
        moved["cumulative"] = torch.tensor(joined["bounds"], dtype=torch.int32, device=device)
    return moved


def base_of(model: torch.nn.Module) -> torch.nn.Module:
    """The causal language model under an adapter."""
    found: torch.nn.Module = getattr(model, "get_base_model", lambda: model)()
    return found


class FrozenHeadLoss(torch.autograd.Function):
    """Summed cross-entropy under a head that is not trained, without ever holding the logits of all positions.

    The gradient at the hidden states, (softmax - target) times the head's weights, is worked out chunk by chunk in the
    forward pass, so that the backward pass recomputes nothing. (The idea of Liger's fused linear cross-entropy, Hsu et
    al. 2024, in plain torch and without a gradient for the head.)
    """

    CHUNK = 2**27  # logits held at once: 1,024 positions of Llama-3's vocabulary, 0.5 GB in fp32

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """hidden (n, width), weight (vocabulary, width), targets (n,) -> summed loss (), losses (n,), correct (n,)."""
        losses = torch.empty(len(targets), device=hidden.device)
        correct = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
        wants_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wants_gradient else None
        rows = max(1, FrozenHeadLoss.CHUNK // len(weight))
        for start in range(0, len(targets), rows):
            part, wanted = slice(start, start + rows), targets[start : start + rows]
            logits = (hidden[part] @ weight.T).float()
            correct[part] = logits.argmax(-1) == wanted
            highest = logits.logsumexp(-1)
            losses[part] = highest - logits.gather(1, wanted[:, None])[:, 0]
            if gradient is not None:
                probabilities = logits.sub_(highest[:, None]).exp_()
                probabilities[torch.arange(len(wanted), device=hidden.device), wanted] -= 1
                gradient[part] = probabilities.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(losses, correct)
        return losses.sum(), losses, correct

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].to(gradient.dtype), None, None


def add_answer_loss(base: torch.nn.Module) -> None:
    """Give a causal language model `forward(..., answer_loss=True)`: logits at the supervised positions only.

    The prompt's logits, which the loss ignores, cost as much as the answer's; with a large vocabulary they are most of
    the memory. The loss comes as a sum, for the caller to divide by the tokens of the whole step.
    """
    plain = base.forward
    config = base.config
    # heads that do more than multiply (Gemma's soft cap, Granite's and Cohere's scales) go through the model's own code
    odd = any(getattr(config, name, None) for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"))
    simple = not odd and getattr(base, "lm_head", None) is not None and getattr(base.lm_head, "bias", None) is None

    def forward(self: Any, *arguments: Any, answer_loss: bool = False, **inputs: Any) -> Any:
        if not answer_loss:
            return plain(*arguments, **inputs)
        labels = inputs.pop("labels")[:, 1:]
        inputs["use_cache"] = False
        kept = labels != -100
        targets = labels[kept]
        if simple:
            hidden = self.model(**inputs).last_hidden_state[:, :-1][kept]
            weight = self.lm_head.weight
            loss, losses, correct = FrozenHeadLoss.apply(hidden.to(weight.dtype), weight, targets)
            return AnswerOutput(loss, losses, correct, kept)
        logits = plain(**inputs).logits[:, :-1][kept].float()
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return AnswerOutput(losses.sum(), losses, logits.argmax(-1) == targets, kept)

    base.forward = types.MethodType(forward, base)


@dataclass
class AnswerOutput(ModelOutput):
    """loss: () summed; losses and correct: (supervised tokens,) in the order of `kept`, a (batch, length - 1) mask."""

    loss: torch.Tensor | None = None
    losses: torch.Tensor | None = None
    correct: torch.Tensor | None = None
    kept: torch.Tensor | None = None


def adapter_to_fp32(model: torch.nn.Module) -> None:
    """TRL casts the adapters of quantised models to bf16; a resumed run then differs from one that was not stopped."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def assert_fp32_adapter(model: torch.nn.Module) -> None:
    kinds = {p.dtype for p in model.parameters() if p.requires_grad}
    if kinds != {torch.float32}:
        raise RuntimeError(f"adapter weights must be float32 before training, found {kinds}")


def save_adapter(model: Any, folder: Path, entry: dict[str, Any]) -> None:
    """Save the adapter under a temporary name, with the evaluation that it earned, then rename."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    files.remove(temporary)
    model.save_pretrained(str(temporary), safe_serialization=True)
    files.write_json(temporary / "evaluation.json", {k: v for k, v in entry.items() if k != "specialties"})
    files.remove(folder)
    temporary.rename(folder)


@torch.no_grad()
def measure(model: torch.nn.Module, examples: Sequence[Example], accelerator: Any, tokens_per_batch: int) -> list[dict[str, Any]]:
    """Loss in nats, learnt tokens and correct ones of each example; the processes share the work."""
    was_training = model.training
    model.eval()
    inner = accelerator.unwrap_model(model)
    groups = pack([len(example.input_ids) for example in examples], tokens_per_batch)
    mine = []
    for group in groups[accelerator.process_index :: accelerator.num_processes]:
        rows = [examples[i] for i in group]
        joined = join([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
        with accelerator.autocast(), packed(base_of(inner)):
            outputs = inner(**to_device(joined, accelerator.device), answer_loss=True)
        # place p predicts the token at p + 1, which belongs to the example that the bounds say
        ends = torch.tensor(joined["bounds"][1:])
        row_of = torch.bucketize(outputs.kept.nonzero()[:, 1].cpu() + 1, ends, right=True)
        losses, correct = outputs.losses.cpu(), outputs.correct.cpu()
        for place, row in enumerate(rows):
            here = row_of == place
            mine.append({"id": row.id, "specialty": row.specialty, "tokens": int(here.sum()),
                         "nats": float(losses[here].sum()), "correct": int(correct[here].sum())})  # fmt: skip
    if was_training:
        model.train()
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        mine = gather_object(mine)
    return sorted(mine, key=lambda row: row["id"])


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Token-weighted loss, perplexity and accuracy of measured examples."""
    tokens = sum(row["tokens"] for row in rows)
    loss = sum(row["nats"] for row in rows) / tokens
    return {
        "examples": len(rows),
        "tokens": tokens,
        "loss": round(loss, 6),
        "perplexity": round(math.exp(min(loss, 50)), 4),
        "token_accuracy": round(sum(row["correct"] for row in rows) / tokens, 6),
    }


def time_two_steps(trainer: AnswerTrainer) -> float:
    """Seconds an optimizer step takes, from forward and backward of two; changes no state."""
    random_state, tokens = torch.get_rng_state(), trainer._total_train_tokens
    cuda_state = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    model = trainer.accelerator.unwrap_model(trainer.model)
    seconds = []
    for batch in itertools.islice(trainer.get_train_dataloader(), 2):
        started = time.perf_counter()
        trainer.training_step(model, batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        model.zero_grad(set_to_none=True)
    torch.set_rng_state(random_state)
    if cuda_state is not None:
        torch.cuda.set_rng_state(cuda_state)
    trainer._total_train_tokens = tokens
    return min(seconds)


class Progress(TrainerCallback):
    """One bar with loss, rate and time left; a plain line every 15 seconds where there is no terminal."""

    def __init__(self, write: Callable[[str], None] = print) -> None:
        self.write, self.last, self.loss = write, 0.0, math.nan
        self.bar: tqdm[Any] | None = None
        self.started, self.first_step = 0.0, 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.started, self.first_step = time.time(), state.global_step
        if state.is_world_process_zero and sys.stderr.isatty():
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.loss = float(logs["loss"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        if self.bar is not None:
            self.bar.update(1)
            self.bar.set_postfix(loss=f"{self.loss:.3f}", refresh=False)
        elif time.time() - self.last > LINE_EVERY_S and not math.isnan(self.loss):
            self.last = time.time()
            rate = (state.global_step - self.first_step) / max(time.time() - self.started, 1e-9)
            left = (state.max_steps - state.global_step) / max(rate, 1e-9)
            self.write(
                f"  step {state.global_step}/{state.max_steps}, loss {self.loss:.3f}, {rate:.2f} steps/s, {left:.0f} s left"
            )

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        if state.is_world_process_zero:
            text = (
                f"  epoch {state.epoch:.2f}: eval loss {metrics['eval_loss']:.4f}, perplexity "
                f"{metrics['eval_perplexity']:.2f}, token accuracy {metrics['eval_token_accuracy']:.3f}"
            )
            if self.bar is not None:
                self.bar.write(text)
            else:
                self.write(text)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
