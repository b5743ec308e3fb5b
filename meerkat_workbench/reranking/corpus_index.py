"""The first stage over a corpus of documents, kept in the cache: embedding 15,000 answers takes ten minutes on two cores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

from meerkat_workbench.core import files
from meerkat_workbench.retrieval import encoders
from meerkat_workbench.retrieval.documents import Document
from meerkat_workbench.retrieval.index import DocumentIndex, FirstStageKind, IndexDescription

CHUNK = 2000  # documents that a kill loses at most


def of(documents: Iterable[Document], first_stage: FirstStageKind, encoder: str) -> DocumentIndex:
    """The index of exactly these documents, from the cache if it is there, and else made and kept there."""
    corpus = list(documents)
    identity = "" if first_stage == "bm25" else encoders.identity(encoder)
    name = files.sha256_of([[(one.id, one.title, one.text) for one in corpus], first_stage, identity])[:24]
    folder = files.cache_folder() / "indexes" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{name}.lock")):  # another run that needs the same index waits
        return _open_or_make(folder, corpus, first_stage, encoder)


def _open_or_make(folder: Path, corpus: list[Document], first_stage: FirstStageKind, encoder: str) -> DocumentIndex:
    if (folder / IndexDescription.FILE).is_file():
        index = DocumentIndex.open(folder)
    else:
        files.remove(folder)
        index = DocumentIndex.create(folder, first_stage, encoder)
    for start in range(0, len(corpus), CHUNK):
        index.add(corpus[start : start + CHUNK])
    return index
