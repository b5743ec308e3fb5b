"""Every artifact of the tuning task: what one folder or script writes and another reads, with its file's name.

JSON is read and written by `core.artifacts`, CSV by `output.tables`. `old_formats` converts what earlier versions wrote.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import msgspec

from meerkat_workbench.core import artifacts
from meerkat_workbench.core.artifacts import Artifact, JsonObject
from meerkat_workbench.core.jsonl_store import KeyedRecord
from meerkat_workbench.core.runs import Manifest
from meerkat_workbench.output.tables import Row
from meerkat_workbench.trainers.evaluator import Evaluation
from meerkat_workbench.tuning import old_formats

ALL = "(all)"  # in place of a specialty, in the row of all of them
# the metrics that short tables show
HEADLINE_METRICS = (
    "ROUGE-L", "METEOR", "bertscore_f1", "token_f1", "factual_exact_match", "medical_token_f1", "content_above_floor",
    "preference_accuracy",
)  # fmt: skip
BASE, TUNED = "base", "tuned"  # names of the two systems that every evaluation has
FEW_SHOT = "base_few_shot"  # name of the base with a length hint and train pairs in its prompt


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


class Verdict(enum.StrEnum):
    """What the interval of a difference shows; NONE for metrics that only describe."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "within noise"
    NONE = ""


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


# --- prepared data


class SplitHashes(msgspec.Struct, frozen=True):
    """Hash of the record ids of each split, independent of their order."""

    holdout: str
    eval: str
    train: str
    pool: str

    def of(self, split: Split) -> str:
        return str(getattr(self, split))


class Sizes(msgspec.Struct, frozen=True):
    """Records by split and specialty."""

    holdout: dict[str, int]
    eval: dict[str, int]
    train: dict[str, int]
    pool: dict[str, int]
    set_aside: dict[str, int] = {}

    def of(self, split: Split) -> dict[str, int]:
        counts: dict[str, int] = getattr(self, split)
        return counts

    def total(self, split: Split) -> int:
        return sum(self.of(split).values())


class UpstreamChanges(msgspec.Struct, frozen=True):
    """How many records of the files changed since the previous iteration."""

    added: int = 0
    edited: int = 0
    removed: int = 0
    returned: int = 0
    fixed_waiting: int = 0  # edited or removed records of the fixed sets, which keep the old text


class SpecialtyChanges(msgspec.Struct, frozen=True):
    """Specialties added, removed, returned or renamed since the previous iteration; `absent` are all that have no record now."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    returned: tuple[str, ...] = ()
    renamed: dict[str, str] = {}
    absent: tuple[str, ...] = ()


class LoadNotes(msgspec.Struct, frozen=True):
    """What reading the files left out."""

    identical_dropped: int = 0
    invalid_skipped: int = 0


class ContaminationSummary(msgspec.Struct, frozen=True):
    """Number of benchmark questions, and of records that contain one, by benchmark file and by how they were found."""

    questions: int
    records: int
    by_file: dict[str, int]
    by_kind: dict[str, int]


class IterationRecord(Artifact, frozen=True, kw_only=True):
    """One line of the ledger: an iteration's shares, sizes and hashes, what it was derived from, and what changed upstream.

    Attributes:
        adjustments: the shares that were changed for this iteration.
        specialty_adjustments: the shares in the script, applied in this iteration or before.
        original_names: the first name of each renamed specialty, on which the ids of its records depend.
        shares: (train + eval) / share_base, by specialty; share_base is all records but the holdout.
        capped: number of records that a share asks for but that do not exist, by specialty.
        small_specialties: number of holdout questions of specialties with fewer than wanted.
        template_sha256: hash of the chat template's rendering of a probe.
    """

    FILE: ClassVar[str] = "iterations.jsonl"

    iteration: int
    made: str
    derived_from: SplitHashes | None = None
    adjustments: dict[str, float] = {}
    specialty_adjustments: dict[str, float] = {}
    recommendations_sha256: str = ""
    comparability_break: str = ""
    changes: UpstreamChanges = UpstreamChanges()
    specialties: SpecialtyChanges | None = None  # None in lines of the first versions
    original_names: dict[str, str] = msgspec.field(name="known_as", default_factory=dict)
    shares: dict[str, float]
    share_base: dict[str, int]
    capped: dict[str, int] = {}
    small_specialties: dict[str, int] = {}
    sizes: Sizes
    hashes: SplitHashes
    template_sha256: str = ""
    settings: JsonObject = {}
    notes: LoadNotes = LoadNotes()
    contamination: ContaminationSummary | None = None
    restored_from: int | None = None
    version: int = 2

    @property
    def absent(self) -> tuple[str, ...]:
        return self.specialties.absent if self.specialties else ()


class DatasetInputs(msgspec.Struct, frozen=True):
    """The specialty files of a preparation, by name and SHA-256."""

    data_dir: str
    files: dict[str, str]


class TuningManifest(Manifest, frozen=True, kw_only=True):
    """A manifest of one of the task's scripts."""

    @classmethod
    def stage_of(cls, value: JsonObject) -> str:
        return old_formats.stage_of(value)

    @classmethod
    def upgrade(cls, value: JsonObject) -> JsonObject:
        return old_formats.manifest(value)


class DatasetManifest(TuningManifest, frozen=True, kw_only=True):
    """The manifest of a prepared folder."""

    STAGE: ClassVar[str] = "preparation"
    SCRIPT: ClassVar[str] = "dataset_preparation.py"

    inputs: DatasetInputs
    splits: SplitHashes
    arguments: tuple[str, ...] = ()
    recommendations_sha256: str = ""
    restored_from: int | None = None

    @property
    def system_message(self) -> str:
        return str(self.settings["SYSTEM_MESSAGE"])

    @property
    def near_duplicate_threshold(self) -> float:
        return float(self.settings["NEAR_DUPLICATE_THRESHOLD"])

    @property
    def output_dir(self) -> Path:
        return Path(self.settings["OUTPUT_DIR"])

    @property
    def contamination_sets(self) -> tuple[str, ...]:
        """The folders of benchmark questions against which the train set was guarded; the first versions had no such setting."""
        return tuple(self.settings.get("CONTAMINATION_SETS") or ())


class SetAsideRecord(Artifact, frozen=True, kw_only=True):
    """One line of `set_aside.jsonl`: a record that is not trained on, with the fixed record or benchmark question that it repeats."""

    FILE: ClassVar[str] = "set_aside.jsonl"

    id: str
    specialty: str
    question: str
    reason: str
    split: str  # split of the record that it repeats, or "benchmark"
    like: str
    like_specialty: str
    like_question: str


class WaitingRecord(msgspec.Struct, frozen=True):
    """A fixed record that was edited or removed upstream and keeps its old text."""

    id: str
    specialty: str
    split: str
    question: str
    upstream: str


class SpecialtyStatistics(msgspec.Struct, frozen=True):
    """Sizes and mean lengths of one specialty."""

    share: float
    share_base: int
    holdout: int
    eval: int
    train: int
    pool: int
    set_aside: int
    question_words_mean: float
    answer_words_mean: float


class DatasetStatistics(Artifact, frozen=True, kw_only=True):
    """`dataset_stats.json`, for people."""

    FILE: ClassVar[str] = "dataset_stats.json"

    iteration: int
    total: dict[str, int]
    specialties: dict[str, SpecialtyStatistics]
    fixed_records_changed_upstream: tuple[WaitingRecord, ...] = ()
    share_is: str = "(train + eval) / share_base; share_base is all records of the specialty but the holdout"


class HoldoutEvaluation(Artifact, frozen=True, kw_only=True):
    """One line of `holdout_looks.jsonl`: a finished evaluation that has seen this holdout."""

    FILE: ClassVar[str] = "holdout_looks.jsonl"

    fingerprint: str
    time: str = ""
    adapter: str = ""


# --- training


class LossSummary(msgspec.Struct, frozen=True):
    """Token-weighted loss (nats per token), perplexity and token accuracy of a set of examples."""

    examples: int
    tokens: int
    loss: float
    perplexity: float
    token_accuracy: float


class SampleAnswer(msgspec.Struct, frozen=True):
    """What the model answered to one eval question while it was trained."""

    question: str
    reference: str
    answer: str


class EvalPoint(Evaluation, frozen=True, kw_only=True):
    """One evaluation on the eval split during training, a line of `eval_history.jsonl`."""

    FILE: ClassVar[str] = "eval_history.jsonl"

    examples: int
    tokens: int
    loss: float
    perplexity: float
    token_accuracy: float
    rouge_l: float | None = msgspec.field(name="ROUGE-L", default=None)
    bertscore_f1: float | None = None
    answers: tuple[SampleAnswer, ...] = ()
    specialties: dict[str, LossSummary] = {}

    @property
    def overall(self) -> LossSummary:
        return LossSummary(self.examples, self.tokens, self.loss, self.perplexity, self.token_accuracy)

    def brief(self) -> Self:
        """This evaluation without its answers and specialties."""
        return msgspec.structs.replace(self, answers=(), specialties={})


class TrainingInputs(msgspec.Struct, frozen=True):
    """Hashes of what an adapter was trained on: the prepared data, every train set that it learnt from, and the base's weights."""

    dataset: str
    splits: SplitHashes
    trained_on: tuple[str, ...]
    base_weights: str


class TrainingOutputs(msgspec.Struct, frozen=True):
    """SHA-256 of the adapter's weights, or of the whole model's."""

    adapter: str


class TrainingResult(TuningManifest, frozen=True, kw_only=True):
    """The manifest of a training run.

    Attributes:
        kept, before: the evaluation of the weights that were kept, and the one before the first step.
        tokens: number of tokens that were trained on; None if an earlier version did not count them.
        recipe: hash of the settings on which the result depends; equal for comparable iterations.
    """

    STAGE: ClassVar[str] = "training"
    SCRIPT: ClassVar[str] = "fine_tuning.py"

    inputs: TrainingInputs
    outputs: TrainingOutputs
    processes: int = 1
    kept: EvalPoint
    before: EvalPoint
    tokens: int | None = None
    recipe: str = ""

    @property
    def base_model(self) -> str:
        return str(self.settings["MODEL_NAME"])

    @property
    def encoder_decoder(self) -> bool:
        return self.settings.get("MODEL_TYPE") == "encoder-decoder"

    @property
    def load_in_4bit(self) -> bool:
        return bool(self.settings["LOAD_IN_4BIT"])


class TrainingConfigFile(Artifact, frozen=True, kw_only=True):
    """`training_config.json`, for people: the settings, the plan and the evaluation that was kept."""

    FILE: ClassVar[str] = "training_config.json"

    settings: JsonObject
    iteration: int
    kept: EvalPoint
    audit: tuple[str, ...]
    trainable_parameters: int
    seconds_a_step: float


class SpecialtyEvalRow(Row, frozen=True, kw_only=True):
    """`eval_by_specialty.csv`: a row for each evaluation and specialty."""

    FILE: ClassVar[str] = "eval_by_specialty.csv"

    step: int
    epoch: float
    specialty: str
    examples: int
    tokens: int
    loss: float
    perplexity: float
    token_accuracy: float


class SpecialtyLearningRow(Row, frozen=True, kw_only=True):
    """`learning_by_specialty.csv`: eval loss of each specialty before training and with the weights that were kept."""

    FILE: ClassVar[str] = "learning_by_specialty.csv"

    specialty: str
    examples: int
    tokens: int
    loss_before: float
    loss_after: float
    loss_change: float
    token_accuracy_before: float
    token_accuracy_after: float
    learnt: bool


class SampleAnswerRow(Row, frozen=True, kw_only=True):
    """`sample_answers.csv`: what the model answered to the same few questions at each evaluation."""

    FILE: ClassVar[str] = "sample_answers.csv"

    question: str
    step: int
    epoch: float
    answer: str
    reference: str


class ExportInputs(msgspec.Struct, frozen=True):
    """Hashes of what an exported model was trained on."""

    splits: SplitHashes
    trained_on: tuple[str, ...] = ()


class Likeness(msgspec.Struct, frozen=True):
    """How similar an exported model and its adapter are.

    Attributes:
        answers: number of questions that both answered.
        equal, word_overlap: fraction of equal answers, and mean overlap of their words (Jaccard).
        merge: fraction of tokens for which the merged model and the adapter on the same base make the same choice.
        as_trained: the same, with the adapter on the base in the form that it was trained on.
        precision: the precision in which weights were merged.
    """

    answers: int
    equal: float
    word_overlap: float
    merge: float
    as_trained: float
    precision: str


class ExportRecord(Artifact, frozen=True, kw_only=True):
    """`export.json` in the folder of an exported model, also on the Hub."""

    FILE: ClassVar[str] = "export.json"

    adapter: str = ""
    inputs: ExportInputs
    likeness: Likeness | None = None
    version: int = 2

    @classmethod
    def matches(cls, value: object) -> bool:
        """Whether a JSON value has the form of this record, and not that of another tool's `export.json`."""
        inputs = value.get("inputs") if isinstance(value, dict) else None
        return isinstance(inputs, dict) and "splits" in inputs

    @classmethod
    def upgrade(cls, value: JsonObject) -> JsonObject:
        return old_formats.export_record(value)


# --- evaluation


class Prediction(KeyedRecord, frozen=True, kw_only=True):
    """A system's answer, a line of `predictions.jsonl`. The key depends on prompt, weights, settings and engine.

    The file holds the whole `text`. `prediction_store.strip_thinking` moves what a reasoning model wrote first to `reasoning`.
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


class CorpusBleu(msgspec.Struct, frozen=True):
    """Corpus BLEU of each system on one split, from 0 to 100, and sacrebleu's signature."""

    signature: str
    scores: dict[str, float]


class EvaluationInputs(msgspec.Struct, frozen=True):
    """Hashes of the adapter, the base's weights and the data."""

    adapter: str
    base_weights: str
    dataset: str
    splits: SplitHashes


class EvaluationManifest(TuningManifest, frozen=True, kw_only=True):
    """The manifest of an evaluation; `failed` is the number of answers and grades that could not be obtained."""

    STAGE: ClassVar[str] = "evaluation"
    SCRIPT: ClassVar[str] = "evaluation.py"

    inputs: EvaluationInputs
    failed: int = 0
    run: GenerationRecord
    missing: dict[str, str] = {}
    corpus_bleu: dict[str, CorpusBleu] = {}


class MetricComparison(Row, frozen=True, kw_only=True):
    """`model_comparison.csv`: base and tuned model in one metric on one split, with 95% intervals.

    Attributes:
        few_shot, over_few_shot: score of the few-shot base, and the paired difference from it with interval, p and verdict; NaN if
            it was not asked.
    """

    FILE: ClassVar[str] = "model_comparison.csv"

    split: str
    metric: str
    n: int
    base: float
    tuned: float
    difference: float
    ci_low: float
    ci_high: float
    p: float
    base_low: float
    base_high: float
    tuned_low: float
    tuned_high: float
    floor_base: float
    floor_tuned: float
    verdict: Verdict
    lower_is_better: bool
    signature: str
    missing: str
    few_shot: float = math.nan
    over_few_shot: float = math.nan
    over_few_shot_low: float = math.nan
    over_few_shot_high: float = math.nan
    over_few_shot_p: float = math.nan
    over_few_shot_verdict: Verdict = Verdict.NONE

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.ci_low)


class SystemComparison(MetricComparison, frozen=True, kw_only=True):
    """`models_comparison.csv`: any system against the base; its score is `tuned` here and the column `score` in the file."""

    FILE: ClassVar[str] = "models_comparison.csv"

    tuned: float = msgspec.field(name="score")
    model: str

    @classmethod
    def of(cls, row: MetricComparison, model: str) -> SystemComparison:
        return cls(model=model, **msgspec.structs.asdict(row))


class SpecialtyPerformance(Row, frozen=True, kw_only=True):
    """`specialty_performance.csv`: base and tuned model in one metric, split and specialty.

    Attributes:
        detectable: the smallest difference that this specialty alone could have shown, corrected for all specialties.
        p_adjusted: `p` adjusted over the specialties (Benjamini-Hochberg).
        shrunk: the difference, shrunk toward that of all specialties.
        few_shot, over_few_shot: score of the few-shot base, and the difference from it with its interval; NaN if it was not asked.
    """

    FILE: ClassVar[str] = "specialty_performance.csv"

    split: str
    metric: str
    specialty: str
    n: int
    base: float
    tuned: float
    difference: float
    ci_low: float
    ci_high: float
    p: float
    tuned_low: float
    tuned_high: float
    detectable: float
    lower_is_better: bool
    p_adjusted: float
    shrunk: float
    verdict: Verdict
    few_shot: float = math.nan
    over_few_shot: float = math.nan
    over_few_shot_low: float = math.nan
    over_few_shot_high: float = math.nan


class CheckComparison(Row, frozen=True, kw_only=True):
    """`answer_checks.csv`: number of answers that fail a check, by model, and of those that fail for one model only.

    Attributes:
        few_shot: answers of the few-shot base that fail; None if it was not asked.
    """

    FILE: ClassVar[str] = "answer_checks.csv"

    split: str
    check: str
    says: str
    n: int
    base: int
    tuned: int
    only_base: int
    only_tuned: int
    p: float
    p_adjusted: float
    few_shot: int | None = None


class Outcome(enum.StrEnum):
    """What a comparison shows about knowledge or style, beyond noise."""

    GAINED = "gained"
    LOST = "lost"
    MIXED = "gained in one measure, lost in another"
    NO_DIFFERENCE = "no difference beyond noise"
    NOT_MEASURED = "not measured"


class VerdictEvidence(msgspec.Struct, frozen=True):
    """One measure of a verdict: the tuned model against the other system, paired by question.

    Attributes:
        measure: name of a metric or check.
        other, tuned: means.
        difference: tuned minus other, with its 95% interval.
        p_adjusted: two-sided, adjusted over the measures that can show a gain, or that can only show harm (Holm).
        verdict: what it shows; NOISE unless p_adjusted is at most 0.05.
    """

    measure: str
    n: int
    other: float | None
    tuned: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    p_adjusted: float | None
    verdict: Verdict


class VerdictLine(msgspec.Struct, frozen=True):
    """The verdict on knowledge or on style: the outcome, one sentence, and what it rests on."""

    outcome: Outcome
    compared_with: str
    sentence: str
    evidence: tuple[VerdictEvidence, ...] = ()


class SplitVerdict(msgspec.Struct, frozen=True):
    """What tuning did on one split; `conclusion` is one sentence on both lines."""

    split: str
    knowledge: VerdictLine
    style: VerdictLine
    conclusion: str

    @property
    def only_style(self) -> bool:
        """Whether tuning changed the style for the better, and no knowledge was gained."""
        return self.style.outcome is Outcome.GAINED and self.knowledge.outcome is not Outcome.GAINED


class EvaluationVerdict(Artifact, frozen=True, kw_only=True):
    """`verdict.json`: what tuning did to knowledge and to style, by split; the headline is that of the holdout."""

    FILE: ClassVar[str] = "verdict.json"

    splits: tuple[SplitVerdict, ...]
    version: int = 1

    @property
    def headline(self) -> SplitVerdict:
        return self.of(Split.HOLDOUT) or self.splits[0]

    def of(self, split: str) -> SplitVerdict | None:
        """The verdict on one split; None if it was not asked."""
        return next((verdict for verdict in self.splits if verdict.split == split), None)


class BenchmarkResult(Row, frozen=True, kw_only=True):
    """`benchmark_results.csv`: a model and the base in one accuracy, on the multiple-choice questions of a file or of one of its subjects.

    Attributes:
        subject: ALL for all questions of the file.
        metric: "acc", or "acc_norm", which divides the log-likelihood of an option by its bytes.
        guessing: the accuracy that guessing is expected to have.
        score: the model's accuracy; `low` and `high` are its 95% interval (Wilson).
        ci_low, ci_high: 95% interval of the difference, paired by question.
        only_base, only_model: questions that only one of the two answers right.
        p: exact McNemar test.
        p_adjusted: `p` adjusted over the subjects of the file, or over the files in rows of whole files (Benjamini-Hochberg).
        missing: why there is no accuracy; empty if there is one.
    """

    FILE: ClassVar[str] = "benchmark_results.csv"

    file: str
    subject: str
    model: str
    metric: str
    n: int
    guessing: float
    base: float = math.nan
    base_low: float = math.nan
    base_high: float = math.nan
    score: float = math.nan
    low: float = math.nan
    high: float = math.nan
    difference: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    only_base: int = 0
    only_model: int = 0
    p: float = math.nan
    p_adjusted: float = math.nan
    verdict: Verdict = Verdict.NONE
    missing: str = ""


class HistoryRow(Row, frozen=True, kw_only=True):
    """`history.csv`: one iteration's score in one metric and split, and its paired change since the previous evaluation.

    Attributes:
        evaluation: fingerprint of the evaluation.
        comparability_key: column `alike`, equal for evaluations whose scores compare.
        train: number of training records.
        share: fraction of all records but the holdout that is used.
    """

    FILE: ClassVar[str] = "history.csv"

    iteration: int
    finished: str
    evaluation: str
    comparability_key: str = msgspec.field(name="alike")
    adapter: str
    recipe: str = ""
    train: int
    share: float = math.nan
    train_seconds: float = math.nan
    train_tokens: float = math.nan
    seconds: float = math.nan
    split: str
    metric: str
    n: int
    base: float
    tuned: float
    tuned_low: float
    tuned_high: float
    difference: float
    ci_low: float
    ci_high: float
    change: float = math.nan
    change_low: float = math.nan
    change_high: float = math.nan
    change_p: float = math.nan


class PolicyDecision(msgspec.Struct, frozen=True):
    """The inputs of a policy and what it expects. None for rules that compute no expectation."""

    name: str
    budget: int
    objective: str | dict[str, float]
    iterations: tuple[int, ...] = ()
    expected_gain: float | None = None
    expected_gain_of_natural_mix: float | None = None
    probability_better_than_natural_mix: float | None = None
    probability_that_training_helps: float | None = None
    probability_that_specialties_gain_differently: float | None = None
    natural_mix_kept: bool = False


class SpecialtyAdvice(msgspec.Struct, frozen=True):
    """How one specialty scores on the eval split, the records that it gets, and why. None if a value cannot be known."""

    specialty: str
    n: int
    mean: float | None
    shrunk: float | None
    shrunk_se: float | None
    others: float | None
    p_below_others: float | None
    p_adjusted: float | None
    probability_among_worst: float | None
    supported: bool
    questions_to_settle: int | None
    current_share: float
    recommended_share: float
    records_added: int
    records_left: int
    expected_gain: float | None = None
    expected_gain_low: float | None = None
    expected_gain_high: float | None = None
    new_records_needed: int | None = None
    reason: str = ""


class Recommendations(Artifact, frozen=True, kw_only=True):
    """`training_recommendations.json`: the three keys of the specification, and the evidence for them."""

    FILE: ClassVar[str] = "training_recommendations.json"

    low_performance_specialties: tuple[str, ...] = ()
    recommended_sample_increases: dict[str, float]
    overall_improvement: dict[str, float | None] = {}
    measured_lowest_without_support: tuple[str, ...] = ()
    steering_metric: str = ""
    steering_split: str = "eval"
    policy: PolicyDecision | None = None
    sentences: tuple[str, ...] = msgspec.field(name="in_words", default=())
    evidence: tuple[SpecialtyAdvice, ...] = ()
    caution: str = ""
    iteration: int | None = None
    overall_improvement_split: str = ""
    version: int = 2


class RatingKeyEntry(msgspec.Struct, frozen=True):
    """The question of a line of the sheet, and the system whose answer is A."""

    id: str
    a: str


class RatingKey(Artifact, frozen=True, kw_only=True):
    """`rating_key.json`: which answer is whose. The raters must not see it."""

    FILE: ClassVar[str] = "rating_key.json"

    sheet: str
    questions: dict[str, RatingKeyEntry]


class RatingSheetRow(Row, frozen=True, kw_only=True):
    """`rating_sheet.csv`: one question with both answers in random order."""

    FILE: ClassVar[str] = "rating_sheet.csv"
    READ_BACK: ClassVar[tuple[str, str, str]] = ("sheet", "number", "better")  # columns that a completed sheet must have

    sheet: str
    number: int
    specialty: str
    question: str
    answer_a: str
    answer_b: str
    better: str = ""
    correct_a: str = ""
    complete_a: str = ""
    harm_a: str = ""
    correct_b: str = ""
    complete_b: str = ""
    harm_b: str = ""
    comment: str = ""

    @classmethod
    def criterion_column(cls, criterion: AnswerCriterion, answer: str) -> str:
        """The column of a criterion; `answer` is "A" or "B". Sheets of earlier versions do not have it."""
        return f"{criterion}_{answer.lower()}"


class RatingResult(Row, frozen=True, kw_only=True):
    """`rating_results.csv`: preferences over all questions and by specialty; `net` is from -1 (always the base) to 1."""

    FILE: ClassVar[str] = "rating_results.csv"

    specialty: str
    questions: int
    ratings: int
    tuned_wins: int
    ties: int
    base_wins: int
    net: float
    ci_low: float
    ci_high: float
    p: float


class MetricAgreement(Row, frozen=True, kw_only=True):
    """`rating_agreement.csv`: how often a metric prefers the answer that the raters prefer, with a Wilson interval."""

    FILE: ClassVar[str] = "rating_agreement.csv"

    metric: str
    questions: int
    agrees: float
    ci_low: float
    ci_high: float


class RatedCriterion(Row, frozen=True, kw_only=True):
    """`rating_criteria.csv`: for how many answers of each system raters say yes, by criterion.

    Attributes:
        questions: number of questions with a verdict on both answers; the raters of an answer are averaged first.
        ratings: number of verdicts, a rater's on one answer each.
        base, tuned: fraction of yes, with Wilson intervals.
        difference: tuned minus base, paired by question and stratified by specialty.
        kappa: agreement between raters on `common` answers, which all of them rated; NaN with one rater.
    """

    FILE: ClassVar[str] = "rating_criteria.csv"

    criterion: AnswerCriterion
    questions: int
    ratings: int
    base: float
    base_low: float
    base_high: float
    tuned: float
    tuned_low: float
    tuned_high: float
    difference: float
    ci_low: float
    ci_high: float
    p: float
    raters: int
    common: int
    kappa: float


class JudgeVerdict(Row, frozen=True, kw_only=True):
    """`judge_verdicts.csv`: what the judge says of one answer, by criterion; `grade` is its mean grade, NaN if it has none."""

    FILE: ClassVar[str] = "judge_verdicts.csv"

    id: str
    specialty: str
    system: str
    correct: Judgement
    complete: Judgement
    harm: Judgement
    grade: float
    words: int

    @property
    def verdicts(self) -> AnswerVerdicts:
        return AnswerVerdicts(self.correct, self.complete, self.harm)


class LengthControlled(Row, frozen=True, kw_only=True):
    """`judge_length.csv`: the judge's mean grade, tuned minus base, as it is and at equal length of the answers.

    Attributes:
        per_doubling: by how much the difference grows if the tuned answer is twice as long.
    """

    FILE: ClassVar[str] = "judge_length.csv"

    n: int
    difference: float
    ci_low: float
    ci_high: float
    at_equal_length: float
    at_equal_length_low: float
    at_equal_length_high: float
    per_doubling: float
    missing: str = ""


class JudgeAgreement(Row, frozen=True, kw_only=True):
    """`judge_agreement.csv`: how far the judge agrees with raters by one criterion, on the answers of both systems.

    Attributes:
        n: number of answers with a judge's verdict and a majority of raters.
        kappa: Cohen's kappa between the judge and the majority of raters.
        sensitivity: of `raters_yes` answers for which raters say yes, the fraction for which the judge does.
        specificity: of `raters_no` answers for which raters say no, the fraction for which the judge does not say yes.
        judged: number of answers, rated or not, for which both orders could be read.
        flips: number of them for which the judge's verdict changed with the order of the answers.
    """

    FILE: ClassVar[str] = "judge_agreement.csv"

    criterion: AnswerCriterion
    n: int
    kappa: float
    sensitivity: float
    raters_yes: int
    specificity: float
    raters_no: int
    judged: int
    flips: int


class JudgeCorrection(Row, frozen=True, kw_only=True):
    """`judge_corrected.csv`: the judge's rate of yes, corrected by its sensitivity and specificity on rated answers.

    Attributes:
        system: base, tuned, or their difference.
        n: number of judged answers, or of judged pairs.
        judged: the judge's own rate, or difference of rates.
        corrected: with a 95% interval that covers the judged and the rated answers; NaN with the reason in `missing`.
    """

    FILE: ClassVar[str] = "judge_corrected.csv"
    DIFFERENCE: ClassVar[str] = "tuned minus base"  # in place of a system

    criterion: AnswerCriterion
    system: str
    n: int
    judged: float
    corrected: float
    ci_low: float
    ci_high: float
    missing: str = ""


class ClaimRow(Row, frozen=True, kw_only=True):
    """`claims.csv`: one claim of a reference or of an answer, and what the other text says about it."""

    FILE: ClassVar[str] = "claims.csv"

    id: str
    specialty: str
    system: str
    claim_of: ClaimOf
    claim: str
    verdict: ClaimVerdict


class ClaimScore(Row, frozen=True, kw_only=True):
    """`claim_scores.csv`: the measures of one system's answer to one question. A value that cannot be known is NaN.

    Attributes:
        reference_claims, answer_claims: number of claims; NaN if the judge's list cannot be read.
        reference_decided, answer_decided: number of these with a verdict, the denominators below.
        claim_recall, claim_contradicted: fraction of the reference's claims that the answer entails or contradicts.
        claim_precision: fraction of the answer's claims that the reference supports.
        unsupported_claims: number of the answer's claims that the reference does not support.
    """

    FILE: ClassVar[str] = "claim_scores.csv"

    id: str
    specialty: str
    system: str
    reference_claims: float
    reference_decided: float
    answer_claims: float
    answer_decided: float
    claim_recall: float
    claim_contradicted: float
    claim_precision: float
    unsupported_claims: float

    def of(self, measure: ClaimMeasure) -> float:
        return float(getattr(self, measure))


class ClaimComparison(Row, frozen=True, kw_only=True):
    """`claim_comparison.csv`: one system against another in one measure of claims, paired by question.

    Attributes:
        score, against_score: means over the questions for which both have a value.
        p_adjusted: adjusted over the measures (Benjamini-Hochberg).
        missing: the reason if there is no such question.
    """

    FILE: ClassVar[str] = "claim_comparison.csv"

    system: str
    against: str
    measure: ClaimMeasure
    n: int
    against_score: float
    score: float
    difference: float
    ci_low: float
    ci_high: float
    p: float
    p_adjusted: float
    verdict: Verdict
    lower_is_better: bool
    missing: str = ""


# --- files that are not records


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


def read_ledger(folder: Path) -> list[IterationRecord]:
    """The iterations of a prepared folder, oldest first; an empty list before the first."""
    return artifacts.read_lines(IterationRecord, folder / IterationRecord.FILE)


def read_recommendations(path: Path) -> Recommendations:
    """The recommendations of an evaluation, from its `training_recommendations.json`."""
    return artifacts.read(Recommendations, path)


def by_specialty(counts: Mapping[str, float], name: str) -> float:
    """A specialty's value, 0 if it has none."""
    return counts.get(name, 0)
