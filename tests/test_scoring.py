"""Scoring a chunk at a time gives what scoring all at once gives, and holds the texts of one chunk only."""

import gc
import tracemalloc

import pandas as pd
import pytest

from meerkat_workbench.output import tables
from meerkat_workbench.tuning.artifacts import Finish, Prediction, answers_file
from meerkat_workbench.tuning.data.records import Record
from meerkat_workbench.tuning.data.vocabulary import ReferenceVocabulary
from meerkat_workbench.tuning.generation.generation_run import ScoredText
from meerkat_workbench.tuning.generation.prediction_store import PredictionStore
from meerkat_workbench.tuning.generation.questions import Question
from meerkat_workbench.tuning.scoring import answer_checks, answer_table, score_run, text_metrics
from meerkat_workbench.tuning.scoring.metric_suite import MetricScores, MetricSuite


class Suite(MetricSuite):
    def compute_length(self, reference, hypothesis):
        return float(len(hypothesis))

    def compute_shaky(self, reference, hypothesis):
        if "number 11 " in reference:
            raise ValueError("cannot do eleven")
        return 1.0


def scored_texts(count=24, words=6):
    found = []
    for n in range(count):
        text = f"answer number {n} " + " ".join(f"word{n * k % 7}" for k in range(words))
        question = Question(f"id{n}", "eval" if n % 3 else "holdout", "ab"[n % 2], f"question {n}?", text, "", ())
        failed = n == 5
        answer = "" if failed else "=SUM(1)" if n == 6 else text[: len(text) // 2] + f" =other {n}"
        finish = Finish.FAILED if failed else Finish.STOP
        prediction = Prediction(key=f"k{n}", id=f"id{n}", system="base", text=answer, finish=finish, tokens=3)
        found.append(ScoredText(question, prediction, None if n % 4 else 0.5))
    return found


def scored(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(score_run, "CHUNK", chunk)
    suite = Suite("nowhere/to-be-found")
    vocabulary = ReferenceVocabulary.of(
        Record(one.question.id, one.question.specialty, one.question.question, one.question.reference) for one in scored_texts()
    )
    table, metrics = score_run.score(suite, iter(scored_texts()), vocabulary, tmp_path)
    return table, metrics, score_run.floors(suite, table, vocabulary, 0), score_run.corpus_bleu(table)


def test_chunks_change_no_score_no_floor_and_no_corpus_bleu(tmp_path, monkeypatch):
    whole, metrics, floors, corpus = scored(tmp_path, monkeypatch, 1000)
    parts, metrics_of_parts, floors_of_parts, corpus_of_parts = scored(tmp_path, monkeypatch, 5)
    pd.testing.assert_frame_equal(whole.frame, parts.frame)
    assert metrics.missing == metrics_of_parts.missing and metrics.signatures == metrics_of_parts.signatures
    assert corpus == corpus_of_parts and set(corpus) == {"holdout", "eval"}
    for split, by_metric in floors.items():
        assert floors_of_parts[split] == pytest.approx(by_metric, nan_ok=True)
    answered = [one for one in scored_texts() if one.question.split == "eval" and one.prediction.finish != Finish.FAILED]
    references, answers = [one.question.reference for one in answered], [one.prediction.text for one in answered]
    assert corpus["eval"][0] == pytest.approx(text_metrics.corpus_bleu([(references, answers)])[0])


def test_a_metric_that_fails_in_one_chunk_is_missing_and_a_measured_one_only_where_no_chunk_has_it(tmp_path, monkeypatch):
    table, metrics, _, _ = scored(tmp_path, monkeypatch, 5)
    assert "eleven" in metrics.missing["shaky"] and table.scores("shaky").isna().all()
    assert table.scores("length").notna().sum() == 23
    assert "log_perplexity" not in metrics.missing and table.scores("log_perplexity").notna().sum() == 6


def test_a_table_written_in_chunks_is_the_one_written_at_once_and_runs_no_formula(tmp_path, monkeypatch):
    table, *_ = scored(tmp_path, monkeypatch, 5)
    monkeypatch.setattr(answer_table, "ROWS_AT_ONCE", 5)
    table.write(tmp_path, "base")
    with open(tmp_path / "whole.csv", "w", encoding="utf-8", newline="") as file:
        tables.write_frame(table.frame, file)
    in_chunks = (tmp_path / answers_file("base")).read_bytes()
    assert in_chunks == (tmp_path / "whole.csv").read_bytes() and in_chunks.count(b"\n") == 25
    assert b'"\'=SUM(1)"' in in_chunks and b'"=SUM(1)"' not in in_chunks
    assert not list(tmp_path.glob(".texts-*"))


def test_a_store_and_a_table_hold_indices_and_scores_not_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(score_run, "CHUNK", 100)
    monkeypatch.setattr(answer_checks, "check", lambda *_, **__: {})  # it caches some thousands of texts
    count, long = 2000, "word " * 400  # 4 MB of answers, and as much of references
    store = PredictionStore(tmp_path)
    store.add(
        [
            Prediction(key=f"k{n}", id=f"id{n}", system="base", text=f"{n} {long}", finish=Finish.STOP, tokens=1)
            for n in range(count)
        ]
    )
    question = Question("id", "eval", "a", "?", long, "", ())

    class Plain(MetricSuite):
        def score(self, pairs, *, vocabulary=None, measured=None):
            return MetricScores(scores={"length": [float(len(pair.answer)) for pair in pairs]})

    gc.collect()
    tracemalloc.start()
    again = PredictionStore(tmp_path)
    answers = (ScoredText(question, again.records[f"k{n}"], None) for n in range(count))
    table, _ = score_run.score(Plain("nowhere/x"), answers, ReferenceVocabulary(), tmp_path)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == count and table.predictions.iloc[7] == f"7 {long}" and again.records["k9"].text.startswith("9 word")
    assert held < 2e6 and most < 4e6
