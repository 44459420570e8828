import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.published import detection_results, published

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


def expected(table: str) -> dict[tuple[str, str, str], float]:
    """(detector as named, variant, metric) -> value, read from PAPER.md."""
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


@pytest.mark.parametrize("table", ["1", "2", "3", "4", "7", "8"])
def test_every_figure_of_the_paper_stands_in_the_csv_and_no_other(table):
    known = published()
    rows = known[known.table == table]
    keys = list(zip(rows.detector, rows.variant, rows.metric, strict=True))
    assert len(keys) == len(set(keys))
    assert dict(zip(keys, rows.value, strict=True)) == expected(table)
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
