"""Multiple-choice questions: every form is read, scored as lm-evaluation-harness scores it, compared and reported."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import chat_server, evaluate_command, pairs, refusal, run_script, write_specialty

import evaluation
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.jsonl_store import JsonlStore
from meerkat_workbench.device import distributed, hub
from meerkat_workbench.output import tables
from meerkat_workbench.stats import significance
from meerkat_workbench.text import contamination
from meerkat_workbench.tuning import llm
from meerkat_workbench.tuning.artifacts import (
    ALL,
    BASE,
    FEW_SHOT,
    TUNED,
    BenchmarkResult,
    ChoiceScores,
    EvaluationManifest,
    OutputFile,
    Split,
    SystemKind,
    Verdict,
)
from meerkat_workbench.tuning.data import benchmark_overlap, dataset_folders, multiple_choice
from meerkat_workbench.tuning.generation import choice_scoring, likelihood
from meerkat_workbench.tuning.generation.choice_scoring import ChoiceArm, ChoiceScoring
from meerkat_workbench.tuning.generation.likelihood import Scorer
from meerkat_workbench.tuning.generation.systems import System
from meerkat_workbench.tuning.reporting import multiple_choice as results

# made-up items in the forms of the published files
STEMS = (
    ("A man of 61 has crushing pain in the chest for two hours. Which test comes first?", ["ECG", "CT of the head", "Spirometry", "Colonoscopy"], 0),
    ("Which crystals are found in the joint in gout?", ["Calcium oxalate", "Monosodium urate", "Cystine", "Cholesterol"], 1),
    ("A child of 2 years has a barking cough at night.\nWhat is it called?", ["Asthma", "Pertussis", "Croup", "Sinusitis"], 2),
    ("Which vitamin is lacking in scurvy?", ["Vitamin A", "Vitamin B12", "Vitamin D", "Vitamin C – ascorbic acid"], 3),
    ("Which of these is treated with levothyroxine (50 µg a day)?", ["Gout", "Hypothyroidism", "Migraine", "Glaucoma"], 1),
)  # fmt: skip
ABSTRACTS = (
    ("Does exercise lower blood pressure in adults?", ["We enrolled 120 adults.", "Pressure fell by 6 mmHg (p < .01)."], "yes"),
    ("Is vitamin C of use in the common cold?", ["A trial of 300 volunteers.", "Nothing differed."], "no"),
    ("Do statins prevent dementia?", ["Twelve cohorts were pooled.", "Results were mixed; 2 of 12 found less."], "maybe"),
)  # fmt: skip
LETTERS = "ABCD"


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def medqa():
    return [{"question": question, "answer": options[right], "options": dict(zip(LETTERS, options, strict=True)), "meta_info": f"step{1 + n % 2}",
             "answer_idx": LETTERS[right], "metamap_phrases": []} for n, (question, options, right) in enumerate(STEMS)]  # fmt: skip


def medqa_of_the_harness():
    return [{"id": f"dev-{n}", "sent1": question, "sent2": "", **{f"ending{place}": option for place, option in enumerate(options)}, "label": right}
            for n, (question, options, right) in enumerate(STEMS)]  # fmt: skip


def medmcqa(first):
    return [{"id": f"m{n}", "question": question, **dict(zip(("opa", "opb", "opc", "opd"), options, strict=True)), "cop": right + first,
             "choice_type": "single", "exp": None, "subject_name": ("Medicine", "Pediatrics")[n % 2], "topic_name": None}
            for n, (question, options, right) in enumerate(STEMS)]  # fmt: skip


def pubmedqa_rows():
    return [{"pubid": 100 + n, "question": question, "context": {"contexts": contexts, "labels": ["A", "B"], "meshes": []}, "long_answer": "…",
             "final_decision": decision} for n, (question, contexts, decision) in enumerate(ABSTRACTS)]  # fmt: skip


def pubmedqa_object():
    return {str(100 + n): {"QUESTION": question, "CONTEXTS": contexts, "LABELS": ["A", "B"], "MESHES": [], "YEAR": None, "final_decision": decision,
                           "LONG_ANSWER": "…"} for n, (question, contexts, decision) in enumerate(ABSTRACTS)}  # fmt: skip


def mmlu_rows(subject="clinical_knowledge"):
    return [
        {"question": f"{question} ", "subject": subject, "choices": options, "answer": right}
        for question, options, right in STEMS
    ]


def mmlu_table(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([question, *options, LETTERS[right]] for question, options, right in STEMS)
    return path


def items_of(folder):
    return list(multiple_choice.read(str(folder)).items)


def without_names(items):
    return [(item.context, item.choices, item.options, item.answer) for item in items]


# --- readers


def test_both_forms_of_medqa_read_as_the_same_questions(tmp_path):
    lines(tmp_path / "a" / "test.jsonl", medqa())
    lines(tmp_path / "b" / "test.jsonl", medqa_of_the_harness())
    one, other = items_of(tmp_path / "a"), items_of(tmp_path / "b")
    assert without_names(one) == without_names(other)
    assert [item.answer for item in one] == [right for _, _, right in STEMS]
    assert {item.subject for item in one} == {"step1", "step2"} and {item.file for item in one} == {"test.jsonl"}
    assert one[0].context == (
        "Question: A man of 61 has crushing pain in the chest for two hours. Which test comes first?\n"
        "A. ECG\nB. CT of the head\nC. Spirometry\nD. Colonoscopy\nAnswer:"
    )


def test_five_options_as_in_the_original_medqa_have_five_letters(tmp_path):
    row = medqa()[0]
    row["options"]["E"] = "Biopsy"
    lines(tmp_path / "test.jsonl", [row])
    assert items_of(tmp_path)[0].choices == tuple("ABCDE")


def test_medmcqa_counts_from_one_in_the_original_and_from_zero_on_the_hub(tmp_path):
    lines(tmp_path / "a" / "dev.json", medmcqa(1))
    lines(tmp_path / "b" / "validation.jsonl", medmcqa(0))
    one, other = items_of(tmp_path / "a"), items_of(tmp_path / "b")
    assert without_names(one) == without_names(other)
    assert [item.answer for item in one] == [right for _, _, right in STEMS]
    assert [item.subject for item in one][:2] == ["Medicine", "Pediatrics"] and one[0].name == "m0"
    assert one[1].context.startswith("Question: Which crystals are found in the joint in gout?\nChoices:\nA. Calcium oxalate\n")


@pytest.mark.parametrize("cops", [[1, 2, 3], [0, 4], [-1, -1], [None, None], ["x", 0]])
def test_medmcqa_whose_numbers_do_not_tell_or_are_not_published_is_refused(tmp_path, cops):
    rows = [{**row, "cop": cop} for row, cop in zip(medmcqa(0), cops, strict=False)]
    lines(tmp_path / "dev.jsonl", rows)
    with pytest.raises(UserError) as caught:
        multiple_choice.read(str(tmp_path))
    assert caught.value.where == f"BENCHMARKS={tmp_path}" and caught.value.item.startswith("dev.jsonl")


def test_questions_without_a_published_answer_are_counted_and_not_asked(tmp_path):
    lines(tmp_path / "mixed.jsonl", [*medmcqa(0), {**medmcqa(0)[0], "cop": -1}])
    read = multiple_choice.read(str(tmp_path))
    assert len(read.items) == len(STEMS) and read.unanswered == {"mixed.jsonl": 1}


def test_both_forms_of_pubmedqa_read_as_the_same_questions(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "ori_pqal.json").write_text(json.dumps(pubmedqa_object()))
    lines(tmp_path / "b" / "pqa_labeled.jsonl", pubmedqa_rows())
    one, other = items_of(tmp_path / "a"), items_of(tmp_path / "b")
    assert without_names(one) == without_names(other) and [item.name for item in one] == [item.name for item in other]
    assert [item.options[item.answer] for item in one] == ["yes", "no", "maybe"]
    assert one[0].context == (
        "Abstract: We enrolled 120 adults.\nPressure fell by 6 mmHg (p < .01).\nQuestion: Does exercise lower blood pressure in adults?\nAnswer:"
    )


def test_both_forms_of_mmlu_read_as_the_same_questions(tmp_path):
    mmlu_table(tmp_path / "a" / "clinical_knowledge_test.csv")
    lines(tmp_path / "b" / "test.jsonl", mmlu_rows())
    one, other = items_of(tmp_path / "a"), items_of(tmp_path / "b")
    assert without_names(one) == without_names(other) and {item.subject for item in one + other} == {"clinical_knowledge"}
    assert one[0].context.startswith(
        "The following are multiple choice questions (with answers) about clinical knowledge.\n\nA man of 61"
    )


def test_parquet_files_read_like_the_lines_they_were_made_from(tmp_path):
    lines(tmp_path / "a" / "test.jsonl", mmlu_rows())
    (tmp_path / "b").mkdir()
    pq.write_table(pa.Table.from_pylist(mmlu_rows()), tmp_path / "b" / "test.parquet")
    assert without_names(items_of(tmp_path / "a")) == without_names(items_of(tmp_path / "b"))


PLAIN = [
    {"question": "Which joint?", "options": ["hip", "knee"], "answer": "B", "subject": "surgery"},
    {"question": "Which joint?", "options": {"A": "hip", "B": "knee"}, "answer": "knee", "subject": "surgery"},
    {"question": "Which joint?", "options": ["hip", "knee"], "answer": 1, "subject": "surgery"},
]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "columns.csv"])
def test_the_plain_form_takes_letter_text_or_number_in_every_kind_of_file(tmp_path, name):
    path = tmp_path / name
    if name.endswith(".csv"):
        with open(path, "w", newline="", encoding="utf-8") as file:
            columns = ["a", "b"] if name == "columns.csv" else ["options"]
            writer = csv.writer(file)
            writer.writerow(["question", *columns, "answer", "subject"])
            for row in PLAIN:
                options = list(row["options"].values()) if isinstance(row["options"], dict) else row["options"]
                writer.writerow(
                    [
                        row["question"],
                        *(options if columns == ["a", "b"] else [json.dumps(options)]),
                        row["answer"],
                        row["subject"],
                    ]
                )
    elif name.endswith(".jsonl"):
        lines(path, PLAIN)
    else:
        path.write_text(json.dumps(PLAIN))
    read = items_of(tmp_path)
    assert len(read) == 3 and len(set(without_names(read))) == 1
    assert (read[0].answer, read[0].subject, read[0].context) == (
        1,
        "surgery",
        "Question: Which joint?\nA. hip\nB. knee\nAnswer:",
    )


@pytest.mark.parametrize(
    ("name", "content", "item"),
    [
        ("a.jsonl", [{**PLAIN[0], "answer": "C"}], "item 1"),
        ("a.jsonl", [PLAIN[0], {**PLAIN[0], "answer": 2}], "item 2"),
        ("a.jsonl", [PLAIN[0], {**PLAIN[0], "options": ["B", "A"]}], "item 2"),  # a letter or an option's text?
        ("a.jsonl", [{**PLAIN[0], "options": ["one"]}], "item 1"),
        ("a.jsonl", [{**PLAIN[0], "options": ["one", " "]}], "item 1"),
        ("a.jsonl", [{**PLAIN[0], "question": ""}], "item 1"),
        ("a.jsonl", [{"id": "q7", **PLAIN[0], "options": "x"}], "q7"),
        ("a.jsonl", [{**medqa()[0], "answer_idx": "E"}], "item 1"),
        ("a.jsonl", [{**medqa()[0], "answer": "Spirometry"}], "item 1"),
        ("a.jsonl", [{**pubmedqa_rows()[0], "final_decision": "perhaps"}], "100"),
        ("a.jsonl", [{**mmlu_rows()[0], "answer": 4}], "item 1"),
        ("a.jsonl", ["text"], "item 1"),
        ("a.jsonl", [{"question": "x", "answer": "y"}], ""),
        ("a.json", "{broken", ""),
        ("a.csv", "question,answer\nx,y\n", ""),
        ("a.csv", "Which?,a,b,c,d,A\nWhich one?,a,b,c,d,E\n", "item 2"),
        ("a.csv", "Which?,a,b,c,d,A\nWhich one?,a,b,c,d\n", "item 2"),
        ("a.txt", "x\n", ""),
        ("a.parquet", "PAR1", ""),
    ],
)  # fmt: skip
def test_a_faulty_item_is_refused_with_file_and_item(tmp_path, name, content, item):
    path = tmp_path / name
    lines(path, content) if isinstance(content, list) else path.write_text(content)
    with pytest.raises(UserError) as caught:
        multiple_choice.read(str(tmp_path))
    assert caught.value.where == f"BENCHMARKS={tmp_path}"
    assert caught.value.item == ": ".join(filter(None, [name, item])) and caught.value.remedy


def test_every_faulty_item_of_every_file_is_named_at_once(tmp_path):
    lines(tmp_path / "a.jsonl", [{**PLAIN[0], "answer": "C"}, PLAIN[0]])
    lines(tmp_path / "b.jsonl", [{**PLAIN[0], "options": []}])
    with pytest.raises(UserError) as caught:
        multiple_choice.read(str(tmp_path))
    assert all(name in caught.value.remedy for name in ("a.jsonl: item 1", "b.jsonl: item 1"))


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_a_folder_without_questions_is_refused_by_its_setting(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        multiple_choice.read(str(tmp_path / folder))
    assert (caught.value.where, caught.value.item) == ("BENCHMARKS", str(tmp_path / folder))


def test_the_guard_reads_the_questions_of_every_form(tmp_path):
    mmlu_table(tmp_path / "anatomy_test.csv")
    lines(tmp_path / "hf.jsonl", medqa_of_the_harness())
    lines(tmp_path / "medmcqa.jsonl", medmcqa(1))
    (tmp_path / "pubmedqa.json").write_text(json.dumps(pubmedqa_object()))
    (tmp_path / "plain.json").write_text(json.dumps(PLAIN))
    paths = contamination.find_files([str(tmp_path)])
    found = contamination.read_questions(paths, multiple_choice.questions_in)
    texts = {
        name: [one.text for one in found if one.name.endswith(name)] for name in ("anatomy_test.csv", "hf.jsonl", "medmcqa.jsonl")
    }
    assert all(asked == [question for question, _, _ in STEMS] for asked in texts.values())
    assert [one.text for one in found if one.name.endswith("pubmedqa.json")] == [question for question, _, _ in ABSTRACTS]
    assert sum(one.name.endswith("plain.json") for one in found) == len(PLAIN)


# --- scores


@pytest.fixture(scope="module")
def decoder(tiny_model):
    hub.silence_libraries()
    return llm.load_base(str(tiny_model), load_in_4bit=False, precision="fp32").eval(), llm.load_tokenizer(str(tiny_model))


@pytest.fixture(scope="module")
def encoder_decoder(tmp_path_factory):
    import random_weights

    folder = tmp_path_factory.mktemp("t5")
    random_weights.tiny_t5(
        folder, [f"Question: {question} {' '.join(options)} Answer: A B C D" for question, options, _ in STEMS]
    )
    return llm.load_base(str(folder), load_in_4bit=False, precision="fp32").eval(), llm.load_tokenizer(str(folder))


def benchmark_of(tmp_path):
    """A folder with a file of each published form, as the readers and the harness both take it."""
    folder = tmp_path / "sets"
    lines(folder / "medqa.jsonl", medqa_of_the_harness())
    lines(folder / "medmcqa.jsonl", medmcqa(0))
    lines(folder / "pubmedqa.jsonl", [{**row, "id": key} for key, row in pubmedqa_object().items()])
    lines(folder / "mmlu.jsonl", mmlu_rows("anatomy"))
    return folder


def scored(model, tokenizer, items, folder, prefix=""):
    store = JsonlStore(folder, Path(ChoiceScores.FILE).stem, ChoiceScores)
    arm = ChoiceArm("base", "base", "identity", None, prefix)
    choice_scoring.score_items(model, arm, tokenizer, {arm.key(item): item for item in items}, store)
    return [store.records[arm.key(item)] for item in items]


def own_sum(model, tokenizer, context, continuation):
    """The summed log-probability of a continuation, one text at a time, by transformers' own loss."""
    ids = tokenizer(continuation, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            return -len(ids) * float(
                model(input_ids=torch.tensor([tokenizer(context)["input_ids"]]), labels=torch.tensor([ids])).loss
            )
        prompt = tokenizer(context)["input_ids"]
        labels = torch.tensor([[-100] * len(prompt) + ids])
        return -len(ids) * float(model(input_ids=torch.tensor([prompt + ids]), labels=labels).loss)


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_sums_in_padded_batches_are_those_of_transformers_one_by_one(kind, request, tmp_path):
    model, tokenizer = request.getfixturevalue(kind)
    items = items_of(benchmark_of(tmp_path))
    for item, scores in zip(items, scored(model, tokenizer, items, tmp_path), strict=True):
        alone = [own_sum(model, tokenizer, item.context, f" {choice}") for choice in item.choices]
        assert scores.log_likelihoods == pytest.approx(alone, abs=1e-3) and scores.cut == 0


def test_options_of_several_tokens_that_share_a_beginning_get_their_own_sums(decoder, tmp_path):
    model, tokenizer = decoder
    [item] = [item for item in items_of(benchmark_of(tmp_path)) if item.file == "medqa.jsonl"][:1]
    texts = ("inflammation of the heart", "inflammation of the joints", "inflammation", "heart failure")
    item = multiple_choice.ChoiceItem(item.file, item.name, "", item.question, item.context, texts, texts, 0)
    [scores] = scored(model, tokenizer, [item], tmp_path)
    assert scores.log_likelihoods == pytest.approx(
        [own_sum(model, tokenizer, item.context, f" {text}") for text in texts], abs=1e-3
    )


def test_an_arm_with_a_prefix_is_its_system_with_that_text_before_each_question(decoder, tmp_path):
    model, tokenizer = decoder
    benchmark = multiple_choice.read(str(benchmark_of(tmp_path)))
    arms, missing = choice_scoring.arms_of([System(BASE, SystemKind.BASE, "x", "identity")])
    shot = f"{benchmark.items[0].context} {benchmark.items[0].choices[0]}\n\n"
    arms.append(ChoiceArm("prompted", BASE, "identity", None, shot))
    scoring = ChoiceScoring(tmp_path / "out", benchmark, arms, missing, distributed.join())
    scoring.score(model, [BASE], {BASE: tokenizer})
    base, prompted = (scoring.scores(arm) for arm in arms)
    last = benchmark.items[-1]
    assert prompted[-1].log_likelihoods == pytest.approx(
        [own_sum(model, tokenizer, shot + last.context, f" {choice}") for choice in last.choices], abs=1e-3
    )
    assert base[-1].log_likelihoods != prompted[-1].log_likelihoods


def test_a_context_that_is_too_long_loses_its_beginning_and_is_counted(decoder, tmp_path):
    model, tokenizer = decoder
    [item] = [item for item in items_of(benchmark_of(tmp_path)) if item.file == "medqa.jsonl"][:1]
    [plain] = scored(model, tokenizer, [item], tmp_path / "a")
    [long] = scored(model, tokenizer, [item], tmp_path / "b", prefix="asthma " * 1200)
    assert plain.cut == 0 and long.cut > 0 and len(long.log_likelihoods) == 4


def test_running_out_of_memory_halves_the_rows_and_changes_no_sum(decoder, tmp_path, monkeypatch):
    model, tokenizer = decoder
    items = items_of(benchmark_of(tmp_path))
    whole, sizes, real = scored(model, tokenizer, items, tmp_path / "a"), [], Scorer.logits

    def too_small(scorer, rows):
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(scorer, rows)

    monkeypatch.setattr(Scorer, "logits", too_small)
    halved = scored(model, tokenizer, items, tmp_path / "b")
    assert max(sizes) > 2
    for one, other in zip(whole, halved, strict=True):
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-4)


def test_what_was_stored_before_a_kill_is_not_scored_again(decoder, tmp_path, monkeypatch):
    model, tokenizer = decoder
    benchmark = multiple_choice.read(str(benchmark_of(tmp_path)))
    system = System(BASE, SystemKind.BASE, "x", "identity")
    arms, missing = choice_scoring.arms_of([system])
    monkeypatch.setattr(likelihood, "batch_tokens", lambda _: 100)
    scoring, rows, real = ChoiceScoring(tmp_path / "out", benchmark, arms, missing, distributed.join()), [], Scorer.logits

    def killed(scorer, batch):
        rows.extend(batch)
        if len(rows) > 4:
            raise KeyboardInterrupt
        return real(scorer, batch)

    monkeypatch.setattr(Scorer, "logits", killed)
    with pytest.raises(KeyboardInterrupt):
        scoring.score(model, [BASE], {BASE: tokenizer})
    monkeypatch.setattr(Scorer, "logits", real)
    with pytest.raises(UserError):  # without a model there is nothing to compare
        choice_scoring.check_all_stored(tmp_path / "out", benchmark, arms)
    resumed = ChoiceScoring(tmp_path / "out", benchmark, arms, missing, distributed.join())
    before = len(resumed.store.records)
    assert 0 < before < len(benchmark.items) and resumed.lacks_any(BASE)
    resumed.score(model, [BASE], {BASE: tokenizer})
    assert not resumed.lacks_any(BASE) and all(resumed.scores(arms[0]))
    choice_scoring.check_all_stored(tmp_path / "out", benchmark, arms)
    lines_written = (tmp_path / "out" / ChoiceScores.FILE).read_text().splitlines()
    assert len(lines_written) == len({json.loads(line)["key"] for line in lines_written})


def test_text_weights_and_prefix_each_make_another_key(tmp_path):
    item, other = items_of(benchmark_of(tmp_path))[:2]
    arm = ChoiceArm("base", "base", "identity", None)
    keys = {
        arm.key(item),
        arm.key(other),
        ChoiceArm("base", "base", "identity", None, "x").key(item),
        ChoiceArm("t", "t", "i", None).key(item),
    }
    assert len(keys) == 4 and ChoiceArm("renamed", "base", "identity", "a").key(item) == arm.key(item)


# --- against lm-evaluation-harness


TASKS = {"medqa": "medqa/medqa.yaml", "medmcqa": "medmcqa/medmcqa.yaml", "pubmedqa": "pubmedqa/pubmedqa.yaml",
         "mmlu": "mmlu/default/mmlu_anatomy.yaml"}  # fmt: skip


def by_the_harness(model, tokenizer, folder, tmp_path):
    """Of each file the harness's samples and results, on its own task definitions with local files in place of the Hub's."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed (requirements-dev.txt)")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    definitions = tmp_path / "tasks"
    definitions.mkdir()
    rows_of_bigbio = {"pubmedqa": [{"QUESTION": row["QUESTION"], "CONTEXTS": row["CONTEXTS"], "final_decision": row["final_decision"]}
                                   for row in pubmedqa_object().values()]}  # fmt: skip
    for name, task in TASKS.items():
        source = Path(lm_eval.__file__).parent / "tasks" / task
        data = (
            lines(tmp_path / "harness" / f"{name}.jsonl", rows_of_bigbio[name])
            if name in rows_of_bigbio
            else folder / f"{name}.jsonl"
        )
        files = "".join(f"    {split}: {data}\n" for split in ("train", "validation", "test", "dev"))
        metrics = "".join(f"  - metric: {metric}\n" for metric in ("acc", "acc_norm"))
        (definitions / f"{name}.yaml").write_text(
            f"include: {source}\ntask: ours_{name}\ndataset_path: json\ndataset_name: null\ndataset_kwargs:\n  data_files:\n{files}metric_list:\n{metrics}"
        )
    evaluated = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, backend="seq2seq" if model.config.is_encoder_decoder else "causal", batch_size=3),
        tasks=[f"ours_{name}" for name in TASKS], num_fewshot=0, log_samples=True, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(definitions)),
    )  # fmt: skip
    return {name: (evaluated["samples"][f"ours_{name}"], evaluated["results"][f"ours_{name}"]) for name in TASKS}


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder", "smollm2"])
def test_prompts_log_likelihoods_and_accuracies_are_those_of_lm_evaluation_harness(kind, request, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (requirements-dev.txt)")
    if kind == "smollm2":
        folder = str(request.getfixturevalue("smollm2_model"))
        model, tokenizer = llm.load_base(folder, load_in_4bit=False, precision="fp32").eval(), llm.load_tokenizer(folder)
    else:
        model, tokenizer = request.getfixturevalue(kind)
    folder = benchmark_of(tmp_path)
    items = items_of(folder)
    ours = dict(
        zip(
            [(item.file, item.context) for item in items],
            zip(items, scored(model, tokenizer, items, tmp_path), strict=True),
            strict=True,
        )
    )
    for name, (samples, figures) in by_the_harness(model, tokenizer, folder, tmp_path).items():
        right, right_by_length = [], []
        assert len(samples) == sum(item.file == f"{name}.jsonl" for item in items)
        for sample in samples:
            item, scores = ours[f"{name}.jsonl", sample["arguments"][0][0]]  # the same prompt, letter for letter
            assert sample["arguments"] == [(item.context, f" {choice}") for choice in item.choices]
            theirs = [float(response[0][0]) for response in sample["resps"]]
            assert scores.log_likelihoods == pytest.approx(theirs, abs=1e-3)
            picked, by_length = results.picks(scores.log_likelihoods, item.choices)
            right.append(picked == item.answer)
            right_by_length.append(by_length == item.answer)
            assert (sample["acc"], sample["acc_norm"]) == (right[-1], right_by_length[-1])
        assert figures["acc,none"] == pytest.approx(np.mean(right)) and figures["acc_norm,none"] == pytest.approx(
            np.mean(right_by_length)
        )


# --- results


def item(subject, answer, options=2, file="a.jsonl", name="1"):
    letters = tuple("ABCD"[:options])
    return multiple_choice.ChoiceItem(file, name, subject, f"Question {name}?", "…", letters, letters, answer)


def right(values):
    return dict.fromkeys(results.METRICS, np.asarray(values, float))


def test_the_likeliest_option_is_picked_and_by_length_a_longer_one_may_be():
    assert results.picks([-3.0, -2.0, -2.5], ["yes", "no", "maybe"]) == (1, 2)
    assert results.picks([-6.0, -6.6], ["µµ", "abc"]) == (0, 1)  # by characters, as in the harness; by bytes the first


def test_accuracy_interval_and_exact_test_are_those_of_the_reference_packages():
    from scipy import stats
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.proportion import proportion_confint

    draw = np.random.default_rng(1)
    base, tuned = (draw.random(60) < 0.4).astype(float), (draw.random(60) < 0.7).astype(float)
    items = [item(f"s{n % 3}", 0, name=str(n)) for n in range(60)]
    rows = results.compare(items, {BASE: right(base), TUNED: right(tuned)}, {})
    [whole] = tables.where(rows, subject=ALL, metric="acc")
    assert (whole.n, whole.base, whole.score, whole.guessing) == (60, base.mean(), tuned.mean(), 0.5)
    assert (whole.low, whole.high) == pytest.approx(proportion_confint(int(tuned.sum()), 60, method="wilson"))
    table = [[int(((base == a) & (tuned == b)).sum()) for b in (1, 0)] for a in (1, 0)]
    assert whole.p == pytest.approx(mcnemar(table, exact=True).pvalue) and whole.only_base == table[0][1]
    subjects = [row for row in rows if row.subject != ALL and row.metric == "acc"]
    adjusted = stats.false_discovery_control([row.p for row in subjects], method="bh")
    assert [row.p_adjusted for row in subjects] == pytest.approx(list(adjusted)) and len(subjects) == 3
    assert sum(row.n for row in subjects) == 60


def test_the_interval_of_paired_proportions_holds_the_true_difference_about_as_often_as_it_says():
    draw, covered, runs = np.random.default_rng(0), 0, 2000
    for _ in range(runs):
        _, only_one, only_other, _ = draw.multinomial(40, [0.3, 0.1, 0.25, 0.35])
        estimate = significance.paired_proportions(int(only_one), int(only_other), 40)
        covered += estimate.low <= 0.15 <= estimate.high
    assert 0.93 < covered / runs < 0.98
    same = significance.paired_proportions(0, 0, 40)
    assert same.mean == 0 and same.low < 0 < same.high and same.p == 1.0
    assert math.isnan(significance.paired_proportions(0, 0, 0).mean)


def test_a_difference_beyond_chance_gets_a_verdict_and_one_within_it_does_not():
    items = [item("x", 0, file=file, name=str(n)) for file in ("a.jsonl", "b.jsonl") for n in range(20)]
    base, tuned = np.zeros(40), np.r_[np.ones(20), np.zeros(19), 1]
    rows = tables.where(results.compare(items, {BASE: right(base), TUNED: right(tuned)}, {}), metric="acc")
    assert [(row.file, row.subject, row.verdict) for row in rows] == [
        ("a.jsonl", ALL, Verdict.BETTER),
        ("b.jsonl", ALL, Verdict.NOISE),
    ]
    assert rows[0].p_adjusted == pytest.approx(2 * rows[0].p)


def test_what_cannot_be_scored_is_missing_with_its_reason_and_never_zero():
    items = [item("x", 0, name=str(n)) for n in range(4)]
    [row] = tables.where(results.compare(items, {TUNED: right([1, 0, math.nan, 1])}, {BASE: choice_scoring.SERVER}), metric="acc")
    assert (row.n, row.score, row.missing) == (3, 2 / 3, "") and math.isnan(row.base) and math.isnan(row.p)
    [row] = tables.where(results.compare(items, {BASE: right([1, 1, 0, 0])}, {TUNED: choice_scoring.SERVER}), metric="acc")
    assert row.missing == choice_scoring.SERVER and math.isnan(row.score) and row.n == 0
    [row] = tables.where(results.compare(items, {BASE: right([1, 1, 0, 0]), TUNED: right([math.nan] * 4)}, {}), metric="acc")
    assert row.missing and math.isnan(row.score)


def test_servers_and_system_messages_have_a_reason_instead_of_scores():
    systems = [System(BASE, SystemKind.BASE, "x", "i"), System(TUNED, SystemKind.ADAPTER, "y", "i a"),
               System("terse", SystemKind.BASE, "x", "i", system_message="m"), System("far", SystemKind.ENDPOINT, "http://h", "e")]  # fmt: skip
    arms, missing = choice_scoring.arms_of(systems)
    assert [(arm.name, arm.adapter) for arm in arms] == [(BASE, None), (TUNED, "arm_tuned")]
    assert missing == {"terse": choice_scoring.SAME_AS_BASE, "far": choice_scoring.SERVER}


# --- the evaluation as a user runs it

FEW = ("MAX_SAMPLES_PER_SPECIALTY=2", "MAX_NEW_TOKENS=8", "RETENTION=False")


def results_of(folder):
    return tables.read_rows(folder / BenchmarkResult.FILE, BenchmarkResult)


@pytest.fixture(scope="module")
def with_benchmark(small_run, tmp_path_factory):
    """An evaluation with questions of three forms, one of which is in the train set."""
    base = tmp_path_factory.mktemp("choices")
    sets = benchmark_of(base)
    (sets / "mmlu.jsonl").unlink()
    trained = dataset_folders.read_records(small_run["data"], Split.TRAIN)[0]
    lines(sets / "own.jsonl", [{"question": trained.question, "options": ["yes", "no"], "answer": "A"}, *PLAIN])
    folders = {**small_run, "scores": base / "scores", "sets": sets, "trained": trained.question}
    done = run_script(*evaluate_command(folders, *FEW, f"BENCHMARKS={sets}"))
    assert done.returncode == 0, done.stdout + done.stderr
    return {**folders, "printed": done.stdout}


def test_an_evaluation_scores_base_and_tuned_model_and_reports_them(with_benchmark):
    scores = with_benchmark["scores"]
    rows = results_of(scores)
    assert {(row.file, row.model) for row in rows} == {
        (f"{name}.jsonl", model) for name in ("medqa", "medmcqa", "pubmedqa", "own") for model in (TUNED, FEW_SHOT)
    }
    assert {row.subject for row in rows if row.file == "medmcqa.jsonl"} == {ALL, "Medicine", "Pediatrics"}
    assert not any(row.missing for row in rows) and all(0 <= row.score <= 1 and 0 <= row.base <= 1 for row in rows)
    [whole] = tables.where(rows, file="pubmedqa.jsonl", subject=ALL, metric="acc", model=TUNED)
    assert whole.n == 3 and whole.guessing == pytest.approx(1 / 3, abs=1e-5)
    report = (scores / OutputFile.REPORT).read_text()
    assert 'id="choices"' in report and "medmcqa.jsonl" in report and "Pediatrics" in report
    assert "medmcqa.jsonl" in with_benchmark["printed"]


def test_both_models_have_scores_of_their_own_for_every_item(with_benchmark):
    frame = tables.read_frame(with_benchmark["scores"] / OutputFile.BENCHMARK_ITEMS, {"file", "question"})
    assert len(frame) == 5 + 5 + 3 + 4
    assert (frame["base_log_likelihoods"] != frame["tuned_log_likelihoods"]).mean() > 0.9  # the adapter was on
    for file, group in frame.groupby("file"):
        [row] = tables.where(results_of(with_benchmark["scores"]), file=file, subject=ALL, metric="acc", model=TUNED)
        assert (row.base, row.score) == pytest.approx((group["base_right"].mean(), group["tuned_right"].mean()), abs=1e-5)


def test_a_question_that_is_in_the_train_set_is_marked_and_said(with_benchmark):
    frame = tables.read_frame(with_benchmark["scores"] / OutputFile.BENCHMARK_ITEMS, {"file", "question"})
    assert list(frame[frame["in_training"]]["question"]) == [with_benchmark["trained"]]
    overlap = benchmark_overlap.find(multiple_choice.read(str(with_benchmark["sets"])), with_benchmark["data"], ())
    assert (
        overlap.records >= 1
        and overlap.items == 1
        and set(overlap.unguarded) == {path.name for path in with_benchmark["sets"].iterdir()}
    )
    assert all(sentence in with_benchmark["printed"] for sentence in overlap.sentences(with_benchmark["sets"]))


def test_a_preparation_that_was_told_of_the_files_leaves_their_questions_out(tmp_path):
    asked = pairs("cardiology", 40)
    write_specialty(tmp_path / "files", "cardiology", asked)
    with open(
        sets := tmp_path / "cardiology_test.csv", "w", newline="", encoding="utf-8"
    ) as file:  # in MMLU's form, without a header
        csv.writer(file).writerows([question, "a1", "a2", "a3", "a4", "B"] for question in asked)
    benchmark = multiple_choice.read(str(sets))
    for name, more in (("open", []), ("guarded", [f"CONTAMINATION_SETS={sets}"])):
        done = run_script("dataset_preparation.py", f"DATA_DIR={tmp_path / 'files'}", f"OUTPUT_DIR={tmp_path / name}", *more)
        assert done.returncode == 0, done.stderr
    unguarded, guarded = (benchmark_overlap.find(benchmark, tmp_path / name, ()) for name in ("open", "guarded"))
    assert unguarded.items == unguarded.records > 10 and unguarded.unguarded == ("cardiology_test.csv",)
    assert guarded.items == guarded.records == 0 and guarded.unguarded == () and not guarded.sentences(tmp_path)


def test_run_again_it_is_up_to_date_until_a_file_changes_and_scoring_again_needs_no_model(with_benchmark, tmp_path, monkeypatch):
    command = evaluate_command(with_benchmark, *FEW, f"BENCHMARKS={with_benchmark['sets']}")
    before = results_of(with_benchmark["scores"])
    stored = (with_benchmark["scores"] / ChoiceScores.FILE).read_text()
    done = run_script(*command, "--rescore")
    assert done.returncode == 0, done.stderr
    assert str(results_of(with_benchmark["scores"])) == str(before)
    assert (with_benchmark["scores"] / ChoiceScores.FILE).read_text() == stored
    lines(with_benchmark["sets"] / "own.jsonl", PLAIN)
    caught = refusal(evaluation, evaluate_command(with_benchmark, *FEW, f"BENCHMARKS={tmp_path / 'absent'}"), monkeypatch)
    assert (caught.where, caught.item) == ("BENCHMARKS", str(tmp_path / "absent"))
    done = run_script(*command)
    assert done.returncode == 0, done.stderr
    assert tables.where(results_of(with_benchmark["scores"]), file="own.jsonl", subject=ALL, metric="acc")[0].n == 3
    keys = [json.loads(line)["key"] for line in (with_benchmark["scores"] / ChoiceScores.FILE).read_text().splitlines()]
    assert set(keys) < {json.loads(line)["key"] for line in stored.splitlines()}  # taken over, and nothing asked again
    assert EvaluationManifest.require(with_benchmark["scores"]).settings["BENCHMARKS"] == str(with_benchmark["sets"])


@pytest.mark.slow
def test_two_processes_share_the_questions_and_find_the_same(with_benchmark, tmp_path):
    folders = {**with_benchmark, "scores": tmp_path / "scores"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = run_script(*launch, *evaluate_command(folders, *FEW, f"BENCHMARKS={with_benchmark['sets']}"), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert not list(folders["scores"].glob(f"{Path(ChoiceScores.FILE).stem}.part*"))
    one, two = results_of(with_benchmark["scores"]), results_of(folders["scores"])
    assert [(row.file, row.n, row.base, row.score) for row in one] == [(row.file, row.n, row.base, row.score) for row in two]


def test_an_evaluation_that_finished_before_the_setting_came_is_still_up_to_date():
    from meerkat_workbench.core import settings

    assert "BENCHMARKS" not in settings.with_effect(evaluation.EvaluationConfig(), settings.RESULT)
    assert "BENCHMARKS" in settings.with_effect(evaluation.EvaluationConfig(BENCHMARKS="x"), settings.RESULT)
    assert multiple_choice.content_hashes("") == [] and multiple_choice.read("") is None


def test_behind_a_server_the_accuracy_is_missing_with_its_reason_and_the_rest_is_scored(with_benchmark, tmp_path):
    folders = {**with_benchmark, "scores": tmp_path / "scores"}
    with chat_server(lambda _: "An answer.") as address:
        more = (f"ENDPOINT={address}", "ENDPOINT_MODELS=m,m", f"BENCHMARKS={with_benchmark['sets']}")
        done = run_script(*evaluate_command(folders, *FEW, *more))
    assert done.returncode == 0, done.stderr
    rows = results_of(folders["scores"])
    assert rows and {(row.model, row.missing) for row in rows} == {(name, choice_scoring.SERVER) for name in (TUNED, FEW_SHOT)}
    assert all(math.isnan(row.score) and math.isnan(row.base) for row in rows) and choice_scoring.SERVER in done.stdout
    assert not (folders["scores"] / ChoiceScores.FILE).exists()
