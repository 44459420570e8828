"""What dies, what is damaged, what is busy: told by name, and everything else goes on."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from commands import ROOT, TINY, Forked, command, environment, train, train_words

from ablations import storage
from ablations.record import read_runs
from ablations.storage import StorageError, held, write_atomically

LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
    "this_process": ["hydra/launcher=this_process"],
    "processes": ["hydra/launcher=processes"],
    "local_jobs": ["hydra/launcher=local_jobs"],
}
EACH_LAUNCHER = [
    "basic",
    # whose every job imports torch anew
    pytest.param("joblib", marks=pytest.mark.slow),
    pytest.param("submitit_local", marks=pytest.mark.slow),
    pytest.param("this_process", marks=pytest.mark.slow),
    pytest.param("processes", marks=pytest.mark.slow),
    pytest.param("local_jobs", marks=pytest.mark.slow),
]
NUM_STEPS = 150
LONG = f"protocol.num_steps={NUM_STEPS}"
WORKERS = [word for word in TINY if not word.startswith("job.num_workers")]


def launcher(name: str, tmp_path: Path) -> list[str]:
    if name in ("submitit_local", "local_jobs"):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="no submitit launcher")
        return [*LAUNCHERS[name], f"hydra.launcher.submitit_folder={tmp_path / 'submitit'}"]
    if name in ("joblib", "processes"):
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="no joblib launcher")
    return LAUNCHERS[name]


def in_launcher(runs: Path, *words: str, tiny: list[str] = TINY) -> tuple[int, str]:
    """The command in a process that was not forked, as launchers start some that are not either."""
    done = subprocess.run(
        command("ablations.train", *train_words(runs, *words, tiny=tiny)), cwd=ROOT,
        env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def started(runs: Path, *words: str, tiny: list[str] = TINY) -> Forked:
    return Forked("ablations.train", *train_words(runs, *words, tiny=tiny))


def ended(run: Forked) -> tuple[int, str]:
    done = run.wait()
    return done.returncode, done.stdout + done.stderr


def holder_of(runs: Path, seed: int) -> int:
    """The process that holds the lock of a run which has begun to train."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for curve in runs.glob(f"*/seed{seed}/curve.jsonl"):
            lock = str(curve.with_name(".lock"))
            for link in Path("/proc").glob("[0-9]*/fd/*"):
                try:
                    if os.readlink(link) == lock:
                        return int(link.parts[2])
                except OSError:
                    continue
        time.sleep(0.02)
    raise TimeoutError("no process holds the run")


def statuses(runs: Path) -> dict[int, str]:
    return {run.record.seed: run.record.status for run in read_runs(runs)}


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EACH_LAUNCHER)
def test_every_launcher_runs_jobs_with_data_workers_and_processes(tmp_path, name, processes):
    words = [
        *launcher(name, tmp_path), "job.num_workers=1", f"job.processes={processes}",
        "protocol.num_steps=2", "seed=0,1",
    ]  # fmt: skip
    code, printed = in_launcher(tmp_path / "runs", "-m", *words, tiny=WORKERS)
    assert code == 0, printed
    assert "2 jobs: 2 trained" in printed
    assert statuses(tmp_path / "runs") == {0: "done", 1: "done"}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("name", EACH_LAUNCHER)
def test_a_job_that_dies_is_named_and_the_others_finish(tmp_path, name):
    runs = tmp_path / "runs"
    with ThreadPoolExecutor(1) as pool:
        words = ["-m", *launcher(name, tmp_path), LONG, "seed=0,1"]
        sweep = pool.submit(in_launcher, runs, *words)
        os.kill(holder_of(runs, 0), signal.SIGKILL)
        code, printed = sweep.result()
    assert code == 1, printed
    assert "2 jobs: 1 trained, 0 done before, 0 failed, 1 lost" in printed
    assert "seed 0: its process died (by SIGKILL" in printed
    assert "Traceback" not in printed
    assert statuses(runs) == {0: "running", 1: "done"}
    again = train(runs, "-m", LONG, "seed=0,1")
    assert again.returncode == 0, again.stdout
    assert statuses(runs) == {0: "done", 1: "done"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("flags", [(), pytest.param(("-m",), marks=pytest.mark.slow)])
def test_a_signal_ends_a_run_with_a_checkpoint_and_a_word(tmp_path, number, flags):
    words = ["seed=0,1"] if flags else []
    run = started(tmp_path, *flags, LONG, *words)
    holder_of(tmp_path, 0)
    os.kill(run.pid, number)
    code, printed = ended(run)
    assert code == 1, printed
    assert "Traceback" not in printed
    assert f"stopped by {number.name} after step" in printed
    assert statuses(tmp_path) == {0: "running"}
    (folder,) = (found.folder for found in read_runs(tmp_path))
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert f"after step {saved['step']} of {NUM_STEPS}" in printed
    assert 0 < saved["step"] < NUM_STEPS


def test_a_run_held_by_another_process_is_left_to_it_and_is_no_failure(tmp_path):
    first = started(tmp_path, LONG)
    holder_of(tmp_path, 0)
    second = train(tmp_path, "-m", LONG, "seed=0")
    assert second.returncode == 0, second.stdout
    assert "1 left to another process" in second.stdout
    assert first.wait().returncode == 0
    assert statuses(tmp_path) == {0: "done"}


@pytest.mark.parametrize("flags", [(), ("-m",)])
def test_a_run_held_by_another_process_is_waited_for_on_request(tmp_path, flags):
    first = started(tmp_path, LONG)
    holder_of(tmp_path, 0)
    second = train(tmp_path, *flags, LONG, "job.wait=true", *(["seed=0"] if flags else []))
    assert second.returncode == 0, second.stdout
    assert "seed 0 waits: " in second.stdout
    assert "seed 0 is done already" in second.stdout
    assert statuses(tmp_path)[0] == "done"
    if flags:
        assert "1 jobs: 0 trained, 1 done before" in second.stdout
    assert first.wait().returncode == 0


def test_a_file_system_without_locks_is_refused_with_the_remedy(tmp_path, monkeypatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    fcntl = pytest.importorskip("fcntl", reason="only Unix locks so")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StorageError, match="has no locks"), held(tmp_path):
        pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A runs folder with two finished runs, of seeds 0 and 1."""
    runs = tmp_path_factory.mktemp("trained")
    done = train(runs, "-m", "protocol.num_steps=2", "seed=0,1")
    assert done.returncode == 0, done.stdout
    return runs


@pytest.fixture
def finished(trained, tmp_path) -> Path:
    """The folder of the run of seed 0 in a copy of `trained`."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return read_runs(tmp_path)[0].folder


@pytest.mark.parametrize("damage", ["empty", "cut", "key missing", "another model"])
def test_a_damaged_checkpoint_is_set_aside_and_training_starts_anew(tmp_path, finished, damage):
    folder = finished
    whole = (folder / "checkpoint.pt").read_bytes()
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    if damage == "another model":
        content["model"] = {"weight": torch.zeros(3)}
    content.pop("step" if damage == "key missing" else "nothing", None)
    if damage in ("empty", "cut"):
        (folder / "checkpoint.pt").write_bytes({"empty": b"", "cut": whole[:5000]}[damage])
    else:
        torch.save(content, folder / "checkpoint.pt")
    (folder / "record.json").unlink()
    again = train(tmp_path, "protocol.num_steps=2")
    assert again.returncode == 0, again.stdout
    assert "checkpoint.pt: " in again.stdout
    assert "set aside as checkpoint.pt.set-aside-1" in again.stdout
    assert "weights_only" not in again.stdout
    assert (folder / "checkpoint.pt").stat().st_size == pytest.approx(len(whole), rel=0.01)


@pytest.mark.parametrize("content", ["", "{", '{"schema": 2}', '{"seed": 5}'])
def test_a_damaged_record_is_named_and_the_others_are_read(tmp_path, finished, content):
    path = finished / "record.json"
    if content == '{"seed": 5}':
        content = json.dumps({**json.loads(path.read_text()), "seed": 5})
    path.write_text(content)
    faults: list[str] = []
    readable = [run.folder for run in read_runs(tmp_path, faults)]
    assert readable == [finished.with_name("seed1")]
    assert str(path) in faults[0]


def test_damaged_records_are_set_aside_by_the_next_run(tmp_path, finished):
    (finished / "record.json").write_text("{")
    (finished.with_name("seed1") / "record.json").write_text('{"schema": 2}')
    again = train(tmp_path, "-m", "protocol.num_steps=2", "seed=0,1")
    assert again.returncode == 0, again.stdout
    assert again.stdout.count("is set aside as") == 2
    assert statuses(tmp_path) == {0: "done", 1: "done"}


def test_a_full_disk_is_told_by_file_and_leaves_the_earlier_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomically(path, b"earlier")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(StorageError, match=r"record\.json: cannot be written \(No space left"):
        write_atomically(path, b"later")
    assert path.read_bytes() == b"earlier"


def test_a_folder_that_cannot_be_used_is_told_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"choose another job\.runs"), held(tmp_path / "file"):
        pass


def test_the_log_of_a_failed_run_says_why(tmp_path):
    done = train(tmp_path, "protocol.learning_rate=1e30", "protocol.warmup_steps=0")
    assert done.returncode == 1
    (run,) = read_runs(tmp_path)
    assert "NonFiniteLossError" in (run.folder / "log.txt").read_text()


def test_nothing_temporary_is_left_after_a_kill_and_the_run_that_follows(tmp_path, finished):
    folder = finished
    for name in ("record.json", "detections.json.gz", "checkpoint.pt"):
        (folder / f".{name}.partial").write_bytes(b"half")
    (folder / "record.json").unlink()
    assert train(tmp_path, "protocol.num_steps=2").returncode == 0
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
def test_a_killed_data_worker_fails_its_run_which_the_same_command_continues(tmp_path):
    run = started(tmp_path, LONG, "job.num_workers=1", "job.checkpoint_seconds=0", tiny=WORKERS)
    holder = holder_of(tmp_path, 0)
    children = Path(f"/proc/{holder}/task/{holder}/children")
    deadline = time.monotonic() + 60
    while not (workers := children.read_text().split()):
        assert time.monotonic() < deadline, "no data worker was started"
    for child in workers:
        os.kill(int(child), signal.SIGKILL)
    code, printed = ended(run)
    assert code == 1, printed
    (failed,) = read_runs(tmp_path)
    assert failed.record.status == "failed"
    assert "DataLoader worker" in failed.record.error
    again = train(tmp_path, LONG)
    assert again.returncode == 0, again.stdout
    assert statuses(tmp_path) == {0: "done"}
