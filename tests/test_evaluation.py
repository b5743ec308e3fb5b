"""Generation and the evaluation script on a tiny model."""

import csv
import dataclasses
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time

import msgspec
import pandas as pd
import pytest
import torch
from conftest import ROOT, evaluate_command, prepare_command, refusal, run_script, train_command
from transformers import DynamicCache

import evaluation
from meerkat_workbench.core import artifacts, runs
from meerkat_workbench.device import devices, hub
from meerkat_workbench.output import tables
from meerkat_workbench.tuning import chat, llm
from meerkat_workbench.tuning.artifacts import (
    CheckComparison,
    EvaluationManifest,
    Finish,
    GenerationRecord,
    HoldoutEvaluation,
    Likelihood,
    MetricComparison,
    OutputFile,
    Prediction,
    Recommendations,
    SpecialtyPerformance,
    Split,
    Verdict,
    read_recommendations,
)
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord
from meerkat_workbench.tuning.generation import decoding as decoding_module
from meerkat_workbench.tuning.generation import generator, growing_cache, likelihood, prefixes
from meerkat_workbench.tuning.generation.decoding import Decoder, Decoding, PromptRow
from meerkat_workbench.tuning.generation.prediction_store import PredictionStore
from meerkat_workbench.tuning.generation.questions import answer_key, questions_of
from meerkat_workbench.tuning.generation.subject import EvaluationSubject
from meerkat_workbench.tuning.reporting import summary_text
from meerkat_workbench.tuning.scoring import retention
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable


@pytest.fixture(scope="module", params=["bf16", "fp32"])
def model_and_tokenizer(tiny_model, request):
    hub.silence_libraries()
    return llm.load_base(str(tiny_model), load_in_4bit=True, precision=request.param).eval(), llm.load_tokenizer(str(tiny_model))


def questions(tokenizer, count=6):
    names = ("asthma", "migraine", "melanoma", "heart failure with reduced ejection fraction", "measles", "croup")[:count]
    records = [
        PreparedRecord(name, "x", f"{name}: symptoms", "r", chat.messages(f"{name}: symptoms", "r", ""),
                       chat.render_llama3(f"{name}: symptoms", None, ""), "")
        for name in names
    ]  # fmt: skip
    return questions_of(Split.HOLDOUT, records, tokenizer, None)


def decoding(tokenizer, temperature=0.0, seed=1, tokens=16):
    return Decoding(tokens, temperature, seed, tuple(llm.stop_ids(tokenizer)), tokenizer.pad_token_id)


def test_generation_stops_on_both_terminators(model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    vocabulary = tokenizer.get_vocab()
    assert set(llm.stop_ids(tokenizer)) == {vocabulary["<|eot_id|>"], vocabulary["<|end_of_text|>"]}


def decode(model, asked, options, prefix=0):
    rows = [PromptRow(question.id, question.prompt_ids, prefix_length=prefix) for question in asked]
    return Decoder(model, options).decode(rows)


def test_prompts_of_unlike_lengths_get_in_one_batch_the_answers_they_get_alone(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    asked = questions(tokenizer)
    together = decode(model, asked, decoding(tokenizer))
    alone = [decode(model, [question], decoding(tokenizer))[0] for question in asked]
    # sums in another order may tip a tie; with padding on the wrong side hardly one would agree
    assert sum(one == other for one, other in zip(together, alone, strict=True)) >= len(asked) - 1


def test_rows_that_leave_and_a_shared_prefix_change_no_answer(model_and_tokenizer, monkeypatch):
    model, tokenizer = model_and_tokenizer
    asked, options = questions(tokenizer), decoding(tokenizer, tokens=48)
    prefix = prefixes.shared_prefix_length([question.prompt_ids for question in asked])
    monkeypatch.setattr(prefixes, "MIN_PREFIX_TOKENS", 1)
    monkeypatch.setattr(decoding_module, "MAX_UNFINISHED_FRACTION_TO_COMPACT", 0.0)
    staying = decode(model, asked, options)
    monkeypatch.setattr(decoding_module, "MAX_UNFINISHED_FRACTION_TO_COMPACT", 1.0)
    leaving = decode(model, asked, options)
    assert len({len(answer.ids) for answer in staying}) > 1 and prefix >= 3
    assert sum(one == other for one, other in zip(staying, leaving, strict=True)) >= len(asked) - 1
    shared = decode(model, asked, options, prefix)
    assert sum(one == other for one, other in zip(staying, shared, strict=True)) >= len(asked) - 1


def test_prefixes_of_unlike_lengths_in_one_batch_change_no_answer(tiny_model):
    model = llm.load_base(str(tiny_model), load_in_4bit=False, precision="fp32").eval()
    tokenizer = llm.load_tokenizer(str(tiny_model))
    options = decoding(tokenizer, tokens=12)
    heads = [tuple(chat.encode_prompt(tokenizer, text)) for text in ("a headache and a fever " * 3, "no pain, an old cough " * 5)]
    prompts = [(head + question.prompt_ids, len(head)) for head in heads for question in questions(tokenizer)[:3]]
    prompts += [(question.prompt_ids, 0) for question in questions(tokenizer)[:2]]
    rows = [PromptRow(str(number), ids, prefix_length=length) for number, (ids, length) in enumerate(prompts)]
    alone = [Decoder(model, options).decode([PromptRow(row.name, row.prompt_ids)])[0] for row in rows]
    assert Decoder(model, options).decode(rows) == alone
    lengths = prefixes.prefix_lengths([ids for ids, _ in prompts[:6]], ["a"] * 3 + ["b"] * 3)
    assert all(found >= length for found, (_, length) in zip(lengths, prompts[:6], strict=True))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_loss_of_an_answer_while_it_is_decoded_is_the_loss_that_is_measured(tiny_model, temperature):
    model = llm.load_base(str(tiny_model), load_in_4bit=False, precision="fp32").eval()
    tokenizer = llm.load_tokenizer(str(tiny_model))
    asked = questions(tokenizer)
    scorer = likelihood.Scorer(model, tokenizer.pad_token_id)
    for question, answer in zip(asked, decode(model, asked, decoding(tokenizer, temperature=temperature)), strict=True):
        [values] = likelihood.measure_batch(scorer, [likelihood.Continuation(question.prompt_ids, tuple(answer.ids))])
        assert answer.loss == pytest.approx(-float(values.mean()), abs=1e-4)


def test_a_growing_cache_holds_what_transformers_cache_holds(tiny_model, monkeypatch):
    monkeypatch.setattr(growing_cache, "GROWTH", 3)
    config = llm.load_config(str(tiny_model))
    ours, theirs = growing_cache.growing_cache(config), DynamicCache(config=config)
    draw = torch.Generator().manual_seed(0)
    rows = 4
    for step, length in enumerate([5, 1, 1, 1, 2, 1, 1, 1, 4, 1, 1]):
        keys, values = (torch.randn(rows, 2, length, 8, generator=draw) for _ in (0, 1))
        for cache in (ours, theirs):
            returned = cache.update(keys, values, 0)
            assert torch.equal(returned[0], cache.layers[0].keys) and torch.equal(returned[1], cache.layers[0].values)
        if step in (2, 6):  # rows leave, and one is repeated
            for cache in (ours, theirs):
                cache.batch_select_indices(torch.tensor([2, 0, 0]))
            rows = 3
        assert torch.equal(ours.layers[0].keys, theirs.layers[0].keys) and torch.equal(
            ours.layers[0].values, theirs.layers[0].values
        )
        assert ours.get_seq_length() == theirs.get_seq_length()
    ours.layers[0].reset()
    assert ours.get_seq_length() == 0


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rows_that_join_a_batch_under_way_get_the_answers_they_get_alone(tiny_model, monkeypatch, temperature):
    # in float32, where no rounding tips a tie
    model = llm.load_base(str(tiny_model), load_in_4bit=False, precision="fp32").eval()
    tokenizer = llm.load_tokenizer(str(tiny_model))
    monkeypatch.setattr(prefixes, "MIN_PREFIX_TOKENS", 1)
    asked, options = questions(tokenizer), decoding(tokenizer, tokens=40, temperature=temperature)
    answers = [(question, Decoder(model, options).decode([PromptRow(question.id, question.prompt_ids)])[0]) for question in asked]
    by_length = sorted(answers, key=lambda pair: len(pair[1].ids))
    assert len({len(answer.ids) for _, answer in answers}) > 2  # they end at different steps
    # a short answer ends beside the longest while others wait, whatever the tiny model has learnt on this processor
    asked, alone = map(list, zip(by_length[0], by_length[-1], *by_length[1:-1], strict=True))
    prefix = prefixes.shared_prefix_length([question.prompt_ids for question in asked])
    shared = [PromptRow(question.id, question.prompt_ids, prefix_length=prefix) for question in asked]
    merges = []
    monkeypatch.setattr(decoding_module._Batch, "merge", _counted(decoding_module._Batch.merge, merges))
    for at_once in (2, 3):
        assert Decoder(model, options).decode(shared, at_once) == alone
        assert not merges
        assert Decoder(model, options).decode(shared, at_once, refill=True) == alone
        assert merges
        merges.clear()


def _counted(function, calls):
    def counted(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return counted


def test_greedy_answers_are_those_of_transformers_generate(model_and_tokenizer):
    import torch

    model, tokenizer = model_and_tokenizer
    asked, options = questions(tokenizer), decoding(tokenizer, tokens=48)
    ours = decode(model, asked, options)
    width = max(len(question.prompt_ids) for question in asked)
    ids = torch.tensor([[options.pad_id] * (width - len(q.prompt_ids)) + list(q.prompt_ids) for q in asked])
    mask = torch.tensor([[0] * (width - len(q.prompt_ids)) + [1] * len(q.prompt_ids) for q in asked])
    with torch.inference_mode(), devices.autocast(model):
        theirs = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=48, do_sample=False,
                                eos_token_id=list(options.stop_ids), pad_token_id=options.pad_id)  # fmt: skip
    cut = [[token for token in row if token not in (*options.stop_ids, options.pad_id)] for row in theirs[:, width:].tolist()]
    assert sum(row == answer.ids for row, answer in zip(cut, ours, strict=True)) >= len(asked) - 1


def test_rows_of_base_and_adapter_in_one_batch_get_the_answers_they_get_alone(small_run, model_and_tokenizer):
    like, tokenizer = model_and_tokenizer
    base = llm.load_base(str(small_run["model"]), load_in_4bit=True, precision=devices.precision_of(like))
    model = llm.load_adapter(base, small_run["adapter"], name="tuned")
    asked, options = questions(tokenizer), decoding(tokenizer)
    rows = [PromptRow(q.id, q.prompt_ids, name) for q in asked for name in (decoding_module.NO_ADAPTER, "tuned")]
    mixed = Decoder(model, options).decode(rows)
    apart = {}
    for adapter in (None, "tuned"):
        with generator.active_adapter(model, adapter):
            apart[adapter] = decode(model, asked, options)
    assert apart[None] != apart["tuned"]
    for place, adapter in enumerate((None, "tuned")):
        assert sum(one == other for one, other in zip(mixed[place::2], apart[adapter], strict=True)) >= len(asked) - 1


def test_a_draw_depends_on_question_and_seed_and_not_on_the_batch(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    asked = questions(tokenizer)
    forward, backward = (decode(model, part, decoding(tokenizer, 1.0)) for part in (asked, asked[::-1]))
    assert sum(one == other for one, other in zip(forward, backward[::-1], strict=True)) >= len(asked) - 1
    assert decode(model, asked, decoding(tokenizer, 1.0, seed=2)) != forward


def test_noise_draws_from_the_softmax_and_differs_between_steps_and_questions():
    import torch

    logits = torch.log(torch.tensor([0.6, 0.3, 0.1]))
    options = Decoding(1, 1.0, 0, (0,), 0)
    seeds = torch.tensor([decoding_module.seed_of(options, name) for name in ("q", "r", "s", "t")])
    noise = torch.stack([decoding_module.gumbel_noise(seeds, torch.full_like(seeds, step), 3) for step in range(3000)])
    draws = (logits + noise).argmax(-1).flatten().tolist()
    assert [draws.count(k) / 12000 for k in range(3)] == pytest.approx([0.6, 0.3, 0.1], abs=0.015)
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.03) and float(noise.std()) == pytest.approx(1.2825, abs=0.03)
    assert len(noise.flatten().unique()) > 0.99 * noise.numel()
    flat = noise.reshape(3000, -1)
    assert float((torch.corrcoef(flat.T) - torch.eye(12)).abs().max()) < 0.08
    alone = decoding_module.gumbel_noise(seeds[2:3], torch.tensor([7]), 3)
    assert torch.equal(alone[0], decoding_module.gumbel_noise(seeds, torch.full_like(seeds, 7), 3)[2])


@pytest.mark.parametrize("refill", [False, True])
def test_out_of_memory_halves_the_rows_at_once_and_loses_no_answer(model_and_tokenizer, monkeypatch, tmp_path, refill):
    model, tokenizer = model_and_tokenizer
    whole, sizes = Decoder.decode, []

    def small_card(self, rows, at_once, *, refill, **callbacks):
        sizes.append((len(rows), at_once))
        if at_once > 2 or any(row.name == "melanoma" for row in rows):
            raise MemoryError
        return whole(self, rows, at_once, refill=refill, **callbacks)

    monkeypatch.setattr(Decoder, "decode", small_card)
    asked = questions(tokenizer)
    store = PredictionStore(tmp_path)
    asker = generator.Generator(store, tokenizer, decoding(tokenizer), 6, refill=refill)
    asker.generate_sequential(model, "base", None, asked, [q.id for q in asked])
    assert sizes[:3] == [(6, 6), (6, 3), (6, 2)]
    # the one that does not fit by itself is found and fails alone
    failed = {name for name, answer in store.records.items() if answer.finish == Finish.FAILED}
    assert failed == {"melanoma"} and len(store.records) == 6


def test_prompt_model_settings_and_engine_each_make_another_key(model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    one, two = questions(tokenizer, 2)
    usual, longer = (dataclasses.asdict(decoding(tokenizer, tokens=tokens)) for tokens in (16, 17))
    keys = [answer_key(one, "base", usual, "e"), answer_key(two, "base", usual, "e"), answer_key(one, "tuned", usual, "e"),
            answer_key(one, "base", longer, "e"), answer_key(one, "base", usual, "f")]  # fmt: skip
    assert len(set(keys)) == 5 and keys[0] == answer_key(one, "base", dict(usual), "e")


def metrics_of(folder, **wanted):
    return tables.where(tables.read_rows(folder / MetricComparison.FILE, MetricComparison), **wanted)


def same_answers_and_scores(folder, other):
    """Whether two evaluations hold the same answers, scores and comparison."""
    names = ("base_model_results.csv", "finetuned_model_results.csv", MetricComparison.FILE, OutputFile.RETENTION)
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


def run_here(command, monkeypatch):
    """The script in this process."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)  # with more, the script would start again on all of them
    monkeypatch.setattr(sys, "argv", list(command))
    monkeypatch.chdir(ROOT)
    evaluation.main()


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model fails."""

    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(llm, "load_base", refuse)


def test_every_promised_file_is_there_and_every_question_is_in_both_tables(small_run):
    folder = small_run["scores"]
    for name in ("base_model_results.csv", "finetuned_model_results.csv", "model_comparison.csv", "specialty_performance.csv",
                 "specialty_analysis.png", "model_comparison.png", "training_recommendations.json", "report.html",
                 "answer_checks.csv"):  # fmt: skip
        assert (folder / name).stat().st_size > 0, name
    base, tuned = AnswerTable.read(folder, "base"), AnswerTable.read(folder, "tuned")
    assert list(base.ids) == list(tuned.ids) and len(set(base.ids)) == len(base)
    assert set(base.splits) == {Split.HOLDOUT, Split.EVAL} and len(base.of_split(Split.HOLDOUT)) == 40
    assert {one.finish for one in base} <= {Finish.STOP, Finish.LENGTH}
    assert list(base.predictions) != list(tuned.predictions)


def test_checks_of_answers_are_counted_for_both_models_and_shown(small_run):
    folder = small_run["scores"]
    [cut_off] = tables.where(tables.read_rows(folder / CheckComparison.FILE, CheckComparison), split="holdout", check="cut_off")
    tuned = AnswerTable.read(folder, "tuned").of_split(Split.HOLDOUT)
    assert cut_off.tuned == sum(one.finish == Finish.LENGTH for one in tuned) > summary_text.MAX_CUT_OFF_FRACTION * cut_off.n
    assert cut_off.n == len(tuned)
    report = (folder / OutputFile.REPORT).read_text()
    assert 'data-mark="cut_off"' in report and cut_off.says in report
    [line] = [line for line in small_run["evaluation.py"].splitlines() if cut_off.says in line]
    assert {str(cut_off.tuned), str(cut_off.n), str(cut_off.base)} <= set(re.findall(r"\d+", line))
    assert "MAX_NEW_TOKENS" in line.replace(cut_off.says, "")  # the setting to raise


def test_the_answers_of_the_base_are_likelier_under_the_base(small_run):
    losses = {name: AnswerTable.read(small_run["scores"], name).scores("log_perplexity").dropna() for name in ("base", "tuned")}
    assert all(len(of_system) and of_system.min() > 0 for of_system in losses.values())
    assert losses["base"].mean() < losses["tuned"].mean()


def test_general_and_safety_questions_are_asked_of_both_models_and_counted(small_run):
    folder = small_run["scores"]
    texts = {"id", "kind", "question", "reference", "base_answer", "tuned_answer"}
    rows = tables.read_frame(folder / OutputFile.RETENTION, texts)
    assert list(rows["id"]) == [item.id for item in retention.items()]
    assert all(row["base_answer"] or row["tuned_answer"] for row in rows[:5].to_dict("records"))
    assert (rows["base_log_perplexity"] > 0).all() and (rows["base_log_perplexity"] != rows["tuned_log_perplexity"]).all()
    assert "retention" not in set(AnswerTable.read(folder, "base").splits)
    assert "<td>general</td><td>30</td><td>0</td>" in (folder / OutputFile.REPORT).read_text()  # none right by the base


def test_tables_hold_difference_interval_floor_and_signature(small_run):
    folder = small_run["scores"]
    for row in metrics_of(folder):
        if row.missing:
            assert row.metric == "METEOR"
            continue
        if not row.n:
            assert row.split == Split.EVAL and row.metric.startswith("preference")  # measured on the holdout only
            continue
        assert row.difference == pytest.approx(row.tuned - row.base, abs=1e-4)
        assert row.ci_low <= row.difference <= row.ci_high
        assert row.signature and (math.isfinite(row.floor_tuned) or row.metric == "log_perplexity")
        verdicts = {Verdict.BETTER, Verdict.WORSE, Verdict.NOISE}
        assert row.verdict in ({Verdict.NONE} if row.metric in ("length_ratio", "log_perplexity") else verdicts)
    rows = tables.read_rows(folder / SpecialtyPerformance.FILE, SpecialtyPerformance)
    assert {row.specialty for row in rows} == {"cardiology", "dentistry", "neurology", "urology"}
    assert all(row.p_adjusted >= row.p - 1e-9 for row in rows if math.isfinite(row.p) and math.isfinite(row.p_adjusted))


def test_recommendations_have_the_three_keys_and_rest_on_eval(small_run):
    path = small_run["scores"] / Recommendations.FILE
    assert {"low_performance_specialties", "recommended_sample_increases", "overall_improvement"} <= set(
        json.loads(path.read_text())
    )
    advice = read_recommendations(path)
    assert advice.steering_split == "eval" and advice.overall_improvement_split == "holdout"
    assert len(advice.evidence) == 4 and advice.sentences
    [rouge] = metrics_of(small_run["scores"], split="holdout", metric="ROUGE-L")
    assert advice.overall_improvement["ROUGE-L"] == pytest.approx(rouge.difference, abs=1e-4)


def test_run_again_unchanged_it_loads_no_model_and_counts_no_second_evaluation(small_run, monkeypatch, no_model):
    counted, manifest = small_run["data"] / HoldoutEvaluation.FILE, small_run["scores"] / runs.MANIFEST
    before = counted.read_bytes(), manifest.read_bytes()
    run_here(evaluate_command(small_run), monkeypatch)
    assert (counted.read_bytes(), manifest.read_bytes()) == before


def test_scoring_again_needs_no_model_gives_the_same_and_keeps_how_the_answers_were_made(
    small_run, tmp_path, monkeypatch, no_model
):
    folders = {**small_run, "scores": tmp_path / "scores"}
    shutil.copytree(small_run["scores"], folders["scores"])
    made = EvaluationManifest.require(folders["scores"])
    assert made.run.loads and made.run.largest_logit_change["tuned"] > 0
    run_here(evaluate_command(folders, "--rescore"), monkeypatch)
    assert same_answers_and_scores(folders["scores"], small_run["scores"])
    again = EvaluationManifest.require(folders["scores"])
    assert again.fingerprint == made.fingerprint and again.command.endswith("--rescore")
    assert again.run == msgspec.structs.replace(made.run, generated=0)


def test_scoring_again_by_other_settings_keeps_how_the_answers_were_made(small_run, tmp_path, monkeypatch, no_model):
    folders = {**small_run, "scores": tmp_path / "scores"}
    shutil.copytree(small_run["scores"], folders["scores"])
    made = EvaluationManifest.require(folders["scores"])
    run_here(evaluate_command(folders, "--rescore", "STEERING_METRIC=token_f1"), monkeypatch)
    again = EvaluationManifest.require(folders["scores"])
    assert again.fingerprint != made.fingerprint
    assert read_recommendations(folders["scores"] / Recommendations.FILE).steering_metric == "token_f1"
    assert again.run == msgspec.structs.replace(made.run, generated=0)


def lines_of(path):
    return path.read_text().count("\n") if path.exists() else 0


def test_a_store_keeps_any_text_and_drops_what_a_kill_cut_off(tmp_path):
    odd = Prediction(key="k", id="q", system="base", text="one\u2028two\x85three\r\nfour", finish=Finish.STOP, tokens=1)
    (tmp_path / Prediction.FILE).write_text('{"key": "torn')
    store = PredictionStore(tmp_path)
    store.add([odd])
    assert PredictionStore(tmp_path).records == {"k": odd}


def test_answers_that_failed_are_asked_again_by_the_same_command(small_run, tmp_path, monkeypatch):
    folders = {**small_run, "scores": tmp_path / "scores"}
    scores = folders["scores"]
    shutil.copytree(small_run["scores"], scores)
    made = EvaluationManifest.require(scores)
    artifacts.write(scores / runs.MANIFEST, msgspec.structs.replace(made, failed=1))  # as the run that could not get it leaves it
    first = artifacts.read_lines(Prediction, scores / Prediction.FILE)[0]
    broken = msgspec.structs.replace(first, text="", finish=Finish.FAILED, error="503")
    PredictionStore(scores).add([broken])
    done = run_script(*evaluate_command(folders))
    assert done.returncode == 0, done.stderr
    again = EvaluationManifest.require(scores)
    assert (again.run.generated, again.failed) == (1, 0)
    assert again.run.loads[:-1] == made.run.loads and again.run.loads[-1].systems == (first.system,)
    assert same_answers_and_scores(scores, small_run["scores"])
    run_here(evaluate_command(folders), monkeypatch)
    assert EvaluationManifest.require(scores) == again  # it is up to date


@pytest.mark.slow
def test_killed_at_two_points_it_resumes_and_ends_with_the_same_answers_and_scores(small_run, tmp_path):
    folders = {**small_run, "scores": tmp_path / "killed"}
    command, stored = evaluate_command(folders), folders["scores"] / Prediction.FILE
    of_one_model = lines_of(small_run["scores"] / Prediction.FILE) // 2
    likelihoods = folders["scores"] / Likelihood.FILE
    for file, least in (
        (stored, of_one_model + 20),
        (likelihoods, 1),
    ):  # while the tuned model answers, and while likelihoods are measured
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 300
        while lines_of(file) < least:
            assert process.poll() is None and time.time() < deadline, "ended before it was there"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert EvaluationManifest.find(folders["scores"]) is None and runs.read_in_progress(folders["scores"]) is not None
        with open(file, "a") as torn:
            torn.write('{"key": "torn')
    resumed = run_script(*command)
    assert resumed.returncode == 0, resumed.stderr
    record, whole = (EvaluationManifest.require(folder).run for folder in (folders["scores"], small_run["scores"]))
    assert record.generated == 0  # all answers were stored before the last kill
    # how the killed runs asked is recorded, and only in the manifest
    assert set(whole.loads) <= set(record.loads) and record.largest_logit_change == whole.largest_logit_change
    assert not (folders["scores"] / GenerationRecord.FILE).exists()
    assert same_answers_and_scores(folders["scores"], small_run["scores"])


@pytest.mark.slow
def test_answers_of_the_base_are_taken_over_by_the_evaluation_of_another_adapter(small_run, tmp_path):
    folders = {**small_run, "adapter": tmp_path / "adapter", "scores": tmp_path / "scores"}
    scores = folders["scores"]
    shutil.copytree(small_run["scores"], scores)
    assert run_script(*train_command(folders, "LORA_RANK=32")).returncode == 0
    second = run_script(*evaluate_command(folders))
    assert second.returncode == 0, second.stderr
    count = len(AnswerTable.read(scores, "base")) + len(retention.items())
    assert re.search(rf"\b{count}\b", second.stdout)  # it says how many are taken over
    assert EvaluationManifest.require(scores).run.generated == count  # those of the tuned model alone
    assert list(AnswerTable.read(scores, "base").predictions) == list(AnswerTable.read(small_run["scores"], "base").predictions)
    assert (scores / "archive" / "iteration_001" / OutputFile.REPORT).exists()

    # scored again, the archived answers keep how they were generated, and not how the other adapter's were
    first = EvaluationManifest.require(small_run["scores"]).run
    again = run_script(*evaluate_command({**folders, "adapter": small_run["adapter"]}, "--rescore"))
    assert again.returncode == 0, again.stderr
    record = EvaluationManifest.require(scores).run
    assert (record.loads, record.largest_logit_change) == (first.loads, first.largest_logit_change)


def test_a_failed_answer_of_another_process_is_kept_and_a_good_one_takes_its_place(tmp_path):
    first, second = PredictionStore(tmp_path), PredictionStore(tmp_path, rank=1)
    good, failed = (
        Prediction(key="k", id="q", system="base", text=text, finish=finish, tokens=1)
        for text, finish in (("yes", Finish.STOP), ("", Finish.FAILED))
    )
    second.add([failed])
    first.merge_parts({"k"})
    assert first.records["k"].finish == Finish.FAILED and first.lacks("k")
    second.add([good])
    first.merge_parts({"k"})
    assert first.records["k"].text == "yes" and not list(tmp_path.glob("*part*"))
    second.add([failed])
    first.merge_parts({"k"})
    assert PredictionStore(tmp_path).records["k"].text == "yes"


def test_ask_prints_what_both_models_answer(small_run):
    done = run_script(*evaluate_command(small_run, "--ask", "What is asthma?"))
    assert done.returncode == 0 and "\nbase: " in done.stdout and "\ntuned: " in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("argument", "where", "item", "remedy"),
    [
        ("STEERING_METRIC=ROUGE-9", "STEERING_METRIC=ROUGE-9", "", "METEOR"),
        ("STEERING_METRIC=length_ratio", "STEERING_METRIC=length_ratio", "", ""),
        ("TEMPERATURE=-1", "TEMPERATURE", "", ""),
        ("FINETUNED_MODEL_PATH=absent", "absent", "", "python fine_tuning.py"),
        ("BASE_MODEL_PATH=./absent", "./absent", "", ""),
        ("MAX_NEW_TOKEN=5", "", "MAX_NEW_TOKEN", "MAX_NEW_TOKENS"),
    ],
)
def test_a_mistake_is_refused_in_one_line_and_writes_nothing(small_run, tmp_path, monkeypatch, argument, where, item, remedy):
    error = refusal(evaluation, evaluate_command({**small_run, "scores": tmp_path / "out"}, argument), monkeypatch)
    assert (error.where, error.item) == (where, item) and remedy in error.remedy and "\n" not in str(error)
    assert EvaluationManifest.find(tmp_path / "out") is None


def test_a_restarted_series_is_another_though_it_draws_the_same_sets(small_run, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(small_run["data"], data)
    before = EvaluationSubject.load(small_run["adapter"], data, None)
    assert before.series == EvaluationSubject.load(small_run["adapter"], data, None).series
    preparation = f"python dataset_preparation.py DATA_DIR={small_run['files']} EVAL_SPLIT_SIZE=0.4 OUTPUT_DIR={data}"
    assert before.preparation_command() == preparation
    again = run_script(*prepare_command({**small_run, "data": data}), "--fresh")
    assert again.returncode == 0, again.stderr
    after = EvaluationSubject.load(small_run["adapter"], data, None)
    assert after.data.splits == before.data.splits and after.series != before.series


def test_an_adapter_of_another_holdout_or_base_is_refused(small_run, tmp_path, tiny_model, monkeypatch):
    from safetensors.torch import load_file, save_file

    data = tmp_path / "other"
    made = run_script("dataset_preparation.py", f"DATA_DIR={small_run['files']}", f"OUTPUT_DIR={data}", "RANDOM_SEED=7")
    assert made.returncode == 0
    error = refusal(evaluation, evaluate_command({**small_run, "data": data, "scores": tmp_path / "out"}), monkeypatch)
    assert error.where == str(small_run["adapter"]) and all(name in error.fault for name in ("holdout", "eval", str(data)))
    assert "MODELS" in error.remedy and "--iteration" not in error.remedy  # this series never had its sets
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_model.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    weights = load_file(base / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, base / "model.safetensors", {"format": "pt"})
    command = evaluate_command({**small_run, "scores": tmp_path / "out2"}, f"BASE_MODEL_PATH={base}")
    error = refusal(evaluation, command, monkeypatch)
    assert error.where == str(small_run["adapter"]) and str(base) in error.fault and "BASE_MODEL_PATH" in error.remedy


def test_text_that_a_spreadsheet_would_run_is_made_harmless_in_every_column(tmp_path):
    table = pd.DataFrame([{"id": "1", "prediction": "=HYPERLINK(1)", "tuned_answer": "@SUM(1)", "ROUGE-L": -0.5}])
    with open(tmp_path / "a.csv", "w", encoding="utf-8", newline="") as file:
        tables.write_frame(table, file)
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"id": "1", "prediction": "'=HYPERLINK(1)", "tuned_answer": "'@SUM(1)", "ROUGE-L": "-0.5"}]


@pytest.mark.parametrize(("tuned", "floor", "warned"), [(0.083, 0.076, True), (0.47, 0.12, False), (0.3, float("nan"), False)])
def test_a_score_that_is_mostly_style_gets_a_warning(tuned, floor, warned):
    row = MetricComparison(
        split="eval", metric="ROUGE-L", n=9, base=0.1, tuned=tuned, difference=tuned - 0.1, ci_low=-1, ci_high=1, p=0.5, base_low=0,
        base_high=1, tuned_low=0, tuned_high=1, floor_base=floor, floor_tuned=floor, verdict=Verdict.NOISE, lower_is_better=False,
        signature="", missing="",
    )  # fmt: skip
    warning, caution = summary_text.warn_near_floor(row), summary_text.caution([row], None, "ROUGE-L")
    assert bool(warning) == warned
    # and recommendations that rest on it are not to be relied on
    assert bool(caution) == warned and warning in caution and (not warned or f"{floor:.3f}" in caution)
    assert not summary_text.caution([msgspec.structs.replace(row, split="holdout")], None, "ROUGE-L")
