"""A leak planted in each place is caught: in the files, in the prepared train set, in benchmarks, before training and before asking."""

import json
import shutil

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import evaluate_command, pairs, prepare_command, refusal, run_script, train_command, write_specialty

import dataset_preparation as preparation
import evaluation
import fine_tuning
from meerkat_workbench.core import artifacts, files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text import contamination
from meerkat_workbench.text.leakage import HeldOutIndex
from meerkat_workbench.text.near_duplicates import fingerprint
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.artifacts import (
    ContaminationSummary,
    DatasetManifest,
    ExportRecord,
    SetAsideRecord,
    Split,
    TrainingResult,
    read_ledger,
)
from meerkat_workbench.tuning.data import dataset_folders, leakage, preparation_report
from meerkat_workbench.tuning.data.records import make_record
from meerkat_workbench.tuning.old_formats import UNKNOWN_TRAIN_SET
from meerkat_workbench.tuning.training import start

VIGNETTE = (
    "A 54 year old man comes to the clinic because of pain in his left big toe that began last night after a large dinner "
    "with wine. What is the most likely diagnosis?"
)


@pytest.fixture
def config(specialty_files, tmp_path):
    return preparation.DatasetConfig(DATA_DIR=str(specialty_files), OUTPUT_DIR=str(tmp_path / "out"))


def records(*questions):
    return [make_record("x", question, f"An answer of its own to {question}") for question in questions]


def found_in(training, *questions):
    asked = [contamination.BenchmarkQuestion("set/test.jsonl", text) for text in questions]
    return {
        row: kind for row, (kind, _) in contamination.find_contaminated(training, fingerprint(training, near=True), asked).items()
    }


def test_a_training_record_that_repeats_a_fixed_one_in_any_writing_stops_training_and_both_are_named():
    fixed = {"holdout": records("What is gout?"), "eval": records("What are the long term effects of untreated type 2 diabetes?")}
    held_out = HeldOutIndex(fixed, 0.8)
    assert held_out.leaks_in(records("What is asthma?", "What are the effects of type 1 diabetes?")) == []
    leakage.raise_on_leaks([], "here", "Do this.")
    [leak] = held_out.leaks_in(records("what is GOUT"))
    assert (leak.reason, leak.held_out_set, leak.held_out) == ("same question", "holdout", fixed["holdout"][0])
    with pytest.raises(UserError) as caught:
        leakage.raise_on_leaks([leak], "here", "Do this.")
    error = caught.value
    assert error.where == "here" and error.fault.startswith("1 ") and error.remedy.startswith("Do this.")
    assert all(part in error.remedy for part in ("what is GOUT", "same question", "holdout", "What is gout?"))
    near = make_record(
        "y", "What are the long term effects of the untreated type 2 diabetes?", fixed["eval"][0].response + " indeed"
    )
    [leak] = held_out.leaks_in([near])
    assert (leak.training, leak.reason, leak.held_out_set) == (near, "near-duplicate", "eval")
    assert HeldOutIndex(fixed, 0).leaks_in([make_record("y", near.question, near.response + " more")]) == []


def test_thirteen_words_in_a_row_of_a_benchmark_are_found_in_questions_and_answers():
    inside = make_record("x", "Tell me of a case.", f"He said: {VIGNETTE[20:160]} and so on.")
    assert found_in([*records("What is gout?"), inside], VIGNETTE) == {1: "13 words in a row"}
    twelve = " ".join(VIGNETTE.split()[:12])
    assert found_in(records(f"{twelve} other words follow here in this question"), VIGNETTE) == {}
    # the end of one text and the beginning of the next make no run
    words = VIGNETTE.split()
    assert found_in([make_record("x", " ".join(words[:10]), " ".join(words[10:20]))], VIGNETTE) == {}


def test_short_benchmark_questions_are_found_as_equal_or_nearly_so():
    training = records("what is GOUT", "What is asthma?", "Which drugs lower uric acid in the blood of adults with gout now?")
    assert found_in(training, "What is gout?", "Which drugs lower uric acid in the blood of adults with gout?") == {
        0: "same question", 2: "near-duplicate question"}  # fmt: skip
    assert found_in(records("What is type 2 diabetes and how is it treated today in adults?"), "What is type 1 diabetes and how is it treated today in adults?") == {}  # fmt: skip


def test_a_phrase_that_many_records_have_is_no_sign_of_a_benchmark():
    phrase = "for more information on this please ask your doctor or call the national health line at night"
    many = [make_record("x", f"Question {n} about thing{n}?", f"Answer {n}: {phrase}") for n in range(11)]
    assert found_in(many, f"Complete: {phrase}") == {}
    assert len(found_in(many[:10], f"Complete: {phrase}")) == 10


def test_benchmarks_are_read_in_every_form_they_come_in(tmp_path):
    folder = tmp_path / "medqa"
    folder.mkdir()
    (folder / "a.txt").write_text("One?\n\nTwo?\n")
    (folder / "b.jsonl").write_text('{"question": "Three?", "answer": "x"}\n{"QUESTION": "Four?"}\n')
    (folder / "c.csv").write_text("id,question\n1,Five?\n")
    (folder / "d.json").write_text(json.dumps({"Six?": "yes"}))
    (folder / "e.json").write_text(json.dumps({"9876": {"QUESTION": "Seven?"}}))
    (folder / "f.json").write_text(json.dumps({"data": [{"query": "Eight?"}, "Nine?"]}))
    pq.write_table(pa.table({"question": ["Ten?"]}), folder / "g.parquet")
    assert [q.text for q in contamination.read_questions(contamination.find_files([str(folder)]))] == [
        "One?", "Two?", "Three?", "Four?", "Five?", "Six?", "Seven?", "Eight?", "Nine?", "Ten?"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "at_fault", "cause"),
    [("a.json", "{broken", "a.json", "line 1 column 2"), ("a.jsonl", '{"question": "One?"}\n{"text": "no field"}\n', "a.jsonl", "row 2"),
     ("a.txt", "", "a.txt", ", ".join(contamination.QUESTION_FIELDS)), ("a.parquet", "PAR1", "a.parquet", ""),
     ("a.md", "x", "", ", ".join(contamination.SUFFIXES)), (None, "", "", "")],
)  # fmt: skip
def test_a_benchmark_that_cannot_be_read_is_refused_by_name(tmp_path, name, content, at_fault, cause):
    folder = tmp_path / "set"
    if name:
        folder.mkdir()
        (folder / name).write_text(content)
    with pytest.raises(UserError) as caught:
        contamination.read_questions(contamination.find_files([str(folder)]))
    assert (caught.value.where, caught.value.item) == ("CONTAMINATION_SETS", str(folder / at_fault))
    assert cause in str(caught.value)


def test_contaminated_records_are_left_out_listed_and_reported(config, tmp_path, capsys):
    planted = pairs("cardiology", 40) | {VIGNETTE: "Gout, which the crystals in the joint would show."}
    write_specialty(tmp_path / "files", "cardiology", planted)
    (tmp_path / "medqa").mkdir()
    (tmp_path / "medqa" / "test.jsonl").write_text(json.dumps({"question": f"Case 7. {VIGNETTE}"}) + "\n")
    config.CONTAMINATION_SETS = [str(tmp_path / "medqa")]
    everything = dict.fromkeys(("cardiology", "neurology", "urology"), 1.0)
    _, train, _, _ = preparation.update_training_data(config, everything)
    # in the holdout it would stay: that is not trained on
    out = tmp_path / "out"
    listed = artifacts.read_lines(SetAsideRecord, out / SetAsideRecord.FILE)
    assert VIGNETTE not in train["question"] and [item.like for item in listed] == ["medqa/test.jsonl"]
    assert read_ledger(out)[-1].contamination == ContaminationSummary(
        questions=1, records=1, by_file={"medqa/test.jsonl": 1}, by_kind={"13 words in a row": 1}
    )
    preparation_report.print_report(out, DatasetManifest.require(out), up_to_date=False)
    assert "medqa/test.jsonl 1" in capsys.readouterr().out
    config.CONTAMINATION_SETS = []
    assert VIGNETTE in preparation.update_training_data(config, {})[1]["question"]


def plant(data, leaked=None):
    """Put a record, by default one of its holdout, into a prepared train set, as a user who edits it would."""
    folder = data / dataset_folders.FOLDERS[Split.TRAIN]
    train = dataset_folders.read_records(data, Split.TRAIN)
    leaked = leaked or dataset_folders.read_records(data, Split.HOLDOUT)[0]
    files.remove(folder)
    dataset_folders.write_split(folder, [*train, leaked], chat.ChatFormat.of(chat.render_llama3, ""))
    return leaked


def names_leak(error, folder, leaked=None):
    """Whether an error says that a model was trained on `folder`, and lists the record that leaked."""
    question = "" if leaked is None else leaked.question[:60]
    return error.where.endswith(str(folder)) and error.fault.startswith("1 ") and question in error.remedy


def test_a_leak_in_the_prepared_train_set_stops_training_and_evaluation(small_run, tmp_path, monkeypatch):
    folders = {**small_run, "data": tmp_path / "data", "adapter": tmp_path / "adapter", "scores": tmp_path / "scores"}
    shutil.copytree(small_run["data"], folders["data"])
    leaked = plant(folders["data"])
    error = refusal(fine_tuning, train_command(folders), monkeypatch)
    assert error.where == str(folders["data"]) and names_leak(error, folders["data"], leaked)
    assert "dataset_preparation.py" in error.remedy and not (folders["adapter"] / "manifest.json").exists()
    # an adapter that was trained on these sets all the same, as its manifest has it
    error = refusal(evaluation, evaluate_command({**folders, "adapter": small_run["adapter"]}), monkeypatch)
    assert error.where.startswith(str(small_run["adapter"])) and names_leak(error, folders["data"], leaked)
    assert not (folders["scores"] / "predictions.jsonl").exists()


def test_a_leak_in_the_train_set_of_an_earlier_iteration_stops_the_evaluation_of_its_adapter(small_run, tmp_path, monkeypatch):
    folders = {**small_run, "data": tmp_path / "data", "scores": tmp_path / "scores"}
    shutil.copytree(small_run["data"], folders["data"])
    advice = tmp_path / "advice.json"
    files.write_json(advice, {"iteration": 1, "recommended_sample_increases": {"urology": 0.9}})
    assert run_script(*prepare_command(folders), "--recommendations", str(advice)).returncode == 0
    archived = folders["data"] / "archive" / "iteration_001"
    leaked = plant(archived)
    assert DatasetManifest.require(folders["data"]).iteration == 2
    for more in ([], ["--ask", "What is gout?"]):
        error = refusal(evaluation, evaluate_command(folders, *more), monkeypatch)
        assert error.where.startswith(str(folders["adapter"])) and names_leak(error, archived, leaked)


def test_an_adapter_from_before_a_specialty_was_added_may_be_trained_further_and_asked_where_its_train_sets_can_be_checked(
    small_run, tmp_path, monkeypatch
):
    source, folders = tmp_path / "files", {**small_run, "data": tmp_path / "data", "adapter": tmp_path / "adapter"}
    shutil.copytree(small_run["files"], source)
    shutil.copytree(small_run["data"], folders["data"])
    write_specialty(source, "astrology", pairs("astrology", 40))
    assert run_script(*prepare_command({**folders, "files": source})).returncode == 0
    first, now = TrainingResult.require(small_run["adapter"]), DatasetManifest.require(folders["data"]).splits
    assert first.inputs.splits.holdout != now.holdout
    config = evaluation.EvaluationConfig(DATASET_DIR=str(folders["data"]), FINETUNED_MODEL_PATH=str(small_run["adapter"]))
    with pytest.raises(UserError) as caught:
        evaluation.load_subject(config)
    error = caught.value
    assert error.where == str(small_run["adapter"]) and "holdout and eval" in error.fault and str(folders["data"]) in error.fault
    assert "MODELS" in error.remedy and "python dataset_preparation.py" in error.remedy and "--iteration 1" in error.remedy
    going_on = train_command(
        folders, f"INIT_ADAPTER={small_run['adapter']}", "TRAINER_OPTIONS={max_steps: 2}", "SAMPLE_QUESTIONS=0"
    )
    done = run_script(*going_on)
    assert done.returncode == 0, done.stderr
    assert TrainingResult.require(folders["adapter"]).inputs.trained_on == (first.inputs.splits.train, now.train)
    config = evaluation.EvaluationConfig(
        DATASET_DIR=str(folders["data"]),
        FINETUNED_MODEL_PATH=str(folders["adapter"]),
        MODELS={"first": str(small_run["adapter"])},
    )
    subject = evaluation.load_subject(config)
    planned = evaluation.plan_systems(config, subject, "fp32", {})
    assert [system.name for system in planned] == ["base", "tuned", "base_few_shot", "first"]
    subject.check_leaks(planned)
    archived = folders["data"] / "archive" / "iteration_001"
    leaked = plant(archived)
    # the adapter that is asked learnt it by way of the one that it was trained further from
    with pytest.raises(UserError) as caught:
        subject.check_leaks(planned[:2])
    assert caught.value.where.startswith(str(folders["adapter"])) and names_leak(caught.value, archived, leaked)
    shutil.rmtree(archived)
    with pytest.raises(UserError) as caught:
        subject.check_leaks(planned)
    assert caught.value.where == f"MODELS: first ({small_run['adapter']})" and str(folders["data"]) in caught.value.fault
    assert "first" in caught.value.remedy and "MODELS" in caught.value.remedy
    error = refusal(fine_tuning, [*going_on, f"OUTPUT_DIR={tmp_path / 'another'}"], monkeypatch)
    assert error.where == f"INIT_ADAPTER={small_run['adapter']}" and str(folders["data"]) in error.fault


@pytest.fixture
def two_iterations(config, tmp_path):
    """A prepared folder to which a specialty came in its second iteration, and the split hashes of the first."""
    write_specialty(tmp_path / "files", "dentistry", pairs("dentistry", 30))
    preparation.update_training_data(config, {})
    first = DatasetManifest.require(tmp_path / "out").splits
    write_specialty(tmp_path / "files", "oncology", pairs("oncology", 40))
    preparation.update_training_data(config, {})
    return tmp_path / "out", first


REMEDY = "Leave it."


def trained_model(splits, trained_on=None, **settings):
    """A model that was trained beside these sets.

    Args:
        trained_on: hashes of its train sets; None for a manifest of a version that did not record them.
    """
    measured = {"step": 1, "epoch": 1.0, "examples": 1, "tokens": 1, "loss": 1.0, "perplexity": 2.7, "token_accuracy": 0.5}
    inputs = {"dataset": "", "splits": msgspec.to_builtins(splits), "base_weights": "", "adapter": ""}
    manifest = {"made_by": "fine_tuning.py", "fingerprint": "", "iteration": 1, "settings": settings, "kept": measured, "before": measured,
                "inputs": inputs if trained_on is None else {**inputs, "trained_on": trained_on}}  # fmt: skip
    return [leakage.TrainedModel("it", artifacts.from_json(TrainingResult, manifest, "it"), REMEDY)]


def check(folder, models):
    return leakage.check_trained_models(folder, leakage.held_out_index(folder), models)


def refused(folder, models):
    with pytest.raises(UserError) as caught:
        check(folder, models)
    assert caught.value.remedy.startswith(REMEDY)
    return caught.value


def is_unknown(error, folder):
    """Whether an error says that what a model learnt does not lie in the folder; one of a leak names the train set beside the model."""
    return error.where == "it" and str(folder) in error.fault and error.remedy == REMEDY


def test_a_model_of_an_earlier_iteration_passes_only_if_all_its_train_sets_are_known_and_lie_in_the_archive(two_iterations):
    folder, first = two_iterations
    assert check(folder, trained_model(first)) == []
    for unknown in (
        trained_model(msgspec.structs.replace(first, train="of another series")),
        # by a version that did not record what the adapter before it had learnt
        trained_model(first, INIT_ADAPTER="results/archive/iteration_000"),
        trained_model(first, [UNKNOWN_TRAIN_SET, first.train]),
    ):
        assert is_unknown(refused(folder, unknown), folder)
    files.remove(folder / "archive" / "iteration_001" / dataset_folders.FOLDERS[Split.TRAIN])
    assert is_unknown(refused(folder, trained_model(first)), folder)


def test_of_two_folders_that_name_the_same_train_set_the_edited_one_is_checked_too(two_iterations):
    folder, first = two_iterations
    check(folder, trained_model(first))
    copy = folder / "archive" / "iteration_001b"
    shutil.copytree(folder / "archive" / "iteration_001", copy)
    asked = dataset_folders.read_records(folder, Split.HOLDOUT)
    leaked = plant(copy, next(record for record in asked if record.specialty == "oncology"))
    error = refused(folder, trained_model(first))
    assert error.where.startswith("it:") and names_leak(error, copy, leaked) and "oncology" in error.remedy
    # a model that was trained on the edited set is recognised by the records, not by the name
    held = dataset_folders.hash_of_ids(copy, Split.TRAIN)
    assert names_leak(refused(folder, trained_model(first, [held])), copy, leaked)


def test_train_sets_that_cannot_be_checked_are_noted_or_refused_where_the_fixed_sets_differ(two_iterations):
    folder, first = two_iterations
    now = DatasetManifest.require(folder).splits
    assert check(folder, trained_model(now)) == check(folder, trained_model(first)) == []
    [note] = check(folder, trained_model(msgspec.structs.replace(now, train="of a series begun anew")))
    assert note.startswith("it: ") and str(folder) in note
    # an archive on another disk, with a link in its place
    (folder / "archive").rename(folder.parent / "elsewhere")
    (folder / "archive").symlink_to(folder.parent / "elsewhere")
    assert check(folder, trained_model(first)) == []
    unreadable = folder / "archive" / "iteration_001"
    (unreadable / "manifest.json").write_text("{")
    assert check(folder, trained_model(now)) == []
    error = refused(folder, trained_model(first))
    assert is_unknown(error, folder) and str(unreadable) in error.fault
    [note] = check(folder, [leakage.TrainedModel("MODELS: other", None, "")])
    assert note.startswith("MODELS: other: ")


def test_the_train_sets_of_a_series_that_was_set_aside_are_checked_too(config, tmp_path):
    out = tmp_path / "out"
    preparation.create_datasets(config)
    first = DatasetManifest.require(out).splits
    preparation.prepare(config, {}, fresh=True)
    assert check(out, trained_model(first)) == []
    series = out / "archive" / "series"
    leaked = plant(series)
    assert names_leak(refused(out, trained_model(first)), series, leaked)


def test_whole_and_exported_models_have_a_record_of_their_training_and_others_have_none(
    exported, small_run, tmp_path, monkeypatch
):
    training = TrainingResult.require(small_run["adapter"])
    assert leakage.read_training_record(str(small_run["adapter"])) == training
    from_export = leakage.read_training_record(str(exported[0]))
    assert isinstance(from_export, ExportRecord) and from_export.adapter == training.outputs.adapter
    assert from_export.inputs.splits == training.inputs.splits
    assert from_export.inputs.trained_on == training.inputs.trained_on == (training.inputs.splits.train,)
    for of_another in (["of somebody else"], {"inputs": None}, {"inputs": {"splits": {"train": "x"}}}):
        files.write_json(tmp_path / "manifest.json", of_another)
        assert leakage.read_training_record(str(tmp_path)) is None
    # the same file on the Hub, as far as this machine has it
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    shutil.copy(exported[0] / ExportRecord.FILE, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert leakage.read_training_record("owner/name") == from_export and leakage.read_training_record("owner/another") is None

    def blocked(*_):
        raise RuntimeError("403 by the proxy")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", blocked)
    assert leakage.read_training_record("owner/name") == from_export and leakage.read_training_record("owner/another") is None


def test_training_from_an_exported_model_beside_other_fixed_sets_is_refused_by_the_name_of_the_setting(
    exported, small_run, tmp_path
):
    data = tmp_path / "data"
    preparation.create_datasets(
        preparation.DatasetConfig(DATA_DIR=str(small_run["files"]), OUTPUT_DIR=str(data), EVAL_SPLIT_SIZE=0.4, RANDOM_SEED=7)
    )
    base = start.BaseModel.find(str(exported[0]))
    with pytest.raises(UserError) as caught:
        start.check_leaks(data, base, None)
    assert caught.value.where == f"MODEL_NAME={exported[0]}" and str(data) in caught.value.fault


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"questions": ["What is gout now?", "What is flu now?"]}, ["What is gout now?", "What is flu now?"]),
        ({"What is gout now?": "a", "Problem": "b"}, ["What is gout now?", "Problem"]),
        ({"data": [{"question": "What is gout?"}], "more": ["What is flu?"]}, ["What is gout?", "What is flu?"]),
        ({"What is gout now?": {"answer": "a", "input": "context"}}, ["What is gout now?", "context"]),
        ({"1": {"question": "What is gout?"}}, ["What is gout?"]),
        ([{"instruction": "What is gout?", "input": "Be brief"}], ["What is gout?", "Be brief"]),
        ({"question": "What is gout?", "answer": "a"}, ["What is gout?"]),
    ],
)
def test_no_question_of_a_benchmark_is_missed_in_any_form(tmp_path, content, found):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(content))
    assert [question.text for question in contamination.read_questions([path])] == found


@pytest.mark.parametrize("name", ["more.xlsx", "questions", "q.dat", ".q.json.icloud"])
def test_a_file_of_a_benchmark_that_is_not_read_is_refused(tmp_path, name):
    (tmp_path / "b.json").write_text('["What is gout?"]')
    (tmp_path / "README.md").write_text("x")
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError) as caught:
        contamination.find_files([str(tmp_path)])
    assert (caught.value.where, caught.value.item) == ("CONTAMINATION_SETS", str(tmp_path / name))
