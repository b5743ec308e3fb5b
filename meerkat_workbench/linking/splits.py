"""Documents of annotated corpora, divided into disjoint splits."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from meerkat_workbench.concepts import pubtator
from meerkat_workbench.concepts.pubtator import AnnotatedDocument
from meerkat_workbench.core import files, input_files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text import texts


class LinkSplit(enum.StrEnum):
    """What a document is for."""

    TRAIN = (
        "train"  # pairs of the cross-encoder, names of training mentions, and the weights of names, vectors and training mentions
    )
    VALIDATION = "validation"  # the best weights of the cross-encoder, and how much it counts
    CALIBRATE = "calibrate"  # the calibrator
    TUNE = "tune"  # thresholds
    TEST = "test"  # figures


@dataclass(frozen=True)
class SplitRules:
    """How documents are divided.

    Attributes:
        ids: for some splits, a file with a document's id on each line, as corpora are published.
        test_corpus: corpora whose documents are all for the test.
        shares: fractions of the remaining documents; TRAIN gets the rest.
    """

    ids: Mapping[LinkSplit, Path]
    test_corpus: Sequence[Path]
    shares: Mapping[LinkSplit, float]
    seed: int


def read_corpora(paths: Sequence[Path], types: Sequence[str]) -> list[AnnotatedDocument]:
    """The documents of PubTator files, each once: a later document with the same id or the same text is dropped.

    Args:
        types: mention types that are kept; empty for all.
    """
    by_id: dict[str, AnnotatedDocument] = {}
    seen: set[int] = set()
    for path in paths:
        for document in pubtator.read_pubtator(path):
            text = _key(document)
            if document.id not in by_id and text not in seen:
                kept = [one for one in document.mentions if not types or one.type in types]
                by_id[document.id] = msgspec.structs.replace(document, mentions=kept)
                seen.add(text)
    return list(by_id.values())


def _key(document: AnnotatedDocument) -> int:
    """Equal for documents of the same words."""
    return texts.key_of_words(texts.words_of(document.text))


def divide(
    documents: Sequence[AnnotatedDocument], test: Sequence[AnnotatedDocument], rules: SplitRules
) -> dict[LinkSplit, list[AnnotatedDocument]]:
    """The documents of each split, in the order of the corpora. Documents of `test` that are in both are for the test.

    Raises:
        UserError: a list names a document that another list names too, or TRAIN is left without documents.
    """
    divided: dict[LinkSplit, list[AnnotatedDocument]] = {one: [] for one in LinkSplit}
    divided[LinkSplit.TEST] += test
    tested, test_texts = {one.id for one in test}, {_key(one) for one in test}
    listed = _listed(rules.ids)
    free = []
    for one in documents:
        if one.id in tested or _key(one) in test_texts:
            continue
        if one.id in listed:
            divided[listed[one.id]].append(one)
        else:
            free.append(one)
    missing = [one for one in LinkSplit if one not in rules.ids and not (one is LinkSplit.TEST and test)]
    if free and LinkSplit.TRAIN in missing:
        _share(free, missing, rules, divided)
    else:  # training documents are listed: unlisted ones are left out, and splits without a list get their shares of those for training
        listed_for_training, divided[LinkSplit.TRAIN] = divided[LinkSplit.TRAIN], []
        _share(listed_for_training, missing, rules, divided)
    if not divided[LinkSplit.TRAIN]:
        raise UserError(
            "leaves no documents for training", where="the division of CORPUS", remedy="Lower the shares of the other splits."
        )
    return divided


def _share(
    documents: Sequence[AnnotatedDocument], targets: Sequence[LinkSplit], rules: SplitRules, divided: dict[LinkSplit, list[AnnotatedDocument]]
) -> None:  # fmt: skip
    """Divide documents by hashes of their ids, so that a document keeps its split when others are added. The rest is for training."""
    bounds: list[tuple[float, LinkSplit]] = []
    for target in targets:
        if target is not LinkSplit.TRAIN:
            bounds.append(((bounds[-1][0] if bounds else 0.0) + rules.shares.get(target, 0.0), target))
    for one in documents:
        place = int(files.sha256_of([rules.seed, one.id])[:12], 16) / 16**12
        divided[next((target for bound, target in bounds if place < bound), LinkSplit.TRAIN)].append(one)


def _listed(ids: Mapping[LinkSplit, Path]) -> dict[str, LinkSplit]:
    found: dict[str, LinkSplit] = {}
    for split, path in ids.items():
        for line in input_files.read_named(path).split():
            if found.setdefault(line, split) is not split:
                raise UserError(
                    f"is in the lists of {found[line]} and {split}", where=path, item=f"document {line}", remedy="Name it once."
                )
    return found
