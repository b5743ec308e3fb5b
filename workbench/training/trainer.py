"""TRL's `SFTTrainer` with our ids and masks, adapters in fp32, and an evaluation that speaks of specialties."""

from __future__ import annotations

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
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.utils import ModelOutput
from trl import SFTTrainer

from workbench import files
from workbench.training.examples import Example, PadToLongest

BEST = "best"
LINE_EVERY_S = 15.0


class AnswerTrainer(SFTTrainer):
    """Trains on the answer's tokens alone and evaluates them overall and a specialty.

    Args:
        eval_examples: what `evaluate` measures; the rest goes to `SFTTrainer`.
        best_folder: where the adapter with the lowest eval loss so far is kept.
    """

    def __init__(self, *, eval_examples: Sequence[Example], best_folder: Path, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.eval_examples, self.best_folder = list(eval_examples), best_folder
        self.eval_history: list[dict[str, Any]] = []
        adapter_to_fp32(self.model)
        add_answer_loss(base_of(self.model))

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Summed loss of the answers' tokens over the count of such tokens in the whole optimizer step."""
        outputs = model(**inputs, answer_loss=True)
        count = num_items_in_batch if num_items_in_batch is not None else (inputs["labels"] != -100).sum()
        loss = outputs.loss / torch.as_tensor(count, device=outputs.loss.device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # the count is that of all processes, while DDP averages their gradients
            loss = loss * self.accelerator.num_processes
        if self.model.training:
            self._total_train_tokens += int(inputs["attention_mask"].sum())
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        group = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return EpochOrder([len(row) for row in dataset["input_ids"]], group, self.args.seed)

    def train(self, *arguments: Any, **keywords: Any) -> Any:
        assert_fp32_adapter(self.model)
        return super().train(*arguments, **keywords)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Eval loss (nats a token), perplexity and token accuracy; keeps the adapter where the loss is the lowest."""
        measured = measure(self.model, self.eval_examples, self.accelerator, self.data_collator, self.args.eval_batch_size)
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


class EpochOrder(torch.utils.data.Sampler[int]):
    """Examples of like length together, in an order that depends on nothing but seed and epoch.

    transformers' own sampler draws from the global generator, which stands elsewhere after a resume: the rest of the
    epoch would then be other examples than the killed run had left.
    """

    def __init__(self, lengths: Sequence[int], group: int, seed: int) -> None:
        self.lengths, self.group, self.seed, self.epoch = list(lengths), group, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.group, generator=generator))


def base_of(model: torch.nn.Module) -> torch.nn.Module:
    """The causal language model under an adapter."""
    found: torch.nn.Module = getattr(model, "get_base_model", lambda: model)()
    return found


def add_answer_loss(base: torch.nn.Module) -> None:
    """Give a causal language model `forward(..., answer_loss=True)`: logits at the supervised positions only.

    The prompt's logits, which the loss ignores, cost as much as the answer's; with a large vocabulary they are most of
    the memory. The loss comes as a sum, for the caller to divide by the tokens of the whole step.
    """
    plain = base.forward

    def forward(self: Any, *arguments: Any, answer_loss: bool = False, **inputs: Any) -> Any:
        if not answer_loss:
            return plain(*arguments, **inputs)
        labels = inputs.pop("labels")[:, 1:]
        inputs["use_cache"] = False
        hidden = self.model(**inputs).last_hidden_state[:, :-1]
        kept = labels != -100
        logits, targets = self.lm_head(hidden[kept]).float(), labels[kept]
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
def measure(
    model: torch.nn.Module, examples: Sequence[Example], accelerator: Any, collate: PadToLongest, batch_size: int
) -> list[dict[str, Any]]:
    """Loss in nats, learnt tokens and correct ones of each example; the processes share the work."""
    was_training = model.training
    model.eval()
    inner = accelerator.unwrap_model(model)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    mine = []
    for batch in batches[accelerator.process_index :: accelerator.num_processes]:
        rows = [examples[i] for i in batch]
        tensors = collate([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
        with accelerator.autocast():
            outputs = inner(**{name: tensor.to(accelerator.device) for name, tensor in tensors.items()}, answer_loss=True)
        row_of = outputs.kept.nonzero()[:, 0]
        for place, row in enumerate(rows):
            here = row_of == place
            mine.append({"id": row.id, "specialty": row.specialty, "tokens": int(here.sum()),
                         "nats": float(outputs.losses[here].sum()), "correct": int(outputs.correct[here].sum())})  # fmt: skip
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
    """Seconds an optimizer step takes, from forward and backward over two of its micro-batches; changes no state."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    random_state = torch.get_rng_state()
    batches = iter(trainer.get_train_dataloader())
    model.train()
    seconds = []
    for _ in range(2):
        batch = next(batches, None)
        if batch is None:
            break
        batch = {name: tensor.to(trainer.accelerator.device) for name, tensor in batch.items()}
        started = time.perf_counter()
        with trainer.accelerator.autocast():
            loss = model(**batch, answer_loss=True).loss
        loss.backward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    model.zero_grad(set_to_none=True)
    torch.set_rng_state(random_state)
    return min(seconds) * trainer.args.gradient_accumulation_steps


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
