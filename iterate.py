#!/usr/bin/env python3
"""Go round and round: prepare, train, evaluate, feed what the evaluation recommends, until it no longer pays.

    python iterate.py --demo N=3                                  the sample data and SmolLM2-135M
    python iterate.py N=4 PREPARATION="DATA_DIR=my_files"         your files
    python iterate.py N=4 TRAINING="LORA_RANK=16 NUM_EPOCHS=5" EVALUATION="POLICY='learning curves' BUDGET=400"

Runs the three scripts as you would, and stops at N, when the last iteration gained no more than chance explains, when the pool is
spent, or when nothing is recommended. All of that is judged by the eval split; the holdout decides nothing. Killed and run again, it
goes on where it was. It ends with the table of iterations (`python evaluation.py --history`) and one sentence of advice.
"""

from __future__ import annotations

import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

from workbench import children, devices, files, manifest, settings
from workbench.errors import UserError, again, began_afresh, run_script

FOLDERS = ("OUTPUT_DIR", "DATASET_DIR", "FINETUNED_MODEL_PATH")
PREPARE, TRAIN, EVALUATE = "dataset_preparation.py", "fine_tuning.py", "evaluation.py"


class LoopConfig(settings.Settings):
    """Settings of the loop. Change a line, or give KEY=VALUE on the command line."""

    # Iterations at most, those that are there already among them.
    N: int = 3
    # Where the splits, the adapter and the evaluation go.
    DATASETS: str = "datasets"
    RESULTS: str = "results"
    EVALUATIONS: str = "evaluation_results"
    # What each script is given besides, as on its own command line, such as DATA_DIR=my_files; the same in each iteration.
    PREPARATION: str = ""
    # Such as LORA_RANK=16 NUM_EPOCHS=5.
    TRAINING: str = ""
    # Such as POLICY='learning curves' BUDGET=400.
    EVALUATION: str = ""
    # COMPUTE_DTYPE of training and evaluation: bf16, fp16 or fp32; "auto" takes what this device has hardware for.
    COMPUTE_DTYPE: str = "auto"


DEMO = {"DATASETS": "datasets/demo", "RESULTS": "results/demo", "EVALUATIONS": "evaluation_results/demo"}


def words(config: LoopConfig, name: str) -> list[str]:
    """The arguments that a setting holds, as a shell would read them."""
    try:
        found = shlex.split(getattr(config, name))
    except ValueError as error:
        raise UserError(f"{name}={getattr(config, name)}: {error}. Write it as on the command line of the script.") from None
    for argument in found:
        if argument.split("=")[0] in FOLDERS:
            raise UserError(
                f"{name}: {argument} would part the scripts. DATASETS, RESULTS and EVALUATIONS name the loop's folders."
            )
    return found


class Loop:
    """The three scripts on three folders, and what they have left there."""

    def __init__(self, config: LoopConfig, *, demo: bool) -> None:
        self.config, self.demo = config, demo
        self.datasets, self.results, self.evaluations = map(Path, (config.DATASETS, config.RESULTS, config.EVALUATIONS))
        self.advice_file = self.evaluations / "training_recommendations.json"
        precision = [] if config.COMPUTE_DTYPE == "auto" else [f"COMPUTE_DTYPE={config.COMPUTE_DTYPE}"]
        self.given = {
            PREPARE: [f"OUTPUT_DIR={self.datasets}", *words(config, "PREPARATION")],
            TRAIN: [f"DATASET_DIR={self.datasets}", f"OUTPUT_DIR={self.results}", *precision, *words(config, "TRAINING")],
            EVALUATE: [f"DATASET_DIR={self.datasets}", f"FINETUNED_MODEL_PATH={self.results}", f"OUTPUT_DIR={self.evaluations}",
                       *precision, *words(config, "EVALUATION")],
        }  # fmt: skip

    def run(self, script: str, *more: str, iteration: int | None = None) -> None:
        """One script, as a user would start it; what it prints is seen, and its fault ends the loop.

        Args:
            iteration: that the script begins; by default it works on the one that is there.
        """
        command = [script, *(["--demo"] if self.demo else []), *self.given[script], *more]
        print(f"\n[iteration {iteration or self.iteration() or 1}] python {shlex.join(command)}", flush=True)
        ended = children.run([sys.executable, str(Path(__file__).resolve().parent / script), *command[1:]])
        if ended < 0:
            raise UserError(
                f"{script} was ended by signal {-ended}{' (often for want of memory)' if ended == -signal.SIGKILL else ''}. "
                f"Run {again()} again to go on."
            )
        if ended:
            raise UserError(f"{script} ended with exit code {ended}. Mend what it names, and run {again()} again.")

    def iteration(self) -> int:
        """The one whose data is in place; 0 before the first."""
        data = manifest.read(self.datasets)
        return 0 if data is None else int(data["iteration"])

    def pool(self) -> int:
        ledger = files.read_json_lines(self.datasets / "iterations.jsonl")
        return sum(ledger[-1]["sizes"]["pool"].values())

    def gain(self, metric: str) -> dict[str, Any] | None:
        """What the last iteration changed on the eval split, whether that is `better` or `worse`; None after the first."""
        from workbench.evaluation import comparison, history

        table = history.read(self.evaluations)
        rows = table[(table["split"] == "eval") & (table["metric"] == metric) & table["change_low"].notna()]
        rows = rows[rows["iteration"] == self.iteration()]
        if rows.empty:
            return None
        found: dict[str, Any] = rows.iloc[-1].to_dict()
        compared = comparison.read_csv(self.evaluations / "model_comparison.csv")
        lower = bool(compared.loc[compared["metric"] == metric, "lower_is_better"].iloc[0])
        low, high = (-found["change_high"], -found["change_low"]) if lower else (found["change_low"], found["change_high"])
        found["better"], found["worse"] = low > 0, high < 0
        return found

    def adapter_before(self, number: int) -> Path:
        """The folder of the last adapter that an earlier iteration left."""
        archive = self.results / files.ARCHIVE_NAME
        found = [(made["iteration"], made["finished"], folder) for folder in archive.glob("*")
                 if (made := manifest.read(folder)) and made["iteration"] < number]  # fmt: skip
        return max(found)[2] if found else archive

    def reason_to_stop(self) -> str:
        """Why there is to be no further iteration, with what to do instead; nothing where there is to be one."""
        advice = files.read_json(self.advice_file)
        metric, number = advice["steering_metric"], self.iteration()
        gain = self.gain(metric)
        before = f"the one before it ({self.adapter_before(number)})"
        if gain is not None and gain["worse"]:
            return (
                f"Iteration {number} is worse by {metric} on eval, {gain['change']:+.3f} (95% interval {gain['change_low']:+.3f} to "
                f"{gain['change_high']:+.3f}): keep {before}, and look at what was added."
            )
        if gain is not None and not gain["better"]:
            return (
                f"Iteration {number} changed {metric} on eval by {gain['change']:+.3f} (95% interval {gain['change_low']:+.3f} to "
                f"{gain['change_high']:+.3f}), no more than chance explains: keep it or {before}, and gather new "
                "data or more eval questions before the next."
            )
        if not self.pool():
            return f"The pool is spent: use iteration {number} ({self.results}); only new data can help now."
        if not advice["recommended_sample_increases"]:
            return f"Nothing is recommended after iteration {number}: {advice['in_words'][0]}"
        if number >= self.config.N:
            told = f" ({gain['change']:+.3f} in {metric} on eval since the one before)" if gain else ""
            return (
                f"Iteration {number} is done{told}, N={self.config.N} is reached and the pool still holds {self.pool():,} records: "
                f"N={number + 1} goes on with {len(advice['recommended_sample_increases'])} specialties fed more."
            )
        return ""


def main() -> None:
    config, arguments = settings.load(LoopConfig, None, __doc__ or "", DEMO)
    settings.check_range(config, "N", 1, 1000)
    devices.check_choice(config.COMPUTE_DTYPE)
    started, loop = time.time(), Loop(config, demo=arguments.demo)
    fresh = ["--fresh"] if arguments.fresh else []
    loop.run(PREPARE, *fresh)  # up to date, or what new files make of it
    if arguments.fresh:
        began_afresh()
    while True:
        loop.run(TRAIN, *fresh)
        loop.run(EVALUATE, *fresh)
        fresh = []
        if stop := loop.reason_to_stop():
            break
        loop.run(PREPARE, "--recommendations", str(loop.advice_file), iteration=loop.iteration() + 1)
    loop.run(EVALUATE, "--history")
    if caution := files.read_json(loop.advice_file).get("caution"):
        print(f"\n{caution}")
    print(
        f"\n{stop}\n{time.time() - started:.0f} s; open {loop.evaluations / 'progress.png'}, {loop.evaluations / 'report.html'}"
    )


if __name__ == "__main__":
    run_script(main)
