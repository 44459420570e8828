"""Calling a function in several processes that know of one another, as the ranks of a run do."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = 120  # seconds


def in_processes(function: Callable[[int], Any], number: int = 2) -> list[Any]:
    """What `function(rank)` returns in each of `number` forked processes, by rank."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_work, args=(function, rank, number, Path(folder)))
            for rank in range(number)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(TIMEOUT)
            process.kill()
        answers = [Path(folder, f"answer{rank}") for rank in range(number)]
        return [torch.load(answer, weights_only=False) for answer in answers]


def _work(function: Callable[[int], Any], rank: int, number: int, folder: Path) -> None:
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(str(folder / "store"), number)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=number)
    torch.save(function(rank), folder / f"answer{rank}")
    dist.destroy_process_group()
