"""Concepts: vocabularies and PubTator in their published forms, abbreviations, candidates, calibration, thresholds."""

import gzip
import math

import numpy as np
import pytest
from conftest import SHARED_DATA, refused

from meerkat_workbench.concepts import (
    abbreviations,
    candidates,
    coordination,
    fusion,
    linker,
    mention_finder,
    name_forms,
    pubtator,
    thresholds,
    vocabulary,
    vocabulary_files,
)
from meerkat_workbench.concepts.candidates import CandidateGenerator, MentionInContext, TrainingNames
from meerkat_workbench.concepts.name_index import NameIndex
from meerkat_workbench.concepts.pubtator import AnnotatedDocument, Mention
from meerkat_workbench.concepts.vocabulary import Concept, SemanticType, Vocabulary
from meerkat_workbench.stats import calibration

RRF = {
    "MRCONSO.RRF": (
        "C1|ENG|P|L1|PF|S1|Y|A1||||MSH|MH|D1|Gout|0|N|256|\n"
        "C1|ENG|S|L2|PF|S2|Y|A2||||SNOMEDCT_US|SY|D1|Podagra|9|N|256|\n"
        "C1|GER|P|L3|PF|S3|Y|A3||||MSHGER|MH|D1|Gicht|0|N||\n"
        "C1|ENG|S|L4|PF|S4|Y|A4||||OLD|SY|D1|Old gout|9|O||\n"
        "C2|ENG|S|L5|VO|S5|N|A5||||MSH|ET|D2|asthmas|0|N||\n"
        "C2|ENG|P|L6|PF|S6|Y|A6||||MSH|MH|D2|Asthma|0|N||\n"
    ),
    "MRSTY.RRF": "C1|T047|B2.2.1.2.1|Disease or Syndrome|AT1|256|\nC2|T047|B2.2.1.2.1|Disease or Syndrome|AT2|256|\n",
}
MESH_XML = """<?xml version="1.0"?><DescriptorRecordSet><DescriptorRecord><DescriptorUI>D006073</DescriptorUI>
<DescriptorName><String>Gout</String></DescriptorName><TreeNumberList><TreeNumber>C05.550.354</TreeNumber></TreeNumberList>
<ConceptList><Concept><TermList><Term><String>Gout</String></Term><Term><String>Gouts</String></Term></TermList></Concept></ConceptList>
</DescriptorRecord></DescriptorRecordSet>"""
MESH_ASCII = "*NEWRECORD\nRECTYPE = D\nMH = Gout\nENTRY = Podagra|T047|NON\nMN = C05.550.354\nUI = D006073\n"
MESH_SUPPLEMENT = """<?xml version="1.0"?><SupplementalRecordSet><SupplementalRecord><SupplementalRecordUI>C535984</SupplementalRecordUI>
<SupplementalRecordName><String>Alpers disease</String></SupplementalRecordName><ConceptList><Concept><TermList><Term><String>Alpers disease</String></Term>
<Term><String>Alpers syndrome</String></Term></TermList></Concept></ConceptList></SupplementalRecord></SupplementalRecordSet>"""
CTD = "# Fields:\n# DiseaseName,DiseaseID,AltDiseaseIDs,Definition,ParentIDs,TreeNumbers,ParentTreeNumbers,Synonyms,SlimMappings\nGout,MESH:D006073,OMIM:138900|DO:DOID:1,,,,,Gouts|Podagra,\n"
PUBTATOR = "1|t|Gout in men\n1|a|Gout hurts. Breast and ovarian cancer.\n1\t0\t4\tGout\tDisease\tD006073\n1\t12\t16\tGout\tDisease\tMESH:D006073\n1\t24\t49\tBreast and ovarian cancer\tDisease\tD001943|D010051\tBreast cancer|ovarian cancer\n1\tCID\tD1\tD2\n\n2|t|Second\n2|a|Text.\n"


def words(*concepts: Concept, types: tuple[SemanticType, ...] = ()) -> Vocabulary:
    return vocabulary.build(concepts, types, "here")


def concept(identifier: str, *names: str, types: tuple[str, ...] = ()) -> Concept:
    return Concept(id=identifier, name=names[0], synonyms=list(names[1:]), types=list(types))


# --- files


def test_umls_tables_give_english_names_that_are_not_obsolete_the_preferred_first(tmp_path):
    for name, text in RRF.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = vocabulary_files.read(tmp_path)
    assert {one.id: (one.names, one.types) for one in found.concepts.values()} == {
        "C1": (["Gout", "Podagra"], ["T047"]), "C2": (["Asthma", "asthmas"], ["T047"]),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("medic.txt", "D006073|138900||Gout|Gouts\n", ("D006073", ["Gout", "Gouts"], ["OMIM:138900"])),
        ("CTD_diseases.csv", CTD, ("D006073", ["Gout", "Gouts", "Podagra"], ["OMIM:138900", "DO:DOID:1"])),
        ("desc2026.xml", MESH_XML, ("D006073", ["Gout", "Gouts"], [])),
        ("supp2026.xml", MESH_SUPPLEMENT, ("C535984", ["Alpers disease", "Alpers syndrome"], [])),
        ("d2026.bin", MESH_ASCII, ("D006073", ["Gout", "Podagra"], [])),
        (
            "v.jsonl",
            '{"cui": "D006073", "names": ["Gout", "Podagra"], "semantic_types": ["T047"]}\n',
            ("D006073", ["Gout", "Podagra"], []),
        ),
        ("v.csv", "id,name,synonyms,aliases\nD006073,Gout,Podagra|gout,X1\n", ("D006073", ["Gout", "Podagra", "gout"], ["X1"])),
    ],
)
def test_each_form_of_a_vocabulary_is_told_by_its_file_and_read(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text, encoding="utf-8")
    [one] = vocabulary_files.read(tmp_path / name).concepts.values()
    assert (one.id, one.names, one.aliases) == expected


def test_mesh_branches_become_types(tmp_path):
    (tmp_path / "desc.xml").write_text(MESH_XML, encoding="utf-8")
    assert vocabulary_files.read(tmp_path / "desc.xml").concepts["D006073"].types == ["C05"]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("v.jsonl", '{"id": "a", "name": "x"}\n{"id": "a", "name": "y"}\n', "this id occurs twice"),
        ("v.jsonl", '{"id": "a", "name": " "}\n', "this concept has no name"),
        ("v.jsonl", '{"id": "a"}\n', "line 1"),
        ("medic.txt", "D1||Gout\nD2||\n", "line 2"),
        ("desc.xml", "<a><b></a>", "is not valid XML"),
        ("v.csv", "id,title\na,b\n", "has no column name"),
        ("v.bin.txt", "nothing known", "is in no form that is known"),
    ],
)
def test_a_faulty_vocabulary_is_refused_with_its_fault(tmp_path, name, text, fault):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert fault in refused(lambda: vocabulary_files.read(tmp_path / name))


def test_pubtator_is_read_with_composites_prefixes_and_relations(tmp_path):
    path = tmp_path / "corpus.PubTator"
    path.write_text(PUBTATOR, encoding="utf-8")
    first, second = pubtator.read_pubtator(path)
    assert [one.concept_ids for one in first.mentions] == [("D006073",), ("D006073",), ("D001943", "D010051")]
    assert first.mentions[2].composite and first.mentions[2].parts == ("Breast cancer", "ovarian cancer")
    assert second.mentions == []
    packed = tmp_path / "corpus.txt.gz"
    packed.write_bytes(gzip.compress((PUBTATOR + PUBTATOR).replace("\n", "\r\n").encode()))
    assert pubtator.read_pubtator(packed) == [first, second]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("1\t0\t4\tgout\tDisease\tD1", "line 3: 0 to 4: says 'gout', but the text there is 'Gout'"),
        ("1\t0\t400\tGout\tDisease\tD1", "lies outside the text"),
        ("1\tx\t4\tGout\tDisease\tD1", "is not a mention of PubTator"),
        ("7\t0\t4\tGout\tDisease\tD1", "is a mention of document 7"),
        ("nonsense", "is not a mention of PubTator"),
    ],
)
def test_a_malformed_pubtator_line_is_refused_with_file_and_line(tmp_path, line, fault):
    path = tmp_path / "corpus.PubTator"
    path.write_text(f"1|t|Gout\n1|a|Text.\n{line}\n", encoding="utf-8")
    message = refused(lambda: pubtator.read_pubtator(path))
    assert "line 3" in message and fault in message


# --- names


def test_a_document_defines_its_abbreviations():
    text = "Cystic fibrosis (CF) and adenomatous polyposis coli (APC) tumours (see Table 2) in 40 patients (30%)."
    found = abbreviations.find(text)
    assert found == {"CF": "Cystic fibrosis", "APC": "adenomatous polyposis coli"}
    assert abbreviations.expand("CF", found) == "Cystic fibrosis"
    assert abbreviations.expand("APC tumours", found) == "adenomatous polyposis coli tumours"
    assert abbreviations.expand("MS", found) == "MS"
    assert abbreviations.expand("cystic fibrosis (CF) lungs", found) == "cystic fibrosis lungs"
    assert (
        abbreviations.expand("BOS syndrome", {"BOS": "bronchiolitis obliterans syndrome"}) == "bronchiolitis obliterans syndrome"
    )


def test_two_abbreviations_may_share_the_word_behind_them():
    found = abbreviations.find(
        "Offspring had ventricular septal (VSD) and midline (MD) defects, and gout (G) and asthma (A) attacks."
    )
    assert found == {"VSD": "ventricular septal defects", "MD": "midline defects"}
    assert abbreviations.find("of liver (ALT) and heart (CK) enzymes") == {}


def test_names_are_equal_without_case_order_plural_and_punctuation():
    assert name_forms.key("Breast Cancers") == name_forms.key("cancer, breast") == name_forms.key("cancer of the breast")
    assert name_forms.key("tumour of the oesophagus") == name_forms.key("esophagus tumors")
    assert name_forms.key("Lungenentzündung") != name_forms.key("Lunge")
    assert name_forms.key("肺炎") == name_forms.key("肺炎 ")


def test_candidates_carry_the_evidence_of_names_training_and_document():
    vocab = words(concept("A", "Multiple Sclerosis", "MS"), concept("B", "Mitral Stenosis", "MS"), concept("C", "Gout"))
    training = TrainingNames.count([AnnotatedDocument("1", "MS now", [Mention("1", 0, 2, "MS", "d", ("B",))])], vocab)
    generator = CandidateGenerator(vocab, NameIndex(vocab, None), training)
    [found] = generator.find([MentionInContext("MS", "MS", others=("MS", "multiple sclerosis"))])
    evidence = {
        name: dict(zip(found.concept_ids, found.evidence[:, candidates.EVIDENCE.index(name)], strict=True))
        for name in candidates.EVIDENCE
    }
    assert set(found.concept_ids) == {"A", "B"}
    assert evidence["equal_name"] == {"A": 1, "B": 1} and evidence["name_unshared"] == {"A": 0.5, "B": 0.5}
    assert evidence["trained"] == {"A": 0, "B": pytest.approx(math.log(2))}
    assert evidence["in_document"] == {"A": 1, "B": 0}


def test_an_abbreviation_that_training_documents_define_is_known_where_it_is_not_defined():
    vocab = words(concept("A", "Cerebral Hemorrhage"), concept("B", "Ichthyosis"))
    text = "intracerebral bleed (ICB): ICB was"
    mentions = [Mention("1", 0, 19, "intracerebral bleed", "d", ("A",)), Mention("1", 27, 30, "ICB", "d", ("A",))]
    training = TrainingNames.count([AnnotatedDocument("1", text, mentions)], vocab)
    assert training.of_key("icb") == {"A": 1} and training.of_key(name_forms.key("intracerebral bleed")) == {"A": 2}
    assert training.by_concept == {"A": 2}  # an abbreviation is no second mention
    assert training.names() == [("intracerebral bleed", "A")]  # similar letters say nothing about what an abbreviation means
    [found] = CandidateGenerator(vocab, NameIndex(vocab, None), training).find([MentionInContext("ICB", "ICB")])
    assert found.concept_ids[0] == "A" and found.evidence[0, candidates.EVIDENCE.index("trained_share")] == 1


def document_of(identifier: str, name: str, concept_id: str) -> AnnotatedDocument:
    return AnnotatedDocument(identifier, f"{name} now", [Mention(identifier, 0, len(name), name, "d", (concept_id,))])


def test_a_concept_that_only_training_mentions_know_is_a_candidate_under_their_most_frequent_name():
    vocab = words(concept("A", "Heart Diseases"))
    documents = [document_of("1", "heart poisoning", "NEW"), *(document_of(number, "cardiotoxicity", "NEW") for number in "23")]
    generator = CandidateGenerator(vocab, NameIndex(vocab, None), TrainingNames.count(documents, vocab))
    [found] = generator.find([MentionInContext("cardiac toxicity", "cardiac toxicity")])
    assert "NEW" in found.concept_ids and generator.vocabulary.concepts["NEW"].name == "cardiotoxicity"
    assert "NEW" not in generator.base.concepts and "NEW" not in vocab.concepts


def test_a_generator_with_other_training_mentions_is_one_made_of_them(tmp_path_factory):
    from tiny_encoders import save_bi_encoder

    vocab = words(concept("A", "Heart Diseases"), concept("B", "Gout", "gouty arthritis"), concept("C", "Breast Neoplasms"))
    index = NameIndex(vocab, linker.load_encoder(save_bi_encoder(tmp_path_factory.mktemp("encoder"))))
    documents = [
        document_of("1", "cardiotoxicity", "NEW"),
        document_of("2", "breast cancers", "C"),
        document_of("3", "breast cancer", "C"),
        document_of("4", "heart trouble", "A"),
    ]
    some = TrainingNames.count(documents[2:], vocab)  # "breast cancer", whose key stands under "breast cancers" in all documents
    other = CandidateGenerator(vocab, index, TrainingNames.count(documents, vocab)).with_training(some)
    fresh = CandidateGenerator(vocab, index, some)
    mentions = [MentionInContext(name, name) for name in ("cardiotoxicity", "breast cancers", "gout of the heart")]
    for one, expected in zip(other.find(mentions), fresh.find(mentions), strict=True):
        assert one.concept_ids == expected.concept_ids and np.allclose(one.evidence, expected.evidence, atol=1e-5)
        assert "NEW" not in one.concept_ids
    assert fresh.find(mentions)[1].evidence[:, candidates.EVIDENCE.index("ngrams")].max() < 0.999
    nothing = other.with_training(TrainingNames([]))
    assert (
        nothing.find(mentions)[2].concept_ids == CandidateGenerator(vocab, index, TrainingNames([])).find(mentions)[2].concept_ids
    )


def test_evidence_tells_types_of_a_disease_and_preferred_names_apart():
    vocab = words(
        concept("A", "Diabetes Mellitus, Type 1"),
        concept("B", "Diabetes Mellitus"),
        concept("C", "Bone disease", "diabetes type 2"),
    )
    [found] = CandidateGenerator(vocab, NameIndex(vocab, None), TrainingNames([])).find(
        [MentionInContext("diabetes type 2", "diabetes type 2")]
    )
    evidence = {
        name: dict(zip(found.concept_ids, found.evidence[:, candidates.EVIDENCE.index(name)], strict=True))
        for name in candidates.EVIDENCE
    }
    assert evidence["number_added"] == {"A": 1, "B": 0, "C": 0} and evidence["number_lost"] == {"A": 1, "B": 1, "C": 0}
    assert evidence["preferred_ngrams"]["B"] > evidence["preferred_ngrams"]["C"] and evidence["ngrams"]["C"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Muscular dystrophy, type IIb", {"2", "b"}),
        ("Muscular dystrophy type 2 B", {"2", "b"}),
        ("Fanconi anemia, group F", {"f"}),
        ("hepatitis A virus infection", {"a"}),
        ("deficiency of a hepatic enzyme", set()),
        ("a hepatic adenoma", set()),
        ("X-linked ichthyosis", set()),
        ("Alzheimer's disease", set()),
        ("２型糖尿病", {"2"}),
        ("BRCA1 mutation", {"brca1"}),
    ],
)
def test_numbers_and_letters_that_tell_types_apart_are_found_in_every_form(name, expected):
    assert name_forms.numbers(name) == expected


def test_in_scripts_without_spaces_the_order_of_characters_counts_and_long_names_are_found():
    assert name_forms.key("痛风") != name_forms.key("风痛") and name_forms.key("急性 肺炎") == name_forms.key("肺炎 急性")
    vocab = words(concept("A", "急性淋巴细胞白血病"), concept("B", "白血病"))
    found = mention_finder.find("患者有急性淋巴细胞白血病。", NameIndex(vocab, None))
    assert [one.text for one in found.mentions] == ["急性淋巴细胞白血病"]


def test_a_name_of_symbols_alone_equals_no_other():
    vocab = words(concept("A", "Gout"))
    generator = CandidateGenerator(vocab, NameIndex(vocab, None), TrainingNames.count([document_of("1", "+/-", "A")], vocab))
    [found] = generator.find([MentionInContext("--", "--")])
    assert (
        name_forms.key("+/-") == ""
        and not found.evidence[:, [candidates.EVIDENCE.index(one) for one in ("equal_name", "preferred_name", "trained")]].any()
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("breast and ovarian cancer", ["breast cancer", "ovarian cancer"]),
        ("breast, ovarian, or colon cancer", ["breast cancer", "ovarian cancer", "colon cancer"]),
        ("hearing loss and blindness", ["hearing loss", "blindness"]),
        ("gout", ["gout"]),
    ],
)
def test_a_coordination_is_divided_into_its_names(text, names):
    assert coordination.conjuncts(text) == names


def test_a_mention_like_no_name_has_no_candidate():
    vocab = words(concept("A", "Gout"))
    [found] = CandidateGenerator(vocab, NameIndex(vocab, None), TrainingNames([])).find([MentionInContext("xyz", "xyz")])
    assert found.concept_ids == [] and found.evidence.shape == (0, len(candidates.EVIDENCE))


def test_learnt_weights_put_the_right_candidate_first():
    draw = np.random.default_rng(0)
    tables, right = [], []
    for _ in range(200):
        table, rows = draw.normal(size=(5, 2)), np.zeros(5, bool)
        rows[draw.integers(5)] = True
        table[rows, 0] += 3
        tables.append(table)
        right.append(rows)
    found = fusion.fit(tables, right, ["useful", "noise"])
    assert found.weights[0] > 1 and abs(found.weights[1]) < 0.5
    assert np.mean([rows[np.argmax(found.scores(table))] for table, rows in zip(tables, right, strict=True)]) > 0.9


def test_a_single_poor_candidate_is_not_certain():
    draw = np.random.default_rng(0)
    tables = [draw.random((1, 1)) for _ in range(400)]
    right = [table[:, 0] > 0.6 for table in tables]  # one candidate each, wrong where it is little similar
    found = fusion.fit(tables, right, ["similarity"])
    assert found.probabilities(np.array([[0.2]]))[0] < 0.1 and found.probabilities(np.array([[0.95]]))[0] > 0.9
    assert found.probabilities(np.zeros((0, 1))).shape == (0,)


def test_weights_of_mentions_without_a_right_candidate_are_refused():
    with pytest.raises(ValueError, match="no mention has a right candidate"):
        fusion.fit([np.ones((2, 1)), np.zeros((0, 1))], [np.zeros(2, bool), np.zeros(0, bool)], ["one"])


def test_products_learn_that_one_kind_of_evidence_counts_only_beside_another():
    draw = np.random.default_rng(0)
    tables, right = [], []
    for _ in range(1000):
        table = draw.normal(size=(5, 2))
        table[:, 1] = draw.random(5) < 0.5
        rows = np.zeros(5, bool)
        rows[np.argmax(np.where(table[:, 1] == 1, table[:, 0], -table[:, 0]))] = True
        tables.append(table)
        right.append(rows)
    shares = [np.mean([rows[np.argmax(found.scores(table))] for table, rows in zip(tables, right, strict=True)])
              for found in (fusion.fit(tables, right, ["value", "sign"], products=products) for products in (False, True))]  # fmt: skip
    assert shares[0] < 0.6 and shares[1] > 0.95


def test_mentions_are_found_by_the_longest_name_and_abbreviations_by_their_case():
    vocab = words(concept("A", "Leukemia", "ALL"), concept("B", "Acute Leukemia"), concept("C", "Heart Failure", "HF"))
    found = mention_finder.find("All patients had acute leukemia. Failure: heart. Then HF and ALL came.", NameIndex(vocab, None))
    assert [one.text for one in found.mentions] == ["acute leukemia", "HF", "ALL"]


# --- probabilities


@pytest.mark.parametrize(("slope", "shift"), [(2.0, 0.0), (0.5, 1.5)])
def test_a_calibrator_mends_slope_and_bias_on_data_that_it_has_not_seen(slope, shift):
    draw = np.random.default_rng(1)
    log_odds = draw.normal(0, 2, 4000)
    right = draw.random(4000) < 1 / (1 + np.exp(-(slope * log_odds + shift)))
    found = calibration.choose(log_odds[:2000], right[:2000], [str(number // 10) for number in range(2000)])
    before = calibration.measure(1 / (1 + np.exp(-log_odds[2000:])), right[2000:])
    after = calibration.measure(found.probabilities(log_odds[2000:]), right[2000:])
    assert after.ece_width < 0.03 < before.ece_width and after.nll < before.nll
    assert set(found.losses) == {"none", "temperature", "platt", "isotonic"} and found.losses[found.method] == min(
        found.losses.values()
    )


def test_probabilities_that_are_calibrated_already_stay_as_they_are():
    draw = np.random.default_rng(5)
    log_odds = draw.normal(0, 2, 500)
    right = draw.random(500) < 1 / (1 + np.exp(-log_odds))
    found = calibration.choose(log_odds, right, [str(number) for number in range(500)])
    assert found.method == "none" and np.allclose(found.probabilities(log_odds), 1 / (1 + np.exp(-log_odds)))


@pytest.mark.parametrize("method", calibration.METHODS)
def test_a_calibrator_is_a_rising_map_that_survives_json(method, tmp_path):
    from meerkat_workbench.core import artifacts

    draw = np.random.default_rng(2)
    log_odds = draw.normal(0, 2, 300)
    right = draw.random(300) < 1 / (1 + np.exp(-log_odds))
    found = calibration.fit(method, log_odds, right)
    artifacts.write(tmp_path / "c.json", found)
    again = artifacts.read(calibration.Calibrator, tmp_path / "c.json")
    grid = np.linspace(-8, 8, 200)
    values = again.probabilities(grid)
    assert np.array_equal(values, found.probabilities(grid))
    assert (np.diff(values) >= 0).all() and values.min() > 0 and values.max() < 1


def test_calibration_error_agrees_with_a_count_by_hand():
    probabilities = np.array([0.1, 0.1, 0.9, 0.9])
    right = np.array([False, True, True, True])
    found = calibration.measure(probabilities, right)
    assert found.ece_width == pytest.approx(0.5 * abs(0.1 - 0.5) + 0.5 * abs(0.9 - 1.0))
    assert found.brier == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    assert [one.n for one in calibration.reliability(probabilities, right)] == [2, 2]


def test_population_stability_is_small_for_equal_and_large_for_moved_scores():
    draw = np.random.default_rng(3)
    reference = draw.normal(size=2000)
    assert calibration.population_stability(reference, draw.normal(size=2000)) < 0.05
    assert calibration.population_stability(reference, draw.normal(1, 1, 2000)) > 0.25


TYPES = (SemanticType(id="top", name="Top"), SemanticType(id="mid", name="Mid", parent="top"), SemanticType(id="a", name="A", parent="mid"),
         SemanticType(id="b", name="B", parent="mid"), SemanticType(id="z", name="Z"))  # fmt: skip


def test_a_type_without_support_takes_its_parents_threshold_and_then_the_default():
    vocab = words(concept("A", "x"), types=TYPES)
    types = ["a"] * 40 + ["b"] * 5 + ["z"] * 5
    probabilities = np.concatenate([np.linspace(0, 1, 40), np.linspace(0, 1, 5), np.linspace(0, 1, 5)])
    right = np.concatenate([np.linspace(0, 1, 40) > 0.6, np.linspace(0, 1, 10) > 0.3])
    found = thresholds.fit(types, probabilities, right, right, vocab, min_support=20)
    decisions = [found.decide(one, vocab) for one in ("a", "b", "z", "unknown", "")]
    assert [one.level for one in decisions] == ["type", "parent", "default", "default", "default"]
    assert decisions[1].type == "mid"
    assert found.by_type["a"].value == pytest.approx(0.615, abs=0.01) and found.by_type["a"].f1 == 1.0


def test_a_threshold_reaches_the_precision_asked_for_or_links_nothing():
    probabilities, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True])
    reached = thresholds.best(probabilities, right, 3, precision=0.75)
    assert (reached.value, reached.precision, reached.recall) == (0.6, 0.75, 1.0)
    assert thresholds.best(probabilities, ~right, 1, precision=0.9).recall == 0


def test_equal_probabilities_are_linked_together():
    found = thresholds.best(np.array([0.5, 0.5, 0.5]), np.array([True, False, False]), 1, None)
    assert found.precision == pytest.approx(1 / 3, abs=1e-6)


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="needs ../shared/data")
def test_real_corpora_and_vocabularies_are_read():
    medic = vocabulary_files.read(SHARED_DATA / "medic" / "medic_06Jul2012.txt")
    assert len(medic.concepts) == 11_915
    ncbi = pubtator.read_pubtator(SHARED_DATA / "ncbi_disease" / "NCBItrainset_corpus.txt")
    assert len(ncbi) == 592  # one of the 593 occurs twice
    known = [medic.resolve(name) in medic.concepts for document in ncbi for one in document.mentions for name in one.concept_ids]
    assert all(known)
    umls = vocabulary_files.read(SHARED_DATA / "medquad_concepts.jsonl", types=SHARED_DATA / "medmentions" / "semantic_types.csv")
    assert umls.ancestors("T047") == ["T046", "T038", "T070", "T067", "T051"]
    [first, *_] = pubtator.read_pubtator(SHARED_DATA / "medmentions" / "sample_pubtator.txt")
    assert first.mentions[0].concept_ids == ("C4308010",)
