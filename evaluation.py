#!/usr/bin/env python3
"""Ask base and tuned model the same questions, score them by specialty, and recommend what to train on next.

    python evaluation.py --demo                        the model that fine_tuning.py --demo trained
    python evaluation.py                               the model in results/, on holdout and eval of datasets/
    python evaluation.py --ask "What is gout?"         print both models' answers to one question
    python evaluation.py --rescore                     score stored answers again, without a model
    python evaluation.py --history                     print this iteration beside the earlier ones
    python evaluation.py --rating-sheet 40             write a blinded sheet of 40 questions for clinicians
    python evaluation.py --ratings anna.csv ben.csv    print their ratings, and which metrics agree with them

It writes OUTPUT_DIR (see evaluation_results/README.md). If it is stopped, the same command asks only the remaining questions.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from meerkat_workbench.core import console, files, settings
from meerkat_workbench.core.errors import UserError, run_script
from meerkat_workbench.core.settings import DERIVED, EXECUTION, RESULT, Added, Range, Renamed
from meerkat_workbench.tuning.artifacts import EvaluationInputs, EvaluationManifest, Recommendations, Split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meerkat_workbench.core.runs import Run
    from meerkat_workbench.device.devices import Precision
    from meerkat_workbench.tuning.artifacts import GenerationRecord
    from meerkat_workbench.tuning.data.dataset_folders import PreparedSplit
    from meerkat_workbench.tuning.generation.endpoint import Endpoint
    from meerkat_workbench.tuning.generation.few_shot import FewShotPrompts
    from meerkat_workbench.tuning.generation.generation_run import GenerationRun
    from meerkat_workbench.tuning.generation.jobs import DecodingOptions
    from meerkat_workbench.tuning.generation.open_book import OpenBook
    from meerkat_workbench.tuning.generation.subject import EvaluationSubject
    from meerkat_workbench.tuning.generation.systems import Loading, System
    from meerkat_workbench.tuning.reporting.results import EvaluationResult
    from meerkat_workbench.tuning.scoring.metric_suite import MetricSuite

# --- settings


class EvaluationConfig(settings.Settings):
    """Settings of the evaluation. Change a line here, or give KEY=VALUE on the command line."""

    # Base model. None takes the one that the adapter was trained on.
    BASE_MODEL_PATH: Annotated[str | None, DERIVED] = None
    # The folder that fine_tuning.py wrote.
    FINETUNED_MODEL_PATH: Annotated[str, DERIVED] = "results"
    # The folder that dataset_preparation.py wrote. The questions of its holdout and eval splits are asked.
    DATASET_DIR: Annotated[str, DERIVED] = "datasets"
    # Folder for answers, tables, charts and the report.
    OUTPUT_DIR: Annotated[str, EXECUTION] = "evaluation_results"
    # The most tokens of an answer. The report counts the answers that are cut off there.
    MAX_NEW_TOKENS: Annotated[int, Range(1, 100_000), RESULT] = 512
    # 0 is greedy decoding, the fairest comparison. Above 0, tokens are drawn; both models share the random numbers of a question.
    TEMPERATURE: Annotated[float, Range(0, 5), RESULT] = 0.1
    # Questions at a time. None takes as many as fit; the number is halved if memory runs out.
    BATCH_SIZE: Annotated[int | None, Range(1, 1_000_000), RESULT] = None
    # Encoder of BERTScore: a Hub name, a folder, or "packaged" for the MiniLM that is installed with the workbench.
    BERTSCORE_MODEL: Annotated[str, RESULT, Renamed("BERTSCORE_MODEL", embedded="packaged")] = "microsoft/deberta-xlarge-mnli"
    # Train pairs of the specialty in the prompt of a second base, the few-shot base. It shows what prompting alone reaches, so that the
    # rest is what tuning bought. 0 leaves it out.
    FEW_SHOT_EXAMPLES: Annotated[int, Range(0, 16), RESULT, Added(0)] = 3
    # Distractors beside each reference, to measure whether a model finds the reference more likely. 0 measures nothing.
    PREFERENCE_DISTRACTORS: Annotated[int, Range(0, 7), RESULT, Added(0)] = 3
    # The most questions of each specialty and split. None asks all.
    MAX_SAMPLES_PER_SPECIALTY: Annotated[int | None, Range(1, 1_000_000), RESULT] = None
    # A text file of medical terms, one per line, for medical_token_f1. Empty uses the built-in word parts and list.
    MEDICAL_LEXICON: Annotated[str, DERIVED] = ""
    # The steering metric: it ranks the specialties, in charts and for the next iteration's records. METEOR follows knowledge best, and
    # style least (benchmarks/results/style.md). Where it is missing, ROUGE-L takes its place.
    STEERING_METRIC: Annotated[str, RESULT] = "METEOR"
    # How the next records are divided: "proportional" (as in the pool), "learning_curves" (for the largest expected gain),
    # "threshold" (the weakest first, up to 80% of their records) or "uniform". Compared in benchmarks/results/policies.md
    # (simulation) and policy_runs.md (real runs).
    POLICY: Annotated[
        Literal["proportional", "learning_curves", "threshold", "uniform"],
        RESULT,
        Renamed("POLICY", **{"learning curves": "learning_curves"}),
    ] = "proportional"
    # Training records to add in the next iteration. None adds as many as raising the lowest fifth to a share of 80% would.
    BUDGET: Annotated[int | None, Range(0, 1_000_000_000), RESULT] = None
    # What "learning_curves" improves: the "mean" over specialties, the "worst_decile", or weights such as {cardiology: 3}.
    OBJECTIVE: Annotated[str | dict[str, float], RESULT, Renamed("OBJECTIVE", **{"worst decile": "worst_decile"})] = "mean"
    # True loads the base in NF4, as in QLoRA training. None takes the value of the training.
    LOAD_IN_4BIT: Annotated[bool | None, RESULT] = None
    # Precision of matrix products: bf16, fp16 (GPUs only) or fp32. "auto" takes the one that this device has hardware for.
    COMPUTE_DTYPE: Annotated[Literal["auto", "bf16", "fp16", "fp32"], DERIVED] = "auto"
    # Further models to compare with the base, such as {first: results/archive/iteration_001}. A value is the folder of an
    # adapter or a model, a Hub name, "base: SYSTEM MESSAGE" (the base with that message), or "http://HOST:PORT MODEL" (a server).
    MODELS: Annotated[dict[str, object], RESULT] = {}
    # An OpenAI-compatible server that answers for base and tuned model instead of this machine, e.g. http://HOST:8000.
    ENDPOINT: Annotated[str, RESULT] = ""
    # Names of base and tuned model on that server. Empty uses BASE_MODEL_PATH and FINETUNED_MODEL_PATH.
    ENDPOINT_MODELS: Annotated[list[str], RESULT] = []
    # Requests at a time to a server.
    ENDPOINT_REQUESTS: Annotated[int, Range(1, 10_000), EXECUTION] = 32
    # A model that grades both answers to each holdout question, in both orders: "http://HOST:PORT MODEL". Empty for no judge.
    JUDGE: Annotated[str, RESULT] = ""
    # True also asks the judge which claims of each reference an answer entails or contradicts, and which claims of an answer the
    # reference supports. This takes many short requests: their number is printed before they are asked.
    JUDGE_CLAIMS: Annotated[bool, RESULT, Added(True)] = True
    # "mixed" puts base and tuned model into the same batches, "sequential" asks one after the other, "auto" mixes on a GPU.
    BATCHING: Annotated[
        Literal["auto", "mixed", "sequential"], RESULT, Renamed("ARMS", together="mixed", **{"in turn": "sequential"})
    ] = "auto"
    # True lets waiting questions take the place of answered ones in a batch, which is faster on a GPU. None does so on a GPU only.
    CONTINUOUS_BATCHING: Annotated[bool | None, RESULT, Renamed("REFILL")] = None
    # True also asks 54 questions of general knowledge and safety, to show what tuning cost elsewhere.
    RETENTION: Annotated[bool, RESULT] = True
    # A folder of multiple-choice questions (MedQA, MedMCQA, PubMedQA, MMLU, or your own). Base, tuned model and MODELS are scored by
    # the log-likelihood of each option, as in lm-evaluation-harness. It costs one reading of each question by each model.
    BENCHMARKS: Annotated[str, RESULT, Added("")] = ""
    # Folder of an index that `reranking.py index` made. Base and tuned model are asked a second time with the passages that it gives.
    RETRIEVAL: Annotated[str, DERIVED] = ""
    # Passages before each question.
    RETRIEVAL_PASSAGES: Annotated[int, Range(1, 20), DERIVED] = 3
    # Folder of a linker that `entity_linking.py calibrate` made. Answers then also get concept precision, recall and F1 against their references.
    LINKER: Annotated[str, DERIVED] = ""
    # GPUs to use on this machine; they share the questions. None uses all.
    NUM_GPUS: Annotated[int | None, EXECUTION] = None
    RANDOM_SEED: Annotated[int, RESULT] = 42


DEMO = {
    "FINETUNED_MODEL_PATH": "results/demo",
    "DATASET_DIR": "datasets/demo",
    "OUTPUT_DIR": "evaluation_results/demo",
    "MAX_NEW_TOKENS": 64,
    "TEMPERATURE": 0.0,
    "BERTSCORE_MODEL": "packaged",
    "BUDGET": 12,
    "RETENTION": False,  # its 54 questions are more than the demo's own
}


def make_metrics(bertscore_model: str, lexicon: str = "", linker: str = "") -> MetricSuite:
    """The metrics of the evaluation: the built-in ones, and yours."""
    from meerkat_workbench.tuning.scoring.metric_suite import MetricSuite

    class AutomaticMetrics(MetricSuite):
        """To add a metric, add a method; the metric then appears in every table and chart. For example:

        def compute_edit_distance(self, reference: str, hypothesis: str) -> float:
            return Levenshtein.normalized_distance(reference, hypothesis)

        and, if less is better, this line below it: compute_edit_distance.lower_is_better = True
        An edited metric makes another evaluation; --rescore scores the stored answers by it.
        """

    return AutomaticMetrics(bertscore_model, lexicon, linker)


def check(config: EvaluationConfig) -> None:
    """Raise UserError if a setting is not valid."""
    from meerkat_workbench.tuning.allocation import objective
    from meerkat_workbench.tuning.data import multiple_choice

    objective.parse_objective(config.OBJECTIVE)
    if len(config.ENDPOINT_MODELS) not in (0, 2):
        remedy = "Give the server's names of base and tuned model: ENDPOINT_MODELS=BASE,TUNED."
        raise UserError(f"must have two names, not {len(config.ENDPOINT_MODELS)}", where="ENDPOINT_MODELS", remedy=remedy)
    judge_of(config)
    multiple_choice.find_files(config.BENCHMARKS)
    if config.ENDPOINT and not config.ENDPOINT.startswith(("http://", "https://")):
        raise UserError("is not an address", where=f"ENDPOINT={config.ENDPOINT}", remedy="For example ENDPOINT=http://HOST:PORT.")


# --- the steps


def evaluate(config: EvaluationConfig, *, fresh: bool = False, rescore: bool = False) -> EvaluationResult:
    """Ask, score, compare and recommend; every answer is stored as soon as it is complete.

    Args:
        fresh: set an unfinished evaluation in OUTPUT_DIR aside and start again.
        rescore: score stored answers again; no model is loaded.

    Returns:
        The result, which is also in OUTPUT_DIR; if an evaluation of the same models and settings is finished, its result.
    """
    from meerkat_workbench.core.runs import Run, RunState
    from meerkat_workbench.device import distributed
    from meerkat_workbench.tuning.generation import choice_scoring, generation_run, jobs
    from meerkat_workbench.tuning.reporting.results import EvaluationResult
    from meerkat_workbench.tuning.scoring import retention

    check(config)
    suite = make_metrics(config.BERTSCORE_MODEL, config.MEDICAL_LEXICON, config.LINKER)
    ranks, output = distributed.join(), Path(config.OUTPUT_DIR)
    with Run(output, EvaluationManifest, ranks=ranks, fresh=fresh) as run, contextlib.closing(suite):
        # 1. Models and data: is this evaluation already finished, or started?
        subject = load_subject(config)
        done, earlier = EvaluationManifest.find(output), subject.finished_evaluation(output)
        config = with_stored_settings(config, subject, earlier if rescore else None)
        planned, loading = plan_and_find_run(config, run, subject, suite, earlier if rescore else None)
        if run.state is RunState.FINISHED and done and not (rescore or run.was_reopened() or done.failed):
            if ranks.is_main:
                print(f"{output}: up to date")
            return EvaluationResult.read(output)

        # 2. Run every check that can fail before the folder is changed
        check_advice(config, subject, suite)
        base = "" if rescore or config.ENDPOINT else subject.locate_base(loading)
        splits = jobs.read_fixed_splits(subject.data_folder)
        more = {jobs.RETENTION: retention.records_like(jobs.first_record(splits))} if config.RETENTION else {}
        examples, passages = few_shot_prompts(config, subject), ranks.agree(lambda: retrieved_passages(config, splits))
        planned_jobs = jobs.make_jobs(planned, subject, splits, more, decoding_of(config),
                                      config.MAX_SAMPLES_PER_SPECIALTY, examples, passages)  # fmt: skip
        ranks.agree(lambda: subject.check_leaks(planned))
        choices = choice_scoring.plan(config.BENCHMARKS, planned, output, ranks, stored_only=rescore, examples=examples)
        preferences = jobs.plan_preferences(planned_jobs, subject.data_folder, config.PREFERENCE_DISTRACTORS)
        if rescore:
            jobs.check_all_stored(output, planned_jobs)
        else:
            ranks.agree(lambda: jobs.check_servers(planned, judge_of(config)))

        # 3. Ask the questions that have no answer yet
        run.claim()
        if passages is not None and ranks.is_main:
            passages.write(output)
        if run.state is RunState.RESUME and ranks.is_main:
            print("  resuming where the last run stopped")
        requests, continuous = config.ENDPOINT_REQUESTS, config.CONTINUOUS_BATCHING
        options = generation_run.GenerationOptions(config.BATCH_SIZE, config.BATCHING, continuous, requests, loading)
        answers = generation_run.GenerationRun(output, planned_jobs, preferences, base, options, ranks, choices)
        if not rescore:
            answers.generate()

        # 4. Score, compare and recommend; then tables, charts, report and manifest
        record = answers.record
        if earlier and (rescore or run.state is RunState.FINISHED or not record.generated):  # its answers are these answers
            record = record.after(earlier.run)
        return ranks.agree(lambda: score_and_report(config, run, subject, suite, answers, record, passages, rescore=rescore))


def plan_and_find_run(
    config: EvaluationConfig, run: Run[EvaluationManifest], subject: EvaluationSubject, suite: MetricSuite,
    rescored: EvaluationManifest | None,
) -> tuple[list[System], Loading]:  # fmt: skip
    """Find what the folder holds of this evaluation (`run.state`); returns the models to ask and how they are loaded.

    Args:
        rescored: the finished evaluation whose answers are scored again; None for any other evaluation.
    """
    from meerkat_workbench.device import devices
    from meerkat_workbench.tuning.data import multiple_choice
    from meerkat_workbench.tuning.generation import open_book
    from meerkat_workbench.tuning.generation.systems import Loading

    benchmark = multiple_choice.content_hashes(config.BENCHMARKS)
    passages = [open_book.index_identity(config.RETRIEVAL), config.RETRIEVAL_PASSAGES] if config.RETRIEVAL else []
    models = rescored.settings.get("MODELS", {}) if rescored else {}
    known = {name: identity for name, identity in (rescored.run.identities if rescored else {}).items()
             if models.get(name) == config.MODELS.get(name)}  # fmt: skip

    def fingerprint(precision: Precision) -> str:
        identities = [system.identity for system in plan_systems(config, subject, precision, known)]
        return files.sha256_of([settings.with_effect(config, RESULT), identities, subject.data.fingerprint, subject.series,
                                suite.names(), suite.lexicon_hash(), *suite.linker_hash(), *suite.own_code(), *benchmark, *passages])  # fmt: skip

    own = devices.resolve_precision("auto", encoder_decoder=subject.training.encoder_decoder)
    # answers that are only scored again have the precision of their own run
    stored = devices.as_precision(config.COMPUTE_DTYPE) or devices.as_precision(rescored.compute_dtype) if rescored else None
    precision = stored or devices.run_precision(run, config.COMPUTE_DTYPE, fingerprint, own=own)
    run.find(fingerprint(precision), precision)
    return plan_systems(config, subject, precision, known), Loading(bool(config.LOAD_IN_4BIT), precision)


def load_subject(config: EvaluationConfig) -> EvaluationSubject:
    """The trained model and its data; UserError if they do not belong together."""
    from meerkat_workbench.tuning.generation.subject import EvaluationSubject

    return EvaluationSubject.load(Path(config.FINETUNED_MODEL_PATH), Path(config.DATASET_DIR), config.BASE_MODEL_PATH)


def with_stored_settings(
    config: EvaluationConfig, subject: EvaluationSubject, rescored: EvaluationManifest | None = None
) -> EvaluationConfig:
    """The settings with LOAD_IN_4BIT of the training, if it is None, and FEW_SHOT_EXAMPLES of the answers that are scored again.

    Args:
        rescored: the finished evaluation whose answers are scored again; earlier versions had no few-shot base.
    """
    changed = {} if config.LOAD_IN_4BIT is not None else {"LOAD_IN_4BIT": subject.training.load_in_4bit}
    if rescored:
        changed["FEW_SHOT_EXAMPLES"] = rescored.settings.get("FEW_SHOT_EXAMPLES", 0)
    return EvaluationConfig(**{**settings.as_dict(config), **changed})


def judge_of(config: EvaluationConfig) -> Endpoint | None:
    """The server that judges answers, if there is one."""
    from meerkat_workbench.tuning.generation.endpoint import Endpoint

    return Endpoint.parse(config.JUDGE, where="JUDGE") if config.JUDGE else None


def decoding_of(config: EvaluationConfig) -> DecodingOptions:
    """The decoding settings."""
    from meerkat_workbench.tuning.generation.jobs import DecodingOptions

    return DecodingOptions(config.MAX_NEW_TOKENS, config.TEMPERATURE, config.RANDOM_SEED)


def plan_systems(
    config: EvaluationConfig, subject: EvaluationSubject, precision: Precision, known: Mapping[str, str]
) -> list[System]:
    """Base and tuned model, and the models in MODELS.

    Args:
        known: identities by system, if the answers of a finished evaluation are scored again.
    """
    from meerkat_workbench.tuning.generation import systems

    loading, training = systems.Loading(bool(config.LOAD_IN_4BIT), precision), subject.training
    pair = systems.base_and_tuned(training, subject.base_name, subject.adapter, loading, endpoint=config.ENDPOINT,
                                  served_as=config.ENDPOINT_MODELS)  # fmt: skip
    _, trained = systems.identities(training, loading, remote=bool(config.ENDPOINT))
    few_shot = [systems.few_shot_base(pair[0])] if config.FEW_SHOT_EXAMPLES else []
    with_passages = [systems.open_book(system) for system in pair] if config.RETRIEVAL else []
    return (
        pair
        + few_shot
        + with_passages
        + systems.parse_models(config.MODELS, base=pair[0], trained=trained, loading=loading, known=known)
    )


def few_shot_prompts(config: EvaluationConfig, subject: EvaluationSubject) -> FewShotPrompts | None:
    """The examples of the few-shot base, if it is asked."""
    from meerkat_workbench.tuning.generation.few_shot import FewShotPrompts

    if not config.FEW_SHOT_EXAMPLES:
        return None
    return FewShotPrompts.read(subject.data_folder, config.FEW_SHOT_EXAMPLES, subject.data.system_message)


def retrieved_passages(config: EvaluationConfig, splits: Mapping[str, PreparedSplit]) -> OpenBook | None:
    """The passages of each question, if RETRIEVAL names an index."""
    from meerkat_workbench.tuning.generation import open_book

    if not config.RETRIEVAL:
        return None
    records = [record for split in splits.values() for record in split]
    return open_book.retrieve(config.RETRIEVAL, records, config.RETRIEVAL_PASSAGES)


def check_advice(config: EvaluationConfig, subject: EvaluationSubject, suite: MetricSuite) -> None:
    """Raise UserError if STEERING_METRIC or OBJECTIVE does not fit the metrics and the data."""
    from meerkat_workbench.tuning.allocation import advise, objective

    advise.check_steering_metric(config.STEERING_METRIC, suite)
    objective.check_objective(objective.parse_objective(config.OBJECTIVE), subject.record)


def score_and_report(
    config: EvaluationConfig, run: Run[EvaluationManifest], subject: EvaluationSubject, suite: MetricSuite, answers: GenerationRun,
    record: GenerationRecord, passages: OpenBook | None, *, rescore: bool,
) -> EvaluationResult:  # fmt: skip
    """Score, compare, recommend and write the results; only the main process runs this."""
    from meerkat_workbench.device import devices
    from meerkat_workbench.tuning.allocation import advise, objective
    from meerkat_workbench.tuning.reporting import comparison, history, multiple_choice, open_book, results, summary_text, verdict
    from meerkat_workbench.tuning.scoring import claims, judge, judge_requests, score_run

    output, seed, training = Path(config.OUTPUT_DIR), config.RANDOM_SEED, subject.training
    scored = score_run.score_answers(
        suite, answers, answers.preference_plan.references, output, seed=seed, with_retention=config.RETENTION
    )
    compared = comparison.compare(scored, suite, seed)
    server = judge_of(config)
    asked = judge_requests.Judge(server, answers.store, config.ENDPOINT_REQUESTS, rescore) if server else None
    judged = judge.judge_run(asked, scored) if asked else None
    claimed = claims.judge_claims(asked, scored.tables) if asked and config.JUDGE_CLAIMS else None
    reached = verdict.reach(scored, claimed.scores if claimed else (), seed=seed)

    key = history.comparability_key(settings.with_effect(config, RESULT), suite, subject.series, answers.base_system)
    metric = advise.steering_metric(config.STEERING_METRIC, suite, scored.missing)
    earlier = history.answers_before(
        output, key=key, adapter=training.outputs.adapter, recipe=training.recipe, iteration=subject.iteration
    )
    options = advise.AdviceOptions(config.POLICY, config.BUDGET, objective.parse_objective(config.OBJECTIVE), seed)
    advice = advise.recommend(
        scored.base, scored.tuned, earlier, subject.ledger, subject.iteration, metric, options,
        lower_is_better=suite.lower_is_better(metric), improvement={row.metric: row.difference for row in compared.headline},
        improvement_split=compared.headline[0].split, caution=summary_text.caution(compared.metrics, reached.of(Split.EVAL), metric),
    )  # fmt: skip
    choices = multiple_choice.summarise(answers.multiple_choice, subject.data_folder, training)
    with_passages = open_book.summarise(scored, suite, metric, passages.left_out if passages else 0, seed)
    findings = results.Findings(scored, compared, reached, advice, judged, claimed, choices, with_passages)
    now = results.evaluation_id(subject, key, run.fingerprint, run.started)
    facts = results.facts_of(
        subject, scored, models=config.MODELS, decoding=decoding_of(config), endpoint=config.ENDPOINT,
        load_in_4bit=bool(config.LOAD_IN_4BIT), precision=run.compute_dtype,
    )  # fmt: skip
    judge_name = server.model if server else ""
    for sentence in results.write(output, subject, findings, now, suite.bounds, facts, judge_name, seed):
        print(f"  {sentence}")
    inputs = EvaluationInputs(
        training.outputs.adapter, training.inputs.base_weights, subject.data.fingerprint, subject.data.splits
    )
    run.finish(run.manifest(
        config, iteration=subject.iteration, device=devices.describe(), inputs=inputs, failed=findings.failed, run=record,
        missing=scored.missing, corpus_bleu=scored.corpus_bleu,
    ))  # fmt: skip
    answers.remove_progress()
    return results.EvaluationResult.read(output)


# --- on the command line


def main() -> None:
    config, arguments = settings.load(
        EvaluationConfig, None, __doc__ or "", DEMO,
        {
            "--ask": {"metavar": "QUESTION", "help": "print both models' answers to this question, and end"},
            "--rating-sheet": {"type": int, "metavar": "N", "help": "write a blinded sheet of N questions with both answers"},
            "--ratings": {"nargs": "+", "type": settings.path, "metavar": "FILE", "help": "read filled sheets, a file a rater"},
            "--history": {"action": "store_true", "help": "print this iteration beside the earlier ones, and end"},
            "--rescore": {"action": "store_true", "help": "score the stored answers again, without a model"},
        },
        exclusive=("--ask", "--rating-sheet", "--ratings", "--history", "--rescore"),
    )  # fmt: skip
    check(config)
    output = Path(config.OUTPUT_DIR)
    if arguments.history:
        from meerkat_workbench.tuning.commands import history

        history.print_history(output, config.STEERING_METRIC)
        return
    if arguments.rating_sheet is not None or arguments.ratings:
        from meerkat_workbench.tuning.commands import rating

        if arguments.rating_sheet is not None:
            rating.make_sheet(output, arguments.rating_sheet, config.RANDOM_SEED)
        else:
            rating.report(output, arguments.ratings, make_metrics(config.BERTSCORE_MODEL), config.RANDOM_SEED)
        return
    subject = load_subject(config)  # checked before the libraries are loaded
    with console.working("loading libraries"):
        from meerkat_workbench.device import devices, distributed, hub
        from meerkat_workbench.tuning.commands import ask
        from meerkat_workbench.tuning.generation.systems import Loading
        from meerkat_workbench.tuning.reporting import results
    hub.silence_libraries()
    if arguments.ask is not None:
        config = with_stored_settings(config, subject)
        precision = devices.resolve_precision(config.COMPUTE_DTYPE, encoder_decoder=subject.training.encoder_decoder)
        planned, loading = plan_systems(config, subject, precision, {}), Loading(bool(config.LOAD_IN_4BIT), precision)
        ask.ask(arguments.ask, subject, planned, loading, decoding_of(config), remote=bool(config.ENDPOINT))
        return
    if not config.ENDPOINT and not arguments.rescore:
        distributed.launch_on_all_gpus(config.NUM_GPUS)
        devices.announce()
    result = evaluate(config, fresh=arguments.fresh, rescore=arguments.rescore)
    if console.is_main_process():
        results.print_result(result, subject.preparation_command("--recommendations", str(output / Recommendations.FILE)))


if __name__ == "__main__":
    run_script(main)
