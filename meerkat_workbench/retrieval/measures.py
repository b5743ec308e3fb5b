"""Ranking measures by ir-measures (MacAvaney et al. 2022): trec_eval's own code, with every relevant document in the denominator.

A measure is named in full: `nDCG@10`, `RR@10`, `AP`, `P@1`, `Success@5`, `R@100`. Gains of nDCG are linear: a document of relevance 3 gains 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.retrieval.documents import JudgedQueries, Run, decreasing_scores

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "AP", "P@1", "Success@5")


@dataclass(frozen=True)
class QueryScores:
    """What a run scores on each query.

    Attributes:
        query_ids: the queries that have a relevant document, in order. Others cannot be scored and are left out.
        values: by measure, (queries,), 0 for a query that the run does not rank.
        signatures: by measure, its definition in words.
    """

    query_ids: list[str]
    values: dict[str, NDArray[np.float64]]
    signatures: dict[str, str]

    def mean(self, measure: str) -> float:
        return float(self.values[measure].mean()) if self.query_ids else float("nan")


def parse(name: str, relevant_from: int) -> Any:
    """The ir-measures object of a measure.

    Raises:
        UserError: there is no such measure.
    """
    import ir_measures

    try:
        measure = ir_measures.parse_measure(name)
    except (ValueError, NameError, SyntaxError) as error:
        remedy = f"For example {', '.join(DEFAULT_MEASURES)}."
        raise UserError(f"is not a ranking measure ({error})", where="MEASURES", item=name, remedy=remedy) from None
    takes_threshold = "rel" in measure.SUPPORTED_PARAMS and "rel" not in measure.params
    return measure(rel=relevant_from) if takes_threshold and relevant_from != 1 else measure


def score(run: Run, judged: JudgedQueries, names: Sequence[str] = DEFAULT_MEASURES) -> QueryScores:
    """Score a run on every query that has a relevant document.

    Args:
        run: rankings, best first. Their order counts, not the size of the scores.
        names: measures.
    """
    import ir_measures

    query_ids = [name for name in judged.queries if judged.relevant(name)]
    measures = {name: parse(name, judged.relevant_from) for name in names}
    # the evaluators take relevance below 0 as 0, and know only ids
    qrels = {name: {doc: max(0, value) for doc, value in judged.judgements[name].items()} for name in query_ids}
    scores = {name: dict(zip([one.document_id for one in run[name]], decreasing_scores(run[name]), strict=True))
              for name in query_ids if run.get(name)}  # fmt: skip
    row = {name: place for place, name in enumerate(query_ids)}
    values = {name: np.zeros(len(query_ids)) for name in names}
    by_measure: dict[Any, list[str]] = {}
    for name, measure in measures.items():
        by_measure.setdefault(measure, []).append(name)
    if query_ids and scores:
        for metric in ir_measures.iter_calc(list(by_measure), qrels, scores):
            for name in by_measure[metric.measure]:
                values[name][row[metric.query_id]] = metric.value
    version = f"ir-measures {ir_measures.__version__}"
    threshold = f", relevant from {judged.relevant_from}"
    return QueryScores(query_ids, values, {name: f"{measure}, {version}{threshold}" for name, measure in measures.items()})
