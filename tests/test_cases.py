"""Inputs that once gave wrong numbers, lost data or ended in a traceback, as they were reported."""

import ast
import re
import shutil
import unicodedata

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, run_script

from meerkat_workbench.tuning.allocation import curve_data
from meerkat_workbench.tuning.data import dataset_folders, iterations
from meerkat_workbench.tuning.reporting import comparison, history
from meerkat_workbench.tuning.scoring import answer_checks, medical_metrics, text_metrics

CASES = ROOT.parent / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the reported cases are not on this machine")


def prepare(folder, out, *more):
    return run_script("dataset_preparation.py", f"DATA_DIR={folder}", f"OUTPUT_DIR={out}", *more)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("bigint_traceback", "dataset_with_answers_cardiology.json: holds a number that is too long"),
        ("csv_repeated_column", "names the column 'answer' twice"),
        ("csv_unquoted_commas", "record 1: has 4 fields where the header has 2; quote texts that hold commas"),
        ("invisible_text", '"answer" is empty'),
        ("single_record_object", "is one record {question, answer}; put records into a list"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused_in_one_error(tmp_path, case, said):
    done = prepare(CASES / case, tmp_path / "out")
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_context_that_is_not_read_is_named_and_nothing_useless_is_advised(tmp_path):
    done = prepare(CASES / "extra_context_dropped", tmp_path / "out")
    assert "'input' of 30 records" in done.stdout and "all 30 questions are equal" in done.stdout
    assert "nothing can be trained and evaluated yet" in done.stdout and "next:" not in done.stdout
    trained = run_script("fine_tuning.py", "--demo", f"DATASET_DIR={tmp_path / 'out'}", f"OUTPUT_DIR={tmp_path / 'res'}")
    assert trained.returncode == 2 and "ask 1 question" in trained.stderr and "Raise the shares" not in trained.stderr


def test_every_file_of_the_folder_is_read_or_named(tmp_path):
    done = prepare(CASES / "ignored_files", tmp_path / "out")
    assert "not read: neurology.json (name it dataset_with_answers_neurology.json" in done.stdout
    assert set(iterations.read_ledger(tmp_path / "out")[-1]["shares"]) == {"cardiology", "urology", "renal"}


def test_a_specialty_is_not_gone_because_its_file_has_another_name(tmp_path):
    files = tmp_path / "files"
    shutil.copytree(CASES / "ignored_files", files)
    prepare(files, tmp_path / "out")
    (files / "dataset_with_answers_urology.jsonl").rename(files / "urology.jsonl")
    done = prepare(files, tmp_path / "out")
    assert done.returncode == 2 and "urology has records in earlier iterations" in done.stderr
    (files / "urology.jsonl").rename(files / "dataset_with_answers_urology.ndjson")
    again = prepare(files, tmp_path / "out")
    assert again.returncode == 0, again.stderr
    changes = [line["changes"] for line in iterations.read_ledger(tmp_path / "out")]
    assert len(changes) == 2 and not changes[-1]["removed"] and not changes[-1]["edited"]


def test_rows_stand_in_the_specialty_that_they_name(tmp_path):
    prepare(CASES / "json_specialty_ignored", tmp_path / "out")
    assert "all" not in iterations.read_ledger(tmp_path / "out")[-1]["shares"]


def test_names_in_other_scripts_and_forms_are_names(tmp_path):
    done = prepare(CASES / "names_with_marks", tmp_path / "out", "HOLDOUT_SAMPLES_PER_SPECIALTY=3")
    assert done.returncode == 0 and set(iterations.read_ledger(tmp_path / "out")[-1]["shares"]) == {
        "pédiatrie",
        "हृदय_रोग",
        "หัวใจ",
    }


@pytest.mark.parametrize(
    ("case", "added", "edited"),
    [("crlf_counts_as_edited", 0, 0), ("less_and_more_conflated", 20, 0), ("marks_dropped_in_questions", 20, 0)],
)
def test_what_says_the_same_is_the_same_and_nothing_else(tmp_path, case, added, edited):
    files = tmp_path / "files"
    for step in ("1", "2"):
        shutil.copytree(CASES / case / step, files, dirs_exist_ok=True)
        assert prepare(files, tmp_path / "out").returncode == 0
    line = iterations.read_ledger(tmp_path / "out")[-1]
    assert (line["changes"]["added"], line["changes"]["edited"]) == (added, edited)
    assert not sum(line["sizes"]["set_aside"].values())
    assert len(dataset_folders.read_split(tmp_path / "out", "holdout")) == 10


@pytest.mark.parametrize("names", [("cardiology", "urology"), ("01", "02"), ("NA", "urology")])
def test_specialties_called_by_numbers_keep_their_history(names, tmp_path):
    scores = np.linspace(0.1, 0.8, 8)
    table = pd.DataFrame({"id": [f"q{i}" for i in range(8)], "split": ["eval"] * 8, "specialty": [names[i % 2] for i in range(8)],
                          "ROUGE-L": scores})  # fmt: skip
    with open(tmp_path / "answers.csv", "w", newline="") as file:
        comparison.write_csv(table, file)
    earlier, now = history._answers(tmp_path / "answers.csv"), table.assign(**{"ROUGE-L": scores + 0.05})
    trained = [dict.fromkeys(names, 10), dict.fromkeys(names, 20)]
    seen = curve_data.collect_observations(table, [earlier, now], trained, list(names), "ROUGE-L", sign=1.0)
    assert np.round(seen.means, 3).tolist() == [[0.4, 0.5], [0.4, 0.5], [0.45, 0.55]]


def medical_numbers() -> list[tuple[str, str]]:
    """Reference and answer of each line of the case."""
    path = CASES / "medical_numbers" / "more_metrics.py"
    if not path.is_file():
        return []
    return list(ast.literal_eval(re.search(r"for ref,hyp in (\(.*\)):\n", path.read_text(encoding="utf-8")).group(1)))


DIFFERENT = ("Give 0,5 mg daily.|Give 5 mg", "Give .5 mg daily.|Give 5 mg", "每日", "口服", "Give ≥", "HbA1c")


@pytest.mark.parametrize(("reference", "answer"), medical_numbers())
def test_the_table_of_medical_numbers_holds(reference, answer):
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
