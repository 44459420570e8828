import json
import math
import statistics

import pytest
from fabricated_runs import make_detections, make_truth, pycocotools_result, write_run

from ablations.record import read_runs, write_table
from ablations.storage import read_json_gz
from analysis import frames as tables
from analysis.bootstrap import Difference
from analysis.frames import ReportError, collect
from analysis.pages.markup import latex_tabular

TRUTH = make_truth(6)


@pytest.fixture
def runs(tmp_path):
    """Baseline with two seeds, a variant with two, one with one, a failed and a missing one."""
    for seed in (0, 1):
        write_run(tmp_path, "detnet59", TRUTH, seed=seed, skill=0.8)
        write_run(tmp_path, "noproj", TRUTH, seed=seed, skill=0.6, macs=4.6e9)
    write_run(tmp_path, "detnet_resnet50", TRUTH, skill=0.4, macs=3.9e9)
    traceback = (
        "Traceback (most recent call last):\n"
        '  File "engine.py", line 1, in fit\n    raise ValueError\n'
        "ValueError: the loss is not finite\nimages 3, 4"
    )
    write_run(tmp_path, "exploding", TRUTH, status="failed", error=traceback)
    return tmp_path


def note(runs, names, baseline, name="projection"):
    digests = {run.record.variant: run.record.digest for run in read_runs(runs)}
    entries = [{"variant": n, "digest": digests.get(n, "0123456789")} for n in names]
    write_table(runs, name, entries, baseline)


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


def cell(tabular, variant, column):
    (row,) = [row for row in tabular.rows if row[0] == variant]
    return row[tabular.header.index(column)]


def test_a_noted_table_keeps_its_order_and_its_baseline(runs):
    note(runs, ["detnet_resnet50", "noproj", "detnet59"], "detnet59")
    (table,) = collect(runs)
    assert table.name == "projection"
    assert [variant.name for variant in table.variants] == ["detnet_resnet50", "noproj", "detnet59"]
    assert table.baseline.name == "detnet59"
    assert [len(variant.runs) for variant in table.variants] == [1, 2, 2]


def test_what_failed_and_what_is_missing_is_named_with_the_errors_own_line(runs):
    note(runs, ["detnet59", "detnet_resnet50", "exploding", "detnet110"], "detnet59")
    (table,) = collect(runs)
    assert [str(absent) for absent in table.absent] == [
        "detnet_resnet50 seed 1: missing (no run in this folder)",
        "exploding seed 0: failed (ValueError: the loss is not finite)",
        "exploding seed 1: missing (no run in this folder)",
        "detnet110: missing (no run in this folder)",
    ]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("disk full\nmore", "disk full"),
        ("", ""),
        ('Traceback (most recent call last):\n  File "a"\nKeyError: 3', "KeyError: 3"),
        (
            'Traceback (most recent call last):\n  File "a"\nKeyError: 3\n\nDuring handling:\n\n'
            'Traceback (most recent call last):\n  File "b"\nOSError: gone\nwhere: here',
            "OSError: gone",
        ),
    ],
)
def test_the_first_line_of_an_error_is_the_one_that_says_what_happened(error, line):
    assert tables.first_line(error) == line


def test_an_unfinished_run_is_told_as_such(runs):
    write_run(runs, "slow", TRUTH, status="running")
    (table,) = collect(runs)
    assert any(str(a).startswith("slow seed 0: running (not finished") for a in table.absent)


def test_a_baseline_that_failed_leaves_the_table_without_differences_and_says_so(runs):
    note(runs, ["exploding", "noproj"], "exploding")
    (table,) = collect(runs)
    assert table.baseline is None
    assert "exploding has no finished run" in table.baseline_origin
    assert cell(tables.summary_tabular(tables.summary(table, {})), "noproj", "ΔAP") == "-"


def test_without_a_noted_table_runs_over_the_same_data_and_protocol_stand_together(runs):
    write_run(runs, "noproj", TRUTH, seed=0, fingerprint="0ther", digest="a" * 10)
    write_run(runs, "detnet59", TRUTH, seed=0, protocol="mini", digest="b" * 10)
    found = {
        (protocol_names(table), fingerprints(table)): [v.name for v in table.variants]
        for table in collect(runs)
    }
    assert found == {
        (("smoke",), ("feedbeef",)): ["detnet59", "detnet_resnet50", "noproj"],
        (("smoke",), ("0ther",)): ["noproj"],
        (("mini",), ("feedbeef",)): ["detnet59"],
    }


def protocol_names(table):
    return tuple(sorted({tables.protocol_name(run) for run in table.runs}))


def fingerprints(table):
    return tuple(sorted({run.record.data["val_fingerprint"] for run in table.runs}))


def test_the_first_variant_is_the_baseline_where_none_is_said(runs):
    (table,) = collect(runs)
    assert (table.baseline.name, table.baseline_origin) == ("detnet59", "the first variant")
    (table,) = collect(runs, baseline="noproj")
    assert (table.baseline.name, table.baseline_origin) == ("noproj", "as asked for")


def test_two_variants_of_one_name_are_told_apart_by_their_digest(runs):
    write_run(runs, "noproj", TRUTH, seed=0, digest="c" * 10)
    (table,) = collect(runs)
    names = [variant.name for variant in table.variants if variant.name.startswith("noproj")]
    assert len(names) == 2
    assert "noproj (cccccccccc)" in names


def test_a_run_is_found_by_its_digest_under_whatever_name_it_was_first_run(runs):
    digest = next(r.record.digest for r in read_runs(runs) if r.record.variant == "detnet59")
    write_table(runs, "dilation", [{"variant": "paper", "digest": digest}], "paper")
    (table,) = collect(runs)
    assert [variant.name for variant in table.variants] == ["paper"]


def test_the_runs_that_no_table_tells_of_are_listed(runs):
    note(runs, ["detnet59", "exploding"], "detnet59")
    outside = tables.outside(collect(runs), read_runs(runs))
    assert {run.record.variant for run in outside} == {"noproj", "detnet_resnet50"}


def test_an_unknown_baseline_is_refused_with_those_there_are(runs):
    with pytest.raises(ReportError, match=r"--baseline nosuch.*detnet59, detnet_resnet50, noproj"):
        collect(runs, baseline="nosuch")


def test_a_table_over_different_validation_data_is_refused(runs):
    write_run(runs, "elsewhere", TRUTH, fingerprint="0ther")
    note(runs, ["detnet59", "elsewhere"], "detnet59")
    with pytest.raises(ReportError, match=r"projection.*0ther: elsewhere"):
        collect(runs)


def test_an_empty_folder_and_one_where_nothing_is_done_are_refused(tmp_path):
    with pytest.raises(ReportError, match="no runs"):
        collect(tmp_path)
    write_run(tmp_path, "exploding", TRUTH, status="failed", error="disk full")
    with pytest.raises(
        ReportError, match=r"no run is done: exploding seed 0: failed \(disk full\)"
    ):
        collect(tmp_path)


def test_cells_are_means_and_sample_deviations_over_seeds_in_percent_points(runs):
    (table,) = collect(runs)
    tabular = tables.summary_tabular(tables.summary(table, {}))
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


def test_the_frame_has_full_precision_and_one_row_per_variant(runs):
    (table,) = collect(runs)
    frame = tables.summary(
        table, {"noproj": {"AP": difference(0.0123456, 0.001, 0.02, p_corrected=0.03)}}
    )
    assert frame.variant.tolist() == ["detnet59", "detnet_resnet50", "noproj"]
    row = frame.set_index("variant").loc["noproj"]
    assert row["AP_difference"] == 0.0123456
    assert bool(row["AP_difference_real"])
    (single,) = [r for r in read_runs(runs) if r.record.variant == "detnet_resnet50"]
    assert frame.set_index("variant").loc["detnet_resnet50", "AP"] == single.record.metrics["AP"]


def test_without_intervals_a_difference_is_that_of_the_means(runs):
    (table,) = collect(runs)
    frame = tables.summary(table, {}).set_index("variant")
    expected = frame.loc["noproj", "AP"] - frame.loc["detnet59", "AP"]
    assert frame.loc["noproj", "AP_difference"] == pytest.approx(expected, abs=1e-15)
    assert cell(tables.summary_tabular(tables.summary(table, {})), "detnet59", "ΔAP") == "baseline"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.013, 0.006, 0.0204, True), "+1.3 [+0.6, +2.0] *"),
        ((0.004, -0.003, 0.011, False), "+0.4 [-0.3, +1.1] ~"),
        ((-0.0001, -0.02, 0.0001, False), "+0.0 [-2.0, +0.0] ~"),
        ((-0.25, math.nan, math.nan, None), "-25.0"),
        ((math.nan, math.nan, math.nan, False), "-"),
    ],
)
def test_a_difference_says_whether_it_is_above_the_noise(numbers, text):
    assert tables.difference_text(*numbers) == text


def test_an_absent_metric_is_a_dash_and_no_zero(runs):
    for path in runs.glob("noproj-*/seed*/record.json"):
        content = json.loads(path.read_text())
        content["metrics"]["AP_large"] = None
        path.write_text(json.dumps(content))
    (table,) = collect(runs)
    frame = tables.summary(table, {})
    assert cell(tables.summary_tabular(frame), "noproj", "AP_large") == "-"
    assert cell(tables.difference_tabular(frame, ["AP_large"]), "noproj", "ΔAP_large") == "-"


def test_ap_and_ar_by_threshold_and_scale_are_those_of_pycocotools(runs):
    (table,) = collect(runs)
    frame = tables.cells(table)
    (run,) = [r for r in read_runs(runs) if r.record.variant == "detnet_resnet50"]
    evaluation = pycocotools_result(TRUTH, read_json_gz(run.detections_path))
    for metric, values in (("AP", "precision"), ("AR", "recall")):
        wide = tables.by_threshold_and_scale(frame, "bbox", metric)
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
    assert tables.by_threshold_and_scale(frame, "bbox", "AP").loc[
        ("detnet_resnet50", "medium"), "mAP"
    ] == pytest.approx(stats[4])
    assert tables.by_threshold_and_scale(frame, "bbox", "AR").loc[
        ("detnet_resnet50", "large"), "mAR"
    ] == pytest.approx(stats[11])


def test_the_threshold_grid_has_the_papers_layout(runs):
    (table,) = collect(runs)
    tabular = tables.threshold_tabular(
        tables.by_threshold_and_scale(tables.cells(table), "bbox", "AP")
    )
    assert tabular.header == ("variant", "scale", "mAP", "AP50", "AP60", "AP70", "AP80", "AP85")
    assert [row[1] for row in tabular.rows] == ["all", "small", "medium", "large"] * 3


def test_measured_stands_beside_published_where_the_paper_knows_the_variant(runs):
    (table,) = collect(runs)
    tabular = tables.published_tabular(table, tables.BOX_METRICS)
    assert {row[0] for row in tabular.rows} == {"detnet59", "detnet_resnet50"}
    first = next(row for row in tabular.rows if row[0] == "detnet_resnet50")
    assert first[1] == "measured here, protocol smoke, scratch"
    published = [row for row in tabular.rows if "Table 2" in row[1] and row[0] == "detnet_resnet50"]
    assert [row[2:] for row in published] == [("34.5", "55.2", "37.7", "20.4", "36.7", "44.5")]
    assert tables.published_tabular(table, tables.MASK_METRICS).rows[1][2] == "37.1"


def test_masks_have_their_own_columns(tmp_path):
    record = write_run(tmp_path, "detnet59", TRUTH, masks=True)
    (table,) = collect(tmp_path)
    assert table.iou_types == ("bbox", "segm")
    tabular = tables.mask_tabular(tables.summary(table, {}))
    assert cell(tabular, "detnet59", "mask_AP50") == f"{100 * record.metrics['mask_AP50']:.1f}"
    detections = make_detections(TRUTH, 0.5, seed=100, masks=True)
    assert record.metrics["mask_AP"] == pycocotools_result(TRUTH, detections, "segm").stats[0]


def test_the_latex_of_the_main_table_is_free_of_bare_special_characters(runs):
    (table,) = collect(runs)
    body = latex_tabular(tables.summary_tabular(tables.summary(table, {})))
    for line in body.splitlines():
        if line.endswith(r"\\"):
            bare = line.replace(r"\_", "").replace(r"\%", "").replace(r"\textasciitilde{}", "")
            assert not set(bare) & set("_%~#^±Δ")
