"""Could two seeds of a lone pair say more than one? Rules for intervals on numbers that are normal.

    python benchmarks/seed_intervals.py [--trials 100000] > benchmarks/seed_intervals.md

`benchmarks/calibration.py` simulates detections and asks the statistics as they are. This asks the
rule alone, far more often: the difference of two variants is a normal number of known image
variance, as after many images; what each seed adds is estimated from the spread of few seeds. A
rule says how wide the interval is:

- known: the seeds' variance is known, which nobody's is
- ours: Student's t for the seeds' standard error, beside the images' own (Howe, 1974), as in
  `analysis.bootstrap`
- one t: Student's t with Satterthwaite's degrees of freedom for both together
- normal: no degrees of freedom, 1.96 standard errors

Coverage is the lowest over all sizes of the seed noise. Power is where there is none: how often a
difference of 2.5 standard errors of one seed a side is told from 0; one seed a side tells it in
71 % of the cases.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

QUANTILE = 0.975
Z = norm.ppf(QUANTILE)
SHARED, OWN = 0.26, 0.37
"""Image variance that a variant's seeds share, of both sides, and that of each run; together 1."""
NOISES = (0, 0.1, 0.25, 0.5, 1, 2, 4, 16)
"""Variance over seeds, in shares of `OWN`."""
DIFFERENCE = 2.5

Numbers = NDArray[np.float64]


def known(images: float, seeds: Numbers, degrees: int, true_seeds: float) -> Numbers:
    return np.full_like(seeds, Z * np.sqrt(images + true_seeds))


def ours(images: float, seeds: Numbers, degrees: int, true_seeds: float) -> Numbers:
    return np.sqrt(Z**2 * images + t.ppf(QUANTILE, degrees) ** 2 * seeds)


def one_t(images: float, seeds: Numbers, degrees: int, true_seeds: float) -> Numbers:
    with np.errstate(divide="ignore"):
        of_both = degrees * (images + seeds) ** 2 / seeds**2
    return t.ppf(QUANTILE, of_both) * np.sqrt(images + seeds)


def normal(images: float, seeds: Numbers, degrees: int, true_seeds: float) -> Numbers:
    return Z * np.sqrt(images + seeds)


RULES: tuple[Callable[[float, Numbers, int, float], Numbers], ...] = (known, ours, one_t, normal)
"""Half the width for an image variance, the seeds' estimated and true variance, and degrees."""


def judge(num_seeds: int, num_variants: int, num_trials: int) -> dict[str, tuple[float, float]]:
    """Lowest coverage and power of each rule."""
    rng = np.random.default_rng([num_seeds, num_variants])
    images = SHARED + 2 * OWN / num_seeds
    degrees = num_variants * (num_seeds - 1)
    coverage: dict[str, list[float]] = {rule.__name__: [] for rule in RULES}
    power = {}
    for noise in NOISES:
        of_seeds = 2 * noise * OWN / num_seeds
        spread = OWN * (1 + noise) * rng.chisquare(degrees, num_trials) / degrees
        estimated = np.maximum(spread - OWN, 0) * 2 / num_seeds
        found = rng.normal(0, np.sqrt(images + of_seeds), num_trials)
        for rule in RULES:
            half = rule(images, estimated, degrees, of_seeds)
            coverage[rule.__name__].append(float(np.mean(np.abs(found) <= half)))
            if noise == 0:
                power[rule.__name__] = float(np.mean(np.abs(found + DIFFERENCE) > half))
    return {name: (min(values), power[name]) for name, values in coverage.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=100_000)
    num_trials = parser.parse_args().trials
    names = [rule.__name__.replace("_", " ") for rule in RULES]
    print("# Intervals from few seeds\n")
    print(
        "Printed by `python benchmarks/seed_intervals.py`, whose docstring says what is measured: "
        "lowest coverage / power, in percent.\n"
    )
    print(f"| variants | seeds a variant | {' | '.join(names)} |")
    print("| ---: " * (2 + len(names)) + "|")
    for num_variants in (2, 4):
        for num_seeds in (2, 3, 5):
            rules = judge(num_seeds, num_variants, num_trials).values()
            cells = [f"{100 * covered:.1f} / {100 * told:.0f}" for covered, told in rules]
            print(f"| {num_variants} | {num_seeds} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
