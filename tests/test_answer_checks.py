"""What is plainly wrong with an answer is found, and what is right is left alone."""

import pytest

from meerkat_workbench.tuning.artifacts import Finish
from meerkat_workbench.tuning.scoring import answer_checks


@pytest.mark.parametrize(
    ("reference", "answer", "differs"),
    [
        ("Give 10 mg twice daily.", "Give 20 mg twice daily.", True),
        ("Give 10 mg twice daily.", "Give 10mg, then 20 mg.", False),
        ("Give 2.5 mg.", "Give 25 mg.", True),
        ("Give 10 mg.", "Treat for 10 days.", False),  # another unit is another amount
        ("About 5 to 10 mg.", "About 5-10 mg.", False),
        ("It affects 1 in 5.", "It affects 1 in 50.", False),  # bare numbers are left alone
        ("Cool to -5 °C.", "Cool to 5 °C.", True),
    ],
)
def test_another_value_in_the_same_unit_is_another_dose(reference, answer, differs):
    assert answer_checks.number_differs(reference, answer) is differs


@pytest.mark.parametrize(
    ("reference", "answer", "words"),
    [
        ("There is fever.", "There is no fever.", {"fever"}),
        ("Do not give aspirin.", "Give aspirin at once.", {"aspirin"}),
        ("There is fever but no rash.", "Fever without rash.", set()),
        ("No fever. A rash and itching are common.", "A rash; no fever, itching.", {"itching"}),
        ("Avoid aspirin.", "Aspirin is contraindicated.", {"aspirin"}),  # a trigger after its word is not known: a false alarm
        ("Rest.", "No fever.", set()),
    ],
)
def test_a_medical_word_denied_on_one_side_only_is_found(reference, answer, words):
    assert answer_checks.negation_differs(reference, answer) == words


def test_a_refusal_begins_an_answer_and_advice_to_see_a_doctor_is_no_refusal():
    refused = [
        "I'm sorry, but I can't help with that.", "I cannot provide medical advice.", "As an AI, I do not diagnose.",
        "I am unable to answer this question.",
    ]  # fmt: skip
    answered = [
        "Gout causes sudden joint pain. See a doctor if you cannot walk.", "Patients cannot provide a sample at home.",
        "I recommend rest and fluids.", "It helps to rest. " * 20 + "I cannot help more.",
    ]  # fmt: skip
    assert [answer_checks.check("r", text, Finish.STOP)["refused"] for text in refused] == [True] * 4
    assert [answer_checks.check("r", text, Finish.STOP)["refused"] for text in answered] == [False] * 4


def test_a_loop_is_repeating_and_a_list_of_similar_sentences_is_not():
    assert answer_checks.repeating("the pain is in the joint and " * 8)
    listed = " ".join(f"The {name} may be swollen and warm." for name in ("knee", "wrist", "elbow", "ankle", "hip", "shoulder"))
    assert not answer_checks.repeating(listed) and not answer_checks.repeating("no no no")


def test_an_answer_that_was_never_made_fails_no_check():
    assert not any(answer_checks.check("Give 10 mg.", "", Finish.FAILED).values())
    assert answer_checks.check("Give 10 mg.", "", Finish.STOP)["empty"]
    assert answer_checks.check("Give 10 mg.", "Give", Finish.LENGTH)["cut_off"]
