"""What every trainer here shares: evaluation by specialty, the best so far kept, a random order that survives a kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from workbench import console, files
from workbench.errors import UserError
from workbench.models import keep_4bit_order
from workbench.training.checkpoints import WholeCheckpoints

BEST = "best"
LOGGED = ("loss", "perplexity", "token_accuracy", "ROUGE-L", "bertscore_f1")
LEAST_SCALE = 1.0  # of an fp16 loss: a gradient that overflows without being scaled up is no matter of scaling


class KeepsBest(WholeCheckpoints):
    """Mixin: an evaluation overall and a specialty, of which the best keeps its weights.

    A trainer that uses it states `measure_examples`, and calls `follow` once it is built.
    """

    eval_examples: Sequence[Any]
    skipped_steps = 0  # of this process since it began
    in_lockstep = False  # with a sharded base each pass gathers weights, so all processes must make equally many

    def follow(
        self,
        *,
        eval_examples: Sequence[Any],
        best_folder: Path,
        best_metric: str = "loss",
        patience: int = 0,
        examine: Callable[[Any], dict[str, Any]] | None = None,
    ) -> None:
        """
        Args:
            eval_examples: what `evaluate` measures.
            best_folder: where the weights of the best evaluation so far are kept.
            best_metric: the measure by which an evaluation is the best.
            patience: evaluations without a new best after which training ends; 0 for never.
            examine: called with the model at each evaluation, in one process or in lockstep in all; what it returns joins it.
        """
        self.eval_examples, self.best_folder = list(eval_examples), best_folder
        self.best_metric, self.patience, self.examine = best_metric, patience, examine
        self.eval_history: list[dict[str, Any]] = []
        keep_4bit_order(self.model)
        self.add_callback(EvaluateWhatWasMissed(self))

    def measure_examples(self) -> list[dict[str, Any]]:
        """id, specialty, nats, learnt tokens and correct ones of each eval example."""
        raise NotImplementedError

    def get_train_dataloader(self) -> Any:
        """A batch is what this process has of an optimizer step."""
        shares = StepShares(
            len(self.train_dataset),
            self.args.per_device_train_batch_size,
            self.args.seed,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        loader = torch.utils.data.DataLoader(self.train_dataset, batch_sampler=shares, collate_fn=self.data_collator)
        # the processes' shares are dealt out already, and accelerate would deal them out again
        return prepare_data_loader(loader, num_processes=1, process_index=0)

    def train(self, *arguments: Any, **keywords: Any) -> Any:
        sync_trained_only(self.model)
        return super().train(*arguments, **keywords)

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        # under fp16 the scale of the loss begins too high: gradients that overflow are skipped, and the scale is halved
        scaler = getattr(self.accelerator, "scaler", None)
        if not math.isfinite(float(norm)):
            if scaler is None or scaler.get_scale() <= LEAST_SCALE:
                raise NotFiniteError("gradient", self.state.global_step + 1, [])
            self.skipped_steps += 1
        return norm

    def check_learnt(self) -> None:
        """UserError where every step of an fp16 run was skipped, as its gradients overflowed; a line where some were."""
        if not self.skipped_steps:
            return
        if self.skipped_steps >= self.state.global_step:
            raise UserError(
                f"all {self.skipped_steps} steps were skipped, as their gradients overflow in fp16: nothing was learnt. Run the same command "
                "with --fresh COMPUTE_DTYPE=fp32, or for more steps."
            )
        if self.accelerator.is_main_process:
            print(f"  {self.skipped_steps} steps were skipped while the scale of the fp16 loss was found", flush=True)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Eval loss (nats a token), perplexity and token accuracy; keeps the adapter where it is the best so far."""
        measured = self.measure_examples()
        total = summarise(measured)
        if not math.isfinite(total["loss"]):
            raise NotFiniteError("eval loss", self.state.global_step, [])
        by_specialty = {
            name: summarise([row for row in measured if row["specialty"] == name])
            for name in sorted({row["specialty"] for row in measured})
        }
        entry = {"step": self.state.global_step, "epoch": round(self.state.epoch or 0.0, 4), **total, **self._examined()}
        entry["specialties"] = by_specialty
        self.eval_history = [old for old in self._stored_history() if old["step"] < entry["step"]] + [entry]
        best = self.best_evaluation()
        if self.accelerator.is_main_process:
            if best is entry:
                save_best(self.accelerator.unwrap_model(self.model), self.best_folder, entry)
            files.write_json_lines(self._history_file, self.eval_history)
        self.accelerator.wait_for_everyone()
        metrics = {f"eval_{name}": value for name, value in entry.items() if name in LOGGED}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        since = sum(old["step"] > best["step"] for old in self.eval_history)
        if self.patience and since >= self.patience:
            self.control.should_training_stop = True
            if self.accelerator.is_main_process:
                print(f"  no better {self.best_metric} in {since} evaluations, so training ends here", flush=True)
        return metrics

    def best_evaluation(self) -> dict[str, Any]:
        """The first evaluation with the best value so far."""
        sign = 1 if self.best_metric == "loss" else -1
        found: dict[str, Any] = min(self.eval_history, key=lambda old: (sign * old[self.best_metric], old["step"]))
        return found

    def _examined(self) -> dict[str, Any]:
        """What `examine` finds, made by one process, or by all in lockstep, and known to all."""
        if self.examine is None:
            return {}
        found: list[Any] = [None]
        if self.accelerator.is_main_process or self.in_lockstep:
            model = self.accelerator.unwrap_model(self.model)
            was_training = model.training
            model.eval()
            found = [self.examine(model)]
            if was_training:
                model.train()
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(found)
        result: dict[str, Any] = found[0]
        return result

    def last_evaluated_step(self) -> int:
        return max((int(entry["step"]) for entry in self._stored_history()), default=-1)

    @property
    def _history_file(self) -> Path:
        return self.best_folder.parent / "eval_history.jsonl"

    def _stored_history(self) -> list[dict[str, Any]]:
        """Evaluations before a resume, so that the best adapter is the best of the whole run."""
        return self.eval_history or files.read_json_lines(self._history_file, drop_torn_tail=True)


class EvaluateWhatWasMissed(TrainerCallback):
    """A run that ended between a checkpoint and the evaluation due after it makes up for that when it goes on."""

    def __init__(self, trainer: KeepsBest) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        every = args.eval_steps if args.eval_strategy == "steps" else len(self.trainer.get_train_dataloader())
        due = state.global_step and state.global_step % int(every or 1) == 0
        if due and self.trainer.last_evaluated_step() < state.global_step:
            self.trainer.evaluate()


class NotFiniteError(UserError):
    """A loss or gradient that is not a number: what comes after it would be lost."""

    def __init__(self, what: str, step: int, rows: Sequence[dict[str, Any]]) -> None:
        names = ", ".join(str(row["id"])[:8] for row in rows[:8]) + (" …" if len(rows) > 8 else "")
        super().__init__(
            f"the {what} of step {step} is not finite{f' (records {names})' if names else ''}. Lower LEARNING_RATE, then run "
            "the same command with --fresh; the last good checkpoint and the best adapter so far are kept in OUTPUT_DIR."
        )


class StepShares(torch.utils.data.Sampler[list[int]]):
    """Indices of the examples that a process has of each optimizer step, in a random order of seed and epoch alone.

    transformers' own samplers draw from the global generator, which stands elsewhere after a resume: the rest of the
    epoch would then be other examples than the killed run had left. And where the last step of an epoch is small,
    accelerate fills it with examples that the epoch had before; here a process gets fewer, or none.
    """

    def __init__(self, count: int, examples: int, seed: int, process: int, processes: int) -> None:
        """
        Args:
            count: examples of the whole training set.
            examples: of a step, for each process.
        """
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


def sync_trained_only(model: torch.nn.Module) -> None:
    """Let DDP leave alone what is not trained: every process has read it from the same files.

    It would otherwise send the first process's weights to all others at the start, for 8B 6 GB, and buffers each step.
    """
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        model, [*frozen, *(name for name, _ in model.named_buffers())]
    )


def adapter_to_fp32(model: torch.nn.Module) -> None:
    """TRL casts the adapters of quantised models to bf16; a resumed run then differs from one that was not stopped."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def assert_fp32_adapter(model: torch.nn.Module) -> None:
    kinds = {p.dtype for p in model.parameters() if p.requires_grad}
    if kinds != {torch.float32}:
        raise RuntimeError(f"adapter weights must be float32 before training, found {kinds}")


def save_best(model: Any, folder: Path, entry: dict[str, Any]) -> None:
    """Save an adapter, or a whole model, under a temporary name, with the evaluation that it earned, then rename."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    files.remove(temporary)
    model.save_pretrained(str(temporary), safe_serialization=True)
    files.write_json(temporary / "evaluation.json", {k: v for k, v in entry.items() if k not in ("specialties", "answers")})
    files.remove(folder)
    temporary.rename(folder)


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


class Progress(TrainerCallback):
    """Steps done, loss, rate and time left while a model is trained; see `console.Progress`."""

    def __init__(self) -> None:
        self.steps: console.Progress | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.steps = console.Progress("training", state.max_steps, "steps", done=state.global_step)
        self.steps.__enter__()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if self.steps is not None and logs and "loss" in logs:
            self.steps.note = f"loss {float(logs['loss']):.3f}"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.steps is not None:
            self.steps.advance()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        text = (
            f"  epoch {state.epoch or 0:.2f}: eval loss {metrics['eval_loss']:.4f}, perplexity "
            f"{metrics['eval_perplexity']:.2f}, token accuracy {metrics['eval_token_accuracy']:.3f}"
        )
        if "eval_ROUGE-L" in metrics:
            text += f", sample ROUGE-L {metrics['eval_ROUGE-L']:.3f}, BERTScore {metrics['eval_bertscore_f1']:.3f}"
        if self.steps is not None:
            self.steps.say(text)
        elif state.is_world_process_zero:
            print(text, flush=True)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.steps is not None:
            self.steps.__exit__(None, None, None)
