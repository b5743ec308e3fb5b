"""What a run was made from and with. `manifest.json` is written last: where it stands, the output is finished.

A run has a fingerprint: a hash of its inputs and of the settings that affect the result. Running again with the same
fingerprint finds the output up to date, or resumes it; with another one, a finished output is archived and an
unfinished one stops the script.
"""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable, Collection
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from workbench import devices, files
from workbench.devices import Precision
from workbench.errors import UserError, began_afresh

MANIFEST = "manifest.json"
IN_PROGRESS = "in_progress.json"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
BUILDING = ".building"  # a folder in the making, beside the files it will replace
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "pyarrow", "rensa",
             "numpy", "scipy", "statsmodels", "nltk", "rouge-score", "sacrebleu")  # fmt: skip
State = Literal["new", "resume", "finished"]


def library_versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any]:
    """Commit of the code and whether it was edited since; empty outside a git checkout."""
    here = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=20
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished output, or None."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    value = files.read_json(path)
    if not isinstance(value, dict) or "fingerprint" not in value:
        raise UserError(f"{path}: is not a manifest of this workbench. Remove it, or name another folder.")
    return value


def require(folder: Path, made_by: str) -> dict[str, Any]:
    """The manifest of an input folder; UserError with the command that makes or finishes it."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. `python {made_by}` makes it.")
    manifest = read(folder)
    if manifest is None:
        state = "is unfinished" if (folder / IN_PROGRESS).exists() or (folder / BUILDING).exists() else f"has no {MANIFEST}"
        raise UserError(f"{folder}: {state}. Run `python {made_by}` first; it goes on where it was.")
    if manifest.get("made_by") != made_by:
        raise UserError(f"{folder}: was made by {manifest.get('made_by')}, where the output of {made_by} belongs.")
    return manifest


def start(
    folder: Path, fingerprint: str, made_by: str, *, fresh: bool = False, claim: bool = True, compute_dtype: str = ""
) -> State:
    """Claim `folder` for a run of the script `made_by`; the caller holds its lock.

    With `claim=False` it only says what would be, and touches nothing: a run whose other inputs are bad must not
    archive what is there. `compute_dtype` is noted, for a resume.

    Returns "finished" where the same run is complete, "resume" where it is not, and "new" otherwise, after moving a
    finished output of other inputs to `archive/` and, with `fresh`, an unfinished one too.
    """
    done = read(folder)
    progress = folder / IN_PROGRESS
    if done is not None:
        if done["fingerprint"] == fingerprint:
            return "finished"
        if done.get("made_by") != made_by:
            raise UserError(f"{folder}: holds the output of {done.get('made_by')}. Name another OUTPUT_DIR for {made_by}.")
        if claim:
            archive(folder, done)
    elif progress.exists():
        if files.read_json(progress).get("fingerprint") == fingerprint and not fresh:
            return "resume"
        if not fresh:
            raise UserError(
                f"{folder}: holds an unfinished run with other inputs or settings. Finish it with its own command "
                f"({files.read_json(progress).get('command', 'unknown')}), or add --fresh to set it aside."
            )
        if claim:
            archive(folder, {"iteration": "unfinished", "fingerprint": files.read_json(progress).get("fingerprint", "")})
    elif files.own_entries(folder):
        stray = files.own_entries(folder)[0].name
        if not fresh:
            raise UserError(
                f"{folder}: holds {stray}, which no run of this script left. Name another OUTPUT_DIR, "
                "or add --fresh to move what is there into its archive folder."
            )
        if claim:
            archive(folder, {"iteration": "unknown", "fingerprint": ""})
    if claim:
        reopen(folder, fingerprint, compute_dtype)
        if fresh:
            began_afresh()
    return "new"


def settle_precision(
    folder: Path, wanted: str, fingerprint: Callable[[Precision], str], *, own: Precision, fresh: bool = False
) -> Precision:
    """What a run in `folder` computes in: what COMPUTE_DTYPE (`wanted`) says, or with "auto" what the same run was begun with.

    A run goes on as it began, though the machine may be another now; half of it in another precision would be neither. One line says
    so where this machine would choose otherwise. With `fresh` an unfinished run is set aside, so nothing is gone on with.

    Args:
        fingerprint: of this run, for a precision.
        own: what this device takes for the model.

    Raises:
        UserError: the run was begun in a precision that this device does not have.
    """
    if wanted != "auto":
        return devices.resolve_precision(wanted)
    unfinished = in_progress(folder)
    begun = files.read_json(folder / IN_PROGRESS) if unfinished else read(folder) or {}
    dtype: Precision | None = begun.get("compute_dtype")
    if (fresh and unfinished) or dtype not in devices.PRECISIONS or fingerprint(dtype) != begun["fingerprint"]:
        return own
    if unfinished and dtype != own:
        if not devices.can_compute(dtype):
            raise UserError(f"{folder}: was begun in {dtype}, on a GPU. Go on there, or add --fresh to begin anew in {own}.")
        print(f"  goes on in {dtype}, as it was begun; begun on this machine it would be {own}", flush=True)
    return dtype


def reopen(folder: Path, fingerprint: str, compute_dtype: str = "") -> None:
    """Mark a folder, a finished one too, as being worked on, so that a kill leaves it to be gone on with."""
    from workbench.settings import command_line

    files.write_json(folder / IN_PROGRESS, {"fingerprint": fingerprint, "command": command_line(), "started": now(),
                                         "compute_dtype": compute_dtype})  # fmt: skip


def in_progress(folder: Path) -> bool:
    """Whether a run has begun here and not ended, in a new folder or a finished one that was reopened."""
    return (folder / IN_PROGRESS).exists()


def archive(folder: Path, done: dict[str, Any], *, keep: Collection[str] = ()) -> Path:
    """Move a run's files, but for those named in `keep`, to `archive/iteration_NNN`.

    Its manifest goes last, so that after a kill in between the same call finishes the move.
    """
    iteration = done.get("iteration", "unknown")
    base = f"iteration_{iteration:03d}" if isinstance(iteration, int) else str(iteration)
    target, number = folder / files.ARCHIVE_NAME / base, 2
    while target.exists() and any(target.iterdir()) and not (target / "moving").exists():
        target, number = folder / files.ARCHIVE_NAME / f"{base}_{number}", number + 1
    target.mkdir(parents=True, exist_ok=True)
    (target / "moving").touch()
    entries = [entry for entry in files.own_entries(folder) if entry.name not in keep]
    for entry in sorted(entries, key=lambda path: path.name in (MANIFEST, IN_PROGRESS)):
        entry.rename(target / entry.name)
    (target / "moving").unlink()
    return target


def now() -> str:
    return time.strftime(TIME_FORMAT)


def build(
    fingerprint: str,
    settings: dict[str, Any],
    inputs: dict[str, Any],
    started: float,
    **more: Any,
) -> dict[str, Any]:
    """The contents of a manifest; `started` is `time.time()` at the start, `more` what the script knows beside it."""
    from workbench.settings import command_line

    return {
        "fingerprint": fingerprint,
        "command": command_line(),
        "settings": settings,
        "inputs": inputs,
        "code": git_state(),
        "libraries": library_versions(),
        "python": platform.python_version(),
        "finished": now(),
        "seconds": round(time.time() - started, 1),
        **more,
    }


def finish(folder: Path, contents: dict[str, Any]) -> None:
    """Write the manifest, the last act of a run."""
    files.write_json(folder / MANIFEST, contents)
    (folder / IN_PROGRESS).unlink(missing_ok=True)
