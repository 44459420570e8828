import math

import pytest
from fabricated_runs import make_truth, pycocotools_result

from ablations.record import read_runs
from ablations.storage import read_json_gz
from analysis import frames
from analysis.bootstrap import Difference
from analysis.runs import collect

TRUTH = make_truth(6)


def difference(value, low, high, p_corrected):
    return Difference(
        value=value,
        low=low,
        high=high,
        standard_error=0.01,
        p_not_better=0.1,
        p=0.01,
        p_corrected=p_corrected,
        num_images=30,
    )


def test_the_summary_has_full_precision_and_one_row_per_variant(runs):
    (table,) = collect(runs)
    frame = frames.summary(table)
    assert frame.variant.tolist() == ["detnet59", "detnet_resnet50", "noproj"]
    (single,) = [r for r in read_runs(runs) if r.record.variant == "detnet_resnet50"]
    assert frame.set_index("variant").loc["detnet_resnet50", "AP"] == single.record.metrics["AP"]


def test_differences_are_a_row_per_variant_and_metric_in_full_precision(runs):
    (table,) = collect(runs)
    found = {"noproj": {"AP": difference(0.0123456, 0.001, 0.02, p_corrected=0.03)}}
    frame = frames.differences_to_baseline(table, found)
    assert list(zip(frame.variant, frame.metric, strict=True)) == [
        (variant, metric)
        for variant in ("detnet_resnet50", "noproj")
        for metric in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    ]
    row = frame.set_index(["variant", "metric"]).loc[("noproj", "AP")]
    assert (row["difference"], row["low"], row["high"]) == (0.0123456, 0.001, 0.02)
    assert (row["p_corrected"], row["num_images"], row["mark"]) == (0.03, 30, "*")


def test_without_intervals_a_difference_is_that_of_the_means_and_has_no_mark(runs):
    (table,) = collect(runs)
    summary = frames.summary(table).set_index("variant")
    expected = summary.loc["noproj", "AP"] - summary.loc["detnet59", "AP"]
    changes = frames.differences_to_baseline(table, {}).set_index(["variant", "metric"])
    row = changes.loc[("noproj", "AP")]
    assert row["difference"] == pytest.approx(expected, abs=1e-15)
    assert row["mark"] == ""
    assert math.isnan(row["low"])


def test_a_difference_below_the_noise_is_marked_as_such():
    found = {"b": {"AP": difference(0.01, -0.01, 0.03, p_corrected=0.4)}}
    assert frames.metric_differences(found)["mark"].tolist() == ["~"]


def test_ap_and_ar_by_threshold_and_scale_are_those_of_pycocotools(runs):
    (table,) = collect(runs)
    frame = frames.cells(table)
    (run,) = [r for r in read_runs(runs) if r.record.variant == "detnet_resnet50"]
    evaluation = pycocotools_result(TRUTH, read_json_gz(run.detections_path))
    for metric, values in (("AP", "precision"), ("AR", "recall")):
        wide = frames.by_threshold_and_scale(frame, "bbox", metric)
        assert list(wide.columns) == [f"m{metric}", *(f"{metric}{t}" for t in (50, 60, 70, 80, 85))]
        array = evaluation.eval[values]
        for a, area in enumerate(("all", "small", "medium", "large")):
            for t, column in ((0, "50"), (2, "60"), (7, "85")):
                cells = array[t, ..., a, -1]
                expected = cells[cells > -1].mean()
                assert wide.loc[("detnet_resnet50", area), metric + column] == pytest.approx(
                    expected
                )
    stats = evaluation.stats
    assert frames.by_threshold_and_scale(frame, "bbox", "AP").loc[
        ("detnet_resnet50", "medium"), "mAP"
    ] == pytest.approx(stats[4])
    assert frames.by_threshold_and_scale(frame, "bbox", "AR").loc[
        ("detnet_resnet50", "large"), "mAR"
    ] == pytest.approx(stats[11])
