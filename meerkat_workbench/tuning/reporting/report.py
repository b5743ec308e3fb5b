"""`report.html`: one file that opens offline in any browser; all text from models and files is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meerkat_workbench.core import files
from meerkat_workbench.output import page
from meerkat_workbench.output.tables import where
from meerkat_workbench.stats import significance
from meerkat_workbench.stats.significance import Estimate
from meerkat_workbench.tuning.artifacts import (
    BASE,
    FEW_SHOT,
    FIXED,
    HEADLINE_METRICS,
    TUNED,
    EvaluationVerdict,
    HistoryRow,
    MetricComparison,
    Outcome,
    Recommendations,
    Split,
    SystemComparison,
    Verdict,
)
from meerkat_workbench.tuning.reporting import interactive_plots, question_browser
from meerkat_workbench.tuning.reporting.comparison import Comparison
from meerkat_workbench.tuning.reporting.multiple_choice import ChoiceSummary
from meerkat_workbench.tuning.reporting.open_book import OpenBookSummary
from meerkat_workbench.tuning.reporting.question_browser import Browser
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable
from meerkat_workbench.tuning.scoring.judge import JudgeSummary
from meerkat_workbench.tuning.scoring.retention import RetentionSummary
from meerkat_workbench.tuning.scoring.score_run import ScoredAnswers

HERE = Path(__file__).parent
TEMPLATE, STYLE, SCRIPT = HERE / "report.html.j2", HERE / "report.css", HERE / "report.js"
TIE_MARGIN = 0.02  # a question whose score changes by at most this much counts as the same
MAX_REGRESSIONS = 5  # questions in the section on the worst regressions
# colours of the lines of the verdict: only knowledge is green, because a better style is not a better answer
KNOWLEDGE_TONES = {Outcome.GAINED: Verdict.BETTER, Outcome.LOST: Verdict.WORSE, Outcome.MIXED: Verdict.WORSE}


@dataclass(frozen=True)
class Heading:
    """What the report shows about the evaluation as a whole.

    Attributes:
        facts: models, questions and decoding settings, by name.
        sentences: the summary.
    """

    iteration: int
    facts: Mapping[str, object]
    sentences: Sequence[str]


@dataclass(frozen=True)
class ReportContents:
    """Everything that the report shows; `retention`, `judged` and `choices` are None if they were not asked."""

    heading: Heading
    scored: ScoredAnswers
    comparison: Comparison
    verdict: EvaluationVerdict
    history: Sequence[HistoryRow]
    recommendations: Recommendations
    retention: RetentionSummary | None
    judged: JudgeSummary | None
    seed: int
    choices: ChoiceSummary | None = None
    open_book: OpenBookSummary | None = None


@dataclass(frozen=True)
class HeadlineCard:
    """The headline by the steering metric: how many questions became better, stayed the same or became worse.

    Attributes:
        won, same, lost: of `n` questions; a change of at most `tie` counts as the same.
        net: fraction won minus fraction lost, from -1 to 1, with its interval.
    """

    split: str
    base: float
    tuned: float
    difference: float
    ci_low: float
    ci_high: float
    won: int
    same: int
    lost: int
    n: int
    tie: float
    net: Estimate


@dataclass(frozen=True)
class Regression:
    """A question on which the tuned model scores worse than the base, with both answers."""

    id: str
    split: str
    specialty: str
    question: str
    reference: str
    base: str
    tuned: str
    change: float


def write(path: Path, contents: ReportContents) -> None:
    """Render the report and write it."""
    comparison, metric = contents.comparison, contents.recommendations.steering_metric
    present = [row for row in comparison.metrics if not row.missing]
    lower = {row.metric for row in present if row.lower_is_better}
    names = list(dict.fromkeys(row.metric for row in present))
    browser = question_browser.contents(contents.scored, names, metric, lower, contents.seed)
    charts = {
        "metrics": interactive_plots.metrics(comparison.systems),
        "forest": interactive_plots.specialties(comparison.specialties, metric),
    }
    earlier = _iterations(contents.history, metric)
    if earlier:
        charts["iterations"] = interactive_plots.history(contents.history, metric)
    text = page.render(
        TEMPLATE,
        heading=contents.heading,
        card=headline_card(contents.scored.base, contents.scored.tuned, comparison.headline, metric),
        verdict=contents.verdict.headline,
        knowledge_tone=KNOWLEDGE_TONES.get(contents.verdict.headline.knowledge.outcome, Verdict.NOISE),
        few_shot=FEW_SHOT in contents.scored.tables,
        worst=_regressions(browser, metric),
        tables={str(split): rows for split in FIXED if (rows := where(comparison.metrics, split=split))},
        models=_models(comparison.systems),
        checks=_headline_checks(comparison),
        retention=contents.retention, judged=contents.judged, choices=contents.choices, open_book=contents.open_book, advice=contents.recommendations, metric=metric, history=earlier,
        specialties=sorted(set(contents.scored.base.specialties)), explorer=browser.to_json(), charts=charts,
        **page.libraries(STYLE, SCRIPT),
    )  # fmt: skip
    files.write_text(path, text)


def headline_card(base: AnswerTable, tuned: AnswerTable, headline: Sequence[MetricComparison], metric: str) -> HeadlineCard:
    """The card at the top of the report."""
    rows = [row for row in headline if not row.missing]
    row = where(rows, metric=metric)[0]
    in_split = base.splits == row.split
    change = (tuned.scores(metric)[in_split] - base.scores(metric)[in_split]) * (-1 if row.lower_is_better else 1)
    change = change.dropna()
    outcome = np.sign(change.where(change.abs() > TIE_MARGIN, 0.0))
    net = significance.stratified(outcome.tolist(), base.specialties.loc[outcome.index].tolist()).within(-1, 1)
    return HeadlineCard(
        split=row.split, base=row.base, tuned=row.tuned, difference=row.difference, ci_low=row.ci_low,
        ci_high=row.ci_high, won=int((outcome > 0).sum()), same=int((outcome == 0).sum()), lost=int((outcome < 0).sum()), n=len(outcome),
        tie=TIE_MARGIN, net=net,
    )  # fmt: skip


def _headline_checks(comparison: Comparison) -> list[object]:
    split = comparison.headline[0].split
    return list(where(comparison.checks, split=split))


def _regressions(browser: Browser, metric: str) -> list[Regression]:
    """The questions on which the tuned model lost most, which are the browser's first rows."""
    column, sign = browser.metrics.index(metric), -1 if metric in browser.lower_is_better else 1
    regressions: list[Regression] = []
    for row in browser.rows:
        base, tuned = (row.scores[system][column] for system in (BASE, TUNED))
        if len(regressions) == MAX_REGRESSIONS or base is None or tuned is None or sign * (tuned - base) >= -TIE_MARGIN:
            break
        texts = {system: "".join(row.answers[system]) for system in (BASE, TUNED)}
        regressions.append(Regression(row.id, row.split, row.specialty, row.question, "".join(row.reference), texts[BASE],
                                      texts[TUNED], sign * (tuned - base)))  # fmt: skip
    return regressions


def _models(rows: Sequence[SystemComparison]) -> list[SystemComparison]:
    """The rows of every model and shown metric on the holdout; none if only base and tuned model were asked."""
    if len({row.model for row in rows}) < 2:
        return []
    shown = [row for row in where(rows, split=Split.HOLDOUT) if row.metric in HEADLINE_METRICS and not row.missing]
    return sorted(shown, key=lambda row: (row.metric, -row.tuned if not math.isnan(row.tuned) else math.inf))


def _iterations(history: Sequence[HistoryRow], metric: str) -> list[HistoryRow]:
    """The history rows of the steering metric on the holdout; none if there are fewer than two."""
    shown = where(history, metric=metric, split=Split.HOLDOUT)
    return shown if len(shown) > 1 else []
