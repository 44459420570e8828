"""A sweep on a real Ray: a cluster begun for it, and one that runs already."""

import os
import shutil
import subprocess
import sys
import tempfile
import time

import pytest
from commands import ROOT, command, environment, train_words

from ablations.record import read_runs

pytestmark = pytest.mark.slow
pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="the extra `ray` is not installed")
# Ray takes loopback for a cluster on Windows or macOS
LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "240",  # a busy machine is slow to start one
}


def sweep(runs, ray_home, *words: str) -> "subprocess.CompletedProcess[str]":
    words = ("-m", "hydra/launcher=ray_cluster", "seed=0,1", "protocol.num_steps=2", *words)
    return subprocess.run(
        command("ablations.train", *train_words(runs, *words)), cwd=ROOT,
        env={**environment(), **LOOPBACK, "HOME": str(ray_home)},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.fixture
def ray_home(tmp_path):
    """Ray writes a token for its cluster into the home folder."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def cluster(tmp_path, ray_home):
    """The address of a cluster of this machine that runs beside the sweep."""
    short = tempfile.mkdtemp()  # sockets' paths have 107 bytes at most
    start = ["-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block"]
    head = subprocess.Popen(
        [sys.executable, *start, "--node-ip-address=127.0.0.1", "--port=26379", "--num-cpus=2",
         "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={short}"],
        env={**environment(), **LOOPBACK, "HOME": str(ray_home)},
        stdout=(tmp_path / "head.log").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    try:
        while "Ray runtime started" not in (told := (tmp_path / "head.log").read_text()):
            assert head.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.5)
        yield "127.0.0.1:26379"
    finally:
        head.terminate()  # its nodes end with it
        head.wait(timeout=60)
        shutil.rmtree(short, ignore_errors=True)


def test_a_sweep_starts_a_cluster_of_its_own_and_ends_it(tmp_path, ray_home):
    words = ["+hydra.launcher.ray.init.num_cpus=2", "job.processes=2"]
    done = sweep(tmp_path / "runs", ray_home, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 jobs: 2 trained" in done.stdout
    assert [run.record.status for run in read_runs(tmp_path / "runs")] == ["done", "done"]
    assert not processes_below(ray_home)


def test_a_sweep_joins_a_cluster_that_runs_and_leaves_it_running(tmp_path, ray_home, cluster):
    for number, told in enumerate(("2 jobs: 2 trained", "2 jobs: 0 trained, 2 done before")):
        done = sweep(tmp_path / "runs", ray_home, f"hydra.launcher.ray.init.address={cluster}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert told in done.stdout
        assert ("Connecting to existing Ray cluster" in done.stderr) == (number == 0)


def processes_below(home) -> list[str]:
    """Processes that were started with this home folder."""
    found = []
    for process in os.listdir("/proc"):
        try:
            with open(f"/proc/{process}/environ", "rb") as file:
                if f"HOME={home}\0".encode() in file.read():
                    found.append(process)
        except OSError:
            continue
    return found
