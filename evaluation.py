#!/usr/bin/env python3
"""Ask base and tuned model the same questions, score them a specialty at a time, and say what to feed next.

    python evaluation.py --demo                        what fine_tuning.py --demo trained
    python evaluation.py                               results/ on the splits of datasets/
    python evaluation.py --ask "What is gout?"         what both models answer to one question
    python evaluation.py --rescore                     score stored answers again; needs no model

Writes OUTPUT_DIR, see evaluation_results/README.md. Killed and run again, it goes on with the questions left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import files, manifest, settings
from workbench.errors import UserError, run_script

if TYPE_CHECKING:
    import pandas as pd

    from workbench.evaluation.generation import Decoding, Question
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
    # The metric by which specialties are charted and recommended for more data.
    STEERING_METRIC: str = "ROUGE-L"
    # True: the base in NF4, as QLoRA trains it.
    LOAD_IN_4BIT: bool | None = None
    RANDOM_SEED: int = 42


DEMO = {
    "FINETUNED_MODEL_PATH": "results/demo",
    "DATASET_DIR": "datasets/demo",
    "OUTPUT_DIR": "evaluation_results/demo",
    "MAX_NEW_TOKENS": 128,
    "TEMPERATURE": 0.0,
    "BERTSCORE_MODEL": "embedded",
}
ENGINE = "transformers static batches"
SCRIPT = "evaluation.py"
MANY_CUT_OFF = 0.05  # share of answers from which MAX_NEW_TOKENS is worth raising


def make_metrics(bertscore_model: str) -> MetricSuite:
    """The metrics of the evaluation: the built-in ones, and yours."""
    from workbench.evaluation.metrics import MetricSuite

    class AutomaticMetrics(MetricSuite):
        """Add a metric by adding a method; it then stands in every table and chart. For example:

        def compute_length_ratio(self, reference: str, hypothesis: str) -> float:
            return len(hypothesis.split()) / max(1, len(reference.split()))

        and, where less is better, below it: compute_length_ratio.lower_is_better = True
        """

    return AutomaticMetrics(bertscore_model)


def check(config: EvaluationConfig) -> None:
    settings.check_range(config, "MAX_NEW_TOKENS", 1, 100_000)
    settings.check_range(config, "TEMPERATURE", 0, 5)
    for name in ("BATCH_SIZE", "MAX_SAMPLES_PER_SPECIALTY"):
        if getattr(config, name) is not None:
            settings.check_range(config, name, 1, 1_000_000)


class Inputs:
    """What is evaluated: the adapter and the data, checked to belong together."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.adapter_folder, self.data_folder = Path(config.FINETUNED_MODEL_PATH), Path(config.DATASET_DIR)
        self.training = manifest.require(self.adapter_folder, "fine_tuning.py")
        self.data = manifest.require(self.data_folder, "dataset_preparation.py")
        for split in ("holdout", "eval"):
            if self.training["inputs"]["splits"][split] != self.data["splits"][split]:
                raise UserError(
                    f"{self.adapter_folder}: was trained beside another {split} set than the one in {self.data_folder}, so "
                    "some of its questions may have been trained on. Evaluate it on its own data, or train it again."
                )
        self.base_name = config.BASE_MODEL_PATH or self.training["settings"]["MODEL_NAME"]
        self.iteration: int = self.training["iteration"]
        self.encoder_decoder: bool = self.training["settings"].get("MODEL_TYPE") == "encoder-decoder"
        if config.LOAD_IN_4BIT is None:
            config.LOAD_IN_4BIT = self.training["settings"]["LOAD_IN_4BIT"]
        # a model trained whole has no adapter to switch off: base and tuned are loaded in turn
        self.whole_model = not (self.adapter_folder / "adapter_config.json").is_file()


def collect_questions(config: EvaluationConfig, inputs: Inputs, tokenizer: Any) -> list[Question]:
    from workbench import chat
    from workbench.data import dataset_folders
    from workbench.evaluation.generation import questions_of

    found: list[Question] = []
    for split in ("holdout", "eval"):
        rows = dataset_folders.read_split(inputs.data_folder, split)
        if len(rows):
            chat.check_tokenizer(tokenizer, rows[0]["formatted_chat"], inputs.base_name)
        found += questions_of(split, rows, tokenizer, config.MAX_SAMPLES_PER_SPECIALTY, encoder_decoder=inputs.encoder_decoder)
    if not found:
        raise UserError(f"{inputs.data_folder}: holdout and eval are empty, so there is nothing to ask.")
    return found


def load_arms(config: EvaluationConfig, inputs: Inputs) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Models, each with the arms it answers for; refuses an adapter of another base.

    The base is loaded once, with an adapter that can be switched off. Of a model trained whole, base and tuned one come
    one after the other.
    """
    from workbench import models

    location = check_base(config, inputs)
    base = models.load_base(location, load_in_4bit=bool(config.LOAD_IN_4BIT))
    if not inputs.whole_model:
        yield ("base", "tuned"), models.load_adapter(base, inputs.adapter_folder)
        return
    yield ("base",), base.eval()
    del base
    yield ("tuned",), models.load_base(str(inputs.adapter_folder), load_in_4bit=bool(config.LOAD_IN_4BIT)).eval()


def check_base(config: EvaluationConfig, inputs: Inputs) -> str:
    """Where the base is; refuses one that this machine cannot run or that the adapter was not trained on."""
    from workbench import models

    models.require_device_for(inputs.base_name, load_in_4bit=bool(config.LOAD_IN_4BIT))
    location = models.locate(inputs.base_name)
    if models.weights_hash(location) != inputs.training["inputs"]["base_weights"]:
        raise UserError(
            f"{inputs.adapter_folder}: was trained on another base ({inputs.training['settings']['MODEL_NAME']}) than "
            f"{inputs.base_name}. Leave BASE_MODEL_PATH out, or train an adapter for this base."
        )
    return location


def decoding_of(config: EvaluationConfig, tokenizer: Any) -> Decoding:
    from workbench import models
    from workbench.evaluation.generation import Decoding

    stop = tuple(models.stop_ids(tokenizer))
    return Decoding(config.MAX_NEW_TOKENS, config.TEMPERATURE, config.RANDOM_SEED, stop, tokenizer.pad_token_id)


def ask_one(config: EvaluationConfig, inputs: Inputs, text: str) -> None:
    """`--ask`: what base and tuned model answer to one question, under the prompt that the data was prepared with."""
    from workbench import chat, models
    from workbench.data import dataset_folders
    from workbench.evaluation import generation

    models.quiet()
    tokenizer = models.load_tokenizer(str(inputs.adapter_folder))
    sample = dataset_folders.read_split(inputs.data_folder, "holdout")[0]
    # the stored prompt with its question exchanged: whatever template made it, this one is asked alike
    before, found, after = sample["formatted_prompt"].rpartition(sample["question"])
    if not found:
        raise UserError("the prepared prompts do not hold their question word for word, so --ask cannot make one.")
    if chat.SPECIAL_TOKEN.search(text) or not text.strip():
        raise UserError("--ask takes a question in plain text.")
    prompt = before + text.strip() + after
    encode = chat.encode_source if inputs.encoder_decoder else chat.encode_prompt
    ids = tuple(encode(tokenizer, prompt))
    question = generation.Question("asked", "", "", text, "", prompt, ids)
    decoding = decoding_of(config, tokenizer)
    for arms, model in load_arms(config, inputs):
        for arm in arms:
            with generation.speaking_as(arm, model):
                [(answer, finish)] = generation.generate_batch(model, [question], decoding)
            print(f"\n{arm}: {tokenizer.decode(answer, skip_special_tokens=True).strip()}{' …' if finish == 'length' else ''}")


def generate(
    config: EvaluationConfig, inputs: Inputs, output: Path
) -> tuple[list[Question], dict[str, list[Any]], dict[str, Any]]:
    """Every answer of both arms, from the store where they are there already.

    Returns:
        the questions, the answers by arm in their order, and what is to be recorded of the run.
    """
    from workbench import models
    from workbench.evaluation import generation

    tokenizer = models.load_tokenizer(str(inputs.adapter_folder))
    questions = collect_questions(config, inputs, tokenizer)
    decoding = decoding_of(config, tokenizer)
    base_hash = inputs.training["inputs"]["base_weights"]
    precision = "nf4" if config.LOAD_IN_4BIT else "bf16"
    identity = {"base": f"{base_hash} {precision}", "tuned": f"{base_hash} {precision} {inputs.training['inputs']['adapter']}"}
    keys = {
        arm: [generation.answer_key(question, identity[arm], decoding, ENGINE) for question in questions]
        for arm in generation.ARMS
    }
    store = generation.AnswerStore(output / "predictions.jsonl")
    wanted = {key for arm in generation.ARMS for key in keys[arm]}
    earlier = sorted(output.glob(f"{files.ARCHIVE_NAME}/*/predictions.jsonl"))
    adopted = sum(store.adopt(path, wanted) for path in earlier)
    if adopted:
        print(f"  {adopted} answers are taken over from an earlier evaluation of the same model and questions")
    record: dict[str, Any] = {"engine": ENGINE, "generated": 0, "decoding": {"stop_ids": list(decoding.stop_ids)}}
    if any(key not in store.answers for key in wanted):
        print(f"loading {inputs.base_name} and {'the tuned model' if inputs.whole_model else 'the adapter'} …", flush=True)
        for arms, model in load_arms(config, inputs):
            if not inputs.whole_model:
                record["largest_logit_change"] = generation.assert_adapter_works(model, questions)
            size = config.BATCH_SIZE or generation.find_batch_size(model.device.type, questions, decoding, model.config)
            record["batch_size"] = size
            print(f"asking {len(questions)} questions, {size} at a time, on {models.describe_device()}", flush=True)
            for arm in arms:
                record["generated"] += generation.ask(model, arm, questions, keys[arm], store, tokenizer, decoding, size)
            del model  # so that it is gone before the next one is loaded
    for arm in generation.ARMS:
        generation.check_complete(questions, keys[arm], store, arm)
    return questions, {arm: [store.answers[key] for key in keys[arm]] for arm in generation.ARMS}, record


def score(config: EvaluationConfig, suite: MetricSuite, questions: Any, answers: dict[str, list[Any]]) -> dict[str, Any]:
    """Tables of both arms with every metric, the floors, and both comparisons."""
    from workbench.evaluation import comparison, text_metrics

    print(f"scoring {2 * len(questions)} answers in {len(suite.names())} metrics …", flush=True)
    tables, scores, floor, corpus = {}, {}, {}, {}
    for arm, given in answers.items():
        pairs = [None if a.finish == "failed" else (q.reference, a.text) for q, a in zip(questions, given, strict=True)]
        scores[arm] = suite.score(pairs)
        tables[arm] = comparison.answers_table(questions, given, scores[arm])
        floor[arm] = comparison.floors(suite, tables[arm], config.RANDOM_SEED)
        for split in comparison.SPLITS:
            kept = [pair for pair, q in zip(pairs, questions, strict=True) if pair is not None and q.split == split]
            if kept:
                value, signature = text_metrics.corpus_bleu([r for r, _ in kept], [h for _, h in kept])
                corpus.setdefault(split, {"signature": signature})[arm] = value
    missing = scores["tuned"].missing | scores["base"].missing
    for name, reason in missing.items():
        print(f"  {name} is missing: {reason}")
    for note in scores["tuned"].notes:
        print(f"  {note}")
    return {
        "base": tables["base"],
        "tuned": tables["tuned"],
        "corpus_bleu": corpus,
        "missing": missing,
        "comparison": comparison.by_metric(
            tables["base"], tables["tuned"], suite, replace(scores["tuned"], missing=missing), floor, config.RANDOM_SEED
        ),
        "specialties": comparison.by_specialty(tables["base"], tables["tuned"], suite, config.RANDOM_SEED),
    }


def recommend(config: EvaluationConfig, suite: MetricSuite, inputs: Inputs, scored: dict[str, Any]) -> dict[str, Any]:
    """Advice from the tuned model's scores on the eval split; the headline beside it is the holdout's."""
    from workbench.data import iterations
    from workbench.evaluation import recommendations

    metric = steering_metric(config, scored["missing"])
    sign = -1.0 if suite.lower_is_better(metric) else 1.0
    tuned = scored["tuned"]
    on_eval = tuned[(tuned["split"] == "eval") & tuned[metric].notna()]
    by_specialty = {name: list(sign * part[metric]) for name, part in on_eval.groupby("specialty")}
    entry = ledger_entry(iterations.read_ledger(inputs.data_folder), inputs)
    evidence = recommendations.rank_specialties(
        by_specialty, shares=entry["shares"], share_base=entry["share_base"], pool=entry["sizes"]["pool"], seed=config.RANDOM_SEED
    )
    headline = scored["comparison"]
    headline = headline[headline["split"] == "holdout"]
    improvement = {row["metric"]: _number(row["difference"]) for _, row in headline.iterrows()}
    advice = recommendations.advice(evidence, metric=metric, overall_improvement=improvement)
    return {**advice, "iteration": entry["iteration"], "overall_improvement_split": "holdout"}


def steering_metric(config: EvaluationConfig, missing: dict[str, str]) -> str:
    return "ROUGE-L" if config.STEERING_METRIC in missing else config.STEERING_METRIC


def ledger_entry(ledger: list[dict[str, Any]], inputs: Inputs) -> dict[str, Any]:
    """The ledger's line of the iteration that the adapter was trained on."""
    found = [entry for entry in ledger if entry["iteration"] == inputs.iteration]
    if not found:
        raise UserError(
            f"{inputs.data_folder}: its ledger has no iteration {inputs.iteration}, on which the adapter was trained."
        )
    return found[0]


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def write_results(
    config: EvaluationConfig, suite: MetricSuite, inputs: Inputs, output: Path, scored: dict[str, Any], advice: dict[str, Any],
    looks: int,
) -> list[str]:  # fmt: skip
    """Tables, charts, recommendations and report; returns what they say in sentences."""
    from workbench.evaluation import charts, comparison, report

    for name, table in (("base_model_results.csv", scored["base"]), ("finetuned_model_results.csv", scored["tuned"]),
                        ("model_comparison.csv", scored["comparison"]), ("specialty_performance.csv", scored["specialties"])):  # fmt: skip
        with files.atomic_open(output / name) as file:
            comparison.write_csv(table, file)
    files.write_json(output / "training_recommendations.json", advice)
    metric = advice["steering_metric"]
    specialties = scored["specialties"]
    charts.specialty_analysis(
        output / "specialty_analysis.png",
        specialties[(specialties["split"] == "eval") & (specialties["metric"] == metric)],
        metric=metric, split="eval", supported=advice["low_performance_specialties"],
    )  # fmt: skip
    headline = scored["comparison"][scored["comparison"]["split"] == "holdout"]
    charts.model_comparison(output / "model_comparison.png", headline, split="holdout")
    sentences = in_words(headline, scored, metric, looks)
    training = inputs.training
    report.write(
        output / "report.html",
        heading={
            "iteration": inputs.iteration,
            "facts": {
                "base model": f"{inputs.base_name} ({'NF4' if config.LOAD_IN_4BIT else 'bf16'})",
                "tuned model": f"{'model' if inputs.whole_model else 'adapter'} in {inputs.adapter_folder}, kept at step {training['kept']['step']}",
                "questions": ", ".join(f"{n} {split}" for split, n in scored["base"]["split"].value_counts().items()),
                "system message, both": inputs.data["settings"]["SYSTEM_MESSAGE"] or "(none)",
                "decoding, both": f"temperature {config.TEMPERATURE:g}, at most {config.MAX_NEW_TOKENS} new tokens",
                "looks at this holdout": looks,
            },
            "in_words": sentences,
            "specialties": sorted(scored["base"]["specialty"].unique()),
        },
        comparison=scored["comparison"], base=scored["base"], tuned=scored["tuned"], metric=metric,
        lower_is_better=suite.lower_is_better(metric), advice=advice,
        pictures={"model_comparison": output / "model_comparison.png", "specialty_analysis": output / "specialty_analysis.png"},
    )  # fmt: skip
    return sentences


def in_words(headline: pd.DataFrame, scored: dict[str, Any], metric: str, looks: int) -> list[str]:
    """What may be concluded, and what may not."""
    from workbench.evaluation import report, significance

    verdicts = [report.verdict(row) for _, row in headline[headline["missing"] == ""].iterrows()]
    row = headline[headline["metric"] == metric].iloc[0]
    sentences = [
        f"On {int(row['n'])} holdout questions the tuned model is better in {verdicts.count('better')} of {len(verdicts)} metrics, "
        f"worse in {verdicts.count('worse')}, and within noise in {verdicts.count('unclear')}.",
        f"{metric}: {row['base']:.3f} base, {row['tuned']:.3f} tuned, difference {row['difference']:+.3f} "
        f"(95% interval {row['ci_low']:+.3f} to {row['ci_high']:+.3f}).",
        *little_above_floor(row),
    ]
    by_specialty = scored["specialties"]
    held = by_specialty[(by_specialty["split"] == "holdout") & (by_specialty["metric"] == metric)]
    both = scored["tuned"][metric] - scored["base"][metric]
    sd = float(both[scored["tuned"]["split"] == "holdout"].std())
    n = int(held["n"].median()) if len(held) else 0
    least = significance.smallest_detectable(sd, n)
    if least == least:
        sentences.append(f"{n} questions of one specialty cannot show a difference in {metric} below {least:.2f} (80% power).")
    for name in ("base", "tuned"):
        table = scored[name]
        cut, failed = (int((table["finish_reason"] == reason).sum()) for reason in ("length", "failed"))
        empty = int(((table["prediction"] == "") & (table["finish_reason"] != "failed")).sum())
        if cut or failed or empty:
            sentences.append(
                f"Of {len(table)} answers of the {name} model {cut} were cut off, {empty} were empty, {failed} failed."
                + (" Raise MAX_NEW_TOKENS." if cut > MANY_CUT_OFF * len(table) else "")
            )
    corpus = scored["corpus_bleu"].get("holdout")
    if corpus:
        sentences.append(
            f"Corpus BLEU on the holdout: {corpus['base']:.2f} base, {corpus['tuned']:.2f} tuned ({corpus['signature']})."
        )
    sentences.append(
        f"This holdout has been looked at {looks} time{'s' * (looks != 1)}; choices made after each look make its next figure rosier."
    )
    return sentences


def little_above_floor(row: Any) -> list[str]:
    """A warning where most of a score is what any answer of the specialty would get."""
    above = abs(row["tuned"] - row["floor_tuned"])
    if not math.isfinite(above) or above > 0.25 * abs(row["tuned"]):
        return []
    return [
        f"Beware: answers handed to other questions of the specialty score {row['floor_tuned']:.3f} already, so most of "
        "what the tuned model scores is style, not knowledge of the question asked."
    ]


def print_table(output: Path) -> None:
    """The closing table: the holdout's figures, and what to feed next."""
    import pandas as pd

    table = pd.read_csv(output / "model_comparison.csv")
    headline = table[table["split"] == "holdout"]
    print(f"\nholdout{'':<18}{'base':>9}{'tuned':>9}{'difference':>12}   95% interval      floor")
    for _, row in headline.iterrows():
        if isinstance(row["missing"], str) and row["missing"]:
            print(f"  {row['metric']:<23}  missing: {row['missing'][:80]}")
            continue
        print(
            f"  {row['metric']:<23}{row['base']:>9.3f}{row['tuned']:>9.3f}{row['difference']:>+12.3f}   "
            f"{row['ci_low']:+.3f} to {row['ci_high']:+.3f}  {row['floor_tuned']:>6.3f}"
        )
    advice = files.read_json(output / "training_recommendations.json")
    print("\nnext iteration")
    for sentence in advice["in_words"]:
        print(f"  {sentence}")
    for name, share in advice["recommended_sample_increases"].items():
        item = next(item for item in advice["evidence"] if item["specialty"] == name)
        print(f"    {name:<28} share {item['current_share']:.2f} -> {share:.2f}, {item['records_added']} records")


def main() -> None:
    config, arguments = settings.load(
        EvaluationConfig, None, __doc__ or "", DEMO,
        {
            "--ask": {"metavar": "QUESTION", "help": "print what both models answer to this question, and end"},
            "--rescore": {"action": "store_true", "help": "score the stored answers again, without a model"},
        },
    )  # fmt: skip
    check(config)
    inputs = Inputs(config)
    print("loading libraries …", flush=True)
    if arguments.ask is not None:
        ask_one(config, inputs, arguments.ask)
        return
    output = Path(config.OUTPUT_DIR)
    with files.output_lock(output):
        evaluate(config, inputs, output, fresh=arguments.fresh, rescore=arguments.rescore)
    print_table(output)
    print(f"\nopen {output / 'report.html'}, {output / 'specialty_analysis.png'}, {output / 'model_comparison.png'}")
    advice = files.read_json(output / "training_recommendations.json")
    if advice["recommended_sample_increases"]:
        demo = " --demo" if arguments.demo else ""
        print(f"next: python dataset_preparation.py{demo} --recommendations {output / 'training_recommendations.json'}")
    else:
        print("next: choose shares yourself in specialty_adjustments (dataset_preparation.py), or gather more eval questions")


def evaluate(config: EvaluationConfig, inputs: Inputs, output: Path, *, fresh: bool, rescore: bool) -> None:
    """Answers, scores, tables; the caller holds the folder's lock."""
    from workbench.data import iterations
    from workbench.models import describe_device, quiet

    started = time.time()
    quiet()
    suite = make_metrics(config.BERTSCORE_MODEL)
    if config.STEERING_METRIC not in suite.names():
        raise UserError(
            f"STEERING_METRIC={config.STEERING_METRIC}: there is no such metric. There are {', '.join(suite.names())}."
        )
    affects = {name: value for name, value in settings.as_dict(config).items() if not name.endswith(("_DIR", "_PATH"))}
    fingerprint = files.sha256_of(
        [affects, inputs.training["inputs"]["adapter"], inputs.training["inputs"]["base_weights"], inputs.data["fingerprint"],
         suite.names()]
    )  # fmt: skip
    state = manifest.start(output, fingerprint, SCRIPT, fresh=fresh, claim=False)
    if state == "finished" and not rescore:
        print(f"{output}: up to date")
        return
    if not rescore:
        check_base(config, inputs)
    manifest.start(output, fingerprint, SCRIPT, fresh=fresh)
    if state == "resume":
        print("  going on where the last run stopped")
    questions, answers, record = generate(config, inputs, output)
    scored = score(config, suite, questions, answers)
    advice = recommend(config, suite, inputs, scored)
    look = {"fingerprint": fingerprint, "time": manifest.now(), "adapter": inputs.training["inputs"]["adapter"]}
    looks = iterations.count_holdout_look(inputs.data_folder, look)
    for sentence in write_results(config, suite, inputs, output, scored, advice, looks):
        print(f"  {sentence}")
    contents = manifest.build(
        fingerprint,
        settings.as_dict(config),
        {"adapter": inputs.training["inputs"]["adapter"], "base_weights": inputs.training["inputs"]["base_weights"],
         "dataset": inputs.data["fingerprint"], "splits": inputs.data["splits"]},
        started,
        made_by=SCRIPT, iteration=inputs.iteration, device=describe_device(), run=record, missing=scored["missing"],
        corpus_bleu=scored["corpus_bleu"],
    )  # fmt: skip
    manifest.finish(output, contents)


if __name__ == "__main__":
    run_script(main)
