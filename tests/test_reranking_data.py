"""Data of the reranker: every form is read, questions are split by group, negatives answer no question."""

import gzip
import json
from pathlib import Path

import pytest
from conftest import SHARED_DATA, refused
from tiny_encoders import save_bi_encoder

from meerkat_workbench.reranking import negatives, splits
from meerkat_workbench.reranking.loaders import builder, forms, msmarco
from meerkat_workbench.reranking.loaders.builder import QuestionAnswer
from meerkat_workbench.reranking.negatives import MiningRules, NegativeCounts, PairKind
from meerkat_workbench.reranking.splits import RankingSplit
from meerkat_workbench.retrieval.documents import Document, JudgedQueries, Query
from meerkat_workbench.retrieval.index import DocumentIndex

MEDIQA = """<?xml version="1.0" encoding="UTF-8"?>
<MEDIQA2019-Task3-QA-ValidationSet>
  <Question QID="2"><QuestionText>What is gout?</QuestionText><AnswerList>
    <Answer AID="2_Answer2" SystemRank="2" ReferenceRank="1" ReferenceScore="4">
      <AnswerURL>u</AnswerURL><AnswerText>Gout is a form of arthritis.</AnswerText></Answer>
    <Answer AID="2_Answer1" SystemRank="1" ReferenceRank="2" ReferenceScore="2">
      <AnswerURL>u</AnswerURL><AnswerText>Acne &amp; skin.</AnswerText></Answer>
  </AnswerList></Question>
</MEDIQA2019-Task3-QA-ValidationSet>
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(path: Path, more: int = 0) -> JudgedQueries:
    data = forms.load(path, forms.detect(path), more_documents=more, seed=1)
    forms.check_answered(data, str(path))
    return data


# --- the forms


def test_mediqa_keeps_grades_and_the_system_s_order(tmp_path):
    data = load(write(tmp_path / "MEDIQA2019-Task3-QA-ValidationSet.xml", MEDIQA))
    [query] = data.queries
    assert [one.document_id[-1] for one in data.candidates[query]] == ["1", "2"]
    by_text = {data.documents[name].text: grade for name, grade in data.judgements[query].items()}
    assert by_text == {"Gout is a form of arthritis.": 3, "Acne & skin.": 1} and len(data.relevant(query)) == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (' ReferenceScore="4"', "", "2_Answer2"),
        ('ReferenceScore="4"', 'ReferenceScore="5"', "grade 5"),
        ("What is gout?", " ", "QuestionText"),
        ("</AnswerList>", "", "XML"),
    ],
)
def test_a_faulty_mediqa_file_is_refused_with_question_and_answer(tmp_path, old, new, words):
    path = write(tmp_path / "set.xml", MEDIQA.replace(old, new, 1))
    assert words in refused(lambda: load(path))


def test_a_beir_folder_is_read_also_with_gzip(tmp_path):
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(
            '{"_id": "d1", "title": "Gout", "text": "A form of arthritis."}\n{"_id": "d2", "title": "", "text": "Acne."}\n'
        )
    write(tmp_path / "queries.jsonl", '{"_id": "q1", "text": "What is gout?"}\n{"_id": "unused", "text": "x"}\n')
    write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    data = load(tmp_path)
    assert set(data.queries) == {"q1"} and set(data.documents) == {"d1", "d2"} and data.relevant("q1") == {"d1"}
    write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq1\td9\t1\n")
    assert "d9" in refused(lambda: load(tmp_path))


def test_ms_marco_keeps_judged_passages_and_a_sample_of_the_others(tmp_path):
    write(tmp_path / "collection.tsv", "".join(f"{number}\tpassage {number}\n" for number in range(50)))
    write(tmp_path / "queries.dev.tsv", "7\twhat is gout\n8\tnot judged\n")
    write(tmp_path / "qrels.dev.tsv", "7\t0\t31\t1\n")
    data = load(tmp_path, more=5)
    assert set(data.queries) == {"7"} and data.relevant("7") == {"31"} and len(data.documents) == 6
    assert set(load(tmp_path, more=5).documents) == set(data.documents)
    write(tmp_path / "qrels.dev.tsv", "7\t0\t99\t1\n")
    assert "99" in refused(lambda: load(tmp_path))


def test_trec_dl_counts_grades_of_two_and_more_as_relevant(tmp_path):
    write(tmp_path / "collection.tsv", "1\tone\n2\ttwo\n3\tthree\n")
    write(tmp_path / "msmarco-test2019-queries.tsv", "264014\thow long is life cycle of flea\n")
    write(tmp_path / "2019qrels-pass.txt", "264014 Q0 1 3\n264014 Q0 2 1\n264014 Q0 3 0\n")
    assert load(tmp_path).relevant("264014") == {"1"}


def test_triples_are_read_without_a_header_and_a_passage_that_is_relevant_once_stays_so(tmp_path):
    path = write(tmp_path / "triples.train.small.tsv", "what is gout\tarthritis\tacne\nwhat is gout\turic acid\tarthritis\n")
    data = load(path)
    [query] = data.queries
    assert {data.documents[name].text for name in data.relevant(query)} == {"arthritis", "uric acid"}
    write(path, "what is gout\tarthritis\n\tx\ty\n")
    assert "line 1" in refused(lambda: msmarco.read_triples(path))


def test_quora_pairs_are_read_by_their_header(tmp_path):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    data = load(
        write(
            tmp_path / "quora.tsv",
            header + '0\t1\t2\tWhat is gout?\tWhat does "gout" mean?\t1\n1\t3\t4\tWhat is acne?\tWhat is rust?\t0\n',
        )
    )
    assert sum(len(data.relevant(name)) for name in data.queries) == 1 and len(data.queries) == 2


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv"])
def test_plain_pairs_are_read_and_labels_outside_their_range_are_refused(tmp_path, name):
    def text(label):
        rows = [
            {"query": "What is gout?", "document": "A form of arthritis.", "label": 1},
            {"query": "What is gout?", "document": "Acne.", "label": label},
        ]
        if name.endswith("jsonl"):
            return "\n".join(json.dumps(row) for row in rows)
        return "query,document,label\n" + "\n".join(f"{row['query']},{row['document']},{row['label']}" for row in rows)

    data = load(write(tmp_path / name, text(0)))
    [query] = data.queries
    assert len(data.judgements[query]) == 2 and len(data.relevant(query)) == 1
    for label in (-1, 0.5, "yes"):
        said = refused(lambda label=label: load(write(tmp_path / name, text(label))))
        assert "row 2" in said and str(label) in said


def test_questions_that_say_the_same_are_one_query_and_equal_answers_one_document():
    data = builder.from_question_answers([
        QuestionAnswer("What is gout?", "A form of arthritis."), QuestionAnswer("what is GOUT", "Uric acid crystals."),
        QuestionAnswer("What is podagra?", "A form of arthritis."),
    ])  # fmt: skip
    assert len(data.queries) == 2 and len(data.documents) == 2
    assert sorted(len(data.relevant(name)) for name in data.queries) == [1, 2]


def test_data_without_any_relevant_document_and_paths_of_no_form_are_refused(tmp_path):
    path = write(tmp_path / "pairs.csv", "query,document,label\nWhat?,That.,0\n")
    assert "no query with a relevant document" in refused(lambda: load(path))
    assert "no such" in refused(lambda: forms.detect(tmp_path / "absent.csv"))
    assert "FORMAT" in refused(lambda: forms.detect(write(tmp_path / "x" / "notes.md", "x").parent))


def test_a_set_of_the_hub_says_that_it_could_not_be_downloaded():
    assert forms.detect(Path("BeIR/nfcorpus")) == "hub"
    assert "could not be downloaded" in refused(lambda: load(Path("BeIR/nfcorpus")))


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no ../shared/data")
def test_the_real_mediqa_files_are_read_whole():
    data = load(SHARED_DATA / "mediqa")
    assert len(data.queries) == 233 and len(data.documents) == 1935


# --- splits


def questions(count):
    return [QuestionAnswer(f"What is the treatment of disease{number}?", f"Drug{number} is given.") for number in range(count)]


SHARES = {RankingSplit.TEST: 0.2, RankingSplit.VALIDATION: 0.1}


def split_of(data: JudgedQueries, seed: int) -> dict[str, RankingSplit]:
    return splits.split(data, splits.group_queries(data), SHARES, seed)


def test_every_split_has_its_share_and_the_order_of_the_data_does_not_matter():
    pairs = questions(100)
    split = split_of(builder.from_question_answers(pairs), seed=1)
    assert [list(split.values()).count(one) for one in (RankingSplit.TEST, RankingSplit.VALIDATION)] == [20, 10]
    assert split_of(builder.from_question_answers(pairs[::-1]), seed=1) == split
    assert split_of(builder.from_question_answers(pairs), seed=2) != split


def test_near_same_questions_and_shared_answers_are_never_divided():
    pairs = questions(60)
    near = [QuestionAnswer("What are the early warning signs and symptoms of gout in adults?", "Pain."),
            QuestionAnswer("What are the early warning signs and symptoms of gout in most adults?", "Swelling.")]  # fmt: skip
    shared = [
        QuestionAnswer("Who treats acne?", "A dermatologist."),
        QuestionAnswer("Whom to ask about eczema?", "A dermatologist."),
    ]
    data = builder.from_question_answers([*pairs, *near, *shared])
    group = splits.group_queries(data)
    assert len(set(group.values())) == 62  # the treatments of two diseases are two questions
    name_of = {query.text: name for name, query in data.queries.items()}
    assert group[name_of[near[0].question]] == group[name_of[near[1].question]]
    assert group[name_of[shared[0].question]] == group[name_of[shared[1].question]]
    for seed in range(5):
        split = split_of(data, seed)
        assert all(len({split[name] for name in data.queries if group[name] == one}) == 1 for one in set(group.values()))


def test_too_few_groups_are_refused():
    assert "too few" in refused(lambda: split_of(builder.from_question_answers(questions(2)), seed=1))


# --- negatives


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mining")
    made = DocumentIndex.create(folder / "index", "fused", save_bi_encoder(folder))
    made.add(builder.from_question_answers(questions(30)).documents.values())
    return made


def choose(data, counts, index=None, rules=None, teacher=None):
    return negatives.choose(data, counts, rules or MiningRules(relative_margin=0.0), index, teacher, seed=1)


def test_no_negative_answers_its_question_and_each_kind_has_its_number(index):
    data = builder.from_question_answers(questions(30))
    chosen = choose(data, NegativeCounts(2, 1, 3), index, MiningRules(relative_margin=-9.0))
    for query, found in chosen.by_query.items():
        names = [name for name, _ in found]
        assert not set(names) & data.relevant(query) and len(names) == len(set(names))
        kinds = [kind for _, kind in found]
        assert [kinds.count(kind) for kind in (PairKind.OTHER_QUESTION, PairKind.UNRELATED, PairKind.MINED)] == [2, 1, 3]
    assert choose(data, NegativeCounts(2, 1, 3), index, MiningRules(relative_margin=-9.0)).by_query == chosen.by_query


def test_a_copy_of_the_answer_under_another_id_is_skipped_and_counted():
    queries = {"q": Query(id="q", text="What is gout?"), "p": Query(id="p", text="What is acne?")}
    docs = {
        "a": Document(id="a", text="A form of arthritis."),
        "copy": Document(id="copy", text="a form of  arthritis"),
        "b": Document(id="b", text="Acne."),
    }
    data = JudgedQueries(queries, docs, {"q": {"a": 1}, "p": {"copy": 1, "b": 1}})
    chosen = choose(data, NegativeCounts(2, 0, 0))
    assert [name for name, _ in chosen.by_query["q"]] == ["b"]
    assert chosen.skipped["is a copy of an answer"] == 2  # each question skips the other copy


def test_candidates_as_similar_as_the_answer_are_skipped_and_counted(index):
    data = builder.from_question_answers(questions(30))
    chosen = choose(data, NegativeCounts(0, 0, 3), index, MiningRules(relative_margin=0.99))
    assert not any(chosen.by_query.values())
    assert chosen.skipped["is as similar to the query as its answer"] > 0


def test_a_teacher_s_relevant_candidates_are_skipped_and_counted(index):
    class Believer:
        def logits(self, pairs):
            import numpy as np

            return np.array([9.0 if "Drug1 " in document else -9.0 for _, document in pairs])

    data = builder.from_question_answers(questions(30))
    chosen = choose(data, NegativeCounts(0, 0, 9), index, MiningRules(relative_margin=-9.0), Believer())
    liked = next(name for name, one in data.documents.items() if one.text == "Drug1 is given.")
    assert all(liked not in [name for name, _ in found] for found in chosen.by_query.values())
    assert chosen.skipped["is relevant to the teacher"] > 0


def test_ranks_outside_the_window_are_not_mined(index):
    data = builder.from_question_answers(questions(30))
    [query, *_] = data.queries
    ranking = [one.document_id for one in index.search(data.queries[query].text, 6)]
    chosen = choose(data, NegativeCounts(0, 0, 10), index, MiningRules(first_rank=3, last_rank=6, relative_margin=-9.0))
    assert {name for name, _ in chosen.by_query[query]} == set(ranking[2:]) - data.relevant(query)


def test_judged_documents_that_are_not_relevant_are_all_negatives():
    data = JudgedQueries(
        {"q": Query(id="q", text="What?")},
        {name: Document(id=name, text=name) for name in "abc"},
        {"q": {"a": 2, "b": 1, "c": 0}},
        2,
    )
    assert choose(data, NegativeCounts(0, 0, 0)).by_query["q"] == [("b", PairKind.JUDGED), ("c", PairKind.JUDGED)]
