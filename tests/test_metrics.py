"""Metrics of a suite: the built-in ones, those of the user's own, and the tables of comparison made from them."""

import pandas as pd
import pyarrow as pa
import pytest
import torch

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.output import tables
from meerkat_workbench.tuning.reporting import comparison
from meerkat_workbench.tuning.scoring import answer_checks, bertscore, medical_metrics
from meerkat_workbench.tuning.scoring.answer_table import AnswerTable
from meerkat_workbench.tuning.scoring.metric_suite import BUILT_IN, MetricScores, MetricSuite, ScoredPair, shuffle_within_groups

PAIRS = [
    ScoredPair("Gout is a crystal arthritis.", "Gout is an arthritis."),
    ScoredPair("Rest and fluids.", "Antibiotics."),
    ScoredPair("A fever.", ""),
]


def test_a_method_of_the_user_becomes_a_metric():
    class Mine(MetricSuite):
        def compute_length_gap(self, reference, hypothesis):
            return abs(len(reference) - len(hypothesis))

        compute_length_gap.lower_is_better = True

    suite = Mine()
    assert suite.names() == [*BUILT_IN, "length_gap"]
    assert suite.score(PAIRS).scores["length_gap"] == [7, 4, 8]
    assert suite.lower_is_better("length_gap") and not suite.lower_is_better("ROUGE-L")


def test_the_code_of_a_metric_of_the_user_is_part_of_fingerprints_and_without_one_there_is_none():
    class One(MetricSuite):
        def compute_length(self, reference, hypothesis):
            return len(hypothesis)

    class Edited(MetricSuite):
        def compute_length(self, reference, hypothesis):
            return len(hypothesis.strip())

    assert One().own_code() == One().own_code() != Edited().own_code()
    assert MetricSuite().own_code() == []


@pytest.mark.parametrize("name", ["compute_METEOR", "compute_rouge_l", "compute_token_f1"])
def test_a_built_in_name_is_refused_for_a_metric_of_the_user(name):
    suite = type("Mine", (MetricSuite,), {name: lambda self, reference, hypothesis: 1.0})
    with pytest.raises(UserError) as caught:
        suite()
    assert caught.value.where == f"AutomaticMetrics.{name}"


def test_a_metric_that_raises_is_missing_with_its_reason_and_the_others_have_scores():
    class Mine(MetricSuite):
        def compute_broken(self, reference, hypothesis):
            return 1 / len(hypothesis)

    table = Mine().score(PAIRS)
    assert table.scores["broken"] == [None, None, None] and "ZeroDivisionError" in table.missing["broken"]
    assert table.scores["ROUGE-L"][0] > 0


def test_a_failed_answer_has_no_score_and_an_empty_one_scores_zero():
    table = MetricSuite().score([None, ScoredPair("A fever.", "")])
    for name in ("ROUGE-L", "BLEU-1", "token_f1", "bertscore_f1", "exact_match"):
        assert table.scores[name] == [None, 0.0], name


def test_an_encoder_that_is_not_there_leaves_bertscore_missing_with_its_reason():
    table = MetricSuite("./no-such-encoder").score(PAIRS)
    assert "BERTSCORE_MODEL=packaged" in table.missing["bertscore_f1"] and table.scores["bertscore_f1"] == [None] * 3


def test_bertscore_is_the_formula_of_the_paper():
    scorer = bertscore.BertScorer(bertscore.PACKAGED)
    reference, answer = PAIRS[0].reference, PAIRS[0].answer
    hidden = []
    for text in (answer, reference):
        inputs = scorer.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            states = scorer.model(**inputs, output_hidden_states=True).hidden_states[scorer.layer][0]
        hidden.append(states / states.norm(dim=1, keepdim=True))
    cosine = [[float(x @ y) for y in hidden[1]] for x in hidden[0]]
    # as in bert-score, the special tokens at both ends may be matched, but are not counted themselves
    precision = sum(max(row) for row in cosine[1:-1]) / (len(cosine) - 2)
    recall = sum(max(column) for column in list(zip(*cosine, strict=True))[1:-1]) / (len(cosine[0]) - 2)
    [value] = scorer.score([reference], [answer])
    assert value == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-6)


def test_bertscore_is_one_for_equal_texts_and_zero_for_empty_ones_and_padding_changes_nothing():
    scorer = bertscore.BertScorer(bertscore.PACKAGED)
    long = "word " * 700
    values = scorer.score(["a fever", "a fever", "a fever", long], ["a fever", "", "fever", long])
    assert values[0] == pytest.approx(1, abs=1e-5) and values[1] == 0 and values[3] == pytest.approx(1, abs=1e-5)
    assert values[2] == pytest.approx(scorer.score(["a fever"], ["fever"])[0], abs=1e-5)
    assert scorer.truncated == 1 and "layer 6" in scorer.signature


def test_shuffling_gives_no_question_its_own_answer_and_stays_in_the_specialty():
    groups = ["a"] * 5 + ["b"] * 2 + ["c"]
    order = shuffle_within_groups(groups, seed=1)
    assert sorted(order) == list(range(8))
    assert all(groups[row] == groups[other] for row, other in enumerate(order))
    assert all(row != other for row, other in enumerate(order) if groups[row] != "c")


def test_a_lexicon_of_the_user_decides_what_a_medical_term_is(tmp_path):
    path = tmp_path / "terms.txt"
    path.write_text("Heart failure\nheart\n\ngout\n", encoding="utf-8")
    assert medical_metrics.medical_terms("Heart failure, the heart and gouty gout; asthma.", str(path)) == (
        "heart failure",
        "heart",
        "gout",
    )
    assert medical_metrics.medical_token_f1("heart failure", "Heart-failure?", str(path)) == 1.0
    path.write_text("vitamin b12\nvitamin b6\nheart failure\nheart\ngout\n", encoding="utf-8")
    medical_metrics.read_lexicon.cache_clear()
    medical_metrics.medical_terms.cache_clear()
    assert medical_metrics.medical_token_f1("Vitamin B12", "vitamin B6", str(path)) == 0.0
    suite = MetricSuite(bertscore.PACKAGED, str(path))
    table = suite.score([ScoredPair("gout and asthma", "gout"), ScoredPair("asthma", "asthma")])
    assert table.scores["medical_token_f1"] == [1.0, None] and "terms.txt" in table.signatures["medical_token_f1"]
    for content in (None, "\n -- \n"):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        medical_metrics.read_lexicon.cache_clear()
        with pytest.raises(UserError) as caught:
            MetricSuite(bertscore.PACKAGED, str(path))
        assert caught.value.where == f"MEDICAL_LEXICON={path}"


def test_metrics_have_bounds_and_a_metric_of_the_user_may_state_its_own():
    class Mine(MetricSuite):
        def compute_share(self, reference, hypothesis):
            return 0.5

        compute_share.bounds = (0, 1)

        def compute_any(self, reference, hypothesis):
            return 7.0

    suite = Mine()
    assert suite.bounds("ROUGE-L") == (0, 1) and suite.bounds("share") == (0, 1)
    assert suite.bounds("any") == (-float("inf"), float("inf")) and suite.bounds("length_ratio") == (0, float("inf"))


def test_two_questions_give_no_interval_beyond_the_possible():
    base = pd.DataFrame({"id": ["1", "2"], "split": "holdout", "specialty": "x"} | {key: [0.0, 0.1] for key in BUILT_IN})
    pair = AnswerTable(base), AnswerTable(base.assign(**{key: [0.9, 0.5] for key in BUILT_IN}))
    rows = comparison.by_metric(*pair, MetricSuite(), MetricScores(), {"holdout": {}}, {"holdout": {}}, 0)
    [rouge] = tables.where(rows, metric="ROUGE-L")
    assert rouge.ci_high == 1 and rouge.tuned_high == 1 and rouge.base_low == 0
    [length] = tables.where(rows, metric="length_ratio")
    assert length.ci_high > 1
    [specialty] = tables.where(comparison.by_specialty(*pair, MetricSuite(), 0), metric="ROUGE-L")
    assert (specialty.ci_high, specialty.tuned_low, specialty.tuned_high) == (1, 0, 1)


@pytest.mark.parametrize("kind", [object, pd.ArrowDtype(pa.string())])  # as it is read from a file, and as it is scored
def test_checks_of_english_words_are_made_unless_the_reference_is_in_another_language(kind):
    references = [
        "The treatment is rest, and the fever is not to be treated by you.",
        "El tratamiento es el reposo y la fiebre no se trata.",
        "Rest.",  # too short to tell its language
    ]
    base = AnswerTable(
        pd.DataFrame(
            {"split": "holdout", "finish_reason": "stop", "reference": pd.Series(references, dtype=kind)}
            | {key: [True, True, True] for key in answer_checks.CHECKS}
        )
    )
    looked_at = {row.check: row.n for row in comparison.by_check(base, base)}
    assert looked_at["negation_differs"] == looked_at["refused"] == 2
    assert looked_at["number_differs"] == looked_at["empty"] == 3
