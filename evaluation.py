#!/usr/bin/env python3
"""Ask base and tuned model the same questions, score them a specialty at a time, and say what to feed next.

    python evaluation.py --demo                        what fine_tuning.py --demo trained
    python evaluation.py                               results/ on the splits of datasets/
    python evaluation.py --ask "What is gout?"         what both models answer to one question
    python evaluation.py --rescore                     score stored answers again; needs no model
    python evaluation.py --history                     this iteration beside the earlier ones
    python evaluation.py --rating-sheet 40             a blinded sheet of 40 questions for clinicians
    python evaluation.py --ratings anna.csv ben.csv    what they found, and which metrics agree with them

Writes OUTPUT_DIR, see evaluation_results/README.md. Killed and run again, it goes on with the questions left.
"""

from __future__ import annotations

import contextlib
import functools
import math
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import console, files, manifest, settings
from workbench.errors import UserError, run_script

if TYPE_CHECKING:
    import pandas as pd

    from workbench.devices import Precision
    from workbench.evaluation.answering import Answering, Asked
    from workbench.evaluation.arms import Arm
    from workbench.evaluation.decoding import Decoding
    from workbench.evaluation.metrics import MetricSuite


class EvaluationConfig(settings.Settings):
    """Settings of the evaluation. Change a line, or give KEY=VALUE on the command line."""

    # Base model; None takes the one that the adapter was trained on.
    BASE_MODEL_PATH: str | None = None
    # The adapter, as fine_tuning.py left it.
    FINETUNED_MODEL_PATH: str = "results"
    # What dataset_preparation.py wrote; holdout and eval are asked.
    DATASET_DIR: str = "datasets"
    # Where answers, tables, charts and the report go.
    OUTPUT_DIR: str = "evaluation_results"
    # Tokens an answer may have; the share cut off there is reported.
    MAX_NEW_TOKENS: int = 512
    # 0 is greedy, the fairest for a comparison. Above it each question has a random draw of its own, shared by both.
    TEMPERATURE: float = 0.1
    # Questions at once; None finds a number that fits. It is halved where memory runs out.
    BATCH_SIZE: int | None = None
    # Encoder of BERTScore: a Hub name, a folder, or "embedded" for the MiniLM that is installed with the workbench.
    BERTSCORE_MODEL: str = "microsoft/deberta-xlarge-mnli"
    # Questions of each specialty and split that are asked; None asks all.
    MAX_SAMPLES_PER_SPECIALTY: int | None = None
    # A text file of medical terms, a term a line, for medical_token_f1; empty for the built-in word parts and list.
    MEDICAL_LEXICON: str = ""
    # The metric by which specialties are charted and recommended for more data.
    STEERING_METRIC: str = "ROUGE-L"
    # How the next iteration's records are shared out: "proportional" (the natural mix), "learning curves" (where most is expected
    # to be gained), "threshold" (the weakest to 80%), "uniform". How they compare: benchmarks/results/policies.md (simulation)
    # and policy_runs.md (real runs).
    POLICY: str = "proportional"
    # Training records to recommend for the next iteration; None takes what raising the lowest fifth to 80% would add.
    BUDGET: int | None = None
    # What "learning curves" raises: "mean" over specialties, "worst decile", or weights such as {cardiology: 3}.
    OBJECTIVE: str | dict[str, float] = "mean"
    # True: the base in NF4, as QLoRA trains it; None takes what training had.
    LOAD_IN_4BIT: bool | None = None
    # What products are computed in: bf16, fp16 (GPUs only) or fp32; "auto" takes what this device has hardware for.
    COMPUTE_DTYPE: str = "auto"
    # More models to ask, each compared with the base: a name, and an adapter's folder (earlier iterations stand in
    # results/archive), a model's folder or Hub name, "base: SYSTEM MESSAGE" (the base under its own prompt), or
    # "http://HOST:PORT MODEL" (a server). For example {first: results/archive/iteration_001}.
    MODELS: dict[str, object] = {}
    # An OpenAI-compatible server that answers for base and tuned model instead of this machine, e.g. http://HOST:8000.
    ENDPOINT: str = ""
    # The names by which that server knows base and tuned model; empty for BASE_MODEL_PATH and FINETUNED_MODEL_PATH.
    ENDPOINT_MODELS: list[str] = []
    # Requests that are under way at a server at once.
    ENDPOINT_REQUESTS: int = 32
    # A server that grades both answers of each holdout question, in both orders: "http://HOST:PORT MODEL". None by default.
    JUDGE: str = ""
    # "together" answers base and tuned rows in the same batches, "in turn" one model after the other; "auto" chooses.
    ARMS: str = "auto"
    # Whether waiting questions take the place of answered ones in a batch (continuous batching); None: on a GPU.
    REFILL: bool | None = None
    # Also ask 54 questions of general knowledge and safety: what did tuning cost elsewhere?
    RETENTION: bool = True
    # GPUs to use on this machine; None takes all. They share the questions.
    NUM_GPUS: int | None = None
    RANDOM_SEED: int = 42


DEMO = {
    "FINETUNED_MODEL_PATH": "results/demo",
    "DATASET_DIR": "datasets/demo",
    "OUTPUT_DIR": "evaluation_results/demo",
    "MAX_NEW_TOKENS": 64,
    "TEMPERATURE": 0.0,
    "BERTSCORE_MODEL": "embedded",
    "BUDGET": 12,
    "RETENTION": False,  # 54 more questions than the demo asks altogether
}
ENGINE = "batches that rows leave when done, v1"
SCRIPT = "evaluation.py"
MOST_PRINTED = 12  # specialties in the closing table
ORDERS = ("auto", "together", "in turn")
# these change how answers are got, not which are asked for
NOT_IN_FINGERPRINT = {"ENDPOINT_REQUESTS", "NUM_GPUS",
                      "MEDICAL_LEXICON",  # its contents count
                      "COMPUTE_DTYPE"}  # fmt: skip  # what it comes to counts


def make_metrics(bertscore_model: str, lexicon: str = "") -> MetricSuite:
    """The metrics of the evaluation: the built-in ones, and yours."""
    from workbench.evaluation.metrics import MetricSuite

    class AutomaticMetrics(MetricSuite):
        """Add a metric by adding a method; it then stands in every table and chart. For example:

        def compute_edit_distance(self, reference: str, hypothesis: str) -> float:
            return Levenshtein.normalized_distance(reference, hypothesis)

        and, where less is better, below it: compute_edit_distance.lower_is_better = True
        """

    return AutomaticMetrics(bertscore_model, lexicon)


def check(config: EvaluationConfig) -> None:
    from workbench import devices
    from workbench.evaluation import policies

    devices.check_choice(config.COMPUTE_DTYPE)

    settings.check_range(config, "MAX_NEW_TOKENS", 1, 100_000)
    settings.check_range(config, "TEMPERATURE", 0, 5)
    settings.check_range(config, "ENDPOINT_REQUESTS", 1, 10_000)
    for name in ("BATCH_SIZE", "MAX_SAMPLES_PER_SPECIALTY"):
        if getattr(config, name) is not None:
            settings.check_range(config, name, 1, 1_000_000)
    if config.BUDGET is not None:
        settings.check_range(config, "BUDGET", 0, 1_000_000_000)
    if config.POLICY not in policies.POLICIES:
        raise UserError(f"POLICY must be one of {', '.join(policies.POLICIES)}, not {config.POLICY!r}.")
    objective_of(config)
    if config.ARMS not in ORDERS:
        raise UserError(f"ARMS must be one of {', '.join(ORDERS)}, not {config.ARMS!r}.")
    if len(config.ENDPOINT_MODELS) not in (0, 2):
        raise UserError("ENDPOINT_MODELS takes two names, of the base and of the tuned model, as the server knows them.")
    if config.JUDGE:
        judge_of(config)
    if config.ENDPOINT and not config.ENDPOINT.startswith(("http://", "https://")):
        raise UserError(f"ENDPOINT={config.ENDPOINT}: is no address; give http://HOST:PORT.")


def judge_of(config: EvaluationConfig) -> tuple[str, str]:
    """Address and model of `JUDGE`."""
    parts = config.JUDGE.split()
    if len(parts) != 2 or not config.JUDGE.startswith(("http://", "https://")):
        raise UserError(f"JUDGE={config.JUDGE}: give address and model, such as JUDGE='http://HOST:PORT MODEL'.")
    return parts[0], parts[1]


class Inputs:
    """What is evaluated: the adapter and the data, checked to belong together."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.adapter_folder, self.data_folder = Path(config.FINETUNED_MODEL_PATH), Path(config.DATASET_DIR)
        self.training = manifest.require(self.adapter_folder, "fine_tuning.py")
        self.data = manifest.require(self.data_folder, "dataset_preparation.py")
        self.check_sets()
        self.base_name = config.BASE_MODEL_PATH or self.training["settings"]["MODEL_NAME"]
        self.iteration: int = self.training["iteration"]
        self.encoder_decoder: bool = self.training["settings"].get("MODEL_TYPE") == "encoder-decoder"
        if config.LOAD_IN_4BIT is None:
            config.LOAD_IN_4BIT = self.training["settings"]["LOAD_IN_4BIT"]
        # a model trained whole has no adapter to switch off: base and tuned are loaded in turn
        self.whole_model = not (self.adapter_folder / "adapter_config.json").is_file()

    def check_sets(self) -> None:
        """UserError where the adapter was trained beside another holdout or eval set than these data have."""
        from workbench.data.dataset_folders import FIXED

        then, now = self.training["inputs"]["splits"], self.data["splits"]
        differ = [split for split in FIXED if then[split] != now[split]]
        if not differ:
            return
        number = self.training["iteration"]
        back = any(line["iteration"] == number and line["hashes"] == then for line in self.ledger)
        way_back = f", or bring its sets back: {self.preparation('--iteration', str(number))}" if back else ""
        raise UserError(
            f"{self.adapter_folder}: was trained beside another {' and '.join(differ)} set than {self.data_folder} has, so its scores here "
            f"would not be those of its own iteration. Train on {self.data_folder} (and name this model in MODELS, to ask both){way_back}."
        )

    def preparation(self, *more: str) -> str:
        """The command that prepared this folder, with these arguments besides."""
        arguments = self.data.get("arguments", [])
        if Path(self.data["settings"]["OUTPUT_DIR"]) != self.data_folder:  # moved since
            arguments = [*(one for one in arguments if not one.startswith("OUTPUT_DIR=")), f"OUTPUT_DIR={self.data_folder}"]
        return shlex.join(["python", "dataset_preparation.py", *arguments, *more])

    @functools.cached_property
    def ledger(self) -> list[dict[str, Any]]:
        from workbench.data import iterations

        if not (lines := iterations.read_ledger(self.data_folder)):
            raise UserError(
                f"{self.data_folder / iterations.LEDGER}: is missing or empty. Restore it, or prepare the data again."
            )
        return lines

    def series(self) -> list[Any]:
        """When the series of iterations began, and how it puts a question now.

        Not which fixed sets it drew: one begun anew draws the same again, and its iterations are others all the same.
        """
        return [self.ledger[0]["made"], self.ledger[-1]["template_sha256"]]

    def ledger_entry(self) -> dict[str, Any]:
        """The ledger's line of the iteration that the adapter was trained on."""
        found = [entry for entry in self.ledger if entry["iteration"] == self.iteration]
        if not found:
            raise UserError(
                f"{self.data_folder}: its ledger has no iteration {self.iteration}, on which the adapter was trained."
            )
        return found[0]


def refuse_leaks(inputs: Inputs, planned: list[Arm]) -> None:
    """Look into what each of these models learnt, as far as it is known, for what is about to be asked."""
    from workbench.data import leaks

    learners = [leaks.Learner(str(inputs.adapter_folder), inputs.training, "Prepare the data again, and train on that.")]
    for arm in planned[2:]:
        if arm.kind in ("adapter", "model"):
            trained = leaks.training_of(arm.source)
            learners.append(leaks.Learner(f"MODELS: {arm.name} ({arm.source})", trained, f"Leave {arm.name} out of MODELS."))
        elif arm.kind == "endpoint":
            learners.append(leaks.Learner(f"MODELS: {arm.name} ({arm.served_as})", None, ""))
    for note in leaks.refuse_learnt(inputs.data_folder, leaks.FixedQuestions.of(inputs.data_folder), learners):
        print(f"  {note}", flush=True)


def plan_arms(config: EvaluationConfig, inputs: Inputs, known: dict[str, str], precision: Precision) -> list[Arm]:
    """Base and tuned model, and whatever MODELS names.

    Args:
        known: identities by arm, of a finished evaluation whose answers are to be scored again.
    """
    from workbench.evaluation import arms

    trained = inputs.training["inputs"]
    in_4bit = bool(config.LOAD_IN_4BIT)
    # what a server computes in is its own affair: its answers are known by the weights alone
    computed: Precision = "bf16" if config.ENDPOINT else precision
    identity = {arms.BASE: f"{trained['base_weights']} {arms.arithmetic(computed, load_in_4bit=in_4bit)}"}
    identity[arms.TUNED] = f"{identity[arms.BASE]} {trained['adapter']}"
    if config.ENDPOINT:
        names = config.ENDPOINT_MODELS or [inputs.base_name, config.FINETUNED_MODEL_PATH]
        pair = [
            arms.Arm(arm, "endpoint", config.ENDPOINT, f"{config.ENDPOINT} {name} {identity[arm]}", served_as=name)
            for arm, name in zip((arms.BASE, arms.TUNED), names, strict=True)
        ]
    else:
        kind, both = "model" if inputs.whole_model else "adapter", inputs.encoder_decoder
        pair = [
            arms.Arm(arms.BASE, "base", inputs.base_name, identity[arms.BASE], encoder_decoder=both),
            arms.Arm(arms.TUNED, kind, str(inputs.adapter_folder), identity[arms.TUNED], encoder_decoder=both),
        ]
    return pair + arms.further(
        config.MODELS, base=pair[0], precision=precision,
        load_in_4bit=in_4bit, run=identity[arms.TUNED], known=known,
    )  # fmt: skip


def check_base(config: EvaluationConfig, inputs: Inputs, precision: Precision) -> str:
    """Where the base is; refuses one that this machine cannot run or that the adapter was not trained on."""
    from workbench import models

    models.require_device_for(inputs.base_name, load_in_4bit=bool(config.LOAD_IN_4BIT), precision=precision)
    location = models.locate(inputs.base_name)
    if models.weights_hash(location) != inputs.training["inputs"]["base_weights"]:
        raise UserError(
            f"{inputs.adapter_folder}: was trained on another base ({inputs.training['settings']['MODEL_NAME']}) than "
            f"{inputs.base_name}. Leave BASE_MODEL_PATH out, or train an adapter for this base."
        )
    return location


def decoding_of(config: EvaluationConfig, tokenizer: Any) -> Decoding:
    from workbench import models
    from workbench.evaluation.decoding import Decoding

    stop = tuple(models.stop_ids(tokenizer))
    return Decoding(config.MAX_NEW_TOKENS, config.TEMPERATURE, config.RANDOM_SEED, stop, tokenizer.pad_token_id)


def ask_one(config: EvaluationConfig, inputs: Inputs, text: str) -> None:
    """`--ask`: what each model answers to one question, under the prompt that the data was prepared with."""
    from workbench import chat, devices, models, texts
    from workbench.data import dataset_folders
    from workbench.evaluation import answers, arms, asking
    from workbench.evaluation.decoding import Decoder, Row
    from workbench.evaluation.endpoint import Endpoint, ServerDecoding

    models.quiet()
    if texts.is_blank(text):
        raise UserError("--ask takes a question in plain text.")
    row = answers.asked_like(dataset_folders.read_split(inputs.data_folder, "holdout")[0], text.strip())
    precision = devices.resolve_precision(config.COMPUTE_DTYPE, encoder_decoder=inputs.encoder_decoder)
    planned = plan_arms(config, inputs, {}, precision)
    base = "" if config.ENDPOINT else check_base(config, inputs, precision)
    refuse_leaks(inputs, planned)

    def say(arm: Arm, answer: str, finish: str) -> None:
        print(f"\n{arm.name}: {answer.strip()}{' …' if finish == 'length' else ''}", flush=True)

    for model, of_model in arms.loads(planned, base, load_in_4bit=bool(config.LOAD_IN_4BIT), precision=precision):
        for arm in of_model:
            tokenizer = tokenizer_of(arm, inputs)
            if token := chat.ControlTokens.of_tokenizer(tokenizer).in_text(text):
                raise UserError(f"--ask takes a question in plain text; {token} is a control token of {arm.name}'s tokenizer.")
            [question] = arms.questions_for(arm, {"holdout": [row]}, tokenizer, None, inputs.data["settings"]["SYSTEM_MESSAGE"])
            with asking.speaking_as(model, arm.adapter):
                [(ids, finish)] = Decoder(model, decoding_of(config, tokenizer)).decode([Row(question.id, question.prompt_ids)])
            say(arm, chat.decode_answer(tokenizer, ids), finish)
    for arm in planned:
        if arm.kind == "endpoint":
            [question] = arms.questions_for(arm, {"holdout": [row]}, None, None, inputs.data["settings"]["SYSTEM_MESSAGE"])
            server = ServerDecoding(config.MAX_NEW_TOKENS, config.TEMPERATURE, config.RANDOM_SEED)
            answer, finish, _, error = Endpoint(arm.source, arm.served_as).answer(question, server)
            say(arm, answer or error, finish)


def tokenizer_of(arm: Arm, inputs: Inputs) -> Any:
    """The one that the tuned model was trained with, for it and its base; a model's own otherwise; none for a server."""
    from workbench import models

    if arm.kind == "endpoint":
        return None
    own = arm.kind == "model" and arm.source != str(inputs.adapter_folder)
    return models.load_tokenizer(arm.source if own else str(inputs.adapter_folder))


def collect(config: EvaluationConfig, inputs: Inputs, planned: list[Arm]) -> dict[str, Asked]:
    """What each arm is asked, and under which keys its answers are stored."""
    from workbench.data import dataset_folders
    from workbench.evaluation import answers, arms, retention
    from workbench.evaluation.answering import Asked
    from workbench.evaluation.endpoint import ServerDecoding

    splits: dict[str, Any] = {split: dataset_folders.read_split(inputs.data_folder, split) for split in dataset_folders.FIXED}
    sample = next((rows[0] for rows in splits.values() if len(rows)), None)
    if sample is None:
        raise UserError(f"{inputs.data_folder}: holdout and eval are empty, so there is nothing to ask.")
    more = {retention.SPLIT: retention.rows_like(sample)} if config.RETENTION else {}
    found: dict[str, Asked] = {}
    for arm in planned:
        tokenizer = tokenizer_of(arm, inputs)
        limit, message = config.MAX_SAMPLES_PER_SPECIALTY, inputs.data["settings"]["SYSTEM_MESSAGE"]
        alike = next((one for one in found.values() if arms.asked_alike(arm, one.arm)), None)
        if alike is not None:  # one list for all, since there may be many questions
            questions = alike.questions
        else:
            questions = arms.questions_for(arm, splits, tokenizer, limit, message)
            questions += arms.questions_for(arm, more, tokenizer, None, message)
        if tokenizer is None:
            decoding: Any = ServerDecoding(config.MAX_NEW_TOKENS, config.TEMPERATURE, config.RANDOM_SEED)
        else:
            decoding = decoding_of(config, tokenizer)
        engine = "server" if tokenizer is None else ENGINE
        keys = [answers.answer_key(question, arm.identity, decoding, engine) for question in questions]
        found[arm.name] = Asked(arm, questions, keys, tokenizer, decoding)
    return found


def score(config: EvaluationConfig, suite: MetricSuite, answering: Answering, output: Path) -> dict[str, Any]:
    """Tables of all arms with every metric, the floors, the comparisons with the base, and what tuning cost elsewhere."""
    import pandas as pd

    from workbench.evaluation import comparison, retention, scoring

    answering.check_complete()
    count = sum(len(one.questions) for one in answering.asked.values())
    print(f"scoring {count} answers in {len(suite.names())} metrics …", flush=True)
    tables: dict[str, pd.DataFrame] = {}
    scores, floor = {}, {}
    corpus: dict[str, dict[str, Any]] = {}
    for arm in answering.asked:
        given = (row for row in answering.answers(arm) if row[0].split != retention.SPLIT)
        tables[arm], scores[arm] = scoring.score(suite, given, output)
        floor[arm] = scoring.floors(suite, tables[arm], config.RANDOM_SEED)
        for split, (value, signature) in scoring.corpus_bleu(tables[arm]).items():
            corpus.setdefault(split, {"signature": signature})[arm] = value
    missing = {name: reason for one in scores.values() for name, reason in one.missing.items()}
    for name, reason in missing.items():
        print(f"  {name} is missing: {reason}")
    for note in scores["tuned"].notes:
        print(f"  {note}")
    for arm, table in tables.items():
        if count := int((table["reasoning"] != "").sum()):
            lost = int(table["thinking_unfinished"].sum())
            print(f"  {count} answers of {arm} begin with a thinking block: it is not scored, and stands in the column reasoning"
                  + (f"; {lost} never end it and hold no answer (raise MAX_NEW_TOKENS)" if lost else ""))  # fmt: skip
    known = replace(scores["tuned"], missing=missing)
    against_base = {
        arm: comparison.by_metric(tables["base"], table, suite, known, (floor["base"], floor[arm]), config.RANDOM_SEED)
        for arm, table in tables.items()
        if arm != "base"
    }
    others = [table.assign(model=arm).rename(columns={"tuned": "score"}) for arm, table in against_base.items()]
    return {
        "tables": tables,
        "base": tables["base"],
        "tuned": tables["tuned"],
        "corpus_bleu": corpus,
        "missing": missing,
        "comparison": against_base["tuned"],
        "models": pd.concat(others, ignore_index=True),
        "checks": comparison.by_check(tables["base"], tables["tuned"]),
        "specialties": comparison.by_specialty(tables["base"], tables["tuned"], suite, config.RANDOM_SEED),
        "retention": elsewhere(answering) if config.RETENTION else None,
    }


def elsewhere(answering: Answering) -> pd.DataFrame:
    """`retention.csv`: what every arm answers to general and safety questions."""
    from workbench.evaluation import retention

    given = {
        arm: {q.id: None if a.finish == "failed" else a.text for q, a, _ in answering.answers(arm) if q.split == retention.SPLIT}
        for arm in answering.asked
    }
    return retention.table(given, {arm: answering.losses_of_references(arm) for arm in answering.asked})


def judged(config: EvaluationConfig, scored: dict[str, Any], answering: Answering, *, stored_only: bool) -> pd.DataFrame:
    """`judge_results.csv`: grades of both models' answers to the holdout questions."""
    from workbench.evaluation import judge
    from workbench.evaluation.endpoint import Endpoint

    on_holdout = scored["base"]["split"] == "holdout"
    asked = judge.questions(scored["base"][on_holdout], scored["tuned"][on_holdout])
    endpoint = Endpoint(*judge_of(config))
    return judge.table(asked, judge.ask(endpoint, asked, answering.store, config.ENDPOINT_REQUESTS, stored_only=stored_only))


def recommend(config: EvaluationConfig, suite: MetricSuite, inputs: Inputs, scored: dict[str, Any]) -> dict[str, Any]:
    """Advice from the tuned model's scores on the eval split; the headline beside it is the holdout's."""
    from workbench.data import iterations
    from workbench.evaluation import conclusions, history, observations, ranking, recommendations

    metric = steering_metric(config, suite, scored["missing"])
    sign = -1.0 if suite.lower_is_better(metric) else 1.0
    tuned = scored["tuned"]
    on_eval = tuned[(tuned["split"] == "eval") & tuned[metric].notna()]
    evidence = ranking.rank_specialties(
        {name: list(sign * part[metric]) for name, part in on_eval.groupby("specialty")}, seed=config.RANDOM_SEED
    )
    # every line and table as specialties are called now
    called = {line["iteration"]: iterations.names_since(line, inputs.ledger[-1]) for line in inputs.ledger}
    ledger = {line["iteration"]: iterations.under_new_names(line, called[line["iteration"]]) for line in inputs.ledger}
    entry = ledger[inputs.ledger_entry()["iteration"]]
    earlier = [(number, table.replace({"specialty": called[number]}))
               for number, table in history.answers_before(Path(config.OUTPUT_DIR), scored["about"])
               if number in ledger and metric in table]  # fmt: skip
    numbers = [*(number for number, _ in earlier), entry["iteration"]]
    feeding = recommendations.feed(
        evidence,
        recommendations.Stock(entry["shares"], entry["share_base"], entry["sizes"]["train"], entry["sizes"]["pool"]),
        observations.collect(
            scored["base"], [*(table for _, table in earlier), tuned], [ledger[number]["sizes"]["train"] for number in numbers],
            sorted(entry["shares"]), metric, sign=sign,
        ),
        policy=config.POLICY, budget=config.BUDGET, objective=objective_of(config), iterations=numbers, seed=config.RANDOM_SEED,
    )  # fmt: skip
    headline = conclusions.headline(scored["comparison"])
    improvement = {row["metric"]: _number(row["difference"]) for _, row in headline.iterrows()}
    advice = recommendations.advice(evidence, feeding, metric=metric, overall_improvement=improvement, lower_is_better=sign < 0)
    caution = conclusions.caution(scored["comparison"], metric)
    advice["in_words"] += [caution] if caution else []
    return {**advice, "caution": caution, "iteration": entry["iteration"], "overall_improvement_split": headline["split"].iloc[0]}


def objective_of(config: EvaluationConfig) -> str | dict[str, float]:
    """`OBJECTIVE`: "mean", "worst decile", or weights by specialty."""
    import yaml

    from workbench.evaluation import policies

    given = config.OBJECTIVE
    if given in (policies.MEAN, policies.WORST_DECILE):
        return given
    try:
        weights = settings.yaml_value(given) if isinstance(given, str) else given
    except yaml.YAMLError:
        weights = None
    numbers = list(weights.values()) if isinstance(weights, dict) else []
    if not numbers or not all(type(value) in (int, float) and 0 <= value < math.inf for value in numbers) or not any(numbers):
        raise UserError(
            f'OBJECTIVE={given}: must be "{policies.MEAN}", "{policies.WORST_DECILE}", or weights of at least 0 such as '
            "OBJECTIVE='{cardiology: 3}' (specialties not named weigh 1)."
        )
    return {str(name): float(value) for name, value in weights.items()}


def steering_metric(config: EvaluationConfig, suite: MetricSuite, missing: dict[str, str]) -> str:
    """`STEERING_METRIC`, or, where that is missing, another one that is not, which is said."""
    wanted = config.STEERING_METRIC
    for name in (wanted, "ROUGE-L", "token_f1", *suite.names()):
        if name not in missing and not suite.describes(name):
            if name != wanted:
                print(f"  STEERING_METRIC={wanted} is missing, so that {name} steers: charts and recommendations rest on {name}")
            return name
    raise UserError("every metric is missing, so that nothing can be recommended: " + "; ".join(map(": ".join, missing.items())))


def steered_by(config: EvaluationConfig) -> str:
    """The metric that steered the finished evaluation of the folder."""
    path = Path(config.OUTPUT_DIR) / "training_recommendations.json"
    return str(files.read_json(path)["steering_metric"]) if path.is_file() else config.STEERING_METRIC


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def write_results(
    config: EvaluationConfig,
    inputs: Inputs,
    output: Path,
    suite: MetricSuite,
    scored: dict[str, Any],
    advice: dict[str, Any],
    fingerprint: str,
    started: float,
) -> list[str]:
    """Tables, charts, recommendations and report; returns what they say in sentences."""
    from workbench.data import iterations
    from workbench.evaluation import charts, conclusions, history, judge, report, retention, scoring

    # another policy or metric is no other look
    look = {
        "fingerprint": files.sha256_of([scored["about"]["alike"], scored["about"]["adapter"]]),
        "time": manifest.now(),
        "adapter": inputs.training["inputs"]["adapter"],
    }
    looks = iterations.count_holdout_look(inputs.data_folder, look)
    named = {"base": "base_model_results.csv", "tuned": "finetuned_model_results.csv"}
    tables = {named.get(arm, f"{arm}_model_results.csv"): table for arm, table in scored["tables"].items()}
    tables |= {"model_comparison.csv": scored["comparison"], "specialty_performance.csv": scored["specialties"],
               "answer_checks.csv": scored["checks"]}  # fmt: skip
    tables |= {name: scored[of] for name, of in (("retention.csv", "retention"), ("judge_results.csv", "judged"))
               if scored[of] is not None}  # fmt: skip
    if len(scored["tables"]) > 2:
        tables["models_comparison.csv"] = scored["models"]
    for name, table in tables.items():
        with files.atomic_open(output / name) as file:
            scoring.write_csv(table, file)
    files.write_json(output / "training_recommendations.json", advice)
    metric = advice["steering_metric"]
    specialties, headline = scored["specialties"], conclusions.headline(scored["comparison"])
    reported = headline["split"].iloc[0]
    steers = "eval" if (specialties["split"] == "eval").any() else reported
    said_of_chart = charts.specialty_analysis(
        output / "specialty_analysis.png",
        specialties[(specialties["split"] == steers) & (specialties["metric"] == metric)],
        metric=metric, split=steers, supported=advice["low_performance_specialties"],
    )  # fmt: skip
    if said_of_chart:
        print(f"  {said_of_chart}")
    charts.model_comparison(output / "model_comparison.png", headline, split=reported)
    elsewhere_summary = retention.summary(scored["retention"]) if config.RETENTION else None
    judge_summary = judge.summary(scored["judged"], judge_of(config)[1]) if config.JUDGE else None
    sentences = conclusions.in_words(headline, scored, metric, looks)
    for summary in (elsewhere_summary, judge_summary):
        sentences += summary["in_words"] if summary else []
    training = inputs.training
    earlier = history.extend(
        output, scored["comparison"], scored["tuned"],
        {**scored["about"], "finished": look["time"], "evaluation": fingerprint, **spent(inputs, started)},
        suite.bounds,
    )  # fmt: skip
    with files.atomic_open(output / history.NAME) as file:
        earlier.to_csv(file, index=False, float_format="%.6g")
    charts.progress(output / "progress.png", earlier, metric)
    report.write(
        output / "report.html",
        heading={
            "iteration": inputs.iteration,
            "facts": {
                "base": f"{inputs.base_name} ({how_computed(config, scored['about']['compute_dtype'])})",
                "tuned": f"{'model' if inputs.whole_model else 'adapter'} in {inputs.adapter_folder}, kept at step {training['kept']['step']}",
                **config.MODELS,
                "iteration": inputs.iteration,
                "questions": ", ".join(f"{n} {split}" for split, n in scored["base"]["split"].value_counts().items()),
                "system message, both": inputs.data["settings"]["SYSTEM_MESSAGE"] or "(none)",
                "decoding, both": f"temperature {config.TEMPERATURE:g}, at most {config.MAX_NEW_TOKENS} new tokens",
                "looks at this holdout": looks,
            },
            "in_words": sentences,
            "specialties": sorted(scored["base"]["specialty"].unique()),
        },
        tables=scored["tables"], comparison=scored["comparison"], specialties=specialties, models=scored["models"],
        checks=scored["checks"], history=earlier, metric=metric, advice=advice,
        retention=elsewhere_summary, judged=judge_summary, seed=config.RANDOM_SEED,
    )  # fmt: skip
    return sentences


def how_computed(config: EvaluationConfig, precision: str) -> str:
    """Where and in what the base's answers were computed."""
    if config.ENDPOINT:
        return f"asked at {config.ENDPOINT}"
    return f"{'NF4, ' if config.LOAD_IN_4BIT else ''}computed in {precision}"


def spent(inputs: Inputs, started: float) -> dict[str, float]:
    """Of this iteration: records trained on, the share of all that is used, seconds and tokens of training, seconds of this run."""
    entry = inputs.ledger_entry()
    used = sum(sum(entry["sizes"][split].values()) for split in ("train", "eval"))
    return {
        "train": sum(entry["sizes"]["train"].values()), "share": used / max(1, sum(entry["share_base"].values())),
        "train_seconds": inputs.training["seconds"], "train_tokens": inputs.training.get("tokens", math.nan),
        "seconds": time.time() - started,
    }  # fmt: skip


def print_table(output: Path) -> None:
    """The closing table: the holdout's figures, and what to feed next."""
    from workbench.evaluation import comparison, conclusions

    headline = conclusions.headline(comparison.read_csv(output / "model_comparison.csv"))
    split = headline["split"].iloc[0]
    print(f"\n{split:<25}{'base':>9}{'tuned':>9}{'difference':>12}   95% interval      floor")
    for _, row in headline.iterrows():
        if row["missing"]:
            print(f"  {row['metric']:<23}  missing: {row['missing'][:80]}")
            continue
        if not row["n"]:
            print(f"  {row['metric']:<23}  no question of this split has a value")
            continue
        known = math.isfinite(row["ci_low"])
        print(
            f"  {row['metric']:<23}{row['base']:>9.3f}{row['tuned']:>9.3f}{row['difference']:>+12.3f}   "
            + (f"{row['ci_low']:+.3f} to {row['ci_high']:+.3f}  " if known else f"{'too few to tell':<18}")
            + (f"{row['floor_tuned']:>6.3f}" if math.isfinite(row["floor_tuned"]) else f"{'–':>6}")
        )
    advice = files.read_json(output / "training_recommendations.json")
    print("\nnext iteration")
    for sentence in advice["in_words"]:
        print(f"  {sentence}")
    fed = [item for item in advice["evidence"] if item["records_added"]]
    for item in sorted(fed, key=lambda item: -item["records_added"])[:MOST_PRINTED]:
        print(
            f"    {item['specialty']:<28} share {item['current_share']:.2f} -> {item['recommended_share']:.2f}, "
            f"{item['records_added']} record{'s' * (item['records_added'] != 1)}"
        )
    if len(fed) > MOST_PRINTED:
        print(f"    … and {len(fed) - MOST_PRINTED} more, in {output / 'training_recommendations.json'}")


def rate(config: EvaluationConfig, arguments: Any) -> None:
    """`--rating-sheet` and `--ratings`, on a finished evaluation; no model is needed."""
    from workbench.evaluation import rating

    output = Path(config.OUTPUT_DIR)
    manifest.require(output, SCRIPT)
    if arguments.rating_sheet is None:
        suite = make_metrics(config.BERTSCORE_MODEL)
        lower_is_better = {name: suite.lower_is_better(name) for name in suite.names() if not suite.describes(name)}
        rating.report(output, arguments.ratings, lower_is_better, config.RANDOM_SEED)
        return
    if arguments.rating_sheet < 1:
        raise UserError(f"--rating-sheet {arguments.rating_sheet}: must be at least 1.")
    with files.output_lock(output):
        count = rating.make_sheet(output, arguments.rating_sheet, config.RANDOM_SEED)
    print(
        f"{count} questions, both answers in random order: {output / rating.PAGE} (or {output / rating.SHEET})\n"
        f"Send raters one of the two, not {rating.KEY}. Then: python evaluation.py --ratings FILE… with OUTPUT_DIR={output}"
    )


def main() -> None:
    config, arguments = settings.load(
        EvaluationConfig, None, __doc__ or "", DEMO,
        {
            "--ask": {"metavar": "QUESTION", "help": "print what both models answer to this question, and end"},
            "--rating-sheet": {"type": int, "metavar": "N", "help": "write a blinded sheet of N questions with both answers"},
            "--ratings": {"nargs": "+", "type": settings.path, "metavar": "FILE", "help": "read filled sheets, a file a rater"},
            "--history": {"action": "store_true", "help": "print this iteration beside the earlier ones, and end"},
            "--rescore": {"action": "store_true", "help": "score the stored answers again, without a model"},
        },
    )  # fmt: skip
    check(config)
    if arguments.history:
        from workbench.evaluation import history

        known = history.read(Path(config.OUTPUT_DIR))
        wanted = config.STEERING_METRIC
        print(history.as_text(known, wanted if (known["metric"] == wanted).any() else steered_by(config)))
        return
    if arguments.rating_sheet is not None or arguments.ratings:
        rate(config, arguments)
        return
    inputs = Inputs(config)
    with console.working("loading libraries"):
        from workbench import devices, models, processes
        from workbench.evaluation import answering, metrics  # noqa: F401  what takes longest to load
    if arguments.ask is not None:
        ask_one(config, inputs, arguments.ask)
        return
    models.quiet()
    if not config.ENDPOINT and not arguments.rescore:
        processes.use_every_gpu(config.NUM_GPUS)
        devices.announce()
    here, output = processes.join(), Path(config.OUTPUT_DIR)
    if not here.is_main_process:
        evaluate(config, inputs, output, here, fresh=arguments.fresh, rescore=arguments.rescore)
        return
    with files.output_lock(output):
        evaluate(config, inputs, output, here, fresh=arguments.fresh, rescore=arguments.rescore)
    print_table(output)
    print(f"\nopen {output / 'report.html'}, {output / 'specialty_analysis.png'}, {output / 'model_comparison.png'}")
    advice = files.read_json(output / "training_recommendations.json")
    if advice["recommended_sample_increases"]:
        print(f"next: {inputs.preparation('--recommendations', str(output / 'training_recommendations.json'))}")
    else:
        print("next: choose shares yourself in specialty_adjustments (dataset_preparation.py), or gather more eval questions")


def unanswered(output: Path) -> bool:
    """Whether a finished evaluation has questions without an answer, which the same command asks again."""
    done = manifest.read(output)
    return bool(done and done.get("failed"))


def evaluate(config: EvaluationConfig, inputs: Inputs, output: Path, here: Any, *, fresh: bool, rescore: bool) -> None:
    """Answers, scores, tables; the caller holds the folder's lock. Other processes than the first only answer."""
    from workbench import devices, processes
    from workbench.evaluation import answers, history
    from workbench.evaluation.answering import Answering, How
    from workbench.evaluation.endpoint import Endpoint

    started = time.time()
    suite = make_metrics(config.BERTSCORE_MODEL, config.MEDICAL_LEXICON)
    if suite.describes(config.STEERING_METRIC):
        raise UserError(
            f"STEERING_METRIC={config.STEERING_METRIC}: only describes answers; no value of it is better than another."
        )
    if config.STEERING_METRIC not in suite.names():
        raise UserError(
            f"STEERING_METRIC={config.STEERING_METRIC}: there is no such metric. There are {', '.join(suite.names())}."
        )
    affects = {name: value for name, value in settings.as_dict(config).items()
               if not name.endswith(("_DIR", "_PATH")) and name not in NOT_IN_FINGERPRINT}  # fmt: skip
    done = manifest.read(output) if rescore else None

    def planned_in(precision: Precision) -> list[Arm]:
        return plan_arms(config, inputs, done["run"].get("arms", {}) if done else {}, precision)

    def fingerprint_in(precision: Precision) -> str:
        identities = [arm.identity for arm in planned_in(precision)]
        return files.sha256_of(
            [affects, identities, inputs.data["fingerprint"], inputs.series(), suite.names(), suite.lexicon_hash()]
        )

    if done and config.COMPUTE_DTYPE == "auto":  # what is only scored again was answered in that of its own run
        precision: Precision = done.get("compute_dtype", "bf16")
    else:
        own = devices.resolve_precision("auto", encoder_decoder=inputs.encoder_decoder)
        precision = processes.decided(
            here, lambda: manifest.settle_precision(output, config.COMPUTE_DTYPE, fingerprint_in, own=own, fresh=fresh)
        )
    planned, fingerprint = planned_in(precision), fingerprint_in(precision)
    state = processes.decided(here, lambda: manifest.start(output, fingerprint, SCRIPT, fresh=fresh, claim=False))
    again = processes.decided(here, lambda: manifest.in_progress(output) or unanswered(output))
    if state == "finished" and not rescore and not again:
        if here.is_main_process:
            print(f"{output}: up to date")
        return
    # all that can be refused is, before the folder is claimed and what stands in it moved aside
    weights, entry = objective_of(config), inputs.ledger_entry()
    if isinstance(weights, dict) and (unknown := sorted(set(weights) - set(entry["shares"]))):
        raise UserError(f"OBJECTIVE: there is no specialty {unknown[0]!r} in {inputs.data_folder}.")
    base = "" if rescore or config.ENDPOINT else check_base(config, inputs, precision)
    asked = collect(config, inputs, planned)
    processes.decided(here, lambda: refuse_leaks(inputs, planned))
    if rescore and (absent := {key for one in asked.values() for key in one.keys} - answers.stored_keys(output)):
        raise UserError(
            f"{output}: {len(absent)} answers of these models and settings are not stored, so they cannot be scored again. "
            "Leave --rescore out, or give the settings they were made with."
        )
    if here.is_main_process:
        servers = [(arm.source, arm.served_as) for arm in planned if arm.kind == "endpoint"]
        if config.JUDGE:
            servers.append(judge_of(config))
        for address, model in () if rescore else servers:
            Endpoint(address, model).check()
        manifest.start(output, fingerprint, SCRIPT, fresh=fresh, compute_dtype=precision)
        if state == "finished":
            manifest.reopen(output, fingerprint, precision)
        if state == "resume":
            print("  going on where the last run stopped")
    here.wait_for_everyone()
    how = How(config.BATCH_SIZE, config.ARMS, config.REFILL, bool(config.LOAD_IN_4BIT), config.ENDPOINT_REQUESTS, precision)
    answering = Answering(output, asked, base, how, here)
    if not rescore:
        answering.ask()
    if not here.is_main_process:
        return
    with contextlib.closing(suite):
        scored = score(config, suite, answering, output)
    scored["about"] = {"iteration": inputs.iteration, "adapter": inputs.training["inputs"]["adapter"],
                       "alike": history.alike(settings.as_dict(config), suite, inputs.series(), planned[0]),
                       "recipe": inputs.training.get("recipe", ""), "compute_dtype": precision}  # fmt: skip
    scored["judged"] = judged(config, scored, answering, stored_only=rescore) if config.JUDGE else None
    advice = recommend(config, suite, inputs, scored)
    for sentence in write_results(config, inputs, output, suite, scored, advice, fingerprint, started):
        print(f"  {sentence}")
    contents = manifest.build(
        fingerprint,
        settings.as_dict(config),
        {"adapter": inputs.training["inputs"]["adapter"], "base_weights": inputs.training["inputs"]["base_weights"],
         "dataset": inputs.data["fingerprint"], "splits": inputs.data["splits"]},
        started,
        failed=int(sum((table["finish_reason"] == "failed").sum() for table in scored["tables"].values()))
        + (0 if scored["judged"] is None else int((~scored["judged"]["answered"]).sum())),
        made_by=SCRIPT, iteration=inputs.iteration, device=devices.describe(), compute_dtype=precision, run={"engine": ENGINE, **answering.record}, missing=scored["missing"],
        corpus_bleu=scored["corpus_bleu"],
    )  # fmt: skip
    manifest.finish(output, contents)


if __name__ == "__main__":
    run_script(main)
