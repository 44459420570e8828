import json

import numpy as np
import pytest
from fake_coco import break_ties, coco_cells, coco_eval, make_task, repeat_images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.matching import COCO_IOUS, match
from ablations.evaluation.scoring import (
    Cell,
    cells,
    evaluate,
    metrics,
    read_cell,
    score,
    score_resamples,
)

TOLERANCE = 1e-12


def table_of(truth, results, iou_type="bbox", **options):
    truth = Truth.from_coco(truth)
    return match(truth, Detections.from_coco(results, truth), iou_type, **options)


def category_mean(values):
    """Mean over axis 1 of what is not NaN, NaN where all is."""
    masked = np.ma.masked_invalid(values)
    return masked.mean(axis=1).filled(np.nan)


def assert_equal_cells(scores, evaluation):
    ap, ar = coco_cells(evaluation)
    np.testing.assert_allclose(scores.ap, ap, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(scores.ar, ar)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_cell_equals_pycocotools(iou_type, seed):
    truth, results = make_task(seed, masks=iou_type == "segm")
    scores = score(table_of(truth, results, iou_type))
    evaluation = coco_eval(truth, results, iou_type)
    assert_equal_cells(scores, evaluation)
    expected = [
        None if value == -1 else pytest.approx(value, abs=TOLERANCE) for value in evaluation.stats
    ]
    assert list(metrics(scores).values()) == expected


def test_more_than_100_detections_of_a_category_in_an_image():
    truth, results = make_task(3, num_images=4, num_categories=4, detections=500)
    counts = np.unique(
        [(r["image_id"], r["category_id"]) for r in results], axis=0, return_counts=True
    )
    assert counts[1].max() > 100
    assert_equal_cells(score(table_of(truth, results)), coco_eval(truth, results))


def test_many_objects_reach_recall_thresholds_exactly():
    # With 100 objects each recall threshold is met exactly, and ten of COCO's are an ulp too high.
    truth = {
        "images": [{"id": i + 1, "width": 50, "height": 50} for i in range(100)],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81}
            | {"iscrowd": 0}
            for i in range(100)
        ],
    }
    results = []
    for i in range(100):
        box = [0, 0, 9, 9] if i % 3 else [20, 20, 9, 9]
        for box_score in (1 - i / 200, 0.4 - i / 400):
            results.append({"image_id": i + 1, "category_id": 1, "bbox": box, "score": box_score})
            box = [0, 0, 9, 9]
    assert_equal_cells(score(table_of(truth, results)), coco_eval(truth, results))


def test_any_thresholds_areas_and_limits():
    truth, results = make_task(4, num_images=20, detections=40)
    ious, areas, limits = [0.3, 0.5, 0.99, 1.0], {"all": (0, 1e10), "odd": (500, 4000)}, (2, 5, 30)
    scores = score(table_of(truth, results, iou_thresholds=ious, areas=areas, max_dets=limits))
    evaluation = coco_eval(
        truth, results, areas=areas, iouThrs=np.array(ious), maxDets=list(limits)
    )
    assert_equal_cells(scores, evaluation)
    assert metrics(scores)["AP_small"] is None
    assert metrics(scores)["AR100"] is None


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    num_images=st.integers(1, 8),
    num_categories=st.integers(4, 7),
    objects=st.integers(0, 12),
    detections=st.integers(1, 40),
    grid=st.sampled_from([1, 4, 16]),
    score_digits=st.integers(0, 3),
)
def test_random_tasks_equal_pycocotools(seed, **options):
    truth, results = make_task(seed, **options)
    if results:  # pycocotools cannot read an empty list
        assert_equal_cells(score(table_of(truth, results)), coco_eval(truth, results))


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_counts_equal_physically_repeated_images(iou_type):
    truth, results = make_task(5, num_images=15, masks=iou_type == "segm")
    results = break_ties(results)
    table = table_of(truth, results, iou_type)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(15, np.full(15, 1 / 15), size=4).T
    resampled = score_resamples(table, counts)
    for r in range(counts.shape[1]):
        repeated = repeat_images(truth, results, counts[:, r].tolist())
        evaluation = coco_eval(*repeated, iou_type)
        ap, ar = coco_cells(evaluation)
        assert_equal_cells(score(table, counts[:, r]), evaluation)
        np.testing.assert_allclose(resampled.ap[..., r], category_mean(ap), atol=TOLERANCE)
        np.testing.assert_allclose(resampled.ar[..., r], category_mean(ar), atol=TOLERANCE)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_random_counts_equal_repeated_images(seed, data):
    truth, results = make_task(seed, num_images=5, num_categories=4)
    results = break_ties(results)
    counts = data.draw(st.lists(st.integers(0, 4), min_size=5, max_size=5))
    repeated_truth, repeated_results = repeat_images(truth, results, counts)
    if repeated_results:
        scores = score(table_of(truth, results), counts)
        assert_equal_cells(scores, coco_eval(repeated_truth, repeated_results))


def test_resamples_are_independent_of_how_many_are_scored_together():
    table = table_of(*make_task(6))
    counts = np.random.default_rng(1).integers(0, 4, (12, 600))
    together = score_resamples(table, counts)
    alone = score_resamples(table, counts[:, 590:591])
    np.testing.assert_array_equal(together.ap[..., 590], alone.ap[..., 0])
    np.testing.assert_array_equal(together.ar[..., 590], alone.ar[..., 0])


def test_more_detections_than_sixteen_bits_count():
    truth, results = make_task(7, num_images=3, detections=100)
    category = truth["annotations"][0]["category_id"]
    # objects are found last, below more detections than 16 bits count
    of_one = break_ties(
        [{**each, "category_id": category, "score": 1 - each["score"]} for each in results]
    )
    annotations = [{**each, "category_id": category} for each in truth["annotations"]]
    truth = {**truth, "annotations": annotations}
    counts = [255, 200, 250]
    ious, areas = [0.5, 0.75], {"all": (0, 1e10)}
    table = table_of(truth, of_one, iou_thresholds=ious, areas=areas)
    assert np.array(counts)[table.image].sum() > 2**15
    repeated = repeat_images(truth, of_one, counts)
    evaluation = coco_eval(*repeated, areas=areas, iouThrs=np.array(ious))
    assert_equal_cells(score(table, counts), evaluation)


def test_a_resample_without_objects_has_no_score():
    table = table_of(*make_task(6))
    resampled = score_resamples(table, np.zeros((12, 1), np.int64))
    assert np.isnan(resampled.ap).all()
    assert np.isnan(resampled.ar).all()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.ones((3, 2), np.int64), "for 3 images, the table has 12"),
        (np.full((12, 2), 0.5), "whole numbers"),
        (np.full((12, 2), -1), "between 0 and 255"),
        (np.full((12, 2), 256), "between 0 and 255"),
    ],
)
def test_counts_that_cannot_be_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        score_resamples(table_of(*make_task(6)), counts)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_detections_score_zero(iou_type):
    truth, _ = make_task(0, masks=iou_type == "segm")
    scores = score(table_of(truth, [], iou_type))
    present = scores.num_objects[:, 0] > 0
    assert present.any()
    assert (scores.ap[:, present, 0] == 0).all()
    assert metrics(scores)["AP"] == 0


def test_truth_without_objects_has_no_score():
    truth, results = make_task(0)
    scores = metrics(score(table_of({**truth, "annotations": []}, results)))
    assert set(scores.values()) == {None}


def test_evaluation_names_masks_and_fits_in_json():
    truth, results = make_task(1, masks=True)
    for result in results:
        result["bbox"] = [0.0, 0.0, 5.0, 5.0]
    truth_arrays = Truth.from_coco(truth)
    found = evaluate(truth_arrays, Detections.from_coco(results, truth_arrays), ("bbox", "segm"))
    assert {"AP", "AR_large", "mask_AP", "mask_AR_large"} <= found.metrics.keys()
    back = json.loads(json.dumps(found, allow_nan=False))
    assert back == json.loads(json.dumps([found.metrics, found.cells]))


def test_cells_are_read_by_iou_and_scale():
    truth, results = make_task(2, num_images=30)
    kept = json.loads(json.dumps(cells(score(table_of(truth, results)))))
    ap, ar = coco_cells(coco_eval(truth, results))
    for t, iou in enumerate(COCO_IOUS):
        for a, area in enumerate(("all", "small", "medium", "large")):
            expected = np.nanmean(ap[t, :, a, 2])
            assert read_cell(kept, Cell("AP", iou=iou, area=area)) == pytest.approx(expected)
            expected = np.nanmean(ar[t, :, a, 1])
            cell = Cell("AR", iou=iou, area=area, max_dets=10)
            assert read_cell(kept, cell) == pytest.approx(expected)
    assert read_cell(kept, Cell("AP", iou=0.52)) is None
    assert read_cell(kept, Cell("AP", area="tiny")) is None
    category = kept["categories"][0]
    assert category["AP_small"] == pytest.approx(ap[:, 0, 1, 2].mean())


def test_cocos_metrics_without_the_scale_all_are_refused_with_the_remedy():
    scores = score(table_of(*make_task(0), areas={"tiny": (0, 256)}))
    with pytest.raises(ValueError, match="areas tiny: add `all`"):
        metrics(scores)
