#!/usr/bin/env python3
"""Train a QLoRA adapter on the train split, and keep the one that does best on the eval split.

    python fine_tuning.py --demo                 the embedded model on the sample data, on any CPU
    python fine_tuning.py                        Meerkat 8B on datasets/, on every GPU of this machine
    python fine_tuning.py --plan                 what would be trained, time and memory, then end

Reads DATASET_DIR, as dataset_preparation.py wrote it; writes OUTPUT_DIR, see results/README.md. Killed and run
again, it goes on from its last whole checkpoint.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from workbench import files, manifest, settings
from workbench.errors import UserError, run_script


class TrainingConfig(settings.Settings):
    """Settings of the training. Change a line, or give KEY=VALUE on the command line."""

    # Base model: a Hub name, a folder, or "embedded" for the small model that runs anywhere.
    MODEL_NAME: str = "dmis-lab/llama-3-meerkat-8b-v1.0"
    # What dataset_preparation.py wrote.
    DATASET_DIR: str = "datasets"
    # Where the adapter and everything about it goes.
    OUTPUT_DIR: str = "results"
    # Rank of the adapter's matrices: more learns more, forgets more and costs little memory.
    LORA_RANK: int = 8
    # The adapter's output is scaled by LORA_ALPHA / LORA_RANK.
    LORA_ALPHA: int = 16
    # Share of the adapter's inputs dropped in training; helps small data, 0 for large.
    LORA_DROPOUT: float = 0.05
    # Which linear layers get an adapter. "all-linear" learns most, at about twice the adapter's memory and time.
    LORA_TARGET_MODULES: list[str] = ["q_proj", "v_proj"]
    # True: the base in NF4 (QLoRA), 8B in about 6 GB. False: in bf16, 16 GB and a little faster.
    LOAD_IN_4BIT: bool = True
    # Passes over the training data. The best epoch is kept, so one too many costs time only.
    NUM_EPOCHS: float = 3.0
    # The optimizer sees BATCH_SIZE x GRADIENT_ACCUMULATION_STEPS x GPUs examples a step. How many of them pass through
    # a device at once depends on MAX_TOKENS_PER_BATCH alone, so the two only multiply.
    BATCH_SIZE: int = 4
    GRADIENT_ACCUMULATION_STEPS: int = 4
    # Tokens that pass through a device at once, whole examples packed without padding; 0 chooses what memory holds.
    MAX_TOKENS_PER_BATCH: int = 0
    # Peak learning rate; 2e-4 is usual for LoRA.
    LEARNING_RATE: float = 2e-4
    # First part of the run over which the learning rate rises; it then falls as LR_SCHEDULER says.
    WARMUP_RATIO: float = 0.03
    # Any schedule of transformers: cosine, linear, constant_with_warmup, …
    LR_SCHEDULER: str = "cosine"
    # Any optimizer of transformers; paged_adamw_8bit saves memory on a small GPU.
    OPTIMIZER: str = "adamw_torch"
    # Gradients longer than this are scaled down.
    MAX_GRAD_NORM: float = 1.0
    WEIGHT_DECAY: float = 0.0
    # Tokens an example may have, prompt included. The audit says how many are longer.
    MAX_SEQ_LENGTH: int = 2048
    # What becomes of longer ones: "truncate" (the answer's end is cut and no stop is learnt) or "drop".
    LONG_EXAMPLES: str = "truncate"
    # What the backward pass recomputes to save memory: "none", "selective" (all but matrix products and attention, a
    # third of the memory), "full" (a layer at a time, least memory, a third more time), or "auto" for what fits.
    ACTIVATION_CHECKPOINTING: str = "auto"
    # Optimizer steps between checkpoints; a kill loses at most this many.
    SAVE_STEPS: int = 100
    # Checkpoints kept on disk.
    KEEP_CHECKPOINTS: int = 2
    # Optimizer steps between two entries of the training log.
    LOGGING_STEPS: int = 10
    # True reports to Weights & Biases (WANDB_API_KEY from the environment, WANDB_MODE=offline for none).
    USE_WANDB: bool = False
    # GPUs to use on this machine; None takes all.
    NUM_GPUS: int | None = None
    RANDOM_SEED: int = 42


DEMO = {
    "MODEL_NAME": "embedded",
    "DATASET_DIR": "datasets/demo",
    "OUTPUT_DIR": "results/demo",
    "LORA_RANK": 64,
    "LORA_ALPHA": 128,
    "LORA_TARGET_MODULES": ["all-linear"],
    "LORA_DROPOUT": 0.0,
    "NUM_EPOCHS": 3.0,
    "BATCH_SIZE": 8,
    "GRADIENT_ACCUMULATION_STEPS": 1,
    "LEARNING_RATE": 2e-3,
    "MAX_SEQ_LENGTH": 256,
}
SCRIPT = "fine_tuning.py"
CHECKPOINTING = ("auto", "none", "selective", "full")
# These change how a run is carried out, not what it yields
NOT_IN_FINGERPRINT = {"OUTPUT_DIR", "DATASET_DIR", "KEEP_CHECKPOINTS", "LOGGING_STEPS", "USE_WANDB", "SAVE_STEPS", "NUM_GPUS",
                      "MAX_TOKENS_PER_BATCH", "ACTIVATION_CHECKPOINTING"}  # fmt: skip


def check(config: TrainingConfig) -> None:
    from workbench.training.examples import LONG_POLICIES

    for name in ("LORA_RANK", "LORA_ALPHA", "BATCH_SIZE", "GRADIENT_ACCUMULATION_STEPS", "SAVE_STEPS", "LOGGING_STEPS",
                 "KEEP_CHECKPOINTS"):  # fmt: skip
        settings.check_range(config, name, 1, 1_000_000)
    settings.check_range(config, "MAX_SEQ_LENGTH", 8, 1_000_000)
    settings.check_range(config, "MAX_TOKENS_PER_BATCH", 0, 10_000_000)
    if config.ACTIVATION_CHECKPOINTING not in CHECKPOINTING:
        raise UserError(
            f"ACTIVATION_CHECKPOINTING must be one of {', '.join(CHECKPOINTING)}, not {config.ACTIVATION_CHECKPOINTING!r}."
        )
    settings.check_range(config, "LORA_DROPOUT", 0, 0.9)
    settings.check_range(config, "WARMUP_RATIO", 0, 0.99)
    for name in ("NUM_EPOCHS", "LEARNING_RATE", "MAX_GRAD_NORM"):
        settings.check_range(config, name, 0, 1e6, low_open=True)
    if config.LONG_EXAMPLES not in LONG_POLICIES:
        raise UserError(f"LONG_EXAMPLES must be one of {', '.join(LONG_POLICIES)}, not {config.LONG_EXAMPLES!r}.")
    if not config.LORA_TARGET_MODULES:
        raise UserError("LORA_TARGET_MODULES is empty, so there is nothing to train. q_proj,v_proj is the default.")


def use_every_gpu(config: TrainingConfig) -> None:
    """Start this script again under accelerate, a process a GPU, unless a launcher did so already."""
    import torch

    count = torch.cuda.device_count()
    wanted = count if config.NUM_GPUS is None else min(config.NUM_GPUS, count)
    if wanted <= 1 or "LOCAL_RANK" in os.environ:
        if count > 1 and "LOCAL_RANK" not in os.environ:
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        return
    command = launch_command(wanted, sys.argv)
    print(f"{count} GPUs are visible: starting again on {wanted} (NUM_GPUS=1 for one):\n  {' '.join(command)}", flush=True)
    os.execv(command[0], command)


def launch_command(processes: int, argv: list[str]) -> list[str]:
    """The accelerate command that runs this script in `processes` processes of one machine."""
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1",
        "--num_processes", str(processes), "--mixed_precision", "bf16", "--dynamo_backend", "no", *argv,
    ]  # fmt: skip


def fingerprint_of(config: TrainingConfig, data: dict[str, Any], base_hash: str, processes: int) -> str:
    kept = {name: value for name, value in settings.as_dict(config).items() if name not in NOT_IN_FINGERPRINT}
    return files.sha256_of([kept, data["fingerprint"], data["splits"], base_hash, processes])


def load_examples(config: TrainingConfig, tokenizer: Any) -> tuple[list[Any], list[Any], list[str]]:
    """Train and eval examples, and the audit in words; refuses leaks and examples with nothing to learn."""
    from workbench import chat
    from workbench.data import dataset_folders
    from workbench.training.examples import encode_records, refuse_leaks

    folder = Path(config.DATASET_DIR)
    train, evaluation, holdout = (dataset_folders.read_split(folder, split) for split in ("train", "eval", "holdout"))
    for name, split in (("train", train), ("eval", evaluation)):
        if not len(split):
            raise UserError(f"{folder}: its {name} split is empty. Raise the shares and prepare the data again.")
    columns = ["id", "specialty", "question"]
    refuse_leaks(
        train.select_columns(columns),
        {"holdout": holdout.select_columns(columns), "eval": evaluation.select_columns(columns)},
    )
    first = train[0]
    chat.check_tokenizer(tokenizer, first["formatted_chat"], config.MODEL_NAME)
    terminator = chat.turn_terminator(first["formatted_prompt"], first["formatted_chat"], first["response"])
    encoded = [
        encode_records(
            split, tokenizer, max_length=config.MAX_SEQ_LENGTH, long_examples=config.LONG_EXAMPLES, terminator=terminator
        )
        for split in (train, evaluation)
    ]
    audit = [*encoded[0][1].lines("train", config.MAX_SEQ_LENGTH), encoded[1][1].lines("eval", config.MAX_SEQ_LENGTH)[0]]
    return encoded[0][0], encoded[1][0], audit


def cut_steps(config: TrainingConfig, model: Any, examples: list[Any]) -> Any:
    """Micro-batches for this model, these examples and the memory of this device."""
    import torch

    from workbench.training import plan

    lengths = [len(example.input_ids) for example in examples]
    free = None
    if torch.cuda.is_available():
        # a tenth for the optimizer, fragments and what the estimate misses; out of memory, the micro-batch halves
        free = int(0.9 * torch.cuda.mem_get_info()[0])
    return plan.choose_micro_batches(
        model.config,
        step_tokens=round(sum(lengths) / len(lengths) * config.BATCH_SIZE * config.GRADIENT_ACCUMULATION_STEPS),
        longest=max(lengths),
        tokens=config.MAX_TOKENS_PER_BATCH,
        checkpointing=config.ACTIVATION_CHECKPOINTING
        if free is not None or config.ACTIVATION_CHECKPOINTING != "auto"
        else "none",
        free=free,
    )


def make_trainer(
    config: TrainingConfig, model: Any, tokenizer: Any, train: list[Any], evaluation: list[Any], micro_batches: Any
) -> Any:
    """TRL's trainer on our ids, masks and packs."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig

    from workbench.training import recomputation
    from workbench.training.trainer import BEST, AnswerTrainer, Progress

    output = Path(config.OUTPUT_DIR)
    modules: Any = config.LORA_TARGET_MODULES
    lora = LoraConfig(
        r=config.LORA_RANK,
        lora_alpha=config.LORA_ALPHA,
        lora_dropout=config.LORA_DROPOUT,
        target_modules=modules[0] if modules == ["all-linear"] else modules,
        bias="none",
        task_type="CAUSAL_LM",
    )
    rows = {
        "id": [example.id for example in train],
        "input_ids": [example.input_ids for example in train],
        "labels": [example.labels for example in train],
    }
    try:
        arguments = SFTConfig(
            output_dir=str(output / "checkpoints"),
            # a batch of the dataloader is a whole optimizer step, which the trainer cuts by tokens
            per_device_train_batch_size=config.BATCH_SIZE * config.GRADIENT_ACCUMULATION_STEPS,
            gradient_accumulation_steps=1,
            num_train_epochs=config.NUM_EPOCHS,
            learning_rate=config.LEARNING_RATE,
            lr_scheduler_type=config.LR_SCHEDULER,
            warmup_steps=config.WARMUP_RATIO,
            optim=config.OPTIMIZER,
            weight_decay=config.WEIGHT_DECAY,
            max_grad_norm=config.MAX_GRAD_NORM,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=micro_batches.checkpointing != "none",
            gradient_checkpointing_kwargs=recomputation.options(micro_batches.checkpointing),
            ddp_find_unused_parameters=False,
            eval_strategy="epoch",
            save_strategy="steps",
            save_steps=config.SAVE_STEPS,
            save_total_limit=config.KEEP_CHECKPOINTS,
            logging_steps=config.LOGGING_STEPS,
            logging_nan_inf_filter=False,
            report_to=["wandb"] if config.USE_WANDB else [],
            run_name=output.name,
            seed=config.RANDOM_SEED,
            data_seed=config.RANDOM_SEED,
            remove_unused_columns=False,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
    except ValueError as error:
        raise UserError(
            f"LR_SCHEDULER={config.LR_SCHEDULER}, OPTIMIZER={config.OPTIMIZER}: {' '.join(str(error).split())[:240]}"
        ) from error
    try:
        trainer = AnswerTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(rows),
            eval_dataset=Dataset.from_dict({"input_ids": [e.input_ids for e in evaluation]}),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[Progress()],
            eval_examples=evaluation,
            best_folder=output / BEST,
            tokens_per_batch=micro_batches.tokens,
        )
    except ValueError as error:
        if "target modules" not in str(error).lower():
            raise
        raise UserError(f"LORA_TARGET_MODULES={','.join(modules)}: {' '.join(str(error).split())[:240]}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def save_result(config: TrainingConfig, trainer: Any, tokenizer: Any, data: dict[str, Any], details: dict[str, Any]) -> None:
    """The best adapter with everything needed to use it, the log, and the picture."""
    from workbench import models
    from workbench.training import curves
    from workbench.training.trainer import BEST

    output, best = Path(config.OUTPUT_DIR), Path(config.OUTPUT_DIR) / BEST
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(best / name, output / name)
    tokenizer.save_pretrained(str(output))
    models.write_generation_config(output, tokenizer)
    log = [row for row in trainer.state.log_history if "loss" in row]
    history = files.read_json_lines(output / "eval_history.jsonl")
    kept = files.read_json(best / "evaluation.json")
    files.write_json_lines(output / "training_log.jsonl", log)
    write_specialty_table(output / "eval_by_specialty.csv", history)
    curves.draw(output / "training_curves.png", log, history, kept["step"])
    files.write_json(
        output / "training_config.json",
        {"settings": settings.as_dict(config), "iteration": data["iteration"], "kept": kept, **details},
    )


def write_specialty_table(path: Path, history: list[dict[str, Any]]) -> None:
    """A row an evaluation and specialty: loss, perplexity and token accuracy on the eval split."""
    import pandas as pd

    rows = [
        {"step": row["step"], "epoch": row["epoch"], "specialty": files.csv_cell(name), **numbers}
        for row in history
        for name, numbers in {"(all)": {k: row[k] for k in ("examples", "tokens", "loss", "perplexity", "token_accuracy")},
                              **row["specialties"]}.items()
    ]  # fmt: skip
    with files.atomic_open(path) as file:
        pd.DataFrame(rows).to_csv(file, index=False)


def report(config: TrainingConfig, made: dict[str, Any], demo: bool) -> None:
    output = Path(config.OUTPUT_DIR)
    kept, first = made["kept"], made["before"]
    print(
        f"\niteration {made['iteration']}, eval split            before      after (step {kept['step']}, epoch {kept['epoch']:g})"
    )
    for name, text in (("loss", "loss, nats a token"), ("perplexity", "perplexity"), ("token_accuracy", "token accuracy")):
        print(f"  {text:<26}{first[name]:>12.3f}{kept[name]:>11.3f}")
    print(f"  adapter: {output}, curves: {output / 'training_curves.png'}, by specialty: {output / 'eval_by_specialty.csv'}")
    asked = "--demo" if demo else f"FINETUNED_MODEL_PATH={output} DATASET_DIR={config.DATASET_DIR}"
    print(f"next: python evaluation.py {asked}")


def main() -> None:
    config, arguments = settings.load(
        TrainingConfig, None, __doc__ or "", DEMO,
        {"--plan": {"action": "store_true", "help": "print what would be trained, time and memory, and end"}},
    )  # fmt: skip
    check(config)
    data = manifest.require(Path(config.DATASET_DIR), "dataset_preparation.py")
    if config.USE_WANDB:
        print("Weights & Biases is on: settings and losses leave this machine unless WANDB_MODE=offline.")
    print("loading libraries …", flush=True)
    from workbench import models

    models.quiet()
    models.require_device_for(config.MODEL_NAME, load_in_4bit=config.LOAD_IN_4BIT)
    use_every_gpu(config)
    import torch
    from accelerate import PartialState

    # without cpu=True accelerate takes each CPU process of torchrun for a run of its own
    processes = PartialState() if torch.cuda.is_available() else PartialState(cpu=True)
    if processes.num_processes != int(os.environ.get("WORLD_SIZE", "1")):
        raise UserError(
            f"the launcher started {os.environ['WORLD_SIZE']} processes, but they do not see each other. Use torchrun."
        )
    if processes.num_processes > 1 and config.LOAD_IN_4BIT and not torch.cuda.is_available():
        # measured: loss 7.2 where one process has 4.6 on the same examples (EXPERIMENTS.md, 2026-11-21)
        raise UserError("4-bit training in several CPU processes computes wrong losses. Use one process, or LOAD_IN_4BIT=False.")
    if processes.is_local_main_process:
        models.locate(config.MODEL_NAME)  # builds the embedded model where it is missing, once
    processes.wait_for_everyone()
    output = Path(config.OUTPUT_DIR)
    if not processes.is_main_process:
        train(config, data, arguments, processes)
        return
    with files.output_lock(output):
        train(config, data, arguments, processes)


def train(config: TrainingConfig, data: dict[str, Any], arguments: Any, processes: Any) -> None:
    """One run: plan and audit, train from the last whole checkpoint, keep the best adapter."""
    from accelerate.utils import broadcast_object_list

    from workbench import models
    from workbench.training import checkpoints, plan
    from workbench.training.trainer import measure, time_two_steps

    started = time.time()
    output = Path(config.OUTPUT_DIR)
    location = models.locate(config.MODEL_NAME)
    base_hash = models.weights_hash(location)
    fingerprint = fingerprint_of(config, data, base_hash, processes.num_processes)

    # 1. is it done already, or begun?
    decision: list[Any] = [None]
    if processes.is_main_process and not arguments.plan:
        decision = [state_of(output, fingerprint, arguments.fresh)]
    if processes.num_processes > 1:
        broadcast_object_list(decision)
    if isinstance(decision[0], UserError):
        raise decision[0]
    if decision[0] == "finished":
        if processes.is_main_process:
            print(f"{output}: up to date")
            report(config, manifest.read(output) or {}, arguments.demo)
        return

    # 2. data and model, and the plan before the first step
    tokenizer = models.load_tokenizer(location)
    examples, evaluation, audit = load_examples(config, tokenizer)
    model = models.load_base(location, load_in_4bit=config.LOAD_IN_4BIT)
    micro_batches = cut_steps(config, model, examples)
    trainer = make_trainer(config, model, tokenizer, examples, evaluation, micro_batches)
    planned = plan.make_plan(
        trainer.model,
        examples=len(examples),
        epochs=config.NUM_EPOCHS,
        examples_a_step=config.BATCH_SIZE * config.GRADIENT_ACCUMULATION_STEPS,
        processes=processes.num_processes,
        activations=micro_batches.activations,
        output_dir=output,
    )
    seconds_a_step = time_two_steps(trainer)
    words = [
        *audit,
        f"micro-batches: up to {trainer.tokens_per_batch:,} tokens, recomputing {micro_batches.checkpointing}",
        *plan.lines(planned, seconds_a_step=seconds_a_step, keep=config.KEEP_CHECKPOINTS),
    ]
    if processes.is_main_process:
        print(f"{config.MODEL_NAME} on {models.describe_device()}, {processes.num_processes} process(es)")
        print("\n".join(words), flush=True)
    if arguments.plan:
        return

    # 3. train, from the last whole checkpoint; only now is a finished run of other settings moved aside
    if processes.is_main_process:
        manifest.start(output, fingerprint, SCRIPT, fresh=arguments.fresh)
    processes.wait_for_everyone()
    checkpoint, torn = checkpoints.newest_whole(output / "checkpoints")
    for name in torn:
        print(f"  {name} was cut off while it was written and is not used")
    if checkpoint is None:
        (output / "eval_history.jsonl").unlink(missing_ok=True)
        trainer.evaluate()
    else:
        print(f"  going on from {checkpoint.name}")
        # on a CPU bitsandbytes repacks its 4-bit weights at the first look without gradients and then rounds otherwise;
        # the first evaluation did that to the run that was killed
        measure(trainer.model, evaluation[:1], trainer.accelerator, trainer.tokens_per_batch)
    stop = checkpoints.StopSafely(trainer.accelerator)
    trainer.add_callback(stop)
    with stop.listening():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.received and trainer.state.global_step < trainer.state.max_steps:
        if processes.is_main_process:
            print(
                f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; the same command goes on from there"
            )
        sys.exit(128 + stop.received)
    if trainer.last_evaluated_step() < trainer.state.global_step:  # killed in the last evaluation, after the last checkpoint
        trainer.evaluate()
    if not processes.is_main_process:
        return

    # 4. keep the best
    before = files.read_json_lines(output / "eval_history.jsonl")[0]
    details = {"audit": words, "trainable_parameters": planned.trainable, "seconds_a_step": round(seconds_a_step, 3)}
    save_result(config, trainer, tokenizer, data, details)
    kept = files.read_json(output / "best" / "evaluation.json")
    contents = manifest.build(
        fingerprint,
        settings.as_dict(config),
        {"dataset": data["fingerprint"], "splits": data["splits"], "base_weights": base_hash,
         "adapter": files.sha256_file(output / "adapter_model.safetensors")},
        started,
        made_by=SCRIPT, iteration=data["iteration"], device=models.describe_device(), processes=processes.num_processes,
        kept=kept, before={k: v for k, v in before.items() if k != "specialties"},
    )  # fmt: skip
    manifest.finish(output, contents)
    for name in ("checkpoints", "best"):
        files.remove(output / name)
    report(config, contents, arguments.demo)


def state_of(output: Path, fingerprint: str, fresh: bool) -> Any:
    """The state of the output folder, or the error to raise in every process."""
    try:
        return manifest.start(output, fingerprint, SCRIPT, fresh=fresh, claim=False)
    except UserError as error:
        return error


if __name__ == "__main__":
    run_script(main)
