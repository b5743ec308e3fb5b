"""Calibrating the linker: probabilities of the best links, then thresholds by type, each on documents that nothing before has seen."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.concepts import thresholds, vocabulary
from meerkat_workbench.concepts.artifacts import MODEL, LinkerDescription
from meerkat_workbench.concepts.candidates import TrainingName, TrainingNames
from meerkat_workbench.concepts.linker import Linker, Scored
from meerkat_workbench.concepts.thresholds import Thresholds
from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.core import artifacts, console, files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import Run
from meerkat_workbench.core.settings import Settings
from meerkat_workbench.device.devices import ComputeDtype
from meerkat_workbench.linking import plots, scoring
from meerkat_workbench.linking.artifacts import (
    CalibrationReport,
    LinkerManifest,
    LinkTrainingManifest,
    ThresholdRow,
)
from meerkat_workbench.linking.prepared import LinkingData
from meerkat_workbench.linking.scoring import GoldMentions
from meerkat_workbench.linking.splits import LinkSplit
from meerkat_workbench.output import tables
from meerkat_workbench.stats import calibration
from meerkat_workbench.stats.calibration import Calibrator

RELIABILITY = "reliability.png"


@dataclass(frozen=True)
class CalibrationSpec:
    """How thresholds are chosen.

    Attributes:
        min_support: mentions that a type needs for a threshold of its own.
        precision: that links must reach; None maximises F1.
        compute: see `cross_encoder.scoring_precision`.
    """

    min_support: int
    precision: float | None
    compute: ComputeDtype


@dataclass(frozen=True)
class Judged:
    """The best links of mentions, and whether they are right.

    Attributes:
        uncalibrated: (mentions,) probabilities of the best candidates; 0 for a mention without one.
    """

    mentions: GoldMentions
    scored: list[Scored]
    uncalibrated: NDArray[np.float64]
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, found: Linker, mentions: GoldMentions, what: str) -> Judged:
        scored = found.score(mentions.found, what=what)
        return cls(mentions, scored, np.array([one.top_probability for one in scored]), judge(mentions, scored))

    def calibrated(self, calibrator: Calibrator) -> NDArray[np.float64]:
        """(mentions,) calibrated probabilities; 0 for a mention without a candidate, which is never linked."""
        return np.where(self.uncalibrated > 0, calibrator.probabilities(calibration.log_odds_of(self.uncalibrated)), 0.0)


def judge(mentions: GoldMentions, scored: list[Scored]) -> NDArray[np.bool_]:
    """(mentions,) whether the best candidate is right; a wrong one that ties with it makes it an error."""
    right = [
        np.array([one in wanted for one in found.candidates.concept_ids], bool)
        for wanted, found in zip(mentions.wanted, scored, strict=True)
    ]
    return scoring.hits([one.probabilities for one in scored], right)


def calibrate(
    run: Run[LinkerManifest],
    data: LinkingData,
    training: LinkTrainingManifest,
    parts: Path,
    spec: CalibrationSpec,
    config: Settings,
) -> LinkerManifest:
    """Write a complete linker: the parts of a training with a calibrator, thresholds, and the names of all documents but the test's."""
    found = Linker.load(parts, compute=spec.compute)
    fitted = _judged(found, data, LinkSplit.CALIBRATE)
    try:
        some = fitted.uncalibrated > 0
        documents = [name for name, one in zip(fitted.mentions.documents, some, strict=True) if one]
        calibrator = calibration.choose(calibration.log_odds_of(fitted.uncalibrated[some]), fitted.right[some], documents)
    except ValueError:
        raise UserError("are all right, or all wrong, so there is nothing to calibrate", where="the links of the documents for calibration",
                        remedy="Give CALIBRATE_SHARE more documents.") from None  # fmt: skip
    tuned = _judged(found, data, LinkSplit.TUNE)
    values = tuned.calibrated(calibrator)
    types = [
        found.vocabulary.type_of(one.candidates.concept_ids[0]) if one.candidates.concept_ids else "" for one in tuned.scored
    ]
    limits = thresholds.fit(
        types,
        values,
        tuned.right,
        tuned.mentions.linkable(found.vocabulary),
        found.vocabulary,
        spec.min_support,
        spec.precision,
    )
    report = CalibrationReport(
        method=calibrator.method, losses=calibrator.losses,
        before=calibration.measure(tuned.uncalibrated, tuned.right),
        after=calibration.measure(values, tuned.right),
    )  # fmt: skip
    run.claim()
    _write(run.folder, parts, data, found, calibrator, limits, fitted.calibrated(calibrator))
    artifacts.write(run.folder / CalibrationReport.FILE, report)
    rows = threshold_rows(limits, data.vocabulary)
    tables.write_rows(run.folder / ThresholdRow.FILE, rows, ThresholdRow)
    plots.reliability(run.folder / RELIABILITY, {
        "before": calibration.reliability(tuned.uncalibrated, tuned.right),
        f"after ({calibrator.method})": calibration.reliability(values, tuned.right),
    })  # fmt: skip
    manifest = run.finish(run.manifest(config, iteration=1, data=data.manifest.fingerprint, training=training.fingerprint,
                                       method=calibrator.method, before=report.before, after=report.after))  # fmt: skip
    print_calibration(run.folder, report, rows)
    return manifest


def _judged(found: Linker, data: LinkingData, split: LinkSplit) -> Judged:
    return Judged.of(
        found, scoring.gold_mentions(data.documents(split), found.generator, split, half_typed=True), f"linking, {split}"
    )


def _write(
    folder: Path, parts: Path, data: LinkingData, found: Linker, calibrator: Calibrator, limits: Thresholds, reference: NDArray[np.float64]
) -> None:  # fmt: skip
    files.remove(folder / MODEL)
    if (parts / MODEL).is_dir():
        shutil.copytree(parts / MODEL, folder / MODEL)
    vocabulary.write(folder, data.vocabulary)
    names = TrainingNames.count(data.documents(*(one for one in LinkSplit if one is not LinkSplit.TEST)), data.vocabulary)
    artifacts.write_lines(folder / TrainingName.FILE, names.rows)
    described = msgspec.structs.replace(
        found.description,
        calibrator=calibrator,
        thresholds=limits,
        training_names=files.sha256_file(folder / TrainingName.FILE),
        reference=[round(value, 6) for value in reference.tolist()],
    )
    artifacts.write(folder / LinkerDescription.FILE, described)


def threshold_rows(limits: Thresholds, words: Vocabulary) -> list[ThresholdRow]:
    """The thresholds as a table, the default first."""
    own = {one for concept in words.concepts.values() for one in concept.types[:1]}
    found = [("", "all other types", "default", limits.default)]
    found += [(one, words.type_name(one), "type" if one in own else "parent", limit) for one, limit in limits.by_type.items()]
    return [ThresholdRow(type_id=type_id, name=name, level=level, threshold=one.value, n=one.n, precision=one.precision, recall=one.recall, f1=one.f1)
            for type_id, name, level, one in found]  # fmt: skip


def print_calibration(folder: Path, report: CalibrationReport, rows: list[ThresholdRow]) -> None:
    losses = ", ".join(f"{name} {value:.4f}" for name, value in sorted(report.losses.items(), key=lambda pair: pair[1]))
    print(f"calibrator: {report.method}; negative log-likelihood on held-out documents: {losses}")
    console.print_table(
        [f"{report.after.n:,} mentions for thresholds", "ECE", "ECE, equal mass", "Brier", "NLL", "mean probability", "right"],
        [[name, *(f"{value:.3f}" for value in (one.ece_width, one.ece_mass, one.brier, one.nll, one.mean, one.accuracy))]
         for name, one in (("before", report.before), ("after", report.after))],
    )  # fmt: skip
    console.print_table(
        ["type", "threshold", "mentions", "precision", "recall", "F1"],
        [
            [one.name, f"{one.threshold:.3f}", f"{one.n:,}", f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}"]
            for one in rows
        ],
    )
    print(f"{folder}: the linker, for entity_linking.py link and evaluation.py LINKER={folder}; {folder / RELIABILITY}")
