"""Examples, masks, the audit, and training itself on a tiny model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import ROOT, prepare_command, refusal, run_processes, run_script, train_command

import fine_tuning
from meerkat_workbench.core import artifacts, files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import MANIFEST, Run
from meerkat_workbench.output import tables
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.artifacts import DatasetManifest, EvalPoint, SampleAnswerRow, TrainingConfigFile, TrainingResult
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord
from meerkat_workbench.tuning.training.examples import Example, encode_records


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    from meerkat_workbench.tuning import llm

    return llm.load_tokenizer(str(tiny_model))


def record(question="What is gout?", answer="Gout is an arthritis.", template=chat.render_llama3):
    return PreparedRecord(id="0123456789", specialty="x", question=question, response=answer, messages=[],
                          formatted_prompt=template(question, None, ""), formatted_chat=template(question, answer, ""))  # fmt: skip


def encode(records, tokenizer, **keywords):
    settings = {"max_length": 256, "long_examples": "truncate", "terminator": "<|eot_id|>"} | keywords
    return encode_records(records, tokenizer, **settings)


def history(adapter):
    return artifacts.read_lines(EvalPoint, adapter / EvalPoint.FILE)


def kept(adapter):
    return artifacts.read(TrainingConfigFile, adapter / TrainingConfigFile.FILE).kept


def losses(adapter):
    return [line["loss"] for line in files.read_json_lines(adapter / "training_log.jsonl")]


def test_the_answer_and_its_end_of_turn_are_learnt_and_nothing_else(tokenizer):
    [example], audit = encode([record()], tokenizer)
    learnt = [label for label in example.labels if label != -100]
    assert tokenizer.decode(learnt) == "Gout is an arthritis.<|eot_id|>"
    assert audit.supervised_tokens == len(learnt) == example.supervised


def test_an_example_with_nothing_to_learn_is_refused_by_name(tokenizer):
    with pytest.raises(UserError) as caught:
        encode([record(question="long " * 80)], tokenizer, max_length=32)
    assert "x 01234567" in caught.value.where and "MAX_SEQ_LENGTH" in caught.value.remedy


def test_long_examples_are_cut_or_dropped_as_asked_and_counted(tokenizer):
    long = record(answer="word " * 100)
    [cut], audit = encode([long], tokenizer, max_length=64)
    assert len(cut.input_ids) == 64 and audit.truncated == 1 and audit.longest > 64
    none, audit = encode([long], tokenizer, max_length=64, long_examples="drop")
    assert not none and audit.dropped == 1


def test_a_chat_without_its_end_of_turn_or_with_two_begin_tokens_is_refused(tokenizer):
    def endless(question, answer, system):
        return chat.render_llama3(question, answer, system).removesuffix("<|eot_id|>")

    def doubled(question, answer, system):
        return "<|begin_of_text|>" + chat.render_llama3(question, answer, system)

    for template in (endless, doubled):
        with pytest.raises(UserError) as caught:
            encode([record(template=template)], tokenizer)
        assert "x 01234567" in caught.value.where and "apply_chat_template" in caught.value.remedy


def padded(examples, pad_token_id):
    """Examples as a batch that a model takes."""
    import torch

    from meerkat_workbench.device import tensors

    cpu, ids = torch.device("cpu"), [example.input_ids for example in examples]
    return {"input_ids": tensors.pad(ids, pad_token_id, cpu), "attention_mask": tensors.mask_of(ids, cpu),
            "labels": tensors.pad([example.labels for example in examples], -100, cpu)}  # fmt: skip


def test_padding_is_masked_by_length_and_never_learnt():
    batch = padded([Example("a", "x", [1, 9, 2], [-100, 9, 2]), Example("b", "x", [1], [1])], 9)
    assert batch["input_ids"].tolist() == [[1, 9, 2], [1, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 9, 2], [1, -100, -100]]


def test_loss_at_supervised_positions_is_the_models_own_loss(tiny_model, tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    from meerkat_workbench.tuning.training.answer_trainer import add_answer_loss

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    examples, _ = encode([record(), record(answer="Gout is an arthritis that hurts, mostly in the big toe.")], tokenizer)
    batch = padded(examples, tokenizer.pad_token_id)
    expected = model(**batch).loss
    add_answer_loss(model)
    outputs = model(**batch, answer_loss=True)
    count = (batch["labels"] != -100).sum()
    assert float(outputs.loss / count) == pytest.approx(float(expected), rel=1e-5)
    assert float(model(**batch).loss) == pytest.approx(float(expected), rel=1e-6)


def test_the_adapter_is_what_plain_peft_opens_and_stops_on_both_tokens(small_run):
    from peft import PeftConfig

    adapter = small_run["adapter"]
    assert PeftConfig.from_pretrained(str(adapter)).r == 64
    generation = json.loads((adapter / "generation_config.json").read_text())
    tokenizer_ids = {json.loads((adapter / "tokenizer.json").read_text())["added_tokens"][i]["content"]: i for i in range(6)}
    assert set(generation["eos_token_id"]) == {tokenizer_ids["<|eot_id|>"], tokenizer_ids["<|end_of_text|>"]}
    assert generation["pad_token_id"] not in generation["eos_token_id"]


def test_training_leaves_what_it_promises_and_learns(small_run):
    adapter = small_run["adapter"]
    for name in (
        "adapter_model.safetensors",
        "training_config.json",
        "training_curves.png",
        "eval_by_specialty.csv",
        "manifest.json",
    ):
        assert (adapter / name).stat().st_size > 0, name
    assert not (adapter / "checkpoints").exists()
    before, result = history(adapter)[0], TrainingResult.require(adapter)
    assert kept(adapter).loss < before.loss and set(before.specialties) == {"cardiology", "dentistry", "neurology", "urology"}
    assert result.kept == kept(adapter) and result.before.loss == before.loss
    assert re.search(r"train: (\d+) examples", small_run["fine_tuning.py"])[1] == "68"


def test_training_is_a_function_that_returns_the_finished_result(small_run):
    config = fine_tuning.TrainingConfig(**TrainingResult.require(small_run["adapter"]).settings)
    assert fine_tuning.train(config) == TrainingResult.require(small_run["adapter"])


def test_running_again_is_up_to_date_and_a_plan_changes_nothing(small_run):
    before = (small_run["adapter"] / MANIFEST).read_bytes()
    again = run_script(*train_command(small_run))
    assert again.returncode == 0 and "epoch 0.00" not in again.stdout
    plan = run_script(*train_command(small_run, "--plan", "LORA_RANK=4"))
    assert plan.returncode == 0 and "steps:" in plan.stdout and "memory:" in plan.stdout
    assert (small_run["adapter"] / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_and_run_again_it_ends_with_the_same_adapter(small_run, tmp_path, kill):
    folders = {**small_run, "adapter": tmp_path / "killed"}
    process = subprocess.Popen(
        [sys.executable, *train_command(folders)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    deadline = time.time() + 300
    while not list(folders["adapter"].glob("checkpoints/checkpoint-*/whole.json")):
        assert process.poll() is None and time.time() < deadline, "ended before its first checkpoint"
        time.sleep(0.05)
    process.send_signal(kill)
    said, _ = process.communicate()
    assert process.returncode == (-kill if kill == signal.SIGKILL else 128 + kill), said  # told to stop, it saves first
    assert TrainingResult.find(folders["adapter"]) is None
    (folders["adapter"] / "checkpoints" / "checkpoint-999").mkdir()  # one cut off while it was written
    resumed = run_script(*train_command(folders))
    assert resumed.returncode == 0, resumed.stderr
    assert "checkpoint-999" in resumed.stdout and len(set(re.findall(r"checkpoint-\d+", resumed.stdout))) == 2
    one, other = (folder / "adapter_model.safetensors" for folder in (folders["adapter"], small_run["adapter"]))
    assert files.sha256_file(one) == files.sha256_file(other)


def test_an_unfinished_run_of_other_settings_is_refused_and_stays(small_run, tmp_path, monkeypatch):
    folders = {**small_run, "adapter": tmp_path / "adapter"}
    with Run(folders["adapter"], TrainingResult) as run:
        run.find("another run")
        run.claim()
    error = refusal(fine_tuning, train_command(folders), monkeypatch)
    assert error.where == str(folders["adapter"]) and "--fresh" in error.remedy
    assert [path.name for path in folders["adapter"].iterdir() if path.suffix == ".json"] == ["in_progress.json"]


@pytest.mark.parametrize(
    ("setting", "where", "hint"),
    [
        ("LORA_RNK=8", "LORA_RNK", "LORA_RANK"),
        ("LORA_RANK=0", "LORA_RANK", ""),
        ("LONG_EXAMPLES=keep", "LONG_EXAMPLES", ""),
        ("LORA_TARGET_MODULES=q_porj", "LORA_TARGET_MODULES=q_porj", ""),
        ("LR_SCHEDULER=cosin", "LR_SCHEDULER=cosin", "cosine"),
        ("MODEL_NAME=./absent", "./absent", "folder"),
        ("MODEL_NAME=nobody/no-such-model", "nobody/no-such-model", "--demo"),
        ("MODEL_NAME=dmis-lab/llama-3-meerkat-8b-v1.0", "dmis-lab/llama-3-meerkat-8b-v1.0", "--demo"),
        ("DATASET_DIR=absent", "absent", "python dataset_preparation.py"),
        ("ACTIVATION_CHECKPOINTING=some", "ACTIVATION_CHECKPOINTING", ""),
        ("BEST_METRIC=ROUGE-1", "BEST_METRIC", ""),
        ("INIT_ADAPTER=absent", "INIT_ADAPTER", ""),
        ("LORA_OPTIONS={r: 8}", "LORA_OPTIONS", "LORA_RANK"),
        ("LORA_OPTIONS={use_rslor: true}", "LORA_OPTIONS", "use_rslora"),
        ("LORA_OPTIONS={init_lora_weights: pissa}", "LORA_OPTIONS", ""),
        ("TRAINER_OPTIONS={packing: true}", "TRAINER_OPTIONS", ""),
        ("TRAINER_OPTIONS={bf16: false}", "TRAINER_OPTIONS", "COMPUTE_DTYPE"),
        ("COMPUTE_DTYPE=half", "COMPUTE_DTYPE", ""),
        ("LORA_TARGET_MODULES=q_proj,lm_head", "LORA_TARGET_MODULES", ""),
        ("TRAINER_OPTIONS={label_smoothing_factor: 0.1}", "TRAINER_OPTIONS", ""),
        ("LORA_OPTIONS={bias: all}", "LORA_OPTIONS", ""),
        ("TRAINER_OPTIONS={adam_beta3: 0.9}", "TRAINER_OPTIONS", "adam_beta"),
        ("REPORT_TO=wandbb", "REPORT_TO", ""),
        ("MAX_SEQ_LENGTH=24", "", "MAX_SEQ_LENGTH"),
    ],
)
def test_a_mistake_names_its_setting_and_what_fits_and_leaves_no_output(small_run, tmp_path, monkeypatch, setting, where, hint):
    import torch

    if "meerkat-8b" in setting and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    error = refusal(fine_tuning, train_command({**small_run, "adapter": tmp_path / "out"}, setting), monkeypatch)
    assert where in f"{error.where} {error.item}" and hint in str(error), repr(error)
    assert "\n" not in str(error)
    assert not (tmp_path / "out" / MANIFEST).exists()


@pytest.mark.slow
def test_a_run_is_reported_to_several_places_with_what_it_was_made_from(small_run, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no database
    folders = {**small_run, "adapter": tmp_path / "out"}
    done = run_script(
        *train_command(folders, "REPORT_TO=tensorboard,mlflow", "USE_WANDB=True", "SAMPLE_QUESTIONS=0"),
        WANDB_MODE="offline", WANDB_DIR=str(tmp_path), WANDB_SILENT="true",
        MLFLOW_TRACKING_URI=f"file://{tmp_path / 'mlruns'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = DatasetManifest.require(small_run["data"]).fingerprint[:12]
    [stored] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert f"dataset:{data}".encode() in stored.read_bytes()
    events = list((folders["adapter"] / "tensorboard").glob("events*"))
    assert any(data.encode() in path.read_bytes() for path in events)
    assert any(b"eval/loss" in path.read_bytes() for path in events)
    import mlflow

    mlflow.set_tracking_uri(f"file://{tmp_path / 'mlruns'}")
    [run] = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.data.tags["dataset"] == data and "eval_loss" in run.data.metrics


def test_several_gpus_are_used_by_starting_again_through_accelerate(monkeypatch):
    import os

    import torch

    from meerkat_workbench.device import distributed

    started = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(os, "execv", lambda path, command: started.append(command))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(sys, "argv", ["fine_tuning.py", "NUM_EPOCHS=1"])
    distributed.launch_on_all_gpus(3)
    [command] = started
    assert command[1:3] == ["-m", "accelerate.commands.launch"] and command[-2:] == ["fine_tuning.py", "NUM_EPOCHS=1"]
    assert command[command.index("--num_processes") + 1] == "3"
    monkeypatch.setenv("LOCAL_RANK", "0")
    distributed.launch_on_all_gpus(None)
    assert len(started) == 1


@pytest.fixture(scope="module")
def uneven(small_run, tmp_path_factory):
    """67 training examples: with 22 a step, the last one of an epoch has one example, and a second process none."""
    base = tmp_path_factory.mktemp("uneven")
    shutil.copytree(small_run["files"], base / "files")
    path = base / "files" / "dataset_with_answers_urology.json"
    path.write_text(json.dumps(dict(list(json.loads(path.read_text()).items())[:-2])))
    folders = {**small_run, "files": base / "files", "data": base / "data"}
    assert run_script(*prepare_command(folders)).returncode == 0
    return folders


@pytest.mark.slow
def test_two_processes_with_whole_or_sharded_bases_train_as_one_does_where_one_has_no_example(uneven, tmp_path):
    one, two, sharded = ({**uneven, "adapter": tmp_path / name} for name in ("one", "two", "sharded"))
    common = ["SAMPLE_QUESTIONS=2", "BATCH_SIZE=11"]
    fsdp = ["SHARD_BASE=True", "ACTIVATION_CHECKPOINTING=selective", "MAX_TOKENS_PER_BATCH=300"]
    weights = []
    for processes, command in (
        (1, train_command(one, *common, "GRADIENT_ACCUMULATION_STEPS=2")),
        (2, train_command(two, *common)),
        (2, train_command(sharded, *common, *fsdp)),
    ):
        done = run_script(*command) if processes == 1 else run_processes(processes, *command)
        assert done.returncode == 0, done.stderr
        assert "train: 67 examples" in done.stdout
        weights.append(float(re.search(r"([\d.]+) MB weights", done.stdout)[1]))
    assert weights[2] < weights[1] == weights[0]
    points = history(one["adapter"])
    for run in (two, sharded):
        mine = history(run["adapter"])
        assert losses(run["adapter"]) == pytest.approx(losses(one["adapter"]), rel=2e-3)
        assert [point.loss for point in mine] == pytest.approx([point.loss for point in points], rel=2e-3)
        assert len(mine[-1].answers) == 2


def test_a_process_that_is_alone_sees_one_gpu_however_many_there_are(monkeypatch):
    import torch

    from meerkat_workbench.device import distributed

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for visible, left in (("2,3", "2"), (None, "0")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible) if visible else monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        assert distributed.join().count == 1
        assert os.environ["CUDA_VISIBLE_DEVICES"] == left


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_every_example_is_in_one_step_of_each_epoch_whatever_the_processes(processes):
    from meerkat_workbench.trainers.batch_sampler import ResumableBatchSampler

    shares = [ResumableBatchSampler(21, 8 // processes, seed=7, process=rank, processes=processes) for rank in range(processes)]
    epochs = []
    for epoch in (0, 1):
        for share in shares:
            share.set_epoch(epoch)
        steps = [sorted(i for part in parts for i in part) for parts in zip(*shares, strict=True)]
        assert len(steps) == len(shares[0]) and sorted(i for step in steps for i in step) == list(range(21))
        epochs.append(steps)
    assert epochs[0] != epochs[1]


@pytest.fixture(params=["bf16", "fp32"])
def trainer(small_run, tmp_path, request):
    """A trainer of the tiny model in NF4, in either precision, as fine_tuning.py makes it."""
    from meerkat_workbench.tuning import llm
    from meerkat_workbench.tuning.training import build, load_examples
    from meerkat_workbench.tuning.training.eval_loss import LossEvaluator

    config = fine_tuning.TrainingConfig(
        DATASET_DIR=str(small_run["data"]), OUTPUT_DIR=str(tmp_path), LORA_DROPOUT=0.0, SAMPLE_QUESTIONS=0
    )
    spec, precision, base = fine_tuning.spec_of(config), request.param, str(small_run["model"])
    tokenizer = llm.load_tokenizer(base)
    examples = load_examples.load_examples(spec.data, tokenizer, base, encoder_decoder=False, max_length=spec.max_length,
                                           long_examples=spec.long_examples)  # fmt: skip
    model = llm.load_base(base, load_in_4bit=True, precision=precision)
    micro_batches = build.choose_micro_batches(model, examples, spec.options, tokens=spec.tokens_per_batch,
                                               checkpointing=spec.checkpointing, shard_base=False, precision=precision)  # fmt: skip
    evaluator = LossEvaluator(examples.eval, spec.best_metric, None)
    return build.build_trainer(model, tokenizer, examples, spec.part, spec.options, micro_batches, evaluator, output=tmp_path,
                               patience=0, shard_base=False, precision=precision)  # fmt: skip


def gradients(trainer):
    """Of one optimizer step's examples."""
    trainer.model.zero_grad()
    trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())))
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def test_an_evaluation_leaves_the_gradient_as_it_was(trainer):
    """bitsandbytes reorders 4-bit weights at a first look without gradients, and then gives none on some CPUs."""
    import torch

    before = gradients(trainer)
    trainer.best.evaluator.evaluate(trainer)
    after = gradients(trainer)
    assert before.keys() == after.keys() and any(value.abs().max() > 0 for value in before.values())
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)


def test_memory_that_runs_out_halves_the_micro_batch_and_the_step_stays_the_same(trainer, monkeypatch, capsys):
    import torch

    whole, budget, compute = gradients(trainer), trainer.tokens_per_batch, trainer.step_loss.summed

    def in_little_memory(model, examples):
        if sum(map(trainer.step_loss.length, examples)) > budget // 3:
            raise torch.OutOfMemoryError
        return compute(model, examples)

    monkeypatch.setattr(trainer.step_loss, "summed", in_little_memory)
    halved = gradients(trainer)
    said = capsys.readouterr().out
    assert trainer.tokens_per_batch == -(-budget // 4) and said.count("\n") == 2 and f"{trainer.tokens_per_batch:,}" in said
    for name, value in whole.items():
        torch.testing.assert_close(halved[name], value, rtol=0.05, atol=0.02 * float(value.abs().max()))


@pytest.mark.parametrize(("scale", "stops"), [(65536.0, False), (1.0, True), (None, True)])
@pytest.mark.parametrize("trainer", ["fp32"], indirect=True)
def test_a_gradient_that_overflows_stops_a_run_unless_a_lower_scale_of_an_fp16_loss_may_cure_it(trainer, scale, stops, capsys):
    import torch

    from meerkat_workbench.trainers.token_budget import NotFiniteError

    if scale is not None:
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    gradients(trainer)
    next(p for p in trainer.model.parameters() if p.grad is not None).grad.fill_(float("inf"))
    if stops:
        with pytest.raises(NotFiniteError) as caught:
            trainer._clip_grad_norm(trainer.model)
        assert "gradient" in caught.value.where and "LEARNING_RATE" in caught.value.remedy
        return
    assert not torch.isfinite(torch.as_tensor(trainer._clip_grad_norm(trainer.model)))
    # a few such steps are told; a run of nothing else learnt nothing
    trainer.state.global_step = 3
    trainer.check_not_all_skipped()
    assert capsys.readouterr().out.split()[0] == "1"
    trainer.state.global_step = 1
    with pytest.raises(UserError) as caught:
        trainer.check_not_all_skipped()
    assert caught.value.where == "COMPUTE_DTYPE"


def test_embeddings_and_head_are_in_the_runs_precision_the_base_packed_and_the_adapter_fp32(trainer):
    import torch

    from meerkat_workbench.device import devices

    dtype = devices.torch_dtype(devices.precision_of(trainer.model))
    assert trainer.accelerator.mixed_precision == ("no" if dtype == torch.float32 else "bf16")
    kinds = {name: (p.dtype, p.requires_grad) for name, p in trainer.model.named_parameters()}
    assert {kind for name, kind in kinds.items() if "lora_" in name} == {(torch.float32, True)}
    assert {kind for name, kind in kinds.items() if "embed_tokens" in name or "lm_head" in name} == {(dtype, False)}
    assert {kind for name, kind in kinds.items() if "q_proj.base_layer" in name} == {(torch.uint8, False)}


def test_an_adapter_is_trained_further_and_library_options_arrive(small_run, tmp_path):
    folders = {**small_run, "adapter": tmp_path / "second"}
    done = run_script(*train_command(
        folders, f"INIT_ADAPTER={small_run['adapter']}", "TRAINER_OPTIONS={adam_beta2: 0.98}", "EVAL_STEPS=2",
        "EARLY_STOPPING=1", "LEARNING_RATE=0.1", "BEST_METRIC=token_accuracy", "SAMPLE_QUESTIONS=8",
    ))  # fmt: skip
    assert done.returncode == 0, done.stderr
    points = history(folders["adapter"])
    assert points[0].loss == pytest.approx(kept(small_run["adapter"]).loss, abs=2e-3)
    # such a learning rate only spoils what was learnt, so training ends at the first evaluation without a new best
    assert [point.step for point in points] == [0, 2] and points[1].token_accuracy <= points[0].token_accuracy
    assert len(tables.read_rows(folders["adapter"] / SampleAnswerRow.FILE, SampleAnswerRow)) == 16


def test_rank_stabilised_and_weight_decomposed_adapters_train(small_run, tmp_path):
    folders = {**small_run, "adapter": tmp_path / "dora"}
    done = run_script(*train_command(folders, "LORA_OPTIONS={use_rslora: true, use_dora: true}", "SAMPLE_QUESTIONS=0",
                                     "TRAINER_OPTIONS={max_steps: 2}"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    stored = json.loads((folders["adapter"] / "adapter_config.json").read_text())
    assert stored["use_rslora"] and stored["use_dora"]


def test_a_model_that_gives_no_number_is_refused_before_it_is_trained(small_run, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    from meerkat_workbench.trainers.token_budget import NotFiniteError

    shutil.copytree(small_run["adapter"], tmp_path / "poisoned")
    weights = load_file(tmp_path / "poisoned" / "adapter_model.safetensors")
    save_file(
        {name: value * float("nan") for name, value in weights.items()}, tmp_path / "poisoned" / "adapter_model.safetensors"
    )
    folders = {**small_run, "adapter": tmp_path / "out"}
    command = train_command(folders, f"INIT_ADAPTER={tmp_path / 'poisoned'}", "SAMPLE_QUESTIONS=0")
    assert isinstance(refusal(fine_tuning, command, monkeypatch), NotFiniteError)
    assert TrainingResult.find(folders["adapter"]) is None


def test_an_adapter_that_may_know_the_holdout_or_has_another_shape_is_not_trained_further(small_run, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(small_run["adapter"], other)
    stored = json.loads((other / MANIFEST).read_text())
    folders = {**small_run, "adapter": tmp_path / "out"}

    def error(folders, *more):
        return refusal(fine_tuning, train_command(folders, *more), monkeypatch)

    shape = error(folders, f"INIT_ADAPTER={other}", "LORA_RANK=4")
    assert str(other) in shape.where and "LORA_RANK=64" in str(shape)
    stored["inputs"]["splits"]["holdout"], stored["inputs"]["trained_on"] = "another", ["of another series"]
    (other / MANIFEST).write_text(json.dumps(stored))
    assert str(other) in error(folders, f"INIT_ADAPTER={other}").where
    itself = error(small_run, f"INIT_ADAPTER={small_run['adapter']}")
    assert "INIT_ADAPTER" in itself.where and "OUTPUT_DIR" in str(itself)


def test_recomputation_and_small_micro_batches_train_as_none_does_and_their_checkpoints_are_stored(small_run, tmp_path):
    logs = {}
    for checkpointing, tokens in (("none", 100_000), ("selective", 200)):
        folders = {**small_run, "adapter": tmp_path / checkpointing}
        done = run_script(*train_command(
            folders, f"ACTIVATION_CHECKPOINTING={checkpointing}", f"MAX_TOKENS_PER_BATCH={tokens}", "SAMPLE_QUESTIONS=0",
            "TRAINER_OPTIONS={max_steps: 4}",
        ))  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "steps: 4 " in done.stdout and f" {checkpointing}\n" in done.stdout
        logs[checkpointing] = losses(folders["adapter"])
    assert logs["selective"] == pytest.approx(logs["none"], rel=2e-2)


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_accumulation_and_resume_each_others_run(small_run, tmp_path):
    import torch
    from safetensors.torch import load_file

    exact = ["LOAD_IN_4BIT=False", "COMPUTE_DTYPE=fp32", "TRAINER_OPTIONS={max_steps: 6}", "SAMPLE_QUESTIONS=0", "BATCH_SIZE=4"]
    one, two, mixed = ({**small_run, "adapter": tmp_path / name} for name in ("one", "two", "mixed"))

    def torchrun(folders):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        return [*launch, *train_command(folders, *exact)]

    alone = run_script(*train_command(one, *exact, "GRADIENT_ACCUMULATION_STEPS=2"))
    assert alone.returncode == 0, alone.stderr
    both = run_script(*torchrun(two), OMP_NUM_THREADS="1")
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("python evaluation.py") == 1  # one of the two speaks
    assert losses(two["adapter"]) == pytest.approx(losses(one["adapter"]), rel=1e-4)
    expected, found = (load_file(run["adapter"] / "adapter_model.safetensors") for run in (one, two))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-4)

    # two processes, their base sharded, are killed after their second step, and one goes on alone with a whole base
    process = subprocess.Popen(
        [sys.executable, *torchrun(mixed), "SHARD_BASE=True", "ACTIVATION_CHECKPOINTING=full"], cwd=ROOT, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.time() + 300
    while not list(mixed["adapter"].glob("checkpoints/checkpoint-*/whole.json")):
        assert process.poll() is None and time.time() < deadline, "ended before its first checkpoint"
        time.sleep(0.02)
    for member in [*psutil.Process(process.pid).children(recursive=True), process]:
        member.kill()
    process.wait()
    resumed = run_script(*train_command(mixed, *exact, "GRADIENT_ACCUMULATION_STEPS=2"))
    assert resumed.returncode == 0, resumed.stderr
    assert re.search(r"checkpoint-\d+", resumed.stdout)
    assert losses(mixed["adapter"]) == pytest.approx(losses(one["adapter"]), rel=1e-4)
