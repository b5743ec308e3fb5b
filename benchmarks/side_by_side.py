"""Shared by benchmarks with several arms: running each arm in a process of its own, and naming the machine."""

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
    """Hand an arm's figures to `run`; called in the process of the arm."""
    print(RESULT + json.dumps(result))


def run(script: str, arms: list[str]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Run each arm by this script's own command with `--arm`; yields its name with its figures, or with the reason why it has none."""
    for arm in arms:
        command = [sys.executable, script, *sys.argv[1:], "--arm", arm]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        line = next((text for text in done.stdout.splitlines() if text.startswith(RESULT)), None)
        if line is None:
            yield arm, (done.stderr.strip().splitlines() or ["no output"])[-1][:160]
        else:
            yield arm, json.loads(line.removeprefix(RESULT))


def machine() -> str:
    """The processor with those of its flags that matter for speed, its cores, and the version of torch; or the GPU."""
    import torch

    if torch.cuda.is_available():
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        return f"{torch.cuda.get_device_name()}, compute capability {capability}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = [line.split(":", 1) for line in (info.read_text().splitlines() if info.is_file() else []) if ":" in line]
    fields = {name.strip(): value.strip() for name, value in lines}
    name = fields.get("model name") or platform.processor() or platform.machine()
    present = fields.get("flags", fields.get("Features", "")).split()
    flags = " ".join(flag for flag in FLAGS if flag in present) or platform.machine()
    return f"{name} ({flags}), {os.cpu_count()} cores, torch {torch.__version__}"
