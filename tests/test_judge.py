"""The judge: both orders, replies that cannot be read, and a judge that goes by the order."""

import csv
import json
import re
import shutil

import pandas as pd
import pytest
from conftest import chat_server, evaluate_command, run_script

from meerkat_workbench.tuning.generation import judge
from meerkat_workbench.tuning.generation.endpoint import Endpoint
from meerkat_workbench.tuning.generation.prediction_store import PredictionStore


def graded(a, b):
    return json.dumps({"A": dict.fromkeys(judge.CRITERIA, a), "B": dict.fromkeys(judge.CRITERIA, b)})


def tables(count=6):
    rows = [
        {"id": f"q{n}", "specialty": f"s{n % 2}", "question": f"Q{n}?", "reference": "r", "finish_reason": "stop"}
        for n in range(count)
    ]
    return [pd.DataFrame([{**row, "prediction": f"{arm} {row['id']}"} for row in rows]) for arm in ("base", "tuned")]


def judged(reply):
    asked = judge.questions(*tables())
    return judge.table(asked, [reply(question.messages[-1][1]) for question in asked])


def test_each_question_is_graded_in_both_orders_and_a_fair_judge_keeps_its_mind():
    found = judged(lambda text: graded(*(5 if f"Answer {a}:\ntuned" in text else 2 for a in "AB")))
    assert len(found) == 6 and found["readable"].all() and not found["swayed"].any()
    summary = judge.summary(found, "fair")
    assert all((row["base"], row["tuned"], row["verdict"]) == (2, 5, "better") for row in summary["rows"])


def test_a_judge_that_likes_what_stands_first_finds_no_difference_and_is_told_of():
    found = judged(lambda _: graded(5, 1))
    assert found["swayed"].all()
    summary = judge.summary(found, "biased")
    assert all(row["difference"] == 0 and row["verdict"] == "within noise" for row in summary["rows"])
    assert "On 6 its preference followed the order of the answers." in summary["in_words"]


def test_a_reply_that_cannot_be_read_is_counted_and_never_scored():
    found = judged(
        lambda text: None if "Q0?" in text else "I like A." if "Q1?" in text else f"Sure:\n```json\n{graded(3, 4)}\n```"
    )
    assert list(found["readable"]) == [False, False, True, True, True, True]
    assert (
        found.loc[:1, "base_fluency"].isna().all()
        and "On 2 its reply could not be read" in judge.summary(found, "x")["in_words"][1]
    )
    assert judge.summary(judged(lambda _: "no"), "x")["rows"] == []


@pytest.mark.parametrize(
    "reply",
    ["", "{", "[1]", '{"A": 1, "B": 2}', graded(0, 3), graded(3, 6), graded(2.5, 3), graded(True, 3), graded("4", 3), "null"],
)
def test_grades_out_of_range_or_of_another_kind_are_no_grades(reply):
    assert judge.read_grades(reply) is None


def test_the_script_asks_the_judge_stores_its_replies_and_reports_them(small_run, tmp_path):
    folders = {**small_run, "scores": tmp_path / "scores"}
    asked = []

    def reply(messages):
        asked.append(messages[-1]["content"])
        lengths = [len(text) for text in re.findall(r"Answer [AB]:\n(.*?)(?=\n\nAnswer B:|$)", asked[-1], re.DOTALL)]
        return graded(*(1 + min(4, length // 40) for length in lengths))

    shutil.copytree(small_run["scores"], folders["scores"])  # so that only the judge has anything to say
    with chat_server(reply) as address:
        done = run_script(*evaluate_command(folders, f"JUDGE={address} m"))
        assert done.returncode == 0 and "answers stay on this machine" in done.stdout, done.stderr
    assert len(asked) == 2 * 40  # both orders of ten holdout questions of four specialties
    with open(tmp_path / "scores" / "judge_results.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and all(row["readable"] == "True" for row in rows)
    assert "What the judge said" in (tmp_path / "scores" / "report.html").read_text()


def test_replies_are_asked_for_once_and_taken_over_from_an_archived_evaluation(tmp_path):
    asked, calls = judge.questions(*tables(2)), []

    def reply(messages):
        calls.append(messages)
        return graded(2, 4)

    with chat_server(reply) as address:
        endpoint = Endpoint(address, "m")
        earlier = PredictionStore(tmp_path / "archive" / "iteration_001")
        first = judge.ask(endpoint, asked, earlier, 2, stored_only=False)
        assert len(calls) == 4 and judge.table(asked, first)["readable"].all()
        assert judge.ask(endpoint, asked, PredictionStore(tmp_path), 2, stored_only=False) == first and len(calls) == 4
    other = Endpoint(address, "another")
    assert judge.ask(other, asked, PredictionStore(tmp_path), 2, stored_only=True) == [None] * 4
