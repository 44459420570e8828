"""A dry run: every run of a sweep with its cost and its state, nothing trained.

    python -m ablations.plan +table=ablation seed=0,1,2

Takes what `python -m ablations.train -m` takes.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import initialize_config_dir

from ablations.planning import PlannedRun, backbone_cost
from ablations.record import RESULTS_VERSION, RunRecord
from ablations.sweep.compose import REFUSALS, config_folder, plain_reason
from ablations.sweep.grid import Grid, in_order

HEADER = ("variant", "seed", "params", "MACs", "strides", "state", "folder")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; returns 2, and says what is wrong, for runs that could not run."""
    parser = argparse.ArgumentParser(
        prog="python -m ablations.plan",
        description="Show what a sweep would run: params (M), multiply-adds (G) at 224 x 224, "
        "strides, and whether each run is done, outdated (done under an older results version), "
        "failed, running (or cut off), unreadable or missing.",
        epilog="example: python -m ablations.plan +table=small protocol=smoke seed=0,1",
    )
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="understood, as `ablations.train` has it"
    )
    parser.add_argument(
        "-cd",
        "--config-dir",
        metavar="DIR",
        type=Path,
        help="a folder of your own tables",
    )
    parser.add_argument(
        "overrides", nargs="*", help="what `python -m ablations.train -m` takes: group=name, key=x"
    )
    options = parser.parse_intermixed_args(arguments)
    try:
        runs = planned_runs(options.overrides, options.config_dir)
    except REFUSALS as error:
        print(f"ablations.plan: {plain_reason(error)}", file=sys.stderr)
        return 2
    found = [run.found() for run in runs]
    states = [state for state, _ in found]
    print(format_rows([HEADER, *(row(run, *each) for run, each in zip(runs, found, strict=True))]))
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    print(f"{len(runs)} runs: {counts}")
    if "outdated" in states:
        print(
            f"outdated: done under an older results version (this is {RESULTS_VERSION}); kept, "
            "unless job.retrain_outdated=true trains them anew"
        )
    return 0


def planned_runs(overrides: Sequence[str], config_dir: Path | None = None) -> list[PlannedRun]:
    """The runs of a sweep in its order; raises SweepError naming all faults."""
    hydras = [word for word in overrides if re.match(r"[+~]*hydra[./]", word)]
    if config_dir is not None:
        hydras.append(f"hydra.searchpath=[file://{config_dir.resolve()}]")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        grid = Grid.of_hydra(hydras)
        planned = grid.plan([word for word in overrides if word not in hydras])
        return [each.run for each in in_order(planned, grid.master.hydra.sweeper.get("order"))]


def row(run: PlannedRun, state: str, record: RunRecord | None) -> tuple[str, ...]:
    """One line of the plan; the cost is counted anew only where no record tells it."""
    is_known = record is not None and "stages" in record.cost
    cost = record.cost if record is not None and is_known else backbone_cost(run.config)
    strides = "/".join(str(stage["stride"]) for stage in cost["stages"].values() if stage["stride"])
    return (
        run.variant,
        str(run.config.seed),
        f"{cost['params'] / 1e6:.2f} M",
        f"{cost['macs'] / 1e9:.2f} G",
        strides,
        _told(state, record),
        str(run.folder),
    )


def _told(state: str, record: RunRecord | None) -> str:
    if state == "outdated" and record is not None:
        return f"outdated (results {record.results_version})"
    return state


def format_rows(rows: Sequence[Sequence[str]]) -> str:
    """Columns set flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows)
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
