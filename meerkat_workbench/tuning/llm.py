"""Loads base models, adapters and tokenizers, and finds the ids that end an answer.

`python -m meerkat_workbench.tuning.llm OUTPUT_FOLDER` writes SmolLM2 (see smollm2.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meerkat_workbench.core import files
from meerkat_workbench.core.commands import command_of
from meerkat_workbench.core.errors import UserError, one_line, run_script
from meerkat_workbench.device import devices, hub
from meerkat_workbench.device.devices import Precision
from meerkat_workbench.tuning import chat, model_folders, smollm2
from meerkat_workbench.tuning.artifacts import TrainingResult

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

MEERKAT = "dmis-lab/llama-3-meerkat-8b-v1.0"
MAX_PARAMETERS_ON_CPU = 2_000_000_000  # a larger model is not loaded without a GPU
MAX_MEMORY_FRACTION_UNPACKED = 0.5  # of a machine's free memory, that unpacked 4-bit weights may take
# each ends a turn in every tokenizer that has it; <|endoftext|> and others count only if the chat template ends a turn with them
TERMINATORS = ("<|eot_id|>", "<|end_of_text|>", "<|im_end|>", "<end_of_turn>", "<eos>", "</s>")
# names of pad tokens in different model families, in order of preference
PAD_TOKENS = ("<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<pad>", "<|pad|>", "<unk>", "<|endoftext|>")


def locate(name: str) -> str:
    """A model's folder or Hub name from a setting. "smollm2" is the packaged model, which is converted on first use."""
    if name == smollm2.NAME:
        return str(smollm2.ensure())
    if name == "embedded":
        remedy = f"Train again with MODEL_NAME={smollm2.NAME}, or with --demo."
        raise UserError("was a toy model of earlier versions", where="MODEL_NAME=embedded", remedy=remedy)
    return hub.locate(name, MEERKAT)


def load_config(name: str) -> Any:
    """The model's configuration, without its weights."""
    return hub.load_config(locate(name))


def check_vocabulary(location: str, highest: int) -> None:
    """Check that the model has an embedding for every id that its tokenizer gave.

    Args:
        location: folder or Hub name of the model.
        highest: the highest id that the tokenizer gave.

    Raises:
        UserError: it has not, so the tokenizer is another model's.
    """
    vocabulary_size = getattr(load_config(location).get_text_config(), "vocab_size", None)
    if vocabulary_size is not None and highest >= vocabulary_size:
        raise UserError(
            f"its tokenizer gives token {highest:,}, but the model knows only {vocabulary_size:,} tokens",
            where=location,
            remedy="The two do not belong together: use tokenizer and weights from the same source.",
        )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a pad token.

    This project masks padding by length, so any pad token works here. But other programs mask by the pad token's id, and if
    that token also ends a turn, a model that they train never learns to stop. So the tokenizer's own pad token is kept
    unless it ends a turn; then it is replaced.
    """
    from transformers import AutoTokenizer

    # an adapter's folder has a tokenizer but is not a model
    location = name if (Path(name) / model_folders.TOKENIZER_CONFIG).is_file() else locate(name)
    tokenizer: PreTrainedTokenizerBase = hub.load(location, lambda: AutoTokenizer.from_pretrained(location), any_error=True)
    ends = stop_ids(tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(_pad_id(tokenizer, ends))
    return tokenizer


def _pad_id(tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> int:
    """The id to pad with: a known pad token, else a special token that ends no turn, else (GPT-2) one that ends a turn.

    It is never a token of ordinary text, which as the pad token would be removed from every answer.

    Args:
        ends: ids that end a turn.
    """
    vocabulary = tokenizer.get_vocab()
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    for token in (*PAD_TOKENS, *(token for token in special if token != tokenizer.bos_token), tokenizer.bos_token):
        if token in vocabulary and vocabulary[token] not in ends:
            return int(vocabulary[token])
    return ends[0]


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends an answer, sorted; for Llama-3 those of `<|eot_id|>` and `<|end_of_text|>`.

    These are the tokenizer's end-of-text token, the known end-of-turn tokens of chat formats, and the special tokens that
    the tokenizer's own chat template puts after an answer.

    Raises:
        UserError: there is none.
    """
    vocabulary = tokenizer.get_vocab()
    ids = {vocabulary[token] for token in TERMINATORS if token in vocabulary}
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    template = tokenizer.chat_template
    if isinstance(template, str):
        # other tokens are ordinary text, such as a line end, that the vocabulary has as one token
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        ids |= {vocabulary[token] for token in chat.tokens_after_an_answer(template, _named_tokens(tokenizer), special)}
    if not ids:
        remedy = "Use the instruction-tuned version of the model, or set eos_token in its tokenizer_config.json."
        raise UserError("the tokenizer has no token that ends an answer, so generation would never stop", remedy=remedy)
    return sorted(ids)


def _named_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The special tokens that a chat template may name, such as bos_token and eos_token."""
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}


def parameter_count(config: Any) -> int:
    """Number of parameters of a model with this configuration, counted without allocating them."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in model_class(config).from_config(config).parameters())


def require_device_for(name: str, *, load_in_4bit: bool, precision: Precision) -> None:
    """Check that this machine can run a model, before its weights are downloaded.

    Raises:
        UserError: the model is too large for a machine without a GPU.
    """
    if name == smollm2.NAME or devices.device().type != "cpu":
        return
    # the size of this model is known, so it can be refused without asking the Hub
    count = 8_030_000_000 if name == MEERKAT else parameter_count(load_config(name))
    if count > MAX_PARAMETERS_ON_CPU:
        gigabytes = count * (0.6 if load_in_4bit else devices.BYTES[precision]) / 1e9
        raise UserError(
            f"has {count / 1e9:.1f} billion parameters (about {gigabytes:.0f} GB as loaded), and no GPU is visible",
            where=name,
            remedy="Run on a GPU machine (see nvidia-smi and CUDA_VISIBLE_DEVICES), or try the small pretrained model with --demo.",
        )


def quantization(*, load_in_4bit: bool, precision: Precision, shardable: bool = False) -> BitsAndBytesConfig | None:
    """QLoRA's quantisation (Dettmers et al. 2023): NF4, double quantisation, products in `precision`.

    Args:
        shardable: store the packed weights as `precision` instead of as bytes: FSDP shards only floating-point tensors
            (torch before 2.13), and all must have one dtype.

    Returns:
        None without `load_in_4bit`.
    """
    if not load_in_4bit:
        return None
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=devices.torch_dtype(precision),
        bnb_4bit_quant_storage=devices.torch_dtype(precision) if shardable else torch.uint8,
    )


def base_model(model: Any) -> Any:
    """The model under an adapter; the model itself if it has no adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def text_config(config: Any) -> Any:
    """The part of a configuration that describes the layers for text."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def attention_kinds(config: Any) -> tuple[set[str], int | None]:
    """The kinds of attention in a model's layers, and the width of their sliding window; None if no window is used."""
    text = text_config(config)
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    window = getattr(text, "sliding_window", None)
    is_used = window is not None and window > 0 and getattr(text, "use_sliding_window", True)
    return kinds, window if is_used else None


def is_encoder_decoder(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def model_class(config: Any) -> Any:
    """transformers' auto class for a model with this configuration: for decoders or for encoder-decoders."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if is_encoder_decoder(config) else AutoModelForCausalLM


def load_base(
    name: str, *, load_in_4bit: bool, precision: Precision, full_precision: bool = False, shardable: bool = False
) -> PreTrainedModel:
    """Load a base model on this process's device.

    Args:
        load_in_4bit: quantise its linear layers to NF4.
        precision: of the products of 4-bit layers, and the dtype of all weights that are not in 4 bits.
        full_precision: store those weights in fp32 instead.
        shardable: see `quantization`.

    Raises:
        UserError: the model cannot be loaded, or its widths do not suit 4-bit layers on this CPU.
    """
    location = locate(name)
    config = load_config(name)
    auto_class = model_class(config)
    reorders = _reorders_4bit(precision)
    if load_in_4bit and reorders:  # needs whole blocks
        widths = {getattr(config, key, 64) for key in ("hidden_size", "intermediate_size", "d_ff")}
        if any(width % 64 for width in widths):
            fault = f"on this CPU, 4-bit layers need widths divisible by 64, not {sorted(widths)}"
            raise UserError(fault, where=name, remedy="Set LOAD_IN_4BIT=False or COMPUTE_DTYPE=fp32.")
    model: PreTrainedModel = hub.load(
        location,
        lambda: auto_class.from_pretrained(
            location,
            dtype=devices.torch_dtype("fp32" if full_precision else precision),
            quantization_config=quantization(load_in_4bit=load_in_4bit, precision=precision, shardable=shardable),
            device_map={"": devices.device()},
            **({} if is_encoder_decoder(config) else {"attn_implementation": "sdpa"}),
        ),
    )
    if not reorders:
        disable_4bit_reordering(model)
    model.config.use_cache = True
    return model


def load_for_answers(name: str, *, load_in_4bit: bool, precision: Precision) -> PreTrainedModel:
    """Load a base model that only answers, not trains.

    On a CPU that cannot multiply 4-bit weights they are unpacked once, instead of in each product: the results are the same, to the
    bit, and a small model answers in less time (EXPERIMENTS.md). It takes more memory, so a model that would fill
    more than half of what is free stays packed.
    """
    model = load_base(name, load_in_4bit=load_in_4bit, precision=precision).eval()
    if load_in_4bit and devices.device().type == "cpu" and not _reorders_4bit(precision):
        unpacked = parameter_count(model.config) * devices.BYTES[precision]
        if unpacked <= MAX_MEMORY_FRACTION_UNPACKED * devices.free_cpu_memory():
            model.dequantize(devices.torch_dtype(precision))
            model.requires_grad_(False)
    return model


def _reorders_4bit(precision: Precision) -> bool:
    """Whether bitsandbytes reorders 4-bit weights for products in bf16, as it does on CPUs with AVX512-BF16."""
    return devices.device().type == "cpu" and precision == "bf16" == devices.native_precision()


def disable_4bit_reordering(model: Any) -> None:
    """Stop bitsandbytes from reordering 4-bit weights for inference (0.49 and 0.50, `Linear4bit.forward`; CPUs with AVX512-BF16).

    The product with reordered weights is computed in bf16 and has no gradient, so training after an evaluation would
    silently learn almost nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  mypy expects attributes of modules to be tensors


def adapter_base(folder: Path) -> str:
    """Name of the base that an adapter was trained on, from the adapter's configuration.

    Raises:
        UserError: the folder holds no adapter.
    """
    config = folder / model_folders.ADAPTER_CONFIG
    if not config.is_file():
        remedy = f"`{command_of(TrainingResult.SCRIPT)}` trains one."
        raise UserError(f"holds no adapter (no {model_folders.ADAPTER_CONFIG})", where=folder, remedy=remedy)
    return str(files.read_json(config).get("base_model_name_or_path") or "")


def load_adapter(base: Any, folder: Path, *, trainable: bool = False, name: str = "default") -> PeftModel:
    """Load an adapter, in fp32, onto a base. Within `disable_adapter()` the model answers as the base.

    Args:
        base: the base model; if it already has adapters, this one is added to them.
        trainable: whether the adapter's weights are trained; if not, they are frozen.
        name: of the adapter in the model.

    Raises:
        UserError: the folder holds no adapter, or its adapter does not fit the base.
    """
    from peft import PeftModel

    adapter_base(folder)
    model: PeftModel
    try:
        if isinstance(base, PeftModel):
            base.load_adapter(str(folder), name)
            model = base
        else:
            model = PeftModel.from_pretrained(base, str(folder), is_trainable=trainable, adapter_name=name)
    except (RuntimeError, ValueError, OSError) as error:
        reason = one_line(error)
        remedy = "Use it with the base that it was trained on."
        fault = f"its adapter does not fit {base.config.name_or_path}: {reason}"
        raise UserError(fault, where=folder, remedy=remedy) from error
    return model.train() if trainable else model.eval()


def check_base(trained_on: str, base: str, *, where: str | Path, remedy: str, expected: str) -> None:
    """Check that a model's weights are those that an adapter was trained on.

    Args:
        trained_on: hash of the base weights that the adapter was trained on.
        base: folder or Hub name of the model.
        where: the adapter, for the message.
        expected: name of the base that the adapter was trained on, for the message.

    Raises:
        UserError: the weights differ.
    """
    if hub.weights_hash(base) != trained_on:
        raise UserError(f"was trained on another base ({expected}) than {base}", where=where, remedy=remedy)


def write_generation_config(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a `generation_config.json` with every stop id, so that any tool that loads the folder stops at all of them."""
    contents = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": stop_ids(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": False,
    }
    files.write_json(folder / "generation_config.json", contents)


if __name__ == "__main__":
    run_script(lambda: smollm2.main(sys.argv[1:]))
