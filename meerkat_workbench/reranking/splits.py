"""Splitting judged queries by group, so that no question of the test set was learnt in other words.

A group holds queries that say nearly the same, that share a relevant document, or whose relevant document is another query (Quora). It goes into one split as a whole. Splitting by row would put
"What is gout?" into training and "What is gout ?" into the test set.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from meerkat_workbench.core import files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.retrieval.bm25 import tokens_of
from meerkat_workbench.retrieval.documents import JudgedQueries
from meerkat_workbench.text import near_duplicates, texts

# Jaccard indices from which two questions are nearly the same: of all words, and of stems without function words. The second tells "the
# treatment of gout" from "the treatment of acne", which share most of their words.
NEAR_WORDS, NEAR_STEMS = 0.6, 0.8


class RankingSplit(enum.StrEnum):
    """The splits of judged queries. The weights are learnt on train, chosen and fused on validation, and measured on test."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class _QuestionText:
    """A query as `near_duplicates` compares it."""

    left: str
    right: str = ""


class _Groups:
    """Disjoint sets of query ids (union-find)."""

    def __init__(self, names: list[str]) -> None:
        self._parent = {name: name for name in names}

    def root(self, name: str) -> str:
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def join(self, one: str, other: str) -> None:
        first, second = sorted((self.root(one), self.root(other)))
        self._parent[second] = first


def group_queries(judged: JudgedQueries) -> dict[str, str]:
    """The group of each query, named by the smallest id in it."""
    names = sorted(judged.queries)
    groups = _Groups(names)
    holders: dict[int, str] = {}  # a text's words to the first query that says it, or that it is relevant to
    keys: dict[str, int] = {}
    for name in names:
        groups.join(holders.setdefault(texts.key_of_words(texts.words_of(judged.queries[name].text)), name), name)
        for document in sorted(judged.relevant(name)):
            if document not in keys:
                keys[document] = texts.key_of_words(texts.words_of(judged.documents[document].content))
            groups.join(holders.setdefault(keys[document], name), name)
    questions = [_QuestionText(judged.queries[name].text) for name in names]
    prints = near_duplicates.fingerprint(questions, near=True)
    for one, other in near_duplicates.candidate_pairs(prints.bands, prints.bands):
        if one < other and _nearly_same(questions[one].left, questions[other].left):
            groups.join(names[one], names[other])
    return {name: groups.root(name) for name in names}


def _nearly_same(one: str, other: str) -> bool:
    left, right = set(tokens_of(one)), set(tokens_of(other))
    alike = len(left & right) >= NEAR_STEMS * len(left | right)
    return alike and near_duplicates.same_question(one, other, NEAR_WORDS)


def split(
    judged: JudgedQueries, groups: Mapping[str, str], shares: Mapping[RankingSplit, float], seed: int
) -> dict[str, RankingSplit]:
    """The split of each query that has a relevant document.

    Args:
        groups: the group of each query, of `group_queries`.
        shares: fractions of the queries for validation and test. The rest is trained on.
        seed: decides which groups go where; the order of the queries does not.

    Raises:
        UserError: there are too few groups to fill every split.
    """
    members: dict[str, list[str]] = {}
    for name, group in groups.items():
        if judged.relevant(name):
            members.setdefault(group, []).append(name)
    wanted = [one for one in (RankingSplit.TEST, RankingSplit.VALIDATION) if shares.get(one, 0) > 0]
    if len(members) <= len(wanted):
        fault = f"has {len(members)} groups of questions, too few for {len(wanted) + 1} splits"
        raise UserError(fault, where="DATA", remedy="Add questions, or set TEST_SHARE and VALIDATION_SHARE to 0.")
    total = sum(map(len, members.values()))
    order = sorted(members, key=lambda group: files.sha256_of([seed, group]))
    chosen: dict[str, RankingSplit] = {}
    for place in wanted:
        room, filled = shares[place] * total, 0
        for group in order:
            # a group that would more than overfill the split is left for the next, but a split never stays empty
            if group in chosen or (filled and filled + len(members[group]) > room + 0.5):
                continue
            if filled >= room:
                break
            chosen[group], filled = place, filled + len(members[group])
    return {name: chosen.get(group, RankingSplit.TRAIN) for group, found in members.items() for name in found}
