"""Processes that the scripts start: a signal lets them finish what they do, and none is left behind."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from meerkat_workbench.core.errors import EXIT_INTERRUPTED

SAVES_FIRST = """
import pathlib, signal, sys, time
def stop(number, _):
    if time.monotonic() < stop.deaf_until:  # as a training is
        return
    stop.deaf_until = time.monotonic() + 2
    time.sleep(1)
    pathlib.Path(sys.argv[1]).write_text(str(number))
    sys.exit(3)
stop.deaf_until = 0
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
print("ready", flush=True)
time.sleep(60)
"""
PARENT = """
import sys
from meerkat_workbench.core import subprocesses
from meerkat_workbench.core.errors import run_script
run_script(lambda: print("ended with", subprocesses.run([sys.executable, *sys.argv[1:]]), flush=True))
"""
WITH_WORKERS = """
import time
from meerkat_workbench.core import subprocesses
if __name__ == "__main__":
    {load}
    pool = subprocesses.worker_pool()
    list(pool.map(abs, range(100)))
    print(*pool._processes, flush=True)
    time.sleep(60)
"""


def started(code, *arguments, folder):
    path = folder / "parent.py"
    path.write_text(code)
    return subprocess.Popen([sys.executable, path, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip


@pytest.mark.parametrize(("number", "send"), list(itertools.product([signal.SIGINT, signal.SIGTERM], [os.kill, os.killpg])))
def test_a_stopped_command_is_waited_for_until_it_has_saved(tmp_path, number, send):
    (tmp_path / "child.py").write_text(SAVES_FIRST)
    parent = started(PARENT, tmp_path / "child.py", tmp_path / "saved", folder=tmp_path)
    assert parent.stdout.readline() == "ready\n"
    send(parent.pid, number)  # from a supervisor, or to all of a terminal or a job
    out, errors = parent.communicate(timeout=30)
    assert (tmp_path / "saved").read_text() == str(int(number)) and not out
    assert parent.returncode == EXIT_INTERRUPTED and errors.strip().count("\n") == 0 and errors.strip()


def test_the_exit_code_of_a_command_is_returned(tmp_path):
    (tmp_path / "child.py").write_text("raise SystemExit(7)")
    parent = started(PARENT, tmp_path / "child.py", folder=tmp_path)
    assert parent.communicate(timeout=30)[0] == "ended with 7\n"


def running(number):
    """Whether a process runs; one that has ended does not, though its parent has not collected it."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("load", ["pass", "import sys; sys.modules['torch'] = sys"], ids=["forked", "spawned"])
def test_workers_end_when_their_parent_is_killed(tmp_path, load):
    parent = started(WITH_WORKERS.format(load=load), folder=tmp_path)
    numbers = [int(number) for number in parent.stdout.readline().split()]
    assert numbers and all(map(running, numbers))
    parent.kill()
    deadline = time.time() + 20
    while any(map(running, numbers)) and time.time() < deadline:
        time.sleep(0.1)
    assert not [number for number in numbers if running(number)]
    parent.communicate()
