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
from ablations.record import read_runs, write_table
from analysis import frames
from analysis.matched import MatchedRuns
from analysis.pages import tables
from analysis.pages.blocks import Paragraph
from analysis.pages.numbers import difference_text
from analysis.pages.sections import make_section
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


def note_latency(run, p50, num_threads=1):
    """What `ablations.latency` leaves beside a run."""
    latency = {
        "env": {
            "device": "test device", "num_threads": num_threads, "torch": "2.15.0",
            "input_size": [3, 224, 224], "precision": "float32",
        },
        "batch_1": {
            "batch_size": 1, "num_repeats": 50, "p50": p50, "p95": 2 * p50,
            "images_per_second": 1 / p50,
        },
        "batch_8": {
            "batch_size": 8, "num_repeats": 50, "p50": 4 * p50, "p95": 5 * p50,
            "images_per_second": 2 / p50,
        },
    }  # fmt: skip
    (run.folder.parent / "latency.json").write_text(json.dumps(latency))


def test_costs_stand_beside_ap_and_latency_where_it_was_measured(runs):
    (run, *_) = [run for run in read_runs(runs) if run.record.variant == "noproj"]
    note_latency(run, 0.0125)
    (table,) = collect(runs)
    tabular = tables.cost_tabular(table, frames.summary(table), None)
    assert cell(tabular, "noproj", "latency P50 (ms)") == "12.50"
    assert cell(tabular, "noproj", "P95 (ms)") == "25.00"
    assert cell(tabular, "noproj", "images/s at batch 8") == "160.0"
    assert cell(tabular, "noproj", "MACs (G)") == "4.60"
    assert cell(tabular, "detnet59", "latency P50 (ms)") == "-"
    # not measured of any
    assert "memory (GiB)" not in tabular.header


def test_the_page_says_on_what_latency_was_measured_and_warns_where_that_differs(runs):
    note_table(runs, ["detnet59", "noproj"], "detnet59")
    first, *others = {run.record.variant: run for run in read_runs(runs)}.values()
    for threads, warned in ((1, False), (2, True)):
        note_latency(first, 0.01)
        for run in others:
            note_latency(run, 0.01, threads)
        (table,) = collect(runs)
        section = make_section(table, MatchedRuns(), 0, lambda line: None)
        told = [block.text for block in section.blocks({}) if isinstance(block, Paragraph)]
        where = "test device, 1 threads, torch 2.15.0, float32 at 224 x 224, 50 repeats in turns"
        assert f"Latency and images/s of backbones: {where}." in told
        assert any("do not compare them" in line for line in section.warnings) == warned


def test_runs_under_different_protocols_in_one_table_are_told(runs):
    write_run(runs, "noproj", TRUTH, protocol="mini", digest="c" * 10)
    digests = {("detnet59", "smoke"): None, ("noproj", "mini"): None}
    for run in read_runs(runs):
        digests[run.record.variant, run.record.config["protocol"]["name"]] = run.record.digest
    entries = [
        {"variant": name, "digest": digests[name, protocol]}
        for name, protocol in (("detnet59", "smoke"), ("noproj", "mini"))
    ]
    write_table(runs, "mixed", entries, "detnet59")
    (table,) = collect(runs)
    section = make_section(table, MatchedRuns(), 0, lambda line: None)
    (warning,) = section.warnings
    assert "protocol mini: noproj seed 0; protocol smoke: detnet59 seed 0" in warning
    assert [row[0] for row in section.main_tabulars[0].rows] == ["detnet59", "noproj"]
