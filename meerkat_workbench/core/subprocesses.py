"""Child processes: running another script, and worker pools. Signals are forwarded to scripts; workers exit when their parent dies."""

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
    """Run a command, wait for its end however long it takes, and return its exit code.

    `subprocess.run` kills its child a quarter of a second after Ctrl-C, but training needs longer to finish its step and write a
    checkpoint. Signals are forwarded; the command may have received them already, from the terminal or through its process group.

    Raises:
        KeyboardInterrupt: a signal was received; the command has ended.
    """
    received: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        received.append(number)
        process.send_signal(number)

    process = subprocess.Popen(command, cwd=folder)
    earlier_handlers = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = process.wait()
    finally:
        for number, handler in earlier_handlers.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt
    return code


def worker_pool(*, collect_garbage: bool = True) -> ProcessPoolExecutor:
    """A pool with one worker per core, for work on texts and numbers. Workers end with the pool, or when this process is killed.

    Args:
        collect_garbage: False if the workers' objects form no cycles; collecting garbage would take a fifth of the time.
    """
    # torch starts threads, whose locks a fork would copy; without torch a fork is safe and needs no `if __name__ == "__main__"` guard
    can_fork = sys.platform == "linux" and "torch" not in sys.modules
    context = multiprocessing.get_context("fork" if can_fork else "spawn")
    return ProcessPoolExecutor(mp_context=context, initializer=_start_worker, initargs=(collect_garbage,))


def _start_worker(collect_garbage: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and reports it
    if not collect_garbage:
        gc.disable()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this worker when its parent dies. A worker holds both ends of its task queue, so it would wait for the next task for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
