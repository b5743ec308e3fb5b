"""Models of known shapes with random weights: as fast as real ones, and nothing has to be downloaded.

They are built on the device layer by layer and quantised as they are made, so that an 8B model never exists in bf16.
"""

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
    """A Llama of one of SHAPES in bf16, its linear layers in NF4 where asked, embeddings and head in bf16."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.utils.quantization_config import QuantizationMethod

    from workbench import models

    torch.manual_seed(seed)
    config = LlamaConfig(**SHAPES[shape], bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
    config.name_or_path = f"random-{shape}"
    quantization = models.quantization(load_in_4bit=load_in_4bit)
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
        if quantization is not None:
            model = replace_with_bnb_linear(model, ["lm_head"], quantization)
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = _random(module, parameter, device)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.device.type == "meta":
                module._buffers[name] = torch.empty_like(buffer, device=device)
    # rotary frequencies are worked out, not drawn
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config, device=device)
    if quantization is not None:
        model.is_loaded_in_4bit = model.is_quantized = True
        model.quantization_method = QuantizationMethod.BITS_AND_BYTES
        model.config.quantization_config = quantization
    return model.requires_grad_(False)


def _random(module: torch.nn.Module, parameter: torch.nn.Parameter, device: torch.device) -> Any:
    from bitsandbytes.nn import Linear4bit, Params4bit

    if parameter.dim() == 1:  # norms
        return torch.nn.Parameter(torch.ones(parameter.shape, dtype=torch.bfloat16, device=device))
    if isinstance(module, Linear4bit):
        drawn = torch.randn(module.out_features, module.in_features, dtype=torch.bfloat16, device=device) * 0.02
        packed = Params4bit(drawn, requires_grad=False, quant_type="nf4", compress_statistics=True,
                            quant_storage=module.weight.quant_storage, module=module)  # fmt: skip
        return packed.to(device)
    return torch.nn.Parameter(torch.randn(parameter.shape, dtype=torch.bfloat16, device=device) * 0.02)
