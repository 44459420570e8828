"""The numeric kernel: a match table and image counts to AP and AR of one category.

An image counts a whole number of times. With 1 everywhere this is COCOeval's accumulation; with the
counts of a resample it is exact too, as if the images were physically repeated (where equal scores
stand in one image and category, repeating has no one order; the order taken here keeps the copies
of a detection together).

How it is fast. The resamples of a block are scored side by side. Detections are walked through from
the lowest score up, so the highest precision so far is COCO's precision envelope; what stands at or
above a detection is the total less what was passed. A detection without any match is one
subtraction for all IoU thresholds together. And precision is taken only where it can be highest: at
the last of a run of true positives, before the next false positive.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ablations.evaluation.matching import IGNORED, TRUE_POSITIVE, Matches

NUM_RECALLS = 101
MAX_LANES = 512
"""Resamples scored side by side; with 256 a thousand took 9 % longer, with 128 31 %."""

_EPS = float(np.spacing(1))  # as COCOeval adds it to the number of detections

# Steps of a walk over detections from the low scores up. Those with a threshold concern it alone.
_DETECTION = 0  # a detection inside the scale: a false positive, unless a later step corrects that
_TRUE = 1  # a true positive amid a run of them
_LAST_TRUE = 2  # the last true positive of a run: the next lower detection is a false positive
_COUNTS = 3  # a true positive outside the scale: a detection that counts all the same
_IGNORED = 4  # a detection inside the scale that took an ignored object


def score_category(
    table: Matches, category: int, blocks: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """AP and AR (A, M, B, T, L) and number of objects (A, B, L) of one category.

    `blocks` (B, num_images, L) are the image counts. AP and AR are zero where no object counts.
    """
    start, end = table.starts[category : category + 2]
    first, last = np.searchsorted(table.matched, (start, end))
    truth = slice(*table.truth_starts[category : category + 2])
    columns = (
        table.image[start:end],
        table.rank[start:end],
        table.in_area[start:end],
        table.matched[first:last] - start,
        table.outcome[first:last],
        table.truth_image[truth],
        table.truth_counted[truth],
    )
    # The kernel is compiled, and loaded, for each layout of its arguments.
    ap, ar, num_objects = _score_category(
        *map(np.ascontiguousarray, columns), np.asarray(table.max_dets), blocks
    )
    return ap.swapaxes(1, 2), ar.swapaxes(1, 2), num_objects


@njit(cache=True, nogil=True, error_model="numpy")
def _score_category(  # type: ignore[no-untyped-def]
    image, rank, in_area, matched, outcome, truth_image, truth_counted, max_dets, blocks
):
    num_areas, num_limits, num_thresholds = outcome.shape[1], len(max_dets), outcome.shape[2]
    num_blocks, _, num_lanes = blocks.shape
    num_objects = _count_objects(truth_image, truth_counted, blocks)
    shape = (num_areas, num_blocks, num_limits, num_thresholds, num_lanes)
    ap, ar = np.empty(shape), np.empty(shape)
    most_rank = rank.max() if len(rank) > 0 else 0
    num_walks = 1
    while num_walks < num_limits and max_dets[num_walks - 1] <= most_rank:
        num_walks += 1  # the limits after these let no more in
    # At most one step per detection, and two per match and threshold.
    most_steps = len(image) + 2 * len(matched) * num_thresholds
    actions = np.empty((num_walks, most_steps), np.int8)
    thresholds = np.empty(actions.shape, np.int8)
    images = np.empty(actions.shape, np.int32)
    ranks = np.empty(most_steps, np.int32)  # in the walk with the largest limit
    num_steps = np.empty(num_walks, np.int64)
    num_here = np.zeros((blocks.shape[1], num_walks), np.int32)
    for a in range(num_areas):
        for m in range(num_walks):
            num_steps[m] = _plan(
                image, rank, in_area[:, a], matched, outcome[:, a], max_dets[m],
                actions[m], thresholds[m], images[m], ranks,
            )  # fmt: skip
        steps = slice(0, num_steps[-1])
        # All walks over a block while its counts are in the processor's cache.
        for b in range(num_blocks):
            detections, counted, true_positives = _totals(
                actions[-1, steps], thresholds[-1, steps], images[-1, steps],
                ranks[steps], max_dets[:num_walks], blocks[b], num_thresholds, num_here,
            )  # fmt: skip
            walks = actions, thresholds, images, num_steps, blocks[b]
            written = num_objects[a, b], ap[a, b], ar[a, b]
            if max(detections.max(), true_positives.max()) < 2**15:
                # Numbers of half the width are subtracted in half the time.
                _walks(
                    *walks, detections.astype(np.int16), counted.astype(np.int16),
                    true_positives.astype(np.int16), *written,
                )  # fmt: skip
            else:
                _walks(*walks, detections, counted, true_positives, *written)
    for m in range(num_walks, num_limits):
        ap[:, :, m], ar[:, :, m] = ap[:, :, num_walks - 1], ar[:, :, num_walks - 1]
    return ap, ar, num_objects


@njit(cache=True, nogil=True)
def _count_objects(truth_image, truth_counted, blocks):  # type: ignore[no-untyped-def]
    num_blocks, _, num_lanes = blocks.shape
    num_areas = truth_counted.shape[1]
    num_objects = np.empty((num_areas, num_blocks, num_lanes))
    for b in range(num_blocks):
        counts = blocks[b]
        for a in range(num_areas):
            total = np.zeros(num_lanes, np.int32)
            for n in range(len(truth_image)):
                if truth_counted[n, a]:
                    c = truth_image[n]
                    for i in range(num_lanes):
                        total[i] += counts[c, i]
            num_objects[a, b] = total
    return num_objects


@njit(cache=True, nogil=True)
def _plan(  # type: ignore[no-untyped-def]
    image, rank, in_area, matched, outcome, max_det, actions, thresholds, images, ranks
):
    """Write the steps of the walk for one scale and maxDets; returns how many.

    The steps are the same for all resamples. A run ends where the next lower detection that is not
    ignored is a false positive, or there is none.
    """
    num_thresholds = outcome.shape[1]
    last_true = np.full(num_thresholds, -1)  # detection at which each threshold's run was seen last
    false_positive = len(image)  # the false positive at all thresholds that was seen last
    num_steps, e = 0, len(matched) - 1
    for j in range(len(image) - 1, -1, -1):
        has_match = e >= 0 and matched[e] == j
        if has_match:
            e -= 1
        if rank[j] >= max_det:
            continue
        if not has_match:
            if in_area[j]:
                false_positive = j
                actions[num_steps], images[num_steps] = _DETECTION, image[j]
                ranks[num_steps] = rank[j]
                num_steps += 1
            continue
        first_step = num_steps
        for t in range(num_thresholds):
            result = outcome[e + 1, t]
            if result == TRUE_POSITIVE:
                in_run = 0 <= last_true[t] < false_positive
                last_true[t] = j
                actions[num_steps] = _TRUE if in_run else _LAST_TRUE
                thresholds[num_steps], images[num_steps] = t, image[j]
                num_steps += 1
                if not in_area[j]:
                    actions[num_steps] = _COUNTS
                    thresholds[num_steps], images[num_steps] = t, image[j]
                    num_steps += 1
            elif result == IGNORED:
                if in_area[j]:
                    actions[num_steps] = _IGNORED
                    thresholds[num_steps], images[num_steps] = t, image[j]
                    num_steps += 1
            elif in_area[j]:
                last_true[t] = -1
        if in_area[j]:
            actions[num_steps], images[num_steps] = _DETECTION, image[j]
            num_steps += 1
        ranks[first_step:num_steps] = rank[j]
    return num_steps


@njit(cache=True, nogil=True)
def _totals(  # type: ignore[no-untyped-def]
    actions, thresholds, images, ranks, max_dets, counts, num_thresholds, num_here
):
    """Detections (M, L), corrections to them and true positives (M, T, L) of all steps.

    The steps are those of the largest limit; the others let in those of lower ranks. Detections are
    most of them: those of an image are added together, counted in `num_here` (num_images, M), which
    is zero before and after.
    """
    num_limits, num_lanes = len(max_dets), counts.shape[1]
    detections = np.zeros((num_limits, num_lanes), np.int32)
    counted = np.zeros((num_limits, num_thresholds, num_lanes), np.int32)
    true_positives = np.zeros((num_limits, num_thresholds, num_lanes), np.int32)
    for s in range(len(actions)):
        if actions[s] == _DETECTION:
            m = 0
            while ranks[s] >= max_dets[m]:
                m += 1
            num_here[images[s], m] += 1
    for s in range(len(actions)):
        c, action, t = images[s], actions[s], thresholds[s]
        m = 0
        while ranks[s] >= max_dets[m]:
            m += 1
        if action == _DETECTION:
            num = num_here[c, m]
            if num > 0:
                num_here[c, m] = 0
                for i in range(num_lanes):
                    detections[m, i] += num * counts[c, i]
        elif action == _COUNTS:
            for i in range(num_lanes):
                counted[m, t, i] += counts[c, i]
        elif action == _IGNORED:
            for i in range(num_lanes):
                counted[m, t, i] -= counts[c, i]
        else:
            for i in range(num_lanes):
                true_positives[m, t, i] += counts[c, i]
    for m in range(1, num_limits):
        detections[m] += detections[m - 1]
        counted[m] += counted[m - 1]
        true_positives[m] += true_positives[m - 1]
    return detections, counted, true_positives


@njit(cache=True, nogil=True)
def _walks(  # type: ignore[no-untyped-def]
    actions, thresholds, images, num_steps, counts, detections, counted, true_positives,
    num_objects, ap, ar,
):  # fmt: skip
    """Write AP and AR (M, T, L) of one block of resamples: a walk for each limit."""
    for m in range(len(num_steps)):
        steps = slice(0, num_steps[m])
        _walk(
            actions[m, steps], thresholds[m, steps], images[m, steps], counts,
            detections[m], counted[m], true_positives[m], num_objects, ap[m], ar[m],
        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _walk(  # type: ignore[no-untyped-def]
    actions, thresholds, images, counts, detections, counted, true_positives, num_objects, ap, ar
):
    """Write AP and AR (T, L) of one block of resamples; the totals go down to zero.

    A run that raises the precision envelope does so for all recall thresholds reached at its end,
    so AP is the sum of raises times thresholds reached.
    """
    num_thresholds, num_lanes = ap.shape
    share = np.empty(num_lanes)  # of one object, in the steps of the recall thresholds
    for i in range(num_lanes):
        share[i] = (NUM_RECALLS - 1) / num_objects[i]
    for t in range(num_thresholds):
        for i in range(num_lanes):
            ar[t, i] = true_positives[t, i] / max(num_objects[i], 1.0)
    envelope = np.zeros((num_thresholds, num_lanes))  # highest precision from here down
    precision = np.empty(num_lanes)
    ap[:] = 0.0
    for s in range(len(actions)):
        c, action, t = images[s], actions[s], thresholds[s]
        if action == _DETECTION:
            for i in range(num_lanes):
                detections[i] -= counts[c, i]
        elif action == _COUNTS:
            for i in range(num_lanes):
                counted[t, i] -= counts[c, i]
        elif action == _IGNORED:
            for i in range(num_lanes):
                counted[t, i] += counts[c, i]
        else:
            if action == _LAST_TRUE:
                # Two short loops: with more arrays in one, a thousand resamples take 14 % longer.
                for i in range(num_lanes):
                    precision[i] = true_positives[t, i] / (
                        float(detections[i] + counted[t, i]) + _EPS
                    )
                for i in range(num_lanes):
                    # How many of COCO's thresholds r * 0.01 are <= recall: those below this one,
                    # and this one unless it is one ulp above an equal recall. The margin is far
                    # below 1 / num_objects, far above rounding.
                    floor = np.floor(true_positives[t, i] * share[i] + 1e-7)
                    recall = true_positives[t, i] / num_objects[i]
                    reached = floor + (1.0 if floor * 0.01 <= recall else 0.0)
                    raised = max(envelope[t, i], precision[i])
                    ap[t, i] += reached * (raised - envelope[t, i])
                    envelope[t, i] = raised
            for i in range(num_lanes):
                true_positives[t, i] -= counts[c, i]
    for t in range(num_thresholds):
        for i in range(num_lanes):
            ap[t, i] = ap[t, i] / NUM_RECALLS if num_objects[i] > 0 else 0.0
