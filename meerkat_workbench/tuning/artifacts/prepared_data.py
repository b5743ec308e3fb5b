"""What `dataset_preparation.py` writes: the manifest, the ledger of iterations, statistics, records set aside."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec

from meerkat_workbench.core import artifacts
from meerkat_workbench.core.artifacts import Artifact, JsonObject
from meerkat_workbench.tuning.artifacts.manifests import TuningManifest
from meerkat_workbench.tuning.artifacts.names import Split


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


def read_ledger(folder: Path) -> list[IterationRecord]:
    """The iterations of a prepared folder, oldest first; an empty list before the first."""
    return artifacts.read_lines(IterationRecord, folder / IterationRecord.FILE)
