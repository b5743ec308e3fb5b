#!/usr/bin/env python3
"""Train a QLoRA adapter on the train split, and keep the one that does best on the eval split.

    python fine_tuning.py --demo                 SmolLM2-135M on the sample data, on any CPU
    python fine_tuning.py                        Meerkat 8B on datasets/, on every GPU of this machine
    python fine_tuning.py --plan                 print what would be trained, with time and memory, and end
    python fine_tuning.py --export FOLDER        merge base and adapter, with a model card
    python fine_tuning.py --compare A B          finished runs side by side

It reads DATASET_DIR, which dataset_preparation.py wrote, and writes OUTPUT_DIR (see results/README.md). If it is stopped, the
same command resumes from the last complete checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from meerkat_workbench.core import artifacts, console, files, settings
from meerkat_workbench.core.console import is_main_process
from meerkat_workbench.core.errors import UserError, run_script
from meerkat_workbench.core.settings import DERIVED, EXECUTION, RESULT, Range
from meerkat_workbench.tuning.artifacts import DatasetManifest, TrainingResult

if TYPE_CHECKING:
    from meerkat_workbench.device.devices import Precision
    from meerkat_workbench.tuning.training.run import TrainingSpec

# --- settings


class TrainingConfig(settings.Settings):
    """Settings of the training. Change a line here, or give KEY=VALUE on the command line."""

    # Base model: a Hub name, a folder, or "smollm2" for the small pretrained model (135 M) that is installed with the workbench.
    MODEL_NAME: Annotated[str, RESULT] = "dmis-lab/llama-3-meerkat-8b-v1.0"
    # "decoder" (Llama, Mistral, Qwen, …) or "encoder-decoder" (T5 and similar; prepare with CHAT_TEMPLATE=plain).
    MODEL_TYPE: Annotated[Literal["decoder", "encoder-decoder"], RESULT] = "decoder"
    # The folder that dataset_preparation.py wrote.
    DATASET_DIR: Annotated[str, DERIVED] = "datasets"
    # Folder for the adapter and everything about it.
    OUTPUT_DIR: Annotated[str, EXECUTION] = "results"
    # Rank of the adapter's matrices. A higher rank learns more, forgets more, and costs little memory.
    LORA_RANK: Annotated[int, Range(1, 1_000_000), RESULT] = 8
    # The adapter's output is scaled by LORA_ALPHA / LORA_RANK.
    LORA_ALPHA: Annotated[int, Range(1, 1_000_000), RESULT] = 16
    # Fraction of the adapter's inputs that training drops. It helps with little data; use 0 for much data.
    LORA_DROPOUT: Annotated[float, Range(0, 0.9), RESULT] = 0.05
    # Linear layers that get an adapter. "all-linear" learns most, for about twice the adapter's memory and time.
    LORA_TARGET_MODULES: Annotated[list[str], RESULT] = ["q_proj", "v_proj"]
    # True loads the base in NF4 (QLoRA), 8B in about 6 GB. False loads it in 16 bits (32 in fp32): 16 GB, and a little faster.
    LOAD_IN_4BIT: Annotated[bool, RESULT] = True
    # Precision of matrix products: bf16, fp16 (GPUs only) or fp32. "auto" takes the one that this device has hardware for.
    COMPUTE_DTYPE: Annotated[Literal["auto", "bf16", "fp16", "fp32"], DERIVED] = "auto"
    # True trains every weight instead of an adapter. It is for small encoder-decoder models, with LOAD_IN_4BIT=False.
    FULL_FINE_TUNING: Annotated[bool, RESULT] = False
    # Passes over the training data. The best weights are kept, so too many passes cost only time.
    NUM_EPOCHS: Annotated[float, Range(0, 1e6, exclude_low=True), RESULT] = 3.0
    # An optimizer step sees BATCH_SIZE x GRADIENT_ACCUMULATION_STEPS x GPUs examples.
    BATCH_SIZE: Annotated[int, Range(1, 1_000_000), DERIVED] = 4
    # Multiplies BATCH_SIZE. It does not change memory use, which MAX_TOKENS_PER_BATCH sets.
    GRADIENT_ACCUMULATION_STEPS: Annotated[int, Range(1, 1_000_000), DERIVED] = 4
    # Token budget of a micro-batch on each device, filled with whole examples without padding. 0 takes as many as fit in memory.
    MAX_TOKENS_PER_BATCH: Annotated[int, Range(0, 10_000_000), EXECUTION] = 0
    # Peak learning rate; 2e-4 is usual for LoRA.
    LEARNING_RATE: Annotated[float, Range(0, 1e6, exclude_low=True), RESULT] = 2e-4
    # Fraction of the run in which the learning rate rises. After it, the rate follows LR_SCHEDULER.
    WARMUP_RATIO: Annotated[float, Range(0, 0.99), RESULT] = 0.03
    # Any learning-rate schedule of transformers: cosine, linear, constant_with_warmup, …
    LR_SCHEDULER: Annotated[str, RESULT] = "cosine"
    # Any optimizer of transformers. paged_adamw_8bit saves memory on a small GPU.
    OPTIMIZER: Annotated[str, RESULT] = "adamw_torch"
    # A gradient with a larger norm is scaled down to this norm.
    MAX_GRAD_NORM: Annotated[float, Range(0, 1e6, exclude_low=True), RESULT] = 1.0
    WEIGHT_DECAY: Annotated[float, RESULT] = 0.0
    # The most tokens of an example, including its prompt. Training prints how many examples are longer.
    MAX_SEQ_LENGTH: Annotated[int, Range(8, 1_000_000), RESULT] = 2048
    # What happens to longer examples: "truncate" cuts the end of the answer, so no stop is learnt; "drop" leaves them out.
    LONG_EXAMPLES: Annotated[Literal["truncate", "drop"], RESULT] = "truncate"
    # What the backward pass recomputes to save memory: "none", "selective" (all but matrix products and attention: a third of
    # the memory), or "full" (whole layers: least memory, a third more time). "auto" recomputes as little as fits in memory.
    ACTIVATION_CHECKPOINTING: Annotated[Literal["auto", "none", "selective", "full"], EXECUTION] = "auto"
    # Optimizer steps between checkpoints. A killed run loses at most this many.
    SAVE_STEPS: Annotated[int, Range(1, 1_000_000), EXECUTION] = 100
    # Number of checkpoints kept on disk.
    KEEP_CHECKPOINTS: Annotated[int, Range(1, 1_000_000), EXECUTION] = 2
    # Optimizer steps between two entries of the training log.
    LOGGING_STEPS: Annotated[int, Range(1, 1_000_000), EXECUTION] = 10
    # Optimizer steps between evaluations; 0 evaluates after each epoch.
    EVAL_STEPS: Annotated[int, Range(0, 1_000_000), RESULT] = 0
    # Eval questions that the model answers at each evaluation, for ROUGE-L and BERTScore in addition to the loss.
    SAMPLE_QUESTIONS: Annotated[int, Range(0, 10_000), DERIVED] = 12
    # The metric on the eval split that decides which weights are kept: loss, token_accuracy, ROUGE-L or bertscore_f1.
    BEST_METRIC: Annotated[Literal["loss", "token_accuracy", "ROUGE-L", "bertscore_f1"], RESULT] = "loss"
    # Evaluations without a new best after which training ends early. 0 turns this off.
    EARLY_STOPPING: Annotated[int, Range(0, 10_000), RESULT] = 0
    # Folder of an adapter to train further, e.g. results/archive/iteration_001. Empty trains a new adapter.
    INIT_ADAPTER: Annotated[str, DERIVED] = ""
    # Other fields of PEFT's LoraConfig, e.g. {use_rslora: true, use_dora: true}.
    LORA_OPTIONS: Annotated[dict[str, object], RESULT] = {}
    # Other fields of TRL's SFTConfig, e.g. {adam_beta2: 0.98, max_steps: 100}.
    TRAINER_OPTIONS: Annotated[dict[str, object], RESULT] = {}
    # Trackers that get the losses in addition to training_log.jsonl: wandb, mlflow, tensorboard, or several.
    REPORT_TO: Annotated[list[str], EXECUTION] = []
    # True is the same as REPORT_TO=wandb. It takes WANDB_API_KEY from the environment; WANDB_MODE=offline needs none.
    USE_WANDB: Annotated[bool, EXECUTION] = False
    # GPUs to use on this machine. None uses all.
    NUM_GPUS: Annotated[int | None, EXECUTION] = None
    # True divides the frozen base among the GPUs (FSDP) instead of copying it to each: slower, with more free memory on each.
    SHARD_BASE: Annotated[bool, EXECUTION] = False
    # For --export: the folder of an evaluation of this adapter, for the model card. None looks in evaluation_results.
    EVALUATION_DIR: Annotated[str | None, EXECUTION] = None
    RANDOM_SEED: Annotated[int, RESULT] = 42


DEMO = {
    "MODEL_NAME": "smollm2",
    "DATASET_DIR": "datasets/demo",
    "OUTPUT_DIR": "results/demo",
    "LORA_RANK": 16,
    "LORA_ALPHA": 32,
    "LORA_TARGET_MODULES": ["all-linear"],
    "LORA_DROPOUT": 0.0,
    "NUM_EPOCHS": 2.0,
    "BATCH_SIZE": 8,
    "GRADIENT_ACCUMULATION_STEPS": 1,
    "LEARNING_RATE": 1e-3,
    "MAX_SEQ_LENGTH": 256,
    "SAMPLE_QUESTIONS": 0,  # the next step, evaluation.py --demo, asks every question
}


def check(config: TrainingConfig) -> None:
    """Raise UserError if settings contradict each other."""
    from meerkat_workbench.tuning.training import start, trainer_options

    full = config.FULL_FINE_TUNING
    if full and (config.MODEL_TYPE == "decoder" or config.LOAD_IN_4BIT):
        remedy = "Set MODEL_TYPE=encoder-decoder and LOAD_IN_4BIT=False, or leave FULL_FINE_TUNING out."
        raise UserError("cannot train decoders or 4-bit weights", where="FULL_FINE_TUNING", remedy=remedy)
    if full and config.SHARD_BASE:
        fault = "divides a frozen base, and FULL_FINE_TUNING freezes nothing"
        raise UserError(fault, where="SHARD_BASE", remedy="Use only one of the two.")
    if full and config.INIT_ADAPTER:
        fault = "names an adapter, and FULL_FINE_TUNING trains without one"
        raise UserError(fault, where="INIT_ADAPTER", remedy="Use only one of the two.")
    if config.BEST_METRIC in ("ROUGE-L", "bertscore_f1") and not config.SAMPLE_QUESTIONS:
        remedy = "Set SAMPLE_QUESTIONS to 50 or more, so that the choice is stable."
        raise UserError("needs sample answers", where=f"BEST_METRIC={config.BEST_METRIC}", remedy=remedy)
    start.check_init_adapter(config.INIT_ADAPTER, Path(config.OUTPUT_DIR))
    trainer_options.check_target_modules(config.LORA_TARGET_MODULES)


def recipe_of(config: TrainingConfig, processes: int, precision: Precision) -> dict[str, object]:
    """Every setting that affects the result, without the folders of data and outputs."""
    recipe = settings.with_effect(config, RESULT)
    # examples per step, however many processes share them, so that a run can be resumed on another number of GPUs
    recipe["global_batch"] = config.BATCH_SIZE * config.GRADIENT_ACCUMULATION_STEPS * processes
    recipe["compute_dtype"] = precision
    if config.BEST_METRIC in ("ROUGE-L", "bertscore_f1"):
        recipe["SAMPLE_QUESTIONS"] = config.SAMPLE_QUESTIONS
    return recipe


def spec_of(config: TrainingConfig) -> TrainingSpec:
    """The settings in the form that the package takes."""
    from meerkat_workbench.tuning.scoring import eval_samples
    from meerkat_workbench.tuning.training import start
    from meerkat_workbench.tuning.training.build import TrainedPart
    from meerkat_workbench.tuning.training.run import TrainingSpec
    from meerkat_workbench.tuning.training.trainer_options import LoraOptions, TrainerOptions

    encoder_decoder, data = config.MODEL_TYPE == "encoder-decoder", Path(config.DATASET_DIR)
    lora = LoraOptions(
        config.LORA_RANK,
        config.LORA_ALPHA,
        config.LORA_DROPOUT,
        config.LORA_TARGET_MODULES,
        config.LORA_OPTIONS,
        encoder_decoder,
    )
    options = TrainerOptions(
        examples_per_step=config.BATCH_SIZE * config.GRADIENT_ACCUMULATION_STEPS, epochs=config.NUM_EPOCHS,
        learning_rate=config.LEARNING_RATE, lr_scheduler=config.LR_SCHEDULER, warmup_ratio=config.WARMUP_RATIO, optimizer=config.OPTIMIZER,
        weight_decay=config.WEIGHT_DECAY, max_grad_norm=config.MAX_GRAD_NORM, eval_steps=config.EVAL_STEPS, save_steps=config.SAVE_STEPS,
        keep_checkpoints=config.KEEP_CHECKPOINTS, logging_steps=config.LOGGING_STEPS, seed=config.RANDOM_SEED,
        trackers=[*config.REPORT_TO, *(["wandb"] if config.USE_WANDB else [])], run_name=Path(config.OUTPUT_DIR).name,
        more=config.TRAINER_OPTIONS, encoder_decoder=encoder_decoder,
    )  # fmt: skip
    return TrainingSpec(
        data=data, base=config.MODEL_NAME, encoder_decoder=encoder_decoder, load_in_4bit=config.LOAD_IN_4BIT, options=options,
        part=TrainedPart(None if config.FULL_FINE_TUNING or config.INIT_ADAPTER else lora,
                         Path(config.INIT_ADAPTER) if config.INIT_ADAPTER else None),
        adapter_shape={name: getattr(config, name) for name in start.ADAPTER_SHAPE},
        max_length=config.MAX_SEQ_LENGTH, long_examples=config.LONG_EXAMPLES, tokens_per_batch=config.MAX_TOKENS_PER_BATCH,
        checkpointing=config.ACTIVATION_CHECKPOINTING, best_metric=config.BEST_METRIC, patience=config.EARLY_STOPPING,
        sampler=eval_samples.sampler(data, config.SAMPLE_QUESTIONS, encoder_decoder=encoder_decoder),
        shard_base=config.SHARD_BASE,
    )  # fmt: skip


# --- the steps


def train(config: TrainingConfig, *, fresh: bool = False, plan_only: bool = False) -> TrainingResult | None:
    """Train an adapter, from the last complete checkpoint if there is one, and keep the best weights.

    Args:
        fresh: set an unfinished run in OUTPUT_DIR aside and start again.
        plan_only: print what would be trained, and return None.

    Returns:
        The result of the run, or of a finished run with the same settings; the adapter and everything about it are in OUTPUT_DIR.
    """
    from meerkat_workbench.core.runs import Run, RunState
    from meerkat_workbench.device import devices
    from meerkat_workbench.tuning.training import run as training
    from meerkat_workbench.tuning.training import start

    check(config)
    spec, output = spec_of(config), Path(config.OUTPUT_DIR)
    ranks = training.join_processes(spec, config.COMPUTE_DTYPE)
    with Run(output, TrainingResult, ranks=ranks, fresh=fresh) as run:
        # 1. Data, base and precision: is this run already finished, or started?
        data, base = DatasetManifest.require(spec.data), start.BaseModel.find(config.MODEL_NAME)
        init_hash = start.adapter_hash(config.INIT_ADAPTER)

        def fingerprint(precision: Precision) -> str:
            recipe = recipe_of(config, ranks.count, precision)
            return files.sha256_of([recipe, data.fingerprint, artifacts.to_json(data.splits), base.weights, init_hash])

        own = devices.resolve_precision("auto", encoder_decoder=spec.encoder_decoder)
        precision = devices.run_precision(run, config.COMPUTE_DTYPE, fingerprint, own=own)
        if not plan_only and run.find(fingerprint(precision), precision) is RunState.FINISHED:
            if ranks.is_main:
                print(f"{output}: up to date")
            return run.finished()

        # 2. Plan, and run every check that can fail before the folder is changed
        planned = training.plan(spec, run, data, base, precision)
        if plan_only:
            return None

        # 3. Train, from the last complete checkpoint
        run.claim()
        training.resume_and_train(run, planned)

        # 4. Keep the best weights. A run that started from an adapter had more epochs, so its recipe differs from a new adapter's
        recipe = files.sha256_of([recipe_of(config, ranks.count, precision), bool(config.INIT_ADAPTER)])[:12]
        return training.finish(run, planned, config, recipe)


# --- on the command line


def main() -> None:
    config, arguments = settings.load(
        TrainingConfig, None, __doc__ or "", DEMO,
        {
            "--plan": {"action": "store_true", "help": "print what would be trained, with time and memory, and end"},
            "--export": {"type": settings.path, "metavar": "FOLDER", "help": "merge the adapter in OUTPUT_DIR into its base"},
            "--compare": {"nargs": "+", "type": settings.path, "metavar": "FOLDER", "help": "print finished runs side by side"},
            "--push": {"metavar": "OWNER/NAME", "help": "with --export: upload the model to the Hub (needs HF_TOKEN)"},
        },
        exclusive=("--plan", "--export", "--compare"),
    )  # fmt: skip
    check(config)
    output = Path(config.OUTPUT_DIR)
    if arguments.export is not None:
        with console.working("loading libraries"):
            from meerkat_workbench.tuning.commands import export

        evaluation = config.EVALUATION_DIR or ("evaluation_results/demo" if arguments.demo else "evaluation_results")
        export.run(export.ExportRequest(output, Path(config.DATASET_DIR), Path(evaluation), arguments.export, arguments.push or "",
                                        config.COMPUTE_DTYPE))  # fmt: skip
        return
    if arguments.push:
        raise UserError("uploads an exported model, and --export is missing", where="--push", remedy="Add --export FOLDER.")
    if not arguments.compare:
        DatasetManifest.require(Path(config.DATASET_DIR))  # checked before the libraries are loaded
    with console.working("loading libraries"):
        from meerkat_workbench.device import distributed
        from meerkat_workbench.tuning.training import results
    if arguments.compare:
        results.print_comparison(arguments.compare)
        return
    distributed.launch_on_all_gpus(config.NUM_GPUS)
    result = train(config, fresh=arguments.fresh, plan_only=arguments.plan)
    if result is not None and is_main_process():
        results.print_report(output, result)
        names = {"DATASET_DIR": "DATASET_DIR", "OUTPUT_DIR": "FINETUNED_MODEL_PATH"}
        print(f"next: {settings.next_command('evaluation.py', config, DEMO, names, with_demo=arguments.demo)}")


if __name__ == "__main__":
    run_script(main)
