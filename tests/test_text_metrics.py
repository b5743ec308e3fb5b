"""Our values are the packages', and the known traps of each metric are avoided."""

import itertools
import json
import math
import unicodedata

import pytest
from conftest import ROOT, SHARED_DATA

from meerkat_workbench.tuning.scoring import medical_metrics, text_metrics, wordnet
from meerkat_workbench.tuning.scoring.metric_suite import MEASURED, MetricSuite, ScoredPair


def texts():
    folder = SHARED_DATA / "medquad" if SHARED_DATA.is_dir() else ROOT / "examples" / "specialties"
    # a few sentences of each: rouge_score takes minutes over long texts
    answers = [
        " ".join(a.split()[:200])
        for path in sorted(folder.glob("*.json"))[:12]
        for a in list(json.loads(path.read_text(encoding="utf-8")).values())[:6]
    ]
    shortened = [" ".join(answer.split()[::2]) for answer in answers]
    return [*itertools.pairwise(answers), *zip(answers, shortened, strict=True)]


def test_rouge_is_that_of_rouge_score():
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    for reference, answer in texts():
        expected = scorer.score(reference, answer)
        assert text_metrics.rouge_n(reference, answer, 1) == pytest.approx(expected["rouge1"].fmeasure, abs=1e-6)
        assert text_metrics.rouge_n(reference, answer, 2) == pytest.approx(expected["rouge2"].fmeasure, abs=1e-6)
        assert text_metrics.rouge_l(reference, answer) == pytest.approx(expected["rougeL"].fmeasure, abs=1e-6)


def test_four_bleus_in_one_call_are_four_calls():
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    for reference, answer in texts()[:20]:
        tokens = [list(text_metrics.bleu_tokens(text, "13a")) for text in (reference, answer)]
        for n, value in enumerate(text_metrics.bleu(reference, answer), start=1):
            weights = (1 / n,) * n
            expected = sentence_bleu([tokens[0]], tokens[1], weights=weights, smoothing_function=SmoothingFunction().method1)
            assert value == pytest.approx(expected, abs=1e-9)


def test_a_perfect_answer_of_few_words_has_a_bleu_of_1():
    for text in ("Yes", "lie down", "发热"):
        assert text_metrics.bleu(text, text) == pytest.approx([1, 1, 1, 1])
    assert text_metrics.bleu("lie down", "") == [0, 0, 0, 0]
    assert text_metrics.bleu("lie down and rest for a day", "lie")[3] < 0.01  # too short an answer still pays for it


def test_corpus_bleu_is_that_of_sacrebleu_and_its_signature_has_tokenizer_and_version():
    import sacrebleu

    references, answers = zip(*texts(), strict=True)
    halves = [(references[:2], answers[:2]), (references[2:], answers[2:])]
    value, signature = text_metrics.corpus_bleu(halves)
    assert value == pytest.approx(sacrebleu.corpus_bleu(list(answers), [list(references)], lowercase=True).score)
    assert "tok:13a" in signature and "version:" in signature


def test_squads_metrics_are_those_of_squad_its_faults_included():
    assert text_metrics.exact_match("The heart.", "heart") == 1
    assert text_metrics.exact_match("2.5 mg", "25 mg") == 1  # which is why doses have a metric of their own
    # 2 shared tokens of 3 and 4: precision 2/4, recall 2/3
    assert text_metrics.token_f1("a red skin rash", "the skin rash itches badly") == pytest.approx(
        2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3)
    )


def wordnet_or_skip():
    try:
        return wordnet.reader()
    except wordnet.WordNetMissingError as error:
        pytest.skip(str(error))


def test_meteor_is_that_of_nltk_on_words_without_punctuation():
    reader = wordnet_or_skip()
    from nltk.translate.meteor_score import single_meteor_score

    assert text_metrics.meteor("Take it daily.", "take it daily") == pytest.approx(
        single_meteor_score(["take", "it", "daily"], ["take", "it", "daily"], wordnet=reader)
    )
    for reference, answer in texts()[:40]:
        words = [text_metrics.METEOR_WORD.findall(text.lower()) for text in (reference, answer)]
        assert text_metrics.meteor(reference, answer) == pytest.approx(single_meteor_score(*words, wordnet=reader), abs=1e-9)
    assert text_metrics.meteor("a doctor", "a physician") > text_metrics.meteor("a doctor", "a plumber")
    assert text_metrics.meteor("fever", "fever") == 0.5  # by its definition


def test_meteor_without_wordnet_is_missing_and_names_the_package_to_install(monkeypatch):
    def missing():
        raise wordnet.WordNetMissingError(wordnet.REMEDY)

    monkeypatch.setattr(wordnet, "reader", missing)
    table = MetricSuite().score([ScoredPair("a fever", "a fever")])
    assert table.scores["METEOR"] == [None] and "apt-get install wordnet-base" in table.missing["METEOR"]
    assert table.scores["ROUGE-L"] == [1.0]


def test_there_are_45_lexicographer_files():
    names = [entry.split()[0] for entry in wordnet.LEXNAMES.split(",")]
    assert len(names) == len(set(names)) == 45 and names[3] == "noun.Tops" and names[44] == "adj.ppl"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2.5 mg twice daily", {"2.5mg"}),
        ("2.50mg", {"2.5mg"}),
        ("5 to 10 mg", {"5mg", "10mg"}),
        ("5-10 mg", {"5mg", "10mg"}),
        ("-5 °C", {"-5°c"}),
        ("1,000 µg and 500 mcg", {"1000µg", "500µg"}),
        ("20 mg/kg/day", {"20mg/kg/day"}),
        ("7.0 mmol/L", {"7mmol/l"}),
        ("95%", {"95%"}),
        ("HbA1c of 48", {"48"}),
        ("5 \u03bcmol/l", {"5\u00b5mol/l"}),
        ("vitamin B12", set()),
    ],
)
def test_numbers_keep_decimals_signs_and_units(text, found):
    assert medical_metrics.numbers(text) == found


def test_names_are_acronyms_species_and_capitalised_words_inside_a_sentence():
    assert medical_metrics.names("Infection with Helicobacter pylori is shown by PCR. The Epley manoeuvre helps.") == {
        "helicobacter pylori", "pcr", "epley",
    }  # fmt: skip


def test_a_wrong_decimal_or_sign_or_unit_is_not_a_factual_match():
    reference = "Give 2.5 mg at -5 °C, then an ECG."
    assert medical_metrics.factual_exact_match(reference, "An ecg after 2.5 mg, at -5 °C") == 1
    assert medical_metrics.factual_exact_match(reference, "25 mg at 5 °C, then an ECG") == pytest.approx(1 / 3)
    assert medical_metrics.factual_exact_match(reference, "2.5 g at -5 °C, then an ECG") == pytest.approx(2 / 3)
    assert medical_metrics.factual_exact_match("rest and fluids", "anything") is None


def test_medical_token_f1_counts_medical_words_alone():
    assert medical_metrics.medical_terms("The gastritis was treated with omeprazole by a nice nurse") == (
        "gastritis",
        "omeprazole",
    )
    # shared: gastritis; the answer has 1 medical word, the reference 2
    assert medical_metrics.medical_token_f1("gastritis and omeprazole", "gastritis, quite clearly") == pytest.approx(
        2 * 1 / (1 + 2)
    )
    assert medical_metrics.medical_token_f1("nothing of the kind", "gastritis") is None


def test_accents_and_greek_do_not_break_a_metric():
    pairs = [("Ménière, 5 µg, α-blocker", "Ménière 5 µg"), ("ναυτία", "ναυτία"), ("x", "")]
    table = MetricSuite().score([ScoredPair(*pair) for pair in pairs])
    assert not set(table.missing) - {"METEOR", *MEASURED}
    assert all(value is None or math.isfinite(value) for values in table.scores.values() for value in values)


def test_scores_of_several_workers_are_those_of_one_process_and_the_workers_serve_every_chunk_and_end(monkeypatch):
    from meerkat_workbench.tuning.scoring import metric_suite

    pairs = [ScoredPair(*pair) for pair in texts() for _ in range(2)]
    one = metric_suite.MetricSuite().score(pairs)
    monkeypatch.setattr(metric_suite, "MIN_PAIRS_FOR_WORKERS", 2)
    monkeypatch.setattr(metric_suite.os, "cpu_count", lambda: 2)
    suite = metric_suite.MetricSuite()
    assert suite.score(pairs).scores == one.scores
    workers = list(suite._workers._processes.values())
    assert suite.score(pairs).scores == one.scores and list(suite._workers._processes.values()) == workers
    suite.close()
    assert not any(worker.is_alive() for worker in workers)


LANGUAGES = {
    "Arabic": "الربو مرض التهابي مزمن يصيب الشعب الهوائية ويعالج بالستيرويدات المستنشقة.",
    "Chinese": "哮喘是一种慢性气道炎症性疾病，常用吸入糖皮质激素治疗，每日200微克。",
    "French": "L'hépatite aiguë à évolution sévère nécessite une surveillance répétée à l'hôpital.",
    "German": "Die Lungenentzündung wird mit einem Antibiotikum für zehn Tage behandelt.",
    "Hindi": "दमा वायुमार्ग की एक दीर्घकालिक सूजन की बीमारी है।",
    "Japanese": "喘息は気道の慢性炎症性疾患で、吸入ステロイドで治療します。",
    "Korean": "천식은 기도의 만성 염증성 질환이며 흡입 스테로이드로 치료한다.",
    "Russian": "Астма — хроническое воспалительное заболевание дыхательных путей.",
    "Thai": "โรคหืดเป็นโรคอักเสบเรื้อรังของหลอดลม รักษาด้วยยาสูดพ่น",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_right_answer_scores_1_and_a_part_of_it_between_in_any_language(language):
    text = LANGUAGES[language]
    other = next(one for name, one in LANGUAGES.items() if name not in (language, "Japanese", "Chinese"))
    part = text[: len(text) // 2]
    for metric in (
        text_metrics.rouge_l,
        text_metrics.token_f1,
        lambda r, h: text_metrics.rouge_n(r, h, 2),
        lambda r, h: text_metrics.bleu(r, h)[3],
    ):
        assert metric(text, unicodedata.normalize("NFD", text)) == pytest.approx(1)
        assert 0 < metric(text, part) < 1
        assert metric(text, other) < 0.2
    assert text_metrics.exact_match(text, unicodedata.normalize("NFD", text)) == 1
    assert text_metrics.length_ratio(text, part) == pytest.approx(0.5, abs=0.2)
    assert text_metrics.corpus_bleu([([text], [text])])[0] == pytest.approx(100)


def test_the_signature_names_the_tokenizer_that_was_used():
    pairs = {name: ([LANGUAGES[name]], [LANGUAGES[name]]) for name in ("German", "Chinese", "Japanese")}
    assert (
        "tok:zh" in text_metrics.corpus_bleu([pairs["Chinese"]])[1]
        and "tok:char" in text_metrics.corpus_bleu([pairs["Japanese"]])[1]
    )
    assert "tok:13a+zh by reference" in text_metrics.corpus_bleu(pairs[name] for name in ("German", "Chinese"))[1]


def test_words_of_other_languages_have_no_english_stems_and_synonyms():
    wordnet_or_skip()
    reference = "Die Behandlung ist nicht einfach und wird mit einem Mittel gegen die Krankheit begonnen."
    assert text_metrics.meteor(reference, "expire") == 0  # "die" is the German article
    assert text_metrics.meteor("They die", "they expire") > 0.2


def test_a_metric_that_cannot_be_computed_in_a_language_is_missing_with_its_reason(tmp_path):
    from meerkat_workbench.tuning.artifacts import Finish, Prediction, Split
    from meerkat_workbench.tuning.data.vocabulary import ReferenceVocabulary
    from meerkat_workbench.tuning.generation.generation_run import ScoredText
    from meerkat_workbench.tuning.generation.questions import Question
    from meerkat_workbench.tuning.scoring import score_run
    from meerkat_workbench.tuning.scoring.metric_suite import REASONS_WITHOUT_VALUE

    answers = [
        ScoredText(
            Question(str(n), Split.HOLDOUT, "x", "?", text, "", ()),
            Prediction(id=str(n), key="k", system="base", text=text, finish=Finish.STOP, tokens=1), None,
        )
        for n, text in enumerate(LANGUAGES[name] for name in ("Arabic", "Hindi", "Korean"))
    ]  # fmt: skip
    table, metrics = score_run.score(MetricSuite(), answers, ReferenceVocabulary(), tmp_path)
    assert table.scores("ROUGE-L").tolist() == [1, 1, 1]
    assert "BERTSCORE_MODEL" in metrics.missing["bertscore_f1"] and "MEDICAL_LEXICON" in metrics.missing["medical_token_f1"]
    assert metrics.missing["factual_exact_match"] == REASONS_WITHOUT_VALUE["factual_exact_match"]
    assert table.scores("medical_token_f1").isna().all() and table.scores("bertscore_f1").isna().all()


def test_wordnet_is_looked_for_once_where_this_machine_cannot_have_it(monkeypatch):
    looked = []
    monkeypatch.setattr(wordnet, "_present", lambda: False)
    monkeypatch.setattr(wordnet, "_copy_from_debian", lambda: False)
    monkeypatch.setattr(wordnet, "_download", lambda: looked.append(1))
    wordnet._reader.cache_clear()
    for _ in range(3):
        with pytest.raises(wordnet.WordNetMissingError):
            wordnet.reader()
    wordnet._reader.cache_clear()
    assert looked == [1]
