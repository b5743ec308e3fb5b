"""What benchmarks with several arms share: each arm in a process of its own, and the machine named."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = "RESULT "
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def report(result: dict[str, Any]) -> None:
    """In the process of an arm: hand its figures to `run`."""
    print(RESULT + json.dumps(result))


def run(script: str, arms: list[str]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Each arm, run by this script's own command with `--arm`, and its figures, or why it has none."""
    for arm in arms:
        command = [sys.executable, script, *sys.argv[1:], "--arm", arm]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        line = next((text for text in done.stdout.splitlines() if text.startswith(RESULT)), None)
        if line is None:
            yield arm, (done.stderr.strip().splitlines() or ["no output"])[-1][:160]
        else:
            yield arm, json.loads(line.removeprefix(RESULT))


def machine() -> str:
    """Processor, those of its flags that matter for speed, cores and torch."""
    import torch

    if torch.cuda.is_available():
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        return f"{torch.cuda.get_device_name()}, compute capability {capability}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = [line.split(":", 1) for line in (info.read_text().splitlines() if info.is_file() else []) if ":" in line]
    told = {name.strip(): value.strip() for name, value in lines}
    name = told.get("model name") or platform.processor() or platform.machine()
    there = told.get("flags", told.get("Features", "")).split()
    flags = " ".join(flag for flag in FLAGS if flag in there) or platform.machine()
    return f"{name} ({flags}), {os.cpu_count()} cores, torch {torch.__version__}"
