"""What the next iteration should train on, with the reasons."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec

from meerkat_workbench.core import artifacts
from meerkat_workbench.core.artifacts import Artifact


class PolicyDecision(msgspec.Struct, frozen=True):
    """The inputs of a policy and what it expects. None for rules that compute no expectation."""

    name: str
    budget: int
    objective: str | dict[str, float]
    iterations: tuple[int, ...] = ()
    expected_gain: float | None = None
    expected_gain_of_natural_mix: float | None = None
    probability_better_than_natural_mix: float | None = None
    probability_that_training_helps: float | None = None
    probability_that_specialties_gain_differently: float | None = None
    natural_mix_kept: bool = False


class SpecialtyAdvice(msgspec.Struct, frozen=True):
    """How one specialty scores on the eval split, the records that it gets, and why. None if a value cannot be known."""

    specialty: str
    n: int
    mean: float | None
    shrunk: float | None
    shrunk_se: float | None
    others: float | None
    p_below_others: float | None
    p_adjusted: float | None
    probability_among_worst: float | None
    supported: bool
    questions_to_settle: int | None
    current_share: float
    recommended_share: float
    records_added: int
    records_left: int
    expected_gain: float | None = None
    expected_gain_low: float | None = None
    expected_gain_high: float | None = None
    new_records_needed: int | None = None
    reason: str = ""


class Recommendations(Artifact, frozen=True, kw_only=True):
    """`training_recommendations.json`: the three keys of the specification, and the evidence for them."""

    FILE: ClassVar[str] = "training_recommendations.json"

    low_performance_specialties: tuple[str, ...] = ()
    recommended_sample_increases: dict[str, float]
    overall_improvement: dict[str, float | None] = {}
    measured_lowest_without_support: tuple[str, ...] = ()
    steering_metric: str = ""
    steering_split: str = "eval"
    policy: PolicyDecision | None = None
    sentences: tuple[str, ...] = msgspec.field(name="in_words", default=())
    evidence: tuple[SpecialtyAdvice, ...] = ()
    caution: str = ""
    iteration: int | None = None
    overall_improvement_split: str = ""
    version: int = 2


def read_recommendations(path: Path) -> Recommendations:
    """The recommendations of an evaluation, from its `training_recommendations.json`."""
    return artifacts.read(Recommendations, path)
