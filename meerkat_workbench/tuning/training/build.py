"""Builds a trainer from a loaded model and examples: micro-batches, adapter, loss, evaluator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meerkat_workbench.core.errors import UserError, one_line
from meerkat_workbench.device.devices import Precision
from meerkat_workbench.trainers.best_checkpoint import BestCheckpoint
from meerkat_workbench.trainers.progress import ProgressCallback
from meerkat_workbench.trainers.token_budget import TokenBudgetTrainer
from meerkat_workbench.tuning import llm
from meerkat_workbench.tuning.artifacts import EvalPoint
from meerkat_workbench.tuning.training import activation_checkpointing, packing, plan, sharding, trainer_options
from meerkat_workbench.tuning.training.eval_loss import LossEvaluator, describe_evaluation
from meerkat_workbench.tuning.training.examples import Example
from meerkat_workbench.tuning.training.load_examples import TrainingExamples
from meerkat_workbench.tuning.training.plan import Checkpointing, MicroBatches
from meerkat_workbench.tuning.training.trainer_options import LoraOptions, TrainerOptions

CHECKPOINTS = "checkpoints"
# of the free memory; the rest is for the optimizer, fragments and what the estimate misses. If memory still runs out, the
# micro-batch is halved
USABLE_MEMORY_FRACTION = 0.9


@dataclass(frozen=True)
class TrainedPart:
    """What is trained: a new adapter of this shape, an adapter in a folder, or the whole model (both None)."""

    new_adapter: LoraOptions | None
    adapter_folder: Path | None = None


def choose_micro_batches(
    model: Any, examples: TrainingExamples, options: TrainerOptions, *, tokens: int, checkpointing: Checkpointing,
    shard_base: bool, precision: Precision,
) -> MicroBatches:  # fmt: skip
    """Choose micro-batches for this model, these examples and the memory of this device.

    Args:
        tokens: MAX_TOKENS_PER_BATCH; 0 chooses what memory holds.
    """
    import torch

    lengths = examples.lengths(both_sides=options.encoder_decoder)
    free = None
    if torch.cuda.is_available():
        free = int(USABLE_MEMORY_FRACTION * torch.cuda.mem_get_info()[0])
        if shard_base:  # each process has loaded the whole base and will keep a part of it
            free += int(USABLE_MEMORY_FRACTION * sharding.bytes_freed(model, torch.distributed.get_world_size()))
    return plan.choose_micro_batches(
        model.config,
        step_tokens=round(sum(lengths) / len(lengths) * options.examples_per_step),
        longest=max(lengths),
        tokens=tokens,
        checkpointing="none" if free is None and checkpointing == "auto" else checkpointing,
        free=free,
        precision=precision,
    )


def build_trainer(
    model: Any, tokenizer: Any, examples: TrainingExamples, part: TrainedPart, options: TrainerOptions, micro_batches: MicroBatches,
    evaluator: LossEvaluator, *, output: Path, patience: int, shard_base: bool, precision: Precision,
) -> TokenBudgetTrainer[Example]:  # fmt: skip
    """Build a trainer that is ready to train.

    Args:
        output: the run's output folder.
        patience: evaluations without a new best after which training ends; 0 for no early end.
    """
    packing.check_attention(model.config, max(len(example.input_ids) for example in examples.train))
    arguments = trainer_options.trainer_arguments(options, checkpoints=output / CHECKPOINTS, precision=precision)
    trainer = _library_trainer(model, tokenizer, part, arguments, encoder_decoder=options.encoder_decoder)
    llm.disable_4bit_reordering(trainer.model)
    # set here and not in the trainer's arguments, because the plan is measured before training begins, and because the function
    # that keeps the outputs of matrix products cannot be stored with a checkpoint
    if micro_batches.checkpointing != "none":
        keywords = activation_checkpointing.options(micro_batches.checkpointing)
        trainer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=keywords)
    if shard_base:
        sharding.shard_base(trainer.model, trainer.accelerator.device)
        trainer.lockstep = True
    trainer.configure(
        examples=examples.train,
        step_loss=_step_loss(trainer, tokenizer, encoder_decoder=options.encoder_decoder),
        best=BestCheckpoint(evaluator, output, output / EvalPoint.FILE, patience=patience),
        tokens_per_batch=micro_batches.tokens,
    )
    return trainer


def _library_trainer(
    model: Any, tokenizer: Any, part: TrainedPart, arguments: Any, *, encoder_decoder: bool
) -> TokenBudgetTrainer[Example]:
    """The trainer, an instance of the library's class, with the adapter on the model."""
    from datasets import Dataset
    from peft import get_peft_model
    from transformers.trainer_callback import PrinterCallback

    # the libraries require a dataset at construction; `configure` passes the examples
    placeholder = Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})
    common: dict[str, Any] = {
        "args": arguments, "train_dataset": placeholder, "eval_dataset": placeholder, "processing_class": tokenizer,
        "callbacks": [ProgressCallback(describe_evaluation)], "data_collator": list,
    }  # fmt: skip
    trainer: TokenBudgetTrainer[Example]
    try:
        adapter = trainer_options.lora_config(part.new_adapter) if part.new_adapter else None
        if part.adapter_folder:
            model = llm.load_adapter(model, part.adapter_folder, trainable=True)
        if encoder_decoder:
            from meerkat_workbench.tuning.training.seq2seq_trainer import Seq2SeqAnswerTrainer

            trainer = Seq2SeqAnswerTrainer(model=get_peft_model(model, adapter) if adapter else model, **common)
        else:
            from meerkat_workbench.tuning.training.answer_trainer import AnswerTrainer

            trainer = AnswerTrainer(model=model, peft_config=adapter, **common)
    except ValueError as error:
        if part.new_adapter is None or "target modules" not in str(error).lower():
            raise
        where = f"LORA_TARGET_MODULES={','.join(part.new_adapter.target_modules)}"
        raise UserError(one_line(error), where=where, remedy="Name layers of this model, or all-linear.") from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def _step_loss(trainer: TokenBudgetTrainer[Example], tokenizer: Any, *, encoder_decoder: bool) -> Any:
    if encoder_decoder:
        from meerkat_workbench.tuning.training.seq2seq_trainer import Seq2SeqLoss

        return Seq2SeqLoss(trainer.accelerator.device, tokenizer.pad_token_id)
    from meerkat_workbench.tuning.training.answer_trainer import DecoderLoss

    return DecoderLoss(trainer.accelerator.device)
