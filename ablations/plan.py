"""A dry run: every job of a sweep with its cost and its state, nothing trained.

    python -m ablations.plan +table=ablation seed=0,1,2

Takes what `python -m ablations.train -m` takes.
"""

import argparse
import sys
from collections.abc import Sequence

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode

from ablations.job import Job, backbone_cost
from ablations.sweep.compose import config_folder
from ablations.sweep.grid import Grid

HEADER = ("variant", "seed", "params", "MACs", "strides", "state", "folder")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; returns 2, and says what is wrong, for jobs that could not run."""
    parser = argparse.ArgumentParser(
        prog="python -m ablations.plan",
        description="Show what a sweep would run: params (M), multiply-adds (G) at 224 x 224, "
        "strides, and whether each run is done, failed, running (or cut off) or missing.",
        epilog="example: python -m ablations.plan +table=small protocol=smoke seed=0,1",
    )
    parser.add_argument(
        "overrides", nargs="*", help="what `python -m ablations.train -m` takes: group=name, key=x"
    )
    overrides = parser.parse_args(arguments).overrides
    try:
        jobs = planned_jobs(overrides)
        rows = list(map(row, jobs))
    except (HydraException, ValueError) as error:
        print(f"ablations.plan: {error}", file=sys.stderr)
        return 2
    print(format_rows([HEADER, *rows]))
    states = [job.status for job in jobs]
    counts = ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states)))
    print(f"{len(jobs)} runs: {counts}")
    return 0


def planned_jobs(overrides: Sequence[str]) -> list[Job]:
    """The jobs that a sweep with these overrides runs; raises HydraException naming all faults."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        master = hydra.compose_config("config", overrides=[], run_mode=RunMode.MULTIRUN)
        grid = Grid(hydra.config_loader, master)
        return grid.check(grid.expand(list(overrides)))


def row(job: Job) -> tuple[str, ...]:
    """One line of the plan."""
    cost = backbone_cost(job.config)
    strides = "/".join(str(stage["stride"]) for stage in cost["stages"].values() if stage["stride"])
    return (
        job.variant,
        str(job.config.seed),
        f"{cost['params'] / 1e6:.2f} M",
        f"{cost['macs'] / 1e9:.2f} G",
        strides,
        job.status,
        str(job.folder),
    )


def format_rows(rows: Sequence[Sequence[str]]) -> str:
    """Columns set flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows)
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
