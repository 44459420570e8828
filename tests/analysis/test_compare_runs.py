"""Runs of this project in `analysis.compare`, and scored anew at other scales."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from fabricated_runs import make_truth, write_run
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import analysis
from ablations.record import read_runs
from analysis.compare import main

TRUTH = make_truth(24)
SIDES = (0, 16, 32, 64, 96, 128, math.inf)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_run(folder, "good", TRUTH, seed=seed, skill=0.9)
        write_run(folder, "worse", TRUTH, seed=seed, skill=0.4)
    return folder


def folders(runs, *names):
    found = {run.record.variant: run.folder for run in read_runs(runs) if run.record.seed == 0}
    return [str(found[name]) for name in names]


def pycocotools_ap(run, ious):
    """AP by area bin, over the IoU thresholds."""
    coco = COCO()
    coco.dataset = json.loads(json.dumps(TRUTH))
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(run.detections()), "bbox")
    ends = [(low**2, min(high**2, 1e10)) for low, high in itertools.pairwise(SIDES)]
    evaluation.params.areaRng = [list(pair) for pair in ends]
    evaluation.params.areaRngLbl = [str(pair) for pair in ends]
    evaluation.params.iouThrs = np.array(ious)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]
    precision = np.where(precision > -1, precision, np.nan)
    present = [not np.isnan(precision[:, :, :, a]).all() for a in range(len(ends))]
    return [
        np.nanmean(precision[:, :, :, a].mean(axis=(0, 1))) if present[a] else math.nan
        for a in range(len(ends))
    ]


def test_runs_are_compared_against_their_own_truth_and_by_their_names(runs, capsys):
    assert main([*folders(runs, "good", "worse"), "--resamples", "100", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in content["results"]] == ["good seed 0", "worse seed 0"]
    cells = pd.DataFrame(content["cells"])
    for run in read_runs(runs):
        if run.record.seed == 0:
            ap = cells[
                (cells.variant == f"{run.record.variant} seed 0") & (cells.quantity == "AP")
                & cells.iou.isna() & (cells.area == "all") & (cells.max_dets == 100)
            ]  # fmt: skip
            assert ap["value"].item() == pytest.approx(run.record.metrics["AP"])


def test_scales_by_sides_and_own_thresholds_are_pycocotools(runs, tmp_path):
    words = ["--sides", *map(str, SIDES), "--iou", "0.5", "0.7", "--resamples", "100"]
    assert main([*folders(runs, "good", "worse"), *words, "--out", str(tmp_path)]) == 0
    cells = pd.read_csv(tmp_path / "cells.csv")
    ap = cells[(cells.quantity == "AP") & cells.iou.isna() & (cells.max_dets == 100)]
    ap = ap.set_index(["variant", "area"])["value"]
    for run in read_runs(runs):
        if run.record.seed == 0:
            names = ["0-16", "16-32", "32-64", "64-96", "96-128", "128+"]
            found = [ap.get((f"{run.record.variant} seed 0", name), math.nan) for name in names]
            assert found == pytest.approx(pycocotools_ap(run, [0.5, 0.7]), nan_ok=True)


def test_a_table_is_scored_anew_as_the_mean_over_its_seeds(runs):
    frame = analysis.load(runs).table().scores(sides=SIDES, iou_thresholds=[0.5, 0.7])
    chosen = frame[(frame.metric == "AP") & (frame.max_dets == 100) & (frame.area == "32-64")]
    for name, rows in chosen.groupby("variant"):
        of_runs = [
            pycocotools_ap(run, [iou])[2]
            for run in read_runs(runs)
            if run.record.variant == name
            for iou in (0.5, 0.7)
        ]
        assert rows["mean"].mean() == pytest.approx(np.mean(of_runs))
    usual = analysis.load(runs).table()
    assert usual.scores()["mean"].tolist() == pytest.approx(usual.cells()["mean"].tolist())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sides", "32", "16"], "--sides: sides 32 16: give two or more that rise"),
        (["--truth", "nosuch.json"], "nosuch.json"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(runs, capsys, words, message):
    assert main([*folders(runs, "good"), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_run_and_files_without_truth_are_refused(runs, tmp_path, capsys):
    assert main([str(runs)]) == 2
    assert "no run lies here" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("[]")
    assert main([str(tmp_path / "results.json")]) == 2
    assert "--truth: name the COCO instances file (no run is among them)" in capsys.readouterr().err


def test_runs_over_different_validation_data_need_a_truth(runs, tmp_path, capsys):
    write_run(tmp_path, "other", make_truth(4, seed=1), fingerprint="0ther")
    (other,) = read_runs(tmp_path)
    assert main([*folders(runs, "good"), str(other.folder)]) == 2
    assert "over different validation data" in capsys.readouterr().err


def test_truth_of_runs_that_cannot_be_read_is_refused_with_what_writes_it_anew(tmp_path, capsys):
    write_run(tmp_path, "one", TRUTH)
    (run,) = read_runs(tmp_path)
    run.truth_path.write_bytes(run.truth_path.read_bytes()[:-20])
    assert main([str(run.folder)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {run.truth_path}: not a readable JSON file")
    assert "the training command of its runs, given again, writes it anew" in told


def test_a_run_whose_detections_are_gone_is_refused(tmp_path, capsys):
    write_run(tmp_path, "one", TRUTH, status="failed")
    (run,) = read_runs(tmp_path)
    assert main([str(run.folder)]) == 2
    assert "name a run that is done" in capsys.readouterr().err
