"""An iterable in parts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last with what is left. (`itertools.batched` needs Python 3.12.)"""
    iterator = iter(items)
    while part := list(itertools.islice(iterator, size)):
        yield part
