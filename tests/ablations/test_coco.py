"""COCO folders: what a data set offers, and what its checks decide."""

import hashlib
import json
import os
import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from pycocotools import mask as coco_mask

from ablations import progress
from ablations.data import (
    Coco2017Data,
    CocoData,
    DataError,
    check_same_task,
    open_data,
)
from ablations.data.images import image_size, read_image
from ablations.evaluation import masks
from ablations.identity import digest

TRIANGLE = [[10, 10, 30, 10, 10, 30]]
CROWD_RLE = {"size": [48, 64], "counts": [0, 48 * 4, 48 * 60]}


def write_coco(root: Path, **changes: Any) -> CocoData:
    """Three images of 64x48: two objects and a crowd, one object, none; sparse category ids."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in (1, 2, 3):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
    content = {
        "images": [
            {"id": 10 * number, "file_name": f"{number}.png", "width": 64, "height": 48}
            for number in (1, 2, 3)
        ],
        "categories": [{"id": 90, "name": "late"}, {"id": 7, "name": "early"}],
        "annotations": [
            annotation(5, 10, 90, [10, 10, 20, 20], segmentation=TRIANGLE, area=200),
            annotation(6, 10, 7, [0, 0, 64, 48], segmentation=[[0, 0, 64, 0, 64, 48, 0, 48]]),
            annotation(9, 10, 7, [0, 0, 4, 48], iscrowd=1, segmentation=CROWD_RLE),
            annotation(7, 20, 7, [1.5, 2.5, 3, 4], segmentation=[[1, 2, 5, 2, 5, 7, 1, 7]]),
        ],
    } | changes
    (root / "a.json").write_text(json.dumps(content))
    return CocoData(root=str(root), train="a.json", val="a.json")


def annotation(
    annotation_id: int, image_id: int, category_id: int, bbox: list[float], **more: Any
) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        **more,
    }


def faults(config: CocoData, split: str = "val") -> dict[str, int]:
    return {f["rule"]: f["count"] for f in open_data(config, split).checks["faults"]}


def test_labels_count_categories_by_ascending_id(tmp_path: Path) -> None:
    dataset = open_data(write_coco(tmp_path), "train")
    assert dataset.categories == [{"id": 7, "name": "early"}, {"id": 90, "name": "late"}]
    _, target = dataset[0]
    assert target["labels"].tolist() == [2, 1]


def test_item_is_image_and_target(tmp_path: Path) -> None:
    image, target = open_data(write_coco(tmp_path), "train")[0]
    stored = np.asarray(Image.open(tmp_path / "images" / "1.png"))
    assert (image.permute(1, 2, 0).numpy() == stored).all()
    assert target["image_id"] == 10
    assert target["boxes"].tolist() == [[10, 10, 30, 30], [0, 0, 64, 48]]
    assert target["masks"].shape == (2, 48, 64)
    assert target["masks"][1].all()
    assert 150 < target["masks"][0].sum() < 250  # half of 20 x 20


def test_crowds_are_in_the_truth_but_no_target(tmp_path: Path) -> None:
    dataset = open_data(write_coco(tmp_path), "train")
    assert [a["iscrowd"] for a in dataset.truth["annotations"]] == [0, 0, 1, 0]
    assert len(dataset[0][1]["boxes"]) == 2
    assert dataset.checks["num_ignored"] == 1


def test_truth_is_numbered_from_one_and_keeps_image_ids(tmp_path: Path) -> None:
    truth = open_data(write_coco(tmp_path), "val").truth
    assert [a["id"] for a in truth["annotations"]] == [1, 2, 3, 4]
    assert [image["id"] for image in truth["images"]] == [10, 20, 30]
    assert truth["annotations"][0]["area"] == 200


def test_area_is_taken_from_the_mask_where_it_is_absent(tmp_path: Path) -> None:
    areas = [a["area"] for a in open_data(write_coco(tmp_path), "val").truth["annotations"]]
    assert areas[1:] == [64 * 48, 4 * 48, 4 * 5]


def test_area_beyond_the_image_is_computed_anew(tmp_path: Path) -> None:
    areas: list[Any] = [-1, 0, 10**400, 64 * 48 + 1, 64]
    config = write_coco(
        tmp_path,
        annotations=[annotation(k, 10, 7, [k, 0, 10, 10], area=a) for k, a in enumerate(areas, 1)],
    )
    dataset = open_data(config, "val")
    assert [a["area"] for a in dataset.truth["annotations"]] == [100, 100, 100, 100, 64]
    assert faults(config) == {"area_wrong": 2, "area_out_of_range": 2}
    dataset[0]


def test_images_without_objects_are_negatives_unless_left_out(tmp_path: Path) -> None:
    config = write_coco(tmp_path)
    assert len(open_data(config, "train")) == 3
    assert open_data(config, "train")[2][1]["boxes"].shape == (0, 4)
    assert open_data(config, "train")[2][1]["masks"].shape == (0, 48, 64)
    config.negatives = False
    assert len(open_data(config, "train")) == 2
    assert len(open_data(config, "val")) == 3


def test_masks_are_asked_for_left_out_or_found(tmp_path: Path) -> None:
    config = write_coco(tmp_path)
    assert open_data(config, "train").has_masks
    assert not open_data(config, "train", masks=False).has_masks
    config.masks = False
    assert not open_data(config, "train").has_masks
    with pytest.raises(ValueError, match=r"data\.masks"):
        open_data(config, "train", masks=True)


def test_masks_that_most_objects_lack_are_not_used(tmp_path: Path) -> None:
    boxes = [annotation(k, 10, 7, [k, 1, 5, 5]) for k in (1, 2)]
    drawn = annotation(3, 20, 7, [10, 10, 20, 20], segmentation=TRIANGLE)
    config = write_coco(tmp_path, annotations=[*boxes, drawn])
    assert not open_data(config, "train").has_masks
    assert faults(config) == {"masks_unused": 1}
    config.masks = True
    dataset = open_data(config, "train")
    assert dataset.has_masks
    assert dataset.checks["num_objects"] == 3
    assert dataset.checks["num_ignored"] == 0
    assert [a["segmentation"] for a in dataset.truth["annotations"]] == [None, None, TRIANGLE]
    assert faults(config) == {"mask_missing": 2}


def test_masks_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    config = write_coco(tmp_path, annotations=[annotation(1, 10, 7, [1, 1, 5, 5])])
    config.masks = True
    with pytest.raises(DataError, match=r"data\.masks"):
        open_data(config, "train")


def test_max_images_spreads_over_the_split(tmp_path: Path) -> None:
    dataset = open_data(write_coco(tmp_path), "val", max_images=2)
    assert [image["id"] for image in dataset.truth["images"]] == [10, 20]
    assert dataset.checks["faults"] == []  # annotations of images left out are no fault
    assert len(open_data(write_coco(tmp_path), "val", max_images=100)) == 3


def test_fingerprint_knows_content_not_place(tmp_path: Path) -> None:
    first = open_data(write_coco(tmp_path / "a"), "val").fingerprint
    assert open_data(write_coco(tmp_path / "b"), "val").fingerprint == first
    moved = [annotation(1, 10, 7, [1, 1, 5, 5])]
    assert open_data(write_coco(tmp_path / "c", annotations=moved), "val").fingerprint != first
    assert open_data(write_coco(tmp_path / "a"), "val", max_images=2).fingerprint != first


def test_box_over_the_edge_by_rounding_stays_in_the_truth(tmp_path: Path) -> None:
    box = [60.5, 40, 4.01, 8.4]
    dataset = open_data(write_coco(tmp_path, annotations=[annotation(1, 10, 7, box)]), "val")
    assert dataset.truth["annotations"][0]["bbox"] == box
    assert dataset[0][1]["boxes"].tolist() == [[60.5, 40, 64, 48]]
    assert faults(write_coco(tmp_path, annotations=[annotation(1, 10, 7, box)])) == {}


def test_crowd_alone_is_nothing_to_train_on(tmp_path: Path) -> None:
    crowd = annotation(1, 10, 7, [0, 0, 4, 48], iscrowd=1, segmentation=CROWD_RLE)
    config = write_coco(tmp_path, annotations=[crowd])
    with pytest.raises(DataError, match="no object to train on"):
        open_data(config, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": [7]}, "category_id"),
        ({"image_id": None}, "image_id"),
        ({"bbox": None}, "bbox"),
        ({"bbox": [1, 2, [3], 4]}, "bbox"),
        ({"area": "12"}, "area"),
        ({"iscrowd": 2}, "iscrowd"),
        ({"segmentation": "mask"}, "segmentation"),
        ({"segmentation": {"size": [48, 64], "counts": "not RLE"}}, "segmentation"),
        ({"segmentation": {"size": [48, 64], "counts": [3072, -1, 1]}}, "negative"),
        ({"segmentation": {"size": [48, 64]}}, "counts"),
    ],
)
def test_annotation_that_makes_no_sense_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    config = write_coco(tmp_path, annotations=[annotation(3, 10, 7, [1, 1, 5, 5]) | change])
    with pytest.raises(DataError, match=message) as refusal:
        open_data(config, "val")
    assert "a.json: annotation 3" in str(refusal.value)


@pytest.mark.parametrize(
    "polygon",
    [
        [1, 1, 5, 1, 5, 1e12],
        [1, 1, 5, 1, 5, float("nan")],
        [1, 1, 5, 1, 5, 10**400],
        [1, 1, 5, 1, 5, "5"],
        [[1, 1], [5, 1], [5, 5], [1, 5], [1, 1], [1, 1]],
        "polygon",
    ],
)
def test_polygon_that_cannot_be_filled_is_dropped_and_the_rest_kept(
    tmp_path: Path, polygon: Any
) -> None:
    config = write_coco(
        tmp_path,
        annotations=[annotation(1, 10, 7, [1, 1, 30, 30], segmentation=[polygon, *TRIANGLE])],
    )
    dataset = open_data(config, "train")
    assert dataset.truth["annotations"][0]["segmentation"] == TRIANGLE
    assert faults(config) == {"mask_part_dropped": 1}


@pytest.mark.parametrize("file_name", ["", "../1.png", "a/../../1.png", "\0", "x" * 5000, "\ud800"])
def test_file_names_that_are_no_path_inside_are_refused(tmp_path: Path, file_name: str) -> None:
    image = {"id": 10, "file_name": file_name, "width": 64, "height": 48}
    config = write_coco(tmp_path, images=[image], annotations=[])
    with pytest.raises(DataError):
        open_data(config, "val")


def test_links_out_of_the_image_folder_are_refused(tmp_path: Path) -> None:
    config = write_coco(tmp_path / "data")
    shutil.move(tmp_path / "data" / "images" / "2.png", tmp_path / "outside.png")
    (tmp_path / "data" / "images" / "2.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(DataError, match="link that leaves"):
        open_data(config, "val")


def test_image_folder_may_be_a_link_itself(tmp_path: Path) -> None:
    config = write_coco(tmp_path / "data")
    shutil.move(tmp_path / "data" / "images", tmp_path / "elsewhere")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "elsewhere")
    assert len(open_data(config, "val")) == 3


def test_file_exchanged_by_a_link_after_the_check_is_refused(tmp_path: Path) -> None:
    dataset = open_data(write_coco(tmp_path / "data"), "val")
    shutil.move(tmp_path / "data" / "images" / "2.png", tmp_path / "outside.png")
    (tmp_path / "data" / "images" / "2.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(DataError, match="link that leaves"):
        dataset[1]


def test_pipe_is_refused_not_waited_for(tmp_path: Path) -> None:
    config = write_coco(tmp_path)
    (tmp_path / "images" / "2.png").unlink()
    os.mkfifo(tmp_path / "images" / "2.png")
    with pytest.raises(DataError, match="not a regular file"):
        open_data(config, "val")


def test_size_comes_from_the_header_and_from_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("jpg", "png", "webp"):
        file = tmp_path / f"turned.{suffix}"
        Image.new("RGB", (30, 20), (255, 0, 0)).save(file, exif=exif)
        assert image_size(file) == (20, 30)
        assert read_image(file, 20, 30).shape == (30, 20, 3)
        with pytest.raises(DataError, match=r"(30x20|20x30)"):
            read_image(file, 30, 20)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGB"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("image.tif" if mode == "PA" else "image.png")
    image = Image.new("L", (8, 4), 255).convert("RGB").convert(mode if mode != "PA" else "P")
    image.save(file)
    assert (read_image(file, 8, 4) == 255).all()


def test_long_work_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert list(progress.tracked("ab", 2, "letters")) == ["a", "b"]
    assert not caplog.messages
    monkeypatch.setattr(progress, "SECONDS", 0)
    list(progress.tracked("ab", 2, "letters"))
    assert caplog.messages[0].startswith("letters 1/2")


def test_train_and_val_must_be_of_one_task(tmp_path: Path) -> None:
    train = open_data(write_coco(tmp_path / "a"), "train")
    check_same_task(train, open_data(write_coco(tmp_path / "a"), "val"))
    boxes = open_data(write_coco(tmp_path / "a"), "val", masks=False)
    with pytest.raises(DataError, match="val has no masks"):
        check_same_task(train, boxes)
    other = write_coco(
        tmp_path / "b", categories=[{"id": 7, "name": "early"}, {"id": 90, "name": "x"}]
    )
    with pytest.raises(DataError, match="'x'"):
        check_same_task(train, open_data(other, "val"))


def test_configs_are_structured_and_refuse_missing_files(tmp_path: Path) -> None:
    config = OmegaConf.structured(CocoData)
    config.merge_with({"root": str(tmp_path), "train": "a.json", "val": "b.json"})
    plain = OmegaConf.to_object(config)
    assert isinstance(plain, CocoData)
    with pytest.raises(ValueError, match=r"data\.train='a\.json'"):
        plain.check()
    with pytest.raises(ValueError, match=r"data\.root"):
        CocoData(root="", train="a", val="b").check()
    write_coco(tmp_path)
    with pytest.raises(ValueError, match=r"data\.val_images"):
        CocoData(root=str(tmp_path), train="a.json", val="a.json", val_images="no").check()


def test_coco2017_layout(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "annotations").mkdir()
    for year in ("train2017", "val2017"):
        shutil.copytree(tmp_path / "images", tmp_path / year)
        shutil.copy(tmp_path / "a.json", tmp_path / "annotations" / f"instances_{year}.json")
    (tmp_path / "val2017" / "1.png").write_bytes(b"")
    assert len(open_data(Coco2017Data(root=str(tmp_path)), "train")[0][1]["boxes"]) == 2
    with pytest.raises(DataError, match=r"val2017.1\.png"):
        open_data(Coco2017Data(root=str(tmp_path)), "val")
    with pytest.raises(ValueError, match="instances_train2017"):
        Coco2017Data(root=str(tmp_path / "images")).check()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.98))
def test_compressed_rle_is_read_as_pycocotools_writes_it(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    mask = (rng.random((int(rng.integers(1, 40)), int(rng.integers(1, 40)))) < share).astype("u1")
    height, width = mask.shape
    [rle] = masks.encode_bitmaps(mask[None])
    values = mask.flatten(order="F").tolist()
    runs = [len(list(group)) for _, group in groupby(values)]
    plain = {"size": [height, width], "counts": [0, *runs] if values[0] else runs}
    assert masks.checked(rle, height, width) == masks.checked(plain, height, width)
    with pytest.raises(ValueError, match="size"):
        masks.checked(rle, height, width + 1)
    assert (masks.rasterize([rle], width, height)[0] == mask).all()
    assert masks.area(rle, width, height) == mask.sum()


def test_polygons_are_rasterized_as_by_pycocotools() -> None:
    polygons = [[3, 2, 20, 4, 12, 25], [30, 30, 40, 30, 40, 41, 30, 41]]
    ours = masks.rasterize([polygons, CROWD_RLE], 64, 48)
    theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 48, 64)))
    assert (ours[0] == theirs).all()
    assert ours[1, :, :4].all()
    assert not ours[1, :, 4:].any()


def test_other_pixels_are_another_fingerprint(tmp_path, shared):
    source = shared / "data" / "broken"
    fingerprints = []
    for name in ("one", "other"):
        root = tmp_path / name
        (root / "images").mkdir(parents=True)
        shutil.copy(source / "annotations" / "00_good.json", root / "good.json")
        for image in json.loads((root / "good.json").read_text())["images"]:
            shutil.copy(source / "images" / image["file_name"], root / "images")
        config = CocoData(root=str(root), train="good.json", val="good.json")
        fingerprints.append(open_data(config, "val").fingerprint)
        first = next((root / "images").iterdir())
        Image.open(first).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(first, quality=50)
        fingerprints.append(open_data(config, "val").fingerprint)
    assert fingerprints[0] == fingerprints[2]
    assert fingerprints[0] != fingerprints[1]


def test_the_fingerprint_is_of_the_entries_as_python_writes_them(tmp_path: Path) -> None:
    """However the text is made: records of finished runs are found by it."""
    box = {"bbox": [10, 8, 12.5, 12], "area": 140, "iscrowd": 0}
    polygon = [[10, 8, 22.50, 8, 22.5, 2e1, 10.0, 20]]
    config = write_coco(
        tmp_path,
        annotations=[
            {"id": 1, "image_id": 2, "category_id": 7, **box, "segmentation": polygon},
            {"id": 2, "image_id": 1, "category_id": 7, "bbox": [-5, 8, 20, 12], "area": 240.0},
            {"id": 3, "image_id": 2, "category_id": 7, **box, "segmentation": polygon * 2},
            {"id": 4, "image_id": 1, "category_id": 7, **box, "segmentation": [[1, 2], *polygon]},
        ],
        images=[{"id": k, "file_name": f"{k}.png"} for k in (2, 1)],
    )
    dataset = open_data(config, "train", masks=True)
    entries = [list(dataset.annotations(index)) for index in range(2)]
    assert [image["id"] for image, _ in entries] == [2, 1]
    assert [len(group) for _, group in entries] == [2, 2]
    text = "".join(json.dumps(entry, sort_keys=True) for entry in entries)
    content = hashlib.sha256(text.encode()).hexdigest()
    sizes = [(tmp_path / "images" / f"{k}.png").stat().st_size for k in (2, 1)]
    assert dataset.fingerprint_by_size == digest([dataset.categories, content, sizes])
    assert '"bbox": [0, 8, 15, 12]' in text
    assert '"area": 140, "bbox": [10, 8, 12.5, 12]' in text
