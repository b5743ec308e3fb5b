"""Open-book systems: base and tuned model with retrieved passages in their prompts, beside the same models without.

Passages that say a held-out reference word for word are left out: an answer that copies its own reference would show nothing. How many there
are is said, because they mean that the index holds the test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from meerkat_workbench.core import artifacts, console, files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.retrieval import cross_encoder
from meerkat_workbench.retrieval.index import IndexDescription
from meerkat_workbench.retrieval.pipeline import Passage, RetrievalPipeline
from meerkat_workbench.text import texts
from meerkat_workbench.tuning.artifacts import RetrievedPassage, RetrievedPassages
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord
from meerkat_workbench.tuning.generation.questions import with_question

INTRODUCTION = "Passages that may help; some may not be about the question:"
MAX_CHARACTERS = 1000  # of a passage in a prompt; longer ones are cut at a word
SAVED_EVERY = 25  # questions; a kill loses no more
CANDIDATES = 3  # times as many passages are retrieved as are shown, because some may be references


class OpenBook:
    """The passages of each question."""

    def __init__(self, found: Sequence[RetrievedPassages]) -> None:
        self._found = list(found)
        self.by_question: dict[str, tuple[RetrievedPassage, ...]] = {one.question: one.passages for one in found}

    @property
    def left_out(self) -> int:
        """Passages that repeat a held-out reference."""
        return sum(one.left_out for one in self._found)

    def write(self, folder: Path) -> None:
        """Write `passages.jsonl`."""
        artifacts.write_lines(folder / RetrievedPassages.FILE, self._found)

    def apply(self, records: Iterable[PreparedRecord]) -> list[PreparedRecord]:
        """The records with their passages in the prompt, before the question."""
        return [self._with_passages(record) for record in records]

    def _with_passages(self, record: PreparedRecord) -> PreparedRecord:
        passages = self.by_question.get(record.question, ())
        if not passages:
            return record
        shown = "\n\n".join(f"[{one.rank}] {_shortened(one.text)}" for one in passages)
        asked = with_question(record, f"{INTRODUCTION}\n\n{shown}\n\nQuestion: {record.question}")
        return replace(asked, question=record.question)


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    if len(text) <= MAX_CHARACTERS:
        return text
    end = text.rfind(" ", 0, MAX_CHARACTERS)
    return f"{text[: end if end > 0 else MAX_CHARACTERS]} …"


def index_identity(folder: str) -> str:
    """Hash of an index: its documents, its models and how they are joined. UserError if the folder is no index."""
    path = Path(folder)
    if not (path / IndexDescription.FILE).is_file():
        raise UserError("is not an index", where=f"RETRIEVAL={folder}", remedy="`python reranking.py index` makes one.")
    described = artifacts.read(IndexDescription, path / IndexDescription.FILE)
    corpus = files.sha256_file(path / f"generation-{described.generation}" / "corpus.jsonl")
    reranker = cross_encoder.identity(described.reranker) if described.reranker else ""
    return files.sha256_of([corpus, described.encoder_identity, described.first_stage, reranker])


def retrieve(folder: str, records: Sequence[PreparedRecord], count: int) -> OpenBook:
    """Find `count` passages for each record's question. What was found is kept in the cache, so that a resume finds the same.

    Args:
        folder: of the index.
        records: all records of the fixed splits, whose answers must not be among the passages.
    """
    key = files.sha256_of([index_identity(folder), count, sorted({(one.question, one.response) for one in records})])
    path = files.cache_folder() / "passages" / f"{key[:24]}.jsonl"
    found = artifacts.read_lines(RetrievedPassages, path, drop_torn_tail=True)
    known = {one.question for one in found}
    missing = [one for one in dict.fromkeys(record.question for record in records) if one not in known]
    if not missing:
        return OpenBook(found)
    references = {texts.key_of_words(texts.words_of(record.response)) for record in records}
    with console.working(f"loading the index {folder}"):
        pipeline = RetrievalPipeline.open(Path(folder))
    with console.Progress("retrieving passages", len(missing), "questions") as progress:
        for question in missing:
            ranking = pipeline.retrieve_and_rerank(question, CANDIDATES * count)
            kept = [one for one in ranking if texts.key_of_words(texts.words_of(one.document.text)) not in references]
            passages = tuple(_stored(one, rank) for rank, one in enumerate(kept[:count], start=1))
            found.append(RetrievedPassages(question=question, passages=passages, left_out=len(ranking) - len(kept)))
            if len(found) % SAVED_EVERY == 0:
                artifacts.write_lines(path, found)
            progress.advance()
    artifacts.write_lines(path, found)
    return OpenBook(found)


def _stored(passage: Passage, rank: int) -> RetrievedPassage:
    return RetrievedPassage(
        rank, passage.document.id, passage.document.content, passage.score, passage.first_rank, passage.probability
    )
