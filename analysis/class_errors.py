"""Errors of classifications against a table's baseline, from what each image was taken for.

The same resamples of images, the same variance of seeds and the same correction as for AP
(`analysis.bootstrap`); a resample's error is the mean over its images.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation.classes import class_faults, resampled_error
from ablations.evaluation.metrics import error_metrics
from ablations.record import Run
from ablations.storage import StorageError
from analysis.bootstrap import (
    Difference,
    NotComparableError,
    Sample,
    correct_samples,
    covers_text,
    draw_counts,
)
from analysis.runs import Table, Variant
from analysis.seeds import seed_spread

_SEED = 0

ErrorDifferences = dict[str, dict[str, Difference]]
"""By variant, then by the metric's name."""


def compare_class_errors(
    table: Table, num_resamples: int
) -> tuple[ErrorDifferences, list[str], list[str]]:
    """Every other variant minus the baseline, what the intervals cover, and what has none and why.

    Corrected over all variants and errors of the table. Raises NotComparableError for runs that did
    not see the same images.
    """
    if table.baseline is None or num_resamples == 0:
        return {}, [], []
    left_out, covers = list[str](), dict[str, None]()
    samples: dict[str, dict[str, Sample]] = {}
    try:
        ours = _resampled(table.baseline, num_resamples)
    except StorageError as error:
        return {}, [], [f"there are no intervals: {error}"]
    num_images = _num_images(table.baseline)
    for variant in table.others:
        try:
            theirs = _resampled(variant, num_resamples)
        except StorageError as error:
            left_out.append(f"{variant.name} has no interval: {error}")
            continue
        if _num_images(variant) != num_images:
            raise NotComparableError(
                f"{table.baseline.name} and {variant.name} cannot be compared: "
                f"{num_images} and {_num_images(variant)} images were classified"
            )
        samples[variant.name] = _samples(ours, theirs, num_images)
        seeds = len(table.baseline.runs), len(variant.runs)
        covers[covers_text(num_resamples, num_images, seeds)] = None
    return correct_samples(samples), list(covers), left_out


def _num_images(variant: Variant) -> int:
    return int(variant.runs[0].record.data["num_val"])


def _resampled(variant: Variant, num_resamples: int) -> dict[str, NDArray[np.float64]]:
    """Metric -> error (num_seeds, 1 + num_resamples), first on the images as they are."""
    runs = [_faults(run) for run in variant.runs]
    counts = draw_counts(_SEED, len(next(iter(runs[0].values()))), num_resamples)
    return {
        name: np.stack([resampled_error(run[name], counts) for run in runs]) for name in runs[0]
    }


def _faults(run: Run) -> dict[str, NDArray[np.bool_]]:
    return class_faults(run.classes(), len(run.record.data["categories"]))


def _samples(
    ours: Mapping[str, NDArray[np.float64]],
    theirs: Mapping[str, NDArray[np.float64]],
    num_images: int,
) -> dict[str, Sample]:
    names = [metric.name for metric in error_metrics() if metric.name in ours]
    sides = [np.stack([side[name] for name in names], axis=1) for side in (ours, theirs)]
    difference = sides[1].mean(axis=0) - sides[0].mean(axis=0)
    spreads = [seed_spread(side) for side in sides]
    return {
        name: Sample(
            float(difference[k, 0]),
            difference[k, 1:],
            num_images,
            tuple(spread.at(k) for spread in spreads),
        )
        for k, name in enumerate(names)
    }
