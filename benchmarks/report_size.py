"""How long the report takes to open in headless Chromium, by the number of its questions.

    python benchmarks/report_size.py --data MEDQUAD_FOLDER [--questions 500 5000]

References are those of the folder; answers are made of sentences of other references. Needs selenium, chromium and its driver
(Debian: chromium chromium-driver). The output is in benchmarks/results/report_size.md.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from meerkat_workbench.tuning.artifacts import BASE, FIXED, TUNED, Finish, Recommendations
from meerkat_workbench.tuning.reporting import comparison, history, question_browser, report, verdict
from meerkat_workbench.tuning.reporting.history import EvaluationId
from meerkat_workbench.tuning.reporting.report import Heading, ReportContents
from meerkat_workbench.tuning.scoring import answer_checks, metric_suite
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable, Column
from meerkat_workbench.tuning.scoring.metric_suite import MetricScores, MetricSuite
from meerkat_workbench.tuning.scoring.score_run import ScoredAnswers

METRICS = ("ROUGE-L", "token_f1", "medical_token_f1", "factual_exact_match", "length_ratio")
Asked = tuple[str, str, str, str, str]  # specialty, question, reference, base's answer, tuned answer


class FewMetrics(MetricSuite):
    """A few metrics, so that a report can be made of given scores."""

    def names(self) -> list[str]:
        return list(METRICS)


def write_report(path: Path, asked: Sequence[Asked], *, past: bool = False, seed: int = 1) -> None:
    """Write a report of these answers with drawn scores; every second question is of the holdout.

    Args:
        past: show an earlier iteration beside this one.
    """
    draw, suite = random.Random(seed), FewMetrics()
    tables = {}
    for place, system in enumerate((BASE, TUNED)):
        rows = [
            {Column.ID: f"q{n}", Column.SPLIT: str(FIXED[n % 2]), Column.SPECIALTY: row[0], Column.QUESTION: row[1],
             Column.REFERENCE: row[2], Column.PREDICTION: row[3 + place], Column.FINISH: str(Finish.STOP), Column.TOKENS: 1,
             Column.ERROR: "", **answer_checks.check(row[2], row[3 + place], Finish.STOP),
             **{metric: draw.random() * (0.6 + 0.2 * place) for metric in METRICS}}
            for n, row in enumerate(asked)
        ]  # fmt: skip
        tables[system] = AnswerTable(pd.DataFrame(rows).rename(columns=str))
    scores = MetricScores(signatures=dict.fromkeys(METRICS, "drawn at random"))
    scored = ScoredAnswers(tables, scores, floors={BASE: {}, TUNED: {}}, corpus_bleu={}, retention=None)
    compared = comparison.compare(scored, suite, seed)
    iterations = (1, 2) if past else (1,)
    evaluations = [
        EvaluationId(iteration=n, finished=str(n), evaluation="1", comparability_key="1", adapter=str(n), recipe="", train=100,
                     share=60.0, train_seconds=60.0, train_tokens=60.0, seconds=60.0)
        for n in iterations
    ]  # fmt: skip
    history_rows = [
        row
        for evaluation in evaluations
        for row in history.extend(path.parent, compared.metrics, scored.tuned, evaluation, metric_suite.bounds_of)
    ]
    advice = Recommendations(recommended_sample_increases={}, steering_metric="ROUGE-L", sentences=("Keep.",))
    heading = Heading(len(iterations), {"base": "b", "tuned": "t"}, ["Words."])
    reached = verdict.reach(scored, seed=seed)
    report.write(
        path, ReportContents(heading, scored, compared, reached, history_rows, advice, retention=None, judged=None, seed=0)
    )


def browser_missing() -> str:
    """Why no browser can be driven; empty where one can."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{', '.join(lacking)} not installed (Debian: chromium chromium-driver)" if lacking else ""


@contextlib.contextmanager
def browser(width: int = 1200, height: int = 1400) -> Iterator[Any]:
    """Headless Chromium under its driver, with the log of its console."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}", "--disable-dev-shm-usage",
                     "--disable-background-networking", "--disable-component-update", "--no-first-run"):  # fmt: skip
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def open_report(driver: Any, path: Path, fragment: str = "", patience: float = 60) -> float:
    """Open a report and wait until its charts and table are there; returns the seconds that it took."""
    driver.get("about:blank")  # where only the fragment changes, the browser would not load the page again
    started = time.time()
    driver.get(path.as_uri() + fragment)
    while driver.execute_script("return document.documentElement.dataset.ready") != "yes":
        if time.time() - started > patience:
            raise TimeoutError(f"{path}: not ready after {patience:.0f} s: {driver.get_log('browser')}")
        time.sleep(0.02)
    return time.time() - started


def from_folder(data: Path, count: int) -> list[Asked]:
    """Questions of specialty files; each answer is made of sentences of two random references."""
    from meerkat_workbench.tuning.data import specialty_files

    draw = random.Random(2)
    by_specialty = specialty_files.read_folder(data, skip_invalid=True).records
    records = [record for of_specialty in by_specialty.values() for record in of_specialty]
    draw.shuffle(records)
    texts = [record.response for record in records]

    def answer() -> str:
        sentences = [sentence for text in draw.sample(texts, 2) for sentence in text.split(". ")]
        return ". ".join(draw.sample(sentences, min(8, len(sentences))))

    return [(record.specialty, record.question, record.response, answer(), answer()) for record in records[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--questions", type=int, nargs="+", default=[500, question_browser.MAX_QUESTIONS, 2 * question_browser.MAX_QUESTIONS]
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if missing := browser_missing():
        parser.error(missing)
    print(
        f"{platform.machine()}, Python {platform.python_version()}; questions, MB, seconds to write, seconds to open (each of {options.repeats})"
    )
    with tempfile.TemporaryDirectory() as folder:
        for count in options.questions:
            asked, path = from_folder(options.data, count), Path(folder) / "report.html"
            started = time.time()
            write_report(path, asked)
            written = time.time() - started
            with browser() as driver:
                opened = [open_report(driver, path) for _ in range(options.repeats)]
            shown = ", ".join(f"{seconds:.1f}" for seconds in opened)
            print(
                f"  {len(asked):>6} questions: {path.stat().st_size / 1e6:>5.1f} MB, written in {written:.1f} s, opened in {shown} s"
            )


if __name__ == "__main__":
    main()
