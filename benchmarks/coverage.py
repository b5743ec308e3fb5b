"""Simulation: coverage of the intervals, and false alarm rates of the tests and of the recommendations.

    python benchmarks/coverage.py [--worlds 1000]

Each world has 42 specialties of 10 questions. The differences between the two models on the questions are normal, skewed, or zero for most
questions, as for exact match. "No effect" means that the two models draw from the same distribution. Results with the machine they were
made on: benchmarks/results/coverage.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.stats import significance
from meerkat_workbench.tuning.allocation import ranking

SPECIALTIES, QUESTIONS = 42, 10
NAMES = [f"specialty{number:02d}" for number in range(SPECIALTIES)]
LEVEL = 0.05
Draw = Callable[[np.random.Generator], NDArray[np.float64]]


def normal(draw: np.random.Generator) -> NDArray[np.float64]:
    return draw.normal(0, 0.2, (SPECIALTIES, QUESTIONS))


def skewed(draw: np.random.Generator) -> NDArray[np.float64]:
    """The difference of two draws from the same skewed distribution, which is symmetric."""
    return draw.beta(0.6, 2.5, (SPECIALTIES, QUESTIONS)) - draw.beta(0.6, 2.5, (SPECIALTIES, QUESTIONS))


def mostly_zero(draw: np.random.Generator) -> NDArray[np.float64]:
    return draw.choice([-1.0, 0.0, 1.0], (SPECIALTIES, QUESTIONS), p=[0.08, 0.84, 0.08])


def unequal(draw: np.random.Generator) -> NDArray[np.float64]:
    """Specialties with different spreads and different effects, whose mean is zero."""
    spread = np.random.default_rng(7).uniform(0.05, 0.5, (SPECIALTIES, 1))
    effect = np.random.default_rng(8).normal(0, 0.1, (SPECIALTIES, 1))
    return effect - effect.mean() + draw.normal(0, spread, (SPECIALTIES, QUESTIONS))


def one_world(differences: NDArray[np.float64], truth: NDArray[np.float64], seed: int) -> dict[str, float]:
    """What happened in one world: 1 or 0, or a fraction of the specialties.

    Args:
        differences: (specialties, questions) between the two models.
        truth: (specialties,) true mean differences.
    """
    flat, strata = differences.ravel().tolist(), [name for name in NAMES for _ in range(QUESTIONS)]
    overall = significance.stratified(flat, strata, test=True, seed=seed)
    estimates = [significance.paired(row.tolist(), seed) for row in differences]
    adjusted = significance.false_discovery_adjusted([estimate.p for estimate in estimates])
    no_effect = not truth.any()
    return {
        "overall interval covers": float(overall.low <= truth.mean() <= overall.high),
        "overall p at most .05": float(overall.p <= LEVEL),
        "specialty intervals cover": float(
            np.mean([estimate.low <= true <= estimate.high for estimate, true in zip(estimates, truth, strict=True)])
        ),
        "specialty p at most .05": float(np.mean([estimate.p <= LEVEL for estimate in estimates])) if no_effect else math.nan,
        "any adjusted p at most .05": float(min(adjusted) <= LEVEL) if no_effect else math.nan,
    }


def recommending(draw: np.random.Generator, sd_between: float) -> dict[str, float]:
    """Rank specialties by simulated scores of the tuned model, and compare the result with the truth.

    Args:
        sd_between: standard deviation of the specialties' true means.
    """
    truth = draw.normal(0.4, sd_between, SPECIALTIES) if sd_between else np.full(SPECIALTIES, 0.4)
    scores = {
        name: np.clip(draw.normal(mean, 0.25, 2 * QUESTIONS), 0, 1).tolist() for name, mean in zip(NAMES, truth, strict=True)
    }
    evidence = ranking.rank_specialties(scores, seed=0)
    named = [item.specialty for item in evidence if item.supported]
    by_name = dict(zip(NAMES, truth, strict=True))
    centre = float(truth.mean())
    raw_error = np.mean([(item.mean - by_name[item.specialty]) ** 2 for item in evidence])
    shrunk_error = np.mean([(item.shrunk - by_name[item.specialty]) ** 2 for item in evidence])
    return {
        "names any specialty": float(bool(named)),
        "named ones that are not below the mean": float(np.mean([by_name[name] >= centre for name in named]))
        if named and sd_between
        else math.nan,
        "squared error, shrunk over raw": float(shrunk_error / raw_error),
    }


def table(title: str, rows: list[dict[str, float]]) -> None:
    """Print the mean of each column over all worlds, with the half-width of its 95% interval."""
    print(f"{title}")
    for name in rows[0]:
        values = [row[name] for row in rows if not math.isnan(row[name])]
        if values:
            standard_error = float(np.std(values) / math.sqrt(len(values)))
            print(f"  {name:<42}{np.mean(values):>8.3f}   ± {1.96 * standard_error:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000, help="simulated worlds of each kind")
    options = parser.parse_args()
    effect = np.random.default_rng(8).normal(0, 0.1, SPECIALTIES)  # the same as in `unequal`
    kinds: list[tuple[str, Draw, NDArray[np.float64]]] = [
        ("no effect, normal differences", normal, np.zeros(SPECIALTIES)),
        ("no effect, skewed scores", skewed, np.zeros(SPECIALTIES)),
        ("no effect, 84% of differences zero", mostly_zero, np.zeros(SPECIALTIES)),
        ("effects differ, mean zero, unlike spreads", unequal, effect - effect.mean()),
    ]
    print(f"{SPECIALTIES} specialties of {QUESTIONS} questions, {options.worlds} worlds each")
    for title, kind, truth in kinds:
        draw = np.random.default_rng(1)
        table(title, [one_world(kind(draw), truth, seed) for seed in range(options.worlds)])
    for sd_between in (0.0, 0.05, 0.1):
        draw = np.random.default_rng(2)
        table(f"recommendations, {2 * QUESTIONS} eval questions, true means {sd_between:.2f} apart",
              [recommending(draw, sd_between) for _ in range(options.worlds)])  # fmt: skip


if __name__ == "__main__":
    main()
