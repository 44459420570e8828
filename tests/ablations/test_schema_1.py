"""Records that version 0.1.0 wrote under schema 1 are read, matched, reported and scored again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from commands import ROOT, run_module

from ablations.config import from_plain, run_digest
from ablations.record import RunFolders, read_record, read_runs, read_tables

RECORDS = ROOT / "tests" / "records" / "schema1"


@pytest.fixture
def runs(tmp_path) -> Path:
    shutil.copytree(RECORDS, tmp_path / "runs")
    return tmp_path / "runs"


def test_every_record_is_read_with_its_metrics_and_its_results_version(runs):
    found = read_runs(runs)
    assert len(found) == 3
    for run in found:
        written = json.loads((run.folder / "record.json").read_text())
        assert run.record.metrics == written["metrics"]
        assert run.record.cells == written["cells"]
        assert (run.record.schema, run.record.results_version) == (2, 1)
        assert run.record.is_outdated


def test_configs_are_read_in_todays_fields(runs):
    for run in read_runs(runs):
        config = from_plain(run.record.config)
        assert config.detector.channels == 16
        assert config.detector.has_masks
        assert config.protocol.num_steps == 60


def test_a_run_is_known_by_the_digest_that_todays_code_gives_its_config(runs):
    for run in read_runs(runs):
        record = run.record
        assert record.digest == run_digest(from_plain(record.config), record.data)
        assert RunFolders(runs).find(record.digest, record.seed) == run.folder


@pytest.mark.parametrize("detector", ["faster_rcnn", "retinanet"])
def test_the_digest_of_other_detectors_is_todays_too(runs, detector):
    path = next(runs.glob("*/seed1/record.json"))
    content = json.loads(path.read_text())
    content["config"]["detector"] |= {"kind": detector, "num_proposals_test": 77}
    content["config"]["weights"] = "pretrained"
    path.write_text(json.dumps(content))
    record = read_record(path)
    config = from_plain(record.config)
    assert record.digest == run_digest(config, record.data)
    other = replace(config, detector=replace(config.detector, num_detections=6))
    assert record.digest != run_digest(other, record.data)


def test_the_noted_table_names_the_runs_by_todays_digests(runs):
    table = read_tables(runs)["small"]
    digests = {run.record.variant: run.record.digest for run in read_runs(runs)}
    noted = {each["variant"]: each["digest"] for each in table["variants"]}
    assert {variant: noted[variant] for variant in digests} == digests


def test_a_run_is_scored_again_and_its_record_becomes_one_of_today(runs):
    (before,) = (run for run in read_runs(runs) if run.record.seed == 1)
    again = run_module("ablations.rescore", str(before.folder))
    assert again.returncode == 0, again.stderr
    written = json.loads((before.folder / "record.json").read_text())
    assert (written["schema"], written["results_version"]) == (2, 1)
    assert written["metrics"] == before.record.metrics
    assert written["metrics"]["AP"] > 0
    assert read_record(before.folder / "record.json").digest == before.record.digest
