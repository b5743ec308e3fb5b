#!/usr/bin/env python3
"""Repeat prepare, train and evaluate, each time with the recommended records, until an iteration brings no gain.

    python iterate.py --demo N=3                                  the sample data and SmolLM2-135M
    python iterate.py N=4 PREPARATION="DATA_DIR=my_files"         your files
    python iterate.py N=4 TRAINING="LORA_RANK=16 NUM_EPOCHS=5" EVALUATION="POLICY=learning_curves BUDGET=400"

Runs the three scripts as you would. It stops at N, if the last iteration gained no more than chance explains, if the pool is empty, or
if nothing is recommended. The eval split alone decides this, never the holdout. If it is killed, run it again to resume. At the end it
prints the table of iterations (`python evaluation.py --history`) and one sentence of advice.
"""

from __future__ import annotations

import enum
import shlex
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from meerkat_workbench import recipes
from meerkat_workbench.core import runs, settings, subprocesses
from meerkat_workbench.core.errors import UserError, mark_fresh_done, resume_command, run_script
from meerkat_workbench.core.settings import EXECUTION, OfScript, Range, Renamed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meerkat_workbench.tuning.artifacts import HistoryRow
    from meerkat_workbench.tuning.reporting.results import EvaluationResult

# --- settings


class LoopConfig(settings.Settings):
    """Settings of the loop. Change a line, or give KEY=VALUE on the command line."""

    # Most iterations, including those that exist already.
    N: Annotated[int, Range(1, 1000), EXECUTION] = 3
    # Folder of the splits.
    DATASET_DIR: Annotated[str, EXECUTION, Renamed("DATASETS")] = "datasets"
    # Folder of the adapter.
    FINETUNED_MODEL_PATH: Annotated[str, EXECUTION, Renamed("RESULTS")] = "results"
    # Folder of the evaluation.
    EVALUATION_DIR: Annotated[str, EXECUTION, Renamed("EVALUATIONS")] = "evaluation_results"
    # Settings of dataset_preparation.py, the same in each iteration: {DATA_DIR: my_files}, or DATA_DIR=my_files.
    PREPARATION: Annotated[dict[str, object], EXECUTION, OfScript()] = {}
    # Settings of fine_tuning.py: {LORA_RANK: 16, NUM_EPOCHS: 5}.
    TRAINING: Annotated[dict[str, object], EXECUTION, OfScript()] = {}
    # Settings of evaluation.py: {POLICY: learning_curves, BUDGET: 400}.
    EVALUATION: Annotated[dict[str, object], EXECUTION, OfScript()] = {}
    # COMPUTE_DTYPE of training and evaluation: bf16, fp16 or fp32; "auto" takes what this device has hardware for.
    COMPUTE_DTYPE: Annotated[Literal["auto", "bf16", "fp16", "fp32"], EXECUTION] = "auto"


DEMO = {"DATASET_DIR": "datasets/demo", "FINETUNED_MODEL_PATH": "results/demo", "EVALUATION_DIR": "evaluation_results/demo"}
HERE = Path(__file__).resolve().parent
SIGNAL_BASE = 128  # of exit codes
FOLDER_SETTINGS = ("OUTPUT_DIR", "DATASET_DIR", "FINETUNED_MODEL_PATH")


# --- the steps


class StopReason(enum.StrEnum):
    """Why a loop ends."""

    WORSE = "worse"
    NO_GAIN = "no gain beyond chance"
    POOL_EMPTY = "pool empty"
    NOTHING_RECOMMENDED = "nothing recommended"
    LIMIT = "N reached"


@dataclass(frozen=True)
class Ending:
    """Why a loop ended, and one sentence of advice for its user."""

    reason: StopReason
    advice: str


def iterate(config: LoopConfig, *, demo: bool = False, fresh: bool = False) -> Ending:
    """Run the loop until it no longer pays.

    Args:
        demo: start from the settings that `--demo` sets in each script.
        fresh: start a new series, and set unfinished work aside.
    """
    loop = Loop(config, demo=demo)
    options = ["--fresh"] if fresh else []
    # 1. Prepare: the folder is up to date, or new files make another iteration
    loop.run(loop.preparation, *options)
    if fresh:
        mark_fresh_done()
    while True:
        # 2. Train and evaluate
        loop.run(loop.training, *options)
        loop.run(loop.evaluation, *options)
        options = []
        # 3. Stop, or apply the recommendations
        if ending := loop.ending():
            break
        loop.run(loop.preparation, "--recommendations", str(loop.recommendations_file), iteration=loop.iteration() + 1)
    # 4. Show all iterations
    loop.run(loop.evaluation, "--history")
    return ending


@dataclass(frozen=True)
class Stage:
    """A script and the arguments that give it its settings."""

    script: str
    arguments: Sequence[str]


class Loop:
    """The three scripts on three folders, and their outputs there."""

    def __init__(self, config: LoopConfig, *, demo: bool) -> None:
        from meerkat_workbench.tuning.artifacts import Recommendations

        self.config = config
        self.datasets, self.results, self.evaluations = map(
            Path, (config.DATASET_DIR, config.FINETUNED_MODEL_PATH, config.EVALUATION_DIR)
        )
        self.recommendations_file = self.evaluations / Recommendations.FILE
        data, model, output = str(self.datasets), str(self.results), str(self.evaluations)
        precision = {} if config.COMPUTE_DTYPE == "auto" else {"COMPUTE_DTYPE": config.COMPUTE_DTYPE}
        self.preparation = stage(
            "dataset_preparation", "DatasetConfig", "PREPARATION", config.PREPARATION, {"OUTPUT_DIR": data}, demo=demo
        )
        self.training = stage("fine_tuning", "TrainingConfig", "TRAINING", config.TRAINING,
                              {"DATASET_DIR": data, "OUTPUT_DIR": model, **precision}, demo=demo)  # fmt: skip
        self.evaluation = stage("evaluation", "EvaluationConfig", "EVALUATION", config.EVALUATION,
                                {"DATASET_DIR": data, "FINETUNED_MODEL_PATH": model, "OUTPUT_DIR": output, **precision}, demo=demo)  # fmt: skip

    def run(self, stage: Stage, *more: str, iteration: int | None = None) -> None:
        """Run one script as a user would; its output is shown, and its error ends the loop.

        Args:
            iteration: the iteration that the script makes; by default the present one.
        """
        command = [stage.script, *stage.arguments, *more]
        print(f"\n[iteration {iteration or self.iteration() or 1}] python {shlex.join(command)}", flush=True)
        code = subprocesses.run([sys.executable, str(HERE / stage.script), *command[1:]])
        if code < 0 or code > SIGNAL_BASE:  # a script that stopped with a checkpoint exits with 128 + signal
            number = -code if code < 0 else code - SIGNAL_BASE
            memory = " (often because memory ran out)" if number == signal.SIGKILL else ""
            raise UserError(
                f"was ended by signal {number}{memory}", where=stage.script, remedy=f"Run {resume_command()} again to resume."
            )
        if code:
            remedy = f"Correct what its message names, and run {resume_command()} again."
            raise UserError(f"ended with exit code {code}", where=stage.script, remedy=remedy)

    def iteration(self) -> int:
        """The present iteration of the data; 0 before the first."""
        from meerkat_workbench.tuning.artifacts import DatasetManifest

        data = DatasetManifest.find(self.datasets)
        return 0 if data is None else data.iteration

    def last_change(self, evaluated: EvaluationResult) -> HistoryRow | None:
        """The last iteration's change in the steering metric on eval, signed so that more is better; None after the first."""
        from meerkat_workbench.tuning.artifacts import Split
        from meerkat_workbench.tuning.reporting import history

        metric = evaluated.recommendations.steering_metric
        row = history.last_row_with_change(
            history.read(self.evaluations), iteration=self.iteration(), split=Split.EVAL, metric=metric
        )
        lower = any(comparison.lower_is_better for comparison in evaluated.metrics if comparison.metric == metric)
        return None if row is None else history.with_gain_positive(row, lower_is_better=lower)

    def adapter_before(self, number: int) -> Path:
        """The folder of the last adapter of an earlier iteration."""
        from meerkat_workbench.tuning.artifacts import TrainingResult

        earlier = [
            (result.iteration, result.finished, folder)
            for folder in runs.archived(self.results)
            if (result := TrainingResult.find(folder)) and result.iteration < number
        ]
        return max(earlier)[2] if earlier else self.results / runs.ARCHIVE

    def ending(self) -> Ending | None:
        """Why the loop ends after this iteration, and what to do instead; None if it continues."""
        from meerkat_workbench.tuning.artifacts import Split, read_ledger
        from meerkat_workbench.tuning.reporting.results import EvaluationResult

        evaluated, number = EvaluationResult.read(self.evaluations), self.iteration()
        advice, change = evaluated.recommendations, self.last_change(evaluated)
        metric, previous = advice.steering_metric, f"the one before it ({self.adapter_before(number)})"
        by = f"{change.change:+.3f} (95% interval {change.change_low:+.3f} to {change.change_high:+.3f})" if change else ""
        if change and change.change_high < 0:
            sentence = f"Iteration {number} is worse by {metric} on eval, {by}: keep {previous}, and look at what was added."
            return Ending(StopReason.WORSE, sentence)
        if change and change.change_low <= 0:
            sentence = (
                f"Iteration {number} changed {metric} on eval by {by}, no more than chance explains: keep it or {previous}, and collect "
                "new data or more eval questions before the next."
            )
            return Ending(StopReason.NO_GAIN, sentence)
        left = read_ledger(self.datasets)[-1].sizes.total(Split.POOL)
        if not left:
            sentence = f"The pool is empty: use iteration {number} ({self.results}); only new data can help now."
            return Ending(StopReason.POOL_EMPTY, sentence)
        if not advice.recommended_sample_increases:
            return Ending(
                StopReason.NOTHING_RECOMMENDED,
                f"Nothing is recommended after iteration {number}: {' '.join(advice.sentences[:1])}",
            )
        if number >= self.config.N:
            gained = f" ({change.change:+.3f} in {metric} on eval since the one before)" if change else ""
            sentence = (
                f"Iteration {number} is done{gained}, N={self.config.N} is reached and the pool still holds {left:,} records: "
                f"N={number + 1} continues with more records of {len(advice.recommended_sample_increases)} specialties."
            )
            return Ending(StopReason.LIMIT, sentence)
        return None


def stage(
    script: str, config_class: str, setting: str, given: Mapping[str, object], folders: Mapping[str, object], *, demo: bool
) -> Stage:
    """A script's settings, checked now, as its arguments.

    Args:
        setting: the setting of the loop that holds `given`, for messages.
        folders: the settings that the loop sets itself.
    """
    recipe = recipes.load(HERE / f"{script}.py")
    config: settings.Settings = getattr(recipe, config_class)()
    if own := [name for name in given if name in FOLDER_SETTINGS]:
        remedy = "Set DATASET_DIR, FINETUNED_MODEL_PATH or EVALUATION_DIR of the loop instead."
        raise UserError("is set by the loop itself", where=setting, item=own[0], remedy=remedy)
    try:
        settings.update(config, {**(recipe.DEMO if demo else {}), **given, **folders})
    except UserError as error:
        raise error.within(setting) from None
    return Stage(f"{script}.py", settings.as_arguments(config, recipe.DEMO))


# --- on the command line


def main() -> None:
    config, arguments = settings.load(LoopConfig, None, __doc__ or "", DEMO)
    started = time.time()
    ending = iterate(config, demo=arguments.demo, fresh=arguments.fresh)
    from meerkat_workbench.tuning.artifacts import OutputFile, Recommendations, read_recommendations

    output = Path(config.EVALUATION_DIR)
    if caution := read_recommendations(output / Recommendations.FILE).caution:
        print(f"\n{caution}")
    pictures = f"{output / OutputFile.PROGRESS}, {output / OutputFile.REPORT}"
    print(f"\n{ending.advice}\n{time.time() - started:.0f} s; open {pictures}")


if __name__ == "__main__":
    run_script(main)
