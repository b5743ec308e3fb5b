"""What a cross-encoder is trained on: groups of a query (or mention) with labelled documents (or concepts). Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A document of a group.

    Attributes:
        label: 1 for relevant and 0 for not; graded labels between are allowed.
        hard: whether it is a hard negative, which weighted-bce counts more.
    """

    document: str
    label: float
    hard: bool = False


@dataclass(frozen=True)
class Group:
    """A query and its candidates."""

    query: str
    candidates: Sequence[Candidate]
