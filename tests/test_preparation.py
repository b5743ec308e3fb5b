"""The split contract: fixed, nested, disjoint, and the same whatever the order of files."""

import csv
import gc
import json
import os
import shutil
from pathlib import Path

import pytest
import tiny_models
from conftest import SHARED_DATA, pairs, refusal, run_script, write_specialty

import dataset_preparation as preparation
from meerkat_workbench.core import artifacts, files, runs
from meerkat_workbench.core.errors import EXIT_MISTAKE, UserError
from meerkat_workbench.text.texts import key_of_words, words_of
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.artifacts import (
    FIXED,
    DatasetManifest,
    IterationRecord,
    SetAsideRecord,
    SpecialtyChanges,
    Split,
    UpstreamChanges,
    read_ledger,
)
from meerkat_workbench.tuning.data import dataset_folders, preparation_report, renames, rollback


@pytest.fixture(autouse=True)
def collect_garbage():
    """The script's main turns garbage collection off, for as long as its process lives."""
    yield
    gc.enable()


@pytest.fixture
def config(specialty_files, tmp_path):
    return preparation.DatasetConfig(DATA_DIR=str(specialty_files), OUTPUT_DIR=str(tmp_path / "out"))


def ids(split):
    return set(split["id"])


def ledger(config):
    return read_ledger(Path(config.OUTPUT_DIR))


def responses(folder, split):
    return [record.response for record in dataset_folders.read_split(folder, split)]


def test_the_sizes_are_those_of_the_specification(config):
    holdout, train, evaluation, pool = preparation.create_datasets(config)
    # 40, 50 and 60 pairs: 10 held out of each; half of the rest is used, a fifth of that for eval
    assert len(holdout) == 30
    assert len(evaluation) == 3 + 4 + 5
    assert len(train) == (15 - 3) + (20 - 4) + (25 - 5)
    assert len(pool) == 15 + 20 + 25
    assert holdout.column_names == ["id", "specialty", "question", "response", "messages", "formatted_prompt", "formatted_chat"]


def test_no_record_and_no_question_is_in_two_splits(config):
    splits = preparation.create_datasets(config)
    everything = [i for split in splits for i in split["id"]]
    assert len(everything) == len(set(everything)) == 150
    questions = [{key_of_words(words_of(q)) for q in split["question"]} for split in splits]
    assert sum(map(len, questions)) == len(set().union(*questions))


def test_a_raised_share_keeps_what_was_trained_on_and_a_lowered_one_returns_the_rest_to_the_pool(config):
    holdout, train, evaluation, pool = preparation.create_datasets(config)
    more_holdout, more, more_eval, less_pool = preparation.update_training_data(config, {"cardiology": 0.8})
    assert (ids(more_holdout), ids(more_eval)) == (ids(holdout), ids(evaluation))
    assert ids(train) < ids(more) and ids(more) - ids(train) < ids(pool)
    assert len(more) - len(train) == 9  # from 15 to 24 of cardiology's 30
    assert ids(less_pool) == ids(pool) - ids(more)
    _, back, _, pool_again = preparation.update_training_data(config, {"cardiology": 0.5})
    assert (ids(back), ids(pool_again)) == (ids(train), ids(pool))
    assert [entry.iteration for entry in ledger(config)] == [1, 2, 3]


def test_a_specialty_that_is_not_named_keeps_its_last_share(config):
    preparation.create_datasets(config)
    preparation.update_training_data(config, {"cardiology": 0.8})
    preparation.update_training_data(config, {"urology": 0.6})
    assert ledger(config)[-1].shares == {"cardiology": 0.8, "neurology": 0.5, "urology": 0.6}


def test_the_result_does_not_depend_on_the_order_of_files_or_records(config, specialty_files, tmp_path):
    first = preparation.create_datasets(config)
    other = tmp_path / "reversed"
    other.mkdir()
    for path in sorted(specialty_files.iterdir(), reverse=True):
        content = json.loads(path.read_text())
        (other / path.name).write_text(json.dumps(dict(reversed(content.items()))))
    again = preparation.create_datasets(preparation.DatasetConfig(DATA_DIR=str(other), OUTPUT_DIR=str(tmp_path / "out2")))
    assert [split["id"] for split in first] == [split["id"] for split in again]


def test_another_seed_draws_another_holdout_and_is_refused_in_the_same_series(config, tmp_path):
    first = preparation.create_datasets(config)
    other = preparation.DatasetConfig(DATA_DIR=config.DATA_DIR, OUTPUT_DIR=str(tmp_path / "seed"), RANDOM_SEED=7)
    assert ids(preparation.create_datasets(other)[0]) != ids(first[0])
    config.RANDOM_SEED = 7
    with pytest.raises(UserError) as caught:
        preparation.create_datasets(config)
    assert caught.value.where == config.OUTPUT_DIR and "RANDOM_SEED" in str(caught.value) and "42" in str(caught.value)
    assert "OUTPUT_DIR" in caught.value.remedy and "--fresh" in caught.value.remedy


def test_records_added_later_join_the_pool_and_move_no_fixed_set(config, specialty_files):
    holdout, train, evaluation, pool = preparation.create_datasets(config)
    write_specialty(specialty_files, "cardiology", pairs("cardiology", 60))  # the first 40 are the same
    after = preparation.create_datasets(config)
    assert (ids(after[0]), ids(after[2])) == (ids(holdout), ids(evaluation))
    # half of the enlarged base is used now: the trained records stay, new ones follow
    assert ids(train) < ids(after[1]) and len(after[1]) == len(train) + 10
    assert ledger(config)[-1].share_base["cardiology"] == 50
    assert ledger(config)[-1].changes == UpstreamChanges(added=20)


def test_an_added_record_that_repeats_a_holdout_question_is_set_aside_and_listed(config, specialty_files, tmp_path):
    holdout = preparation.create_datasets(config)[0]
    question = next(row["question"] for row in holdout if row["specialty"] == "urology")
    write_specialty(specialty_files, "nephrology", pairs("nephrology", 30) | {question.upper(): "Another answer to it."})
    _, train, evaluation, pool = preparation.create_datasets(config)
    assert question.upper() not in [*train["question"], *evaluation["question"], *pool["question"]]
    listed = artifacts.read_lines(SetAsideRecord, tmp_path / "out" / SetAsideRecord.FILE)
    assert [(item.reason, item.split, item.like_question) for item in listed] == [("same question", "holdout", question)]


def test_one_question_with_two_answers_stays_together(tmp_path):
    content = [
        {"question": f"Question number {n}?", "answer": f"answer {n} {kind} {'long ' * n}"} for n in range(30) for kind in "ab"
    ]
    write_specialty(tmp_path / "files", "x", content)
    config = preparation.DatasetConfig(DATA_DIR=str(tmp_path / "files"), OUTPUT_DIR=str(tmp_path / "out"))
    splits = preparation.create_datasets(config)
    fixed = [sorted(split["question"]) for split in (splits[0], splits[2])]
    assert len(fixed[0]) == 10 and len(fixed[1]) >= 2
    assert all(questions.count(question) == 2 for questions in fixed for question in questions)


def test_an_edited_holdout_answer_waits_until_the_edit_is_accepted(config, specialty_files, tmp_path):
    holdout = preparation.create_datasets(config)[0]
    row = next(r for r in holdout if r["specialty"] == "neurology")
    content = pairs("neurology", 50)
    content[row["question"]] = "A corrected answer, with 2.5 mg instead of 25 mg."
    write_specialty(specialty_files, "neurology", content)
    after = preparation.create_datasets(config)
    assert ids(after[0]) == ids(holdout)
    assert all("corrected" not in text for split in after for text in split["response"])
    assert ledger(config)[-1].changes == UpstreamChanges(edited=1, fixed_waiting=1)
    assert not ledger(config)[-1].comparability_break
    preparation.prepare(config, {}, accept_edits=True)
    accepted = responses(tmp_path / "out", Split.HOLDOUT)
    assert sum("corrected" in text for text in accepted) == 1 and len(accepted) == 30
    assert ledger(config)[-1].comparability_break.startswith("1 ")  # the number of accepted edits
    assert preparation.prepare(config, {}).up_to_date


def test_an_edited_training_record_keeps_its_place(config, specialty_files):
    _, train, _, _ = preparation.create_datasets(config)
    row = next(r for r in train if r["specialty"] == "neurology")
    content = pairs("neurology", 50)
    content[row["question"]] = "A corrected answer."
    write_specialty(specialty_files, "neurology", content)
    _, after, _, _ = preparation.create_datasets(config)
    assert len(after) == len(train) and len(ids(after) - ids(train)) == 1
    assert "A corrected answer." in after["response"]


def test_a_removed_record_is_reported_and_stays_only_in_a_fixed_set(config, specialty_files):
    holdout, train, *_ = preparation.create_datasets(config)
    gone = [next(r["question"] for r in split if r["specialty"] == "urology") for split in (holdout, train)]
    write_specialty(specialty_files, "urology", {q: a for q, a in pairs("urology", 60).items() if q not in gone})
    after = preparation.create_datasets(config)
    assert gone[0] in after[0]["question"] and gone[1] not in after[1]["question"]
    assert ledger(config)[-1].changes == UpstreamChanges(removed=2, fixed_waiting=1)


def test_a_specialty_file_that_is_missing_once_comes_back_as_it_was(config, tmp_path):
    splits = preparation.create_datasets(config)
    file = next(Path(config.DATA_DIR).glob("*urology*"))
    file.rename(tmp_path / "elsewhere")
    preparation.create_datasets(config)
    (tmp_path / "elsewhere").rename(file)
    again = preparation.create_datasets(config)
    assert [ids(split) for split in again] == [ids(split) for split in splits]
    first, without, last = ledger(config)
    assert (without.changes.removed, last.changes.added, last.changes.returned) == (60, 0, 45)
    assert last.share_base == first.share_base


def test_a_specialty_too_small_keeps_what_it_can_and_is_named(tmp_path):
    write_specialty(tmp_path / "files", "tiny", pairs("tiny", 7))
    write_specialty(tmp_path / "files", "large", pairs("large", 40))
    config = preparation.DatasetConfig(DATA_DIR=str(tmp_path / "files"), OUTPUT_DIR=str(tmp_path / "out"))
    holdout, *_ = preparation.create_datasets(config)
    assert holdout["specialty"].count("tiny") == 3
    assert ledger(config)[-1].small_specialties == {"tiny": 3}


def test_the_holdout_spans_short_and_long_answers(tmp_path):
    content = {f"Question {n}?": " ".join(f"w{n}x{place}" for place in range(n + 1)) for n in range(100)}
    write_specialty(tmp_path / "files", "x", content)
    config = preparation.DatasetConfig(DATA_DIR=str(tmp_path / "files"), OUTPUT_DIR=str(tmp_path / "out"))
    lengths = sorted(len(text.split()) for text in preparation.create_datasets(config)[0]["response"])
    assert [length // 10 for length in (x - 1 for x in lengths)] == list(range(10))  # one in each tenth


def test_a_changed_system_message_is_a_break_in_comparability(config):
    preparation.create_datasets(config)
    config.SYSTEM_MESSAGE = "Another."
    preparation.create_datasets(config)
    first, second = ledger(config)
    assert not first.comparability_break and second.comparability_break
    assert first.template_sha256 != second.template_sha256 and first.hashes == second.hashes


def test_an_edit_of_the_template_reaches_the_stored_prompts(config, monkeypatch):
    monkeypatch.setattr(preparation, "apply_chat_template", lambda q, a, s: f"Q: {q}\nA: " + ("" if a is None else a + "</s>"))
    train = preparation.create_datasets(config)[1]
    assert train[0]["formatted_chat"] == f"Q: {train[0]['question']}\nA: {train[0]['response']}</s>"


@pytest.mark.parametrize("template", [lambda q, a, s: q, lambda q, a, s: f"{a} {q}", lambda q, a, s: q + a])
def test_a_template_that_loses_something_is_refused(config, monkeypatch, template):
    monkeypatch.setattr(preparation, "apply_chat_template", template)
    with pytest.raises(UserError) as caught:
        preparation.create_datasets(config)
    assert caught.value.where == "apply_chat_template"


def test_a_new_iteration_moves_the_old_one_to_the_archive_whole(config, tmp_path):
    preparation.create_datasets(config)
    before = DatasetManifest.require(tmp_path / "out")
    preparation.update_training_data(config, {"urology": 0.9})
    old = tmp_path / "out" / "archive" / "iteration_001"
    assert DatasetManifest.require(old) == before
    assert len(dataset_folders.read_split(old, Split.TRAIN)) == 48


@pytest.mark.parametrize("stop_after", range(0, 18, 3))  # of 8 moves into the archive and 10 out of the building folder
def test_killed_while_the_new_iteration_takes_its_place_it_ends_the_same(config, tmp_path, monkeypatch, stop_after):
    preparation.create_datasets(config)
    moves = 0

    def dying(move):
        def wrapper(*arguments):
            nonlocal moves
            moves += 1
            if moves > stop_after:
                raise KeyboardInterrupt
            return move(*arguments)

        return wrapper

    original_rename, original_replace = Path.rename, os.replace
    armed = {"on": False}
    whole = runs.Run._swap

    def armed_swap(run):
        if (run.folder / runs.BUILDING / runs.MANIFEST).exists() and not armed["on"]:
            armed["on"] = True
            monkeypatch.setattr(Path, "rename", dying(original_rename))
            monkeypatch.setattr(os, "replace", dying(original_replace))
        return whole(run)

    monkeypatch.setattr(runs.Run, "_swap", armed_swap)
    with pytest.raises(KeyboardInterrupt):
        preparation.update_training_data(config, {"urology": 0.9})
    monkeypatch.setattr(Path, "rename", original_rename)
    monkeypatch.setattr(os, "replace", original_replace)
    splits = preparation.update_training_data(config, {"urology": 0.9})
    assert len(splits[1]) == 48 + 20
    assert [entry.iteration for entry in ledger(config)] == [1, 2]
    assert len(dataset_folders.read_split(tmp_path / "out" / "archive" / "iteration_001", Split.TRAIN)) == 48


def test_recommendations_of_another_iteration_are_refused_and_the_same_twice_is_up_to_date(config, tmp_path, monkeypatch):
    preparation.create_datasets(config)
    advice = tmp_path / "training_recommendations.json"
    files.write_json(advice, {"iteration": 1, "recommended_sample_increases": {"urology": 0.8}})
    command = [
        "dataset_preparation.py",
        f"DATA_DIR={config.DATA_DIR}",
        f"OUTPUT_DIR={config.OUTPUT_DIR}",
        "--recommendations",
        str(advice),
    ]
    first = run_script(*command)
    made = DatasetManifest.require(tmp_path / "out")
    second = run_script(*command)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "urology" in first.stdout and "0.50 -> 0.80" in first.stdout
    assert DatasetManifest.require(tmp_path / "out") == made and made.iteration == len(ledger(config)) == 2
    files.write_json(advice, {"iteration": 1, "recommended_sample_increases": {"urology": 0.9}})
    error = refusal(preparation, command, monkeypatch)
    assert error.where == str(advice) and "specialty_adjustments" in error.remedy
    assert "iteration 1" in error.fault and "iteration 2" in error.fault


def test_a_share_in_the_script_is_applied_once_and_does_not_undo_what_is_chosen_later(config, tmp_path, capsys):
    def prepare(in_script, **more):
        made = preparation.prepare(config, {}, in_script=in_script, **more)
        return made.up_to_date, ledger(config)[-1].shares["urology"]

    advice = tmp_path / "training_recommendations.json"
    written = {"urology": 0.7}
    assert prepare(written) == (False, 0.7) and prepare(written) == (True, 0.7)
    files.write_json(advice, {"iteration": 1, "recommended_sample_increases": {"urology": 0.9}})
    assert prepare(written, recommendations=advice) == (False, 0.9)
    # a loop begins with this command, and so may a user whose files have changed
    assert prepare(written) == (True, 0.9)
    [note] = [line for line in capsys.readouterr().out.splitlines() if "specialty_adjustments" in line]
    assert all(word in note for word in ("urology", "0.7", "0.9"))
    rollback.restore(tmp_path / "out", 1)
    assert prepare({"urology": 0.8}) == (False, 0.8)
    # who asks for it in Python gets it, and the share in the script is remembered
    preparation.update_training_data(config, {"urology": 0.6})
    assert prepare({"urology": 0.8}) == (True, 0.6) and prepare({"urology": 0.75}) == (False, 0.75)


def test_a_share_in_the_script_follows_its_specialty_to_a_new_name(config, specialty_files, tmp_path):
    def prepare(in_script, **more):
        made = preparation.prepare(config, {}, in_script=in_script, **more)
        return made.up_to_date, ledger(config)[-1].shares

    advice = tmp_path / "training_recommendations.json"
    assert prepare({"urology": 0.7})[0] is False
    files.write_json(advice, {"iteration": 1, "recommended_sample_increases": {"urology": 0.9}})
    assert prepare({"urology": 0.7}, recommendations=advice)[1]["urology"] == 0.9
    (specialty_files / "dataset_with_answers_urology.json").rename(specialty_files / "dataset_with_answers_uro.json")
    up_to_date, shares = prepare({"urology": 0.7})
    assert not up_to_date and shares["uro"] == 0.9
    # under the old name and under the new one it is the same share, which was applied long ago
    assert prepare({"urology": 0.7}) == prepare({"uro": 0.7}) == (True, shares)
    assert prepare({"urology": 0.8})[1]["uro"] == 0.8 == prepare({"uro": 0.8})[1]["uro"]
    assert len(ledger(config)) == 4
    # and to the name after that
    (specialty_files / "dataset_with_answers_uro.json").rename(specialty_files / "dataset_with_answers_urogenital.json")
    assert prepare({"urology": 0.8})[1]["urogenital"] == 0.8 and prepare({"urology": 0.6})[1]["urogenital"] == 0.6


def test_fresh_sets_the_whole_series_aside(config, tmp_path):
    preparation.create_datasets(config)
    config.RANDOM_SEED = 1
    preparation.prepare(config, {}, fresh=True)
    assert [entry.iteration for entry in ledger(config)] == [1]
    assert [entry.iteration for entry in read_ledger(tmp_path / "out" / "archive" / "series")] == [1]


def test_what_is_written_opens_as_hugging_face_datasets_also_when_empty(config, tmp_path):
    import datasets

    preparation.update_training_data(config, dict.fromkeys(("cardiology", "neurology", "urology"), 1.0))
    assert len(datasets.load_from_disk(str(tmp_path / "out" / "eval_pool_dataset"))) == 0
    row = datasets.load_from_disk(str(tmp_path / "out" / "train_dataset"))[0]
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
    assert row["formatted_chat"].startswith(row["formatted_prompt"]) and row["formatted_chat"].endswith("<|eot_id|>")


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("EVAL_SPLIT_SIZ=0.1", ["EVAL_SPLIT_SIZ", "EVAL_SPLIT_SIZE"]),
        ("EVAL_SPLIT_SIZE=2", ["EVAL_SPLIT_SIZE", "0.9"]),
        ("RANDOM_SEED=x", ["RANDOM_SEED", "'x'"]),
        ("DATA_DIR=absent", ["DATA_DIR", "absent"]),
        ("SPECIALTY_SAMPLE_PERCENTAGES={cardiologie: 0.8}", ["SPECIALTY_SAMPLE_PERCENTAGES", "cardiologie", "cardiology"]),
        ("CHAT_TEMPLATE=absent.jinja", ["CHAT_TEMPLATE=absent.jinja"]),
        ("SYSTEM_MESSAGE=<|eot_id|>", ["SYSTEM_MESSAGE", "<|eot_id|>"]),
    ],
)
def test_a_mistake_is_refused_by_name_in_one_line_and_writes_nothing(specialty_files, tmp_path, setting, names, monkeypatch):
    command = ["dataset_preparation.py", f"DATA_DIR={specialty_files}", f"OUTPUT_DIR={tmp_path / 'out'}", setting]
    message = str(refusal(preparation, command, monkeypatch))
    assert all(name in message for name in names) and "\n" not in message
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_mistake_ends_the_script_with_its_exit_code_and_one_line(specialty_files, tmp_path):
    done = run_script("dataset_preparation.py", f"DATA_DIR={specialty_files}", f"OUTPUT_DIR={tmp_path / 'out'}", "RANDOM_SEED=x")
    assert done.returncode == EXIT_MISTAKE and "RANDOM_SEED" in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_a_full_disk_ends_with_one_line_and_leaves_the_finished_iteration(config, tmp_path):
    preparation.create_datasets(config)
    code = (
        "import errno, runpy, sys, pyarrow\n"
        "from meerkat_workbench.tuning.data import dataset_folders\n"
        "def full(*a): raise OSError(errno.ENOSPC, 'No space left on device', 'train_dataset')\n"
        "dataset_folders.write_split = full\n"
        f"sys.argv = ['dataset_preparation.py', 'DATA_DIR={config.DATA_DIR}', 'OUTPUT_DIR={config.OUTPUT_DIR}', 'SYSTEM_MESSAGE=Other.']\n"
        "runpy.run_path('dataset_preparation.py', run_name='__main__')"
    )
    done = run_script("-c", code)
    assert done.returncode == EXIT_MISTAKE and "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert DatasetManifest.require(tmp_path / "out").iteration == 1
    assert len(dataset_folders.read_split(tmp_path / "out", Split.TRAIN)) == 48


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="real data is not on this machine")
def test_real_data_keeps_the_contract_over_two_iterations(tmp_path):
    config = preparation.DatasetConfig(DATA_DIR=str(SHARED_DATA / "medquad"), OUTPUT_DIR=str(tmp_path / "out"))
    first = preparation.create_datasets(config)
    second = preparation.update_training_data(config, {"cardiology": 0.8, "sleep_medicine": 0.9})
    assert (ids(first[0]), ids(first[2])) == (ids(second[0]), ids(second[2]))
    assert ids(first[1]) < ids(second[1])
    for splits in (first, second):
        questions = [{key_of_words(words_of(q)) for q in split["question"]} for split in splits]
        answers = [{key_of_words(words_of(a)) for a in split["response"]} for split in splits]
        holdout, train, evaluation, pool = range(4)
        for fixed in (holdout, evaluation):
            for other in {train, pool, holdout, evaluation} - {fixed}:
                assert not questions[fixed] & questions[other] and not answers[fixed] & answers[other]
    assert sum(map(len, second)) + len(artifacts.read_lines(SetAsideRecord, tmp_path / "out" / SetAsideRecord.FILE)) == 15225
    shutil.rmtree(tmp_path / "out")


def split_bytes(folder):
    return {name: (folder / name / dataset_folders.DATA_FILE).read_bytes() for name in dataset_folders.FOLDERS.values()}


def test_going_back_restores_the_sets_of_an_iteration_exactly_and_loses_nothing(config, tmp_path):
    out = tmp_path / "out"
    preparation.create_datasets(config)
    preparation.update_training_data(config, {"urology": 0.9})
    second = split_bytes(out)
    more = pairs("cardiology", 40) | {"What is new in cardiology?": "A valve that is grown, not made."}
    write_specialty(tmp_path / "files", "cardiology", more)
    preparation.update_training_data(config, {"urology": 0.3, "neurology": 1.0})
    manifest, changed = rollback.restore(out, 2)
    assert changed and manifest.iteration == 4 and rollback.restore(out, 2) == (manifest, False)
    assert split_bytes(out) == second
    assert [entry.restored_from for entry in ledger(config)] == [None, None, None, 2]
    assert split_bytes(out / "archive" / "iteration_003") != second
    # what came after iteration 2 comes again, once
    preparation.update_training_data(config, {"urology": 0.3, "neurology": 1.0})
    assert ledger(config)[-1].changes.added == 1
    assert split_bytes(out) == split_bytes(out / "archive" / "iteration_003")


def test_going_back_to_an_iteration_that_is_not_there_is_refused(config, tmp_path):
    out = tmp_path / "out"
    preparation.create_datasets(config)
    preparation.update_training_data(config, {"urology": 0.9})
    with pytest.raises(UserError) as caught:
        rollback.restore(out, 7)
    assert (caught.value.where, caught.value.item) == (str(out), "--iteration 7") and "1, 2" in caught.value.fault
    files.remove(out / "archive" / "iteration_001" / "register_then.parquet")
    with pytest.raises(UserError) as caught:
        rollback.restore(out, 1)
    assert caught.value.where == str(out / "archive") and "iteration 1" in caught.value.fault
    assert [entry.iteration for entry in ledger(config)] == [1, 2]


def reported(folder, capsys):
    """The lines that a finished preparation prints."""
    capsys.readouterr()
    preparation_report.print_report(folder, DatasetManifest.require(folder), up_to_date=False)
    return capsys.readouterr().out.splitlines()


def test_a_renamed_specialty_keeps_its_sets_its_share_and_its_ids(config, tmp_path, capsys):
    preparation.update_training_data(config, {"cardiology": 0.7})
    before = {split: {(row.id, row.question) for row in dataset_folders.read_split(tmp_path / "out", split)} for split in Split}
    (tmp_path / "files" / "dataset_with_answers_cardiology.json").rename(tmp_path / "files" / "dataset_with_answers_heart.json")
    for _ in range(2):  # and stays so in the iteration after
        preparation.update_training_data(config, {"urology": 0.5 if _ else 0.6})
        rows = {split: list(dataset_folders.read_split(tmp_path / "out", split)) for split in Split}
        for split in FIXED:
            assert {(row.id, row.question) for row in rows[split]} == before[split]
        assert {row.specialty for split in rows for row in rows[split]} == {"heart", "neurology", "urology"}
        entry = ledger(config)[-1]
        assert entry.shares["heart"] == 0.7 and entry.original_names == {"heart": "cardiology"}
        assert entry.changes == UpstreamChanges()
    assert ledger(config)[1].specialties.renamed == {"cardiology": "heart"}
    # another specialty under the name that was given up is another one
    write_specialty(
        tmp_path / "files", "cardiology", {f"New question {n}?": f"new answer {n} of its own words{n}" for n in range(30)}
    )
    preparation.create_datasets(config)
    entry = ledger(config)[-1]
    assert entry.specialties == SpecialtyChanges(added=("cardiology",))
    assert entry.sizes.holdout["cardiology"] == 10
    assert any("cardiology" in line and "10 holdout" in line for line in reported(tmp_path / "out", capsys))


def test_a_specialty_added_and_one_removed_are_in_the_ledger_and_the_report(config, tmp_path, capsys):
    preparation.create_datasets(config)
    held = sum(row.specialty == "urology" for split in FIXED for row in dataset_folders.read_split(tmp_path / "out", split))
    (tmp_path / "files" / "dataset_with_answers_urology.json").rename(tmp_path / "urology.json")
    write_specialty(tmp_path / "files", "oncology", pairs("oncology", 30))
    preparation.create_datasets(config)
    entry = ledger(config)[-1]
    assert entry.specialties == SpecialtyChanges(added=("oncology",), removed=("urology",), absent=("urology",))
    assert entry.sizes.train.get("urology", 0) == 0 and entry.sizes.train["oncology"] > 0
    assert entry.sizes.holdout["urology"] + entry.sizes.eval["urology"] == held
    lines = reported(tmp_path / "out", capsys)
    assert any("urology" in line and f" {held} " in line and "--accept-edits" in line for line in lines)
    (tmp_path / "urology.json").rename(tmp_path / "files" / "dataset_with_answers_urology.json")
    preparation.create_datasets(config)
    entry = ledger(config)[-1]
    assert entry.specialties == SpecialtyChanges(returned=("urology",))
    assert entry.sizes.train["urology"] == ledger(config)[0].sizes.train["urology"]


def test_going_back_finds_an_iteration_by_its_number_also_where_another_has_the_same_records(config, tmp_path):
    out = tmp_path / "out"
    preparation.create_datasets(config)
    first = split_bytes(out)
    config.SYSTEM_MESSAGE = "Another message."
    preparation.create_datasets(config)
    assert split_bytes(out) != first
    _, changed = rollback.restore(out, 1)
    assert changed and split_bytes(out) == first


def test_sets_that_were_changed_by_hand_are_made_anew(config, tmp_path, capsys):
    out = tmp_path / "out"
    preparation.create_datasets(config)
    made = split_bytes(out)
    leaked = dataset_folders.read_records(out, Split.HOLDOUT)[0]
    records = dataset_folders.read_records(out, Split.TRAIN)
    train = out / dataset_folders.FOLDERS[Split.TRAIN]
    files.remove(train)
    dataset_folders.write_split(train, [*records, leaked], chat.ChatFormat.of(chat.render_llama3, ""))
    capsys.readouterr()
    preparation.create_datasets(config)
    assert split_bytes(out) == made and len(ledger(config)) == 2
    assert train.name in capsys.readouterr().out
    # a model of these sets is up to date, so the advice from it is under their first number
    advice = tmp_path / "training_recommendations.json"
    files.write_json(advice, {"iteration": 1, "recommended_sample_increases": {"urology": 0.9}})
    assert preparation.prepare(config, {}, recommendations=advice).manifest.iteration == 3


def test_a_folder_of_an_earlier_version_is_reported_and_goes_on_without_what_its_ledger_lacks(config, tmp_path, capsys):
    path = tmp_path / "out" / IterationRecord.FILE
    preparation.create_datasets(config)
    preparation.update_training_data(config, {"urology": 0.9})
    lacking = ("specialties", "known_as")
    old = [{name: value for name, value in line.items() if name not in lacking} for line in files.read_json_lines(path)]
    files.write_json_lines(path, old)
    assert any("urology" in line and "0.50 -> 0.90" in line for line in reported(tmp_path / "out", capsys))
    preparation.update_training_data(config, {"urology": 1.0})
    assert len(ledger(config)) == 3


def test_settings_and_advice_under_an_old_name_reach_the_renamed_specialty(config, tmp_path):
    config.SPECIALTY_SAMPLE_PERCENTAGES = {"cardiology": 0.6}
    preparation.create_datasets(config)
    (tmp_path / "files" / "dataset_with_answers_cardiology.json").rename(tmp_path / "files" / "dataset_with_answers_heart.json")
    preparation.update_training_data(config, {"cardiology": 0.9})
    then, now = ledger(config)
    assert now.shares["heart"] == 0.9
    assert renames.renamed_since(then, now) == {"cardiology": "heart"}
    assert renames.renamed_since(now, then) == {"heart": "cardiology"}
    assert renames.with_new_names(then, {"cardiology": "heart"}).sizes.train.keys() == now.sizes.train.keys()


def test_only_the_specialties_that_are_named_are_prepared_also_from_files_of_several(config, specialty_files):
    with open(specialty_files / "more.csv", "w", newline="") as file:
        rows = [(question, answer, name) for name in ("skin", "eyes") for question, answer in pairs(name, 30).items()]
        csv.writer(file).writerows([("question", "answer", "specialty"), *rows])
    config.SPECIALTIES = ["urology", "eyes"]
    splits = preparation.create_datasets(config)
    assert {name for split in splits for name in split["specialty"]} == {"urology", "eyes"}
    config.SPECIALTIES = ["urologie"]
    with pytest.raises(UserError) as caught:
        preparation.create_datasets(config)
    assert caught.value.where == "SPECIALTIES" and "urologie" in str(caught.value) and "urology" in caught.value.remedy


def test_a_thinking_block_of_the_template_ends_the_stored_prompts_and_is_printed(config, tmp_path, capsys):
    template = tmp_path / "thinking.jinja"
    template.write_text(tiny_models.THINKING)
    config.CHAT_TEMPLATE = str(template)
    holdout, *_ = preparation.create_datasets(config)
    for row in holdout:
        assert row["formatted_prompt"].endswith("<think>\n\n</think>\n\n")
        assert row["formatted_chat"] == f"{row['formatted_prompt']}{row['response']}<|im_end|>\n"
    assert repr("<think>\n\n</think>\n\n") in capsys.readouterr().out


def test_a_template_that_writes_the_date_keeps_that_of_the_first_iteration(config, tmp_path, monkeypatch):
    template = tmp_path / "dated.jinja"
    template.write_text("{{ strftime_now('%Y-%m-%d') }} " + tiny_models.CHATML)
    config.CHAT_TEMPLATE = str(template)
    monkeypatch.setattr(runs, "now", lambda: "2024-02-29T10:00:00+0000")
    before, *_ = preparation.create_datasets(config)
    monkeypatch.undo()
    after, *_ = preparation.update_training_data(config, {"cardiology": 0.8})
    assert ledger(config)[-1].comparability_break == ""
    assert {text[:10] for split in (before, after) for text in split["formatted_prompt"]} == {"2024-02-29"}
