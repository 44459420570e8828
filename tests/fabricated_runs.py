"""Small runs folders for tests: drawn images, boxes, records whose metrics are pycocotools'."""

import contextlib
import copy
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ablations.record import (
    RunRecord,
    read_runs,
    run_folder,
    validation_folder,
    write_record,
    write_table,
)
from ablations.storage import write_json_gz

CATEGORIES = [{"id": 3, "name": "disc"}, {"id": 7, "name": "ring & bar"}]
SIZE = 240
COCO_NAMES = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip


def make_truth(num_images: int = 12, seed: int = 0) -> dict[str, Any]:
    """COCO instances with small, medium and large ellipses."""
    rng = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(11, 11 + num_images):
        images.append(
            {"id": image_id, "file_name": f"{image_id}.png", "width": SIZE, "height": SIZE}
        )
        for side in (rng.uniform(14, 28), rng.uniform(36, 70), rng.uniform(100, 130)):
            x, y = rng.uniform(0, SIZE - side, 2)
            box = [float(x), float(y), float(side), float(side)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice([3, 7])),
                    "bbox": box,
                    "area": float(side * side * np.pi / 4),
                    "iscrowd": 0,
                    "segmentation": [_ellipse(*box)],
                }
            )
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def _ellipse(x: float, y: float, width: float, height: float) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    xs = x + width / 2 * (1 + np.cos(angles))
    ys = y + height / 2 * (1 + np.sin(angles))
    return np.stack([xs, ys], axis=1).ravel().tolist()


def make_detections(
    truth: dict[str, Any], skill: float, seed: int = 0, masks: bool = False
) -> list[dict[str, Any]]:
    """Detections that find objects and place their boxes the better the higher `skill` (0 to 1)."""
    rng = np.random.default_rng(seed)
    detections = []
    for annotation in truth["annotations"]:
        x, y, width, height = annotation["bbox"]
        if rng.random() > 0.6 + 0.4 * skill:
            continue
        noise = (1 - skill) * 0.25 * width
        x, y = rng.normal([x, y], noise)
        width = float(abs(rng.normal(width, noise)) + 2)
        height = float(abs(rng.normal(height, noise)) + 2)
        wrong = rng.random() < 0.2 * (1 - skill)
        detection = {
            "image_id": annotation["image_id"],
            "category_id": (10 - annotation["category_id"]) if wrong else annotation["category_id"],
            "bbox": [float(x), float(y), width, height],
            "score": float(rng.uniform(0.3 + 0.3 * skill, 1)),
        }
        if masks:
            polygon = _ellipse(float(x), float(y), width, height)
            coded = rle.merge(rle.frPyObjects([polygon], SIZE, SIZE))
            detection["segmentation"] = {"size": [SIZE, SIZE], "counts": coded["counts"].decode()}
        detections.append(detection)
    return detections


def pycocotools_result(
    truth: dict[str, Any], detections: list[dict[str, Any]], iou_type: str = "bbox"
) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)  # pycocotools writes into it
        coco.createIndex()
        kept = [
            {k: v for k, v in d.items() if iou_type == "bbox" or k != "bbox"} for d in detections
        ]
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(kept)), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def cells_of(evaluation: COCOeval) -> dict[str, Any]:
    """The record's cells: AP and AR (T, A, M), means over categories with objects."""

    def mean(values: np.ndarray) -> float | None:
        present = values[values > -1]
        return float(present.mean()) if present.size else None

    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    num_thresholds, _, _, num_areas, num_limits = precision.shape
    shape = (num_thresholds, num_areas, num_limits)
    ap, ar = np.empty(shape, object), np.empty(shape, object)
    for t, a, m in np.ndindex(shape):
        ap[t, a, m], ar[t, a, m] = mean(precision[t, :, :, a, m]), mean(recall[t, :, a, m])
    return {
        "iou_thresholds": evaluation.params.iouThrs.tolist(),
        "areas": evaluation.params.areaRngLbl,
        "max_dets": evaluation.params.maxDets,
        "AP": ap.tolist(),
        "AR": ar.tolist(),
    }


def write_run(
    runs: Path,
    variant: str,
    truth: dict[str, Any],
    *,
    seed: int = 0,
    skill: float = 0.5,
    masks: bool = False,
    status: str = "done",
    error: str | None = None,
    fingerprint: str = "feedbeef",
    protocol: str = "smoke",
    digest: str | None = None,
    macs: float = 4.8e9,
) -> RunRecord:
    """Write one run as the training job leaves it; returns its record."""
    digest = digest or hashlib.sha256(variant.encode()).hexdigest()[:10]
    record = RunRecord(
        variant=variant,
        seed=seed,
        digest=digest,
        status=status,
        config={
            "protocol": {"name": protocol},
            "weights": "scratch",
            "detector": {"type": "mask_rcnn" if masks else "faster_rcnn"},
        },
        data={"val_fingerprint": fingerprint, "num_val": len(truth["images"])},
        cost={"params": 25_000_000, "macs": int(macs)},
        env={
            "device": "test device",
            "python": "3.11",
            "torch": "2.15.0",
            "command": f"python -m ablations.train backbone={variant} seed={seed}",
        },
        error=error,
    )
    folder = run_folder(runs, variant, digest, seed)
    if status == "done":
        detections = make_detections(truth, skill, seed=seed + 100, masks=masks)
        for iou_type, prefix in (("bbox", ""), ("segm", "mask_"))[: 1 + masks]:
            evaluation = pycocotools_result(truth, detections, iou_type)
            record.metrics |= {
                prefix + name: None if value == -1 else float(value)
                for name, value in zip(COCO_NAMES, evaluation.stats, strict=True)
            }
            record.cells[iou_type] = cells_of(evaluation)
        record.timing = {"train_images_per_second": 12.34, "train_seconds": 71.0}
        write_json_gz(folder / "detections.json.gz", detections)
        _write_curve(folder / "curve.jsonl", skill, seed)
        _write_validation_data(validation_folder(runs, fingerprint), truth)
    write_record(folder, record)
    return record


def note_table(runs: Path, names: list[str], baseline: str, name: str = "projection") -> None:
    """Note a table of these variants, some of which may have no run."""
    digests = {run.record.variant: run.record.digest for run in read_runs(runs)}
    entries = [{"variant": n, "digest": digests.get(n, "0123456789")} for n in names]
    write_table(runs, name, entries, baseline)


def _write_curve(path: Path, skill: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(1, 121):
        loss = 2 / (1 + step / 30) + 1 - skill + rng.normal(0.3, 0.05)
        lines.append(f'{{"step": {step}, "learning_rate": 0.01, "loss": {loss:.4f}}}')
    path.write_text("\n".join(lines) + "\n")


def _write_validation_data(folder: Path, truth: dict[str, Any]) -> None:
    if (folder / "truth.json.gz").exists():
        return
    write_json_gz(folder / "truth.json.gz", truth)
    (folder / "images").mkdir()
    for image in truth["images"][:2]:
        rng = np.random.default_rng(image["id"])
        picture = Image.fromarray(rng.integers(90, 160, (SIZE, SIZE, 3), dtype=np.uint8))
        draw = ImageDraw.Draw(picture)
        for annotation in truth["annotations"]:
            if annotation["image_id"] == image["id"]:
                x, y, width, height = annotation["bbox"]
                color = (200, 120, 60) if annotation["category_id"] == 3 else (60, 140, 200)
                draw.ellipse((x, y, x + width, y + height), fill=color)
        picture.save(folder / "images" / f"{image['id']}.png")
