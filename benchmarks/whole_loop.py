"""The three scripts in turn on a model of known shape with random weights, each timed: does the whole loop run here?

    python benchmarks/whole_loop.py --shape 8b                 Llama-3-8B's shape, on a GPU
    python benchmarks/whole_loop.py --shape tiny               on any machine
    python benchmarks/whole_loop.py --shape 8b --dtype fp16    with loss scaling, as older GPUs need it

The model is written to a folder and read again by each script, so loading and quantising are those of a user's run. The
tokenizer is SmolLM2's, the records are those of the sample specialties, and BERTScore's encoder has random weights. Scores
mean nothing here. The output on named machines is in benchmarks/results/whole_loop.md.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import side_by_side

ROOT = Path(__file__).resolve().parent.parent
SPECIALTIES = "cardiology,dentistry,dermatology,neurology,psychiatry,urology"


def write_models(shape: str, model: Path, encoder: Path) -> None:
    """Write a folder with a base model, and one with an encoder for BERTScore, both with random weights."""
    import random_weights
    from transformers import BertConfig, BertModel

    from meerkat_workbench.device import hub
    from meerkat_workbench.tuning import llm, smollm2

    hub.silence_libraries()
    tokenizer = llm.load_tokenizer(smollm2.NAME)
    base = random_weights.build(shape, load_in_4bit=False, vocabulary=len(tokenizer))
    base.generation_config.eos_token_id = tokenizer.eos_token_id
    base.config.eos_token_id = tokenizer.eos_token_id
    base.save_pretrained(model)
    tokenizer.save_pretrained(model)
    BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                         intermediate_size=128)).save_pretrained(encoder)  # fmt: skip
    tokenizer.save_pretrained(encoder)


def run(command: list[str]) -> float:
    """Run a script and return the seconds that it took; its output is printed afterwards, indented, and its failure ends the benchmark."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "HF_HUB_OFFLINE": "1"})  # fmt: skip
    seconds = time.perf_counter() - started
    print(f"{command[0]}: {seconds:.0f} s, exit code {done.returncode}", flush=True)
    lines = [line for line in re.split(r"[\r\n]+", done.stdout + done.stderr) if line.strip()]
    print("\n".join(f"    {line[:200]}" for line in (lines if done.returncode else lines[-30:])), flush=True)
    if done.returncode:
        sys.exit(1)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("8b", "1b", "tiny"), default="tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--new-tokens", type=int, default=64)
    options = parser.parse_args()
    print(f"{side_by_side.machine()}, {options.shape}, COMPUTE_DTYPE={options.dtype}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        started = time.perf_counter()
        # in a process of its own, so that its memory on the GPU is free again afterwards
        subprocess.run([sys.executable, "-c", "import whole_loop; from pathlib import Path; "
                        f"whole_loop.write_models({options.shape!r}, Path({str(place / 'model')!r}), Path({str(place / 'encoder')!r}))"],
                       check=True, cwd=ROOT / "benchmarks")  # fmt: skip
        print(f"writing the model: {time.perf_counter() - started:.0f} s", flush=True)
        run(["dataset_preparation.py", "DATA_DIR=examples/specialties", f"SPECIALTIES={SPECIALTIES}", "CHAT_TEMPLATE=smollm2",
             f"OUTPUT_DIR={place / 'datasets'}", "HOLDOUT_SAMPLES_PER_SPECIALTY=5"])  # fmt: skip
        run(["fine_tuning.py", f"MODEL_NAME={place / 'model'}", f"DATASET_DIR={place / 'datasets'}", f"OUTPUT_DIR={place / 'results'}",
             "NUM_EPOCHS=2", "LORA_TARGET_MODULES=all-linear", f"COMPUTE_DTYPE={options.dtype}", "LOGGING_STEPS=1", "SAMPLE_QUESTIONS=0"])  # fmt: skip
        run(["evaluation.py", f"FINETUNED_MODEL_PATH={place / 'results'}", f"DATASET_DIR={place / 'datasets'}",
             f"OUTPUT_DIR={place / 'evaluation'}", f"BERTSCORE_MODEL={place / 'encoder'}", f"MAX_NEW_TOKENS={options.new_tokens}",
             f"COMPUTE_DTYPE={options.dtype}"])  # fmt: skip


if __name__ == "__main__":
    main()
