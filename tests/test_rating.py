"""Blinded sheets, and what the files of raters give together."""

import csv
import math
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import report_size
from conftest import ROOT

from meerkat_workbench.core import artifacts
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.output import tables
from meerkat_workbench.stats import agreement
from meerkat_workbench.tuning.artifacts import (
    AnswerCriterion,
    AnswerVerdicts,
    ClaimMeasure,
    ClaimScore,
    JudgeAgreement,
    JudgeCorrection,
    Judgement,
    JudgeVerdict,
    MetricAgreement,
    OutputFile,
    RatedCriterion,
    RatingKey,
    RatingResult,
    RatingSheetRow,
    answers_file,
)
from meerkat_workbench.tuning.reporting import judge_agreement, rating
from meerkat_workbench.tuning.reporting.rating import Rating
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable


def answer_tables(count=12):
    """Two models' answers to questions of three specialties; the last answer is the same in both."""
    rows = [
        {"id": f"q{i}", "split": "holdout", "specialty": f"s{i % 3}", "question": f"Q{i}?", "reference": "r", "finish_reason": "stop"}
        for i in range(count)
    ]  # fmt: skip
    base, tuned = (
        pd.DataFrame([{**row, "prediction": f"{system} {row['id']}"} for row in rows]) for system in ("base", "=tuned")
    )
    base.loc[count - 1, "prediction"] = tuned.loc[count - 1, "prediction"] = "alike"
    base["good"], tuned["good"] = 0.2, 0.8
    base["bad"], tuned["bad"] = 0.2, 0.8
    return AnswerTable(base), AnswerTable(tuned)


def sheet_of(folder):
    return (
        tables.read_rows(folder / RatingSheetRow.FILE, RatingSheetRow),
        artifacts.read(RatingKey, folder / RatingKey.FILE),
    )


def fill(path, rows, choose):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["sheet", "number", "better", "comment"])
        writer.writeheader()
        writer.writerows({"sheet": row.sheet, "number": row.number, "better": choose(row), "comment": ""} for row in rows)
    return path


def fill_in_full(path, rows, key, choose, says):
    """A sheet with verdicts too; `says` gives those on the answer of a system to a question, or None to leave them out."""
    cells = []
    for row in rows:
        line = {"sheet": row.sheet, "number": row.number, "better": choose(row)}
        entry = key.questions[str(row.number)]
        for answer, system in (("A", entry.a), ("B", "base" if entry.a == "tuned" else "tuned")):
            for criterion, verdict in zip(AnswerCriterion, says(system, entry.id) or ("", "", ""), strict=True):
                line[RatingSheetRow.criterion_column(criterion, answer)] = verdict
        cells.append(line)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(cells[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(cells)
    return path


def verdict_of(name, system, correct, complete="yes", harm="no", grade=3.0):
    return JudgeVerdict(id=name, specialty="s", system=system, correct=Judgement(correct), complete=Judgement(complete),
                        harm=Judgement(harm), grade=grade, words=10)  # fmt: skip


def prefers_tuned(row):
    return "A" if "tuned" in row.answer_a else "b"  # either case is read


def test_a_sheet_takes_specialties_in_turn_and_hides_whose_answer_is_which(tmp_path):
    base, tuned = answer_tables()
    assert rating.write_sheet(tmp_path, base, tuned, 6, seed=1) == 6
    rows, key = sheet_of(tmp_path)
    assert sorted(row.specialty for row in rows) == ["s0", "s0", "s1", "s1", "s2", "s2"]
    assert all(key.questions[str(row.number)].a == ("tuned" if "tuned" in row.answer_a else "base") for row in rows)
    assert "q11" not in {entry.id for entry in key.questions.values()}
    with open(tmp_path / RatingSheetRow.FILE, encoding="utf-8", newline="") as file:
        cells = [row[side] for row in csv.DictReader(file) for side in ("answer_a", "answer_b")]
    assert len(cells) == 12 and not any(cell.startswith("=") for cell in cells)
    page = (tmp_path / OutputFile.RATING_PAGE).read_text()
    assert key.sheet in page and "q0" not in page.replace("base q0", "").replace("tuned q0", "").replace('name="q', "")
    sides = set()
    for _ in range(12):
        rating.write_sheet(tmp_path, base, tuned, 11, seed=1)
        sides |= {entry.a for entry in sheet_of(tmp_path)[1].questions.values()}
    assert sides == {"base", "tuned"}


def test_ratings_are_read_back_as_preferences_for_the_tuned_model(tmp_path):
    base, tuned = answer_tables()
    rating.write_sheet(tmp_path, base, tuned, 11, seed=1)
    rows, key = sheet_of(tmp_path)
    anna = fill(tmp_path / "anna.csv", rows, prefers_tuned)
    ben = fill(tmp_path / "ben.csv", rows, lambda row: "=" if row.number == 1 else prefers_tuned(row))
    ratings = rating.read_ratings([anna, ben], key)
    assert len(ratings) == 22 and {one.preference for one in ratings} == {0, 1}
    summary = rating.summarise(ratings, base, tuned, {"good": False, "bad": True}, 0)
    total, *by_specialty = summary.results
    assert (total.specialty, total.questions, total.ratings) == (rating.ALL, 11, 22)
    assert (total.tuned_wins, total.ties, total.base_wins) == (21, 1, 0)
    assert total.net == pytest.approx(10.5 / 11) and [row.specialty for row in by_specialty] == ["s0", "s1", "s2"]
    assert (summary.raters, summary.common) == (2, 11)
    good, bad = summary.metrics  # the best first
    assert (good.metric, good.agrees, bad.metric, bad.agrees) == ("good", 1, "bad", 0) and good.ci_low > 0.6


def test_verdicts_on_each_answer_are_read_back_whichever_side_it_was_on(tmp_path):
    base, tuned = answer_tables()
    rating.write_sheet(tmp_path, base, tuned, 11, seed=1)
    rows, key = sheet_of(tmp_path)
    assert {RatingSheetRow.criterion_column(criterion, answer) for criterion in AnswerCriterion for answer in "AB"} <= set(
        RatingSheetRow.__struct_fields__
    )

    def anna_says(system, name):
        return ("Yes", "no", "n") if system == "tuned" else ("no", "no", "TRUE" if name in ("q0", "q1") else "no")

    def ben_says(system, name):
        return anna_says(system, name) if name != "q3" else None

    anna = fill_in_full(tmp_path / "anna.csv", rows, key, prefers_tuned, anna_says)
    ben = fill_in_full(tmp_path / "ben.csv", rows, key, lambda _: "", ben_says)
    ratings = rating.read_ratings([anna, ben], key)
    assert len(ratings) == 11 + 10  # what ben left empty is no rating
    assert {one.tuned.correct for one in ratings} == {Judgement.YES} and {one.base.correct for one in ratings} == {Judgement.NO}
    summary = rating.summarise(ratings, base, tuned, {}, 0)
    assert (summary.results[0].ratings, summary.raters) == (11, 2)  # ben gave no preference
    rows_by = {row.criterion: row for row in summary.criteria}
    correct, complete, harm = (rows_by[criterion] for criterion in AnswerCriterion)
    assert (correct.base, correct.tuned, correct.difference, correct.questions) == (0, 1, 1, 11)
    assert correct.tuned_low > 0.7 and correct.base_high < 0.3
    assert (complete.base, complete.tuned, complete.difference) == (0, 0, 0) and math.isnan(complete.kappa)
    assert (harm.base, harm.tuned) == (pytest.approx(2 / 11), 0) and harm.ci_low < harm.difference < harm.ci_high
    assert (correct.raters, correct.common, correct.ratings, correct.kappa) == (2, 20, 42, 1)


def test_a_sheet_with_preferences_only_gives_no_verdicts(tmp_path):
    base, tuned = answer_tables()
    rating.write_sheet(tmp_path, base, tuned, 6, seed=1)
    rows, key = sheet_of(tmp_path)
    ratings = rating.read_ratings([fill(tmp_path / "anna.csv", rows, prefers_tuned)], key)
    summary = rating.summarise(ratings, base, tuned, {}, 0)
    assert summary.criteria == [] and summary.results[0].ratings == 6
    check = judge_agreement.check_judge(ratings, [verdict_of("q0", "base", "yes")])
    assert check.agreement == check.corrected == []


def test_a_cell_that_is_neither_yes_nor_no_is_named_by_file_line_and_column(tmp_path):
    rating.write_sheet(tmp_path, *answer_tables(), 6, seed=1)
    rows, key = sheet_of(tmp_path)
    path = fill_in_full(tmp_path / "anna.csv", rows, key, prefers_tuned, lambda *_: ("perhaps", "", ""))
    with pytest.raises(UserError) as caught:
        rating.read_ratings([path], key)
    assert caught.value.item == "line 2" and "anna.csv" in str(caught.value.where) and "correct_a" in str(caught.value)


def rated(correct_by_answer, rater="anna"):
    """Ratings of correctness from {(system, question): yes}."""
    names = sorted({name for _, name in correct_by_answer})
    verdicts = {key: AnswerVerdicts(correct=Judgement.YES if yes else Judgement.NO) for key, yes in correct_by_answer.items()}
    return [
        Rating(rater, name, None, verdicts.get(("base", name), AnswerVerdicts()), verdicts.get(("tuned", name), AnswerVerdicts()))
        for name in names
    ]


def test_the_judge_is_compared_with_the_majority_of_raters_and_its_rate_is_corrected():
    names = [f"q{n}" for n in range(40)]
    truth = {("base", name): n % 2 == 0 for n, name in enumerate(names)} | {
        ("tuned", name): n % 4 > 0 for n, name in enumerate(names)
    }
    lenient = {
        answer: yes or int(answer[1][1:]) % 8 in (0, 1) for answer, yes in truth.items()
    }  # calls some wrong answers correct
    verdicts = [verdict_of(name, system, "yes" if lenient[system, name] else "no") for system, name in truth]
    check = judge_agreement.check_judge(rated(truth), verdicts)
    [row] = check.agreement
    wrong = sum(not yes for yes in truth.values())
    fooled = sum(lenient[answer] and not yes for answer, yes in truth.items())
    assert (row.criterion, row.n, row.sensitivity, row.raters_no, row.flips) == (AnswerCriterion.CORRECT, 80, 1, wrong, 0)
    assert row.specificity == pytest.approx((wrong - fooled) / wrong) and 0 < row.kappa < 1
    base, tuned, difference = check.corrected
    assert (base.system, tuned.system, difference.system) == ("base", "tuned", JudgeCorrection.DIFFERENCE)
    for one in (base, tuned, difference):
        assert one.ci_low <= one.corrected <= one.ci_high and one.n == 40 and not one.missing
    assert base.judged > 0.5 and difference.corrected == pytest.approx(tuned.corrected - base.corrected)


def test_the_judges_verdicts_that_changed_with_the_order_count_as_not_yes_and_unread_ones_not_at_all():
    truth = {("base", "q0"): True, ("base", "q1"): False, ("tuned", "q0"): True, ("tuned", "q1"): False}
    verdicts = [verdict_of("q0", "base", "undecided"), verdict_of("q1", "base", "no"), verdict_of("q0", "tuned", "yes"),
                verdict_of("q1", "tuned", "")]  # fmt: skip
    [row] = judge_agreement.check_judge(rated(truth), verdicts).agreement
    assert (row.n, row.sensitivity, row.raters_yes, row.specificity, row.raters_no) == (3, 0.5, 2, 1, 1)
    assert (row.judged, row.flips) == (3, 1)


def test_answers_on_which_raters_are_divided_say_nothing_about_the_judge():
    truth = {("base", "q0"): True, ("tuned", "q0"): False}
    ratings = rated(truth) + rated({("base", "q0"): False, ("tuned", "q0"): False}, "ben")
    verdicts = [verdict_of("q0", "base", "yes"), verdict_of("q0", "tuned", "no")]
    check = judge_agreement.check_judge(ratings, verdicts)
    assert [(row.n, row.raters_no) for row in check.agreement] == [(1, 1)]
    assert all(row.missing and math.isnan(row.corrected) for row in check.corrected)


@pytest.mark.skipif(bool(report_size.browser_missing()), reason=report_size.browser_missing())
def test_the_page_saves_a_file_that_is_read_back(tmp_path):
    base, tuned = answer_tables()
    rating.write_sheet(tmp_path, base, tuned, 4, seed=1)
    rows, key = sheet_of(tmp_path)
    click = """
        window.saved = ""; URL.createObjectURL = blob => { blob.text().then(text => { window.saved = text; }); return "#"; };
        const pick = (box, column, value) => box.querySelector(`input[data-column="${column}"][value="${value}"]`).click();
        const boxes = [...document.querySelectorAll("fieldset")];
        pick(boxes[0], "better", "A"); pick(boxes[0], "correct_a", "yes"); pick(boxes[0], "harm_b", "yes"); pick(boxes[1], "complete_b", "no");
        boxes[1].querySelector("input[type=text]").value = 'a, "b"'; document.getElementById("save").click();
    """
    with report_size.browser() as driver:
        driver.get((tmp_path / OutputFile.RATING_PAGE).as_uri())
        driver.execute_script(click)
        driver.get((tmp_path / OutputFile.RATING_PAGE).as_uri())  # choices survive in the browser
        driver.execute_script(
            "URL.createObjectURL = blob => { blob.text().then(text => { window.saved = text; }); return '#'; };"
            "document.getElementById('save').click();"
        )
        saved = driver.execute_async_script(
            "const done = arguments[0], wait = () => window.saved ? done(window.saved) : setTimeout(wait, 20); wait();"
        )
        assert [entry["message"] for entry in driver.get_log("browser")] == []
    (tmp_path / "anna.csv").write_text(saved, encoding="utf-8")
    first, second = rating.read_ratings([tmp_path / "anna.csv"], key)
    a, b = (first.tuned, first.base) if key.questions["1"].a == "tuned" else (first.base, first.tuned)
    assert first.preference == (1 if key.questions["1"].a == "tuned" else -1)
    assert (a, b) == (AnswerVerdicts(correct=Judgement.YES), AnswerVerdicts(harm=Judgement.YES))
    of_b = second.base if key.questions["2"].a == "tuned" else second.tuned
    assert second.preference is None and of_b == AnswerVerdicts(complete=Judgement.NO)


def test_kappa_is_one_where_raters_agree_about_zero_by_chance_and_unknown_with_one_rater():
    base, tuned = answer_tables(400)
    draw = np.random.default_rng(0)

    def kappa(by_rater):
        ratings = [
            Rating(rater, name, int(p)) for rater, given in by_rater.items() for name, p in zip(base.ids, given, strict=True)
        ]
        summary = rating.summarise(ratings, base, tuned, {}, 0)
        assert (summary.raters, summary.common) == (len(by_rater), 400)
        return summary.kappa

    truth = draw.choice([-1, 1], 400)
    assert kappa({"a": truth, "b": truth}) == pytest.approx(1.0)
    assert abs(kappa({rater: draw.choice([-1, 1], 400) for rater in "abc"})) < 0.1
    assert math.isnan(kappa({"a": truth}))


def test_a_metric_that_is_even_agrees_by_half_and_a_fraction_of_nothing_has_no_interval():
    assert agreement.fraction_agreeing([0.0, 0.3, -0.2], [1, 1, 1]) == 1.5
    assert all(math.isnan(end) for end in agreement.wilson(0, 0))


@pytest.mark.parametrize(
    ("change", "where", "item"),
    [
        (lambda text: text.replace(",A,", ",yes,").replace(",b,", ",yes,"), "anna.csv", "line 2"),
        (
            lambda text: "\n".join([text.splitlines()[0], *("other" + line[8:] for line in text.splitlines()[1:])]),
            "anna.csv",
            "line 2",
        ),
        (lambda text: text.replace(",A,", ",,").replace(",b,", ",,"), "--ratings", ""),
        (lambda text: text.replace("better", "best"), "anna.csv", ""),
    ],
)
def test_what_is_no_rating_is_named_by_file_and_line(tmp_path, change, where, item):
    rating.write_sheet(tmp_path, *answer_tables(), 6, seed=1)
    rows, key = sheet_of(tmp_path)
    path = fill(tmp_path / "anna.csv", rows, prefers_tuned)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError) as caught:
        rating.read_ratings([path], key)
    assert where in caught.value.where and caught.value.item == item


def test_the_script_makes_a_sheet_and_reads_it_back_and_joins_it_with_a_judge(small_run, tmp_path, monkeypatch, capsys):
    import evaluation

    folder = tmp_path / "scores"
    shutil.copytree(small_run["scores"], folder)

    def printed(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluation.py", "--demo", f"OUTPUT_DIR={folder}", *map(str, arguments)])
        monkeypatch.chdir(ROOT)
        evaluation.main()
        return capsys.readouterr().out

    stdout = printed("--rating-sheet", 8)
    assert all(name in stdout for name in (OutputFile.RATING_PAGE, RatingSheetRow.FILE, RatingKey.FILE, "--ratings"))
    rows, _ = sheet_of(folder)
    assert len(rows) == 8
    stdout = printed("--ratings", fill(folder / "anna.csv", rows, lambda _: "A"), fill(folder / "ben.csv", rows, lambda _: "="))
    total = tables.read_rows(folder / RatingResult.FILE, RatingResult)[0]
    assert (total.questions, total.ratings, total.ties) == (8, 16, 8)
    assert "16 " in stdout and f"{total.net:+.2f}" in stdout and "kappa" in stdout
    metrics = tables.read_rows(folder / MetricAgreement.FILE, MetricAgreement)
    assert "ROUGE-L" in {row.metric for row in metrics}
    assert all(row.metric in stdout for row in metrics if row.questions)
    assert not (folder / JudgeAgreement.FILE).exists() and tables.read_rows(folder / RatedCriterion.FILE, RatedCriterion) == []

    # the same with verdicts, a judge, and measures of claims
    _, key = sheet_of(folder)
    names = list(AnswerTable.read(folder, "base").of_split("holdout").ids)
    judged = [verdict_of(name, system, "yes" if system == "tuned" or n % 3 else "no", grade=2 + n % 3)
              for system in ("base", "tuned") for n, name in enumerate(names)]  # fmt: skip
    tables.write_rows(folder / JudgeVerdict.FILE, judged, JudgeVerdict)
    claimed = [ClaimScore(id=name, specialty="s", system=system, reference_claims=2, reference_decided=2, answer_claims=2, answer_decided=2,
                          claim_recall=0.5 + 0.5 * (system == "tuned"), claim_contradicted=0, claim_precision=math.nan, unsupported_claims=n % 2)
               for system in ("base", "tuned") for n, name in enumerate(names)]  # fmt: skip
    tables.write_rows(folder / ClaimScore.FILE, claimed, ClaimScore)
    says = {name: ("yes" if n % 2 else "no", "yes", "no") for n, name in enumerate(names)}
    cara = fill_in_full(folder / "cara.csv", rows, key, lambda _: "A", lambda system, name: says[name])
    stdout = printed("--ratings", cara)
    [correct, *_] = tables.read_rows(folder / JudgeAgreement.FILE, JudgeAgreement)
    assert (correct.n, correct.judged) == (16, 2 * len(names)) and f"{correct.kappa:.2f}" in stdout
    corrected = tables.read_rows(folder / JudgeCorrection.FILE, JudgeCorrection)
    assert [row.system for row in corrected[:3]] == ["base", "tuned", JudgeCorrection.DIFFERENCE]
    assert all(row.missing for row in corrected if row.criterion is not AnswerCriterion.CORRECT)  # raters never said no, or yes
    assert len(tables.read_rows(folder / RatedCriterion.FILE, RatedCriterion)) == 3
    metrics = {row.metric: row for row in tables.read_rows(folder / MetricAgreement.FILE, MetricAgreement)}
    assert metrics[ClaimMeasure.RECALL].questions == 8 and metrics[ClaimMeasure.PRECISION].questions == 0


def test_a_column_of_numbers_that_is_no_metric_of_the_suite_is_compared_with_raters_too():
    from meerkat_workbench.tuning.commands import rating as command
    from meerkat_workbench.tuning.scoring.metric_suite import MetricSuite

    base, tuned = answer_tables()
    found = command.comparable_metrics(MetricSuite("packaged"), base, tuned.with_scores({"only_tuned": [1.0] * len(tuned)}))
    assert found == {"good": False, "bad": False}


def test_a_sheet_holds_what_the_models_wrote_though_the_csv_is_guarded(small_run, tmp_path):
    from meerkat_workbench.core import runs
    from meerkat_workbench.tuning.commands import rating as command

    base, tuned = answer_tables()
    texts = [
        "- rest",
        "= fluids",
        "'quoted'",
        "'- both",
        "+1",
        "@home",
        "NA",
        "''=x",
        "plain",
        "-5 mg\r\nsecond\rthird",
        "1.50",
        "alike",
    ]
    tuned.frame["prediction"] = texts
    base.write(tmp_path, "base")
    tuned.write(tmp_path, "tuned")
    (tmp_path / runs.MANIFEST).write_bytes((small_run["scores"] / runs.MANIFEST).read_bytes())
    assert (tmp_path / answers_file("tuned")).is_file()
    assert list(AnswerTable.read(tmp_path, "tuned").predictions) == texts
    command.make_sheet(tmp_path, 12, seed=1)
    rows, key = sheet_of(tmp_path)
    shown = {key.questions[str(row.number)].id: {row.answer_a, row.answer_b} for row in rows}
    assert len(shown) == 11 and all(text in shown[f"q{n}"] for n, text in enumerate(texts[:-1]))
    page = (tmp_path / OutputFile.RATING_PAGE).read_text()
    assert ">- rest<" in page and "&#39;- rest" not in page and "&#39;= fluids" not in page
