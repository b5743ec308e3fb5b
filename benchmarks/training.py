"""Fine-tuning side by side: the plain recipe, TRL at its best, Unsloth, LoRA without 4 bits, and this workbench.

    python benchmarks/training.py                                    SmolLM2-135M on this machine
    python benchmarks/training.py --random-weights 8b                Llama-3-8B's shape, quantised on the GPU
    python benchmarks/training.py --dataset datasets --model FOLDER  real text and weights

Every arm sees the same examples in the same order, in steps of the same global batch, and runs in a process of its own.
Without --dataset the examples are random ids as long as MedQuAD's. A useful token is one that is not padding; the first
steps of an arm are not timed. The output on named machines is in benchmarks/results/training.md.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import math
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import side_by_side

WARM_UP = 2  # steps that are not timed
# tokens of MedQuAD's question and answer in Llama-3's vocabulary: mean 270, log-normal except for a long tail that is cut
LENGTH_MU, LENGTH_SIGMA, MAX_LENGTH = 5.25, 0.8, 2048
LEARNING_RATE, RANK, ALPHA, TARGETS = 2e-4, 16, 32, "all-linear"
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, from the data sheets


def examples(options: argparse.Namespace, vocabulary: int) -> list[dict[str, Any]]:
    """Examples for all steps of an arm, then `--eval` more to measure the final loss on; the same for every arm."""
    wanted = options.global_batch * options.steps + options.eval
    if options.dataset:
        from meerkat_workbench.tuning import llm
        from meerkat_workbench.tuning.artifacts import Split
        from meerkat_workbench.tuning.data import dataset_folders
        from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord
        from meerkat_workbench.tuning.training.examples import encode_records

        dataset: Any = dataset_folders.load_dataset(Path(options.dataset), Split.TRAIN).shuffle(seed=0)
        records = (PreparedRecord(**row) for row in dataset)
        encoded, _ = encode_records(records, llm.load_tokenizer(options.model), max_length=MAX_LENGTH,
                                    long_examples="truncate", terminator="")  # fmt: skip
        if len(encoded) < wanted:
            sys.exit(f"{options.dataset}: has {len(encoded)} training examples, and {wanted} are needed; lower --steps.")
        return [{"id": e.id, "input_ids": e.input_ids, "labels": e.labels} for e in encoded[:wanted]]
    draw = random.Random(0)
    rows = []
    for number in range(wanted):
        length = min(MAX_LENGTH, max(24, round(draw.lognormvariate(LENGTH_MU, LENGTH_SIGMA))))
        ids = [draw.randrange(10, vocabulary) for _ in range(length)]
        prompt = min(length - 4, draw.randint(16, 40))
        rows.append({"id": str(number), "input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return rows


def load(options: argparse.Namespace, *, load_in_4bit: bool) -> Any:
    """The base model."""
    import random_weights

    from meerkat_workbench.device import devices, hub
    from meerkat_workbench.tuning import llm

    hub.silence_libraries()
    if options.random_weights:
        return random_weights.build(options.random_weights, load_in_4bit=load_in_4bit)
    return llm.load_base(options.model, load_in_4bit=load_in_4bit, precision=devices.native_precision())


def vocabulary_of(options: argparse.Namespace) -> int:
    import random_weights

    from meerkat_workbench.tuning import llm

    if options.random_weights:
        return int(random_weights.SHAPES[options.random_weights]["vocab_size"])
    return int(llm.load_config(options.model).vocab_size)


class Clock:
    """A trainer callback that times optimizer steps; its base class is imported when one is made."""

    def __new__(cls) -> Any:
        import torch
        from transformers import TrainerCallback

        class Timer(TrainerCallback):
            def __init__(self) -> None:
                self.stamps: list[float] = []

            def stamp(self) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                self.stamps.append(time.perf_counter())

            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.stamp()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                self.stamp()

        return Timer()


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, bias="none", task_type="CAUSAL_LM")


def arguments(options: argparse.Namespace, kind: Any, folder: str, micro: int, **more: Any) -> Any:
    """Trainer arguments that are the same for every library; `micro` examples pass through the device at once."""
    from meerkat_workbench.device import devices

    precision = devices.native_precision()
    return kind(
        output_dir=folder, max_steps=options.steps, learning_rate=LEARNING_RATE, lr_scheduler_type="constant",
        warmup_steps=0, max_grad_norm=1.0, bf16=precision == "bf16", fp16=precision == "fp16",
        use_cpu=devices.device().type == "cpu", report_to=[],
        save_strategy="no", logging_steps=1000, disable_tqdm=True, remove_unused_columns=False, seed=0,
        per_device_train_batch_size=micro, gradient_accumulation_steps=max(1, options.global_batch // micro), **more,
    )  # fmt: skip


def in_order(trainer: Any) -> Any:
    """The trainer, made to take its examples in their given order, as every arm does."""
    import torch

    from meerkat_workbench.trainers.batch_sampler import keep_as_list
    from meerkat_workbench.trainers.token_budget import TokenBudgetTrainer

    if isinstance(trainer, TokenBudgetTrainer):  # its batches are whole steps, in an order of its own
        size = trainer.args.per_device_train_batch_size
        trainer.get_train_dataloader = lambda: torch.utils.data.DataLoader(  # type: ignore[method-assign]
            trainer.examples,  # type: ignore[arg-type]
            batch_size=size,
            collate_fn=keep_as_list,
        )
    else:
        trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(trainer.train_dataset)
    return trainer


def pad_to_longest(rows: Sequence[dict[str, Any]], pad_id: int) -> dict[str, Any]:
    """Collate into (batch, longest) tensors, padded on the right; padding is masked by length, not by its id."""
    from meerkat_workbench.device import tensors

    ids, labels = ([list(row[name]) for row in rows] for name in ("input_ids", "labels"))
    return {"input_ids": tensors.pad(ids, pad_id), "labels": tensors.pad(labels, -100), "attention_mask": tensors.mask_of(ids)}


def plain(options: argparse.Namespace, rows: list[dict[str, Any]], folder: str) -> Any:
    """The recipe of most tutorials: transformers' Trainer, padded batches of 4, everything recomputed."""
    from datasets import Dataset
    from peft import get_peft_model, prepare_model_for_kbit_training
    from transformers import Trainer, TrainingArguments

    model = prepare_model_for_kbit_training(load(options, load_in_4bit=True))
    wrapped = get_peft_model(model, lora())
    more = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    return Trainer(
        model=wrapped,
        args=arguments(options, TrainingArguments, folder, 4, **more),
        train_dataset=Dataset.from_list([{k: row[k] for k in ("input_ids", "labels")} for row in rows]),
        data_collator=functools.partial(pad_to_longest, pad_id=0),
    )


def trl(options: argparse.Namespace, rows: list[dict[str, Any]], folder: str, *, micro: int = 8, **more: Any) -> Any:
    """TRL's SFTTrainer on ids and completion masks, nothing recomputed; TRL masks, pads or packs by itself."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model = load(options, load_in_4bit=True)
    given = [{"input_ids": row["input_ids"], "completion_mask": [int(label != -100) for label in row["labels"]]} for row in rows]
    settings = {"max_length": MAX_LENGTH, "pad_token": None, "gradient_checkpointing": False} | more
    settings.pop("pad_token")
    config = arguments(options, SFTConfig, folder, micro, **settings)
    return SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(given), processing_class=tokenizer(options),
                      peft_config=lora())  # fmt: skip


def trl_checkpointed(options: argparse.Namespace, rows: list[dict[str, Any]], folder: str) -> Any:
    return trl(options, rows, folder, micro=16, gradient_checkpointing=True)


def trl_packed(options: argparse.Namespace, rows: list[dict[str, Any]], folder: str) -> Any:
    """Best-fit packing into rows of 2,048 tokens; with a flash kernel where `kernels` or flash-attn is installed."""
    return trl(options, rows, folder, micro=max(1, options.global_batch // 8), packing=True, packing_strategy="bfd")


def unsloth(options: argparse.Namespace, rows: list[dict[str, Any]], folder: str) -> Any:
    """Unsloth's patches with its own loader, which reads a folder; needs the package and a GPU."""
    from unsloth import FastLanguageModel

    source = options.model
    if options.random_weights:
        source = str(Path(folder) / "weights")
        load(options, load_in_4bit=False).save_pretrained(source)
        tokenizer(options).save_pretrained(source)
    model, processing = FastLanguageModel.from_pretrained(source, max_seq_length=MAX_LENGTH, load_in_4bit=True)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = FastLanguageModel.get_peft_model(model, r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=names,
                                             use_gradient_checkpointing="unsloth")  # fmt: skip
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=model, processing_class=processing, data_collator=functools.partial(pad_to_longest, pad_id=processing.pad_token_id),
        args=arguments(options, SFTConfig, folder, 8, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None),
        train_dataset=Dataset.from_list([{k: row[k] for k in ("input_ids", "labels")} for row in rows]),
    )  # fmt: skip


def ours(options: argparse.Namespace, rows: list[dict[str, Any]], folder: str, *, load_in_4bit: bool = True) -> Any:
    """What fine_tuning.py does, with its own choice of micro-batches unless one is given."""
    from meerkat_workbench.device import devices
    from meerkat_workbench.recipes import fine_tuning
    from meerkat_workbench.tuning.training import build
    from meerkat_workbench.tuning.training.eval_loss import LossEvaluator
    from meerkat_workbench.tuning.training.examples import Example
    from meerkat_workbench.tuning.training.load_examples import TrainingExamples

    config = fine_tuning.TrainingConfig()
    given = {"OUTPUT_DIR": folder, "LOAD_IN_4BIT": load_in_4bit, "LORA_RANK": RANK, "LORA_ALPHA": ALPHA, "LORA_DROPOUT": 0.0,
             "LORA_TARGET_MODULES": [TARGETS], "BATCH_SIZE": options.global_batch, "GRADIENT_ACCUMULATION_STEPS": 1,
             "LEARNING_RATE": LEARNING_RATE, "LR_SCHEDULER": "constant", "WARMUP_RATIO": 0.0, "NUM_EPOCHS": 1.0,
             "MAX_TOKENS_PER_BATCH": options.tokens, "ACTIVATION_CHECKPOINTING": options.checkpointing, "RANDOM_SEED": 0,
             "SAMPLE_QUESTIONS": 0}  # fmt: skip
    for name, value in given.items():
        setattr(config, name, value)
    spec = fine_tuning.spec_of(config)
    train = [Example(row["id"], "all", row["input_ids"], row["labels"]) for row in rows]
    training_examples = TrainingExamples(train, train[:1], audit=[])
    model = load(options, load_in_4bit=load_in_4bit)
    precision = devices.native_precision()
    micro_batches = build.choose_micro_batches(
        model, training_examples, spec.options, tokens=spec.tokens_per_batch, checkpointing=spec.checkpointing,
        shard_base=spec.shard_base, precision=precision,
    )  # fmt: skip
    evaluator = LossEvaluator(training_examples.eval, spec.best_metric)
    trainer: Any = build.build_trainer(
        model, tokenizer(options), training_examples, spec.part, spec.options, micro_batches, evaluator, output=Path(folder),
        patience=spec.patience, shard_base=spec.shard_base, precision=precision,
    )  # fmt: skip
    trainer.args.max_steps, trainer.args.eval_strategy, trainer.args.save_strategy = options.steps, "no", "no"
    trainer.how = f"{micro_batches.tokens:,} tokens a micro-batch, recomputing {micro_batches.checkpointing}"
    return trainer


def ours_unquantised(options: argparse.Namespace, rows: list[dict[str, Any]], folder: str) -> Any:
    return ours(options, rows, folder, load_in_4bit=False)


ARMS = {
    "plain": plain,
    "trl": trl,
    "trl-checkpointed": trl_checkpointed,
    "trl-packed": trl_packed,
    "unsloth": unsloth,
    "ours-lora": ours_unquantised,
    "ours": ours,
}


def tokenizer(options: argparse.Namespace) -> Any:
    """The model's own tokenizer, or SmolLM2's for random weights, which need no more of it than a pad token."""
    from meerkat_workbench.tuning import llm, smollm2

    return llm.load_tokenizer(smollm2.NAME if options.random_weights else options.model)


def run_arm(options: argparse.Namespace) -> None:
    """One arm, in this process; prints a JSON line."""
    import torch

    rows = examples(options, vocabulary_of(options))
    train, held_out = rows[: options.global_batch * options.steps], rows[options.global_batch * options.steps :]
    with tempfile.TemporaryDirectory() as folder:
        trainer = in_order(ARMS[options.arm](options, train, folder))
        clock = Clock()
        trainer.add_callback(clock)
        if torch.cuda.is_available():  # the peak is that of training, not of loading
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with profiled(options.profile):
            trainer.train()
        memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        loss = final_loss(trainer, held_out)
    # a step of a trainer that packs by itself is no multiple of the global batch, so the tokens that were trained are counted
    steps = len(clock.stamps) - 1
    per_step = [sum(len(row["input_ids"]) for row in train[i : i + options.global_batch]) for i in
                range(0, len(train), options.global_batch)]  # fmt: skip
    seconds = clock.stamps[-1] - clock.stamps[WARM_UP]
    useful = trained_tokens(trainer, per_step, steps)
    rate = useful * (steps - WARM_UP) / steps / seconds
    side_by_side.report({
        "arm": options.arm, "tokens_a_second": rate, "seconds_a_step": seconds / (steps - WARM_UP), "steps": steps,
        "peak_gb": (memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 1e9, "loss": loss,
        "mfu": flops_a_token(trainer.model) * rate / peak() if peak() else None, "how": getattr(trainer, "how", ""),
    })  # fmt: skip


@contextlib.contextmanager
def profiled(wanted: bool) -> Iterator[None]:
    """Print what takes the time on the GPU; profiling slows the run, so its figures do not compare."""
    if not wanted:
        yield
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        yield
    print(profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=28, max_name_column_width=60))


def trained_tokens(trainer: Any, per_step: list[int], steps: int) -> int:
    """Useful tokens of the whole run; a trainer that packs by itself has counted them."""
    if getattr(trainer.args, "packing", False):
        return int(trainer._total_train_tokens)
    return sum(per_step[:steps])


def final_loss(trainer: Any, rows: list[dict[str, Any]]) -> float:
    """Nats per supervised token on examples that no arm was trained on, computed the same way for all arms."""
    import torch

    from meerkat_workbench.device import devices

    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    nats = tokens = 0.0
    device = next(p for p in model.parameters() if p.requires_grad).device
    with torch.no_grad(), devices.autocast(model):
        for row in rows:
            ids = torch.tensor([row["input_ids"]], device=device)
            labels = torch.tensor(row["labels"][1:], device=device)
            logits = model(input_ids=ids).logits[0, :-1].float()
            supervised = labels != -100
            nats += float(torch.nn.functional.cross_entropy(logits[supervised], labels[supervised], reduction="sum"))
            tokens += int(supervised.sum())
    return nats / tokens


def flops_a_token(model: Any) -> float:
    """Operations per token that forward and backward need without recomputation.

    That is 4 per weight of frozen layers, whose own gradient is not needed. Attention's own products are left out: they depend on
    lengths and are a few percent here.
    """
    config = model.config
    width, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    keys = width * config.num_key_value_heads // config.num_attention_heads
    return 4.0 * (layers * (2 * width * width + 2 * width * keys + 3 * width * wide) + width * config.vocab_size)


def peak() -> float | None:
    """Operations per second that this GPU can do, where it is known."""
    import torch

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((flops for key, flops in PEAK_FLOPS.items() if key in name), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--random-weights", choices=("8b", "1b", "tiny"))
    parser.add_argument("--dataset", help="a folder of dataset_preparation.py")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--global-batch", type=int, default=64, help="examples in an optimizer step")
    parser.add_argument("--eval", type=int, default=32, help="examples that the final loss is measured on")
    parser.add_argument("--tokens", type=int, default=0, help="tokens in a micro-batch of ours; 0 chooses")
    parser.add_argument("--checkpointing", default="auto")
    parser.add_argument("--profile", action="store_true", help="with --arm: print what takes the time on the GPU")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        run_arm(options)
        return
    print(f"{side_by_side.machine()}, global batch {options.global_batch}, {options.steps} steps, "
          f"{options.random_weights or options.model}, {options.dataset or 'random ids, MedQuAD lengths'}")  # fmt: skip
    print(f"{'arm':<18}{'useful tok/s':>13}{'s a step':>10}{'peak GB':>9}{'MFU':>7}{'final loss':>12}  how")
    for arm, got in side_by_side.run(__file__, options.arms.split(",")):
        if isinstance(got, str):
            print(f"{arm:<18}failed: {got}", flush=True)
            continue
        mfu = f"{100 * got['mfu']:.0f}%" if got["mfu"] else "-"
        loss = f"{got['loss']:.3f}" if math.isfinite(got["loss"]) else "-"
        print(f"{arm:<18}{got['tokens_a_second']:>13,.0f}{got['seconds_a_step']:>10.2f}{got['peak_gb']:>9.2f}{mfu:>7}"
              f"{loss:>12}  {got['how']}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
