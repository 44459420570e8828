"""Measure the latency of a runs folder's variants on this machine, in turns.

    python -m ablations.latency runs --threads 1

Times the backbone of each variant as its cost is counted, at 224 x 224, and leaves `latency.json`
beside the variant's runs, where the report finds it. Neither data nor weights are needed. Measure
all variants in one go, on a machine that does nothing else.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ablations.progress import Progress
from ablations.record import RecordError, Run, latency_path, read_runs
from ablations.rescore import config_of
from ablations.runtime import Runtime, select_device
from ablations.storage import write_json
from ablations.tasks.network import build_body
from detnet.latency import measure_latency

log = logging.getLogger(__name__)

DEFAULT_BATCHES = (8, 32)
MAX_AT_ONCE = 16
"""Networks that are timed in turns with each other; of more, groups, each with the first one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; returns 2, and says why, where nothing can be measured."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(message)s", datefmt="%H:%M:%S")
    try:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        runtime = Runtime(select_device(options.device))
        batch_sizes = sorted({1, *options.batches})
        measured = measure_runs(options.runs, runtime, batch_sizes, options.repeats, options.size)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"ablations.latency: {error}", file=sys.stderr)
        return 2
    for path, found in measured.items():
        at_1 = found["batch_1"]
        rates = ", ".join(
            f"{found[f'batch_{size}']['images_per_second']:.1f} images/s at {size}"
            for size in batch_sizes
        )
        print(f"{path}  P50 {1e3 * at_1['p50']:.2f} ms  P95 {1e3 * at_1['p95']:.2f} ms  {rates}")
    return 0


def measure_runs(
    runs: Path, runtime: Runtime, batch_sizes: Sequence[int], num_repeats: int, size: int
) -> dict[Path, dict[str, Any]]:
    """Time every variant of a runs folder and write it down; returns what was written, by file.

    Runs that cannot be read or built are told and left out. Raises RecordError where none is left.
    """
    faults = list[str]()
    variants = {latency_path(run.folder): run for run in read_runs(runs, faults)}
    for path, run in list(variants.items()):
        try:
            build_network(run, Runtime(torch.device("meta")))
        except (KeyError, ValueError, OmegaConfBaseException) as error:
            faults.append(f"{run.folder}: its backbone cannot be built ({error!r})")
            del variants[path]
    for fault in faults:
        log.warning("left out: %s", fault)
    if not variants:
        raise RecordError(f"{runs}: no runs to measure; train some first, they say what is built")
    groups = _groups(list(variants))
    progress = Progress("measuring, batches", len(groups) * len(batch_sizes), closing=True)
    about = {**runtime.describe(), "input_size": [3, size, size], "precision": "float32"}
    written: dict[Path, dict[str, Any]] = {}
    for number, group in enumerate(groups):
        networks = {str(path): build_network(variants[path], runtime) for path in group}
        found: dict[Path, dict[str, Any]] = {path: {"env": about} for path in group}
        for done, batch_size in enumerate(batch_sizes, start=number * len(batch_sizes) + 1):
            latencies = measure_latency(
                networks, (3, size, size), batch_size=batch_size, num_repeats=num_repeats
            )
            for path in group:
                latency = latencies[str(path)]
                rate = {"images_per_second": latency.images_per_second}
                found[path][f"batch_{batch_size}"] = asdict(latency) | rate
            progress.update(done)
        for path in group:
            if path not in written:  # the first variant is in every group
                write_json(path, found[path])
                written[path] = found[path]
    return written


def _groups(paths: Sequence[Path]) -> list[list[Path]]:
    first, *rest = paths
    size = MAX_AT_ONCE - 1
    return [[first, *rest[n : n + size]] for n in range(0, max(len(rest), 1), size)]


def build_network(run: Run, runtime: Runtime) -> nn.Module:
    """The run's backbone with random weights, which take as long as trained ones."""
    with torch.device(runtime.device):
        return build_body(config_of(run)).to(memory_format=torch.channels_last)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ablations.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, metavar="RUNS", help="the folder that holds the runs")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="of the CPU (default: as torch chooses)")
    parser.add_argument(
        "--batches",
        type=int,
        nargs="+",
        default=DEFAULT_BATCHES,
        metavar="N",
        help="batch sizes beside 1 (default: 8 32)",
    )
    parser.add_argument("--repeats", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=224, help="side of the images (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
