#!/usr/bin/env python3
"""The entity linker at size: do training pairs stream in bounded memory, and how fast are links?

python benchmarks/linking.py --mentions 350000                       pairs of a corpus of that size, made up
python benchmarks/linking.py --linker LINKER_DIR --data DATASET_DIR  milliseconds of a mention, pairs a second
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import side_by_side
from datasets import Dataset

from meerkat_workbench.concepts import linker as linking
from meerkat_workbench.concepts import vocabulary
from meerkat_workbench.concepts.candidates import in_context
from meerkat_workbench.concepts.linker import Linker
from meerkat_workbench.concepts.name_index import NameIndex
from meerkat_workbench.concepts.pubtator import AnnotatedDocument, Mention
from meerkat_workbench.concepts.vocabulary import Concept
from meerkat_workbench.core import artifacts
from meerkat_workbench.device import hub
from meerkat_workbench.device.devices import ComputeDtype
from meerkat_workbench.linking.artifacts import LinkPairRow
from meerkat_workbench.linking.pairs import LinkNegatives, PairMaker
from meerkat_workbench.linking.prepared import LinkingData
from meerkat_workbench.linking.splits import LinkSplit
from meerkat_workbench.retrieval.cross_encoder import Backend
from meerkat_workbench.trainers.cross_encoder.losses import training_rows
from meerkat_workbench.trainers.cross_encoder.recipe import CrossEncoderRecipe

SYLLABLES = (
    "car",
    "di",
    "o",
    "neu",
    "ro",
    "path",
    "y",
    "itis",
    "osis",
    "hem",
    "a",
    "gastr",
    "derm",
    "al",
    "gia",
    "ulo",
    "ma",
    "ten",
    "sive",
    "fib",
)
PER_DOCUMENT = 10


def megabytes() -> float:
    """The most memory that this process has used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_vocabulary(concepts: int, draw: random.Random) -> vocabulary.Vocabulary:
    def name() -> str:
        return " ".join("".join(draw.choices(SYLLABLES, k=draw.randint(2, 4))) for _ in range(draw.randint(1, 3)))

    return vocabulary.build((Concept(id=f"X{number}", name=f"{name()} {number}", synonyms=[f"{name()} {number}", f"{name()} type {number}"],
                                     types=[f"T{number % 40}"]) for number in range(concepts)), [], "made up")  # fmt: skip


def make_documents(count: int, words: vocabulary.Vocabulary, draw: random.Random) -> Iterator[AnnotatedDocument]:
    """Documents of ten mentions each, one at a time."""
    concepts = list(words.concepts.values())
    for number in range(count // PER_DOCUMENT):
        text, mentions = "", []
        for _ in range(PER_DOCUMENT):
            concept = draw.choice(concepts)
            name = draw.choice(concept.names)
            text += "The patient had "
            mentions.append(Mention(str(number), len(text), len(text) + len(name), name, concept.types[0], (concept.id,)))
            text += f"{name} for {draw.randint(1, 30)} days. "
        yield AnnotatedDocument(str(number), text, mentions)


def stream(mentions: int, concepts: int) -> None:
    draw, started = random.Random(0), time.time()
    words = make_vocabulary(concepts, draw)
    maker = PairMaker(words, NameIndex(words, None), LinkNegatives(5, 2, 2, 0, 0))
    print(f"{concepts:,} concepts, {len(maker.index.names):,} names; {megabytes():.0f} MB before the first pair")
    marks = {mentions * part // 10 for part in (1, 5, 10)}

    def watched() -> Iterator[LinkPairRow]:
        last = -1
        for written, row in enumerate(maker.pairs(make_documents(mentions, words, draw))):
            if row.group != last:
                last = row.group
                if last + 1 in marks:
                    print(
                        f"  {last + 1:,} mentions, {written:,} pairs, {time.time() - started:.0f} s, {megabytes():.0f} MB",
                        flush=True,
                    )
            yield row

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / LinkPairRow.FILE
        artifacts.write_lines(path, watched())
        made = time.time()
        print(
            f"{sum(maker.counts.pairs.values()):,} pairs, {path.stat().st_size / 2**20:.0f} MB, in {made - started:.0f} s; {megabytes():.0f} MB"
        )
        data = LinkingData(Path(folder), None, words)  # type: ignore[arg-type] # only its pairs are read
        recipe = CrossEncoderRecipe(base="packaged", loss="weighted-bce")
        rows = Dataset.from_generator(lambda: training_rows(data.groups(), recipe), cache_dir=str(Path(folder) / "rows"),
                                      fingerprint="benchmark")  # fmt: skip
        print(f"{len(rows):,} training rows, mapped into memory, in {time.time() - made:.0f} s; {megabytes():.0f} MB")


def speed(folder: Path, data: Path, backend: Backend, compute: ComputeDtype, count: int) -> None:
    found = Linker.load(folder, backend, compute)
    documents = LinkingData.open(data).documents(LinkSplit.TEST)
    mentions = [one for document in documents for one in in_context(document)][:count]
    found.links(mentions[:8])
    started = time.time()
    for one in mentions:
        found.links([one])
    alone = (time.time() - started) / len(mentions)
    found = Linker.load(folder, backend, compute)  # the first one remembers the pairs that it has read
    found.links(mentions[:8])
    started = time.time()
    found.links(mentions)
    together = (time.time() - started) / len(mentions)
    print(
        f"{backend}: {1000 * alone:.0f} ms a mention one by one, {1000 * together:.0f} ms in a batch of {len(mentions)}; {found.description.read} candidates read"
    )
    if found.reranker:
        pairs = linking.pairs_of(found.first(found.generator.find(mentions)), found.vocabulary)
        started = time.time()
        found.reranker.logits(pairs)
        print(
            f"  {len(pairs) / (time.time() - started):.0f} pairs a second, {sum(len(' '.join(pair).split()) for pair in pairs) / len(pairs):.0f} words a pair"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mentions", type=int, default=0)
    parser.add_argument("--concepts", type=int, default=5000)
    parser.add_argument("--linker", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backend", default="torch", choices=("torch", "onnx", "onnx-int8"))
    parser.add_argument("--compute", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--count", type=int, default=200, help="mentions whose links are timed")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    hub.silence_libraries()
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    print(side_by_side.machine())
    if arguments.mentions:
        stream(arguments.mentions, arguments.concepts)
    if arguments.linker:
        speed(arguments.linker, arguments.data, arguments.backend, arguments.compute, arguments.count)


if __name__ == "__main__":
    main()
