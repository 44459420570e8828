"""A sweep watched from its folder alone: what is done, how far a run is, what was cut off."""

import os
import re
import signal
import time

import pytest
from commands import Forked, run_module, train, train_words

from ablations import trackers
from ablations.plan import main as plan
from ablations.progress import Progress
from ablations.progress_file import progress_told, read_progress
from ablations.record import RunRecord, read_runs, run_folder, write_record, write_sweep
from ablations.sweep.watching import state_of, watch


def told_when(holds, folder):
    deadline = time.monotonic() + 20
    while not ((told := read_progress(folder)) and holds(told)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return told


def test_a_run_at_work_tells_how_far_it_is_and_takes_the_word_back_at_its_end(tmp_path):
    with progress_told(tmp_path, every=0.02):
        assert told_when(lambda p: p.what == "start", tmp_path).is_alive
        progress = Progress("train", 200, every=1000)
        progress.begun -= 100  # seconds for the first quarter
        progress.update(50)  # no line is due, yet who watches is told
        told = told_when(lambda p: p.done == 50, tmp_path)
        assert (str(told), told.process) == ("train 25%", os.getpid())
        assert told.seconds_left == pytest.approx(300, rel=0.01)
    assert read_progress(tmp_path) is None
    progress.update(100)  # nobody listens any more


def test_a_run_that_is_long_silent_is_cut_off(tmp_path):
    record = RunRecord(variant="v", seed=0, digest="d", status="running", config={})
    assert state_of(tmp_path, "running", record) == "cut off"
    (tmp_path / "progress.json").write_text(
        '{"what": "train", "done": 1, "total": 4, "seconds_left": 65.2, "host": "node7",'
        ' "process": 12, "every": 10}'
    )
    assert state_of(tmp_path, "running", record) == "running: train 25%, ETA 1:05 on node7"
    long_ago = time.time() - 90
    os.utime(tmp_path / "progress.json", (long_ago, long_ago))
    assert state_of(tmp_path, "running", record) == "cut off at train 25%, 1:30 ago on node7"


def left_behind(runs, **statuses: str) -> None:
    """Records of seeds by status, and the note of a sweep that wanted one more."""
    digest = "0123456789abcdef"
    for seed, status in enumerate(statuses.values()):
        metrics = {"AP": 0.5} if status == "done" else {}
        error = "Traceback ...\nValueError: the reason" if status == "failed" else None
        record = RunRecord(
            variant="v", seed=seed, digest=digest, status=status, config={}, metrics=metrics,
            error=error,
        )  # fmt: skip
        write_record(run_folder(runs, "v", digest, seed), record)
    write_sweep(
        runs,
        [{"variant": "v", "digest": digest, "seed": seed} for seed in range(len(statuses) + 1)],
    )


def test_a_folder_alone_tells_of_its_sweeps(tmp_path, capsys):
    left_behind(tmp_path, a="done", b="failed", c="running")
    assert plan(["--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=2)[2] for line in printed[1:5]] == [
        "done", "failed: ValueError: the reason", "cut off", "missing",
    ]  # fmt: skip
    assert printed[5] == "4 runs: 1 cut off, 1 done, 1 failed, 1 missing"


def test_what_cannot_be_read_is_named_beside_the_rest(tmp_path, capsys):
    left_behind(tmp_path, zero="done", one="failed")
    (tmp_path / "sweep-0.json").write_text('{"ru')
    (tmp_path / "sweep-1.json").write_text('{"runs": [3]}')
    (tmp_path / "w-0123456789abcdef" / "seed0").mkdir(parents=True)
    (tmp_path / "w-0123456789abcdef" / "seed0" / "record.json").write_text("{")
    assert plan(["--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "1 done, 1 failed" in printed
    for name in (
        "sweep-0.json: not readable",
        "sweep-1.json: is no note of a sweep",
        "record.json",
    ):
        assert f"{name}" in printed


def test_a_folder_that_is_not_there_is_refused(tmp_path, capsys):
    assert plan(["--runs", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_watching_ends_when_nothing_is_at_work_any_more(capsys):
    shown = iter(
        [["missing", "running: train 5%"], ["done", "running: start"], ["done", "failed: x"]]
    )
    watch(lambda: next(shown), every=0, is_terminal=False)
    assert next(shown, None) is None


def test_a_live_sweep_is_seen_from_its_folder(tmp_path):
    words = train_words(tmp_path, "-m", "protocol.num_steps=150", "job.log_seconds=0.2", "seed=0,1")
    sweep = Forked("ablations.train", *words)
    deadline = time.monotonic() + 300
    shown = ""
    while not re.search(r" 0 +running: train \d+%, ETA \d+:\d\d on ", shown):
        assert time.monotonic() < deadline, shown
        if tmp_path.exists() and list(tmp_path.glob("*/seed0/progress.json")):
            shown = run_module("ablations.plan", "--runs", str(tmp_path)).stdout
    assert "2 runs: 1 missing, 1 running" in shown
    os.kill(sweep.pid, signal.SIGTERM)
    sweep.wait()
    shown = run_module("ablations.plan", "--runs", str(tmp_path)).stdout
    assert "2 runs: 1 cut off, 1 missing" in shown
    assert not list(tmp_path.rglob("progress.json"))


@pytest.mark.parametrize(
    ("name", "message"), [("tensorbored", "give some of tensorboard"), ("mlflow", "pip install")]
)
def test_a_tracker_that_is_not_there_is_refused_before_training(monkeypatch, name, message):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(trackers.TrackerError, match=message):
        trackers.check_trackers([name])


def test_a_tracker_that_fails_ends_no_run(monkeypatch, tmp_path, caplog):
    class Broken:
        def __init__(self, *_: object) -> None:
            self.calls = 0

        def losses(self, step, values) -> None:
            raise ConnectionError("no route")

        close = metrics = losses

    monkeypatch.setitem(trackers.TRACKERS, "broken", Broken)
    with trackers.told_to_trackers(["broken"], tmp_path, "v", {}) as (tracker,):
        tracker.losses(1, {})
        tracker.losses(2, {})
    assert caplog.text.count("broken is told no more: ConnectionError: no route") == 1


def test_tensorboard_shows_the_curve_and_the_metrics(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="the extra `tensorboard` is not installed",
    )
    done = train(tmp_path, "job.trackers=[tensorboard]", "protocol.num_steps=4")
    assert done.returncode == 0, done.stdout
    (run,) = read_runs(tmp_path)
    events = accumulator.EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(row["step"], pytest.approx(row["loss"])) for row in run.curve()]
    (shown,) = events.Scalars("val/AP")
    assert shown.value == pytest.approx(run.record.metrics["AP"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_other_trackers_take_a_run_where_they_are_installed(tmp_path, monkeypatch, name):
    pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with trackers.told_to_trackers([name], tmp_path, "v seed 0", {"seed": 0}) as (tracker,):
        tracker.losses(0, {"loss": 1.5})
        tracker.metrics(4, {"AP": 0.25})
    assert tracker.name == name  # it took all that it was told
