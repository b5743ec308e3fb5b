"""Encoder-decoder models through the same three scripts, from one CSV file, on a tiny T5 made here."""

import csv
import json
import re

import pytest
import torch
from conftest import ROOT, refusal, run_script

import fine_tuning
from meerkat_workbench.core import artifacts
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.trainers.batch_sampler import EXAMPLES
from meerkat_workbench.trainers.best_checkpoint import BestCheckpoint
from meerkat_workbench.tuning import llm
from meerkat_workbench.tuning.artifacts import BASE, TUNED, EvalPoint, EvaluationManifest
from meerkat_workbench.tuning.generation import generation_run
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable
from meerkat_workbench.tuning.training.eval_loss import LossEvaluator
from meerkat_workbench.tuning.training.examples import Example


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory):
    """A T5 of random weights with a BPE tokenizer that knows the words of one sample specialty."""
    import random_weights

    folder = tmp_path_factory.mktemp("t5")
    pairs = json.loads((ROOT / "examples/specialties/dataset_with_answers_cardiology.json").read_text())
    random_weights.tiny_t5(folder, [*pairs, *pairs.values()])
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    base = tmp_path_factory.mktemp("csv")
    pairs = json.loads((ROOT / "examples/specialties/dataset_with_answers_cardiology.json").read_text())
    (base / "files").mkdir()
    with open(base / "files" / "heart.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([("question", "answer"), *pairs.items()])
    done = run_script("dataset_preparation.py", f"DATA_DIR={base / 'files'}", f"OUTPUT_DIR={base / 'data'}",
                      "CHAT_TEMPLATE=plain", "INITIAL_TRAIN_PERCENTAGE=0.8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return base / "data"


def test_rows_of_an_encoder_decoder_and_its_base_never_share_a_batch(tiny_t5):
    from peft import LoraConfig, get_peft_model

    base = llm.load_base(str(tiny_t5), load_in_4bit=False, precision="fp32")
    model = get_peft_model(base, LoraConfig(target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM"), adapter_name=TUNED)
    assert not generation_run.use_mixed_batches("auto", model, 2)
    with pytest.raises(UserError) as caught:
        generation_run.use_mixed_batches("mixed", model, 2)
    assert caught.value.where == "BATCHING=mixed"


def train(prepared, tiny_t5, output, *more):
    return run_script("fine_tuning.py", "MODEL_TYPE=encoder-decoder", f"MODEL_NAME={tiny_t5}", f"DATASET_DIR={prepared}",
                      f"OUTPUT_DIR={output}", "LOAD_IN_4BIT=False", "LORA_TARGET_MODULES=q,v", "LEARNING_RATE=5e-3",
                      "NUM_EPOCHS=10", "SAMPLE_QUESTIONS=4", *more)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_an_encoder_decoder_is_trained_and_evaluated_by_the_same_scripts(prepared, tiny_t5, tmp_path, whole):
    done = train(prepared, tiny_t5, tmp_path / "out", f"FULL_FINE_TUNING={whole}")
    assert done.returncode == 0, done.stderr
    history = artifacts.read_lines(EvalPoint, tmp_path / "out" / EvalPoint.FILE)
    assert [round(point.epoch) for point in history] == list(range(11))
    assert history[-1].loss < history[0].loss - 0.2 and set(history[0].specialties) == {"heart"}
    assert (tmp_path / "out" / ("model.safetensors" if whole else "adapter_model.safetensors")).is_file()

    scored = run_script("evaluation.py", f"FINETUNED_MODEL_PATH={tmp_path / 'out'}", f"DATASET_DIR={prepared}",
                        f"OUTPUT_DIR={tmp_path / 'scores'}", "LOAD_IN_4BIT=False", "MAX_NEW_TOKENS=12", "TEMPERATURE=0",
                        "BERTSCORE_MODEL=packaged")  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    answers = [AnswerTable.read(tmp_path / "scores", system) for system in (BASE, TUNED)]
    assert len(answers[0]) == len(answers[1]) > 10
    if whole:  # a random T5 trained whole for half a minute has learnt word counts, and may say as little as before
        assert history[-1].loss < history[0].loss - 1
    else:  # one of random weights may say nothing before and after, so its logits are asked
        assert EvaluationManifest.require(tmp_path / "scores").run.largest_logit_change[TUNED] > 0

    table = run_script("fine_tuning.py", "--compare", str(tmp_path / "out"))
    assert table.returncode == 0 and len(re.findall(r"^  \S*out ", table.stdout, re.M)) == 11


def trainer_of(model, folder, examples, budget):
    from transformers import Seq2SeqTrainingArguments

    from meerkat_workbench.tuning.training.seq2seq_trainer import Seq2SeqAnswerTrainer, Seq2SeqLoss

    arguments = Seq2SeqTrainingArguments(str(folder), use_cpu=True, report_to=[], bf16=False)
    trainer = Seq2SeqAnswerTrainer(model=model, args=arguments)
    best = BestCheckpoint(LossEvaluator(examples, "loss", None), folder, folder / EvalPoint.FILE)
    trainer.configure(examples=examples, step_loss=Seq2SeqLoss(torch.device("cpu"), 0), best=best, tokens_per_batch=budget)
    return trainer


def test_its_loss_is_transformers_own_whatever_the_micro_batches(tiny_t5, tmp_path):
    from transformers import T5ForConditionalGeneration

    examples = [Example(str(n), "x", [5] * (3 + n) + [1], [7 + n] * (2 + n) + [1]) for n in range(5)]
    gradients = []
    for budget in (10**6, 24):
        model = T5ForConditionalGeneration.from_pretrained(tiny_t5, dropout_rate=0.0)
        trainer = trainer_of(model, tmp_path, examples, budget)
        loss = trainer.training_step(model, {EXAMPLES: examples})
        gradients.append(model.shared.weight.grad.clone())
        whole = model(**trainer.step_loss.collate(examples)).loss
        assert float(loss) == pytest.approx(float(whole), rel=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_no_number_names_its_step_and_records(tiny_t5, tmp_path):
    from transformers import T5ForConditionalGeneration

    from meerkat_workbench.trainers.token_budget import NotFiniteError

    model = T5ForConditionalGeneration.from_pretrained(tiny_t5)
    model.shared.weight.data.fill_(float("nan"))
    examples = [Example("abc123", "x", [5, 1], [7, 1])]
    with pytest.raises(NotFiniteError) as caught:
        trainer_of(model, tmp_path, examples, 99).training_step(model, {EXAMPLES: examples})
    assert "step 1" in caught.value.where and caught.value.item == "abc123"


def test_a_decoder_is_not_trained_on_chats_without_an_end(prepared, tiny_model, tmp_path, monkeypatch):
    folders = (f"DATASET_DIR={prepared}", f"OUTPUT_DIR={tmp_path / 'out'}")
    endless = refusal(fine_tuning, ["fine_tuning.py", f"MODEL_NAME={tiny_model}", *folders], monkeypatch)
    assert endless.where == str(prepared) and "CHAT_TEMPLATE" in endless.remedy
    whole = refusal(fine_tuning, ["fine_tuning.py", "FULL_FINE_TUNING=True", *folders], monkeypatch)
    assert whole.where == "FULL_FINE_TUNING" and "MODEL_TYPE=encoder-decoder" in whole.remedy
