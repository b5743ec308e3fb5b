"""The verdict: knowledge and style apart, and knowledge only beyond noise."""

import msgspec
import numpy as np
import pandas as pd
import pytest

from meerkat_workbench.core import artifacts
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.stats import significance
from meerkat_workbench.tuning.allocation import advise
from meerkat_workbench.tuning.artifacts import (
    BASE,
    FEW_SHOT,
    TUNED,
    ClaimMeasure,
    ClaimScore,
    EvaluationVerdict,
    Finish,
    Outcome,
    Split,
    Verdict,
    VerdictEvidence,
    VerdictLine,
)
from meerkat_workbench.tuning.reporting import summary_text, verdict
from meerkat_workbench.tuning.scoring.answer_checks import CHECKS
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable, Column
from meerkat_workbench.tuning.scoring.metric_suite import MetricScores, MetricSuite
from meerkat_workbench.tuning.scoring.score_run import ScoredAnswers

QUESTIONS = 60


def table(seed, content=0.1, preference=0.5, overlap=0.2, length=1.0, unsupported=0.1, cut_off=0.1):
    """A made-up table of scored answers with these means."""
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame({
        Column.ID: [f"q{n}" for n in range(QUESTIONS)], Column.SPLIT: [Split.HOLDOUT, Split.EVAL] * (QUESTIONS // 2),
        Column.SPECIALTY: [f"s{n % 4}" for n in range(QUESTIONS)], Column.QUESTION: "q", Column.REFERENCE: "The reference is in English.",
        Column.PREDICTION: "a", Column.FINISH: str(Finish.STOP), Column.TOKENS: 3, Column.ERROR: "", Column.REASONING: "",
    })  # fmt: skip
    frame.columns = pd.Index([str(name) for name in frame.columns])
    for metric in MetricSuite().names():
        frame[metric] = np.nan
    noise = draw.normal(0, 0.05, (4, QUESTIONS))
    frame["content_above_floor"], frame["preference_wins"] = content + noise[0], preference + noise[1]
    frame["ROUGE-L"], frame["length_ratio"] = overlap + noise[2], length * np.exp(noise[3])
    for check in CHECKS:
        frame[check] = False
    frame["number_unsupported"] = draw.random(QUESTIONS) < unsupported
    frame["cut_off"] = draw.random(QUESTIONS) < cut_off
    return AnswerTable(frame)


def reached(few_shot=None, tuned=None, base=None, claims=()):
    tables = {BASE: table(1, **(base or {})), TUNED: table(2, **(tuned or {}))}
    if few_shot is not None:
        tables[FEW_SHOT] = table(3, **few_shot)
    scored = ScoredAnswers(tables, MetricScores(), {name: {} for name in tables}, {}, None)
    return verdict.reach(scored, claims, seed=0)


def test_a_gain_in_style_alone_is_called_so_and_is_no_gain_in_knowledge():
    found = reached({}, {"overlap": 0.4}, {"length": 3.0, "cut_off": 0.8}).headline
    assert found.knowledge.outcome is Outcome.NO_DIFFERENCE and found.style.outcome is Outcome.GAINED
    assert found.only_style and found.knowledge.compared_with == FEW_SHOT and found.style.compared_with == BASE


def test_what_the_few_shot_base_knows_too_is_no_gain_of_tuning():
    gained = {"content": 0.4, "preference": 0.9}
    assert reached(None, gained).headline.knowledge.outcome is Outcome.GAINED
    assert reached(gained, gained).headline.knowledge.outcome is Outcome.NO_DIFFERENCE
    assert reached({}, gained).headline.knowledge.outcome is Outcome.GAINED


@pytest.mark.parametrize(
    ("tuned", "outcome"),
    [
        ({"content": 0.3}, Outcome.GAINED), ({"preference": 0.8}, Outcome.GAINED), ({"content": -0.2}, Outcome.LOST),
        ({"content": 0.3, "preference": 0.2}, Outcome.MIXED), ({"unsupported": 0.9}, Outcome.LOST),
        ({"content": 0.3, "unsupported": 0.9}, Outcome.MIXED), ({"unsupported": 0.0}, Outcome.NO_DIFFERENCE),
    ],
)  # fmt: skip
def test_knowledge_is_gained_only_where_nothing_is_lost_and_fewer_numbers_are_no_gain(tuned, outcome):
    assert reached({"unsupported": 0.3}, {"unsupported": 0.3, **tuned}).headline.knowledge.outcome is outcome


def test_answers_that_are_cut_off_show_no_gain_in_content():
    few_shot = {"content": 0.0, "cut_off": 1.0}
    found = reached(few_shot, {"content": 0.4}).headline.knowledge
    assert found.outcome is Outcome.NO_DIFFERENCE and not [one for one in found.evidence if one.measure == verdict.CONTENT]
    assert "MAX_NEW_TOKENS" in found.sentence
    assert reached({**few_shot, "cut_off": 0.0}, {"content": 0.4}).headline.knowledge.outcome is Outcome.GAINED


def line(outcome, measure="content_above_floor", low=-0.1, can_gain=True):
    evidence = VerdictEvidence(measure=measure, n=20, other=0.1, tuned=0.2, difference=0.1, ci_low=low, ci_high=0.2, p_adjusted=0.2,
                               verdict=Verdict.NOISE, can_gain=can_gain)  # fmt: skip
    return VerdictLine(outcome, BASE, "", (evidence,))


def test_more_contradicted_claims_are_no_hint_of_a_gain():
    style = line(Outcome.GAINED)
    of_gain = verdict._conclusion(line(Outcome.NO_DIFFERENCE, low=0.01), style)
    of_harm = verdict._conclusion(line(Outcome.NO_DIFFERENCE, str(ClaimMeasure.CONTRADICTED), 0.01, can_gain=False), style)
    assert "may know more" in of_gain and "may know more" not in of_harm


def test_every_outcome_of_style_is_said():
    said = {style: verdict._conclusion(line(Outcome.NO_DIFFERENCE), line(style)) for style in Outcome}
    assert len(set(said.values())) == len(said)
    assert [style for style, words in said.items() if "neither" in words] == [Outcome.NO_DIFFERENCE]


def test_a_difference_is_never_printed_as_minus_zero():
    evidence = msgspec.structs.replace(line(Outcome.GAINED).evidence[0], difference=-0.0001)
    assert "+0.000" in verdict._in_words(evidence)


def test_checks_of_english_words_leave_out_other_languages():
    tables = {name: table(seed) for seed, name in enumerate((BASE, TUNED))}
    for one in tables.values():
        one.frame.loc[:29, Column.REFERENCE] = "Die Gicht ist eine Erkrankung der Gelenke und wird mit Colchicin behandelt."
    scored = ScoredAnswers(tables, MetricScores(), {name: {} for name in tables}, {}, None)
    evidence = {one.measure: one.n for one in verdict.reach(scored, seed=0).headline.knowledge.evidence}
    assert evidence["negation_differs"] == 15 and evidence["number_differs"] == 30


def test_a_metric_of_the_holdout_only_cannot_steer():
    with pytest.raises(UserError) as caught:
        advise.check_steering_metric("preference_wins", MetricSuite())
    assert caught.value.where == "STEERING_METRIC=preference_wins"


def test_a_verdict_survives_its_file_and_has_both_splits(tmp_path):
    found = reached({}, {"content": 0.3})
    artifacts.write(tmp_path / EvaluationVerdict.FILE, found)
    assert artifacts.read(EvaluationVerdict, tmp_path / EvaluationVerdict.FILE) == found
    assert found.headline is found.of(Split.HOLDOUT) and found.of(Split.EVAL).split == Split.EVAL and found.of("train") is None


def test_claims_of_a_judge_count_as_knowledge_and_contradicted_claims_as_harm():
    def score(system, name, entailed, contradicted):
        return ClaimScore(
            id=name, specialty="s", system=system, reference_claims=10, reference_decided=10, answer_claims=5, answer_decided=5,
            claim_recall=entailed / 10, claim_contradicted=contradicted / 10, claim_precision=0.4, unsupported_claims=3,
        )  # fmt: skip

    few = [score(FEW_SHOT, f"q{n}", 2, 1) for n in range(12)]
    better = [score(TUNED, f"q{n}", 6 + n % 2, 1) for n in range(12)]
    worse = [score(TUNED, f"q{n}", 2, 6 + n % 2) for n in range(12)]
    assert reached({}, {}, claims=few + better).headline.knowledge.outcome is Outcome.GAINED
    assert reached({}, {}, claims=few + worse).headline.knowledge.outcome is Outcome.LOST


def test_without_any_measure_knowledge_is_not_measured():
    tables = {name: table(seed) for seed, name in enumerate((BASE, TUNED))}
    for one in tables.values():
        one.frame[["content_above_floor", "preference_wins"]] = np.nan
    scored = ScoredAnswers(tables, MetricScores(), {name: {} for name in tables}, {}, None)
    found = verdict.reach(scored, seed=0)
    assert found.headline.knowledge.outcome is Outcome.NOT_MEASURED


def test_recommendations_warn_if_only_style_was_gained_on_eval():
    found = reached({}, {"overlap": 0.4}, {"length": 3.0}).of(Split.EVAL)
    assert found.only_style and found.conclusion in summary_text.caution([], found, "ROUGE-L")
    other = msgspec.structs.replace(found, knowledge=msgspec.structs.replace(found.knowledge, outcome=Outcome.GAINED))
    assert not summary_text.caution([], other, "ROUGE-L")


def test_holm_bounds_the_chance_of_any_false_alarm():
    assert significance.family_adjusted([0.01, 0.04, float("nan"), 0.03]) == pytest.approx(
        [0.03, 0.06, float("nan"), 0.06], nan_ok=True
    )
    draw = np.random.default_rng(0)
    alarms = sum(min(significance.family_adjusted(list(draw.random(5)))) <= significance.ALPHA for _ in range(2000))
    assert alarms / 2000 < 0.065
