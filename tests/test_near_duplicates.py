"""Records that repeat each other are found, and records that only look alike are not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meerkat_workbench.text.near_duplicates import FixedIndex, fingerprint, near_duplicate
from meerkat_workbench.tuning.data.records import make_record

LONG = "Wash the area with soap and water, keep it dry, and see a doctor if redness spreads or fever begins within two days"


def record(question, answer=LONG, specialty="x"):
    return make_record(specialty, question, answer)


def matches(fixed, others, threshold=0.8):
    index = FixedIndex(fixed, fingerprint(fixed, near=True), threshold)
    return {row: reason for row, (reason, _) in index.matches(others, fingerprint(others, near=True)).items()}


def test_an_equal_question_in_any_writing_and_an_identical_answer_are_repeats():
    fixed = [record("What is gout?", "A crystal arthritis of the joints.")]
    others = [
        record("what is  GOUT", "Something else entirely."),
        record("Define gout", "a crystal arthritis, of the joints"),
        record("What is asthma?", "A disease of the airways."),
    ]
    assert matches(fixed, others) == {0: "same question", 1: "same answer"}
    assert matches(fixed, others, threshold=0) == {0: "same question", 1: "same answer"}


def test_question_and_answer_must_both_be_near():
    fixed = [record("How do I treat a small superficial skin wound at home safely?")]
    near = record("How do I treat a small superficial skin wound at home?", LONG + " or so")
    other_question = record("When should somebody go to the hospital after a dog bite?", LONG + " or so")
    other_answer = record("How do I treat a small superficial skin wound at home?", "Cover it with a sterile plaster for a week.")
    assert matches(fixed, [near, other_question, other_answer]) == {0: "near-duplicate"}
    assert matches(fixed, [near], threshold=0) == {}


@pytest.mark.parametrize(("one", "other"), [("type 2L", "type 1D"), ("type II", "type IV"), ("vitamin A", "vitamin D")])
def test_things_that_differ_in_a_number_or_a_letter_are_not_duplicates(one, other):
    question = "What is the outlook for people who have limb girdle muscular dystrophy {}?"
    assert not near_duplicate(record(question.format(one)), record(question.format(other)), 0.8)
    assert near_duplicate(record(question.format(one)), record(question.format(one) + " please"), 0.8)


def test_pairs_are_never_chained():
    words = [f"word{number}" for number in range(60)]
    questions = [f"How is a deep wound treated at home by {who} patient" for who in ("the", "this", "one")]
    # neighbours share 45 of 55 words (Jaccard .82), the ends 40 of 60 (.67)
    a, b, c = (record(q, " ".join(words[start : start + 50])) for q, start in zip(questions, (0, 5, 10), strict=True))
    assert near_duplicate(a, b, 0.8) and near_duplicate(b, c, 0.8) and not near_duplicate(a, c, 0.8)
    assert matches([a], [b, c]) == {0: "near-duplicate"}


def test_candidates_hold_nearly_every_pair_that_an_exhaustive_search_finds():
    draw = np.random.default_rng(0)
    vocabulary = [f"word{n}" for n in range(400)]
    fixed = [record(" ".join(draw.choice(vocabulary, 12)), " ".join(draw.choice(vocabulary, 80))) for _ in range(60)]
    others = []
    for one in fixed:
        answer = one.response.split()
        for place in draw.choice(len(answer), 6, replace=False):
            answer[place] = "changed"
        others.append(record(one.question + " indeed", " ".join(answer)))
    expected = {row for row, other in enumerate(others) if any(near_duplicate(one, other, 0.8) for one in fixed)}
    found = set(matches(fixed, others))
    assert len(expected) > 50 and found <= expected and len(found) >= 0.97 * len(expected)


def test_fingerprints_are_the_same_in_another_process_and_order():
    import subprocess
    import sys

    from conftest import ROOT

    rows = [record(f"question {n}", f"{LONG} {n}") for n in range(5)]
    code = (
        "from meerkat_workbench.text.near_duplicates import fingerprint; from meerkat_workbench.tuning.data.records import make_record\n"
        f"rows = [make_record('x', f'question {{n}}', {LONG!r} + f' {{n}}') for n in range(5)]\n"
        "print(fingerprint(rows, near=True).bands.sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) == int(fingerprint(rows, near=True).bands.sum())
    assert (fingerprint(rows[::-1], near=True).bands[::-1] == fingerprint(rows, near=True).bands).all()


sentences = st.lists(
    st.sampled_from(
        [
            "what",
            "is",
            "the",
            "dose",
            "of",
            "aspirin",
            "in",
            "children",
            "with",
            "fever",
            "<",
            ">",
            "5",
            "10",
            "mg",
            "发热",
            "ไข้",
            "K+",
            "A",
            "B",
            "iv",
        ]
    ),
    min_size=1,
    max_size=9,
).map(" ".join)


@given(sentences, sentences, sentences, sentences)
def test_being_a_near_duplicate_is_symmetric(question, answer, other_question, other_answer):
    one, other = record(question, answer), record(other_question, other_answer)
    assert near_duplicate(one, other, 0.8) == near_duplicate(other, one, 0.8)
    assert near_duplicate(one, one, 0.8)


@given(sentences, sentences)
def test_a_record_is_matched_whatever_its_case_and_punctuation(question, answer):
    assert 0 in matches([record(question, answer)], [record(f"{question.upper()} ?!", f"“{answer}”, …")])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "What to do in a patient with heart failure if potassium is > 5?",
            "What to do in a patient with heart failure if potassium is < 5?",
        ),
        ("ผู้ป่วยเด็กที่มีไข้สูงควรทำอย่างไรดีที่บ้านก่อนไปหาหมอ", "ผู้ป่วยเด็กที่มีไข่สูงควรทำอย่างไรดีที่บ้านก่อนไปหาหมอ"),
        ("甲型肝炎的症状有哪些，应该怎样治疗和预防？", "乙型肝炎的症状有哪些，应该怎样治疗和预防？"),
        ("How is HER2+ breast cancer treated in older women?", "How is HER2- breast cancer treated in older women?"),
    ],
)
def test_a_sign_a_mark_or_a_chinese_numeral_makes_another_question(one, other):
    assert matches([record(one, "Rest at home.")], [record(other, "Go to hospital.")]) == {}
