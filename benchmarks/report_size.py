"""How long the report takes to open in headless Chromium, by its number of questions.

    python benchmarks/report_size.py --data MEDQUAD_FOLDER [--questions 500 5000]

References are those of the folder, answers are made of the sentences of others. Needs selenium, chromium and its driver
(Debian: chromium chromium-driver). What it printed stands in benchmarks/results/report_size.md.
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

from meerkat_workbench.tuning.reporting import comparison, history, question_browser, report
from meerkat_workbench.tuning.scoring import answer_checks
from meerkat_workbench.tuning.scoring.metric_suite import MetricScores, MetricSuite

METRICS = ("ROUGE-L", "token_f1", "medical_token_f1", "factual_exact_match", "length_ratio")
Asked = tuple[str, str, str, str, str]  # specialty, question, reference, base's answer, tuned answer


class FewMetrics(MetricSuite):
    """A few metrics, so that a report is made of given scores."""

    def names(self) -> list[str]:
        return list(METRICS)


def write_report(path: Path, asked: Sequence[Asked], *, past: bool = False, seed: int = 1) -> None:
    """A report of these answers with drawn scores; every second question is of the holdout.

    Args:
        past: with an earlier iteration beside this one.
    """
    draw, suite = random.Random(seed), FewMetrics()
    tables, scores = {}, MetricScores()
    for place, arm in enumerate(("base", "tuned")):
        rows = [
            {"id": f"q{n}", "split": ("holdout", "eval")[n % 2], "specialty": row[0], "question": row[1], "reference": row[2],
             "prediction": row[3 + place], "finish_reason": "stop", "tokens": 1, "error": "",
             **answer_checks.check(row[2], row[3 + place], "stop"),
             **{metric: draw.random() * (0.6 + 0.2 * place) for metric in METRICS}}
            for n, row in enumerate(asked)
        ]  # fmt: skip
        tables[arm] = pd.DataFrame(rows)
    scores.signatures = dict.fromkeys(METRICS, "drawn at random")
    compared = comparison.by_metric(tables["base"], tables["tuned"], suite, scores, ({}, {}), seed)
    about = {"evaluation": "1", "alike": "1", "train": 100, "recipe": "", **dict.fromkeys(history.SPENT, 60.0)}
    iterations = [history.extend(path.parent, compared, tables["tuned"], {**about, "iteration": n, "finished": str(n), "adapter": str(n)})
                  for n in ((1, 2) if past else (1,))]  # fmt: skip
    report.write(
        path,
        heading={"iteration": len(iterations), "facts": {"base": "b", "tuned": "t"}, "in_words": ["Words."],
                 "specialties": sorted({row[0] for row in asked})},
        tables=tables, comparison=compared, specialties=comparison.by_specialty(tables["base"], tables["tuned"], suite, seed),
        models=compared.assign(model="tuned").rename(columns={"tuned": "score"}),
        checks=comparison.by_check(tables["base"], tables["tuned"]), history=pd.concat(iterations), metric="ROUGE-L",
        advice={"in_words": ["Keep."], "evidence": []},
    )  # fmt: skip


def browser_missing() -> str:
    """Why no browser can be driven, or nothing."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{', '.join(lacking)} not installed (Debian: chromium chromium-driver)" if lacking else ""


@contextlib.contextmanager
def browser(width: int = 1200, height: int = 1400) -> Iterator[Any]:
    """Headless Chromium under its driver, with what it writes to its console."""
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
    """Open a report and wait until its charts and table stand; returns the seconds it took."""
    driver.get("about:blank")  # a change of the fragment alone would open nothing
    started = time.time()
    driver.get(path.as_uri() + fragment)
    while driver.execute_script("return document.documentElement.dataset.ready") != "yes":
        if time.time() - started > patience:
            raise TimeoutError(f"{path}: not ready after {patience:.0f} s: {driver.get_log('browser')}")
        time.sleep(0.02)
    return time.time() - started


def from_folder(data: Path, count: int) -> list[Asked]:
    """Questions of specialty files; answers are cut from two other references."""
    from meerkat_workbench.tuning.data import specialty_files

    draw = random.Random(2)
    found = [record for of_one in specialty_files.read_folder(data, skip_invalid=True).records.values() for record in of_one]
    draw.shuffle(found)
    texts = [record.response for record in found]

    def answer() -> str:
        sentences = [sentence for text in draw.sample(texts, 2) for sentence in text.split(". ")]
        return ". ".join(draw.sample(sentences, min(8, len(sentences))))

    return [(record.specialty, record.question, record.response, answer(), answer()) for record in found[:count]]


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
