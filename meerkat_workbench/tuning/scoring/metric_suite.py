"""Every metric over a set of answers, the user's own among them; what cannot be computed is missing, never zero."""

from __future__ import annotations

import functools
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from meerkat_workbench.core import console, files, subprocesses
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.scoring import medical_metrics, text_metrics, wordnet
from meerkat_workbench.tuning.scoring.wordnet import WordNetMissingError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

    from meerkat_workbench.tuning.scoring.bertscore import BertScorer

PREFIX = "compute_"
BUILT_IN = (
    "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L", "METEOR", "bertscore_f1",
    "exact_match", "token_f1", "factual_exact_match", "medical_token_f1", "length_ratio",
    "log_perplexity",
)  # fmt: skip
DESCRIPTIVE = {"length_ratio", "log_perplexity"}
REASONS_WITHOUT_VALUE = {  # why a metric has no value for any answer
    "factual_exact_match": "no reference holds a dose, a number or a name that could be looked for",
    "medical_token_f1": "no reference holds a medical term that is known: the built-in terms are English; give a file of terms in MEDICAL_LEXICON",
    "length_ratio": "every reference is empty",
}
MEASURED = {"log_perplexity": "mean loss a token of the answer under the base, nats; exp of it is the perplexity"}
MIN_PAIRS_FOR_WORKERS = 4000  # pairs from which starting processes pays
Pair = tuple[str, str]  # reference, answer
Scores = list[float | None]


@dataclass
class MetricScores:
    """Scores by metric, a value a pair; `missing` says why a metric has none at all."""

    scores: dict[str, Scores] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class MetricSuite:
    """The built-in metrics; a method `compute_NAME(self, reference, hypothesis) -> float` of a subclass adds one.

    A metric of the user's for which less is better says so: `compute_NAME.lower_is_better = True`; one that only
    describes, `compute_NAME.descriptive = True`; one with a least and a most, `compute_NAME.bounds = (0, 1)`.

    Args:
        lexicon: a file of medical terms for `medical_token_f1`; empty for the built-in ones.
    """

    def __init__(self, bertscore_model: str = "packaged", lexicon: str = "") -> None:
        self.bertscore_model, self.lexicon = bertscore_model, lexicon
        if lexicon:
            medical_metrics.read_lexicon(lexicon)  # now, so that a bad one is refused before anything is asked
        self._bert: BertScorer | None = None
        self._no_bert = ""  # why there is none; a model that could not be downloaded once is not tried again
        built_in = {_plain(name) for name in BUILT_IN}
        for name in self.own_metrics():
            if _plain(name) in built_in:
                raise UserError(f"AutomaticMetrics.{PREFIX}{name}: {name} is a built-in metric. Give yours another name.")

    def lexicon_hash(self) -> str:
        return files.sha256_file(Path(self.lexicon))[:12] if self.lexicon else ""

    def own_metrics(self) -> list[str]:
        return sorted(name.removeprefix(PREFIX) for name in dir(self) if name.startswith(PREFIX))

    def names(self) -> list[str]:
        """Every metric, in the order of tables and charts."""
        return [*BUILT_IN, *self.own_metrics()]

    def lower_is_better(self, name: str) -> bool:
        return bool(getattr(getattr(self, PREFIX + name, None), "lower_is_better", False))

    def is_descriptive(self, name: str) -> bool:
        """Whether the metric only describes answers, and no value of it is better than another."""
        return name in DESCRIPTIVE or bool(getattr(getattr(self, PREFIX + name, None), "descriptive", False))

    def bounds(self, name: str) -> tuple[float, float]:
        """The least and the most that the metric can be; one of the user's may say its own: `compute_NAME.bounds = (0, 1)`."""
        low, high = getattr(getattr(self, PREFIX + name, None), "bounds", bounds_of(name))
        return float(low), float(high)

    def score(self, pairs: Sequence[Pair | None], *, measured: Mapping[str, Scores] | None = None) -> MetricScores:
        """Score (reference, answer) pairs; None is an answer that failed, and has no score.

        Args:
            measured: scores of the metrics of `MEASURED`, which a model gives; without them these have none.
        """
        table = MetricScores(scores={name: [None] * len(pairs) for name in self.names()})
        table.signatures = {**text_metrics.SIGNATURES, **medical_metrics.SIGNATURES}
        if self.lexicon:
            table.signatures["medical_token_f1"] = (
                f"F1 over the terms of {Path(self.lexicon).name}, sha256 {self.lexicon_hash()}; v1"
            )
        present = {row: pair for row, pair in enumerate(pairs) if pair is not None}
        rows = list(present)
        found = self._score_texts(list(present.values()), table)
        for row, pair in present.items():
            for name, value in found[pair].items():
                table.scores[name][row] = value
        self._bertscore(table, pairs, rows)
        for name, signature in MEASURED.items():
            table.scores[name] = list((measured or {}).get(name, table.scores[name]))
            table.signatures[name] = signature
            if not any(value is not None for value in table.scores[name]):
                table.missing[name] = "no model of this machine was there to measure it"
        for name in self.own_metrics():
            table.signatures[name] = "the user's own"
            self._each(table, pairs, rows, name, getattr(self, PREFIX + name))
        return table

    def _score_texts(self, pairs: Sequence[Pair], table: MetricScores) -> dict[Pair, dict[str, float | None]]:
        """Every metric of texts alone, on all cores where there is enough to do."""
        try:
            wordnet.reader()
        except WordNetMissingError as error:
            table.missing["METEOR"] = str(error)
        compute = functools.partial(text_scores, with_meteor="METEOR" not in table.missing, lexicon=self.lexicon)
        todo = list(dict.fromkeys(pairs))
        alone = len(todo) < MIN_PAIRS_FOR_WORKERS or (os.cpu_count() or 1) == 1
        found = {}
        with console.Progress("scoring texts", len(todo), "answers") as progress:
            scores = map(compute, todo) if alone else self._workers.map(compute, todo, chunksize=256)
            for pair, values in zip(todo, scores, strict=True):
                found[pair] = values
                progress.advance()
        return found

    @functools.cached_property
    def _workers(self) -> ProcessPoolExecutor:
        """Kept from chunk to chunk: to start, and to read WordNet, takes them longer than a chunk of short answers."""
        return subprocesses.worker_pool()

    def close(self) -> None:
        """Let the workers go, which hold 270 MB each once they have read WordNet."""
        if "_workers" in vars(self):
            self._workers.shutdown()
            del self._workers

    def _each(
        self,
        table: MetricScores,
        pairs: Sequence[Pair | None],
        rows: list[int],
        name: str,
        compute: Callable[[str, str], float | None],
    ) -> None:
        """One metric, pair by pair; the first failure makes it missing as a whole, with its reason."""
        values: Scores = [None] * len(pairs)
        for row in rows:
            pair = pairs[row]
            assert pair is not None
            try:
                value = compute(*pair)
                values[row] = None if value is None or not math.isfinite(value) else float(value)
            except Exception as error:  # a user's metric may raise anything; the reason is shown, the run goes on
                table.missing[name] = f"{type(error).__name__}: {error}"[:200]
                break
        table.scores[name] = [None] * len(pairs) if name in table.missing else values

    def _bertscore(self, table: MetricScores, pairs: Sequence[Pair | None], rows: list[int]) -> None:
        from meerkat_workbench.tuning.scoring.bertscore import BertScorer

        try:
            self._bert = self._bert or (None if self._no_bert else BertScorer(self.bertscore_model))
        except UserError as error:
            self._no_bert = str(error)
        if self._bert is None:
            table.missing["bertscore_f1"] = self._no_bert
            return
        table.signatures["bertscore_f1"] = self._bert.signature
        present = [pairs[row] or ("", "") for row in rows]
        if unfit := self._bert.unfit_for([reference for reference, _ in present]):
            table.missing["bertscore_f1"] = unfit
            return
        for row, value in zip(rows, self._bert.score([r for r, _ in present], [h for _, h in present]), strict=True):
            table.scores["bertscore_f1"][row] = value
        if self._bert.truncated:
            table.notes.append(f"bertscore_f1: {self._bert.truncated} texts were cut at {self._bert.most_tokens} tokens")


def text_scores(pair: Pair, *, with_meteor: bool, lexicon: str = "") -> dict[str, float | None]:
    """Every built-in metric that needs the two texts alone."""
    return {
        **{f"BLEU-{n}": value for n, value in enumerate(text_metrics.bleu(*pair), start=1)},
        "ROUGE-1": text_metrics.rouge_n(*pair, 1),
        "ROUGE-2": text_metrics.rouge_n(*pair, 2),
        "ROUGE-L": text_metrics.rouge_l(*pair),
        "METEOR": text_metrics.meteor(*pair) if with_meteor else None,
        "exact_match": text_metrics.exact_match(*pair),
        "token_f1": text_metrics.token_f1(*pair),
        "factual_exact_match": medical_metrics.factual_exact_match(*pair),
        "medical_token_f1": medical_metrics.medical_token_f1(*pair, lexicon),
        "length_ratio": text_metrics.length_ratio(*pair),
    }


def bounds_of(name: str) -> tuple[float, float]:
    """The least and the most that a built-in metric can be; of any other nothing is known."""
    if name in DESCRIPTIVE:
        return 0.0, math.inf
    if name in BUILT_IN:
        return (-1.0, 1.0) if name == "bertscore_f1" else (0.0, 1.0)
    return -math.inf, math.inf


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def shuffle_within_groups(groups: Sequence[str], seed: int) -> list[int]:
    """A row for each row, of the same group and, where the group has two or more, another one.

    The floor of a metric: its value when answers are handed to the wrong questions of a specialty.
    """
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    order = [0] * len(groups)
    for group in sorted(members):
        rows = members[group]
        random.Random(f"{seed}|{group}").shuffle(rows)
        for place, row in enumerate(rows):
            order[row] = rows[(place + 1) % len(rows)]
    return order
