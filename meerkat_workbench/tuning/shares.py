"""How many records a share stands for: preparation draws by it, and recommendations must count as it does."""

from __future__ import annotations


def records_for_share(share: float, base: int) -> int:
    """`share` of `base` records, half rounded up; 1e-9 absorbs what binary fractions lose."""
    return int(share * base + 0.5 + 1e-9)
