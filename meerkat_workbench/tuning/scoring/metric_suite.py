"""Computes all metrics of a set of answers, with the user's own. A metric that cannot be computed is missing, never zero."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from meerkat_workbench.concepts import artifacts as linkers
from meerkat_workbench.concepts.artifacts import CONCEPT_METRICS
from meerkat_workbench.core import console, files, subprocesses
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.data.records import Record
from meerkat_workbench.tuning.data.vocabulary import ReferenceVocabulary
from meerkat_workbench.tuning.scoring import content_metrics, medical_metrics, text_metrics, wordnet
from meerkat_workbench.tuning.scoring.wordnet import WordNetMissingError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

    from meerkat_workbench.concepts.answer_concepts import AnswerConcepts
    from meerkat_workbench.tuning.scoring.bertscore import BertScorer

PREFIX = "compute_"
BUILT_IN = (
    "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L", "METEOR", "bertscore_f1",
    "exact_match", "token_f1", "factual_exact_match", "medical_token_f1",
    "content_recall", "content_precision", "content_f1", "content_above_floor", "preference_accuracy", "preference_wins",
    "length_ratio", "log_perplexity",
)  # fmt: skip
DESCRIPTIVE = {"length_ratio", "log_perplexity"}
REASONS_WITHOUT_VALUE = {  # why a metric has no value for any answer
    "factual_exact_match": "no reference holds a dose, a number or a name to look for",
    "medical_token_f1": "no reference holds a known medical term: the built-in terms are English; give a file of terms in MEDICAL_LEXICON",
    "length_ratio": "every reference is empty",
    **dict.fromkeys(("content_recall", "content_precision", "content_f1"), "no reference holds anything beyond its question"),
    "content_above_floor": "no specialty has two references that hold anything beyond the questions",
    **dict.fromkeys(CONCEPT_METRICS, "no reference names a concept of the linker's vocabulary"),
}
NOT_MEASURED = "no model on this machine was available to measure it, or it was not asked for"
# metrics that a model measures, and their signatures
MEASURED = {
    "preference_accuracy": "the model finds the reference likelier than every distractor, by the mean log-probability of the tokens that "
                           "neither the question nor the dataset's common words give away; v1",
    "preference_wins": "fraction of the distractors that the model finds less likely than the reference, measured in the same way; v1",
    "log_perplexity": "mean loss a token of the answer under the base, nats; exp of it is the perplexity",
}  # fmt: skip
MIN_PAIRS_FOR_WORKERS = 4000  # with fewer pairs, worker processes take longer to start than they save
Scores = list[float | None]


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """An answer with the reference that it is scored against; `question`, `id` and `specialty` are of the reference."""

    reference: str
    answer: str
    question: str = ""
    id: str = ""
    specialty: str = ""


@dataclass
class MetricScores:
    """The scores of a set of pairs.

    Args:
        scores: of each metric, one value per pair.
        missing: metric to the reason why it has no scores.
        signatures: metric to how it was computed.
        notes: remarks for the user.
    """

    scores: dict[str, Scores] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class MetricSuite:
    """The built-in metrics; a method `compute_NAME(self, reference, hypothesis) -> float` of a subclass adds one.

    Attributes of such a method describe the metric: `compute_NAME.lower_is_better = True`,
    `compute_NAME.descriptive = True` if no value is better than another, and `compute_NAME.bounds = (0, 1)`.

    Args:
        bertscore_model: see `BertScorer`.
        lexicon: a file of medical terms for `medical_token_f1`; empty for the built-in terms.
        linker: folder of a calibrated entity linker, which adds the metrics of `concepts.answer_concepts`; empty for none.

    Raises:
        UserError: the lexicon or the linker cannot be read, or an added metric has the name of a built-in one.
    """

    def __init__(self, bertscore_model: str = "packaged", lexicon: str = "", linker: str = "") -> None:
        self.bertscore_model, self.lexicon, self.linker = bertscore_model, lexicon, linker
        if lexicon:
            medical_metrics.read_lexicon(lexicon)  # read now, so that a faulty file is refused before any question is asked
        if linker:
            linkers.check(Path(linker))  # now, for the same reason
        self._bert: BertScorer | None = None
        self._bert_fault = ""  # why the encoder could not be loaded; loading is tried only once
        built_in = {_plain(name) for name in (*BUILT_IN, *CONCEPT_METRICS)}
        for name in self.own_metrics():
            if _plain(name) in built_in:
                where = f"AutomaticMetrics.{PREFIX}{name}"
                raise UserError("has the name of a built-in metric", where=where, remedy="Give it another name.")

    def lexicon_hash(self) -> str:
        """The start of the lexicon's SHA-256; empty for the built-in terms."""
        return files.sha256_file(Path(self.lexicon))[:12] if self.lexicon else ""

    def linker_hash(self) -> list[str]:
        """Hash of the entity linker, for fingerprints; empty without one."""
        return [linkers.identity(Path(self.linker))] if self.linker else []

    def own_metrics(self) -> list[str]:
        """Names of the metrics that a subclass adds, sorted."""
        return sorted(name.removeprefix(PREFIX) for name in dir(self) if name.startswith(PREFIX))

    def own_code(self) -> list[str]:
        """Hash of the code of the metrics that a subclass adds, for fingerprints; empty without such metrics."""
        code = []
        for name in self.own_metrics():
            with contextlib.suppress(OSError, TypeError):  # a metric that is no function, or was typed into a console
                code.append(inspect.getsource(getattr(type(self), PREFIX + name)))
        return [files.sha256_of(code)] if code else []

    def names(self) -> list[str]:
        """Every metric, in the order of tables and charts."""
        return [*BUILT_IN, *(CONCEPT_METRICS if self.linker else ()), *self.own_metrics()]

    def lower_is_better(self, name: str) -> bool:
        return bool(getattr(getattr(self, PREFIX + name, None), "lower_is_better", False))

    def is_descriptive(self, name: str) -> bool:
        """Whether the metric only describes answers, so that no value is better than another."""
        return name in DESCRIPTIVE or bool(getattr(getattr(self, PREFIX + name, None), "descriptive", False))

    def bounds(self, name: str) -> tuple[float, float]:
        """The smallest and largest possible value; a user's metric can set them: `compute_NAME.bounds = (0, 1)`."""
        low, high = getattr(getattr(self, PREFIX + name, None), "bounds", bounds_of(name))
        return float(low), float(high)

    def score(
        self,
        pairs: Sequence[ScoredPair | None],
        *,
        vocabulary: ReferenceVocabulary | None = None,
        measured: Mapping[str, Scores] | None = None,
    ) -> MetricScores:
        """Score answers.

        Args:
            pairs: None for a failed answer, which gets no score.
            vocabulary: of the dataset's references; without it no word is too common to count, and `content_above_floor` has no value.
            measured: scores of the metrics in `MEASURED`; without them these metrics are missing.
        """
        table = MetricScores(scores={name: [None] * len(pairs) for name in self.names()})
        table.signatures = {**text_metrics.SIGNATURES, **medical_metrics.SIGNATURES, **content_metrics.SIGNATURES}
        if self.lexicon:
            table.signatures["medical_token_f1"] = (
                f"F1 over the terms of {Path(self.lexicon).name}, sha256 {self.lexicon_hash()}; v1"
            )
        present = {row: pair for row, pair in enumerate(pairs) if pair is not None}
        rows = list(present)
        scores_by_pair = self._score_texts(list(present.values()), vocabulary or ReferenceVocabulary(), table)
        for row, pair in present.items():
            for name, value in scores_by_pair[pair].items():
                table.scores[name][row] = value
        self._bertscore(table, pairs, rows)
        if self.linker:
            self._score_concepts(table, present)
        for name, signature in MEASURED.items():
            table.scores[name] = list((measured or {}).get(name, table.scores[name]))
            table.signatures[name] = signature
            if not any(value is not None for value in table.scores[name]):
                table.missing[name] = NOT_MEASURED
        for name in self.own_metrics():
            table.signatures[name] = "the user's own"
            self._own_metric(table, pairs, rows, name, getattr(self, PREFIX + name))
        return table

    def _score_texts(
        self, pairs: Sequence[ScoredPair], vocabulary: ReferenceVocabulary, table: MetricScores
    ) -> dict[ScoredPair, dict[str, float | None]]:
        """All metrics that need only the texts; many pairs are scored on all cores."""
        try:
            wordnet.reader()
        except WordNetMissingError as error:
            table.missing["METEOR"] = str(error)
        with_meteor = "METEOR" not in table.missing
        compute = functools.partial(text_scores, vocabulary=vocabulary, with_meteor=with_meteor, lexicon=self.lexicon)
        todo = list(dict.fromkeys(pairs))
        in_this_process = len(todo) < MIN_PAIRS_FOR_WORKERS or (os.cpu_count() or 1) == 1
        scores_by_pair = {}
        with console.Progress("scoring texts", len(todo), "answers") as progress:
            scores = map(compute, todo) if in_this_process else self._workers.map(compute, todo, chunksize=256)
            for pair, values in zip(todo, scores, strict=True):
                scores_by_pair[pair] = values
                progress.advance()
        return scores_by_pair

    @functools.cached_property
    def _workers(self) -> ProcessPoolExecutor:
        """Worker processes, reused for all chunks: starting them and reading WordNet takes longer than a chunk of short answers."""
        return subprocesses.worker_pool()

    def close(self) -> None:
        """Stop the worker processes, each of which uses 270 MB once it has read WordNet."""
        if "_workers" in vars(self):
            self._workers.shutdown()
            del self._workers

    def _own_metric(
        self,
        table: MetricScores,
        pairs: Sequence[ScoredPair | None],
        rows: list[int],
        name: str,
        compute: Callable[[str, str], float | None],
    ) -> None:
        """Compute a user's metric for each pair; after the first failure the whole metric is missing, with the reason."""
        values: Scores = [None] * len(pairs)
        for row in rows:
            pair = pairs[row]
            assert pair is not None
            try:
                value = compute(pair.reference, pair.answer)
                values[row] = None if value is None or not math.isfinite(value) else float(value)
            except Exception as error:  # a user's metric may raise anything; the reason is shown and the run continues
                table.missing[name] = f"{type(error).__name__}: {error}"[:200]
                break
        table.scores[name] = [None] * len(pairs) if name in table.missing else values

    @functools.cached_property
    def _concepts(self) -> AnswerConcepts:
        from meerkat_workbench.concepts.answer_concepts import AnswerConcepts

        return AnswerConcepts(Path(self.linker))

    def _score_concepts(self, table: MetricScores, present: Mapping[int, ScoredPair]) -> None:
        scores = self._concepts.scores([(pair.reference, pair.answer) for pair in present.values()])
        for row, one in zip(present, scores, strict=True):
            values = (one.precision, one.recall, one.f1) if one else (None, None, None)
            for name, value in zip(CONCEPT_METRICS, values, strict=True):
                table.scores[name][row] = value
        for name in CONCEPT_METRICS:
            table.signatures[name] = f"{name.removeprefix('concept_')} {self._concepts.signature}"

    def _bertscore(self, table: MetricScores, pairs: Sequence[ScoredPair | None], rows: list[int]) -> None:
        from meerkat_workbench.tuning.scoring.bertscore import BertScorer

        try:
            self._bert = self._bert or (None if self._bert_fault else BertScorer(self.bertscore_model))
        except UserError as error:
            self._bert_fault = str(error)
        if self._bert is None:
            table.missing["bertscore_f1"] = self._bert_fault
            return
        table.signatures["bertscore_f1"] = self._bert.signature
        present = [pair for row in rows if (pair := pairs[row])]
        references, answers = [pair.reference for pair in present], [pair.answer for pair in present]
        if unfit := self._bert.unfit_for(references):
            table.missing["bertscore_f1"] = unfit
            return
        for row, value in zip(rows, self._bert.score(references, answers), strict=True):
            table.scores["bertscore_f1"][row] = value
        if self._bert.truncated:
            table.notes.append(f"bertscore_f1: {self._bert.truncated} texts were cut at {self._bert.max_tokens} tokens")


def text_scores(
    pair: ScoredPair, *, vocabulary: ReferenceVocabulary, with_meteor: bool, lexicon: str = ""
) -> dict[str, float | None]:
    """All built-in metrics that need only texts."""
    texts = (pair.reference, pair.answer)
    asked = Record(pair.id, pair.specialty, pair.question, pair.reference)
    content = content_metrics.content_scores(pair.question, *texts, vocabulary.common, lexicon)
    return {
        **{f"BLEU-{n}": value for n, value in enumerate(text_metrics.bleu(*texts), start=1)},
        "ROUGE-1": text_metrics.rouge_n(*texts, 1),
        "ROUGE-2": text_metrics.rouge_n(*texts, 2),
        "ROUGE-L": text_metrics.rouge_l(*texts),
        "METEOR": text_metrics.meteor(*texts) if with_meteor else None,
        "exact_match": text_metrics.exact_match(*texts),
        "token_f1": text_metrics.token_f1(*texts),
        "factual_exact_match": medical_metrics.factual_exact_match(*texts),
        "medical_token_f1": medical_metrics.medical_token_f1(*texts, lexicon),
        "content_recall": None if content is None else content.recall,
        "content_precision": None if content is None else content.precision,
        "content_f1": None if content is None else content.f1,
        "content_above_floor": content_metrics.above_floor(asked, pair.answer, vocabulary, lexicon),
        "length_ratio": text_metrics.length_ratio(*texts),
    }


def bounds_of(name: str) -> tuple[float, float]:
    """The smallest and largest possible value of a built-in metric; infinite for any other metric."""
    if name in DESCRIPTIVE:
        return 0.0, math.inf
    if name in BUILT_IN or name in CONCEPT_METRICS:
        return (-1.0, 1.0) if name in ("bertscore_f1", "content_above_floor") else (0.0, 1.0)
    return -math.inf, math.inf


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def shuffle_within_groups(groups: Sequence[str], seed: int) -> list[int]:
    """For each row, a row of the same group; a different one if the group has two or more.

    Used for a metric's shuffled baseline: its value when answers are assigned to wrong questions of the same specialty.
    """
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    order = [0] * len(groups)
    for group in sorted(members):
        rows = members[group]
        random.Random(f"{seed}|{group}").shuffle(rows)
        for i, row in enumerate(rows):
            order[row] = rows[(i + 1) % len(rows)]
    return order
