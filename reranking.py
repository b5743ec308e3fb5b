#!/usr/bin/env python3
"""Train a cross-encoder that scores (query, document) in [0, 1], prove that it improves the order, export it, and search with it.

    python reranking.py prepare --demo             judged queries and training pairs from the sample data
    python reranking.py train --demo               a MiniLM cross-encoder, on any CPU
    python reranking.py evaluate --demo            every ranker beside the first stage, with a chart and TREC runs
    python reranking.py export --demo              ONNX in 32 and 8 bits, held against torch
    python reranking.py index --demo               an index of the documents, for search and for evaluation.py RETRIEVAL=FOLDER
    python reranking.py search --demo --query "How is gout treated?"
    python reranking.py score --demo --query "What is gout?" --document "Gout is a form of arthritis."
    python reranking.py rerank --demo --run IN.run --queries queries.jsonl --corpus corpus.jsonl --output OUT.run
    python reranking.py mine --demo                the training data again, with hard negatives that the trained reranker filters
    python reranking.py list                       the trained rerankers below results/, with their scores

A verb comes first, then settings (KEY=VALUE) and options. Outputs are described in docs/reranking.md.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from meerkat_workbench import recipes
from meerkat_workbench.core import console, files, settings
from meerkat_workbench.core.commands import command_of, demo_flag, verb_of
from meerkat_workbench.core.errors import UserError, run_script
from meerkat_workbench.core.settings import DERIVED, EXECUTION, RESULT, Range

if TYPE_CHECKING:
    import argparse

    from meerkat_workbench.reranking.artifacts import PreparedManifest, RankingEvaluationManifest, RerankerManifest
    from meerkat_workbench.reranking.evaluate import EvaluationSpec
    from meerkat_workbench.reranking.loaders.builder import QuestionAnswer
    from meerkat_workbench.reranking.prepare import PreparationSpec
    from meerkat_workbench.reranking.train import TrainingSpec
    from meerkat_workbench.retrieval.cross_encoder import CrossEncoder
    from meerkat_workbench.retrieval.documents import JudgedQueries

VERBS = ("prepare", "train", "evaluate", "mine", "export", "score", "rerank", "index", "search", "list")

# --- settings


class RerankerConfig(settings.Settings):
    """Settings of the reranker. Change a line here, or give KEY=VALUE on the command line."""

    # Judged queries: a folder of specialty files, MEDIQA XML, MS MARCO or TREC DL, a BEIR folder, triples, Quora pairs, or a table with
    # query, document and label. A name such as BeIR/nfcorpus is downloaded from the Hub.
    DATA: Annotated[str, DERIVED] = "data"
    # The form of DATA. "auto" tells it by the names of the files.
    FORMAT: Annotated[Literal["auto", "specialty", "mediqa", "msmarco", "triples", "beir", "quora", "table", "hub"], RESULT] = (
        "auto"
    )
    # The specialties that are read of specialty files. Empty reads all.
    SPECIALTIES: Annotated[list[str], RESULT] = []
    # Passages without a judgement that are kept of a large collection (MS MARCO has 8.8 million), as unrelated negatives.
    MORE_DOCUMENTS: Annotated[int, Range(0, 100_000_000), RESULT] = 10_000
    # The least relevance that counts as relevant. None takes what is usual: 2 in TREC DL and in MEDIQA, whose grades 1 to 4 are stored as
    # 0 to 3, and 1 elsewhere.
    RELEVANT_FROM: Annotated[int | None, Range(1, 1000), RESULT] = None
    # Folder of the prepared data.
    DATASET_DIR: Annotated[str, DERIVED] = "datasets/reranking"
    # Folder of the trained reranker, of its evaluation, and of the index of passages.
    OUTPUT_DIR: Annotated[str, DERIVED] = "results/reranking"
    EVALUATION_DIR: Annotated[str, EXECUTION] = "evaluation_results/reranking"
    INDEX_DIR: Annotated[str, EXECUTION] = "results/reranking_index"
    # Fractions of the queries for choosing weights and for the test. Queries that say nearly the same stay together.
    VALIDATION_SHARE: Annotated[float, Range(0, 0.5), RESULT] = 0.1
    TEST_SHARE: Annotated[float, Range(0, 0.8), RESULT] = 0.2
    # Negatives of each query: answers to other questions, unrelated passages, and hard ones that the first stage ranks high.
    NEGATIVES_OTHER: Annotated[int, Range(0, 1000), RESULT] = 1
    NEGATIVES_UNRELATED: Annotated[int, Range(0, 1000), RESULT] = 1
    NEGATIVES_MINED: Annotated[int, Range(0, 1000), RESULT] = 4
    # Ranks of the first stage from which hard negatives are taken.
    MINE_FIRST_RANK: Annotated[int, Range(1, 10_000), RESULT] = 1
    MINE_LAST_RANK: Annotated[int, Range(1, 10_000), RESULT] = 50
    # A candidate whose cosine comes within this fraction of the answer's is skipped as a likely false negative. FIRST_STAGE=bm25 knows no
    # cosine, so there only copies of answers and TEACHER skip.
    MINE_MARGIN: Annotated[float, Range(0, 1), RESULT] = 0.05
    # A reranker that skips candidates whose probability reaches TEACHER_BELOW. Empty for none; `mine` takes the trained one.
    TEACHER: Annotated[str, RESULT] = ""
    TEACHER_BELOW: Annotated[float, Range(0, 1, exclude_low=True), RESULT] = 0.5
    # "dvc": train and score fetch the prepared data with `dvc pull`, or make them and store them with `dvc add` and `dvc push`.
    DATA_VERSIONING: Annotated[Literal["", "dvc"], EXECUTION] = ""
    # What finds candidates: words (bm25), vectors of the bi-encoder ENCODER (dense), or both, joined by reciprocal ranks (fused).
    FIRST_STAGE: Annotated[Literal["bm25", "dense", "fused"], RESULT] = "fused"
    # A bi-encoder: a Hub name, a folder, or "packaged" for the MiniLM that is installed with the workbench.
    ENCODER: Annotated[str, RESULT] = "packaged"
    # Candidates that the cross-encoder reads of each query.
    RERANK_DEPTH: Annotated[int, Range(1, 10_000), RESULT] = 50
    # Base of the cross-encoder: a trained reranker or any BERT, RoBERTa, DeBERTa, … by Hub name or folder, or "packaged".
    MODEL_NAME: Annotated[str, DERIVED] = "cross-encoder/ms-marco-MiniLM-L6-v2"
    # "classifier" keeps the base's own head. "compare" puts a new one on the means of query and document, which begins as a bi-encoder's cosine;
    # "mean" on the mean of all tokens. "auto" keeps a head that was trained, and gives a bi-encoder "compare" and any other base "mean".
    HEAD: Annotated[Literal["auto", "compare", "mean", "classifier"], RESULT] = "auto"
    # bce, weighted-bce (hard negatives count more), mse and margin-mse (grades), cached-mnrl, lambda, ranknet.
    LOSS: Annotated[Literal["bce", "weighted-bce", "mse", "margin-mse", "cached-mnrl", "lambda", "ranknet"], RESULT] = (
        "weighted-bce"
    )
    # Weight of relevant pairs in bce and weighted-bce. About the number of negatives of each positive balances them.
    POS_WEIGHT: Annotated[float, Range(0, 1e6, exclude_low=True), RESULT] = 1.0
    # Weight of hard negatives in weighted-bce.
    HARD_NEGATIVE_WEIGHT: Annotated[float, Range(0, 1e6, exclude_low=True), RESULT] = 1.5
    # Negatives beside each positive in cached-mnrl and margin-mse.
    LOSS_NEGATIVES: Annotated[int, Range(1, 1000), RESULT] = 4
    # Rank of a LoRA adapter, which is merged when the model is saved. 0 trains every weight.
    LORA_RANK: Annotated[int, Range(0, 4096), RESULT] = 0
    LORA_ALPHA: Annotated[int, Range(1, 100_000), RESULT] = 32
    # The most tokens of query and document together. Longer documents are cut and counted.
    MAX_LENGTH: Annotated[int, Range(8, 100_000), RESULT] = 256
    # Passes over the training rows. Cross-encoders overfit quickly; the best weights are kept.
    NUM_EPOCHS: Annotated[float, Range(0, 1e6, exclude_low=True), RESULT] = 1.0
    # Rows of a step on each device; times GRADIENT_ACCUMULATION_STEPS is what the optimizer sees.
    BATCH_SIZE: Annotated[int, Range(1, 100_000), RESULT] = 32
    GRADIENT_ACCUMULATION_STEPS: Annotated[int, Range(1, 100_000), RESULT] = 1
    # Peak learning rate. 2e-5 suits trained rerankers, 1e-4 a new head on a small encoder.
    LEARNING_RATE: Annotated[float, Range(0, 1e6, exclude_low=True), RESULT] = 2e-5
    # Fraction of the steps in which the learning rate rises; it falls linearly after that.
    WARMUP_RATIO: Annotated[float, Range(0, 0.99), RESULT] = 0.1
    WEIGHT_DECAY: Annotated[float, RESULT] = 0.01
    # Optimizer steps between evaluations on the validation queries; 0 evaluates after each epoch.
    EVAL_STEPS: Annotated[int, Range(0, 1_000_000), RESULT] = 0
    # Validation queries that each evaluation ranks; 0 for all.
    EVAL_QUERIES: Annotated[int, Range(0, 1_000_000), RESULT] = 200
    # Evaluations without a new best after which training ends; 0 turns this off.
    EARLY_STOPPING: Annotated[int, Range(0, 10_000), RESULT] = 3
    # Optimizer steps between checkpoints and between entries of the log.
    SAVE_STEPS: Annotated[int, Range(1, 1_000_000), EXECUTION] = 100
    LOGGING_STEPS: Annotated[int, Range(1, 1_000_000), EXECUTION] = 10
    # Precision of matrix products: bf16, fp16 (GPUs, training only) or fp32. "auto" takes the one that this device has hardware for.
    COMPUTE_DTYPE: Annotated[Literal["auto", "bf16", "fp16", "fp32"], DERIVED] = "auto"
    # True learns on the validation queries how much the first stage and the cross-encoder count, and ranks by both.
    FUSION: Annotated[bool, RESULT] = True
    # Ranking measures of ir-measures. The first decides which weights are kept, and what the last sentence of `evaluate` is about.
    MEASURES: Annotated[list[str], RESULT] = ["nDCG@10", "RR@10", "AP", "Success@5", "P@1"]
    # The queries that `evaluate` ranks.
    SPLIT: Annotated[Literal["test", "validation", "train"], RESULT] = "test"
    # What computes the scores: torch, or the exported onnx or onnx-int8, which are faster on CPUs.
    BACKEND: Annotated[Literal["torch", "onnx", "onnx-int8"], RESULT] = "torch"
    # Pairs that are scored at a time. None takes what suits the device.
    SCORE_BATCH_SIZE: Annotated[int | None, Range(1, 100_000), EXECUTION] = None
    # Where the index keeps its vectors: faiss (a file), chroma (a folder), or pinecone (a server; PINECONE_API_KEY, PINECONE_INDEX).
    VECTOR_STORE: Annotated[Literal["faiss", "chroma", "pinecone"], EXECUTION] = "faiss"
    PINECONE_INDEX: Annotated[str, EXECUTION] = ""
    # Passages that `search` prints.
    TOP_K: Annotated[int, Range(1, 1000), EXECUTION] = 5
    # Trackers that get losses and measures: mlflow, wandb, tensorboard, or several.
    REPORT_TO: Annotated[list[str], EXECUTION] = []
    # MLflow's server. Where nothing listens, runs go to the folder mlruns, which `mlflow ui` shows.
    MLFLOW_URI: Annotated[str, EXECUTION] = "http://127.0.0.1:8080"
    # GPUs to use on this machine. None uses all.
    NUM_GPUS: Annotated[int | None, EXECUTION] = None
    RANDOM_SEED: Annotated[int, RESULT] = 42


DEMO = {
    "DATA": str(recipes.sample_specialties()),
    "SPECIALTIES": [
        "cardiology",
        "dermatology",
        "gastroenterology",
        "nephrology",
        "neurology",
        "oncology",
        "psychiatry",
        "rheumatology",
    ],
    "DATASET_DIR": "datasets/demo_reranking",
    "OUTPUT_DIR": "results/demo_reranking",
    "EVALUATION_DIR": "evaluation_results/demo_reranking",
    "INDEX_DIR": "results/demo_reranking_index",
    "MODEL_NAME": "packaged",
    "LEARNING_RATE": 1e-4,
    "MAX_LENGTH": 128,
    "BATCH_SIZE": 16,
    "RERANK_DEPTH": 20,
    "TEST_SHARE": 0.1,
    "NEGATIVES_MINED": 2,
    "SAVE_STEPS": 50,
    "EVAL_QUERIES": 100,
    "LOGGING_STEPS": 20,
}


def check(config: RerankerConfig) -> None:
    """Raise UserError if settings contradict each other."""
    from meerkat_workbench.retrieval import measures

    if config.MINE_FIRST_RANK > config.MINE_LAST_RANK:
        raise UserError(f"is above MINE_LAST_RANK={config.MINE_LAST_RANK}", where=f"MINE_FIRST_RANK={config.MINE_FIRST_RANK}")
    if not config.MEASURES:
        raise UserError("is empty", where="MEASURES", remedy="For example MEASURES=nDCG@10,AP.")
    for name in config.MEASURES:
        measures.parse(name, 1)
    if config.VECTOR_STORE == "pinecone" and not config.PINECONE_INDEX:
        raise UserError("needs the name of an index", where="VECTOR_STORE=pinecone", remedy="Set PINECONE_INDEX.")


# --- data


def read_judged(config: RerankerConfig) -> JudgedQueries:
    """The judged queries of DATA."""
    from meerkat_workbench.reranking.loaders import builder, forms

    path = Path(config.DATA)
    form = forms.detect(path) if config.FORMAT == "auto" else config.FORMAT
    if form == "specialty":
        judged = builder.from_question_answers(read_specialties(path, config.SPECIALTIES))
    else:
        judged = forms.load(path, form, more_documents=config.MORE_DOCUMENTS, seed=config.RANDOM_SEED)
    judged = judged.with_threshold(config.RELEVANT_FROM) if config.RELEVANT_FROM else judged
    forms.check_answered(judged, config.DATA)
    return judged


def read_specialties(folder: Path, only: list[str]) -> list[QuestionAnswer]:
    """The pairs of a folder of specialty files, which the tuning task reads; of some specialties, or of all."""
    from meerkat_workbench.reranking.loaders.builder import QuestionAnswer
    from meerkat_workbench.tuning.data import specialty_files

    loaded = specialty_files.read_folder(folder, skip_invalid=False, only=only)
    return [QuestionAnswer(record.question, record.response) for records in loaded.records.values() for record in records]


def preparation_spec(config: RerankerConfig) -> PreparationSpec:
    from meerkat_workbench.reranking import prepare as preparation
    from meerkat_workbench.reranking.negatives import MiningRules, NegativeCounts
    from meerkat_workbench.reranking.splits import RankingSplit

    path = Path(config.DATA)
    return preparation.PreparationSpec(
        inputs=preparation.input_hashes(path) if path.exists() else {config.DATA: "from the Hub"},
        shares={RankingSplit.VALIDATION: config.VALIDATION_SHARE, RankingSplit.TEST: config.TEST_SHARE},
        counts=NegativeCounts(config.NEGATIVES_OTHER, config.NEGATIVES_UNRELATED, config.NEGATIVES_MINED),
        rules=MiningRules(config.MINE_FIRST_RANK, config.MINE_LAST_RANK, config.MINE_MARGIN, config.TEACHER_BELOW),
        first_stage=config.FIRST_STAGE, encoder=config.ENCODER, teacher=config.TEACHER, seed=config.RANDOM_SEED,
    )  # fmt: skip


def prepare(config: RerankerConfig, *, fresh: bool = False) -> PreparedManifest:
    """Read DATA, split it by groups of questions, choose negatives, and write DATASET_DIR."""
    from meerkat_workbench.core.runs import Run
    from meerkat_workbench.device import hub
    from meerkat_workbench.reranking import prepare as preparation
    from meerkat_workbench.reranking.artifacts import PreparedManifest
    from meerkat_workbench.retrieval import cross_encoder, encoders

    check(config)
    spec = preparation_spec(config)
    names = ("FORMAT", "SPECIALTIES", "MORE_DOCUMENTS", "RELEVANT_FROM", "VALIDATION_SHARE", "TEST_SHARE", "NEGATIVES_OTHER", "NEGATIVES_UNRELATED",
             "NEGATIVES_MINED", "MINE_FIRST_RANK", "MINE_LAST_RANK", "MINE_MARGIN", "TEACHER", "TEACHER_BELOW", "FIRST_STAGE", "ENCODER",
             "RANDOM_SEED")  # fmt: skip
    models = []
    if config.NEGATIVES_MINED or config.TEACHER:
        hub.silence_libraries()
        dense = config.NEGATIVES_MINED and config.FIRST_STAGE != "bm25"
        models = [encoders.identity(config.ENCODER) if dense else "",
                  cross_encoder.identity(config.TEACHER) if config.TEACHER else ""]  # fmt: skip
    source = sorted(spec.inputs.values()) if Path(config.DATA).exists() else config.DATA
    fingerprint = files.sha256_of([{name: getattr(config, name) for name in names}, source, models])
    with Run(Path(config.DATASET_DIR), PreparedManifest, fresh=fresh) as run:
        return preparation.prepare(run, lambda: read_judged(config), spec, config, fingerprint)


# --- training


def training_spec(config: RerankerConfig) -> TrainingSpec:
    from meerkat_workbench.reranking.train import TrainingSpec
    from meerkat_workbench.trainers.cross_encoder.recipe import recipe_of

    recipe = recipe_of(config, config.LOSS)
    return TrainingSpec(recipe, config.MEASURES, config.FIRST_STAGE, config.ENCODER, config.EVAL_QUERIES, config.RERANK_DEPTH,
                        config.EARLY_STOPPING, config.FUSION)  # fmt: skip


def train(config: RerankerConfig, *, fresh: bool = False) -> RerankerManifest:
    """Train on the prepared pairs, from the last complete checkpoint if there is one, and keep the best weights in OUTPUT_DIR/model."""
    from meerkat_workbench.core.runs import Run, RunState
    from meerkat_workbench.device import distributed, hub, tracking
    from meerkat_workbench.reranking import train as training
    from meerkat_workbench.reranking.artifacts import RerankerManifest
    from meerkat_workbench.reranking.prepared import PreparedData
    from meerkat_workbench.retrieval import encoders

    check(config)
    hub.silence_libraries()
    data, ranks = PreparedData.open(Path(config.DATASET_DIR)), distributed.join()
    spec = training_spec(config)
    if "mlflow" in config.REPORT_TO:
        tracking.choose_mlflow_store(config.MLFLOW_URI)
    weights = hub.weights_hash(hub.locate_encoder(config.MODEL_NAME, "microsoft/deberta-v3-small"))
    recipe = {name: value for name, value in settings.with_effect(config, RESULT).items() if name not in ("SPLIT", "BACKEND")}
    encoder = "" if config.FIRST_STAGE == "bm25" else encoders.identity(config.ENCODER)
    fingerprint = files.sha256_of([recipe, data.manifest.fingerprint, weights, encoder, spec.recipe.precision, ranks.count])
    with Run(Path(config.OUTPUT_DIR), RerankerManifest, ranks=ranks, fresh=fresh) as run:
        if run.find(fingerprint, spec.recipe.precision) is RunState.FINISHED:
            if ranks.is_main:
                print(f"{run.folder}: up to date")
            return run.finished()
        return training.train(run, data, spec, config, config.REPORT_TO)


# --- evaluation


def evaluation_spec(config: RerankerConfig, model: str) -> EvaluationSpec:
    from meerkat_workbench.reranking.evaluate import EvaluationSpec
    from meerkat_workbench.reranking.splits import RankingSplit

    return EvaluationSpec(model, config.BACKEND, RankingSplit(config.SPLIT), config.FIRST_STAGE, config.ENCODER, config.RERANK_DEPTH,
                          config.MEASURES, config.SCORE_BATCH_SIZE, config.FUSION, compute=config.COMPUTE_DTYPE)  # fmt: skip


def is_model(folder: Path) -> bool:
    """Whether a folder is a model's own, not the output of a training."""
    return (folder / "config.json").is_file() or (folder / "modules.json").is_file()


def model_folder(config: RerankerConfig) -> Path:
    """The trained reranker of OUTPUT_DIR; OUTPUT_DIR may also be a reranker's own folder."""
    from meerkat_workbench.reranking.artifacts import MODEL, RerankerManifest

    output = Path(config.OUTPUT_DIR)
    if is_model(output):
        return output
    RerankerManifest.require(output)
    return output / MODEL


def evaluate(config: RerankerConfig, *, run_file: Path | None = None, fresh: bool = False) -> RankingEvaluationManifest:
    """Rank the queries of SPLIT by every ranker, and compare each with the first stage.

    Args:
        run_file: a TREC run made elsewhere, which is measured in place of the reranker.
    """
    from meerkat_workbench.core.runs import Run, RunState
    from meerkat_workbench.device import hub
    from meerkat_workbench.reranking import evaluate as evaluation
    from meerkat_workbench.reranking.artifacts import RankingEvaluationManifest, RerankerManifest
    from meerkat_workbench.reranking.prepared import PreparedData
    from meerkat_workbench.reranking.splits import RankingSplit
    from meerkat_workbench.retrieval import cross_encoder

    check(config)
    hub.silence_libraries()
    model = "" if run_file else str(model_folder(config))
    data = PreparedData.open(Path(config.DATASET_DIR))
    weights = files.sha256_file(run_file) if run_file else cross_encoder.identity(model)
    names = ("SPLIT", "FIRST_STAGE", "ENCODER", "RERANK_DEPTH", "MEASURES", "BACKEND", "COMPUTE_DTYPE", "FUSION")
    fingerprint = files.sha256_of([data.manifest.fingerprint, weights, {name: getattr(config, name) for name in names}])
    trained = None if run_file else RerankerManifest.find(Path(config.OUTPUT_DIR))
    spec = replace(evaluation_spec(config, model), caution=evaluation.caution(data.manifest, trained, RankingSplit(config.SPLIT)))
    with Run(Path(config.EVALUATION_DIR), RankingEvaluationManifest, fresh=fresh) as run:
        if run.find(fingerprint) is RunState.FINISHED:
            print(f"{run.folder}: up to date")
            print(run.finished().sentence)
            return run.finished()
        return evaluation.evaluate(run, data, spec, config, weights, run_file)


# --- on the command line


OPTIONS: dict[str, dict[str, object]] = {
    "--query": {"metavar": "TEXT", "help": "score, search: the question"},
    "--document": {"metavar": "TEXT", "help": "score: the passage"},
    "--run": {"type": settings.path, "metavar": "FILE", "help": "rerank: a TREC run to reorder; evaluate: one to measure"},
    "--queries": {"type": settings.path, "metavar": "FILE", "help": "rerank: queries.jsonl, rows of _id and text"},
    "--corpus": {"type": settings.path, "metavar": "FILE", "help": "rerank, index: corpus.jsonl, rows of _id, text and title"},
    "--output": {"type": settings.path, "metavar": "FILE", "help": "rerank: the TREC run to write"},
    "--delete": {"nargs": "+", "metavar": "ID", "help": "index: documents to remove"},
}


def main() -> None:
    verb, argv = verb_of("reranking.py", VERBS)
    config, arguments = settings.load(RerankerConfig, argv, __doc__ or "", DEMO, OPTIONS)
    check(config)
    {
        "prepare": run_prepare, "train": run_train, "evaluate": run_evaluate, "mine": run_mine, "export": run_export, "score": run_score,
        "rerank": run_rerank, "index": run_index, "search": run_search, "list": run_list,
    }[verb](config, arguments)  # fmt: skip


def run_prepare(config: RerankerConfig, arguments: argparse.Namespace) -> None:
    prepare(config, fresh=arguments.fresh)
    say_next("train", config, arguments)


def run_train(config: RerankerConfig, arguments: argparse.Namespace) -> None:
    ensure_data(config)
    with console.working("loading libraries"):
        from meerkat_workbench.device import distributed
        from meerkat_workbench.reranking import listing
    distributed.launch_on_all_gpus(config.NUM_GPUS)
    manifest = train(config, fresh=arguments.fresh)
    if console.is_main_process():
        listing.print_training(Path(config.OUTPUT_DIR), manifest)
        say_next("evaluate", config, arguments)


def run_evaluate(config: RerankerConfig, arguments: argparse.Namespace) -> None:
    evaluate(config, run_file=arguments.run, fresh=arguments.fresh)


def run_mine(config: RerankerConfig, arguments: argparse.Namespace) -> None:
    """Prepare again with hard negatives that the trained reranker filters; the earlier data go to the archive."""
    if not config.TEACHER:
        config.TEACHER = str(model_folder(config))
    prepare(config, fresh=arguments.fresh)
    say_next("train", config, arguments)


def run_export(config: RerankerConfig, arguments: argparse.Namespace) -> None:
    """Export the trained reranker, and compare it with torch on validation pairs."""
    from meerkat_workbench.device import hub
    from meerkat_workbench.reranking import export as exporting
    from meerkat_workbench.reranking.prepared import PreparedData
    from meerkat_workbench.reranking.train import validation_candidates
    from meerkat_workbench.retrieval import onnx_export

    hub.silence_libraries()
    folder, data = model_folder(config), PreparedData.open(Path(config.DATASET_DIR))
    found, judged = validation_candidates(data, config.FIRST_STAGE, config.ENCODER, QUERIES_CHECKED, config.RERANK_DEPTH)
    onnx_export.print_export(folder, exporting.export(folder, found, judged))
    print(
        f"use it with BACKEND=onnx-int8, for example: {command_of('reranking.py', 'evaluate', *demo_flag(arguments), 'BACKEND=onnx-int8')}"
    )


def load_reranker(config: RerankerConfig) -> CrossEncoder:
    """The trained reranker, for scoring by BACKEND."""
    from meerkat_workbench.retrieval import cross_encoder

    model = cross_encoder.load(str(model_folder(config)), config.BACKEND, config.COMPUTE_DTYPE)
    model.batch_size = config.SCORE_BATCH_SIZE
    return model


def run_score(config: RerankerConfig, arguments: argparse.Namespace) -> None:
    from meerkat_workbench.device import hub
    from meerkat_workbench.retrieval import cross_encoder
    from meerkat_workbench.text import texts

    for name in ("query", "document"):
        if texts.is_blank(getattr(arguments, name) or ""):
            raise UserError("is missing or empty", where=f"--{name}", remedy='Give both: score --query "…" --document "…".')
    ensure_data(config)
    hub.silence_libraries()
    model = load_reranker(config)
    [logit] = model.logits([(arguments.query, arguments.document)])
    if model.truncated:
        print(f"the pair is longer than {model.max_length} tokens, so its longer text was cut", file=sys.stderr)
    print(f"{cross_encoder.probability(logit):.6f}")


def run_rerank(config: RerankerConfig, arguments: argparse.Namespace) -> None:
    """Reorder the first RERANK_DEPTH documents of each query of a TREC run; those below keep their order."""
    from meerkat_workbench.device import hub
    from meerkat_workbench.reranking import listing, rerank_run

    for name in ("run", "queries", "corpus", "output"):
        if getattr(arguments, name) is None:
            raise UserError("is missing", where=f"--{name}", remedy="rerank takes --run, --queries, --corpus and --output.")
    hub.silence_libraries()
    model = load_reranker(config)
    rerank_run.rerank_file(arguments.run, arguments.queries, arguments.corpus, arguments.output, model, config.RERANK_DEPTH)
    if caution := listing.caution_alone(Path(config.OUTPUT_DIR), config.MEASURES[0]):
        print(caution)


def run_index(config: RerankerConfig, arguments: argparse.Namespace) -> None:
    """Add the documents of the prepared data, or of --corpus, to INDEX_DIR, or delete some of it."""
    from meerkat_workbench.device import hub
    from meerkat_workbench.reranking import listing
    from meerkat_workbench.reranking.artifacts import CORPUS, RerankerManifest
    from meerkat_workbench.reranking.prepared import PreparedData
    from meerkat_workbench.retrieval.documents import read_documents
    from meerkat_workbench.retrieval.index import DocumentIndex, IndexDescription

    hub.silence_libraries()
    folder, output = Path(config.INDEX_DIR), Path(config.OUTPUT_DIR)
    trained = RerankerManifest.find(output) is not None or is_model(output)
    reranker = str(model_folder(config).resolve()) if trained else ""
    if (folder / IndexDescription.FILE).is_file():
        index = DocumentIndex.open(folder)
        listing.check_settings(index, config.FIRST_STAGE, config.ENCODER, config.VECTOR_STORE)
        if reranker and reranker != index.description.reranker:
            index.use_reranker(reranker)
    else:
        index = DocumentIndex.create(folder, config.FIRST_STAGE, config.ENCODER, store=config.VECTOR_STORE,
                                     pinecone_index=config.PINECONE_INDEX, reranker=reranker)  # fmt: skip
    if arguments.delete:
        index.delete(arguments.delete)
        print(f"{folder}: {len(arguments.delete)} documents deleted, {len(index.documents):,} left")
        return
    corpus = arguments.corpus or PreparedData.open(Path(config.DATASET_DIR)).folder / CORPUS
    listing.print_index(folder, index, index.add(read_documents(corpus).values()))
    query = '"How is gout treated?"'
    print(f"next: {command_of('reranking.py', 'search', *demo_flag(arguments))} --query {query}")
    print(f"      or {command_of('evaluation.py', *demo_flag(arguments), f'RETRIEVAL={folder}')} for answers with passages")


def run_search(config: RerankerConfig, arguments: argparse.Namespace) -> None:
    from meerkat_workbench.device import hub
    from meerkat_workbench.reranking import listing
    from meerkat_workbench.retrieval.pipeline import RetrievalPipeline

    if not arguments.query:
        raise UserError("is missing", where="--query", remedy='For example search --query "How is gout treated?"')
    hub.silence_libraries()
    pipeline = RetrievalPipeline.open(Path(config.INDEX_DIR), config.BACKEND, config.RERANK_DEPTH, config.COMPUTE_DTYPE)
    if pipeline.reranker:
        pipeline.reranker.batch_size = config.SCORE_BATCH_SIZE
    listing.print_passages(pipeline.retrieve_and_rerank(arguments.query, config.TOP_K), pipeline.reranker is not None)


def run_list(config: RerankerConfig, _: argparse.Namespace) -> None:
    from meerkat_workbench.reranking import listing

    listing.print_rerankers(Path(config.OUTPUT_DIR).parent)


QUERIES_CHECKED = 20  # whose candidates an export is compared on


def ensure_data(config: RerankerConfig) -> None:
    """With DATA_VERSIONING=dvc, have the prepared data: pulled, or made and then stored."""
    if config.DATA_VERSIONING == "dvc" and console.is_main_process():
        from meerkat_workbench.reranking import versioning

        versioning.ensure(Path(config.DATASET_DIR), lambda: prepare(config))


def say_next(verb: str, config: RerankerConfig, arguments: argparse.Namespace) -> None:
    expected = {**settings.as_dict(RerankerConfig()), **(DEMO if arguments.demo else {})}
    folders = [
        f"{name}={getattr(config, name)}" for name in ("DATASET_DIR", "OUTPUT_DIR") if getattr(config, name) != expected[name]
    ]
    print(f"next: {command_of('reranking.py', verb, *demo_flag(arguments), *folders)}")


if __name__ == "__main__":
    run_script(main)
