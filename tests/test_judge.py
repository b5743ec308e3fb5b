"""The judge: both orders, replies that cannot be read, and a judge that goes by the order."""

import json
import math
import re
import shutil

import pandas as pd
import pytest
from conftest import chat_server, evaluate_command, run_script

from meerkat_workbench.output import tables
from meerkat_workbench.tuning.artifacts import Judgement, JudgeVerdict, LengthControlled, OutputFile, Verdict
from meerkat_workbench.tuning.generation.endpoint import Endpoint
from meerkat_workbench.tuning.generation.prediction_store import PredictionStore
from meerkat_workbench.tuning.scoring import judge, judge_length
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable
from meerkat_workbench.tuning.scoring.judge_requests import Judge


def graded(a, b, **verdicts):
    """A reply with these grades; `verdicts` are what it says of both answers."""
    return json.dumps({"A": dict.fromkeys(judge.CRITERIA, a) | verdicts, "B": dict.fromkeys(judge.CRITERIA, b) | verdicts})


def answer_tables(count=6):
    rows = [
        {"id": f"q{n}", "split": "holdout", "specialty": f"s{n % 2}", "question": f"Q{n}?", "reference": "r", "finish_reason": "stop"}
        for n in range(count)
    ]  # fmt: skip
    return [
        AnswerTable(pd.DataFrame([{**row, "prediction": f"{system} {row['id']}"} for row in rows]))
        for system in ("base", "tuned")
    ]


def judged(reply):
    asked = judge.questions(*answer_tables())
    return judge.combine(asked, [reply(question.messages[-1][1]) for question in asked])


def numbers_in(sentence):
    return [int(number) for number in re.findall(r"\d+", sentence)]


def test_each_question_is_graded_in_both_orders_and_the_grades_of_a_fair_judge_agree():
    found = judged(lambda text: graded(*(5 if f"Answer {a}:\ntuned" in text else 2 for a in "AB")))
    assert len(found) == 6 and all(one.readable and one.swayed is False for one in found)
    summary = judge.summarise(found, "fair")
    assert len(summary.rows) == len(judge.CRITERIA)
    assert all((row.base, row.tuned, row.verdict) == (2, 5, Verdict.BETTER) for row in summary.rows)
    assert numbers_in(summary.sentences[-1]) == [0]


def test_a_judge_that_prefers_what_it_reads_first_finds_no_difference_and_is_reported():
    found = judged(lambda _: graded(5, 1))
    assert all(one.swayed for one in found)
    summary = judge.summarise(found, "biased")
    assert len(summary.rows) == len(judge.CRITERIA)
    assert all((row.difference, row.verdict) == (0, Verdict.NOISE) for row in summary.rows)
    assert numbers_in(summary.sentences[-1]) == [6]


def test_a_reply_that_cannot_be_read_is_counted_and_never_scored():
    found = judged(
        lambda text: None if "Q0?" in text else "I like A." if "Q1?" in text else f"Sure:\n```json\n{graded(3, 4)}\n```"
    )
    assert [one.readable for one in found] == [False, False, True, True, True, True]
    assert [one.answered for one in found] == [False, True, True, True, True, True]
    assert all(one.base is None and one.tuned is None for one in found[:2])
    summary = judge.summarise(found, "x")
    assert {row.n for row in summary.rows} == {4} and numbers_in(summary.sentences[1]) == [2]
    assert judge.summarise(judged(lambda _: "no"), "x").rows == []


@pytest.mark.parametrize(
    "reply",
    ["", "{", "[1]", '{"A": 1, "B": 2}', graded(0, 3), graded(3, 6), graded(2.5, 3), graded(True, 3), graded("4", 3), "null"],
)
def test_grades_out_of_range_or_of_another_kind_are_no_grades(reply):
    assert judge.read_grades(reply) is None


def test_a_verdict_stands_if_both_orders_agree_on_it_and_is_undecided_if_they_do_not():
    def reply(text):
        """Only the tuned answer is correct, what is read first is complete, and nothing readable is said about harm."""
        said = [
            {"correct": f"Answer {a}:\ntuned" in text, "complete": "Yes" if a == "A" else "no", "harm": "perhaps"} for a in "AB"
        ]
        return json.dumps(dict(zip("AB", said, strict=True)))

    for one in judged(reply):
        assert (one.base_verdicts.correct, one.tuned_verdicts.correct) == (Judgement.NO, Judgement.YES)
        assert one.base_verdicts.complete is one.tuned_verdicts.complete is Judgement.UNDECIDED
        assert one.base_verdicts.harm is Judgement.NONE
        assert not one.readable  # there are no grades
        assert [(row.system, row.correct) for row in one.rows()] == [("base", Judgement.NO), ("tuned", Judgement.YES)]


@pytest.mark.parametrize(
    "reply", ["", "[]", '{"A": {"correct": true}}', '{"A": 1, "B": 2}', '{"A": {"correct": [1]}, "B": {}}', graded(1, 2)]
)
def test_a_reply_without_verdicts_on_both_answers_has_none(reply):
    assert judge.read_verdicts(reply) == judge.Verdicts()


def test_grades_that_only_follow_length_leave_no_difference_at_equal_length():
    def lengths_of(number):
        return 10 + number % 7, 12 + 5 * (number % 5)

    def rows(effect):
        for number in range(60):
            for system, words, bonus in zip(("base", "tuned"), lengths_of(number), (0, effect), strict=True):
                yield JudgeVerdict(id=str(number), specialty=f"s{number % 3}", system=system, correct=Judgement.NONE, complete=Judgement.NONE,
                                   harm=Judgement.NONE, grade=1 + math.log2(words) / 2 + bonus + 0.01 * (number % 2), words=words)  # fmt: skip

    by_length, better = (judge_length.at_equal_length(list(rows(effect))) for effect in (0.0, 0.5))
    assert by_length.n == 60 and by_length.ci_low > 0.1
    assert by_length.at_equal_length == pytest.approx(0, abs=1e-9) and by_length.per_doubling == pytest.approx(0.5)
    assert better.at_equal_length == pytest.approx(0.5) and better.at_equal_length_low > 0
    assert judge_length.at_equal_length(list(rows(0.0))[:4]).missing


def test_the_script_asks_the_judge_stores_its_replies_and_reports_them(small_run, tmp_path):
    folders = {**small_run, "scores": tmp_path / "scores"}
    asked = []

    def reply(messages):
        asked.append(messages[-1]["content"])
        lengths = [len(text) for text in re.findall(r"Answer [AB]:\n(.*?)(?=\n\nAnswer B:|$)", asked[-1], re.DOTALL)]
        return graded(*(1 + min(4, length // 40) for length in lengths), correct=True, complete=False, harm="no")

    shutil.copytree(small_run["scores"], folders["scores"])  # so that the judge alone is asked
    with chat_server(reply) as address:
        done = run_script(*evaluate_command(folders, f"JUDGE={address} m", "JUDGE_CLAIMS=False"))
        assert done.returncode == 0 and address in done.stdout, done.stderr
        assert Endpoint(address, "m").stay_or_leave() in done.stdout
    assert len(asked) == 2 * 40  # both orders of ten holdout questions of four specialties
    rows = tables.read_frame(folders["scores"] / OutputFile.JUDGE_RESULTS, {"id", "specialty", "question"})
    assert len(rows) == 40 and rows["answered"].all() and rows["readable"].all()
    verdicts = tables.read_rows(folders["scores"] / JudgeVerdict.FILE, JudgeVerdict)
    assert len(verdicts) == 80 and {(row.correct, row.complete, row.harm) for row in verdicts} == {
        (Judgement.YES, Judgement.NO, Judgement.NO)
    }
    [length] = tables.read_rows(folders["scores"] / LengthControlled.FILE, LengthControlled)
    assert length.n <= 40 and all(row.words >= 0 and not math.isnan(row.grade) for row in verdicts)
    with_judge, without = ((folder / OutputFile.REPORT).read_text() for folder in (folders["scores"], small_run["scores"]))
    for criterion in judge.CRITERIA:
        assert criterion.replace("_", " ") in with_judge and criterion.replace("_", " ") not in without


def test_replies_are_asked_for_once_and_taken_over_from_an_archived_evaluation(tmp_path):
    base, tuned = answer_tables(2)
    calls = []

    def reply(messages):
        calls.append(messages)
        return graded(2, 4)

    def judged_by(model, folder, *, stored_only):
        return judge.judge_answers(Judge(Endpoint(address, model), PredictionStore(folder), 2, stored_only), base, tuned)

    with chat_server(reply) as address:
        first = judged_by("m", tmp_path / "archive" / "iteration_001", stored_only=False)
        assert len(calls) == 4 and all(one.readable for one in first) and len(first) == 2
        assert judged_by("m", tmp_path, stored_only=False) == first and len(calls) == 4
    others = judged_by("another", tmp_path, stored_only=True)
    assert len(others) == 2 and not any(one.answered or one.readable for one in others)
