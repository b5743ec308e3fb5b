"""Documents with annotated mentions, in PubTator's form.

A document is `pmid|t|title`, `pmid|a|abstract` and a line for each mention: pmid, start, end, text, type, concept. Offsets count characters
of title, one separator, and abstract. BC5CDR and NCBI disease name several concepts of one mention as `A|B` (a composite: "breast
and ovarian cancer") or `A+B` (both at once); BC5CDR writes -1 where the vocabulary has no concept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from meerkat_workbench.concepts.vocabulary import bare_id
from meerkat_workbench.core import input_files
from meerkat_workbench.core.artifacts import Artifact
from meerkat_workbench.core.errors import UserError

TEXT_LINE = re.compile(r"([^|\t]+)\|([ta])\|(.*)")
NO_CONCEPT = ("-1", "-")
SHOWN = 60  # characters of a text in a message


class Mention(Artifact, frozen=True):
    """A span of a document.

    Attributes:
        start, end: characters of the document's text.
        concept_ids: what the span means; several for a composite, none if the vocabulary has no such concept or nobody judged it.
        composite: whether the span names several concepts.
        parts: of a composite, the name of each concept where the corpus gives them.
    """

    document_id: str
    start: int
    end: int
    text: str
    type: str
    concept_ids: tuple[str, ...] = ()
    composite: bool = False
    parts: tuple[str, ...] = ()


class AnnotatedDocument(Artifact, frozen=True):
    """A document's text, and its mentions in the order of their starts."""

    id: str
    text: str
    mentions: list[Mention] = []

    def context(self, mention: Mention, width: int) -> tuple[str, str]:
        """Up to `width` characters before and after a mention, cut at white space."""
        left, right = self.text[max(0, mention.start - width) : mention.start], self.text[mention.end : mention.end + width]
        if mention.start > width:
            left = left.partition(" ")[2]
        if mention.end + width < len(self.text):
            right = right.rpartition(" ")[0]
        return left, right


def read_pubtator(path: Path) -> list[AnnotatedDocument]:
    """The documents of a PubTator file; a document that occurs twice is kept once.

    Raises:
        UserError: a line that is neither text nor mention, a mention outside the text, or one whose text differs; names file and line.
    """
    text = input_files.read_named(path)
    found: dict[str, AnnotatedDocument] = {}
    for block in _blocks(text):
        document = _read_block(block, path)
        found.setdefault(document.id, document)
    if not found:
        raise UserError("holds no document", where=path, remedy="PubTator documents begin with `pmid|t|title`.")
    return list(found.values())


def _blocks(text: str) -> Iterator[list[tuple[int, str]]]:
    """The lines of each document with their numbers. A document begins with its title."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        match = TEXT_LINE.match(line)
        if match and match[2] == "t" and block:
            yield block
            block = []
        if line.strip():
            block.append((number, line))
    if block:
        yield block


def _read_block(block: list[tuple[int, str]], path: Path) -> AnnotatedDocument:
    first, line = block[0]
    title = TEXT_LINE.match(line)
    if title is None or title[2] != "t":
        raise UserError("is not a line of PubTator", where=f"{path}, line {first}", item=line[:SHOWN],
                        remedy="A document begins with `pmid|t|title`.")  # fmt: skip
    abstract = TEXT_LINE.match(block[1][1]) if len(block) > 1 else None
    if abstract and abstract[1] != title[1]:
        raise UserError(f"is the abstract of document {abstract[1]}", where=f"{path}, line {block[1][0]}", item=f"document {title[1]}",
                        remedy="Give title and abstract the same id.")  # fmt: skip
    parts = [title[3]] + ([abstract[3]] if abstract and abstract[2] == "a" else [])
    document = AnnotatedDocument(title[1], " ".join(parts))
    mentions = []
    for number, line in block[len(parts) :]:
        cells = line.split("\t")
        if len(cells) in (4, 5) and cells[0] == document.id and not cells[1].strip().isdigit():
            continue  # a relation between two concepts, as BC5CDR and BioRED have them
        mentions.append(_read_mention(cells, document, f"{path}, line {number}"))
    return msgspec.structs.replace(document, mentions=sorted(mentions, key=lambda one: (one.start, one.end)))


def _read_mention(cells: list[str], document: AnnotatedDocument, where: str) -> Mention:
    try:
        name, start, end, text, kind = cells[:5]
        first, last = int(start), int(end)
    except ValueError:
        raise UserError("is not a mention of PubTator", where=where, item="\t".join(cells)[:SHOWN],
                        remedy="Write pmid, start, end, text, type and concept, separated by tabs.") from None  # fmt: skip
    if name != document.id:
        raise UserError(f"is a mention of document {name}", where=where, item=f"document {document.id}", remedy="Correct its id.")
    if not 0 <= first < last <= len(document.text):
        raise UserError(f"lies outside the text of {len(document.text)} characters", where=where, item=f"{first} to {last}",
                        remedy="Correct the offsets.")  # fmt: skip
    there = document.text[first:last]
    if there.split() != text.split():  # NCBI disease has mentions with white space of its own at their ends
        raise UserError(f"says {text[:SHOWN]!r}, but the text there is {there[:SHOWN]!r}", where=where,
                        item=f"{first} to {last}", remedy="Offsets count characters of title, one space, and abstract.")  # fmt: skip
    ids, composite = parse_concepts(cells[5] if len(cells) > 5 else "")
    parts = tuple(part.strip() for part in cells[6].split("|")) if len(cells) > 6 and composite else ()
    return Mention(name, first, last, there.strip(), kind.strip(), ids, composite, parts if len(parts) == len(ids) else ())


def parse_concepts(cell: str) -> tuple[tuple[str, ...], bool]:
    """The concept ids of an annotation, and whether it names several."""
    ids = []
    for part in re.split(r"[|+;,]", cell):
        one = bare_id(part)
        if one and one not in NO_CONCEPT and one not in ids:
            ids.append(one)
    return tuple(ids), len(ids) > 1
