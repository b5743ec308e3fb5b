"""What `link` prints."""

from __future__ import annotations

from pathlib import Path

from meerkat_workbench.concepts.linker import Link
from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.core import console
from meerkat_workbench.linking.link_files import LinkCount
from meerkat_workbench.linking.statistics import TIERS

SHOWN = 5  # candidates of a mention


def print_link(link: Link, words: Vocabulary) -> None:
    """Print the candidates of a mention, and the decision with the threshold behind it."""
    mention = link.mention
    written_out = f" (read as {mention.long_form!r})" if mention.long_form != mention.text else ""
    console.print_table(
        [f"{mention.text}{written_out}", "concept", "type", "probability"],
        [[one.name, one.concept_id, words.type_name(words.type_of(one.concept_id)), f"{one.probability:.3f}"] for one in link.candidates[:SHOWN]],
        texts=3,
    )  # fmt: skip
    level = {"type": f"of the type {words.type_name(link.decision.type)}", "parent": f"of the parent type {words.type_name(link.decision.type)}",
             "default": "for all types without one of their own"}[link.decision.level]  # fmt: skip
    decided = f"threshold {link.decision.value:.3f} ({level}), margin {link.margin:.3f}"
    print(
        f"linked to {link.concept_id}, confidence {link.tier}; {decided}"
        if link.concept_id
        else f"no link: no candidate reaches the {decided}"
    )


def print_linked(path: Path, count: LinkCount) -> None:
    """Print how many mentions of a file were linked."""
    tiers = ", ".join(f"{tier} {count.tiers[tier]:,}" for tier in TIERS)
    print(f"{path}: {sum(count.tiers.values()):,} mentions; confidence {tiers}")
    if count.without_candidate:
        print(f"  {count.without_candidate:,} mentions resemble no name of the vocabulary, so they have no candidate")
