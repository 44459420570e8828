"""Queued jobs are waited for one by one: one that died costs no other its result."""

import shutil
from types import SimpleNamespace

import pytest

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="no submitit launcher")
from ablations.sweep import jobs, sweeper


class Job:
    """A job that has left the queue, with or without a result."""

    def __init__(self, folder, number: int, result=None) -> None:
        self.job_id, self.result = f"7_{number}", result
        self.paths = SimpleNamespace(
            result_pickle=folder / f"{number}.pkl", stderr=folder / f"{number}.err"
        )
        if result is not None:
            self.paths.result_pickle.touch()

    def results(self):
        if isinstance(self.result, Exception):
            raise self.result
        return [self.result]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "GRACE_SECONDS", 0.05)


def test_a_job_without_a_result_is_told_by_name_and_log_beside_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_alive", lambda waiting, cluster: set())
    queued = [Job(tmp_path, 0, "zero"), Job(tmp_path, 1), Job(tmp_path, 2, ValueError("two"))]
    first, second, third = jobs._wait_for(queued, "slurm")
    assert first == "zero"
    with pytest.raises(jobs.JobError, match=rf"job 7_1 was canceled or died.*{tmp_path}/1\.err"):
        _ = second.return_value
    with pytest.raises(jobs.JobError, match="two"):
        _ = third.return_value


def test_a_job_that_is_queued_again_is_waited_for(tmp_path, monkeypatch):
    queue = [{"7_0"}, set(), {"7_0"}, set()]  # it vanishes for a moment and comes back
    job = Job(tmp_path, 0)

    def alive(waiting, cluster):
        if len(queue) == 1:
            job.result = "done"
            job.paths.result_pickle.touch()
        return queue.pop(0)

    monkeypatch.setattr(jobs, "GRACE_SECONDS", 1000.0)
    monkeypatch.setattr(jobs, "_alive", alive)
    assert jobs._wait_for([job], "slurm") == ["done"]
    assert not queue


def test_an_interrupted_sweep_leaves_its_jobs_in_the_queue_and_says_so(tmp_path, monkeypatch):
    def interrupted(jobs, cluster):
        raise KeyboardInterrupt

    class Executor:
        def map_array(self, *arguments):
            return [Job(tmp_path, 0), Job(tmp_path, 1)]

    monkeypatch.setattr(jobs, "_executor", lambda params, cluster: Executor())
    monkeypatch.setattr(jobs, "_wait_for", interrupted)
    launcher = SimpleNamespace(params={})
    launcher.launch = lambda words, first: jobs.launch(launcher, "slurm", words, first)
    done = tmp_path / "runs" / "a-0" / "seed0"
    place = {"variant": "a", "seed": 0, "digest": "0", "folder": str(done)}
    run = SimpleNamespace(
        variant="a",
        config=SimpleNamespace(seed=0),
        folder=done,
        place=place,
        found=lambda: ("missing", None),
    )
    point = SimpleNamespace(overrides=[], run=run)
    _, (first, _) = sweeper.launch(launcher, [point, point])
    assert first.status == "queued"
    assert first.is_fault
    assert "goes on without this command" in first.error


def test_a_queue_that_does_not_answer_loses_no_job(tmp_path, monkeypatch, caplog):
    silent = SimpleNamespace(returncode=1, stdout="", stderr="Unable to contact slurm controller")
    monkeypatch.setattr(jobs.subprocess, "run", lambda *_, **__: silent)
    assert jobs._alive([Job(tmp_path, 0)], "slurm") == {"7_0"}
    assert "Unable to contact slurm controller" in caplog.text


def test_array_tasks_and_single_jobs_are_known_by_their_ids(tmp_path, monkeypatch):
    told = SimpleNamespace(returncode=0, stdout="7_0\n7_1\n9\n", stderr="")
    monkeypatch.setattr(jobs.subprocess, "run", lambda *_, **__: told)
    assert jobs._alive([], "slurm") == {"7_0", "7_1", "9"}


def test_what_only_slurm_knows_is_passed_under_its_name(tmp_path):
    params = {
        "submitit_folder": str(tmp_path / "%j"), "timeout_min": 5, "nodes": 1,
        "max_num_timeout": 3, "partition": "debug",
    }  # fmt: skip
    if shutil.which("srun") is None:
        pytest.skip("no srun, which submitit asks for")
    executor = jobs._executor(params, "slurm")
    assert executor._executor.max_num_timeout == 3
    assert executor._executor.parameters["time"] == 5
    assert executor._executor.parameters["partition"] == "debug"
