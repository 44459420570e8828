"""One reader of COCO instances, two policies: what training mends, evaluation refuses or tells."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_coco import coco_cells, coco_eval, make_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ablations.data import CocoData, DataError, DetectionDataset, check_same_task, open_data
from ablations.evaluation.coco import Detections, FormatError, Truth
from ablations.evaluation.matching import match
from ablations.evaluation.scoring import score

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


TWO_NUMBERS, FAR = [3, 4], [10, 10, 30, 10, 500, 30]
NAN = float("nan")
REFUSED = None

ODD: dict[str, tuple[dict[str, Any], dict[str, int], str | None]] = {
    "nan in a box": ({"bbox": [10, NAN, 20, 20]}, {"box_not_finite": 1}, REFUSED),
    "negative width": ({"bbox": [30, 10, -20, 20]}, {"box_negative": 1}, REFUSED),
    "box of no width": ({"bbox": [10, 10, 0, 20]}, {"box_empty": 1}, "no width or height"),
    "box beside the image": (
        {"bbox": [60, 10, 20, 20], "segmentation": ABSENT},
        {"box_outside": 1},
        "leave their image",
    ),
    "negative area": ({"area": -400}, {"area_wrong": 1}, REFUSED),
    "unknown image": ({"image_id": 9}, {"unknown_image": 1}, REFUSED),
    "no polygon": ({"segmentation": []}, {"mask_missing": 1}, "without a mask"),
    "one good polygon and one of two numbers": (
        {"segmentation": [SQUARE, TWO_NUMBERS]},
        {"mask_part_dropped": 1},
        REFUSED,
    ),
    "polygon far outside": (
        {"segmentation": [SQUARE, FAR]},
        {"mask_part_dropped": 1},
        REFUSED,
    ),
    "id used twice": ({"id": 1}, {"annotation_ids_renumbered": 1}, "annotation ids"),
}
"""Change, the faults that both policies find, and what 'refuse' says where it does not refuse."""


@pytest.mark.parametrize("case", ODD)
def test_both_policies_find_the_same_faults(tmp_path: Path, case: str) -> None:
    change, faults, note = ODD[case]
    good = annotation(1, 2)
    odd = annotation(2, **change)
    config = write(tmp_path, content(good, odd))
    file = tmp_path / "a.json"

    mended = read(file, "mend")
    assert rules(mended.faults.summary()) == faults
    assert rules(trained_on(config).checks["faults"]) == faults
    if note is not REFUSED:
        kept = read(file, "refuse")
        assert any(note in text for text in kept.notes)
        # What is not dropped may be odd in more ways: no mask fits a box of no width.
        assert faults.items() <= rules(kept.faults.summary()).items()
        return
    with pytest.raises(FormatError) as refusal:
        read(file, "refuse")
    [fault] = mended.faults.summary()
    [field] = set(change) if fault["rule"] != "unknown_image" else {"image_id"}
    named = (str(file), f"annotation {odd['id']}", f"annotations[1].{field}", fault["remedy"])
    assert all(name in str(refusal.value) for name in (*named, "--mend"))


def test_a_category_without_a_name_is_named_by_its_id(tmp_path: Path) -> None:
    for name in (None, "", "  "):
        instances = content(annotation(), categories=[{"id": 1, "name": name}, {"id": 2}])
        config = write(tmp_path, instances)
        assert rules(trained_on(config).checks["faults"]) == {"category_unnamed": 2}
        for policy in ("mend", "refuse"):
            truth = read(tmp_path / "a.json", policy)
            assert truth.category_names == ("1", "2")
            assert rules(truth.faults.summary()) == {"category_unnamed": 2}


def test_mending_leaves_the_same_truth_to_training_and_evaluation(tmp_path: Path) -> None:
    odd = [annotation(k, **change) for k, (change, _, _) in enumerate(ODD.values(), start=2)]
    dataset = trained_on(write(tmp_path, content(annotation(1, 2), *odd)))
    ours, theirs = read(dataset.truth, "refuse"), read(tmp_path / "a.json", "mend")
    order, other = (np.lexsort((*t.boxes.T, t.areas, t.image)) for t in (ours, theirs))
    for name in ("image", "category", "boxes", "areas", "crowd"):
        np.testing.assert_array_equal(getattr(ours, name)[order], getattr(theirs, name)[other])
    np.testing.assert_array_equal(ours.is_region("segm")[order], theirs.is_region("segm")[other])


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="mend, refuse, not 'ignore'"):
        Truth.from_coco(content(), policy="ignore")


def long_polygon() -> list[float]:
    """20,000 points all over an image of 8000 x 8000: 5 GB for pycocotools to fill."""
    return np.random.default_rng(0).uniform(0, 8000, 40_000).round(1).tolist()


def test_the_work_that_a_polygon_makes_is_bounded() -> None:
    images = [{"id": 1, "width": 8000, "height": 8000}]
    instances = content(annotation(segmentation=[long_polygon()]), images=images)
    with pytest.raises(
        FormatError, match=r"annotations\[0\].segmentation: has a polygon whose outline"
    ):
        read(instances, "refuse")
    truth = read(instances, "mend")
    assert rules(truth.faults.summary())["mask_part_dropped"] == 1
    results = [{"image_id": 1, "category_id": 1, "score": 1, "segmentation": [long_polygon()]}]
    with pytest.raises(
        FormatError, match=r"results\[0\].segmentation: has a polygon whose outline"
    ):
        match(truth, Detections.from_coco(results, truth), "segm")


def test_the_work_that_the_polygons_of_a_mask_make_together_is_bounded() -> None:
    images = [{"id": 1, "width": 8000, "height": 8000}]
    some = long_polygon()[:400]
    read(content(annotation(segmentation=[some]), images=images), "refuse")
    instances = content(annotation(segmentation=[some] * 30), images=images)
    with pytest.raises(FormatError, match="has polygons whose outlines are"):
        read(instances, "refuse")
    assert rules(read(instances, "mend").faults.summary())["mask_dropped"] == 1


def test_a_fine_outline_of_a_large_object_is_no_fault() -> None:
    turns = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    radius = 3000 + 100 * np.sin(400 * turns)
    outline = np.stack([4000 + radius * np.cos(turns), 4000 + radius * np.sin(turns)], axis=1)
    box = [*outline.min(axis=0).tolist(), *np.ptp(outline, axis=0).tolist()]
    circle = annotation(bbox=box, area=np.pi * 3000**2, segmentation=[outline.ravel().tolist()])
    truth = read(content(circle, images=[{"id": 1, "width": 8000, "height": 8000}]), "refuse")
    assert truth.notes == {}


# what is told or mended, and what tools usually write

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
    "a two-number polygon alone": ([TWO_NUMBERS], "mask_dropped"),
    "numbers without a polygon around them": (SQUARE, "mask_dropped"),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks_of_nothing_are_dropped_by_name(tmp_path: Path, case: str) -> None:
    segmentation, rule = MASKS[case]
    odd = annotation(2, segmentation=segmentation)
    dataset = trained_on(write(tmp_path, content(annotation(1, 2), odd)))
    found = rules(dataset.checks["faults"])
    assert found.pop("mask_part_dropped", 0) == (len(segmentation) if "drop" in rule else 0)
    assert found == {rule: 1, "mask_missing": 1}
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
        (b'"\xff"', "not valid JSON"),
        (b'{"size": [40, 50], "counts": "\xff"}', "not valid JSON"),
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


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"PK\x03\x04zip", "a zip archive"),
        (b"BZh91AY", "compressed with bzip2"),
        (b"<!DOCTYPE html>", "XML or HTML"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"\xff\xfe{", "not valid JSON"),
        (b"\xed\xa0\x80", "not valid JSON"),
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
    "rle_empty": {"mask_empty": 1, "mask_missing": 1},
    "seg_offimage": {"mask_empty": 1, "mask_missing": 1},
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


# results in other formats


def corners(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def center(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x + width / 2, y + height / 2, width, height]


def shares(box: list[float]) -> list[float]:
    return [value / side for value, side in zip(box, [WIDTH, HEIGHT] * 2, strict=True)]


def swapped(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [y, x, height, width]


FORMATS = {
    "x1, y1, x2, y2": corners,
    "center x, center y, width, height": center,
    "x, y, width, height, as shares": shares,
    "x1, y1, x2, y2, as shares": lambda box: shares(corners(box)),
    "center x, center y, width, height, as shares": lambda box: shares(center(box)),
}
ODD_FORMATS = {
    "y1, x1, y2, x2": lambda box: swapped(corners(box)),
    "y, x, height, width": lambda box: swapped(box),
    "y1, x1, y2, x2, as shares": lambda box: swapped(shares(corners(box))),
    "x, y, width, height, in percent": lambda box: [100 * share for share in shares(box)],
    "x1, y1, x2, y2, in thousandths": lambda box: [1000 * x for x in shares(corners(box))],
}
FIXED = [annotation(k, k % 2 + 1, bbox=[10 + k, 20, 24, 12], area=288) for k in (1, 2, 3, 4)]


def results_of(annotations: list[dict[str, Any]], convert: Any) -> list[dict[str, Any]]:
    return [
        {"image_id": a["image_id"], "category_id": 1, "score": 0.9, "bbox": convert(a["bbox"])}
        for a in annotations
    ]


@pytest.mark.parametrize("written", FORMATS | ODD_FORMATS)
def test_results_in_another_format_are_refused_by_its_name(written: str) -> None:
    truth = Truth.from_coco(content(*FIXED))
    with pytest.raises(FormatError) as refusal:
        Detections.from_coco(results_of(FIXED, (FORMATS | ODD_FORMATS)[written]), truth)
    assert written in str(refusal.value)
    assert "results[0].bbox" in str(refusal.value)
    assert "write x, y, width, height in pixels" in str(refusal.value)


@pytest.mark.parametrize("written", FORMATS)
def test_results_of_a_weak_detector_in_another_format_are_refused(written: str) -> None:
    """Of 200 objects it finds one in four, among many false boxes."""
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, [30, 25], (200, 2)), rng.uniform(4, 15, (200, 2))
    boxes = np.concatenate([corner, side], axis=1).round(1).tolist()
    objects = [
        annotation(k, k % 2 + 1, category_id=1, bbox=box, area=box[2] * box[3], segmentation=ABSENT)
        for k, box in enumerate(boxes, start=1)
    ]
    truth = Truth.from_coco(content(*objects))
    false = [{**objects[k], "bbox": [1, 1, 3 + k / 100, 3]} for k in range(200)]
    found = results_of(objects[::4] + false, FORMATS[written])
    with pytest.raises(FormatError, match=written):
        Detections.from_coco(found, truth)
    assert Detections.from_coco(results_of(objects[::4] + false, list), truth).notes == {}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 200))
def test_results_by_chance_are_not_taken_for_another_format(
    seed: int, num_objects: int, num_results: int
) -> None:
    """An untrained detector says little, but it does say it in COCO's format."""
    rng = np.random.default_rng(seed)

    def boxes(num: int) -> list[list[float]]:
        corner, side = rng.uniform(0, [40, 30], (num, 2)), rng.uniform(2, 30, (num, 2))
        return np.concatenate([corner, side], axis=1).tolist()

    objects = [
        annotation(k, k % 2 + 1, bbox=box, area=box[2] * box[3], segmentation=ABSENT)
        for k, box in enumerate(boxes(num_objects))
    ]
    found = [annotation(k, k % 2 + 1, bbox=box) for k, box in enumerate(boxes(num_results))]
    Detections.from_coco(results_of(found, list), Truth.from_coco(content(*objects)))


def test_results_between_0_and_1_are_shares_even_where_they_find_nothing() -> None:
    truth = Truth.from_coco(content(*FIXED))
    results = results_of(FIXED * 5, lambda box: [0.9, 0.9, 0.1, 0.1])
    with pytest.raises(FormatError, match="shares of the image"):
        Detections.from_coco(results, truth)


def test_results_that_leave_their_images_are_told() -> None:
    truth = Truth.from_coco(content(*FIXED))
    results = results_of(FIXED, lambda box: [40, 30, 20, 20])
    [note] = Detections.from_coco(results, truth).notes
    assert "leave their image" in note


# images and categories as YOLO tools name them


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


# values that an annotation may have, right, odd and wrong

numbers = st.one_of(
    st.integers(-3, 60),
    st.floats(-10, 70),
    st.sampled_from([0, -0.0, 1e-5, NAN, float("inf"), -1e308, 2**63, 10**400, 1e12]),
)
nonsense = st.sampled_from([None, True, "1", [1], {}, -1, 2**63, 2**64, 1.0, 1.5, 0])
polygons = st.lists(
    st.one_of(
        st.just(SQUARE), st.lists(numbers, max_size=9), st.just([60, 60, 70, 60, 70, 70]), nonsense
    ),
    max_size=3,
)
rles = st.fixed_dictionaries(
    {
        "size": st.sampled_from([[HEIGHT, WIDTH], [WIDTH, HEIGHT], [1, 1], "4", None]),
        "counts": st.sampled_from(
            [
                [0, HEIGHT * WIDTH],
                [HEIGHT * WIDTH],
                [5, 5],
                [-1, HEIGHT * WIDTH + 1],
                "Pn1",
                "",
                None,
            ]
        ),
    }
)
odd_annotations = st.fixed_dictionaries(
    {},
    optional={
        "id": nonsense,
        "image_id": st.one_of(st.sampled_from([1, 2, 3, 1.0]), nonsense),
        "category_id": st.one_of(st.sampled_from([1, 2, 2.0]), nonsense),
        "bbox": st.one_of(st.lists(numbers, min_size=4, max_size=4), nonsense),
        "area": st.one_of(numbers, nonsense),
        "iscrowd": st.one_of(st.sampled_from([0, 1, 1.0]), nonsense),
        "segmentation": st.one_of(polygons, rles, nonsense),
    },
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(odd_annotations, min_size=1, max_size=3), st.sampled_from([None, True, False]))
def test_what_opens_is_never_refused_when_it_is_scored(
    tmp_path: Path, odd: list[dict[str, Any]], masks: bool | None
) -> None:
    config = write(
        tmp_path, content(annotation(9, 2), *(annotation(k) | o for k, o in enumerate(odd)))
    )
    config.masks = masks
    try:
        dataset = open_data(config, "val")
    except DataError:
        return
    dataset[0]
    iou_types = ("bbox", "segm") if dataset.has_masks else ("bbox",)
    for source, policy in ((tmp_path / "a.json", "mend"), (dataset.truth, "refuse")):
        truth = Truth.from_coco(source, policy=policy)
        assert len(truth.image) == len(dataset.truth["annotations"])
        for iou_type in iou_types:
            match(truth, Detections.from_coco([], truth), iou_type)
