"""Processes that this one starts: another script, or workers. A signal reaches them as it should, and none outlives its parent unasked."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection
from pathlib import Path
from types import FrameType


def run(command: Sequence[str], folder: Path | None = None) -> int:
    """Run a command and wait for its end, however long it takes; returns its exit code.

    `subprocess.run` kills its child a quarter of a second after Ctrl-C; a training needs longer to finish its step and write a
    checkpoint. Signals are handed on; the command may have had them already, from the terminal or as one of a group.

    Raises:
        KeyboardInterrupt: a signal came, and the command has ended.
    """
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        process.send_signal(number)

    process = subprocess.Popen(command, cwd=folder)
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt
    return code


def worker_pool(*, collect_garbage: bool = True) -> ProcessPoolExecutor:
    """A worker a core, for texts and numbers. They end with the pool, and where this process is killed, by themselves.

    Args:
        collect_garbage: False where what they make forms no cycles, and walking over it would take a fifth of the time.
    """
    # a process that has run torch holds threads, and their locks; any other is forked, so that it may be a script without a guard
    forks = sys.platform == "linux" and "torch" not in sys.modules
    context = multiprocessing.get_context("fork" if forks else "spawn")
    return ProcessPoolExecutor(mp_context=context, initializer=_start_worker, initargs=(collect_garbage,))


def _start_worker(collect_garbage: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says that it was stopped
    if not collect_garbage:
        gc.disable()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A worker holds both ends of its queue of tasks, so it would wait for the next one for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
