"""Inputs that once gave wrong numbers, lost data or ended in a traceback, as they were reported."""

import ast
import gc
import re
import shutil
import unicodedata

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, refusal, run_script

import dataset_preparation as preparation
import fine_tuning
from meerkat_workbench.tuning.allocation import curve_data
from meerkat_workbench.tuning.artifacts import TUNED, Split, UpstreamChanges, read_ledger
from meerkat_workbench.tuning.data import dataset_folders
from meerkat_workbench.tuning.scoring import answer_checks, medical_metrics, text_metrics
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable

CASES = ROOT.parent / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the reported cases are not on this machine")


@pytest.fixture(autouse=True)
def collect_garbage():
    """The script's main turns garbage collection off, for as long as its process lives."""
    yield
    gc.enable()


def command(folder, out, *more):
    return ["dataset_preparation.py", f"DATA_DIR={folder}", f"OUTPUT_DIR={out}", *more]


def prepare(folder, out, *more):
    return run_script(*command(folder, out, *more))


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("bigint_traceback", ["dataset_with_answers_cardiology.json", "4300"]),
        ("csv_repeated_column", ["cardiology.csv", "'answer'"]),
        ("csv_unquoted_commas", ["cardiology.csv", "record 1", "4", "2", "commas"]),
        ("invisible_text", ["dataset_with_answers_cardiology.json", '"answer"']),
        ("single_record_object", ["dataset_with_answers_cardiology.json", "{question, answer}"]),
    ],
)
def test_a_file_that_cannot_be_right_is_refused_with_what_is_at_fault_in_it(tmp_path, monkeypatch, case, names):
    message = str(refusal(preparation, command(CASES / case, tmp_path / "out"), monkeypatch))
    assert all(name in message.partition(str(CASES / case))[2] for name in names)


def test_context_that_is_not_read_is_named_and_nothing_useless_is_advised(tmp_path, monkeypatch):
    done = prepare(CASES / "extra_context_dropped", tmp_path / "out")
    assert re.search(r"'input'\D*30", done.stdout) and re.search(r"\b30 questions", done.stdout)
    assert done.returncode == 0 and "fine_tuning.py" not in done.stdout
    trained = ["fine_tuning.py", "--demo", f"DATASET_DIR={tmp_path / 'out'}", f"OUTPUT_DIR={tmp_path / 'res'}"]
    error = refusal(fine_tuning, trained, monkeypatch)
    # neither other shares nor a new series would help
    assert error.where.startswith(str(tmp_path / "out")) and "1 question" in error.remedy
    assert not any(useless in error.remedy for useless in ("EVAL_SPLIT_SIZE", "--fresh", "shares"))


def test_every_file_of_the_folder_is_read_or_named(tmp_path):
    done = prepare(CASES / "ignored_files", tmp_path / "out")
    assert re.search(r" neurology\.json .*dataset_with_answers_neurology\.json", done.stdout)
    assert set(read_ledger(tmp_path / "out")[-1].shares) == {"cardiology", "urology", "renal"}


def test_a_specialty_is_not_gone_because_its_file_has_another_name(tmp_path, monkeypatch):
    files = tmp_path / "files"
    shutil.copytree(CASES / "ignored_files", files)
    prepare(files, tmp_path / "out")
    (files / "dataset_with_answers_urology.jsonl").rename(files / "urology.jsonl")
    error = refusal(preparation, command(files, tmp_path / "out"), monkeypatch)
    assert error.where.endswith("urology.jsonl") and "urology" in error.remedy
    (files / "urology.jsonl").rename(files / "dataset_with_answers_urology.ndjson")
    again = prepare(files, tmp_path / "out")
    assert again.returncode == 0, again.stderr
    changes = [record.changes for record in read_ledger(tmp_path / "out")]
    assert len(changes) == 2 and not changes[-1].removed and not changes[-1].edited


def test_a_row_belongs_to_the_specialty_that_it_names(tmp_path):
    prepare(CASES / "json_specialty_ignored", tmp_path / "out")
    shares = read_ledger(tmp_path / "out")[-1].shares
    assert shares and "all" not in shares


def test_names_in_other_scripts_and_forms_are_names(tmp_path):
    done = prepare(CASES / "names_with_marks", tmp_path / "out", "HOLDOUT_SAMPLES_PER_SPECIALTY=3")
    assert done.returncode == 0
    assert set(read_ledger(tmp_path / "out")[-1].shares) == {"pédiatrie", "हृदय_रोग", "หัวใจ"}


@pytest.mark.parametrize(
    ("case", "added", "edited"),
    [("crlf_counts_as_edited", 0, 0), ("less_and_more_conflated", 20, 0), ("marks_dropped_in_questions", 20, 0)],
)
def test_only_a_change_that_can_be_seen_makes_another_record(tmp_path, case, added, edited):
    files = tmp_path / "files"
    for step in ("1", "2"):
        shutil.copytree(CASES / case / step, files, dirs_exist_ok=True)
        assert prepare(files, tmp_path / "out").returncode == 0
    record = read_ledger(tmp_path / "out")[-1]
    assert record.changes == UpstreamChanges(added=added, edited=edited)
    assert not sum(record.sizes.set_aside.values())
    assert len(dataset_folders.read_split(tmp_path / "out", Split.HOLDOUT)) == 10


@pytest.mark.parametrize("names", [("cardiology", "urology"), ("01", "02"), ("NA", "urology")])
def test_specialties_called_by_numbers_keep_their_history(names, tmp_path):
    scores = np.linspace(0.1, 0.8, 8)
    table = pd.DataFrame({"id": [f"q{i}" for i in range(8)], "split": ["eval"] * 8, "specialty": [names[i % 2] for i in range(8)],
                          "ROUGE-L": scores})  # fmt: skip
    base, now = AnswerTable(table), AnswerTable(table.assign(**{"ROUGE-L": scores + 0.05}))
    base.write(tmp_path, TUNED)
    earlier = AnswerTable.read(tmp_path, TUNED)
    trained = [dict.fromkeys(names, 10), dict.fromkeys(names, 20)]
    seen = curve_data.collect_observations(base, [earlier, now], trained, list(names), "ROUGE-L", sign=1.0)
    assert np.round(seen.means, 3).tolist() == [[0.4, 0.5], [0.4, 0.5], [0.45, 0.55]]


def medical_numbers() -> list[tuple[str, str]]:
    """Reference and answer of each line of the case."""
    path = CASES / "medical_numbers" / "more_metrics.py"
    if not path.is_file():
        return []
    return list(ast.literal_eval(re.search(r"for ref,hyp in (\(.*\)):\n", path.read_text(encoding="utf-8")).group(1)))


DIFFERENT = ("Give 0,5 mg daily.|Give 5 mg", "Give .5 mg daily.|Give 5 mg", "每日", "口服", "Give ≥", "HbA1c")


@pytest.mark.parametrize(("reference", "answer"), medical_numbers())
def test_another_medical_number_is_found_and_another_notation_is_not(reference, answer):
    differs = f"{reference}|{answer}".startswith(DIFFERENT)
    assert answer_checks.number_differs(reference, answer) == differs
    assert (medical_metrics.factual_exact_match(reference, answer) == 1.0) != differs


def test_a_chinese_loop_is_repeating_and_two_unicode_forms_are_one_text():
    assert answer_checks.repeating("每日服药三次。" * 60)
    composed = unicodedata.normalize("NFC", "Hépatite aiguë sévère")
    decomposed = unicodedata.normalize("NFD", composed)
    for metric in (text_metrics.exact_match, text_metrics.token_f1, text_metrics.rouge_l):
        assert metric(composed, decomposed) == 1.0
    assert text_metrics.bleu(composed, decomposed)[0] == 1.0


def test_a_path_under_the_home_folder_goes_there(tmp_path):
    done = run_script("dataset_preparation.py", "--config", str(CASES / "tilde" / "tilde.yaml"), HOME=str(tmp_path))
    assert done.returncode == 0 and (tmp_path / "meerkat_out" / "manifest.json").is_file()
