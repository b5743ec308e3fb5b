"""Further models, several processes and servers: each really asked, on a tiny model."""

import csv

import pytest
from conftest import chat_server, evaluate_command, mistake, run_script, served

from meerkat_workbench.core import files, manifest
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.data import leakage
from meerkat_workbench.tuning.generation import endpoint, generator, prediction_store

FEW = ("MAX_SAMPLES_PER_SPECIALTY=3", "MAX_NEW_TOKENS=16", "BATCH_SIZE=8", "RETENTION=False")


@pytest.fixture(scope="module")
def few(small_run, tmp_path_factory):
    """An evaluation of a few questions, in one process."""
    folders = {**small_run, "scores": tmp_path_factory.mktemp("few") / "scores"}
    done = run_script(*evaluate_command(folders, *FEW))
    assert done.returncode == 0, done.stderr
    return folders["scores"]


def predictions(folder, name):
    with open(folder / f"{name}_model_results.csv", encoding="utf-8", newline="") as file:
        return [row["prediction"] for row in csv.DictReader(file)]


def agree(one, other, but=2):
    """Whether all answers but a few are equal: sums in bf16 depend on a batch's shape."""
    return sum(a == b for a, b in zip(one, other, strict=True)) >= len(one) - but


def test_further_models_are_asked_in_the_same_batches_and_compared_with_the_base(small_run, exported, few, tmp_path):
    folders = {**small_run, "scores": tmp_path / "scores"}
    models = f"{{same: {small_run['adapter']}, merged: {exported[0]}, terse: 'base: Answer in one word.'}}"
    done = run_script(*evaluate_command(folders, *FEW, f"MODELS={models}", "ARMS=together"))
    assert done.returncode == 0 and ", together," in done.stdout, done.stderr
    said = {name: predictions(tmp_path / "scores", name) for name in ("base", "finetuned", "same", "merged", "terse")}
    assert agree(said["same"], said["finetuned"]) and not agree(said["finetuned"], said["base"])
    assert agree(said["base"], predictions(few, "base")) and agree(said["finetuned"], predictions(few, "finetuned"))
    assert not agree(said["terse"], said["base"])
    # its base is not in 4 bits any more, which tips many a tie of a model that knows nothing; token by token they agree
    likeness = files.read_json(exported[0] / leakage.EXPORT)
    assert likeness["merge"] > 0.95 and likeness["as_trained"] > 0.7
    with open(tmp_path / "scores" / "models_comparison.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"tuned", "same", "merged", "terse"}
    assert all(name in (tmp_path / "scores" / "report.html").read_text() for name in ("same", "merged", "terse"))


def test_two_processes_share_the_questions_and_end_with_the_same_answers(small_run, few, tmp_path):
    folders = {**small_run, "scores": tmp_path / "scores"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = run_script(*launch, *evaluate_command(folders, *FEW), OMP_NUM_THREADS="1")
    assert done.returncode == 0 and done.stdout.count("\nnext iteration") == 1, done.stderr
    for name in ("base", "finetuned"):
        assert predictions(tmp_path / "scores", name) == predictions(few, name)
    assert not list((tmp_path / "scores").glob("predictions.part*"))


def test_a_server_answers_in_place_of_this_machine(small_run, exported, tmp_path):
    merged = exported[0]
    folders = {**small_run, "scores": tmp_path / "scores"}
    names = f"ENDPOINT_MODELS={merged},{merged}"
    with served(merged) as address:
        done = run_script(*evaluate_command(folders, *FEW, f"ENDPOINT={address}", names, "ENDPOINT_REQUESTS=2"))
        assert done.returncode == 0 and "questions stay on this machine" in done.stdout, done.stderr
    base, tuned = (predictions(tmp_path / "scores", name) for name in ("base", "finetuned"))
    assert base == tuned and sum(len(text.split()) > 2 for text in base) > len(base) // 2
    gone = run_script(*evaluate_command({**folders, "scores": tmp_path / "gone"}, *FEW, f"ENDPOINT={address}", names))
    assert gone.returncode == 2 and "nothing answers there" in gone.stderr


@pytest.mark.parametrize(
    ("text", "prompt", "answer", "reasoning"),
    [
        ("<think>\nhm\n</think>\n\nGout.", "…assistant\n", "Gout.", "hm"),
        ("<think>\n\n</think>\n\nGout.", "…assistant\n", "Gout.", prediction_store.EMPTY_THINKING),
        ("hm</think>\nGout.", "…assistant\n<think>\n", "Gout.", "hm"),  # opened by the template
        ("hm</think>\nGout.", "…assistant\n", "Gout.", "hm"),  # opened by a server's template
        ("<think>\nhm, hm, hm", "…assistant\n", "", "hm, hm, hm"),
        ("hm, hm", "…assistant\n<think>\n", "", "hm, hm"),
        ("Gout, I <think>.", "…assistant\n", "Gout, I <think>.", ""),
        ("Gout.", "…<think>\n\n</think>\n\n", "Gout.", ""),
    ],
)
def test_what_a_model_thinks_first_is_no_part_of_its_answer(text, prompt, answer, reasoning):
    found = prediction_store.strip_thinking(prediction_store.Prediction("k", "q", "base", text, "stop", 9), prompt)
    assert (found.text, found.reasoning) == (answer, reasoning)


def test_answers_behind_a_thinking_block_score_as_they_do_without_it_and_unclosed_ones_are_counted(small_run, tmp_path):
    from datasets import load_from_disk

    right = {row["question"]: row["response"] for split in ("holdout_dataset", "eval_dataset")
             for row in load_from_disk(small_run["data"] / split)}  # fmt: skip
    lost = sorted(right)[:3]

    def reply(messages):
        question = messages[-1]["content"]
        thought = f"<think>\nThe question is {question}"
        return thought if question in lost else f"{thought}\n</think>\n\n{right[question]}"

    folders = {**small_run, "scores": tmp_path / "scores"}
    with chat_server(reply, finish="length") as address:
        done = run_script(*evaluate_command(folders, f"ENDPOINT={address}", "ENDPOINT_MODELS=m,m", "RETENTION=False"))
    assert done.returncode == 0, done.stderr
    assert f"{len(right)} answers of tuned begin with a thinking block" in done.stdout
    assert "3 never end it and hold no answer" in done.stdout
    with open(tmp_path / "scores" / "finetuned_model_results.csv", encoding="utf-8", newline="") as file:
        rows = {row["question"]: row for row in csv.DictReader(file)}
    for question, row in rows.items():
        assert row["reasoning"].startswith("The question is") and "<think>" not in row["prediction"]
        assert float(row["exact_match"]) == float(row["ROUGE-L"]) == (question not in lost)
        assert row["thinking_unfinished"] == str(question in lost)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("MODELS={tuned: results}", "cannot be a name"),
        ("MODELS={other: 'http://localhost:1'}", "address and model"),
        ("MODELS={other: ./absent}", "no such folder"),
        ("ENDPOINT=localhost:8000", "is no address"),
        ("ENDPOINT_MODELS=one", "two names"),
        ("ARMS=both", "auto, together, in turn"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(small_run, tmp_path, monkeypatch, capsys, setting, words):
    import evaluation

    command = evaluate_command({**small_run, "scores": tmp_path / "out"}, setting)
    code, said = mistake(evaluation, command, monkeypatch, capsys)
    assert code == 2 and words in said and said.count("\n") == 1, said
    assert manifest.read(tmp_path / "out") is None


def test_a_mistake_leaves_a_finished_evaluation_in_its_place(small_run, few, monkeypatch, capsys):
    import evaluation

    before = (few / "manifest.json").read_text()
    for wrong in (["MODELS={other: ./absent}"], ["ENDPOINT=http://127.0.0.1:9"], ["BASE_MODEL_PATH=./absent", "TEMPERATURE=1"]):
        code, said = mistake(evaluation, evaluate_command({**small_run, "scores": few}, *FEW, *wrong), monkeypatch, capsys)
        assert code == 2 and "Traceback" not in said
    assert (few / "manifest.json").read_text() == before and not (few / "archive").exists()
    again = run_script(*evaluate_command({**small_run, "scores": few}, *FEW))
    assert again.returncode == 0 and "up to date" in again.stdout


def test_a_request_that_fails_is_tried_again_and_then_a_failed_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "RETRIES", 2)
    seen = {}

    def reply(messages):
        """Refuses every question that says "bad", and each other one the first time."""
        asked = messages[-1]["content"]
        seen[asked] = seen.get(asked, 0) + 1
        return None if "bad" in asked or seen[asked] == 1 else f" about {asked} "

    with chat_server(reply, finish="length") as address:
        asked = [
            prediction_store.Question(text, "eval", "x", text, "r", text, (), (("user", text),))
            for text in ("gout", "bad luck", "croup")
        ]
        store = prediction_store.PredictionStore(tmp_path)
        model = endpoint.Endpoint(f"{address}/v1/", "m")
        settings = endpoint.ServerDecoding(8, 0.0, 1)
        keys = [question.id for question in asked]
        assert generator.generate_remote(model, "base", asked, keys, store, settings, 2) == 3
        assert [(store.records[key].finish, store.records[key].text) for key in keys] == [
            ("length", "about gout"), ("failed", ""), ("length", "about croup"),
        ]  # fmt: skip
        assert "503" in store.records["bad luck"].error and seen["bad luck"] == 3
        with pytest.raises(UserError, match="not one of 1 requests"):
            generator.generate_remote(model, "base", asked[1:2], keys[1:2], store, settings, 2)
