"""Measures that style cannot raise: content beyond the question, distractors, the few-shot base."""

import math

import pytest
from conftest import run_script

from meerkat_workbench.core.jsonl_store import JsonlStore
from meerkat_workbench.tuning import chat, llm
from meerkat_workbench.tuning.artifacts import DatasetManifest, Preference, Split
from meerkat_workbench.tuning.data import dataset_folders, vocabulary
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord
from meerkat_workbench.tuning.data.records import Record
from meerkat_workbench.tuning.data.vocabulary import ReferenceVocabulary
from meerkat_workbench.tuning.generation import distractors, few_shot, likelihood, preference
from meerkat_workbench.tuning.generation.distractors import DistractorKind, DistractorMaker
from meerkat_workbench.tuning.generation.few_shot import FewShotPrompts
from meerkat_workbench.tuning.generation.questions import questions_of
from meerkat_workbench.tuning.scoring import content_metrics
from meerkat_workbench.tuning.scoring.content_metrics import content_scores

QUESTION, REFERENCE = (
    "How is gout treated?",
    "Gout is treated with colchicine 500 mg twice daily, and with ice on the swollen joint.",
)


def recall(answer, question=QUESTION, reference=REFERENCE, **more):
    return content_scores(question, reference, answer, **more).recall


# --- content beyond the question


def test_repeating_the_question_is_no_content_and_the_reference_has_all_of_it():
    assert recall("Gout is treated. How is gout treated?") == 0
    scores = content_scores(QUESTION, REFERENCE, REFERENCE)
    assert (scores.recall, scores.precision, scores.f1) == (1, 1, 1)


def test_another_dose_is_less_content_than_the_same_dose_in_another_unit():
    same, other = REFERENCE.replace("500 mg", "0.5 g"), REFERENCE.replace("500 mg", "5,000 mg")
    assert recall(same) == 1 and recall(other) < 1


def test_names_with_digits_and_words_after_a_bare_number_are_content_and_units_are_not():
    assert recall("vitamin D3", "What is lacking?", "Deficiency of vitamin B12.") < recall(
        "vitamin B12", "What is lacking?", "Deficiency of vitamin B12."
    )
    stems = vocabulary.stems("Type 2 diabetes: CYP3A4 inhibitors 5 mg/kg/day for 12 weeks, HbA1c.", english=True)
    assert stems == {"type", "diabet", "cyp3a4", "inhibitor", "hba1c"}


def test_a_reference_with_nothing_beyond_its_question_has_no_score():
    assert content_scores("Is gout an arthritis?", "Gout is an arthritis.", "Yes.") is None


def test_an_empty_answer_scores_zero_in_all_three():
    scores = content_scores(QUESTION, REFERENCE, "")
    assert (scores.recall, scores.precision, scores.f1) == (0, 0, 0)


def test_inflected_words_agree_in_english_and_words_of_other_languages_are_compared_as_they_are():
    assert recall("colchicines for swollen joints, icing") > recall("nothing of the kind")
    german = "Gicht behandelt man mit Colchicin und kühlt das geschwollene Gelenk mit Eis."
    assert recall("Colchicin, Eis, Gelenk", "Wie behandelt man Gicht?", german) > 0
    assert recall("秋水仙碱和冰敷", "痛风怎么治疗？", "用秋水仙碱治疗，并冰敷关节。") > recall(
        "多喝水", "痛风怎么治疗？", "用秋水仙碱治疗，并冰敷关节。"
    )


def records(count=30):
    """Records of one style: each answer has the same frame, and words of its own."""
    return [
        Record(f"id{n}", f"specialty{n % 3}", f"What is disease{chr(97 + n)}?",
               f"In general, the usual treatment consists of drug{chr(97 + n)} and rest{chr(97 + n)} every morning.")
        for n in range(min(count, 26))
    ]  # fmt: skip


def test_words_that_many_references_hold_do_not_count_and_the_order_of_the_records_does_not_matter():
    vocabulary = ReferenceVocabulary.of(records())
    assert vocabulary == ReferenceVocabulary.of(reversed(records()))
    only_style = "In general, the usual treatment consists of something every morning."
    [first, *_] = records()
    assert recall(only_style, first.question, first.response) > 0.5
    assert recall(only_style, first.question, first.response, common=vocabulary.common) == 0
    assert recall(first.response, first.question, first.response, common=vocabulary.common) == 1


def test_neither_length_nor_the_words_of_the_specialty_raise_an_answer_above_its_floor():
    vocabulary = ReferenceVocabulary.of(records())
    asked = records()[0]
    others = " ".join(one.response for one in records()[1:])
    above = content_metrics.above_floor
    assert above(asked, asked.response, vocabulary) == 1
    assert above(asked, "In general, the usual treatment.", vocabulary) == 0
    assert above(asked, others, vocabulary) < 0  # it finds everything but the answer to this question
    assert above(asked, f"{others} {asked.response}", vocabulary) == 0


def test_a_specialty_with_one_reference_has_no_floor():
    alone = Record("id", "alone", QUESTION, REFERENCE)
    assert content_metrics.above_floor(alone, REFERENCE, ReferenceVocabulary.of([alone])) is None


# --- distractors


def medical_records():
    diseases = {"asthma": "bronchi", "gout": "toe joints", "measles": "skin and eyes", "migraine": "one half of the head"}
    drugs = {"asthma": "salbutamol", "gout": "colchicine", "measles": "vitamin A", "migraine": "sumatriptan"}
    causes = {
        "asthma": "pollen and mites",
        "gout": "uric acid crystals",
        "measles": "a morbillivirus",
        "migraine": "trigger foods",
    }
    return [
        record
        for specialty in ("one", "two", "three", "four")
        for name in diseases
        for record in (
            Record(f"{specialty}{name}s", specialty, f"What are the symptoms of {name}{specialty}?",
                   f"{name.title()}{specialty} shows itself in the {diseases[name]} of the patient."),
            Record(f"{specialty}{name}t", specialty, f"What are the treatments for {name}{specialty}?",
                   f"Doctors give {drugs[name]} against {name}{specialty} in most of the cases."),
            Record(f"{specialty}{name}c", specialty, f"What are the causes of {name}{specialty}?",
                   f"It is caused by {causes[name]}, which is called {name}{specialty} after all."),
        )
    ]  # fmt: skip


def test_distractors_are_other_answers_of_the_specialty_that_name_the_asked_subject():
    maker = DistractorMaker(medical_records())
    [asked] = [record for record in medical_records() if record.id == "onegoutt"]
    made = maker.distractors(asked, 7)
    assert len(made) == 7 and {one.kind for one in made} >= {DistractorKind.SAME_KIND, DistractorKind.SAME_SUBJECT}
    for one in made:
        assert "goutone" in one.text.lower() and not any(other in one.text.lower() for other in ("asthma", "measles", "migraine"))
    assert not any("colchicine" in one.text for one in made)
    assert made == DistractorMaker(reversed(medical_records())).distractors(asked, 7)


def test_an_answer_that_repeats_the_reference_is_no_distractor_and_too_few_make_none():
    first, *others = medical_records()[:12]
    double = Record("double", first.specialty, "And what are its signs?", first.response)
    maker = DistractorMaker([first, double, *others])
    assert first.response not in [one.text for one in maker.distractors(first, 7)]
    assert DistractorMaker([first, *others[:2]]).distractors(first, 3) == []


def test_a_name_is_replaced_in_any_case_and_only_as_a_whole_word():
    assert distractors.replace_name("Gout hurts; gouty is not gout.", "gout", "asthma") == "Asthma hurts; gouty is not asthma."
    assert distractors.replace_name("a (b) c", "", "x") == "a (b) c"


# --- preference


def test_tokens_of_the_question_and_of_common_words_do_not_count(tiny_model):
    tokenizer = llm.load_tokenizer(str(tiny_model))
    text = "Gout usually needs colchicine 500 mg."
    ids, spans = preference.tokens_with_spans(tokenizer, text)
    mask = preference.content_mask(text, spans, "How is gout treated?", frozenset({"need", "usual"}), english=True)
    counted = "".join(text[start:end] for (start, end), counts in zip(spans, mask, strict=True) if counts)
    assert len(mask) == len(ids) and "colchicine" in counted and "500" in counted
    assert not any(word in counted.lower() for word in ("gout", "usually", "needs"))


def test_pairs_of_characters_that_are_common_or_asked_do_not_count_in_a_script_without_spaces():
    text = "痛风通常用秋水仙碱治疗"
    spans = [(place, place + 1) for place in range(len(text))]
    mask = preference.content_mask(text, spans, "痛风怎么治疗？", frozenset({"通常"}), english=False)
    assert "".join(character for character, counts in zip(text, mask, strict=True) if counts) == "用秋水仙碱"


def test_a_preference_is_right_only_if_every_distractor_is_less_likely():
    right = preference.scores_of(Preference(key="k", scores=(-1.0, -2.0, -3.0, -4.0)))
    half = preference.scores_of(Preference(key="k", scores=(-2.5, -2.0, -3.0, -4.0)))
    assert (right.right, right.wins, right.chance) == (1, 1, 0.25)
    assert half.right == 0 and half.wins == pytest.approx(2 / 3)
    assert preference.scores_of(Preference(key="k", scores=(-1.0, None, -3.0))) is None and preference.scores_of(None) is None


def preference_items(tokenizer, count):
    """The first records as questions of the holdout, each with three distractors."""
    asked = [
        PreparedRecord(one.id, one.specialty, one.question, one.response, [], chat.render_llama3(one.question, None, "Be brief."), "")
        for one in medical_records()[:count]
    ]  # fmt: skip
    return preference.make_items(questions_of(Split.HOLDOUT, asked, tokenizer, None), DistractorMaker(medical_records()), 3)


def test_the_answer_only_baseline_asks_few_questions_of_all_specialties(tiny_model):
    items = preference_items(llm.load_tokenizer(str(tiny_model)), 24)
    assert preference.of_answer_only(items) == items[::2]
    many = preference.of_answer_only(items * 50)
    assert 20 <= len(many) <= preference.MAX_ANSWER_ONLY


def test_shared_prompts_and_batches_change_no_preference(tiny_model, tmp_path, monkeypatch):
    model = llm.load_base(str(tiny_model), load_in_4bit=False, precision="fp32").eval()
    tokenizer = llm.load_tokenizer(str(tiny_model))
    items = {item.key("m", ""): item for item in preference_items(tokenizer, 24)}
    assert len(items) == 24
    found = []
    for folder, tokens in (("a", 4096), ("b", 1)):
        monkeypatch.setattr(likelihood, "batch_tokens", lambda _, most=tokens: most)
        store = JsonlStore(tmp_path / folder, "preferences", Preference)
        preference.measure(model, None, tokenizer, items, ReferenceVocabulary(), store)
        found.append({key: store.records[key].scores for key in items})
    for key in items:
        assert found[0][key] == pytest.approx(found[1][key], abs=1e-4)


def test_preferences_are_measured_again_if_other_words_are_common(tiny_model):
    tokenizer = llm.load_tokenizer(str(tiny_model))
    [item] = preference_items(tokenizer, 1)
    hashes = {ReferenceVocabulary(frozenset(words)).hash for words in ((), ("usual",), ("usual", "treat"))}
    assert len(hashes) == len({item.key("m", found) for found in hashes}) == 3


def test_without_its_question_a_prompt_is_the_same_but_for_the_question(tiny_model):
    tokenizer = llm.load_tokenizer(str(tiny_model))
    [item] = preference_items(tokenizer, 1)
    blind = preference.without_question(item, tokenizer, encoder_decoder=False)
    assert blind.question.prompt == chat.render_llama3("", None, "Be brief.") and blind.key("m", "") != item.key("m", "")


# --- the few-shot base


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few_shot")
    run_script("dataset_preparation.py", "--demo", f"OUTPUT_DIR={folder / 'datasets'}")
    return folder / "datasets"


def test_examples_are_train_pairs_of_the_specialty_as_turns_of_the_same_template(prepared):
    message = DatasetManifest.require(prepared).system_message
    prompts = FewShotPrompts.read(prepared, 3, message)
    train = dataset_folders.read_split(prepared, Split.TRAIN)
    holdout = list(dataset_folders.read_split(prepared, Split.HOLDOUT))
    shown = prompts.apply(holdout, plain=False)
    for record, before in zip(shown, holdout, strict=True):
        style = prompts.styles[record.specialty]
        of_specialty = [one for one in train if one.specialty == record.specialty][:3]
        assert [one.question for one in style.examples] == [one.question for one in of_specialty]
        turns = chat.messages(before.question, None, f"{message} {style.hint}".strip())
        for example in reversed(style.examples):
            turns[1:1] = chat.messages(example.question, example.response, "")
        assert record.messages[:-1] == turns
        for example in style.examples:
            assert (
                f"{example.question}{before.formatted_prompt.rpartition(before.question)[2]}{example.response}"
                in record.formatted_prompt
            )
        assert record.formatted_prompt.endswith(before.formatted_prompt.rpartition(before.question)[2])
        assert record.formatted_prompt.count(before.formatted_prompt.partition(message)[0].strip() or message) >= 1


def test_a_template_without_a_known_turn_gets_its_examples_as_text(prepared):
    style = few_shot.Style((PreparedRecord("e", "s", "Example?", "An example.", [], "", ""),), 20, "words")
    record = PreparedRecord(
        "i", "s", "What is gout?", "r", [], "[INST] What is gout? [/INST]", "[INST] What is gout? [/INST]r</s>"
    )
    [shown] = FewShotPrompts({"s": style}, "").apply([record], plain=False)
    assert shown.formatted_prompt.startswith("[INST] ") and shown.formatted_prompt.endswith(
        "Question: What is gout?\nAnswer: [/INST]"
    )
    assert "Question: Example?\nAnswer: An example." in shown.formatted_prompt and style.hint in shown.formatted_prompt


def test_without_a_system_message_the_length_hint_stands_in_the_first_question(prepared):
    for message in ("", "Be brief."):
        example = PreparedRecord("e", "s", "Example?", "An example.", [], "", "")
        record = PreparedRecord("i", "s", "What is gout?", "r", [], "p What is gout? q", "p What is gout? q r")
        style = few_shot.Style((example,), 20, "words")
        [shown] = FewShotPrompts({"s": style}, message).apply([record], plain=False)
        roles = [turn["role"] for turn in shown.messages]
        assert roles == (["system"] if message else []) + ["user", "assistant", "user", "assistant"]
        assert style.hint in shown.messages[0]["content"]


def test_a_specialty_without_train_records_is_asked_as_it_is():
    record = PreparedRecord("i", "s", "What is gout?", "r", [], "p", "p r")
    assert FewShotPrompts({}, "m").apply([record], plain=False) == [record]


def test_a_long_example_is_cut_at_the_end_of_a_sentence():
    sentence = "This is a sentence of a very long answer. "
    record = few_shot._shortened(PreparedRecord("i", "s", "q", sentence * 200, [], "", ""))
    assert len(record.response) <= few_shot.MAX_EXAMPLE_CHARS and record.response.endswith("answer.")


def test_the_length_hint_of_a_growing_train_set_is_rounded():
    assert few_shot.rounded(23) == 20 and few_shot.rounded(137) == 150 and few_shot.rounded(2) == 10
    assert not math.isnan(few_shot.rounded(0))


def test_the_facts_of_a_preference_count_distractors_by_kind_and_the_answer_only_baseline(tiny_model):
    tokenizer = llm.load_tokenizer(str(tiny_model))
    items = preference_items(tokenizer, 6)
    blind = [preference.PreferenceScores(1.0, 1.0, 0.25), preference.PreferenceScores(0.0, 0.5, 0.25)]
    facts = preference.facts_of(items, blind)
    assert (facts.questions, facts.chance, facts.answer_only, facts.answer_only_n) == (6, 0.25, 0.5, 2)
    assert sum(facts.kinds.values()) == 18
    assert math.isnan(preference.facts_of(items, []).answer_only)
