"""Further models, several processes and servers: each is really asked, on a tiny model."""

import re

import pytest
from conftest import chat_server, evaluate_command, refusal, run_script, served

import evaluation
from meerkat_workbench.core import artifacts, settings
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device import distributed
from meerkat_workbench.output import tables
from meerkat_workbench.tuning import chat, llm
from meerkat_workbench.tuning.artifacts import (
    EvaluationManifest,
    ExportRecord,
    Finish,
    LoadRecord,
    OutputFile,
    Prediction,
    Split,
    SystemComparison,
    SystemKind,
)
from meerkat_workbench.tuning.data import dataset_folders
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord
from meerkat_workbench.tuning.data.vocabulary import ReferenceVocabulary
from meerkat_workbench.tuning.generation import endpoint, generator, prediction_store
from meerkat_workbench.tuning.generation.decoding import Decoding
from meerkat_workbench.tuning.generation.endpoint import Endpoint
from meerkat_workbench.tuning.generation.generation_run import GenerationJob, GenerationOptions, GenerationRun
from meerkat_workbench.tuning.generation.preference import PreferencePlan
from meerkat_workbench.tuning.generation.questions import Question, questions_of
from meerkat_workbench.tuning.generation.systems import Loading, System
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable

NO_PREFERENCES = PreferencePlan({}, ReferenceVocabulary())

FEW = ("MAX_SAMPLES_PER_SPECIALTY=3", "MAX_NEW_TOKENS=16", "BATCH_SIZE=8", "RETENTION=False")


@pytest.fixture(scope="module")
def few(small_run, tmp_path_factory):
    """An evaluation of a few questions, in one process."""
    folders = {**small_run, "scores": tmp_path_factory.mktemp("few") / "scores"}
    done = run_script(*evaluate_command(folders, *FEW))
    assert done.returncode == 0, done.stderr
    return folders["scores"]


def predictions(folder, system):
    return list(AnswerTable.read(folder, system).predictions)


def agree(one, other, but=2):
    """Whether all answers but a few are equal: sums in bf16 depend on the shape of a batch."""
    return sum(a == b for a, b in zip(one, other, strict=True)) >= len(one) - but


def test_further_models_are_asked_in_the_same_batches_and_compared_with_the_base(small_run, exported, few, tmp_path):
    scores = tmp_path / "scores"
    models = f"{{same: {small_run['adapter']}, merged: {exported[0]}, terse: 'base: Answer in one word.'}}"
    done = run_script(*evaluate_command({**small_run, "scores": scores}, *FEW, f"MODELS={models}", "BATCHING=mixed"))
    assert done.returncode == 0, done.stderr
    record = EvaluationManifest.require(scores).run
    assert record.loads == (
        LoadRecord(("merged",), "sequential", 8, "static"),
        LoadRecord(("base", "tuned", "base_few_shot", "same", "terse"), "mixed", 8, "static"),
    )
    assert set(record.largest_logit_change) == {"tuned", "same"} and min(record.largest_logit_change.values()) > 0
    answers = {name: predictions(scores, name) for name in ("base", "tuned", "same", "merged", "terse")}
    assert agree(answers["same"], answers["tuned"]) and not agree(answers["tuned"], answers["base"])
    assert agree(answers["base"], predictions(few, "base")) and agree(answers["tuned"], predictions(few, "tuned"))
    assert not agree(answers["terse"], answers["base"])
    # its base is not in 4 bits any more, which tips many a tie of a model that knows nothing; token by token they agree
    likeness = artifacts.read(ExportRecord, exported[0] / ExportRecord.FILE).likeness
    assert likeness.merge > 0.95 and likeness.as_trained > 0.7
    rows = tables.read_rows(scores / SystemComparison.FILE, SystemComparison)
    assert {row.model for row in rows} == {"tuned", "base_few_shot", "same", "merged", "terse"}
    report = (scores / OutputFile.REPORT).read_text()
    assert all(name in report for name in ("same", "merged", "terse"))


def test_each_load_of_a_model_has_its_own_record(tiny_model, tmp_path, monkeypatch):
    tokenizer = llm.load_tokenizer(str(tiny_model))
    records = [
        PreparedRecord(name, "x", f"{name}: symptoms", "r", chat.messages(f"{name}: symptoms", "r", ""),
                       chat.render_llama3(f"{name}: symptoms", None, ""), "")
        for name in ("asthma", "croup", "measles", "migraine")
    ]  # fmt: skip
    asked = questions_of(Split.HOLDOUT, records, tokenizer, None)
    kinds = {"base": SystemKind.BASE, "one": SystemKind.MODEL, "other": SystemKind.MODEL}
    decoding = Decoding(8, 0.0, 1, tuple(llm.stop_ids(tokenizer)), tokenizer.pad_token_id)
    jobs = {
        name: GenerationJob(System(name, kind, str(tiny_model), name), asked, [f"{name} {one.id}" for one in asked], tokenizer, decoding)
        for name, kind in kinds.items()
    }  # fmt: skip
    options = GenerationOptions(None, "auto", None, 1, Loading(load_in_4bit=False, precision="fp32"))
    sizes = iter((1, 2, 3))
    monkeypatch.setattr(generator, "find_batch_size", lambda *_: next(sizes))
    run = GenerationRun(tmp_path, jobs, NO_PREFERENCES, str(tiny_model), options, distributed.join())
    run.generate()
    assert run.record.generated == 12 and run.record.identities == {name: name for name in kinds}
    batches = run.record.loads[0].batches
    assert run.record.loads == tuple(
        LoadRecord((name,), "sequential", size, batches) for name, size in (("one", 1), ("other", 2), ("base", 3))
    )
    # a run that goes on after a kill has the loads before it in its record; one that begins after the end has its own only
    resumed = GenerationRun(tmp_path, jobs, NO_PREFERENCES, str(tiny_model), options, distributed.join())
    resumed.generate()
    assert resumed.record.loads == run.record.loads and resumed.record.generated == 0
    resumed.remove_progress()
    assert GenerationRun(tmp_path, jobs, NO_PREFERENCES, str(tiny_model), options, distributed.join()).record.loads == ()


@pytest.mark.slow
def test_two_processes_share_the_questions_and_end_with_the_same_answers(small_run, few, tmp_path):
    folders = {**small_run, "scores": tmp_path / "scores"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = run_script(*launch, *evaluate_command(folders, *FEW), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(folders["scores"] / OutputFile.REPORT)) == 1  # one of them prints the result
    for name in ("base", "tuned"):
        assert predictions(folders["scores"], name) == predictions(few, name)
    assert not list(folders["scores"].glob("predictions.part*"))


def test_a_server_answers_in_place_of_this_machine(small_run, exported, tmp_path, monkeypatch):
    merged = exported[0]
    folders = {**small_run, "scores": tmp_path / "scores"}
    names = f"ENDPOINT_MODELS={merged},{merged}"
    with served(merged) as address:
        done = run_script(*evaluate_command(folders, *FEW, f"ENDPOINT={address}", names, "ENDPOINT_REQUESTS=2"))
        assert done.returncode == 0, done.stderr
        notes = [line for line in done.stdout.splitlines() if address in line]
        assert [name for line in notes for name in ("base:", "tuned:", "base_few_shot:") if f" {name}" in line] == [
            "base:",
            "tuned:",
            "base_few_shot:",
        ]
        assert all(Endpoint(address, str(merged)).stay_or_leave() in line for line in notes)
    base, tuned = (predictions(folders["scores"], name) for name in ("base", "tuned"))
    assert base == tuned and sum(len(text.split()) > 2 for text in base) > len(base) // 2
    gone = refusal(
        evaluation, evaluate_command({**folders, "scores": tmp_path / "gone"}, *FEW, f"ENDPOINT={address}", names), monkeypatch
    )
    assert gone.where == address and EvaluationManifest.find(tmp_path / "gone") is None


def test_only_addresses_of_this_machine_keep_questions_on_it():
    kept = {Endpoint(f"http://{host}:1", "m").stay_or_leave() for host in ("localhost", "127.0.0.1", "127.8.0.1", "[::1]")}
    sent = {Endpoint(f"http://{host}:1", "m").stay_or_leave() for host in ("example.org", "10.0.0.1", "localhost.example.org")}
    assert len(kept) == len(sent) == 1 and kept != sent


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
    stored = Prediction(key="k", id="q", system="base", text=text, finish=Finish.STOP, tokens=9)
    scored = prediction_store.strip_thinking(stored, prompt)
    assert (scored.text, scored.reasoning) == (answer, reasoning)
    assert scored.thinking_unfinished == (not answer)


def test_answers_behind_a_thinking_block_score_as_they_do_without_it_and_unclosed_ones_are_counted(small_run, tmp_path):
    right = {record.question: record.response for split in (Split.HOLDOUT, Split.EVAL)
             for record in dataset_folders.read_split(small_run["data"], split)}  # fmt: skip
    lost = sorted(right)[:3]

    def reply(messages):
        question = messages[-1]["content"]
        thought = f"<think>\nThe question is {question}"
        return thought if question in lost else f"{thought}\n</think>\n\n{right[question]}"

    folders = {**small_run, "scores": tmp_path / "scores"}
    with chat_server(reply, finish="length") as address:
        done = run_script(*evaluate_command(folders, f"ENDPOINT={address}", "ENDPOINT_MODELS=m,m", "RETENTION=False"))
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stdout.splitlines() if "reasoning" in line]
    assert [re.findall(r"\d+", note) for note in notes] == [[str(len(right)), "3"]] * 3  # of base, tuned model and few-shot base
    assert all("MAX_NEW_TOKENS" in note for note in notes)
    rows = AnswerTable.read(folders["scores"], "tuned").frame
    assert len(rows) == len(right)
    for row in rows.to_dict("records"):
        answered = row["question"] not in lost
        assert row["reasoning"].startswith("The question is") and "<think>" not in row["prediction"]
        assert row["exact_match"] == row["ROUGE-L"] == answered
        assert row["thinking_unfinished"] == (not answered)


@pytest.mark.parametrize(
    ("setting", "where", "item"),
    [
        ("MODELS={tuned: results}", "MODELS", "tuned"),
        ("MODELS={other: 'http://localhost:1'}", "MODELS", "other"),
        ("MODELS={other: ./absent}", "./absent", ""),
        ("ENDPOINT=localhost:8000", "ENDPOINT=localhost:8000", ""),
        ("ENDPOINT_MODELS=one", "ENDPOINT_MODELS", ""),
        ("BATCHING=both", "BATCHING", ""),
        ("ARMS=both", "ARMS", ""),  # its former name
    ],
)
def test_a_mistake_is_refused_in_one_line_and_writes_nothing(small_run, tmp_path, monkeypatch, setting, where, item):
    error = refusal(evaluation, evaluate_command({**small_run, "scores": tmp_path / "out"}, setting), monkeypatch)
    assert (error.where, error.item) == (where, item) and "\n" not in str(error)
    if where in ("BATCHING", "ARMS"):
        assert all(value in str(error) for value in ("auto", "mixed", "sequential"))
    assert EvaluationManifest.find(tmp_path / "out") is None


def test_a_mistake_leaves_a_finished_evaluation_in_its_place(small_run, few, monkeypatch):
    before = (few / "manifest.json").read_bytes()
    folders = {**small_run, "scores": few}
    for wrong, named in (
        (["MODELS={other: ./absent}"], "./absent"),
        (["ENDPOINT=http://127.0.0.1:9"], "http://127.0.0.1:9"),
        (["BASE_MODEL_PATH=./absent", "TEMPERATURE=1"], "./absent"),
    ):
        assert refusal(evaluation, evaluate_command(folders, *FEW, *wrong), monkeypatch).where == named
    assert (few / "manifest.json").read_bytes() == before and not (few / "archive").exists()
    config, _ = settings.load(evaluation.EvaluationConfig, evaluate_command(folders, *FEW)[1:], "", evaluation.DEMO)
    assert evaluation.evaluate(config).manifest == EvaluationManifest.require(few)
    assert (few / "manifest.json").read_bytes() == before  # it is up to date


def test_a_request_that_fails_is_tried_again_and_then_a_failed_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "RETRIES", 2)
    seen = {}

    def reply(messages):
        """Refuses every question that holds "bad", and each other one the first time."""
        asked = messages[-1]["content"]
        seen[asked] = seen.get(asked, 0) + 1
        return None if "bad" in asked or seen[asked] == 1 else f" about {asked} "

    with chat_server(reply, finish="length") as address:
        asked = [Question(text, "eval", "x", text, "r", text, (), (("user", text),)) for text in ("gout", "bad luck", "croup")]
        store = prediction_store.PredictionStore(tmp_path)
        model = Endpoint(f"{address}/v1/", "m")
        decoding = endpoint.ServerDecoding(8, 0.0, 1)
        keys = [question.id for question in asked]
        assert generator.generate_remote(model, "base", asked, keys, store, decoding, 2) == 3
        assert [(store.records[key].finish, store.records[key].text) for key in keys] == [
            (Finish.LENGTH, "about gout"), (Finish.FAILED, ""), (Finish.LENGTH, "about croup"),
        ]  # fmt: skip
        assert "503" in store.records["bad luck"].error and seen["bad luck"] == 3
        with pytest.raises(UserError) as caught:
            generator.generate_remote(model, "base", asked[1:2], keys[1:2], store, decoding, 2)
        assert caught.value.where == address and "503" in caught.value.remedy
