"""The number of records in a share; dataset preparation and recommendations must compute it in the same way."""

from __future__ import annotations


def records_for_share(share: float, base: int) -> int:
    """`share` times `base`, with halves rounded up; 1e-9 absorbs the rounding error of binary fractions."""
    return int(share * base + 0.5 + 1e-9)
