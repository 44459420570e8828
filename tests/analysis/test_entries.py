"""What is read of anyone's results files, against pycocotools and counts by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from fake_coco import coco_cells, coco_eval, make_task
from pandas.testing import assert_frame_equal

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.matching import COCO_AREAS, match
from ablations.evaluation.metrics import metrics_of
from ablations.evaluation.scoring import Axes, score
from analysis.categories import category_differences, one_category
from analysis.comparison import distinct, named_cells
from analysis.confusion import confusion
from analysis.detection_errors import find_errors
from analysis.entries import Options, area_bins, as_one_category, names_of, read
from analysis.precision_recall import RECALLS, precision_by_recall


@pytest.fixture(scope="module")
def task():
    content, results = make_task(0, num_images=20)
    truth = Truth.from_coco(content)
    return content, results, truth, Detections.from_coco(results, truth)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["width0.5.json", "width1.0.json.gz"], ["width0.5", "width1.0"]),
        (["a/r.json", "b/r.json", "c/r.json"], ["a/r", "b/r", "c/r"]),
        (["x/a/r.json", "y/a/r.json", "s.json"], ["x/a/r", "y/a/r", "s"]),
        (["r.json", "deep/r.json"], [f"{Path.cwd().name}/r", "deep/r"]),
    ],
)
def test_files_are_called_by_what_tells_them_apart(paths, names):
    assert names_of([Path(path) for path in paths]) == names


def test_the_same_file_twice_cannot_be_told_apart():
    with pytest.raises(ValueError, match="not all different"):
        names_of([Path("r.json"), Path("r.json")])


def test_areas_without_all_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="areas tiny: add `all`"):
        Options(areas={"tiny": (0, 256)})


def read_one(task, tmp_path, options):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(task[1]))
    (entry,) = read(task[2], [path], ["a"], options)
    return entry


def test_class_agnostic_ap_is_that_of_pycocotools_on_one_category(task, tmp_path):
    content, results, *_ = task
    one = {"category_id": content["categories"][0]["id"]}
    merged = {
        **content,
        "categories": content["categories"][:1],
        "annotations": [{**annotation, **one} for annotation in content["annotations"]],
    }
    ap, _ = coco_cells(coco_eval(merged, [{**result, **one} for result in results]))
    entry = read_one(task, tmp_path, Options(class_agnostic=True))
    np.testing.assert_allclose(entry.scores.ap, ap, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(iou_thresholds=(0.3, 0.5, 0.7)),
        Options(iou_thresholds=(0.6,)),
        Options(max_dets=(1, 5)),
        Options(areas={"all": (0, 2000), "large": (2000, 1e10)}),
    ],
    ids=["COCO", "lower thresholds", "without 0.5", "few", "scales"],
)
def test_errors_and_confusion_are_those_of_detections_matched_for_them_alone(
    options, task, tmp_path
):
    entry = read_one(task, tmp_path, options)
    truth, detections = task[2:4]
    limit = max(options.max_dets or (100,))
    errors = find_errors(truth, detections, areas=options.areas, max_det=limit)
    assert_frame_equal(entry.errors.frame(), errors.frame())
    np.testing.assert_array_equal(entry.confusion, confusion(truth, detections))


def micro_ap_by_counting(truth, detections, iou=0.5):
    """AP over all categories in one list, from which category each detection was matched in."""
    matches = match(truth, detections, iou_thresholds=[iou])
    scored = []
    for k, category in enumerate(matches.category_ids):
        rows = np.flatnonzero(detections.category == np.flatnonzero(truth.category_ids == category))
        falling = np.lexsort((detections.image[rows], -detections.scores[rows]))
        start, end = matches.starts[k : k + 2]
        assert len(rows) == end - start  # none beyond the limit of detections in this task
        outcome = np.zeros(end - start, int)
        inside = (matches.matched >= start) & (matches.matched < end)
        outcome[matches.matched[inside] - start] = matches.outcome[inside, 0, 0]
        scored += zip(detections.scores[rows][falling], outcome, strict=True)
    scored.sort(key=lambda pair: -pair[0])
    found = np.cumsum([outcome == 1 for _, outcome in scored if outcome != 2])
    num_objects = np.count_nonzero(~truth.crowd)
    precision = found / np.arange(1, len(found) + 1)
    best = [max(precision[found / num_objects >= recall], default=0) for recall in RECALLS]
    return np.mean(best)


def test_micro_ap_is_that_of_all_detections_in_one_list(task, tmp_path):
    entry = read_one(task, tmp_path, Options())
    ap50 = entry.micro.ap[0, 0, 0, -1]
    assert ap50 == pytest.approx(micro_ap_by_counting(*task[2:]), abs=1e-12)
    assert ap50 != pytest.approx(np.nanmean(entry.scores.ap[0, :, 0, -1]), abs=1e-3)


def test_micro_ap_of_one_category_is_its_ap(task, tmp_path):
    entry = read_one(task, tmp_path, Options(class_agnostic=True))
    np.testing.assert_array_equal(entry.micro.ap, entry.scores.ap)


def test_precision_by_recall_is_that_of_pycocotools(task):
    content, results, truth, detections = task
    matches = match(truth, detections)
    evaluation = coco_eval(content, results)
    expected = evaluation.eval["precision"][:, :, :, 0, -1]
    for t in (0, 5, 9):
        found = precision_by_recall(matches, t).T
        np.testing.assert_allclose(np.where(np.isnan(found), -1, found), expected[t], atol=1e-9)
    small = precision_by_recall(matches, 0, "small").T
    expected = evaluation.eval["precision"][0, :, :, 1, -1]
    np.testing.assert_allclose(np.where(np.isnan(small), -1, small), expected, atol=1e-9)


def test_one_category_is_scored_as_it_is_among_all(task):
    matches = match(*task[2:])
    whole = score(matches).ap[:, :, 0, -1]
    for k in range(len(matches.category_ids)):
        alone = score(one_category(matches, k)).ap[:, 0, 0, 0]
        np.testing.assert_array_equal(alone, whole[:, k])


def test_the_difference_of_a_category_is_that_of_its_ap(task):
    content, results, truth, detections = task
    fewer = Detections.from_coco(results[::2], truth)
    base, other = match(truth, detections), match(truth, fewer)
    found = category_differences(base, {"fewer": other}, 100)["fewer"]
    ours, theirs = (coco_cells(coco_eval(content, some))[0] for some in (results[::2], results))
    expected = (ours - theirs)[:, :, 0, 2].mean(axis=0)
    assert set(found) == set(np.flatnonzero(~np.isnan(expected)))
    for k, difference in found.items():
        assert difference.value == pytest.approx(expected[k], abs=1e-12)
        assert difference.low <= difference.high


def test_category_differences_are_corrected_over_all_categories_and_variants(task):
    _, results, truth, detections = task
    base = match(truth, detections)
    fewer, fewest = (match(truth, Detections.from_coco(results[::n], truth)) for n in (2, 3))
    alone = category_differences(base, {"fewer": fewer}, 200)["fewer"]
    together = category_differences(base, {"fewer": fewer, "fewest": fewest}, 200)["fewer"]
    assert all(together[k].p_corrected >= alone[k].p_corrected for k in alone)
    assert all(each.p_corrected >= each.p for each in alone.values())


def scene(objects, detected):
    """An image with objects and detections (category, x) of 100 x 100 pixels; score falls."""
    content = {
        "images": [{"id": 1, "width": 1000, "height": 1000}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {
                "id": n + 1, "image_id": 1, "category_id": category, "iscrowd": crowd,
                "bbox": [x, 0, 100, 100], "area": 10_000,
            }
            for n, (category, x, crowd) in enumerate(objects)
        ],
    }  # fmt: skip
    truth = Truth.from_coco(content)
    results = [
        {"image_id": 1, "category_id": category, "bbox": [x, 0, 100, 100], "score": score}
        for category, x, score in detected
    ]
    return truth, Detections.from_coco(results, truth)


def test_a_confusion_matrix_tells_right_wrong_background_and_missed():
    objects = [(1, 0, 0), (1, 300, 0), (2, 600, 0), (2, 800, 0)]
    detected = [(1, 5, 0.9), (2, 310, 0.8), (2, 600, 0.7), (1, 150, 0.6), (2, 800, 0.4)]
    assert confusion(*scene(objects, detected)).tolist() == [[1, 1, 0], [0, 1, 1], [1, 0, 0]]


def test_an_object_that_its_own_category_finds_is_not_confused():
    """The wrong class has the higher score and the higher IoU, and is background all the same."""
    matrix = confusion(*scene([(1, 0, 0)], [(2, 0, 0.9), (1, 20, 0.6)]))
    assert matrix.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_crowds_and_what_lies_on_them_are_left_out():
    matrix = confusion(*scene([(1, 0, 1)], [(1, 0, 0.9)]))
    assert matrix.sum() == 0


def test_a_confusion_matrix_counts_every_object_and_every_detection_once(task):
    _, _, truth, detections = task
    matrix = confusion(truth, detections, min_score=0.3)
    objects = np.bincount(truth.category[~truth.crowd], minlength=len(truth.category_ids))
    assert matrix[:-1].sum(axis=1).tolist() == objects.tolist()
    matches = match(truth, detections, iou_thresholds=[0.5], areas={"all": COCO_AREAS["all"]})
    assert np.trace(confusion(truth, detections, min_score=-np.inf)) == (matches.outcome == 1).sum()


def test_the_named_cells_of_cocos_axes_are_cocos_metrics(task):
    axes = Axes.of(match(*task[2:]))
    assert named_cells(axes) == {metric.name: metric.cell for metric in metrics_of("bbox")}


def test_categories_of_one_name_are_told_apart_by_their_ids():
    assert distinct(("cat", "dog", "cat"), (3, 4, 9)) == ("cat (3)", "dog", "cat (9)")


def test_as_one_category_keeps_objects_and_detections(task):
    truth, detections = as_one_category(*task[2:])
    assert len(truth.image) == len(task[2].image)
    assert len(detections) == len(task[3])
    assert set(truth.category) == set(detections.category) == {0}


def test_scales_by_the_sides_of_squares_are_cocos_where_the_sides_are():
    bins = area_bins([0, 32, 96, math.inf])
    assert list(bins) == ["0-32", "32-96", "96+"]
    assert list(bins.values()) == [COCO_AREAS[name] for name in ("small", "medium", "large")]


@pytest.mark.parametrize("sides", [[], [16], [32, 16], [16, 16], [-1, 16], [math.nan, 3]])
def test_sides_that_make_no_scales_are_refused(sides):
    with pytest.raises(ValueError, match="give two or more that rise"):
        area_bins(sides)
