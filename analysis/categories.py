"""AP of single categories, and whether it differs between two sets of detections."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ablations.evaluation.matching import Matches
from ablations.evaluation.metrics import Cell
from analysis.bootstrap import Difference, Sample, compare, differences


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


def category_differences(
    baseline: Matches,
    others: dict[str, Matches],
    num_resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[int, Difference]]:
    """AP of each category minus the baseline's, by name and the category's index.

    Corrected over all names and categories together; categories without objects are absent.
    `progress` is told the comparisons done and in all.
    """
    keys, samples = list[tuple[str, int]](), list[Sample]()
    num_categories = len(baseline.category_ids)
    for category in range(num_categories):
        ours = one_category(baseline, category)
        for name, matches in others.items():
            comparison = compare(
                [ours], [one_category(matches, category)], num_resamples, seed, ("baseline", name)
            )
            sample = comparison.read(Cell("AP"))
            if sample is not None:
                keys.append((name, category))
                samples.append(sample)
        progress((category + 1) * len(others), num_categories * len(others))
    return _by_name(others, keys, differences(samples))


def _by_name(
    names: dict[str, Matches],
    keys: Sequence[tuple[str, int]],
    found: Sequence[Difference | None],
) -> dict[str, dict[int, Difference]]:
    by_name: dict[str, dict[int, Difference]] = {name: {} for name in names}
    for (name, category), each in zip(keys, found, strict=True):
        if each is not None:
            by_name[name][category] = each
    return by_name
