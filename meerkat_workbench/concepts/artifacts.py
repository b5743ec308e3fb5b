"""The record of a linker, which other programs read without loading models."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from meerkat_workbench.concepts.fusion import EvidenceWeights
from meerkat_workbench.concepts.thresholds import Thresholds
from meerkat_workbench.core import artifacts, files
from meerkat_workbench.core.artifacts import Artifact
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.stats.calibration import Calibrator

MODEL = "model"  # subfolder of the cross-encoder
# what `answer_concepts` says of an answer
CONCEPT_METRICS = ("concept_precision", "concept_recall", "concept_f1")


class LinkerDescription(Artifact, frozen=True, kw_only=True):
    """`linker.json`: everything of a linker that is not a table or a model.

    Attributes:
        encoder, encoder_identity: the bi-encoder that finds candidates; empty for none.
        cross_encoder_identity: hash of the cross-encoder in `model`; empty for none.
        vocabulary, training_names: hashes of the two tables.
        read: candidates of a mention that the cross-encoder reads.
        evidence_version: of the evidence that is weighed.
        first_weights: they order all candidates, without the cross-encoder.
        final_weights: they order the first `read`.
        calibrator, thresholds: None until `calibrate` has run.
        reference: probabilities of the best links of the calibration documents, for the measure of drift.
    """

    FILE: ClassVar[str] = "linker.json"

    encoder: str
    encoder_identity: str
    cross_encoder_identity: str
    vocabulary: str
    training_names: str
    read: int
    evidence_version: str
    first_weights: EvidenceWeights
    final_weights: EvidenceWeights
    calibrator: Calibrator | None = None
    thresholds: Thresholds | None = None
    reference: list[float] = []


def identity(folder: Path) -> str:
    """Short hash of a linker: its vocabulary, weights, calibrator and thresholds."""
    return files.sha256_file(folder / LinkerDescription.FILE)[:12]


def check(folder: Path) -> None:
    """Raise UserError if a folder holds no calibrated linker. Loads no model."""
    remedy = "Name a LINKER_DIR that `python entity_linking.py calibrate` wrote."
    path = folder / LinkerDescription.FILE
    if not path.is_file():
        raise UserError(f"holds no {LinkerDescription.FILE}", where=f"LINKER={folder}", remedy=remedy)
    found = artifacts.read(LinkerDescription, path)
    if found.calibrator is None or found.thresholds is None:
        raise UserError("holds a linker that is not calibrated", where=f"LINKER={folder}", remedy=remedy)
    if found.cross_encoder_identity and not (folder / MODEL).is_dir():
        raise UserError("holds a linker without its cross-encoder", where=f"LINKER={folder}", remedy=remedy)
