"""AP of single categories, and whether it differs between two sets of detections."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation.matching import Matches
from analysis.bootstrap import (
    Difference,
    Sample,
    check_comparable,
    correct_samples,
    count_images_with_objects,
    resample_categories,
)
from analysis.seeds import seed_spread


def distinct(names: Sequence[str], ids: Sequence[int]) -> tuple[str, ...]:
    """The names of categories, those that are not unique with the id."""
    count = Counter(names)
    return tuple(
        name if count[name] == 1 else f"{name} ({number})"
        for name, number in zip(names, ids, strict=True)
    )


def one_category(matches: Matches, category: int, area: str = "all") -> Matches:
    """The matches of the category at an index, at one object scale and the largest maxDets."""
    a = matches.areas.index(area)
    start, end = matches.starts[category : category + 2]
    first, last = np.searchsorted(matches.matched, (start, end))
    truth = slice(*matches.truth_starts[category : category + 2])
    return replace(
        matches,
        category_ids=matches.category_ids[category : category + 1],
        category_names=matches.category_names[category : category + 1],
        areas=(area,),
        area_bounds=matches.area_bounds[[a]],
        max_dets=matches.max_dets[-1:],
        image=matches.image[start:end],
        rank=matches.rank[start:end],
        in_area=matches.in_area[start:end, [a]],
        starts=np.array([0, end - start]),
        matched=(matches.matched[first:last] - start).astype(np.int32),
        outcome=matches.outcome[first:last, [a]],
        truth_image=matches.truth_image[truth],
        truth_counted=matches.truth_counted[truth][:, [a]],
        truth_starts=np.array([0, truth.stop - truth.start]),
    )


def num_images_by_category(matches: Matches) -> list[int]:
    """The images that have an object of each category that counts."""
    categories = range(len(matches.category_ids))
    return [count_images_with_objects(one_category(matches, k))["all"] for k in categories]


def category_samples(
    scores_a: NDArray[np.float64], scores_b: NDArray[np.float64], num_images: Sequence[int]
) -> dict[int, Sample]:
    """AP of each category of b minus that of a, by its index; those without objects are absent.

    `scores_a` and `scores_b` are (num_seeds, K, 1 + num_resamples) of `resample_categories`, from
    the same number of resamples and seed; `num_images` is that of `num_images_by_category`.
    """
    difference = scores_b.mean(axis=0) - scores_a.mean(axis=0)
    sides = seed_spread(scores_a), seed_spread(scores_b)
    return {
        k: Sample(
            float(difference[k, 0]),
            difference[k, 1:],
            num_images[k],
            tuple(side.at(k) for side in sides),
        )
        for k in range(len(difference))
        if not np.isnan(difference[k, 0])
    }


def category_differences(
    baseline: Matches,
    others: dict[str, Matches],
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[int, Difference]]:
    """AP of each category minus the baseline's, by name and the category's index.

    Corrected over all names and categories together; categories without objects are absent. Raises
    NotComparableError.
    """
    tables = {"baseline": baseline, **others}
    check_comparable(list(tables.values()), list(tables))
    ours, *theirs = (
        resample_categories(matches, num_resamples, seed)[None] for matches in tables.values()
    )
    num_images = num_images_by_category(baseline)
    return correct_samples(
        {
            name: category_samples(ours, each, num_images)
            for name, each in zip(others, theirs, strict=True)
        }
    )
