"""Precision and device: one place decides, by what the hardware can do; everything asks it."""

import json
from typing import ClassVar

import pytest
import tiny_models
import torch
from conftest import evaluate_command, refusal, run_script, train_command

from meerkat_workbench.core import artifacts
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import Manifest, Run
from meerkat_workbench.core.settings import Settings
from meerkat_workbench.device import devices
from meerkat_workbench.tuning import llm
from meerkat_workbench.tuning.artifacts import EvalPoint, EvaluationManifest, TrainingResult
from meerkat_workbench.tuning.training.answer_trainer import FrozenHeadLoss


class Work(Manifest, frozen=True, kw_only=True):
    STAGE: ClassVar[str] = "computation of a test"
    SCRIPT: ClassVar[str] = "work.py"


class Config(Settings):
    SIZE: int = 1


OTHER = {"fp32": "bf16", "bf16": "fp32", "fp16": "fp32"}


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as far as the choice of precision can see; what it multiplies is given by name."""

    def with_bf16(native: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        # an emulating card says yes unless it is asked without emulation
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)

    return with_bf16


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_computes_in_bf16_where_it_multiplies_that_natively_and_in_fp16_elsewhere(gpu, native, precision):
    gpu(native)
    assert devices.native_precision() == precision and devices.resolve_precision("auto") == precision


@pytest.mark.parametrize(
    ("machine", "avx512_bf16", "amx", "mkldnn", "precision"),
    [
        ("x86_64", True, False, True, "bf16"),
        ("x86_64", False, True, True, "bf16"),
        ("x86_64", False, False, True, "fp32"),  # AVX512 without the BF16 extension: mkldnn emulates
        ("AMD64", False, False, False, "fp32"),
        ("aarch64", False, False, True, "bf16"),
        ("aarch64", False, False, False, "fp32"),
    ],
)
def test_a_cpu_computes_in_bf16_only_where_it_has_instructions_for_it(monkeypatch, machine, avx512_bf16, amx, mkldnn, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: mkldnn)
    assert devices.native_precision() == precision


def test_what_is_asked_for_is_taken_and_fp16_on_a_cpu_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert [devices.resolve_precision(name) for name in ("bf16", "fp32")] == ["bf16", "fp32"]
    with pytest.raises(UserError) as caught:
        devices.resolve_precision("fp16")
    assert "fp16" in caught.value.where and "auto" in caught.value.remedy


def test_apples_gpu_is_used_only_where_a_trial_gives_the_cpus_results(monkeypatch):
    # the trials themselves, on a device that works and on one that computes nothing
    assert devices.mps_fault("cpu") == ""
    assert devices.mps_fault("meta").startswith("attention: ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "has_mps", lambda: True)
    for fault, kind in (("", "mps"), ("a 4-bit layer: no", "cpu")):
        monkeypatch.setattr(devices, "mps_fault", lambda fault=fault: fault)
        assert devices.device().type == kind


@pytest.mark.parametrize("load_in_4bit", [True, False])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_model_is_loaded_in_a_precision_and_computes_in_it(tiny_model, precision, load_in_4bit):
    model = llm.load_base(str(tiny_model), load_in_4bit=load_in_4bit, precision=precision)
    assert devices.precision_of(model) == precision
    wanted = devices.torch_dtype(precision)
    with torch.inference_mode(), devices.autocast(model):
        assert model(input_ids=torch.tensor([[1, 5, 6]])).logits.dtype == wanted
    layer = model.model.layers[0].self_attn.q_proj
    assert (layer.compute_dtype if load_in_4bit else layer.weight.dtype) == wanted


@pytest.mark.slow
def test_both_precisions_find_the_same_losses_and_answers_are_keyed_by_theirs(small_run, tmp_path):
    """Trained and asked in this machine's precision, and again in the other one."""
    own = TrainingResult.require(small_run["adapter"]).compute_dtype
    other = OTHER[own]
    folders = {**small_run, "adapter": tmp_path / "adapter", "scores": tmp_path / "scores"}
    trained = run_script(*train_command(folders, f"COMPUTE_DTYPE={other}"))
    assert trained.returncode == 0, trained.stderr
    first = TrainingResult.require(folders["adapter"])
    assert first.compute_dtype == other
    one, two = (artifacts.read_lines(EvalPoint, run["adapter"] / EvalPoint.FILE) for run in (small_run, folders))
    assert [point.loss for point in two] == pytest.approx([point.loss for point in one], rel=2e-2)
    # with "auto" too, a finished run is what it is, on whatever machine it was made
    for precision in (other, "auto"):
        assert run_script(*train_command(folders, f"COMPUTE_DTYPE={precision}")).returncode == 0
        assert TrainingResult.require(folders["adapter"]) == first

    few = ("MAX_SAMPLES_PER_SPECIALTY=1", "RETENTION=False", "MAX_NEW_TOKENS=4")
    for precision in (own, other):
        done = run_script(*evaluate_command(folders, *few, f"COMPUTE_DTYPE={precision}"))
        assert done.returncode == 0, done.stderr
        result = EvaluationManifest.require(folders["scores"])
        assert result.compute_dtype == precision
        assert result.run.generated == 3 * 2 * 4  # an answer in another precision is another
        assert f"computed in {precision}" in (folders["scores"] / "report.html").read_text()


def settle(folder, wanted, name, *, fresh=False):
    run = Run(folder, Work, fresh=fresh)
    return devices.run_precision(run, wanted, lambda precision: f"{name} in {precision}", own=devices.native_precision())


def begin(folder, name, precision):
    run = Run(folder, Work)
    with run:
        run.find(f"{name} in {precision}", precision)
        run.claim()
    return run


def finish(run):
    run.finish(run.manifest(Config(), iteration=1))


def test_a_resumed_run_keeps_the_precision_it_began_with_and_says_so(tmp_path, capsys):
    own = devices.native_precision()
    other = OTHER[own]
    run = begin(tmp_path, "run", other)
    assert settle(tmp_path, "auto", "run") == other
    said = capsys.readouterr().out
    assert other in said and own in said
    # another run in the same folder is not bound by it, nor is one that is told, nor one that begins anew
    assert settle(tmp_path, "auto", "another") == own
    assert settle(tmp_path, own, "run") == own
    assert settle(tmp_path, "auto", "run", fresh=True) == own
    # a finished one is what it is, and nothing is to be said
    finish(run)
    assert settle(tmp_path, "auto", "run") == other and not capsys.readouterr().out


def test_a_run_begun_in_fp16_is_up_to_date_on_a_cpu_but_cannot_be_resumed_there(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    run = begin(tmp_path, "run", "fp16")
    with pytest.raises(UserError) as caught:
        settle(tmp_path, "auto", "run")
    assert caught.value.where == str(tmp_path) and "--fresh" in caught.value.remedy
    finish(run)
    assert settle(tmp_path, "auto", "run") == "fp16"


def test_an_encoder_decoder_computes_in_fp32_where_a_decoder_would_in_fp16(gpu):
    gpu(False)
    assert [devices.resolve_precision("auto", encoder_decoder=both) for both in (False, True)] == ["fp16", "fp32"]
    gpu(True)
    assert devices.resolve_precision("auto", encoder_decoder=True) == "bf16"


def test_fp16_on_a_cpu_is_refused(small_run, tmp_path, monkeypatch):
    import fine_tuning

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    error = refusal(fine_tuning, train_command({**small_run, "adapter": tmp_path / "out"}, "COMPUTE_DTYPE=fp16"), monkeypatch)
    assert "COMPUTE_DTYPE" in error.where and "auto" in error.remedy


def test_an_fp16_loss_may_be_scaled_beyond_what_fp16_holds_and_its_gradient_is_right():
    """FrozenHeadLoss under the scale that a GradScaler begins with, against plain cross-entropy in fp32."""
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(6, 16), torch.randn(32, 16) / 8, torch.randint(0, 32, (6,))
    half = hidden.half().requires_grad_()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**17)
    loss, _, _ = FrozenHeadLoss.apply(half, weight.half(), targets)
    scaler.scale(loss / 1000).backward()  # 131: 131,072 itself is beyond fp16
    exact = hidden.clone().requires_grad_()
    torch.nn.functional.cross_entropy(exact @ weight.T, targets, reduction="sum").backward()
    torch.testing.assert_close(half.grad.float() * 1000 / 2.0**17, exact.grad, rtol=2e-2, atol=2e-3)


def test_the_estimate_of_activations_knows_how_wide_a_number_is():
    from types import SimpleNamespace

    from meerkat_workbench.tuning.training import plan

    config = SimpleNamespace(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                             intermediate_size=128, vocab_size=1000)  # fmt: skip
    sizes = {
        precision: plan.choose_micro_batches(config, step_tokens=500, longest=100, tokens=0, checkpointing="none", free=None,
                                             precision=precision).activations
        for precision in devices.PRECISIONS
    }  # fmt: skip
    assert sizes["bf16"] == sizes["fp16"] and 1.2 * sizes["bf16"] < sizes["fp32"] <= 2 * sizes["bf16"]


def test_a_tiny_model_made_for_tests_is_an_ordinary_model(tiny_model):
    config = json.loads((tiny_model / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and tiny_models.LLAMA3_TOKENS[5] in (tiny_model / "tokenizer.json").read_text()


def test_a_precision_that_the_device_emulates_is_named_with_the_faster_one(monkeypatch):
    for native, emulated in (("fp32", True), ("bf16", False)):
        monkeypatch.setattr(devices, "native_precision", lambda native=native: native)
        assert ("fp32" in devices.describe_precision("bf16")) == emulated and devices.describe_precision("fp32") == "fp32"
