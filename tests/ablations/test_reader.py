"""One reader of COCO instances, two policies: what training mends, evaluation refuses or tells."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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

from ablations.data import DataError, open_data
from ablations.evaluation.coco import Detections, FormatError, Truth
from ablations.evaluation.matching import match

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
    assert rules(truth.faults.summary())["mask_dropped"] == 1
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
