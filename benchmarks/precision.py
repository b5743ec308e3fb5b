"""What each precision costs on this machine: a matrix product, one 4-bit layer, a training step, a decoding step.

    python benchmarks/precision.py

Rows are the precisions of `COMPUTE_DTYPE` that this device can compute in; the one that "auto" takes is marked. The layer has the shape
of issue reports (650 x 256 to 768). The steps are those of a Llama of SmolLM2's width with two layers and a vocabulary of 4,096 tokens,
with random weights in NF4 and an adapter of rank 16 on all linear layers, so that the slowest row takes minutes. The output on named
machines is in benchmarks/results/precision.md.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import side_by_side
import torch

from meerkat_workbench.device import devices, hub
from meerkat_workbench.device.devices import Precision
from meerkat_workbench.tuning import llm
from meerkat_workbench.tuning.generation.decoding import Decoder, Decoding, PromptRow

TOKENS, ROWS, NEW_TOKENS = 260, 32, 8  # of a training step, of a decoding batch, of each of its answers
MIN_SECONDS = 2.0  # for which each figure is measured


def seconds_each(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs; there is at least one after a first run that warms up."""
    work()
    fastest, until = float("inf"), time.perf_counter() + MIN_SECONDS
    while True:
        started = time.perf_counter()
        work()
        devices.synchronize()
        fastest = min(fastest, time.perf_counter() - started)
        if time.perf_counter() > until:
            return fastest


def product(precision: Precision) -> float:
    """Billions of operations per second in a product of 512 x 1024 by 1024 x 1024."""
    left, right = (torch.randn(n, 1024, device=devices.device()).to(devices.torch_dtype(precision)) for n in (512, 1024))
    return 2 * 512 * 1024 * 1024 / seconds_each(lambda: left @ right.T) / 1e9


def layer(precision: Precision) -> float:
    """Milliseconds for one 4-bit layer, forward and backward."""
    import bitsandbytes

    linear = bitsandbytes.nn.Linear4bit(256, 768, bias=False, compute_dtype=devices.torch_dtype(precision), quant_type="nf4")
    linear = linear.to(devices.device())
    inputs = torch.randn(650, 256, device=devices.device()).requires_grad_()
    return 1000 * seconds_each(lambda: linear(inputs).sum().backward())


def steps(precision: Precision, folder: Path) -> tuple[float, float]:
    """Seconds of a training step (forward, backward) on TOKENS tokens, and of a decoding step for ROWS rows."""
    from peft import LoraConfig, get_peft_model

    base: Any = llm.load_base(str(folder), load_in_4bit=True, precision=precision)
    llm.disable_4bit_reordering(base)
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = torch.randint(0, base.config.vocab_size, (6, TOKENS // 6), device=devices.device())

    def train() -> None:
        with devices.autocast(model):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()

    training = seconds_each(train)
    decoder = Decoder(model.eval(), Decoding(NEW_TOKENS, 0.0, 0, (base.config.vocab_size,), 0))
    rows = [PromptRow(str(n), tuple(range(20, 60))) for n in range(ROWS)]
    return training, seconds_each(lambda: decoder.decode(rows)) / NEW_TOKENS


def main() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    hub.silence_libraries()
    print(f"{side_by_side.machine()}, bitsandbytes {metadata.version('bitsandbytes')}\n")
    print("| precision | product, GFLOP/s | 4-bit layer, ms | training step, s | decoding step, s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        config = LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=2, num_attention_heads=9,
                             num_key_value_heads=3, vocab_size=4096, tie_word_embeddings=True)  # fmt: skip
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(name)
        for precision in devices.PRECISIONS:
            if precision == "fp16" and devices.device().type == "cpu":
                continue
            training, decoding = steps(precision, Path(name))
            mark = " (auto)" if precision == devices.native_precision() else ""
            print(
                f"| {precision}{mark} | {product(precision):.0f} | {layer(precision):.1f} | {training:.2f} | {decoding:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
