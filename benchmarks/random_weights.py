"""Models of known shapes with random weights: as fast as real ones, and nothing has to be downloaded.

python benchmarks/random_weights.py t5 FOLDER    a tiny T5 whose tokenizer knows the sample specialties
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

SPECIALTIES = Path(__file__).resolve().parent.parent / "examples" / "specialties"

SHAPES: dict[str, dict[str, Any]] = {
    "8b": {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500000.0, "max_position_embeddings": 8192},
    "1b": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500000.0, "max_position_embeddings": 8192},
    "tiny": {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096},
}  # fmt: skip


def build(shape: str, *, load_in_4bit: bool, seed: int = 0, vocabulary: int = 0) -> Any:
    """A Llama of one of SHAPES, loaded as `llm.load_base` loads one from files, in this device's own precision.

    The weights are drawn on the device, which takes 16 GB (32 in fp32) for 8b beside the model while it is loaded.

    Args:
        vocabulary: raises the shape's own number of tokens where a tokenizer has more.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from meerkat_workbench.device import devices
    from meerkat_workbench.tuning import llm

    device, precision = devices.device(), devices.native_precision()
    dtype = devices.torch_dtype(precision)
    sizes = SHAPES[shape] | {"vocab_size": max(vocabulary, SHAPES[shape]["vocab_size"])}
    config = LlamaConfig(**sizes, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
    config.name_or_path = f"random-{shape}"
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    generator = torch.Generator(device).manual_seed(seed)
    weights = {
        name: torch.ones(size, dtype=dtype, device=device)
        if len(size) == 1  # norms
        else torch.empty(size, dtype=dtype, device=device).normal_(0, 0.02, generator=generator)
        for name, size in shapes.items()
    }
    model = LlamaForCausalLM.from_pretrained(
        None, config=config, state_dict=weights, dtype=dtype, attn_implementation="sdpa",
        device_map={"": str(device)}, quantization_config=llm.quantization(load_in_4bit=load_in_4bit, precision=precision),
    )  # fmt: skip
    return model.requires_grad_(False)


def tiny_t5(folder: Path, texts: Iterable[str], *, vocabulary: int = 1000, width: int = 64, layers: int = 2) -> None:
    """Write a T5 of random weights, with a BPE tokenizer that knows the words of `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<pad>", "</s>", "<unk>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(wrapped), d_model=width, d_kv=16, d_ff=2 * width, num_layers=layers, num_heads=width // 16,
                      pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)


if __name__ == "__main__":
    known = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(SPECIALTIES.glob("*.json")))
    tiny_t5(
        Path(sys.argv[2]),
        (text for pairs in known for pair in pairs.items() for text in pair),
        vocabulary=4000,
        width=192,
        layers=3,
    )
