"""What is stored while models answer: answers, likelihoods, preferences, scores of multiple-choice questions."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from meerkat_workbench.core.artifacts import Artifact
from meerkat_workbench.core.jsonl_store import KeyedRecord
from meerkat_workbench.tuning.artifacts.names import Finish


class Prediction(KeyedRecord, frozen=True, kw_only=True):
    """A system's answer, a line of `predictions.jsonl`. The key depends on prompt, weights, settings and engine.

    The file holds the whole `text`. `prediction_store.strip_thinking` moves what a reasoning model wrote first to `reasoning`.

    Attributes:
        loss: the model's own mean loss per token of the answer in nats, as it was decoded; None if that is not known.
    """

    FILE: ClassVar[str] = "predictions.jsonl"

    id: str
    system: str = msgspec.field(name="arm")
    text: str
    finish: Finish
    tokens: int
    error: str = ""
    reasoning: str = ""
    thinking_unfinished: bool = False
    loss: float | None = None


class Likelihood(KeyedRecord, frozen=True, kw_only=True):
    """Mean loss per token of a text in nats, a line of `likelihoods.jsonl`; None if the text has no token."""

    FILE: ClassVar[str] = "likelihoods.jsonl"

    loss: float | None


class Preference(KeyedRecord, frozen=True, kw_only=True):
    """How likely a model finds the reference and its distractors after a question, a line of `preferences.jsonl`.

    Attributes:
        scores: mean log-probability of the counted tokens of each text, in nats, the reference first; None if a text has none.
    """

    FILE: ClassVar[str] = "preferences.jsonl"

    scores: tuple[float | None, ...]


class ChoiceScores(KeyedRecord, frozen=True, kw_only=True):
    """Log-likelihoods of one multiple-choice question's options in nats, a line of `benchmark_scores.jsonl`.

    Attributes:
        log_likelihoods: the sum over the tokens of each option, in the order of the options; empty if one of them has no token.
        cut: number of tokens that were cut off at the start of the context, because it is longer than the model's.
    """

    FILE: ClassVar[str] = "benchmark_scores.jsonl"

    log_likelihoods: tuple[float, ...]
    cut: int = 0


class LoadRecord(msgspec.Struct, frozen=True):
    """One load of a model that answered: for which systems, in which order, and with how many questions at once."""

    systems: tuple[str, ...]
    order: str
    batch_size: int
    batches: str


class RetrievedPassage(msgspec.Struct, frozen=True):
    """A passage that an open-book system was shown.

    Attributes:
        rank: from 1, in the prompt.
        score: by which the passages are ordered.
        first_rank: in the first stage.
        probability: of the reranker; None without one.
    """

    rank: int
    document_id: str
    text: str
    score: float
    first_rank: int
    probability: float | None


class RetrievedPassages(Artifact, frozen=True, kw_only=True):
    """One line of `passages.jsonl`: the passages of a question.

    Attributes:
        left_out: passages that repeat a held-out reference word for word.
    """

    FILE: ClassVar[str] = "passages.jsonl"

    question: str
    passages: tuple[RetrievedPassage, ...]
    left_out: int = 0


class GenerationRecord(Artifact, frozen=True, kw_only=True):
    """How answers were made: identities of the systems, number of answers made in this run, and each load of a model."""

    FILE: ClassVar[str] = "generation_progress.json"  # only while answers are generated; then it is part of the manifest

    engine: str
    generated: int = 0
    identities: dict[str, str] = msgspec.field(name="arms", default_factory=dict)
    largest_logit_change: dict[str, float] = {}
    loads: tuple[LoadRecord, ...] = ()

    def after(self, earlier: GenerationRecord | None) -> GenerationRecord:
        """This record joined with that of the earlier run whose answers were kept, for example to be scored again."""
        if earlier is None:
            return self
        changes = {**earlier.largest_logit_change, **self.largest_logit_change}
        return msgspec.structs.replace(self, largest_logit_change=changes, loads=(*earlier.loads, *self.loads))
