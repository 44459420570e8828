"""Each broken or odd COCO file: refused, mended by name, or loaded.

The files are made by `broken_data`; where ../shared is there, the real ones meet the same table.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_data import CASES as MADE
from broken_data import write_broken
from PIL import Image
from pycocotools.coco import COCO

from ablations.data import CocoData, DataError, DetectionDataset, open_data

ORIGINALS = Path(__file__).parents[3] / "shared" / "data" / "broken"


@dataclass
class Refused:
    """The message names all of these."""

    names: tuple[str, ...]
    when: str = "opened"


@dataclass
class Loads:
    """With so many annotations dropped or turned into ignored regions, and these faults kept."""

    dropped: int = 0
    ignored: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    first: tuple[str, ...] = ()


LEAVING = -1
"""As many as there are boxes over the edge, counted in the file."""
WITHOUT_MASK = ("mask_missing", "mask_dropped", "mask_empty", "mask_misses_box")

CASES: dict[str, Refused | Loads] = {
    "00_good": Loads(),
    "01_json_cut": Refused(("01_json_cut.json", "not valid JSON")),
    "02_json_zero_bytes": Refused(("02_json_zero_bytes.json", "not valid JSON")),
    "03_json_top_level_list": Refused(("top level", "list")),
    "04_json_no_categories": Refused(("categories", "absent")),
    "05_json_utf8_bom": Loads(),
    "06_annotation_of_missing_image_id": Loads(
        dropped=1, faults={"unknown_image": 1}, first=("annotation 4", "999", "image_id")
    ),
    "07_image_file_missing": Refused(("does_not_exist.jpg", "no such image file")),
    "08_truncated_jpeg": Refused(("truncated.jpg", "cannot be decoded"), when="read"),
    "09_html_saved_as_jpg": Refused(("html_page.jpg", "not a readable")),
    "10_zero_byte_image": Refused(("zero_bytes.jpg", "not a readable")),
    "11_zero_area_box": Loads(
        dropped=1, faults={"box_empty": 1}, first=("annotation 9001", "image 1", "bbox")
    ),
    "12_negative_width": Loads(
        dropped=1, faults={"box_negative": 1}, first=("annotation 3", "bbox", "-109")
    ),
    "13_box_outside": Loads(  # the masks stayed where the boxes had been
        dropped=1,
        faults={"box_outside": 1, "box_clipped": 2, "mask_misses_box": 2},
        first=("annotation 3", "bbox"),
    ),
    "14_nan_bbox": Loads(
        dropped=1, faults={"box_not_finite": 1}, first=("annotation 3", "bbox", "nan")
    ),
    "15_inf_bbox": Loads(
        dropped=1, faults={"box_not_finite": 1}, first=("annotation 3", "bbox", "inf")
    ),
    "16_bbox_three_numbers": Refused(("annotation 3", "bbox", "[x, y, width, height]")),
    "17_bbox_strings": Refused(("annotation 3", "bbox", "numbers")),
    "18_bbox_xyxy": Loads(
        faults={"box_clipped": LEAVING, "boxes_leave_image": 1, "boxes_in_other_order": 1}
    ),
    "19_unknown_category_id": Refused(("annotation 3", "category_id", "77")),
    "20_duplicate_image_ids": Refused(("image 2", "twice")),
    "21_duplicate_file_name": Loads(
        faults={"duplicate_file_name": 1}, first=("image 4", "image 1")
    ),
    "22_duplicate_annotation_ids": Loads(
        faults={"annotation_ids_renumbered": 1}, first=("annotation 5",)
    ),
    "23_duplicate_category_ids": Refused(("category id 1", "RBC2")),
    "24_annotation_id_zero": Loads(
        faults={"annotation_ids_renumbered": 1}, first=("annotation 0",)
    ),
    "25_image_id_string": Refused(("annotation 3", "image_id", "'1'")),
    "26_polygon_two_points": Loads(
        faults={"mask_dropped": 1},
        first=("annotation 3", "segmentation", "4 numbers"),
    ),
    "27_polygon_odd_numbers": Loads(
        faults={"mask_dropped": 1},
        first=("annotation 3", "segmentation", "7 numbers"),
    ),
    "28_rle_wrong_size": Refused(("annotation 3", "segmentation", "[240, 320]")),
    "29_rle_counts_too_short": Refused(("annotation 3", "segmentation", "1200")),
    "30_rle_counts_too_long": Refused(("annotation 3", "segmentation", "901000")),
    "31_crowd_with_polygon": Loads(ignored=1),
    "32_optional_keys_absent": Loads(
        faults={"mask_missing": 1}, first=("annotation 4", "segmentation")
    ),
    "33_path_traversal": Refused(("image 2", "file_name", "../outside.jpg")),
    "34_absolute_path": Refused(("image 2", "file_name", "/etc/hostname")),
    "35_grayscale_jpeg": Loads(),
    "36_cmyk_jpeg": Loads(),
    "37_png_16_bit": Loads(),
    "38_png_palette_alpha": Loads(),
    "39_exif_rotated": Loads(),
    "40_no_annotations": Refused(("no object to train on", "40_no_annotations.json")),
    "41_no_images": Refused(("images", "empty")),
    "42_one_image_without_boxes": Loads(),
    "43_size_differs_from_json": Refused(("image 2", "320x240", "640x480")),
    "44_width_height_absent": Loads(),
    "45_decompression_bomb": Refused(("bomb.png", "too large")),
    "46_json_huge_size": Refused(("image 2", "60000x60000")),
    "47_non_ascii_file_name": Loads(),
}

VAL_CASES = CASES | {"40_no_annotations": Loads(faults={"no_annotations": 1})}


@pytest.fixture(scope="session", params=["made", "original"])
def broken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the cases."""
    if request.param == "original":
        if not ORIGINALS.is_dir():
            pytest.skip("needs ../shared/data/broken")
        return ORIGINALS
    folder = tmp_path_factory.mktemp("broken") / "data"
    write_broken(folder)
    return folder


def config(broken: Path, case: str, **fields: Any) -> CocoData:
    file = f"annotations/{case}.json"
    return CocoData(root=str(broken), train=file, val=file, **fields)


def load(broken: Path, case: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (broken / "annotations" / f"{case}.json").read_text(encoding="utf-8-sig")
    )
    return content


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were opened as images."""
    files: list[Path] = []
    original = Image.open

    def recording(path: Any, *args: Any, **kwargs: Any) -> Image.Image:
        files.append(Path(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(Image, "open", recording)
    return files


def test_table_covers_every_case(broken: Path) -> None:
    assert set(CASES) == {path.stem for path in (broken / "annotations").glob("*.json")}
    assert set(CASES) == set(MADE)
    assert len(CASES) == 48


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("case", CASES)
def test_case(broken: Path, case: str, split: str, opened: list[Path]) -> None:
    expected = (CASES if split == "train" else VAL_CASES)[case]
    if isinstance(expected, Loads):
        dataset = open_data(config(broken, case), split)
        check_loaded(dataset, expected, case, load(broken, case))
    elif expected.when == "opened":
        with pytest.raises(DataError) as refusal:
            open_data(config(broken, case), split)
        assert all(name in str(refusal.value) for name in expected.names), refusal.value
    else:
        dataset = open_data(config(broken, case), split)
        with pytest.raises(DataError) as refusal:
            list(map(dataset.__getitem__, range(len(dataset))))
        assert all(name in str(refusal.value) for name in expected.names), refusal.value
    images = (broken / "images").resolve()
    assert all(path.resolve().is_relative_to(images) for path in opened)


def check_loaded(
    dataset: DetectionDataset, expected: Loads, case: str, raw: dict[str, Any]
) -> None:
    faults = {fault["rule"]: fault for fault in dataset.checks["faults"]}
    assert {rule: fault["count"] for rule, fault in faults.items()} == {
        rule: num_leaving(raw) if count == LEAVING else count
        for rule, count in expected.faults.items()
    }
    if expected.first:
        example = faults[next(iter(expected.faults))]["examples"][0]
        assert all(name in example for name in (f"{case}.json", *expected.first)), example
    assert all(fault["remedy"] for fault in faults.values())
    json.dumps(dataset.checks)

    num_objects = len(raw["annotations"]) - expected.dropped - expected.ignored
    assert len(dataset) == len(raw["images"])
    assert dataset.checks["num_objects"] == num_objects
    assert dataset.checks["num_ignored"] == expected.ignored
    check_items(dataset, num_objects, sum(expected.faults.get(rule, 0) for rule in WITHOUT_MASK))
    check_truth(dataset.truth, len(raw["annotations"]) - expected.dropped)


def num_leaving(raw: dict[str, Any]) -> int:
    """Boxes that reach more than a pixel over the right or lower edge of their image."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in raw["images"]}
    reaches = [
        (x + width - sizes[a["image_id"]][0], y + height - sizes[a["image_id"]][1])
        for a in raw["annotations"]
        for x, y, width, height in [a["bbox"]]
    ]
    return sum(max(reach) > 1 for reach in reaches)


def check_items(dataset: DetectionDataset, num_objects: int, num_without_mask: int) -> None:
    num_seen = num_empty = 0
    for index in range(len(dataset)):
        image, target = dataset[index]
        boxes = target["boxes"]
        height, width = image.shape[1:]
        assert image.shape[0] == 3
        assert 20 < image.float().mean() < 235
        assert boxes.isfinite().all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= width).all()
        assert (boxes[:, [1, 3]] <= height).all()
        assert (target["area"] > 0).all()
        if dataset.has_masks:
            assert target["masks"].shape == (len(boxes), height, width)
            num_empty += int((target["masks"].flatten(1).sum(1) == 0).sum())
        num_seen += len(boxes)
    assert num_seen == num_objects
    assert num_empty == num_without_mask


def check_truth(truth: dict[str, Any], num_annotations: int) -> None:
    assert [a["id"] for a in truth["annotations"]] == list(range(1, num_annotations + 1))
    coco = COCO()
    coco.dataset = json.loads(json.dumps(truth))
    coco.createIndex()
    for annotation in coco.dataset["annotations"]:
        if annotation.get("segmentation", ()) is None:
            continue
        image = coco.imgs[annotation["image_id"]]
        mask = coco.annToMask(annotation)
        assert mask.shape == (image["height"], image["width"])


@pytest.mark.parametrize(
    "case", ["26_polygon_two_points", "27_polygon_odd_numbers", "32_optional_keys_absent"]
)
def test_missing_masks_do_not_matter_to_boxes(broken: Path, case: str) -> None:
    dataset = open_data(config(broken, case, masks=False), "train")
    good = open_data(config(broken, "00_good", masks=False), "train")
    assert dataset.checks["num_objects"] == good.checks["num_objects"]
    assert dataset.checks["num_ignored"] == 0
    assert "segmentation" not in dataset.truth["annotations"][0]


def test_spoilt_rle_does_not_matter_to_boxes(broken: Path) -> None:
    dataset = open_data(config(broken, "30_rle_counts_too_long", masks=False), "train")
    raw = load(broken, "30_rle_counts_too_long")
    assert dataset.checks["num_objects"] == len(raw["annotations"])


def image_two(broken: Path, case: str) -> np.ndarray:
    dataset = open_data(config(broken, case), "train")
    index = [image["id"] for image in dataset.truth["images"]].index(2)
    return dataset.image(index).astype(float)


def test_sixteen_bit_pixels_are_scaled_not_clipped(broken: Path) -> None:
    halved = Image.open(broken / "images" / "gray16.png")
    true_mean = np.asarray(halved, dtype=float).mean() * 255 / 65535
    assert 20 < true_mean < 235
    assert image_two(broken, "37_png_16_bit").mean() == pytest.approx(true_mean, abs=1)


def test_exif_rotated_image_is_the_upright_one(broken: Path) -> None:
    difference = np.abs(image_two(broken, "39_exif_rotated") - image_two(broken, "00_good"))
    assert difference.mean() < 4  # compressed anew, otherwise the same picture


@pytest.mark.parametrize("case", ["35_grayscale_jpeg", "36_cmyk_jpeg"])
def test_other_color_spaces_keep_the_picture(broken: Path, case: str) -> None:
    gray = [image_two(broken, name).mean(axis=2) for name in (case, "00_good")]
    assert np.abs(gray[0] - gray[1]).mean() < 8


def test_clipped_boxes_are_clipped_in_truth_and_target(broken: Path) -> None:
    raw = load(broken, "13_box_outside")
    x, y, width, height = next(a["bbox"] for a in raw["annotations"] if a["id"] == 4)
    dataset = open_data(config(broken, "13_box_outside"), "train")
    clipped = [x, y, min(width, 640 - x), min(height, 480 - y)]
    assert clipped in [a["bbox"] for a in dataset.truth["annotations"]]
