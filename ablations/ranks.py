"""A run that several processes of this machine share, begun and watched by torch's elastic launch.

The process of the run plans it and keeps its record. What it begins are ranks: each has a model,
its part of every batch and a GPU, where there are GPUs. The main one, rank 0, writes.
"""

import logging
import multiprocessing
import os
import sys
import tempfile
import uuid
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ablations.computing import Results, compute, take_part
from ablations.planning import PlannedRun
from ablations.runtime import (
    START_METHOD,
    PrunedError,
    Runtime,
    StoppedError,
    death,
    restore_signals,
    select_device,
    stopped_by_signals,
    use_threads,
)

_HERE = "127.0.0.1"


class RankError(RuntimeError):
    """A rank failed and with it the run; the message is what that rank said."""


def compute_in_ranks(planned: PlannedRun, runtime: Runtime) -> Results:
    """What `compute` does, in `runtime.world_size` processes.

    Raises RankError for the first that fails; the others are ended. Signals go to every rank, and
    the run then ends with StoppedError and a checkpoint.
    """
    with (
        tempfile.TemporaryDirectory() as errors,
        stopped_by_signals(on_signal=_pass_on) as stop,
    ):
        launch = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=runtime.world_size,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{_HERE}:0",
            local_addr=_HERE,
            max_restarts=0,
            # A process that has asked for GPUs cannot be forked
            start_method="spawn" if runtime.is_gpu else START_METHOD,
            logs_specs=DefaultLogsSpecs(log_dir=errors),
            signals_to_handle="SIGHUP",  # the others are ours
        )
        try:
            if runtime.stop.by:
                raise StoppedError(f"{runtime.stop.by} before it began")
            answers = elastic_launch(launch, _compute_as_rank)(planned)
        except Exception as error:
            if stop.by:
                raise StoppedError(f"{stop.by}; the same command goes on") from error
            if isinstance(error, ChildFailedError):
                raise _told(error, runtime.world_size) from error
            raise
    if ended := next((a for a in answers.values() if isinstance(a, Exception)), None):
        raise ended
    return answers[0]


def _compute_as_rank(planned: PlannedRun) -> Results | StoppedError | PrunedError | None:
    """What rank 0 has computed; or what ended all ranks alike, which is no failure of any."""
    parent = os.getppid()  # torch sends SIGINT when it dies
    restore_signals()
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _log(planned.folder, is_main=rank == 0)
    job = planned.config.job
    use_threads(job.num_threads, world_size)
    device = select_device(job.device, rank, world_size)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # or each rank would take memory of the first GPU, too
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine
    answer: Results | StoppedError | PrunedError | None = None
    with stopped_by_signals() as stop:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        runtime = Runtime(device, rank, world_size, stop)
        try:
            if runtime.is_main:
                answer = compute(planned, runtime)
            else:
                take_part(planned, runtime)
        except (StoppedError, PrunedError) as error:
            answer = error
        dist.destroy_process_group()  # whoever waits for a word of this process ends too
    if os.getppid() != parent:
        raise SystemExit("the process of the run is gone")  # which torch would wait for
    return answer


def _log(folder: Path, *, is_main: bool) -> None:
    """The main rank tells what all do, where the process of the run tells it."""
    root = logging.getLogger()
    root.setLevel(logging.INFO if is_main else logging.WARNING)
    if not root.handlers:  # which a spawned process does not inherit
        root.addHandler(logging.StreamHandler(sys.stdout))
        root.addHandler(logging.FileHandler(folder / "log.txt"))
        for handler in root.handlers:
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))


def _pass_on(number: int) -> None:
    for rank in multiprocessing.active_children():
        if rank.pid is not None:
            os.kill(rank.pid, number)


def _told(error: ChildFailedError, world_size: int) -> RankError:
    """The first failure in that rank's own words, its traceback as a note.

    Of one that a signal ended torch knows only when it was noticed, by when others may have failed
    for the want of it: it goes first. Torch ends ranks itself only after all of these.
    """
    signaled = [rank for rank, failure in error.failures.items() if failure.exitcode < 0]
    rank = signaled[0] if signaled else error.get_first_failure()[0]
    failure = error.failures[rank]
    said = failure.error_file_data.get("message")
    if not isinstance(said, dict):  # it had no time to say anything
        return RankError(f"process {rank} of {world_size}: died ({death(failure.exitcode)})")
    told = RankError(f"process {rank} of {world_size}: {said['message']}")
    told.add_note(said["extraInfo"]["py_callstack"])
    return told
