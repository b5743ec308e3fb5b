"""The interface of an evaluator to a trainer: a record of each evaluation, and which one is the best."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, TypeVar

from meerkat_workbench.core.artifacts import Artifact


class Evaluation(Artifact, frozen=True, kw_only=True):
    """One evaluation of a model while it is trained; tasks add their measures in a subclass, and the name of the file that records them."""

    FILE: ClassVar[str]

    step: int
    epoch: float


E = TypeVar("E", bound=Evaluation)


class Evaluator(Protocol[E]):
    """Measures a model while it is trained.

    Attributes:
        kind: class of the record.
        primary_metric: the measure that decides which weights are kept, for messages.
        greater_is_better: whether a greater value of it is better.
    """

    kind: type[E]
    primary_metric: str
    greater_is_better: bool

    def evaluate(self, trainer: Any) -> E:
        """Measure the trainer's model. Every process of the run calls this and gets the same record."""

    def primary(self, evaluation: E) -> float:
        """The value of the primary metric."""

    def logged(self, evaluation: E) -> dict[str, float]:
        """The measures for the training log and experiment trackers."""
