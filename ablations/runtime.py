"""Where a run computes: its device, its place among processes, what it may be told to do, and with
which versions. Nothing else asks the machine.
"""

import ctypes
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

import ablations

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pycocotools", "hydra-core")
_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")  # a person's, a system's, a cluster's
# A forked process has torch imported already; elsewhere forking is not safe, or not there
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h; 0 blocks of their own, and never trimmed
T = TypeVar("T")


class DeviceError(ValueError):
    """The device asked for is not there; the message names the field and the remedy."""


class StoppedError(RuntimeError):
    """A signal ended the work; the message says where it stands and how it goes on."""


class PrunedError(RuntimeError):
    """A search stops the training of a trial; the message says at which step and why."""


@dataclass
class Stop:
    """Set by a signal; the work ends at its next step."""

    by: str | None = None
    """The signal's name."""


@dataclass(frozen=True)
class Runtime:
    """The device of this process, and its rank among `world_size` processes of one run.

    What processes tell each other, each must ask for at the same point of its work.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    stop: Stop = field(default_factory=Stop)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and tells progress."""
        return self.rank == 0

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def all_gather(self, value: T) -> list[T]:
        """What every process gave, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def gather(self, value: T) -> list[T]:
        """What every process gave, by rank; nothing in those that are not the main one."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, values)
        return values or []

    def broadcast(self, value: T) -> T:
        """What the main process gave."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes; a GPU does not wait for it."""
        if self.world_size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.world_size

    def describe(self) -> dict[str, Any]:
        """Versions, device, threads, git state and the command line, as JSON values."""
        return {
            "version": ablations.__version__,
            "git": _git_state(),
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
            "device": self._device_name(),
            "num_processes": self.world_size,
            "num_threads": torch.get_num_threads(),
            "command": shlex.join(["python", "-m", *_module_and_arguments()]),
        }

    def _device_name(self) -> str:
        if self.is_gpu:
            return torch.cuda.get_device_name(self.device)
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"

    def reset_peak_memory(self) -> None:
        """Start counting `peak_memory` anew where the system can; else it counts the process."""
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return

    def peak_memory(self) -> int | None:
        """Bytes: on a GPU what torch allocated there at most, on a CPU the process's peak.

        None where the system does not tell (Windows).
        """
        if self.is_gpu:
            return torch.cuda.max_memory_allocated(self.device)
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return _peak_of_process()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def select_device(name: str, rank: int = 0, world_size: int = 1) -> torch.device:
    """`auto` is the GPU where there is one, and of several processes each has its own.

    Raises DeviceError for a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise DeviceError(f"job.device={name}: no GPU is visible here; use job.device=cpu")
    num_devices = torch.cuda.device_count()
    if device.index is not None and device.index >= num_devices:
        raise DeviceError(f"job.device={name}: GPUs here are cuda:0 to cuda:{num_devices - 1}")
    if world_size > num_devices:
        raise DeviceError(
            f"job.processes={world_size}: needs a GPU each and {num_devices} are visible here; "
            f"give job.processes={num_devices}, or job.device=cpu"
        )
    return torch.device("cuda", rank) if world_size > 1 else device


def keep_freed_memory(device: torch.device) -> None:
    """Let a process that computes on a CPU keep the memory that it frees, for its next tensors.

    glibc gives large blocks back to the system, which clears every page before it gives it out
    again; with the tensors of a training step that took 7 % of its time (`detnet17` at 256 pixels).
    Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if device.type == "cpu" and mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def use_threads(asked: int | None, world_size: int) -> None:
    """Let torch compute with `asked` threads; null leaves its choice, shared among processes."""
    if asked is None and world_size > 1:
        asked = max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // world_size))
    if asked is not None:
        torch.set_num_threads(asked)


@contextmanager
def stopped_by_signals(on_signal: Callable[[int], None] | None = None) -> Iterator[Stop]:
    """Let SIGINT, SIGTERM and SIGUSR1 end the work at its next step instead of at once.

    A second SIGINT, of a person in a hurry, ends it at once; a cluster sends the others more than
    once, to every process of a job. `on_signal` is told the signal's number. Outside the main
    thread, which alone may handle signals, nothing changes.
    """
    stop = Stop()
    former: dict[int, Any] = {}

    def request(number: int, frame: object) -> None:
        stop.by = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, former[number] or signal.SIG_DFL)
        if on_signal is not None:
            on_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    for name in _STOP_SIGNALS:
        if number := getattr(signal, name, None):  # Windows has no SIGUSR1
            former[number] = signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler or signal.SIG_DFL)


def restore_signals() -> None:
    """Give a forked process back the system's answers to the signals handled here."""
    for name in _STOP_SIGNALS:
        if number := getattr(signal, name, None):
            default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
            signal.signal(number, default)
    if number := getattr(signal, "SIGUSR2", None):
        # submitit's word to every process of a job; the parent acts on it and then ends its child
        signal.signal(number, signal.SIG_IGN)


def death(exit_code: int | None) -> str:
    """How a process ended, for a message."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"by {name}{hint}"
    return f"exit code {exit_code}"


def _peak_of_process() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state() -> str | None:
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None  # an installed package: the repository around it, if any, is another one
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _module_and_arguments() -> list[str]:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    name = spec.name if spec is not None else Path(sys.argv[0]).name
    return [name, *sys.argv[1:]]
