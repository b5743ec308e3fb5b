"""Small operations on tensors that training, generation and scoring share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def pad(rows: Sequence[Sequence[int]], fill: int, device: Any = None, *, left: bool = False) -> torch.Tensor:
    """A (rows, longest row) tensor of the rows, filled up with `fill` on the right or the left."""
    width = max(map(len, rows))
    gaps = [[fill] * (width - len(row)) for row in rows]
    return torch.tensor([[*gap, *row] if left else [*row, *gap] for row, gap in zip(rows, gaps, strict=True)], device=device)


def mask_of(rows: Sequence[Sequence[int]], device: Any = None, *, left: bool = False) -> torch.Tensor:
    """A (rows, longest row) attention mask: 1 for a row's own numbers, 0 for those that `pad` adds."""
    return pad([(1,) * len(row) for row in rows], 0, device, left=left)
