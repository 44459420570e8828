"""The door for notebooks."""

import pandas as pd
import pytest
from fabricated_runs import make_truth, note_table, write_run

import analysis

TRUTH = make_truth(24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    for name, skill in (("detnet59", 0.9), ("noproj", 0.4), ("detnet_resnet50", 0.5)):
        write_run(runs, name, TRUTH, skill=skill)
    note_table(runs, ["detnet59", "noproj", "detnet110"], "detnet59", "small")
    note_table(runs, ["detnet_resnet50", "detnet59"], "detnet_resnet50", "whole")
    return runs


def test_four_lines_give_the_differences_of_a_table(folder):
    table = analysis.load(folder).table("small")
    frame = table.differences(num_resamples=100)
    assert list(frame.columns[:5]) == ["variant", "metric", "difference", "low", "high"]
    assert list(frame["variant"].unique()) == ["noproj"]
    row = frame.set_index("metric").loc["AP"]
    assert row["low"] < row["difference"] < row["high"] < 0
    assert row["mark"] == "*"
    summary = table.summary().set_index("variant")["AP"]
    assert row["difference"] == pytest.approx(summary["noproj"] - summary["detnet59"], abs=1e-12)


def test_the_rows_of_a_cell_and_of_a_metric_agree(folder):
    table = analysis.load(str(folder)).table("small")
    metrics = table.differences(100).set_index("metric")
    cells = table.cell_differences(100)
    (ap50,) = cells.query(
        "quantity == 'AP' and iou == 0.5 and area == 'all' and max_dets == 100"
    ).to_dict("records")
    assert ap50["value"] == metrics.loc["AP50", "difference"]
    assert ap50["p_corrected_in_table"] == metrics.loc["AP50", "p_corrected"]


def test_what_is_absent_and_what_is_published_is_told(folder):
    table = analysis.load(folder).table("small")
    assert table.variants == ("detnet59", "noproj")
    assert table.absent == ("detnet110: missing (no run in this folder)",)
    assert set(table.published()["variant"]) == {"detnet59"}
    assert 40.2 in set(table.published()["AP"])


def test_cells_and_errors_are_frames_over_every_variant(folder):
    table = analysis.load(folder).table("whole")
    for frame in (table.cells(), table.errors()):
        assert list(frame["variant"].unique()) == ["detnet_resnet50", "detnet59"]
    assert isinstance(table.errors("segm"), pd.DataFrame)
    assert table.errors("segm").empty


def test_another_baseline_is_asked_for(folder):
    table = analysis.load(folder, baseline="detnet59").table("whole")
    assert list(table.differences(100)["variant"].unique()) == ["detnet_resnet50"]


def test_a_table_that_is_not_there_is_refused_with_those_that_are(folder):
    with pytest.raises(KeyError, match="table 'big': there are small, whole"):
        analysis.load(folder).table("big")
    with pytest.raises(KeyError, match="table None: there are small, whole"):
        analysis.load(folder).table()


def test_all_that_is_exported_is_there():
    assert all(hasattr(analysis, name) for name in analysis.__all__)


def test_a_notebook_shows_the_reports_own_tables_figures_and_findings(folder):
    table = analysis.load(folder).table("small")
    tabular = table.tabular(num_resamples=100)
    assert tabular._repr_markdown_().startswith("| variant | AP | ΔAP |")
    assert [row[0] for row in tabular.rows] == ["detnet59", "noproj"]
    assert table.tabular("published", 100).rows
    assert len(table.figure("ap-by-scale", 100).axes) == 2
    assert table.findings(100).startswith("detnet59 reaches an AP of ")
    with pytest.raises(KeyError, match=r"tabular 'x': there are .*differences"):
        table.tabular("x", 100)
    with pytest.raises(KeyError, match="figure 'x': there is none"):
        table.figure("x", 100)
