"""Files, artifacts and runs: nothing finished is overwritten, and what was begun is resumed or set aside."""

import json
import math
import subprocess
import sys
from typing import ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meerkat_workbench.core import artifacts, files, runs
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import Manifest, Run, RunState
from meerkat_workbench.core.settings import RESULT, Settings
from meerkat_workbench.output import tables


class Work(Manifest, frozen=True, kw_only=True):
    STAGE: ClassVar[str] = "work of a test"
    SCRIPT: ClassVar[str] = "work.py"


class OtherWork(Manifest, frozen=True, kw_only=True):
    STAGE: ClassVar[str] = "other work of a test"
    SCRIPT: ClassVar[str] = "other.py"


class Config(Settings):
    SIZE: int = 1


def begin(folder, fingerprint="one", kind=Work, **options):
    """Claim a folder as a run does; returns what was found there."""
    with Run(folder, kind, **options) as run:
        state = run.find(fingerprint)
        run.claim()
        return state


def finish(folder, fingerprint="one", kind=Work, iteration=1, **options):
    with Run(folder, kind, **options) as run:
        run.find(fingerprint)
        run.claim()
        return run.finish(run.manifest(Config(), iteration=iteration))


def refusal(folder, *arguments, **options):
    with pytest.raises(UserError) as caught:
        begin(folder, *arguments, **options)
    return caught.value


def test_an_error_reaches_another_process_whole():
    import pickle

    from meerkat_workbench.trainers.token_budget import NotFiniteError

    for error in (UserError("fault", where="here", item="x", remedy="Do."), NotFiniteError("loss", 3)):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error)
        assert (again.where, again.item, again.fault, again.remedy) == (error.where, error.item, error.fault, error.remedy)


def test_a_run_that_is_built_in_a_subfolder_refuses_files_that_no_run_wrote(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    error = refusal(tmp_path, kept=["ledger.jsonl"])
    assert error.where == str(tmp_path) and "thesis.txt" in error.fault and "--fresh" in error.remedy
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("damaged", [{}, {"version": "2"}, {"run": {"batch_size": 1}}, {"corpus_bleu": {"eval": {}}}])
def test_a_damaged_manifest_of_an_earlier_version_is_an_error_that_names_the_file(tmp_path, damaged):
    from meerkat_workbench.tuning.artifacts import EvaluationManifest

    files.write_json(tmp_path / runs.MANIFEST, {"fingerprint": "x", "made_by": "evaluation.py", **damaged})
    with pytest.raises(UserError) as caught:
        EvaluationManifest.require(tmp_path)
    assert runs.MANIFEST in caught.value.where


# --- files


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
    with pytest.raises(UserError) as caught:
        files.read_json_lines(path, drop_torn_tail=True)
    assert caught.value.where == str(path) and caught.value.item == "line 2"


@pytest.mark.parametrize("content", [b'{"a": ' + b"1" * 5000 + b"}", b"[" * 100_000, b'{"a": "\xe9"}', b"{"])
def test_a_json_file_that_python_cannot_read_is_one_user_error(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        files.read_json(path)
    assert caught.value.where == str(path) and caught.value.remedy
    (tmp_path / "b.json").mkdir()
    with pytest.raises(UserError):
        files.read_json(tmp_path / "b.json")


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n')
    assert files.read_json(tmp_path / "a.json") == {"a": 1}
    assert files.read_json_lines(tmp_path / "a.jsonl") == [{"a": 1}, {"a": 2}]


def test_the_cache_is_the_users_and_may_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MEERKAT_CACHE", str(tmp_path))
    assert files.cache_folder() == tmp_path
    monkeypatch.delenv("MEERKAT_CACHE")
    assert files.cache_folder().name == "meerkat-workbench"


# --- artifacts


class Measure(artifacts.Artifact, frozen=True, kw_only=True):
    name: str
    value: float | None
    places: tuple[int, ...] = ()


def test_an_artifact_reads_back_as_it_was_written_and_ignores_fields_of_later_versions(tmp_path):
    written = Measure(name="x", value=1.5, places=(1, 2))
    artifacts.write(tmp_path / "a.json", written)
    assert artifacts.read(Measure, tmp_path / "a.json") == written
    files.write_json(tmp_path / "b.json", {"name": "x", "value": 2, "invented later": [1]})
    assert artifacts.read(Measure, tmp_path / "b.json") == Measure(name="x", value=2.0)


@pytest.mark.parametrize("value", [{"value": 1.0}, {"name": 5, "value": 1.0}, [1], {"name": "x", "value": "much"}])
def test_json_that_is_no_such_artifact_is_refused_with_its_file(tmp_path, value):
    files.write_json(tmp_path / "a.json", value)
    with pytest.raises(UserError) as caught:
        artifacts.read(Measure, tmp_path / "a.json")
    assert caught.value.where == str(tmp_path / "a.json") and caught.value.remedy


def test_a_number_that_json_cannot_hold_becomes_null(tmp_path):
    artifacts.write(tmp_path / "a.json", Measure(name="x", value=math.nan))
    assert artifacts.read(Measure, tmp_path / "a.json").value is None


class Line(tables.Row, frozen=True, kw_only=True):
    FILE: ClassVar[str] = "lines.csv"

    name: str
    count: int
    score: float
    good: bool
    later: float = math.nan


names = st.text(max_size=20).filter(lambda text: "\r" not in text and "\x00" not in text)


@given(
    st.lists(st.builds(Line, name=names, count=st.integers(-9, 9), score=st.sampled_from([0.5, -1.0, 2.0]), good=st.booleans()))
)
def test_a_table_reads_back_as_it_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / Line.FILE
    tables.write_rows(path, rows, Line)
    read = tables.read_rows(path, Line)
    assert [msgspec.structs.replace(row, later=0.0) for row in read] == [msgspec.structs.replace(row, later=0.0) for row in rows]


def test_a_table_without_a_column_is_refused_and_one_without_a_later_column_is_read(tmp_path):
    path = tmp_path / Line.FILE
    path.write_text('"name","count","score","good"\n"01",3,"",True\n')
    [row] = tables.read_rows(path, Line)
    assert (row.name, row.count, row.good) == ("01", 3, True) and math.isnan(row.score) and math.isnan(row.later)
    path.write_text('"name","count","good"\n"01",3,True\n')
    with pytest.raises(UserError) as caught:
        tables.read_rows(path, Line)
    assert caught.value.item == "score"


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-1", "@x", "\tx"])
def test_text_that_a_spreadsheet_would_run_is_guarded(text):
    assert tables.escape_formula(text) == "'" + text
    assert tables.escape_formula("plain = text") == "plain = text"


@given(st.text(max_size=20))
def test_a_guarded_cell_gives_back_its_text(text):
    guarded = tables.escape_formula(text)
    assert tables.unescape_formula(guarded) == text
    assert not guarded.startswith(("=", "+", "-", "@", "\t", "\r"))


# --- runs


def test_a_second_process_is_refused_with_the_number_of_the_first(tmp_path):
    code = (
        "import sys; from pathlib import Path; from meerkat_workbench.core import runs\n"
        f"with runs.locked(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        assert str(other.pid) in refusal(tmp_path).fault
    finally:
        other.communicate("")
    assert begin(tmp_path) is RunState.NEW


def test_the_same_run_is_finished_or_resumed_another_is_archived_and_an_unfinished_other_refused(tmp_path):
    assert begin(tmp_path) is RunState.NEW
    assert begin(tmp_path) is RunState.RESUME
    assert "--fresh" in refusal(tmp_path, "two").remedy
    files.write_text(tmp_path / "result.txt", "first")
    finish(tmp_path)
    assert begin(tmp_path) is RunState.FINISHED
    assert begin(tmp_path, "two") is RunState.NEW
    assert (tmp_path / "archive" / "iteration_001" / "result.txt").read_text() == "first"
    assert not (tmp_path / "result.txt").exists()


def test_with_fresh_an_unfinished_run_is_set_aside_and_a_finished_one_of_the_same_settings_is_kept(tmp_path):
    begin(tmp_path)
    files.write_text(tmp_path / "half.txt", "half")
    assert begin(tmp_path, fresh=True) is RunState.NEW
    assert (tmp_path / "archive" / "unfinished" / "half.txt").exists() and not (tmp_path / "half.txt").exists()
    finish(tmp_path)
    assert begin(tmp_path, fresh=True) is RunState.FINISHED


def test_a_finished_run_that_is_worked_on_again_and_killed_says_so(tmp_path):
    finish(tmp_path)
    begin(tmp_path)  # claimed, and never finished
    with Run(tmp_path, Work) as run:
        assert run.find("one") is RunState.FINISHED and run.was_reopened()
    finish(tmp_path)
    with Run(tmp_path, Work) as run:
        assert run.find("one") is RunState.FINISHED and not run.was_reopened()


def test_an_output_folder_inside_another_is_not_archived_with_it(tmp_path):
    with runs.locked(tmp_path / "rank16"):
        files.write_text(tmp_path / "rank16" / "adapter", "mine")
    files.write_text(tmp_path / "adapter", "outer")
    runs.archive(tmp_path, 1)
    assert (tmp_path / "rank16" / "adapter").exists() and not (tmp_path / "adapter").exists()


def test_an_archive_that_was_killed_half_way_is_finished_in_the_same_place(tmp_path):
    for name in ("a.txt", "b.txt"):
        files.write_text(tmp_path / name, name)
    begin(tmp_path, fresh=True)
    for name in ("a.txt", "b.txt"):
        files.write_text(tmp_path / name, name)
    finish(tmp_path, iteration=3)
    target = tmp_path / "archive" / "iteration_003"
    target.mkdir(parents=True)
    (target / runs.MOVING).touch()
    (tmp_path / "a.txt").rename(target / "a.txt")  # as far as the killed move came
    assert begin(tmp_path, "two") is RunState.NEW
    assert {p.name for p in target.iterdir()} == {"a.txt", "b.txt", "manifest.json"}


def test_files_of_someone_else_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.docx").touch()
    refused = refusal(tmp_path)
    assert "thesis.docx" in refused.fault and "--fresh" in refused.remedy
    begin(tmp_path, fresh=True)
    assert (tmp_path / "archive" / "unknown" / "thesis.docx").exists()


def test_an_unfinished_input_is_refused_with_the_command_that_finishes_it(tmp_path):
    for folder in (tmp_path / "absent", tmp_path):
        begin(tmp_path)
        with pytest.raises(UserError) as caught:
            Work.require(folder)
        assert caught.value.where == str(folder) and "work.py" in caught.value.remedy


def test_looking_what_is_there_moves_nothing_and_another_programs_output_is_refused(tmp_path):
    finish(tmp_path)
    with Run(tmp_path, Work) as run:
        assert run.find("two") is RunState.NEW
    assert (tmp_path / "manifest.json").exists()
    assert "other.py" in refusal(tmp_path, kind=OtherWork).remedy
    with pytest.raises(UserError) as caught:
        OtherWork.require(tmp_path)
    assert "work.py" in caught.value.fault
    assert OtherWork.find(tmp_path) is None and Work.find(tmp_path).iteration == 1


def test_a_run_built_beside_the_present_files_takes_their_place_and_keeps_what_lasts(tmp_path):
    def make(fingerprint, iteration, text):
        with Run(tmp_path, Work, kept=["ledger.txt"]) as run:
            run.find(fingerprint)
            run.claim()
            files.write_text(run.workspace / "split.txt", text)
            files.write_text(run.workspace / "ledger.txt", text)
            return run.finish(run.manifest(Config(), iteration=iteration))

    make("one", 1, "first")
    make("two", 2, "second")
    archived = tmp_path / "archive" / "iteration_001"
    assert (tmp_path / "split.txt").read_text() == (tmp_path / "ledger.txt").read_text() == "second"
    assert (archived / "split.txt").read_text() == "first" and not (archived / "ledger.txt").exists()
    assert not (tmp_path / runs.BUILDING).exists()


def test_a_run_that_was_killed_while_it_took_its_place_is_finished_by_the_next_one(tmp_path):
    finish(tmp_path, kept=["ledger.txt"])
    with Run(tmp_path, Work, kept=["ledger.txt"]) as run:
        run.find("two")
        run.claim()
        files.write_text(run.workspace / "split.txt", "second")
        artifacts.write(run.workspace / runs.MANIFEST, run.manifest(Config(), iteration=2))
    with Run(tmp_path, Work, kept=["ledger.txt"]):
        assert Work.require(tmp_path).iteration == 2 and (tmp_path / "split.txt").read_text() == "second"


def test_a_setting_that_does_not_say_its_effect_gives_no_fingerprint():
    from meerkat_workbench.core import settings

    with pytest.raises(TypeError, match="SIZE"):
        settings.with_effect(Config(), RESULT)
