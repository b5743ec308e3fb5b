"""Names and values that several artifacts share: splits, systems, verdicts, files that no program reads back."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

ALL = "(all)"  # in place of a specialty, in the row of all of them
# the metrics that short tables show
HEADLINE_METRICS = (
    "ROUGE-L", "METEOR", "bertscore_f1", "token_f1", "factual_exact_match", "medical_token_f1", "content_above_floor",
    "preference_accuracy", "concept_f1",
)  # fmt: skip
BASE, TUNED = "base", "tuned"  # names of the two systems that every evaluation has
FEW_SHOT = "base_few_shot"  # name of the base with a length hint and train pairs in its prompt


OPEN_BOOK = "_open_book"  # ends the name of a system that is asked with passages


def open_book_name(name: str) -> str:
    """Name of a system when it is asked with passages: "tuned_open_book"."""
    return name + OPEN_BOOK


def system_in_words(name: str) -> str:
    """A system's name in a sentence: "the base", "the few-shot base", "the tuned model", "the tuned model with passages"."""
    if name.endswith(OPEN_BOOK):
        return f"{system_in_words(name.removesuffix(OPEN_BOOK))} with passages"
    return {BASE: "the base", FEW_SHOT: "the few-shot base"}.get(name, f"the {name} model")


class Split(enum.StrEnum):
    """The splits of the prepared data."""

    HOLDOUT = "holdout"
    EVAL = "eval"
    TRAIN = "train"
    POOL = "pool"


FIXED = (Split.HOLDOUT, Split.EVAL)  # drawn once, and never trained on


class Role(enum.StrEnum):
    """Where a record belongs. The register has the first four."""

    HOLDOUT = "holdout"
    EVAL = "eval"
    OPEN = "open"  # may be trained on
    GONE = "gone"  # was open, and is in no file now
    SET_ASIDE = "set_aside"  # repeats a fixed record or a benchmark question


class Finish(enum.StrEnum):
    """How an answer ended."""

    STOP = "stop"
    LENGTH = "length"  # cut off at MAX_NEW_TOKENS
    FAILED = "failed"  # no answer


class SystemKind(enum.StrEnum):
    """How a system answers: the base model, an adapter on it, a whole model, or a server."""

    BASE = "base"
    ADAPTER = "adapter"
    MODEL = "model"
    ENDPOINT = "endpoint"


class AnswerCriterion(enum.StrEnum):
    """What raters and the judge say of each answer by itself, with yes or no."""

    CORRECT = "correct"
    COMPLETE = "complete"
    HARM = "harm"


class Judgement(enum.StrEnum):
    """What a rater or the judge says of an answer by one criterion."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"  # the judge's two replies, with the answers exchanged, differ
    NONE = ""  # not given, or the reply cannot be read


class AnswerVerdicts(msgspec.Struct, frozen=True):
    """What one rater or the judge says of one answer."""

    correct: Judgement = Judgement.NONE
    complete: Judgement = Judgement.NONE
    harm: Judgement = Judgement.NONE

    def of(self, criterion: AnswerCriterion) -> Judgement:
        return Judgement(getattr(self, criterion))


NO_VERDICTS = AnswerVerdicts()


class ClaimVerdict(enum.StrEnum):
    """What a text says about a claim: about a claim of the reference the answer, about a claim of the answer the reference."""

    ENTAILED = "entailed"
    CONTRADICTED = "contradicted"
    NEITHER = "neither"  # for example because the text does not mention it
    UNDECIDED = "undecided"  # the judge's two replies, with claim and text exchanged, differ
    UNREAD = ""  # a reply is missing or cannot be read

    @property
    def is_decided(self) -> bool:
        return self not in (ClaimVerdict.UNDECIDED, ClaimVerdict.UNREAD)


class ClaimOf(enum.StrEnum):
    """Whose claim it is."""

    REFERENCE = "reference"
    ANSWER = "answer"


class ClaimMeasure(enum.StrEnum):
    """The measures of an answer's claims, which are the columns of `ClaimScore`."""

    RECALL = "claim_recall"
    PRECISION = "claim_precision"
    CONTRADICTED = "claim_contradicted"
    UNSUPPORTED = "unsupported_claims"

    @property
    def lower_is_better(self) -> bool:
        return self in (ClaimMeasure.CONTRADICTED, ClaimMeasure.UNSUPPORTED)


class Outcome(enum.StrEnum):
    """What a comparison shows about knowledge or style, beyond noise."""

    GAINED = "gained"
    LOST = "lost"
    MIXED = "gained in one measure, lost in another"
    NO_DIFFERENCE = "no difference beyond noise"
    NOT_MEASURED = "not measured"


class OutputFile(enum.StrEnum):
    """Names of files that people open and that no program reads back, and of tables that are data frames."""

    REPORT = "report.html"
    SPECIALTY_ANALYSIS = "specialty_analysis.png"
    MODEL_COMPARISON = "model_comparison.png"
    PROGRESS = "progress.png"
    TRAINING_CURVES = "training_curves.png"
    TRAINING_LOG = "training_log.jsonl"
    RATING_PAGE = "rating_sheet.html"
    RETENTION = "retention.csv"
    JUDGE_RESULTS = "judge_results.csv"
    BENCHMARK_ITEMS = "benchmark_items.csv"


def answers_file(system: str) -> str:
    """Name of the table of a system's scored answers."""
    return f"{'finetuned' if system == TUNED else system}_model_results.csv"


def by_specialty(counts: Mapping[str, float], name: str) -> float:
    """A specialty's value, 0 if it has none."""
    return counts.get(name, 0)
