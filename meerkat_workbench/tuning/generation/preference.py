"""Does a model find the right answer more likely than wrong ones? No answer is generated.

The reference of a question competes with distractors of the same style (`distractors`). A text's score is its mean log-probability per
token after the question, over the tokens that carry content: words and numbers that neither the question nor many references of the dataset
hold. So phrases that tuning teaches do not count, and all texts have the same style. Only the beginning of a text is read: it tells
leaked knowledge apart at least as well as twice as much text does (benchmarks/results/style.md), and takes half as long.

The same is measured without the question (the answer-only baseline), which shows whether the texts alone give the right one away.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from meerkat_workbench.core import console, files
from meerkat_workbench.core.jsonl_store import JsonlStore
from meerkat_workbench.text import texts
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.artifacts import Preference
from meerkat_workbench.tuning.data import vocabulary
from meerkat_workbench.tuning.data.records import Record
from meerkat_workbench.tuning.data.vocabulary import FUNCTION_WORDS, ReferenceVocabulary
from meerkat_workbench.tuning.generation import distractors, likelihood
from meerkat_workbench.tuning.generation.distractors import Distractor, DistractorKind, DistractorMaker
from meerkat_workbench.tuning.generation.generator import active_adapter
from meerkat_workbench.tuning.generation.likelihood import Continuation
from meerkat_workbench.tuning.generation.prefixes import prefix_lengths
from meerkat_workbench.tuning.generation.questions import Question

MAX_TOKENS = 24  # of a reference or distractor
MIN_CHARACTERS = 60  # that are read even if they are more tokens, as in scripts of which a tokenizer has no words
VERSION = "v2"
MAX_CACHED_PER_TOKEN = 4  # tokens in the cache for each token that a batch may have
ANSWER_ONLY = "answer_only"  # in place of a system: the base without the question
MAX_ANSWER_ONLY = 25  # questions of the answer-only baseline, which describes the distractors and needs no more


@dataclass(frozen=True)
class PreferenceScores:
    """What the scores of one question tell.

    Attributes:
        right: 1 if the model finds the reference more likely than every distractor, else 0.
        wins: fraction of the distractors that the model finds less likely than the reference.
        chance: `right` of a model that guesses.
    """

    right: float
    wins: float
    chance: float


@dataclass(frozen=True)
class PreferenceFacts:
    """How the preferences of an evaluation were measured.

    Attributes:
        questions: number of questions with enough distractors.
        kinds: number of distractors of each kind.
        chance: fraction of questions that a model which guesses gets right.
        answer_only, answer_only_n: fraction of questions that the base gets right without seeing the question, and of how many; NaN if
            it was not measured.
    """

    questions: int
    kinds: dict[DistractorKind, int]
    chance: float
    answer_only: float
    answer_only_n: int


@dataclass(frozen=True)
class PreferenceItem:
    """A question with its distractors."""

    question: Question
    distractors: tuple[Distractor, ...]

    @property
    def answers(self) -> tuple[str, ...]:
        """The reference and the distractors."""
        return (self.question.reference, *(one.text for one in self.distractors))

    def key(self, identity: str, vocabulary: str) -> str:
        """The key of this item under a model.

        Args:
            vocabulary: hash of the common words, which decide on the tokens that count.
        """
        return files.sha256_of([self.question.prompt, *self.answers, identity, vocabulary, VERSION])[:32]


@dataclass(frozen=True)
class PreferencePlan:
    """What is measured: the items of each system by key, with those of the answer-only baseline.

    Attributes:
        references: tells the words that are too common to count.
    """

    by_system: Mapping[str, Mapping[str, PreferenceItem]]
    references: ReferenceVocabulary

    def keys(self) -> set[str]:
        return {key for items in self.by_system.values() for key in items}

    def of(self, system: str) -> Mapping[str, PreferenceItem]:
        """The items of a system by key; none if it is on a server."""
        return self.by_system.get(system, {})


def make_items(questions: Sequence[Question], maker: DistractorMaker, count: int) -> list[PreferenceItem]:
    """The items of those questions that have enough distractors."""
    found = [
        PreferenceItem(question, tuple(maker.distractors(Record(question.id, question.specialty, question.question, question.reference), count)))
        for question in questions
    ]  # fmt: skip
    return [item for item in found if item.distractors]


def of_answer_only(items: Sequence[PreferenceItem]) -> list[PreferenceItem]:
    """The items of the answer-only baseline, spread over the specialties: every second, or fewer of many."""
    return list(items[:: max(2, math.ceil(len(items) / MAX_ANSWER_ONLY))])


def without_question(item: PreferenceItem, tokenizer: Any, *, encoder_decoder: bool) -> PreferenceItem | None:
    """The same item for the answer-only baseline: the prompt without its question; None if the prompt does not hold it word for word."""
    question = item.question
    before, found, after = question.prompt.rpartition(question.question)
    if not found:
        return None
    encode = chat.encode_source if encoder_decoder else chat.encode_prompt
    prompt = before + after
    return replace(item, question=replace(question, prompt=prompt, prompt_ids=tuple(encode(tokenizer, prompt))))


def facts_of(items: Sequence[PreferenceItem], answer_only: Sequence[PreferenceScores]) -> PreferenceFacts:
    """Describe how preferences were measured.

    Args:
        items: of the base.
        answer_only: what the base finds without the questions.
    """
    chances = [1 / len(item.answers) for item in items]
    return PreferenceFacts(
        len(items), distractors.counts(item.distractors for item in items), sum(chances) / len(chances) if chances else math.nan,
        sum(one.right for one in answer_only) / len(answer_only) if answer_only else math.nan, len(answer_only),
    )  # fmt: skip


def scores_of(record: Preference | None) -> PreferenceScores | None:
    """What a stored record tells; None if a text had no content, or was not measured."""
    if record is None or not record.scores or any(score is None for score in record.scores):
        return None
    reference, *others = (float(score) for score in record.scores if score is not None)
    wins = sum(reference > other for other in others) / len(others)
    return PreferenceScores(float(wins == 1), wins, 1 / len(record.scores))


def measure(
    model: Any, adapter: str | None, tokenizer: Any, items: Mapping[str, PreferenceItem], references: ReferenceVocabulary,
    store: JsonlStore[Preference],
) -> None:  # fmt: skip
    """Measure and store the items that the store lacks.

    Args:
        adapter: the active adapter; None for the base.
        items: by key.
        references: tells the words that are too common to count.
    """
    prompts = [item.question.prompt_ids for item in items.values()]
    lengths = prefix_lengths(prompts, [item.question.specialty for item in items.values()])
    lacking = [
        _encode(key, item, length, tokenizer, references.common)
        for (key, item), length in zip(items.items(), lengths, strict=True)
        if store.lacks(key)
    ]
    if not lacking:
        return
    waiting = sorted(lacking, key=lambda item: item.width)  # the longest is taken first
    with active_adapter(model, adapter), console.Progress("preferences", len(waiting), "questions") as progress:
        scorer = likelihood.Scorer(model, tokenizer.pad_token_id)
        while waiting:
            tokens, item = likelihood.batch_tokens(model), waiting[-1]
            size = max(1, min(tokens // item.width, MAX_CACHED_PER_TOKEN * tokens // item.cached))
            batch = [waiting.pop() for _ in range(min(size, len(waiting)))]
            store.add(_score(scorer, batch))
            progress.advance(len(batch))


@dataclass(frozen=True)
class _EncodedItem:
    """An item in tokens.

    Attributes:
        rows: each answer up to its last token that counts; no tokens follow it that could change its score.
        counted: for each row, whether each token counts.
    """

    key: str
    rows: tuple[Continuation, ...]
    counted: tuple[tuple[bool, ...], ...]

    @property
    def width(self) -> int:
        """Tokens that the model reads, with padding: the prompt once, and every answer."""
        prompt = self.rows[0]
        return len(prompt.prompt_ids) - prompt.prefix_length + len(self.rows) * max(len(row.ids) for row in self.rows)

    @property
    def cached(self) -> int:
        """Tokens whose keys and values are held, because every answer has a copy of the whole prompt's."""
        return sum(len(row.prompt_ids) + len(row.ids) for row in self.rows)


def _encode(key: str, item: PreferenceItem, prefix_length: int, tokenizer: Any, common: frozenset[str]) -> _EncodedItem:
    """An item in tokens.

    Args:
        prefix_length: tokens at the beginning of the prompt that are computed once for several items.
        common: words that are too common to count.
    """
    rows, counted = [], []
    english = texts.is_english(item.question.reference) is not False
    for text in item.answers:
        ids, spans = tokens_with_spans(tokenizer, text)
        mask = content_mask(text, spans, item.question.question, common, english=english)
        length = max((place for place, counts in enumerate(mask, 1) if counts), default=0)
        rows.append(Continuation(item.question.prompt_ids, ids[:length], prefix_length))
        counted.append(tuple(mask[:length]))
    return _EncodedItem(key, tuple(rows), tuple(counted))


def _score(scorer: likelihood.Scorer, items: Sequence[_EncodedItem]) -> list[Preference]:
    """The scores of each item. The rows of an item stand together, so that its prompt is computed once."""
    rows = [row for item in items for row in item.rows if row.ids]
    values = iter(likelihood.measure_batch(scorer, rows) if rows else [])
    return [
        Preference(key=item.key, scores=tuple(
            _mean(next(values), mask) if row.ids else None for row, mask in zip(item.rows, item.counted, strict=True)
        ))
        for item in items
    ]  # fmt: skip


def _mean(values: torch.Tensor, mask: Sequence[bool]) -> float:
    """Mean of the values that count, (tokens,), of which there is at least one."""
    chosen = [value for value, counts in zip(values.tolist(), mask, strict=True) if counts]
    return round(math.fsum(chosen) / len(chosen), 6)


def tokens_with_spans(tokenizer: Any, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """The tokens at the beginning of a text, and the start and end of each token in the text."""
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, spans = encoded["input_ids"], list(encoded["offset_mapping"])
    else:
        ids = chat.encode_text(tokenizer, text)[: MAX_TOKENS + MIN_CHARACTERS * 4]  # bytes of a character
        spans = list(itertools.pairwise(len(tokenizer.decode(ids[:count])) for count in range(len(ids) + 1)))
    read = max(MAX_TOKENS, sum(start < MIN_CHARACTERS for start, _ in spans))
    return tuple(ids[:read]), spans[:read]


def content_mask(
    text: str, spans: Sequence[tuple[int, int]], question: str, common: frozenset[str], *, english: bool
) -> list[bool]:
    """Whether each token belongs to a word that neither the question nor many references hold, or to a number that the question lacks.

    Args:
        common: stems of words that many references hold, or pairs of characters in a script without spaces.
        english: whether words are stemmed.
    """
    counted = bytearray(len(text))
    asked = {vocabulary.stem(word, english=english) for word in texts.tokens(question)} | set(texts.words_of(question))
    for match in texts.TOKEN.finditer(text):
        word = match.group().lower()
        stem = vocabulary.stem(word, english=english)
        if word not in FUNCTION_WORDS and stem not in asked and stem not in common:
            counted[match.start() : match.end()] = b"\1" * (match.end() - match.start())
    # where characters are not separated, pairs of them are the words
    for run in texts.UNSPACED_RUN.finditer(text):
        for one, other in itertools.pairwise(texts.CHARACTERS.finditer(text, run.start(), run.end())):
            pair = one.group() + other.group()
            if pair in asked or pair in common:
                counted[one.start() : other.end()] = bytes(other.end() - one.start())
    return [any(counted[start:end]) for start, end in spans]
