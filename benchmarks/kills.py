"""A run is killed at random moments and resumed until it is finished: does it end with the results of an undisturbed run?

    python benchmarks/kills.py training --kills 50
    python benchmarks/kills.py evaluation --kills 50

SmolLM2-135M is trained on sample specialties, or evaluated on them. Each start is killed (SIGKILL) at a random moment within
the time that an undisturbed run takes after its first announcement, so that kills fall into steps, batches, scoring and the
writing of files alike. The output on named machines is in benchmarks/results/kills.md.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
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

from meerkat_workbench.core.runs import MANIFEST
from meerkat_workbench.tuning.artifacts import (
    BASE,
    FEW_SHOT,
    TUNED,
    EvalPoint,
    Likelihood,
    MetricComparison,
    Prediction,
    Preference,
    Recommendations,
    SpecialtyPerformance,
    answers_file,
)

ROOT = Path(__file__).resolve().parent.parent
SPECIALTIES = ("cardiology", "dentistry", "neurology", "urology")
RECORDS = 20  # of each specialty, so that a run takes about a minute on two cores


@dataclass(frozen=True)
class Job:
    """What is started and killed, and how its results are compared.

    Attributes:
        arguments: of the script, without OUTPUT_DIR.
        announces: how the line begins after which the script may be killed.
        results: files that must be equal, by the name under which their hash is printed.
        place_of: from an output folder to what was under way when the script was killed, as far as the folder shows.
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
        """Hashes of the results in an output folder, as they are printed."""
        by_name = {
            name: hashlib.sha256(b"".join((output / file).read_bytes() for file in of)).hexdigest()[:12]
            for name, of in self.results.items()
        }
        return ", ".join(f"{name} {digest}" for name, digest in by_name.items())


def training(work: Path) -> Job:
    """The training on the prepared data."""
    from meerkat_workbench.trainers.best_checkpoint import BEST_FOLDER
    from meerkat_workbench.trainers.checkpoints import WRITING
    from meerkat_workbench.tuning.model_folders import ADAPTER_WEIGHTS
    from meerkat_workbench.tuning.training.build import CHECKPOINTS

    def place_of(output: Path) -> str:
        if (output / CHECKPOINTS / WRITING).exists():
            return "a checkpoint half written"
        if (output / f".{BEST_FOLDER}.tmp").exists():
            return "the best adapter half written"
        return "before a checkpoint" if not any(output.glob(f"{CHECKPOINTS}/checkpoint-*")) else "after a checkpoint"

    settings = ("NUM_EPOCHS=2", "EVAL_STEPS=5", "SAVE_STEPS=2", "LOGGING_STEPS=1", "LORA_DROPOUT=0.05")
    return Job(
        "fine_tuning.py", (f"DATASET_DIR={work / 'datasets'}", *settings), "time: ",
        {"adapter": (ADAPTER_WEIGHTS,), "evaluations": (EvalPoint.FILE,)}, place_of,
    )  # fmt: skip


def evaluation(work: Path) -> Job:
    """The evaluation of an adapter that is trained first."""
    adapter = work / "adapter"
    lines, _ = follow(training(work).start(adapter), "", None)
    if not (adapter / MANIFEST).is_file():
        sys.exit("the training failed:\n" + "\n".join(lines[-20:]))

    def place_of(output: Path) -> str:
        stored = output / Prediction.FILE
        if not stored.exists():
            return "before an answer"
        if (output / answers_file(BASE)).exists():
            return "while results were written"
        if (output / Likelihood.FILE).exists():
            return "among likelihoods of answers"
        if (output / Preference.FILE).exists():
            return "among preferences"
        return "among base answers" if f'"{TUNED}"' not in stored.read_text() else "among tuned answers"

    return Job(
        "evaluation.py", (f"DATASET_DIR={work / 'datasets'}", f"FINETUNED_MODEL_PATH={adapter}", "BATCH_SIZE=8", "MAX_NEW_TOKENS=32", "MAX_SAMPLES_PER_SPECIALTY=4"),
        "loading libraries", {"answers": (answers_file(BASE), answers_file(TUNED), answers_file(FEW_SHOT)),
                             "scores": (MetricComparison.FILE, SpecialtyPerformance.FILE, Recommendations.FILE)}, place_of,
    )  # fmt: skip


def follow(process: subprocess.Popen[str], announces: str, after: float | None) -> tuple[list[str], float]:
    """Read what a process prints until it ends.

    Args:
        announces: how the line begins from which seconds are counted.
        after: seconds after which it is killed; None lets it end by itself.

    Returns:
        Its lines, and the seconds from the announcement to its end.
    """
    lines, announced, timer = [], 0.0, None
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith(announces) and not announced:
            announced = time.perf_counter()
            if after is not None:
                timer = threading.Timer(after, lambda: os.killpg(process.pid, signal.SIGKILL))
                timer.start()
    process.wait()
    if timer is not None:
        timer.cancel()
    return lines, time.perf_counter() - announced


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
            records = json.loads((ROOT / "examples" / "specialties" / file).read_text())
            (work / "files" / file).write_text(json.dumps(dict(list(records.items())[:RECORDS])))
        subprocess.run([sys.executable, "dataset_preparation.py", f"DATA_DIR={work / 'files'}", f"OUTPUT_DIR={work / 'datasets'}",
                        "CHAT_TEMPLATE=smollm2"],
                       cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        job = {"training": training, "evaluation": evaluation}[options.job](work)
        lines, seconds = follow(job.start(work / "alone"), job.announces, None)
        if not (work / "alone" / MANIFEST).is_file():
            sys.exit("the undisturbed run failed:\n" + "\n".join(lines[-20:]))
        undisturbed = job.digests(work / "alone")
        print(f"{options.job} undisturbed: {seconds:.1f} s after {job.announces!r}, {undisturbed}", flush=True)

        places: collections.Counter[str] = collections.Counter()
        kills = run = differing = 0
        while kills < options.kills:
            run += 1
            output, of_run = work / f"run{run}", 0
            while True:
                last = kills >= options.kills
                lines, _ = follow(process := job.start(output), job.announces, None if last else draw.uniform(0, seconds))
                if process.returncode == 0:
                    break
                if process.returncode != -signal.SIGKILL:
                    sys.exit(f"run {run} failed by itself after {of_run} kills:\n" + "\n".join(lines[-20:]))
                kills, of_run = kills + 1, of_run + 1
                places[job.place_of(output)] += 1
            digests = job.digests(output)
            differing += digests != undisturbed
            print(f"run {run}: {of_run} kills, {digests}: {'the same' if digests == undisturbed else 'DIFFERS'}", flush=True)
            shutil.rmtree(output)
    print(
        f"{kills} kills in {run} runs, {differing} ended differently; " + ", ".join(f"{n} {p}" for p, n in places.most_common())
    )
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
