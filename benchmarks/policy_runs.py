"""Three real iterations with each policy and equal budgets: do the learning curves beat the natural mix outside a simulation?

    python benchmarks/policy_runs.py FOLDER [--seeds 0 1 2] [--budget 110]

FOLDER contains specialty files. Sixteen of them are used, evenly spaced by size from the smallest on, with a third of the pairs of each (70 to
260). SmolLM2-135M is trained and evaluated with the three scripts; the committed results are of an earlier toy model with 5.5 million
parameters. All policies of a seed have iteration 1 in common. Iterations 2 and 3 add the same number of records, each policy in its own way.
Each seed draws its own fixed sets and trains with its own random numbers. The policies are compared on the holdout, which steers nothing.

The rows of a seed are written to benchmarks/results/policy_runs.csv when the seed is finished; an interrupted seed starts from its
beginning. `--table` prints a summary of the rows.
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
FORMER_NAMES = {"policy": {"learning curves": policies.LEARNING_CURVES}}  # in rows of earlier versions
METRIC, ITERATIONS = "ROUGE-L", 3
SPECIALTIES = 16
PAIRS_DIVISOR, MIN_PAIRS, MAX_PAIRS = 3, 70, 260  # a third of a specialty's pairs, within these bounds
PREPARATION = ("HOLDOUT_SAMPLES_PER_SPECIALTY=14", "INITIAL_TRAIN_PERCENTAGE=0.25", "EVAL_SPLIT_SIZE=0.5")
COLUMNS = ("seed", "policy", "iteration", "specialty", "split", "train", "n", "base", "tuned")


def read_rows() -> pd.DataFrame:
    return pd.read_csv(RESULTS).replace(FORMER_NAMES)


def slice_of(source: Path, target: Path) -> None:
    """Write the specialties and pairs that are used, the same for all seeds."""
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(source.glob("dataset_with_answers_*.json"), key=lambda path: len(json.loads(path.read_text())))
    for path in files[:: max(1, len(files) // SPECIALTIES)][:SPECIALTIES]:
        pairs = sorted(json.loads(path.read_text()).items())
        wanted = max(MIN_PAIRS, min(MAX_PAIRS, len(pairs) // PAIRS_DIVISOR))
        chosen = random.Random(path.name).sample(pairs, min(len(pairs), wanted))
        (target / path.name).write_text(json.dumps(dict(chosen)))


def iterate(work: Path, seed: int, policy: str, budget: int, *, recommended: bool) -> list[dict[str, object]]:
    """Run one iteration in `work` as a user would; return a row for each specialty and split.

    Args:
        recommended: whether to apply the recommendations of the previous iteration.
    """
    data, adapter, scores = work / "data", work / "results", work / "scores"
    recommendations = ("--recommendations", str(scores / "training_recommendations.json")) if recommended else ()
    run(
        "dataset_preparation.py",
        "--demo",
        "SPECIALTIES=",
        f"DATA_DIR={work.parent.parent / 'files'}",
        f"OUTPUT_DIR={data}",
        *PREPARATION,
        f"RANDOM_SEED={seed}",
        *recommendations,
    )
    run("fine_tuning.py", "--demo", f"DATASET_DIR={data}", f"OUTPUT_DIR={adapter}", f"RANDOM_SEED={seed}")
    run("evaluation.py", "--demo", f"DATASET_DIR={data}", f"FINETUNED_MODEL_PATH={adapter}", f"OUTPUT_DIR={scores}", "RETENTION=False",
        f"POLICY={policy}", f"BUDGET={budget}")  # fmt: skip
    record = json.loads((data / "iterations.jsonl").read_text().splitlines()[-1])
    with open(scores / "specialty_performance.csv", newline="", encoding="utf-8") as file:
        return [{"seed": seed, "policy": policy, "iteration": record["iteration"], "specialty": row["specialty"], "split": row["split"],
                 "train": record["sizes"]["train"].get(row["specialty"], 0), "n": row["n"], "base": row["base"], "tuned": row["tuned"]}
                for row in csv.DictReader(file) if row["metric"] == METRIC]  # fmt: skip


def one_seed(work: Path, seed: int, budget: int) -> None:
    """Run all policies with one seed, unless their rows exist already."""
    done = read_rows() if RESULTS.is_file() else pd.DataFrame(columns=list(COLUMNS))
    of_seed = done[done["seed"] == seed]
    if (of_seed["iteration"] == ITERATIONS).any() and set(of_seed["policy"]) == set(POLICIES):
        return
    shutil.rmtree(work / f"seed{seed}", ignore_errors=True)
    done = done[done["seed"] != seed]
    rows: list[dict[str, object]] = []
    for place, policy in enumerate(POLICIES):
        folder = work / f"seed{seed}" / policy
        if place == 0:
            rows += iterate(folder, seed, policy, budget, recommended=False)
            shutil.copytree(folder, work / f"seed{seed}" / "first")
        else:
            shutil.copytree(work / f"seed{seed}" / "first", folder)
            # iteration 1 again, now with this policy's recommendations; its answers are reused
            rows += iterate(folder, seed, policy, budget, recommended=False)
        for _ in range(ITERATIONS - 1):
            rows += iterate(folder, seed, policy, budget, recommended=True)
        print(f"seed {seed}, {policy}: done", flush=True)
    pd.concat([done, pd.DataFrame(rows)[list(COLUMNS)]]).to_csv(RESULTS, index=False)


def table() -> str:
    """Holdout scores by policy and iteration, and the advantage of the learning curves, paired by seed and specialty."""
    rows = read_rows()
    rows = rows[rows["split"] == "holdout"]
    lines = [
        f"{METRIC} on the holdout, {rows['seed'].nunique()} seeds, {rows['specialty'].nunique()} specialties; mean, and mean of the worst decile"
    ]
    worst = policies.worst_count(rows["specialty"].nunique())
    lines.append(f"{'':<18}{'base':>14}" + "".join(f"{f'iteration {number}':>22}" for number in range(1, ITERATIONS + 1)))
    for policy in POLICIES:
        cells, base = [], ""
        for number in range(1, ITERATIONS + 1):
            selected = rows[(rows["policy"] == policy) & (rows["iteration"] == number)]
            by_seed = [
                (part["tuned"].mean(), part["tuned"].nsmallest(worst).mean(), part["base"].mean())
                for _, part in selected.groupby("seed")
            ]
            mean, low, before = np.mean(by_seed, axis=0)
            base = f"{before:.4f}"
            trained = selected.groupby("seed")["train"].sum().mean()
            cells.append(f"{mean:.4f} {low:.4f} ({trained:.0f})")
        lines.append(f"{policy:<18}{base:>14}" + "".join(f"{cell:>22}" for cell in cells))
    last = rows[rows["iteration"] == ITERATIONS].pivot_table(index=["seed", "specialty"], columns="policy", values="tuned")
    for other in POLICIES[1:]:
        gain = last[POLICIES[0]] - last[other]
        by_seed = gain.groupby("seed").mean()
        # specialties of a seed share its training runs, so only the seeds are independent
        estimate = significance.mean_interval(by_seed.tolist())
        seeds = ", ".join(f"{value:+.4f}" for value in by_seed)
        lines.append(
            f"{POLICIES[0]} minus {other}: {estimate.mean:+.4f} (95% interval over seeds {estimate.low:+.4f} to {estimate.high:+.4f}); "
            f"by seed {seeds}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="the folder of specialty files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=int, default=110, help="records that iterations 2 and 3 add, each")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "policy_runs", help="where the runs are written")
    parser.add_argument("--table", action="store_true", help="only print the summary of the rows")
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
