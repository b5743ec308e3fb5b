"""The report in a real browser, headless Chromium under its driver."""

import math

import pandas as pd
import pytest
import report_size
from conftest import TOPICS

from meerkat_workbench.tuning.reporting import history, question_browser

pytestmark = pytest.mark.skipif(bool(report_size.browser_missing()), reason=report_size.browser_missing())

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
    with report_size.browser() as started:
        yield started


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("report") / "report.html"
    report_size.write_report(found, asked(), past=True)
    return found


@pytest.fixture
def page(driver, path):
    report_size.open_report(driver, path)
    yield driver
    # Chromium itself says that an image of the evil text is not there only if it became an image
    assert [entry["message"] for entry in driver.get_log("browser")] == []


def find(page, selector):
    from selenium.webdriver.common.by import By

    return page.find_elements(By.CSS_SELECTOR, selector)


def choose(page, name, value):
    from selenium.webdriver.support.ui import Select

    Select(find(page, f"#{name}")[0]).select_by_value(value)


def first_column(page):
    return [float(cell.text) for cell in find(page, "#explorer tbody tr td:first-child")]


def test_it_renders_its_charts_and_questions_the_worst_regression_first(page):
    assert "Not for clinical use" in find(page, ".warn")[0].text
    assert len(find(page, "#metrics svg")) == len(find(page, "#forest svg")) == len(find(page, "#iterations svg")) == 1
    assert "60 questions" in find(page, ".dt-info")[0].text
    changes = first_column(page)
    assert len(changes) == 25 and changes == sorted(changes) and changes[0] < -0.2
    assert find(page, "details summary .worse")[0].text == f"{changes[0]:+.3f}".replace("+", "")


def test_it_filters_searches_and_says_how_many_are_left(page):
    choose(page, "specialty", "specialty_1")
    assert {cell.text for cell in find(page, "#explorer tbody td:nth-child(5)")} == {"specialty 1"}
    assert "19 questions" in find(page, ".dt-info")[0].text  # one of twenty has another name
    choose(page, "split", "eval")
    assert {cell.text for cell in find(page, "#explorer tbody td:nth-child(6)")} == {"eval"}
    find(page, "#clear")[0].click()
    find(page, ".dt-search input")[0].send_keys('"part 33?"')
    assert [button.text for button in find(page, "button.open")] == [asked()[33][1]]
    find(page, "#clear")[0].click()
    assert "60 questions" in find(page, ".dt-info")[0].text


def test_it_sorts_by_any_metric_and_by_any_column(page):
    before = first_column(page)
    choose(page, "metric", "token_f1")
    after = first_column(page)
    assert after == sorted(after) and after != before
    find(page, "#explorer thead th:first-child")[0].click()
    assert first_column(page) == sorted(first_column(page), reverse=True)


def test_a_question_opens_by_keyboard_and_shows_where_answers_leave_the_reference(page):
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


def test_what_is_to_be_looked_at_first_is_a_click_away(page):
    link = find(page, "a[data-mark=negation_differs], a[data-mark=number_differs]")[0]
    count = int(link.text)
    link.click()
    assert f"{count} questions" in find(page, ".dt-info")[0].text
    assert find(page, "#split")[0].get_attribute("value") == "holdout"


def test_text_of_models_and_files_is_shown_and_does_nothing(page):
    find(page, ".dt-search input")[0].send_keys("Evil?")
    find(page, "button.open")[0].click()
    box = find(page, ".child-of .answers")[0]
    assert box.text.count("R&D &amp; <script>window.hit = 1</script>") == 3
    find(page, "#clear")[0].click()
    find(page, ".dt-search input")[0].send_keys("R&D <script>window.hit")
    assert "1 questions" in find(page, ".dt-info")[0].text
    choose(page, "specialty", EVIL)
    assert page.execute_script("return window.hit") is None


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


def test_of_too_many_questions_the_worst_and_a_random_choice_are_shown(monkeypatch):
    monkeypatch.setattr(question_browser, "MOST", 10)
    change = [math.nan, *(float(n) for n in range(40))]
    chosen = question_browser.choose(change, 1)
    assert chosen[:5] == [1, 2, 3, 4, 5] and len(set(chosen)) == 10 and chosen != question_browser.choose(change, 2)
    assert question_browser.choose(change[:8], 1)[-1] == 0  # without a score it stands last


def results(scores):
    frame = pd.DataFrame({"id": list("abcd"), "split": "holdout", "specialty": list("xxyy"), "ROUGE-L": scores})
    row = dict.fromkeys(history.TAKEN, 0.0) | {"split": "holdout", "metric": "ROUGE-L", "n": 4, "tuned": sum(scores) / 4}
    return frame, pd.DataFrame([{**row, "missing": ""}])


def test_history_pairs_an_iteration_with_the_one_before_and_replaces_what_is_done_again(tmp_path):
    from meerkat_workbench.core import files

    about = {
        "evaluation": "f1",
        "alike": "same",
        "adapter": "A",
        "train": 10,
        "iteration": 1,
        "finished": "2026-01-01",
        "recipe": "r",
        **dict.fromkeys(history.SPENT, 60.0),
    }
    frame, comparison = results([0.1, 0.2, 0.3, 0.4])
    first = history.extend(tmp_path, comparison, frame, about)
    assert len(first) == 1 and math.isnan(first["change"][0])
    archive = tmp_path / "archive" / "iteration_001"
    archive.mkdir(parents=True)
    first.to_csv(archive / history.NAME, index=False)
    frame.to_csv(archive / history.ANSWERS, index=False)
    files.write_json(archive / "manifest.json", {"fingerprint": "f1", "finished": "2026-01-01"})
    frame, comparison = results([0.2, 0.3, 0.4, 0.5])
    later = {**about, "evaluation": "f2", "adapter": "B", "iteration": 2, "finished": "2026-01-02"}
    second = history.extend(tmp_path, comparison, frame, later)
    assert list(second["iteration"]) == [1, 2] and second["change"][1] == pytest.approx(0.1)
    text = history.as_text(second, "ROUGE-L")
    assert "iteration 2" in text and "+0.100" in text and " 2.0 " in text and text.count("\n") == 2
    assert list(history.extend(tmp_path, comparison, frame, {**later, "adapter": "A"})["adapter"]) == ["A"]
    # a curve is drawn of one training recipe
    assert [iteration for iteration, _ in history.answers_before(tmp_path, later)] == [1]
    assert (
        history.answers_before(tmp_path, {**later, "recipe": "other"})
        == []
        == history.answers_before(tmp_path, {**later, "alike": "x"})
    )
    # an evaluation of an earlier version lacks what it cost
    first.drop(columns=list(history.ADDED_COLUMNS)).to_csv(archive / history.NAME, index=False)
    assert list(history.extend(tmp_path, comparison, frame, later)["iteration"]) == [1, 2]
    assert "–" in history.as_text(history.extend(tmp_path, comparison, frame, later), "ROUGE-L")
    assert list(history.extend(tmp_path, comparison, frame, {**later, "alike": "other"})["iteration"]) == [2]


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", '"torn'])
def test_a_broken_history_is_named_with_its_remedy(tmp_path, content):
    from meerkat_workbench.core.errors import UserError

    (tmp_path / history.NAME).write_text(content)
    with pytest.raises(UserError, match="Restore it, or remove"):
        history.read(tmp_path)


@pytest.mark.parametrize(
    ("other", "text", "parts"),
    [
        ("HbA1c <7%", "HbA1c >7%", ["HbA1c ", ">7%"]),
        ("每日10毫克", "每日100毫克", ["每日", "100", "毫克"]),
        ("ไข้", "ไข่", ["ไ", "ข่"]),
        ("Rest, always.", "rest always", ["rest always"]),
    ],
)
def test_what_differs_is_marked_in_any_script_and_joined_parts_are_the_text(other, text, parts):
    from meerkat_workbench.tuning.reporting import question_browser

    assert question_browser.marked(other, text) == parts and "".join(parts) == text
