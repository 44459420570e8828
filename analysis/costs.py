"""What a variant costs: the one registry of the costs that tables show and pictures set AP against.

To add one, add a row; where it is measured, `frames.summary` has it as a column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablations.record import Run


@dataclass(frozen=True)
class Cost:
    """A number of a variant, lower is better."""

    name: str
    """Its column of `frames.summary`."""
    label: str
    """What a figure's axis calls it, with its unit."""
    header: str
    """What a table's header calls it."""
    unit: float
    """By how much a value is divided where it is shown."""
    digits: int
    part: str
    """Where a run keeps it: a part of its record, or `latency`."""
    key: str
    """Its name there; a dot leads into a mapping."""

    def read(self, run: Run) -> float | None:
        """The run's value; None where it was not measured."""
        found: Any = run.latency if self.part == "latency" else getattr(run.record, self.part)
        for key in self.key.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return None if found is None else float(found)


COSTS = {
    cost.name: cost
    for cost in (
        Cost("macs", "backbone multiply-adds (G)", "MACs (G)", 1e9, 2, "cost", "macs"),
        Cost("params", "backbone parameters (M)", "params (M)", 1e6, 2, "cost", "params"),
        Cost(
            "latency", "backbone latency, batch 1, median (ms)", "latency P50 (ms)", 1e-3, 2,
            "latency", "batch_1.p50",
        ),
        Cost(
            "latency_p95", "backbone latency, batch 1, 95th percentile (ms)", "P95 (ms)", 1e-3, 2,
            "latency", "batch_1.p95",
        ),
        Cost(
            "memory", "peak memory in training (GiB)", "memory (GiB)", 2**30, 2,
            "timing", "peak_memory_bytes",
        ),
        Cost(
            "train_seconds", "training time (s)", "training (s)", 1, 0, "timing", "train_seconds"
        ),
    )
}  # fmt: skip
DRAWN = ("macs", "params", "latency", "memory")
"""The costs that a report sets AP against, where they are measured."""


def throughput(run: Run) -> dict[int, float]:
    """Images per second of the variant's backbone by batch size, where it was measured."""
    return {
        int(found["batch_size"]): float(found["images_per_second"])
        for key, found in run.latency.items()
        if key.startswith("batch_")
    }


def circumstances(runs: Sequence[Run]) -> tuple[str, ...]:
    """Where and how the latencies of runs were measured; several where they differ."""
    told = dict[str, None]()
    for run in runs:
        if env := run.latency.get("env"):
            sides = " x ".join(map(str, env["input_size"][1:]))
            told[
                f"{env['device']}, {env['num_threads']} threads, torch {env['torch']}, "
                f"{env['precision']} at {sides}, {run.latency['batch_1']['num_repeats']} repeats "
                "in turns"
            ] = None
    return tuple(told)
