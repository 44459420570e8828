"""Runs that several processes share: `job.processes=2`."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from commands import TINY, Forked, processes_at_work, run_module, train, train_words
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from ablations import ranks
from ablations.config import JobConfig, ProtocolConfig, RunConfig
from ablations.data.glyphs import GlyphsData
from ablations.ranks import _told
from ablations.record import evaluations_path, read_evaluations, read_runs
from ablations.run import execute
from detnet.detection.retinanet import RetinaNetSpec
from detnet.zoo import ZOO

TWO = "job.processes=2"
LONG = "protocol.num_steps=60"
EVALUATED = "job.evaluate_every=4"
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds them in /proc")


def only_run(runs: Path):
    (run,) = read_runs(runs)
    return run


def wait_until(holds, what: str) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_two_processes_make_one_run_of_the_same_name_as_one(tmp_path):
    words = ["detector.score_threshold=0", "protocol.max_val_images=5"]
    for name, more in (("one", []), ("two", [TWO, "job.num_workers=1", EVALUATED])):
        done = train(tmp_path / name, *words, *more)
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = (only_run(tmp_path / name) for name in ("one", "two"))
    assert two.folder.relative_to(tmp_path / "two") == one.folder.relative_to(tmp_path / "one")
    assert (one.record.env["num_processes"], two.record.env["num_processes"]) == (1, 2)
    assert [row["step"] for row in two.curve()] == list(range(8))
    assert two.record.metrics.keys() == one.record.metrics.keys()
    more = set(os.listdir(two.folder)) - set(os.listdir(one.folder))
    assert more == {evaluations_path(two.folder).name}
    (evaluation,) = read_evaluations(two.folder)
    assert evaluation["step"] == 4
    assert evaluation["metrics"].keys() == two.record.metrics.keys()
    # Every image once, in order
    images = [[found["image_id"] for found in run.detections()] for run in (one, two)]
    assert list(dict.fromkeys(images[1])) == list(dict.fromkeys(images[0])) == [1, 2, 3, 4, 5]


def test_without_random_draws_both_train_the_same(tmp_path):
    """All anchors and RoIs train, all images have one shape: only the order of sums differs."""
    words = ["detector=retinanet", "detector.channels=16", "protocol.num_steps=4"]
    tiny = [word for word in TINY if not word.startswith("detector.")]
    for name, more in (("one", []), ("two", [TWO])):
        done = train(tmp_path / name, *words, *more, tiny=tiny)
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = (only_run(tmp_path / name) for name in ("one", "two"))
    for row, other in zip(one.curve(), two.curve(), strict=True):
        assert other == pytest.approx(row, rel=1e-3)


def test_a_classification_is_shared_too(tmp_path):
    words = [
        "task=classify", "backbone=detnet_atto", "data=glyph_classes_easy", "data.image_size=32",
        "protocol=classify_smoke", "protocol.image_size=32", "protocol.num_steps=3",
        "protocol.schedule.warmup_steps=1",
        "protocol.batch_size=4", "protocol.max_train_images=8", "protocol.max_val_images=5",
        "protocol.batch_norm_images=2", "job.num_workers=0", TWO, f"job.runs={tmp_path}",
    ]  # fmt: skip
    done = run_module("ablations.train", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [each["image_id"] for each in only_run(tmp_path).classes()] == [1, 2, 3, 4, 5]


def test_a_trial_that_is_pruned_ends_in_all_processes(tmp_path):
    words = [
        "hydra/sweeper=search", "hydra.sweeper.n_trials=1", "protocol.learning_rate=0.01,0.02",
        f"hydra.sweeper.storage={tmp_path / 'study.journal'}", TWO, EVALUATED,
        "hydra.sweeper.pruner=threshold", "hydra.sweeper.pruner_options={lower:0.99}",
    ]  # fmt: skip
    done = train(tmp_path / "runs", "-m", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is pruned at step 4 by threshold" in done.stdout
    assert only_run(tmp_path / "runs").record.status == "pruned"
    assert not processes_at_work(tmp_path)


@pytest.mark.slow
def test_ranks_that_cannot_be_forked_are_spawned_as_on_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "START_METHOD", "spawn")
    config = RunConfig(
        backbone=ZOO["detnet_atto"],
        detector=RetinaNetSpec(channels=8),
        data=GlyphsData(num_train=4, num_val=2, image_size=64),
        protocol=ProtocolConfig(
            name="tiny", short_side=[64], long_side=64, batch_size=2, num_steps=2
        ),
        job=JobConfig(runs=str(tmp_path), device="cpu", num_workers=0, processes=2),
    )
    outcome = execute(config, "spawned")
    assert outcome.status == "done", outcome.error
    told = (only_run(tmp_path).folder / "log.txt").read_text()
    assert told.count("train 2/2") == 1


def test_a_failing_process_ends_the_run_with_its_own_error(tmp_path):
    done = train(tmp_path, TWO, "protocol.learning_rate=1e30")
    printed = done.stdout + done.stderr
    assert done.returncode == 1, printed
    assert "of 2: NonFiniteLossError: step" in printed
    assert "lower protocol.learning_rate" in printed
    record = only_run(tmp_path).record
    assert record.status == "failed"
    assert "of 2: NonFiniteLossError: step" in record.error
    assert "losses.py" in record.error  # the traceback of that process
    assert not list(tmp_path.rglob("checkpoint.pt"))


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_is_named_though_a_survivor_failed_before_it_was_noticed(tmp_path, killed):
    about = {"py_callstack": "", "timestamp": "1"}
    said = {"message": "Connection closed by peer", "extraInfo": about}
    file = tmp_path / "error.json"
    file.write_text(json.dumps({"message": said}))
    survivor = ProcessFailure(1 - killed, pid=11, exitcode=1, error_file=str(file))
    nothing = str(tmp_path / "none")
    died = ProcessFailure(killed, pid=10, exitcode=-signal.SIGKILL, error_file=nothing)
    assert survivor.timestamp < died.timestamp
    failures = {each.local_rank: each for each in (survivor, died)}
    told = _told(ChildFailedError("train", failures), world_size=2)
    assert str(told).startswith(f"process {killed} of 2: died (by SIGKILL")


@needs_proc
def test_a_killed_process_ends_the_run_and_leaves_none_behind(tmp_path):
    run = Forked("ablations.train", *train_words(tmp_path, TWO, "protocol.num_steps=5000"))
    wait_until(lambda: list(tmp_path.rglob("curve.jsonl")), "no training began")
    # The ranks hold what the run's process holds; that one was begun first
    os.kill(processes_at_work(tmp_path)[-1], signal.SIGKILL)
    done = run.wait()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "of 2: died (by SIGKILL" in done.stdout + done.stderr
    assert only_run(tmp_path).record.status == "failed"
    assert not processes_at_work(tmp_path)
    again = train(tmp_path, TWO, "protocol.num_steps=5000", "protocol.num_steps=8")
    assert again.returncode == 0, again.stdout


@needs_proc
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_leaves_a_checkpoint_from_which_the_same_command_goes_on(tmp_path, number):
    whole = train(tmp_path / "whole", TWO, LONG)
    assert whole.returncode == 0, whole.stdout
    run = Forked("ablations.train", *train_words(tmp_path / "cut", TWO, LONG))
    wait_until(lambda: list(tmp_path.glob("cut/*/seed0/curve.jsonl")), "no training began")
    os.kill(run.pid, number)
    stopped = run.wait()
    printed = stopped.stdout + stopped.stderr
    assert stopped.returncode == 1, printed
    assert f"stopped by {number.name} after step" in printed
    assert "Traceback" not in printed
    assert not processes_at_work(tmp_path)
    again = train(tmp_path / "cut", TWO, LONG)
    assert again.returncode == 0, again.stdout
    checkpoints = [
        torch.load(only_run(tmp_path / name).folder / "checkpoint.pt", weights_only=True)["model"]
        for name in ("whole", "cut")
    ]
    for name, tensor in checkpoints[0].items():
        assert torch.equal(checkpoints[1][name], tensor), name


@needs_proc
def test_a_killed_parent_takes_all_processes_with_it(tmp_path):
    run = Forked("ablations.train", *train_words(tmp_path, TWO, LONG, "job.checkpoint_seconds=0"))
    wait_until(lambda: list(tmp_path.rglob("checkpoint.pt")), "no checkpoint was written")
    os.kill(run.pid, signal.SIGKILL)
    wait_until(lambda: not processes_at_work(tmp_path), "a process was left")
    again = train(tmp_path, TWO, LONG)
    assert again.returncode == 0, again.stdout
    assert only_run(tmp_path).record.status == "done"
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["job.processes=3"], "job.processes=3: give a number that divides protocol.batch_size=2"),
        (["job.processes=0"], "job.processes=0: give a whole number above 0"),
        (["job.processes=2", "job.device=cuda:1"], "job.device=cuda:1: give cuda, of which"),
        (
            ["protocol.batch_norm_images=1"],
            "protocol.batch_norm_images=1: give null, which is all 2 of a step, or 2, which is",
        ),
    ],
)
def test_what_processes_cannot_share_is_refused(tmp_path, words, told):
    done = train(tmp_path, *words)
    assert done.returncode == 2, done.stdout
    assert told in done.stdout + done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="is of machines without a GPU")
def test_a_gpu_for_each_process_is_asked_for_by_name(tmp_path):
    tiny = [word for word in TINY if not word.startswith("job.device")]
    done = train(tmp_path, TWO, "job.device=cuda", tiny=tiny)
    assert "job.device=cuda: no GPU is visible here" in json.dumps(done.stdout + done.stderr)
