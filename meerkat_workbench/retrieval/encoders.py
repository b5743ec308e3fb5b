"""Bi-encoders: texts to unit vectors whose products are cosine similarities, by sentence-transformers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.core import console, files
from meerkat_workbench.device import devices, hub

EXAMPLE = "BAAI/bge-small-en-v1.5"  # for messages
CHUNK = 2048  # texts between two reports of progress


def identity(name: str) -> str:
    """Hash of a bi-encoder's weights, or its Hub name and revision; vectors of different identities cannot be compared."""
    location = hub.locate_encoder(name, EXAMPLE)
    folder = Path(location)
    # weights of further modules, and those in torch's own format
    others = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix == ".bin" or (path.suffix == ".safetensors" and path.parent != folder)
    ]
    hashes = [(str(path.relative_to(folder)), files.sha256_file(path)) for path in others] if folder.is_dir() else []
    return files.sha256_of([hub.weights_hash(location), hashes]) if hashes else hub.weights_hash(location)


class BiEncoder:
    """A sentence-transformers model.

    Args:
        name: a Hub name, a folder, or "packaged" for the MiniLM that is installed with the workbench.

    Attributes:
        identity: see the function `identity`.

    Raises:
        UserError: the model is not there or cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.name, self.location = name, hub.locate_encoder(name, EXAMPLE)
        self.identity = identity(name)
        self.model = hub.load(name, lambda: SentenceTransformer(self.location, device=str(devices.device())), any_error=True)
        self.width = int(self.model.get_embedding_dimension() or 0)

    def embed(self, texts: Sequence[str], *, what: str = "embedding texts") -> NDArray[np.float32]:
        """(texts, width) unit vectors. Texts longer than the model's input are cut there.

        Args:
            what: name of the step, for its progress; empty reports nothing.
        """
        parts = [np.zeros((0, self.width), np.float32)]
        with console.Progress(what, len(texts), "texts") if what else contextlib.nullcontext() as progress:
            for start in range(0, len(texts), CHUNK):
                chunk = list(texts[start : start + CHUNK])
                parts.append(self.model.encode(chunk, normalize_embeddings=True, show_progress_bar=False, batch_size=32))
                if progress:
                    progress.advance(len(chunk))
        return np.concatenate(parts).astype(np.float32)
