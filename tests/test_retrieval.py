"""Retrieval that tasks share: files of BEIR and TREC, measures, fusion, BM25, indexes that survive kills, two-stage retrieval."""

import itertools
import json
import math

import numpy as np
import pytest
from conftest import refused
from tiny_encoders import save_bert, save_bi_encoder

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.retrieval import documents, fusion, measures
from meerkat_workbench.retrieval.bm25 import Bm25
from meerkat_workbench.retrieval.documents import Document, JudgedQueries, Query, Scored
from meerkat_workbench.retrieval.index import DocumentIndex
from meerkat_workbench.retrieval.pipeline import RetrievalPipeline

GOUT = Document(id="gout", text="Gout is treated with colchicine and allopurinol.")
ASTHMA = Document(id="asthma", text="Asthma is treated with inhaled corticosteroids.")
ACNE = Document(id="acne", text="Acne is treated with benzoyl peroxide.")


def judged(judgements, relevant_from=1):
    queries = {name: Query(id=name, text=f"question {name}") for name in judgements}
    names = {name for found in judgements.values() for name in found}
    return JudgedQueries(queries, {name: Document(id=name, text=name) for name in names}, judgements, relevant_from)


# --- files


def test_rows_of_beir_are_read_and_written_back(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": 7, "title": "Gout", "text": "A form of arthritis.", "metadata": {}}\n', encoding="utf-8")
    [found] = documents.read_documents(path).values()
    assert (found.id, found.content) == ("7", "Gout\nA form of arthritis.")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"_id": "a", "text": "x"}', '{"_id": "a", "text": "y"}'], ["line 2", "a", "twice"]),
        (['{"_id": "a", "text": " "}'], ["line 1", "a", "empty"]),
        (['{"_id": "a"}'], ["line 1", "text"]),
        (["no json"], ["line 1", "JSON"]),
    ],
)
def test_a_faulty_row_is_refused_with_its_line(tmp_path, lines, words):
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    said = refused(lambda: documents.read_documents(path))
    assert all(word in said for word in ["corpus.jsonl", *words]), said


def test_judgements_are_read_in_the_forms_of_beir_and_trec(tmp_path):
    beir, trec = tmp_path / "dev.tsv", tmp_path / "2019qrels-pass.txt"
    beir.write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\n", encoding="utf-8")
    trec.write_text("q1 0 d1 2\nq1 0 d2 0\n", encoding="utf-8")
    assert documents.read_judgements(beir) == {"q1": {"d1": 2}}
    assert documents.read_judgements(trec) == {"q1": {"d1": 2, "d2": 0}}
    trec.write_text("q1 0 d1 two\n", encoding="utf-8")
    assert "line 1" in refused(lambda: documents.read_judgements(trec))


def test_a_written_run_has_the_same_order_for_every_tool(tmp_path):
    """trec_eval reads scores in 32 bits and orders equal ones by id."""
    path = tmp_path / "a.run"
    ranking = [Scored("a", 40.00000001), Scored("z", 40.0), Scored("m", 40.0), Scored("b", 1.0)]
    documents.write_run(path, {"q": ranking}, "test")
    scores = [np.float32(line.split()[4]) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(first > second for first, second in itertools.pairwise(scores))
    assert [one.document_id for one in documents.read_run(path)["q"]] == ["a", "z", "m", "b"]


def test_a_run_that_ranks_a_document_twice_is_refused(tmp_path):
    path = tmp_path / "a.run"
    path.write_text("q Q0 d 1 2.0 x\nq Q0 d 2 1.0 x\n", encoding="utf-8")
    assert "twice" in refused(lambda: documents.read_run(path))


# --- measures


def test_relevant_documents_that_were_not_ranked_count_in_the_denominator():
    data = judged({"q": {"a": 1, "b": 1, "c": 0}})
    scores = measures.score({"q": [Scored("a", 1.0), Scored("c", 0.5)]}, data, ["AP", "nDCG@10", "RR@10", "P@1", "R@10"])
    assert scores.mean("AP") == pytest.approx(0.5) and scores.mean("R@10") == 0.5 and scores.mean("P@1") == 1.0
    assert scores.mean("nDCG@10") == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_a_query_that_the_run_does_not_rank_scores_zero_and_one_without_answers_is_left_out():
    data = judged({"q": {"a": 1}, "unranked": {"a": 1}, "unanswered": {"a": 0}})
    scores = measures.score({"q": [Scored("a", 1.0)]}, data, ["AP"])
    assert scores.query_ids == ["q", "unranked"] and list(scores.values["AP"]) == [1.0, 0.0]


def test_the_threshold_of_relevance_and_grades_count():
    data = judged({"q": {"a": 1, "b": 3}}, relevant_from=2)
    scores = measures.score({"q": [Scored("a", 2.0), Scored("b", 1.0)]}, data, ["P@1", "RR@10", "nDCG@10"])
    assert scores.mean("P@1") == 0.0 and scores.mean("RR@10") == 0.5
    assert scores.mean("nDCG@10") == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))


def test_the_order_of_equal_scores_is_the_ranking_s_own():
    data = judged({"q": {"a": 1, "z": 0}})
    assert measures.score({"q": [Scored("a", 1.0), Scored("z", 1.0)]}, data, ["P@1"]).mean("P@1") == 1.0
    assert measures.score({"q": [Scored("z", 1.0), Scored("a", 1.0)]}, data, ["P@1"]).mean("P@1") == 0.0


def test_an_unknown_measure_is_refused_with_an_example():
    assert "nDCG@10" in refused(lambda: measures.score({}, judged({"q": {"a": 1}}), ["nothing@10"]))


# --- first stages and fusion


def test_bm25_finds_words_by_their_stem_and_words_without_spaces():
    index = Bm25([GOUT, ASTHMA, Document(id="zh", text="痛风的治疗方法是秋水仙碱。")])
    assert index.search("treating gout", 3)[0].document_id == "gout"
    assert index.search("痛风怎么治疗", 3)[0].document_id == "zh"
    assert index.search("xyzzy", 3) == [] and Bm25([]).search("gout", 3) == []


def test_reciprocal_ranks_are_summed_over_the_rankings_that_hold_a_document():
    joined = fusion.reciprocal_rank_fusion([[Scored("a", 9), Scored("b", 1)], [Scored("b", 3), Scored("c", 2)]], k=10)
    assert [one.document_id for one in joined] == ["b", "a", "c"]
    assert joined[0].score == pytest.approx(1 / 12 + 1 / 11)


def test_fusion_learns_which_ranker_to_trust():
    draw = np.random.default_rng(0)
    queries = []
    for _ in range(60):
        relevant = draw.random(8) < 0.4
        queries.append(({"good": relevant + draw.normal(0, 0.5, 8), "noise": draw.normal(0, 1, 8)}, relevant))
    learnt = fusion.fit_linear(queries, ["good", "noise"])
    assert learnt.weights[0] > 5 * abs(learnt.weights[1])


def test_fusion_without_anything_to_learn_from_weighs_all_alike():
    assert fusion.fit_linear([({"a": np.ones(2)}, np.ones(2, bool))], ["a"]).weights == [1.0]


# --- the index


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_bi_encoder(tmp_path_factory.mktemp("encoder"))


def stores():
    return [
        "faiss",
        pytest.param("chroma", marks=pytest.mark.skipif(not _installed("chromadb"), reason="chromadb is not installed")),
    ]


def _installed(name):
    import importlib.util

    return importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("store", stores())
def test_documents_are_added_replaced_and_deleted_and_found_again_when_opened(tmp_path, encoder, store):
    index = DocumentIndex.create(tmp_path / "index", "fused", encoder, store=store)
    assert vars(index.add([GOUT, ASTHMA])) == {"added": 2, "replaced": 0, "unchanged": 0}
    changed = Document(id="gout", text="Gout is a form of arthritis.")
    assert vars(index.add([changed, ASTHMA, ACNE])) == {"added": 1, "replaced": 1, "unchanged": 1}
    index.delete(["asthma"])
    opened = DocumentIndex.open(tmp_path / "index")
    assert set(opened.documents) == {"gout", "acne"} and opened.documents["gout"] == changed
    for found in (index, opened):
        assert found.search("arthritis", 5)[0].document_id == "gout"
        assert {one.document_id for one in found.search("peroxide", 5)} == {"gout", "acne"}
        cosine = found.scores("arthritis", ["acne", "gout"])["dense"]
        [query], vectors = found.encoder.embed(["arthritis"]), found.encoder.embed([ACNE.content, changed.content])
        assert cosine == pytest.approx(vectors @ query, abs=1e-5)


def test_a_kill_before_the_description_is_written_leaves_the_last_state(tmp_path, encoder, monkeypatch):
    from meerkat_workbench.core import artifacts

    index = DocumentIndex.create(tmp_path / "index", "dense", encoder)
    index.add([GOUT])
    written = artifacts.write

    def killed(path, artifact):
        if path.name == "index.json":
            raise KeyboardInterrupt
        written(path, artifact)

    monkeypatch.setattr(artifacts, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        index.add([ACNE])
    monkeypatch.undo()
    opened = DocumentIndex.open(tmp_path / "index")
    assert set(opened.documents) == {"gout"} == {one.document_id for one in opened.search("acne", 5)}
    opened.add([ACNE])
    assert set(DocumentIndex.open(tmp_path / "index").documents) == {"gout", "acne"}


def test_nothing_of_a_batch_with_a_faulty_document_is_added(tmp_path):
    index = DocumentIndex.create(tmp_path / "index", "bm25", "")
    assert "acne" in refused(lambda: index.add([ACNE, ACNE]))
    assert "no text" in refused(lambda: index.add([GOUT, Document(id="blank", text=" ")]))
    assert not index.documents
    index.add([GOUT])
    assert "nowhere" in refused(lambda: index.delete(["gout", "nowhere"])) and set(index.documents) == {"gout"}


def test_an_index_made_by_another_model_is_refused(tmp_path, encoder):
    DocumentIndex.create(tmp_path / "index", "dense", encoder).add([GOUT])
    path = tmp_path / "index" / "index.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**described, "encoder_identity": "another"}), encoding="utf-8")
    assert "other weights" in refused(lambda: DocumentIndex.open(tmp_path / "index"))


def test_a_folder_that_is_no_index_is_neither_opened_nor_filled(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert "is not an index" in refused(lambda: DocumentIndex.open(tmp_path))
    assert "other files" in refused(lambda: DocumentIndex.create(tmp_path, "bm25", ""))


# --- two stages


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    from meerkat_workbench.retrieval import cross_encoder

    return cross_encoder.load(save_bert(tmp_path_factory.mktemp("cross"), classifier=True))


def test_passages_are_ranked_by_logit_and_show_both_stages(tmp_path, reranker):
    index = DocumentIndex.create(tmp_path / "index", "bm25", "")
    pipeline = RetrievalPipeline(index, reranker)
    pipeline.index_documents([GOUT, ASTHMA, ACNE])
    first = pipeline.retrieve("How is gout treated?", 3)
    found = pipeline.retrieve_and_rerank("How is gout treated?", 3)
    assert [one.first_rank for one in first] == [1, 2, 3] and first[0].document is GOUT
    assert [one.rank for one in found] == [1, 2, 3]
    assert [one.logit for one in found] == sorted((one.logit for one in found), reverse=True)
    for one in found:
        assert one.probability == pytest.approx(1 / (1 + math.exp(-one.logit)))
        assert one.first_rank == next(other.first_rank for other in first if other.document is one.document)


def test_a_corpus_of_one_an_empty_query_and_an_empty_index_have_clear_answers(tmp_path, reranker):
    index = DocumentIndex.create(tmp_path / "index", "bm25", "")
    pipeline = RetrievalPipeline(index, reranker)
    assert "no document" in refused(lambda: pipeline.retrieve("gout"))
    pipeline.index_documents([GOUT])
    assert [one.document.id for one in pipeline.retrieve_and_rerank("gout", 10)] == ["gout"]
    assert pipeline.retrieve_and_rerank("xyzzy", 10) == []
    assert "--query" in refused(lambda: pipeline.retrieve(" \u200b"))


# --- cross-encoders


def test_logits_are_those_of_sentence_transformers_whatever_the_batch(reranker):
    from sentence_transformers import CrossEncoder

    pairs = [("How is gout treated?", GOUT.content), ("gout", ACNE.content * 3), ("What?", "x")]
    wanted = CrossEncoder(reranker.model[0].model.name_or_path, device="cpu").predict(
        pairs, activation_fn=__import__("torch").nn.Identity()
    )
    assert reranker.logits(pairs) == pytest.approx(wanted, abs=1e-5)
    assert reranker.logits(pairs, batch_size=1) == pytest.approx(wanted, abs=1e-5)
    assert reranker.logits([]).shape == (0,)


def test_pairs_longer_than_the_input_are_cut_and_counted(tmp_path):
    from meerkat_workbench.retrieval import cross_encoder

    model = cross_encoder.load(save_bert(tmp_path, classifier=True))
    model.logits([("short", "pair"), ("long", "word " * 1000)])
    assert model.truncated == 1


def test_a_model_without_a_head_is_refused(tmp_path, encoder):
    from meerkat_workbench.retrieval import cross_encoder

    plain = save_bert(tmp_path / "plain")
    assert "no head" in refused(lambda: cross_encoder.load(plain))
    assert "bi-encoder" in refused(lambda: cross_encoder.load(encoder))
    with pytest.raises(UserError, match="onnx"):
        cross_encoder.load(save_bert(tmp_path / "head", classifier=True), "onnx-int8")


def test_two_runs_on_one_index_do_not_lose_each_other_s_documents(tmp_path):
    DocumentIndex.create(tmp_path / "index", "bm25", "").add([GOUT])
    one, other = DocumentIndex.open(tmp_path / "index"), DocumentIndex.open(tmp_path / "index")
    one.add([ASTHMA])
    assert "another run" in refused(lambda: other.add([ACNE]))
    DocumentIndex.open(tmp_path / "index").add([ACNE])
    assert set(DocumentIndex.open(tmp_path / "index").documents) == {"gout", "asthma", "acne"}


def test_an_index_that_lost_its_documents_is_refused(tmp_path):
    DocumentIndex.create(tmp_path / "index", "bm25", "").add([GOUT])
    (tmp_path / "index" / "generation-1" / "corpus.jsonl").unlink()
    assert "corpus.jsonl" in refused(lambda: DocumentIndex.open(tmp_path / "index"))


@pytest.mark.skipif(not _installed("chromadb"), reason="chromadb is not installed")
def test_vectors_of_a_killed_change_are_brought_back_to_the_documents(tmp_path, encoder):
    index = DocumentIndex.create(tmp_path / "index", "dense", encoder, store="chroma")
    index.add([GOUT, ASTHMA])
    wanted = set(index.store.ids())
    index.store.delete([name for name in wanted if name.endswith(":gout")])
    index.store.add(["0000:gout"], index.encoder.embed(["another text"]))  # a replacement that was never finished
    opened = DocumentIndex.open(tmp_path / "index")
    assert set(opened.store.ids()) == wanted
    assert opened.scores(GOUT.content, ["gout"])["dense"][0] == pytest.approx(1.0, abs=1e-4)


def test_equal_scores_of_a_run_are_ordered_as_trec_eval_orders_them(tmp_path):
    import pytrec_eval

    path = tmp_path / "a.run"
    path.write_text("q Q0 a 1 2.0 x\nq Q0 z 2 2.0 x\nq Q0 m 3 2.00000001 x\n", encoding="utf-8")
    for relevant in "azm":
        theirs = pytrec_eval.RelevanceEvaluator({"q": {relevant: 1}}, {"P_1"}).evaluate(
            {"q": {"a": 2.0, "z": 2.0, "m": 2.00000001}}
        )
        data = judged({"q": {name: int(name == relevant) for name in "azm"}})
        assert measures.score(documents.read_run(path), data, ["P@1"]).mean("P@1") == theirs["q"]["P_1"]


def test_an_id_with_a_space_is_not_written_into_a_run_and_a_line_with_one_is_refused(tmp_path):
    assert "white space" in refused(lambda: documents.write_run(tmp_path / "a.run", {"q": [Scored("doc 1", 1.0)]}, "x"))
    (tmp_path / "b.run").write_text("q Q0 doc 1 1 0.5 x\n", encoding="utf-8")
    assert "line 1" in refused(lambda: documents.read_run(tmp_path / "b.run"))


def test_the_first_stage_that_is_measured_is_the_one_that_is_served(tmp_path, encoder):
    from meerkat_workbench.reranking import candidates

    index = DocumentIndex.create(tmp_path / "index", "fused", encoder)
    index.add([GOUT, ASTHMA, ACNE])
    for text in ("How is gout treated?", "Behandlung?"):  # the second shares no word with any document
        data = JudgedQueries({"q": Query(id="q", text=text)}, index.documents, {"q": {"acne": 1}})
        [found] = candidates.of_first_stage(data, index, 3)
        assert found.ranking("first_stage") == index.search(text, 3)
        given = JudgedQueries(
            data.queries,
            data.documents,
            data.judgements,
            candidates={"q": [Scored("acne", 3), Scored("gout", 2), Scored("asthma", 1)]},
        )
        [found] = candidates.of_first_stage(given, index, 3)
        assert set(found.scores) == {"system", "bm25", "dense", "first_stage"}
        if text == "Behandlung?":
            joined = fusion.reciprocal_rank_fusion([found.ranking("system"), found.ranking("dense")])
            assert [one.document_id for one in found.ranking("first_stage")] == [one.document_id for one in joined]
