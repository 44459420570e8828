"""A dry run: every run of a sweep with its cost and its state, nothing trained.

    python -m ablations.plan +table=ablation seed=0,1,2
    python -m ablations.plan --runs runs --watch

Takes what `python -m ablations.train -m` takes. With --runs it shows what the sweeps over a folder
have planned and done, from the folder alone.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.record import RESULTS_VERSION, RecordError, RunRecord
from ablations.sweep import watching

if TYPE_CHECKING:
    from ablations.planning import PlannedRun

HEADER = ("variant", "seed", "params", "MACs", "strides", "state", "folder")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; returns 2, and says what is wrong, for runs that could not run."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        show = _of_folder(options.runs) if options.runs else _of_command_line(options)
    except ValueError as error:
        print(f"ablations.plan: {error}", file=sys.stderr)
        return 2
    try:
        if options.watch is None:
            show()
        else:
            watching.watch(show, options.watch, is_terminal=sys.stdout.isatty())
    except KeyboardInterrupt:
        return 0
    except RecordError as error:
        print(f"ablations.plan: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ablations.plan",
        description="Show what a sweep would run: params (M), multiply-adds (G) at 224 x 224, "
        "strides, and whether each run is done, outdated (done under an older results version), "
        "failed, running, cut off, unreadable or missing.",
        epilog="example: python -m ablations.plan +table=small protocol=smoke seed=0,1",
    )
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="understood, as `ablations.train` has it"
    )
    parser.add_argument(
        "-cd", "--config-dir", metavar="DIR", type=Path, help="a folder of your own tables"
    )
    parser.add_argument(
        "--runs", metavar="DIR", type=Path,
        help="show the sweeps over this folder instead, from what lies in it: no data needed",
    )  # fmt: skip
    parser.add_argument(
        "--watch", metavar="SECONDS", nargs="?", type=float, const=10.0,
        help="show it again every so many seconds (10) until all runs have ended",
    )  # fmt: skip
    parser.add_argument(
        "overrides", nargs="*", help="what `python -m ablations.train -m` takes: group=name, key=x"
    )
    return parser


Show = Callable[[], Sequence[str]]
"""Prints how things stand and returns the states."""


def _of_folder(runs: Path) -> Show:
    def show() -> Sequence[str]:
        faults: list[str] = []
        rows = watching.rows_of(runs, faults)
        print(format_rows([watching.HEADER, *rows]))
        states = [row[-1] for row in rows]
        print("\n".join([watching.counts(states), *faults]), flush=True)
        return states

    return show


def _of_command_line(options: argparse.Namespace) -> Show:
    from ablations.sweep.compose import is_refusal, plain_reason
    from ablations.sweep.habits import understood

    try:
        runs = planned_runs(understood(options.overrides), options.config_dir)
    except Exception as error:
        if not is_refusal(error):
            raise
        raise ValueError(plain_reason(error)) from error

    def show() -> Sequence[str]:
        rows = [row(run, *run.found()) for run in runs]
        print(format_rows([HEADER, *rows]))
        states = [each[HEADER.index("state")] for each in rows]
        print(watching.counts(states), flush=True)
        if any(state.startswith("outdated") for state in states):
            print(
                f"outdated: done under an older results version (this is {RESULTS_VERSION}); "
                "kept, unless job.retrain_outdated=true trains them anew"
            )
        return states

    return show


def planned_runs(overrides: Sequence[str], config_dir: Path | None = None) -> list["PlannedRun"]:
    """The runs of a sweep in its order, each once; raises SweepError naming all faults."""
    # Importing torch takes longer than showing a folder, which needs none
    from hydra import initialize_config_dir

    from ablations.field_checks import ConfigError
    from ablations.sweep.compose import config_folder
    from ablations.sweep.grid import Grid, in_order
    from ablations.sweep.sweeper import each_once

    hydras = [word for word in overrides if re.match(r"[+~]*hydra[./]", word)]
    if config_dir is not None:
        if not config_dir.is_dir():
            raise ConfigError(f"--config-dir {config_dir}: no such folder")
        hydras.append(f"hydra.searchpath=[file://{config_dir.resolve()}]")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        grid = Grid.of_hydra(hydras)
        planned = grid.plan([word for word in overrides if word not in hydras])
        ordered = in_order(planned, grid.master.hydra.sweeper.get("order"))
        return [each.run for each in each_once(ordered, tell=print)]


def row(run: "PlannedRun", state: str, record: RunRecord | None) -> tuple[str, ...]:
    """One line of the plan; the cost is counted anew only where no record tells it."""
    cost: dict[str, Any] = {} if record is None else record.cost
    if "stages" not in cost:
        from ablations.planning import backbone_cost

        cost = backbone_cost(run.config)
    strides = "/".join(str(stage["stride"]) for stage in cost["stages"].values() if stage["stride"])
    return (
        run.variant,
        str(run.config.seed),
        f"{cost['params'] / 1e6:.2f} M",
        f"{cost['macs'] / 1e9:.2f} G",
        strides,
        watching.state_of(run.folder, state, record),
        str(run.folder),
    )


def format_rows(rows: Sequence[Sequence[str]]) -> str:
    """Columns set flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows)
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
