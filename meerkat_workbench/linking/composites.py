"""Mentions that name several concepts ("breast and ovarian cancer"), divided into one mention for each, as published figures count them."""

from __future__ import annotations

import msgspec

from meerkat_workbench.concepts import coordination
from meerkat_workbench.concepts.pubtator import AnnotatedDocument, Mention


def divide(document: AnnotatedDocument) -> AnnotatedDocument:
    """The document with its composites divided; those that cannot be divided stay whole."""
    mentions = [part for one in document.mentions for part in (parts_of(one) if one.composite else [one])]
    return msgspec.structs.replace(document, mentions=mentions)


def parts_of(mention: Mention) -> list[Mention]:
    """A mention for each concept. Where the corpus names no parts, words and a shared head are divided, and each part may mean any of the concepts."""
    if mention.parts:
        return [msgspec.structs.replace(mention, text=part, concept_ids=(concept,), composite=False, parts=())
                for part, concept in zip(mention.parts, mention.concept_ids, strict=True)]  # fmt: skip
    names = coordination.conjuncts(mention.text)
    if len(names) != len(mention.concept_ids):
        return [mention]
    return [msgspec.structs.replace(mention, text=name, composite=False) for name in names]
