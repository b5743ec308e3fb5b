"""What a script does when its user, or the machine, makes a mistake: one line, exit code 2, no traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from workbench import console

EXIT_FAILED = 1
EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130


_afresh = False  # whether this process has begun anew what `--fresh` was given for


def began_afresh() -> None:
    """Note that `--fresh` is done: given once more, it would set aside what there is to go on with."""
    global _afresh
    _afresh = True


def again() -> str:
    """What to run to go on after a stop."""
    return "the same command, without --fresh," if _afresh and "--fresh" in sys.argv else "the same command"


class UserError(Exception):
    """A mistake the user can mend. Its text names the file, the item, the fault and the remedy."""


class CheckFailedError(Exception):
    """What a script made did not pass its own check, so that it is no success. Its text says what was found and where it lies."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main` and turn what went wrong into one line on stderr and an exit code.

    `UserError` and a full disk exit with 2, `CheckFailedError` with 1, Ctrl-C with 130; anything else is a fault of ours and keeps its traceback.
    """
    console.speak_any_encoding()
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_MISTAKE)
    except CheckFailedError as error:
        print(f"failed: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except BrokenPipeError:
        # who read the output is gone; what is still in the buffer must not fail again when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"stopped, since nobody reads the output any more. Run {again()} again to go on.", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except OSError as error:
        if error.errno not in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
            errno.EACCES,
            errno.EPERM,
            errno.EISDIR,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.ENAMETOOLONG,
            errno.ELOOP,
        ):
            raise
        where = error.filename or "the output folder"
        print(
            f"error: {where}: {error.strerror}. Nothing finished was overwritten. "
            f"Mend that (free some space, or name another file or OUTPUT_DIR) and run {again()} again.",
            file=sys.stderr,
        )
        sys.exit(EXIT_MISTAKE)
    except KeyboardInterrupt:
        print(f"\nstopped. Run {again()} again to go on.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
