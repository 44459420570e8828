import json
import math
import statistics

import pytest
from fabricated_runs import (
    make_detections,
    make_truth,
    note_table,
    pycocotools_result,
    write_run,
)

from ablations.evaluation.metrics import table_metrics
from ablations.record import read_runs
from analysis import frames
from analysis.pages import tables
from analysis.pages.numbers import difference_text
from analysis.pages.tabular import latex_tabular
from analysis.runs import collect

TRUTH = make_truth(6)


def cell(tabular, variant, column):
    (row,) = [row for row in tabular.rows if row[0] == variant]
    return row[tabular.header.index(column)]


def main_tabular(table, iou_type="bbox"):
    changes = frames.differences_to_baseline(table, {})
    return tables.metric_tabular(frames.summary(table), changes, iou_type)


def names(iou_type):
    return [metric.name for metric in table_metrics([iou_type])]


def test_a_baseline_that_failed_leaves_the_table_without_differences_and_says_so(runs):
    note_table(runs, ["exploding", "noproj"], "exploding")
    (table,) = collect(runs)
    assert table.baseline is None
    assert "exploding has no finished run" in table.baseline_origin
    assert cell(main_tabular(table), "noproj", "ΔAP") == "-"


def test_cells_are_means_and_sample_deviations_over_seeds_in_percent_points(runs):
    (table,) = collect(runs)
    tabular = main_tabular(table)
    for name in ("AP", "AP50", "AP_small"):
        values = [
            json.loads((run.folder / "record.json").read_text())["metrics"][name]
            for run in read_runs(runs)
            if run.record.variant == "noproj"
        ]
        expected = f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"
        assert cell(tabular, "noproj", name) == expected
    assert "±" not in cell(tabular, "detnet_resnet50", "AP")
    assert cell(tabular, "noproj", "seeds") == "2"
    assert cell(tabular, "noproj", "images") == "6"
    assert cell(tabular, "noproj", "params (M)") == "25.00"
    assert cell(tabular, "noproj", "MACs (G)") == "4.60"
    assert cell(tabular, "noproj", "images/s") == "12.3"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.013, 0.006, 0.0204, "*"), "+1.3 [+0.6, +2.0] *"),
        ((0.004, -0.003, 0.011, "~"), "+0.4 [-0.3, +1.1] ~"),
        ((-0.0001, -0.02, 0.0001, "~"), "+0.0 [-2.0, +0.0] ~"),
        ((-0.25, math.nan, math.nan, ""), "-25.0"),
        ((math.nan, math.nan, math.nan, "~"), "-"),
    ],
)
def test_a_difference_says_whether_it_is_above_the_noise(numbers, text):
    assert difference_text(*numbers) == text


def test_an_absent_metric_is_a_dash_and_no_zero(runs):
    for path in runs.glob("noproj-*/seed*/record.json"):
        content = json.loads(path.read_text())
        content["metrics"]["AP_large"] = None
        path.write_text(json.dumps(content))
    (table,) = collect(runs)
    assert cell(main_tabular(table), "noproj", "AP_large") == "-"
    changes = frames.differences_to_baseline(table, {})
    assert cell(tables.difference_tabular(changes, ["AP_large"]), "noproj", "ΔAP_large") == "-"


def test_the_threshold_grid_has_the_papers_layout(runs):
    (table,) = collect(runs)
    tabular = tables.threshold_tabular(
        frames.by_threshold_and_scale(frames.cells(table), "bbox", "AP")
    )
    assert tabular.header == ("variant", "scale", "mAP", "AP50", "AP60", "AP70", "AP80", "AP85")
    assert [row[1] for row in tabular.rows] == ["all", "small", "medium", "large"] * 3


def test_masks_have_their_own_columns(tmp_path):
    record = write_run(tmp_path, "detnet59", TRUTH, masks=True)
    (table,) = collect(tmp_path)
    assert table.iou_types == ("bbox", "segm")
    tabular = main_tabular(table, "segm")
    assert cell(tabular, "detnet59", "mask_AP50") == f"{100 * record.metrics['mask_AP50']:.1f}"
    detections = make_detections(TRUTH, 0.5, seed=100, masks=True)
    assert record.metrics["mask_AP"] == pycocotools_result(TRUTH, detections, "segm").stats[0]


def test_the_latex_of_the_main_table_is_free_of_bare_special_characters(runs):
    (table,) = collect(runs)
    body = latex_tabular(main_tabular(table))
    for line in body.splitlines():
        if line.endswith(r"\\"):
            bare = line.replace(r"\_", "").replace(r"\%", "").replace(r"\textasciitilde{}", "")
            assert not set(bare) & set("_%~#^±Δ")


def test_the_baseline_says_so_where_the_others_have_their_difference(runs):
    (table,) = collect(runs)
    assert cell(main_tabular(table), "detnet59", "ΔAP") == "baseline"
    assert cell(main_tabular(table), "noproj", "ΔAP").startswith("-")
