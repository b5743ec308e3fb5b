"""What long steps print where there is no terminal: they are never silent for long, and what they promise was measured."""

import os
import re
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from meerkat_workbench.core import console


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(console, "LINE_INTERVAL_S", 0.2)


def seconds(line):
    """The last number of seconds in a line: the time that has passed, or that is left."""
    return float(re.findall(r"([\d.]+) s\b", line)[-1])


def test_a_step_whose_first_unit_takes_long_prints_that_it_is_at_work(often, capsys):
    with console.Progress("training", 4, "steps"):
        time.sleep(0.7)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2 and all("training" in line and "0/4 steps" in line for line in lines)
    assert sorted(map(seconds, lines)) == list(map(seconds, lines))


def test_a_line_has_what_is_done_the_rate_and_the_time_left(often, capsys):
    with console.Progress("training", 10, "steps", done=2) as progress:
        time.sleep(0.3)
        progress.advance(4, "loss 1.234")
        time.sleep(0.4)
    last = capsys.readouterr().out.splitlines()[-1]
    assert "training" in last and "6/10 steps" in last and "loss 1.234" in last
    # rate and time left are those of this run: 4 units were done in it, not 6
    rate = float(re.search(r"([\d.]+) steps/s", last).group(1))
    assert rate < 4 / 0.5 and seconds(last) == pytest.approx(4 / rate, abs=1)
    assert progress.line() != ""


def test_only_the_innermost_step_prints_and_only_in_the_first_of_several_processes(often, capsys, monkeypatch):
    with console.Progress("training", 4, "steps"), console.Progress("eval loss", 9, "examples"):
        time.sleep(0.6)
    monkeypatch.setenv("RANK", "1")
    with console.Progress("elsewhere", 4, "steps"), console.working("elsewhere too"):
        time.sleep(0.5)
    printed = capsys.readouterr().out
    assert "eval loss" in printed and "0/9 examples" in printed and "training" not in printed and "elsewhere" not in printed


def test_a_step_of_unknown_size_is_announced_and_printed_again_until_it_ends(often, capsys):
    with pytest.raises(RuntimeError), console.working("loading a model"):
        time.sleep(0.5)
        raise RuntimeError
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2 and all("loading a model" in line for line in lines) and seconds(lines[1]) >= 0
    time.sleep(0.5)
    assert capsys.readouterr().out == ""  # it is over


def test_a_step_that_is_done_soon_prints_nothing(capsys):
    with console.Progress("scoring", 3, "answers") as progress:
        progress.advance(3)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_console_whose_encoding_lacks_letters_gets_plain_ones(encoding):
    code = ("from meerkat_workbench.core import console; console.allow_any_encoding(); "
            "print('… 心脏科 │ █ Ménière \\ud800 µg → 5–10')")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert "nière" in text or "Meniere" in text
    assert ("XinZangKe" in text) == (encoding != "utf-8")


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "| true"])
def test_a_run_ends_without_a_traceback_when_nobody_reads_its_output(tmp_path, closed):
    command = f"{sys.executable} dataset_preparation.py --demo CHAT_TEMPLATE=llama3 OUTPUT_DIR={tmp_path / 'out'} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr + done.stdout
    assert "| true" in closed or (tmp_path / "out" / "manifest.json").is_file()
