import json

import pytest
from fabricated_runs import make_truth, note_table, write_run

from analysis import frames
from analysis.pages.published import published_tabulars
from analysis.runs import collect

TRUTH = make_truth(6)


def note_published(runs, name):
    """Note a table of two of the runs whose file says `published: <name>`."""
    note_table(runs, ["detnet59", "noproj"], "detnet59")
    (path,) = runs.glob("table-projection-*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "published": name}))


def tabulars(runs):
    (table,) = collect(runs)
    return published_tabulars(table, frames.cells(table))


def test_measured_stands_beside_published_where_the_paper_knows_the_variant(runs):
    tabular = tabulars(runs)["published"]
    assert {row[0] for row in tabular.rows} == {"detnet59", "detnet_resnet50"}
    first = next(row for row in tabular.rows if row[0] == "detnet_resnet50")
    assert first[1] == "measured here, protocol smoke, scratch"
    published = [row for row in tabular.rows if "Table 2" in row[1] and row[0] == "detnet_resnet50"]
    assert [row[2:] for row in published] == [("34.5", "55.2", "37.7", "20.4", "36.7", "44.5")]


def test_masks_stand_beside_published_masks(tmp_path):
    write_run(tmp_path, "detnet59", TRUTH, masks=True)
    rows = tabulars(tmp_path)["mask_published"].rows
    assert [row[2] for row in rows[1:]] == ["37.1"]


def test_a_table_shows_all_of_its_counterpart_in_the_paper(runs):
    note_published(runs, "table5")
    rows = tabulars(runs)["published"].rows
    assert [row[0] for row in rows] == ["detnet59", "detnet59", "noproj", "detnet59_noproj"]
    assert "Table 5" in rows[1][1]
    assert rows[1][2:] == ("40.2", "61.7", "43.7", "23.9", "43.2", "52.0")
    assert rows[3][2:] == ("-",) * 6


def test_the_first_table_has_the_backbones_own_figures(runs):
    note_published(runs, "table1")
    tabular = tabulars(runs)["published"]
    assert tabular.header[2:5] == ("top-1 error", "MACs (G)", "AP")
    assert [row[2:5] for row in tabular.rows if "Table 1" in row[1]] == [
        ("23.5", "4.8", "40.2"),
        ("24.1", "3.8", "37.9"),
        ("23.0", "7.6", "39.8"),
    ]
    assert tabular.rows[0][2:4] == ("-", "4.80")


@pytest.mark.parametrize(
    ("name", "figure", "large"), [("table3", "mAP", "40.0"), ("table4", "mAR", "56.3")]
)
def test_tables_by_threshold_have_their_own_layout(runs, name, figure, large):
    note_published(runs, name)
    tabular = tabulars(runs)["published"]
    assert tabular.header[2:4] == ("scale", figure)
    assert [row[2] for row in tabular.rows[:4]] == ["all", "small", "medium", "large"]
    assert next(row for row in tabular.rows if "Table" in row[1] and row[2] == "large")[-1] == large
    (table,) = collect(runs)
    wide = frames.by_threshold_and_scale(frames.cells(table), "bbox", figure[1:])
    assert tabular.rows[0][3] == f"{100 * wide.loc[('detnet59', 'all'), figure]:.1f}"


def test_a_table_that_the_paper_does_not_have_is_told_and_the_variants_own_figures_stand(runs):
    note_published(runs, "table9")
    faults = []
    (table,) = collect(runs, faults=faults)
    assert faults == [
        "table projection: published: 'table9' is no table of the paper: give one of table1, "
        "table2, table3, table4, table5, table6, table7, table8 in the table's file"
    ]
    assert "published" in published_tabulars(table, frames.cells(table))
