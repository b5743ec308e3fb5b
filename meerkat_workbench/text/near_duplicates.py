"""Duplicate records: an equal question, an identical answer, or both nearly the same.

Candidates come from MinHash signatures (rensa) cut into bands (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3). Every
candidate pair is then compared exactly. Pairs are never chained: if A resembles B and B resembles C, A and C may still differ.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from meerkat_workbench.core import console, subprocesses
from meerkat_workbench.text.texts import key_of_words, words_of, words_of_each

BANDS, ROWS_PER_BAND = 16, 6  # a pair at Jaccard .80 becomes a candidate with probability .992, one at .50 with .22
QUESTION_WEIGHT = 6  # copies of each question word in the signature, so that a shared template answer alone makes no candidate
SIGNATURE_SEED = 20211
BATCH = 2048
MIN_RECORDS_FOR_PARALLEL = 50_000  # with fewer records, starting processes costs more than it saves
# pairs of Chinese characters that tell similar things apart: "甲型" and "乙型" are hepatitis A and B
DISTINGUISHING_PAIR = re.compile(
    r"[甲乙丙丁戊己庚辛一二三四五六七八九十两][型期级級度类類号號度次]|第[一二三四五六七八九十]|[左右上下][侧側肢叶葉眼耳肺肾腎]|[高低][血钾鉀钠鈉钙鈣糖压壓]|[男女]性"
)
Reason = Literal["same question", "same answer", "near-duplicate"]


class TextPair(Protocol):
    """Two texts that belong together: question and answer, query and passage, mention and name."""

    @property
    def left(self) -> str: ...

    @property
    def right(self) -> str: ...


P = TypeVar("P", bound=TextPair)


@dataclass
class Fingerprints:
    """Hashes of n records, one row per record.

    Attributes:
        question_keys, answer_keys: (n,) int64, equal for equal normalised texts.
        word_counts: (n, 2) int32, words of the question and of the answer.
        bands: (n, BANDS) uint64, equal in a column if that band of the signatures is equal.
    """

    question_keys: NDArray[np.int64]
    answer_keys: NDArray[np.int64]
    word_counts: NDArray[np.int32]
    bands: NDArray[np.uint64]

    def take(self, rows: Sequence[int]) -> Fingerprints:
        index = np.asarray(rows, dtype=np.int64)
        return Fingerprints(*(column[index] for column in vars(self).values()))

    @staticmethod
    def concatenate(parts: Sequence[Fingerprints]) -> Fingerprints:
        return Fingerprints(*map(np.concatenate, zip(*(vars(part).values() for part in parts), strict=True)))


def fingerprint(records: Sequence[TextPair], *, near: bool) -> Fingerprints:
    """Fingerprints of records, with signature bands only if `near`. Deterministic across machines; many records use all cores."""
    chunks = [records[start : start + BATCH] for start in range(0, len(records), BATCH)] or [records]
    # send texts only, and few at a time: records are slow to pickle, and queued texts take memory
    questions = ([record.left for record in chunk] for chunk in chunks)
    answers = ([record.right for record in chunk] for chunk in chunks)
    compute = functools.partial(fingerprint_texts, near=near)
    single_process = len(records) < MIN_RECORDS_FOR_PARALLEL or (os.cpu_count() or 1) == 1
    with (
        contextlib.nullcontext() if single_process else subprocesses.worker_pool(collect_garbage=False) as pool,
        console.Progress("comparing records", len(records), "records") as progress,
    ):
        parts = []
        for part in (pool.map if pool else map)(compute, questions, answers):
            parts.append(part)
            progress.advance(len(part.question_keys))
    return Fingerprints.concatenate(parts)


def fingerprint_texts(questions: Sequence[str], answers: Sequence[str], *, near: bool) -> Fingerprints:
    """Like `fingerprint`, but of texts, which are cheap to send to another process."""
    count = len(questions)
    keys = np.empty((count, 2), np.int64)
    word_counts = np.empty((count, 2), np.int32)
    bands = np.zeros((count, BANDS if near else 0), np.uint64)
    for start in range(0, count, BATCH):
        question_words, question_bounds = words_of_each(questions[start : start + BATCH])
        answer_words, answer_bounds = words_of_each(answers[start : start + BATCH])
        token_lists = []
        for row in range(len(question_bounds) - 1):
            question = question_words[question_bounds[row] : question_bounds[row + 1]]
            answer = answer_words[answer_bounds[row] : answer_bounds[row + 1]]
            keys[start + row] = key_of_words(question), key_of_words(answer)
            word_counts[start + row] = len(question), len(answer)
            if near:
                tokens = answer  # a repeated word changes no minimum
                for word in question:
                    tokens += _weighted_copies(word)
                token_lists.append(tokens)
        if near:
            digests = RMinHash.digest_matrix_from_token_sets(token_lists, BANDS * ROWS_PER_BAND, SIGNATURE_SEED).to_rows()
            bands[start : start + len(digests)] = _band_hashes(np.array(digests, np.uint64))
    return Fingerprints(keys[:, 0], keys[:, 1], word_counts, bands)


@functools.lru_cache(maxsize=20_000)
def _weighted_copies(word: str) -> list[str]:
    return [f"{word}?{copy}" for copy in range(QUESTION_WEIGHT)]


def _band_hashes(digests: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(n, BANDS * ROWS_PER_BAND) digests to (n, BANDS) hashes, one per band."""
    banded = digests.reshape(-1, BANDS, ROWS_PER_BAND)
    hashes = np.zeros(banded.shape[:2], np.uint64)
    for row in range(ROWS_PER_BAND):
        hashes = (hashes ^ banded[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _jaccard(left: Set[str], right: Set[str]) -> float:
    shared = len(left & right)
    union = len(left) + len(right) - shared
    return shared / union if union else 1.0


def _identifiers(words: Iterable[str]) -> set[str]:
    """Words that tell similar things apart: "2l", "iv", single letters and signs, Chinese numerals, left and right."""
    return {
        word
        for word in words
        if len(word) == 1 or any(c.isdigit() for c in word) or set(word) <= set("ivx") or DISTINGUISHING_PAIR.fullmatch(word)
    }


def near_duplicate(left: TextPair, right: TextPair, threshold: float) -> bool:
    """Whether both the questions and the answers reach a Jaccard index of `threshold` (over their sets of words).

    Questions that differ in a number, a single letter or a roman numeral ask about different things.
    """
    if not same_question(left.left, right.left, threshold):
        return False
    return _jaccard(set(words_of(left.right)), set(words_of(right.right))) >= threshold


def same_question(left: str, right: str, threshold: float) -> bool:
    """Whether two questions reach a Jaccard index of `threshold` and share every number, single letter and roman numeral."""
    left_words, right_words = _question_words(left), _question_words(right)
    return _jaccard(left_words, right_words) >= threshold and _identifiers(left_words) == _identifiers(right_words)


@functools.lru_cache(maxsize=200_000)
def _question_words(question: str) -> frozenset[str]:
    return frozenset(words_of(question))


class FixedIndex(Generic[P]):
    """The records of a fixed set, in which duplicates of other records are looked up."""

    def __init__(self, records: Sequence[P], fingerprints: Fingerprints, threshold: float) -> None:
        """`threshold` is the Jaccard index from which texts count as near-duplicates; 0 turns near-duplicates off."""
        self.records, self.threshold = records, threshold
        self._by_question = {int(key): row for row, key in reversed(list(enumerate(fingerprints.question_keys)))}
        self._by_answer = {int(key): row for row, key in reversed(list(enumerate(fingerprints.answer_keys)))}
        self._bands = fingerprints.bands

    def matches(self, records: Sequence[TextPair], fingerprints: Fingerprints) -> dict[int, tuple[Reason, P]]:
        """The records that repeat a fixed one: row in `records` to the reason and the fixed record."""
        matched: dict[int, tuple[Reason, P]] = {}
        for row in range(len(records)):
            if (other := self._by_question.get(int(fingerprints.question_keys[row]))) is not None:
                matched[row] = ("same question", self.records[other])
            elif (other := self._by_answer.get(int(fingerprints.answer_keys[row]))) is not None:
                matched[row] = ("same answer", self.records[other])
        if self.threshold > 0 and len(self.records):
            for row, other in candidate_pairs(fingerprints.bands, self._bands):
                if row not in matched and near_duplicate(records[row], self.records[other], self.threshold):
                    matched[row] = ("near-duplicate", self.records[other])
        return matched


def candidate_pairs(bands: NDArray[np.uint64], fixed: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Pairs (row of `bands`, row of `fixed`) that share a band, each pair once, in order."""
    pairs = []
    for band in range(bands.shape[1]):
        order = np.argsort(fixed[:, band], kind="stable")
        sorted_band = fixed[order, band]
        first = np.searchsorted(sorted_band, bands[:, band], side="left")
        count = np.searchsorted(sorted_band, bands[:, band], side="right") - first
        rows = np.repeat(np.arange(len(bands)), count)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        pairs.append(np.stack([rows, order[first[rows] + within]], axis=1))
    unique = np.unique(np.concatenate(pairs), axis=0)
    return [(int(row), int(other)) for row, other in unique]
