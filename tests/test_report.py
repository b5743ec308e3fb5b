"""The report in a real browser, headless Chromium under its driver, and the history behind it."""

import dataclasses
import math
import re

import pandas as pd
import pytest
import report_size
from conftest import TOPICS

from meerkat_workbench.core import artifacts, runs
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.output import tables
from meerkat_workbench.tuning.artifacts import (
    EvaluationInputs,
    EvaluationManifest,
    GenerationRecord,
    HistoryRow,
    MetricComparison,
    SplitHashes,
    Verdict,
    answers_file,
)
from meerkat_workbench.tuning.commands.history import print_history
from meerkat_workbench.tuning.reporting import history, question_browser
from meerkat_workbench.tuning.reporting.history import EvaluationId
from meerkat_workbench.tuning.scoring import metric_suite
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable

needs_browser = pytest.mark.skipif(bool(report_size.browser_missing()), reason=report_size.browser_missing())

EVIL = 'R&D &amp; <script>window.hit = 1</script><img src=x onerror="window.hit = 1"></script><!-- {{ 1 }} ${1}'


def asked(count=60):
    rows = [
        (f"specialty_{n % 3}", f"What is {TOPICS[n % 12]}, part {n}?", f"It is reference {n}. Give 5 mg twice.",
         f"It is base {n}. Give 5 mg twice.", f"It is reference {n}. Give 50 mg, never more.")
        for n in range(count)
    ]  # fmt: skip
    rows[7] = (EVIL, f"Evil? {EVIL}", EVIL, f"=HYPERLINK(1) {EVIL}", EVIL)
    return rows


@pytest.fixture(scope="module")
def driver():
    if report_size.browser_missing():
        pytest.skip(report_size.browser_missing())
    with report_size.browser() as started:
        yield started


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    written = tmp_path_factory.mktemp("report") / "report.html"
    report_size.write_report(written, asked(), past=True)
    return written


@pytest.fixture
def page(driver, path):
    report_size.open_report(driver, path)
    yield driver
    # Chromium reports a missing image of the evil text only if the text became an image
    assert [entry["message"] for entry in driver.get_log("browser")] == []


def find(page, selector):
    from selenium.webdriver.common.by import By

    return page.find_elements(By.CSS_SELECTOR, selector)


def choose(page, name, value):
    from selenium.webdriver.support.ui import Select

    Select(find(page, f"#{name}")[0]).select_by_value(value)


def questions_left(page):
    return int(re.search(r"\d+", find(page, ".dt-info")[0].text).group())


def first_column(page):
    return [float(cell.text) for cell in find(page, "#explorer tbody tr td:first-child")]


def test_it_renders_its_warning_charts_and_questions_the_worst_regression_first(page):
    [warning] = find(page, "h1 + .warn strong")  # what it is not for
    assert warning.is_displayed() and warning.text
    assert len(find(page, "#metrics svg")) == len(find(page, "#forest svg")) == len(find(page, "#iterations svg")) == 1
    assert questions_left(page) == 60
    changes = first_column(page)
    assert len(changes) == 25 and changes == sorted(changes) and changes[0] < -0.2
    assert find(page, "details summary .worse")[0].text == f"{changes[0]:+.3f}".replace("+", "")


def test_it_filters_searches_and_shows_how_many_are_left(page):
    choose(page, "specialty", "specialty_1")
    assert {cell.text for cell in find(page, "#explorer tbody td:nth-child(5)")} == {"specialty 1"}
    assert questions_left(page) == 19  # one of twenty has another name
    choose(page, "split", "eval")
    assert {cell.text for cell in find(page, "#explorer tbody td:nth-child(6)")} == {"eval"}
    find(page, "#clear")[0].click()
    find(page, ".dt-search input")[0].send_keys('"part 33?"')
    assert [button.text for button in find(page, "button.open")] == [asked()[33][1]]
    find(page, "#clear")[0].click()
    assert questions_left(page) == 60


def test_it_sorts_by_any_metric_and_by_any_column(page):
    before = first_column(page)
    choose(page, "metric", "token_f1")
    after = first_column(page)
    assert after == sorted(after) and after != before
    find(page, "#explorer thead th:first-child")[0].click()
    assert first_column(page) == sorted(first_column(page), reverse=True)


def test_a_question_opens_by_keyboard_and_shows_where_answers_differ_from_the_reference(page):
    from selenium.webdriver.common.keys import Keys

    find(page, ".dt-search input")[0].send_keys('"part 4?"')
    button = find(page, "button.open")[0]
    button.send_keys(Keys.ENTER)
    assert find(page, "button.open")[0].get_attribute("aria-expanded") == "true"
    reference, base, tuned = find(page, ".child-of .answers > div")
    assert [mark.text.strip() for mark in tuned.find_elements("tag name", "mark")] == ["50", "never more."]
    assert [bold.text for bold in tuned.find_elements("tag name", "b")] == ["50", "never"]
    assert [mark.text.strip() for mark in base.find_elements("tag name", "mark")] == ["base"]
    assert "number differs" in tuned.text and "reference 4" in reference.text
    button.send_keys(Keys.ENTER)
    assert not find(page, ".child-of .answers")


def test_a_link_leads_to_its_question_whatever_page_it_is_on(driver, path):
    for name in ("q41", "q3"):
        report_size.open_report(driver, path, f"#q-{name}")
        assert asked()[int(name[1:])][1] in [b.text for b in find(driver, "button.open[aria-expanded=true]")]
        assert find(driver, ".child-of a")[0].get_attribute("href").endswith(f"#q-{name}")


def test_a_click_shows_the_answers_that_fail_a_check(page):
    link = find(page, "a[data-mark=negation_differs], a[data-mark=number_differs]")[0]
    count = int(link.text)
    link.click()
    assert questions_left(page) == count
    assert find(page, "#split")[0].get_attribute("value") == "holdout"


def test_text_of_models_and_files_is_shown_and_does_nothing(page):
    find(page, ".dt-search input")[0].send_keys("Evil?")
    find(page, "button.open")[0].click()
    box = find(page, ".child-of .answers")[0]
    assert box.text.count("R&D &amp; <script>window.hit = 1</script>") == 3
    find(page, "#clear")[0].click()
    find(page, ".dt-search input")[0].send_keys("R&D <script>window.hit")
    assert questions_left(page) == 1
    choose(page, "specialty", EVIL)
    assert page.execute_script("return window.hit") is None


@needs_browser
def test_it_is_readable_on_a_phone_and_prints_without_its_controls(path):
    with report_size.browser(width=500, height=800) as phone:
        report_size.open_report(phone, path)
        assert phone.execute_script("return document.body.scrollWidth <= innerWidth")
        phone.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert not find(phone, ".explorer")[0].is_displayed() and find(phone, "#forest svg")[0].is_displayed()


def test_parts_of_a_marked_text_join_to_the_text_and_alternate():
    for other, text in (
        ("Take 5 mg daily.", "take 10 mg, daily with water\n\nand rest"),
        ("", "a b"),
        ("a", ""),
        (" a  b", "  a\tb "),
    ):
        parts = question_browser.marked(other, text)
        assert "".join(parts) == text
    assert question_browser.marked("one two three", "one 2 three") == ["one ", "2 ", "three"]
    assert question_browser.marked("x", "y")[0] == ""


def test_where_there_are_too_many_questions_the_worst_and_a_random_sample_are_shown(monkeypatch):
    monkeypatch.setattr(question_browser, "MAX_QUESTIONS", 10)
    change = [math.nan, *(float(n) for n in range(40))]
    chosen = question_browser.choose(change, 1)
    assert chosen[:5] == [1, 2, 3, 4, 5] and len(set(chosen)) == 10 and chosen != question_browser.choose(change, 2)
    assert question_browser.choose(change[:8], 1)[-1] == 0  # without a score it comes last


def results(scores):
    """Answers of four questions with these scores, and their row of the comparison."""
    tuned = AnswerTable(pd.DataFrame({"id": list("abcd"), "split": "holdout", "specialty": list("xxyy"), "ROUGE-L": scores}))
    row = MetricComparison(
        split="holdout", metric="ROUGE-L", n=4, base=0, tuned=sum(scores) / 4, difference=0, ci_low=0, ci_high=0, p=1, base_low=0,
        base_high=0, tuned_low=0, tuned_high=0, floor_base=0, floor_tuned=0, verdict=Verdict.NOISE, lower_is_better=False, signature="",
        missing="",
    )  # fmt: skip
    return tuned, [row]


def archive_evaluation(folder, rows, tuned, now):
    """What a finished evaluation leaves of itself."""
    folder.mkdir(parents=True)
    history.write(folder, rows)
    with open(folder / answers_file("tuned"), "w", encoding="utf-8", newline="") as file:
        tables.write_frame(tuned.frame, file)
    inputs = EvaluationInputs(now.adapter, "base", "data", SplitHashes("h", "e", "t", "p"))
    done = EvaluationManifest(stage=EvaluationManifest.STAGE, fingerprint=now.evaluation, finished=now.finished, iteration=now.iteration,
                              inputs=inputs, run=GenerationRecord(engine="e"))  # fmt: skip
    artifacts.write(folder / runs.MANIFEST, done)


def test_history_pairs_an_iteration_with_the_one_before_and_replaces_what_is_done_again(tmp_path, capsys):
    def extended(now):
        return history.extend(tmp_path, comparison, tuned, now, metric_suite.bounds_of)

    def earlier_than(now):
        found = history.answers_before(
            tmp_path, key=now.comparability_key, adapter=now.adapter, recipe=now.recipe, iteration=now.iteration
        )
        return [iteration for iteration, _ in found]

    def printed(rows):
        """The lines of the printed table, a cell a column."""
        history.write(tmp_path, rows)
        print_history(tmp_path, "ROUGE-L")
        lines = capsys.readouterr().out.splitlines()
        return [re.split(r"\s{2,}", line.strip()) for line in lines if re.match(r"\s*\d", line)]

    now = EvaluationId(iteration=1, finished="2026-01-01", evaluation="f1", comparability_key="same", adapter="A", recipe="r", train=10,
                       share=0.5, train_seconds=60.0, train_tokens=70.0, seconds=60.0)  # fmt: skip
    tuned, comparison = results([0.1, 0.2, 0.3, 0.4])
    first = extended(now)
    assert len(first) == 1 and math.isnan(first[0].change)
    archive = tmp_path / "archive" / "iteration_001"
    archive_evaluation(archive, first, tuned, now)
    tuned, comparison = results([0.2, 0.3, 0.4, 0.5])
    later = dataclasses.replace(now, evaluation="f2", adapter="B", iteration=2, finished="2026-01-02")
    second = extended(later)
    assert [row.iteration for row in second] == [1, 2] and second[1].change == pytest.approx(0.1)
    one, other = printed(second)
    assert (one[0], one[1], one[3], one[4], one[-1]) == ("1", "10", "70", "2.0", "–")
    assert other[0] == "2" and other[-1].startswith("+0.100")
    assert [row.adapter for row in extended(dataclasses.replace(later, adapter="A"))] == ["A"]
    # a curve is drawn of one training recipe
    assert earlier_than(later) == [1]
    assert earlier_than(dataclasses.replace(later, recipe="other")) == []
    assert earlier_than(dataclasses.replace(later, comparability_key="x")) == []
    assert [row.iteration for row in extended(dataclasses.replace(later, comparability_key="other"))] == [2]
    # an evaluation of an earlier version does not hold what it cost
    added_since = ["share", "train_seconds", "train_tokens", "seconds", "recipe"]
    with open(archive / HistoryRow.FILE, "w", encoding="utf-8", newline="") as file:
        tables.write_frame(tables.to_frame(first, HistoryRow).drop(columns=added_since), file)
    third = extended(later)
    assert [row.iteration for row in third] == [1, 2]
    one, other = printed(third)
    assert one[2:5] == ["–", "–", "–"] and other[2:5] == ["0.50", "70", "2.0"]


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", '"torn'])
def test_a_broken_history_is_named(tmp_path, content):
    path = tmp_path / HistoryRow.FILE
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        history.read(tmp_path)
    assert caught.value.where == str(path) and caught.value.remedy


@pytest.mark.parametrize(
    ("other", "text", "parts"),
    [
        ("HbA1c <7%", "HbA1c >7%", ["HbA1c ", ">7%"]),
        ("每日10毫克", "每日100毫克", ["每日", "100", "毫克"]),
        ("ไข้", "ไข่", ["ไ", "ข่"]),
        ("Rest, always.", "rest always", ["rest always"]),
    ],
)
def test_differences_are_marked_in_any_script_and_joined_parts_are_the_text(other, text, parts):
    assert question_browser.marked(other, text) == parts and "".join(parts) == text
