"""A search: its trials as ordinary runs, its total, what interrupts it, and what it refuses."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import Forked, command, environment, train, train_words

from ablations.record import read_runs
from ablations.study.record import Study, read_study

SEARCH = ["-m", "hydra/sweeper=search"]
LOGARITHMIC = "protocol.learning_rate=tag(log,interval(0.005,0.08))"
SPACE = ["backbone.stages.c6.dilation=1,2", LOGARITHMIC]


def study_of(runs: Path, name: str = "search") -> Study:
    return read_study(runs / f"study-{name}" / "study.json")


def params(study: Study) -> list[dict]:
    return [dict(trial.params) for trial in study.trials]


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple[Path, str]:
    """A runs folder with a search of three trials, done in two calls; what they printed."""
    runs = tmp_path_factory.mktemp("searched")
    printed = ""
    for total in (2, 3):
        done = train(
            runs, *SEARCH, *SPACE, "protocol.num_steps=2", f"hydra.sweeper.n_trials={total}"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        printed += done.stdout
    return runs, printed


def test_each_trial_is_an_ordinary_run_with_the_values_it_was_given(searched):
    runs, _ = searched
    by_digest = {run.record.digest: run.record for run in read_runs(runs)}
    study = study_of(runs)
    assert [trial.state for trial in study.trials] == ["done"] * 3
    for trial in study.trials:
        record = by_digest.pop(trial.digest)
        assert record.status == "done"
        config = record.config
        assert config["protocol"]["learning_rate"] == trial.params["protocol.learning_rate"]
        dilation = config["backbone"]["stages"]["c6"]["dilation"]
        assert dilation == trial.params["backbone.stages.c6.dilation"]
        assert trial.values == (record.metrics["AP"],)
    assert not by_digest


def test_the_number_of_trials_is_the_total_of_all_calls(searched):
    runs, printed = searched
    assert len(read_runs(runs)) == 3
    assert "2 jobs: 2 trained" in printed
    assert "1 jobs: 1 trained" in printed


def test_a_search_that_was_ended_between_trials_proposes_what_one_call_would(searched, tmp_path):
    runs, _ = searched
    words = [*SPACE, "protocol.num_steps=2", "hydra.sweeper.n_trials=3"]
    assert train(tmp_path, *SEARCH, *words).returncode == 0
    assert params(study_of(tmp_path)) == params(study_of(runs))


def test_names_of_runs_have_short_numbers(searched):
    runs, _ = searched
    for run in read_runs(runs):
        *_, number = run.record.variant.partition("learning_rate=")
        assert len(number) < 9
        assert float(number) == pytest.approx(run.record.config["protocol"]["learning_rate"], 1e-3)


def test_a_study_that_asks_something_else_under_the_same_name_is_refused(searched):
    runs, _ = searched
    done = train(runs, *SEARCH, *SPACE, "protocol.num_steps=3", "hydra.sweeper.n_trials=9")
    assert done.returncode == 2
    assert "study search of" in done.stderr
    assert "protocol.num_steps=2" in done.stderr
    assert "give hydra.sweeper.study=NAME" in done.stderr
    assert len(read_runs(runs)) == 3


def test_a_killed_trial_runs_again_with_its_number_and_its_values(tmp_path):
    long = ["protocol.num_steps=150", "job.checkpoint_seconds=0", "hydra.sweeper.n_trials=2"]
    words = train_words(tmp_path, *SEARCH, *SPACE, *long)
    killed = Forked("ablations.train", *words)
    deadline = time.monotonic() + 120
    while not (saved := list(tmp_path.glob("*/seed0/checkpoint.pt"))):
        assert time.monotonic() < deadline, "no trial began"
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    again = Forked("ablations.train", *words).wait()
    assert again.returncode == 0, again.stdout + again.stderr
    study = study_of(tmp_path)
    assert [(trial.number, trial.state) for trial in study.trials] == [(0, "done"), (1, "done")]
    first = next(run for run in read_runs(tmp_path) if run.record.digest == study.trials[0].digest)
    assert first.folder == saved[0].parent
    assert "going on from step" in (first.folder / "log.txt").read_text()


@pytest.mark.slow
def test_trials_run_side_by_side_where_the_launcher_runs_jobs_elsewhere(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="no joblib launcher")
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2"]
    words = [*SPACE, "protocol.num_steps=2", "hydra.sweeper.n_trials=3"]
    # From a shell: a forked process would wait at its end for joblib's idle workers
    words = command("ablations.train", *train_words(tmp_path, *SEARCH, *parallel, *words))
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    study = study_of(tmp_path)
    assert [trial.state for trial in study.trials] == ["done"] * 3
    assert {trial.digest for trial in study.trials} == {
        run.record.digest for run in read_runs(tmp_path)
    }
