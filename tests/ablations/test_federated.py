"""Federated truth: categories that were not looked for on an image, or not annotated in full."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_coco import SIDE, coco_cells, coco_eval, make_task
from PIL import Image

from ablations.data import CocoData, open_data
from ablations.evaluation.coco import Detections, FormatError, Truth
from ablations.evaluation.federated import mean_by_frequency
from ablations.evaluation.matching import match
from ablations.evaluation.scoring import metrics, score

Task = tuple[dict[str, Any], list[dict[str, Any]]]


def federated_task(seed: int, masks: bool = False) -> Task:
    """Every third pair of image and category negative, every fourth not annotated in full."""
    truth, results = make_task(seed, masks=masks, detections=60)
    rng = np.random.default_rng(seed)
    category_ids = [category["id"] for category in truth["categories"]]
    for image in truth["images"]:
        for key, share in (("neg_category_ids", 0.35), ("not_exhaustive_category_ids", 0.25)):
            image[key] = [c for c in category_ids if rng.random() < share]
    for k, category in enumerate(truth["categories"]):
        category["frequency"] = "rcf"[k % 3]
    return truth, results


def as_plain_coco(truth: dict[str, Any], results: list[dict[str, Any]]) -> Task:
    """The same question put to COCO's evaluator.

    Detections that nobody can judge are taken out. A crowd all over an image ignores what finds no
    object of a category that is annotated there in part.
    """
    truth = copy.deepcopy(truth)
    images = {image["id"]: image for image in truth["images"]}
    annotated = {(a["image_id"], a["category_id"]) for a in truth["annotations"]}
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
    for image in truth["images"]:
        for category_id in image["not_exhaustive_category_ids"]:
            everywhere = [-SIDE, -SIDE, 3 * SIDE, 3 * SIDE]
            corners = [0, 0, SIDE, 0, SIDE, SIDE, 0, SIDE]
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": category_id,
                    "bbox": everywhere,
                    "segmentation": [corners],
                    "area": SIDE**2,
                    "iscrowd": 1,
                }
            )
    judged = [
        result
        for result in results
        if (result["image_id"], result["category_id"]) in annotated
        or result["category_id"] in images[result["image_id"]]["neg_category_ids"]
    ]
    return truth, judged


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_every_cell_equals_pycocotools_asked_the_same(iou_type: str, seed: int) -> None:
    truth, results = federated_task(seed, masks=iou_type == "segm")
    ours = Truth.from_coco(truth)
    scores = score(match(ours, Detections.from_coco(results, ours), iou_type))
    assert scores.axes.max_dets == (1, 10, 100, 300)
    evaluation = coco_eval(*as_plain_coco(truth, results), iou_type, maxDets=[1, 10, 100, 300])
    precision, recall = coco_cells(evaluation)
    np.testing.assert_allclose(scores.ap, precision, atol=1e-12)
    np.testing.assert_array_equal(scores.ar, recall)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_ap_by_frequency_is_that_of_the_lvis_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iou_type: str
) -> None:
    lvis = pytest.importorskip("lvis", reason="the lvis package is not installed")
    monkeypatch.setattr(np, "float", float, raising=False)  # gone from NumPy, used by lvis
    truth, results = federated_task(9, masks=iou_type == "segm")
    results = [result for result in results for _ in range(4)]  # more than 300 an image
    results = [{**r, "score": r["score"] - 1e-3 * (k % 4)} for k, r in enumerate(results)]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    theirs = lvis.LVISEval(
        lvis.LVIS(str(tmp_path / "truth.json")), copy.deepcopy(results), iou_type
    )
    theirs.run()
    ours = Truth.from_coco(truth)
    scores = score(match(ours, Detections.from_coco(results, ours), iou_type))
    found = metrics(scores, iou_type)
    prefix = "" if iou_type == "bbox" else "mask_"
    for name, key in (("AP", "AP"), ("AP50", "AP50"), ("AP_small", "APs"), ("AP_medium", "APm")):
        assert found[prefix + name] == pytest.approx(theirs.results[key], abs=1e-12)
    per_category = scores.ap[:, :, 0, -1].mean(axis=0)
    groups = mean_by_frequency(per_category, ours.category_frequencies)
    for name, key in (("rare", "APr"), ("common", "APc"), ("frequent", "APf")):
        assert (-1 if groups[name] is None else groups[name]) == pytest.approx(
            theirs.results[key], abs=1e-12
        )


def test_three_hundred_detections_of_an_image_count() -> None:
    image = {"id": 1, "width": 100, "height": 100, "neg_category_ids": [2]}
    truth = Truth.from_coco(
        {
            "images": [image],
            "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "area": 2500}
            ],
        }
    )
    found = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.1}
    false = {"image_id": 1, "category_id": 2, "bbox": [50, 50, 9, 9], "score": 0.9}
    for num_false, ap in ((299, 1.0), (300, 0.0)):
        detections = Detections.from_coco([found] + [false] * num_false, truth)
        assert metrics(score(match(truth, detections)))["AP"] == pytest.approx(ap)


def test_truth_that_says_nothing_of_categories_is_scored_by_coco() -> None:
    truth, _ = make_task(0)
    assert Truth.from_coco(truth).federated is None
    assert match(Truth.from_coco(truth), Detections.from_coco([], Truth.from_coco(truth))).max_dets


@pytest.mark.parametrize("value", [3, "1", [1.5], {"a": 1}])
def test_categories_of_an_image_that_are_no_list_are_refused(value: Any) -> None:
    truth, _ = federated_task(0)
    truth["images"][2]["neg_category_ids"] = value
    with pytest.raises(FormatError, match=r"images\[2\].neg_category_ids: must be"):
        Truth.from_coco(truth)


def test_a_training_run_is_scored_by_the_rule_of_its_data(tmp_path: Path) -> None:
    truth, _ = federated_task(0)
    (tmp_path / "images").mkdir()
    for image in truth["images"]:
        image["file_name"] += ".png"
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "images" / image["file_name"])
    (tmp_path / "a.json").write_text(json.dumps(truth))
    dataset = open_data(CocoData(root=str(tmp_path), train="a.json", val="a.json"), "val")
    ours, theirs = Truth.from_coco(dataset.truth).federated, Truth.from_coco(truth).federated
    assert ours is not None
    assert theirs is not None
    np.testing.assert_array_equal(ours.negative, theirs.negative)
    np.testing.assert_array_equal(ours.not_exhaustive, theirs.not_exhaustive)
