"""Training texts that repeat a held-out text, word for word or nearly so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from meerkat_workbench.core.garbage import collection_suspended
from meerkat_workbench.text.near_duplicates import FixedIndex, P, fingerprint


@dataclass(frozen=True)
class Leak(Generic[P]):
    """A training text and the held-out text that it repeats; `held_out_set` is the name of the held-out text's set."""

    training: P
    reason: str
    held_out_set: str
    held_out: P


class HeldOutIndex(Generic[P]):
    """Held-out texts to compare training texts with.

    Args:
        sets: texts by the name of their set.
        threshold: Jaccard index from which texts are near-duplicates; 0 finds equal left sides and identical right sides only.
    """

    def __init__(self, sets: Mapping[str, Sequence[P]], threshold: float) -> None:
        self.near = threshold > 0
        with collection_suspended():
            self.indexes = {
                name: FixedIndex(texts, fingerprint(texts, near=self.near), threshold) for name, texts in sets.items()
            }

    def leaks_in(self, training: Sequence[P]) -> list[Leak[P]]:
        """The training texts that repeat a held-out one."""
        with collection_suspended():
            fingerprints = fingerprint(training, near=self.near)
            return [
                Leak(training[row], reason, name, held_out)
                for name, index in self.indexes.items()
                for row, (reason, held_out) in index.matches(training, fingerprints).items()
            ]
