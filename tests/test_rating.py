"""Blinded sheets and what raters' files say together."""

import csv
import json
import sys

import pandas as pd
import pytest
from conftest import ROOT

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.reporting import rating


def tables(count=12):
    """Two models' answers to questions of three specialties; the last answer is the same in both."""
    rows = [
        {"id": f"q{i}", "split": "holdout", "specialty": f"s{i % 3}", "question": f"Q{i}?", "finish_reason": "stop"}
        for i in range(count)
    ]
    base, tuned = (pd.DataFrame([{**row, "prediction": f"{arm} {row['id']}"} for row in rows]) for arm in ("base", "=tuned"))
    base.loc[count - 1, "prediction"] = tuned.loc[count - 1, "prediction"] = "alike"
    base["good"], tuned["good"] = 0.2, 0.8
    base["bad"], tuned["bad"] = 0.2, 0.8
    return base, tuned


def sheet_of(folder):
    with open(folder / rating.SHEET, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file)), json.loads((folder / rating.KEY).read_text())


def fill(path, rows, choose):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["sheet", "number", "better", "comment"])
        writer.writeheader()
        writer.writerows({"sheet": row["sheet"], "number": row["number"], "better": choose(row), "comment": ""} for row in rows)
    return path


def prefers_tuned(row):
    return "A" if "tuned" in row["answer_a"] else "b"  # either case is read


def test_a_sheet_takes_specialties_in_turn_and_does_not_say_whose_answer_is_which(tmp_path):
    base, tuned = tables()
    assert rating.write_sheet(tmp_path, base, tuned, 6, seed=1) == 6
    rows, key = sheet_of(tmp_path)
    assert sorted(row["specialty"] for row in rows) == ["s0", "s0", "s1", "s1", "s2", "s2"]
    assert all(key["questions"][row["number"]]["a"] == ("tuned" if "tuned" in row["answer_a"] else "base") for row in rows)
    assert "q11" not in {one["id"] for one in key["questions"].values()}
    assert all(not row[side].startswith("=") for row in rows for side in ("answer_a", "answer_b"))
    page = (tmp_path / rating.PAGE).read_text()
    assert key["sheet"] in page and "q0" not in page.replace("base q0", "").replace("tuned q0", "").replace('name="q', "")
    sides = set()
    for _ in range(12):
        rating.write_sheet(tmp_path, base, tuned, 11, seed=1)
        sides |= {one["a"] for one in sheet_of(tmp_path)[1]["questions"].values()}
    assert sides == {"base", "tuned"}


def test_ratings_are_read_back_as_preferences_for_the_tuned_model(tmp_path):
    base, tuned = tables()
    rating.write_sheet(tmp_path, base, tuned, 11, seed=1)
    rows, key = sheet_of(tmp_path)
    anna = fill(tmp_path / "anna.csv", rows, prefers_tuned)
    ben = fill(tmp_path / "ben.csv", rows, lambda row: "=" if row["number"] == "1" else prefers_tuned(row))
    ratings = rating.read_ratings([anna, ben], key)
    assert len(ratings) == 22 and set(ratings["preference"]) == {0, 1}
    results = rating.summarise(ratings, dict(zip(base["id"], base["specialty"], strict=True)), 0)
    total = results.iloc[0]
    assert (total["specialty"], total["questions"], total["tuned_wins"], total["ties"], total["base_wins"]) == (
        "(all)",
        11,
        21,
        1,
        0,
    )
    assert total["net"] == pytest.approx(10.5 / 11) and list(results["specialty"][1:]) == ["s0", "s1", "s2"]
    metrics = rating.agreement_of_metrics(ratings, base, tuned, {"good": False, "bad": True}).set_index("metric")
    assert metrics.loc["good", "agrees"] == 1 and metrics.loc["bad", "agrees"] == 0 and metrics.loc["good", "ci_low"] > 0.6


def test_kappa_is_one_where_raters_agree_and_about_zero_where_they_choose_by_chance():
    import numpy as np

    ids = [f"q{i}" for i in range(400)]
    draw = np.random.default_rng(0)
    truth = draw.choice([-1, 1], 400)
    same = pd.DataFrame([{"rater": rater, "id": i, "preference": p} for rater in "ab" for i, p in zip(ids, truth, strict=True)])
    assert rating.agreement(same) == (pytest.approx(1.0), 400)
    chance = pd.DataFrame(
        [{"rater": r, "id": i, "preference": p} for r in "abc" for i, p in zip(ids, draw.choice([-1, 1], 400), strict=True)]
    )
    assert abs(rating.agreement(chance)[0]) < 0.1
    assert rating.agreement(same[same["rater"] == "a"])[0] != rating.agreement(same[same["rater"] == "a"])[0]  # NaN


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace(",A,", ",yes,").replace(",b,", ",yes,"), "must be A, B, ="),
        (
            lambda text: "\n".join([text.splitlines()[0], *("other" + line[8:] for line in text.splitlines()[1:])]),
            "is not of the last rating sheet",
        ),
        (lambda text: text.replace(",A,", ",,").replace(",b,", ",,"), "no question is rated"),
    ],
)
def test_what_is_no_rating_is_named_by_file_and_line(tmp_path, change, words):
    rating.write_sheet(tmp_path, *tables(), 6, seed=1)
    rows, key = sheet_of(tmp_path)
    path = fill(tmp_path / "anna.csv", rows, prefers_tuned)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=words):
        rating.read_ratings([path], key)


def test_the_script_makes_a_sheet_and_reads_it_back(small_run, monkeypatch, capsys):
    import evaluation
    from meerkat_workbench.core import errors

    folder = small_run["scores"]

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluation.py", "--demo", f"OUTPUT_DIR={folder}", *map(str, arguments)])
        monkeypatch.chdir(ROOT)
        errors.run_script(evaluation.main)
        return capsys.readouterr().out

    assert "Send raters one of the two" in run("--rating-sheet", 8)
    rows, _ = sheet_of(folder)
    said = run("--ratings", fill(folder / "anna.csv", rows, lambda _: "A"), fill(folder / "ben.csv", rows, lambda _: "="))
    assert "Fleiss' kappa" in said and "ROUGE-L" in said
    assert (folder / "rating_results.csv").is_file() and (folder / "rating_agreement.csv").is_file()


def test_a_sheet_holds_what_the_models_wrote_though_the_csv_is_guarded(tmp_path):
    from meerkat_workbench.tuning.reporting import comparison

    base, tuned = tables()
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
    tuned["prediction"] = texts
    for name, table in (("base", base), ("finetuned", tuned)):
        with open(tmp_path / f"{name}_model_results.csv", "w", encoding="utf-8", newline="") as file:
            comparison.write_csv(table, file)
    read_back = comparison.read_csv(tmp_path / "finetuned_model_results.csv")
    assert read_back["prediction"].tolist() == texts
    rating.make_sheet(tmp_path, 12, seed=1)
    page = (tmp_path / rating.PAGE).read_text()
    assert ">- rest<" in page.replace("\n", "").replace("  ", "") or "- rest" in page
    assert "&#39;- rest" not in page and "&#39;= fluids" not in page
