"""The reranker: every loss trains, heads and adapters survive, kills lose nothing, exports score alike, and `evaluate` tells the truth."""

import itertools
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

import reranking
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.output import tables
from meerkat_workbench.reranking import evaluate as evaluation
from meerkat_workbench.reranking import export, listing, prepared, train
from meerkat_workbench.reranking.artifacts import (
    MeasureRow,
    PairRow,
    RankingEvaluationManifest,
    RankingPoint,
    RerankerManifest,
    TripleRow,
)
from meerkat_workbench.reranking.splits import RankingSplit
from meerkat_workbench.retrieval import cross_encoder, documents
from meerkat_workbench.stats import binary
from meerkat_workbench.stats.verdicts import Verdict
from meerkat_workbench.trainers.cross_encoder.losses import make_loss, training_rows
from meerkat_workbench.trainers.cross_encoder.model import build_model, merged_copy
from meerkat_workbench.trainers.cross_encoder.recipe import LOSSES, CrossEncoderRecipe, LoraShape
from meerkat_workbench.trainers.cross_encoder.trainer import build_trainer, steps_in_all
from meerkat_workbench.trainers.pair_groups import Candidate, Group

WORDS = ("gout", "asthma", "acne", "rabies", "croup", "measles", "scurvy", "sepsis", "migraine", "eczema", "anemia", "glaucoma")


def table(path: Path, queries: int = 60) -> Path:
    """A query is answered by the document that names its disease, and not by two others."""
    rows = []
    for number in range(queries):
        disease, other, third = (WORDS[(number + step) % len(WORDS)] for step in (0, 1, 5))
        query = f"How is {disease} treated in patient {number}?"
        rows += [{"query": query, "document": f"Patients {number} with {name} get drug {name} at once.", "label": int(name == disease)}
                 for name in (disease, other, third)]  # fmt: skip
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


GROUPS = [Group(f"How is {one} treated?", [Candidate(f"{one} gets a drug", 1.0), Candidate(f"{other} gets a drug", 0.0, hard=True), Candidate("rest", 0.0)])
          for one, other in itertools.pairwise(WORDS)]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, base):
    """A prepared folder, a reranker trained on it, and its evaluation, by the script's own functions."""
    work = tmp_path_factory.mktemp("reranking")
    config = settings_of(work, base)
    reranking.prepare(config)
    reranking.train(config)
    reranking.evaluate(config)
    return config


def settings_of(work: Path, base: str, **more: object) -> reranking.RerankerConfig:
    return reranking.RerankerConfig(**{
        "DATA": str(table(work / "pairs.jsonl")), "DATASET_DIR": str(work / "data"), "OUTPUT_DIR": str(work / "reranker"),
        "EVALUATION_DIR": str(work / "evaluation"), "INDEX_DIR": str(work / "index"), "MODEL_NAME": base, "FIRST_STAGE": "bm25",
        "NEGATIVES_MINED": 2, "COMPUTE_DTYPE": "fp32", "LEARNING_RATE": 1e-3, "BATCH_SIZE": 8, "MAX_LENGTH": 48, "NUM_EPOCHS": 2.0, "SAVE_STEPS": 5, "EARLY_STOPPING": 0,
        "VALIDATION_SHARE": 0.2, **more,
    })  # fmt: skip


# --- training


@pytest.mark.parametrize(
    ("rows", "processes", "steps"),
    [(255, 1, 64), (255, 2, 62), (256, 2, 64), (7, 2, 0)],
    ids=["ragged", "left out", "whole", "too few"],
)
def test_the_steps_of_a_training_are_foretold(rows, processes, steps):
    batch = 8 // processes
    assert steps_in_all(rows, CrossEncoderRecipe(base="", loss="bce", epochs=2, batch_size=batch), processes) == steps


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_rows_and_lowers_what_it_measures(base, tmp_path, loss):
    from datasets import Dataset

    recipe = CrossEncoderRecipe(
        base=base, loss=loss, max_length=48, epochs=6, batch_size=4, learning_rate=2e-3, negatives=2, logging_steps=1
    )
    rows = Dataset.from_list(list(training_rows(GROUPS, recipe)))
    model = build_model(recipe)
    trainer = build_trainer(model, rows, recipe, None, tmp_path, lambda _: "")
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    third = len(losses) // 3
    assert np.mean(losses[-third:]) < np.mean(losses[:third])


def test_hard_negatives_weigh_as_much_more_as_their_setting_says(base):
    import torch

    recipe = CrossEncoderRecipe(base=base, loss="weighted-bce", max_length=48, hard_weight=1.5)
    rows = list(training_rows(GROUPS[:1], recipe))
    assert [row["weight"] for row in rows] == [1.0, 1.5, 1.0]
    model = build_model(recipe).eval()
    columns = [[row[name] for row in rows] for name in ("query", "document", "weight")]
    labels = torch.tensor([row["label"] for row in rows])
    found = float(make_loss(model, recipe)(columns, labels))
    logits = np.array(model.predict(list(zip(*columns[:2], strict=True)), activation_fn=torch.nn.Identity()), float)
    nats = np.logaddexp(0, logits) - logits * labels.numpy()
    assert found == pytest.approx(float((nats * [1.0, 1.5, 1.0]).sum() / 3.5), abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2"])
@pytest.mark.parametrize("head", ["compare", "mean", "classifier"])
def test_an_adapter_keeps_its_head_when_it_is_saved_and_loaded(tmp_path, kind, head):
    """The head of an encoder that never had one is trained with the adapter, and must not come back as random numbers."""
    import torch

    recipe = CrossEncoderRecipe(
        base=save_bert(tmp_path / "base", kind), loss="bce", head=head, max_length=48, lora=LoraShape(4, 8)
    )
    model = build_model(recipe)
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert any("lora" in name for name in trainable) and any("lora" not in name for name in trainable)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in trainable:
                weight.add_(torch.randn_like(weight) * 0.1)
    pairs = [("What is gout?", "A form of arthritis."), ("x", "y z")]
    wanted = cross_encoder.TorchCrossEncoder(model).logits(pairs)
    merged_copy(model).save_pretrained(str(tmp_path / "saved"))
    assert cross_encoder.load(str(tmp_path / "saved"), compute="fp32").logits(pairs) == pytest.approx(wanted, abs=1e-4)
    assert cross_encoder.TorchCrossEncoder(model).logits(pairs) == pytest.approx(wanted, abs=1e-6)  # training can go on


def test_a_bi_encoder_becomes_a_cross_encoder_that_orders_by_the_cosine_of_the_halves(tmp_path):
    import torch

    base = save_bi_encoder(tmp_path)
    model = build_model(CrossEncoderRecipe(base=base, loss="bce", max_length=64))
    pairs = [("gout", "allopurinol for gout"), ("gout", "a rash"), ("fever in children", "paracetamol")]
    given = cross_encoder.TorchCrossEncoder(model).logits(pairs)
    expected = []
    for query, document in pairs:
        features = model.tokenizer(query, document, return_tensors="pt")
        with torch.inference_mode():
            vectors = model[0].model(**features).last_hidden_state[0]
        end = features["input_ids"][0].tolist().index(model.tokenizer.sep_token_id)
        cosine = torch.nn.functional.cosine_similarity(vectors[:end].mean(0), vectors[end:].mean(0), dim=0)
        expected.append(20 * (float(cosine) - 0.75))
    assert given == pytest.approx(expected, abs=1e-4)


def test_a_comparing_head_is_kept_when_training_goes_on_from_its_folder(tmp_path):
    import torch

    base = save_bi_encoder(tmp_path)
    model = build_model(CrossEncoderRecipe(base=base, loss="bce", max_length=64))
    with torch.no_grad():
        model[2].linear.weight.mul_(0.5)
    model.save_pretrained(str(tmp_path / "reranker"))
    again = build_model(CrossEncoderRecipe(base=str(tmp_path / "reranker"), loss="bce", max_length=32))
    pairs = [("gout", "allopurinol for gout"), ("gout", "a rash")]
    assert again.max_seq_length == 32
    assert cross_encoder.TorchCrossEncoder(again).logits(pairs) == pytest.approx(
        cross_encoder.load(str(tmp_path / "reranker"), compute="fp32").logits(pairs), abs=1e-5
    )


def test_a_head_outside_its_encoder_computes_in_fp32_so_that_bf16_makes_no_ties(tmp_path):
    model = build_model(CrossEncoderRecipe(base=save_bi_encoder(tmp_path), loss="bce", max_length=64))
    pairs = [(f"What is {query}?", f"{document} is treated at once.") for query in WORDS[:6] for document in WORDS]
    wanted = cross_encoder.TorchCrossEncoder(model).logits(pairs)
    given = cross_encoder.TorchCrossEncoder(model, "bf16").logits(pairs)
    assert given == pytest.approx(wanted, abs=0.2) and not np.array_equal(given, wanted)
    assert len(np.unique(given)) == len(np.unique(wanted))
    assert cross_encoder.scoring_precision(cross_encoder.load_torch(save_bert(tmp_path / "whole", classifier=True))) == "fp32"


def test_a_comparing_head_is_exported_and_keeps_its_order_in_8_bits(tmp_path):
    from scipy import stats

    from meerkat_workbench.retrieval import onnx_export

    folder = tmp_path / "reranker"
    build_model(CrossEncoderRecipe(base=save_bi_encoder(tmp_path), loss="bce", max_length=64)).save_pretrained(str(folder))
    pairs = [(f"What is {query}?", f"{document} is treated at once.") for query in WORDS[:6] for document in WORDS]
    found = onnx_export.export(folder, pairs)
    assert found.largest_difference["onnx"] < 1e-3 and found.rank_correlation["onnx-int8"] > 0.95
    torch, int8 = (cross_encoder.load(str(folder), name).logits(pairs) for name in ("torch", "onnx-int8"))
    assert stats.spearmanr(torch, int8).statistic > 0.95


def test_pairs_and_triples_are_files_that_hold_texts(folders):
    data = prepared.PreparedData.open(Path(folders.DATASET_DIR))
    pairs = data.pairs()
    train = data.judged(RankingSplit.TRAIN)
    assert {row.query_id for row in pairs} == set(train.queries)
    held_out = {
        name
        for split in (RankingSplit.VALIDATION, RankingSplit.TEST)
        for found in data.judged(split).judgements.values()
        for name in found
    }
    assert not {row.document_id for row in pairs} & (held_out - {name for found in train.judgements.values() for name in found})
    lines = (Path(folders.DATASET_DIR) / TripleRow.FILE).read_text(encoding="utf-8").splitlines()
    assert {"query", "positive", "negative"} <= set(json.loads(lines[0]))
    assert (Path(folders.DATASET_DIR) / PairRow.FILE).is_file()


def test_a_training_logs_each_evaluation_beside_the_first_stage_and_keeps_the_best(folders):
    result = RerankerManifest.require(Path(folders.OUTPUT_DIR))
    assert set(result.kept.measures) == set(folders.MEASURES) == set(result.kept.first_stage) == set(result.fused)
    history = [
        json.loads(line) for line in (Path(folders.OUTPUT_DIR) / RankingPoint.FILE).read_text(encoding="utf-8").splitlines()
    ]
    best = max(history, key=lambda line: line["measures"]["nDCG@10"])
    assert result.kept.measures["nDCG@10"] == best["measures"]["nDCG@10"] and history[0]["step"] == 0
    assert not (Path(folders.OUTPUT_DIR) / "checkpoints").exists()


def test_the_saved_reranker_scores_as_its_kept_evaluation_says(folders):
    data = prepared.PreparedData.open(Path(folders.DATASET_DIR))
    spec = evaluation.EvaluationSpec(
        str(reranking.model_folder(folders)),
        "torch",
        RankingSplit.VALIDATION,
        "bm25",
        "",
        50,
        folders.MEASURES,
        None,
        compute="fp32",
    )
    measured = evaluation.rank_all(data, spec)
    kept = RerankerManifest.require(Path(folders.OUTPUT_DIR)).kept
    assert measured.scores["reranker"].mean("nDCG@10") == pytest.approx(kept.measures["nDCG@10"], abs=1e-6)


def test_the_same_command_again_is_up_to_date(folders, capsys):
    reranking.prepare(folders)
    reranking.train(folders)
    reranking.evaluate(folders)
    assert capsys.readouterr().out.count("up to date") == 3


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(folders, tmp_path, base):
    whole = settings_of(
        tmp_path / "whole" if (tmp_path / "whole").mkdir() is None else tmp_path,
        base,
        DATASET_DIR=folders.DATASET_DIR,
        DATA=folders.DATA,
    )
    again = ["reranking.py", "train", *(f"{name}={getattr(whole, name)}" for name in ("DATASET_DIR", "MODEL_NAME", "FIRST_STAGE", "LEARNING_RATE", "BATCH_SIZE",
             "MAX_LENGTH", "NUM_EPOCHS", "SAVE_STEPS", "EARLY_STOPPING", "COMPUTE_DTYPE")), f"OUTPUT_DIR={tmp_path / 'killed'}", "LOGGING_STEPS=1"]  # fmt: skip
    child = subprocess.Popen([sys.executable, *again], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    checkpoints = tmp_path / "killed" / "checkpoints"
    while child.poll() is None and not list(checkpoints.glob("checkpoint-*/whole.json")):
        pass
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    done = run_script(*again, timeout=600)
    assert done.returncode == 0 and "resuming from checkpoint-" in done.stdout, done.stdout + done.stderr
    assert RerankerManifest.require(tmp_path / "killed").weights == RerankerManifest.require(Path(folders.OUTPUT_DIR)).weights


@pytest.mark.slow
def test_two_processes_share_the_rows_and_write_one_reranker(folders, tmp_path):
    names = (
        "DATASET_DIR",
        "MODEL_NAME",
        "FIRST_STAGE",
        "LEARNING_RATE",
        "MAX_LENGTH",
        "NUM_EPOCHS",
        "EARLY_STOPPING",
        "COMPUTE_DTYPE",
    )
    command = [
        "reranking.py",
        "train",
        *(f"{name}={getattr(folders, name)}" for name in names),
        f"OUTPUT_DIR={tmp_path / 'two'}",
        "BATCH_SIZE=4",
    ]
    done = run_processes(2, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    two, one = RerankerManifest.require(tmp_path / "two"), RerankerManifest.require(Path(folders.OUTPUT_DIR))
    # four rows on each of two processes are the eight of one; the last rows of an epoch that are no whole step are left out
    assert two.processes == 2 and one.steps - 2 <= two.steps <= one.steps
    assert f" {two.steps} steps" in done.stdout
    assert two.kept.loss < two.before.loss
    assert done.stdout.count("the reranker") == 1


def test_measures_reach_mlflow_and_tensorboard_under_their_names(folders, base, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no database
    monkeypatch.setenv(
        "TENSORBOARD_LOGGING_DIR", str(tmp_path / "reranker" / "tensorboard")
    )  # undone after this test, as are the tags
    monkeypatch.setenv("MLFLOW_TAGS", json.dumps({"commit": "abc"}))
    config = settings_of(tmp_path, base, DATASET_DIR=folders.DATASET_DIR, REPORT_TO=["mlflow", "tensorboard"], LOGGING_STEPS=1)
    reranking.train(config)
    mlflow.end_run()
    [run] = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert {"train/loss", "val/loss", "val/auroc", "val/f1", "val/nDCG_at_10", "val/first_stage/nDCG_at_10"} <= set(
        run.data.metrics
    )
    assert run.data.tags["commit"] and run.data.params["settings/LEARNING_RATE"] == "0.001"
    assert list((tmp_path / "reranker" / "tensorboard").rglob("events.*"))


# --- evaluation


def test_evaluate_writes_table_chart_runs_and_one_sentence(folders):
    folder = Path(folders.EVALUATION_DIR)
    rows = tables.read_rows(folder / MeasureRow.FILE, MeasureRow)
    manifest = RankingEvaluationManifest.require(folder)
    assert {row.ranker for row in rows} == {"first_stage", "reranker", "fused"} and manifest.sentence.endswith(".")
    assert all(row.signature.count("ir-measures") for row in rows) and (folder / evaluation.CHART).stat().st_size > 10_000
    run = documents.read_run(folder / "runs" / "fused.run")
    data = prepared.PreparedData.open(Path(folders.DATASET_DIR)).judged(RankingSplit.TEST)
    assert set(run) == set(data.queries)


def test_a_run_made_elsewhere_is_measured_and_a_worse_order_is_called_worse(folders, tmp_path):
    data = prepared.PreparedData.open(Path(folders.DATASET_DIR)).judged(RankingSplit.TEST)
    best_last = documents.read_run(Path(folders.EVALUATION_DIR) / "runs" / "first_stage.run")
    worst = {
        query: documents.ranked({one.document_id: float(one.document_id not in data.relevant(query)) for one in ranking})
        for query, ranking in best_last.items()
    }
    documents.write_run(tmp_path / "worst.run", worst, "elsewhere")
    config = reranking.RerankerConfig(**{**vars(folders), "EVALUATION_DIR": str(tmp_path / "scores")})
    result = reranking.evaluate(config, run_file=tmp_path / "worst.run")
    assert "made the order worse" in result.sentence and result.measures["reranker"]["P@1"] == 0.0
    documents.write_run(tmp_path / "other.run", {"unknown": best_last[next(iter(best_last))]}, "elsewhere")
    assert "none of the queries" in refused(lambda: reranking.evaluate(config, run_file=tmp_path / "other.run", fresh=True))


@pytest.mark.parametrize(
    ("verdict", "words"),
    [(Verdict.BETTER, "helped"), (Verdict.WORSE, "worse, so use the first stage"), (Verdict.NOISE, "no difference beyond noise")],
)
def test_the_last_sentence_says_what_the_table_shows(verdict, words):
    def row(ranker, verdict):
        return MeasureRow(ranker=ranker, measure="AP", n=9, score=0.5, low=0.4, high=0.6, difference=0.1, ci_low=0.0, ci_high=0.2,
                          p_adjusted=0.01, verdict=verdict, signature="")  # fmt: skip

    rows = [row("first_stage", Verdict.NONE), row("reranker", Verdict.WORSE), row("fused", verdict)]
    said = evaluation.verdict_sentence(rows, "fused", "AP")
    assert words in said and "Alone it is worse than the first stage" in said


# --- export


@pytest.fixture(scope="module")
def exported(folders):
    folder = reranking.model_folder(folders)
    data = prepared.PreparedData.open(Path(folders.DATASET_DIR))
    pairs = [(row.query, row.document) for row in data.pairs()[:60]]
    return folder, pairs, export.export(folder, *train.validation_candidates(data, "bm25", "", 0, 10))


def test_exported_models_score_as_torch_does_at_any_batch_size(exported):
    folder, pairs, described = exported
    wanted = cross_encoder.load(str(folder), compute="fp32").logits(pairs)
    for backend, tolerance in (("onnx", 1e-4), ("onnx-int8", 0.3)):
        model = cross_encoder.load(str(folder), backend)
        assert model.logits(pairs) == pytest.approx(wanted, abs=tolerance)
        if backend == "onnx":  # in 8 bits, activations are scaled by their batch
            assert model.logits(pairs, batch_size=7) == pytest.approx(wanted, abs=tolerance)
    assert described.pairs_checked > 50 and described.largest_difference["onnx"] < 1e-4
    assert described.ndcg_at_10["onnx"] == described.ndcg_at_10["torch"]


def test_the_same_measures_come_out_of_the_exported_model(folders, exported, tmp_path):
    config = reranking.RerankerConfig(**{**vars(folders), "EVALUATION_DIR": str(tmp_path / "scores"), "BACKEND": "onnx"})
    wanted = RankingEvaluationManifest.require(Path(folders.EVALUATION_DIR))
    assert reranking.evaluate(config).measures == wanted.measures


# --- the verbs


def test_score_prints_one_number_between_0_and_1(folders):
    done = run_script(
        "reranking.py",
        "score",
        f"OUTPUT_DIR={folders.OUTPUT_DIR}",
        "--query",
        "How is gout treated?",
        "--document",
        "Gout gets a drug.",
    )
    assert done.returncode == 0 and 0.0 < float(done.stdout) < 1.0, done.stderr


def run_verb(config, verb, monkeypatch, *options):
    given = [
        f"{name}={getattr(config, name)}" for name in ("DATASET_DIR", "OUTPUT_DIR", "INDEX_DIR", "EVALUATION_DIR", "FIRST_STAGE")
    ]
    monkeypatch.setattr(sys, "argv", ["reranking.py", verb, *given, *map(str, options)])
    reranking.main()


def test_documents_are_indexed_searched_and_deleted(folders, monkeypatch, capsys):
    run_verb(folders, "index", monkeypatch)
    run_verb(
        folders, "search", monkeypatch, "--query", "How is gout treated in patient 12?", "--overrides", "TOP_K=3,RERANK_DEPTH=20"
    )
    said = capsys.readouterr().out
    assert said.count("first stage: rank") == 3 and "probability" in said
    [name, *_] = documents.read_documents(Path(folders.DATASET_DIR) / "corpus.jsonl")
    run_verb(folders, "index", monkeypatch, "--delete", name)
    assert "1 documents deleted" in capsys.readouterr().out


def test_a_run_of_any_first_stage_is_reordered(folders, monkeypatch, tmp_path, capsys):
    data, first = Path(folders.DATASET_DIR), Path(folders.EVALUATION_DIR) / "runs" / "first_stage.run"
    run_verb(folders, "rerank", monkeypatch, "--run", first, "--queries", data / "queries.jsonl", "--corpus", data / "corpus.jsonl", "--output", tmp_path / "out.run",
             "RERANK_DEPTH=2")  # fmt: skip
    given, found = documents.read_run(first), documents.read_run(tmp_path / "out.run")
    for query, ranking in given.items():
        before, after = ([one.document_id for one in order] for order in (ranking, found[query]))
        assert set(before[:2]) == set(after[:2]) and before[2:] == after[2:]
    (tmp_path / "few.jsonl").write_text('{"_id": "other", "text": "x"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="not in the queries"):
        run_verb(
            folders,
            "rerank",
            monkeypatch,
            "--run",
            first,
            "--queries",
            tmp_path / "few.jsonl",
            "--corpus",
            data / "corpus.jsonl",
            "--output",
            tmp_path / "x",
        )


def test_an_order_that_was_worse_than_the_first_stage_is_called_so(folders, monkeypatch):
    import msgspec

    found = RerankerManifest.require(Path(folders.OUTPUT_DIR))
    worse = msgspec.structs.replace(
        found, kept=msgspec.structs.replace(found.kept, measures={"AP": 0.1}, first_stage={"AP": 0.2})
    )
    monkeypatch.setattr(RerankerManifest, "find", lambda _: worse)
    assert "worse than their first stage (AP 0.100 against 0.200)" in listing.caution_alone(Path(folders.OUTPUT_DIR), "AP")
    assert listing.caution_alone(Path(folders.OUTPUT_DIR), "nDCG@10") == ""


def test_list_names_the_trained_rerankers_with_their_scores(folders, monkeypatch, capsys):
    run_verb(folders, "list", monkeypatch)
    assert "reranker" in capsys.readouterr().out


def test_mining_with_the_trained_reranker_keeps_the_earlier_data_in_the_archive(folders, monkeypatch, tmp_path):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(folders.DATASET_DIR, data)
    config = reranking.RerankerConfig(**{**vars(folders), "DATASET_DIR": str(data)})
    run_verb(
        config, "mine", monkeypatch, f"DATA={folders.DATA}", "NEGATIVES_MINED=2", "VALIDATION_SHARE=0.2", "TEACHER_BELOW=0.5"
    )
    assert (data / "archive" / "iteration_001" / PairRow.FILE).is_file() and (data / PairRow.FILE).is_file()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["fly"], "verbs are prepare"), (["score", "--query", " ", "--document", "x"], "--query"), (["search"], "--query"),
        (["rerank"], "--run"), (["train", "DATASET_DIR=absent"], "reranking.py prepare"), (["evaluate", "OUTPUT_DIR=absent"], "absent"),
        (["prepare", "DATA=absent"], "DATA=absent"), (["prepare", "VECTOR_STORE=pinecone"], "PINECONE_INDEX"),
        (["prepare", "MEASURES="], "MEASURES"), (["prepare", "MINE_FIRST_RANK=9", "MINE_LAST_RANK=3"], "MINE_FIRST_RANK"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_a_remedy(monkeypatch, tmp_path, argv, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["reranking.py", *argv])
    assert words in refused(reranking.main)


# --- data versions


def test_data_are_made_pushed_and_pulled_with_dvc(tmp_path, base, monkeypatch):
    pytest.importorskip("dvc", reason="dvc is not installed (requirements-dev.txt)")
    import shutil

    from meerkat_workbench.reranking import versioning

    def dvc(*arguments):
        subprocess.run([*versioning._dvc(), *arguments], cwd=project, check=True, capture_output=True)

    project, remote = tmp_path / "project", tmp_path / "remote"
    project.mkdir()
    dvc("init", "--no-scm")
    dvc("remote", "add", "-d", "shelf", str(remote))
    config = settings_of(project, base, DATA_VERSIONING="dvc", DATASET_DIR=str(project / "data"), NEGATIVES_MINED=0)
    reranking.ensure_data(config)
    assert (project / "data.dvc").is_file() and any(remote.rglob("*.dir"))
    wanted = (project / "data" / PairRow.FILE).read_bytes()
    shutil.rmtree(project / "data")
    shutil.rmtree(project / ".dvc" / "cache")
    monkeypatch.setattr(reranking, "prepare", lambda _: pytest.fail("made again, though the remote has it"))
    reranking.ensure_data(config)
    assert (project / "data" / PairRow.FILE).read_bytes() == wanted


# --- what could go wrong


def test_a_kill_while_the_fusion_is_learnt_keeps_the_best_weights(folders, base, tmp_path, monkeypatch):
    config = settings_of(tmp_path, base, DATASET_DIR=folders.DATASET_DIR, DATA=folders.DATA)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train, "learn_fusions", killed)
        with pytest.raises(KeyboardInterrupt):
            reranking.train(config)
    result = reranking.train(config)
    assert result.weights == RerankerManifest.require(Path(folders.OUTPUT_DIR)).weights and result.fused


def test_questions_that_were_trained_on_are_pointed_out(folders, base, tmp_path):
    config = settings_of(
        tmp_path, base, DATASET_DIR=str(tmp_path / "data"), DATA=folders.DATA, RANDOM_SEED=7, OUTPUT_DIR=folders.OUTPUT_DIR
    )
    reranking.prepare(config)
    assert "trained on other data or another split" in reranking.evaluate(config).sentence
    assert "Caution" not in RankingEvaluationManifest.require(Path(folders.EVALUATION_DIR)).sentence
    again = reranking.RerankerConfig(**{**vars(folders), "SPLIT": "validation", "EVALUATION_DIR": str(tmp_path / "scores")})
    assert "chosen and fused on these validation questions" in reranking.evaluate(again).sentence


def test_another_fusion_or_data_set_is_another_run(folders, tmp_path, capsys):
    config = reranking.RerankerConfig(**{**vars(folders), "EVALUATION_DIR": str(tmp_path / "scores")})
    with_fusion = reranking.evaluate(config).fingerprint
    assert reranking.evaluate(reranking.RerankerConfig(**{**vars(config), "FUSION": False})).fingerprint != with_fusion
    assert "up to date" not in capsys.readouterr().out


def test_an_evaluation_without_auroc_is_read_back(tmp_path):
    from meerkat_workbench.core import artifacts

    point = RankingPoint(step=0, epoch=0.0, queries=1, pairs=2, loss=0.5, auroc=binary.auroc(np.zeros(2), np.ones(2, bool)), f1=1.0,
                         measures={"AP": 1.0}, first_stage={"AP": 1.0})  # fmt: skip
    artifacts.write(tmp_path / "point.json", point)
    assert artifacts.read(RankingPoint, tmp_path / "point.json") == point and point.auroc is None


def test_more_tokens_than_the_base_has_positions_for_are_not_read(tmp_path):
    for kind in ("bert", "roberta"):
        model = build_model(CrossEncoderRecipe(base=save_bert(tmp_path / kind, kind), loss="bce", max_length=1024))
        scorer = cross_encoder.TorchCrossEncoder(model)
        assert scorer.max_length == 128 and np.isfinite(scorer.logits([("long", "word " * 500)])).all() and scorer.truncated == 1


def test_list_passes_over_folders_of_other_programs(folders, tmp_path, monkeypatch, capsys):
    import shutil

    shutil.copytree(folders.OUTPUT_DIR, tmp_path / "results" / "reranker")
    (tmp_path / "results" / "adapter").mkdir()
    (tmp_path / "results" / "adapter" / "manifest.json").write_text('{"fingerprint": "x", "stage": "training"}', encoding="utf-8")
    run_verb(reranking.RerankerConfig(**{**vars(folders), "OUTPUT_DIR": str(tmp_path / "results" / "any")}), "list", monkeypatch)
    said = capsys.readouterr().out
    assert "reranker" in said and "adapter" not in said


def test_an_index_takes_a_new_reranker_and_no_other_first_stage(folders, tmp_path, monkeypatch, capsys):
    config = reranking.RerankerConfig(**{**vars(folders), "INDEX_DIR": str(tmp_path / "index")})
    run_verb(reranking.RerankerConfig(**{**vars(config), "OUTPUT_DIR": str(tmp_path / "none")}), "index", monkeypatch)
    assert "no reranker" in capsys.readouterr().out
    run_verb(config, "index", monkeypatch)
    assert str(reranking.model_folder(folders)) in capsys.readouterr().out
    with pytest.raises(UserError, match="FIRST_STAGE=bm25"):
        run_verb(config, "index", monkeypatch, "FIRST_STAGE=dense")
