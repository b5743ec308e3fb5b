"""Generation and the evaluation script on a tiny model."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, evaluate_command, mistake, prepare_command, run_script

from meerkat_workbench.core import files, manifest
from meerkat_workbench.device import devices
from meerkat_workbench.tuning.generation import decoding as decoding_module
from meerkat_workbench.tuning.generation import generator, prediction_store
from meerkat_workbench.tuning.generation.decoding import Decoder, Decoding, PromptRow


@pytest.fixture(scope="module", params=["bf16", "fp32"])
def model_and_tokenizer(tiny_model, request):
    from meerkat_workbench.tuning import llm

    llm.silence_libraries()
    return llm.load_base(str(tiny_model), load_in_4bit=True, precision=request.param).eval(), llm.load_tokenizer(str(tiny_model))


def questions(tokenizer, count=6):
    from meerkat_workbench.tuning import chat

    names = ("asthma", "migraine", "melanoma", "heart failure with reduced ejection fraction", "measles", "croup")[:count]
    rows = [
        {"id": name, "specialty": "x", "question": f"{name}: symptoms", "response": "r",
         "formatted_prompt": chat.render_llama3(f"{name}: symptoms", None, ""),
         "messages": chat.messages(f"{name}: symptoms", "r", "")}
        for name in names
    ]  # fmt: skip
    return prediction_store.questions_of("holdout", rows, tokenizer, None)


def decoding(tokenizer, temperature=0.0, seed=1, tokens=16):
    from meerkat_workbench.tuning import llm

    return Decoding(tokens, temperature, seed, tuple(llm.stop_ids(tokenizer)), tokenizer.pad_token_id)


def test_generation_stops_on_both_terminators(model_and_tokenizer):
    from meerkat_workbench.tuning import llm

    _, tokenizer = model_and_tokenizer
    vocabulary = tokenizer.get_vocab()
    assert set(llm.stop_ids(tokenizer)) == {vocabulary["<|eot_id|>"], vocabulary["<|end_of_text|>"]}


def decode(model, asked, settings, prefix=()):
    return Decoder(model, settings, prefix).decode([PromptRow(question.id, question.prompt_ids) for question in asked])


def test_a_batch_of_unlike_lengths_answers_as_one_at_a_time_does(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    asked = questions(tokenizer)
    together = decode(model, asked, decoding(tokenizer))
    alone = [decode(model, [question], decoding(tokenizer))[0] for question in asked]
    # sums in another order may tip a tie; with padding on the wrong side hardly one would agree
    assert sum(one == other for one, other in zip(together, alone, strict=True)) >= len(asked) - 1


def test_rows_that_leave_and_a_shared_prefix_change_no_answer(model_and_tokenizer, monkeypatch):
    model, tokenizer = model_and_tokenizer
    asked, settings = questions(tokenizer), decoding(tokenizer, tokens=48)
    prefix = decoding_module.shared_prefix([question.prompt_ids for question in asked])
    monkeypatch.setattr(decoding_module, "LEAST_PREFIX", 1)
    monkeypatch.setattr(decoding_module, "KEPT_WHILE", 0.0)
    staying = decode(model, asked, settings)
    monkeypatch.setattr(decoding_module, "KEPT_WHILE", 1.0)
    leaving = decode(model, asked, settings)
    assert len({len(ids) for ids, _ in staying}) > 1 and len(prefix) >= 3
    assert sum(one == other for one, other in zip(staying, leaving, strict=True)) >= len(asked) - 1
    shared = decode(model, asked, settings, prefix)
    assert sum(one == other for one, other in zip(staying, shared, strict=True)) >= len(asked) - 1


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rows_that_join_a_batch_under_way_get_the_answers_they_get_alone(tiny_model, monkeypatch, temperature):
    from meerkat_workbench.tuning import llm

    # in float32, where no rounding tips a tie
    model, tokenizer = (
        llm.load_base(str(tiny_model), load_in_4bit=False, precision="fp32").eval(),
        llm.load_tokenizer(str(tiny_model)),
    )
    monkeypatch.setattr(decoding_module, "LEAST_PREFIX", 1)
    asked, settings = questions(tokenizer), decoding(tokenizer, tokens=40, temperature=temperature)
    rows = [PromptRow(question.id, question.prompt_ids) for question in asked]
    prefix = decoding_module.shared_prefix([question.prompt_ids for question in asked])
    alone = [Decoder(model, settings).decode([row])[0] for row in rows]
    assert len({len(ids) for ids, _ in alone}) > 2  # they end at different steps
    joined = []
    monkeypatch.setattr(decoding_module._Batch, "joined_by", _counted(decoding_module._Batch.merge, joined))
    for at_once in (2, 3):
        assert Decoder(model, settings, prefix).decode(rows, at_once, refill=True) == alone
        assert Decoder(model, settings, prefix).decode(rows, at_once) == alone
    assert joined


def _counted(function, calls):
    def counted(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return counted


def test_greedy_answers_are_those_of_transformers_generate(model_and_tokenizer):
    import torch

    model, tokenizer = model_and_tokenizer
    asked, settings = questions(tokenizer), decoding(tokenizer, tokens=48)
    mine = decode(model, asked, settings)
    width = max(len(question.prompt_ids) for question in asked)
    ids = torch.tensor([[settings.pad_id] * (width - len(q.prompt_ids)) + list(q.prompt_ids) for q in asked])
    mask = torch.tensor([[0] * (width - len(q.prompt_ids)) + [1] * len(q.prompt_ids) for q in asked])
    with torch.inference_mode(), devices.autocast(model):
        theirs = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=48, do_sample=False,
                                eos_token_id=list(settings.stop_ids), pad_token_id=settings.pad_id)  # fmt: skip
    cut = [[token for token in row if token not in (*settings.stop_ids, settings.pad_id)] for row in theirs[:, width:].tolist()]
    assert sum(row == answer for row, (answer, _) in zip(cut, mine, strict=True)) >= len(asked) - 1


def test_rows_of_base_and_adapter_in_one_batch_answer_as_each_does_alone(small_run, model_and_tokenizer):
    from meerkat_workbench.tuning import llm

    like, tokenizer = model_and_tokenizer
    base = llm.load_base(str(small_run["model"]), load_in_4bit=True, precision=devices.precision_of(like))
    model = llm.load_adapter(base, small_run["adapter"], name="tuned")
    asked, settings = questions(tokenizer), decoding(tokenizer)
    rows = [PromptRow(q.id, q.prompt_ids, name) for q in asked for name in (decoding_module.NO_ADAPTER, "tuned")]
    mixed = Decoder(model, settings).decode(rows)
    apart = {}
    for adapter in (None, "tuned"):
        with generator.active_adapter(model, adapter):
            apart[adapter] = decode(model, asked, settings)
    assert apart[None] != apart["tuned"]
    for place, adapter in enumerate((None, "tuned")):
        assert sum(one == other for one, other in zip(mixed[place::2], apart[adapter], strict=True)) >= len(asked) - 1


def test_a_questions_draw_is_its_own_whatever_the_batch_and_another_seed_is_another(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    asked = questions(tokenizer)
    warm = [decode(model, part, decoding(tokenizer, 1.0)) for part in (asked, asked[::-1])]
    assert sum(one == other for one, other in zip(warm[0], warm[1][::-1], strict=True)) >= len(asked) - 1
    assert decode(model, asked, decoding(tokenizer, 1.0, seed=2)) != warm[0]


def test_noise_draws_from_the_softmax_and_no_two_steps_or_questions_alike():
    import torch

    logits = torch.log(torch.tensor([0.6, 0.3, 0.1]))
    settings = Decoding(1, 1.0, 0, (0,), 0)
    seeds = torch.tensor([decoding_module.seed_of(settings, name) for name in ("q", "r", "s", "t")])
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

    def small_card(self, rows, at_once, *, refill, **told):
        sizes.append((len(rows), at_once))
        if at_once > 2 or any(row.name == "melanoma" for row in rows):
            raise MemoryError
        return whole(self, rows, at_once, refill=refill, **told)

    monkeypatch.setattr(Decoder, "decode", small_card)
    asked = questions(tokenizer)
    store = prediction_store.PredictionStore(tmp_path)
    asker = generator.Generator(store, tokenizer, decoding(tokenizer), 6, refill=refill)
    asker.generate_sequential(model, "base", None, asked, [q.id for q in asked])
    assert sizes[:3] == [(6, 6), (6, 3), (6, 2)]
    # the one that does not fit by itself is found and fails alone
    assert {name for name, answer in store.records.items() if answer.finish == "failed"} == {"melanoma"} and len(
        store.records
    ) == 6


def test_an_answer_is_kept_apart_by_prompt_model_settings_and_engine(model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    one, two = questions(tokenizer, 2)
    keys = {
        prediction_store.answer_key(one, "base", decoding(tokenizer), "e"),
        prediction_store.answer_key(two, "base", decoding(tokenizer), "e"),
        prediction_store.answer_key(one, "tuned", decoding(tokenizer), "e"),
        prediction_store.answer_key(one, "base", decoding(tokenizer, tokens=17), "e"),
        prediction_store.answer_key(one, "base", decoding(tokenizer), "f"),
    }
    assert len(keys) == 5


def read(folder, name):
    with open(folder / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_promised_file_is_there_and_every_question_is_in_both_tables(small_run):
    folder = small_run["scores"]
    for name in ("base_model_results.csv", "finetuned_model_results.csv", "model_comparison.csv", "specialty_performance.csv",
                 "specialty_analysis.png", "model_comparison.png", "training_recommendations.json", "report.html",
                 "answer_checks.csv"):  # fmt: skip
        assert (folder / name).stat().st_size > 0, name
    base, tuned = read(folder, "base_model_results.csv"), read(folder, "finetuned_model_results.csv")
    assert [row["id"] for row in base] == [row["id"] for row in tuned] and len({row["id"] for row in base}) == len(base)
    assert {row["split"] for row in base} == {"holdout", "eval"} and sum(row["split"] == "holdout" for row in base) == 40
    assert {row["finish_reason"] for row in base} <= {"stop", "length"}
    assert any(a["prediction"] != b["prediction"] for a, b in zip(base, tuned, strict=True))


def test_checks_of_answers_are_counted_for_both_models_and_shown(small_run):
    rows = {row["check"]: row for row in read(small_run["scores"], "answer_checks.csv") if row["split"] == "holdout"}
    tuned = [row for row in read(small_run["scores"], "finetuned_model_results.csv") if row["split"] == "holdout"]
    assert int(rows["cut_off"]["tuned"]) == sum(row["finish_reason"] == "length" for row in tuned) > 0
    assert int(rows["cut_off"]["n"]) == len(tuned)
    report = (small_run["scores"] / "report.html").read_text()
    assert "were cut off at MAX_NEW_TOKENS" in report and 'data-mark="cut_off"' in report and "Raise MAX_NEW_TOKENS" in report


def test_answers_come_with_their_likelihood_under_the_base_and_its_own_are_the_likelier(small_run):
    means = {}
    for name in ("base", "finetuned"):
        losses = [
            float(row["log_perplexity"])
            for row in read(small_run["scores"], f"{name}_model_results.csv")
            if row["log_perplexity"]
        ]
        assert losses and min(losses) > 0
        means[name] = sum(losses) / len(losses)
    assert means["base"] < means["finetuned"]


def test_general_and_safety_questions_are_asked_of_both_models_and_counted(small_run):
    from meerkat_workbench.tuning.scoring import retention

    rows = read(small_run["scores"], "retention.csv")
    assert [row["id"] for row in rows] == [item.id for item in retention.items()]
    assert all(row["base_answer"] or row["tuned_answer"] for row in rows[:5])
    assert all(
        float(row["base_log_perplexity"]) > 0 and row["base_log_perplexity"] != row["tuned_log_perplexity"] for row in rows
    )
    assert not any(row["split"] == "retention" for row in read(small_run["scores"], "base_model_results.csv"))
    assert "30 general knowledge questions: 0 answers of the base" in (small_run["scores"] / "report.html").read_text()


def test_tables_hold_difference_interval_floor_and_signature(small_run):
    for row in read(small_run["scores"], "model_comparison.csv"):
        if row["missing"]:
            assert row["metric"] == "METEOR"
            continue
        assert float(row["difference"]) == pytest.approx(float(row["tuned"]) - float(row["base"]), abs=1e-4)
        assert float(row["ci_low"]) <= float(row["difference"]) <= float(row["ci_high"])
        assert row["signature"] and (row["floor_tuned"] or row["metric"] == "log_perplexity")
        assert row["verdict"] in (
            {""} if row["metric"] in ("length_ratio", "log_perplexity") else {"better", "worse", "within noise"}
        )
    rows = read(small_run["scores"], "specialty_performance.csv")
    assert {row["specialty"] for row in rows} == {"cardiology", "dentistry", "neurology", "urology"}
    assert all(float(row["p_adjusted"]) >= float(row["p"]) - 1e-9 for row in rows if row["p"] and row["p_adjusted"])


def test_recommendations_have_the_three_keys_and_rest_on_eval(small_run):
    advice = json.loads((small_run["scores"] / "training_recommendations.json").read_text())
    assert {"low_performance_specialties", "recommended_sample_increases", "overall_improvement"} <= set(advice)
    assert advice["steering_split"] == "eval" and advice["overall_improvement_split"] == "holdout"
    assert len(advice["evidence"]) == 4 and advice["in_words"]
    headline = {row["metric"]: row for row in read(small_run["scores"], "model_comparison.csv") if row["split"] == "holdout"}
    assert advice["overall_improvement"]["ROUGE-L"] == pytest.approx(float(headline["ROUGE-L"]["difference"]), abs=1e-4)


def test_run_again_unchanged_it_generates_nothing_and_counts_no_second_look(small_run):
    looks = (small_run["data"] / "holdout_looks.jsonl").read_text()
    again = run_script(*evaluate_command(small_run))
    assert again.returncode == 0 and "up to date" in again.stdout and "asking" not in again.stdout
    assert (small_run["data"] / "holdout_looks.jsonl").read_text() == looks


def test_rescoring_needs_no_model_and_gives_the_same(small_run):
    before = (small_run["scores"] / "model_comparison.csv").read_text()
    code = (
        "import runpy, sys\nfrom meerkat_workbench.tuning import llm\n"
        "def refuse(*a, **k): raise AssertionError('a model was loaded')\nmodels.load_base = refuse\n"
        f"sys.argv = {evaluate_command(small_run, '--rescore')!r}\nrunpy.run_path('evaluation.py', run_name='__main__')"
    )
    done = run_script("-c", code)
    assert done.returncode == 0, done.stderr
    assert (small_run["scores"] / "model_comparison.csv").read_text() == before


def lines_of(path):
    return path.read_text().count("\n") if path.exists() else 0


def test_a_store_keeps_what_a_kill_tore_and_whatever_a_model_wrote(tmp_path):
    store = prediction_store.PredictionStore(tmp_path)
    odd = prediction_store.Prediction("k", "q", "base", "one\u2028two\x85three\r\nfour", "stop", 1)
    store.path.write_text('{"key": "torn')
    store = prediction_store.PredictionStore(tmp_path)
    store.add([odd])
    assert prediction_store.PredictionStore(tmp_path).records == {"k": odd}


def test_answers_that_failed_are_asked_again_by_the_same_command(small_run, tmp_path):
    folders = {**small_run, "scores": tmp_path / "scores"}
    shutil.copytree(small_run["scores"], folders["scores"])
    stored = folders["scores"] / "predictions.jsonl"
    contents = {**manifest.read(folders["scores"]), "failed": 1}  # as the run that could not get it leaves it
    files.write_json(folders["scores"] / "manifest.json", contents)
    broken = {**json.loads(stored.read_text().splitlines()[0]), "text": "", "finish": "failed", "error": "503"}
    with open(stored, "a") as file:
        file.write(json.dumps(broken) + "\n")
    done = run_script(*evaluate_command(folders))
    assert done.returncode == 0 and "asking" in done.stdout, done.stderr
    assert manifest.read(folders["scores"])["run"]["generated"] == 1
    assert read(folders["scores"], "base_model_results.csv") == read(small_run["scores"], "base_model_results.csv")
    assert "up to date" in run_script(*evaluate_command(folders)).stdout


def test_killed_at_three_points_it_goes_on_and_ends_with_the_same_answers_and_scores(small_run, tmp_path):
    folders = {**small_run, "scores": tmp_path / "killed"}
    command, stored = evaluate_command(folders), folders["scores"] / "predictions.jsonl"
    of_one_model = lines_of(small_run["scores"] / "predictions.jsonl") // 2
    likelihoods = folders["scores"] / "likelihoods.jsonl"
    for file, least in ((stored, 20), (stored, of_one_model + 20), (likelihoods, 1)):  # base, tuned, likelihoods
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 300
        while lines_of(file) < least:
            assert process.poll() is None and time.time() < deadline, "ended before it was there"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert manifest.read(folders["scores"]) is None
        with open(file, "a") as torn:
            torn.write('{"key": "torn')
    resumed = run_script(*command)
    assert resumed.returncode == 0 and "going on where" in resumed.stdout, resumed.stderr
    for name in ("base_model_results.csv", "finetuned_model_results.csv", "model_comparison.csv", "retention.csv"):
        assert read(folders["scores"], name) == read(small_run["scores"], name)


def test_base_answers_are_taken_over_by_the_evaluation_of_another_adapter(small_run, tmp_path):
    from conftest import train_command

    folders = {**small_run, "adapter": tmp_path / "adapter", "scores": tmp_path / "scores"}
    shutil.copytree(small_run["scores"], folders["scores"])
    assert run_script(*train_command(folders, "LORA_RANK=32")).returncode == 0
    second = run_script(*evaluate_command(folders))
    assert second.returncode == 0, second.stderr
    count = len(read(folders["scores"], "base_model_results.csv")) + len(read(folders["scores"], "retention.csv"))
    assert f"{count} answers are taken over" in second.stdout
    assert manifest.read(folders["scores"])["run"]["generated"] == count
    assert (folders["scores"] / "archive" / "iteration_001" / "report.html").exists()


def test_a_failed_answer_of_another_process_is_kept_and_a_good_one_takes_its_place(tmp_path):
    first, second = prediction_store.PredictionStore(tmp_path), prediction_store.PredictionStore(tmp_path, process=1)
    good, failed = (
        prediction_store.Prediction("k", "q", "base", text, finish, 1) for text, finish in (("yes", "stop"), ("", "failed"))
    )
    second.add([failed])
    first.gather_parts({"k"})
    assert first.records["k"].finish == "failed" and first.lacks("k")
    second.add([good])
    first.gather_parts({"k"})
    assert first.records["k"].text == "yes" and not list(tmp_path.glob("*part*"))
    second.add([failed])
    first.gather_parts({"k"})
    assert prediction_store.PredictionStore(tmp_path).records["k"].text == "yes"


def test_ask_prints_what_both_models_say(small_run):
    done = run_script(*evaluate_command(small_run, "--ask", "What is asthma?"))
    assert done.returncode == 0 and "\nbase: " in done.stdout and "\ntuned: " in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["STEERING_METRIC=ROUGE-9"], "there is no such metric"),
        (["STEERING_METRIC=length_ratio"], "only describes"),
        (["TEMPERATURE=-1"], "at least 0"),
        (["FINETUNED_MODEL_PATH=absent"], "python fine_tuning.py"),
        (["BASE_MODEL_PATH=./absent"], "no such folder"),
        (["MAX_NEW_TOKEN=5"], "Did you mean MAX_NEW_TOKENS"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(small_run, tmp_path, monkeypatch, capsys, arguments, words):
    import evaluation

    command = evaluate_command({**small_run, "scores": tmp_path / "out"}, *arguments)
    code, said = mistake(evaluation, command, monkeypatch, capsys)
    assert code == 2 and words in said and said.count("\n") == 1, said
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_series_begun_anew_is_another_though_it_draws_the_same_sets(small_run, tmp_path):
    import evaluation

    data = tmp_path / "data"
    shutil.copytree(small_run["data"], data)
    config = evaluation.EvaluationConfig(FINETUNED_MODEL_PATH=str(small_run["adapter"]), DATASET_DIR=str(data))
    before = evaluation.Inputs(config)
    assert before.series() == evaluation.Inputs(config).series()
    assert (
        before.preparation()
        == f"python dataset_preparation.py DATA_DIR={small_run['files']} EVAL_SPLIT_SIZE=0.4 OUTPUT_DIR={data}"
    )
    again = run_script(*prepare_command({**small_run, "data": data}), "--fresh")
    assert again.returncode == 0, again.stderr
    after = evaluation.Inputs(config)
    assert after.data["splits"] == before.data["splits"] and after.series() != before.series()


def test_an_adapter_of_another_holdout_or_base_is_refused(small_run, tmp_path, tiny_model):
    from safetensors.torch import load_file, save_file

    data = tmp_path / "other"
    made = run_script("dataset_preparation.py", f"DATA_DIR={small_run['files']}", f"OUTPUT_DIR={data}", "RANDOM_SEED=7")
    assert made.returncode == 0
    done = run_script(*evaluate_command({**small_run, "data": data, "scores": tmp_path / "out"}))
    assert done.returncode == 2 and "another holdout and eval set" in done.stderr
    assert "bring its sets back" not in done.stderr  # this series never had them
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_model.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    weights = load_file(base / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, base / "model.safetensors", {"format": "pt"})
    done = run_script(*evaluate_command({**small_run, "scores": tmp_path / "out2"}, f"BASE_MODEL_PATH={base}"))
    assert done.returncode == 2 and "another base" in done.stderr


def test_text_that_a_spreadsheet_would_run_is_made_harmless_in_every_column(tmp_path):
    import pandas as pd

    from meerkat_workbench.tuning.reporting import comparison

    table = pd.DataFrame([{"id": "1", "prediction": "=HYPERLINK(1)", "tuned_answer": "@SUM(1)", "ROUGE-L": -0.5}])
    with files.atomic_open(tmp_path / "a.csv") as file:
        comparison.write_csv(table, file)
    assert read(tmp_path, "a.csv") == [{"id": "1", "prediction": "'=HYPERLINK(1)", "tuned_answer": "'@SUM(1)", "ROUGE-L": "-0.5"}]


@pytest.mark.parametrize(("tuned", "floor", "warned"), [(0.083, 0.076, True), (0.47, 0.12, False), (0.3, float("nan"), False)])
def test_a_score_that_is_mostly_style_is_called_so(tuned, floor, warned):
    import pandas as pd

    from meerkat_workbench.tuning.reporting import summary_text

    row = {"split": "eval", "metric": "ROUGE-L", "tuned": tuned, "floor_tuned": floor}
    assert bool(summary_text.warn_near_floor(row)) == warned
    # and recommendations that rest on it are not to be relied on
    assert ("before you feed by them" in summary_text.caution(pd.DataFrame([row]), "ROUGE-L")) == warned
    assert not summary_text.caution(pd.DataFrame([{**row, "split": "holdout"}]), "ROUGE-L")
