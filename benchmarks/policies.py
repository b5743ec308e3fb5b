"""Simulation: which policy gains most from a fixed budget of records, compared with an oracle that knows the learning curves?

    python benchmarks/policies.py [--seeds 0 100] [--families power plateau …]

A world has 42 specialties. Each has a number of records, a score before training, and a curve from records trained on to true score. In each
iteration a policy sees the results of a simulated evaluation: noisy means over a few eval questions, which are the same in all iterations,
after a new training run. It then spends the same budget of records from the pools. Regret is the additional score that the oracle's spending
reaches, in the mean over specialties and in the mean of the worst decile. The oracle is greedy, so a policy may be slightly better. Seeds 0 to
99 are for tuning, 1000 to 1199 for one report.

The noise of all worlds and the whole family "measured" are fitted to benchmarks/results/learning_curves.csv, real runs of an earlier default,
a toy model with 5.5 million parameters (benchmarks/learning_curves.py). `--measured` prints the fit. The assumptions of the other families are
in the code.
"""

from __future__ import annotations

import argparse
import csv
import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meerkat_workbench.core import subprocesses
from meerkat_workbench.tuning.allocation import objective, policies
from meerkat_workbench.tuning.allocation.learning_curves import Observations

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "benchmarks" / "results" / "learning_curves.csv"

SPECIALTIES, ITERATIONS = 42, 6
RECORDS = 56  # records of each sample specialty outside the holdout, in the measured runs
SPLITS = ("eval", "holdout")
REPORTED = (1, 3, 6)  # iterations
# in rows of earlier versions
FORMER_NAMES = {"policy": {"learning curves": policies.LEARNING_CURVES}, "objective": {"worst decile": objective.WORST_DECILE}}
COLUMNS = ("seed", "family", "objective", "policy", "iteration", "regret", "moved")
FIRST_SHARE = 0.2  # of each specialty's records: trained on in the first iteration
BUDGET_FRACTION = 0.08  # fraction of all records that is added in each iteration
ORACLE_STEPS = 24  # steps in which the oracle spends a budget
TIE_BREAK_WEIGHT = 1e-3  # weight of the mean in the oracle's choice
Array = NDArray[np.float64]
Curve = Callable[[Array], Array]


@dataclass(frozen=True)
class World:
    """The true learning curves, and the noise of evaluations.

    Args:
        records: (specialties,) records that may be trained on.
        curve: from records trained on, (specialties,), to true scores, (specialties,).
        questions: (specialties,) eval questions.
        sd_question: standard deviation between questions of a specialty; drawn once for all iterations.
        sd_answer: standard deviation of one answer's score; drawn in each iteration.
        sd_run: standard deviation of one specialty's true score between training runs.
        sd_common: standard deviation of all specialties together between training runs.
    """

    records: Array
    curve: Curve
    questions: Array
    sd_question: float
    sd_answer: float
    sd_run: float
    sd_common: float = 0.005  # assumed, since it cannot be estimated from one pair of runs


@dataclass(frozen=True)
class Measured:
    """The fit to real runs, see `measured`; standard deviations as in `World`."""

    base: float  # true score before training, mean over specialties
    sd_base: float  # its standard deviation between specialties
    records: Array  # (stages,) records of each specialty in the stages where all have the same number, from 0
    gain: Array  # (stages,) mean over specialties
    sd_gain: float  # standard deviation of gains between specialties, divided by their mean
    from_others: float  # fraction of a specialty's effective records that is the mean over all specialties
    sd_question: float
    sd_answer: float
    sd_run: float


@functools.cache
def measured() -> Measured:
    """Fit the noise and the curve to real runs, by moments.

    The eval and the holdout questions are two independent samples of a specialty, so the covariance of their means is the variance of the
    true scores.
    """
    rows = pd.read_csv(RUNS)
    rows["gain"] = rows["tuned"] - rows["base"]
    even = rows[rows["stage"] != "uneven"]
    questions = even.groupby("split")["n"].mean()
    base = by_split(rows, "0.35", "base")
    base_variance = max(0.0, covariance(base))
    # (variance of the means - variance of the true scores) * questions: the variance between questions, answers included
    score_variance = np.mean([(means.var() - base_variance) * questions[split] for split, means in base.items()])
    # two training runs on one share: both splits agree on what differs between the runs; the rest is the noise of answers
    first, second = (by_split(rows, stage, "tuned") for stage in ("0.35", "0.35, seed 1"))
    change = {split: first[split] - second[split] for split in SPLITS}
    run_variance = max(0.0, covariance(change) / 2)
    answer_variance = np.mean([(means.var() / 2 - run_variance) * questions[split] for split, means in change.items()])
    curve = even[even["seed"] == 0].groupby("train")["gain"].mean()
    gains = [by_split(rows, stage, "gain") for stage in ("0.7", "1.0")]
    sd_gain = np.mean([max(0.0, covariance(gain)) ** 0.5 / np.mean([means.mean() for means in gain.values()]) for gain in gains])
    return Measured(
        base=float(np.mean([means.mean() for means in base.values()])), sd_base=base_variance**0.5,
        records=np.r_[0, curve.index], gain=np.r_[0, curve.to_numpy()], sd_gain=float(sd_gain),
        from_others=shared_fraction(rows, curve), sd_question=max(0.0, float(score_variance - answer_variance)) ** 0.5,
        sd_answer=float(answer_variance) ** 0.5, sd_run=run_variance**0.5,
    )  # fmt: skip


def by_split(rows: pd.DataFrame, stage: str, column: str) -> dict[str, pd.Series]:
    """One column of a stage by specialty, for each split."""
    of_stage = rows[rows["stage"] == stage].set_index("specialty")
    return {split: of_stage.loc[of_stage["split"] == split, column].sort_index() for split in SPLITS}


def covariance(values: dict[str, pd.Series]) -> float:
    """Between the eval and the holdout split."""
    return float(np.cov(*values.values())[0, 1])


def shared_fraction(rows: pd.DataFrame, curve: pd.Series) -> float:
    """The fraction f in: effective records = (1 - f) * own records + f * mean of all.

    `curve` has the mean gain by number of records, equal in all specialties. On it, each half of the specialties of the stage "uneven" has
    the number of effective records that gives its gain.
    """
    uneven = rows[rows["stage"] == "uneven"].groupby("train")["gain"].mean()
    rising_gain = np.maximum.accumulate(curve.to_numpy())
    effective_few, effective_many = (float(np.interp(gain, rising_gain, curve.index)) for gain in uneven)
    few, many = uneven.index
    return float(np.clip(1 - (effective_many - effective_few) / (many - few), 0, 1))


def records_of(draw: np.random.Generator) -> Array:
    """Records by specialty: all equal, as in the sample specialties, or from tens to thousands, as in MedQuAD."""
    if draw.random() < 0.5:
        return np.full(SPECIALTIES, 56.0)
    return np.clip(np.round(draw.lognormal(5.3, 1.0, SPECIALTIES)), 34, 1910).astype(float)


def world(family: str, seed: int) -> World:
    """Draw a world of a family."""
    draw = np.random.default_rng([seed, FAMILIES.index(family)])
    records = records_of(draw)
    typical = float(np.median(records)) / 2  # number of records at which much of the gain is reached
    base = draw.normal(0.25, 0.05, SPECIALTIES)
    gain = draw.uniform(0.05, 0.35, SPECIALTIES)
    scale = typical * draw.lognormal(0, 0.4, SPECIALTIES)
    power = draw.uniform(0.3, 1.2)
    if family == "ceilings":  # some specialties are easier, but all gain the same
        base, gain = draw.uniform(0.1, 0.7, SPECIALTIES), np.full(SPECIALTIES, 0.2)
    elif family == "hard":  # low specialties gain least
        base = draw.uniform(0.1, 0.5, SPECIALTIES)
        gain = 0.4 * (base - 0.1) + 0.02
    elif family == "untaught":  # low specialties gain most: here the rule that raises the weakest is right
        base = draw.uniform(0.1, 0.5, SPECIALTIES)
        gain = 0.6 * (0.55 - base)
    elif family == "none":  # specialties do not differ
        base, gain, scale = np.full(SPECIALTIES, 0.25), np.full(SPECIALTIES, 0.2), np.full(SPECIALTIES, typical)
    elif family == "flat":  # training gains nothing
        gain = np.zeros(SPECIALTIES)
    elif family == "measured":  # as in real runs
        base = draw.normal(measured().base, measured().sd_base, SPECIALTIES)
        gain = np.maximum(0, draw.normal(1, measured().sd_gain, SPECIALTIES))
    shape = shape_of(family, records, scale, power)
    return World(
        records, lambda trained: base + gain * shape(trained), np.full(SPECIALTIES, 16.0), measured().sd_question,
        measured().sd_answer, measured().sd_run,
    )  # fmt: skip


def shape_of(family: str, records: Array, scale: Array, power: float) -> Curve:
    """From records trained on to the fraction of the gain that is reached; for "measured", to the gain itself."""
    if family == "exponential":
        return lambda trained: 1 - np.exp(-trained / scale)
    if family == "plateau":
        return lambda trained: np.minimum(1, trained / (2 * scale))
    if family == "late":
        return lambda trained: trained**3 / (trained**3 + scale**3)
    if family == "transfer":  # records also help the five other specialties of a group, and slightly all others
        group = np.repeat(np.arange(SPECIALTIES // 6), 6)
        weights = 0.3 * (group[:, None] == group[None]) / 5 + 0.1 / SPECIALTIES
        np.fill_diagonal(weights, 1.0)
        return lambda trained: 1 - (1 + (weights @ trained) / scale) ** -power
    if family == "measured":  # a specialty with k times as many records learns k times as slowly
        size = float(np.median(records)) / RECORDS
        others = measured().from_others
        return lambda trained: interpolated(((1 - others) * trained + others * trained.mean()) / size)
    return lambda trained: 1 - (1 + trained / scale) ** -power


def interpolated(records: Array) -> Array:
    """The measured mean gain; beyond the last point it continues with the last slope, in the logarithm of records."""
    fitted = measured()
    last_records, last_gain = fitted.records[-1], fitted.gain[-1]
    slope = (last_gain - fitted.gain[-2]) / np.log(last_records / fitted.records[-2])
    beyond = last_gain + slope * np.log(np.maximum(records, last_records) / last_records)
    return np.where(records > last_records, beyond, np.interp(records, fitted.records, fitted.gain))


FAMILIES = ("measured", "power", "exponential", "plateau", "late", "transfer", "ceilings", "hard", "untaught", "none", "flat")


def objective(scores: Array, name: str) -> float:
    """The value of an objective, by its name."""
    worst = policies.worst_count(SPECIALTIES)
    return float(scores.mean() if name == objective.MEAN else np.sort(scores)[:worst].mean())


def oracle(truth: World, trained: Array, budget: float, name: str) -> Array:
    """(specialties,) records that the oracle adds: greedy on the true curves, a few records at a time."""
    trained, left, added = trained.copy(), budget, np.zeros(len(trained))
    while left > policies.MIN_RECORDS:
        step = min(budget / ORACLE_STEPS, left)
        now = truth.curve(trained)
        best, best_gain = -1, -1.0
        # each step is tried alone and valued by all specialties, since records of one may help the others
        for place in np.flatnonzero(truth.records - trained > policies.MIN_RECORDS):
            after = trained.copy()
            after[place] += min(step, truth.records[place] - trained[place])
            gain = objective(truth.curve(after), name) - objective(now, name)
            # the worst decile does not improve before its last member does: ties are broken by the mean
            gain += TIE_BREAK_WEIGHT * (truth.curve(after).mean() - now.mean())
            if gain > best_gain:
                best, best_gain = int(place), gain
        if best < 0:
            break
        taken = min(step, truth.records[best] - trained[best])
        trained[best] += taken
        added[best] += taken
        left -= taken
    return added


def simulate(truth: World, policy: policies.Policy | None, name: str, seed: int) -> tuple[list[float], list[float]]:
    """Run all iterations. All policies see the same noise.

    Args:
        policy: None for the oracle.
        name: of the objective.

    Returns:
        For each iteration, the true value of the objective, and the fraction of the budget that was spent differently from the natural mix.
    """
    draw = np.random.default_rng([seed, 99])
    of_mean = 1 / np.sqrt(truth.questions)
    question_noise = draw.normal(0, truth.sd_question * of_mean)  # the questions are drawn once
    budget = BUDGET_FRACTION * float(truth.records.sum())

    def evaluated(trained: Array) -> Array:
        run_noise = draw.normal(0, truth.sd_run, len(trained)) + draw.normal(0, truth.sd_common) if trained.any() else 0.0
        return truth.curve(trained) + question_noise + run_noise + draw.normal(0, truth.sd_answer * of_mean)

    trained = np.round(FIRST_SHARE * truth.records)
    rows, means = [np.zeros(len(trained)), trained], [evaluated(np.zeros(len(trained))), evaluated(trained)]
    scores, moved = [], []
    for _ in range(ITERATIONS):
        pool = truth.records - trained
        if policy is None:
            added = oracle(truth, trained, budget, name)
        else:
            seen = Observations(np.array(rows), np.array(means), truth.questions, float(np.hypot(truth.sd_question, truth.sd_answer)),
                                math.sqrt(2) * truth.sd_answer)  # fmt: skip
            added = policy(policies.PolicyInput(seen, pool, name, seed), budget).added
        assert (added >= -1e-9).all() and (added <= pool + 1e-6).all() and added.sum() <= budget + 1e-6
        moved.append(float(np.abs(added - policies.fill(pool, pool, budget)).sum()) / 2 / max(1e-9, float(added.sum())))
        trained = trained + added
        scores.append(objective(truth.curve(trained), name))
        rows.append(trained)
        means.append(evaluated(trained))
    return scores, moved


def regrets(task: tuple[int, str, str]) -> list[dict[str, object]]:
    """Rows of one world, one for each policy and reported iteration: regret x 1000, and the fraction spent differently from the natural mix.

    Args:
        task: seed, family and objective.
    """
    seed, family, name = task
    truth = world(family, seed)
    best = simulate(truth, None, name, seed)[0]
    rows: list[dict[str, object]] = []
    for policy, decide in policies.POLICIES.items():
        scores, moved = simulate(truth, decide, name, seed)
        rows += [{"seed": seed, "family": family, "objective": name, "policy": policy, "iteration": number,
                  "regret": round(1000 * (best[number - 1] - scores[number - 1]), 4), "moved": round(moved[number - 1], 4)}
                 for number in REPORTED]  # fmt: skip
    return rows


def read_rows(path: Path) -> pd.DataFrame:
    return pd.read_csv(path).replace(FORMER_NAMES)


def measure(path: Path, seeds: range, families: Sequence[str]) -> None:
    """Simulate the worlds that the file lacks, seed by seed, and append their rows; an interrupted run keeps its rows."""
    done: set[tuple[int, str, str]] = set()
    if path.is_file():
        known = read_rows(path)
        done = set(zip(known["seed"], known["family"], known["objective"], strict=True))
    tasks = [(seed, family, name) for seed in seeds for family in families for name in (objective.MEAN, objective.WORST_DECILE)]
    todo = [task for task in tasks if task not in done]
    with subprocesses.worker_pool() as pool, open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if file.tell() == 0:
            writer.writeheader()
        for rows in pool.map(regrets, todo, chunksize=4):
            writer.writerows(rows)
            file.flush()


def table(rows: pd.DataFrame) -> str:
    """Mean regret by family and policy after each reported iteration; the families where the learning curves lose most come first."""
    lines = [f"{rows['seed'].nunique()} worlds a family (seeds {rows['seed'].min()} to {rows['seed'].max()}); regret after "
             f"{', '.join(map(str, REPORTED))} iterations, x 1000, with the standard error after the last"]  # fmt: skip
    names = list(policies.POLICIES)
    for name, part in rows.groupby("objective", sort=False):
        lines.append(f"\n{name:<14}{''.join(f'{policy:>28}' for policy in names)}   otherwise than the natural mix")
        mean = part.pivot_table(index="family", columns=["policy", "iteration"], values="regret")
        last = part[part["iteration"] == REPORTED[-1]].groupby(["family", "policy"])["regret"].sem()
        moved = part[part["policy"] == names[0]].groupby("family")["moved"].mean()
        others = [mean[other] for other in names[1:]]
        lost = (mean[names[0]] - functools.reduce(np.minimum, others)).max(axis=1)
        for family in lost.sort_values(ascending=False).index:
            cells = [" ".join(f"{mean.loc[family, (policy, number)]:6.1f}" for number in REPORTED) + f" ± {last[family, policy]:.1f}"
                     for policy in names]  # fmt: skip
            lines.append(f"  {family:<12}{''.join(f'{cell:>28}' for cell in cells)}   {100 * moved[family]:.0f}%")
        overall = mean.mean()
        cells = [" ".join(f"{overall[policy, number]:6.1f}" for number in REPORTED) + "      " for policy in names]
        lines.append(f"  {'all':<12}{''.join(f'{cell:>28}' for cell in cells)}")
        less = [1 - overall[names[0], number] / overall[policies.THRESHOLD, number] for number in REPORTED]
        lines.append(f"  less regret than threshold, all families: {', '.join(f'{100 * value:.0f}%' for value in less)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds",
        type=int,
        nargs=2,
        default=[0, 100],
        metavar=("FROM", "BELOW"),
        help="range of seeds; each is one world of each family",
    )
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--rows", type=Path, help="file of regrets, which is continued if it exists; a temporary file by default")
    parser.add_argument("--table", action="store_true", help="only print the table of --rows")
    parser.add_argument("--measured", action="store_true", help="only print the fit to real runs")
    options = parser.parse_args()
    if options.measured:
        for name, value in vars(measured()).items():
            print(f"{name:<12} {np.round(value, 4)}")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.rows or Path(folder) / "rows.csv"
        if not options.table:
            measure(path, range(*options.seeds), options.families)
        rows = read_rows(path)
    worlds = rows.drop_duplicates(["seed", "family", "objective"]).groupby("seed").size()
    print(table(rows[rows["seed"].isin(worlds.index[worlds == worlds.max()])]))  # seeds with all families


if __name__ == "__main__":
    main()
