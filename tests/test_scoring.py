"""Scoring a chunk at a time gives what scoring all at once gives, and holds no more texts than a chunk has."""

import gc
import io
import tracemalloc

import pandas as pd
import pytest

from meerkat_workbench.tuning.generation.prediction_store import Prediction, PredictionStore, Question
from meerkat_workbench.tuning.reporting import comparison
from meerkat_workbench.tuning.scoring import score_run, text_metrics
from meerkat_workbench.tuning.scoring.metric_suite import MetricSuite


class Suite(MetricSuite):
    def compute_length(self, reference, hypothesis):
        return float(len(hypothesis))

    def compute_shaky(self, reference, hypothesis):
        if "number 11 " in reference:
            raise ValueError("cannot do eleven")
        return 1.0


def rows(count=24, words=6):
    found = []
    for n in range(count):
        text = f"answer number {n} " + " ".join(f"word{n * k % 7}" for k in range(words))
        question = Question(f"id{n}", "eval" if n % 3 else "holdout", "ab"[n % 2], f"question {n}?", text, "", ())
        failed = n == 5
        said = "" if failed else text[: len(text) // 2] + f" =other {n}"
        found.append(
            (question, Prediction(f"k{n}", f"id{n}", "base", said, "failed" if failed else "stop", 3), None if n % 4 else 0.5)
        )
    return found


def scored(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(score_run, "CHUNK", chunk)
    suite = Suite("nowhere/to-be-found")
    table, said = score_run.score(suite, iter(rows()), tmp_path)
    return table, said, score_run.floors(suite, table, 0), score_run.corpus_bleu(table)


def test_chunks_change_no_score_no_floor_and_no_corpus_bleu(tmp_path, monkeypatch):
    whole, said, floors, corpus = scored(tmp_path, monkeypatch, 1000)
    parts, said_of_parts, floors_of_parts, corpus_of_parts = scored(tmp_path, monkeypatch, 5)
    pd.testing.assert_frame_equal(whole, parts)
    assert said.missing == said_of_parts.missing and said.signatures == said_of_parts.signatures
    assert corpus == corpus_of_parts and set(corpus) == {"holdout", "eval"}
    for split, by_metric in floors.items():
        assert floors_of_parts[split] == pytest.approx(by_metric, nan_ok=True)
    there = [(q, a) for q, a, _ in rows() if q.split == "eval" and a.finish != "failed"]
    assert corpus["eval"][0] == pytest.approx(
        text_metrics.corpus_bleu([([q.reference for q, _ in there], [a.text for _, a in there])])[0]
    )


def test_a_metric_that_fails_in_one_chunk_is_missing_as_a_whole_and_a_measured_one_only_where_none_has_it(tmp_path, monkeypatch):
    table, said, _, _ = scored(tmp_path, monkeypatch, 5)
    assert "eleven" in said.missing["shaky"] and table["shaky"].isna().all() and table["length"].notna().sum() == 23
    assert "log_perplexity" not in said.missing and table["log_perplexity"].notna().sum() == 6


def test_the_csv_written_in_chunks_is_the_one_written_at_once_and_runs_no_formula(tmp_path, monkeypatch):
    table, *_ = scored(tmp_path, monkeypatch, 5)
    parts, whole = io.StringIO(), io.StringIO()
    score_run.write_csv(table, parts)
    comparison.write_csv(table, whole)
    assert parts.getvalue() == whole.getvalue() and parts.getvalue().count("\n") == 25
    assert not list(tmp_path.glob(".texts-*"))


def test_a_store_and_a_table_hold_places_and_scores_not_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(score_run, "CHUNK", 100)
    monkeypatch.setattr(comparison.answer_checks, "check", lambda *_, **__: {})  # it remembers some thousands of texts
    count, long = 2000, "word " * 400  # 4 MB of answers, and as much of references
    store = PredictionStore(tmp_path)
    store.add([Prediction(f"k{n}", f"id{n}", "base", f"{n} {long}", "stop", 1) for n in range(count)])
    question = Question("id", "eval", "a", "?", long, "", ())

    class Plain(MetricSuite):
        def score(self, pairs, *, measured=None):
            from meerkat_workbench.tuning.scoring.metric_suite import MetricScores

            return MetricScores(scores={"length": [float(len(answer)) for _, answer in pairs]})

    gc.collect()
    tracemalloc.start()
    again = PredictionStore(tmp_path)
    table, _ = score_run.score(Plain("nowhere/x"), ((question, again.records[f"k{n}"], None) for n in range(count)), tmp_path)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == count and table["prediction"].iloc[7] == f"7 {long}" and again.records["k9"].text.startswith("9 word")
    assert held < 2e6 and most < 4e6
