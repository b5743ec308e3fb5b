"""Export: the merged model, its card, and what it takes to load it elsewhere."""

import json
import urllib.request

import msgspec
import pytest
from conftest import refusal, run_script, served, train_command

import fine_tuning
from meerkat_workbench.core import artifacts
from meerkat_workbench.core.errors import CheckFailedError, UserError
from meerkat_workbench.device import devices, hub
from meerkat_workbench.tuning import llm
from meerkat_workbench.tuning.artifacts import DatasetManifest, ExportRecord, Likeness, Sizes, TrainingResult
from meerkat_workbench.tuning.training import export


def test_the_merged_model_opens_in_plain_transformers_and_stops_on_both_tokens(exported):
    from transformers import pipeline

    target, _ = exported
    ask = pipeline("text-generation", model=str(target), device="cpu")
    [answer] = ask([{"role": "user", "content": "What is gout?"}], max_new_tokens=12)
    assert answer["generated_text"][-1]["role"] == "assistant"
    assert len(json.loads((target / "generation_config.json").read_text())["eos_token_id"]) == 2
    config = json.loads((target / "config.json").read_text())
    assert (
        config["dtype"] == str(devices.torch_dtype(devices.native_precision())).removeprefix("torch.")
        and "quantization_config" not in config
    )
    record = artifacts.read(ExportRecord, target / ExportRecord.FILE)
    assert record.likeness.answers == 32 and record.likeness.merge >= export.MIN_MERGE


def test_the_merged_model_is_served_over_http(exported):
    with served(exported[0]) as address:
        body = {"model": str(exported[0]), "messages": [{"role": "user", "content": "What is gout?"}], "max_tokens": 24}
        request = urllib.request.Request(
            f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            [choice] = json.load(answer)["choices"]
    assert choice["message"]["role"] == "assistant" and len(choice["message"]["content"].split()) > 3
    assert "<|" not in choice["message"]["content"]


def test_the_model_card_tells_data_settings_and_licence(exported, small_run):
    target, _ = exported
    card = (target / "README.md").read_text()
    assert card.startswith(f"---\nbase_model: {small_run['model']}\nlicense: other")
    assert "cardiology, dentistry, neurology, urology" in card and "rank 64" in card
    assert "| ROUGE-L |" not in card  # the default evaluation folder holds none of this adapter
    training, data = TrainingResult.require(small_run["adapter"]), DatasetManifest.require(small_run["data"])
    sizes = Sizes(*({"cardiology": 3} for _ in range(4)))
    scores = export.scores_of(small_run["scores"], training.outputs.adapter)
    of_meerkat = msgspec.structs.replace(training, settings={**training.settings, "MODEL_NAME": llm.MEERKAT})
    likeness = Likeness(answers=32, equal=0.5, word_overlap=0.8, merge=1.0, as_trained=0.9, precision="bf16")
    card = export.model_card(of_meerkat, data, sizes, scores, likeness)
    assert "license: cc-by-nc-4.0" in card and "| ROUGE-L |" in card and " to " in card


def test_an_adapter_opens_in_plain_peft(small_run, tiny_model):
    import torch
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained(str(small_run["adapter"]))
    assert model.generate(input_ids=torch.tensor([[1, 5, 6]]), max_new_tokens=2).shape[1] > 3


def test_a_folder_that_is_not_empty_and_a_push_without_a_token_are_refused(small_run, exported, tmp_path, monkeypatch):
    error = refusal(fine_tuning, train_command(small_run, "--export", str(exported[0])), monkeypatch)
    assert str(exported[0]) in error.where
    assert refusal(fine_tuning, train_command(small_run, "--push", "me/model"), monkeypatch).where == "--push"
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(UserError) as caught:
        hub.token(tmp_path / ".env")
    assert "HF_TOKEN" in caught.value.remedy
    (tmp_path / ".env").write_text("OTHER=1\nexport HF_TOKEN='hf_abc'\n")
    assert hub.token(tmp_path / ".env") == "hf_abc"


def test_a_hub_that_cannot_be_reached_leaves_the_export_whole(exported, monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", unreachable)
    with pytest.raises(UserError) as caught:
        hub.push(exported[0], "me/model", "hf_abc")
    assert "me/model" in caught.value.where and "no route to host" in caught.value.remedy
    assert (exported[0] / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def tied(tmp_path_factory, small_run):
    """An adapter on query and embeddings of a model whose head shares these, trained so that it changes the answers."""
    import tiny_models
    import torch
    from safetensors.torch import load_file, save_file

    base = tmp_path_factory.mktemp("tied")
    made = tiny_models.tokenizer(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), tiny_models.CHATML, eos_token="<|im_end|>")
    model = tiny_models.llama(made, tied=True)
    tiny_models.read_answers(model, made, steps=60)
    tiny_models.save(base / "model", model, made)
    folders = {"model": base / "model", "data": base / "data", "adapter": base / "adapter"}
    prepared = run_script("dataset_preparation.py", f"DATA_DIR={small_run['files']}", f"OUTPUT_DIR={folders['data']}",
                          f"CHAT_TEMPLATE={base / 'model'}", "EVAL_SPLIT_SIZE=0.4")  # fmt: skip
    assert prepared.returncode == 0, prepared.stderr
    trained = run_script(*train_command(folders, "LORA_TARGET_MODULES=q_proj,embed_tokens", "LEARNING_RATE=1e-3"))
    assert trained.returncode == 0, trained.stderr
    # a few steps on so small a model move the embeddings little; here they move as far as a long training would move them
    path = folders["adapter"] / "adapter_model.safetensors"
    weights, draw = load_file(path), torch.Generator().manual_seed(0)
    moved = {
        name: 0.02 * torch.randn(tensor.shape, generator=draw) if "embedding_A" in name else tensor
        for name, tensor in weights.items()
    }
    assert any("embedding_A" in name for name in weights)
    save_file(moved, path, {"format": "pt"})
    return folders


def test_an_adapter_on_shared_embeddings_is_merged_with_a_head_of_its_own(tied, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    done = run_script(*train_command(tied, "--export", str(tmp_path / "merged"), "COMPUTE_DTYPE=fp32"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    ids = torch.tensor([[1, 40, 300, 900, 17]])
    base = AutoModelForCausalLM.from_pretrained(tied["model"], dtype=torch.float32)
    with torch.no_grad():
        plain = base(ids).logits
        adapted = llm.load_adapter(base, tied["adapter"])(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(ids).logits
    assert float((adapted - plain).abs().max()) > 0.5
    torch.testing.assert_close(merged, adapted, rtol=1e-3, atol=1e-3)


def test_an_export_that_answers_otherwise_than_the_adapter_fails_and_is_not_pushed(tied, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "untie", lambda model: None)  # the fault that was: the head changes with the embeddings
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    monkeypatch.setattr(hub, "push", lambda *_: pytest.fail("it was pushed"))
    monkeypatch.setattr("sys.argv", train_command(tied, "--export", str(tmp_path / "merged"), "--push", "me/model"))
    with pytest.raises(CheckFailedError):
        fine_tuning.main()
    assert not (tmp_path / "merged").exists() and (tmp_path / "merged.failed" / "model.safetensors").is_file()
