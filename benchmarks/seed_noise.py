"""How much do training seeds add to differences of real runs, beside what the images add?

    python benchmarks/seed_noise.py > benchmarks/seed_noise.md

A mark takes seeds to add at least the share `analysis.seeds.LEAST_SEED_NOISE` of what images add to
the variance. This asks the shelf for that share: the seeds' variance of the differences of a table
over that of its images, both estimated as in `analysis.bootstrap`, with the mean of what images
explain taken off the seeds' spread. A share is below 0 where seeds vary less than their images
alone would make them. Tables whose truth is not here are left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ablations.evaluation.metrics import metrics_of
from analysis.bootstrap import Sample, compare
from analysis.detection_errors import compare_errors
from analysis.matched import MatchedRuns, has_detections
from analysis.runs import Variant
from analysis.seeds import LEAST_SEED_NOISE, pool, variance_of
from analysis.shelf import Shelf

NUM_RESAMPLES = 1000
CELLS = {metric.name: metric.cell for metric in metrics_of("bbox")}


def seed_share(samples: Sequence[Sample]) -> float:
    """Of one cell, from all differences of a table; NaN where images add nothing."""
    spread = pool(side for sample in samples for side in sample.sides)
    of_images = np.mean([variance_of(sample.resampled) for sample in samples])
    per_seed = spread.mean_square - spread.image_part
    of_seeds = np.mean(
        [sum(per_seed / (side.degrees + 1) for side in sample.sides) for sample in samples]
    )
    return float(of_seeds / of_images) if of_images > 0 else np.nan


def seed_shares(comparisons: Sequence[Mapping[Any, Sample]]) -> list[float]:
    """Of every cell that all comparisons have."""
    keys = [key for key in comparisons[0] if all(key in each for each in comparisons)]
    shares = [seed_share([each[key] for each in comparisons]) for key in keys]
    return [share for share in shares if not np.isnan(share)]


def compare_variants(
    baseline: Variant, others: Sequence[Variant]
) -> tuple[int, dict[str, list[Mapping[Any, Sample]]]]:
    """The number of images, and all differences to the baseline, of metrics and of gains."""
    matched = MatchedRuns()
    compared: dict[str, list[Mapping[Any, Sample]]] = {"metrics": [], "gains": []}
    for variant in others:
        sides = [[matched.of(run) for run in side.runs] for side in (baseline, variant)]
        tables = [[each.matches["bbox"] for each in side] for side in sides]
        errors = [[each.errors["bbox"] for each in side] for side in sides]
        comparison = compare(tables[0], tables[1], NUM_RESAMPLES)
        compared["metrics"].append(comparison.samples(CELLS))
        compared["gains"].append(compare_errors(errors[0], errors[1], NUM_RESAMPLES))
    return comparison.num_images, compared


def main() -> None:
    print("# What training seeds add to differences of the shelf\n")
    print(
        "Printed by `python benchmarks/seed_noise.py`, whose docstring says what is measured: the "
        "seeds' variance over the images'. Gains are those of fixing an error type at a scale.\n"
    )
    print(
        "| table | images | variants | seeds a variant | of | cells | least | median | most "
        f"| below {LEAST_SEED_NOISE} |"
    )
    print("| --- " + "| ---: " * 3 + "| --- " + "| ---: " * 5 + "|")
    for (folder, name), table in Shelf().tables.items():
        if table.baseline is None or not all(map(has_detections, table.runs)):
            continue
        num_images, compared = compare_variants(table.baseline, table.others)
        seeds = sorted({len(variant.runs) for variant in table.variants})
        for what, comparisons in compared.items():
            shares = np.array(seed_shares(comparisons))
            cells = [
                f"{folder}/{name}",
                str(num_images),
                str(len(table.variants)),
                ", ".join(map(str, seeds)),
                what,
                str(len(shares)),
                *(f"{share:.2f}" for share in np.quantile(shares, (0, 0.5, 1))),
                str(np.count_nonzero(shares < LEAST_SEED_NOISE)),
            ]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
