"""What the reader tells or mends of single fields, and what it takes as tools usually write it."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_coco import coco_cells, coco_eval, make_task
from small_coco import (
    ABSENT,
    HEIGHT,
    SQUARE,
    WIDTH,
    annotation,
    content,
    read,
    rules,
    trained_on,
    write,
)

from ablations.data import CocoData, DataError, check_same_task, open_data
from ablations.evaluation.coco import Detections, FormatError, Truth
from ablations.evaluation.matching import match
from ablations.evaluation.scoring import score

OFF_IMAGE = [60, 50, 70, 50, 70, 60]
OF_ANOTHER = [1, 1, 6, 1, 6, 6, 1, 6]
MASKS = {
    "runs of no pixel": ({"size": [HEIGHT, WIDTH], "counts": [2000]}, "mask_empty"),
    "compressed runs of no pixel": ({"size": [HEIGHT, WIDTH], "counts": "`n1"}, "mask_empty"),
    "polygon beside the image": ([OFF_IMAGE], "mask_empty"),
    "polygons beside the image": ([OFF_IMAGE, OFF_IMAGE], "mask_empty"),
    "polygon of no area": ([[10, 10, 30, 10, 20, 10]], "mask_empty"),
    "polygon of one point": ([[10, 10] * 4], "mask_empty"),
    "polygon of another object": ([OF_ANOTHER], "mask_misses_box"),
    "runs of another object": (
        {"size": [HEIGHT, WIDTH], "counts": [45, 5, 1950]},
        "mask_misses_box",
    ),
    "a two-number polygon alone": ([[3, 4]], "mask_dropped"),
    "numbers without a polygon around them": (SQUARE, "mask_dropped"),
}


def test_of_a_mask_that_is_partly_of_use_each_fault_is_told_once(tmp_path: Path) -> None:
    odd = annotation(2, segmentation=[SQUARE, [3, 4], [3, 4], [1, 2, 3, 4, 5, 6, 7]])
    dataset = trained_on(write(tmp_path, content(annotation(1, 2), odd)))
    assert rules(dataset.checks["faults"]) == {"mask_part_dropped": 2}
    assert dataset.annotations(0)[1][0]["segmentation"] == [SQUARE]


@pytest.mark.parametrize("case", MASKS)
def test_masks_of_nothing_are_dropped_by_name(tmp_path: Path, case: str) -> None:
    segmentation, rule = MASKS[case]
    odd = annotation(2, segmentation=segmentation)
    dataset = trained_on(write(tmp_path, content(annotation(1, 2), odd)))
    found = rules(dataset.checks["faults"])
    assert found == {rule: 1}, "one fault, one note"
    assert dataset.checks["num_objects"] == 2
    [kept] = dataset.annotations(0)[1]
    assert kept["segmentation"] is None
    assert kept["iscrowd"] == 0
    if rule != "mask_dropped":
        truth = read(tmp_path / "a.json", "refuse")
        assert rules(truth.faults.summary()) == {rule: 1}
        assert not truth.is_region("segm").any()  # scored as it stands


def test_thin_and_small_masks_are_kept(tmp_path: Path) -> None:
    thin = annotation(
        2, bbox=[10, 10, 30, 1], area=30, segmentation=[[10, 10, 40, 10, 40, 11, 10, 11]]
    )
    small = annotation(3, bbox=[3, 3, 1, 1], area=1, segmentation=[[3, 3, 4, 3, 4, 4, 3, 4]])
    turned = annotation(4, segmentation=[[10, 10, 30, 30, 30, 10, 10, 30]], area=200)
    over = annotation(
        5, segmentation=[[-5, 10, 30, 10, 30, 30, -5, 30]], bbox=[0, 10, 30, 20], area=600
    )
    dataset = trained_on(write(tmp_path, content(annotation(1, 2), thin, small, turned, over)))
    assert dataset.checks["faults"] == []


@pytest.mark.parametrize(
    ("change", "area"),
    [
        ({"area": 1.0}, 1.0),
        ({"area": 1.0, "segmentation": ABSENT}, 1.0),
        ({"area": 20.0}, 20.0),
        ({"area": 1900, "segmentation": ABSENT}, 1900),
    ],
)
def test_an_area_at_odds_is_told_and_stands_unless_it_is_to_be_computed(
    tmp_path: Path, change: dict[str, Any], area: float
) -> None:
    config = write(tmp_path, content(annotation(1, 2), annotation(2, **change)))
    dataset = open_data(config, "val")
    assert rules(dataset.checks["faults"])["area_at_odds"] == 1
    assert [a["area"] for a in dataset.truth["annotations"]] == [area, 400]
    truth = read(tmp_path / "a.json", "refuse")
    assert truth.areas.tolist() == [400, area]
    assert rules(truth.faults.summary())["area_at_odds"] == 1

    config.recompute_areas = True
    assert [a["area"] for a in open_data(config, "val").truth["annotations"]] == [400, 400]
    fresh = Truth.from_coco(tmp_path / "a.json", recompute_areas=True)
    assert fresh.areas.tolist() == [400, 400]


@pytest.mark.parametrize("number", [1, 30])
def test_boxes_as_shares_of_the_image_are_refused(tmp_path: Path, number: int) -> None:
    odd = [annotation(k, bbox=[0.2, 0.25, 0.4 + k / 100, 0.5]) for k in range(1, number + 1)]
    config = write(tmp_path, content(*odd))
    for policy in ("mend", "refuse"):
        with pytest.raises(FormatError, match=r"annotations\[0\].bbox: .*shares of the image"):
            Truth.from_coco(tmp_path / "a.json", policy=policy)
    with pytest.raises(DataError, match=r"annotation 1 .*write x, y, width, height in pixels"):
        open_data(config, "train")


def test_boxes_that_are_left_after_mending_are_looked_at_too(tmp_path: Path) -> None:
    """Or a run would train on them and be refused when it is scored."""
    left = annotation(1, bbox=[0, 0, 1, 1], area=1, segmentation=ABSENT)
    outside = [annotation(k, bbox=[100, 100, 5, 5], area=25) for k in (2, 3, 4)]
    with pytest.raises(DataError, match="shares of the image"):
        open_data(write(tmp_path, content(left, *outside)), "val")


def test_small_boxes_in_the_corner_are_no_shares() -> None:
    corner = annotation(1, bbox=[0, 0, 1, 1], area=1, segmentation=ABSENT)
    assert len(Truth.from_coco(content(corner, annotation(2))).image) == 2


def test_categories_of_one_name_are_told_apart_by_id(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "dog"}]
    config = write(tmp_path, content(annotation(1), annotation(2, 2), categories=categories))
    dataset = open_data(config, "train")
    assert rules(dataset.checks["faults"]) == {"category_name_repeated": 2}
    assert dataset.checks["num_objects_by_category"] == {"cat (1)": 2, "cat (2)": 0, "dog": 0}
    assert Truth.from_coco(tmp_path / "a.json").category_names == ("cat (1)", "cat (2)", "dog")
    categories[2]["name"] = "cat (1)"
    write(tmp_path, content(annotation(1), categories=categories))
    names = Truth.from_coco(tmp_path / "a.json").category_names
    assert names == ("cat (1)", "cat (2)", "cat (1) (3)")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "Cat"),
        ("cat", "cat "),
        ("traffic light", "traffic  light"),
        ("caf\u00e9", "cafe\u0301"),
        ("cat", "cat\u200b"),
        ("\uff43at", "cat"),
    ],
)
def test_categories_whose_names_look_alike_are_told(tmp_path: Path, one: str, other: str) -> None:
    names = enumerate((one, "dog", other), start=1)
    categories = [{"id": number, "name": name} for number, name in names]
    config = write(tmp_path, content(annotation(1), categories=categories))
    dataset = open_data(config, "train")
    [fault] = dataset.checks["faults"]
    assert (fault["rule"], fault["count"]) == ("category_names_alike", 1)
    assert "category 3" in fault["examples"][0]
    assert "category 1" in fault["examples"][0]
    assert list(dataset.checks["num_objects_by_category"]) == [one, "dog", other]
    assert len(Truth.from_coco(tmp_path / "a.json").image) == 1


def test_an_annotation_that_repeats_another_is_told(tmp_path: Path) -> None:
    others = [annotation(3, bbox=[10, 10, 20, 19]), annotation(4, 2), annotation(5, category_id=2)]
    config = write(tmp_path, content(annotation(1), *others, annotation(99)))
    [fault] = open_data(config, "train").checks["faults"]
    assert (fault["rule"], fault["count"]) == ("annotation_repeated", 1)
    assert "annotation 99" in fault["examples"][0]
    assert "annotation 1 " in fault["examples"][0]
    assert rules(Truth.from_coco(tmp_path / "a.json").faults.summary()) == {fault["rule"]: 1}


@pytest.mark.parametrize("other", ["1.png", "./1.png", "a/../1.png", ".//1.png"])
def test_one_file_under_two_names_is_told(tmp_path: Path, other: str) -> None:
    images = [
        {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for number, name in ((1, "1.png"), (2, other))
    ]
    write(tmp_path, content(annotation(), images=images))
    [fault] = Truth.from_coco(tmp_path / "a.json").faults.summary()
    assert fault["rule"] == "duplicate_file_name"
    assert "image 2" in fault["examples"][0]


def test_an_image_in_train_and_val_is_told_once(tmp_path: Path) -> None:
    config = write(tmp_path, content(annotation()))
    train, val = open_data(config, "train"), open_data(config, "val", max_images=1)
    check_same_task(train, val)
    check_same_task(train, val)
    [fault] = val.checks["faults"]
    assert (fault["rule"], fault["count"]) == ("image_in_both_splits", 1)
    assert "image 1" in fault["examples"][0]


def test_other_images_of_the_same_name_are_not_in_both_splits(tmp_path: Path) -> None:
    config = write(tmp_path, content(annotation()))
    (tmp_path / "other").symlink_to(tmp_path / "images")
    shutil.copytree(tmp_path / "images", tmp_path / "others")
    config.val_images = "others"
    train, val = open_data(config, "train"), open_data(config, "val")
    check_same_task(train, val)
    assert val.checks["faults"] == []


def as_floats(value: Any) -> Any:
    """What table tools make of whole numbers."""
    if isinstance(value, dict):
        return {key: as_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_floats(item) for item in value]
    return float(value) if type(value) is int else value


USUAL = {
    "whole numbers as floats": lambda instances: json.dumps(as_floats(instances)).encode(),
    "gzip under the name of a plain file": lambda instances: gzip.compress(
        json.dumps(instances).encode()
    ),
    "UTF-16": lambda instances: json.dumps(instances).encode("utf-16"),
    "UTF-16 without a mark": lambda instances: json.dumps(instances).encode("utf-16-le"),
    "UTF-32": lambda instances: json.dumps(instances).encode("utf-32"),
    "UTF-8 with a mark": lambda instances: json.dumps(instances).encode("utf-8-sig"),
    "null for no crowd": lambda instances: json.dumps(
        instances | {"annotations": [a | {"iscrowd": None} for a in instances["annotations"]]}
    ).encode(),
    "null for no area": lambda instances: json.dumps(
        instances | {"annotations": [a | {"area": None} for a in instances["annotations"]]}
    ).encode(),
    "null for no size": lambda instances: json.dumps(
        instances | {"images": [i | {"width": None, "height": None} for i in instances["images"]]}
    ).encode(),
}


@pytest.mark.parametrize("case", USUAL)
def test_what_tools_usually_write_is_read_alike(tmp_path: Path, case: str) -> None:
    instances = content(annotation(1), annotation(2, 2, category_id=2))
    expected = open_data(write(tmp_path / "plain", instances), "train")
    config = write(tmp_path / "odd", USUAL[case](instances))
    found = open_data(config, "train")
    assert found.truth == expected.truth
    assert found.checks == expected.checks
    truth = Truth.from_coco(tmp_path / "odd" / "a.json")
    assert truth.image_ids.tolist() == [1, 2]
    assert truth.category.tolist() == [0, 1]
    assert truth.areas.tolist() == [400, 400]
    assert not truth.crowd.any()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b'"\xff"', "save it as UTF-8"),
        (b'{"size": [40, 50], "counts": "\xff"}', "save it as UTF-8"),
        (b'{"size": [40, 50], "counts": "\\ud800"}', r"annotations\[0\].segmentation: "),
        (b"[[1, 1, 5, 1, 5, 1e999]]", r"annotations\[0\].segmentation: .*not finite"),
        (b"[" * 100_000 + b"]" * 100_000, "not valid JSON"),
    ],
)
def test_masks_that_cannot_be_parsed_are_refused(
    tmp_path: Path, value: bytes, message: str
) -> None:
    instances = json.dumps(content(annotation(segmentation="here"))).encode()
    write(tmp_path, instances.replace(b'"here"', value))
    with pytest.raises(FormatError, match=message):
        read(tmp_path / "a.json", "refuse")


def test_json_may_begin_far_behind_the_start_of_its_file(tmp_path: Path) -> None:
    config = write(tmp_path, b" \n" * 1000 + json.dumps(content(annotation())).encode())
    assert len(Truth.from_coco(tmp_path / "a.json").boxes) == 1
    assert len(open_data(config, "train")) == 2


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"PK\x03\x04zip", "a zip archive"),
        (b"BZh91AY", "compressed with bzip2"),
        (b"<!DOCTYPE html>", "XML or HTML"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"\xff\xfe{", "not valid JSON: .*UTF-16-LE, .*save it as UTF-8"),
        (b"\xed\xa0\x80", "not valid JSON: .*UTF-8, .*save it as UTF-8"),
        ('{"name": "café"}'.encode("latin-1"), "not valid JSON: .*UTF-8, .*save it as UTF-8"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_what_is_no_json_is_named_as_what_it_is(tmp_path: Path, data: bytes, what: str) -> None:
    config = write(tmp_path, data)
    with pytest.raises(FormatError, match=what):
        Truth.from_coco(tmp_path / "a.json")
    with pytest.raises(DataError, match=what):
        open_data(config, "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 2**63}, "must fit into 64 bits"),
        ({"image_id": 1.5}, "must be a whole number, not 1.5"),
        ({"image_id": 2.0**60}, "must be a whole number"),
        ({"category_id": -(2**63) - 1}, "must fit into 64 bits"),
        ({"bbox": [True, False, True, True]}, "must be four finite numbers"),
        ({"bbox": {"x": 1}}, "must be four finite numbers"),
        ({"area": True}, "must be a finite number, not True"),
        ({"iscrowd": "0"}, "must be 0, 1, true or false"),
        ({"bbox": "x" * 10_000}, r"must be four finite numbers .*\(10002 characters\)"),
    ],
)
def test_what_scoring_refuses_opening_refuses_in_the_same_words(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = write(tmp_path, content(annotation(1), annotation(7, **changes)))
    [field] = changes
    for policy in ("mend", "refuse"):
        with pytest.raises(FormatError, match=rf"annotations\[1\].{field}: {message}"):
            Truth.from_coco(tmp_path / "a.json", policy=policy)
    with pytest.raises(DataError, match=rf"annotations\[1\].{field}: {message}") as refusal:
        open_data(config, "train")
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize("list_name", ["images", "categories"])
def test_ids_that_do_not_fit_are_refused_when_opened(tmp_path: Path, list_name: str) -> None:
    instances = content(annotation(1))
    instances[list_name][1]["id"] = 2**63 + 1
    config = write(tmp_path, instances)
    with pytest.raises(FormatError, match=rf"{list_name}\[1\].id: must fit into 64 bits"):
        Truth.from_coco(tmp_path / "a.json")
    with pytest.raises(DataError, match=rf"{list_name}\[1\].id: must fit into 64 bits"):
        open_data(config, "train")


FOUND: dict[str, dict[str, int] | str] = {
    "area_tiny_wrong": {"area_at_odds": 4},
    "bbox_normalised": r"a.json: annotation 1 .*bbox: .*shares of the image",
    "dup_cat_names": {"category_name_repeated": 2},
    "exact_dup_ann": {"annotation_repeated": 1},
    "float_width": {},
    "gz": {},
    "ignored": {"mask_missing": 1},
    "image_id_63": r"a.json: images\[0\].id: must fit into 64 bits",
    "iscrowd_null": {},
    "rle_empty": {"mask_empty": 1},
    "seg_offimage": {"mask_empty": 1},
}


@pytest.mark.parametrize("case", FOUND)
def test_inputs_found_by_outside_use_end_as_they_should(shared: Path, case: str) -> None:
    root = shared / "data" / "found" / case
    config = CocoData(root=str(root), train="a.json", val="a.json")
    expected = FOUND[case]
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            open_data(config, "train")
        return
    dataset = trained_on(config)
    assert rules(dataset.checks["faults"]) == expected
    assert dataset.checks["num_negatives"] == dataset.checks["num_ignored"] == 0
    assert len(read(root / "a.json", "mend").image) == len(dataset.truth["annotations"])


# objects without a mask


def test_an_object_without_a_mask_counts_as_a_box_and_is_ignored_as_a_mask() -> None:
    """As pycocotools scores it where it is a crowd that fills its box."""
    truth, results = make_task(3, masks=True)
    boxed = [a for a in truth["annotations"] if not a["iscrowd"]][::3]
    for a in boxed:
        a["segmentation"] = None
    ours = Truth.from_coco(truth)
    assert [i for i, r in enumerate(ours.is_region("segm") & ~ours.crowd) if r] == [
        truth["annotations"].index(a) for a in boxed
    ]
    table = match(ours, Detections.from_coco(results, ours), "segm")
    for a in boxed:
        x, y, width, height = a["bbox"]
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        a |= {"segmentation": [corners], "iscrowd": 1}
    precision, recall = coco_cells(coco_eval(truth, results, "segm"))
    scores = score(table)
    np.testing.assert_allclose(scores.ap, precision, atol=1e-12)
    np.testing.assert_array_equal(scores.ar, recall)


def test_an_object_without_a_mask_is_a_box_like_any_other() -> None:
    truth, results = make_task(3)
    drawn = [{**a, "segmentation": None} for a in truth["annotations"]]
    without = Truth.from_coco({**truth, "annotations": drawn})
    plain = Truth.from_coco(truth)
    tables = [match(each, Detections.from_coco(results, each)) for each in (without, plain)]
    np.testing.assert_array_equal(tables[0].outcome, tables[1].outcome)
    np.testing.assert_array_equal(tables[0].truth_counted, tables[1].truth_counted)
