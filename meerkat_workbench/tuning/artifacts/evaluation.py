"""What `evaluation.py` concludes: comparisons by metric and specialty, the verdict, the history."""

from __future__ import annotations

import math
from typing import ClassVar

import msgspec

from meerkat_workbench.core.artifacts import Artifact
from meerkat_workbench.output.tables import Row
from meerkat_workbench.stats.verdicts import Verdict
from meerkat_workbench.tuning.artifacts.answers import GenerationRecord
from meerkat_workbench.tuning.artifacts.manifests import TuningManifest
from meerkat_workbench.tuning.artifacts.names import Outcome, Split
from meerkat_workbench.tuning.artifacts.prepared_data import SplitHashes


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


class OpenBookRow(Row, frozen=True, kw_only=True):
    """One line of `open_book.csv`: a model with passages against the same model without.

    Attributes:
        closed, open: mean scores without and with passages.
        p_adjusted: over the specialties (Benjamini-Hochberg); over all specialties together it is p.
    """

    FILE: ClassVar[str] = "open_book.csv"

    model: str
    split: str
    specialty: str
    metric: str
    n: int
    closed: float
    open: float
    difference: float
    ci_low: float
    ci_high: float
    p: float
    p_adjusted: float = math.nan
    verdict: str = ""


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


class VerdictEvidence(msgspec.Struct, frozen=True):
    """One measure of a verdict: the tuned model against the other system, paired by question.

    Attributes:
        measure: name of a metric or check.
        other, tuned: means.
        difference: tuned minus other, with its 95% interval.
        p_adjusted: two-sided, adjusted over the measures that can show a gain, or that can only show harm (Holm).
        verdict: what it shows; NOISE unless p_adjusted is at most 0.05.
        can_gain: whether a better value shows a gain; if not, the measure can only show harm.
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
    can_gain: bool = True


class VerdictLine(msgspec.Struct, frozen=True):
    """The verdict on knowledge or on style.

    Attributes:
        sentence: the outcome and what limits it, in words.
        decisive: the measures that decided, each with its figures in words.
        evidence: all measures.
    """

    outcome: Outcome
    compared_with: str
    sentence: str
    evidence: tuple[VerdictEvidence, ...] = ()
    decisive: tuple[str, ...] = ()


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
