import csv
import json
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from fabricated_runs import make_truth, note_table, write_run
from test_pages import Reader

import analysis
from ablations.evaluation.coco import Detections, Truth
from ablations.record import read_runs, write_table
from ablations.storage import StorageError
from analysis.detection_errors import find_errors
from analysis.report import BEING_DRAWN, main, write_report

TRUTH = make_truth(24)
NUM_PICTURES = 11
"""Boxes and masks by scale, category, IoU and error; AP against cost, losses, images."""
HOSTILE = "ValueError: <b>loss</b> & 'nan'"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_run(folder, "detnet59", TRUTH, seed=seed, skill=0.95, masks=True)
        write_run(folder, "noproj", TRUTH, seed=seed, skill=0.94, masks=True, macs=4.6e9)
    write_run(folder, "detnet_resnet50", TRUTH, skill=0.2, masks=True)
    write_run(folder, "exploding", TRUTH, status="failed", error=HOSTILE)
    write_run(folder, "elsewhere", TRUTH, fingerprint="0ther")
    digests = {run.record.variant: run.record.digest for run in read_runs(folder)}
    names = ["detnet59", "noproj", "detnet_resnet50", "exploding"]
    entries = [{"variant": name, "digest": digests[name]} for name in names]
    entries.append({"variant": "detnet110", "digest": "0123456789"})
    write_table(folder, "projection", entries, "detnet59")
    return folder


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert main([str(runs), "--out", str(out), "--resamples", "200"]) == 0
    return out


def read_csv(path):
    with path.open() as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def read_differences(out, name="projection"):
    with (out / "tables" / f"{name}-metric-differences.csv").open() as file:
        return {(row["variant"], row["metric"]): row for row in csv.DictReader(file)}


def test_the_terminal_shows_the_table_and_where_all_is_written(runs, tmp_path, capsys):
    assert main([str(runs), "--out", str(tmp_path / "out"), "--resamples", "0"]) == 0
    printed = capsys.readouterr().out
    rows = {run.record.variant: run.record.metrics for run in read_runs(runs)}
    line = next(line for line in printed.splitlines() if line.startswith("detnet_resnet50"))
    ap, difference, ap50 = line.split()[1:4]
    single = rows["detnet_resnet50"]
    assert (ap, ap50) == (f"{100 * single['AP']:.1f}", f"{100 * single['AP50']:.1f}")
    baseline = [r.record.metrics["AP"] for r in read_runs(runs) if r.record.variant == "detnet59"]
    assert difference == f"{100 * (single['AP'] - sum(baseline) / 2):+.1f}"
    assert "Baseline: detnet59 (as the table notes)" in printed
    assert "24 validation images" in printed
    assert f"! exploding seed 0: failed ({HOSTILE})" in printed
    assert "! detnet110: missing (no run in this folder)" in printed
    assert str(tmp_path / "out" / "report.html") in printed


def test_every_format_and_figure_is_written(report):
    written = {path.relative_to(report).as_posix() for path in report.rglob("*.*")}
    assert {"report.html", "report.md"} <= written
    assert {f"tables/projection.{suffix}" for suffix in ("md", "csv", "tex")} <= written
    assert "tables/projection-cells.csv" in written
    assert "tables/projection-differences.csv" in written
    for name in (
        "ap-by-scale", "mask_ap-by-scale", "ap-by-iou-and-scale", "ap-against-macs",
        "loss-curves", "sheet", "errors", "mask_errors",
    ):  # fmt: skip
        assert {f"figures/projection-{name}.{suffix}" for suffix in ("png", "svg")} <= written


def test_the_csv_holds_the_mean_of_the_records_in_full_precision(report, runs):
    rows = read_csv(report / "tables" / "projection.csv")
    assert list(rows) == ["detnet59", "noproj", "detnet_resnet50"]
    (single,) = [r.record for r in read_runs(runs) if r.record.variant == "detnet_resnet50"]
    assert float(rows["detnet_resnet50"]["AP"]) == single.metrics["AP"]
    assert float(rows["detnet_resnet50"]["mask_AP75"]) == single.metrics["mask_AP75"]
    assert rows["noproj"]["num_seeds"] == "2"


def test_a_difference_is_that_of_the_means_and_its_mark_follows_the_corrected_p(report):
    rows = read_csv(report / "tables" / "projection.csv")
    differences = read_differences(report)
    text = (report / "tables" / "projection.md").read_text()
    marks = set()
    for name in ("noproj", "detnet_resnet50"):
        for metric in ("AP", "AP_small", "mask_AP50"):
            by_hand = float(rows[name][metric]) - float(rows["detnet59"][metric])
            row = differences[name, metric]
            assert float(row["difference"]) == pytest.approx(by_hand, abs=1e-12)
            assert float(row["low"]) < float(row["high"])
        row = differences[name, "AP"]
        mark = "*" if float(row["p_corrected"]) < 0.05 else "~"
        assert row["mark"] == mark
        value, low, high = (100 * float(row[end]) for end in ("difference", "low", "high"))
        marks.add(mark)
        shown = f"{value:+.1f} [{low:+.1f}, {high:+.1f}] {mark}"
        assert shown in text.replace("\\", "")
    # the fixture holds a difference above the noise and one below it
    assert marks == {"*", "~"}


def test_every_cells_difference_is_written_and_the_tables_marks_are_its_own(report):
    with (report / "tables" / "projection-differences.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert {(row["iou_type"], row["variant"]) for row in cells} == {
        (iou_type, name) for iou_type in ("bbox", "segm") for name in ("noproj", "detnet_resnet50")
    }
    key = ("iou_type", "variant", "quantity", "iou", "area", "max_dets")
    wanted = ("segm", "noproj", "AP", "0.5", "all", "100")
    (ap50,) = [row for row in cells if tuple(row[name] for name in key) == wanted]
    row = read_differences(report)["noproj", "mask_AP50"]
    assert float(ap50["value"]) == pytest.approx(float(row["difference"]), abs=1e-12)
    assert ap50["p_corrected_in_table"] == row["p_corrected"]
    assert ap50["real_in_table"] == str(row["mark"] == "*")
    assert float(ap50["p_corrected_of_all_cells"]) >= float(ap50["p_corrected_in_table"])


def test_what_intervals_cover_names_the_variants_and_the_images_of_each_scale(report):
    text = "\n".join(Reader((report / "report.html").read_text()).text)
    assert "noproj: 95 % intervals from 200 paired resamples of 24 images and" in text
    assert "2 and 2 training seeds" in text
    assert "detnet_resnet50: 95 % intervals from 200 paired resamples of 24 images (2 and 1" in text
    large = {a["image_id"] for a in TRUTH["annotations"] if a["area"] >= 96**2}
    medium = {a["image_id"] for a in TRUTH["annotations"] if 32**2 <= a["area"] <= 96**2}
    assert "Images with objects: all 24, small 24, " in text
    assert f", medium {len(medium)}, large {len(large)}" in text
    assert "images without detections" in text


def test_error_types_are_the_mean_over_runs_of_what_fixing_each_would_gain(report, runs):
    noproj = [run for run in read_runs(runs) if run.record.variant == "noproj"]
    gains = []
    for run in noproj:
        truth = Truth.from_coco(run.truth())
        found = find_errors(truth, Detections.from_coco(run.detections(), truth))
        gains.append(found.frame().set_index(["error", "area"])["gain"]["Miss", "large"])
    assert len(gains) == 2
    assert sum(gains) > 0
    lines = (report / "tables" / "projection-errors.md").read_text().splitlines()
    (line,) = [line for line in lines if "noproj" in line and "Miss" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert float(cells[-1]) == pytest.approx(100 * sum(gains) / 2, abs=0.051)
    differences = (report / "tables" / "projection-error-differences.md").read_text()
    assert "noproj" in differences
    assert "[" in differences


def test_variants_with_the_same_detections_do_not_differ(runs, tmp_path):
    for variant in ("one", "other"):
        write_run(tmp_path / "runs", variant, TRUTH, skill=0.5)
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--out", str(out), "--resamples", "100"]) == 0
    row = read_differences(out, "runs")["other", "AP"]
    assert [float(row[end]) for end in ("difference", "low", "high")] == [0, 0, 0]
    assert row["mark"] == "~"


def test_a_variant_whose_detections_are_gone_has_a_difference_without_interval_and_says_so(
    tmp_path, capsys
):
    for variant, skill in (("one", 0.9), ("other", 0.5), ("third", 0.6)):
        write_run(tmp_path / "runs", variant, TRUTH, skill=skill)
    (run,) = [run for run in read_runs(tmp_path / "runs") if run.record.variant == "third"]
    run.detections_path.unlink()
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--resamples", "100"]) == 0
    printed = capsys.readouterr().out
    assert "! third has no interval: the detections or the truth of third seed 0 are not" in printed
    rows = read_differences(tmp_path / "out", "runs")
    assert rows["third", "AP"]["difference"] != ""
    assert (rows["third", "AP"]["low"], rows["third", "AP"]["mark"]) == ("", "")
    assert rows["other", "AP"]["low"] != ""


def test_the_page_is_well_formed_and_holds_all_figures_itself(report):
    page = Reader((report / "report.html").read_text())
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == NUM_PICTURES
    assert all(source.startswith("data:image/") for source in images)
    assert not {"link", "b"} & {tag for tag, _ in page.tags}
    for path in (report / "figures").glob("*.svg"):
        ElementTree.parse(path)


def test_the_page_names_what_failed_what_is_missing_and_what_stands_in_no_table(report):
    text = "\n".join(Reader((report / "report.html").read_text()).text)
    assert f"exploding seed 0: failed ({HOSTILE})" in text
    assert "detnet110: missing (no run in this folder)" in text
    assert "elsewhere seed 0 (done)" in text
    assert "python -m ablations.train backbone=noproj seed=1" in text
    assert "test device" in text
    assert "Measured beside published" in text
    assert "The protocols differ" in text


def test_the_markdown_report_links_to_figures_that_are_there(report):
    text = (report / "report.md").read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert len(links) == NUM_PICTURES
    assert all((report / link).is_file() for link in links)


def test_the_same_runs_give_the_same_files(report, runs, tmp_path):
    assert main([str(runs), "--out", str(tmp_path), "--resamples", "200"]) == 0
    for path in sorted(report.rglob("*.*")):
        assert (tmp_path / path.relative_to(report)).read_bytes() == path.read_bytes(), path.name


def test_all_ignores_the_noted_tables_and_never_mixes_data(runs, tmp_path):
    assert main([str(runs), "--out", str(tmp_path), "--all", "--resamples", "0"]) == 0
    found = {path.stem: list(read_csv(path)) for path in (tmp_path / "tables").glob("*beef.csv")}
    assert found == {"smoke-feedbeef": ["detnet59", "detnet_resnet50", "noproj"]}
    assert list(read_csv(tmp_path / "tables" / "smoke-0ther.csv")) == ["elsewhere"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "nosuch"], "--baseline nosuch: no such finished variant"),
        (["--baseline", "elsewhere"], "--baseline elsewhere: no such finished variant"),
    ],
)
def test_a_wrong_baseline_ends_with_2_and_leaves_nothing(
    runs, tmp_path, capsys, arguments, message
):
    assert main([str(runs), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_runs_ends_with_2(tmp_path, capsys):
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no runs" in capsys.readouterr().err
    assert main([str(tmp_path / "nosuch"), "--out", str(tmp_path / "out")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_broken_record_ends_with_2_and_its_name(tmp_path, capsys):
    write_run(tmp_path, "detnet59", TRUTH)
    (run,) = read_runs(tmp_path)
    (run.folder / "record.json").write_text("{")
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "record.json: not readable" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["-1", "1", "99", "many", str(10**20)])
def test_numbers_of_resamples_that_cannot_be_are_refused(runs, tmp_path, capsys, count):
    with pytest.raises(SystemExit) as stop:
        main([str(runs), "--out", str(tmp_path), "--resamples", count])
    assert stop.value.code == 2
    assert "--resamples" in capsys.readouterr().err


def test_an_out_that_is_a_file_ends_with_2_and_its_name(runs, tmp_path, capsys):
    out = tmp_path / "out"
    out.write_text("mine")
    assert main([str(runs), "--out", str(out), "--resamples", "0"]) == 2
    assert capsys.readouterr().err == f"error: --out {out}: {out} is a file; name a folder\n"
    assert (tmp_path / "out").read_text() == "mine"


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(
        option in printed for option in ("RUNS", "--out", "--baseline", "--all", "--resamples")
    )


def test_data_without_objects_give_dashes_and_no_crash(tmp_path, capsys):
    for variant in ("one", "other"):
        write_run(tmp_path / "runs", variant, TRUTH)
    for path in (tmp_path / "runs").glob("*/seed0/record.json"):
        content = json.loads(path.read_text())
        content["metrics"] = dict.fromkeys(content["metrics"])
        cells = content["cells"]["bbox"]
        shape = (len(cells["iou_thresholds"]), len(cells["areas"]), len(cells["max_dets"]))
        cells |= dict.fromkeys(("AP", "AR"), np.full(shape, None).tolist())
        path.write_text(json.dumps(content))
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--resamples", "0"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("other"))
    assert line.split()[1:8] == ["-"] * 7


def test_runs_of_different_results_versions_are_warned_of(tmp_path, capsys):
    for variant in ("one", "other"):
        write_run(tmp_path / "runs", variant, TRUTH)
    (path,) = (tmp_path / "runs").glob("other-*/seed0/record.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "results_version": 0}))
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--resamples", "0"]) == 0
    warning = "version 0: other seed 0; version"
    assert warning in capsys.readouterr().out
    assert warning in "\n".join(Reader((tmp_path / "out" / "report.html").read_text()).text)


@pytest.mark.slow  # draws twenty variants, with masks
def test_the_page_of_twenty_variants_with_long_names_is_under_4_mb(tmp_path):
    for n in range(20):
        name = f"detnet59,backbone.stages=c7=depth=3+width=256,stages.c6.dilation={n}"
        write_run(
            tmp_path / "runs", name, make_truth(4), skill=0.3 + 0.03 * n, masks=True, macs=n * 1e9
        )
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--out", str(out), "--resamples", "100"]) == 0
    page = (out / "report.html").read_text()
    assert page.count("<img") == NUM_PICTURES
    assert len(page) < 4e6


def test_progress_tells_what_is_done_while_it_is_done(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("ablations.progress.SECONDS", 0.0)
    told = []
    write_report(runs, tmp_path, num_resamples=100, tell=told.append)
    steps = "\n".join(told)
    for step in (
        "comparing the runs of projection",
        "matching noproj seed 1",
        "resampling noproj, bbox",
        "resampling detnet_resnet50, segm",
        "the tables are written",
        "drawing projection: sheet (",
    ):
        assert step in steps


def test_the_page_stands_before_a_picture_is_drawn(runs, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("analysis.report.write_pictures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(runs, tmp_path, num_resamples=0)
    page = (tmp_path / "report.html").read_text()
    assert "<img" not in page
    assert BEING_DRAWN in page
    assert "detnet_resnet50" in page


def test_pictures_are_left_out_on_request(runs, tmp_path):
    assert main([str(runs), "--out", str(tmp_path), "--resamples", "0", "--pictures", "none"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<img" not in page
    assert BEING_DRAWN not in page
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        ("best", [["one", "five", "six"]]),
        ("all", [["one", "two", "three"], ["one", "four", "five"], ["one", "six"]]),
    ],
)
def test_a_large_tables_pictures_show_the_best_or_all_in_parts_with_the_baseline(
    tmp_path, monkeypatch, choice, shown
):
    monkeypatch.setattr("analysis.pages.pictures.MAX_DRAWN", 3)
    drawn, costs = [], []
    figures = "analysis.pages.pictures."
    monkeypatch.setattr(figures + "loss_curves", lambda table, _: drawn.append(table))
    monkeypatch.setattr(figures + "ap_against_cost", lambda table, *_: costs.append(table))
    names = ["one", "two", "three", "four", "five", "six"]
    for n, name in enumerate(names):
        write_run(tmp_path / "runs", name, TRUTH, skill=0.2 + 0.15 * n)
    note_table(tmp_path / "runs", names, "one")
    out = tmp_path / "out"
    write_report(tmp_path / "runs", out, num_resamples=100, pictures=choice)
    assert [[variant.name for variant in table.variants] for table in drawn] == shown
    assert all(len(table.variants) == 6 for table in costs)
    parts = ["-part1", "-part2", "-part3"] if choice == "all" else [""]
    for part in parts:
        assert (out / "figures" / f"projection-ap-by-scale{part}.png").exists()


def test_a_picture_that_cannot_be_drawn_is_told_and_the_rest_is_drawn(tmp_path, capsys):
    write_run(tmp_path / "runs", "one", TRUTH)
    (path, *_) = sorted((tmp_path / "runs").glob("val-*/images/*.png"))
    path.write_bytes(b"no picture")
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--out", str(out), "--resamples", "0"]) == 0
    told = capsys.readouterr().err
    assert "sheet cannot be drawn" in told
    assert str(path) in told
    assert (out / "figures" / "runs-loss-curves.png").exists()


def test_names_in_csv_files_are_no_formulas(tmp_path):
    write_run(tmp_path / "runs", "one", TRUTH)
    digest = read_runs(tmp_path / "runs")[0].record.digest
    write_table(tmp_path / "runs", "t", [{"variant": "=1+1", "digest": digest}], "=1+1")
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--out", str(out), "--resamples", "0"]) == 0
    assert list(read_csv(out / "tables" / "t.csv")) == ["'=1+1"]


def test_files_that_cannot_be_read_are_named_and_the_rest_is_reported(runs, tmp_path, capsys):
    folder = tmp_path / "runs"
    shutil.copytree(runs, folder)
    spoilt = sorted(folder.glob("*/seed*/record.json"))[0]
    spoilt.write_text("{")
    (folder / "table-spoilt.json").write_text("[]")
    assert main([str(folder), "--out", str(tmp_path / "out"), "--resamples", "0"]) == 0
    told = capsys.readouterr().err
    page = (tmp_path / "out" / "report.md").read_text()
    for name in (str(spoilt), "table-spoilt.json"):
        assert name in told
        assert name in page.replace("\\", "")
    assert analysis.load(folder).unreadable[0].startswith(str(spoilt))


def test_detections_that_cannot_be_read_cost_one_variants_intervals_and_are_named(tmp_path, capsys):
    for variant, skill in (("one", 0.9), ("other", 0.5), ("third", 0.6)):
        write_run(tmp_path / "runs", variant, TRUTH, skill=skill)
    (path,) = (tmp_path / "runs").glob("third-*/seed0/detections.json.gz")
    path.write_bytes(path.read_bytes()[:100])
    out = tmp_path / "out"
    words = ["--resamples", "100", "--pictures", "none"]
    assert main([str(tmp_path / "runs"), "--out", str(out), *words]) == 0
    printed = capsys.readouterr().out
    assert "! third has no interval:" in printed
    assert str(path) in printed
    rows = read_differences(out, "runs")
    assert rows["third", "AP"]["low"] == ""
    assert rows["other", "AP"]["low"] != ""


@pytest.mark.parametrize("damaged", [b"", b"{}", b"\x1f\x8b\x08\x00"])
def test_truth_that_cannot_be_read_is_named_with_what_writes_it_anew(tmp_path, capsys, damaged):
    for variant in ("one", "other"):
        write_run(tmp_path / "runs", variant, TRUTH)
    run, _ = read_runs(tmp_path / "runs")
    run.truth_path.write_bytes(damaged)
    words = ["--resamples", "100", "--out", str(tmp_path / "out")]
    assert main([str(tmp_path / "runs"), *words]) == 0
    told = capsys.readouterr()
    remedy = "the training command of its runs, given again, writes it anew"
    lines = {line for line in told.out.splitlines() if "has no interval" in line}
    assert lines
    assert all(f"{run.truth_path}: " in line and remedy in line for line in lines)
    assert remedy in told.err  # of the picture that shows images
    with pytest.raises(StorageError, match=remedy):
        run.truth()


def test_a_table_that_mixes_validation_data_is_named_and_the_others_are_reported(
    runs, tmp_path, capsys
):
    folder = tmp_path / "runs"
    shutil.copytree(runs, folder)
    digests = {run.record.variant: run.record.digest for run in read_runs(folder)}
    mixed = [{"variant": name, "digest": digests[name]} for name in ("noproj", "elsewhere")]
    write_table(folder, "mixed", mixed, "noproj")
    words = ["--resamples", "0", "--pictures", "none"]
    assert main([str(folder), "--out", str(tmp_path / "out"), *words]) == 0
    told = capsys.readouterr()
    assert "table mixed: its runs were scored on different validation data" in told.err
    assert "projection: 24 validation images" in told.out
    assert "table mixed: its runs" in (tmp_path / "out" / "report.md").read_text()


def test_a_record_of_another_schema_is_named_and_the_rest_is_reported(runs, tmp_path, capsys):
    folder = tmp_path / "runs"
    shutil.copytree(runs, folder)
    (path,) = folder.glob("noproj-*/seed1/record.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    words = ["--resamples", "0", "--pictures", "none"]
    assert main([str(folder), "--out", str(tmp_path / "out"), *words]) == 0
    told = capsys.readouterr()
    assert f"{path}: schema 99, this version reads 1 and 2" in told.err
    assert "! noproj seed 1: missing" in told.out
