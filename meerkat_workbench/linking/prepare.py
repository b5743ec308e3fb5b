"""Preparing the data of the linker: a vocabulary, documents divided into splits, and pairs for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meerkat_workbench.concepts import linker, name_forms, vocabulary
from meerkat_workbench.concepts.name_index import NameIndex
from meerkat_workbench.concepts.pubtator import AnnotatedDocument
from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.core import artifacts, console
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import Run, RunState
from meerkat_workbench.core.settings import Settings
from meerkat_workbench.linking import prepared, splits
from meerkat_workbench.linking.artifacts import LinkCounts, LinkingDataManifest, LinkPairRow
from meerkat_workbench.linking.pairs import LinkNegatives, PairMaker
from meerkat_workbench.linking.splits import LinkSplit, SplitRules


@dataclass(frozen=True)
class LinkPreparationSpec:
    """What is read and how it is divided.

    Attributes:
        inputs: the files that are read, by path, with their SHA-256.
        types: mention types that are kept; empty for all.
        encoder: the bi-encoder that finds similar concepts; empty compares character n-grams.
    """

    inputs: Mapping[str, str]
    corpora: Sequence[Path]
    types: Sequence[str]
    rules: SplitRules
    negatives: LinkNegatives
    encoder: str


def prepare(
    run: Run[LinkingDataManifest],
    read_vocabulary: Callable[[], Vocabulary],
    spec: LinkPreparationSpec,
    config: Settings,
    fingerprint: str,
) -> LinkingDataManifest:
    """Read, divide, draw pairs and write the folder; a finished one with the same fingerprint is left as it is."""
    if run.find(fingerprint) is RunState.FINISHED:
        print(f"{run.folder}: up to date")
        return run.finished()
    with console.working("reading the vocabulary"):
        words = read_vocabulary()
    test = splits.read_corpora(spec.rules.test_corpus, spec.types)
    divided = splits.divide(splits.read_corpora(spec.corpora, spec.types), test, spec.rules)
    check_linked(divided, words, spec)
    index = NameIndex(words, linker.load_encoder(spec.encoder))
    run.claim()
    vocabulary.write(run.folder, words)
    prepared.write_documents(run.folder, divided)
    maker = PairMaker(words, index, spec.negatives)
    artifacts.write_lines(run.folder / LinkPairRow.FILE, with_progress(maker, divided[LinkSplit.TRAIN]))
    counts = count(words, divided, maker)
    artifacts.write(run.folder / LinkCounts.FILE, counts)
    manifest = run.finish(run.manifest(config, iteration=1, inputs=dict(spec.inputs), vocabulary=words.fingerprint,
                                       split_hashes=prepared.split_hashes(run.folder)))  # fmt: skip
    print_counts(run.folder, counts)
    return manifest


def check_linked(divided: Mapping[LinkSplit, Sequence[AnnotatedDocument]], words: Vocabulary, spec: LinkPreparationSpec) -> None:
    """Raise UserError if a split has no mention with a concept of the vocabulary, which a later step would need."""
    for split, documents in divided.items():
        size = prepared.size_of(documents, words)
        if not size.mentions and not any(one.mentions for found in divided.values() for one in found):
            found_types = sorted({mention.type for one in splits.read_corpora(spec.corpora, []) for mention in one.mentions})
            raise UserError("have no mentions of these types", where="the documents", item=f"MENTION_TYPES={','.join(spec.types)}",
                            remedy=f"The corpora have {', '.join(found_types) or 'no mentions'}.")  # fmt: skip
        if not size.mentions:
            raise UserError(f"has no mention in its {size.documents} documents", where=f"the split {split}",
                            remedy="Add documents, or change its share, its list or its corpus.")  # fmt: skip
        if size.unknown == size.mentions:
            example = next(iter(words.concepts))
            given = next((name for one in documents for mention in one.mentions for name in mention.concept_ids), "none")
            raise UserError(f"know no concept of the mentions of the split {split}", where="the ids of the vocabulary", item=f"{example}, but {given}",
                            remedy="Name the vocabulary that the corpora were annotated with.")  # fmt: skip


def with_progress(maker: PairMaker, documents: Sequence[AnnotatedDocument]) -> Iterator[LinkPairRow]:
    """The pairs, with a report of progress by mention."""
    total = sum(len(one.mentions) for one in documents) + maker.rules.synonym_mentions
    with console.Progress("making pairs", total, "mentions") as progress:
        last = -1
        for row in maker.pairs(documents):
            if row.group != last:
                progress.advance()
                last = row.group
            yield row


def count(words: Vocabulary, divided: Mapping[LinkSplit, Sequence[AnnotatedDocument]], maker: PairMaker) -> LinkCounts:
    names = vocabulary.group_names([(name_forms.key(name), concept) for name, concept in words.names()])
    return LinkCounts(
        concepts=len(words.concepts), names=len(maker.index.names), types=len({one for concept in words.concepts.values() for one in concept.types}),
        shared_names=sum(len(owners) > 1 for owners in names.values()),
        splits={str(split): prepared.size_of(documents, words) for split, documents in divided.items()},
        pairs={str(kind): number for kind, number in maker.counts.pairs.items()}, groups=maker.counts.groups,
        synonym_groups=maker.counts.synonym_groups, skipped=maker.counts.skipped,
    )  # fmt: skip


def print_counts(folder: Path, counts: LinkCounts) -> None:
    """Print what was prepared."""
    print(f"{counts.concepts:,} concepts with {counts.names:,} names and {counts.types:,} types; "
          f"{counts.shared_names:,} names are shared by concepts")  # fmt: skip
    console.print_table(
        ["split", "documents", "mentions", "of several concepts", "of no known concept"],
        [
            [name, f"{size.documents:,}", f"{size.mentions:,}", f"{size.composite:,}", f"{size.unknown:,}"]
            for name, size in counts.splits.items()
        ],
    )
    print("training pairs: " + ", ".join(f"{number:,} {kind.replace('_', ' ')}" for kind, number in counts.pairs.items())
          + f"; of {counts.groups - counts.synonym_groups:,} mentions and {counts.synonym_groups:,} names")  # fmt: skip
    if counts.skipped:
        print(f"  {counts.skipped:,} similar concepts are no negatives: they share a name with the right one")
    print(f"{folder / LinkPairRow.FILE} holds the pairs")
