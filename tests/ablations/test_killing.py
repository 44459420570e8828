"""SIGKILL in the midst of every write, full disks, folders that vanish: nothing done is lost."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, Forked, command, environment, processes_at_work, train, train_words

from ablations.record import read_runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]
STEPS = ["protocol.num_steps=6", "job.checkpoint_seconds=0"]
LAUNCHERS = {
    "this process": [],
    "jobs of submitit": ["hydra/launcher=local_jobs", "hydra.launcher.timeout_min=10"],
}
MOMENTS = {
    "first record": "record.json 1",
    "third checkpoint": "checkpoint.pt 3",
    "prediction": "after checkpoint.pt 6",  # the last one is written as training ends
    "detections": "detections.json.gz 1",
    "last record": "record.json 2",
}


def sweep(runs: Path, launcher: list[str], kill_at: str | None) -> tuple[int, str]:
    """A sweep of two runs in processes of their own; the first write of a kind kills its writer."""
    killing = {"KILL_AT": kill_at, "PYTHONPATH": str(ROOT / "tests" / "killing")} if kill_at else {}
    done = subprocess.run(
        command("ablations.train", *train_words(runs, "-m", *launcher, *STEPS, "seed=0,1")),
        cwd=ROOT, env={**environment(), **killing}, capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def finished_again(runs: Path) -> None:
    """The same sweep, unharmed: it finishes both runs and leaves nothing half."""
    again = train(runs, "-m", *STEPS, "seed=0,1")
    assert again.returncode == 0, again.stdout
    found = {run.record.seed: run for run in read_runs(runs)}
    assert {seed: run.record.status for seed, run in found.items()} == {0: "done", 1: "done"}
    for run in found.values():
        assert len(run.curve()) == 6
        assert run.detections() is not None
    assert not list(runs.rglob("*.partial"))
    assert not list(runs.rglob("*.set-aside-*"))
    assert not list(runs.rglob("progress.json"))


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_killed_in_a_write_is_told_and_the_next_call_finishes(tmp_path, moment, launcher):
    if launcher != "this process":
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="no submitit launcher")
    code, printed = sweep(tmp_path, LAUNCHERS[launcher], f"{MOMENTS[moment]} self")
    assert code == 1, printed
    # Each run's process counts its own writes, so both of them die
    assert "2 jobs: 0 trained, 0 done before, 0 failed, 2 lost" in printed
    assert "by SIGKILL" in printed
    assert not processes_at_work(tmp_path)
    for run in read_runs(tmp_path):  # which raises for a record that is not whole
        assert run.record.status == "running"
    finished_again(tmp_path)


@pytest.mark.parametrize("moment", ["third checkpoint", "last record"])
def test_a_killed_parent_leaves_no_process_and_the_next_call_finishes(tmp_path, moment):
    code, printed = sweep(tmp_path, [], f"{MOMENTS[moment]} parent")
    assert code == -signal.SIGKILL, printed
    deadline = time.monotonic() + 60
    while processes_at_work(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    finished_again(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_fails_the_run_in_a_line_and_keeps_earlier_records(small_disk):
    runs = small_disk / "runs"
    assert train(runs, "protocol.num_steps=2").returncode == 0
    before = (read_runs(runs)[0].folder / "record.json").read_bytes()
    left = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(bytes(left - 2**17))
    full = train(runs, "protocol.num_steps=2", "seed=1")
    assert full.returncode == 1, full.stdout
    assert "cannot be written (No space left on device)" in full.stdout
    assert "free space" in full.stdout
    assert "Traceback" not in full.stdout + full.stderr
    assert (runs / read_runs(runs)[0].folder / "record.json").read_bytes() == before
    (small_disk / "ballast").unlink()
    assert train(runs, "-m", "protocol.num_steps=2", "seed=0,1").returncode == 0


def test_a_read_only_folder_is_told_with_the_remedy(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = train(small_disk / "runs", "protocol.num_steps=2")
    assert done.returncode == 1, done.stdout
    assert "Read-only file system" in done.stdout
    assert "choose another job.runs, or give write access" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_folder_that_vanishes_fails_its_run_in_a_line(tmp_path):
    words = train_words(tmp_path, "protocol.num_steps=150", "job.checkpoint_seconds=0")
    run = Forked("ablations.train", *words)
    deadline = time.monotonic() + 120
    while not (curves := list(tmp_path.glob("*/seed0/checkpoint.pt"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    curves[0].parent.rename(tmp_path / "elsewhere")
    done = run.wait()
    assert done.returncode == 1
    assert "cannot be written (No such file or directory)" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
