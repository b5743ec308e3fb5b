"""Training killed at random moments and gone on with, until it is through: is the adapter the one of a run left alone?

    python benchmarks/kills.py --kills 50

The embedded model learns sample specialties. Each start is killed (SIGKILL) at a moment drawn anew from the time that
an undisturbed run takes after its plan, so that kills fall into steps, evaluations and the writing of checkpoints alike.
What it printed on named machines stands in benchmarks/results/kills.md.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPECIALTIES = ("cardiology", "dentistry", "neurology", "urology")
PLANNED = "time: "  # how the plan's last line begins


def start(work: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "fine_tuning.py", "--demo", f"DATASET_DIR={work / 'datasets'}", f"OUTPUT_DIR={output}",
               "NUM_EPOCHS=2", "EVAL_STEPS=5", "SAVE_STEPS=2", "LOGGING_STEPS=1", "LORA_DROPOUT=0.05"]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def follow(process: subprocess.Popen[str], after: float | None) -> tuple[list[str], float]:
    """Read what it prints until it ends or, `after` seconds from its plan, is killed; returns lines and seconds from plan."""
    said, planned, timer = [], 0.0, None
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line.rstrip())
        if line.startswith(PLANNED):
            planned = time.perf_counter()
            if after is not None:
                timer = threading.Timer(after, lambda: os.killpg(process.pid, signal.SIGKILL))
                timer.start()
    process.wait()
    if timer is not None:
        timer.cancel()
    return said, time.perf_counter() - planned


def place_of(output: Path) -> str:
    """What was under way when it was killed, as far as the folder tells."""
    if (output / "checkpoints" / ".writing").exists():
        return "a checkpoint half written"
    if (output / ".best.tmp").exists():
        return "the best adapter half written"
    return "before a checkpoint" if not any(output.glob("checkpoints/checkpoint-*")) else "after a checkpoint"


def digest(output: Path) -> str:
    return hashlib.sha256((output / "adapter_model.safetensors").read_bytes()).hexdigest()[:12]


def history(output: Path) -> str:
    return hashlib.sha256((output / "eval_history.jsonl").read_bytes()).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        subprocess.run([sys.executable, "dataset_preparation.py", f"DATA_DIR={work / 'files'}", f"OUTPUT_DIR={work / 'datasets'}"],
                       cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        said, seconds = follow(start(work, work / "alone"), None)
        if not (work / "alone" / "manifest.json").is_file():
            sys.exit("the undisturbed run failed:\n" + "\n".join(said[-20:]))
        wanted = digest(work / "alone"), history(work / "alone")
        print(f"undisturbed: {seconds:.1f} s after the plan, adapter {wanted[0]}, evaluations {wanted[1]}", flush=True)

        places: collections.Counter[str] = collections.Counter()
        kills = run = differing = 0
        while kills < options.kills:
            run += 1
            output, of_run = work / f"run{run}", 0
            while True:
                last = kills >= options.kills
                said, _ = follow(process := start(work, output), None if last else draw.uniform(0, seconds))
                if process.returncode == 0:
                    break
                if process.returncode != -signal.SIGKILL:
                    sys.exit(f"run {run} failed by itself after {of_run} kills:\n" + "\n".join(said[-20:]))
                kills, of_run = kills + 1, of_run + 1
                places[place_of(output)] += 1
            found = digest(output), history(output)
            differing += found != wanted
            print(f"run {run}: {of_run} kills, adapter {found[0]}, evaluations {found[1]}: "
                  f"{'the same' if found == wanted else 'DIFFERS'}", flush=True)  # fmt: skip
            shutil.rmtree(output)
    print(
        f"{kills} kills in {run} runs, {differing} ended differently; " + ", ".join(f"{n} {p}" for p, n in places.most_common())
    )
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
