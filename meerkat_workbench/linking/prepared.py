"""The prepared folder of the linker: a vocabulary, documents by split, and the pairs of the training."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meerkat_workbench.concepts import candidates as candidate_lists
from meerkat_workbench.concepts import vocabulary
from meerkat_workbench.concepts.pubtator import AnnotatedDocument
from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.core import artifacts, files
from meerkat_workbench.linking.artifacts import HARD, LinkingDataManifest, LinkPairRow, LinkSplitSize, documents_file
from meerkat_workbench.linking.splits import LinkSplit
from meerkat_workbench.trainers.pair_groups import Candidate, Group


def write_documents(folder: Path, divided: Mapping[LinkSplit, Sequence[AnnotatedDocument]]) -> None:
    for split, documents in divided.items():
        artifacts.write_lines(folder / documents_file(split), documents)


def size_of(documents: Sequence[AnnotatedDocument], words: Vocabulary) -> LinkSplitSize:
    mentions = [one for document in documents for one in document.mentions]
    unknown = sum(not any(name in words.concepts for name in candidate_lists.gold(one, words)) for one in mentions)
    return LinkSplitSize(len(documents), len(mentions), sum(one.composite for one in mentions), unknown)


def split_hashes(folder: Path) -> dict[LinkSplit, str]:
    """Hash of each split's documents."""
    return {one: files.sha256_file(folder / documents_file(one)) for one in LinkSplit}


@dataclass(frozen=True)
class LinkingData:
    """A prepared folder that is read."""

    folder: Path
    manifest: LinkingDataManifest
    vocabulary: Vocabulary

    @classmethod
    def open(cls, folder: Path) -> LinkingData:
        """Raises UserError if the folder is not finished."""
        manifest = LinkingDataManifest.require(folder)
        return cls(folder, manifest, vocabulary.read(folder))

    def documents(self, *splits: LinkSplit) -> list[AnnotatedDocument]:
        """The documents of some splits."""
        return [one for split in splits for one in artifacts.read_lines(AnnotatedDocument, self.folder / documents_file(split))]

    def groups(self) -> Iterator[Group]:
        """Training groups, read a line at a time: a large corpus has millions of pairs."""
        path = self.folder / LinkPairRow.FILE
        rows = (artifacts.from_json(LinkPairRow, value, path) for _, _, value in files.json_lines(path))
        for _, group in itertools.groupby(rows, key=lambda row: row.group):
            found = list(group)
            yield Group(found[0].mention, [Candidate(row.concept, row.label, row.kind in HARD) for row in found])
