"""Claims: what is asked, what becomes of each reply, and what the measures of two systems say of each other."""

import json
import math
import re
import shutil

import pandas as pd
import pytest
from conftest import chat_server, evaluate_command, run_script

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.output import tables
from meerkat_workbench.tuning.artifacts import (
    ClaimComparison,
    ClaimMeasure,
    ClaimOf,
    ClaimRow,
    ClaimScore,
    ClaimVerdict,
    EvaluationManifest,
    OutputFile,
    Verdict,
)
from meerkat_workbench.tuning.generation.endpoint import Endpoint
from meerkat_workbench.tuning.generation.prediction_store import PredictionStore
from meerkat_workbench.tuning.scoring import claim_scores, claims, judge
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable
from meerkat_workbench.tuning.scoring.judge_requests import Judge


def parts(text):
    """Text and claim of a request for a verdict, in whichever order; the claim is None in a request to cut."""
    text_of = re.search(r"Text:\n(.*?)(?=\n\nClaim:|$)", text, re.DOTALL).group(1)
    claim = re.search(r"Claim:\n(.*?)(?=\n\nText:|$)", text, re.DOTALL)
    return text_of, claim and claim.group(1)


def by_rule(messages):
    """A judge that cuts at full stops; a text contradicts "X is good" if it has "X is bad", and entails what it has."""
    if messages[0]["content"] not in (claims.CUT_SYSTEM, claims.VERDICT_SYSTEM):
        return "no grades"
    text, claim = parts(messages[-1]["content"])
    if claim is None:
        return json.dumps({"claims": [part.strip() for part in text.split(".") if part.strip()]})
    opposite = claim.replace("good", "bad") if "good" in claim else claim.replace("bad", "good")
    verdict = "entailed" if claim in text else "contradicted" if opposite != claim and opposite in text else "neither"
    return f"Here it is:\n```json\n{json.dumps({'verdict': verdict})}\n```"


REFERENCE = "Aspirin is good. Rest is good. Water is good."


def answers(texts, system):
    return AnswerTable(pd.DataFrame([
        {"id": f"q{n}", "split": "holdout", "specialty": f"s{n % 2}", "question": f"Q{n}?", "reference": REFERENCE, "prediction": text,
         "finish_reason": "failed" if text is None else "stop"}
        for n, text in enumerate(texts)
    ]).assign(prediction=[text or "" for text in texts]))  # fmt: skip


def found_by(reply, folder, tables_of, *, stored_only=False, model="m"):
    calls = []

    def counted(messages):
        calls.append(messages)
        return reply(messages)

    with chat_server(counted) as address:
        found = claims.judge_claims(Judge(Endpoint(address, model), PredictionStore(folder), 4, stored_only), tables_of)
    return found, calls


def test_recall_precision_and_contradictions_are_those_of_the_claims(tmp_path):
    answer = "Aspirin is good. Rest is bad. Sleep is good. Tea is good."
    found, calls = found_by(by_rule, tmp_path, {"base": answers([answer], "base")})
    [score] = found.scores
    assert (score.reference_claims, score.answer_claims) == (3, 4) == (score.reference_decided, score.answer_decided)
    assert score.claim_recall == score.claim_contradicted == pytest.approx(1 / 3)
    assert score.claim_precision == 1 / 4 and score.unsupported_claims == 3
    assert [(row.claim_of, row.claim, row.verdict) for row in found.claims][:3] == [
        (ClaimOf.REFERENCE, "Aspirin is good", ClaimVerdict.ENTAILED),
        (ClaimOf.REFERENCE, "Rest is good", ClaimVerdict.CONTRADICTED),
        (ClaimOf.REFERENCE, "Water is good", ClaimVerdict.NEITHER),
    ]
    assert len(calls) == 2 + 2 * (3 + 4)  # a request for each text, and two for each claim


def test_a_request_to_cut_holds_one_text_and_a_verdict_is_asked_in_both_orders():
    check = claims.Check("Rest is good", claims.Passage("Q?", "Rest is bad."))
    first, second = (request.messages[-1][1] for request in claims.verdict_requests(check))
    assert parts(first) == parts(second) == ("Rest is bad.", "Rest is good")
    assert first.index("Text:") < first.index("Claim:") and second.index("Text:") > second.index("Claim:")
    assert parts(claims.cut_request(check.passage).messages[-1][1]) == ("Rest is bad.", None)


def test_a_verdict_that_goes_by_the_order_is_undecided_and_scores_nothing(tmp_path):
    def swayed(messages):
        text = messages[-1]["content"]
        if "Claim:" not in text:
            return by_rule(messages)
        return json.dumps({"verdict": "entailed" if text.index("Text:") < text.index("Claim:") else "neither"})

    found, _ = found_by(swayed, tmp_path, {"base": answers(["Tea is good."], "base")})
    assert {row.verdict for row in found.claims} == {ClaimVerdict.UNDECIDED} and found.replies.undecided == 4
    [score] = found.scores
    assert all(math.isnan(score.of(measure)) for measure in ClaimMeasure) and score.reference_decided == 0


def test_unreadable_replies_are_counted_and_never_scored(tmp_path):
    def broken(messages):
        text, claim = parts(messages[-1]["content"])
        if claim is None:
            return "I see no list." if "Tea" in text else by_rule(messages)
        return "entailed" if claim.startswith("Water") else by_rule(messages)

    found, _ = found_by(broken, tmp_path, {"base": answers(["Tea is good. Aspirin is good."], "base")})
    [score] = found.scores
    assert math.isnan(score.answer_claims) and math.isnan(score.claim_precision) and math.isnan(score.unsupported_claims)
    assert (score.reference_claims, score.reference_decided, score.claim_recall) == (3, 2, 1 / 2)
    assert (found.replies.uncut, found.replies.unread, found.replies.unanswered) == (1, 1, 0)


def test_a_text_without_claims_has_no_precision_and_an_empty_answer_entails_nothing(tmp_path):
    def none_in_thanks(messages):
        return '{"claims": []}' if parts(messages[-1]["content"]) == ("Thank you.", None) else by_rule(messages)

    found, calls = found_by(none_in_thanks, tmp_path, {"base": answers(["Thank you.", "", None], "base")})
    assert [score.id for score in found.scores] == ["q0", "q1"]  # a failed answer is not scored
    for score in found.scores:
        assert (score.answer_claims, score.unsupported_claims, score.claim_recall) == (0, 0, 0)
        assert math.isnan(score.claim_precision)
    assert found.replies.without_claims == 2
    assert not any(parts(messages[-1]["content"])[0] == "" for messages in calls)


def test_equal_texts_are_asked_about_once_and_stored_replies_are_taken_over_from_an_archived_evaluation(tmp_path):
    same = {name: answers(["Tea is good.", "Rest is bad."], name) for name in ("base", "tuned", "third")}
    calls = []

    def reply(messages):
        calls.append(json.dumps(messages))
        return by_rule(messages)

    def found_in(folder, model, *, stored_only):
        return claims.judge_claims(Judge(Endpoint(address, model), PredictionStore(folder), 4, stored_only), same)

    with chat_server(reply) as address:
        first = found_in(tmp_path / "archive" / "iteration_001", "m", stored_only=False)
        assert len(calls) == len(set(calls)) == 2 * 2 + 2 * (2 * 3 + 2)
        assert found_in(tmp_path, "m", stored_only=False) == first
        other = found_in(tmp_path, "another", stored_only=True)
    assert len(calls) == 20 and other.claims == [] and other.replies.unanswered == 4


def test_a_killed_run_asks_only_what_is_left(tmp_path):
    texts = {"base": answers(["Tea is good.", "Rest is bad.", "Water is good."], "base")}
    asked, refuse = [], True

    def reply(messages):
        asked.append(messages[-1]["content"])
        return None if refuse and "Rest is bad." in asked[-1] else by_rule(messages)

    with chat_server(reply) as address:
        endpoint = Endpoint(address, "m")
        endpoint.client = endpoint.client.with_options(max_retries=0)
        first = claims.judge_claims(Judge(endpoint, PredictionStore(tmp_path), 4, False), texts)
        assert first.replies.unanswered and math.isnan(first.scores[1].claim_precision)
        done, refuse = set(asked), False
        asked.clear()
        second = claims.judge_claims(Judge(endpoint, PredictionStore(tmp_path), 4, False), texts)
        assert all("Rest is bad" in text for text in asked) and second.replies.unanswered == 0
        again = claims.judge_claims(Judge(endpoint, PredictionStore(tmp_path), 4, True), texts)
    assert again.scores == second.scores and len(done) > len(asked)


def test_a_server_that_answers_nothing_is_refused(tmp_path):
    with chat_server(lambda _: None) as address:
        endpoint = Endpoint(address, "m")
        endpoint.client = endpoint.client.with_options(max_retries=0)
        with pytest.raises(UserError) as caught:
            claims.judge_claims(Judge(endpoint, PredictionStore(tmp_path), 4, False), {"base": answers(["Tea."], "base")})
    assert caught.value.where == address


@pytest.mark.parametrize("reply", ["", "{", '{"claims": "Tea"}', '{"claims": [1]}', "[]", "null", '{"claim": []}'])
def test_what_is_no_list_of_claims_is_not_read_as_one(reply):
    assert claims.read_claims(reply) is None


def test_claims_are_read_without_blanks_and_repetitions():
    assert claims.read_claims('Sure: {"claims": [" a ", "", "b", "a"]}') == ("a", "b")
    assert claims.read_claims('{"claims": []}') == ()


@pytest.mark.parametrize("reply", ["", "entailed", '{"verdict": "maybe"}', '{"verdict": true}', '{"verdict": ""}'])
def test_what_is_no_verdict_is_unread(reply):
    assert claims.read_verdict(reply) is ClaimVerdict.UNREAD


def score(number, system, recall, precision=math.nan, contradicted=0.0, unsupported=0.0):
    return ClaimScore(id=f"q{number}", specialty=f"s{number % 3}", system=system, reference_claims=4, reference_decided=4, answer_claims=4,
                      answer_decided=4, claim_recall=recall, claim_contradicted=contradicted, claim_precision=precision,
                      unsupported_claims=unsupported)  # fmt: skip


def test_any_two_systems_are_compared_over_the_questions_on_which_both_have_a_value():
    scores = [
        *(score(n, "tuned", 0.75, contradicted=0.25 * (n % 2)) for n in range(20)),
        *(score(n, "few-shot", 0.25 if n % 4 else 0.5, contradicted=0.5) for n in range(4, 24)),
        *(score(n, "base", math.nan) for n in range(20)),
    ]
    rows = {row.measure: row for row in claim_scores.compare(scores, "tuned", "few-shot")}
    recall, contradicted = rows[ClaimMeasure.RECALL], rows[ClaimMeasure.CONTRADICTED]
    assert (recall.system, recall.against, recall.n) == ("tuned", "few-shot", 16)
    assert recall.score == 0.75 and recall.against_score == pytest.approx(0.3125)
    assert recall.difference == pytest.approx(0.4375) and recall.ci_low < 0.4375 < recall.ci_high
    assert recall.verdict is Verdict.BETTER
    assert contradicted.difference == -0.375 and contradicted.verdict is Verdict.BETTER and contradicted.lower_is_better
    assert rows[ClaimMeasure.PRECISION].missing and rows[ClaimMeasure.PRECISION].verdict is Verdict.NONE
    assert rows[ClaimMeasure.UNSUPPORTED].verdict is Verdict.NOISE
    reverse = {row.measure: row for row in claim_scores.compare(scores, "few-shot", "tuned")}
    assert reverse[ClaimMeasure.RECALL].difference == -recall.difference and reverse[ClaimMeasure.RECALL].verdict is Verdict.WORSE
    assert all(row.n == 0 and row.missing for row in claim_scores.compare(scores, "tuned", "nobody"))


def test_a_system_whose_answers_say_more_of_the_reference_wins_by_recall_through_the_server(tmp_path):
    whole, half = [REFERENCE] * 8, ["Aspirin is good. Tea is bad."] * 8
    found, _ = found_by(by_rule, tmp_path, {"base": answers(half, "base"), "tuned": answers(whole, "tuned")})
    recall, precision, *_ = claim_scores.compare(found.scores, "tuned", "base")
    assert (recall.score, recall.against_score) == (1, pytest.approx(1 / 3)) and recall.verdict is Verdict.BETTER
    assert (precision.score, precision.against_score) == (1, 0.5) and precision.verdict is Verdict.BETTER


def test_the_script_asks_about_claims_beside_the_grades_and_writes_them(small_run, tmp_path):
    folders = {**small_run, "scores": tmp_path / "scores"}
    grades = {**dict.fromkeys(judge.CRITERIA, 3), "correct": True, "complete": False, "harm": False}

    def reply(messages):
        found = by_rule(messages)
        return json.dumps({"A": grades, "B": grades}) if found == "no grades" else found

    shutil.copytree(small_run["scores"], folders["scores"])
    few = "MAX_SAMPLES_PER_SPECIALTY=3"
    with chat_server(reply) as address:
        done = run_script(*evaluate_command(folders, few, f"JUDGE={address} m"))
        assert done.returncode == 0, done.stderr
    rows = tables.read_rows(folders["scores"] / ClaimRow.FILE, ClaimRow)
    scores = tables.read_rows(folders["scores"] / ClaimScore.FILE, ClaimScore)
    compared = tables.read_rows(folders["scores"] / ClaimComparison.FILE, ClaimComparison)
    assert {row.system for row in rows} == {"base", "tuned", "base_few_shot"} and len(scores) == 3 * 12
    assert [(row.system, row.measure) for row in compared] == [
        (system, measure) for system in ("tuned", "base_few_shot") for measure in ClaimMeasure
    ]
    assert EvaluationManifest.require(folders["scores"]).failed == 0
    report = (folders["scores"] / OutputFile.REPORT).read_text()
    assert all(str(measure).replace("_", " ") in report for measure in ClaimMeasure)
    before = (folders["scores"] / ClaimScore.FILE).read_bytes()
    rescored = run_script(*evaluate_command(folders, few, f"JUDGE={address} m", "--rescore"))  # the server is gone
    assert rescored.returncode == 0, rescored.stderr
    assert (folders["scores"] / ClaimScore.FILE).read_bytes() == before
