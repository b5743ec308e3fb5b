"""Answers with passages: prompts hold them, held-out references are left out, and what they buy is measured against the same model without."""

import dataclasses

import numpy as np
import pytest
from conftest import evaluate_command, refused
from test_evaluation import run_here

from meerkat_workbench.core import artifacts
from meerkat_workbench.output import tables
from meerkat_workbench.retrieval.documents import Document
from meerkat_workbench.retrieval.index import DocumentIndex
from meerkat_workbench.tuning.artifacts import ALL, OpenBookRow, OutputFile, RetrievedPassages, Split
from meerkat_workbench.tuning.data import dataset_folders
from meerkat_workbench.tuning.generation import open_book
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEERKAT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def holdout(small_run):
    return list(dataset_folders.read_split(small_run["data"], Split.HOLDOUT))


@pytest.fixture
def index(tmp_path, holdout):
    """Passages on every question, and a copy of a held-out reference."""
    made = DocumentIndex.create(tmp_path / "index", "bm25", "")
    made.add([Document(id=f"d{number}", text=f"On {record.question} A passage that says {record.specialty}. " + "word " * 400)
              for number, record in enumerate(holdout)])  # fmt: skip
    made.add([Document(id="copy", text=f" {holdout[0].response.upper()}")])
    return made.folder


def test_the_question_comes_after_its_passages_in_prompt_and_turns_and_stays_itself(cache, index, holdout):
    found = open_book.retrieve(str(index), holdout, 2)
    for record, asked in zip(holdout, found.apply(holdout), strict=True):
        assert asked.question == record.question and asked.response == record.response
        assert asked.formatted_prompt.index("[1] ") < asked.formatted_prompt.index(f"Question: {record.question}")
        shown = len(found.by_question[record.question])  # BM25 finds none without a common word
        assert 1 <= shown <= 2 and all((f"[{rank}] " in asked.formatted_prompt) == (rank <= shown) for rank in (1, 2, 3))
        [user] = [turn["content"] for turn in asked.messages if turn["role"] == "user"]
        assert user in asked.formatted_prompt and user.endswith(f"Question: {record.question}")
        assert len(user) < 2 * open_book.MAX_CHARACTERS + 500


def test_a_passage_that_is_a_held_out_reference_is_left_out_and_counted(cache, index, holdout):
    found = open_book.retrieve(str(index), holdout, 3)
    assert found.left_out >= 1
    assert not any(one.document_id == "copy" for passages in found.by_question.values() for one in passages)


def test_passages_are_retrieved_once_and_again_when_the_index_changes(cache, index, holdout, monkeypatch):
    first = open_book.retrieve(str(index), holdout, 2)
    with monkeypatch.context() as patched:
        patched.setattr(open_book.RetrievalPipeline, "open", lambda *_: pytest.fail("retrieved again"))
        assert open_book.retrieve(str(index), holdout, 2).by_question == first.by_question
    before = open_book.index_identity(str(index))
    DocumentIndex.open(index).add([Document(id="new", text=holdout[0].question)])
    assert open_book.index_identity(str(index)) != before
    assert open_book.retrieve(str(index), holdout, 2).by_question[holdout[0].question][0].document_id == "new"


def test_a_folder_that_is_no_index_is_refused(tmp_path):
    assert "RETRIEVAL=" in refused(lambda: open_book.index_identity(str(tmp_path)))


def test_the_script_asks_with_passages_compares_and_reports(cache, index, small_run, tmp_path, monkeypatch, capsys):
    folders = {**small_run, "scores": tmp_path / "scores"}
    run_here(evaluate_command(folders, "MAX_SAMPLES_PER_SPECIALTY=3", "FEW_SHOT_EXAMPLES=0", "PREFERENCE_DISTRACTORS=0", "RETENTION=False",
                              f"RETRIEVAL={index}", "RETRIEVAL_PASSAGES=2"), monkeypatch)  # fmt: skip
    said = capsys.readouterr().out
    assert "With passages: the base" in said and "With passages: the tuned model" in said
    rows = tables.read_rows(folders["scores"] / OpenBookRow.FILE, OpenBookRow)
    closed, opened = (AnswerTable.read(folders["scores"], name) for name in ("tuned", "tuned_open_book"))
    assert list(closed.ids) == list(opened.ids)
    [row] = tables.where(rows, model="tuned", split="holdout", specialty=ALL, metric="ROUGE-L")
    change = (opened.scores("ROUGE-L") - closed.scores("ROUGE-L"))[closed.splits == "holdout"]
    assert row.n == len(change) == 12 and row.difference == pytest.approx(float(np.mean(change)), abs=1e-5)
    assert {one.specialty for one in rows} == {ALL, *closed.specialties}
    stored = artifacts.read_lines(RetrievedPassages, folders["scores"] / RetrievedPassages.FILE)
    assert any(one.passages for one in stored) and all(len(one.passages) <= 2 for one in stored)
    report = (folders["scores"] / OutputFile.REPORT).read_text(encoding="utf-8")
    assert 'id="open-book"' in report and "tuned_open_book" in report
    run_here(evaluate_command(folders, "MAX_SAMPLES_PER_SPECIALTY=3", "FEW_SHOT_EXAMPLES=0", "PREFERENCE_DISTRACTORS=0", "RETENTION=False",
                              f"RETRIEVAL={index}", "RETRIEVAL_PASSAGES=2"), monkeypatch)  # fmt: skip
    assert "up to date" in capsys.readouterr().out


def test_records_without_passages_are_asked_as_they_are(holdout):
    record = dataclasses.replace(holdout[0])
    assert open_book.OpenBook([]).apply([record]) == [record]
