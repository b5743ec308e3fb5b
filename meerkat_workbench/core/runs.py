"""A run: one program at work in one output folder.

`manifest.json` is written last: if it exists, the output is finished. A run has a fingerprint, a hash of its inputs and of the
settings on which the result depends. A second run with the same fingerprint finds the output up to date, or resumes it. With
another fingerprint, a finished output is moved to `archive/`, and an unfinished one stops the script. No finished output is
overwritten.

    with Run(folder, TrainingResult, ranks=ranks, fresh=fresh) as run:
        if run.find(fingerprint) is RunState.FINISHED:
            return run.finished()
        ...                  # every check that can fail, because claiming moves files
        run.claim()
        ...                  # the work, in run.workspace
        return run.finish(run.manifest(config, iteration=3, ...))
"""

from __future__ import annotations

import contextlib
import enum
import os
import platform
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import msgspec

from meerkat_workbench.core import artifacts, files, settings
from meerkat_workbench.core.artifacts import Artifact, JsonObject
from meerkat_workbench.core.commands import command_of
from meerkat_workbench.core.errors import UserError, mark_fresh_done

MANIFEST = "manifest.json"
IN_PROGRESS = "in_progress.json"
LOCK = ".lock"
ARCHIVE = "archive"
BUILDING = ".building"  # subfolder for a run whose files replace the present ones when it is finished
MOVING = "moving"  # marks an archived run whose files are still being moved
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
# not part of a run: the archive, the lock, the README that is committed with the folder, and what DVC writes beside a folder in it
NOT_OF_A_RUN = frozenset([ARCHIVE, LOCK, f"{LOCK}.pid", "README.md", ".gitignore"])
DVC_SUFFIX = ".dvc"
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "pyarrow", "rensa",
             "numpy", "scipy", "statsmodels", "nltk", "rouge-score", "sacrebleu")  # fmt: skip

T = TypeVar("T")


class RunState(enum.Enum):
    """What an output folder contains of the requested run."""

    NEW = "new"
    RESUME = "resume"
    FINISHED = "finished"


class Ranks(Protocol):
    """This process and the others of its run."""

    @property
    def is_main(self) -> bool: ...

    @property
    def count(self) -> int: ...

    def wait(self) -> None:
        """Wait until every process has called this."""

    def agree(self, decide: Callable[[], T]) -> T:
        """Call `decide` in the main process and return its result in every process. Its UserError is raised in every process."""


class OneProcess:
    """`Ranks` of a run that has one process."""

    is_main, count = True, 1

    def wait(self) -> None:
        pass

    def agree(self, decide: Callable[[], T]) -> T:
        return decide()


class CodeVersion(msgspec.Struct, frozen=True):
    """Commit of the code, and whether files were edited since; empty outside a git checkout."""

    commit: str = ""
    dirty: bool = False


class Manifest(Artifact, frozen=True, kw_only=True):
    """The inputs, the settings and the software of a finished run. Each program has a subclass of its own.

    Attributes:
        stage: the program, under a name that does not change when its script is renamed.
        settings: every setting of the run, for people. Code reads the properties of the subclasses.
        compute_dtype: the dtype of the run's computations; empty if it used no model.
    """

    STAGE: ClassVar[str] = ""
    SCRIPT: ClassVar[str] = ""  # the script that makes such an output, with its verb if it has verbs, for messages

    version: int = 2
    stage: str
    fingerprint: str
    command: str = ""
    settings: JsonObject = {}
    code: CodeVersion = CodeVersion()
    libraries: dict[str, str] = {}
    python: str = ""
    finished: str = ""
    seconds: float = 0.0
    iteration: int
    device: str = ""
    compute_dtype: str = ""

    @classmethod
    def stage_of(cls, value: JsonObject) -> str:
        """The program that wrote a manifest. Classes that read manifests without a stage override this."""
        return str(value.get("stage", ""))

    @classmethod
    def require(cls, folder: Path) -> Self:
        """The manifest of an input folder.

        Raises:
            UserError: the folder is missing, unfinished, or the output of another program.
        """
        if not folder.is_dir():
            raise UserError("there is no such folder", where=folder, remedy=f"`{command_of(*cls.SCRIPT.split())}` makes it.")
        manifest = read_manifest(folder)
        if manifest is None:
            unfinished = (folder / IN_PROGRESS).exists() or (folder / BUILDING).exists()
            fault = "is unfinished" if unfinished else f"has no {MANIFEST}"
            raise UserError(
                fault, where=folder, remedy=f"Run `{command_of(*cls.SCRIPT.split())}` first; it resumes where it stopped."
            )
        if not isinstance(manifest, cls):
            remedy = f"Name the output folder of {cls.SCRIPT}."
            raise UserError(f"holds the output of {type(manifest).SCRIPT}, not of {cls.SCRIPT}", where=folder, remedy=remedy)
        return manifest

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """The manifest of a finished output of this program, or None."""
        manifest = read_manifest(folder)
        return manifest if isinstance(manifest, cls) else None


M = TypeVar("M", bound=Manifest)


class InProgress(Artifact, frozen=True, kw_only=True):
    """`in_progress.json`: a run that has started in a folder and not finished."""

    fingerprint: str
    command: str = "unknown"
    started: str = ""
    compute_dtype: str = ""


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished output, as the class of the program that made it; None if there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    value = files.read_json(path)
    if not isinstance(value, dict) or "fingerprint" not in value:
        raise UserError("is not a manifest of this workbench", where=path, remedy="Remove it, or name another folder.")
    cls = manifest_class(value)
    if cls is None:
        program = str(value.get("stage") or value.get("made_by") or "")
        raise UserError("is the output of another program", where=folder, item=program, remedy="Name another folder.")
    return artifacts.from_json(cls, value, path)


def manifest_class(value: Any) -> type[Manifest] | None:
    """The manifest class of the program that wrote a JSON value; None if no program that is imported did."""
    if not isinstance(value, dict) or "fingerprint" not in value:
        return None
    return next((cls for cls in _program_classes(Manifest) if cls.stage_of(value) == cls.STAGE), None)


def _program_classes(base: type[Manifest]) -> Iterator[type[Manifest]]:
    """Every class below `base` that belongs to a program."""
    for cls in base.__subclasses__():
        if cls.STAGE:
            yield cls
        yield from _program_classes(cls)


def read_in_progress(folder: Path) -> InProgress | None:
    """The run that has started in a folder, or has reopened its finished output, and not finished; None if there is none."""
    path = folder / IN_PROGRESS
    return artifacts.read(InProgress, path) if path.exists() else None


class Run(Generic[M]):
    """One program at work in one output folder; a context manager that holds the folder's lock.

    Args:
        folder: the output folder.
        kind: the manifest class of the program.
        ranks: the processes of the run. Only the main one locks, moves and writes.
        fresh: set aside an unfinished run, or files that no run wrote.
        kept: names of files that stay in place when an iteration is archived. A run with such files is built in a subfolder, and its
            files replace the present ones when it is finished.
    """

    def __init__(
        self, folder: Path, kind: type[M], *, ranks: Ranks | None = None, fresh: bool = False, kept: Collection[str] = ()
    ) -> None:
        self.folder, self.kind, self.fresh, self.kept = folder, kind, fresh, frozenset(kept)
        self.ranks: Ranks = ranks or OneProcess()
        self.started = time.time()
        self.fingerprint, self.compute_dtype, self.state = "", "", RunState.NEW
        self._lock = contextlib.ExitStack()

    @property
    def _in_subfolder(self) -> bool:
        """Whether the run is built in a subfolder and replaces the present files when it is finished."""
        return bool(self.kept)

    @property
    def workspace(self) -> Path:
        """Where the run writes."""
        return self.folder / BUILDING if self._in_subfolder else self.folder

    def __enter__(self) -> Self:
        if self.ranks.is_main:
            self._lock.enter_context(locked(self.folder))
            if self._in_subfolder:
                self._swap()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.close()

    # --- the state of the folder

    def finished(self) -> M:
        """The manifest in the folder."""
        return self.kind.require(self.folder)

    def find(self, fingerprint: str, compute_dtype: str = "") -> RunState:
        """What the folder contains of this run. Changes nothing; every process gets the same answer.

        Raises:
            UserError: the folder holds another program's output, an unfinished run with another fingerprint, or files that no run
                wrote.
        """
        self.fingerprint, self.compute_dtype = fingerprint, compute_dtype
        self.state = self.ranks.agree(self._find)
        return self.state

    def _find(self) -> RunState:
        finished, unfinished = read_manifest(self.folder), read_in_progress(self.folder)
        if finished is not None:
            if not isinstance(finished, self.kind):
                remedy = f"Name another OUTPUT_DIR for {self.kind.SCRIPT}."
                raise UserError(f"holds the output of {type(finished).SCRIPT}", where=self.folder, remedy=remedy)
            if finished.fingerprint == self.fingerprint:
                return RunState.FINISHED
        elif self._in_subfolder:
            self._refuse_unknown_files([path for path in run_files(self.folder) if path.name not in {*self.kept, BUILDING}])
        elif unfinished is not None and not self.fresh:
            if unfinished.fingerprint == self.fingerprint:
                return RunState.RESUME
            remedy = f"Finish it with its own command ({unfinished.command}), or add --fresh to set it aside."
            raise UserError("holds an unfinished run with other inputs or settings", where=self.folder, remedy=remedy)
        elif unfinished is None:
            self._refuse_unknown_files(run_files(self.folder))
        return RunState.NEW

    def _refuse_unknown_files(self, unknown_files: Sequence[Path]) -> None:
        """They would be moved to the archive with the next iteration."""
        if unknown_files and not self.fresh:
            remedy = "Name another OUTPUT_DIR, or add --fresh to move all files there into its archive folder."
            raise UserError(f"holds {unknown_files[0].name}, which no run of this script wrote", where=self.folder, remedy=remedy)

    def was_reopened(self) -> bool:
        """Whether a killed run had started to work on the finished output again. Every process gets the same answer."""
        return self.ranks.agree(lambda: self.state is RunState.FINISHED and (self.folder / IN_PROGRESS).exists())

    def up_to_date(self) -> M | None:
        """The manifest of this run if `find` found it finished, else None."""
        return self.finished() if self.state is RunState.FINISHED else None

    # --- taking the folder

    def claim(self) -> None:
        """Archive the files of other runs and mark the folder as in progress. All processes wait for this."""
        self.ranks.agree(self._claim)
        self.ranks.wait()

    def _claim(self) -> None:
        if self._in_subfolder:
            if self.fresh:
                files.remove(self.workspace)
                if run_files(self.folder):
                    archive(self.folder, "series")
                mark_fresh_done()
            files.remove(self.workspace)
            self.workspace.mkdir(parents=True)
            return
        if self.state is RunState.NEW:
            finished, unfinished = read_manifest(self.folder), read_in_progress(self.folder)
            if finished is not None:
                archive(self.folder, finished.iteration)
            elif run_files(self.folder):
                archive(self.folder, "unknown" if unfinished is None else "unfinished")
            if self.fresh:
                mark_fresh_done()
        if self.state is not RunState.RESUME:
            progress = InProgress(fingerprint=self.fingerprint, command=settings.command_line(), started=now(),
                                  compute_dtype=self.compute_dtype)  # fmt: skip
            artifacts.write(self.folder / IN_PROGRESS, progress)

    # --- finishing

    def manifest(self, config: settings.Settings, **more: Any) -> M:
        """The manifest of this run.

        Args:
            config: its settings.
            more: the fields of the program's own manifest class.
        """
        return self.kind(
            stage=self.kind.STAGE, fingerprint=self.fingerprint, command=settings.command_line(), settings=settings.as_dict(config),
            code=git_state(), libraries=library_versions(), python=platform.python_version(), finished=now(),
            seconds=round(time.time() - self.started, 1), **{"compute_dtype": self.compute_dtype} | more,
        )  # fmt: skip

    def finish(self, manifest: M) -> M:
        """Write the manifest, the last step of a run. Files that were built in a subfolder then replace the present ones."""
        artifacts.write(self.workspace / MANIFEST, manifest)
        if self._in_subfolder:
            self._swap()
        (self.folder / IN_PROGRESS).unlink(missing_ok=True)
        return manifest

    def _swap(self) -> None:
        """Replace the present files with those of a finished run. Safe to repeat after a kill at any point."""
        building = self.folder / BUILDING
        new = read_manifest(building)
        if new is None:
            return
        present = read_manifest(self.folder)
        if present is not None and present.iteration != new.iteration:
            archive(self.folder, present.iteration, keep={*self.kept, BUILDING})
        for entry in sorted(building.iterdir(), key=lambda path: path.name == MANIFEST):
            target = self.folder / entry.name
            if target.is_dir():
                files.remove(target)
            os.replace(entry, target)
        building.rmdir()


# --- folders


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock an output folder; UserError, which names the process, if another one holds the lock."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    pid_file = folder / f"{LOCK}.pid"
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        pid = pid_file.read_text().strip() if pid_file.exists() else "unknown"
        fault = f"another run (process {pid}) is writing here"
        raise UserError(fault, where=folder, remedy="Wait for it, stop it, or name another OUTPUT_DIR.") from None
    try:
        pid_file.write_text(str(os.getpid()))
        yield
    finally:
        pid_file.unlink(missing_ok=True)
        lock.release()


def run_files(folder: Path) -> list[Path]:
    """The files and folders that a run wrote in an output folder.

    Leaves out `NOT_OF_A_RUN`, empty folders (TRL's trainer makes its checkpoint folder when it is built), and folders that are
    outputs themselves, such as results/demo in results.
    """
    if not folder.is_dir():
        return []
    entries = sorted(path for path in folder.iterdir() if path.name not in NOT_OF_A_RUN and path.suffix != DVC_SUFFIX)
    return [path for path in entries if not path.is_dir() or (any(path.iterdir()) and not (path / LOCK).exists())]


def archive(folder: Path, iteration: int | str, *, keep: Collection[str] = ()) -> Path:
    """Move a run's files, except those named in `keep`, to `archive/iteration_NNN`, or to `archive/NAME` if `iteration` is a name.

    The manifest is moved last, so that the same call finishes the move after a kill.
    """
    base = f"iteration_{iteration:03d}" if isinstance(iteration, int) else iteration
    target, number = folder / ARCHIVE / base, 2
    while target.exists() and any(target.iterdir()) and not (target / MOVING).exists():
        target, number = folder / ARCHIVE / f"{base}_{number}", number + 1
    target.mkdir(parents=True, exist_ok=True)
    (target / MOVING).touch()
    entries = [entry for entry in run_files(folder) if entry.name not in keep]
    for entry in sorted(entries, key=lambda path: path.name in (MANIFEST, IN_PROGRESS)):
        entry.rename(target / entry.name)
    (target / MOVING).unlink()
    return target


def archived(folder: Path) -> list[Path]:
    """Folders in the archive of an output folder, sorted by name."""
    return sorted(path for path in (folder / ARCHIVE).glob("*") if path.is_dir())


# --- the machine and the code, for manifests


def now() -> str:
    return time.strftime(TIME_FORMAT)


def library_versions() -> dict[str, str]:
    """Versions of the libraries on which results depend; without those that are not installed."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def git_state() -> CodeVersion:
    """Commit of the code and whether it was edited since; empty outside a git checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed package may be inside the checkout of another project
        return CodeVersion()

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=20
        ).stdout.strip()

    try:
        return CodeVersion(git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.SubprocessError):
        return CodeVersion()
