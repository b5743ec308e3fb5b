"""Killed at random moments and gone on with, until it is through: does it end with what a run left alone ends with?

    python benchmarks/kills.py training --kills 50
    python benchmarks/kills.py evaluation --kills 50

SmolLM2-135M learns sample specialties, or is asked about them. Each start is killed (SIGKILL) at a moment drawn anew
from the time that an undisturbed run takes after its first announcement, so that kills fall into steps, batches, scoring
and the writing of files alike. What it printed on named machines stands in benchmarks/results/kills.md.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPECIALTIES = ("cardiology", "dentistry", "neurology", "urology")


@dataclass(frozen=True)
class Job:
    """What is started and killed: a script's arguments but for its OUTPUT_DIR, and how its end is told from another's.

    Args:
        announces: how the line begins from which on it is killed.
        results: files that must be the same, by the name under which their hash is printed.
        place_of: what was under way when it was killed, as far as its folder tells.
    """

    script: str
    arguments: tuple[str, ...]
    announces: str
    results: dict[str, tuple[str, ...]]
    place_of: Callable[[Path], str]

    def start(self, output: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, self.script, "--demo", *self.arguments, f"OUTPUT_DIR={output}"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip

    def digests(self, output: Path) -> str:
        found = {
            name: hashlib.sha256(b"".join((output / file).read_bytes() for file in of)).hexdigest()[:12]
            for name, of in self.results.items()
        }
        return ", ".join(f"{name} {digest}" for name, digest in found.items())


def training(work: Path) -> Job:
    def place_of(output: Path) -> str:
        if (output / "checkpoints" / ".writing").exists():
            return "a checkpoint half written"
        if (output / ".best.tmp").exists():
            return "the best adapter half written"
        return "before a checkpoint" if not any(output.glob("checkpoints/checkpoint-*")) else "after a checkpoint"

    settings = ("NUM_EPOCHS=2", "EVAL_STEPS=5", "SAVE_STEPS=2", "LOGGING_STEPS=1", "LORA_DROPOUT=0.05")
    return Job(
        "fine_tuning.py", (f"DATASET_DIR={work / 'datasets'}", *settings), "time: ",
        {"adapter": ("adapter_model.safetensors",), "evaluations": ("eval_history.jsonl",)}, place_of,
    )  # fmt: skip


def evaluation(work: Path) -> Job:
    """The evaluation of an adapter that is trained first."""
    adapter = work / "adapter"
    done, _ = follow(training(work).start(adapter), "", None)
    if not (adapter / "manifest.json").is_file():
        sys.exit("the training failed:\n" + "\n".join(done[-20:]))

    def place_of(output: Path) -> str:
        stored = output / "predictions.jsonl"
        if not stored.exists():
            return "before an answer"
        if (output / "base_model_results.csv").exists():
            return "while results were written"
        if (output / "likelihoods.jsonl").exists():
            return "after likelihoods were begun"
        return "among base answers" if '"tuned"' not in stored.read_text() else "among tuned answers"

    return Job(
        "evaluation.py", (f"DATASET_DIR={work / 'datasets'}", f"FINETUNED_MODEL_PATH={adapter}", "BATCH_SIZE=8", "MAX_NEW_TOKENS=32", "MAX_SAMPLES_PER_SPECIALTY=4"),
        "loading libraries", {"answers": ("base_model_results.csv", "finetuned_model_results.csv", "retention.csv"),
                             "scores": ("model_comparison.csv", "specialty_performance.csv", "training_recommendations.json")}, place_of,
    )  # fmt: skip


def follow(process: subprocess.Popen[str], announces: str, after: float | None) -> tuple[list[str], float]:
    """Read what it prints until it ends or, `after` seconds from its announcement, is killed; returns lines and seconds from there."""
    said, planned, timer = [], 0.0, None
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line.rstrip())
        if line.startswith(announces) and not planned:
            planned = time.perf_counter()
            if after is not None:
                timer = threading.Timer(after, lambda: os.killpg(process.pid, signal.SIGKILL))
                timer.start()
    process.wait()
    if timer is not None:
        timer.cancel()
    return said, time.perf_counter() - planned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["training", "evaluation"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "files").mkdir()
        for name in SPECIALTIES:
            file = f"dataset_with_answers_{name}.json"
            shutil.copy(ROOT / "examples" / "specialties" / file, work / "files" / file)
        subprocess.run([sys.executable, "dataset_preparation.py", f"DATA_DIR={work / 'files'}", f"OUTPUT_DIR={work / 'datasets'}",
                        "CHAT_TEMPLATE=smollm2"],
                       cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        job = {"training": training, "evaluation": evaluation}[options.job](work)
        said, seconds = follow(job.start(work / "alone"), job.announces, None)
        if not (work / "alone" / "manifest.json").is_file():
            sys.exit("the undisturbed run failed:\n" + "\n".join(said[-20:]))
        wanted = job.digests(work / "alone")
        print(f"{options.job} undisturbed: {seconds:.1f} s after {job.announces!r}, {wanted}", flush=True)

        places: collections.Counter[str] = collections.Counter()
        kills = run = differing = 0
        while kills < options.kills:
            run += 1
            output, of_run = work / f"run{run}", 0
            while True:
                last = kills >= options.kills
                said, _ = follow(process := job.start(output), job.announces, None if last else draw.uniform(0, seconds))
                if process.returncode == 0:
                    break
                if process.returncode != -signal.SIGKILL:
                    sys.exit(f"run {run} failed by itself after {of_run} kills:\n" + "\n".join(said[-20:]))
                kills, of_run = kills + 1, of_run + 1
                places[job.place_of(output)] += 1
            found = job.digests(output)
            differing += found != wanted
            print(f"run {run}: {of_run} kills, {found}: {'the same' if found == wanted else 'DIFFERS'}", flush=True)
            shutil.rmtree(output)
    print(
        f"{kills} kills in {run} runs, {differing} ended differently; " + ", ".join(f"{n} {p}" for p, n in places.most_common())
    )
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
