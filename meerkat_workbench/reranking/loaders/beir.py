"""BEIR (Thakur et al. 2021), from a folder or from the Hub."""

from __future__ import annotations

from pathlib import Path

from meerkat_workbench.core import files
from meerkat_workbench.core.errors import UserError, one_line
from meerkat_workbench.retrieval.documents import (
    Document,
    JudgedQueries,
    Judgements,
    Query,
    read_all_judgements,
    read_documents,
    read_queries,
)


def read_beir(folder: Path) -> JudgedQueries:
    """A folder: corpus.jsonl, queries.jsonl, and judgements in qrels/*.tsv, of all its splits together."""
    corpus, queries = _one_of(folder, "corpus.jsonl"), _one_of(folder, "queries.jsonl")
    paths = sorted((folder / "qrels").glob("*.tsv"))
    if not paths:
        raise UserError(
            "holds no judgements", where=folder / "qrels", remedy="BEIR keeps them in qrels/train.tsv, dev.tsv and test.tsv."
        )
    judgements = read_all_judgements(paths)
    known, documents = read_queries(queries), read_documents(corpus)
    _check_known(judgements, known, documents, folder / "qrels")
    return JudgedQueries({name: known[name] for name in judgements}, documents, judgements)


def _check_known(judgements: Judgements, queries: dict[str, Query], documents: dict[str, Document], where: Path) -> None:
    for query, found in judgements.items():
        if query not in queries:
            raise UserError("judges a query that is not in queries.jsonl", where=where, item=query)
        for document in found:
            if document not in documents:
                raise UserError("judges a document that is not in corpus.jsonl", where=where, item=document)


def _one_of(folder: Path, name: str) -> Path:
    """The file, packed with gzip or not."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(
        "there is no such file", where=folder / name, remedy="A BEIR folder has corpus.jsonl, queries.jsonl and qrels/."
    )


def download(name: str) -> Path:
    """A BEIR data set of the Hub, such as BeIR/nfcorpus, in the Hub's cache. Its judgements are in NAME-qrels.

    Raises:
        UserError: the Hub cannot be reached, or has no such data set.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, repo_type="dataset"))
        target = files.cache_folder() / "beir" / name.replace("/", "--")
        target.mkdir(parents=True, exist_ok=True)
        qrels = folder / "qrels" if (folder / "qrels").is_dir() else Path(snapshot_download(f"{name}-qrels", repo_type="dataset"))
    except Exception as error:  # any failure of the network, the access rights or the name
        remedy = f"Check the name and the network, or give a local folder. The message of the Hub: {one_line(error)}"
        raise UserError("could not be downloaded, and there is no such folder", where=f"DATA={name}", remedy=remedy) from error
    for source, place in [(path, target) for path in folder.glob("*.jsonl*")] + [
        (path, target / "qrels") for path in qrels.glob("*.tsv")
    ]:
        place.mkdir(exist_ok=True)
        if not (place / source.name).exists():
            (place / source.name).symlink_to(source)
    return target
