"""Two small images and what may be annotated on them: square objects, all of whose fields agree."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from ablations.data import CocoData, DetectionDataset, open_data
from ablations.evaluation.coco import Truth

WIDTH, HEIGHT = 50, 40
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
"""A polygon of 20 x 20 pixels."""


def annotation(number: int = 1, image_id: int = 1, **changes: Any) -> dict[str, Any]:
    """A square object, all of whose fields agree."""
    plain = {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [10, 10, 20, 20],
        "area": 400,
        "iscrowd": 0,
        "segmentation": [SQUARE],
    }
    return {key: value for key, value in (plain | changes).items() if value is not ABSENT}


ABSENT = object()


def content(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
            for number in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": list(annotations),
    } | changes


def write(root: Path, instances: Any) -> CocoData:
    """A folder whose train and val are the same file."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        path = root / "images" / f"{number}.png"
        if not path.exists():
            Image.new("RGB", (WIDTH, HEIGHT), (90, 60 * number, 30)).save(path)
    data = instances if isinstance(instances, bytes) else json.dumps(instances).encode()
    (root / "a.json").write_bytes(data)
    return CocoData(root=str(root), train="a.json", val="a.json")


def rules(summary: list[dict[str, Any]]) -> dict[str, int]:
    return {fault["rule"]: fault["count"] for fault in summary}


def trained_on(config: CocoData) -> DetectionDataset:
    config.masks = True
    return open_data(config, "train")


def read(source: Any, policy: str) -> Truth:
    """The truth with its masks, which are checked when they are used."""
    truth = Truth.from_coco(source, policy=policy)
    assert len(truth.rles) == len(truth.image)
    return truth
