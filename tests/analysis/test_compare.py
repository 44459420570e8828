import contextlib
import copy
import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fabricated_runs import make_detections, make_truth
from fake_coco import coco_cells, coco_eval, make_task

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.matching import match
from ablations.evaluation.scoring import metrics, score
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
        *("ap-by-iou-and-scale", "precision-recall", "differences", "categories", "errors"),
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
        (["--names", "", "b"], "--names: one is blank; give each file a name"),
        (["--names", " ", "b"], "--names: one is blank"),
        (["--resamples", "3"], "--resamples: fewer than 100"),
        (["--resamples", str(10**20)], "--resamples: more than 1,000,000"),
        (["--areas", "small=0:10", "small=10:20"], "--areas: small is given twice; name each once"),
        (["--sides", "16", "16.00000001", "16.00000002"], "--sides: sides 16 16 16: give two or"),
    ],
)
def test_options_that_cannot_be_end_with_2_and_the_reason(files, options, message, capsys):
    assert run(files, *options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--max-dets", str(2**31 - 1)], ["--seed", str(10**30)]])
def test_the_largest_values_are_taken(files, options):
    assert run(files, *options) == 0


@pytest.mark.parametrize("beneath", [(), ("x",), ("x", "y")])
def test_an_out_that_is_no_folder_is_told_before_anything_is_read(tmp_path, beneath, capsys):
    (tmp_path / "mine").write_text("")
    out = (tmp_path / "mine").joinpath(*beneath)
    assert run(["absent.json", "absent.json"], "--out", str(out)) == 2
    message = f"error: --out {out}: {tmp_path / 'mine'} is a file; name a folder\n"
    assert capsys.readouterr().err == message


def test_a_file_that_is_absent_ends_with_2_and_its_name(files, capsys):
    assert run([files[0], "absent.json"]) == 2
    assert "absent.json: no such file" in capsys.readouterr().err


def test_files_of_equal_name_are_told_apart_by_their_paths(files, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    again = tmp_path / "other" / "good.json"
    again.write_bytes((tmp_path / "good.json").read_bytes())
    assert run([files[0], files[1], str(again)]) == 0
    assert str(again) in capsys.readouterr().out


def test_json_holds_every_frame_and_nothing_else_is_printed(files, tmp_path, capsys):
    assert run(files, "--json", "--out", str(tmp_path / "out")) == 0
    content = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in content["results"]] == ["good", "worse"]
    for name in (
        *("cells", "categories", "precision-recall", "confusion", "errors"),
        *("differences", "metric-differences", "category-differences", "error-differences"),
    ):
        written = pd.read_csv(tmp_path / "out" / f"{name}.csv", keep_default_na=False)
        assert len(content[name]) == len(written) > 0
        assert list(content[name][0]) == list(written.columns)
    (ap,) = [row["difference"] for row in content["metric-differences"] if row["metric"] == "AP"]
    by_name = {
        row["variant"]: row["value"]
        for row in content["cells"]
        if (row["quantity"], row["iou"], row["area"], row["max_dets"]) == ("AP", None, "all", 100)
    }
    assert ap == pytest.approx(by_name["worse"] - by_name["good"], abs=1e-12)


def test_categories_are_told_with_their_paired_differences(task, files, tmp_path, capsys):
    assert run(files, "--out", str(tmp_path)) == 0
    assert "AP BY CATEGORY" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "categories.csv").set_index(["variant", "id"])
    ap, _ = coco_cells(coco_eval(task[0], task[2]))
    for k, category in enumerate(task[0]["categories"]):
        expected = ap[:, k, 0, 2].mean()
        assert found.loc[("worse", category["id"]), "AP"] == pytest.approx(expected, nan_ok=True)
    changes = pd.read_csv(tmp_path / "category-differences.csv").set_index("category")
    for category in changes.index:
        rows = found[found["category"] == category]["AP"].droplevel("id")
        assert changes.loc[category, "difference"] == pytest.approx(rows["worse"] - rows["good"])


def test_scales_thresholds_and_limits_are_as_asked_for(task, files, tmp_path, capsys):
    options = ["--areas", "tiny=0:400", "rest=400:", "--iou", "0.75", "0.5", "--max-dets", "50"]
    assert run(files, "--out", str(tmp_path), *options) == 0
    printed = capsys.readouterr().out
    assert "AP_tiny" in printed
    assert "AR50" in printed
    assert "None" not in printed
    cells = pd.read_csv(tmp_path / "cells.csv")
    assert list(cells["area"].unique()) == ["all", "tiny", "rest"]
    assert set(cells["iou"].dropna()) == {0.5, 0.75}
    assert set(cells["max_dets"]) == {50}
    names = list(pd.read_csv(tmp_path / "metric-differences.csv")["metric"])
    assert names == ["AP", "AP50", "AP75", "AP_tiny", "AP_rest", "AR50", "AR_tiny", "AR_rest"]
    evaluation = eval_with(task, areas=[[0, 1e10], [0, 400], [400, 1e10]], ious=[0.5, 0.75])
    for a, area in enumerate(("all", "tiny", "rest")):
        expected = np.nanmean(evaluation[:, :, a])
        of_area = (cells["variant"] == "worse") & (cells["area"] == area) & cells["iou"].isna()
        (value,) = cells[of_area & (cells["quantity"] == "AP")]["value"]
        assert value == pytest.approx(expected, abs=1e-12)


def eval_with(task, areas, ious):
    """AP (T, K, A) of the worse results by pycocotools, NaN where there are no objects."""
    evaluation = coco_eval(task[0], task[2])
    evaluation.params.areaRng = areas
    evaluation.params.areaRngLbl = [str(area) for area in areas]
    evaluation.params.iouThrs = np.array(ious)
    evaluation.params.maxDets = [50]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0]
    return np.where(precision > -1, precision, np.nan).mean(axis=1)


def test_class_agnostic_scores_know_one_category(files, tmp_path, capsys):
    assert run(files, "--class-agnostic", "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "AP BY CATEGORY" not in printed
    assert "micro AP" not in printed
    assert set(pd.read_csv(tmp_path / "categories.csv")["category"]) == {"any"}
    assert len(pd.read_csv(tmp_path / "confusion.csv")["true"].unique()) > 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--areas", "small"], "'small': write NAME=LOW:HIGH in square pixels"),
        (["--areas", "small=9:3"], "write NAME=LOW:HIGH"),
        (["--areas", "small=a:b"], "write NAME=LOW:HIGH"),
        (["--iou", "50"], "50: an IoU threshold is above 0 and at most 1"),
        (["--areas", " =0:4"], "write NAME=LOW:HIGH"),
        (["--max-dets", "0"], "--max-dets: 0: give 1 to 2147483647"),
        (["--max-dets", "-1"], "--max-dets: -1: give 1 to 2147483647"),
        (["--max-dets", str(2**31)], "--max-dets: 2147483648: give 1 to 2147483647"),
        (["--max-dets", str(10**20)], "give 1 to 2147483647"),
        (["--min-score", "nan"], "--min-score: nan: give a finite number; 0 counts every"),
        (["--min-score", "inf"], "--min-score: inf: give a finite number"),
        (["--seed", "-1"], "--seed: -1: give 0 or more"),
    ],
)
def test_scales_thresholds_and_limits_that_cannot_be_are_refused(files, options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run(files, *options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_files_that_differ_after_a_dot_keep_their_names(files, tmp_path, capsys):
    for name in ("width0.5.json", "width1.0.json"):
        (tmp_path / name).write_bytes((tmp_path / "good.json").read_bytes())
    assert run([files[0], str(tmp_path / "width0.5.json"), str(tmp_path / "width1.0.json")]) == 0
    printed = capsys.readouterr().out
    assert "DIFFERENCES TO WIDTH0.5" in printed
    assert "width1.0: " in printed


def test_names_that_are_formulas_are_texts_in_every_csv_file(files, tmp_path):
    assert run(files, "--names", "=1+1", "@b", "--out", str(tmp_path / "out")) == 0
    for path in (tmp_path / "out").glob("*.csv"):
        names = set(pd.read_csv(path)["variant"])
        assert names <= {"'=1+1", "'@b"}, path


@pytest.fixture
def federated(files, task):
    """The files with what LVIS says of images and categories."""
    truth = copy.deepcopy(task[0])
    ids = [category["id"] for category in truth["categories"]]
    for n, image in enumerate(truth["images"]):
        image["neg_category_ids"] = ids[n % 2 :: 2]
        image["not_exhaustive_category_ids"] = ids[n % 3 :: 3]
    for category, frequency in zip(truth["categories"], itertools.cycle("rcf")):
        category["frequency"] = frequency
    Path(files[0]).write_text(json.dumps(truth))
    return truth


def test_federated_truth_is_scored_by_its_rule_with_ap_by_frequency(
    files, federated, task, tmp_path, capsys
):
    assert run(files, "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "scored by LVIS's rule" in printed
    truth = Truth.from_coco(federated)
    scores = score(match(truth, Detections.from_coco(task[2], truth)))
    cells = pd.read_csv(tmp_path / "cells.csv").query("variant == 'worse' and area == 'all'")
    assert set(cells["max_dets"]) == {1, 10, 100, 300}
    (ap,) = cells[(cells["quantity"] == "AP") & cells["iou"].isna() & (cells["max_dets"] == 300)][
        "value"
    ]
    assert ap == pytest.approx(metrics(scores)["AP"], abs=1e-12)
    by_category = scores.ap[:, :, 0, -1].mean(axis=0)
    rare = np.nanmean(by_category[[f == "r" for f in truth.category_frequencies]])
    (line,) = [
        line
        for line in printed.split("AP BY FREQUENCY OF CATEGORIES")[1].splitlines()[:6]
        if line.startswith("worse")
    ]
    assert float(line.split()[1]) == pytest.approx(100 * rare, abs=0.0501)


def test_categories_of_federated_truth_cannot_be_taken_for_one(files, federated, capsys):
    assert run(files, "--class-agnostic") == 2
    message = capsys.readouterr().err
    assert "only some categories were looked for" in message
    assert "leave out --class-agnostic" in message


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


def test_results_of_yolo_tools_are_mapped_and_a_faulty_truth_is_mended_on_demand(tmp_path, capsys):
    truth = make_truth(24)
    results = make_detections(truth, 0.9)
    paths = [tmp_path / name for name in ("truth.json", "coco.json", "yolo.json")]
    stems = {image["id"]: image["file_name"].removesuffix(".png") for image in truth["images"]}
    places = {category["id"]: k for k, category in enumerate(truth["categories"])}
    yolo = [
        {**r, "image_id": stems[r["image_id"]], "category_id": places[r["category_id"]]}
        for r in results
    ]
    truth["annotations"][0]["bbox"] = [5.0, 5.0, float("nan"), 5.0]
    for path, content in zip(paths, (truth, results, yolo), strict=True):
        path.write_text(json.dumps(content))
    assert main(["--truth", str(paths[0]), str(paths[1]), "--json"]) == 2
    assert "--mend" in capsys.readouterr().err
    command = ["--truth", str(paths[0]), "--mend", "--json", "--resamples", "100"]
    assert main([*command, str(paths[2])]) == 2
    assert "--image-ids file_stem" in capsys.readouterr().err
    assert main([*command, str(paths[1])]) == 0
    by_id = json.loads(capsys.readouterr().out)["cells"]
    mapped = ["--image-ids", "file_stem", "--categories", "contiguous"]
    assert main([*command, str(paths[2]), *mapped]) == 0
    by_place = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["value"] for cell in by_place] == [cell["value"] for cell in by_id]
    assert by_id
