#!/usr/bin/env python3
"""Link mentions of diseases and drugs to concepts of UMLS, MeSH or any vocabulary, with probabilities that one can believe.

    python entity_linking.py prepare --demo        a vocabulary, documents divided into splits, and training pairs
    python entity_linking.py train --demo          a MiniLM cross-encoder, on any CPU, and the weights of all evidence
    python entity_linking.py calibrate --demo      probabilities, and thresholds by semantic type
    python entity_linking.py evaluate --demo       accuracy, candidates and calibration on test documents, with charts
    python entity_linking.py pipeline --demo       the four above in turn; after a kill it goes on where it was
    python entity_linking.py export --demo         the linker's cross-encoder as ONNX, in 32 and 8 bits, for BACKEND=onnx-int8
    python entity_linking.py link --demo --mention "heart attack" --context "She had a heart attack."
    python entity_linking.py link --demo --input FILE --output FILE.jsonl
    python entity_linking.py statistics --demo     what one would monitor: confidence, margins, drift, calibration error

A verb comes first, then settings (KEY=VALUE) and options. Outputs are described in docs/entity_linking.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from meerkat_workbench import recipes
from meerkat_workbench.core import console, files, settings
from meerkat_workbench.core.commands import command_of, demo_flag, verb_of
from meerkat_workbench.core.errors import UserError, run_script
from meerkat_workbench.core.settings import DERIVED, EXECUTION, RESULT, Range

if TYPE_CHECKING:
    import argparse

    from meerkat_workbench.concepts.linker import Linker
    from meerkat_workbench.linking.artifacts import (
        LinkerManifest,
        LinkingDataManifest,
        LinkingEvaluationManifest,
        LinkTrainingManifest,
    )
    from meerkat_workbench.linking.prepare import LinkPreparationSpec
    from meerkat_workbench.linking.train import LinkTrainingSpec

VERBS = ("prepare", "train", "calibrate", "evaluate", "pipeline", "export", "link", "statistics")

# --- settings


class LinkerConfig(settings.Settings):
    """Settings of the entity linker. Change a line here, or give KEY=VALUE on the command line."""

    # Corpora with annotated mentions, in PubTator's form (MedMentions, NCBI disease, BC5CDR). A document that occurs twice is read once.
    CORPUS: Annotated[list[str], DERIVED] = ["data/corpus.PubTator"]
    # Corpora whose documents are all for the test. Empty takes TEST_SHARE of CORPUS.
    TEST_CORPUS: Annotated[list[str], DERIVED] = []
    # Lists of document ids by split, as corpora publish them: {"train": "trng.txt", "test": "test.txt"}. Splits without a list get their shares.
    SPLIT_IDS: Annotated[dict[str, str], DERIVED] = {}
    # Types of mentions that are kept, such as Disease. Empty keeps all.
    MENTION_TYPES: Annotated[list[str], RESULT] = []
    # The vocabulary: a folder with UMLS' MRCONSO.RRF and MRSTY.RRF, MEDIC, MeSH, JSON lines or a table.
    VOCABULARY: Annotated[str, DERIVED] = "data/concepts.jsonl"
    # The form of VOCABULARY. "auto" tells it by the names of the files and their first lines.
    VOCABULARY_FORMAT: Annotated[Literal["auto", "umls", "medic", "mesh", "jsonl", "csv"], RESULT] = "auto"
    # A table of the semantic types' hierarchy: type_id, name, parent_id. Empty for a vocabulary without one.
    TYPES: Annotated[str, DERIVED] = ""
    # Folders of the prepared data, the training, the calibrated linker, and its evaluation.
    DATASET_DIR: Annotated[str, DERIVED] = "datasets/linking"
    OUTPUT_DIR: Annotated[str, DERIVED] = "results/linking"
    LINKER_DIR: Annotated[str, DERIVED] = "results/linker"
    EVALUATION_DIR: Annotated[str, EXECUTION] = "evaluation_results/linking"
    STATISTICS_DIR: Annotated[str, EXECUTION] = "evaluation_results/linking_statistics"
    # Fractions of the documents for choosing weights, for calibration, for thresholds, and for the test. The rest is for training.
    VALIDATION_SHARE: Annotated[float, Range(0, 0.5, exclude_low=True), RESULT] = 0.1
    CALIBRATE_SHARE: Annotated[float, Range(0, 0.5, exclude_low=True), RESULT] = 0.1
    TUNE_SHARE: Annotated[float, Range(0, 0.5, exclude_low=True), RESULT] = 0.1
    TEST_SHARE: Annotated[float, Range(0, 0.5, exclude_low=True), RESULT] = 0.15
    # Negatives of each mention: similar concepts, others of the right concept's type, and any others.
    NEGATIVES_SEMANTIC: Annotated[int, Range(0, 1000), RESULT] = 5
    NEGATIVES_SAME_TYPE: Annotated[int, Range(0, 1000), RESULT] = 2
    NEGATIVES_RANDOM: Annotated[int, Range(0, 1000), RESULT] = 2
    # Names of the vocabulary that are trained on as if they were mentions without context, drawn at random.
    SYNONYM_MENTIONS: Annotated[int, Range(0, 100_000_000), RESULT] = 0
    # The bi-encoder that finds candidates: a Hub name such as cambridgeltl/SapBERT-from-PubMedBERT-fulltext-mean-token, a folder, "packaged" for the MiniLM
    # that is installed with the workbench, or empty for character n-grams alone.
    ENCODER: Annotated[str, RESULT] = "packaged"
    # Candidates of a mention that the cross-encoder reads. More costs time in proportion.
    READ: Annotated[int, Range(2, 64), RESULT] = 8
    # False trains no cross-encoder: names, vectors and training mentions decide alone.
    CROSS_ENCODER: Annotated[bool, RESULT] = True
    # Base of the cross-encoder: any BERT by Hub name or folder, or "packaged".
    MODEL_NAME: Annotated[str, DERIVED] = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext"
    # The head, as in reranking.py: "compare" begins as a bi-encoder's cosine.
    HEAD: Annotated[Literal["auto", "compare", "mean", "classifier"], RESULT] = "auto"
    # weighted-bce counts hard negatives HARD_NEGATIVE_WEIGHT times; lambda and ranknet compare the candidates of a mention.
    LOSS: Annotated[Literal["bce", "weighted-bce", "cached-mnrl", "lambda", "ranknet"], RESULT] = "weighted-bce"
    # Weight of right concepts. About the number of negatives of each mention balances them.
    POS_WEIGHT: Annotated[float, Range(0, 1e6, exclude_low=True), RESULT] = 1.0
    HARD_NEGATIVE_WEIGHT: Annotated[float, Range(0, 1e6, exclude_low=True), RESULT] = 1.5
    # Negatives beside each positive in cached-mnrl.
    LOSS_NEGATIVES: Annotated[int, Range(1, 1000), RESULT] = 4
    # Rank of a LoRA adapter, which is merged when the model is saved. 0 trains every weight.
    LORA_RANK: Annotated[int, Range(0, 4096), RESULT] = 0
    LORA_ALPHA: Annotated[int, Range(1, 100_000), RESULT] = 32
    # The most tokens of mention and concept together.
    MAX_LENGTH: Annotated[int, Range(8, 100_000), RESULT] = 96
    NUM_EPOCHS: Annotated[float, Range(0, 1e6, exclude_low=True), RESULT] = 1.0
    # Rows of a step on each device; times GRADIENT_ACCUMULATION_STEPS is what the optimizer sees, 64 by default.
    BATCH_SIZE: Annotated[int, Range(1, 100_000), RESULT] = 16
    GRADIENT_ACCUMULATION_STEPS: Annotated[int, Range(1, 100_000), RESULT] = 4
    LEARNING_RATE: Annotated[float, Range(0, 1e6, exclude_low=True), RESULT] = 2e-5
    WARMUP_RATIO: Annotated[float, Range(0, 0.99), RESULT] = 0.1
    WEIGHT_DECAY: Annotated[float, RESULT] = 0.01
    # Optimizer steps between evaluations on the validation mentions; 0 evaluates after each epoch.
    EVAL_STEPS: Annotated[int, Range(0, 1_000_000), RESULT] = 0
    # Validation mentions that each evaluation scores; 0 for all.
    EVAL_MENTIONS: Annotated[int, Range(0, 1_000_000), RESULT] = 1000
    # Evaluations without a new best after which training ends; 0 turns this off.
    EARLY_STOPPING: Annotated[int, Range(0, 10_000), RESULT] = 3
    SAVE_STEPS: Annotated[int, Range(1, 1_000_000), EXECUTION] = 100
    LOGGING_STEPS: Annotated[int, Range(1, 1_000_000), EXECUTION] = 10
    # Precision of matrix products: bf16, fp16 (GPUs, training only) or fp32. "auto" takes the one that this device has hardware for.
    COMPUTE_DTYPE: Annotated[Literal["auto", "bf16", "fp16", "fp32"], DERIVED] = "auto"
    # Mentions that a semantic type needs for a threshold of its own. Other types take their parent's, or the default.
    MIN_SUPPORT: Annotated[int, Range(1, 1_000_000), RESULT] = 30
    # Precision that links must reach, such as 0.95. None takes the thresholds of the largest F1.
    PRECISION: Annotated[float | None, Range(0, 1), RESULT] = None
    # What computes the cross-encoder's scores: torch, or the exported onnx or onnx-int8.
    BACKEND: Annotated[Literal["torch", "onnx", "onnx-int8"], RESULT] = "torch"
    # Trackers that get losses and measures: mlflow, wandb, tensorboard, or several.
    REPORT_TO: Annotated[list[str], EXECUTION] = []
    # MLflow's server. Where nothing listens, runs go to the folder mlruns, which `mlflow ui` shows.
    MLFLOW_URI: Annotated[str, EXECUTION] = "http://127.0.0.1:8080"
    # GPUs to use on this machine. None uses all.
    NUM_GPUS: Annotated[int | None, EXECUTION] = None
    RANDOM_SEED: Annotated[int, RESULT] = 42


DEMO = {
    "CORPUS": [str(recipes.example("linking", "corpus.PubTator"))],
    "VOCABULARY": str(recipes.example("linking", "concepts.jsonl")),
    "TYPES": str(recipes.example("linking", "types.csv")),
    "DATASET_DIR": "datasets/demo_linking",
    "OUTPUT_DIR": "results/demo_linking",
    "LINKER_DIR": "results/demo_linker",
    "EVALUATION_DIR": "evaluation_results/demo_linking",
    "STATISTICS_DIR": "evaluation_results/demo_linking_statistics",
    "MODEL_NAME": "packaged",
    "LEARNING_RATE": 1e-4,
    "GRADIENT_ACCUMULATION_STEPS": 1,
    "VALIDATION_SHARE": 0.15,
    "CALIBRATE_SHARE": 0.15,
    "TUNE_SHARE": 0.15,
    "MAX_LENGTH": 64,
    "NUM_EPOCHS": 0.6,
    "EVAL_MENTIONS": 100,
    "LOGGING_STEPS": 20,
}


# --- data


def check(config: LinkerConfig) -> None:
    """Raise UserError if settings contradict each other."""
    from meerkat_workbench.linking.splits import LinkSplit

    unknown = sorted(set(config.SPLIT_IDS) - set(LinkSplit))
    if unknown:
        raise UserError("is no split", where="SPLIT_IDS", item=unknown[0], remedy=f"The splits are {', '.join(LinkSplit)}.")
    shares = (
        config.VALIDATION_SHARE + config.CALIBRATE_SHARE + config.TUNE_SHARE + (0 if config.TEST_CORPUS else config.TEST_SHARE)
    )
    if shares >= 1:
        raise UserError(f"add up to {shares:g}", where="the shares of the splits", remedy="Leave documents for training.")


def preparation_spec(config: LinkerConfig) -> LinkPreparationSpec:
    from meerkat_workbench.concepts import vocabulary_files
    from meerkat_workbench.linking.pairs import LinkNegatives
    from meerkat_workbench.linking.prepare import LinkPreparationSpec
    from meerkat_workbench.linking.splits import LinkSplit, SplitRules

    named = [
        *config.CORPUS,
        *config.TEST_CORPUS,
        config.VOCABULARY,
        *config.SPLIT_IDS.values(),
        *([config.TYPES] if config.TYPES else []),
    ]
    for name in named:
        if not Path(name).exists():
            raise UserError(
                "there is no such file", where=name, remedy="Check CORPUS, TEST_CORPUS, VOCABULARY, TYPES and SPLIT_IDS."
            )
    paths = [path for name in named for path in vocabulary_files.tables_of(Path(name))]
    shares = {LinkSplit.VALIDATION: config.VALIDATION_SHARE, LinkSplit.CALIBRATE: config.CALIBRATE_SHARE, LinkSplit.TUNE: config.TUNE_SHARE,
              LinkSplit.TEST: config.TEST_SHARE}  # fmt: skip
    rules = SplitRules({LinkSplit(name): Path(path) for name, path in config.SPLIT_IDS.items()}, [Path(one) for one in config.TEST_CORPUS],
                       shares, config.RANDOM_SEED)  # fmt: skip
    negatives = LinkNegatives(config.NEGATIVES_SEMANTIC, config.NEGATIVES_SAME_TYPE, config.NEGATIVES_RANDOM, config.SYNONYM_MENTIONS,
                              config.RANDOM_SEED)  # fmt: skip
    return LinkPreparationSpec({str(path): files.sha256_file(path) for path in paths}, [Path(one) for one in config.CORPUS],
                               config.MENTION_TYPES, rules, negatives, config.ENCODER)  # fmt: skip


def prepare(config: LinkerConfig, *, fresh: bool = False) -> LinkingDataManifest:
    """Read CORPUS and VOCABULARY, divide the documents, draw training pairs, and write DATASET_DIR."""
    from meerkat_workbench.concepts import linker, vocabulary_files
    from meerkat_workbench.core.runs import Run
    from meerkat_workbench.device import hub
    from meerkat_workbench.linking import prepare as preparation
    from meerkat_workbench.linking.artifacts import LinkingDataManifest

    check(config)
    hub.silence_libraries()
    spec = preparation_spec(config)
    names = ("MENTION_TYPES", "VOCABULARY_FORMAT", "VALIDATION_SHARE", "CALIBRATE_SHARE", "TUNE_SHARE", "TEST_SHARE", "NEGATIVES_SEMANTIC",
             "NEGATIVES_SAME_TYPE", "NEGATIVES_RANDOM", "SYNONYM_MENTIONS", "RANDOM_SEED")  # fmt: skip
    # each file with its role, so that files that change places are another run
    roles = {
        "corpus": config.CORPUS,
        "test": config.TEST_CORPUS,
        "ids": config.SPLIT_IDS,
        "vocabulary": config.VOCABULARY,
        "types": config.TYPES,
    }
    fingerprint = files.sha256_of(
        [{name: getattr(config, name) for name in names}, roles, spec.inputs, linker.encoder_identity(config.ENCODER)]
    )
    form = None if config.VOCABULARY_FORMAT == "auto" else config.VOCABULARY_FORMAT
    types = Path(config.TYPES) if config.TYPES else None
    with Run(Path(config.DATASET_DIR), LinkingDataManifest, fresh=fresh) as run:
        return preparation.prepare(
            run, lambda: vocabulary_files.read(Path(config.VOCABULARY), form, types), spec, config, fingerprint
        )


# --- training


def training_spec(config: LinkerConfig) -> LinkTrainingSpec:
    from meerkat_workbench.linking.train import LinkTrainingSpec
    from meerkat_workbench.trainers.cross_encoder.recipe import recipe_of

    recipe = recipe_of(config, config.LOSS)
    return LinkTrainingSpec(
        recipe if config.CROSS_ENCODER else None, config.ENCODER, config.READ, config.EVAL_MENTIONS, config.EARLY_STOPPING
    )


def train(config: LinkerConfig, *, fresh: bool = False) -> LinkTrainingManifest:
    """Train on the prepared pairs, from the last complete checkpoint if there is one, and write the linker's parts to OUTPUT_DIR."""
    from meerkat_workbench.concepts import linker
    from meerkat_workbench.concepts.candidates import EVIDENCE_VERSION
    from meerkat_workbench.core.runs import Run, RunState
    from meerkat_workbench.device import distributed, hub, tracking
    from meerkat_workbench.linking import train as training
    from meerkat_workbench.linking.artifacts import LinkTrainingManifest
    from meerkat_workbench.linking.prepared import LinkingData

    check(config)
    hub.silence_libraries()
    data, ranks, spec = LinkingData.open(Path(config.DATASET_DIR)), distributed.join(), training_spec(config)
    if "mlflow" in config.REPORT_TO:
        tracking.choose_mlflow_store(config.MLFLOW_URI)
    weights = hub.weights_hash(hub.locate_encoder(config.MODEL_NAME, "microsoft/deberta-v3-small")) if spec.recipe else ""
    recipe = {
        name: value
        for name, value in settings.with_effect(config, RESULT).items()
        if name not in ("MIN_SUPPORT", "PRECISION", "BACKEND")
    }
    precision = spec.recipe.precision if spec.recipe else ""
    fingerprint = files.sha256_of([recipe, data.manifest.fingerprint, weights, linker.encoder_identity(config.ENCODER), EVIDENCE_VERSION, precision,
                                   ranks.count])  # fmt: skip
    with Run(Path(config.OUTPUT_DIR), LinkTrainingManifest, ranks=ranks, fresh=fresh) as run:
        if run.find(fingerprint, precision) is RunState.FINISHED:
            if ranks.is_main:
                print(f"{run.folder}: up to date")
            return run.finished()
        return training.train(run, data, spec, config, config.REPORT_TO)


# --- calibration and evaluation


def calibrate(config: LinkerConfig, *, fresh: bool = False) -> LinkerManifest:
    """Fit probabilities and thresholds on documents that the training has not seen, and write the linker to LINKER_DIR."""
    from meerkat_workbench.core.runs import Run, RunState
    from meerkat_workbench.device import hub
    from meerkat_workbench.linking import calibrate as calibrating
    from meerkat_workbench.linking.artifacts import UNCALIBRATED, LinkerManifest, LinkTrainingManifest
    from meerkat_workbench.linking.prepared import LinkingData

    check(config)
    hub.silence_libraries()
    data, output = LinkingData.open(Path(config.DATASET_DIR)), Path(config.OUTPUT_DIR)
    trained = LinkTrainingManifest.require(output)
    if trained.data != data.manifest.fingerprint:
        raise UserError("was trained on other data than these", where=output, item=config.DATASET_DIR,
                        remedy="Run `python entity_linking.py train` again, so that no document is used twice.")  # fmt: skip
    fingerprint = files.sha256_of([trained.fingerprint, trained.weights, config.MIN_SUPPORT, config.PRECISION])
    with Run(Path(config.LINKER_DIR), LinkerManifest, fresh=fresh) as run:
        if run.find(fingerprint) is RunState.FINISHED:
            print(f"{run.folder}: up to date")
            return run.finished()
        spec = calibrating.CalibrationSpec(config.MIN_SUPPORT, config.PRECISION, config.COMPUTE_DTYPE)
        return calibrating.calibrate(run, data, trained, output / UNCALIBRATED, spec, config)


def evaluate(config: LinkerConfig, *, fresh: bool = False) -> LinkingEvaluationManifest:
    """Link the test documents, and compare the linker with its parts."""
    from meerkat_workbench.core.runs import Run, RunState
    from meerkat_workbench.device import hub
    from meerkat_workbench.linking import evaluate as evaluation
    from meerkat_workbench.linking.artifacts import LinkerManifest, LinkingEvaluationManifest
    from meerkat_workbench.linking.prepared import LinkingData

    check(config)
    hub.silence_libraries()
    data, made = LinkingData.open(Path(config.DATASET_DIR)), LinkerManifest.require(Path(config.LINKER_DIR))
    if made.data != data.manifest.fingerprint:
        raise UserError("was made from other data than these, so it may know the test documents", where=config.LINKER_DIR, item=config.DATASET_DIR,
                        remedy="Name the DATASET_DIR that it was made from, or run `python entity_linking.py pipeline`.")  # fmt: skip
    fingerprint = files.sha256_of([made.fingerprint, config.BACKEND, config.COMPUTE_DTYPE])
    with Run(Path(config.EVALUATION_DIR), LinkingEvaluationManifest, fresh=fresh) as run:
        if run.find(fingerprint) is RunState.FINISHED:
            print(f"{run.folder}: up to date")
            print(run.finished().sentence)
            return run.finished()
        return evaluation.evaluate(run, data, load_linker(config), config, made.fingerprint)


def load_linker(config: LinkerConfig) -> Linker:
    """The calibrated linker of LINKER_DIR."""
    from meerkat_workbench.concepts.linker import Linker

    with console.working("loading the linker"):
        return Linker.load(Path(config.LINKER_DIR), config.BACKEND, config.COMPUTE_DTYPE)


# --- on the command line


OPTIONS: dict[str, dict[str, object]] = {
    "--mention": {"metavar": "TEXT", "help": "link: the words to link"},
    "--context": {"metavar": "TEXT", "help": "link: the sentence around them", "default": ""},
    "--type": {"metavar": "TYPE", "help": "link: the mention's semantic type, if known", "default": ""},
    "--input": {
        "type": settings.path,
        "metavar": "FILE",
        "help": "link, statistics: PubTator, or JSON lines of doc_id, text, left, right and type",
    },
    "--output": {"type": settings.path, "metavar": "FILE", "help": "link: the JSON lines to write"},
}


def main() -> None:
    verb, argv = verb_of("entity_linking.py", VERBS)
    config, arguments = settings.load(LinkerConfig, argv, __doc__ or "", DEMO, OPTIONS)
    check(config)
    {
        "prepare": run_prepare, "train": run_train, "calibrate": run_calibrate, "evaluate": run_evaluate, "pipeline": run_pipeline,
        "export": run_export, "link": run_link, "statistics": run_statistics,
    }[verb](config, arguments)  # fmt: skip


def run_prepare(config: LinkerConfig, arguments: argparse.Namespace) -> None:
    prepare(config, fresh=arguments.fresh)
    say_next("train", arguments)


def run_train(config: LinkerConfig, arguments: argparse.Namespace) -> None:
    with console.working("loading libraries"):
        from meerkat_workbench.device import distributed
        from meerkat_workbench.linking import train as training
    distributed.launch_on_all_gpus(config.NUM_GPUS)
    manifest = train(config, fresh=arguments.fresh)
    if console.is_main_process():
        training.print_training(Path(config.OUTPUT_DIR), manifest)
        say_next("calibrate", arguments)


def run_calibrate(config: LinkerConfig, arguments: argparse.Namespace) -> None:
    calibrate(config, fresh=arguments.fresh)
    say_next("evaluate", arguments)


def run_evaluate(config: LinkerConfig, arguments: argparse.Namespace) -> None:
    evaluate(config, fresh=arguments.fresh)
    print(f"next: {command_of('evaluation.py', *demo_flag(arguments), f'LINKER={config.LINKER_DIR}')} for concepts in answers")


def run_pipeline(config: LinkerConfig, arguments: argparse.Namespace) -> None:
    """Every step in turn. A finished step is not repeated, and an interrupted one is resumed."""
    with console.working("loading libraries"):
        from meerkat_workbench.device import distributed
    if console.is_main_process():
        prepare(config, fresh=arguments.fresh)
    distributed.launch_on_all_gpus(config.NUM_GPUS)
    train(config, fresh=arguments.fresh)
    if console.is_main_process():
        calibrate(config, fresh=arguments.fresh)
        evaluate(config, fresh=arguments.fresh)


def run_export(config: LinkerConfig, arguments: argparse.Namespace) -> None:
    """Export the linker's cross-encoder, and compare it with torch on candidates of validation mentions."""
    from meerkat_workbench.concepts.artifacts import MODEL
    from meerkat_workbench.device import hub
    from meerkat_workbench.linking import scoring
    from meerkat_workbench.linking.prepared import LinkingData
    from meerkat_workbench.retrieval import onnx_export

    hub.silence_libraries()
    config.BACKEND = "torch"
    found, folder = load_linker(config), Path(config.LINKER_DIR) / MODEL
    if found.reranker is None:
        raise UserError("has no cross-encoder to export", where=config.LINKER_DIR, remedy="Train with CROSS_ENCODER=true.")
    pairs = scoring.validation_pairs(LinkingData.open(Path(config.DATASET_DIR)), found, PAIRS_CHECKED)
    onnx_export.print_export(folder, onnx_export.export(folder, pairs))
    print(
        f"use it with BACKEND=onnx-int8, for example: {command_of('entity_linking.py', 'evaluate', *demo_flag(arguments), 'BACKEND=onnx-int8')}"
    )


PAIRS_CHECKED = 400  # on which an export is compared


def run_link(config: LinkerConfig, arguments: argparse.Namespace) -> None:
    from meerkat_workbench.device import hub
    from meerkat_workbench.linking import link_files, listing

    hub.silence_libraries()
    if arguments.input is not None:
        if arguments.output is None:
            raise UserError("is missing", where="--output", remedy="Name the JSON lines to write.")
        mentions = link_files.read(arguments.input)
        listing.print_linked(arguments.output, link_files.write(arguments.output, link_files.link(load_linker(config), mentions)))
        return
    if not arguments.mention:
        raise UserError(
            "is missing", where="--mention", remedy='For example link --mention "MI" --context "He had an acute MI last year."'
        )
    context = arguments.context or arguments.mention
    found = load_linker(config)
    listing.print_link(found.link(context, arguments.mention, arguments.type), found.vocabulary)


def run_statistics(config: LinkerConfig, arguments: argparse.Namespace) -> None:
    """Statistics of the test documents' links, or of --input's, printed and written."""
    from meerkat_workbench.concepts import candidates
    from meerkat_workbench.core import artifacts
    from meerkat_workbench.device import hub
    from meerkat_workbench.linking import link_files, statistics
    from meerkat_workbench.linking.artifacts import LinkStatistics
    from meerkat_workbench.linking.prepared import LinkingData
    from meerkat_workbench.linking.splits import LinkSplit

    hub.silence_libraries()
    if arguments.input is not None:
        mentions = link_files.read(arguments.input)
    else:
        mentions = link_files.of_documents(LinkingData.open(Path(config.DATASET_DIR)).documents(LinkSplit.TEST))
        # a corpus' types are those of the right concepts, which a user does not have
        mentions = [(row, candidates.without_type(one)) for row, one in mentions]
    found = load_linker(config)
    made = list(link_files.link(found, mentions))
    numbers = statistics.of_links([link for _, link in made], found.description.reference, link_files.judged(found, made))
    folder = Path(config.STATISTICS_DIR)
    artifacts.write(folder / LinkStatistics.FILE, numbers)
    files.write_text(folder / statistics.PROMETHEUS, statistics.to_prometheus(numbers))
    statistics.print_statistics(numbers)
    print(f"{folder / LinkStatistics.FILE}, {folder / statistics.PROMETHEUS}")


def say_next(verb: str, arguments: argparse.Namespace) -> None:
    print(f"next: {command_of('entity_linking.py', verb, *demo_flag(arguments))}")


if __name__ == "__main__":
    run_script(main)
