"""The split contract: fixed, nested, disjoint, and the same whatever the order of files."""

import contextlib
import csv
import json
import shutil

import pytest
import tiny_models
from conftest import SHARED_DATA, pairs, run_script, write_specialty

import dataset_preparation as preparation
from meerkat_workbench.core import files, manifest
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text.texts import key_of_words, words_of
from meerkat_workbench.tuning.data import dataset_folders, iterations


@pytest.fixture
def config(specialty_files, tmp_path):
    return preparation.DatasetConfig(DATA_DIR=str(specialty_files), OUTPUT_DIR=str(tmp_path / "out"))


def ids(split):
    return set(split["id"])


def ledger(config):
    return iterations.read_ledger(files.Path(config.OUTPUT_DIR))


def test_the_sizes_are_those_of_the_specification(config):
    holdout, train, evaluation, pool = preparation.create_datasets(config)
    # 40, 50 and 60 pairs: 10 held out of each; half of the rest is used, a fifth of that for eval
    assert len(holdout) == 30
    assert len(evaluation) == 3 + 4 + 5
    assert len(train) == (15 - 3) + (20 - 4) + (25 - 5)
    assert len(pool) == 15 + 20 + 25
    assert holdout.column_names == ["id", "specialty", "question", "response", "messages", "formatted_prompt", "formatted_chat"]


def test_no_record_and_no_question_stands_in_two_splits(config):
    splits = preparation.create_datasets(config)
    everything = [i for split in splits for i in split["id"]]
    assert len(everything) == len(set(everything)) == 150
    questions = [{key_of_words(words_of(q)) for q in split["question"]} for split in splits]
    assert sum(map(len, questions)) == len(set().union(*questions))


def test_raising_a_share_keeps_what_was_trained_on_and_lowering_it_again_returns_the_rest(config):
    holdout, train, evaluation, pool = preparation.create_datasets(config)
    more_holdout, more, more_eval, less_pool = preparation.update_training_data(config, {"cardiology": 0.8})
    assert (ids(more_holdout), ids(more_eval)) == (ids(holdout), ids(evaluation))
    assert ids(train) < ids(more) and ids(more) - ids(train) < ids(pool)
    assert len(more) - len(train) == 9  # from 15 to 24 of cardiology's 30
    assert ids(less_pool) == ids(pool) - ids(more)
    _, back, _, pool_again = preparation.update_training_data(config, {"cardiology": 0.5})
    assert (ids(back), ids(pool_again)) == (ids(train), ids(pool))
    assert [entry["iteration"] for entry in ledger(config)] == [1, 2, 3]


def test_a_specialty_that_is_not_named_keeps_its_last_share(config):
    preparation.create_datasets(config)
    preparation.update_training_data(config, {"cardiology": 0.8})
    preparation.update_training_data(config, {"urology": 0.6})
    assert ledger(config)[-1]["shares"] == {"cardiology": 0.8, "neurology": 0.5, "urology": 0.6}


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
    with pytest.raises(UserError, match="RANDOM_SEED was 42"):
        preparation.create_datasets(config)


def test_records_added_later_join_the_pool_and_move_no_fixed_set(config, specialty_files):
    holdout, train, evaluation, pool = preparation.create_datasets(config)
    write_specialty(specialty_files, "cardiology", pairs("cardiology", 60))  # the first 40 are the same
    after = preparation.create_datasets(config)
    assert (ids(after[0]), ids(after[2])) == (ids(holdout), ids(evaluation))
    # half of the enlarged base is used now: the trained records stay, new ones follow
    assert ids(train) < ids(after[1]) and len(after[1]) == len(train) + 10
    assert ledger(config)[-1]["share_base"]["cardiology"] == 50
    assert ledger(config)[-1]["changes"]["added"] == 20


def test_an_added_record_that_repeats_a_holdout_question_is_set_aside_and_listed(config, specialty_files, tmp_path):
    holdout = preparation.create_datasets(config)[0]
    question = next(row["question"] for row in holdout if row["specialty"] == "urology")
    write_specialty(specialty_files, "nephrology", pairs("nephrology", 30) | {question.upper(): "Another answer to it."})
    _, train, evaluation, pool = preparation.create_datasets(config)
    assert question.upper() not in [*train["question"], *evaluation["question"], *pool["question"]]
    listed = files.read_json_lines(tmp_path / "out" / "set_aside.jsonl")
    assert [(item["reason"], item["split"], item["like_question"]) for item in listed] == [("same question", "holdout", question)]


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
    assert ledger(config)[-1]["changes"] == {"added": 0, "edited": 1, "removed": 0, "returned": 0, "fixed_waiting": 1}
    with files.output_lock(tmp_path / "out"):
        preparation.prepare(config, {}, accept_edits=True)
    accepted = dataset_folders.read_split(tmp_path / "out", "holdout")
    assert sum("corrected" in text for text in accepted["response"]) == 1 and len(accepted) == 30
    assert "1 edits of fixed records" in ledger(config)[-1]["comparability_break"]
    with files.output_lock(tmp_path / "out"):
        assert preparation.prepare(config, {})["up_to_date"]


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
    assert ledger(config)[-1]["changes"]["removed"] == 2 and ledger(config)[-1]["changes"]["fixed_waiting"] == 1


def test_a_specialty_file_that_is_missing_once_comes_back_as_it_was(config, tmp_path):
    splits = preparation.create_datasets(config)
    file = next(files.Path(config.DATA_DIR).glob("*urology*"))
    file.rename(tmp_path / "elsewhere")
    preparation.create_datasets(config)
    (tmp_path / "elsewhere").rename(file)
    again = preparation.create_datasets(config)
    assert [ids(split) for split in again] == [ids(split) for split in splits]
    first, without, last = ledger(config)
    assert (without["changes"]["removed"], last["changes"]["added"], last["changes"]["returned"]) == (60, 0, 45)
    assert last["share_base"] == first["share_base"]


def test_a_specialty_too_small_keeps_what_it_can_and_is_named(tmp_path):
    write_specialty(tmp_path / "files", "tiny", pairs("tiny", 7))
    write_specialty(tmp_path / "files", "large", pairs("large", 40))
    config = preparation.DatasetConfig(DATA_DIR=str(tmp_path / "files"), OUTPUT_DIR=str(tmp_path / "out"))
    holdout, *_ = preparation.create_datasets(config)
    assert holdout["specialty"].count("tiny") == 3
    assert ledger(config)[-1]["small_specialties"] == {"tiny": 3}


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
    assert "system message" in ledger(config)[-1]["comparability_break"]


def test_an_edit_of_the_template_reaches_the_stored_prompts(config, monkeypatch):
    monkeypatch.setattr(preparation, "apply_chat_template", lambda q, a, s: f"Q: {q}\nA: " + ("" if a is None else a + "</s>"))
    train = preparation.create_datasets(config)[1]
    assert train[0]["formatted_chat"] == f"Q: {train[0]['question']}\nA: {train[0]['response']}</s>"


@pytest.mark.parametrize("template", [lambda q, a, s: q, lambda q, a, s: f"{a} {q}", lambda q, a, s: q + a])
def test_a_template_that_loses_something_is_refused(config, monkeypatch, template):
    monkeypatch.setattr(preparation, "apply_chat_template", template)
    with pytest.raises(UserError, match="apply_chat_template"):
        preparation.create_datasets(config)


def test_a_new_iteration_moves_the_old_one_to_the_archive_whole(config, tmp_path):
    preparation.create_datasets(config)
    before = manifest.read(tmp_path / "out")
    preparation.update_training_data(config, {"urology": 0.9})
    old = tmp_path / "out" / "archive" / "iteration_001"
    assert manifest.read(old) == before
    assert len(dataset_folders.read_split(old, "train")) == 48


@pytest.mark.parametrize("stop_after", range(0, 12, 2))
def test_killed_while_the_new_iteration_takes_its_place_it_ends_the_same(config, tmp_path, monkeypatch, stop_after):
    import os
    from pathlib import Path

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
    from meerkat_workbench.tuning.data import iteration_store

    whole = iteration_store.finish_swap

    def armed_finish(folder):
        if (folder / manifest.BUILDING / manifest.MANIFEST).exists() and not armed["on"]:
            armed["on"] = True
            monkeypatch.setattr(Path, "rename", dying(original_rename))
            monkeypatch.setattr(os, "replace", dying(original_replace))
        return whole(folder)

    monkeypatch.setattr(iteration_store, "finish_interrupted", armed_finish)
    with contextlib.suppress(KeyboardInterrupt):
        preparation.update_training_data(config, {"urology": 0.9})
    monkeypatch.setattr(Path, "rename", original_rename)
    monkeypatch.setattr(os, "replace", original_replace)
    splits = preparation.update_training_data(config, {"urology": 0.9})
    assert len(splits[1]) == 48 + 20
    assert [entry["iteration"] for entry in ledger(config)] == [1, 2]
    assert len(dataset_folders.read_split(tmp_path / "out" / "archive" / "iteration_001", "train")) == 48


def test_recommendations_of_another_iteration_are_refused_and_the_same_twice_is_up_to_date(config, tmp_path):
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
    first, second = run_script(*command), run_script(*command)
    assert "iteration 2: prepared" in first.stdout and "urology" in first.stdout
    assert "iteration 2: up to date" in second.stdout
    files.write_json(advice, {"iteration": 1, "recommended_sample_increases": {"urology": 0.9}})
    assert "was made from iteration 1" in run_script(*command).stderr


def test_a_share_that_stands_written_is_taken_once_and_does_not_undo_what_is_chosen_later(config, tmp_path, capsys):
    def prepare(written, **more):
        with files.output_lock(tmp_path / "out"):
            made = preparation.prepare(config, {}, standing=written, **more)
        return made["up_to_date"], ledger(config)[-1]["shares"]["urology"]

    advice = tmp_path / "training_recommendations.json"
    written = {"urology": 0.7}
    assert prepare(written) == (False, 0.7) and prepare(written) == (True, 0.7)
    files.write_json(advice, {"iteration": 1, "recommended_sample_increases": {"urology": 0.9}})
    assert prepare(written, recommendations=advice) == (False, 0.9)
    # a loop begins with this command, and so may a user whose files have changed
    assert prepare(written) == (True, 0.9)
    assert "urology: 0.7 in specialty_adjustments was taken in an earlier iteration" in capsys.readouterr().out
    with files.output_lock(tmp_path / "out"):
        preparation.go_back(config, 1)
    assert prepare({"urology": 0.8}) == (False, 0.8)
    # who asks for it in Python gets it, and what stands written is remembered
    preparation.update_training_data(config, {"urology": 0.6})
    assert prepare({"urology": 0.8}) == (True, 0.6) and prepare({"urology": 0.75}) == (False, 0.75)


def test_a_share_that_stands_written_follows_its_specialty_to_a_new_name(config, specialty_files, tmp_path):
    def prepare(written, **more):
        with files.output_lock(tmp_path / "out"):
            made = preparation.prepare(config, {}, standing=written, **more)
        return made["up_to_date"], ledger(config)[-1]["shares"]

    advice = tmp_path / "training_recommendations.json"
    assert prepare({"urology": 0.7})[0] is False
    files.write_json(advice, {"iteration": 1, "recommended_sample_increases": {"urology": 0.9}})
    assert prepare({"urology": 0.7}, recommendations=advice)[1]["urology"] == 0.9
    (specialty_files / "dataset_with_answers_urology.json").rename(specialty_files / "dataset_with_answers_uro.json")
    up_to_date, shares = prepare({"urology": 0.7})
    assert not up_to_date and shares["uro"] == 0.9
    # under the old name and under the new one it is the same wish, which was taken long ago
    assert prepare({"urology": 0.7}) == prepare({"uro": 0.7}) == (True, shares)
    assert prepare({"urology": 0.8})[1]["uro"] == 0.8 == prepare({"uro": 0.8})[1]["uro"]
    assert len(ledger(config)) == 4
    # and to the name after that
    (specialty_files / "dataset_with_answers_uro.json").rename(specialty_files / "dataset_with_answers_urogenital.json")
    assert prepare({"urology": 0.8})[1]["urogenital"] == 0.8 and prepare({"urology": 0.6})[1]["urogenital"] == 0.6


def test_fresh_sets_the_whole_series_aside(config, tmp_path):
    preparation.create_datasets(config)
    config.RANDOM_SEED = 1
    with files.output_lock(tmp_path / "out"):
        preparation.prepare(config, {}, fresh=True)
    assert [entry["iteration"] for entry in ledger(config)] == [1]
    assert (tmp_path / "out" / "archive" / "series" / "iterations.jsonl").exists()


def test_what_is_written_opens_as_hugging_face_datasets_also_when_empty(config, tmp_path):
    import datasets

    preparation.update_training_data(config, dict.fromkeys(("cardiology", "neurology", "urology"), 1.0))
    assert len(datasets.load_from_disk(str(tmp_path / "out" / "eval_pool_dataset"))) == 0
    row = datasets.load_from_disk(str(tmp_path / "out" / "train_dataset"))[0]
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
    assert row["formatted_chat"].startswith(row["formatted_prompt"]) and row["formatted_chat"].endswith("<|eot_id|>")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("EVAL_SPLIT_SIZ=0.1", "Did you mean EVAL_SPLIT_SIZE"),
        ("EVAL_SPLIT_SIZE=2", "at most 0.9"),
        ("RANDOM_SEED=x", "a whole number"),
        ("DATA_DIR=absent", "no such folder"),
        ("SPECIALTY_SAMPLE_PERCENTAGES={cardiologie: 0.8}", "Did you mean cardiology"),
        ("CHAT_TEMPLATE=absent.jinja", "CHAT_TEMPLATE"),
        ("SYSTEM_MESSAGE=<|eot_id|>", "control token"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_writes_nothing(specialty_files, tmp_path, setting, words):
    done = run_script("dataset_preparation.py", f"DATA_DIR={specialty_files}", f"OUTPUT_DIR={tmp_path / 'out'}", setting)
    assert done.returncode == 2 and words in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


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
    assert done.returncode == 2 and "No space left" in done.stderr and "Traceback" not in done.stderr
    assert manifest.read(tmp_path / "out")["iteration"] == 1
    assert len(dataset_folders.read_split(tmp_path / "out", "train")) == 48


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
    assert sum(map(len, second)) + len(files.read_json_lines(tmp_path / "out" / "set_aside.jsonl")) == 15225
    shutil.rmtree(tmp_path / "out")


def split_bytes(folder):
    return {name: (folder / name / dataset_folders.DATA_FILE).read_bytes() for name in dataset_folders.SPLITS.values()}


def test_going_back_restores_an_iterations_sets_exactly_and_loses_nothing(config, tmp_path):
    out = tmp_path / "out"
    preparation.create_datasets(config)
    preparation.update_training_data(config, {"urology": 0.9})
    second = split_bytes(out)
    more = pairs("cardiology", 40) | {"What is new in cardiology?": "A valve that is grown, not made."}
    write_specialty(tmp_path / "files", "cardiology", more)
    preparation.update_training_data(config, {"urology": 0.3, "neurology": 1.0})
    with files.output_lock(out):
        made = preparation.go_back(config, 2)
        assert preparation.go_back(config, 2)["up_to_date"]
    assert split_bytes(out) == second and made["iteration"] == 4
    assert [entry.get("restored_from") for entry in ledger(config)] == [None, None, None, 2]
    assert split_bytes(out / "archive" / "iteration_003") != second
    # what came after iteration 2 comes again, once
    preparation.update_training_data(config, {"urology": 0.3, "neurology": 1.0})
    assert ledger(config)[-1]["changes"]["added"] == 1
    assert split_bytes(out) == split_bytes(out / "archive" / "iteration_003")


def test_going_back_to_what_is_not_there_is_refused(config, tmp_path):
    preparation.create_datasets(config)
    preparation.update_training_data(config, {"urology": 0.9})
    with pytest.raises(UserError, match="has no iteration 7; it has 1, 2"):
        preparation.go_back(config, 7)
    files.remove(tmp_path / "out" / "archive" / "iteration_001" / "register_then.parquet")
    with pytest.raises(UserError, match="does not hold the sets of iteration 1 whole"):
        preparation.go_back(config, 1)
    assert [entry["iteration"] for entry in ledger(config)] == [1, 2]


def test_a_renamed_specialty_keeps_its_sets_its_share_and_its_ids(config, tmp_path, capsys):
    preparation.update_training_data(config, {"cardiology": 0.7})
    before = {split: {(row["id"], row["question"]) for row in dataset_folders.read_split(tmp_path / "out", split)} for split in dataset_folders.SPLITS}  # fmt: skip
    (tmp_path / "files" / "dataset_with_answers_cardiology.json").rename(tmp_path / "files" / "dataset_with_answers_heart.json")
    for _ in range(2):  # and stays so in the iteration after
        preparation.update_training_data(config, {"urology": 0.5 if _ else 0.6})
        rows = {split: list(dataset_folders.read_split(tmp_path / "out", split)) for split in dataset_folders.SPLITS}
        for split in ("holdout", "eval"):
            assert {(row["id"], row["question"]) for row in rows[split]} == before[split]
        assert {row["specialty"] for split in rows for row in rows[split]} == {"heart", "neurology", "urology"}
        entry = ledger(config)[-1]
        assert entry["shares"]["heart"] == 0.7 and entry["known_as"] == {"heart": "cardiology"}
        assert entry["changes"]["added"] == entry["changes"]["removed"] == 0
    assert ledger(config)[1]["specialties"]["renamed"] == {"cardiology": "heart"}
    # another specialty under the name that was given up is another one
    write_specialty(
        tmp_path / "files", "cardiology", {f"New question {n}?": f"new answer {n} of its own words{n}" for n in range(30)}
    )
    preparation.create_datasets(config)
    entry = ledger(config)[-1]
    assert entry["specialties"]["added"] == ["cardiology"] and entry["specialties"]["renamed"] == {}
    assert entry["sizes"]["holdout"]["cardiology"] == 10
    preparation.report(tmp_path / "out", {"up_to_date": False, "seconds": 1})
    assert "new specialty cardiology: 10 holdout" in capsys.readouterr().out


def test_a_specialty_added_and_one_removed_are_told_in_the_ledger(config, tmp_path, capsys):
    preparation.create_datasets(config)
    held = sum(row["specialty"] == "urology" for split in ("holdout", "eval") for row in dataset_folders.read_split(tmp_path / "out", split))  # fmt: skip
    (tmp_path / "files" / "dataset_with_answers_urology.json").rename(tmp_path / "urology.json")
    write_specialty(tmp_path / "files", "oncology", pairs("oncology", 30))
    preparation.create_datasets(config)
    entry = ledger(config)[-1]
    assert entry["specialties"] == {
        "added": ["oncology"],
        "removed": ["urology"],
        "returned": [],
        "renamed": {},
        "absent": ["urology"],
    }
    assert entry["sizes"]["train"].get("urology", 0) == 0 and entry["sizes"]["train"]["oncology"] > 0
    assert entry["sizes"]["holdout"]["urology"] + entry["sizes"]["eval"]["urology"] == held
    preparation.report(tmp_path / "out", {"up_to_date": False, "seconds": 1})
    told = capsys.readouterr().out
    assert f"urology has no records any more: nothing of it is trained on; its {held} fixed questions" in told
    (tmp_path / "urology.json").rename(tmp_path / "files" / "dataset_with_answers_urology.json")
    preparation.create_datasets(config)
    entry = ledger(config)[-1]
    assert entry["specialties"]["returned"] == ["urology"] and not entry["specialties"]["absent"]
    assert entry["sizes"]["train"]["urology"] == ledger(config)[0]["sizes"]["train"]["urology"]


def test_going_back_tells_iterations_apart_by_number_though_their_records_are_the_same(config, tmp_path):
    out = tmp_path / "out"
    preparation.create_datasets(config)
    first = split_bytes(out)
    config.SYSTEM_MESSAGE = "Another message."
    preparation.create_datasets(config)
    assert split_bytes(out) != first
    assert not preparation.go_back(config, 1)["up_to_date"] and split_bytes(out) == first


def test_sets_that_were_changed_by_hand_are_made_anew(config, tmp_path, capsys):
    from meerkat_workbench.tuning import chat

    out = tmp_path / "out"
    preparation.create_datasets(config)
    made = split_bytes(out)
    leaked = dataset_folders.read_records(out, "holdout")[0]
    train = dataset_folders.read_records(out, "train")
    files.remove(out / dataset_folders.TRAIN)
    dataset_folders.write_split(out / dataset_folders.TRAIN, [*train, leaked], chat.ChatFormat.of(chat.render_llama3, ""))
    preparation.create_datasets(config)
    assert split_bytes(out) == made and len(ledger(config)) == 2
    assert "train_dataset no longer hold what was written" in capsys.readouterr().out
    # a model of these sets is up to date, so the advice from it is under their first number
    advice = tmp_path / "training_recommendations.json"
    files.write_json(advice, {"iteration": 1, "recommended_sample_increases": {"urology": 0.9}})
    assert preparation.prepare(config, {}, recommendations=advice)["iteration"] == 3


def test_a_folder_of_an_earlier_version_is_told_without_what_its_ledger_lacks(config, tmp_path, capsys):
    preparation.create_datasets(config)
    preparation.update_training_data(config, {"urology": 0.9})
    old = [{name: value for name, value in line.items() if name not in ("specialties", "known_as")} for line in ledger(config)]
    files.write_json_lines(tmp_path / "out" / "iterations.jsonl", old)
    preparation.report(tmp_path / "out", {"up_to_date": True, "seconds": 1})
    assert "urology" in capsys.readouterr().out
    preparation.update_training_data(config, {"urology": 1.0})
    assert len(ledger(config)) == 3


def test_a_rename_goes_together_with_settings_and_advice_under_the_old_name(config, tmp_path):
    config.SPECIALTY_SAMPLE_PERCENTAGES = {"cardiology": 0.6}
    preparation.create_datasets(config)
    (tmp_path / "files" / "dataset_with_answers_cardiology.json").rename(tmp_path / "files" / "dataset_with_answers_heart.json")
    preparation.update_training_data(config, {"cardiology": 0.9})
    assert ledger(config)[-1]["shares"]["heart"] == 0.9
    then, now = ledger(config)
    assert iterations.renamed_since(then, now) == {"cardiology": "heart"} and iterations.renamed_since(now, then) == {
        "heart": "cardiology"
    }
    assert iterations.with_new_names(then, {"cardiology": "heart"})["sizes"]["train"].keys() == now["sizes"]["train"].keys()


def test_only_the_specialties_that_are_named_are_prepared_from_files_of_one_and_of_several(config, specialty_files):
    with open(specialty_files / "more.csv", "w", newline="") as file:
        rows = [(question, answer, name) for name in ("skin", "eyes") for question, answer in pairs(name, 30).items()]
        csv.writer(file).writerows([("question", "answer", "specialty"), *rows])
    config.SPECIALTIES = ["urology", "eyes"]
    splits = preparation.create_datasets(config)
    assert {name for split in splits for name in split["specialty"]} == {"urology", "eyes"}
    config.SPECIALTIES = ["urologie"]
    with pytest.raises(UserError, match=r"holds no specialty 'urologie'. Did you mean urology\?"):
        preparation.create_datasets(config)


def test_a_thinking_block_of_the_template_ends_the_stored_prompts_and_is_told(config, tmp_path, capsys):
    template = tmp_path / "thinking.jinja"
    template.write_text(tiny_models.THINKING)
    config.CHAT_TEMPLATE = str(template)
    holdout, *_ = preparation.create_datasets(config)
    for row in holdout:
        assert row["formatted_prompt"].endswith("<think>\n\n</think>\n\n")
        assert row["formatted_chat"] == f"{row['formatted_prompt']}{row['response']}<|im_end|>\n"
    assert "the chat template writes '<think>\\n\\n</think>\\n\\n' before each answer" in capsys.readouterr().out


def test_a_template_that_tells_the_date_keeps_that_of_the_first_iteration(config, tmp_path, monkeypatch):
    template = tmp_path / "dated.jinja"
    template.write_text("{{ strftime_now('%Y-%m-%d') }} " + tiny_models.CHATML)
    config.CHAT_TEMPLATE = str(template)
    monkeypatch.setattr(manifest, "now", lambda: "2024-02-29T10:00:00+0000")
    before, *_ = preparation.create_datasets(config)
    monkeypatch.undo()
    after, *_ = preparation.update_training_data(config, {"cardiology": 0.8})
    assert ledger(config)[-1]["comparability_break"] == ""
    assert {text[:10] for split in (before, after) for text in split["formatted_prompt"]} == {"2024-02-29"}
