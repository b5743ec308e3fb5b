"""Measuring the linker on the test documents: links one by one, candidates, calibration, and what the cross-encoder adds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.concepts import linker
from meerkat_workbench.concepts.candidates import EVIDENCE, CandidateGenerator, Candidates, TrainingNames
from meerkat_workbench.concepts.linker import Link, Linker
from meerkat_workbench.concepts.pubtator import AnnotatedDocument
from meerkat_workbench.concepts.thresholds import HIGH_PROBABILITY
from meerkat_workbench.core import artifacts, console
from meerkat_workbench.core.runs import Run
from meerkat_workbench.core.settings import Settings
from meerkat_workbench.linking import composites, plots, scoring, statistics
from meerkat_workbench.linking.artifacts import AccuracyRow, LinkingEvaluationManifest, LinkRow, LinkStatistics, RecallRow
from meerkat_workbench.linking.calibrate import RELIABILITY, judge
from meerkat_workbench.linking.prepared import LinkingData
from meerkat_workbench.linking.scoring import GoldMentions
from meerkat_workbench.linking.splits import LinkSplit
from meerkat_workbench.output import tables
from meerkat_workbench.stats import calibration, significance

CHART = "linking_accuracy.png"
RECALL_AT = (1, 5, 20, 64)
EXACT, NGRAMS, COSINE, FIRST_STAGE, CROSS_ENCODER, LINKER = (
    "exact_name",
    "ngrams",
    "cosine",
    "first_stage",
    "cross_encoder",
    "linker",
)
IN_WORDS = {EXACT: "equal name", NGRAMS: "character n-grams", COSINE: "bi-encoder", FIRST_STAGE: "all without cross-encoder",
            CROSS_ENCODER: "cross-encoder alone", LINKER: "all evidence together"}  # fmt: skip


@dataclass(frozen=True)
class Ranked:
    """The test mentions, and for each ranker whether its first candidate is right.

    Attributes:
        first_scores: for each mention, (candidates,) by all evidence but the cross-encoder's.
        scored: for each mention, the linker's candidates in their final order.
    """

    mentions: GoldMentions
    hits: dict[str, NDArray[np.bool_]]
    first_scores: list[NDArray[np.float64]]
    scored: list[linker.Scored]


def rank(found: Linker, documents: Sequence[AnnotatedDocument], generator: CandidateGenerator) -> Ranked:
    """Link the mentions of documents by every ranker."""
    mentions = scoring.gold_mentions(documents, generator, LinkSplit.TEST)
    right, described = mentions.right(), found.description
    first_scores = [described.first_weights.scores(one.evidence) for one in mentions.found]
    alone = {EXACT: [exact(one) for one in mentions.found], NGRAMS: scoring.single_evidence(mentions.found, "ngrams")}
    if generator.all_names.encoder:
        alone[COSINE] = scoring.single_evidence(mentions.found, "cosine")
    alone[FIRST_STAGE] = first_scores
    hits = {name: scoring.hits(scores, right) for name, scores in alone.items()}
    read = found.first(mentions.found)
    tables = found.evidence(read, what="linking")
    if found.reranker:
        rows = [_right(one, wanted) for one, wanted in zip(read, mentions.wanted, strict=True)]
        hits[CROSS_ENCODER] = scoring.hits([table[:, -1] for table in tables], rows)  # its logit is the last column
    scored = [linker.ordered(one, described.final_weights, table) for one, table in zip(read, tables, strict=True)]
    hits[LINKER] = judge(mentions, scored)
    return Ranked(mentions, hits, first_scores, scored)


def exact(one: Candidates) -> NDArray[np.float64]:
    """(candidates,) how surely an equal name means each: by training mentions first, then by a name that no other concept has."""
    return 2 * one.evidence[:, EVIDENCE.index("trained_share")] + one.evidence[:, EVIDENCE.index("name_unshared")]


def _right(one: Candidates, wanted: set[str]) -> NDArray[np.bool_]:
    return np.array([name in wanted for name in one.concept_ids], bool)


def accuracy_rows(
    ranked: Ranked, seen: NDArray[np.bool_], linkable: NDArray[np.bool_], protocol: str, training_names: bool
) -> list[AccuracyRow]:
    """Accuracy of each ranker, and its difference from the first stage by document: on all mentions, and on concepts of the vocabulary that training
    mentions mean (seen) or do not (unseen)."""
    documents = np.array(ranked.mentions.documents)
    rows = []
    for group, chosen in (("all", np.ones(len(seen), bool)), ("seen", seen & linkable), ("unseen", ~seen & linkable)):
        names, places = np.unique(documents[chosen], return_inverse=True)
        for name in IN_WORDS:
            if name not in ranked.hits:
                continue
            hit, first = ranked.hits[name][chosen].astype(float), ranked.hits[FIRST_STAGE][chosen].astype(float)
            mean = significance.clustered_mean(hit.tolist(), documents[chosen].tolist()).within(0, 1)
            counts = np.maximum(np.bincount(places, minlength=len(names)), 1)
            by_document = np.bincount(places, hit - first, len(names)) / counts
            paired = significance.paired(by_document.tolist())
            rows.append(AccuracyRow(
                protocol=protocol, training_names=training_names, mentions=group, ranker=name, n=len(hit), accuracy=mean.mean, low=mean.low,
                high=mean.high, difference=paired.mean, ci_low=paired.low, ci_high=paired.high,
            ))  # fmt: skip
    return rows


def recall_rows(ranked: Ranked, seen: NDArray[np.bool_], linkable: NDArray[np.bool_], training_names: bool) -> list[RecallRow]:
    """How often the right concept is among the first k candidates: of all mentions, of those that the vocabulary knows, and of unseen ones."""
    rows = []
    for group, chosen in (
        ("all", np.ones(len(seen), bool)),
        ("in vocabulary", linkable),
        ("unseen, in vocabulary", linkable & ~seen),
    ):
        part = ranked.mentions.where(chosen.tolist())
        scores = [one for one, take in zip(ranked.first_scores, chosen, strict=True) if take]
        ordered = [one.first(max(RECALL_AT), score) for one, score in zip(part.found, scores, strict=True)]
        for k in RECALL_AT:
            found = [bool(wanted & set(one.concept_ids[:k])) for one, wanted in zip(ordered, part.wanted, strict=True)]
            rows.append(
                RecallRow(
                    training_names=training_names,
                    mentions=group,
                    k=k,
                    n=len(found),
                    recall=float(np.mean(found)) if found else float("nan"),
                )
            )
    return rows


@dataclass(frozen=True)
class Measured:
    """Everything that `evaluate` found out."""

    accuracy: list[AccuracyRow]
    recall: list[RecallRow]
    links: list[Link]
    ranked: Ranked
    seen: NDArray[np.bool_]

    @property
    def right(self) -> NDArray[np.bool_]:
        return self.ranked.hits[LINKER]

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """(mentions,) calibrated, of the best candidates."""
        return np.array([one.candidates[0].probability if one.candidates else 0.0 for one in self.links])

    @property
    def uncalibrated(self) -> NDArray[np.float64]:
        return np.array([one.top_probability for one in self.ranked.scored])


def measure(found: Linker, documents: Sequence[AnnotatedDocument]) -> Measured:
    """Measure a linker on documents, in both protocols, with and without the names of training mentions."""
    words, known = found.generator.base, set(found.generator.training.by_concept)
    accuracy, recall, strict = list[AccuracyRow](), list[RecallRow](), list[Ranked]()
    divided = [composites.divide(one) for one in documents]
    for training_names, generator in (
        (True, found.generator),
        (False, CandidateGenerator(words, found.generator.vocabulary_names, TrainingNames([]))),
    ):
        ranked = rank(found, documents, generator)
        strict.append(ranked)
        seen, linkable = _seen(ranked, known), ranked.mentions.linkable(words)
        accuracy += accuracy_rows(ranked, seen, linkable, "strict", training_names)
        recall += recall_rows(ranked, seen, linkable, training_names)
        parts = rank(found, divided, generator)
        whole = _as_published(parts, parts.mentions.linkable(words))
        accuracy += accuracy_rows(
            whole, _seen(whole, known), np.ones(len(whole.mentions.mentions), bool), "published", training_names
        )
    return Measured(accuracy, recall, [found.decide(one) for one in strict[0].scored], strict[0], _seen(strict[0], known))


def _seen(ranked: Ranked, known: set[str]) -> NDArray[np.bool_]:
    """(mentions,) whether a training mention means one of the right concepts."""
    return np.array([bool(wanted & known) for wanted in ranked.mentions.wanted], bool)


def _as_published(parts: Ranked, linkable: NDArray[np.bool_]) -> Ranked:
    """Mentions without a concept in the vocabulary left out, and a divided composite right if all of its parts are, as BioSyn counts."""
    rows_of: dict[tuple[str, int, int], list[int]] = {}
    for row, one in enumerate(parts.mentions.mentions):
        if linkable[row]:
            rows_of.setdefault((one.document_id, one.start, one.end), []).append(row)
    first = [rows[0] for rows in rows_of.values()]
    hits = {name: np.array([bool(hit[rows].all()) for rows in rows_of.values()], bool) for name, hit in parts.hits.items()}
    chosen = set(first)
    return Ranked(parts.mentions.where([row in chosen for row in range(len(linkable))]), hits,
                  [parts.first_scores[row] for row in first], [parts.scored[row] for row in first])  # fmt: skip


def evaluate(
    run: Run[LinkingEvaluationManifest], data: LinkingData, found: Linker, config: Settings, linker_fingerprint: str
) -> LinkingEvaluationManifest:
    """Measure, and write the tables, the charts and the links."""
    measured = measure(found, data.documents(LinkSplit.TEST))
    after = calibration.measure(measured.probabilities, measured.right)
    before = calibration.measure(measured.uncalibrated, measured.right)
    high = measured.probabilities >= HIGH_PROBABILITY
    sentence = in_a_sentence(measured.accuracy, after)
    run.claim()
    tables.write_rows(run.folder / AccuracyRow.FILE, measured.accuracy, AccuracyRow)
    tables.write_rows(run.folder / RecallRow.FILE, measured.recall, RecallRow)
    tables.write_rows(run.folder / LinkRow.FILE, link_rows(measured), LinkRow)
    found_statistics = statistics.of_links(
        measured.links, found.description.reference, list(zip(measured.links, measured.right.tolist(), strict=True))
    )
    artifacts.write(run.folder / LinkStatistics.FILE, found_statistics)
    plots.accuracy(run.folder / CHART, measured.accuracy, IN_WORDS)
    plots.reliability(run.folder / RELIABILITY, {
        "before": calibration.reliability(measured.uncalibrated, measured.right), "after": calibration.reliability(measured.probabilities, measured.right),
    })  # fmt: skip
    manifest = run.manifest(
        config, iteration=1, data=data.manifest.fingerprint, linker=linker_fingerprint, calibration=after, sentence=sentence,
        accuracy={name: round(float(hit.mean()), 6) for name, hit in measured.ranked.hits.items()},
        high_share=round(float(high.mean()), 6), high_precision=round(float(measured.right[high].mean()), 6) if high.any() else 0.0,
    )  # fmt: skip
    run.finish(manifest)
    print_result(run.folder, measured, {"before": before, "after": after}, manifest)
    return manifest


def in_a_sentence(rows: Sequence[AccuracyRow], after: calibration.CalibrationError) -> str:
    """Whether the cross-encoder helped, and whether probabilities can be believed."""
    chosen = {row.ranker: row for row in rows if row.protocol == "strict" and row.training_names and row.mentions == "all"}
    final, first = chosen[LINKER], chosen[FIRST_STAGE]
    interval = f"{final.ci_low:+.3f} to {final.ci_high:+.3f}" if math.isfinite(final.ci_low) else "one document gives no interval"
    change = f"accuracy@1 {first.accuracy:.3f} to {final.accuracy:.3f}, {final.difference:+.3f} by document ({interval})"
    if CROSS_ENCODER not in chosen:
        said = f"No cross-encoder was trained; accuracy@1 is {final.accuracy:.3f} on {final.n:,} mentions."
    elif final.ci_low > 0:
        said = f"The cross-encoder helped: {change}."
    elif final.ci_high < 0:
        said = f"The cross-encoder made links worse, so train with CROSS_ENCODER=false: {change}."
    else:
        said = f"The cross-encoder made no difference beyond noise: {change}."
    return f"{said} Probabilities are off by {after.ece_width:.3f} on average (ECE)."


def link_rows(measured: Measured) -> list[LinkRow]:
    """A row for each mention of the test."""
    rows = []
    for mention, wanted, link, hit, known in zip(measured.ranked.mentions.mentions, measured.ranked.mentions.wanted, measured.links, measured.right,
                                                 measured.seen, strict=True):  # fmt: skip
        best = link.candidates[0] if link.candidates else linker.Candidate("", "", 0.0)
        rows.append(LinkRow(
            document_id=mention.document_id, start=mention.start, end=mention.end, mention=mention.text, long_form=link.mention.long_form,
            type=mention.type, gold="|".join(sorted(wanted)), concept_id=best.concept_id, name=best.name, probability=best.probability,
            margin=link.margin, threshold=link.decision.value, level=link.decision.level, tier=link.tier, right=bool(hit),
            linked=bool(link.concept_id), seen=bool(known),
        ))  # fmt: skip
    return rows


def _cell(value: float) -> str:
    """A value of a printed table; a dash where no mention gave one."""
    return "–" if value != value else f"{value:.3f}"


def print_result(
    folder: Path, measured: Measured, errors: Mapping[str, calibration.CalibrationError], manifest: LinkingEvaluationManifest
) -> None:
    columns = [("strict", True, "all"), ("strict", True, "seen"), ("strict", True, "unseen"), ("strict", False, "all"), ("published", True, "all"),
               ("published", False, "all")]  # fmt: skip
    found = {(row.ranker, row.protocol, row.training_names, row.mentions): row for row in measured.accuracy}
    heads = [
        f"{protocol}{', +tr' if names else ''}{'' if group == 'all' else f', {group}'}" for protocol, names, group in columns
    ]
    cells = [[in_words, *(_cell(found[name, *column].accuracy) for column in columns)] for name, in_words in IN_WORDS.items()
             if (name, *columns[0]) in found]  # fmt: skip
    console.print_table(["accuracy@1", *heads], cells)
    counts = [f"{found[LINKER, *column].n:,}" for column in columns]
    console.print_table(["mentions", *heads], [["", *counts]])
    console.print_table(
        ["candidate recall, +tr", *(f"@{k}" for k in RECALL_AT)],
        [[f"{group} ({next(row.n for row in measured.recall if row.mentions == group):,})",
          *(_cell(row.recall) for k in RECALL_AT for row in measured.recall if row.training_names and row.mentions == group and row.k == k)]
         for group in dict.fromkeys(row.mentions for row in measured.recall)],
    )  # fmt: skip
    console.print_table(["calibration", "ECE", "ECE, equal mass", "Brier", "NLL"],
                        [[name, *(f"{value:.3f}" for value in (one.ece_width, one.ece_mass, one.brier, one.nll))] for name, one in errors.items()])  # fmt: skip
    print(
        f"  {manifest.high_share:.1%} of the mentions have a probability of {HIGH_PROBABILITY} or more; {manifest.high_precision:.1%} of these are right"
    )
    linked = np.array([bool(one.concept_id) for one in measured.links])
    if linked.any():
        print(
            f"  {linked.mean():.1%} are linked, of which {measured.right[linked].mean():.1%} are right; the linker abstains from the others"
        )
    print("  strict: every mention counts, and one of several concepts is right with any of them; published: those are divided, and mentions without a "
          "concept in the vocabulary are left out; +tr: names of training mentions are known")  # fmt: skip
    print(f"{folder / AccuracyRow.FILE}, {folder / LinkRow.FILE}, {folder / CHART}, {folder / RELIABILITY}")
    print(manifest.sentence)
