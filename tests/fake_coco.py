"""Small, nasty detection tasks for the tests, and pycocotools as their oracle.

Every task has crowds, images without objects and without detections, a category without truth, one
with crowds only, one with nothing, ties of score and IoU, and sparse ids.
"""

import contextlib
import copy
import io
from typing import Any

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE = 200
SEGMENT = 12


def make_task(
    seed: int = 0,
    num_images: int = 12,
    num_categories: int = 6,
    objects: int = 6,
    detections: int = 20,
    grid: int = 8,
    masks: bool = False,
    score_digits: int = 1,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO truth and results; coordinates lie on a grid so that equal IoUs are common."""
    rng = np.random.default_rng(seed)
    image_ids = (np.sort(rng.choice(1000, num_images, replace=False)) + 1).tolist()
    category_ids = (np.arange(num_categories) * 3 + 2).tolist()
    truth: dict[str, Any] = {
        "images": [
            {"id": i, "width": SIDE, "height": SIDE, "file_name": f"{i}"} for i in image_ids
        ],
        "categories": [{"id": c, "name": f"category {c}"} for c in category_ids],
        "annotations": [],
    }
    results: list[dict[str, Any]] = []
    no_truth, crowd_only, nothing = category_ids[-1], category_ids[-2], category_ids[-3]
    for number, image_id in enumerate(image_ids):
        boxes = []
        for _ in range(0 if number % 5 == 4 else rng.poisson(objects)):
            box = _box(rng, grid)
            category = int(rng.choice([c for c in category_ids if c not in (no_truth, nothing)]))
            crowd = int(category == crowd_only or rng.random() < 0.1)
            boxes.append((box, category))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3] * float(rng.choice([0.5, 0.8, 1.0])),
                    "iscrowd": crowd,
                    **({"segmentation": _segmentation(rng, box, crowd)} if masks else {}),
                }
            )
        for _ in range(0 if number % 7 == 6 else rng.poisson(detections)):
            box, category = _box(rng, grid), int(rng.choice(category_ids))
            if boxes and rng.random() < 0.6:
                box, category = boxes[rng.integers(len(boxes))]
                shift = rng.integers(-1, 2, 4) * grid * (rng.random(4) < 0.4)
                box = [
                    float(max(0, box[0] + shift[0])),
                    float(max(0, box[1] + shift[1])),
                    float(max(1, box[2] + shift[2])),
                    float(max(1, box[3] + shift[3])),
                ]
            if category == nothing:
                continue
            result = {
                "image_id": image_id,
                "category_id": category,
                "score": round(float(rng.random()), score_digits),
            }
            if masks:
                result["segmentation"] = _rle(rng, box)
            else:
                result["bbox"] = box
            results.append(result)
    return truth, results


def _box(rng: np.random.Generator, grid: int) -> list[float]:
    width, height = (rng.integers(1, 1 + 2 ** rng.integers(1, 5), 2) * grid).tolist()
    x, y = (rng.integers(0, SIDE // 2 // grid, 2) * grid).tolist()
    return [float(x), float(y), float(width), float(height)]


def _segmentation(rng: np.random.Generator, box: list[float], crowd: int) -> Any:
    """Polygons for single objects, plain runs for crowds, as COCO has them."""
    if crowd:
        flat = _bitmap(rng, box).ravel(order="F")
        changes = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
        return {"size": [SIDE, SIDE], "counts": [0, *runs] if flat[0] else runs}
    x, y, w, h = box
    cut = float(rng.choice([0, 0.2]))
    return [[x + cut * w, y, x + w, y + cut * h, x + w, y + h, x, y + h]]


def _rle(rng: np.random.Generator, box: list[float]) -> dict[str, Any]:
    rle = mask.encode(np.asfortranarray(_bitmap(rng, box)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def _bitmap(rng: np.random.Generator, box: list[float]) -> np.ndarray:
    bitmap = np.zeros((SIDE, SIDE), np.uint8)
    x, y, w, h = (int(v) for v in box)
    bitmap[y : y + h, x : x + w] = 1
    if rng.random() < 0.5:
        bitmap[y : y + h // 3, x : x + w // 3] = 0
    return bitmap


def coco_eval(
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    iou_type: str = "bbox",
    areas: dict[str, tuple[float, float]] | None = None,
    **params: Any,
) -> COCOeval:
    """pycocotools' evaluation, summarized where its parameters are the default ones."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), iou_type)
        if areas is not None:
            evaluation.params.areaRng = [list(bounds) for bounds in areas.values()]
            evaluation.params.areaRngLbl = list(areas)
        for name, value in params.items():
            setattr(evaluation.params, name, value)
        evaluation.evaluate()
        evaluation.accumulate()
        if areas is None and not params:
            evaluation.summarize()
    return evaluation


def coco_cells(evaluation: COCOeval) -> tuple[np.ndarray, np.ndarray]:
    """AP and AR (T, K, A, M) of COCOeval, NaN where it says -1."""
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    ap = np.where((precision > -1).all(axis=1), precision.mean(axis=1), np.nan)
    return ap, np.where(recall > -1, recall, np.nan)


def repeat_images(
    truth: dict[str, Any], results: list[dict[str, Any]], counts: list[int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The task with image i physically there counts[i] times, copies side by side."""
    repeated: dict[str, Any] = {"images": [], "annotations": [], "categories": truth["categories"]}
    repeated_results = []
    next_id = 1
    for image, count in zip(truth["images"], counts, strict=True):
        for _ in range(count):
            repeated["images"].append({**image, "id": next_id})
            repeated["annotations"] += [
                {**annotation, "image_id": next_id}
                for annotation in truth["annotations"]
                if annotation["image_id"] == image["id"]
            ]
            repeated_results += [
                {**result, "image_id": next_id}
                for result in results
                if result["image_id"] == image["id"]
            ]
            next_id += 1
    for number, annotation in enumerate(repeated["annotations"]):
        annotation["id"] = number + 1
    return repeated, repeated_results


def break_ties(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results with distinct scores within each image and category, ties between images kept."""
    seen: set[tuple[int, int, float]] = set()
    broken = []
    for result in results:
        score = result["score"]
        while (result["image_id"], result["category_id"], score) in seen:
            score = float(np.nextafter(score, -1))
        seen.add((result["image_id"], result["category_id"], score))
        broken.append({**result, "score": score})
    return broken
