"""Concepts with names, types and parents, and the hierarchy of types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from meerkat_workbench.core import artifacts, files
from meerkat_workbench.core.artifacts import Artifact
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text import texts

PREFIXES = ("MESH:", "UMLS:")  # that some files write before ids, and others do not


def bare_id(text: str) -> str:
    """An id without the prefix of its vocabulary: "MESH:D003920" is "D003920"."""
    one = text.strip()
    for prefix in PREFIXES:
        one = one.removeprefix(prefix)
    return one


class Concept(Artifact, frozen=True, kw_only=True):
    """A line of `vocabulary.jsonl`.

    Attributes:
        id: of the vocabulary, such as "D003920" or "C0011849".
        name: the preferred name.
        synonyms: other names.
        types: ids of semantic types, of which the first counts for thresholds; empty if the vocabulary has none.
        aliases: other ids of the same concept, such as those of OMIM in MEDIC.
    """

    FILE: ClassVar[str] = "vocabulary.jsonl"

    id: str
    name: str
    synonyms: list[str] = []
    types: list[str] = []
    aliases: list[str] = []

    @property
    def names(self) -> list[str]:
        return [self.name, *self.synonyms]


class SemanticType(Artifact, frozen=True, kw_only=True):
    """A line of `types.jsonl`. `parent` is empty at the top."""

    FILE: ClassVar[str] = "types.jsonl"

    id: str
    name: str
    parent: str = ""


@dataclass(frozen=True)
class Vocabulary:
    """Concepts by id, and the types that they have, by id."""

    concepts: dict[str, Concept]
    types: dict[str, SemanticType] = field(default_factory=dict)

    @cached_property
    def _id_of_alias(self) -> dict[str, str]:
        return {alias: concept.id for concept in self.concepts.values() for alias in concept.aliases}

    def resolve(self, concept_id: str) -> str:
        """The id of this vocabulary for an id of its own or an alias; an unknown id stays as it is."""
        return concept_id if concept_id in self.concepts else self._id_of_alias.get(concept_id, concept_id)

    def with_more(self, concepts: Iterable[Concept]) -> Vocabulary:
        """The same with further concepts, whose ids it lacks."""
        return Vocabulary(self.concepts | {one.id: one for one in concepts}, self.types)

    def names(self) -> Iterator[tuple[str, str]]:
        """(name, concept id) of every name of every concept."""
        return ((name, concept.id) for concept in self.concepts.values() for name in concept.names)

    def type_of(self, concept_id: str) -> str:
        """The first type of a concept; empty if it has none or is unknown."""
        concept = self.concepts.get(concept_id)
        return concept.types[0] if concept and concept.types else ""

    def type_name(self, type_id: str) -> str:
        return self.types[type_id].name if type_id in self.types else type_id

    def ancestors(self, type_id: str) -> list[str]:
        """The parent of a type, its parent, and so on."""
        found: list[str] = []
        while type_id in self.types and (parent := self.types[type_id].parent) and parent not in found:
            found.append(parent)
            type_id = parent
        return found

    def has_type(self, concept: Concept, type_id: str) -> bool:
        """Whether a type, which is not empty, is one of a concept's, or an ancestor of one."""
        return bool(type_id) and any(type_id == one or type_id in self.ancestors(one) for one in concept.types)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all concepts and types."""
        rows = [artifacts.to_json(one) for one in (*self.concepts.values(), *self.types.values())]
        return files.sha256_of(rows)


def build(concepts: Iterable[Concept], types: Iterable[SemanticType], where: Path | str) -> Vocabulary:
    """A vocabulary of cleaned names, without names that occur twice in a concept.

    Raises:
        UserError: an id twice, a concept without a name, or no concept.
    """
    found: dict[str, Concept] = {}
    for one in concepts:
        identifier = bare_id(one.id)
        if identifier in found:
            raise UserError("this id occurs twice", where=where, item=identifier, remedy="Join its names in one concept.")
        names = list(dict.fromkeys(text for name in one.names if not texts.is_blank(text := texts.clean(name))))
        if not names or texts.is_blank(one.name):
            raise UserError(
                "this concept has no name", where=where, item=one.id or "(no id)", remedy="Give it one, or remove it."
            )
        found[identifier] = Concept(
            id=identifier,
            name=names[0],
            synonyms=names[1:],
            types=list(one.types),
            aliases=[bare_id(alias) for alias in one.aliases],
        )
    if not found:
        raise UserError("holds no concept", where=where, remedy="Name the vocabulary's file or folder.")
    return Vocabulary(found, {one.id: one for one in types})


def write(folder: Path, vocabulary: Vocabulary) -> None:
    """Write a vocabulary in our own form."""
    artifacts.write_lines(folder / Concept.FILE, vocabulary.concepts.values())
    artifacts.write_lines(folder / SemanticType.FILE, vocabulary.types.values())


def read(folder: Path) -> Vocabulary:
    """A vocabulary that `write` wrote."""
    concepts = artifacts.read_lines(Concept, folder / Concept.FILE)
    return build(concepts, artifacts.read_lines(SemanticType, folder / SemanticType.FILE), folder / Concept.FILE)


def group_names(names: Sequence[tuple[str, str]]) -> Mapping[str, list[str]]:
    """Concept ids by name, of (name, concept id), each id once."""
    grouped: dict[str, list[str]] = {}
    for name, concept_id in names:
        ids = grouped.setdefault(name, [])
        if concept_id not in ids:
            ids.append(concept_id)
    return grouped
