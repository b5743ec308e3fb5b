"""Linking the mentions of a file: PubTator, or JSON lines of doc_id, start, end, text, left, right and type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meerkat_workbench.concepts import abbreviations, pubtator
from meerkat_workbench.concepts import candidates as candidate_lists
from meerkat_workbench.concepts.candidates import MentionInContext
from meerkat_workbench.concepts.linker import Link, Linker
from meerkat_workbench.concepts.pubtator import AnnotatedDocument
from meerkat_workbench.concepts.thresholds import Tier
from meerkat_workbench.core import artifacts, files, input_files
from meerkat_workbench.core.artifacts import Artifact
from meerkat_workbench.core.chunks import chunks
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text import texts

CHUNK = 1000  # mentions that are linked and written at a time
SHOWN = 10  # candidates of a mention that are written


class MentionRow(Artifact, frozen=True, kw_only=True):
    """A mention to link: a line of the input.

    Attributes:
        left, right: text before and after it, with its spaces.
        concept_ids: what it means, where that is known; `statistics` then measures the calibration.
    """

    doc_id: str
    text: str
    start: int = 0
    end: int = 0
    left: str = ""
    right: str = ""
    type: str = ""
    concept_ids: list[str] | None = None


class LinkedMention(Artifact, frozen=True, kw_only=True):
    """A line of the output: the mention with its candidates, [concept id, probability] each, best first; none where the linker abstains."""

    doc_id: str
    start: int
    end: int
    text: str
    left: str
    right: str
    type: str
    candidates: list[tuple[str, float]]
    tier: str
    threshold: float
    threshold_level: str


def read(path: Path) -> list[tuple[MentionRow, MentionInContext]]:
    """The mentions of a file.

    Raises:
        UserError: the file is not there, or a line is in neither form.
    """
    return _of_jsonl(path) if path.name.endswith((".jsonl", ".jsonl.gz")) else _of_pubtator(path)


def _of_pubtator(path: Path) -> list[tuple[MentionRow, MentionInContext]]:
    return of_documents(pubtator.read_pubtator(path))


def of_documents(documents: Iterable[AnnotatedDocument]) -> list[tuple[MentionRow, MentionInContext]]:
    """The mentions of documents. What they mean is known where any mention of their document has a concept."""
    found = []
    for document in documents:
        annotated = any(mention.concept_ids for mention in document.mentions)
        for mention, one in zip(document.mentions, candidate_lists.in_context(document), strict=True):
            row = MentionRow(doc_id=document.id, text=mention.text, start=mention.start, end=mention.end, left=one.left, right=one.right,
                             type=mention.type, concept_ids=list(mention.concept_ids) if annotated else None)  # fmt: skip
            found.append((row, one))
    return found


def _of_jsonl(path: Path) -> list[tuple[MentionRow, MentionInContext]]:
    values = input_files.named_json_lines(path)
    rows = [_row(value, f"{path}, line {number}") for number, value in values]
    by_document: dict[str, list[MentionRow]] = {}
    for row in rows:
        by_document.setdefault(row.doc_id, []).append(row)
    long_forms = {name: _long_forms(found) for name, found in by_document.items()}
    others = {
        name: tuple(dict.fromkeys(abbreviations.expand(row.text, long_forms[name]) for row in found))
        for name, found in by_document.items()
    }
    return [(row, MentionInContext(row.text, abbreviations.expand(row.text, long_forms[row.doc_id]), row.left, row.right, row.type, row.doc_id,
                                   others[row.doc_id])) for row in rows]  # fmt: skip


def _row(value: Any, where: str) -> MentionRow:
    if isinstance(value, dict) and isinstance(value.get("doc_id"), int):
        value["doc_id"] = str(value["doc_id"])
    row = artifacts.from_json(MentionRow, value, where)
    if texts.is_blank(row.text):
        raise UserError(
            "this mention is empty", where=where, item=f"document {row.doc_id}", remedy="Fill in its text, or remove the line."
        )
    return row


def _long_forms(rows: Iterable[MentionRow]) -> dict[str, str]:
    """Abbreviations that the contexts of a document's mentions define."""
    found: dict[str, str] = {}
    for row in rows:
        found |= abbreviations.find(f"{row.left}{row.text}{row.right}")
    return found


def link(found: Linker, mentions: list[tuple[MentionRow, MentionInContext]]) -> Iterator[tuple[MentionRow, Link]]:
    """The mentions with their links, some at a time."""
    for chunk in chunks(mentions, CHUNK):
        links = found.links([one for _, one in chunk], what="linking")
        yield from ((row, made) for (row, _), made in zip(chunk, links, strict=True))


@dataclass
class LinkCount:
    """What was written; filled while links are made."""

    tiers: Counter[Tier] = field(default_factory=Counter)
    without_candidate: int = 0


def write(path: Path, linked: Iterable[tuple[MentionRow, Link]]) -> LinkCount:
    """Write JSON lines as the links are made; the file is complete or not there."""
    count = LinkCount()

    def rows() -> Iterator[Any]:
        for row, made in linked:
            count.tiers[made.tier] += 1
            count.without_candidate += not made.candidates
            yield artifacts.to_json(_linked(row, made))

    files.write_json_lines(path, rows())
    return count


def _linked(row: MentionRow, made: Link) -> LinkedMention:
    shown = [(one.concept_id, round(one.probability, 6)) for one in made.candidates[:SHOWN]] if made.concept_id else []
    return LinkedMention(doc_id=row.doc_id, start=row.start, end=row.end, text=row.text, left=row.left, right=row.right, type=row.type,
                         candidates=shown, tier=made.tier, threshold=round(made.decision.value, 6), threshold_level=made.decision.level)  # fmt: skip


def judged(found: Linker, linked: Iterable[tuple[MentionRow, Link]]) -> list[tuple[Link, bool]]:
    """The links of mentions that say what they mean, and whether each best candidate is right; one that ties with a wrong one is not."""
    rows = []
    for row, made in linked:
        if row.concept_ids is None:
            continue
        wanted = {found.vocabulary.resolve(one) for one in row.concept_ids}
        best = [one.concept_id for one in made.candidates if one.probability == made.candidates[0].probability]
        rows.append((made, bool(best) and all(one in wanted for one in best)))
    return rows
