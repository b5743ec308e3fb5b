"""Which rule for feeding specialties gains most from a fixed budget? By simulation, against an oracle that knows the curves.

    python benchmarks/policies.py [--seeds 0 100] [--families power plateau …]

A world has 42 specialties, each with its records, its score before training, and a curve from records trained on to true score. In
each iteration a policy sees what an evaluation would show it (noisy means over a few eval questions, the same questions each time,
another training run each time) and spends the same budget of records from the pools. Regret is what the oracle's spending would have
scored more, in the mean over specialties and in the mean of the worst decile. The oracle is greedy, so that it may be beaten by a hair.
Seeds 0 to 99 are for tuning, 1000 to 1199 for one report.

The noise of all worlds, and the family "measured" altogether, are fitted to benchmarks/results/learning_curves.csv, real runs of the
toy model of 5.5 M parameters, an earlier default (benchmarks/learning_curves.py); `--measured` prints the fit. What the other families suppose is written beside them.
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
from meerkat_workbench.tuning.allocation import policies
from meerkat_workbench.tuning.allocation.learning_curves import Observations

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "benchmarks" / "results" / "learning_curves.csv"

SPECIALTIES, ITERATIONS = 42, 6
RECORDS = 56  # of each sample specialty beside its holdout, in the measured runs
REPORTED = (1, 3, 6)
COLUMNS = ("seed", "family", "objective", "policy", "iteration", "regret", "moved")
FIRST_SHARE, BUDGET_SHARE = 0.2, 0.08  # of all records: trained on at first, and added in each iteration
PARTS = 24  # into which the oracle cuts a budget
Array = NDArray[np.float64]
Curve = Callable[[Array], Array]


@dataclass(frozen=True)
class World:
    """The truth, and how it is seen.

    Args:
        records: of each specialty that may be trained on.
        curve: records trained on, (specialties,), to true scores, (specialties,).
        questions: eval questions of each specialty.
        sd_question: between questions of a specialty, the same in each iteration.
        sd_answer: of one answer's score, anew in each iteration.
        sd_run, sd_together: between training runs, of a specialty's true score and of all of them together.
    """

    records: Array
    curve: Curve
    questions: Array
    sd_question: float
    sd_answer: float
    sd_run: float
    sd_together: float = 0.005  # of a training run, of all specialties at once; assumed, since one pair of runs cannot tell


@dataclass(frozen=True)
class Measured:
    """What real runs have shown; see `measured`."""

    base: float  # true score before training: its mean over specialties, and deviation between them
    sd_base: float
    records: Array  # a specialty was trained on, where all were trained on as many, from 0
    gain: Array  # mean over specialties at each of them
    sd_gain: float  # between specialties, over the mean
    from_others: float  # of the records by which a specialty gains, the part that others' records make
    sd_question: float
    sd_answer: float
    sd_run: float


@functools.cache
def measured() -> Measured:
    """Fitted by moments. The eval and the holdout questions of a specialty are two samples of it: what both show alike is true."""
    rows = pd.read_csv(RUNS)
    rows["gain"] = rows["tuned"] - rows["base"]
    even = rows[rows["stage"] != "uneven"]

    def both(stage: str, column: str) -> tuple[pd.Series, pd.Series]:
        of_stage = rows[rows["stage"] == stage].set_index("specialty")
        return tuple(of_stage.loc[of_stage["split"] == split, column].sort_index() for split in ("eval", "holdout"))  # type: ignore[return-value]

    asked = even.groupby("split")["n"].mean()
    base = both("0.35", "base")
    true_base = max(0.0, float(np.cov(*base)[0, 1]))
    luck = np.mean(
        [(column.var() - true_base) * asked[column_of] for column, column_of in zip(base, ("eval", "holdout"), strict=True)]
    )
    # one share, two training runs: what differs is the answers', and where both samples of questions agree, the runs'
    apart = [one - other for one, other in zip(both("0.35", "tuned"), both("0.35, seed 1", "tuned"), strict=True)]
    of_run = max(0.0, float(np.cov(*apart)[0, 1]) / 2)
    of_answer = np.mean(
        [(column.var() / 2 - of_run) * asked[name] for column, name in zip(apart, ("eval", "holdout"), strict=True)]
    )
    curve = even[even["seed"] == 0].groupby("train")["gain"].mean()
    late = [both(stage, "gain") for stage in ("0.7", "1.0")]
    spread = np.mean([max(0.0, float(np.cov(*gains)[0, 1])) ** 0.5 / np.mean([g.mean() for g in gains]) for gains in late])
    # at which equal number of records would each half of the uneven run have gained what it gained?
    uneven = rows[rows["stage"] == "uneven"].groupby("train")["gain"].mean()
    steps = np.maximum.accumulate(curve.to_numpy())
    low, high = (float(np.interp(gain, steps, curve.index)) for gain in uneven)
    few, many = uneven.index
    # effective records: (1 - share) * own + share * mean of all
    others = float(np.clip(1 - (high - low) / (many - few), 0, 1))
    return Measured(
        float(np.mean([column.mean() for column in base])), true_base**0.5, np.r_[0, curve.index], np.r_[0, curve.to_numpy()],
        float(spread), others, max(0.0, float(luck - of_answer)) ** 0.5, float(of_answer) ** 0.5, of_run**0.5,
    )  # fmt: skip


def records_of(draw: np.random.Generator) -> Array:
    """Alike, as in the sample specialties, or from tens to thousands, as in MedQuAD."""
    if draw.random() < 0.5:
        return np.full(SPECIALTIES, 56.0)
    return np.clip(np.round(draw.lognormal(5.3, 1.0, SPECIALTIES)), 34, 1910).astype(float)


def world(family: str, seed: int) -> World:
    draw = np.random.default_rng([seed, FAMILIES.index(family)])
    seen = measured()
    records = records_of(draw)
    typical = float(np.median(records)) / 2  # records at which much of the gain is there
    base = draw.normal(0.25, 0.05, SPECIALTIES)
    gain = draw.uniform(0.05, 0.35, SPECIALTIES)
    scale = typical * draw.lognormal(0, 0.4, SPECIALTIES)
    power = draw.uniform(0.3, 1.2)

    def power_law(x: Array) -> Array:
        return 1 - (1 + x / scale) ** -power

    shape: Curve = power_law
    if family == "exponential":
        shape = lambda x: 1 - np.exp(-x / scale)  # noqa: E731
    elif family == "plateau":
        shape = lambda x: np.minimum(1, x / (2 * scale))  # noqa: E731
    elif family == "late":
        shape = lambda x: x**3 / (x**3 + scale**3)  # noqa: E731
    elif family == "transfer":
        kin = np.repeat(np.arange(SPECIALTIES // 6), 6)
        shares = 0.3 * (kin[:, None] == kin[None]) / 5 + 0.1 / SPECIALTIES
        np.fill_diagonal(shares, 1.0)
        shape = lambda x: power_law(shares @ x)  # noqa: E731
    elif family == "ceilings":  # some are simply harder, and gain no more for that
        base = draw.uniform(0.1, 0.7, SPECIALTIES)
        gain = np.full(SPECIALTIES, 0.2)
    elif family == "hard":  # what is low stays low
        base = draw.uniform(0.1, 0.5, SPECIALTIES)
        gain = 0.4 * (base - 0.1) + 0.02
    elif family == "untaught":  # what is low gains most: the rule that raises the weakest is right here
        base = draw.uniform(0.1, 0.5, SPECIALTIES)
        gain = 0.6 * (0.55 - base)
    elif family == "none":
        base, gain, scale = np.full(SPECIALTIES, 0.25), np.full(SPECIALTIES, 0.2), np.full(SPECIALTIES, typical)
    elif family == "flat":
        gain = np.zeros(SPECIALTIES)
    elif family == "measured":  # as real runs were, larger specialties learning as much slower as they are larger
        base = draw.normal(seen.base, seen.sd_base, SPECIALTIES)
        gain = np.maximum(0, draw.normal(1, seen.sd_gain, SPECIALTIES))
        size = float(np.median(records)) / RECORDS

        def shape(x: Array) -> Array:
            effective = (1 - seen.from_others) * x + seen.from_others * x.mean()
            return np.asarray(interpolated(effective / size))

    return World(
        records, lambda x: base + gain * shape(x), np.full(SPECIALTIES, 16.0), seen.sd_question, seen.sd_answer, seen.sd_run
    )


def interpolated(records: Array) -> Array:
    """The measured curve; beyond its last point it goes on as it ended, in the logarithm of records."""
    seen = measured()
    last = (seen.gain[-1] - seen.gain[-2]) / np.log(seen.records[-1] / seen.records[-2])
    beyond = seen.gain[-1] + last * np.log(np.maximum(records, seen.records[-1]) / seen.records[-1])
    return np.where(records > seen.records[-1], beyond, np.interp(records, seen.records, seen.gain))


FAMILIES = ("measured", "power", "exponential", "plateau", "late", "transfer", "ceilings", "hard", "untaught", "none", "flat")


def objective(scores: Array, name: str) -> float:
    worst = policies.worst_count(SPECIALTIES)
    return float(scores.mean() if name == policies.MEAN else np.sort(scores)[:worst].mean())


def oracle(truth: World, trained: Array, budget: float, name: str) -> Array:
    """Greedy on the true curves, a few records at a time."""
    trained, left, added, part = trained.copy(), budget, np.zeros(len(trained)), budget / PARTS
    while left > 1e-9:
        step = min(part, left)
        now = truth.curve(trained)
        best, gain = -1, -1.0
        # a step of each tried at once would miss transfer: the whole objective is asked
        for place in np.flatnonzero(truth.records - trained > 1e-9):
            after = trained.copy()
            after[place] += min(step, truth.records[place] - trained[place])
            value = objective(truth.curve(after), name) - objective(now, name)
            # the worst decile does not move until its last member does: break ties by the mean
            value += 1e-3 * (truth.curve(after).mean() - now.mean())
            if value > gain:
                best, gain = int(place), value
        if best < 0:
            break
        taken = min(step, truth.records[best] - trained[best])
        trained[best] += taken
        added[best] += taken
        left -= taken
    return added


def simulate(truth: World, policy: policies.Policy | None, name: str, seed: int) -> tuple[list[float], list[float]]:
    """The objective after each iteration, and of each the part of the budget that went otherwise than by the natural mix.

    Without a policy the oracle spends. All policies see the same noise.
    """
    draw = np.random.default_rng([seed, 99])
    of_mean = 1 / np.sqrt(truth.questions)
    luck = draw.normal(0, truth.sd_question * of_mean)  # of the questions drawn, once for all
    budget = BUDGET_SHARE * float(truth.records.sum())

    def looked_at(trained: Array) -> Array:
        run = draw.normal(0, truth.sd_run, len(trained)) + draw.normal(0, truth.sd_together) if trained.any() else 0.0
        return truth.curve(trained) + luck + run + draw.normal(0, truth.sd_answer * of_mean)

    trained = np.round(FIRST_SHARE * truth.records)
    rows, means = [np.zeros(len(trained)), trained], [looked_at(np.zeros(len(trained))), looked_at(trained)]
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
        means.append(looked_at(trained))
    return scores, moved


def regrets(task: tuple[int, str, str]) -> list[dict[str, object]]:
    """Of one world, a row a policy and iteration: regret x 1000, and the part that went otherwise than by the natural mix."""
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


def measure(path: Path, seeds: range, families: Sequence[str]) -> None:
    """Worlds that the file lacks, a seed after another; what was done stays when it is interrupted."""
    done: set[tuple[int, str, str]] = set()
    if path.is_file():
        known = pd.read_csv(path)
        done = set(zip(known["seed"], known["family"], known["objective"], strict=True))
    tasks = [(seed, family, name) for seed in seeds for family in families for name in (policies.MEAN, policies.WORST_DECILE)]
    todo = [task for task in tasks if task not in done]
    with subprocesses.worker_pool() as pool, open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if file.tell() == 0:
            writer.writeheader()
        for rows in pool.map(regrets, todo, chunksize=4):
            writer.writerows(rows)
            file.flush()


def table(rows: pd.DataFrame) -> str:
    """Mean regret by family and policy after each reported iteration, the families where ours loses most first."""
    lines = [f"{rows['seed'].nunique()} worlds a family (seeds {rows['seed'].min()} to {rows['seed'].max()}); regret after "
             f"{', '.join(map(str, REPORTED))} iterations, x 1000, with the standard error after the last"]  # fmt: skip
    names = list(policies.POLICIES)
    for name, part in rows.groupby("objective", sort=False):
        lines.append(f"\n{name:<14}{''.join(f'{policy:>28}' for policy in names)}   otherwise than the natural mix")
        mean = part.pivot_table(index="family", columns=["policy", "iteration"], values="regret")
        last = part[part["iteration"] == REPORTED[-1]].groupby(["family", "policy"])["regret"].sem()
        moved = part[part["policy"] == names[0]].groupby("family")["moved"].mean()
        plain = [mean[other] for other in names[1:]]
        lost = (mean[names[0]] - functools.reduce(np.minimum, plain)).max(axis=1)
        for family in lost.sort_values(ascending=False).index:
            cells = [" ".join(f"{mean.loc[family, (policy, number)]:6.1f}" for number in REPORTED) + f" ± {last[family, policy]:.1f}"
                     for policy in names]  # fmt: skip
            lines.append(f"  {family:<12}{''.join(f'{cell:>28}' for cell in cells)}   {100 * moved[family]:.0f}%")
        whole = mean.mean()
        cells = [" ".join(f"{whole[policy, number]:6.1f}" for number in REPORTED) + "      " for policy in names]
        lines.append(f"  {'all':<12}{''.join(f'{cell:>28}' for cell in cells)}")
        less = [1 - whole[names[0], number] / whole[policies.THRESHOLD, number] for number in REPORTED]
        lines.append(f"  less regret than threshold, all families: {', '.join(f'{100 * value:.0f}%' for value in less)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs=2, default=[0, 100], metavar=("FROM", "BELOW"))
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--rows", type=Path, help="where every world's regrets go, and are taken up from; a new file by default")
    parser.add_argument("--table", action="store_true", help="print what the rows say, and end")
    parser.add_argument("--measured", action="store_true", help="print what the worlds are fitted to, and end")
    options = parser.parse_args()
    if options.measured:
        for name, value in vars(measured()).items():
            print(f"{name:<12} {np.round(value, 4)}")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.rows or Path(folder) / "rows.csv"
        if not options.table:
            measure(path, range(*options.seeds), options.families)
        rows = pd.read_csv(path)
    worlds = rows.drop_duplicates(["seed", "family", "objective"]).groupby("seed").size()
    print(table(rows[rows["seed"].isin(worlds.index[worlds == worlds.max()])]))  # seeds whose families are all there


if __name__ == "__main__":
    main()
