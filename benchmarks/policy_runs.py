"""Three real iterations by each policy, at equal budget: do the learning curves beat the natural mix outside of a simulation?

    python benchmarks/policy_runs.py FOLDER [--seeds 0 1 2] [--budget 110]

FOLDER holds specialty files; sixteen of them are used, every second one by size from the smallest, and of each a third of its pairs
(70 to 260). SmolLM2-135M (in the committed figures: a toy of 5.5 M parameters that is gone) is trained
and evaluated by the three scripts. Iteration 1 is common to the policies of a seed; iterations 2 and 3 add the same number of records,
each by its own policy. A seed draws other fixed sets and trains otherwise. Policies are judged by the holdout, which steers nothing.
Rows go to benchmarks/results/policy_runs.csv, a seed's when it is done; a seed that was interrupted is begun again. `--table` prints
what the rows say.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from learning_curves import run

from meerkat_workbench.stats import significance
from meerkat_workbench.tuning.allocation import policies

ROOT = Path(__file__).resolve().parent.parent

RESULTS = ROOT / "benchmarks" / "results" / "policy_runs.csv"
POLICIES = (policies.LEARNING_CURVES, policies.THRESHOLD, policies.PROPORTIONAL)
METRIC, ITERATIONS = "ROUGE-L", 3
SPECIALTIES, PART, LEAST, MOST = 16, 3, 70, 260
PREPARATION = ("HOLDOUT_SAMPLES_PER_SPECIALTY=14", "INITIAL_TRAIN_PERCENTAGE=0.25", "EVAL_SPLIT_SIZE=0.5")
COLUMNS = ("seed", "policy", "iteration", "specialty", "split", "train", "n", "base", "tuned")


def slice_of(source: Path, target: Path) -> None:
    """The same specialties and the same pairs for all seeds."""
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(source.glob("dataset_with_answers_*.json"), key=lambda path: len(json.loads(path.read_text())))
    for path in files[:: max(1, len(files) // SPECIALTIES)][:SPECIALTIES]:
        pairs = sorted(json.loads(path.read_text()).items())
        kept = random.Random(path.name).sample(pairs, min(len(pairs), max(LEAST, min(MOST, len(pairs) // PART))))
        (target / path.name).write_text(json.dumps(dict(kept)))


def iterate(work: Path, seed: int, policy: str, budget: int, *, recommended: bool) -> list[dict[str, object]]:
    """One iteration in `work`, as a user would run it; the rows of its specialties."""
    data, adapter, scores = work / "data", work / "results", work / "scores"
    advice = ("--recommendations", str(scores / "training_recommendations.json")) if recommended else ()
    run(
        "dataset_preparation.py",
        "--demo",
        "SPECIALTIES=",
        f"DATA_DIR={work.parent.parent / 'files'}",
        f"OUTPUT_DIR={data}",
        *PREPARATION,
        f"RANDOM_SEED={seed}",
        *advice,
    )
    run("fine_tuning.py", "--demo", f"DATASET_DIR={data}", f"OUTPUT_DIR={adapter}", f"RANDOM_SEED={seed}")
    run("evaluation.py", "--demo", f"DATASET_DIR={data}", f"FINETUNED_MODEL_PATH={adapter}", f"OUTPUT_DIR={scores}", "RETENTION=False",
        f"POLICY={policy}", f"BUDGET={budget}")  # fmt: skip
    entry = json.loads((data / "iterations.jsonl").read_text().splitlines()[-1])
    with open(scores / "specialty_performance.csv", newline="", encoding="utf-8") as file:
        return [{"seed": seed, "policy": policy, "iteration": entry["iteration"], "specialty": row["specialty"], "split": row["split"],
                 "train": entry["sizes"]["train"].get(row["specialty"], 0), "n": row["n"], "base": row["base"], "tuned": row["tuned"]}
                for row in csv.DictReader(file) if row["metric"] == METRIC]  # fmt: skip


def one_seed(work: Path, seed: int, budget: int) -> None:
    """All policies of a seed, unless they are there."""
    done = pd.read_csv(RESULTS) if RESULTS.is_file() else pd.DataFrame(columns=list(COLUMNS))
    if ((done["seed"] == seed) & (done["iteration"] == ITERATIONS)).any() and set(done[done["seed"] == seed]["policy"]) == set(
        POLICIES
    ):
        return
    shutil.rmtree(work / f"seed{seed}", ignore_errors=True)
    done = done[done["seed"] != seed]
    rows: list[dict[str, object]] = []
    for place, policy in enumerate(POLICIES):
        folder = work / f"seed{seed}" / policy.replace(" ", "_")
        if place == 0:
            rows += iterate(folder, seed, policy, budget, recommended=False)
            shutil.copytree(folder, work / f"seed{seed}" / "first")
        else:
            shutil.copytree(work / f"seed{seed}" / "first", folder)
            # what iteration 1 showed, with this policy's advice; no answer is asked for anew
            rows += iterate(folder, seed, policy, budget, recommended=False)
        for _ in range(ITERATIONS - 1):
            rows += iterate(folder, seed, policy, budget, recommended=True)
        print(f"seed {seed}, {policy}: done", flush=True)
    pd.concat([done, pd.DataFrame(rows)[list(COLUMNS)]]).to_csv(RESULTS, index=False)


def table() -> str:
    """Holdout scores by policy and iteration, and what ours has over each other, paired by seed and specialty."""
    rows = pd.read_csv(RESULTS)
    rows = rows[rows["split"] == "holdout"]
    lines = [
        f"{METRIC} on the holdout, {rows['seed'].nunique()} seeds, {rows['specialty'].nunique()} specialties; mean, and mean of the worst decile"
    ]
    worst = policies.worst_count(rows["specialty"].nunique())
    lines.append(f"{'':<18}{'base':>14}" + "".join(f"{f'iteration {number}':>22}" for number in range(1, ITERATIONS + 1)))
    for policy in POLICIES:
        cells, base = [], ""
        for number in range(1, ITERATIONS + 1):
            mine = rows[(rows["policy"] == policy) & (rows["iteration"] == number)]
            by_seed = [
                (part["tuned"].mean(), part["tuned"].nsmallest(worst).mean(), part["base"].mean())
                for _, part in mine.groupby("seed")
            ]
            mean, low, before = np.mean(by_seed, axis=0)
            base = f"{before:.4f}"
            trained = mine.groupby("seed")["train"].sum().mean()
            cells.append(f"{mean:.4f} {low:.4f} ({trained:.0f})")
        lines.append(f"{policy:<18}{base:>14}" + "".join(f"{cell:>22}" for cell in cells))
    last = rows[rows["iteration"] == ITERATIONS].pivot_table(index=["seed", "specialty"], columns="policy", values="tuned")
    for other in POLICIES[1:]:
        gain = last[POLICIES[0]] - last[other]
        by_seed = gain.groupby("seed").mean()
        # specialties of a seed share its training runs: the seeds are what is independent
        found = significance.mean_interval(by_seed.tolist())
        seeds = ", ".join(f"{value:+.4f}" for value in by_seed)
        lines.append(
            f"{POLICIES[0]} minus {other}: {found.mean:+.4f} (95% interval over seeds {found.low:+.4f} to {found.high:+.4f}); "
            f"by seed {seeds}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=int, default=110)
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "policy_runs")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        if options.folder is None:
            parser.error("name the folder of specialty files")
        slice_of(options.folder, options.work / "files")
        for seed in options.seeds:
            one_seed(options.work, seed, options.budget)
    print(table())


if __name__ == "__main__":
    main()
