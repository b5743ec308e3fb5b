"""Linking mentions to concepts: candidates, a cross-encoder on the best of them, one calibrated probability each, and a threshold.

The folder of a linker holds `linker.json`, the vocabulary, the names of training mentions, and, if it has one, the cross-encoder in `model`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.concepts import thresholds, vocabulary
from meerkat_workbench.concepts.artifacts import MODEL, LinkerDescription
from meerkat_workbench.concepts.candidates import (
    EVIDENCE_VERSION,
    CandidateGenerator,
    Candidates,
    MentionInContext,
    TrainingName,
    TrainingNames,
    in_context,
)
from meerkat_workbench.concepts.fusion import EvidenceWeights
from meerkat_workbench.concepts.name_index import NameIndex
from meerkat_workbench.concepts.pubtator import AnnotatedDocument, Mention
from meerkat_workbench.concepts.thresholds import Decision, Tier
from meerkat_workbench.concepts.vocabulary import Vocabulary
from meerkat_workbench.core import artifacts, files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device.devices import ComputeDtype
from meerkat_workbench.retrieval import cross_encoder, encoders
from meerkat_workbench.retrieval.cross_encoder import Backend, CrossEncoder, Pair
from meerkat_workbench.retrieval.encoders import BiEncoder
from meerkat_workbench.stats import calibration
from meerkat_workbench.text import texts

# what the final order weighs: the score of all other evidence, and the cross-encoder's logit
FIRST, CROSS = "first_stage", "cross_encoder"
SYNONYMS_SHOWN = 3  # of a concept, to the cross-encoder
MOST_LOGITS = 200_000  # of pairs, in memory
CONTEXT_SHOWN = 60  # characters before and after a mention, to the cross-encoder


@dataclass(frozen=True)
class Candidate:
    """A concept that a mention may mean, with its probability."""

    concept_id: str
    name: str
    probability: float


@dataclass(frozen=True)
class Link:
    """What the linker says about a mention.

    Attributes:
        candidates: best first.
        concept_id: the best candidate's if its probability reaches the threshold, else empty: the linker abstains.
        margin: probability of the best minus that of the second.
        type: that chose the threshold.
    """

    mention: MentionInContext
    candidates: list[Candidate]
    concept_id: str
    tier: Tier
    margin: float
    decision: Decision
    type: str


@dataclass(frozen=True)
class Scored:
    """The first candidates of a mention in their final order.

    Attributes:
        probabilities: (candidates,) softmax over the mention's candidates and "none of them", not calibrated.
    """

    candidates: Candidates
    probabilities: NDArray[np.float64]

    @property
    def top_probability(self) -> float:
        """Of the best candidate, not calibrated; 0 without candidates."""
        return float(self.probabilities[0]) if len(self.probabilities) else 0.0


def describe_mention(mention: MentionInContext) -> str:
    """A mention in its context, as the cross-encoder reads it: the long form first, then the sentence with the mention in brackets."""
    left, right = mention.left[-CONTEXT_SHOWN:], mention.right[:CONTEXT_SHOWN]
    sentence = " ".join(f"{left}[{mention.text}]{right}".split()) if left or right else ""
    return f"{mention.long_form} ; {sentence}" if sentence else mention.long_form


def describe_concept(concept: vocabulary.Concept, found: Vocabulary, *, without: str = "") -> str:
    """A concept as the cross-encoder reads it: name ; synonyms ; type. `without` is a synonym that is left out."""
    names = [name for name in concept.names if name != without] or concept.names
    parts = [names[0], *sorted(names[1:], key=len)[:SYNONYMS_SHOWN]]
    return " ; ".join([*parts, *(found.type_name(one) for one in concept.types[:1])])


class Linker:
    """Links mentions.

    Attributes:
        reranker: the cross-encoder; None for none.
    """

    def __init__(self, description: LinkerDescription, generator: CandidateGenerator, reranker: CrossEncoder | None) -> None:
        self.description, self.generator, self.reranker = description, generator, reranker
        self.vocabulary = generator.vocabulary
        self._logits: dict[Pair, float] = {}  # of pairs that were read already, as documents repeat their mentions

    @classmethod
    def load(cls, folder: Path, backend: Backend = "torch", compute: ComputeDtype = "auto") -> Self:
        """The linker of a folder.

        Args:
            compute: see `cross_encoder.scoring_precision`.

        Raises:
            UserError: there is none, it is not calibrated, or a part of it is another than the one with which it was calibrated.
        """
        path = folder / LinkerDescription.FILE
        if not path.is_file():
            raise UserError(
                f"holds no {LinkerDescription.FILE}", where=folder, remedy="Run `python entity_linking.py train` and `calibrate`."
            )
        description = artifacts.read(LinkerDescription, path)
        if description.evidence_version != EVIDENCE_VERSION:
            raise UserError("was made by another version, which knew other evidence", where=path,
                            remedy="Run `python entity_linking.py train` and `calibrate` again.")  # fmt: skip
        words = vocabulary.read(folder)
        if words.fingerprint != description.vocabulary:
            raise UserError("has another vocabulary than the one with which it was calibrated", where=folder,
                            remedy="Run `python entity_linking.py calibrate` again.")  # fmt: skip
        reranker = None
        if description.cross_encoder_identity:
            if cross_encoder.identity(folder / MODEL) != description.cross_encoder_identity:
                raise UserError("was calibrated with another model than the one it holds", where=folder,
                                remedy="Run `python entity_linking.py calibrate` again.")  # fmt: skip
            reranker = cross_encoder.load(str(folder / MODEL), backend, compute)
        encoder = load_encoder(description.encoder)
        if encoder and encoder.identity != description.encoder_identity:
            raise UserError(f"was calibrated with other weights of {description.encoder}", where=folder,
                            remedy="Run `python entity_linking.py calibrate` again.")  # fmt: skip
        names = folder / TrainingName.FILE
        if not names.is_file() or files.sha256_file(names) != description.training_names:
            raise UserError("has other names of training mentions than those that `calibrate` wrote", where=names,
                            remedy="Run `python entity_linking.py calibrate` again.")  # fmt: skip
        return cls(
            description,
            CandidateGenerator(words, NameIndex(words, encoder), TrainingNames(artifacts.read_lines(TrainingName, names))),
            reranker,
        )

    # --- scores

    def first(self, found: Sequence[Candidates], given: Sequence[str] = ()) -> list[Candidates]:
        """The candidates that the cross-encoder reads: the best by all other evidence, and concepts that are given."""
        kept = []
        for one in found:
            scores = self.description.first_weights.scores(one.evidence)
            best = one.first(self.description.read, scores)
            more = [name for name in dict.fromkeys(given) if name not in best.concept_ids]
            chosen = [one.concept_ids.index(name) for name in (*best.concept_ids, *more)]
            kept.append(Candidates(one.mention, [one.concept_ids[place] for place in chosen], one.evidence[chosen]))
        return kept

    def evidence(self, first: Sequence[Candidates], *, what: str = "") -> list[NDArray[np.float64]]:
        """For each mention, (candidates, final names) what the final order weighs."""
        logits = cross_encoder_logits(first, self.reranker, self.vocabulary, what, self._logits) if self.reranker else None
        return final_evidence(first, self.description.first_weights, logits)

    def score(self, found: Sequence[Candidates], given: Sequence[str] = (), *, what: str = "") -> list[Scored]:
        """The first candidates of each mention in their final order."""
        first = self.first(found, given)
        tables = self.evidence(first, what=what)
        return [ordered(one, self.description.final_weights, table) for one, table in zip(first, tables, strict=True)]

    def links(self, mentions: Sequence[MentionInContext], *, what: str = "") -> list[Link]:
        """A link, or an abstention, for each mention."""
        return [self.decide(one) for one in self.score(self.generator.find(mentions), what=what)]

    def decide(self, scored: Scored) -> Link:
        """What the linker says about scored candidates.

        The best candidate's probability is calibrated. What is left of 1 is divided among the others and "none of them" in proportion to their
        softmax. A candidate that ties with the best has the same probability, and any other has less.

        Raises:
            UserError: the linker is not calibrated.
        """
        calibrator, limits = self.description.calibrator, self.description.thresholds
        if calibrator is None or limits is None:
            raise UserError("is not calibrated", where=LinkerDescription.FILE, remedy="Run `python entity_linking.py calibrate`.")
        values = scored.probabilities
        if len(values):
            best = float(calibrator.probabilities(calibration.log_odds_of(values[:1]))[0])
            rest = (1 - best) * values / max(1 - values[0], 1e-12)
            values = np.where(values == values[0], best, np.minimum(rest, np.nextafter(best, 0)))
        candidates = [
            Candidate(one, self.vocabulary.concepts[one].name, float(value))
            for one, value in zip(scored.candidates.concept_ids, values, strict=True)
        ]
        best = candidates[0].probability if candidates else 0.0
        margin = best - (candidates[1].probability if len(candidates) > 1 else 0.0)
        kind = self.vocabulary.type_of(candidates[0].concept_id) if candidates else ""
        decision = limits.decide(kind, self.vocabulary)
        tier = thresholds.tier_of(best, margin, decision.value) if candidates else "none"
        return Link(
            scored.candidates.mention,
            candidates,
            candidates[0].concept_id if tier != "none" else "",
            tier,
            margin,
            decision,
            kind,
        )

    # --- for people

    def link(self, text: str, mention: str | tuple[int, int], entity_type: str = "") -> Link:
        """Link one mention of a text, given by its words or its span.

        Raises:
            UserError: the mention is empty, or does not occur in the text.
        """
        if texts.is_blank(text[slice(*mention)] if isinstance(mention, tuple) else mention):
            raise UserError("is empty", where="the mention", remedy="Name the words that are to be linked.")
        start, end = mention if isinstance(mention, tuple) else _place(text, mention)
        span = Mention("", start, end, text[start:end], entity_type)
        return self.links(in_context(AnnotatedDocument("", text, [span])))[0]

    def rerank(self, mention: str | MentionInContext, candidates: Sequence[str], entity_type: str = "") -> list[Candidate]:
        """Concepts that are given, the likeliest first, each with its probability among all concepts that the mention may mean.

        Raises:
            UserError: no candidate, or one that the vocabulary lacks.
        """
        if not candidates:
            raise UserError("is empty", where="the list of candidates", remedy="Name at least one concept.")
        for one in candidates:
            if one not in self.vocabulary.concepts:
                raise UserError("is no concept of the vocabulary", where=one, remedy="Name concepts by their ids.")
        asked = mention if isinstance(mention, MentionInContext) else MentionInContext(mention, mention, type=entity_type)
        found = self.generator.find([asked], candidates)
        return [one for one in self.decide(self.score(found, candidates)[0]).candidates if one.concept_id in candidates]


def _place(text: str, mention: str) -> tuple[int, int]:
    """Where a mention stands in a text: its first occurrence as whole words, else as a part of words."""
    match = re.search(rf"(?<!\w){re.escape(mention)}(?!\w)", text) or re.search(re.escape(mention), text)
    if match is None:
        raise UserError("does not occur in the text", where=f"the mention {mention!r}", remedy="Write it as the text does.")
    return match.span()


def ordered(candidates: Candidates, final: EvidenceWeights, evidence: NDArray[np.float64]) -> Scored:
    """Candidates in the order of their final scores, with their probabilities."""
    probabilities = final.probabilities(evidence)
    order = np.argsort(-probabilities, kind="stable")
    kept = Candidates(candidates.mention, [candidates.concept_ids[place] for place in order], candidates.evidence[order])
    return Scored(kept, probabilities[order])


def pairs_of(found: Sequence[Candidates], words: Vocabulary) -> list[Pair]:
    """Every mention with each of its candidates, as the cross-encoder reads them."""
    return [
        (describe_mention(one.mention), describe_concept(words.concepts[name], words))
        for one in found
        for name in one.concept_ids
    ]


def final_names(cross_encoder: bool) -> list[str]:
    """What the final order weighs, with or without a cross-encoder."""
    return [FIRST, CROSS] if cross_encoder else [FIRST]


def final_evidence(
    found: Sequence[Candidates], first: EvidenceWeights, logits: Sequence[NDArray[np.float64]] | None
) -> list[NDArray[np.float64]]:
    """For each mention, (candidates, final names): the score by all other evidence above that of "none of them", and the cross-encoder's logit if there are
    logits."""
    scores = [(first.scores(one.evidence) - first.none)[:, None] for one in found]
    return scores if logits is None else [np.column_stack(both) for both in zip(scores, logits, strict=True)]


def cross_encoder_logits(
    found: Sequence[Candidates], reranker: CrossEncoder, words: Vocabulary, what: str = "", known: dict[Pair, float] | None = None
) -> list[NDArray[np.float64]]:  # fmt: skip
    """For each mention, (candidates,) logits of the cross-encoder.

    Args:
        what: name of the step, for its progress.
        known: logits of pairs that were read already; gets the new ones.
    """
    logit_of = {} if known is None else known
    if len(logit_of) > MOST_LOGITS:
        logit_of.clear()
    pairs = pairs_of(found, words)
    new = [pair for pair in dict.fromkeys(pairs) if pair not in logit_of]
    logit_of.update(zip(new, reranker.logits(new, what=what if new else "").tolist(), strict=True))
    logits = iter(pairs)
    return [np.array([logit_of[next(logits)] for _ in one.concept_ids], float) for one in found]


def load_encoder(name: str) -> BiEncoder | None:
    """The bi-encoder of a setting; None for an empty name."""
    return BiEncoder(name) if name else None


def encoder_identity(name: str) -> str:
    """Hash of the bi-encoder of a setting; empty for none."""
    return encoders.identity(name) if name else ""
