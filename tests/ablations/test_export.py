"""Detections as COCO results files, of a run's own images and of others."""

import json
import shutil
import zipfile

import pytest
from commands import train

from ablations.evaluation.coco import Detections, Truth
from ablations.export import main
from ablations.record import read_runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    ended = train(runs, "data=glyphs")
    assert ended.returncode == 0, ended.stderr
    (found,) = read_runs(runs)
    return found


@pytest.fixture
def listed(run, tmp_path):
    """A file that lists the run's validation images, without annotations, and the images."""
    folder = tmp_path / "images"
    shutil.copytree(run.validation_folder / "images", folder)
    images = [{**image, "file_name": f"{image['id']}.png"} for image in run.truth()["images"]]
    path = tmp_path / "image_info.json"
    path.write_text(json.dumps({"images": images, "categories": run.truth()["categories"]}))
    return path


def export(*arguments):
    return main([*map(str, arguments), "--device", "cpu"])


def test_stored_detections_are_written_as_any_reader_of_results_takes_them(run, tmp_path, capsys):
    out = tmp_path / "results.json"
    assert export(run.folder, "--out", out) == 0
    assert json.loads(out.read_text()) == run.detections()
    truth = Truth.from_coco(run.truth_path)
    assert len(Detections.from_coco(out, truth)) == len(run.detections())
    assert f"{len(run.detections()):,} detections" in capsys.readouterr().out


def test_the_checkpoint_finds_the_same_in_the_same_images_of_a_file_without_annotations(
    run, listed, tmp_path
):
    out = tmp_path / "detections_test_results.zip"
    folder = tmp_path / "images"
    assert export(run.folder, "--out", out, "--images", listed, "--folder", folder) == 0
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == ["detections_test_results.json"]
        found = json.loads(archive.read("detections_test_results.json"))
    assert found
    assert found == run.detections()


def test_ids_are_those_of_the_file(run, listed, tmp_path):
    content = json.loads(listed.read_text())
    for image in content["images"]:
        image["id"] += 581_000
    del content["categories"]
    listed.write_text(json.dumps(content))
    out = tmp_path / "out.json"
    assert (
        export(run.folder, "--out", out, "--images", listed, "--folder", tmp_path / "images") == 0
    )
    found = json.loads(out.read_text())
    expected = [{**each, "image_id": each["image_id"] + 581_000} for each in run.detections()]
    assert found == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"].append({"id": 99, "name": "new"}), "first (99, 'new')"),
        (lambda c: c["images"][0].update(file_name="gone.png"), "no such image file"),
        (lambda c: c.pop("images"), "not readable as a COCO file with `images`"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    run, listed, tmp_path, capsys, change, message
):
    content = json.loads(listed.read_text())
    change(content)
    listed.write_text(json.dumps(content))
    out = tmp_path / "out.json"
    assert (
        export(run.folder, "--out", out, "--images", listed, "--folder", tmp_path / "images") == 2
    )
    told = capsys.readouterr().err
    assert message in told
    assert not out.exists()


def test_an_unfinished_run_is_refused(run, listed, tmp_path, capsys):
    folder = tmp_path / "runs" / run.folder.parent.name / run.folder.name
    shutil.copytree(run.folder, folder)
    shutil.copytree(run.validation_folder, tmp_path / "runs" / run.validation_folder.name)
    (folder / "checkpoint.pt").unlink()
    where = ("--images", listed, "--folder", tmp_path / "images")
    assert export(folder, "--out", tmp_path / "out.json", *where) == 2
    assert "no finished checkpoint" in capsys.readouterr().err
