"""Runs of an older results version: told, kept, and trained anew when that is asked for."""

import json
import shlex
from types import SimpleNamespace

import pytest
from commands import ROOT, run_module, train

from ablations.config import DETECT, from_plain, run_digest
from ablations.planning import plan_run
from ablations.record import RESULTS_VERSION, RunRecord, read_record, read_runs, write_record
from ablations.tasks import TASKS

OLDER = 2
"""A results version since which the results of all runs have changed."""
SCHEMA_1 = ROOT / "tests" / "records" / "schema1"


def outdated_run(runs):
    """A finished run whose record says that an older results version computed it."""
    done = train(runs, "protocol.num_steps=2")
    assert done.returncode == 0, done.stdout
    (run,) = read_runs(runs)
    path = run.folder / "record.json"
    record = json.loads(path.read_text())
    assert record["results_version"] == RESULTS_VERSION
    path.write_text(json.dumps({**record, "results_version": OLDER}))
    return path


def test_an_outdated_run_is_kept_and_told_until_it_is_asked_to_be_trained_anew(tmp_path):
    path = outdated_run(tmp_path)
    before = path.read_bytes()

    kept = train(tmp_path, "-m", "protocol.num_steps=2", "seed=0,1")
    assert kept.returncode == 0, kept.stdout
    assert f"done under results version {OLDER}, this is {RESULTS_VERSION}" in (kept.stdout)
    assert "job.retrain_outdated=true trains it anew" in kept.stdout
    assert "2 jobs: 1 trained, 0 done before, 0 failed, 0 lost, 1 of an older" in kept.stdout
    assert path.read_bytes() == before

    anew = train(tmp_path, "protocol.num_steps=2", "job.retrain_outdated=true")
    assert anew.returncode == 0, anew.stdout
    assert read_record(path).results_version == RESULTS_VERSION
    put_away = path.parent.with_name(f"seed0-results{OLDER}")
    assert (put_away / "record.json").read_bytes() == before
    assert {"checkpoint.pt", "curve.jsonl", "detections.json.gz"} <= {
        file.name for file in put_away.iterdir()
    }
    assert [run.record.seed for run in read_runs(tmp_path)] == [0, 1]
    assert "is done already" in train(tmp_path, "protocol.num_steps=2").stdout


def test_the_plan_says_which_runs_are_outdated_and_by_what(tmp_path):
    path = outdated_run(tmp_path)
    record = read_record(path)
    words = [word for word in shlex.split(record.env["command"]) if "=" in word]
    shown = run_module("ablations.plan", *words, "seed=0,1")
    assert f"outdated (results {OLDER})" in shown.stdout, shown.stderr
    assert "2 runs: 1 missing, 1 outdated" in shown.stdout
    assert "job.retrain_outdated=true" in shown.stdout


def test_a_run_cut_off_under_an_older_results_version_is_not_continued(tmp_path):
    path = outdated_run(tmp_path)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "status": "running", "metrics": {}}))
    anew = train(tmp_path, "protocol.num_steps=2")
    assert anew.returncode == 0, anew.stdout
    assert "going on from step" not in anew.stdout
    assert read_record(path).results_version == RESULTS_VERSION
    assert path.parent.with_name(f"seed0-results{OLDER}").is_dir()


@pytest.mark.parametrize("version", [OLDER, RESULTS_VERSION])
@pytest.mark.parametrize("retrain", [False, True])
def test_only_outdated_runs_are_known_by_the_sizes_of_their_images(
    tmp_path, monkeypatch, version, retrain
):
    data = {f"{split}_fingerprint": "content" for split in ("train", "val")}
    data |= {f"{split}_fingerprint_by_size": "sizes" for split in ("train", "val")}
    opened = SimpleNamespace(data_summary=lambda: data, check_model=lambda: None)
    monkeypatch.setitem(TASKS, DETECT, SimpleNamespace(open=lambda config: opened))
    config = from_plain(read_record(next(SCHEMA_1.glob("*/seed0/record.json"))).config)
    config.job.runs, config.job.retrain_outdated = str(tmp_path), retrain
    by_size = run_digest(config, data, "fingerprint_by_size")
    former = RunRecord(
        variant="v", seed=0, digest=by_size, status="done", config={}, metrics={"AP": 0.5},
        results_version=version,
    )  # fmt: skip
    write_record(tmp_path / f"v-{by_size}" / "seed0", former)
    planned = plan_run(config, "v")
    is_kept = version < RESULTS_VERSION and not retrain
    assert planned.status == ("outdated" if is_kept else "missing")
    assert planned.digest == (by_size if is_kept else run_digest(config, data))


@pytest.mark.parametrize(
    ("version", "detector", "data", "outdated"),
    [
        (4, "mask_rcnn", "coco", False),
        (3, "mask_rcnn", "coco", True),
        (3, "mask_rcnn", "coco2017", True),
        (3, "mask_rcnn", "glyphs", False),
        (3, "faster_rcnn", "coco", False),
        (3, "retinanet", "voc", False),
        (2, "faster_rcnn", "coco", True),
        (1, "mask_rcnn", "glyphs", True),
    ],
)
def test_a_run_is_outdated_where_a_version_changed_the_results_of_its_config(
    version, detector, data, outdated
):
    config = {"detector": {"type": detector}, "data": {"type": data}}
    record = RunRecord(
        variant="a", seed=0, digest="b", status="done", config=config, results_version=version
    )
    assert record.is_outdated == outdated


def test_a_version_that_changes_nothing_for_a_config_is_none():
    config = {"task": "classify", "detector": None, "data": {"type": "image_folder"}}
    kept = {"variant": "a", "seed": 0, "digest": "b", "status": "done", "config": config}
    assert RunRecord(**kept, results_version=4).results_since == 3
    assert not RunRecord(**kept, results_version=3).is_outdated
