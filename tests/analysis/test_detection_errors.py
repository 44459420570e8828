import json

import numpy as np
import pytest
from fake_coco import coco_cells, coco_eval, make_task
from pandas.testing import assert_frame_equal

from ablations.evaluation.coco import Detections, Truth
from analysis.bootstrap import NotComparableError
from analysis.detection_errors import ERROR_TYPES, compare_errors, correct_errors, find_errors

SMALL, LARGE = [0.0, 0.0, 20.0, 20.0], [100.0, 100.0, 120.0, 120.0]
HALF_FOUND = 51 / 101  # AP of one object found of two: recall thresholds 0 to 0.5


def errors_of(truth, results, iou_type="bbox"):
    truth = Truth.from_coco(truth)
    return find_errors(truth, Detections.from_coco(results, truth), iou_type)


def scene(*objects):
    """A truth of one image with objects (category, box) or (category, box, "crowd")."""
    return {
        "images": [{"id": 1, "width": 400, "height": 400}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(bool(crowd)),
            }
            for i, (category, box, *crowd) in enumerate(objects)
        ],
    }


def detected(*detections):
    """Results (category, box, score) in that image."""
    return [
        {"image_id": 1, "category_id": category, "bbox": box, "score": score}
        for category, box, score in detections
    ]


def shifted(box, share):
    """The box moved right by a share of its width."""
    return [box[0] + share * box[2], *box[1:]]


def gains(errors, area="all"):
    """Gain by type, without those that are zero."""
    frame = errors.frame().set_index(["area", "error"]).loc[area]["gain"]
    return {name: gain for name, gain in frame.items() if abs(gain) > 1e-12}


def counts(errors, area="all"):
    frame = errors.frame().set_index(["area", "error"]).loc[area]["num_errors"]
    return {name: count for name, count in frame.items() if count}


def test_perfect_detections_have_no_errors():
    errors = errors_of(scene((1, SMALL), (1, LARGE)), detected((1, SMALL, 0.9), (1, LARGE, 0.8)))
    assert counts(errors) == gains(errors) == {}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_without_detections_every_object_is_missed(iou_type):
    truth, _ = make_task(0, masks=iou_type == "segm")
    num_objects = sum(not annotation["iscrowd"] for annotation in truth["annotations"])
    assert counts(errors_of(truth, [], iou_type)) == {"Miss": num_objects}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_errors_are_the_same_however_many_detections_are_looked_at_together(monkeypatch, iou_type):
    truth, results = make_task(3, masks=iou_type == "segm")
    at_once = errors_of(truth, results, iou_type).frame()
    monkeypatch.setattr("analysis.detection_errors._AT_ONCE", 7)
    assert_frame_equal(errors_of(truth, results, iou_type).frame(), at_once)


def test_an_object_nothing_is_about_is_missed():
    errors = errors_of(scene((1, SMALL), (1, LARGE)), detected((1, SMALL, 0.9)))
    assert counts(errors) == {"Miss": 1}
    assert gains(errors) == {"Miss": pytest.approx(1 - HALF_FOUND)}


def test_a_box_too_far_off_is_a_location_error_and_no_miss():
    off = shifted(LARGE, 0.5)  # IoU 1 / 3
    errors = errors_of(scene((1, SMALL), (1, LARGE)), detected((1, SMALL, 0.9), (1, off, 0.8)))
    assert counts(errors) == {"Loc": 1}
    assert gains(errors) == {"Loc": pytest.approx(1 - HALF_FOUND)}


def test_a_wrong_class_becomes_a_true_positive_of_the_right_one():
    errors = errors_of(scene((1, SMALL), (2, LARGE)), detected((1, SMALL, 0.9), (1, LARGE, 0.95)))
    # Before: cat has precision 1/2 at recall 1, dog has nothing. After: both are perfect.
    assert counts(errors) == {"Cls": 1}
    assert gains(errors) == {"Cls": pytest.approx(1 - (0.5 + 0) / 2)}


def test_a_second_detection_of_an_object_is_a_duplicate():
    errors = errors_of(
        scene((1, SMALL), (1, LARGE)),
        detected((1, SMALL, 0.9), (1, shifted(SMALL, 0.1), 0.8), (1, LARGE, 0.7)),
    )
    # Precision falls to 2/3 from recall 0.51 on, which is 50 of 101 thresholds.
    assert counts(errors) == {"Dupe": 1}
    assert gains(errors) == {"Dupe": pytest.approx(50 / 101 / 3)}


def test_a_detection_of_nothing_is_background():
    errors = errors_of(scene((1, SMALL)), detected((1, [300, 300, 50, 50], 0.9), (1, SMALL, 0.8)))
    assert counts(errors) == {"Bkg": 1}
    assert gains(errors) == {"Bkg": pytest.approx(0.5)}


def test_a_wrong_class_too_far_off_is_both():
    errors = errors_of(
        scene((1, SMALL), (2, LARGE)),
        detected((1, shifted(LARGE, 0.5), 0.9), (1, SMALL, 0.8), (2, LARGE, 0.8)),
    )
    assert counts(errors) == {"Both": 1}
    assert gains(errors) == {"Both": pytest.approx(0.25)}


def test_only_the_best_error_about_an_object_is_fixed_over_both_types():
    off = shifted(LARGE, 0.5)
    errors = errors_of(
        scene((1, SMALL), (1, LARGE)),
        detected((1, SMALL, 0.9), (1, off, 0.8), (1, shifted(LARGE, 0.6), 0.7), (2, LARGE, 0.95)),
    )
    # The wrong class has the higher score: it becomes the true positive, the others go.
    assert counts(errors) == {"Loc": 2, "Cls": 1}
    assert gains(errors) == {"Cls": pytest.approx(1 - HALF_FOUND)}


def test_an_error_shows_at_the_scale_of_its_object():
    truth = scene((1, SMALL), (1, [40, 0, 20, 20]), (1, LARGE), (1, [250, 0, 120, 120]))
    errors = errors_of(
        truth,
        detected((1, SMALL, 0.9), (1, LARGE, 0.8), (1, shifted([250, 0, 120, 120], 0.5), 0.7)),
    )
    assert counts(errors, "small") == {"Miss": 1}
    assert counts(errors, "large") == {"Loc": 1}
    assert counts(errors, "medium") == {}
    assert gains(errors, "small") == {"Miss": pytest.approx(1 - HALF_FOUND)}
    assert gains(errors, "large") == {"Loc": pytest.approx(1 - HALF_FOUND)}


@pytest.mark.parametrize(("category", "error"), [(1, "Loc"), (2, "Cls")])
def test_a_detection_outside_the_scale_about_an_object_of_it_shows_there(category, error):
    small = [100.0, 100.0, 30.0, 30.0]
    # Concentric: IoU 900 / 1681 for the wrong class, 900 / 1936 for the box too far off.
    side = {"Loc": 44.0, "Cls": 41.0}[error]
    too_large = [115.0 - side / 2, 115.0 - side / 2, side, side]
    truth = scene((1, small), (1, SMALL), (1, LARGE))
    found = detected((1, SMALL, 0.9), (category, too_large, 0.8), (1, LARGE, 0.7))
    errors = errors_of(truth, found)
    assert counts(errors, "all") == counts(errors, "small") == {error: 1}
    assert gains(errors, "small") == {error: pytest.approx(1 - HALF_FOUND)}
    assert counts(errors, "large") == {}
    # About an object that is found it costs nothing at the scale of the object.
    better = errors_of(truth, [*found, *detected((1, small, 0.95))])
    assert counts(better, "small") == {}


def test_crowds_and_what_they_take_are_no_errors():
    errors = errors_of(
        scene((1, SMALL), (1, LARGE, "crowd")),
        detected((1, LARGE, 0.9), (1, shifted(LARGE, 0.1), 0.8), (1, SMALL, 0.7)),
    )
    assert counts(errors) == {}


def test_a_category_of_which_all_is_missed_stays_in_the_mean():
    errors = errors_of(scene((1, SMALL), (2, LARGE)), detected((1, SMALL, 0.9)))
    assert counts(errors) == {"Miss": 1}
    assert gains(errors) == {}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ap50_at_every_scale_is_that_of_pycocotools(iou_type, seed):
    truth, results = make_task(seed, masks=iou_type == "segm")
    ap, _ = coco_cells(coco_eval(truth, results, iou_type))
    expected = np.ma.masked_invalid(ap[0, :, :, 2]).mean(axis=0).filled(np.nan)
    found = errors_of(truth, results, iou_type).gains()[0, :, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_gains_agree_with_an_independent_implementation(iou_type, seed, tmp_path):
    hotcoco = pytest.importorskip("hotcoco", reason="hotcoco is not installed")
    truth, results = make_task(seed, num_images=40, masks=iou_type == "segm", score_digits=9)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    coco = hotcoco.COCO(str(tmp_path / "truth.json"))
    evaluation = hotcoco.COCOeval(coco, coco.load_res(str(tmp_path / "results.json")), iou_type)
    evaluation.evaluate()
    expected = evaluation.tide_errors()
    frame = errors_of(truth, results, iou_type).frame()
    frame = frame[frame["area"] == "all"].set_index("error")
    assert frame["AP50"].iloc[0] == pytest.approx(expected["ap_base"], abs=1e-12)
    for name in ERROR_TYPES:
        assert frame["gain"][name] == pytest.approx(expected["delta_ap"][name], abs=1e-4)
        assert frame["num_errors"][name] == expected["counts"][name]


def test_runs_with_the_same_errors_do_not_differ():
    truth, results = make_task(0)
    errors = errors_of(truth, results)
    frame = correct_errors({"b": compare_errors([errors], [errors], 100)})
    assert (frame["value"] == 0).all()
    assert not frame["real"].any()


def test_the_difference_of_gains_is_paired_and_signed():
    truth, results = make_task(0, num_images=60)
    fewer = results[::2]
    a, b = errors_of(truth, results), errors_of(truth, fewer)
    frame = correct_errors({"b": compare_errors([a], [b], 300)}).set_index(["area", "error"])
    expected = b.gains()[:, :, 0] - a.gains()[:, :, 0]
    assert frame.loc["all", "Miss"]["value"] == pytest.approx(expected[6, 0])
    assert frame.loc["all", "Miss"]["value"] > 0
    assert frame.loc["all", "Miss"]["real"]
    assert frame.loc["small", "Miss"]["low"] < frame.loc["small", "Miss"]["value"]


def test_error_differences_of_more_variants_need_more():
    truth, results = make_task(0, num_images=60)
    a, b, c = (errors_of(truth, some) for some in (results, results[::2], results[1::3]))
    of_b, of_c = compare_errors([a], [b], 200), compare_errors([a], [c], 200)
    alone = correct_errors({"b": of_b})
    together = correct_errors({"b": of_b, "c": of_c})
    assert set(together["variant"]) == {"b", "c"}
    together = together[together["variant"] == "b"]
    assert (together["p_corrected"].to_numpy() >= alone["p_corrected"].to_numpy()).all()
    assert (together["p_corrected"].to_numpy() > alone["p_corrected"].to_numpy()).any()


def test_an_error_difference_that_few_images_carry_is_not_called_real():
    # One image in four has a large object; b misses most of them.
    truth = scene((1, SMALL))
    truth["images"] = [{"id": i, "width": 400, "height": 400} for i in range(1, 61)]
    truth["annotations"] = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": box, "area": box[2] * box[3]}
        for i in range(1, 61)
        for box in [LARGE if i % 4 == 0 else SMALL]
    ]
    found = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.5}
        for a in truth["annotations"]
    ]
    missed = [r for r in found if r["bbox"] != LARGE or r["image_id"] > 50]
    missed = [r for r in missed if r["bbox"] != SMALL or r["image_id"] % 3]
    a, b = errors_of(truth, found), errors_of(truth, missed)
    frame = correct_errors({"b": compare_errors([a], [b], 200)}).set_index(["area", "error"])
    assert frame.loc["small", "Miss"]["real"]
    assert frame.loc["large", "Miss"]["num_images"] == 15
    assert frame.loc["large", "Miss"]["p_corrected"] < 0.05
    assert not frame.loc["large", "Miss"]["real"]


def test_errors_with_too_few_resamples_are_refused():
    errors = errors_of(*make_task(0))
    with pytest.raises(ValueError, match="fewer than 100 resamples"):
        compare_errors([errors], [errors], 99)


def test_a_resample_of_gains_equals_the_gains_of_its_images():
    truth, results = make_task(0, num_images=10)
    counts = np.ones((10, 1), np.uint8)
    counts[[2, 5]] = 0
    gone = {truth["images"][i]["id"] for i in (2, 5)}
    kept = {
        **truth,
        "images": [image for image in truth["images"] if image["id"] not in gone],
        "annotations": [a for a in truth["annotations"] if a["image_id"] not in gone],
    }
    rest = [result for result in results if result["image_id"] not in gone]
    found = errors_of(truth, results).gains(counts)
    np.testing.assert_allclose(found, errors_of(kept, rest).gains(), rtol=0, atol=1e-12)


def test_errors_over_other_images_are_not_compared():
    one, other = (errors_of(*make_task(seed)) for seed in (0, 1))
    with pytest.raises(NotComparableError, match="images differ"):
        compare_errors([one], [other], 100)
