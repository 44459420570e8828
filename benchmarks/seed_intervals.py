"""Could two seeds of a lone pair say more than one? Rules for intervals on numbers that are normal.

    python benchmarks/seed_intervals.py [--trials 100000] > benchmarks/seed_intervals.md

`benchmarks/calibration.py` simulates detections and asks the statistics as they are. This asks the
rule alone, far more often: the difference of two variants is a normal number of known image
variance, as after many images; what each seed adds is estimated from the spread of few seeds. A
rule says how wide the interval is:

- known: the seeds' variance is known, which nobody's is
- ours: Student's t for the seeds' standard error, beside the images' own (Howe, 1974), where the
  median of what images explain is taken off the seeds' spread, as in `analysis.bootstrap`
- the mean: the same where its mean is taken off, as in the rules that follow
- one t: Student's t with Satterthwaite's degrees of freedom for both together
- normal: no degrees of freedom, 1.96 standard errors

Coverage is the lowest over all sizes of the seed noise. Power is where there is none: how often a
difference of 2.5 standard errors of one seed a side is told from 0; one seed a side tells it in
71 % of the cases.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm, t

QUANTILE = 0.975
Z = norm.ppf(QUANTILE)
SHARED, OWN = 0.26, 0.37
"""Image variance that a variant's seeds share, of both sides, and that of each run; together 1."""
NOISES = (0, 0.1, 0.25, 0.5, 1, 2, 4, 16)
"""Variance over seeds, in shares of `OWN`."""
DIFFERENCE = 2.5

Numbers = NDArray[np.float64]


class Seeds(NamedTuple):
    """What is known of them: the mean square of each trial, and how many there are."""

    mean_square: Numbers
    num_seeds: int
    degrees: int
    true_variance: float
    """Of their mean difference; only `known` looks at it."""

    def added(self, explained: float = OWN) -> Numbers:
        """The variance that seeds add to the difference, where images explain so much of it."""
        return np.maximum(self.mean_square - explained, 0) * 2 / self.num_seeds


def known(images: float, seeds: Seeds) -> Numbers:
    return np.full_like(seeds.mean_square, Z * np.sqrt(images + seeds.true_variance))


def ours(images: float, seeds: Seeds) -> Numbers:
    added = seeds.added(OWN * chi2.median(seeds.degrees) / seeds.degrees)
    return np.sqrt(Z**2 * images + t.ppf(QUANTILE, seeds.degrees) ** 2 * added)


def the_mean(images: float, seeds: Seeds) -> Numbers:
    return np.sqrt(Z**2 * images + t.ppf(QUANTILE, seeds.degrees) ** 2 * seeds.added())


def one_t(images: float, seeds: Seeds) -> Numbers:
    added = seeds.added()
    with np.errstate(divide="ignore"):
        of_both = seeds.degrees * (images + added) ** 2 / added**2
    return t.ppf(QUANTILE, of_both) * np.sqrt(images + added)


def normal(images: float, seeds: Seeds) -> Numbers:
    return Z * np.sqrt(images + seeds.added())


RULES: tuple[Callable[[float, Seeds], Numbers], ...] = (known, ours, the_mean, one_t, normal)
"""Half the width for an image variance and what is known of the seeds."""


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
        seeds = Seeds(spread, num_seeds, degrees, of_seeds)
        found = rng.normal(0, np.sqrt(images + of_seeds), num_trials)
        for rule in RULES:
            half = rule(images, seeds)
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
