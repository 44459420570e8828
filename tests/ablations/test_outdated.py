"""Runs of an older results version: told, kept, and trained anew when that is asked for."""

import json
import shlex

from commands import run_module, train

from ablations.record import RESULTS_VERSION, read_record, read_runs


def outdated_run(runs):
    """A finished run whose record says that an older results version computed it."""
    done = train(runs, "protocol.num_steps=2")
    assert done.returncode == 0, done.stdout
    (run,) = read_runs(runs)
    path = run.folder / "record.json"
    record = json.loads(path.read_text())
    assert record["results_version"] == RESULTS_VERSION
    path.write_text(json.dumps({**record, "results_version": RESULTS_VERSION - 1}))
    return path


def test_an_outdated_run_is_kept_and_told_until_it_is_asked_to_be_trained_anew(tmp_path):
    path = outdated_run(tmp_path)
    before = path.read_bytes()

    kept = train(tmp_path, "-m", "protocol.num_steps=2", "seed=0,1")
    assert kept.returncode == 0, kept.stdout
    assert f"done under results version {RESULTS_VERSION - 1}, this is {RESULTS_VERSION}" in (
        kept.stdout
    )
    assert "job.retrain_outdated=true trains it anew" in kept.stdout
    assert "2 jobs: 1 trained, 0 done before, 0 failed, 0 lost, 1 of an older" in kept.stdout
    assert path.read_bytes() == before

    anew = train(tmp_path, "protocol.num_steps=2", "job.retrain_outdated=true")
    assert anew.returncode == 0, anew.stdout
    assert read_record(path).results_version == RESULTS_VERSION
    put_away = path.parent.with_name(f"seed0-results{RESULTS_VERSION - 1}")
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
    assert f"outdated (results {RESULTS_VERSION - 1})" in shown.stdout, shown.stderr
    assert "2 runs: 1 missing, 1 outdated" in shown.stdout
    assert "job.retrain_outdated=true" in shown.stdout
