"""Blinded sheets, and what the files of raters give together."""

import csv
import math
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from meerkat_workbench.core import artifacts
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.output import tables
from meerkat_workbench.stats import agreement
from meerkat_workbench.tuning.artifacts import (
    MetricAgreement,
    OutputFile,
    RatingKey,
    RatingResult,
    RatingSheetRow,
    answers_file,
)
from meerkat_workbench.tuning.reporting import rating
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


def test_the_script_makes_a_sheet_and_reads_it_back(small_run, monkeypatch, capsys):
    import evaluation

    folder = small_run["scores"]

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
