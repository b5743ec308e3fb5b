"""What `fine_tuning.py` writes, and the record of an export."""

from __future__ import annotations

from typing import ClassVar, Self

import msgspec

from meerkat_workbench.core.artifacts import Artifact, JsonObject
from meerkat_workbench.output.tables import Row
from meerkat_workbench.trainers.evaluator import Evaluation
from meerkat_workbench.tuning import old_formats
from meerkat_workbench.tuning.artifacts.manifests import TuningManifest
from meerkat_workbench.tuning.artifacts.prepared_data import SplitHashes


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
