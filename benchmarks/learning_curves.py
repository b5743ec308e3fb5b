"""What more training records bought: every specialty's score by the number of its records, from real runs.

    python benchmarks/learning_curves.py                    every stage; benchmarks/results/learning_curves.csv is written anew
    python benchmarks/learning_curves.py --stages uneven    these stages only, their rows appended

SmolLM2-135M (in the committed figures: a toy of 5.5 M parameters that is gone) is tuned on the sample specialties and evaluated on the same questions in every stage: all specialties at one share
of their records, at four shares; at the first with another seed too, which tells one training run from another; and "uneven", every
second specialty at all of its records and the others at the first share, which tells what a specialty gains from the records of the
others. The rows are what the worlds of benchmarks/policies.py are fitted to.
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
RECORDS, EVAL_RECORDS = 56, 16  # of each sample specialty beside its holdout; of them, in the eval set
FIRST, MOST = 0.35, 1.0
# stage to (share, share of every second specialty, training seed)
STAGES = {
    "0.35": (FIRST, FIRST, 0), "0.35, seed 1": (FIRST, FIRST, 1), "0.5": (0.5, 0.5, 0), "0.7": (0.7, 0.7, 0),
    "1.0": (MOST, MOST, 0), "uneven": (FIRST, MOST, 0),
}  # fmt: skip
COLUMNS = ("stage", "seed", "share", "specialty", "train", "split", "n", "base", "tuned", "sd_between_questions")


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


def ledger(work: Path) -> dict:
    return json.loads((work / "data" / "iterations.jsonl").read_text().splitlines()[-1])


def prepare(work: Path, shares: tuple[float, float]) -> None:
    """Eval is drawn from the first share and fixed from then on."""
    command = ["dataset_preparation.py", "--demo", "SPECIALTIES=", "HOLDOUT_SAMPLES_PER_SPECIALTY=10", f"OUTPUT_DIR={work / 'data'}", f"INITIAL_TRAIN_PERCENTAGE={FIRST}",
               f"EVAL_SPLIT_SIZE={EVAL_RECORDS / (FIRST * RECORDS):.6f}"]  # fmt: skip
    if not (work / "data").exists():
        run(*command)
    last = ledger(work)
    wanted = {name: shares[place % 2] for place, name in enumerate(sorted(last["shares"]))}
    if wanted != last["shares"]:
        advice = {"iteration": last["iteration"], "recommended_sample_increases": wanted}
        (work / "advice.json").write_text(json.dumps(advice))
        run(*command, "--recommendations", str(work / "advice.json"))


def measure(work: Path, stage: str) -> list[dict[str, object]]:
    """Prepare, tune and evaluate, and read the scores of every specialty."""
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
    entry = ledger(work)
    answers: dict[tuple[str, str], list[float]] = {}
    with open(scores / "finetuned_model_results.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            answers.setdefault((row["specialty"], row["split"]), []).append(float(row[METRIC]))
    rows = []
    with open(scores / "specialty_performance.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["metric"] != METRIC:
                continue
            name, values = row["specialty"], answers[row["specialty"], row["split"]]
            mean = sum(values) / len(values)
            sd = (sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5
            rows.append({"stage": stage, "seed": seed, "share": entry["shares"][name], "specialty": name,
                         "train": entry["sizes"]["train"][name], "split": row["split"], "n": row["n"], "base": row["base"],
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
            found = measure(Path(folder), stage)
            writer.writerows(found)
            file.flush()
            print(f"{stage}: {len(found)} rows", flush=True)


if __name__ == "__main__":
    main()
