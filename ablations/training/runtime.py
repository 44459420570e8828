"""What a run ran on: versions, device, code state, and the memory it took."""

import os
import platform
import resource
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "pycocotools", "hydra-core")


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, device, git commit and the command line, JSON-friendly."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "device": device_name(device),
        "num_threads": torch.get_num_threads(),
        "git": _git_state(),
        "command": shlex.join(["python", "-m", *_module_and_arguments()]),
    }


def select_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one; raises RuntimeError for a GPU that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"job.device={name}: no GPU is visible here; use job.device=cpu")
    return device


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def reset_peak_memory(device: torch.device) -> None:
    """Start counting `peak_memory` anew where the system can; elsewhere it counts the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU what torch allocated there at most, on a CPU the process's resident peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state() -> str | None:
    here = Path(__file__).resolve().parents[1]
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
