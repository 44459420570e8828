"""A sweep on a real Slurm: array jobs, jobs queued again, jobs that are canceled."""

import subprocess
import time
from pathlib import Path

import pytest
import slurm_cluster
from commands import ROOT, command, environment, processes_at_work, train_words

from ablations.record import read_runs

pytestmark = pytest.mark.slow
TIMEOUT = 600  # seconds: two jobs at once import torch and compile on a busy machine
LAUNCHER = [
    "hydra/launcher=slurm",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.timeout_min=9",
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which Slurm's commands and ours find the cluster."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="no submitit launcher")
    if reason := slurm_cluster.why_not():
        pytest.skip(reason)
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")) as conf:
        yield {**environment(), "SLURM_CONF": str(conf)}


class Sweep:
    """A sweep on the cluster, begun and not waited for."""

    def __init__(self, slurm: dict[str, str], runs: Path, *words: str) -> None:
        self.slurm, self.runs = slurm, runs
        self.process = subprocess.Popen(
            command("ablations.train", *train_words(runs, "-m", *LAUNCHER, *words)),
            cwd=ROOT, env=slurm, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def end(self) -> tuple[int, str]:
        try:
            printed, _ = self.process.communicate(timeout=2 * TIMEOUT)
        finally:
            self.process.kill()
        return self.process.returncode, printed

    def checkpoint(self, seed: int) -> Path:
        """The checkpoint of a run, as soon as there is one."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            for path in self.runs.glob(f"*/seed{seed}/checkpoint.pt"):
                return path
            time.sleep(0.1)
        raise TimeoutError("no checkpoint was written")

    def job(self, seed: int) -> str:
        """The job of a run: the array's tasks are in the order of the seeds."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            for job in self.told("squeue", "--noheader", "--array", "--format=%i").split():
                if job.endswith(f"_{seed}"):
                    return job
            time.sleep(0.2)
        raise TimeoutError("no job is queued")

    def told(self, *words: str) -> str:
        done = subprocess.run(words, env=self.slurm, capture_output=True, text=True, check=True)
        return done.stdout


def statuses(runs: Path) -> dict[int, str]:
    return {run.record.seed: run.record.status for run in read_runs(runs)}


def test_a_sweep_is_one_array_whose_jobs_all_train(slurm, tmp_path):
    sweep = Sweep(slurm, tmp_path, "seed=0,1", "protocol.num_steps=2")
    assert sweep.job(0).partition("_")[0] == sweep.job(1).partition("_")[0]
    code, printed = sweep.end()
    assert code == 0, printed
    assert "2 jobs: 2 trained" in printed
    assert statuses(tmp_path) == {0: "done", 1: "done"}


def test_a_job_that_times_out_is_queued_again_and_goes_on_from_its_checkpoint(slurm, tmp_path):
    words = ["seed=0,1", "protocol.num_steps=150", "job.checkpoint_seconds=0"]
    sweep = Sweep(slurm, tmp_path, *words)
    folder = sweep.checkpoint(0).parent
    # what Slurm sends a job signal_delay_s before its time is over
    sweep.told("scancel", "--signal=USR2", sweep.job(0))
    code, printed = sweep.end()
    assert code == 0, printed
    assert "2 jobs: 2 trained" in printed
    assert statuses(tmp_path) == {0: "done", 1: "done"}
    told = (folder / "log.txt").read_text()
    assert "going on from step" in told
    assert len((folder / "curve.jsonl").read_text().splitlines()) == 150


def test_slurms_own_time_limit_queues_a_job_again_which_goes_on(slurm, tmp_path):
    limit = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=20"]
    sweep = Sweep(slurm, tmp_path, "seed=0", "protocol.num_steps=100000", "job.processes=2", *limit)
    log = sweep.checkpoint(0).with_name("log.txt")
    deadline = time.monotonic() + TIMEOUT
    while "going on from step" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(1)
    sweep.told("scancel", "--me")
    code, printed = sweep.end()
    assert code == 1, printed
    assert "1 stopped" in printed


def test_a_canceled_job_is_told_and_the_others_finish(slurm, tmp_path):
    words = ["seed=0,1,2", "protocol.num_steps=60", "job.checkpoint_seconds=0"]
    sweep = Sweep(slurm, tmp_path, *words, "hydra.launcher.array_parallelism=1")
    sweep.checkpoint(0)
    sweep.told("scancel", sweep.job(1))  # it waits: Slurm takes it away without a trace
    sweep.told("scancel", sweep.job(0))
    code, printed = sweep.end()
    assert code == 1, printed
    assert "3 jobs: 1 trained, 0 done before, 0 failed, 1 lost, 1 stopped" in printed
    assert "seed 0: SIGTERM after step" in printed
    assert "was canceled or died before it ended" in printed
    assert statuses(tmp_path) == {0: "running", 2: "done"}


def test_no_process_of_a_job_is_left(slurm, tmp_path):
    sweep = Sweep(slurm, tmp_path, "seed=0,1", "protocol.num_steps=100000")
    deadline = time.monotonic() + TIMEOUT
    while len(list(tmp_path.glob("*/seed*/curve.jsonl"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    sweep.told("scancel", sweep.job(0).partition("_")[0])
    code, printed = sweep.end()
    assert code == 1, printed
    assert "2 stopped" in printed
    assert not processes_at_work(tmp_path)
