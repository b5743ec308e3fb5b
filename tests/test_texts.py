"""What counts when texts are compared: letters, digits, marks and symbols of every script, and nothing else."""

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meerkat_workbench.text import texts


def test_words_keep_decimals_signs_and_ranges_and_lose_punctuation():
    assert texts.words_of("Take 2.5 mg daily, -5 °C; x-ray (IgA), 10-20%.") == [
        "take", "2.5", "mg", "daily", "-5", "c", "x-ray", "iga", "10-20%",
    ]  # fmt: skip
    assert texts.key_of_words(texts.words_of("What IS gout ?")) == texts.key_of_words(texts.words_of("what is gout"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What if K+ > 5?", "What if K+ < 5?"),
        ("ไข้คืออะไร", "ไข่คืออะไร"),  # Thai: fever, egg
        ("HER2+ disease", "HER2- disease"),
        ("Is it common in ♀?", "Is it common in ♂?"),
        ("What does ↑ T3 mean?", "What does ↓ T3 mean?"),
        ("Give .5 mg?", "Give 5 mg?"),
        ("10⁹ cells?", "109 cells?"),
        ("2½ tablets?", "21/2 tablets?"),
        ("甲型肝炎？", "乙型肝炎？"),
        ("हृदय", "हदय"),
        ("Resistance ≥ 2?", "Resistance ≤ 2?"),
        ("Is pH = 7?", "Is pH ≠ 7?"),
    ],
)
def test_marks_and_symbols_tell_questions_apart(one, other):
    assert texts.words_of(one) != texts.words_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hépatite aiguë", unicodedata.normalize("NFD", "hépatite AIGUË")),
        ("ﬁbrosis of the lung", "Fibrosis, of the lung!"),
        ("zero\u200bwidth", "zerowidth"),
        ("soft\u00adhyphen", "softhyphen"),
        ("it’s", "it's"),
        ("75 mg/m²", "75 mg/m2"),
        ("１０ｍｇ", "10mg"),
        ("**What** is gout?", "What is gout"),
    ],
)
def test_case_punctuation_and_ways_of_writing_a_letter_do_not_count(one, other):
    assert texts.words_of(one) == texts.words_of(other)


def test_a_script_without_spaces_is_cut_into_pairs_of_characters_for_comparison_and_into_characters_for_scores():
    assert texts.words_of("发热每日10毫克") == ["发热", "热每", "每日", "10", "毫克"]
    assert texts.tokens("发热10mg") == ("发", "热", "10mg")
    assert texts.tokens("ไข้") == ("ไ", "ข้")


@given(st.lists(st.text(max_size=60), max_size=6))
def test_words_of_many_texts_are_those_of_each(many):
    many = [text.encode("utf-8", "replace").decode() for text in many]
    words, bounds = texts.words_of_each(many)
    assert [words[start:end] for start, end in itertools.pairwise(bounds)] == [texts.words_of(text) for text in many]


@given(st.text(max_size=80))
def test_composed_and_decomposed_forms_of_a_text_have_the_same_words(text):
    assert texts.words_of(unicodedata.normalize("NFD", text)) == texts.words_of(unicodedata.normalize("NFC", text))


@given(st.text(max_size=80))
def test_cleaning_twice_is_cleaning_once_and_keeps_what_can_be_seen(text):
    cleaned = texts.clean(text)
    assert texts.clean(cleaned) == cleaned and "\r" not in cleaned
    assert texts.is_blank(cleaned) == texts.is_blank(text)


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=200))
def test_tokens_of_ascii_texts_are_those_of_rouge_score(text):
    from rouge_score.tokenize import tokenize

    assert list(texts.tokens(text)) == tokenize(text, stemmer=None)


def test_what_cannot_be_seen_is_blank():
    for text in ("", " \t\n", "\u200b", "\ufeff", "\u200d\u200c", "\u3164", "\u2800", "\u00ad\u2060"):
        assert texts.is_blank(text)
    for text in (".", "0", "\u200ba", "👍", "\u0301a"):
        assert not texts.is_blank(text)


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("The treatment of gout is rest and colchicine, which may be given to you by a doctor.", True),
        ("Die Behandlung der Gicht besteht aus Ruhe und Colchicin, das von einem Arzt gegeben wird.", False),
        ("Le traitement de la goutte est le repos et la colchicine, que le médecin peut donner.", False),
        ("El tratamiento de la gota es el reposo y la colchicina que da el médico.", False),
        ("痛风的治疗是休息和秋水仙碱。", False),
        ("Лечение подагры: покой и колхицин.", False),
        ("علاج النقرس هو الراحة", False),
        ("Colchicine 500 mg", None),
        ("Sjögren syndrome and the β-blockers that are given for it, with the doses of each", True),
    ],
)
def test_english_is_recognised_by_letters_and_small_words(text, english):
    assert texts.is_english(text) is english


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=80))
def test_words_of_ascii_texts_are_those_of_the_general_pattern(text):
    text = text.lower()
    assert texts.ASCII_WORD.findall(text) == texts.WORD.findall(text)
