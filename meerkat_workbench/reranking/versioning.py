"""Data under DVC: a folder is pulled from the remote, or made and then added and pushed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import MANIFEST


def ensure(folder: Path, make: Callable[[], object]) -> None:
    """Have the finished folder: from the DVC remote if it is there, and else made by `make`, then added and pushed.

    Raises:
        UserError: DVC is not installed, or the folder is in no DVC repository.
    """
    command = _dvc()
    root = next((parent for parent in folder.resolve().parents if (parent / ".dvc").is_dir()), None)
    if root is None:
        raise UserError(
            "is in no DVC repository", where=folder, item="DATA_VERSIONING=dvc", remedy="Run `dvc init` in the project's folder."
        )
    pointer = folder.with_name(f"{folder.name}.dvc")
    if pointer.is_file():
        pulled = _run([*command, "pull", str(pointer.resolve())], root)
        if pulled.returncode == 0 and (folder / MANIFEST).is_file():
            print(f"{folder}: as in DVC")
            return
        print(f"dvc pull did not bring {folder} ({_last_line(pulled)}); making it")
    make()
    added = _run([*command, "add", str(folder.resolve())], root)
    if added.returncode:
        raise UserError(f"dvc add failed ({_last_line(added)})", where=folder)
    pushed = _run([*command, "push", str(pointer.resolve())], root)
    if pushed.returncode:
        print(
            f"{folder} is in DVC's cache, but dvc push failed ({_last_line(pushed)}). `dvc remote add -d NAME PLACE` sets a remote."
        )
    else:
        print(f"{folder}: added to DVC and pushed; commit {pointer.name}")


def _dvc() -> list[str]:
    beside = Path(sys.executable).with_name("dvc")
    found = str(beside) if beside.is_file() else shutil.which("dvc")
    if found is None:
        raise UserError("needs DVC", where="DATA_VERSIONING=dvc", remedy="Run `pip install dvc`.")
    return [found]


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", check=False)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit status {done.returncode}"
