"""Match tables: which detection found which object, decided once and kept.

COCO's greedy rule, for every IoU threshold and object scale: detections of an image and category
take, from the highest score down, the object of highest IoU that is still free; objects that are
crowds or outside the scale are ignored, and so is a detection that takes one, or that takes none
and is itself outside the scale. Everything later (AP, AR, bootstrap) is counting over this table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.federated import MAX_DETS_PER_IMAGE
from ablations.evaluation.masks import Rle
from ablations.evaluation.metrics import IOU_TYPES
from detnet_kernels.loader import BOOL, F64, FLOAT, I8, I32, I64, INT, kernel

COCO_IOUS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
COCO_AREAS: dict[str, tuple[float, float]] = {
    "all": (0.0, 1e5**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e5**2),
}
COCO_MAX_DETS = (1, 10, 100)
FEDERATED_MAX_DETS = (*COCO_MAX_DETS, MAX_DETS_PER_IMAGE)

UNMATCHED, TRUE_POSITIVE, IGNORED = 0, 1, 2

_stable_order = kernel("stable_order", I32, INT, INT, I64, I64)
_rank_in_group = kernel("rank_in_group", I64, I32, I32, INT, I32)
_count_pairs = kernel("count_pairs", I64, INT, I64, I64, INT, result=INT)
_find_box_pairs = kernel(
    "find_box_pairs",
    *(I64, INT, I64, F64, I64, I64, F64, BOOL, INT, FLOAT, I32, I32, F64),
    result=INT,
)
_assign = kernel(
    "assign",
    *(I32, I32, F64, INT, I64, BOOL, BOOL, INT, F64, INT, BOOL, I32, I8, I32),
    result=INT,
)


@dataclass(frozen=True, eq=False)
class Matches:
    """The matches of one run's detections (D) with the truth (N objects) of I images, K categories.

    Detections stand by category, then from the highest score down, then by image; objects by
    category, then by image. `outcome` holds only the E detections that take an object at some
    threshold and scale; all others are unmatched everywhere.
    """

    iou_type: str
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    category_names: tuple[str, ...]
    iou_thresholds: NDArray[np.float64]
    """(T,)"""
    areas: tuple[str, ...]
    """Names of the A object scales."""
    area_bounds: NDArray[np.float64]
    """(A, 2) in square pixels, both ends inside."""
    max_dets: tuple[int, ...]
    """The M limits on detections per image and category, rising."""
    image: NDArray[np.int32]
    """(D,) index of the detection's image."""
    rank: NDArray[np.int32]
    """(D,) place of the detection among those of its image and category, from 0."""
    in_area: NDArray[np.bool_]
    """(D, A) whether the detection's own area is inside the scale."""
    starts: NDArray[np.int64]
    """(K + 1,) where each category's detections start."""
    matched: NDArray[np.int32]
    """(E,) the detections that `outcome` is about, rising."""
    outcome: NDArray[np.int8]
    """(E, A, T): UNMATCHED, TRUE_POSITIVE or IGNORED (took an ignored object)."""
    truth_image: NDArray[np.int32]
    """(N,) index of the object's image."""
    truth_counted: NDArray[np.bool_]
    """(N, A) whether the object counts at the scale: inside it and no crowd."""
    truth_starts: NDArray[np.int64]
    """(K + 1,) where each category's objects start."""

    @property
    def num_images(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True, eq=False)
class Assignment:
    """Which detection takes which object; what a match table is made from.

    `rows` (D,) and `objects` (N,) say where detections and objects, in the order of the table,
    stand in the file. `ignored` is (N, A), `in_area` (D, A). Of the E detections `matched` that
    take an object at some scale and threshold, `outcome` (E, A, T) says how and `target`
    (E, A, T) which, by its place in `objects` (-1: none).
    """

    rows: NDArray[np.int64]
    rank: NDArray[np.int32]
    objects: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    in_area: NDArray[np.bool_]
    matched: NDArray[np.int32]
    outcome: NDArray[np.int8]
    target: NDArray[np.int32]

    def only(self, areas: Sequence[int], threshold: int) -> "Assignment":
        """The same at some scales and one threshold, which do not depend on the others."""
        taken = self.target[:, areas, threshold, None]
        some = (taken >= 0).any(axis=(1, 2))
        return replace(
            self,
            ignored=np.take(self.ignored, areas, axis=1),
            in_area=np.take(self.in_area, areas, axis=1),
            matched=self.matched[some],
            outcome=self.outcome[some][:, areas, threshold, None],
            target=taken[some],
        )


def match(
    truth: Truth,
    detections: Detections,
    iou_type: str = "bbox",
    iou_thresholds: ArrayLike = COCO_IOUS,
    areas: Mapping[str, tuple[float, float]] = COCO_AREAS,
    max_dets: Sequence[int] | None = None,
) -> Matches:
    """Match detections with the truth by boxes ('bbox') or masks ('segm').

    The area of a detection is that of its box for 'bbox' and of its mask for 'segm'. (COCOeval
    takes the box for both where a result carries both; evaluators therefore strip the box.)
    `max_dets` is COCO's, and LVIS's beside it where the truth is federated, unless given.
    """
    if max_dets is None:
        max_dets = COCO_MAX_DETS if truth.federated is None else FEDERATED_MAX_DETS
    thresholds = np.atleast_1d(np.asarray(iou_thresholds, dtype=np.float64))
    limits = tuple(sorted(max_dets))
    found = assign(truth, detections, iou_type, thresholds, areas, limits[-1])
    return tabulate(truth, detections, iou_type, thresholds, areas, limits, found)


def tabulate(
    truth: Truth,
    detections: Detections,
    iou_type: str,
    iou_thresholds: NDArray[np.float64],
    areas: Mapping[str, tuple[float, float]],
    max_dets: tuple[int, ...],
    found: Assignment,
) -> Matches:
    """The match table of an assignment."""
    num_categories = len(truth.category_ids)
    return Matches(
        iou_type=iou_type,
        image_ids=truth.image_ids,
        category_ids=truth.category_ids,
        category_names=truth.category_names,
        iou_thresholds=iou_thresholds,
        areas=tuple(areas),
        area_bounds=_bounds(areas),
        max_dets=max_dets,
        image=detections.image[found.rows],
        rank=found.rank,
        in_area=found.in_area,
        starts=category_starts(detections.category[found.rows], num_categories),
        matched=found.matched,
        outcome=found.outcome,
        truth_image=truth.image[found.objects],
        truth_counted=~found.ignored,
        truth_starts=category_starts(truth.category[found.objects], num_categories),
    )


def _bounds(areas: Mapping[str, tuple[float, float]]) -> NDArray[np.float64]:
    return np.array(list(areas.values()), dtype=np.float64).reshape(-1, 2)


def assign(
    truth: Truth,
    detections: Detections,
    iou_type: str,
    iou_thresholds: NDArray[np.float64],
    areas: Mapping[str, tuple[float, float]],
    max_det: int,
) -> Assignment:
    """COCO's greedy matching of the `max_det` best detections per image and category."""
    if not 0 < len(iou_thresholds) < 128:
        raise ValueError(f"between 1 and 127 IoU thresholds, not {len(iou_thresholds)}")
    area_bounds = _bounds(areas)
    num_images, num_categories = len(truth.image_ids), len(truth.category_ids)
    shapes, detection_areas = shapes_of(detections, iou_type)

    rows = _by_score(truth, detections)
    if truth.federated is not None:
        judged = truth.federated.is_judged(
            detections.image, detections.category, detections.scores, truth.image, truth.category
        )
        rows = rows[judged[rows]]
    groups, rank = _group(detections.image[rows], detections.category[rows], truth)
    kept = rank < max_det
    if not kept.all():
        groups = (np.cumsum(kept) - 1)[groups[kept[groups]]]
        rows, rank = rows[kept], rank[kept]
    in_area = _in_area(detection_areas[rows], area_bounds)
    del detection_areas  # of millions of detections, what is held at once adds up
    if truth.federated is not None:
        # As outside the scale: without an object it is ignored, with one it is a true positive.
        partial = truth.federated.is_partial(detections.image[rows], detections.category[rows])
        in_area &= ~partial[:, None]

    objects = stable_order(truth.image, num_images)
    objects = objects[stable_order(truth.category[objects], num_categories)]
    crowd = truth.is_region(iou_type)[objects]
    ignored = ~_in_area(truth.areas[objects], area_bounds) | crowd[:, None]

    key = detections.category[rows].astype(np.int64) * num_images + detections.image[rows]
    object_key = truth.category[objects].astype(np.int64) * num_images + truth.image[objects]
    pairs = find_pairs(
        groups,
        key,
        shapes,
        rows,
        object_key,
        take(truth.boxes if iou_type == "bbox" else truth.rles, objects),
        crowd,
        min(float(iou_thresholds.min()), 1 - 1e-10),
    )
    matched, outcome, target = _take_greedily(pairs, key, ignored, crowd, iou_thresholds)
    order = np.argsort(matched)
    return Assignment(
        rows=rows,
        rank=rank,
        objects=objects,
        ignored=ignored,
        in_area=in_area,
        matched=matched[order],
        outcome=outcome[order],
        target=target[order],
    )


def _in_area(areas: NDArray[np.float64], bounds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N, A) whether areas lie in each scale, both ends inside."""
    inside = np.empty((len(areas), len(bounds)), bool)
    for a, (least, most) in enumerate(bounds.tolist()):
        inside[:, a] = (areas >= least) & (areas <= most)
    return inside


def find_pairs(
    groups: NDArray[np.int64],
    key: NDArray[np.int64],
    shapes: Any,
    rows: NDArray[np.int64],
    object_key: NDArray[np.int64],
    object_shapes: Any,
    crowd: NDArray[np.bool_],
    least_iou: float,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Detection, object and IoU of the pairs of equal key that overlap by `least_iou` or more.

    Shapes are boxes (arrays) or masks (lists); `rows` says where those of each detection stand. The
    keys of objects rise, and so do those of detections in the order of `groups`, in which their
    pairs come out. The IoU with a crowd is the share of the detection inside it.
    """
    find = _box_pairs if isinstance(shapes, np.ndarray) else _mask_pairs
    return find(groups, key, shapes, rows, object_key, object_shapes, crowd, least_iou)


def take(shapes: Any, index: NDArray[np.int64]) -> Any:
    """Some of the boxes (an array) or masks (a list)."""
    return shapes[index] if isinstance(shapes, np.ndarray) else [shapes[i] for i in index]


def shapes_of(detections: Detections, iou_type: str) -> tuple[Any, NDArray[np.float64]]:
    """The boxes or masks of detections, and their areas."""
    if iou_type not in IOU_TYPES:
        raise ValueError(f"iou_type is one of {', '.join(IOU_TYPES)}, not {iou_type!r}")
    if len(detections) == 0:
        return np.zeros((0, 4)) if iou_type == "bbox" else [], np.zeros(0)
    if iou_type == "bbox":
        if detections.boxes is None:
            raise ValueError(
                f"{detections.name}: has no bbox; write boxes or evaluate iou_type 'segm'"
            )
        return detections.boxes, detections.boxes[:, 2] * detections.boxes[:, 3]
    if detections.rles is None or detections.mask_areas is None:
        raise ValueError(
            f"{detections.name}: has no segmentation; write masks or evaluate iou_type 'bbox'"
        )
    return detections.rles, detections.mask_areas


def _by_score(truth: Truth, detections: Detections) -> NDArray[np.int64]:
    """Detections by category, falling score, image and place in the file."""
    order = stable_order(detections.image, len(truth.image_ids))
    falling = np.negative(detections.scores[order])
    order = order[np.argsort(falling, kind="stable")]
    return order[stable_order(detections.category[order], len(truth.category_ids))]


def _group(
    image: NDArray[np.int32], category: NDArray[np.int32], truth: Truth
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Detections put together by category and image, and the rank of each in its group."""
    groups = stable_order(image, len(truth.image_ids))
    groups = groups[stable_order(category[groups], len(truth.category_ids))]
    return groups, _rank(groups, image, category)


def category_starts(category: NDArray[np.int32], num_categories: int) -> NDArray[np.int64]:
    """Where each category starts among the sorted categories, and where the last ends."""
    return np.searchsorted(category, np.arange(num_categories + 1)).astype(np.int64)


def stable_order(keys: NDArray[Any], num_keys: int) -> NDArray[np.int64]:
    """Stable argsort of small whole numbers below `num_keys`."""
    order = np.empty(len(keys), np.int64)
    starts = np.zeros(num_keys + 1, np.int64)
    _stable_order(np.ascontiguousarray(keys, np.int32), len(keys), num_keys, starts, order)
    return order


def _rank(
    groups: NDArray[np.int64], image: NDArray[np.int32], category: NDArray[np.int32]
) -> NDArray[np.int32]:
    rank = np.zeros(len(groups), np.int32)
    _rank_in_group(groups, image, category, len(groups), rank)
    return rank


def _box_pairs(
    groups: NDArray[np.int64],
    key: NDArray[np.int64],
    boxes: NDArray[np.float64],
    rows: NDArray[np.int64],
    object_key: NDArray[np.int64],
    object_boxes: NDArray[np.float64],
    crowd: NDArray[np.bool_],
    least_iou: float,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Detection, object and IoU of the pairs that may match, by group, rank and object."""
    most = _count_pairs(groups, len(groups), key, object_key, len(object_key))
    detection, target = np.empty(most, np.int32), np.empty(most, np.int32)
    iou = np.empty(most)
    num_pairs = _find_box_pairs(
        groups, len(groups), key, np.ascontiguousarray(boxes), rows,
        object_key, np.ascontiguousarray(object_boxes), crowd, len(object_key), least_iou,
        detection, target, iou,
    )  # fmt: skip
    return detection[:num_pairs], target[:num_pairs], iou[:num_pairs]


def _mask_pairs(
    groups: NDArray[np.int64],
    key: NDArray[np.int64],
    masks: Sequence[Rle],
    rows: NDArray[np.int64],
    object_key: NDArray[np.int64],
    object_masks: Sequence[Rle],
    crowd: NDArray[np.bool_],
    least_iou: float,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """As `_box_pairs`, for masks."""
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    shared = np.intersect1d(key, object_key)
    starts = np.searchsorted(key[groups], [shared, shared + 1])
    object_starts = np.searchsorted(object_key, [shared, shared + 1])
    for start, end, first, last in zip(*starts, *object_starts, strict=True):
        group = groups[start:end]
        iou = mask.iou(
            [masks[row] for row in rows[group]],
            object_masks[first:last],
            crowd[first:last].tolist(),
        )
        i, n = np.nonzero(iou >= least_iou)
        parts.append((group[i], n + first, iou[i, n]))
    detection, target, overlap = (np.concatenate(part) for part in zip(*parts, strict=True))
    return detection.astype(np.int32), target.astype(np.int32), overlap


def _take_greedily(
    pairs: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]],
    key: NDArray[np.int64],
    ignored: NDArray[np.bool_],
    crowd: NDArray[np.bool_],
    thresholds: NDArray[np.float64],
) -> tuple[NDArray[np.int32], NDArray[np.int8], NDArray[np.int32]]:
    """COCO's greedy matching over the pairs: the detections that take an object, and how."""
    detection, target, iou = pairs
    num_candidates = min(len(detection), 1) + np.count_nonzero(np.diff(detection))
    shape = (num_candidates, ignored.shape[1], len(thresholds))
    matched = np.empty(num_candidates, np.int32)
    outcome, object_taken = np.empty(shape, np.int8), np.empty(shape, np.int32)
    num = _assign(
        detection, target, iou, len(detection), key, np.ascontiguousarray(ignored), crowd,
        ignored.shape[1], thresholds, len(thresholds), np.zeros(len(crowd), np.bool_),
        matched, outcome, object_taken,
    )  # fmt: skip
    return matched[:num], outcome[:num], object_taken[:num]
