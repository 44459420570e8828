"""Runs as jobs of submitit: queued in one array, each told when it ends, whatever ends it.

Hydra's own launcher asks the jobs for their results in turn; the first that died loses the rest.
"""

import logging
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

from ablations.sweep.sweeper import LeftInQueueError

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
GRACE_SECONDS = 20.0
"""How long the result of an ended job may take to show on a shared file system."""


class JobError(RuntimeError):
    """A job ended without a result; the message names it and its log."""


def launch(
    launcher: Any, cluster: str, job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Queue a job for each run, wait for all; a job that died returns a JobError.

    Raises LeftInQueueError where a person does not wait that long.
    `launcher` is Hydra's, whose call is a job; `cluster` is submitit's word, local or slurm.
    """
    numbers = range(first, first + len(job_overrides))
    jobs = _executor(launcher.params, cluster).map_array(
        launcher,
        [list(overrides) for overrides in job_overrides],
        ["hydra.sweep.dir"] * len(numbers),
        numbers,
        [f"job_id_for_{number}" for number in numbers],
        [Singleton.get_state()] * len(numbers),
    )
    log.info("%d jobs are queued, from %s to %s", len(jobs), jobs[0].job_id, jobs[-1].job_id)
    try:
        return _wait_for(jobs, cluster)
    except KeyboardInterrupt:
        raise LeftInQueueError from None


def _executor(params: Mapping[str, Any], cluster: str) -> Any:
    """submitit calls what only one kind of cluster knows by that kind's name."""
    shared = {each.name for each in fields(BaseQueueConf)}
    named = {
        name if name in shared else f"{cluster}_{name}": value for name, value in params.items()
    }
    at_start = {"folder": named.pop("submitit_folder")}
    if (name := f"{cluster}_max_num_timeout") in named:
        at_start[name] = named.pop(name)
    executor = submitit.AutoExecutor(cluster=cluster, **at_start)
    executor.update_parameters(**named)
    return executor


def _wait_for(jobs: Sequence[Any], cluster: str) -> list[JobReturn]:
    waiting, returns = dict(enumerate(jobs)), dict[int, JobReturn]()
    gone_since: dict[int, float] = {}
    while waiting:
        alive = _alive(waiting.values(), cluster)
        for number, job in list(waiting.items()):
            if job.job_id in alive:
                gone_since.pop(number, None)
                continue
            gone = time.monotonic() - gone_since.setdefault(number, time.monotonic())
            has_result = job.paths.result_pickle.exists()
            if has_result or gone > GRACE_SECONDS:
                returns[number] = _result(job) if has_result else _lost(job)
                del waiting[number]
                log.info("job %s has ended, %d of %d", job.job_id, len(returns), len(jobs))
        if waiting:
            time.sleep(POLL_SECONDS)
    return [returns[number] for number in range(len(jobs))]


def _alive(jobs: Iterable[Any], cluster: str) -> set[str]:
    """The ids of jobs that wait or run; all where the queue does not answer.

    The queue is asked, not the accounting, which not every cluster has.
    """
    if cluster == "local":
        return {job.job_id for job in jobs if not job.done()}
    asked = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)
    if told.returncode != 0:
        log.warning("the queue does not answer: %s", told.stderr.strip())
        return {job.job_id for job in jobs}
    return set(told.stdout.split())


def _result(job: Any) -> JobReturn:
    try:
        return job.results()[0]
    except Exception as error:  # submitit raises here what the job raised
        return _failed(str(error))


def _lost(job: Any) -> JobReturn:
    return _failed(
        f"job {job.job_id} was canceled or died before it ended; its log is {job.paths.stderr}"
    )


def _failed(reason: str) -> JobReturn:
    return JobReturn(status=JobStatus.FAILED, _return_value=JobError(reason))
