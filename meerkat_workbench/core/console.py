"""Console output: progress of long steps, tables, and streams that accept any character.

Progress is a bar on a terminal, and elsewhere a plain line at least every half minute. A separate thread prints the line, so that a
single slow unit does not silence it. Only the innermost of nested steps reports, and only the first process of a run (by RANK, which
launchers set).
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

LINE_INTERVAL_S = 15.0
_active_steps: list[_Step] = []  # the innermost is the last

# signs that anyascii lacks or would transliterate differently
ASCII_SIGNS = {"█": "#", "–": "-", "—": "-", "−": "-", "▸": ">", "→": "->", "↓": "(lower is better)", "…": "...", "τ": "tau"}


def is_main_process() -> bool:
    """Whether this is the first process of its run, by RANK, which launchers set."""
    return os.environ.get("RANK", "0") == "0"


def allow_any_encoding() -> None:
    """Transliterate characters that stdout or stderr cannot encode, so that an ASCII or Windows console does not stop a run."""
    codecs.register_error("plain_letters", _transliterate)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the process that started this one
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  stays open as long as the process runs
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain_letters")


def _transliterate(error: UnicodeError) -> tuple[str, int]:
    """Error handler for `codecs.register_error`."""
    from anyascii import anyascii

    if not isinstance(error, UnicodeEncodeError):
        raise error
    unencodable = error.object[error.start : error.end]
    plain = "".join(ASCII_SIGNS.get(sign) or anyascii(sign) or f"\\u{ord(sign):04x}" for sign in unencodable)
    return plain, error.end


class _Step:
    """A running step, with a line that reports its progress."""

    def __init__(self) -> None:
        self.silent = not is_main_process()
        self.started = self.last = time.monotonic()
        self._ended = threading.Event()

    def line(self) -> str:
        raise NotImplementedError

    @property
    def prints_lines(self) -> bool:
        """Whether lines are printed: not if there is a bar."""
        return not self.silent and not sys.stderr.isatty()

    def begin(self) -> None:
        _active_steps.append(self)
        if self.prints_lines:
            threading.Thread(target=self._print_lines, daemon=True).start()

    def end(self) -> None:
        self._ended.set()
        if self in _active_steps:
            _active_steps.remove(self)

    def _print_lines(self) -> None:
        while not self._ended.wait(max(0.1, LINE_INTERVAL_S - (time.monotonic() - self.last))):
            self.print_if_due()

    def print_if_due(self) -> None:
        now = time.monotonic()
        if now - self.last < LINE_INTERVAL_S:
            return
        self.last = now
        if self.prints_lines and _active_steps and _active_steps[-1] is self:
            print(f"  {self.line()}", flush=True)


class Progress(_Step):
    """A step of `total` units; reports the units done, the rate and the time left.

    Args:
        name: name of the step, such as "eval loss".
        unit: what is counted, in the plural.
        done: units that an earlier run has already done; rate and time left are computed from this run only.
    """

    def __init__(self, name: str, total: int, unit: str, *, done: int = 0) -> None:
        super().__init__()
        self.name, self.total, self.unit, self.done, self.note = name, total, unit, done, ""
        self._done_before = done
        self._bar: Any = None

    def __enter__(self) -> Self:
        if not self.silent and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, initial=self.done, desc=self.name, unit=f" {self.unit}", leave=not _active_steps)
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done; `note` is shown on the line until the next note."""
        self.done += count
        self.note = note or self.note
        if self._bar is not None:
            self._bar.update(count)
            self._bar.set_postfix_str(self.note, refresh=False)

    def back_to(self, done: int) -> None:
        """Go back to an earlier number of done units; the units after it are repeated."""
        self.done = done
        if self._bar is not None:
            self._bar.n = done

    @property
    def elapsed(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    def line(self) -> str:
        done_in_this_run = self.done - self._done_before
        note = f", {self.note}" if self.note else ""
        if not done_in_this_run:
            return f"{self.name}: {self.done:,}/{self.total:,} {self.unit}{note}, {self.elapsed:.0f} s so far"
        rate = done_in_this_run / self.elapsed
        pace = f"{rate:.1f} {self.unit}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
        return f"{self.name}: {self.done:,}/{self.total:,} {self.unit}{note}, {pace}, {duration((self.total - self.done) / rate)} left"

    def say(self, text: str) -> None:
        """Print a separate line, above the bar if there is one."""
        if self.silent:
            return
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)


class _UnsizedStep(_Step):
    """A step without a bar, which therefore prints its line on a terminal too."""

    @property
    def prints_lines(self) -> bool:
        return not self.silent

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def line(self) -> str:
        return f"{self.what}: {time.monotonic() - self.started:.0f} s so far"


@contextlib.contextmanager
def working(what: str, *, announced: bool = True) -> Iterator[None]:
    """A step of unknown size: it is announced, and a line from time to time reports that it is still running.

    Args:
        announced: False for a step that usually ends at once; it prints only if it takes long.
    """
    step = _UnsizedStep(what)
    if announced and not step.silent:
        print(f"{what} …", flush=True)
    step.begin()
    try:
        yield
    finally:
        step.end()


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1, indent: str = "  ") -> None:
    """Print a table of formatted cells; the first `texts` columns are left-aligned, all others right-aligned."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        cells = [cell.ljust(width) if column < texts else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        print(f"{indent}{'  '.join(cells)}".rstrip())


def duration(seconds: float) -> str:
    """Seconds as text: "45 s", "5 minutes", "1.5 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
