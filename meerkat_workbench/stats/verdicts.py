"""What a test or an interval says of a difference. Imports nothing heavy, so that artifacts may use it."""

from __future__ import annotations

import enum


class Verdict(enum.StrEnum):
    """What the interval of a difference shows; NONE for metrics that only describe."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "within noise"
    NONE = ""

    @classmethod
    def of_test(cls, difference: float, p: float, level: float, *, lower_is_better: bool = False) -> Verdict:
        """The verdict of a test: noise if p is above the level or unknown (NaN), or if there is no difference."""
        if not p <= level or not difference:
            return cls.NOISE
        return cls.BETTER if (difference < 0) == lower_is_better else cls.WORSE
