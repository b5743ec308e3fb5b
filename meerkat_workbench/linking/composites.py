"""Mentions that name several concepts ("breast and ovarian cancer"), divided into one mention for each, as published figures count them."""

from __future__ import annotations

import re

import msgspec

from meerkat_workbench.concepts.pubtator import AnnotatedDocument, Mention

SEPARATOR = re.compile(r"\s*(?:,|/|\band\b|\bor\b|\bas well as\b)\s*")


def divide(document: AnnotatedDocument) -> AnnotatedDocument:
    """The document with its composites divided; those that cannot be divided stay whole."""
    mentions = [part for one in document.mentions for part in (parts_of(one) if one.composite else [one])]
    return msgspec.structs.replace(document, mentions=mentions)


def parts_of(mention: Mention) -> list[Mention]:
    """A mention for each concept. Where the corpus names no parts, words and a shared head are divided, and each part may mean any of the concepts."""
    if mention.parts:
        return [msgspec.structs.replace(mention, text=part, concept_ids=(concept,), composite=False, parts=())
                for part, concept in zip(mention.parts, mention.concept_ids, strict=True)]  # fmt: skip
    pieces = [piece for piece in SEPARATOR.split(mention.text) if piece]
    if len(pieces) != len(mention.concept_ids):
        return [mention]
    head = pieces[-1].split()[1:]  # "ovarian cancer" gives "cancer" to "breast"
    texts = [piece if len(piece.split()) > 1 else " ".join([piece, *head]) for piece in pieces]
    return [msgspec.structs.replace(mention, text=text, composite=False) for text in texts]
