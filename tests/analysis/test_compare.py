import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from fake_coco import coco_cells, coco_eval, make_task

from analysis.compare import main


@pytest.fixture(scope="module")
def task():
    truth, results = make_task(0, num_images=20)
    worse = [result for i, result in enumerate(results) if i % 3]
    return truth, results, worse


@pytest.fixture
def files(task, tmp_path):
    paths = [tmp_path / name for name in ("truth.json", "good.json", "worse.json")]
    for path, content in zip(paths, task, strict=True):
        path.write_text(json.dumps(content))
    return [str(path) for path in paths]


def run(files, *options):
    truth, *results = files
    return main(["--truth", truth, *results, "--resamples", "100", *options])


def test_everything_is_printed_and_written(files, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(files, "--out", str(out)) == 0
    printed = capsys.readouterr().out
    for text in (
        "20 images",
        "100 paired resamples",
        "Images with objects: all ",
        "; no detection in 2 of 20 images",  # every seventh has none
        "DIFFERENCES TO GOOD",
        "Miss",
        "AP_small",
    ):
        assert text in printed
    pictures = (
        *("ap-by-iou-and-scale", "precision-recall", "differences", "errors"),
        *("confusion-1", "confusion-2"),
    )
    figures = [f"{name}.{suffix}" for name in pictures for suffix in ("png", "svg")]
    tables = [
        *("cells.csv", "categories.csv", "precision-recall.csv", "confusion.csv", "errors.csv"),
        *("differences.csv", "metric-differences.csv", "category-differences.csv"),
        "error-differences.csv",
    ]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*figures, *tables, "comparison.md"]
    )
    assert "(ap-by-iou-and-scale.png)" in (out / "comparison.md").read_text()


def test_written_cells_are_those_of_pycocotools(task, files, tmp_path):
    run(files, "--out", str(tmp_path))
    cells = pd.read_csv(tmp_path / "cells.csv").query("variant == 'worse' and quantity == 'AP'")
    found = cells.set_index(["iou", "area", "max_dets"])["value"]
    ap, _ = coco_cells(coco_eval(task[0], task[2]))
    for t, iou in enumerate((0.5, 0.55, 0.6)):
        for a, area in enumerate(("all", "small", "medium")):
            expected = np.nanmean(ap[t, :, a, 2])
            assert found[iou, area, 100] == pytest.approx(expected, abs=1e-12)
    assert (0.5, "large", 100) not in found.index  # the task has no large object


def test_written_differences_are_later_minus_first(files, tmp_path):
    run(files, "--out", str(tmp_path))
    cells = pd.read_csv(tmp_path / "cells.csv")
    keys = ["quantity", "iou", "area", "max_dets"]
    good, worse = (
        cells[cells["variant"] == name].set_index(keys)["value"] for name in ("good", "worse")
    )
    found = pd.read_csv(tmp_path / "differences.csv").set_index(keys)
    np.testing.assert_allclose(found["value"], (worse - good).loc[found.index], atol=1e-12)
    assert (found["low"] <= found["high"]).all()


def test_one_file_is_scored_without_differences(files, capsys):
    assert run(files[:2]) == 0
    printed = capsys.readouterr().out
    assert "AP AND AR BY IOU AND SCALE" in printed
    assert "DIFFERENCES" not in printed


def test_masks_are_compared(tmp_path, capsys):
    truth, results = make_task(0, masks=True)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "masks.json").write_text(json.dumps(results))
    assert (
        run([str(tmp_path / "truth.json"), str(tmp_path / "masks.json")], "--iou-type", "segm") == 0
    )
    assert "masks." in capsys.readouterr().out


def test_masks_of_a_detector_that_finds_nothing_are_compared(tmp_path, capsys):
    truth, results = make_task(0, masks=True)
    paths = [tmp_path / name for name in ("truth.json", "some.json", "none.json")]
    for path, content in zip(paths, (truth, results, []), strict=True):
        path.write_text(json.dumps(content))
    assert run(list(map(str, paths)), "--iou-type", "segm") == 0
    assert "none: 0 detections; no detection in 12 of 12 images." in capsys.readouterr().out


def test_the_csv_tells_both_corrections_apart(files, tmp_path):
    run(files, "--out", str(tmp_path))
    found = pd.read_csv(tmp_path / "differences.csv")
    assert list(found.columns[:5]) == ["variant", "quantity", "iou", "area", "max_dets"]
    in_table = found["p_corrected_in_table"].notna()
    assert in_table.sum() == 10  # of COCO's twelve, without the two of large objects
    assert found.loc[in_table, "real_in_table"].notna().all()
    both = found[in_table]
    assert (both["p_corrected_of_all_cells"] >= both["p_corrected_in_table"]).all()
    assert (both["p_corrected_of_all_cells"] > both["p_corrected_in_table"]).any()


def test_the_errors_of_all_variants_are_corrected_together(task, files, tmp_path):
    third = tmp_path / "third.json"
    third.write_text(json.dumps(task[1][::2]))
    found = {}
    for name, some in (("two", files), ("three", [*files, str(third)])):
        run(some, "--out", str(tmp_path / name))
        frame = pd.read_csv(tmp_path / name / "error-differences.csv").query("variant == 'worse'")
        found[name] = frame["p_corrected"].to_numpy()
    assert (found["three"] >= found["two"]).all()
    assert (found["three"] > found["two"]).any()


def test_dropped_results_are_counted(task, files, tmp_path, capsys):
    (tmp_path / "good.json").write_text(json.dumps([*task[1], {**task[1][0], "image_id": 10**6}]))
    assert run(files[:2]) == 2
    assert "image_id: 1000000 is not in the truth" in capsys.readouterr().err
    assert run(files[:2], "--drop-unknown-images") == 0
    assert "1 results dropped, image not in the truth" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--names", "a"], "--names: 1 names for 2 results files"),
        (["--names", "a", "a"], "not all different"),
        (["--iou-type", "segm"], "has no segmentation"),
        (["--resamples", "3"], "--resamples: fewer than 100"),
    ],
)
def test_options_that_cannot_be_end_with_2_and_the_reason(files, options, message, capsys):
    assert run(files, *options) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_absent_ends_with_2_and_its_name(files, capsys):
    assert run([files[0], "absent.json"]) == 2
    assert "absent.json: no such file" in capsys.readouterr().err


def test_files_of_equal_name_are_told_apart_by_their_paths(files, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    again = tmp_path / "other" / "good.json"
    again.write_bytes((tmp_path / "good.json").read_bytes())
    assert run([files[0], files[1], str(again)]) == 0
    assert str(again) in capsys.readouterr().out


def test_a_reader_that_leaves_early_ends_it_quietly(files):
    command = [sys.executable, "-m", "analysis.compare", "--truth", *files[:2]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_help_needs_neither_torch_nor_hydra():
    code = (
        "import sys, analysis.compare\n"
        "assert not {'torch', 'hydra', 'omegaconf'} & set(sys.modules)\n"
        "analysis.compare.main(['--help'])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "baseline" in shown.stdout
