"""The setting OBJECTIVE: what the next iteration's records are meant to improve."""

from __future__ import annotations

import math
from typing import Any

import yaml

from meerkat_workbench.core import settings
from meerkat_workbench.core.errors import UserError, did_you_mean
from meerkat_workbench.tuning.artifacts import IterationRecord

MEAN, WORST_DECILE = "mean", "worst_decile"
Objective = str | dict[str, float]  # one of the two, or weights by specialty


def parse_objective(given: Objective) -> Objective:
    """Parse OBJECTIVE: "mean", "worst_decile", or weights by specialty.

    Raises:
        UserError: if it is none of these.
    """
    if given in (MEAN, WORST_DECILE):
        return given
    weights: Any
    try:
        weights = settings.yaml_value(given) if isinstance(given, str) else given
    except yaml.YAMLError:
        weights = None
    numbers = list(weights.values()) if isinstance(weights, dict) else []
    if not numbers or not all(type(value) in (int, float) and 0 <= value < math.inf for value in numbers) or not any(numbers):
        raise UserError(
            f'must be "{MEAN}", "{WORST_DECILE}", or weights of at least 0',
            where=f"OBJECTIVE={given}",
            remedy="For example OBJECTIVE='{cardiology: 3}' (other specialties have weight 1).",
        )
    return {str(name): float(value) for name, value in weights.items()}


def check_objective(objective: Objective, record: IterationRecord) -> None:
    """Check that every weight belongs to a specialty of the data.

    Raises:
        UserError: if one does not.
    """
    if not isinstance(objective, str) and (unknown := sorted(set(objective) - set(record.shares))):
        known = sorted(record.shares)
        remedy = did_you_mean(unknown[0], known, f"There are {', '.join(known)}.")
        raise UserError("there is no such specialty in the data", where="OBJECTIVE", item=unknown[0], remedy=remedy)
