"""A training run in three steps: plan it, train from the last checkpoint, write the result."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meerkat_workbench.core import console, files, runs
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import Run
from meerkat_workbench.core.settings import Settings
from meerkat_workbench.device import devices, distributed, hub
from meerkat_workbench.device.devices import ComputeDtype, Precision
from meerkat_workbench.device.distributed import Processes
from meerkat_workbench.device.tracking import Tracking
from meerkat_workbench.trainers import checkpointed
from meerkat_workbench.trainers.token_budget import TokenBudgetTrainer, time_two_steps
from meerkat_workbench.tuning import llm, model_folders
from meerkat_workbench.tuning.artifacts import DatasetManifest, TrainingInputs, TrainingOutputs, TrainingResult
from meerkat_workbench.tuning.training import build, load_examples, results, start
from meerkat_workbench.tuning.training import plan as plans
from meerkat_workbench.tuning.training.build import TrainedPart
from meerkat_workbench.tuning.training.eval_loss import BestMetric, LossEvaluator, SampleScores
from meerkat_workbench.tuning.training.examples import Example, LongExamples
from meerkat_workbench.tuning.training.load_examples import TrainingExamples
from meerkat_workbench.tuning.training.plan import Checkpointing, MicroBatches
from meerkat_workbench.tuning.training.start import BaseModel
from meerkat_workbench.tuning.training.trainer_options import TrainerOptions

Sampler = Callable[[Any], SampleScores]  # from a model to its scores on a few eval questions


@dataclass(frozen=True)
class TrainingSpec:
    """What is trained, on what, and how.

    Attributes:
        data: the prepared folder.
        base: the base model, as the settings name it.
        part: a new adapter, an existing adapter, or the whole model.
        adapter_shape: the settings that must be the same for an existing adapter.
        sampler: makes, for a tokenizer, the function that scores sample answers at each evaluation; None for no sample answers.
        patience: evaluations without a new best after which training ends; 0 for no early end.
    """

    data: Path
    base: str
    encoder_decoder: bool
    load_in_4bit: bool
    part: TrainedPart
    adapter_shape: Mapping[str, object]
    options: TrainerOptions
    max_length: int
    long_examples: LongExamples
    tokens_per_batch: int
    checkpointing: Checkpointing
    best_metric: BestMetric
    sampler: Callable[[Any], Sampler] | None
    patience: int
    shard_base: bool


@dataclass(frozen=True)
class PlannedTraining:
    """A trainer that is ready to train, and what was found before its first step."""

    trainer: TokenBudgetTrainer[Example]
    tokenizer: Any
    examples: TrainingExamples
    inputs: TrainingInputs
    data: DatasetManifest
    trainable: int
    seconds_per_step: float
    audit: list[str]
    tracking: Tracking


def join_processes(spec: TrainingSpec, compute_dtype: ComputeDtype) -> Processes:
    """Join the processes of the run, on a machine that can train this base.

    Raises:
        UserError: no device can train the base, the launcher asks for accelerate's FSDP, or SHARD_BASE is set for one process.
    """
    hub.silence_libraries()
    llm.require_device_for(spec.base, load_in_4bit=spec.load_in_4bit, precision=devices.resolve_precision(compute_dtype))
    ranks = distributed.join()
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true"):
        remedy = "Use launch/ddp.yaml with SHARD_BASE=True, which shards the base."
        raise UserError("the launcher asks for accelerate's FSDP", where="ACCELERATE_USE_FSDP", remedy=remedy)
    if spec.shard_base and ranks.count == 1:
        fault = "divides the base among several GPUs, and this run has one process"
        raise UserError(fault, where="SHARD_BASE", remedy="Leave it out.")
    if ranks.is_local_main:
        devices.announce()
        llm.locate(spec.base)  # converts the packaged model at first use, in one process
    ranks.wait()
    return ranks


# --- 1. the plan


def plan(
    spec: TrainingSpec, run: Run[TrainingResult], data: DatasetManifest, base: BaseModel, precision: Precision
) -> PlannedTraining:
    """Run every check that can fail, load model and examples, and print what will be trained, with time and memory."""
    tags = {"commit": (runs.git_state().commit or "none")[:12], "dataset": data.fingerprint[:12],
            "holdout": data.splits.holdout[:12], "iteration": str(data.iteration)}  # fmt: skip
    tracking = Tracking(spec.options.trackers, run.folder, tags)
    tracking.set_environment()
    base.check_type(encoder_decoder=spec.encoder_decoder)
    if spec.part.adapter_folder:
        start.check_adapter_fits(spec.part.adapter_folder, base, spec.adapter_shape)
    trained_on = run.ranks.agree(lambda: start.check_leaks(spec.data, base, spec.part.adapter_folder))
    tokenizer = llm.load_tokenizer(base.location)
    examples = load_examples.load_examples(
        spec.data, tokenizer, spec.base, encoder_decoder=spec.encoder_decoder, max_length=spec.max_length,
        long_examples=spec.long_examples,
    )  # fmt: skip
    load_examples.check_vocabulary(base.location, examples)
    trainer, micro_batches = _load_trainer(spec, run.folder, base, tokenizer, examples, precision)
    planned = plans.make_plan(
        trainer.model, examples=len(examples.train), epochs=spec.options.epochs, max_steps=spec.options.max_steps,
        examples_per_step=spec.options.examples_per_step, processes=run.ranks.count, activations=micro_batches.activations,
        output=run.folder,
    )  # fmt: skip
    seconds = time_two_steps(trainer)
    audit = [
        *examples.audit,
        f"micro-batches: up to {trainer.tokens_per_batch:,} tokens, recomputing {micro_batches.checkpointing}",
        *plans.plan_lines(planned, seconds_per_step=seconds, keep=spec.options.keep_checkpoints),
    ]
    if run.ranks.is_main:
        if "wandb" in tracking.names:
            print("Weights & Biases is on: settings and losses leave this machine, unless WANDB_MODE=offline.")
        computing = devices.describe_precision(precision)
        print(f"{spec.base} on {devices.describe()}, {run.ranks.count} process(es), computing in {computing}")
        print("\n".join(audit), flush=True)
    inputs = TrainingInputs(data.fingerprint, data.splits, trained_on, base.weights)
    return PlannedTraining(trainer, tokenizer, examples, inputs, data, planned.trainable, seconds, audit, tracking)


def _load_trainer(
    spec: TrainingSpec, output: Path, base: BaseModel, tokenizer: Any, examples: TrainingExamples, precision: Precision
) -> tuple[TokenBudgetTrainer[Example], MicroBatches]:
    """Load the model and build a trainer that is ready to train, with its micro-batches."""
    full = spec.part.new_adapter is None and spec.part.adapter_folder is None
    with console.working(f"loading {spec.base}"):
        model = llm.load_base(base.location, load_in_4bit=spec.load_in_4bit, precision=precision, full_precision=full,
                              shardable=spec.shard_base)  # fmt: skip
    micro_batches = build.choose_micro_batches(
        model, examples, spec.options, tokens=spec.tokens_per_batch, checkpointing=spec.checkpointing, shard_base=spec.shard_base,
        precision=precision,
    )  # fmt: skip
    evaluator = LossEvaluator(examples.eval, spec.best_metric, spec.sampler(tokenizer) if spec.sampler else None)
    trainer = build.build_trainer(
        model, tokenizer, examples, spec.part, spec.options, micro_batches, evaluator, output=output, patience=spec.patience,
        shard_base=spec.shard_base, precision=precision,
    )  # fmt: skip
    return trainer, micro_batches


# --- 2. the training


def resume_and_train(run: Run[TrainingResult], planned: PlannedTraining) -> None:
    """Train from the last complete checkpoint to the end.

    Raises:
        SystemExit: a signal stopped training after the current step, with a checkpoint.
    """
    checkpointed.resume_and_train(run, planned.trainer, run.folder / build.CHECKPOINTS, planned.tracking.write_tags)


# --- 3. the result


def finish(run: Run[TrainingResult], planned: PlannedTraining, config: Settings, recipe: str) -> TrainingResult:
    """Write the best weights, tables and plots into the output folder, and finish the run. Every process gets the result.

    Args:
        config: the settings, for the manifest.
        recipe: hash of what the result depends on besides data and base; equal for comparable iterations.
    """
    return run.ranks.agree(lambda: _finish(run, planned, config, recipe))


def _finish(run: Run[TrainingResult], planned: PlannedTraining, config: Settings, recipe: str) -> TrainingResult:
    trainer = planned.trainer
    trainer.check_not_all_skipped()
    history = results.write_best(run.folder, trainer, planned.tokenizer)
    tokens = sum(len(example.input_ids) for example in planned.examples.train)
    result = run.manifest(
        config, iteration=planned.data.iteration, device=devices.describe(), processes=run.ranks.count, inputs=planned.inputs,
        outputs=TrainingOutputs(files.sha256_file(model_folders.weights_file(run.folder))), kept=trainer.best.read_best().brief(),
        before=history[0].brief(), tokens=round(tokens * (trainer.state.epoch or 0)), recipe=recipe,
    )  # fmt: skip
    results.write_config(
        run.folder, result, audit=planned.audit, trainable=planned.trainable, seconds_per_step=planned.seconds_per_step
    )
    run.finish(result)
    results.remove_working_files(run.folder)
    return result
