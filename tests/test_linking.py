"""The entity linker: the whole chain on the sample, splits, pairs, kills, files, statistics, concepts in answers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, refused, run_processes, run_script
from tiny_encoders import save_bert, save_bi_encoder

import entity_linking
from meerkat_workbench.concepts import vocabulary
from meerkat_workbench.concepts.answer_concepts import AnswerConcepts
from meerkat_workbench.concepts.artifacts import LinkerDescription
from meerkat_workbench.concepts.candidates import EVIDENCE, CandidateGenerator, TrainingNames
from meerkat_workbench.concepts.linker import Linker
from meerkat_workbench.concepts.name_index import NameIndex
from meerkat_workbench.concepts.pubtator import AnnotatedDocument, Mention
from meerkat_workbench.concepts.vocabulary import Concept
from meerkat_workbench.core import artifacts
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.linking import composites, scoring, splits, statistics, train
from meerkat_workbench.linking.artifacts import (
    AccuracyRow,
    CalibrationReport,
    LinkingEvaluationManifest,
    LinkPairKind,
    LinkPairRow,
    LinkRow,
    LinkStatistics,
    LinkTrainingManifest,
    RecallRow,
    ThresholdRow,
    documents_file,
)
from meerkat_workbench.linking.splits import LinkSplit, SplitRules
from meerkat_workbench.output import tables

SAMPLE = ROOT / "examples" / "linking"


def settings(folder: Path, encoder: str, base: str, **more: object) -> list[str]:
    values: dict[str, object] = {
        "CORPUS": SAMPLE / "corpus.PubTator", "VOCABULARY": SAMPLE / "concepts.jsonl", "TYPES": SAMPLE / "types.csv",
        "STATISTICS_DIR": folder / "statistics", "DATASET_DIR": folder / "data", "OUTPUT_DIR": folder / "training", "LINKER_DIR": folder / "linker", "EVALUATION_DIR": folder / "evaluation",
        "ENCODER": encoder, "MODEL_NAME": base, "LEARNING_RATE": 1e-3, "MAX_LENGTH": 64, "BATCH_SIZE": 32, "GRADIENT_ACCUMULATION_STEPS": 1,
        "NUM_EPOCHS": 0.5, "READ": 4, "EVAL_MENTIONS": 60, "SAVE_STEPS": 5, "MIN_SUPPORT": 20, "NEGATIVES_SEMANTIC": 3, "NEGATIVES_SAME_TYPE": 1,
        "NEGATIVES_RANDOM": 1, "SYNONYM_MENTIONS": 20, "VALIDATION_SHARE": 0.2, "CALIBRATE_SHARE": 0.2, "TUNE_SHARE": 0.2,
    } | more  # fmt: skip
    return [f"{name}={value}" for name, value in values.items()]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_bi_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def chain(tmp_path_factory, base, encoder):
    """A folder in which `pipeline` has run."""
    folder = tmp_path_factory.mktemp("linking")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["entity_linking.py", "pipeline", *settings(folder, encoder, base)])
        entity_linking.main()
    return folder


# --- data


def test_splits_are_disjoint_and_complete(chain):
    found = {one: artifacts.read_lines(AnnotatedDocument, chain / "data" / documents_file(one)) for one in LinkSplit}
    ids = [document.id for documents in found.values() for document in documents]
    assert len(ids) == len(set(ids)) == 320
    assert all(found.values())


def test_a_document_keeps_its_split_when_lists_name_it_and_no_list_may_repeat_it(tmp_path):
    documents = [
        AnnotatedDocument(str(number), f"text {number}", [Mention(str(number), 0, 4, "text", "d", ("A",))])
        for number in range(20)
    ]
    (tmp_path / "train").write_text("1\n2\n3\n")
    (tmp_path / "test").write_text("4\n5\n")
    rules = SplitRules({LinkSplit.TRAIN: tmp_path / "train", LinkSplit.TEST: tmp_path / "test"}, [], {LinkSplit.TUNE: 0.2}, 1)
    divided = splits.divide(documents, [], rules)
    assert [one.id for one in divided[LinkSplit.TEST]] == ["4", "5"]
    assert {one.id for one in divided[LinkSplit.TRAIN] + divided[LinkSplit.TUNE]} == {"1", "2", "3"}
    (tmp_path / "test").write_text("3\n")
    assert "document 3" in refused(lambda: splits.divide(documents, [], rules))


def test_documents_of_a_test_corpus_are_in_no_other_split():
    one, same_text = AnnotatedDocument("1", "Gout hurts."), AnnotatedDocument("9", "Gout hurts!")
    divided = splits.divide([one, AnnotatedDocument("2", "other")], [same_text], SplitRules({}, [], {}, 1))
    assert [document.id for document in divided[LinkSplit.TRAIN]] == ["2"] and divided[LinkSplit.TEST] == [same_text]


def test_no_negative_names_the_right_concept_or_shares_a_name_with_it(chain):
    rows = artifacts.read_lines(LinkPairRow, chain / "data" / LinkPairRow.FILE)
    vocabulary = [json.loads(line) for line in (SAMPLE / "concepts.jsonl").read_text().splitlines()]
    names = {one["id"]: {name.lower() for name in (one["name"], *one["synonyms"])} for one in vocabulary}
    groups: dict[int, list[LinkPairRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    for group in groups.values():
        right = [row for row in group if row.kind is LinkPairKind.POSITIVE]
        assert len(right) == 1 and right[0].label == 1
        for row in group:
            assert row is right[0] or (row.label == 0 and not names[row.concept_id] & names[right[0].concept_id])
    assert {row.kind for row in rows} == set(LinkPairKind)


def test_a_name_that_stands_for_a_mention_is_not_read_off_its_concept(chain):
    rows = [
        row for row in artifacts.read_lines(LinkPairRow, chain / "data" / LinkPairRow.FILE) if not row.document_id and row.label
    ]
    assert len(rows) == 20
    assert not any(row.mention in row.concept.split(" ; ") for row in rows)


# --- training, calibration, evaluation


def test_a_training_measures_the_cross_encoder_beside_the_first_stage(chain):
    manifest = LinkTrainingManifest.require(chain / "training")
    assert manifest.kept is not None and manifest.before is not None
    assert manifest.kept.accuracy >= manifest.before.accuracy
    assert manifest.fused >= manifest.first_stage - 0.02


def test_training_mentions_are_weighed_without_the_names_of_their_own_document():
    def document(identifier: str, name: str, concept_id: str) -> AnnotatedDocument:
        return AnnotatedDocument(identifier, name, [Mention(identifier, 0, len(name), name, "", (concept_id,))])

    words = vocabulary.build([Concept(id="A", name="Gout"), Concept(id="B", name="Asthma")], [], "test")
    documents = [
        document("1", "podagra", "A"),
        document("2", "podagra", "A"),
        document("3", "wheezing lungs", "B"),
        AnnotatedDocument("4", "nothing", []),
    ]
    generator = CandidateGenerator(words, NameIndex(words, None), TrainingNames.count(documents, words))
    folds = list(train.cross_fitted(documents, generator))
    trained = {mention.document_id: dict(zip(found.concept_ids, found.evidence[:, EVIDENCE.index("trained")], strict=True))
               for fold in folds for mention, found in zip(fold.mentions, fold.found, strict=True)}  # fmt: skip
    assert len(folds) == 3  # three documents have mentions, and each is in a fold
    assert trained["1"]["A"] == trained["2"]["A"] == pytest.approx(np.log(2))  # the other document's mention, not its own
    assert not any(trained["3"].values())


@pytest.mark.slow
def test_two_processes_train_one_linker_and_log_their_measures(chain, base, encoder, tmp_path):
    command = [
        "entity_linking.py",
        "train",
        *settings(chain, encoder, base, OUTPUT_DIR=tmp_path / "two", BATCH_SIZE=16, REPORT_TO="tensorboard"),
    ]
    done = run_processes(2, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    two, one = LinkTrainingManifest.require(tmp_path / "two"), LinkTrainingManifest.require(chain / "training")
    # 16 rows on each of two processes are the 32 of one; the last rows of an epoch that are no whole step are left out
    assert two.processes == 2 and one.steps - 1 <= two.steps <= one.steps and two.kept and two.before
    assert two.first_stage == one.first_stage and done.stdout.count("the linker, not calibrated yet") == 1
    assert list((tmp_path / "two").rglob("events.*"))


def test_calibration_reports_before_and_after_on_documents_that_the_calibrator_has_not_seen(chain):
    report = artifacts.read(CalibrationReport, chain / "linker" / CalibrationReport.FILE)
    tuned = artifacts.read_lines(AnnotatedDocument, chain / "data" / documents_file(LinkSplit.TUNE))
    assert report.after.n == report.before.n == sum(len(one.mentions) for one in tuned)
    rows = tables.read_rows(chain / "linker" / ThresholdRow.FILE, ThresholdRow)
    assert rows[0].level == "default" and {row.level for row in rows} >= {"default", "parent"}


def test_the_evaluation_counts_as_its_table_of_links_says(chain):
    links = tables.read_rows(chain / "evaluation" / LinkRow.FILE, LinkRow)
    rows = tables.read_rows(chain / "evaluation" / AccuracyRow.FILE, AccuracyRow)
    manifest = LinkingEvaluationManifest.require(chain / "evaluation")
    strict = {row.ranker: row for row in rows if row.protocol == "strict" and row.training_names and row.mentions == "all"}
    assert strict["linker"].accuracy == pytest.approx(np.mean([row.right for row in links]), abs=1e-5)
    assert all(row.right == (row.concept_id in row.gold.split("|")) for row in links)
    assert manifest.accuracy["linker"] == pytest.approx(strict["linker"].accuracy, abs=1e-5)
    high = [row.right for row in links if row.probability >= 0.8]
    assert manifest.high_share == pytest.approx(len(high) / len(links), abs=1e-5)
    recall = [
        row.recall
        for row in tables.read_rows(chain / "evaluation" / RecallRow.FILE, RecallRow)
        if row.training_names and row.mentions == "all"
    ]
    assert recall == sorted(recall)
    [final] = [
        row for row in rows if (row.ranker, row.protocol, row.training_names, row.mentions) == ("linker", "strict", True, "all")
    ]
    said = "helped" if final.ci_low > 0 else "made links worse" if final.ci_high < 0 else "made no difference beyond noise"
    assert f"The cross-encoder {said}" in manifest.sentence
    for name in ("linking_accuracy.png", "reliability.png"):
        assert (chain / "evaluation" / name).stat().st_size > 10_000


def test_ties_are_errors():
    scores = [np.array([1.0, 1.0]), np.array([2.0, 1.0]), np.zeros(0)]
    right = [np.array([True, False]), np.array([True, False]), np.zeros(0, bool)]
    assert scoring.hits(scores, right).tolist() == [False, True, False]
    assert scoring.hits([np.array([1.0, 1.0])], [np.array([True, True])]).tolist() == [True]
    rounded = np.array([1.0, np.nextafter(np.float32(1), np.float32(0))])  # two vectors of one name, of two batches
    assert scoring.hits([rounded], [np.array([True, False])]).tolist() == [False]


def test_a_composite_is_divided_by_its_parts_or_its_shared_head():
    given = Mention("1", 0, 9, "A and B", "d", ("X", "Y"), True, ("aaa", "bbb"))
    assert [(one.text, one.concept_ids) for one in composites.parts_of(given)] == [("aaa", ("X",)), ("bbb", ("Y",))]
    headed = Mention("1", 0, 25, "breast and ovarian cancer", "d", ("X", "Y"), True)
    assert [one.text for one in composites.parts_of(headed)] == ["breast cancer", "ovarian cancer"]
    whole = Mention("1", 0, 25, "hereditary cancers", "d", ("X", "Y"), True)
    assert composites.parts_of(whole) == [whole]


def test_the_same_command_again_is_up_to_date(chain, base, encoder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["entity_linking.py", "pipeline", *settings(chain, encoder, base)])
    entity_linking.main()
    assert capsys.readouterr().out.count("up to date") == 4


@pytest.mark.slow
def test_a_killed_pipeline_goes_on_and_ends_with_the_same_weights(chain, base, encoder, tmp_path):
    command = [sys.executable, str(ROOT / "entity_linking.py"), "pipeline", *settings(tmp_path, encoder, base)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not list((tmp_path / "training" / "checkpoints").glob("checkpoint-*/whole.json")):
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "training" / "manifest.json").exists()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "up to date" in done.stdout  # the preparation
    assert LinkTrainingManifest.require(tmp_path / "training").weights == LinkTrainingManifest.require(chain / "training").weights
    assert (tmp_path / "evaluation" / AccuracyRow.FILE).read_bytes() == (chain / "evaluation" / AccuracyRow.FILE).read_bytes()


def test_without_a_cross_encoder_the_evidence_decides_alone(chain, base, encoder, tmp_path, monkeypatch):
    values = settings(tmp_path, encoder, base, CROSS_ENCODER="false", DATASET_DIR=chain / "data")
    for verb in ("train", "calibrate", "evaluate"):
        monkeypatch.setattr(sys, "argv", ["entity_linking.py", verb, *values])
        entity_linking.main()
    assert Linker.load(tmp_path / "linker").reranker is None
    assert LinkingEvaluationManifest.require(tmp_path / "evaluation").sentence.startswith("No cross-encoder was trained")


# --- use


def test_a_concept_that_the_vocabulary_lacks_is_learnt_from_training_documents(encoder, base, tmp_path, monkeypatch):
    lines = (SAMPLE / "concepts.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["id"] != "M027"]
    assert len(kept) == len(lines) - 1
    (tmp_path / "concepts.jsonl").write_text("\n".join(kept), encoding="utf-8")
    values = settings(tmp_path, encoder, base, VOCABULARY=tmp_path / "concepts.jsonl", CROSS_ENCODER=False)
    monkeypatch.setattr(sys, "argv", ["entity_linking.py", "pipeline", *values])
    entity_linking.main()
    gout = [row for row in tables.read_rows(tmp_path / "evaluation" / LinkRow.FILE, LinkRow) if row.gold == "M027"]
    assert gout and np.mean([row.right for row in gout]) > 0.7
    rows = tables.read_rows(tmp_path / "evaluation" / AccuracyRow.FILE, AccuracyRow)
    n = {(row.protocol, row.mentions): row.n for row in rows if row.ranker == "linker" and row.training_names}
    assert n["published", "all"] == n["strict", "all"] - len(gout) == n["strict", "seen"] + n["strict", "unseen"]
    assert Linker.load(tmp_path / "linker").rerank("gout", ["M027", "M001"])[0].concept_id == "M027"


def test_a_linked_mention_has_a_probability_a_tier_and_the_threshold_that_decided(chain):
    link = Linker.load(chain / "linker").link("She had rheumatoid arthritis (RA) for years.", "RA")
    assert link.mention.long_form == "rheumatoid arthritis" and link.candidates[0].concept_id == "M025"
    values = [one.probability for one in link.candidates]
    assert values == sorted(values, reverse=True) and values[-1] > 0 and values[0] < 1
    assert Linker.load(chain / "linker").link("A mild MI.", "MI").mention.left.endswith("mild ")  # not the letters in "mild"
    assert link.type == "joint_disease" and link.decision.value == Linker.load(chain / "linker").description.thresholds.decide(
        "joint_disease", vocabulary.read(chain / "linker")).value  # fmt: skip
    assert (link.tier == "none") == (values[0] < link.decision.value) == (not link.concept_id)


def test_given_candidates_are_reordered_with_the_same_evidence(chain):
    found = Linker.load(chain / "linker")
    ordered = found.rerank("gouty arthritis", ["M001", "M027", "M025"])
    assert ordered[0].concept_id == "M027" and {one.concept_id for one in ordered} == {"M001", "M025", "M027"}
    assert [one.concept_id for one in found.rerank("gouty arthritis", ["M001", "M001", "M027"])] == ["M027", "M001"]
    assert "list of candidates" in refused(lambda: found.rerank("gout", []))
    assert "no concept of the vocabulary" in refused(lambda: found.rerank("gout", ["M999"]))
    assert "does not occur in the text" in refused(lambda: found.link("no such words", "gout"))


def test_a_file_of_mentions_is_linked_line_by_line(chain, base, encoder, tmp_path, monkeypatch, capsys):
    rows = [{"doc_id": 1, "start": 8, "end": 12, "text": "gout", "left": "He has ", "right": " today.", "type": "joint_disease"},
            {"doc_id": "2", "text": "xyzzy"}]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    argv = [
        "link",
        "--input",
        str(tmp_path / "in.jsonl"),
        "--output",
        str(tmp_path / "out.jsonl"),
        *settings(chain, encoder, base),
    ]
    monkeypatch.setattr(sys, "argv", ["entity_linking.py", *argv])
    entity_linking.main()
    first, second = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert first["doc_id"] == "1" and first["left"] == "He has " and first["candidates"][0][0] == "M027"
    assert (second["candidates"], second["tier"]) == ([], "none")
    assert "2 mentions" in capsys.readouterr().out


def test_pubtator_is_linked_too_and_its_answers_give_a_calibration_error(chain, base, encoder, tmp_path, monkeypatch):
    values = settings(chain, encoder, base, STATISTICS_DIR=tmp_path)
    monkeypatch.setattr(sys, "argv", ["entity_linking.py", "statistics", *values])
    entity_linking.main()
    found = artifacts.read(LinkStatistics, tmp_path / LinkStatistics.FILE)
    evaluated = artifacts.read(LinkStatistics, chain / "evaluation" / LinkStatistics.FILE)
    assert found.calibration == evaluated.calibration and found.tiers == evaluated.tiers  # no mention has its type in either
    text = (tmp_path / statistics.PROMETHEUS).read_text()
    assert f"linker_mentions {found.mentions}" in text and 'linker_tier_ratio{tier="high"}' in text
    corpus = "\n".join(line for line in (SAMPLE / "corpus.PubTator").read_text().split("\n\n")[:3])
    (tmp_path / "in.PubTator").write_text(corpus + "\n")
    monkeypatch.setattr(
        sys,
        "argv",
        ["entity_linking.py", "link", "--input", str(tmp_path / "in.PubTator"), "--output", str(tmp_path / "o.jsonl"), *values],
    )
    entity_linking.main()
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == corpus.count("\tM0")


def test_a_linker_with_another_vocabulary_or_model_is_refused(chain, tmp_path):
    import shutil

    for name, damage in (("vocabulary.jsonl", "another vocabulary"), ("model/2_Dense/model.safetensors", "another model")):
        folder = tmp_path / damage.split()[1]
        shutil.copytree(chain / "linker", folder)
        if name.endswith("jsonl"):
            lines = (folder / name).read_text().splitlines()
            (folder / name).write_text("\n".join(lines[:-1]) + "\n")
        else:
            target = next(folder.glob("model/*Dense/model.safetensors"))
            content = bytearray(target.read_bytes())
            content[-1] ^= 1
            target.write_bytes(bytes(content))
        assert damage in refused(lambda folder=folder: Linker.load(folder))


def test_an_uncalibrated_linker_does_not_decide(chain):
    found = Linker.load(chain / "training" / "parts")
    assert "is not calibrated" in refused(lambda: found.link("He has gout.", "gout"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["guess"], "is not a verb"),
        (["prepare", "CORPUS=nothing.PubTator"], "there is no such file"),
        (["prepare", 'SPLIT_IDS={"dev": "x"}'], "is no split"),
        (["prepare", "VALIDATION_SHARE=0.5", "CALIBRATE_SHARE=0.5"], "add up to"),
        (["prepare", "MENTION_TYPES=Disease"], "MENTION_TYPES=Disease: have no mentions of these types"),
        (["train", "DATASET_DIR=nowhere"], "there is no such folder"),
        (["evaluate", "LINKER_DIR=nowhere"], "there is no such folder"),
        (["link"], "--mention"),
        (["link", "--input", "x.jsonl"], "--output"),
    ],
)
def test_a_mistake_is_refused_with_a_remedy(chain, base, encoder, monkeypatch, tmp_path, argv, words):
    given = {item.partition("=")[0] for item in argv}
    values = [item for item in settings(chain, encoder, base) if item.partition("=")[0] not in given]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["entity_linking.py", argv[0], *values, *argv[1:]] if argv[0] != "guess" else ["entity_linking.py", *argv]
    )
    with pytest.raises(UserError) as error:
        entity_linking.main()
    assert words in str(error.value)


def test_a_vocabulary_that_the_corpus_was_not_annotated_with_is_refused(tmp_path, base, encoder, monkeypatch):
    (tmp_path / "other.jsonl").write_text('{"id": "Q1", "name": "Gout"}\n')
    values = settings(tmp_path, encoder, base, VOCABULARY=tmp_path / "other.jsonl")
    monkeypatch.setattr(sys, "argv", ["entity_linking.py", "prepare", *values])
    assert "know no concept of the mentions of the split" in refused(entity_linking.main)


# --- concepts in answers


def test_an_answer_is_scored_by_the_concepts_that_it_shares_with_its_reference(chain):
    scorer = AnswerConcepts(chain / "linker")
    reference = "Gout is treated with aspirin."
    right, half, none, unknown = scorer.scores([
        (reference, "Aspirin helps against podagra."), (reference, "Gout."), (reference, "Nothing."), ("Nothing.", "Gout."),
    ])  # fmt: skip
    assert right is not None and (right.precision, right.recall, right.f1) == (1, 1, 1)
    assert half is not None and half.recall == 0.5 and half.f1 == pytest.approx(2 / 3)
    assert none is not None and none.precision is None and none.f1 == 0
    assert unknown is None


def test_an_evaluation_gets_concept_metrics_only_with_a_linker(chain):
    from meerkat_workbench.tuning.scoring.metric_suite import MetricSuite, ScoredPair

    pair = ScoredPair("Gout is treated with aspirin.", "Aspirin helps against podagra.", "How is gout treated?", "1", "x")
    with_linker = MetricSuite(linker=str(chain / "linker"))
    found = with_linker.score([pair, None])
    assert found.scores["concept_f1"] == [1.0, None] and "linker" in found.signatures["concept_recall"]
    assert "concept_f1" in with_linker.names() and "concept_f1" not in MetricSuite().names()
    assert "not calibrated" in refused(lambda: MetricSuite(linker=str(chain / "training" / "parts")))


def test_an_exported_linker_links_as_torch_does(chain, base, encoder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["entity_linking.py", "export", *settings(chain, encoder, base)])
    entity_linking.main()
    assert "rank correlation" in capsys.readouterr().out
    text = "She had gouty arthritis and asthma."
    links = [Linker.load(chain / "linker", backend).link(text, "gouty arthritis") for backend in ("torch", "onnx")]
    assert links[0].concept_id == links[1].concept_id
    assert links[0].candidates[0].probability == pytest.approx(links[1].candidates[0].probability, abs=1e-4)


def test_the_command_line_prints_one_mention(chain, base, encoder):
    out = run_script(
        "entity_linking.py", "link", *settings(chain, encoder, base), "--mention", "gout", "--context", "He has gout."
    ).stdout
    assert "Gout" in out and "M027" in out and "threshold" in out


def test_the_record_of_a_linker_holds_numbers_only(chain):
    """Nothing in it can run code, as a pickle can."""
    assert artifacts.read(LinkerDescription, chain / "linker" / LinkerDescription.FILE).calibrator is not None
    assert not [path for path in (chain / "linker").rglob("*") if path.suffix in (".pkl", ".pickle", ".joblib", ".bin", ".pt")]
