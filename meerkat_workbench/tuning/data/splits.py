"""Drawing the fixed sets and the training sample: pure functions of seed, records and shares, independent of file order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meerkat_workbench.tuning.data.records import Record


@dataclass(slots=True)
class SplitItem:
    """A record with what is needed to assign it to a split.

    Attributes:
        record: the record as it is in the files now.
        question_key: equal for records of one specialty with the same question; such records are drawn together.
        origin: id under which the record was first seen; an edited record keeps it, and with it its place.
        since: iteration in which the record was first seen; earlier records come first.
    """

    record: Record
    question_key: int
    origin: str
    since: int = 1


def random_key(seed: int, purpose: str, identity: str) -> str:
    """Sort key of a random order that depends only on seed, purpose and identity."""
    return hashlib.sha256(f"{seed}|{purpose}|{identity}".encode()).hexdigest()


def pool_order(items: Iterable[SplitItem], seed: int) -> list[SplitItem]:
    """The order in which records are taken from the pool: by first iteration, and at random within one iteration."""
    return sorted(items, key=lambda item: (item.since, random_key(seed, "train", item.origin)))


def _mean_answer_length(group: Sequence[SplitItem]) -> float:
    return sum(len(item.record.response) for item in group) / len(group)


def draw_stratified(items: Sequence[SplitItem], count: int, seed: int, purpose: str) -> list[SplitItem]:
    """Draw `count` records at random within strata of answer length.

    Records with the same question are drawn together, so that a question is never in two splits. If such a group does not fit, the next
    question of the stratum is drawn. The result is shorter than `count` only if there are not enough records that fit.
    """
    groups: dict[int, list[SplitItem]] = {}
    for item in items:
        groups.setdefault(item.question_key, []).append(item)
    for members in groups.values():
        members.sort(key=lambda item: item.origin)
    by_length = sorted(groups.values(), key=lambda group: (_mean_answer_length(group), group[0].origin))
    strata_count = max(1, min(count, len(by_length)))
    strata = [
        sorted(
            by_length[len(by_length) * stratum // strata_count : len(by_length) * (stratum + 1) // strata_count],
            key=lambda group: random_key(seed, purpose, group[0].origin),
        )
        for stratum in range(strata_count)
    ]
    drawn: list[SplitItem] = []
    # the first of each stratum, then the second of each, …: the first round reaches the count unless groups were too large
    for place in range(max((len(stratum) for stratum in strata), default=0)):
        for groups_of_stratum in strata:
            if place < len(groups_of_stratum) and len(drawn) + len(groups_of_stratum[place]) <= count:
                drawn += groups_of_stratum[place]
    return drawn


def holdout_size(available: int, wanted: int) -> int:
    """Number of holdout questions of a specialty: as many as wanted, but at most half of those available."""
    return min(wanted, available // 2)
