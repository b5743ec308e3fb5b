"""Training the linker: the weights of names, vectors and training mentions, the cross-encoder on pairs, and the weights of both together.

The first weights are fitted on training documents. Each of them is seen with the names of other training documents only, as a new document would
be (cross-fitting). The cross-encoder knows the training documents, so it is weighed on the validation documents.
"""

from __future__ import annotations

import functools
import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, disable_progress_bars
from numpy.typing import NDArray

from meerkat_workbench.concepts import fusion, linker, vocabulary
from meerkat_workbench.concepts.artifacts import MODEL, LinkerDescription
from meerkat_workbench.concepts.candidates import EVIDENCE, EVIDENCE_VERSION, CandidateGenerator, TrainingName, TrainingNames
from meerkat_workbench.concepts.fusion import EvidenceWeights
from meerkat_workbench.concepts.name_index import NameIndex
from meerkat_workbench.concepts.pubtator import AnnotatedDocument
from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.core import artifacts, console, files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import Run
from meerkat_workbench.core.settings import Settings
from meerkat_workbench.device import devices
from meerkat_workbench.linking import evaluator, scoring
from meerkat_workbench.linking.artifacts import UNCALIBRATED, LinkingPoint, LinkTrainingManifest
from meerkat_workbench.linking.evaluator import LinkingEvaluator
from meerkat_workbench.linking.prepared import LinkingData
from meerkat_workbench.linking.scoring import GoldMentions
from meerkat_workbench.linking.splits import LinkSplit
from meerkat_workbench.retrieval import cross_encoder as cross_encoders
from meerkat_workbench.trainers.best_checkpoint import BEST_EVALUATION, BEST_FOLDER
from meerkat_workbench.trainers.cross_encoder import run as cross_encoder_run
from meerkat_workbench.trainers.cross_encoder.losses import training_rows
from meerkat_workbench.trainers.cross_encoder.recipe import CrossEncoderRecipe
from meerkat_workbench.trainers.cross_encoder.run import CHECKPOINTS, Trained

FOLDS = 5
MOST_WEIGHED = 4000  # training mentions that the first weights are fitted on; more cost memory and gain little


@dataclass(frozen=True)
class LinkTrainingSpec:
    """What is trained.

    Attributes:
        recipe: of the cross-encoder; None trains none, so that names, vectors and training mentions decide alone.
        read: candidates of a mention that the cross-encoder reads.
        eval_mentions: validation mentions that each evaluation scores; 0 for all.
    """

    recipe: CrossEncoderRecipe | None
    encoder: str
    read: int
    eval_mentions: int
    patience: int


@dataclass(frozen=True)
class Validation:
    """The validation mentions with all candidates, the weights that order them without a cross-encoder, and the vocabulary.

    Attributes:
        read: candidates of a mention that the cross-encoder reads.
    """

    mentions: GoldMentions
    first_weights: EvidenceWeights
    vocabulary: Vocabulary
    read: int

    def first_scores(self, mentions: GoldMentions) -> list[NDArray[np.float64]]:
        """For each mention, (candidates,) scores without a cross-encoder."""
        return [self.first_weights.scores(one.evidence) for one in mentions.found]

    @functools.cached_property
    def first_candidates(self) -> GoldMentions:
        """The mentions with the candidates that the cross-encoder reads."""
        ordered = [one.first(self.read, self.first_weights.scores(one.evidence)) for one in self.mentions.found]
        return self.mentions.with_candidates(ordered)


def train(
    run: Run[LinkTrainingManifest], data: LinkingData, spec: LinkTrainingSpec, config: Settings, trackers: Sequence[str]
) -> LinkTrainingManifest:
    """Train from the last complete checkpoint, and write the linker's parts."""
    if run.ranks.count > 1:  # one process embeds the names, and the others find them in the cache
        run.ranks.agree(lambda: _generator(data, spec.encoder) and None)
    generator = _generator(data, spec.encoder)
    first = run.ranks.agree(lambda: fit_first_weights(data.documents(LinkSplit.TRAIN), generator))
    mentions = scoring.gold_mentions(data.documents(LinkSplit.VALIDATION), generator, LinkSplit.VALIDATION, half_typed=True)
    validation = Validation(mentions, first, generator.vocabulary, spec.read)
    _require_right(validation.first_candidates, LinkSplit.VALIDATION)
    run.claim()
    trained = _train_model(run, data, spec, spec.recipe, config, trackers, validation) if spec.recipe else None
    return run.ranks.agree(lambda: _finish(run, data, spec, config, validation, generator, trained))


def _generator(data: LinkingData, encoder: str) -> CandidateGenerator:
    """Candidates from the vocabulary and the names of the training documents."""
    names = TrainingNames.count(data.documents(LinkSplit.TRAIN), data.vocabulary)
    return CandidateGenerator(data.vocabulary, NameIndex(data.vocabulary, linker.load_encoder(encoder)), names)


def fit_first_weights(documents: Sequence[AnnotatedDocument], generator: CandidateGenerator) -> EvidenceWeights:
    """Weights of all evidence but the cross-encoder's, fitted on the mentions of training documents."""
    with console.working("weighing names, vectors and training mentions"):
        mentions = GoldMentions.joined(cross_fitted(documents, generator))
        _require_right(mentions, LinkSplit.TRAIN)
        return fusion.fit([one.evidence for one in mentions.found], mentions.right(), EVIDENCE, products=True)


def _require_right(mentions: GoldMentions, split: LinkSplit) -> None:
    """Raise UserError if no mention has its concept among its candidates."""
    if not any(rows.any() for rows in mentions.right()):
        raise UserError("have no mention whose concept is among its candidates", where=f"the documents for {split}",
                        remedy="Give this split more documents, and see that CORPUS and VOCABULARY name concepts alike.")  # fmt: skip


def cross_fitted(documents: Sequence[AnnotatedDocument], generator: CandidateGenerator) -> Iterator[GoldMentions]:
    """The mentions of training documents by folds. Candidates of a fold know the names of the documents outside it only."""
    ordered = sorted(documents, key=lambda one: files.sha256_of(one.id))
    before = itertools.accumulate((len(one.mentions) for one in ordered), initial=0)
    used = [one for one, count in zip(ordered, before, strict=False) if one.mentions and count < MOST_WEIGHED]
    for fold in range(min(FOLDS, len(used))):
        held = used[fold::FOLDS]
        left_out = {one.id for one in held}
        names = TrainingNames.count((one for one in documents if one.id not in left_out), generator.base)
        yield scoring.gold_mentions(held, generator.with_training(names), LinkSplit.TRAIN, half_typed=True)


def _train_model(
    run: Run[LinkTrainingManifest], data: LinkingData, spec: LinkTrainingSpec, recipe: CrossEncoderRecipe, config: Settings,
    trackers: Sequence[str], validation: Validation,
) -> Trained[LinkingPoint]:  # fmt: skip
    mentions = _some(validation.first_candidates, spec.eval_mentions)
    measured = LinkingEvaluator(mentions, validation.vocabulary, _accuracy(validation.first_scores(mentions), mentions))
    return cross_encoder_run.train(
        run, _rows(data, recipe, run.folder), recipe, measured, patience=spec.patience, dataset=data.manifest.fingerprint,
        describe=evaluator.describe, trackers=trackers, config=config,
    )  # fmt: skip


def _rows(data: LinkingData, recipe: CrossEncoderRecipe, folder: Path) -> Dataset:
    """The training rows, in a file that is mapped into memory: a large corpus has millions."""
    disable_progress_bars()  # reading the pairs takes seconds
    made = Dataset.from_generator(
        lambda: training_rows(data.groups(), recipe), cache_dir=str(folder / CHECKPOINTS / "rows"), keep_in_memory=False,
        fingerprint=files.short_hash(f"{data.manifest.fingerprint} {recipe}"),
    )  # fmt: skip
    if not len(made):
        raise UserError(
            "has no pairs that this loss can learn from",
            where=data.folder,
            item=f"LOSS={recipe.loss}",
            remedy="Choose another loss.",
        )
    return made


def _accuracy(scores: Sequence[NDArray[np.float64]], mentions: GoldMentions) -> float:
    return round(float(scoring.hits(scores, mentions.right()).mean()), 6)


def _some(mentions: GoldMentions, count: int) -> GoldMentions:
    """Some mentions, the same each time."""
    if not count or count >= len(mentions.mentions):
        return mentions
    keys = [files.sha256_of([one.document_id, one.start, one.end]) for one in mentions.mentions]
    last = sorted(keys)[count - 1]
    return mentions.where([key <= last for key in keys])


def _finish(
    run: Run[LinkTrainingManifest], data: LinkingData, spec: LinkTrainingSpec, config: Settings, validation: Validation,
    generator: CandidateGenerator, trained: Trained[LinkingPoint] | None,
) -> LinkTrainingManifest:  # fmt: skip
    parts, best_folder = run.folder / UNCALIBRATED, run.folder / BEST_FOLDER
    files.remove(parts)
    parts.mkdir(parents=True)
    if trained:
        shutil.copytree(best_folder, parts / MODEL)  # a copy, because a kill until the manifest is written comes back to here
        (parts / MODEL / BEST_EVALUATION).unlink()
    vocabulary.write(parts, data.vocabulary)
    artifacts.write_lines(parts / TrainingName.FILE, generator.training.rows)
    first = validation.first_candidates
    reranker = cross_encoders.load(str(parts / MODEL), compute=spec.recipe.precision) if trained and spec.recipe else None
    logits = (
        linker.cross_encoder_logits(first.found, reranker, validation.vocabulary, "weighing the cross-encoder")
        if reranker
        else None
    )
    tables = linker.final_evidence(first.found, validation.first_weights, logits)
    final = fusion.fit(tables, first.right(), linker.final_names(reranker is not None))
    encoder = generator.all_names.encoder
    artifacts.write(parts / LinkerDescription.FILE, LinkerDescription(
        encoder=spec.encoder, encoder_identity=encoder.identity if encoder else "", vocabulary=data.vocabulary.fingerprint, training_names=files.sha256_file(parts / TrainingName.FILE),
        cross_encoder_identity=cross_encoders.identity(parts / MODEL) if reranker else "", read=spec.read, evidence_version=EVIDENCE_VERSION,
        first_weights=validation.first_weights, final_weights=final,
    ))  # fmt: skip
    manifest = run.manifest(
        config, iteration=1, device=devices.describe(), data=data.manifest.fingerprint,
        weights=cross_encoders.identity(parts / MODEL) if reranker else "", kept=trained.kept if trained else None,
        before=trained.before if trained else None,
        first_stage=_accuracy(validation.first_scores(validation.mentions), validation.mentions),
        fused=_accuracy([final.scores(table) for table in tables], first),
        steps=trained.steps if trained else 0, processes=run.ranks.count,
    )  # fmt: skip
    run.finish(manifest)
    cross_encoder_run.remove_working_files(run.folder)
    return manifest


def print_training(folder: Path, result: LinkTrainingManifest) -> None:
    """Print accuracy on the validation mentions."""
    rows = [["first stage", f"{result.first_stage:.3f}"]]
    if result.kept and result.before:
        rows += [["cross-encoder before training", f"{result.before.accuracy:.3f}"],
                 [f"cross-encoder, step {result.kept.step}", f"{result.kept.accuracy:.3f}"]]  # fmt: skip
        rows.append(["both together (weighed on these mentions)", f"{result.fused:.3f}"])
    console.print_table(["validation mentions", "accuracy@1"], rows)
    print(f"{folder / UNCALIBRATED}: the linker, not calibrated yet")
