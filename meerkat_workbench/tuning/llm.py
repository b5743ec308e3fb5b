"""Base model, adapter, tokenizer and stop ids; `python -m meerkat_workbench.tuning.llm OUTPUT_FOLDER` writes SmolLM2 (see smollm2.py)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meerkat_workbench.core import files
from meerkat_workbench.core.errors import UserError, run_script
from meerkat_workbench.device import devices, hub
from meerkat_workbench.device.devices import Precision
from meerkat_workbench.tuning import chat, smollm2

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

MEERKAT = "dmis-lab/llama-3-meerkat-8b-v1.0"
MAX_PARAMETERS_ON_CPU = 2_000_000_000  # parameters from which a model is not loaded without a GPU
# each ends a turn wherever a tokenizer knows it; <|endoftext|> and others do so only where the chat template puts them there
TERMINATORS = ("<|eot_id|>", "<|end_of_text|>", "<|im_end|>", "<end_of_turn>", "<eos>", "</s>")
# made to pad with, by the names that model families give it
PAD_TOKENS = ("<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<pad>", "<|pad|>", "<unk>", "<|endoftext|>")


def locate(name: str) -> str:
    """A model's folder or Hub name from a setting; "smollm2" converts the packaged model at first use."""
    if name == smollm2.NAME:
        return str(smollm2.ensure())
    if name == "embedded":
        remedy = f"Train again with MODEL_NAME={smollm2.NAME}, or with --demo."
        raise UserError("was a toy of earlier versions", where="MODEL_NAME=embedded", remedy=remedy)
    return hub.locate(name, MEERKAT)


def load_config(name: str) -> Any:
    """The model's configuration, without its weights."""
    return hub.load_config(locate(name))


def check_vocabulary(location: str, highest: int) -> None:
    """UserError where a tokenizer gives ids that the model has no embedding for: it is another model's.

    Args:
        highest: the highest id that was given.
    """
    known = getattr(load_config(location).get_text_config(), "vocab_size", None)
    if known is not None and highest >= known:
        raise UserError(
            f"{location}: its tokenizer gives token {highest:,}, and the model knows {known:,} tokens. The two do not belong together; take "
            "tokenizer and weights from the same place."
        )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a token to pad with.

    Nothing here reads what is padded: masks go by length. So the tokenizer's own pad token does, unless it ends a turn, as others who
    pad by it and mask by its id would then teach a model never to stop; then it is another that ends no turn.
    """
    from transformers import AutoTokenizer

    # an adapter's folder has a tokenizer, but is no model
    location = name if (Path(name) / "tokenizer_config.json").is_file() else locate(name)
    tokenizer: PreTrainedTokenizerBase = hub.load(location, lambda: AutoTokenizer.from_pretrained(location), any_error=True)
    ends = stop_ids(tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(_pad_id(tokenizer, ends))
    return tokenizer


def _pad_id(tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> int:
    """A token to pad with: made for it, or a special one that ends no turn; where there is none (GPT-2), the one that ends a turn.

    Never a token of ordinary text: as the pad token it would be left out of every answer.
    """
    vocabulary = tokenizer.get_vocab()
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    for token in (*PAD_TOKENS, *(token for token in special if token != tokenizer.bos_token), tokenizer.bos_token):
        if token in vocabulary and vocabulary[token] not in ends:
            return int(vocabulary[token])
    return ends[0]


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends an answer: the tokenizer's end token, those that chat formats end a turn with, and what its own chat template
    puts behind an answer. For Llama-3 both `<|eot_id|>` and `<|end_of_text|>`; never an empty list.
    """
    vocabulary = tokenizer.get_vocab()
    found = {vocabulary[token] for token in TERMINATORS if token in vocabulary}
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    template = tokenizer.chat_template
    if isinstance(template, str):
        # others are text that the vocabulary holds as one piece, such as a line end
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        found |= {vocabulary[token] for token in chat.tokens_after_an_answer(template, _named_tokens(tokenizer), special)}
    if not found:
        raise UserError("the tokenizer has no token that ends an answer, so generation would never stop.")
    return sorted(found)


def _named_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What a chat template may name: bos_token, eos_token and their kin."""
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}


def parameter_count(config: Any) -> int:
    """Parameters of a model with this configuration, counted without memory for them."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in model_class(config).from_config(config).parameters())


def require_device_for(name: str, *, load_in_4bit: bool, precision: Precision) -> None:
    """Refuse a model that this machine cannot run, before its weights are fetched."""
    import torch

    if name == smollm2.NAME or torch.cuda.is_available():
        return
    # asked for by its well-known name, it is refused before the Hub is asked for its size
    count = 8_030_000_000 if name == MEERKAT else parameter_count(load_config(name))
    if count > MAX_PARAMETERS_ON_CPU:
        needs = count * (0.6 if load_in_4bit else devices.BYTES[precision]) / 1e9
        raise UserError(
            f"{name}: has {count / 1e9:.1f} billion parameters (about {needs:.0f} GB as loaded), and no GPU is visible. "
            "Run on a GPU machine (see nvidia-smi and CUDA_VISIBLE_DEVICES), or try the small pretrained model with --demo."
        )


def quantization(*, load_in_4bit: bool, precision: Precision, shardable: bool = False) -> BitsAndBytesConfig | None:
    """QLoRA's quantisation (Dettmers et al. 2023): NF4, double quantisation, products in `precision`.

    Packed weights are stored as bytes, or, `shardable`, in groups of bytes that call themselves a number of that precision: FSDP divides
    nothing but floating-point tensors (torch before 2.13), and wants one kind of them.
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
    """The model under an adapter; a model without one is its own base."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def text_config(config: Any) -> Any:
    """The part of a configuration that describes the layers which read and write text."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def attention_kinds(config: Any) -> tuple[set[str], int | None]:
    """Kinds of attention of a model's layers, and the width of their window where they have one that is used."""
    text = text_config(config)
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    window = getattr(text, "sliding_window", None)
    used = window is not None and window > 0 and getattr(text, "use_sliding_window", True)
    return kinds, window if used else None


def is_encoder_decoder(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def model_class(config: Any) -> Any:
    """transformers' class for a model with this configuration: of a decoder, or of an encoder-decoder."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if is_encoder_decoder(config) else AutoModelForCausalLM


def load_base(
    name: str, *, load_in_4bit: bool, precision: Precision, full_precision: bool = False, shardable: bool = False
) -> PreTrainedModel:
    """The base model as `precision` stores it (fp32 with `full_precision`), its linear layers in NF4 where asked, on this process's device."""
    location = locate(name)
    config = load_config(name)
    kind = model_class(config)
    # bitsandbytes reorders 4-bit weights for products in bf16 on a CPU that has them, and then wants whole blocks
    reorders = devices.device().type == "cpu" and precision == "bf16" == devices.native_precision()
    if load_in_4bit and reorders:
        widths = {getattr(config, key, 64) for key in ("hidden_size", "intermediate_size", "d_ff")}
        if any(width % 64 for width in widths):
            raise UserError(
                f"{name}: on this CPU, 4-bit layers need widths divisible by 64, not {sorted(widths)}. Set LOAD_IN_4BIT=False, "
                "or COMPUTE_DTYPE=fp32."
            )
    model: PreTrainedModel = hub.load(
        location,
        lambda: kind.from_pretrained(
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


def disable_4bit_reordering(model: Any) -> None:
    """Keep bitsandbytes from reordering 4-bit weights for inference (0.49 and 0.50, `Linear4bit.forward`; CPUs with AVX512-BF16).

    The product with reordered weights is computed in bf16, and has no gradient: training that follows an evaluation would silently
    learn almost nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  mypy takes attributes of modules for tensors


def adapter_base(folder: Path) -> str:
    """The base an adapter was trained on, as its configuration names it; UserError where the folder is no adapter."""
    config = folder / "adapter_config.json"
    if not config.is_file():
        raise UserError(f"{folder}: holds no adapter (no adapter_config.json). `python fine_tuning.py` makes one.")
    return str(files.read_json(config).get("base_model_name_or_path") or "")


def load_adapter(base: Any, folder: Path, *, trainable: bool = False, name: str = "default") -> PeftModel:
    """The base with the adapter on it, in fp32, frozen unless `trainable`; `disable_adapter()` gives the base back.

    A base that carries an adapter already gets another beside it, under a `name` of its own.
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
        first = " ".join(str(error).split())[:240]
        raise UserError(f"{folder}: its adapter does not fit {base.config.name_or_path}: {first}") from error
    return model.train() if trainable else model.eval()


def check_base(trained_on: str, base: str, *, where: str | Path, remedy: str, expected: str) -> None:
    """UserError unless a model's weights are those that an adapter was trained on.

    Args:
        trained_on: hash of the weights that it was trained on, and `expected`, the name of that base.
        base: folder or Hub name of the model.
        where: the adapter, for the message.
    """
    if hub.weights_hash(base) != trained_on:
        raise UserError(f"was trained on another base ({expected}) than {base}", where=where, remedy=remedy)


def write_generation_config(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """A `generation_config.json` that stops on every terminator, so that any tool that loads the folder does too."""
    contents = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": stop_ids(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": False,
    }
    files.write_json(folder / "generation_config.json", contents)


if __name__ == "__main__":
    run_script(lambda: smollm2.main(sys.argv[1:]))
