"""Reading judged queries: MEDIQA, MS MARCO, TREC DL, BEIR, Quora pairs, and plain tables of query, document and label.

Every form becomes `JudgedQueries`. Large files are read line by line: of MS MARCO's 8.8 million passages only the judged ones are kept, and as
many others as are wanted for unrelated negatives. The errors name the file, the line and what is wrong with it.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from xml.etree import ElementTree

from meerkat_workbench.core import files, input_files
from meerkat_workbench.core.errors import UserError, one_line
from meerkat_workbench.retrieval.documents import (
    Document,
    JudgedQueries,
    Judgements,
    Query,
    Run,
    Scored,
    read_documents,
    read_judgements,
    read_queries,
)  # fmt: skip
from meerkat_workbench.text import texts

Form = Literal["auto", "specialty", "mediqa", "msmarco", "triples", "beir", "quora", "table", "hub"]
FORMS: tuple[Form, ...] = get_args(Form)
MEDIQA_RELEVANT = 2  # grades 1 to 4 are kept as relevance 0 to 3; "correct" is grade 3 or more
QUERY_NAMES, DOCUMENT_NAMES = ("query", "question"), ("document", "passage", "answer", "text")
LABEL_NAMES = ("label", "relevance", "score", "is_duplicate")
MAX_LABEL = 1000


@dataclass(frozen=True)
class QuestionAnswer:
    """A question with its answer, from a file of its own."""

    question: str
    answer: str


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
    first = next(iter(_lines(path)), (1, ""))[1]
    cells, by_comma = ([input_files.normalized_field(cell) for cell in first.split(delimiter)] for delimiter in ("\t", ","))
    if any({"question1", "is_duplicate"} <= set(header) for header in (cells, by_comma)):
        return "quora"
    if len(cells) == 3 and not set(cells) & {*QUERY_NAMES, *DOCUMENT_NAMES} and not first.lstrip().startswith("{"):
        return "triples"
    return "table"


def load(path: Path, form: Form, *, more_documents: int, seed: int) -> JudgedQueries:
    """Judged queries from a file or folder in any form but "specialty", whose files the tuning task reads.

    Args:
        more_documents: documents of a large collection that are kept without a judgement, drawn by `seed`.
    """
    readers: dict[str, Callable[[], JudgedQueries]] = {
        "mediqa": lambda: read_mediqa(path),
        "msmarco": lambda: read_msmarco(path, more_documents, seed),
        "triples": lambda: read_triples(path),
        "beir": lambda: read_beir(path),
        "quora": lambda: read_quora(path),
        "table": lambda: read_table(path),
        "hub": lambda: read_beir(download(str(path))),
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


# --- builders


class _Builder:
    """Collects judged queries; equal texts become one query or one document."""

    def __init__(self) -> None:
        self.queries: dict[str, Query] = {}
        self.documents: dict[str, Document] = {}
        self.judgements: Judgements = {}

    def query(self, text: str, where: str) -> str:
        """The id of a query's text; UserError if it is empty."""
        text = texts.clean(text)
        if texts.is_blank(text):
            raise UserError("the query is empty", where=where, remedy="Fill it in, or remove the line.")
        name = f"q{files.short_hash(text)}"
        self.queries.setdefault(name, Query(id=name, text=text))
        return name

    def document(self, text: str, where: str, title: str = "") -> str:
        """The id of a document's text; UserError if it is empty."""
        text = texts.clean(text)
        if texts.is_blank(text):
            raise UserError("the document is empty", where=where, remedy="Fill it in, or remove the line.")
        name = f"d{files.short_hash(title + text)}"
        self.documents.setdefault(name, Document(id=name, text=text, title=title))
        return name

    def judge(self, query: str, document: str, relevance: int) -> None:
        """Add a judgement; of two for the same pair the higher one counts."""
        judged = self.judgements.setdefault(query, {})
        judged[document] = max(relevance, judged.get(document, relevance))

    def done(self, relevant_from: int = 1, candidates: Run | None = None) -> JudgedQueries:
        return JudgedQueries(self.queries, self.documents, self.judgements, relevant_from, candidates or {})


def from_question_answers(pairs: Iterable[QuestionAnswer]) -> JudgedQueries:
    """Each answer is a document, relevant to its question. Equal questions are one query with several answers, and equal answers one document."""
    builder = _Builder()
    by_words: dict[int, str] = {}  # a question's words to the query that stands for it
    for pair in pairs:
        key = texts.key_of_words(texts.words_of(pair.question))
        query = by_words.get(key) or builder.query(pair.question, "question")
        by_words[key] = query
        builder.judge(query, builder.document(pair.answer, "answer"), 1)
    return builder.done()


# --- the forms


def read_mediqa(path: Path) -> JudgedQueries:
    """MEDIQA 2019 task 3 (Ben Abacha et al. 2019): one XML file or a folder of them. Grades 1 to 4 become relevance 0 to 3.

    The answers of a question are its candidates, in the order of the system that found them. A file without grades (the test set) is refused.
    """
    queries, documents, judgements, candidates = dict[str, Query](), dict[str, Document](), Judgements(), Run()
    paths = [path] if path.is_file() else sorted(path.glob("*.xml"))
    for file in paths:
        try:
            root = ElementTree.fromstring(input_files.read_bytes(file))
        except ElementTree.ParseError as error:
            raise UserError(f"is not valid XML ({error})", where=file) from None
        for question in root.iter("Question"):
            query = f"{file.stem.rsplit('-', 1)[-1]}-{question.get('QID')}"
            text = texts.clean(question.findtext("QuestionText") or "")
            where = f"{file.name}, question {question.get('QID')}"
            if texts.is_blank(text):
                raise UserError("has no QuestionText", where=where)
            queries[query] = Query(id=query, text=text)
            ranks: list[tuple[int, str]] = []
            for answer in question.iter("Answer"):
                name = f"{query}-{answer.get('AID', '').rpartition('_')[2]}"
                body = texts.clean(answer.findtext("AnswerText") or "")
                try:
                    rank, grade = int(answer.get("SystemRank", "")), int(answer.get("ReferenceScore", ""))
                except ValueError:
                    fault = "has no whole number as SystemRank and ReferenceScore"
                    raise UserError(
                        fault, where=f"{where}, answer {answer.get('AID')}", remedy="Use the training or validation files."
                    ) from None
                if not 1 <= grade <= 4 or rank < 1:
                    raise UserError(
                        f"has the grade {grade} and the rank {rank}; grades are 1 to 4, ranks 1 and more",
                        where=f"{where}, answer {answer.get('AID')}",
                    )
                if texts.is_blank(body):
                    raise UserError("has no AnswerText", where=f"{where}, answer {answer.get('AID')}")
                documents[name] = Document(id=name, text=body)
                judgements.setdefault(query, {})[name] = grade - 1
                ranks.append((rank, name))
            candidates[query] = [Scored(name, 1 / rank) for rank, name in sorted(ranks)]
    return JudgedQueries(queries, documents, judgements, MEDIQA_RELEVANT, candidates)


def read_beir(folder: Path) -> JudgedQueries:
    """A folder of BEIR (Thakur et al. 2021): corpus.jsonl, queries.jsonl, and judgements in qrels/*.tsv, of all its splits together."""
    corpus, queries = _one_of(folder, "corpus.jsonl"), _one_of(folder, "queries.jsonl")
    paths = sorted((folder / "qrels").glob("*.tsv"))
    if not paths:
        raise UserError(
            "holds no judgements", where=folder / "qrels", remedy="BEIR keeps them in qrels/train.tsv, dev.tsv and test.tsv."
        )
    judgements = _judgements_of(paths)
    known, documents = read_queries(queries), read_documents(corpus)
    _check_known(judgements, known, documents, folder / "qrels")
    return JudgedQueries({name: known[name] for name in judgements}, documents, judgements)


def _judgements_of(paths: Sequence[Path]) -> Judgements:
    """The judgements of several files together; of two for the same pair the later file's counts."""
    judgements: Judgements = {}
    for path in paths:
        for query, found in read_judgements(path).items():
            judgements.setdefault(query, {}).update(found)
    return judgements


def _check_known(judgements: Judgements, queries: dict[str, Query], documents: dict[str, Document], where: Path) -> None:
    for query, found in judgements.items():
        if query not in queries:
            raise UserError("judges a query that is not in queries.jsonl", where=where, item=query)
        for document in found:
            if document not in documents:
                raise UserError("judges a document that is not in corpus.jsonl", where=where, item=document)


def read_msmarco(folder: Path, more_documents: int, seed: int) -> JudgedQueries:
    """MS MARCO passages (Bajaj et al. 2016) and the TREC Deep Learning tracks on them (Craswell et al. 2020).

    The folder has `collection*.tsv` (id, text), one or more `*queries*.tsv` (id, text), and one or more `*qrels*` in TREC's form.
    """
    qrels = [path for path in sorted(folder.iterdir()) if "qrels" in path.name.lower() and path.is_file()]
    topics = [path for path in sorted(folder.iterdir()) if "queries" in path.name.lower() and path.is_file()]
    for paths, what in (
        (qrels, "qrels (such as qrels.dev.tsv or 2019qrels-pass.txt)"),
        (topics, "queries (such as queries.dev.tsv)"),
    ):
        if not paths:
            raise UserError(f"holds no {what}", where=folder)
    judgements = _judgements_of(qrels)
    queries = {name: Query(id=name, text=text) for path in topics for name, text in _two_columns(path) if name in judgements}
    wanted = {document for name in queries for document in judgements[name]}
    documents: dict[str, Document] = {}
    draw, others, seen = random.Random(seed), list[Document](), 0
    for path in sorted(folder.glob("collection*.tsv*")):
        for name, text in _two_columns(path):
            if name in wanted:
                documents[name] = Document(id=name, text=text)
            else:  # a sample of the others of fixed size (reservoir sampling)
                seen += 1
                place = len(others) if len(others) < more_documents else draw.randrange(seen)
                if place < more_documents:
                    others[place : place + 1] = [Document(id=name, text=text)]
    if missing := wanted - set(documents):
        raise UserError(f"lacks {len(missing)} judged passages, such as {min(missing)}", where=folder / "collection.tsv")
    kept = {name: judgements[name] for name in queries}
    graded = any(value > 1 for found in kept.values() for value in found.values())
    # TREC DL: 0 and 1 count as not relevant, 2 and 3 as relevant
    return JudgedQueries(queries, documents | {one.id: one for one in others}, kept, 2 if graded else 1)


def read_triples(path: Path) -> JudgedQueries:
    """MS MARCO's triples: query, relevant passage and irrelevant passage, separated by tabs, without a header."""
    builder = _Builder()
    for number, line in _lines(path):
        where = f"{path.name}, line {number}"
        cells = line.split("\t")
        if len(cells) != 3:
            raise UserError(f"has {len(cells)} columns, not query, relevant and irrelevant passage", where=where)
        query = builder.query(cells[0], where)
        builder.judge(query, builder.document(cells[1], where), 1)
        builder.judge(query, builder.document(cells[2], where), 0)
    return builder.done()


def read_quora(path: Path) -> JudgedQueries:
    """Quora's question pairs (2017): columns question1, question2 and is_duplicate, separated by tabs or commas."""
    builder = _Builder()
    for where, row in _rows(path, [("question1",), ("question2",), ("is_duplicate",)], "question1, question2 and is_duplicate"):
        query = builder.query(row["question1"], where)
        builder.judge(query, builder.document(row["question2"], where), _label(row["is_duplicate"], where, most=1))
    return builder.done()


def read_table(path: Path) -> JudgedQueries:
    """JSON lines or a table with the columns query, document and label, and optionally title. A label of 1 or more is relevant."""
    builder = _Builder()
    needs = "query, document and label"
    for where, row in _rows(path, [QUERY_NAMES, DOCUMENT_NAMES, LABEL_NAMES], needs):
        query = builder.query(str(_first(row, QUERY_NAMES, where, needs)), where)
        document = builder.document(str(_first(row, DOCUMENT_NAMES, where, needs)), where, str(row.get("title") or ""))
        builder.judge(query, document, _label(_first(row, LABEL_NAMES, where, needs), where))
    return builder.done()


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


# --- lines and rows


def _one_of(folder: Path, name: str) -> Path:
    """The file, packed with gzip or not."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(
        "there is no such file", where=folder / name, remedy="A BEIR folder has corpus.jsonl, queries.jsonl and qrels/."
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with text and their numbers, from 1, read one by one."""
    opened: Any = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise UserError(f"cannot be read ({one_line(error)})", where=path, remedy="Save it as UTF-8.") from None


def _two_columns(path: Path) -> Iterator[tuple[str, str]]:
    """Id and text of each line."""
    for number, line in _lines(path):
        name, tab, text = line.partition("\t")
        if not tab or texts.is_blank(text):
            raise UserError("is not an id, a tab and a text", where=f"{path.name}, line {number}")
        yield name, texts.clean(text)


def _rows(path: Path, wanted: Sequence[Sequence[str]], needs: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of JSON lines, JSON or a table, with where each stands."""
    try:
        text = input_files.read_text(path)
        if input_files.suffix_of(path) in (".jsonl", ".ndjson", ".json"):
            found = input_files.json_value(text, lines=input_files.suffix_of(path) != ".json")
            rows: Iterable[Any] = [{input_files.normalized_field(name): value for name, value in row.items()} if isinstance(row, dict) else "is not an object"
                                   for row in (found if isinstance(found, list) else [found])]  # fmt: skip
        else:
            rows = input_files.Table.of(text, wanted=wanted, needs=needs, tabs=input_files.suffix_of(path) == ".tsv").rows()
        for number, row in enumerate(rows, start=1):
            where = f"{path.name}, row {number}"
            if isinstance(row, str):
                raise UserError(row, where=where)
            yield where, row
    except UserError as error:
        raise error if error.where else error.within(path) from None


def _first(row: dict[str, Any], names: Sequence[str], where: str, needs: str) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise UserError(f"has no {names[0]}; it needs {needs}", where=where)


def _label(value: Any, where: str, *, most: int = MAX_LABEL) -> int:
    """A label as a whole number from 0 to `most`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number <= most or number != int(number):
        raise UserError(
            f"has the label {value!r}; a label is a whole number from 0 to {most}", where=where, remedy="0 means not relevant."
        )
    return int(number)
