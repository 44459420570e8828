import gzip
import json

import numpy as np
import pytest
from fake_coco import coco_eval, make_task
from pycocotools import mask

from ablations.evaluation import masks as rle
from ablations.evaluation.coco import Detections, FormatError, Truth
from ablations.evaluation.matching import match


def read(truth, results, **options):
    truth = Truth.from_coco(truth)
    return truth, Detections.from_coco(results, truth, **options)


@pytest.fixture
def task():
    return make_task(0)


@pytest.fixture
def mask_task():
    return make_task(0, masks=True)


def outcomes(table):
    """Outcome of every detection (D, A, T): 0 counts as false, 1 true positive, 2 ignored."""
    dense = np.zeros((len(table.image), len(table.areas), len(table.iou_thresholds)), np.int8)
    dense[table.matched] = table.outcome
    dense[(dense == 0) & ~table.in_area[:, :, None]] = 2
    return dense


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_every_detection_matches_as_in_pycocotools(iou_type):
    truth, results = make_task(7, masks=iou_type == "segm")
    table = match(*read(truth, results), iou_type)
    evaluation = coco_eval(truth, results, iou_type)
    expected = {}
    for image in filter(None, evaluation.evalImgs):
        a = [list(bounds) for bounds in evaluation.params.areaRng].index(list(image["aRng"]))
        for rank in range(len(image["dtIds"])):
            ignored = image["dtIgnore"][:, rank]
            true = (image["dtMatches"][:, rank] > 0) & ~ignored
            key = (image["image_id"], image["category_id"], rank, a)
            expected[key] = np.where(ignored, 2, true).tolist()
    category = np.repeat(np.arange(len(table.category_ids)), np.diff(table.starts))
    found = {
        (
            table.image_ids[table.image[d]],
            table.category_ids[category[d]],
            table.rank[d],
            a,
        ): outcome
        for d, per_area in enumerate(outcomes(table).tolist())
        for a, outcome in enumerate(per_area)
    }
    assert found == expected


def test_order_of_images_in_the_file_does_not_matter(task):
    truth, results = task
    turned = {**truth, "images": truth["images"][::-1], "categories": truth["categories"][::-1]}
    one, other = match(*read(truth, results)), match(*read(turned, results))
    np.testing.assert_array_equal(one.outcome, other.outcome)
    assert one.category_names == other.category_names


def test_annotation_ids_zero_and_twice_change_nothing(task):
    truth, results = task
    odd = [{**annotation, "id": 0} for annotation in truth["annotations"]]
    one, other = match(*read(truth, results)), match(*read({**truth, "annotations": odd}, results))
    np.testing.assert_array_equal(one.outcome, other.outcome)


def test_files_plain_and_gzipped_read_as_their_content(task, tmp_path):
    truth, results = task
    plain, packed = tmp_path / "truth.json", tmp_path / "results.json.gz"
    plain.write_text(json.dumps(truth))
    packed.write_bytes(gzip.compress(json.dumps(results).encode()))
    from_files = Detections.from_coco(packed, Truth.from_coco(plain))
    np.testing.assert_array_equal(from_files.boxes, read(truth, results)[1].boxes)


def test_measure_counts_pixels_as_pycocotools_decodes_them():
    rng = np.random.default_rng(0)
    bitmaps = [np.zeros((7, 9)), np.ones((7, 9))] + [
        rng.random((7, 9)) < p for p in rng.random(300)
    ]
    bitmaps.append(rng.random((900, 700)) < 0.001)
    rles = [mask.encode(np.asfortranarray(bitmap.astype(np.uint8))) for bitmap in bitmaps]
    pixels, areas = rle.measure(rles)
    assert pixels.tolist() == [bitmap.size for bitmap in bitmaps]
    assert areas.tolist() == [mask.decode(code).sum() for code in rles]


@pytest.mark.parametrize("counts", [b"\x01", b"P", "ä".encode(), b"PPP", b"O"])
def test_measure_knows_damaged_runs(counts):
    assert rle.measure([{"size": [9, 9], "counts": counts}])[0].tolist() == [-1]


def broken(entries, index, **changes):
    """A copy of the entries with one of them changed; a change to `del` takes the key out."""
    copied = [dict(entry) for entry in entries]
    for key, value in changes.items():
        if value is del_key:
            del copied[index][key]
        else:
            copied[index][key] = value
    return copied


del_key = object()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 10**6}, r"results\[3\].image_id: 1000000 is not in the truth \(1 such"),
        ({"image_id": "1"}, r"results\[3\].image_id: must be a whole number, not '1'"),
        ({"category_id": 77}, r"results\[3\].category_id: 77 is not in the truth"),
        ({"score": float("nan")}, r"results\[3\].score: must be a finite number, not nan"),
        ({"score": "0.5"}, r"results\[3\].score: must be a finite number, not '0.5'"),
        ({"score": None}, r"results\[3\].score: must be a finite number, not None"),
        ({"score": del_key}, r"results\[3\].score: is absent"),
        ({"bbox": [1, 2, float("nan"), 4]}, r"results\[3\].bbox: must be four finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, r"results\[3\].bbox: .*width >= 0"),
        ({"image_id": 10**30}, r"results\[3\].image_id: must fit into 64 bits"),
        ({"score": 10**400}, r"results\[3\].score: must be a finite number"),
        ({"bbox": [1, 2, 3, 10**400]}, r"results\[3\].bbox: must be four finite numbers"),
        ({"bbox": [1, 2, 3]}, r"results\[3\].bbox: must be four"),
        ({"bbox": ["1", "2", "3", "4"]}, r"results\[3\].bbox: must be four"),
        ({"bbox": del_key}, r"results\[3\].bbox: is absent, .* for all or for none"),
    ],
)
def test_broken_results_are_refused_by_name(task, changes, message):
    truth, results = task
    with pytest.raises(FormatError, match=message):
        read(truth, broken(results, 3, **changes))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [9, 9], "counts": "PT1"}, "size .9, 9. in an image"),
        ({"size": [200, 200], "counts": "PT1"}, r"results\[3\].segmentation: its runs"),
        ({"size": [200, 200], "counts": "T\x01"}, "damaged"),
        ({"size": [200, 200], "counts": [10, 20]}, "runs of 30 pixels in an image of 40000"),
        ({"counts": "PT1"}, "neither a list of polygons nor a mask"),
        ([[1, 2, 3, 4]], "three points"),
    ],
)
def test_broken_masks_are_refused_by_name(mask_task, segmentation, message):
    truth, results = mask_task
    with pytest.raises(FormatError, match=message):
        match(*read(truth, broken(results, 3, segmentation=segmentation)), "segm")


def test_results_that_are_no_list_are_refused(task):
    with pytest.raises(FormatError, match="results are a list of detections, this is dict"):
        read(task[0], {"annotations": []})
    with pytest.raises(FormatError, match=r"results\[0\]: is not an object"):
        read(task[0], [17])


def test_results_for_unknown_images_are_dropped_and_counted_on_request(task):
    truth, results = task
    extra = [{**results[0], "image_id": 10**6}] * 4
    kept = read(truth, results + extra, unknown_images="drop")[1]
    assert kept.notes == {"results dropped, image not in the truth": 4}
    assert len(kept) == len(results)


def test_scores_outside_0_to_1_are_kept_and_counted(task):
    truth, results = task
    detections = read(truth, broken(results, 0, score=-3.5))[1]
    assert detections.notes == {"scores outside [0, 1], kept": 1}
    assert detections.scores[0] == -3.5


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("annotations", {"image_id": 10**6}, r"annotations\[1\].image_id: 1000000 is not in"),
        ("annotations", {"category_id": 77}, r"annotations\[1\].category_id: 77 is not in"),
        ("annotations", {"bbox": [1, 2, -3, 4]}, r"annotations\[1\].bbox: .*width >= 0"),
        ("annotations", {"bbox": del_key}, r"annotations\[1\].bbox: is absent"),
        ("annotations", {"area": float("nan")}, r"annotations\[1\].area: must be a finite"),
        ("annotations", {"area": -1.0}, r"annotations\[1\].area: must not be negative"),
        ("categories", {"id": 2}, r"categories\[1\].id: 2 stands there twice"),
        ("images", {"id": "1"}, r"images\[1\].id: must be a whole number"),
        ("images", {"height": 1.5}, r"images\[1\].height: must be a whole number"),
    ],
)
def test_broken_truth_is_refused_by_name(task, part, changes, message):
    truth = {**task[0], part: broken(task[0][part], 1, **changes)}
    with pytest.raises(FormatError, match=message):
        Truth.from_coco(truth)


def test_truth_without_lists_is_refused(task):
    with pytest.raises(FormatError, match="categories: the list is absent"):
        Truth.from_coco({key: task[0][key] for key in ("images", "annotations")})
    with pytest.raises(FormatError, match="the top level is not an object"):
        Truth.from_coco([])


def test_files_that_are_not_there_or_not_json_are_refused(tmp_path):
    with pytest.raises(FormatError, match="no such file"):
        Truth.from_coco(tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"images": [')
    with pytest.raises(FormatError, match=r"cut\.json: not a readable JSON file"):
        Truth.from_coco(tmp_path / "cut.json")
    (tmp_path / "long.json").write_text("1" * 5000)
    with pytest.raises(FormatError, match=r"long\.json: not a readable JSON file"):
        Truth.from_coco(tmp_path / "long.json")


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:12] + b"\xff" * 30])
def test_damaged_gzip_files_are_refused(task, tmp_path, damage):
    path = tmp_path / "truth.json.gz"
    path.write_bytes(damage(gzip.compress(json.dumps(task[0]).encode())))
    with pytest.raises(FormatError, match=r"truth\.json\.gz: not a readable JSON file"):
        Truth.from_coco(path)


def test_annotations_without_area_take_the_box_and_are_counted(task):
    truth = {**task[0], "annotations": broken(task[0]["annotations"], 1, area=del_key)}
    arrays = Truth.from_coco(truth)
    assert arrays.areas[1] == arrays.boxes[1, 2] * arrays.boxes[1, 3]
    assert arrays.notes["annotations without area, area of the mask or box taken"] == 1


LEAVING = "boxes that leave their image; x, y, width, height are expected"


def test_odd_boxes_of_the_truth_are_counted(task):
    annotations = broken(task[0]["annotations"], 1, bbox=[5.0, 5.0, 0.0, 9.0])
    annotations = broken(annotations, 2, bbox=[150.0, 150.0, 190.0, 190.0])
    for annotation in annotations[:3]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    plain = [{**a, "bbox": [5.0, k, 9.0, 9.0], "area": 81} for k, a in enumerate(annotations)]
    notes = Truth.from_coco({**task[0], "annotations": annotations[:3]}).notes
    assert notes == {"boxes of no width or height, which nothing can match": 1, LEAVING: 1}
    assert Truth.from_coco({**task[0], "annotations": plain}).notes == {}


def test_masks_need_an_image_size_that_can_be(mask_task):
    truth, results = mask_task
    for size, said in (({"height": 60000, "width": 60000}, 60000), ({"height": -1}, -1)):
        images = [{**image, **size} for image in truth["images"]]
        with pytest.raises(FormatError, match=rf"the truth says {said} and"):
            match(*read({**truth, "images": images}, results), "segm")


def test_masks_are_not_looked_at_where_boxes_are_matched(task):
    truth, results = task
    with_masks = [{**result, "segmentation": {"counts": "broken"}} for result in results]
    one, other = match(*read(truth, results)), match(*read(truth, with_masks))
    np.testing.assert_array_equal(one.outcome, other.outcome)
    with pytest.raises(FormatError, match=r"results\[0\].segmentation: is neither"):
        match(*read(truth, with_masks), "segm")


def test_boxes_may_be_arrays(task):
    truth, results = task
    arrays = [{**result, "bbox": np.array(result["bbox"])} for result in results]
    np.testing.assert_array_equal(read(truth, arrays)[1].boxes, read(truth, results)[1].boxes)
    with pytest.raises(FormatError, match=r"results\[2\].bbox: is absent"):
        read(truth, broken(arrays, 2, bbox=np.zeros(0)))


def test_a_truth_without_images_is_refused(task):
    with pytest.raises(FormatError, match="images: the list is empty"):
        Truth.from_coco({**task[0], "images": [], "annotations": []})


@pytest.mark.parametrize("iscrowd", ["0", "1", 2, 0.5, [0]])
def test_a_crowd_flag_that_is_none_is_refused(task, iscrowd):
    annotations = broken(task[0]["annotations"], 1, iscrowd=iscrowd)
    with pytest.raises(FormatError, match=r"annotations\[1\].iscrowd: must be 0, 1, true or false"):
        Truth.from_coco({**task[0], "annotations": annotations})


def test_crowd_flags_may_be_true_and_false(task):
    turned = [{**a, "iscrowd": bool(a["iscrowd"])} for a in task[0]["annotations"]]
    expected = [a["iscrowd"] == 1 for a in task[0]["annotations"]]
    assert Truth.from_coco({**task[0], "annotations": turned}).crowd.tolist() == expected
    assert any(expected)


def test_a_kind_the_detections_do_not_have_is_refused(task, mask_task):
    with pytest.raises(ValueError, match="has no segmentation"):
        match(*read(*task), "segm")
    with pytest.raises(ValueError, match="has no bbox"):
        match(*read(*mask_task), "bbox")
    with pytest.raises(ValueError, match="bbox, segm, not 'keypoints'"):
        match(*read(*task), "keypoints")
