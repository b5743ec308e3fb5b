"""Reading judged queries in any form, which the names of the files tell.

Large files are read line by line: of MS MARCO's 8.8 million passages only the judged ones are kept, and as many others as are wanted for unrelated
negatives.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from meerkat_workbench.core import input_files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.reranking.loaders import beir, mediqa, msmarco, rows, tables
from meerkat_workbench.retrieval.documents import JudgedQueries

Form = Literal["auto", "specialty", "mediqa", "msmarco", "triples", "beir", "quora", "table", "hub"]
FORMS: tuple[Form, ...] = get_args(Form)


def detect(path: Path) -> Form:
    """The form of a file or folder, by its names.

    Raises:
        UserError: there is no such path, or it has none of the known forms.
    """
    if not path.exists():
        if path.as_posix().count("/") == 1 and not path.suffix:
            return "hub"
        raise UserError("there is no such file or folder", where=f"DATA={path}")
    names = [path.name] if path.is_file() else [entry.name for entry in path.iterdir()]
    lower = [name.lower().removesuffix(".gz") for name in names]
    if "corpus.jsonl" in lower:
        return "beir"
    if any(name.startswith("collection") and name.endswith(".tsv") for name in lower):
        return "msmarco"
    if any(name.endswith(".xml") for name in lower):
        return "mediqa"
    if any(name.startswith("dataset_with_answers_") for name in lower):
        return "specialty"
    if path.is_file() and path.suffix in (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".gz"):
        return _detect_table(path)
    fault = "is none of the forms that are read"
    raise UserError(
        fault, where=f"DATA={path}", remedy=f"Name its form with FORMAT={', '.join(form for form in FORMS if form != 'auto')}."
    )


def _detect_table(path: Path) -> Form:
    first = next(iter(rows.lines(path)), (1, ""))[1]
    cells, by_comma = ([input_files.normalized_field(cell) for cell in first.split(delimiter)] for delimiter in ("\t", ","))
    if any({"question1", "is_duplicate"} <= set(header) for header in (cells, by_comma)):
        return "quora"
    if len(cells) == 3 and not set(cells) & {*tables.QUERY_NAMES, *tables.DOCUMENT_NAMES} and not first.lstrip().startswith("{"):
        return "triples"
    return "table"


def load(path: Path, form: Form, *, more_documents: int, seed: int) -> JudgedQueries:
    """Judged queries from a file or folder in any form but "specialty", whose files the tuning task reads.

    Args:
        more_documents: documents of a large collection that are kept without a judgement, drawn by `seed`.
    """
    readers: dict[str, Callable[[], JudgedQueries]] = {
        "mediqa": lambda: mediqa.read_mediqa(path),
        "msmarco": lambda: msmarco.read_msmarco(path, more_documents, seed),
        "triples": lambda: msmarco.read_triples(path),
        "beir": lambda: beir.read_beir(path),
        "quora": lambda: tables.read_quora(path),
        "table": lambda: tables.read_table(path),
        "hub": lambda: beir.read_beir(beir.download(str(path))),
    }
    kind = "file" if form in ("triples", "quora", "table") else "folder" if form in ("msmarco", "beir") else ""
    if (kind == "file" and not path.is_file()) or (kind == "folder" and not path.is_dir()):
        raise UserError(
            f"is not a {kind}",
            where=f"DATA={path}",
            item=f"FORMAT={form}",
            remedy=f"Name a {kind} of this form, or another form.",
        )
    return readers[form]()


def check_answered(judged: JudgedQueries, where: str) -> None:
    """Raise UserError if no query has a relevant document."""
    if not any(judged.relevant(name) for name in judged.queries):
        raise UserError("has no query with a relevant document", where=where, remedy="Check the labels and RELEVANT_FROM.")
