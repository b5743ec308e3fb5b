"""Coordinated names: "breast and ovarian cancer" names breast cancer and ovarian cancer."""

from __future__ import annotations

import regex

SEPARATOR = regex.compile(r"\s*(?:,|/|\band/or\b|\band\b|\bor\b|\bas well as\b)\s*")


def conjuncts(text: str) -> list[str]:
    """The names in a coordination. A part of one word gets the words that follow the first of the last part: "breast" in "breast and ovarian
    cancer" is "breast cancer". One name if there is no coordination."""
    pieces = [piece for piece in SEPARATOR.split(text) if piece]
    if len(pieces) < 2:
        return [text]
    head = pieces[-1].split()[1:]
    return [piece if len(piece.split()) > 1 else " ".join([piece, *head]) for piece in pieces]
