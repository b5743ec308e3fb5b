"""What long steps say while they work: a bar on a terminal, and elsewhere a plain line at least every half minute.

A thread of its own writes the line, so that a step which takes longer than that says so too. Of steps within steps only the innermost
speaks, and of several processes of one run only the first (by RANK, as launchers set it).
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
_active_steps: list[_Step] = []


# signs of ours that anyascii knows otherwise, or not at all
ASCII_SIGNS = {"█": "#", "–": "-", "—": "-", "−": "-", "▸": ">", "→": "->", "↓": "(lower is better)", "…": "...", "τ": "tau"}


def is_main_process() -> bool:
    """Whether this is the first process of its run, by RANK as launchers set it."""
    return os.environ.get("RANK", "0") == "0"


def allow_any_encoding() -> None:
    """Let the streams write what their encoding lacks in plain letters: a console of Windows, or one of ASCII, ends no run."""
    codecs.register_error("plain_letters", _transliterate)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  for as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain_letters")


def _transliterate(error: UnicodeError) -> tuple[str, int]:
    """A handler of encoding errors (`codecs.register_error`)."""
    from anyascii import anyascii

    if not isinstance(error, UnicodeEncodeError):
        raise error
    wanted = error.object[error.start : error.end]
    plain = "".join(ASCII_SIGNS.get(sign) or anyascii(sign) or f"\\u{ord(sign):04x}" for sign in wanted)
    return plain, error.end


class _Step:
    """Something that is under way, with a line that tells how far it is."""

    def __init__(self) -> None:
        self.silent = not is_main_process()
        self.started = self.last = time.monotonic()
        self._over = threading.Event()

    def line(self) -> str:
        raise NotImplementedError

    @property
    def speaks(self) -> bool:
        """Whether lines are due: not beside a bar."""
        return not self.silent and not sys.stderr.isatty()

    def begin(self) -> None:
        _active_steps.append(self)
        if self.speaks:
            threading.Thread(target=self._tell, daemon=True).start()

    def end(self) -> None:
        self._over.set()
        if self in _active_steps:
            _active_steps.remove(self)

    def _tell(self) -> None:
        while not self._over.wait(max(0.1, LINE_INTERVAL_S - (time.monotonic() - self.last))):
            self.print_if_due()

    def print_if_due(self) -> None:
        now = time.monotonic()
        if now - self.last < LINE_INTERVAL_S:
            return
        self.last = now
        if self.speaks and _active_steps and _active_steps[-1] is self:
            print(f"  {self.line()}", flush=True)


class Progress(_Step):
    """A step of `total` units: what is done, the rate and the time left.

    Args:
        name: what is done, such as "eval loss".
        unit: what is counted, in the plural.
        done: units that an earlier run has done already; rate and time left are those of this run.
    """

    def __init__(self, name: str, total: int, unit: str, *, done: int = 0) -> None:
        super().__init__()
        self.name, self.total, self.unit, self.done, self.note = name, total, unit, done, ""
        self._first = done
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
        """`count` more units are done; `note` joins the line until the next one."""
        self.done += count
        self.note = note or self.note
        if self._bar is not None:
            self._bar.update(count)
            self._bar.set_postfix_str(self.note, refresh=False)

    def back_to(self, done: int) -> None:
        """What was done since is done anew."""
        self.done = done
        if self._bar is not None:
            self._bar.n = done

    @property
    def elapsed(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    def line(self) -> str:
        made = self.done - self._first
        note = f", {self.note}" if self.note else ""
        if not made:
            return f"{self.name}: {self.done:,}/{self.total:,} {self.unit}{note}, {self.elapsed:.0f} s so far"
        rate = made / self.elapsed
        pace = f"{rate:.1f} {self.unit}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
        return f"{self.name}: {self.done:,}/{self.total:,} {self.unit}{note}, {pace}, {duration((self.total - self.done) / rate)} left"

    def say(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self.silent:
            return
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)


class _UnsizedStep(_Step):
    """It has no bar, so it speaks on a terminal as well."""

    @property
    def speaks(self) -> bool:
        return not self.silent

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def line(self) -> str:
        return f"{self.what}: {time.monotonic() - self.started:.0f} s so far"


@contextlib.contextmanager
def working(what: str, *, announced: bool = True) -> Iterator[None]:
    """A step whose size is not known: it is announced, and a line says now and then that it goes on.

    Args:
        announced: False for a step that is mostly over at once, and speaks only where it is not.
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
    """A table of cells that are texts already: the first `texts` columns are aligned on the left, all others on the right."""
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    for row in (header, *rows):
        cells = [cell.ljust(width) if place < texts else cell.rjust(width)
                 for place, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        print(f"{indent}{'  '.join(cells)}".rstrip())


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
