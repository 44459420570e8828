import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.published import PAPER_TABLES, detection_results, paper_table, published

PAPER = Path(__file__).parents[3] / "shared" / "PAPER.md"
SIX = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
ZOO_NAMES = {
    "ResNet-50": "detnet_resnet50",
    "ResNet-101": "detnet_resnet101",
    "DetNet-59": "detnet59",
    "Inception-ResNet-v2": "inception_resnet_v2",
    "ResNet-101-C5-dilated": "resnet101_c5_dilated",
}
SCALES = {"all": "", "small": "_small", "middle": "_medium", "large": "_large"}


def paper_rows(table: str) -> list[list[str]]:
    """The cells of one of PAPER.md's tables, without its header."""
    if not PAPER.exists():
        pytest.skip("shared/PAPER.md is not here")
    section = PAPER.read_text().split(f"## Table {table}:")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


REPEATED = {"5": "detnet59_noproj", "6": "detnet_resnet50_dilated"}
"""Of these tables PAPER.md knows the first row, which is Table 1's, and the name of the other."""


def expected(table: str) -> dict[tuple[str, str, str], float]:
    """(detector as named, variant, metric) -> value, read from PAPER.md."""
    if table in REPEATED:
        return {key: v for key, v in expected("1").items() if key[:2] == ("FPN", "detnet59")}
    figures: dict[tuple[str, str, str], float] = {}
    model = ""
    for row in paper_rows(table):
        if table == "1":
            keys = [("", "top1_error"), ("", "GMACs"), *(("FPN", name) for name in SIX)]
            variant = ZOO_NAMES[row[0]]
            cells = [row[1], row[2].removesuffix("G"), *row[3:]]
        elif table == "2":
            keys, cells = [("FPN", name) for name in SIX], row[1:]
            variant = ZOO_NAMES[row[0].removesuffix(" from scratch")]
        elif table in "34":
            model = row[0] or model
            variant, cells = ZOO_NAMES[model], row[2:]
            names = [f"{'AP' if table == '3' else 'AR'}{t}" for t in ("", 50, 60, 70, 80, 85)]
            keys = [("FPN", name + SCALES[row[1]]) for name in names]
        else:
            variant, cells = ZOO_NAMES[row[1]], row[2:]
            keys = [(row[0], ("mask_" if table == "8" else "") + name) for name in SIX]
        for (detector, metric), cell in zip(keys, cells, strict=True):
            if cell != "-":
                figures[detector, variant, metric] = float(cell)
    return figures


@pytest.mark.parametrize("table", ["1", "2", "3", "4", "5", "6", "7", "8"])
def test_every_figure_of_the_paper_stands_in_the_csv_and_no_other(table):
    known = published()
    rows = known[known.table == table]
    keys = list(zip(rows.detector, rows.variant, rows.metric, strict=True))
    assert len(keys) == len(set(keys))
    figures = dict(zip(keys, rows.value, strict=True))
    known = {key: value for key, value in figures.items() if not np.isnan(value)}
    assert known == expected(table)
    assert {key[1] for key in figures.keys() - known.keys()} == {REPEATED.get(table)} - {None}
    assert set(rows.source) == {f"arXiv 1804.06215 / ECCV 2018, Table {table}"}


def test_the_reproductions_of_the_paper_are_told_with_their_repositories():
    known = published()
    rows = known[known.table == ""]
    figures = {
        (re.sub(".*/", "", source), variant, data, metric): value
        for source, variant, data, metric, value in zip(
            rows.source, rows.variant, rows.data, rows.metric, rows.value, strict=True
        )
    }
    assert figures == {
        ("DetNet_pytorch", "detnet59b", "ImageNet", "top1_error"): 23.8,
        ("DetNet_pytorch", "detnet59b", "COCO2017 val", "AP"): 36.0,
        ("DetNet_pytorch", "detnet59b", "VOC07", "VOC_mAP"): 75.9,
        ("DetNet_pytorch", "detnet_resnet101", "VOC07", "VOC_mAP"): 75.7,
        ("DetNet_pytorch", "detnet59b", "VOC07+12", "VOC_mAP"): 80.7,
        ("DetNet_pytorch", "detnet_resnet101", "VOC07+12", "VOC_mAP"): 80.5,
        ("mxnet-detnet", "detnet59", "COCO val2017, multi-scale training", "AP"): 39.7,
    }


def test_figures_known_by_heart():
    known = published().set_index(["table", "variant", "metric"]).value
    assert known["1", "detnet59", "AP"] == 40.2
    assert known["1", "detnet_resnet50", "AP_large"] == 49.2
    assert known["2", "detnet59", "AP"] == 36.3
    assert known["3", "detnet59", "AP85_large"] == 40.0
    assert known["4", "detnet59", "AR50_small"] == 66.4
    assert known["8", "detnet59", "mask_AP75"] == 39.6


def test_the_results_of_a_variant_are_a_row_per_source_with_gaps_where_nothing_is_known():
    rows = detection_results("detnet59").set_index("source")
    assert rows.loc["arXiv 1804.06215 / ECCV 2018, Table 1", SIX].tolist() == [
        40.2, 61.7, 43.7, 23.9, 43.2, 52.0,
    ]  # fmt: skip
    assert rows.loc["arXiv 1804.06215 / ECCV 2018, Table 2", "setting"] == "scratch"
    mxnet = rows.loc["reproduction: BigDeviltjj/mxnet-detnet"]
    assert mxnet["AP"] == 39.7
    assert np.isnan(mxnet["AP50"])
    assert not any("Table 3" in source or "Table 4" in source for source in rows.index)


def test_a_variant_of_which_nothing_is_known_has_no_rows():
    # the paper's Table 5 shows it, but its figures are not known here
    assert detection_results("detnet59_noproj").empty
    assert isinstance(detection_results("no_such_variant"), pd.DataFrame)


def test_the_tables_of_the_two_ablations_hold_detnet_and_an_empty_row():
    for name, other in (("table5", "detnet59_noproj"), ("table6", "detnet_resnet50_dilated")):
        table = paper_table(name).set_index("variant")
        assert list(table.index) == ["detnet59", other]
        assert table.loc["detnet59", SIX].tolist() == [40.2, 61.7, 43.7, 23.9, 43.2, 52.0]
        assert table.loc[other, SIX].isna().all()


def test_a_table_keeps_the_papers_order_with_the_backbones_own_figures_in_every_row():
    table = paper_table("table1")
    assert table["variant"].tolist() == ["detnet_resnet50", "detnet59", "detnet_resnet101"]
    assert table["GMACs"].tolist() == [3.8, 4.8, 7.6]
    assert table["top1_error"].tolist() == [24.1, 23.5, 23.0]
    assert [len(paper_table(name)) for name in PAPER_TABLES] == [3, 2, 2, 2, 2, 2, 7, 5]


def test_another_name_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="'table9' is no table of the paper: give one of table1, "):
        paper_table("table9")


def test_tables_that_repeat_another_do_not_repeat_it_beside_a_variant():
    sources = detection_results("detnet59")["source"].str.extract(r"Table (\d)")[0].dropna()
    assert sorted(sources) == ["1", "2", "7", "8"]
