"""What long steps say where there is no terminal: never silent for long, and what they promise was measured."""

import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from meerkat_workbench.core import console


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.2)


def test_a_step_whose_first_unit_takes_long_says_that_it_works(often, capsys):
    with console.Progress("training", 4, "steps"):
        time.sleep(0.7)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2 and all(line.startswith("  training: 0/4 steps") and "so far" in line for line in lines)


def test_a_line_tells_what_is_done_the_rate_and_the_time_left(often, capsys):
    with console.Progress("training", 10, "steps", done=2) as progress:
        time.sleep(0.3)
        progress.advance(4, "loss 1.234")
        time.sleep(0.4)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("  training: 6/10 steps, loss 1.234, ") and "steps/s, " in last and last.endswith(" s left")
    # rate and time left are those of this run: 4 units were done in it, not 6
    assert progress.line() != "" and float(last.split(", ")[2].split()[0]) < 4 / 0.5


def test_only_the_innermost_step_speaks_and_of_several_processes_only_the_first(often, capsys, monkeypatch):
    with console.Progress("training", 4, "steps"), console.Progress("eval loss", 9, "examples"):
        time.sleep(0.6)
    monkeypatch.setenv("RANK", "1")
    with console.Progress("elsewhere", 4, "steps"), console.working("elsewhere too"):
        time.sleep(0.5)
    said = capsys.readouterr().out
    assert "eval loss: 0/9 examples" in said and "training" not in said and "elsewhere" not in said


def test_a_step_of_unknown_size_is_announced_and_goes_on_saying_so(often, capsys):
    with pytest.raises(RuntimeError), console.working("loading a model"):
        time.sleep(0.5)
        raise RuntimeError
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "loading a model …" and lines[1].startswith("  loading a model: ")
    time.sleep(0.5)
    assert capsys.readouterr().out == ""  # it is over


def test_a_step_that_is_done_soon_says_nothing_more(capsys):
    with console.Progress("scoring", 3, "answers") as progress:
        progress.advance(3)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_console_without_our_letters_is_written_to_in_plain_ones(encoding):
    code = ("from meerkat_workbench.core import console; console.speak_any_encoding(); "
            "print('… 心脏科 │ █ Ménière \\ud800 µg → 5–10')")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert "nière" in text or "Meniere" in text
    assert ("XinZangKe" in text) == (encoding != "utf-8")


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "| true"])
def test_a_run_whose_output_nobody_reads_ends_without_a_traceback(tmp_path, closed):
    command = f"{sys.executable} dataset_preparation.py --demo CHAT_TEMPLATE=llama3 OUTPUT_DIR={tmp_path / 'out'} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr + done.stdout
    assert "| true" in closed or (tmp_path / "out" / "manifest.json").is_file()
