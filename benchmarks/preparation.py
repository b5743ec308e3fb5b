"""How long data preparation takes, and how much memory, at 15 k, 100 k and 1 M pairs in 42 files.

    python benchmarks/preparation.py [PAIRS ...]

The pairs are made here. They are as long as MedQuAD's (an answer has 138 words in the median), and one in fifty is a
near-duplicate of another. The output on a named machine is in benchmarks/results/preparation.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
SPECIALTIES = 42


def make_files(folder: Path, pairs: int, seed: int = 0) -> None:
    """Write pairs of random words with Zipf's frequencies and log-normal lengths; 2% are near-duplicates."""
    draw = random.Random(seed)
    vocabulary = [
        f"{draw.choice('bcdfglmnprst')}{draw.choice('aeiou')}{draw.choice('bcdlmnrst')}{number:x}" for number in range(30_000)
    ]
    weights = [1 / (rank + 10) for rank in range(len(vocabulary))]
    stream = draw.choices(vocabulary, weights, k=2_000_000)
    folder.mkdir(parents=True)
    for specialty in range(SPECIALTIES):
        content: dict[str, str] = {}
        last = ("", "")
        for number in range(pairs // SPECIALTIES):
            if number % 50 == 49:
                question, answer = last[0] + " please", last[1] + " indeed"
            else:
                length = min(4000, max(8, round(draw.lognormvariate(4.93, 0.8))))
                at = draw.randrange(len(stream) - length - 12)
                question = f"What is {' '.join(stream[at : at + 7])} {specialty}x{number}?"
                answer = " ".join(stream[at + 7 : at + 7 + length]) + "."
            content[question] = answer
            last = (question, answer)
        (folder / f"dataset_with_answers_specialty_{specialty:02d}.json").write_text(json.dumps(content), encoding="utf-8")


def run_and_watch(command: list[str]) -> tuple[float, float]:
    """Seconds, and the peak memory in MB that the process and its children hold together (proportional set size)."""
    started = time.perf_counter()
    process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        memory = 0
        with contextlib.suppress(psutil.Error):
            for member in [process, *process.children(recursive=True)]:
                memory += member.memory_full_info().pss
        peak = max(peak, memory / 1e6)
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return time.perf_counter() - started, peak


def main(sizes: list[int]) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}")
    print(f"{'pairs':>10}{'input MB':>10}{'seconds':>10}{'peak MB':>10}{'again, s':>10}")
    for size in sizes:
        base = Path(tempfile.mkdtemp(prefix="preparation-"))
        try:
            make_files(base / "files", size)
            megabytes = sum(path.stat().st_size for path in (base / "files").iterdir()) / 1e6
            command = [sys.executable, "dataset_preparation.py", f"DATA_DIR={base / 'files'}", f"OUTPUT_DIR={base / 'out'}"]
            seconds, peak = run_and_watch(command)
            again, _ = run_and_watch(command)
            print(f"{size:>10,}{megabytes:>10.0f}{seconds:>10.1f}{peak:>10.0f}{again:>10.1f}", flush=True)
        finally:
            shutil.rmtree(base)


if __name__ == "__main__":
    main([int(value) for value in sys.argv[1:]] or [15_000, 100_000, 1_000_000])
