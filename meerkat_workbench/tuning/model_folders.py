"""What the folder of an adapter or a trained model contains, by the names that Hugging Face's libraries give."""

from __future__ import annotations

from pathlib import Path

ADAPTER_CONFIG, TOKENIZER_CONFIG = "adapter_config.json", "tokenizer_config.json"
ADAPTER_WEIGHTS, MODEL_WEIGHTS = "adapter_model.safetensors", "model.safetensors"


def holds_adapter(folder: Path) -> bool:
    """Whether a folder contains an adapter, and not a whole model."""
    return (folder / ADAPTER_CONFIG).is_file() and (folder / ADAPTER_WEIGHTS).is_file()


def weights_file(folder: Path) -> Path:
    """The file of an adapter's weights, or of the whole model's after full fine-tuning."""
    return folder / (ADAPTER_WEIGHTS if (folder / ADAPTER_WEIGHTS).is_file() else MODEL_WEIGHTS)
