#!/usr/bin/env python3
"""Train a QLoRA adapter on the train split, and keep the one that does best on the eval split.

    python fine_tuning.py --demo                 SmolLM2-135M on the sample data, on any CPU
    python fine_tuning.py                        Meerkat 8B on datasets/, on every GPU of this machine
    python fine_tuning.py --plan                 what would be trained, time and memory, then end
    python fine_tuning.py --export FOLDER        base and adapter merged, with a model card
    python fine_tuning.py --compare A B          finished runs side by side

Reads DATASET_DIR, as dataset_preparation.py wrote it; writes OUTPUT_DIR, see results/README.md. Killed and run
again, it goes on from its last whole checkpoint.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import console, files, manifest, settings
from workbench.errors import UserError, again, run_script

if TYPE_CHECKING:
    from workbench.devices import Precision


class TrainingConfig(settings.Settings):
    """Settings of the training. Change a line, or give KEY=VALUE on the command line."""

    # Base model: a Hub name, a folder, or "smollm2" for the small pretrained model (135 M) that is installed with the workbench.
    MODEL_NAME: str = "dmis-lab/llama-3-meerkat-8b-v1.0"
    # "decoder" (Llama, Mistral, Qwen, …) or "encoder-decoder" (T5 and its kin; prepare with CHAT_TEMPLATE=plain).
    MODEL_TYPE: str = "decoder"
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
    # True: the base in NF4 (QLoRA), 8B in about 6 GB. False: in 16 bits (32 in fp32), 16 GB and a little faster.
    LOAD_IN_4BIT: bool = True
    # What products are computed in: bf16, fp16 (GPUs only) or fp32; "auto" takes what this device has hardware for.
    COMPUTE_DTYPE: str = "auto"
    # True trains every weight instead of an adapter; for small encoder-decoder models, with LOAD_IN_4BIT=False.
    FULL_FINE_TUNING: bool = False
    # Passes over the training data. The best epoch is kept, so one too many costs time only.
    NUM_EPOCHS: float = 3.0
    # The optimizer sees BATCH_SIZE x GRADIENT_ACCUMULATION_STEPS x GPUs examples a step.
    BATCH_SIZE: int = 4
    # Only multiplies BATCH_SIZE: how many examples pass through a device at once is MAX_TOKENS_PER_BATCH's affair.
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
    # Optimizer steps between evaluations; 0 evaluates after each epoch.
    EVAL_STEPS: int = 0
    # Questions of the eval split that the model answers at each evaluation, for ROUGE-L and BERTScore beside the loss.
    SAMPLE_QUESTIONS: int = 12
    # Which measure of the eval split decides what is kept: loss, token_accuracy, ROUGE-L or bertscore_f1.
    BEST_METRIC: str = "loss"
    # Evaluations without a new best after which training ends early; 0 for never.
    EARLY_STOPPING: int = 0
    # Folder of an adapter to go on training from, e.g. results/archive/iteration_001; empty begins a new one.
    INIT_ADAPTER: str = ""
    # Any field of PEFT's LoraConfig by its own name, e.g. {use_rslora: true, use_dora: true}.
    LORA_OPTIONS: dict[str, object] = {}
    # Any field of TRL's SFTConfig by its own name, e.g. {adam_beta2: 0.98, max_steps: 100}.
    TRAINER_OPTIONS: dict[str, object] = {}
    # Where losses are reported to beside training_log.jsonl: wandb, mlflow, tensorboard, several at once.
    REPORT_TO: list[str] = []
    # True is REPORT_TO=wandb (WANDB_API_KEY from the environment, WANDB_MODE=offline for none).
    USE_WANDB: bool = False
    # GPUs to use on this machine; None takes all.
    NUM_GPUS: int | None = None
    # True divides the frozen base among the GPUs (FSDP) instead of a copy on each: slower, for more room on each.
    SHARD_BASE: bool = False
    RANDOM_SEED: int = 42


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
    "SAMPLE_QUESTIONS": 0,  # evaluation.py --demo, the next step, asks them all
}
SCRIPT = "fine_tuning.py"
MODEL_TYPES = ("decoder", "encoder-decoder")
SAMPLED_METRICS = ("ROUGE-L", "bertscore_f1")
BEST_METRICS = ("loss", "token_accuracy", *SAMPLED_METRICS)
EXPORT_QUESTIONS = 32  # asked of the adapter and of the merged model, to say how alike they are
CHECKPOINTING = ("auto", "none", "selective", "full")
# These change how a run is carried out, not what it yields
NOT_IN_FINGERPRINT = {"OUTPUT_DIR", "DATASET_DIR", "KEEP_CHECKPOINTS", "LOGGING_STEPS", "USE_WANDB", "SAVE_STEPS", "NUM_GPUS",
                      "MAX_TOKENS_PER_BATCH", "ACTIVATION_CHECKPOINTING", "REPORT_TO", "SAMPLE_QUESTIONS",
                      "BATCH_SIZE", "GRADIENT_ACCUMULATION_STEPS", "INIT_ADAPTER", "SHARD_BASE",
                      "COMPUTE_DTYPE"}  # fmt: skip  # what it comes to counts, as `global_batch` does
NOT_TRAINABLE = ("lm_head", "embed_out")


def check(config: TrainingConfig) -> None:
    from workbench import devices
    from workbench.training.examples import LONG_POLICIES

    devices.check_choice(config.COMPUTE_DTYPE)

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
    settings.check_range(config, "EVAL_STEPS", 0, 1_000_000)
    settings.check_range(config, "SAMPLE_QUESTIONS", 0, 10_000)
    settings.check_range(config, "EARLY_STOPPING", 0, 10_000)
    if config.MODEL_TYPE not in MODEL_TYPES:
        raise UserError(f"MODEL_TYPE must be one of {', '.join(MODEL_TYPES)}, not {config.MODEL_TYPE!r}.")
    if config.FULL_FINE_TUNING and (config.MODEL_TYPE == "decoder" or config.LOAD_IN_4BIT):
        raise UserError(
            "FULL_FINE_TUNING is for MODEL_TYPE=encoder-decoder with LOAD_IN_4BIT=False; 4-bit weights cannot be trained."
        )
    if config.FULL_FINE_TUNING and config.SHARD_BASE:
        raise UserError("SHARD_BASE divides a frozen base, and FULL_FINE_TUNING freezes nothing. Choose one.")
    if config.FULL_FINE_TUNING and config.INIT_ADAPTER:
        raise UserError("INIT_ADAPTER goes on with an adapter, and FULL_FINE_TUNING trains without one. Choose one.")
    if config.BEST_METRIC not in BEST_METRICS:
        raise UserError(f"BEST_METRIC must be one of {', '.join(BEST_METRICS)}, not {config.BEST_METRIC!r}.")
    if config.BEST_METRIC in SAMPLED_METRICS and not config.SAMPLE_QUESTIONS:
        raise UserError(f"BEST_METRIC={config.BEST_METRIC} needs answers. Set SAMPLE_QUESTIONS, 50 or more for a steady choice.")
    if config.INIT_ADAPTER and not (Path(config.INIT_ADAPTER) / "adapter_model.safetensors").is_file():
        raise UserError(f"INIT_ADAPTER={config.INIT_ADAPTER}: holds no adapter (no adapter_model.safetensors).")
    if config.INIT_ADAPTER and Path(config.INIT_ADAPTER).resolve() == Path(config.OUTPUT_DIR).resolve():
        raise UserError(
            f"INIT_ADAPTER={config.INIT_ADAPTER}: is OUTPUT_DIR, where this run will put its own. Name another OUTPUT_DIR, or an "
            f"earlier adapter in {Path(config.OUTPUT_DIR) / files.ARCHIVE_NAME}."
        )
    if config.LONG_EXAMPLES not in LONG_POLICIES:
        raise UserError(f"LONG_EXAMPLES must be one of {', '.join(LONG_POLICIES)}, not {config.LONG_EXAMPLES!r}.")
    if not config.LORA_TARGET_MODULES:
        raise UserError("LORA_TARGET_MODULES is empty, so there is nothing to train. q_proj,v_proj is the default.")
    for name in config.LORA_TARGET_MODULES:
        if name.split(".")[-1] in NOT_TRAINABLE:
            raise UserError(
                f"LORA_TARGET_MODULES: {name} cannot be trained: the loss never forms all of the logits that an adapter on it would change. "
                "Leave it out; all-linear adapts every layer below it."
            )


def recipe_of(config: TrainingConfig, processes: int, precision: Precision) -> dict[str, Any]:
    """Every setting that affects the result, wherever data and outputs are."""
    kept = {name: value for name, value in settings.as_dict(config).items() if name not in NOT_IN_FINGERPRINT}
    # the examples a step, not how processes share them: a run may be gone on with on another number of GPUs
    kept["global_batch"] = config.BATCH_SIZE * config.GRADIENT_ACCUMULATION_STEPS * processes
    kept["compute_dtype"] = precision
    if config.BEST_METRIC in SAMPLED_METRICS:
        kept["SAMPLE_QUESTIONS"] = config.SAMPLE_QUESTIONS
    return kept


def fingerprint_of(config: TrainingConfig, data: dict[str, Any], base_hash: str, processes: int, precision: Precision) -> str:
    start = files.sha256_file(Path(config.INIT_ADAPTER) / "adapter_model.safetensors") if config.INIT_ADAPTER else ""
    return files.sha256_of([recipe_of(config, processes, precision), data["fingerprint"], data["splits"], base_hash, start])


def remedy_for_empty(folder: Path, name: str, train: Any) -> str:
    """What fills an empty split: shares only where there are records for them."""
    from workbench.data import iterations

    sizes = iterations.read_ledger(folder)[-1]["sizes"]
    if len(train) > 1 and len(set(train["question"])) <= len(sizes["train"]):
        return (f"All {len(train)} records of the train set ask {len(set(train['question']))} question(s), and such records are not divided. "
                "Is a part of the question missing, that stands in a field which is not read?")  # fmt: skip
    if not sum(sizes["pool"].values()) + (sum(sizes["train"].values()) if name == "eval" else 0):
        aside = sum(sizes["set_aside"].values())
        return "There are no more records for it: add some" + (
            f" ({aside} say the same as fixed ones and are set aside)." if aside else "."
        )
    if name == "eval":
        return "Raise EVAL_SPLIT_SIZE or INITIAL_TRAIN_PERCENTAGE, and prepare the data anew (--fresh)."
    return "Raise the shares and prepare the data again."


def load_examples(config: TrainingConfig, tokenizer: Any) -> tuple[list[Any], list[Any], list[str]]:
    """Train and eval examples, and the audit in words; refuses examples with nothing to learn."""
    from workbench import chat
    from workbench.data import dataset_folders
    from workbench.training.examples import encode_records

    folder = Path(config.DATASET_DIR)
    train, evaluation = (dataset_folders.read_split(folder, split) for split in ("train", "eval"))
    for name, split in (("train", train), ("eval", evaluation)):
        if not len(split):
            raise UserError(f"{folder}: its {name} split is empty. {remedy_for_empty(folder, name, train)}")
    first = train[0]
    chat.check_tokenizer(tokenizer, first, config.MODEL_NAME)
    for split in (train, evaluation, dataset_folders.read_split(folder, "holdout")):  # the holdout is asked later
        chat.check_texts(split, tokenizer, config.MODEL_NAME)
    limits = {"max_length": config.MAX_SEQ_LENGTH, "long_examples": config.LONG_EXAMPLES}
    if config.MODEL_TYPE == "encoder-decoder":
        from workbench.training.encoder_decoder import encode_pairs

        encoded = [encode_pairs(split, tokenizer, **limits) for split in (train, evaluation)]
    else:
        terminator = chat.turn_terminator(first["formatted_prompt"], first["formatted_chat"], first["response"])
        if not terminator.strip():
            raise UserError(
                f"{folder}: its chats do not mark the end of an answer, so a decoder would never learn to stop. Prepare the data "
                "with CHAT_TEMPLATE=llama3 (plain is for MODEL_TYPE=encoder-decoder)."
            )
        encoded = [encode_records(split, tokenizer, **limits, terminator=terminator) for split in (train, evaluation)]
    for name, (examples, _) in zip(("train", "eval"), encoded, strict=True):
        if not examples:
            raise UserError(f"{folder}: every {name} example is longer than MAX_SEQ_LENGTH={config.MAX_SEQ_LENGTH}. Raise it.")
    audit = [*encoded[0][1].lines("train", config.MAX_SEQ_LENGTH), encoded[1][1].lines("eval", config.MAX_SEQ_LENGTH)[0]]
    return encoded[0][0], encoded[1][0], audit


def cut_steps(config: TrainingConfig, model: Any, examples: list[Any], precision: Precision) -> Any:
    """Micro-batches for this model, these examples and the memory of this device."""
    import torch

    from workbench.training import plan, sharding

    both_sides = config.MODEL_TYPE == "encoder-decoder"
    lengths = [len(example.input_ids) + both_sides * len(example.labels) for example in examples]
    free = None
    if torch.cuda.is_available():
        # a tenth for the optimizer, fragments and what the estimate misses; out of memory, the micro-batch halves
        free = int(0.9 * torch.cuda.mem_get_info()[0])
        if config.SHARD_BASE:  # each process has read the whole base, and will keep a part
            free += int(0.9 * sharding.bytes_freed(model, torch.distributed.get_world_size()))
    return plan.choose_micro_batches(
        model.config,
        step_tokens=round(sum(lengths) / len(lengths) * config.BATCH_SIZE * config.GRADIENT_ACCUMULATION_STEPS),
        longest=max(lengths),
        tokens=config.MAX_TOKENS_PER_BATCH,
        checkpointing=config.ACTIVATION_CHECKPOINTING
        if free is not None or config.ACTIVATION_CHECKPOINTING != "auto"
        else "none",
        free=free,
        precision=precision,
    )


def make_trainer(
    config: TrainingConfig,
    model: Any,
    tokenizer: Any,
    train: list[Any],
    evaluation: list[Any],
    micro_batches: Any,
    precision: Precision,
    examine: Any = None,
) -> Any:
    """TRL's trainer on our ids, masks and packs."""
    from datasets import Dataset
    from peft import get_peft_model
    from transformers.trainer_callback import PrinterCallback

    from workbench import models
    from workbench.training import options, packing, recomputation, sharding
    from workbench.training.keeping import BEST, Progress
    from workbench.training.trainer import AnswerTrainer

    output = Path(config.OUTPUT_DIR)
    packing.check(model.config, max(len(example.input_ids) for example in train))
    arguments = options.trainer_arguments(config, checkpoints=output / "checkpoints", precision=precision)
    rows = {
        "id": [example.id for example in train],
        "input_ids": [example.input_ids for example in train],
        "labels": [example.labels for example in train],
    }
    common = {
        "args": arguments,
        "train_dataset": Dataset.from_dict(rows),
        "eval_dataset": Dataset.from_dict({"input_ids": [e.input_ids for e in evaluation]}),
        "processing_class": tokenizer,
        "callbacks": [Progress()],
        "tokens_per_batch": micro_batches.tokens,
    }
    try:
        adapter = None if config.FULL_FINE_TUNING or config.INIT_ADAPTER else options.lora_config(config)
        if config.INIT_ADAPTER:
            model = models.load_adapter(model, Path(config.INIT_ADAPTER), trainable=True)
        if config.MODEL_TYPE == "encoder-decoder":
            from workbench.training.encoder_decoder import PairTrainer

            model = model if adapter is None else get_peft_model(model, adapter)
            trainer: Any = PairTrainer(model=model, pad_token_id=tokenizer.pad_token_id, **common)
        else:
            trainer = AnswerTrainer(model=model, peft_config=adapter, **common)
    except ValueError as error:
        if "target modules" not in str(error).lower():
            raise
        raise UserError(
            f"LORA_TARGET_MODULES={','.join(config.LORA_TARGET_MODULES)}: {' '.join(str(error).split())[:240]}"
        ) from error
    trainer.remove_callback(PrinterCallback)
    # here and not by the trainer's arguments: the plan is measured before training begins, and what keeps the outputs of
    # matrix products cannot be stored with a checkpoint
    if micro_batches.checkpointing != "none":
        trainer.model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs=recomputation.options(micro_batches.checkpointing)
        )
    if config.SHARD_BASE:
        sharding.shard_base(trainer.model, trainer.accelerator.device)
        trainer.in_lockstep = True
    trainer.follow(
        eval_examples=evaluation,
        best_folder=output / BEST,
        best_metric=config.BEST_METRIC,
        patience=config.EARLY_STOPPING,
        examine=examine,
    )
    return trainer


def examiner(config: TrainingConfig, tokenizer: Any) -> Any:
    """What lets the model answer SAMPLE_QUESTIONS at each evaluation; None where there are to be none."""
    if not config.SAMPLE_QUESTIONS:
        return None
    from workbench.data import dataset_folders
    from workbench.evaluation import samples

    split = dataset_folders.read_split(Path(config.DATASET_DIR), "eval")
    return samples.examiner(split, tokenizer, config.SAMPLE_QUESTIONS, encoder_decoder=config.MODEL_TYPE == "encoder-decoder")


def check_init_adapter(config: TrainingConfig, base_hash: str) -> None:
    """Refuse an adapter that stands on another base, or has another shape than the settings say."""
    folder = Path(config.INIT_ADAPTER)
    earlier = manifest.require(folder, SCRIPT)
    if earlier["inputs"]["base_weights"] != base_hash:
        raise UserError(f"INIT_ADAPTER={folder}: was trained on {earlier['settings']['MODEL_NAME']}, not on {config.MODEL_NAME}.")
    for name in ("LORA_RANK", "LORA_ALPHA", "LORA_TARGET_MODULES", "LORA_OPTIONS"):
        if earlier["settings"].get(name) != getattr(config, name):
            raise UserError(
                f"INIT_ADAPTER={folder}: has {name}={earlier['settings'].get(name)}, and an adapter keeps its shape. "
                f"Set it so here too, not {getattr(config, name)}."
            )


def refuse_leaks(config: TrainingConfig, location: str) -> list[str]:
    """Look for what is asked in what is to be learnt, and in what was learnt by the model that this run begins with.

    Args:
        location: of the model that MODEL_NAME names; it may be one that was trained here.

    Returns the hashes of all these train sets.
    """
    from workbench.data import dataset_folders, leaks

    folder = Path(config.DATASET_DIR)
    questions = leaks.FixedQuestions.of(folder)
    leaks.refuse_prepared(folder, questions)
    begins_with = {"INIT_ADAPTER": config.INIT_ADAPTER, "MODEL_NAME": location}
    remedies = {"INIT_ADAPTER": "Begin a new adapter.", "MODEL_NAME": "Name a base that knows none of them."}
    learners = [
        leaks.Learner(f"{setting}={place}", trained, remedies[setting])
        for setting, place in begins_with.items()
        if place and (trained := leaks.training_of(place)) is not None
    ]
    for note in leaks.refuse_learnt(folder, questions, learners):
        print(f"  {note}", flush=True)
    learnt = [train for learner in learners if learner.trained for train in leaks.trained_on(learner.trained)]
    return list(dict.fromkeys([*learnt, dataset_folders.hash_of_ids(folder, "train")]))


def save_result(config: TrainingConfig, trainer: Any, tokenizer: Any, data: dict[str, Any], details: dict[str, Any]) -> None:
    """The best adapter with everything needed to use it, the log, and the picture."""
    from workbench import models
    from workbench.training import curves, tables
    from workbench.training.keeping import BEST

    output, best = Path(config.OUTPUT_DIR), Path(config.OUTPUT_DIR) / BEST
    for path in best.iterdir():
        if path.name not in ("evaluation.json", "README.md"):
            shutil.copyfile(path, output / path.name)
    tokenizer.save_pretrained(str(output))
    models.write_generation_config(output, tokenizer)
    log = [row for row in trainer.state.log_history if "loss" in row]
    history = files.read_json_lines(output / "eval_history.jsonl")
    kept = files.read_json(best / "evaluation.json")
    files.write_json_lines(output / "training_log.jsonl", log)
    tables.write_evaluations(output / "eval_by_specialty.csv", history)
    tables.write_learning(output / "learning_by_specialty.csv", history, kept["step"])
    tables.write_sample_answers(output / "sample_answers.csv", history)
    curves.draw(output / "training_curves.png", log, history, kept["step"])
    files.write_json(
        output / "training_config.json",
        {"settings": settings.as_dict(config), "iteration": data["iteration"], "kept": kept, **details},
    )


def report(config: TrainingConfig, made: dict[str, Any], demo: bool) -> None:
    output = Path(config.OUTPUT_DIR)
    kept, first = made["kept"], made["before"]
    print(
        f"\niteration {made['iteration']}, eval split                  before      after (step {kept['step']}, epoch {kept['epoch']:g})"
    )
    for name, text in (("loss", "loss, nats a token"), ("perplexity", "perplexity"), ("token_accuracy", "token accuracy")):
        print(f"  {text:<32}{first[name]:>12.3f}{kept[name]:>11.3f}")
    for name in SAMPLED_METRICS:
        if name in kept and name in first:
            asked = f"{name}, {made['settings']['SAMPLE_QUESTIONS']} sample answers"
            print(f"  {asked:<32}{first[name]:>12.3f}{kept[name]:>11.3f}")
    print(f"  adapter: {output}, curves: {output / 'training_curves.png'}, by specialty: {output / 'learning_by_specialty.csv'}")
    there = {"DATASET_DIR": "DATASET_DIR", "OUTPUT_DIR": "FINETUNED_MODEL_PATH"}
    print(f"next: {settings.next_command('evaluation.py', config, DEMO, there, with_demo=demo)}")


def compare(folders: list[Path]) -> None:
    """`--compare`: loss, perplexity and the sample's scores of finished runs, a line an evaluation."""
    print(f"{'run':<28}{'model':<24}{'epoch':>7}{'loss':>9}{'perplexity':>12}{'accuracy':>10}{'ROUGE-L':>9}{'BERTScore':>11}")
    for folder in folders:
        done = manifest.require(folder, SCRIPT)
        name = Path(done["settings"]["MODEL_NAME"]).name
        for row in files.read_json_lines(folder / "eval_history.jsonl"):
            sampled = "".join(f"{row[key]:>{width}.3f}" if key in row else f"{'-':>{width}}"
                              for key, width in (("ROUGE-L", 9), ("bertscore_f1", 11)))  # fmt: skip
            mark = " kept" if row["step"] == done["kept"]["step"] else ""
            print(f"{str(folder)[-27:]:<28}{name[:23]:<24}{row['epoch']:>7.2f}{row['loss']:>9.3f}{row['perplexity']:>12.2f}"
                  f"{row['token_accuracy']:>10.3f}{sampled}{mark}")  # fmt: skip
    print("Loss, perplexity and accuracy are a token of each model's own tokenizer: across models compare ROUGE-L and BERTScore.")


def export_model(config: TrainingConfig, arguments: Any) -> None:
    """Merge, compare with the adapter, describe, and upload where that is asked for."""
    output, target = Path(config.OUTPUT_DIR), arguments.export
    training = manifest.require(output, SCRIPT)
    if not (output / "adapter_model.safetensors").is_file():
        raise UserError(f"{output}: holds a model that was trained whole, so there is nothing to merge. Use the folder itself.")
    data_folder = Path(config.DATASET_DIR)
    data = manifest.require(data_folder, "dataset_preparation.py")
    if target.exists() and any(target.iterdir()):
        raise UserError(f"--export {target}: is not empty. Name a folder that is not there yet.")
    with console.working("loading libraries"):
        from workbench import devices, models
        from workbench.data import dataset_folders, iterations, leaks
        from workbench.evaluation import samples
        from workbench.training import export

    models.quiet()
    token = export.hub_token() if arguments.push else ""
    base = models.locate(training["settings"]["MODEL_NAME"])
    if models.weights_hash(base) != training["inputs"]["base_weights"]:
        raise UserError(f"{base}: is not the base that the adapter in {output} was trained on. Restore it, or train again.")
    entry = next((e for e in iterations.read_ledger(data_folder) if e["iteration"] == training["iteration"]), None)
    if entry is None:
        raise UserError(f"{data_folder}: its ledger has no iteration {training['iteration']}, on which the adapter was trained.")
    tokenizer = models.load_tokenizer(str(output))
    encoder_decoder = training["settings"].get("MODEL_TYPE") == "encoder-decoder"
    split = dataset_folders.read_split(data_folder, "eval")
    questions = samples.questions(split, tokenizer, EXPORT_QUESTIONS, encoder_decoder=encoder_decoder)
    precision = devices.resolve_precision(config.COMPUTE_DTYPE, encoder_decoder=encoder_decoder)
    with console.working(f"asking the adapter {len(questions)} questions, in {precision}"):
        in_4bit = training["settings"]["LOAD_IN_4BIT"]
        model: Any = models.load_adapter(models.load_base(base, load_in_4bit=in_4bit, precision=precision), output)
        before = samples.greedy(questions, model, tokenizer)
        del model
    target.parent.mkdir(parents=True, exist_ok=True)

    def choices(model: Any) -> list[int]:
        return samples.next_choices(questions, before, model.eval(), tokenizer)

    written = target.with_name(f".{target.name}.writing")  # it takes its name once it is checked
    with console.working(f"merging into {target}"):
        unmerged = export.merge(base, output, written, precision, choices)
    with console.working("asking the merged model"):
        model = models.load_base(str(written), load_in_4bit=False, precision=precision)
        after, merged = samples.greedy(questions, model, tokenizer), choices(model)
    texts = [samples.as_texts(questions, answers, tokenizer) for answers in (before, after)]
    likeness: dict[str, Any] = export.agreement(*texts) | {
        "merge": export.share_equal(unmerged, merged), "precision": precision,
        "as_trained": export.share_equal([token for ids in before for token in ids], merged),
    }  # fmt: skip
    trained_base = "its 4-bit base" if in_4bit else "its base"
    print(f"  same next token as the adapter on the base that it was merged with: {100 * likeness['merge']:.1f}% of the time")
    print(f"  same next token as the adapter on {trained_base}: {100 * likeness['as_trained']:.0f}% of the time; {100 * likeness['equal']:.0f}% of "
          f"{len(questions)} answers are equal word for word, and answers share {100 * likeness['word_overlap']:.0f}% of their words")  # fmt: skip
    export.check(likeness, written, target)
    evaluation = Path("evaluation_results", "demo") if arguments.demo else Path("evaluation_results")
    scores = export.scores_of(evaluation, training["inputs"]["adapter"])
    files.write_text(written / "README.md", export.model_card(training, data, entry["sizes"], scores, likeness))
    learnt = {"splits": training["inputs"]["splits"], "trained_on": leaks.trained_on(training)}
    files.write_json(written / leaks.EXPORT, {"adapter": training["inputs"]["adapter"], "inputs": learnt, **likeness})
    if target.exists():  # an empty folder
        target.rmdir()
    os.replace(written, target)
    if not scores:
        print(f"  {evaluation} holds no evaluation of this adapter, so the model card has no scores")
    print(f"exported to {target}: `transformers serve {target}`, or pipeline('text-generation', '{target}')")
    if arguments.push:
        print(f"uploaded to {export.push(target, arguments.push, token)}")


def main() -> None:
    config, arguments = settings.load(
        TrainingConfig, None, __doc__ or "", DEMO,
        {
            "--plan": {"action": "store_true", "help": "print what would be trained, time and memory, and end"},
            "--export": {"type": settings.path, "metavar": "FOLDER", "help": "merge the adapter in OUTPUT_DIR into its base"},
            "--compare": {"nargs": "+", "type": settings.path, "metavar": "FOLDER", "help": "finished runs side by side, an epoch a line"},
            "--push": {"metavar": "OWNER/NAME", "help": "with --export: upload it to the Hub (HF_TOKEN)"},
        },
    )  # fmt: skip
    check(config)
    if arguments.compare:
        compare(arguments.compare)
        return
    if arguments.export is not None:
        export_model(config, arguments)
        return
    if arguments.push:
        raise UserError("--push uploads what --export FOLDER makes. Give both.")
    data = manifest.require(Path(config.DATASET_DIR), "dataset_preparation.py")
    if config.USE_WANDB:
        print("Weights & Biases is on: settings and losses leave this machine unless WANDB_MODE=offline.")
    with console.working("loading libraries"):
        from workbench import devices, models, processes
        from workbench.training import trainer  # noqa: F401  what takes longest to load

    models.quiet()
    processes.use_every_gpu(config.NUM_GPUS)
    asked = devices.resolve_precision(config.COMPUTE_DTYPE)
    models.require_device_for(config.MODEL_NAME, load_in_4bit=config.LOAD_IN_4BIT, precision=asked)
    here = processes.join()
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true"):
        raise UserError(
            "the launcher asks for accelerate's FSDP. Use launch/ddp.yaml with SHARD_BASE=True, which shards the base."
        )
    if config.SHARD_BASE and here.num_processes == 1:
        raise UserError("SHARD_BASE divides the base among several GPUs, and this run has one process. Leave it out.")
    if here.is_local_main_process:
        devices.announce()
        models.locate(config.MODEL_NAME)  # converts the packaged model where that is still to be done, once
    here.wait_for_everyone()
    output = Path(config.OUTPUT_DIR)
    if not here.is_main_process:
        train(config, data, arguments, here)
        return
    with files.output_lock(output):
        train(config, data, arguments, here)


def train(config: TrainingConfig, data: dict[str, Any], arguments: Any, here: Any) -> None:
    """One run: plan and audit, train from the last whole checkpoint, keep the best adapter."""
    from workbench import devices, models, processes
    from workbench.training import checkpoints, options, plan
    from workbench.training.steps import time_two_steps

    started = time.time()
    output = Path(config.OUTPUT_DIR)
    location = models.locate(config.MODEL_NAME)
    base_hash = models.weights_hash(location)

    def fingerprint_in(precision: Precision) -> str:
        return fingerprint_of(config, data, base_hash, here.num_processes, precision)

    own = devices.resolve_precision("auto", encoder_decoder=config.MODEL_TYPE == "encoder-decoder")
    precision = processes.decided(
        here, lambda: manifest.settle_precision(output, config.COMPUTE_DTYPE, fingerprint_in, own=own, fresh=arguments.fresh)
    )
    fingerprint = fingerprint_in(precision)

    # 1. is it done already, or begun?
    state = None
    if not arguments.plan:
        state = processes.decided(here, lambda: manifest.start(output, fingerprint, SCRIPT, fresh=arguments.fresh, claim=False))
    if state == "finished":
        if here.is_main_process:
            print(f"{output}: up to date")
            report(config, manifest.read(output) or {}, arguments.demo)
        return

    # 2. data and model, and the plan before the first step
    tags = {"commit": manifest.git_state().get("commit", "none")[:12], "dataset": data["fingerprint"][:12],
            "holdout": data["splits"]["holdout"][:12], "iteration": str(data["iteration"])}  # fmt: skip
    options.tag_reports(options.reporters(config), output, tags)
    found = "encoder-decoder" if models.is_encoder_decoder(models.load_config(location)) else "decoder"
    if found != config.MODEL_TYPE:
        raise UserError(f"{config.MODEL_NAME}: is a model of type {found}. Set MODEL_TYPE={found}.")
    if config.INIT_ADAPTER:
        check_init_adapter(config, base_hash)
    trained_on = processes.decided(here, lambda: refuse_leaks(config, location))
    tokenizer = models.load_tokenizer(location)
    examples, evaluation, audit = load_examples(config, tokenizer)
    models.check_vocabulary(location, max(max(*example.input_ids, *example.labels) for example in [*examples, *evaluation]))
    with console.working(f"loading {config.MODEL_NAME}"):
        model = models.load_base(
            location, load_in_4bit=config.LOAD_IN_4BIT, precision=precision,
            full_precision=config.FULL_FINE_TUNING, shardable=config.SHARD_BASE,
        )  # fmt: skip
    micro_batches = cut_steps(config, model, examples, precision)
    trainer = make_trainer(
        config,
        model,
        tokenizer,
        examples,
        evaluation,
        micro_batches,
        precision,
        examiner(config, tokenizer),
    )
    planned = plan.make_plan(
        trainer.model,
        examples=len(examples),
        epochs=config.NUM_EPOCHS,
        most_steps=int(config.TRAINER_OPTIONS.get("max_steps", 0) or 0),  # type: ignore[call-overload]
        examples_a_step=config.BATCH_SIZE * config.GRADIENT_ACCUMULATION_STEPS,
        processes=here.num_processes,
        activations=micro_batches.activations,
        output_dir=output,
    )
    seconds_a_step = time_two_steps(trainer)
    words = [
        *audit,
        f"micro-batches: up to {trainer.tokens_per_batch:,} tokens, recomputing {micro_batches.checkpointing}",
        *plan.lines(planned, seconds_a_step=seconds_a_step, keep=config.KEEP_CHECKPOINTS),
    ]
    if here.is_main_process:
        print(
            f"{config.MODEL_NAME} on {devices.describe()}, {here.num_processes} process(es), computing in {devices.in_words(precision)}"
        )
        print("\n".join(words), flush=True)
    if arguments.plan:
        return

    # 3. train, from the last whole checkpoint; only now is a finished run of other settings moved aside
    if here.is_main_process:
        manifest.start(output, fingerprint, SCRIPT, fresh=arguments.fresh, compute_dtype=precision)
    here.wait_for_everyone()
    if here.is_main_process:
        for name in checkpoints.clear_torn(output / "checkpoints"):
            print(f"  {name} was cut off while it was written and is not used")
    here.wait_for_everyone()
    checkpoint = checkpoints.newest_whole(output / "checkpoints")
    if checkpoint is None:
        (output / "eval_history.jsonl").unlink(missing_ok=True)
        trainer.evaluate()
    else:
        print(f"  going on from {checkpoint.name}")
        started -= checkpoints.seconds_until(checkpoint)
    trainer.counts_from(started)
    if here.is_main_process:
        options.write_tags(options.reporters(config), tags)
    stop = checkpoints.StopSafely(trainer.accelerator)
    trainer.add_callback(stop)
    with stop.listening():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.agreed and trainer.state.global_step < trainer.state.max_steps:
        if here.is_main_process:
            print(f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; {again()} goes on from there")
        sys.exit(128 + stop.agreed)
    if trainer.last_evaluated_step() < trainer.state.global_step:  # killed in the last evaluation, after the last checkpoint
        trainer.evaluate()
    if not here.is_main_process:
        return

    trainer.check_learnt()

    # 4. keep the best
    before = files.read_json_lines(output / "eval_history.jsonl")[0]
    details = {"audit": words, "trainable_parameters": planned.trainable, "seconds_a_step": round(seconds_a_step, 3)}
    save_result(config, trainer, tokenizer, data, details)
    kept = files.read_json(output / "best" / "evaluation.json")
    contents = manifest.build(
        fingerprint,
        settings.as_dict(config),
        {"dataset": data["fingerprint"], "splits": data["splits"], "trained_on": trained_on, "base_weights": base_hash,
         "adapter": files.sha256_file(output / ("model.safetensors" if config.FULL_FINE_TUNING else "adapter_model.safetensors"))},
        started,
        made_by=SCRIPT, iteration=data["iteration"], device=devices.describe(), compute_dtype=precision, processes=here.num_processes,
        kept=kept, before={k: v for k, v in before.items() if k not in ("specialties", "answers")},
        tokens=round(sum(len(example.input_ids) for example in examples) * trainer.state.epoch),
        # one that went on from another had more epochs, so what it gained tells nothing of one that did not
        recipe=files.sha256_of([recipe_of(config, here.num_processes, precision), bool(config.INIT_ADAPTER)])[:12],
    )  # fmt: skip
    manifest.finish(output, contents)
    for name in ("checkpoints", "best"):
        files.remove(output / name)
    report(config, contents, arguments.demo)


if __name__ == "__main__":
    run_script(main)
