"""Errors that the user can correct: one line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from meerkat_workbench.core import console

EXIT_FAILED = 1
EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130
MAX_QUOTED_CHARACTERS = 240  # of a library's message that one of our messages quotes
# errors of the operating system that the user can correct
USER_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST,
               errno.ENAMETOOLONG, errno.ELOOP)  # fmt: skip

_fresh_done = False  # whether this process has already done what `--fresh` asks for


def mark_fresh_done() -> None:
    """Record that `--fresh` is done. Given again, it would set aside the run that the user wants to resume."""
    global _fresh_done
    _fresh_done = True


def resume_command() -> str:
    """The command that resumes after a stop, in words for messages."""
    return "the same command, without --fresh," if _fresh_done and "--fresh" in sys.argv else "the same command"


class UserError(Exception):
    """A mistake that the user can correct.

    Args:
        fault: what is wrong, as a clause that follows `where` and `item`.
        where: the file, folder, setting or option that is at fault.
        item: the record, row, name or value in it.
        remedy: what to do, in whole sentences.
    """

    def __init__(self, fault: str, *, where: str | Path = "", item: str = "", remedy: str = "") -> None:
        self.fault, self.where, self.item, self.remedy = fault, str(where), item, remedy
        clause = ": ".join(part for part in (self.where, item, fault) if part)
        if remedy and not clause.endswith((".", "?", "!")):
            clause += "."
        super().__init__(f"{clause} {remedy}" if remedy else clause)

    def __reduce__(self) -> tuple[Any, ...]:
        # processes send errors to each other, and a subclass may have another constructor
        return _restore, (type(self), self.fault, self.where, self.item, self.remedy)

    def within(self, where: str | Path) -> UserError:
        """The same mistake as part of something larger, such as a file whose setting is wrong."""
        item = ": ".join(part for part in (self.where, self.item) if part)
        return UserError(self.fault, where=where, item=item, remedy=self.remedy)


def _restore(kind: type[UserError], fault: str, where: str, item: str, remedy: str) -> UserError:
    error = kind.__new__(kind)
    UserError.__init__(error, fault, where=where, item=item, remedy=remedy)
    return error


class CheckFailedError(Exception):
    """A result failed its own check, so the run did not succeed. The message names the finding and where it is."""


def one_line(error: BaseException, limit: int = MAX_QUOTED_CHARACTERS) -> str:
    """The message of a library's error as one line of at most `limit` characters; the name of its class if it has none."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def did_you_mean(name: str, known: Collection[str], otherwise: str = "", *, cutoff: float = 0.6) -> str:
    """`Did you mean …?` with the nearest known name; `otherwise` if no name is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"Did you mean {nearest[0]}?" if nearest else otherwise


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main` and turn an error into one line on stderr and an exit code.

    `UserError` and errors of the operating system such as a full disk exit with 2, `CheckFailedError` with 1, Ctrl-C with 130.
    Any other error is a bug and keeps its traceback.
    """
    console.allow_any_encoding()
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_MISTAKE)
    except CheckFailedError as error:
        print(f"failed: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except BrokenPipeError:
        # the reader of the output is gone; without this, writing the rest of the buffer would fail again when Python exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"stopped because nothing reads the output any more. Run {resume_command()} again to resume.", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except OSError as error:
        if error.errno not in USER_ERRNOS:
            raise
        where = error.filename or "the output folder"
        print(
            f"error: {where}: {error.strerror}. No finished output was overwritten. "
            f"Correct this (free some space, or name another file or OUTPUT_DIR) and run {resume_command()} again.",
            file=sys.stderr,
        )
        sys.exit(EXIT_MISTAKE)
    except KeyboardInterrupt:
        print(f"\nstopped. Run {resume_command()} again to resume.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
