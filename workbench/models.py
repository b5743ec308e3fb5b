"""Base model, adapter, tokenizer and stop ids; `python -m workbench.models OUTPUT_FOLDER` builds the embedded model."""

from __future__ import annotations

import functools
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import embedded, files
from workbench.errors import UserError, run_script

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

MEERKAT = "dmis-lab/llama-3-meerkat-8b-v1.0"
BIG = 2_000_000_000  # parameters from which a model is not loaded without a GPU
TERMINATORS = ("<|eot_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<end_of_turn>", "<eos>", "</s>")


def quiet() -> None:
    """Silence what libraries print that no user of the scripts can act on; errors are still raised."""
    import logging
    import warnings

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("bitsandbytes", "accelerate", "trl", "httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate|torch)(\..*)?")
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"(transformers|trl|peft|accelerate|torch|bitsandbytes)(\..*)?"
    )


def locate(name: str) -> str:
    """A model's folder or Hub name from a setting; "embedded" trains the small model at first use."""
    if name == embedded.NAME:
        return str(embedded.ensure())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{name}: is a folder without config.json, so it is no model. Name a model's folder.")
        return str(path)
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise UserError(f"{name}: there is no such folder. Name a model's folder or a Hub name such as {MEERKAT}.")
    return name


def _from_hub(name: str, load: Any) -> Any:
    """Call `load`, and turn what goes wrong with a model's files into one line."""
    try:
        return load()
    except (OSError, ValueError) as error:
        first = " ".join(str(error).split())[:300]
        if Path(name).is_dir():
            raise UserError(f"{name}: cannot be loaded: {first}") from error
        raise UserError(
            f"{name}: is not on this machine and could not be downloaded. Check the name and the network, set HF_TOKEN "
            f"for a gated model, or give a local folder. (--demo needs neither.) Hugging Face said: {first}"
        ) from error


def load_config(name: str) -> Any:
    """The model's configuration, without its weights."""
    from transformers import AutoConfig

    location = locate(name)
    return _from_hub(location, lambda: AutoConfig.from_pretrained(location))


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer with a pad token of its own (padding with EOS would teach never to stop)."""
    from transformers import AutoTokenizer

    # an adapter's folder has a tokenizer, but is no model
    location = name if (Path(name) / "tokenizer_config.json").is_file() else locate(name)
    tokenizer: PreTrainedTokenizerBase = _from_hub(location, lambda: AutoTokenizer.from_pretrained(location))
    terminators = set(stop_ids(tokenizer))
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in terminators:
        vocabulary = tokenizer.get_vocab()
        spare = ("<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<pad>", "<|pad|>", "<unk>")
        chosen = next((token for token in spare if token in vocabulary), None)
        if chosen is None:
            raise UserError(f"{name}: its tokenizer has no token to pad with besides the one that ends a turn.")
        tokenizer.pad_token = chosen
    return tokenizer


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends an answer. For Llama-3 both `<|eot_id|>` and `<|end_of_text|>`; never an empty list."""
    vocabulary = tokenizer.get_vocab()
    found = {vocabulary[token] for token in TERMINATORS if token in vocabulary}
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    if not found:
        raise UserError("the tokenizer has no token that ends an answer, so generation would never stop.")
    return sorted(found)


def device() -> torch.device:
    """This process's GPU (by LOCAL_RANK), or the CPU."""
    import os

    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def free_memory() -> None:
    """Give back what nothing holds any more, on the GPU too; call it where no frame or exception holds a batch."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def describe_device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} x {torch.cuda.device_count()}"
    return f"CPU, {torch.get_num_threads()} threads"


def parameter_count(config: Any) -> int:
    """Parameters of a model with this configuration, counted without memory for them."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in model_class(config).from_config(config).parameters())


def require_device_for(name: str, *, load_in_4bit: bool) -> None:
    """Refuse a model that this machine cannot run, before its weights are fetched."""
    import torch

    if name == embedded.NAME or torch.cuda.is_available():
        return
    # asked for by its well-known name, it is refused before the Hub is asked for its size
    count = 8_030_000_000 if name == MEERKAT else parameter_count(load_config(name))
    if count > BIG:
        needs = count * (0.6 if load_in_4bit else 2) / 1e9
        raise UserError(
            f"{name}: has {count / 1e9:.1f} billion parameters (about {needs:.0f} GB as loaded), and no GPU is visible. "
            "Run on a GPU machine (see nvidia-smi and CUDA_VISIBLE_DEVICES), or try the embedded model with --demo."
        )


def quantization(*, load_in_4bit: bool, shardable: bool = False) -> BitsAndBytesConfig | None:
    """QLoRA's quantisation (Dettmers et al. 2023): NF4, double quantisation, bf16 compute.

    Packed weights are stored as bytes, or, `shardable`, in pairs of bytes that call themselves bf16: FSDP divides nothing
    but floating-point tensors (torch before 2.13).
    """
    if not load_in_4bit:
        return None
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16 if shardable else torch.uint8,
    )


def base_of(model: Any) -> Any:
    """The model under an adapter; a model without one is its own base."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def text_config(config: Any) -> Any:
    """The part of a configuration that describes the layers which read and write text."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def is_encoder_decoder(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def model_class(config: Any) -> Any:
    """transformers' class for a model with this configuration: of a decoder, or of an encoder-decoder."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if is_encoder_decoder(config) else AutoModelForCausalLM


def load_base(name: str, *, load_in_4bit: bool, full_precision: bool = False, shardable: bool = False) -> PreTrainedModel:
    """The base model in bf16 (fp32 with `full_precision`), its linear layers in NF4 where asked, on this process's device."""
    import torch

    location = locate(name)
    config = load_config(name)
    kind = model_class(config)
    if load_in_4bit and not torch.cuda.is_available():
        widths = {getattr(config, key, 64) for key in ("hidden_size", "intermediate_size", "d_ff")}
        if any(width % 64 for width in widths):
            raise UserError(
                f"{name}: on a CPU, 4-bit layers need widths divisible by 64, not {sorted(widths)}. Set LOAD_IN_4BIT=False."
            )
    model: PreTrainedModel = _from_hub(
        location,
        lambda: kind.from_pretrained(
            location,
            dtype=torch.float32 if full_precision else torch.bfloat16,
            quantization_config=quantization(load_in_4bit=load_in_4bit, shardable=shardable),
            device_map={"": device()},
            **({} if is_encoder_decoder(config) else {"attn_implementation": "sdpa"}),
        ),
    )
    model.config.use_cache = True
    return model


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


@functools.cache  # an 8B base is 16 GB to read, and a run asks more than once
def weights_hash(folder: str | Path) -> str:
    """Identity of a model's weights: the SHA-256 over its safetensors files, or its Hub name and revision."""
    path = Path(folder)
    if path.is_dir():
        return files.sha256_folder(path, "*.safetensors")
    config = load_config(str(folder))
    return files.sha256_of([str(folder), getattr(config, "_commit_hash", None)])


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
    run_script(lambda: embedded.main(sys.argv[1:]))
