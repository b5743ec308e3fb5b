"""A leak planted in each place is caught: in the files, in the prepared train set, in benchmarks, before training and before asking."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import evaluate_command, mistake, pairs, prepare_command, run_script, train_command, write_specialty

import dataset_preparation as preparation
import evaluation
import fine_tuning
from meerkat_workbench.core import files, manifest
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text import contamination
from meerkat_workbench.text.near_duplicates import fingerprint
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.data import dataset_folders, leakage
from meerkat_workbench.tuning.data.records import make_record

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


def test_a_question_of_a_fixed_set_however_it_is_written_stops_training_and_names_both():
    fixed = {"holdout": records("What is gout?"), "eval": records("What are the long term effects of untreated type 2 diabetes?")}
    questions = leakage.HeldOutIndex(fixed, 0.8)

    def refuse(*training, questions=questions):
        leakage.raise_on_leaks(questions.repeated_in(training), "here", "")

    refuse(*records("What is asthma?", "What are the effects of type 1 diabetes?"))
    with pytest.raises(
        UserError, match=r"here: 1 training records .*\n.*'what is GOUT' \(same question as .* of the holdout set"
    ):
        refuse(*records("what is GOUT"))
    near = make_record(
        "y", "What are the long term effects of the untreated type 2 diabetes?", fixed["eval"][0].response + " indeed"
    )
    with pytest.raises(UserError, match=r"near-duplicate as .* of the eval set"):
        refuse(near)
    refuse(make_record("y", near.question, near.response + " more"), questions=leakage.HeldOutIndex(fixed, 0))


def test_thirteen_words_in_a_row_of_a_benchmark_are_found_in_question_and_answer():
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


def test_a_phrase_that_many_records_have_tells_nothing():
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
    ("name", "content", "words"),
    [("a.json", "{broken", "cannot be read"), ("a.jsonl", '{"question": "One?"}\n{"text": "no field"}\n', "row 2 has none of the fields"),
     ("a.txt", "", "holds no question"), ("a.parquet", "PAR1", "cannot be read"), ("a.md", "x", "holds no .json"), (None, "", "no such folder")],
)  # fmt: skip
def test_a_benchmark_that_cannot_be_read_is_refused_by_name(tmp_path, name, content, words):
    if name:
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / name).write_text(content)
    with pytest.raises(UserError, match=f"CONTAMINATION_SETS: .*{words}"):
        contamination.read_questions(contamination.find_files([str(tmp_path / "set")]))


def test_contaminated_records_are_left_out_listed_and_told(config, tmp_path, capsys):
    planted = pairs("cardiology", 40) | {VIGNETTE: "Gout, which the crystals in the joint would show."}
    write_specialty(tmp_path / "files", "cardiology", planted)
    (tmp_path / "medqa").mkdir()
    (tmp_path / "medqa" / "test.jsonl").write_text(json.dumps({"question": f"Case 7. {VIGNETTE}"}) + "\n")
    config.CONTAMINATION_SETS = [str(tmp_path / "medqa")]
    everything = dict.fromkeys(("cardiology", "neurology", "urology"), 1.0)
    _, train, _, _ = preparation.update_training_data(config, everything)
    # in the holdout it would stay: that is not trained on
    listed = files.read_json_lines(tmp_path / "out" / "set_aside.jsonl")
    assert VIGNETTE not in train["question"] and [item["like"] for item in listed] == ["medqa/test.jsonl"]
    preparation.report(tmp_path / "out", {"up_to_date": False, "seconds": 1})
    assert "1 benchmark questions were looked for; 1 records hold one" in capsys.readouterr().out
    config.CONTAMINATION_SETS = []
    assert VIGNETTE in preparation.update_training_data(config, {})[1]["question"]


def plant(data, leaked=None):
    """Put a record, by default one of its holdout, into a prepared train set, as a user who edits it would."""
    train = dataset_folders.read_records(data, "train")
    leaked = leaked or dataset_folders.read_records(data, "holdout")[0]
    files.remove(data / dataset_folders.TRAIN)
    dataset_folders.write_split(data / dataset_folders.TRAIN, [*train, leaked], chat.ChatFormat.of(chat.render_llama3, ""))
    return leaked


def test_a_leak_in_the_prepared_train_set_stops_training_and_asking(small_run, tmp_path):
    folders = {**small_run, "data": tmp_path / "data", "adapter": tmp_path / "adapter", "scores": tmp_path / "scores"}
    shutil.copytree(small_run["data"], folders["data"])
    leaked = plant(folders["data"])
    refused = run_script(*train_command(folders))
    assert (
        refused.returncode == 2 and leaked.question[:60] in refused.stderr and not (folders["adapter"] / "manifest.json").exists()
    )
    # an adapter that was trained on these sets all the same, as its manifest says
    asked = run_script(*evaluate_command({**folders, "adapter": small_run["adapter"]}))
    assert asked.returncode == 2 and "would lie" in asked.stderr and not (folders["scores"] / "predictions.jsonl").exists()


def test_a_leak_in_an_earlier_iterations_train_set_stops_its_adapter_from_being_asked(small_run, tmp_path):
    folders = {**small_run, "data": tmp_path / "data", "scores": tmp_path / "scores"}
    shutil.copytree(small_run["data"], folders["data"])
    advice = tmp_path / "advice.json"
    files.write_json(advice, {"iteration": 1, "recommended_sample_increases": {"urology": 0.9}})
    assert run_script(*prepare_command(folders), "--recommendations", str(advice)).returncode == 0
    plant(folders["data"] / "archive" / "iteration_001")
    assert manifest.read(folders["data"])["iteration"] == 2
    asked = run_script(*evaluate_command(folders))
    assert asked.returncode == 2 and "iteration_001: 1 training records say the same" in asked.stderr
    told = run_script(*evaluate_command(folders, "--ask", "What is gout?"))
    assert told.returncode == 2 and "say the same" in told.stderr


def test_once_a_specialty_was_added_earlier_adapters_are_gone_on_with_and_asked_where_what_they_learnt_can_be_looked_into(
    small_run, tmp_path, monkeypatch, capsys
):
    source, folders = tmp_path / "files", {**small_run, "data": tmp_path / "data", "adapter": tmp_path / "adapter"}
    shutil.copytree(small_run["files"], source)
    shutil.copytree(small_run["data"], folders["data"])
    write_specialty(source, "astrology", pairs("astrology", 40))
    assert run_script(*prepare_command({**folders, "files": source})).returncode == 0
    first, now = manifest.read(small_run["adapter"]), manifest.read(folders["data"])["splits"]
    assert first["inputs"]["splits"]["holdout"] != now["holdout"]
    with pytest.raises(UserError, match=r"bring its sets back: python dataset_preparation.py .* --iteration 1\."):
        evaluation.Inputs(
            evaluation.EvaluationConfig(DATASET_DIR=str(folders["data"]), FINETUNED_MODEL_PATH=str(small_run["adapter"]))
        )
    going_on = train_command(
        folders, f"INIT_ADAPTER={small_run['adapter']}", "TRAINER_OPTIONS={max_steps: 2}", "SAMPLE_QUESTIONS=0"
    )
    done = run_script(*going_on)
    assert done.returncode == 0, done.stderr
    assert manifest.read(folders["adapter"])["inputs"]["trained_on"] == [first["inputs"]["splits"]["train"], now["train"]]
    config = evaluation.EvaluationConfig(
        DATASET_DIR=str(folders["data"]),
        FINETUNED_MODEL_PATH=str(folders["adapter"]),
        MODELS={"first": str(small_run["adapter"])},
    )
    inputs = evaluation.Inputs(config)
    planned = evaluation.plan_arms(config, inputs, {}, "fp32")
    assert [arm.name for arm in planned] == ["base", "tuned", "first"]
    evaluation.refuse_leaks(inputs, planned)
    archived = folders["data"] / "archive" / "iteration_001"
    plant(archived)
    # the adapter that is asked learnt it by way of the one it went on from
    with pytest.raises(UserError, match="iteration_001: 1 training records say the same"):
        evaluation.refuse_leaks(inputs, planned[:2])
    shutil.rmtree(archived)
    with pytest.raises(UserError, match=r"MODELS: first .* does not hold all that it was trained on.* Leave first out of MODELS"):
        evaluation.refuse_leaks(inputs, planned)
    code, said = mistake(fine_tuning, [*going_on, f"OUTPUT_DIR={tmp_path / 'another'}"], monkeypatch, capsys)
    assert code == 2 and "INIT_ADAPTER=" in said and "does not hold all" in said and "Begin a new adapter" in said


@pytest.fixture
def two_iterations(config, tmp_path):
    """A prepared folder to which a specialty came in its second iteration, and what a model of the first was trained on."""
    write_specialty(tmp_path / "files", "dentistry", pairs("dentistry", 30))
    preparation.update_training_data(config, {})
    first = manifest.read(tmp_path / "out")["splits"]
    write_specialty(tmp_path / "files", "oncology", pairs("oncology", 40))
    preparation.update_training_data(config, {})
    return tmp_path / "out", first


def trained_model(splits, **more):
    return [leakage.TrainedModel("it", {"inputs": {"splits": splits, **more.pop("inputs", {})}, **more}, "Leave it.")]


def look_into(folder, trained_models):
    return leakage.check_trained_models(folder, leakage.HeldOutIndex.of(folder), trained_models)


def test_a_model_of_an_earlier_iteration_passes_only_if_all_that_it_learnt_is_known_and_lies_there(two_iterations):
    folder, first = two_iterations
    look_into(folder, trained_model(first))
    for unknown in (
        trained_model({**first, "train": "of another series"}),
        trained_model(
            first, settings={"INIT_ADAPTER": "results/archive/iteration_000"}
        ),  # by a version that did not write down the chain
        trained_model(first, inputs={"trained_on": [leakage.UNKNOWN, first["train"]]}),
    ):
        with pytest.raises(UserError, match=r"^it: was trained beside another .* does not hold all .* Leave it\.$"):
            look_into(folder, unknown)
    files.remove(folder / "archive" / "iteration_001" / "train_dataset")
    with pytest.raises(UserError, match="does not hold all"):
        look_into(folder, trained_model(first))


def test_of_two_folders_that_name_the_same_train_set_the_one_that_was_edited_is_looked_into_too(two_iterations):
    folder, first = two_iterations
    look_into(folder, trained_model(first))
    copy = folder / "archive" / "iteration_001b"
    shutil.copytree(folder / "archive" / "iteration_001", copy)
    asked = dataset_folders.read_records(folder, "holdout")
    plant(copy, next(record for record in asked if record.specialty == "oncology"))
    with pytest.raises(UserError, match=r"iteration_001b: 1 training records .*\n.*oncology"):
        look_into(folder, trained_model(first))
    # a model that was trained on the edited set says so by the records, not by the name
    held = dataset_folders.hash_of_ids(copy, "train")
    with pytest.raises(UserError, match="iteration_001b: 1 training records"):
        look_into(folder, trained_model(first, inputs={"trained_on": [held]}))


def test_what_could_not_be_looked_into_is_said_or_refused_where_it_matters(two_iterations):
    folder, first = two_iterations
    now = manifest.read(folder)["splits"]
    assert look_into(folder, trained_model(now)) == look_into(folder, trained_model(first)) == []
    [said] = look_into(folder, trained_model({**now, "train": "of a series begun anew"}))
    assert said.startswith(f"it: not all that it was trained on lies in {folder} and its archive, so that was not looked")
    # an archive on another disk, with a link in its place
    (folder / "archive").rename(folder.parent / "elsewhere")
    (folder / "archive").symlink_to(folder.parent / "elsewhere")
    assert look_into(folder, trained_model(first)) == []
    (folder / "archive" / "iteration_001" / "manifest.json").write_text("{")
    assert look_into(folder, trained_model(now)) == []
    with pytest.raises(UserError, match=r"does not hold all that it was trained on \(.*iteration_001 cannot be read\)"):
        look_into(folder, trained_model(first))
    [said] = look_into(folder, [leakage.TrainedModel("MODELS: other", None, "")])
    assert said == "MODELS: other: what it was trained on is not known here; it may have learnt what is asked"


def test_the_train_sets_of_a_series_that_was_set_aside_are_looked_into_too(config, tmp_path):
    preparation.create_datasets(config)
    first = manifest.read(tmp_path / "out")["splits"]
    with files.output_lock(tmp_path / "out"):
        preparation.prepare(config, {}, fresh=True)
    assert look_into(tmp_path / "out", trained_model(first)) == []
    plant(tmp_path / "out" / "archive" / "series")
    with pytest.raises(UserError, match="series: 1 training records say the same"):
        look_into(tmp_path / "out", trained_model(first))


def test_whole_and_exported_models_say_what_they_learnt_and_others_say_nothing(exported, small_run, tmp_path, monkeypatch):
    training = manifest.read(small_run["adapter"])
    assert leakage.read_training_record(str(small_run["adapter"])) == training
    from_export = leakage.read_training_record(str(exported[0]))
    assert (
        leakage.training_set_hashes(from_export)
        == leakage.training_set_hashes(training)
        == [training["inputs"]["splits"]["train"]]
    )
    for of_another in (["of somebody else"], {"inputs": None}, {"inputs": {"splits": {"train": "x"}}}):
        files.write_json(tmp_path / "manifest.json", of_another)
        assert leakage.read_training_record(str(tmp_path)) is None
    # the same file on the Hub, as far as this machine has it
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    shutil.copy(exported[0] / leakage.EXPORT, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert leakage.read_training_record("owner/name") == from_export and leakage.read_training_record("owner/another") is None

    def blocked(*_):
        raise RuntimeError("403 by the proxy")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", blocked)
    assert leakage.read_training_record("owner/name") == from_export and leakage.read_training_record("owner/another") is None
    # going on from the exported model as a base: beside other fixed sets it is refused, by the name of the setting
    data = tmp_path / "data"
    made = run_script("dataset_preparation.py", f"DATA_DIR={small_run['files']}", f"OUTPUT_DIR={data}", "RANDOM_SEED=7")
    assert made.returncode == 0
    settings = fine_tuning.TrainingConfig(DATASET_DIR=str(data), MODEL_NAME=str(exported[0]))
    with pytest.raises(UserError, match=r"MODEL_NAME=.*does not hold all"):
        fine_tuning.refuse_leaks(settings, str(exported[0]))


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
def test_no_question_of_a_benchmark_is_passed_over_whatever_its_form(tmp_path, content, found):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(content))
    assert [question.text for question in contamination.read_questions([path])] == found


@pytest.mark.parametrize("name", ["more.xlsx", "questions", "q.dat", ".q.json.icloud"])
def test_a_file_of_a_benchmark_that_is_not_read_is_refused(tmp_path, name):
    (tmp_path / "b.json").write_text('["What is gout?"]')
    (tmp_path / "README.md").write_text("x")
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match="is not read"):
        contamination.find_files([str(tmp_path)])
