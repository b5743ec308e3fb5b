"""Drawing the fixed sets and the training sample: pure functions of seed, records and shares, never of file order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meerkat_workbench.tuning.data.records import Record


@dataclass(slots=True)
class SplitItem:
    """A record as the splits see it.

    Attributes:
        record: the record as it stands in the files now.
        question_key: equal for records of one specialty that ask the same; such records are drawn together.
        origin: id under which the record was first seen; edits do not change it, so it keeps its place.
        since: iteration in which it was first seen; later records come after earlier ones.
    """

    record: Record
    question_key: int
    origin: str
    since: int = 1


def random_key(seed: int, purpose: str, identity: str) -> str:
    """A place in a random order that depends on nothing but seed, purpose and identity."""
    return hashlib.sha256(f"{seed}|{purpose}|{identity}".encode()).hexdigest()


def pool_order(items: Iterable[SplitItem], seed: int) -> list[SplitItem]:
    """The order in which records are taken from the pool: those first seen earlier, then at random."""
    return sorted(items, key=lambda item: (item.since, random_key(seed, "train", item.origin)))


def draw_stratified(items: Sequence[SplitItem], count: int, seed: int, purpose: str) -> list[SplitItem]:
    """Draw `count` records at random within strata of answer length.

    Records with the same question go together, so that a question never stands on both sides; where a group does not
    fit, the next question of the stratum is taken. Fewer than `count` come back only where there are not enough.
    """
    groups: dict[int, list[SplitItem]] = {}
    for item in items:
        groups.setdefault(item.question_key, []).append(item)
    for members in groups.values():
        members.sort(key=lambda item: item.origin)
    by_length = sorted(groups.values(), key=lambda g: (sum(len(i.record.response) for i in g) / len(g), g[0].origin))
    strata_count = max(1, min(count, len(by_length)))
    strata = [
        sorted(
            by_length[len(by_length) * n // strata_count : len(by_length) * (n + 1) // strata_count],
            key=lambda group: random_key(seed, purpose, group[0].origin),
        )
        for n in range(strata_count)
    ]
    drawn: list[SplitItem] = []
    # one from each stratum, then the second of each, …: the first round fills the count unless groups were too large
    for place in range(max((len(stratum) for stratum in strata), default=0)):
        for stratum in strata:
            if place < len(stratum) and len(drawn) + len(stratum[place]) <= count:
                drawn += stratum[place]
    return drawn


def holdout_size(available: int, wanted: int) -> int:
    """Holdout questions of a specialty: those wanted, but never more than half of what there is."""
    return min(wanted, available // 2)
