import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meerkat_workbench.core import files, manifest
from meerkat_workbench.core.errors import UserError


def test_an_exception_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), files.atomic_open(path) as file:
        file.write("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_last_line_cut_off_by_a_kill_is_dropped_and_one_in_the_middle_refused(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert files.read_json_lines(path, drop_torn_tail=True) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        files.read_json_lines(path, drop_torn_tail=True)


def test_a_second_process_is_told_who_holds_the_folder(tmp_path):
    code = (
        "import sys; from pathlib import Path; from meerkat_workbench.core import files\n"
        f"with files.output_lock(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=str(other.pid)), files.output_lock(tmp_path):
            pass
    finally:
        other.communicate("")
    with files.output_lock(tmp_path):
        pass


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\x00b", "x" * 101, "..", "-rf"])
def test_a_name_that_could_be_a_path_is_no_specialty(name):
    with pytest.raises(UserError, match="cannot be a specialty"):
        files.check_specialty_name(name, "file")


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-1", "@x", "\tx"])
def test_text_that_a_spreadsheet_would_run_is_guarded(text):
    assert files.escape_formula(text) == "'" + text
    assert files.escape_formula("plain = text") == "plain = text"


def test_the_same_run_is_up_to_date_another_is_archived_and_an_unfinished_other_refused(tmp_path):
    assert manifest.start(tmp_path, "one", "s.py") == "new"
    assert manifest.start(tmp_path, "one", "s.py") == "resume"
    with pytest.raises(UserError, match="--fresh"):
        manifest.start(tmp_path, "two", "s.py")
    files.write_text(tmp_path / "result.txt", "first")
    manifest.finish(tmp_path, {"fingerprint": "one", "iteration": 1, "made_by": "s.py"})
    assert manifest.start(tmp_path, "one", "s.py") == "finished"
    assert manifest.start(tmp_path, "two", "s.py") == "new"
    assert (tmp_path / "archive" / "iteration_001" / "result.txt").read_text() == "first"
    assert not (tmp_path / "result.txt").exists()


def test_an_output_folder_inside_another_is_not_archived_with_it(tmp_path):
    with files.output_lock(tmp_path / "rank16"):
        files.write_text(tmp_path / "rank16" / "adapter", "mine")
    files.write_text(tmp_path / "adapter", "outer")
    manifest.archive(tmp_path, {"iteration": 1})
    assert (tmp_path / "rank16" / "adapter").exists() and not (tmp_path / "adapter").exists()


def test_an_archive_that_was_killed_half_way_is_finished_in_the_same_place(tmp_path):
    manifest.start(tmp_path, "one", "s.py")
    for name in ("a.txt", "b.txt"):
        files.write_text(tmp_path / name, name)
    manifest.finish(tmp_path, {"fingerprint": "one", "iteration": 3, "made_by": "s.py"})
    target = tmp_path / "archive" / "iteration_003"
    target.mkdir(parents=True)
    (target / "moving").touch()
    (tmp_path / "a.txt").rename(target / "a.txt")  # as far as the killed move came
    assert manifest.start(tmp_path, "two", "s.py") == "new"
    assert {p.name for p in target.iterdir()} == {"a.txt", "b.txt", "manifest.json"}


def test_files_of_someone_else_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(UserError, match=r"thesis\.docx"):
        manifest.start(tmp_path, "one", "s.py")


def test_an_unfinished_input_is_refused_with_the_command_that_finishes_it(tmp_path):
    with pytest.raises(UserError, match=r"python dataset_preparation\.py"):
        manifest.require(tmp_path / "absent", "dataset_preparation.py")
    manifest.start(tmp_path, "one", "s.py")
    with pytest.raises(UserError, match="unfinished"):
        manifest.require(tmp_path, "fine_tuning.py")


def test_looking_whether_a_run_may_start_moves_nothing_and_another_scripts_output_is_refused(tmp_path):
    manifest.start(tmp_path, "one", "s.py")
    manifest.finish(tmp_path, {"fingerprint": "one", "iteration": 1, "made_by": "s.py"})
    assert manifest.start(tmp_path, "two", "s.py", claim=False) == "new"
    assert (tmp_path / "manifest.json").exists()
    with pytest.raises(UserError, match=r"holds the output of s\.py"):
        manifest.start(tmp_path, "two", "other.py")
    with pytest.raises(UserError, match=r"was made by s\.py"):
        manifest.require(tmp_path, "other.py")


@given(st.text(max_size=20))
def test_a_guarded_cell_gives_back_its_text(text):
    guarded = files.escape_formula(text)
    assert files.unescape_formula(guarded) == text
    assert not guarded.startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize("content", [b'{"a": ' + b"1" * 5000 + b"}", b"[" * 100_000, b'{"a": "\xe9"}', b"{"])
def test_a_json_file_that_python_cannot_read_is_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not valid JSON"):
        files.read_json(path)
    (tmp_path / "b.json").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        files.read_json(tmp_path / "b.json")


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n')
    assert files.read_json(tmp_path / "a.json") == {"a": 1}
    assert files.read_json_lines(tmp_path / "a.jsonl") == [{"a": 1}, {"a": 2}]
