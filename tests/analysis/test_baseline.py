"""What a table says of its variants against the baseline, from stored detections."""

import numpy as np
import pytest
from fabricated_runs import make_truth, note_table, pycocotools_result, write_run

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.matching import match
from ablations.evaluation.metrics import Cell
from ablations.record import read_runs
from analysis.baseline import compare_to_baseline
from analysis.bootstrap import compare, differences, mean_sample
from analysis.matched import MAX_KEPT, MatchedRuns
from analysis.runs import collect

TRUTH = make_truth(24)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_run(folder, "detnet59", TRUTH, seed=seed, skill=0.9)
        write_run(folder, "noproj", TRUTH, seed=seed, skill=0.3)
    write_run(folder, "single", TRUTH, skill=0.5)
    note_table(folder, ["noproj", "detnet59", "single"], "detnet59")
    (found,) = collect(folder)
    return found


def category_ap(run):
    """AP of each category by pycocotools, in the categories' order."""
    precision = pycocotools_result(TRUTH, run.detections()).eval["precision"][:, :, :, 0, -1]
    return [float(of_one[of_one > -1].mean()) for of_one in np.moveaxis(precision, 2, 0)]


def test_ap_of_a_category_and_its_difference_are_means_over_seeds_of_pycocotools(table):
    frame = compare_to_baseline(table, MatchedRuns(), 100).categories["bbox"]
    expected = {v.name: np.mean([category_ap(run) for run in v.runs], 0) for v in table.variants}
    assert list(dict.fromkeys(frame["variant"])) == ["noproj", "detnet59", "single"]
    for name, rows in frame.groupby("variant"):
        assert rows["category"].tolist() == ["disc", "ring & bar"]
        assert rows["AP"].tolist() == pytest.approx(expected[name])
        if name == "detnet59":
            assert rows["difference"].isna().all()
        else:
            by_hand = expected[name] - expected["detnet59"]
            assert rows["difference"].tolist() == pytest.approx(by_hand)
            assert (rows["low"] < rows["difference"]).all()


def test_the_number_of_objects_of_a_category_is_the_truths(table):
    frame = compare_to_baseline(table, MatchedRuns(), 0).categories["bbox"]
    counts = [sum(a["category_id"] == number for a in TRUTH["annotations"]) for number in (3, 7)]
    assert frame[frame.variant == "single"]["num_objects"].tolist() == counts


def test_the_interval_of_ap_is_that_of_its_difference_to_a_variant_that_finds_nothing(table):
    intervals = compare_to_baseline(table, MatchedRuns(), 200).intervals["bbox"]
    (single,) = [variant.runs[0] for variant in table.variants if variant.name == "single"]
    truth = Truth.from_coco(TRUTH)
    nothing, found = (
        match(truth, Detections.from_coco(detections, truth))
        for detections in ([], single.detections())
    )
    expected = compare([nothing], [found], 200).read(Cell("AP"))
    (expected,) = differences([expected])
    row = intervals.set_index("variant").loc["single"]
    assert row["value"] == pytest.approx(single.record.metrics["AP"])
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))


def test_seeds_that_disagree_widen_the_interval_of_ap():
    alike, apart = (
        np.full((2, 101), 0.4) + np.random.default_rng(0).normal(0, 0.01, 101) + spread
        for spread in (np.zeros((2, 1)), np.array([[-0.05], [0.05]]))
    )
    one, other = (differences([mean_sample(scores, 50)])[0] for scores in (alike, apart))
    assert other.standard_error**2 == pytest.approx(one.standard_error**2 + 0.05**2, rel=1e-6)
    assert other.low < one.low


def test_without_resamples_gains_and_categories_stand_without_differences(table):
    found = compare_to_baseline(table, MatchedRuns(), 0)
    assert found.categories["bbox"]["difference"].isna().all()
    assert not found.gain_differences
    assert set(found.gains["bbox"]["variant"]) == {"noproj", "detnet59", "single"}
    assert found.metrics["low"].isna().all()


def test_a_large_sweep_does_not_keep_all_of_its_matches(tmp_path):
    for seed in range(MAX_KEPT + 2):
        write_run(tmp_path, "detnet59", make_truth(2), seed=seed)
    matched = MatchedRuns()
    runs = read_runs(tmp_path)
    found = [matched.of(run) for run in runs]
    assert matched.of(runs[-1]) is found[-1]
    assert matched.of(runs[0]) is not found[0]
    assert all(matched.num_images_without_detections(run) is not None for run in runs)
