"""What one would monitor of a linker in use, as JSON and in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.concepts.linker import Link
from meerkat_workbench.concepts.thresholds import Tier
from meerkat_workbench.core import console
from meerkat_workbench.linking.artifacts import LinkStatistics
from meerkat_workbench.stats import calibration
from meerkat_workbench.stats.calibration import CalibrationError

PROMETHEUS = "link_statistics.prom"
TIERS: tuple[Tier, ...] = get_args(Tier)
MIN_FOR_DRIFT = 300  # mentions, here and at calibration; with fewer, chance alone often exceeds SHIFT
SHIFT = 0.25  # of the population stability index, from which a shift is usually assumed


def of_links(links: Sequence[Link], reference: Sequence[float], judged: Sequence[tuple[Link, bool]] = ()) -> LinkStatistics:
    """The statistics of links.

    Args:
        reference: probabilities of the best links at calibration.
        judged: links whose right concept is known, and whether the best candidate is right.
    """
    best = np.array([one.candidates[0].probability if one.candidates else 0.0 for one in links])
    tiers = Counter(one.tier for one in links)
    made = [one for one in links if one.concept_id]
    drift = (
        calibration.population_stability(np.array(reference), best)
        if min(len(best), len(reference)) >= MIN_FOR_DRIFT
        else float("nan")
    )
    return LinkStatistics(
        mentions=len(links), linked=_share(len(made), len(links)), tiers={tier: _share(tiers[tier], len(links)) for tier in TIERS},
        mean_probability=_mean(best), mean_margin=_mean(np.array([one.margin for one in links])),
        drift=round(drift, 6) if np.isfinite(drift) else None, by_type=dict(Counter(one.type or "none" for one in made).most_common()),
        levels=dict(Counter(one.decision.level for one in links)),
        calibration=_calibration(judged),
    )  # fmt: skip


def _calibration(judged: Sequence[tuple[Link, bool]]) -> CalibrationError | None:
    if not judged:
        return None
    values = np.array([link.candidates[0].probability if link.candidates else 0.0 for link, _ in judged])
    return calibration.measure(values, np.array([right for _, right in judged], bool))


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _mean(values: NDArray[np.float64]) -> float:
    return round(float(values.mean()), 6) if len(values) else 0.0


def to_prometheus(found: LinkStatistics) -> str:
    """The statistics in Prometheus' text format, for its node exporter's textfile collector."""
    lines: list[str] = []

    def gauge(name: str, text: str, values: dict[str, float]) -> None:
        lines.extend([f"# HELP linker_{name} {text}", f"# TYPE linker_{name} gauge"])
        lines.extend(f"linker_{name}{labels} {value:g}" for labels, value in values.items())

    gauge("mentions", "Mentions that were linked or abstained from.", {"": found.mentions})
    gauge("linked_ratio", "Fraction of mentions with a link.", {"": found.linked})
    gauge(
        "tier_ratio", "Fraction of mentions by confidence.", {f'{{tier="{tier}"}}': value for tier, value in found.tiers.items()}
    )
    gauge("probability_mean", "Mean probability of the best candidate.", {"": found.mean_probability})
    gauge("margin_mean", "Mean difference of the best and the second probability.", {"": found.mean_margin})
    gauge("links", "Links by semantic type.", {f'{{type="{_escaped(name)}"}}': value for name, value in found.by_type.items()})
    if found.drift is not None:
        gauge("drift_psi", "Population stability index against the calibration documents.", {"": found.drift})
    if found.calibration is not None:
        gauge("calibration_error", "Expected calibration error, 15 bins of equal width.", {"": found.calibration.ece_width})
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def print_statistics(found: LinkStatistics) -> None:
    """Print them."""
    print(
        f"{found.mentions:,} mentions, {found.linked:.1%} linked; mean probability {found.mean_probability:.3f}, mean margin {found.mean_margin:.3f}"
    )
    console.print_table(["confidence", "share"], [[tier, f"{value:.1%}"] for tier, value in found.tiers.items()])
    top = list(found.by_type.items())[:10]
    if top and top != [("none", top[0][1])]:
        console.print_table(["type", "links"], [[name, f"{value:,}"] for name, value in top])
    if found.drift is None:
        print(f"drift: not computed, because it needs {MIN_FOR_DRIFT} mentions here and as many at calibration")
    else:
        said = "a shift: check the links, and calibrate again" if found.drift > SHIFT else "no shift"
        print(f"drift: population stability index {found.drift:.3f}, {said}")
    if found.calibration is not None:
        one = found.calibration
        print(
            f"calibration: ECE {one.ece_width:.3f}, Brier {one.brier:.3f}; mean probability {one.mean:.3f}, right {one.accuracy:.3f}"
        )
