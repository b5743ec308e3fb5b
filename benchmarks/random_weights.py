"""Models of known shapes with random weights: as fast as real ones, and nothing has to be downloaded."""

from __future__ import annotations

from typing import Any

import torch

SHAPES = {
    "8b": {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500000.0, "max_position_embeddings": 8192},
    "1b": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500000.0, "max_position_embeddings": 8192},
    "tiny": {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096},
}  # fmt: skip


def build(shape: str, *, load_in_4bit: bool, device: torch.device, seed: int = 0) -> Any:
    """A Llama of one of SHAPES, loaded as `models.load_base` loads one from files.

    The weights are drawn on the device, in bf16 (16 GB for 8b), and freed as transformers takes them over.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from workbench import models

    config = LlamaConfig(**SHAPES[shape], bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
    config.name_or_path = f"random-{shape}"
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    generator = torch.Generator(device).manual_seed(seed)
    weights = {
        name: torch.ones(size, dtype=torch.bfloat16, device=device)
        if len(size) == 1  # norms
        else torch.empty(size, dtype=torch.bfloat16, device=device).normal_(0, 0.02, generator=generator)
        for name, size in shapes.items()
    }
    model = LlamaForCausalLM.from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.bfloat16, attn_implementation="sdpa",
        device_map={"": str(device)}, quantization_config=models.quantization(load_in_4bit=load_in_4bit),
    )  # fmt: skip
    del weights
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return model.requires_grad_(False)
