"""Real learning curves: the score of every specialty by the number of its training records.

    python benchmarks/learning_curves.py                    all stages; overwrites benchmarks/results/learning_curves.csv
    python benchmarks/learning_curves.py --stages uneven    these stages only; appends their rows

SmolLM2-135M is tuned on the sample specialties and evaluated on the same questions in every stage. The committed results are of an earlier
toy model with 5.5 million parameters. Four stages train on one share of all specialties' records each. One more repeats the first of them
with another seed, which shows how much training runs differ. In the stage "uneven", every second specialty has all of its records and the
others have the first share, which shows how much a specialty gains from the records of others. The simulated worlds of
benchmarks/policies.py are fitted to these rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "learning_curves.csv"
METRIC = "ROUGE-L"
RECORDS = 56  # records of each sample specialty outside the holdout
EVAL_RECORDS = 16  # of these, records in the eval set
FIRST_SHARE = 0.35
# for each stage: share of the first, third … specialty, share of the others, training seed
STAGES = {
    "0.35": (FIRST_SHARE, FIRST_SHARE, 0), "0.35, seed 1": (FIRST_SHARE, FIRST_SHARE, 1), "0.5": (0.5, 0.5, 0),
    "0.7": (0.7, 0.7, 0), "1.0": (1.0, 1.0, 0), "uneven": (FIRST_SHARE, 1.0, 0),
}  # fmt: skip
COLUMNS = ("stage", "seed", "share", "specialty", "train", "split", "n", "base", "tuned", "sd_between_questions")


def run(*command: str) -> None:
    """Run a script of the project; exit with the end of its output if it fails."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


def ledger(work: Path) -> dict:
    """The last line of the ledger of iterations."""
    return json.loads((work / "data" / "iterations.jsonl").read_text().splitlines()[-1])


def prepare(work: Path, shares: tuple[float, float]) -> None:
    """Prepare the data with these shares. The eval set is drawn from the first share and then fixed."""
    command = ["dataset_preparation.py", "--demo", "SPECIALTIES=", "HOLDOUT_SAMPLES_PER_SPECIALTY=10", f"OUTPUT_DIR={work / 'data'}",
               f"INITIAL_TRAIN_PERCENTAGE={FIRST_SHARE}", f"EVAL_SPLIT_SIZE={EVAL_RECORDS / (FIRST_SHARE * RECORDS):.6f}"]  # fmt: skip
    if not (work / "data").exists():
        run(*command)
    last = ledger(work)
    wanted = {name: shares[place % 2] for place, name in enumerate(sorted(last["shares"]))}
    if wanted != last["shares"]:
        advice = {"iteration": last["iteration"], "recommended_sample_increases": wanted}
        (work / "advice.json").write_text(json.dumps(advice))
        run(*command, "--recommendations", str(work / "advice.json"))


def measure(work: Path, stage: str) -> list[dict[str, object]]:
    """Prepare, tune and evaluate one stage; a row for each specialty and split."""
    *shares, seed = STAGES[stage]
    adapter, scores = work / f"results {stage}", work / "scores"
    prepare(work, (shares[0], shares[1]))
    run(
        "fine_tuning.py",
        "--demo",
        f"DATASET_DIR={work / 'data'}",
        f"OUTPUT_DIR={adapter}",
        f"RANDOM_SEED={seed}",
        "SAMPLE_QUESTIONS=0",
    )
    run(
        "evaluation.py",
        "--demo",
        f"DATASET_DIR={work / 'data'}",
        f"FINETUNED_MODEL_PATH={adapter}",
        f"OUTPUT_DIR={scores}",
        "RETENTION=False",
    )
    iteration = ledger(work)
    question_scores: dict[tuple[str, str], list[float]] = {}
    with open(scores / "finetuned_model_results.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            question_scores.setdefault((row["specialty"], row["split"]), []).append(float(row[METRIC]))
    rows = []
    with open(scores / "specialty_performance.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["metric"] != METRIC:
                continue
            name, values = row["specialty"], question_scores[row["specialty"], row["split"]]
            mean = sum(values) / len(values)
            sd = (sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5
            rows.append({"stage": stage, "seed": seed, "share": iteration["shares"][name], "specialty": name,
                         "train": iteration["sizes"]["train"][name], "split": row["split"], "n": row["n"], "base": row["base"],
                         "tuned": row["tuned"], "sd_between_questions": round(sd, 5)})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), metavar="STAGE", help=", ".join(STAGES))
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        open(RESULTS, "a" if options.stages else "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        if not options.stages:
            writer.writeheader()
        for stage in options.stages or STAGES:
            rows = measure(Path(folder), stage)
            writer.writerows(rows)
            file.flush()
            print(f"{stage}: {len(rows)} rows", flush=True)


if __name__ == "__main__":
    main()
