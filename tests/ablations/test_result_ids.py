"""Results that name images and categories as YOLO tools do."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_coco import HEIGHT, WIDTH, annotation, content

from ablations.evaluation.coco import Detections, FormatError, Truth


def named(*file_names: str) -> dict[str, Any]:
    """Images 11, 12, ... of those names, and COCO's gaps between category ids."""
    images = [
        {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for number, name in enumerate(file_names, start=11)
    ]
    categories = [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}]
    objects = [annotation(k, image["id"], category_id=3) for k, image in enumerate(images, 1)]
    return content(*objects, images=images, categories=categories)


def result(image_id: Any, category_id: Any = 3) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": category_id,
        "score": 0.5,
        "bbox": [10, 10, 20, 20],
    }


@pytest.mark.parametrize("as_file", [False, True])
def test_images_may_be_named_by_the_stems_of_their_files(tmp_path: Path, as_file: bool) -> None:
    truth = Truth.from_coco(named("a/cell one.jpg", "000042.png", "b.v1.jpg"))
    results: Any = [result(stem) for stem in ("b.v1", 42, "000042", 42.0, "cell one")]
    if as_file:
        (tmp_path / "results.json").write_text(json.dumps(results))
        results = tmp_path / "results.json"
    found = Detections.from_coco(results, truth, image_ids="file_stem")
    assert found.image.tolist() == [2, 1, 1, 1, 0]
    with pytest.raises(
        FormatError, match=r"results\[0\].image_id: must be a whole number.*--image-ids"
    ):
        Detections.from_coco(results, truth)


def test_names_with_folder_and_ending_are_found_too() -> None:
    truth = Truth.from_coco(named("a/cell one.jpg", "000042.png", "b.v1.jpg"))
    written = ["b.v1.jpg", "000042.png", "val/000042.png", "C:\\data\\cell one.jpg", "a/cell one"]
    found = Detections.from_coco([result(name) for name in written], truth, image_ids="file_stem")
    assert found.image.tolist() == [2, 1, 1, 0, 0]


@pytest.mark.parametrize("stem", ["c", 43, True, None, 1.5, ["a"]])
def test_stems_that_the_truth_does_not_have_are_refused_or_dropped(stem: Any) -> None:
    truth = Truth.from_coco(named("a.jpg", "1.jpg"))
    results = [result("a"), result(stem)]
    with pytest.raises(FormatError, match=r"results\[1\].image_id: .* not in the truth \(1 such"):
        Detections.from_coco(results, truth, image_ids="file_stem")
    kept = Detections.from_coco(results, truth, "drop", image_ids="file_stem")
    assert kept.image.tolist() == [0]


def test_stems_that_two_images_share_are_refused() -> None:
    for names in (("a/1.jpg", "b/1.jpg"), ("1.jpg", "001.jpg")):
        truth = Truth.from_coco(named(*names))
        with pytest.raises(FormatError, match=r"1'? is the name of two images"):
            Detections.from_coco([], truth, image_ids="file_stem")


@pytest.mark.parametrize(("scheme", "first"), [("contiguous", 0), ("contiguous_from_1", 1)])
def test_categories_may_be_numbered_without_gaps(scheme: str, first: int) -> None:
    truth = Truth.from_coco(named("a.jpg"))
    results = [result(11, first + 1), result(11, first)]
    found = Detections.from_coco(results, truth, categories=scheme)
    assert found.category.tolist() == [1, 0]
    with pytest.raises(FormatError, match=rf"category_id: .* not in the.*--categories {scheme}"):
        Detections.from_coco(results, truth)
    for wrong in (first - 1, first + 2):
        with pytest.raises(FormatError, match=r"results\[2\].category_id"):
            Detections.from_coco([*results, result(11, wrong)], truth, categories=scheme)


def test_a_scheme_that_is_none_is_refused() -> None:
    truth = Truth.from_coco(named("a.jpg"))
    with pytest.raises(ValueError, match="image_ids is one of id, file_stem, not 'stem'"):
        Detections.from_coco([], truth, image_ids="stem")
    with pytest.raises(ValueError, match="categories is one of id, contiguous"):
        Detections.from_coco([], truth, categories="yolo")
