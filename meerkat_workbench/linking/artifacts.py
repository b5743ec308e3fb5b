"""What `entity_linking.py` writes and reads: prepared data, a training, a calibrated linker, an evaluation of it."""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec

from meerkat_workbench.core.artifacts import Artifact
from meerkat_workbench.core.runs import Manifest
from meerkat_workbench.linking.splits import LinkSplit
from meerkat_workbench.output.tables import Row
from meerkat_workbench.stats.calibration import CalibrationError
from meerkat_workbench.trainers.evaluator import Evaluation

SCRIPT = "entity_linking.py"
UNCALIBRATED = "parts"  # subfolder of a training: the linker before it is calibrated


def documents_file(split: LinkSplit) -> str:
    """Name of the file with a split's documents."""
    return f"documents_{split}.jsonl"


class LinkPairKind(enum.StrEnum):
    """Why a concept stands beside a mention."""

    POSITIVE = "positive"
    SEMANTIC = "semantic"  # similar to the mention
    SAME_TYPE = "same_type"  # of the right concept's type
    RANDOM = "random"


HARD = (LinkPairKind.SEMANTIC, LinkPairKind.SAME_TYPE)


class LinkPairRow(Artifact, frozen=True, kw_only=True):
    """A line of `link_pairs_train.jsonl`: a mention, a concept, and whether the mention means it. Lines of one mention stand together.

    Attributes:
        group: number of the mention.
        mention, concept: as the cross-encoder reads them.
    """

    FILE: ClassVar[str] = "link_pairs_train.jsonl"

    group: int
    document_id: str
    concept_id: str
    mention: str
    concept: str
    label: float
    kind: LinkPairKind


class LinkSplitSize(msgspec.Struct, frozen=True):
    """Documents of a split, its mentions, those that name several concepts, and those whose concepts the vocabulary lacks."""

    documents: int
    mentions: int
    composite: int
    unknown: int


class LinkCounts(Artifact, frozen=True, kw_only=True):
    """`linking_stats.json`, for people.

    Attributes:
        pairs: of the training, by kind.
        groups: mentions in the pairs, and of them names of the vocabulary that stand for mentions.
        skipped: candidates that name the right concept or share a name with it, and are no negatives.
    """

    FILE: ClassVar[str] = "linking_stats.json"

    concepts: int
    names: int
    types: int
    shared_names: int
    splits: dict[str, LinkSplitSize]
    pairs: dict[str, int]
    groups: int
    synonym_groups: int
    skipped: int


class LinkingDataManifest(Manifest, frozen=True, kw_only=True):
    """The manifest of a prepared folder.

    Attributes:
        inputs: files that were read, by path, with their SHA-256.
        vocabulary: fingerprint of the concepts and types.
        split_hashes: of each split's documents.
    """

    STAGE: ClassVar[str] = "linking preparation"
    SCRIPT: ClassVar[str] = f"{SCRIPT} prepare"

    inputs: dict[str, str]
    vocabulary: str
    split_hashes: dict[LinkSplit, str]


class LinkingPoint(Evaluation, frozen=True, kw_only=True):
    """One evaluation on the validation mentions during training, a line of `linking_history.jsonl`.

    Attributes:
        loss: mean binary cross-entropy of the candidates.
        auroc: over all pairs; None if all candidates are right, or none.
        accuracy: fraction of mentions whose right concept has the highest logit; ties count as errors.
        first_stage: the same of the first stage's order.
    """

    FILE: ClassVar[str] = "linking_history.jsonl"

    mentions: int
    pairs: int
    loss: float
    auroc: float | None
    f1: float
    accuracy: float
    first_stage: float


class LinkTrainingManifest(Manifest, frozen=True, kw_only=True):
    """The manifest of a training.

    Attributes:
        kept, before: the evaluation of the kept weights, and the one before the first step; None without a cross-encoder.
        first_stage: accuracy without the cross-encoder on the validation mentions.
        fused: accuracy with it on the same mentions, on which it was weighed.
    """

    STAGE: ClassVar[str] = "linking training"
    SCRIPT: ClassVar[str] = f"{SCRIPT} train"

    data: str
    weights: str
    kept: LinkingPoint | None
    before: LinkingPoint | None
    first_stage: float
    fused: float
    steps: int
    processes: int = 1


class CalibrationReport(Artifact, frozen=True, kw_only=True):
    """`calibration.json`: errors of the best links' probabilities on the documents for thresholds, which the calibrator has not seen.

    Attributes:
        losses: cross-validated negative log-likelihood of each method on the calibration documents.
    """

    FILE: ClassVar[str] = "calibration.json"

    method: str
    losses: dict[str, float]
    before: CalibrationError
    after: CalibrationError


class ThresholdRow(Row, frozen=True, kw_only=True):
    """A line of `thresholds.csv`: the threshold of a type, and what it does on the documents on which it was chosen.

    Attributes:
        level: "type", "parent" or "default".
    """

    FILE: ClassVar[str] = "thresholds.csv"

    type_id: str
    name: str
    level: str
    threshold: float
    n: int
    precision: float
    recall: float
    f1: float


class LinkerManifest(Manifest, frozen=True, kw_only=True):
    """The manifest of a calibrated linker."""

    STAGE: ClassVar[str] = "linking calibration"
    SCRIPT: ClassVar[str] = f"{SCRIPT} calibrate"

    data: str
    training: str
    method: str
    before: CalibrationError
    after: CalibrationError


class AccuracyRow(Row, frozen=True, kw_only=True):
    """A line of `linking_accuracy.csv`: accuracy@1 of one ranker on one set of mentions.

    Attributes:
        protocol: "strict" counts every mention; "published" divides composites and drops mentions whose concept the vocabulary lacks.
        mentions: "all", "seen" or "unseen" (concepts that no training mention means).
        training_names: whether the names of training mentions are known (+tr).
        difference: from the first stage, by document.
    """

    FILE: ClassVar[str] = "linking_accuracy.csv"

    protocol: str
    training_names: bool
    mentions: str
    ranker: str
    n: int
    accuracy: float
    low: float
    high: float
    difference: float
    ci_low: float
    ci_high: float


class RecallRow(Row, frozen=True, kw_only=True):
    """A line of `candidate_recall.csv`: fraction of mentions whose right concept is among the first k candidates."""

    FILE: ClassVar[str] = "candidate_recall.csv"

    training_names: bool
    mentions: str
    k: int
    n: int
    recall: float


class LinkRow(Row, frozen=True, kw_only=True):
    """A line of `links.csv`: one mention of the test, the best link, and whether it is right."""

    FILE: ClassVar[str] = "links.csv"

    document_id: str
    start: int
    end: int
    mention: str
    long_form: str
    type: str
    gold: str
    concept_id: str
    name: str
    probability: float
    margin: float
    threshold: float
    level: str
    tier: str
    right: bool
    linked: bool
    seen: bool


class LinkingEvaluationManifest(Manifest, frozen=True, kw_only=True):
    """The manifest of an evaluation.

    Attributes:
        sentence: whether the cross-encoder helped, and whether its probabilities can be believed.
    """

    STAGE: ClassVar[str] = "linking evaluation"
    SCRIPT: ClassVar[str] = f"{SCRIPT} evaluate"

    data: str
    linker: str
    accuracy: dict[str, float]
    calibration: CalibrationError
    high_share: float
    high_precision: float
    sentence: str


class LinkStatistics(Artifact, frozen=True, kw_only=True):
    """`link_statistics.json`: what one would monitor of a linker in use.

    Attributes:
        tiers: share of mentions in each tier.
        by_type: links made, by semantic type.
        drift: population stability index of the probabilities against those at calibration.
        calibration: only where the mentions have right concepts.
    """

    FILE: ClassVar[str] = "link_statistics.json"

    mentions: int
    linked: float
    tiers: dict[str, float]
    mean_probability: float
    mean_margin: float
    drift: float | None
    by_type: dict[str, int]
    levels: dict[str, int]
    calibration: CalibrationError | None = None
