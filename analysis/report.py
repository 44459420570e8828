"""From a runs folder to tables, figures and one page: `python -m analysis.report RUNS --out DIR`.

Reads records, detections and truth; trains nothing and needs no GPU.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ablations.matching import MatchTable, match
from ablations.record import RecordError, Run, read_runs
from ablations.score import PREFIXES
from ablations.truth import Detections, FormatError, Truth
from analysis import plots, tables
from analysis.bootstrap import Difference, NotComparableError, compare, correct
from analysis.markup import (
    GRID_FORMATS,
    Block,
    Bullets,
    Code,
    Grid,
    Heading,
    Paragraph,
    Picture,
    html_page,
    markdown,
    text_grid,
)
from analysis.tables import NOISE, REAL, ReportError, Table, Variant

DEFAULT_RESAMPLES = 1000
MAIN_GRIDS = ("", "masks")

_ENVIRONMENT = ("device", "python", "torch", "torchvision", "timm", "git")

Progress = Callable[[str], None]


class Matches:
    """The match tables of runs by kind, made once from the stored detections and truth."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._truths: dict[Path, Truth] = {}
        self._tables: dict[Path, dict[str, MatchTable]] = {}

    def of(self, run: Run) -> dict[str, MatchTable]:
        if run.folder not in self._tables:
            self._progress(f"matching {run.record.variant} seed {run.record.seed}")
            if run.truth_path not in self._truths:
                self._truths[run.truth_path] = Truth.from_coco(run.truth_path)
            truth = self._truths[run.truth_path]
            detections = Detections.from_coco(run.detections_path, truth)
            kinds = [kind for kind, prefix in PREFIXES.items() if f"{prefix}AP" in run.record.metrics]
            self._tables[run.folder] = {kind: match(truth, detections, kind) for kind in kinds}
        return self._tables[run.folder]


@dataclass(frozen=True)
class Compared:
    """Differences to the baseline: by variant and metric, what they cover, and who has none, why."""

    differences: dict[str, dict[str, Difference]]
    covers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A table as the report shows it: grids and figures by file name, and what to say of them."""

    table: Table
    summary: pd.DataFrame
    cells: pd.DataFrame
    grids: dict[str, Grid]
    compared: Compared

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the table should show and does not, with the reason."""
        return (*map(str, self.table.absent), *self.compared.left_out)

    @property
    HOW_TO_READ = (
    "Δ is the variant minus the baseline in percent points, both scored on the same images.",
    "[low, high] holds the middle 95 % of that difference over resamples of the validation images, "
    "the same resamples for both; where there are several seeds, they are resampled too.",
    "* marks a difference that is real: it stays after correction for the many cells compared.",
    "~ marks a difference below the noise: these images do not tell the two apart. That does not "
    "show them to be equal.",
    "With one seed the interval covers the choice of images, not the noise of training: another "
    "seed may change more. ± is the standard deviation over seeds, not an interval.",
)


def closing_blocks(chosen: Sequence[Table], runs: Sequence[Run]) -> list[Block]:
    """Runs outside every table, how to read differences, and what every run ran on."""
    blocks: list[Block] = []
    if left := tables.outside(chosen, runs):
        names = tuple(f"{r.record.variant} seed {r.record.seed} ({r.record.status})" for r in left)
        blocks += [
            Heading("Runs in no table"),
            Paragraph("Shown by --all, which tables every run and ignores the tables noted."),
            Bullets(names),
        ]
    blocks += [Heading("How to read a difference"), Bullets(HOW_TO_READ)]
    blocks += [Heading("Runs"), runs_grid(runs)]
    commands = dict.fromkeys(
        f"{run.record.env['command']}" for run in runs if run.record.env.get("command")
    )
    if commands:
        blocks += [Heading("Commands"), Code("\n".join(commands))]
    return blocks


def runs_grid(runs: Sequence[Run]) -> Grid:
    """Where, with what and how fast every run ran."""
    rows = []
    for run in runs:
        record = run.record
        seconds = record.timing.get("train_seconds")
        memory = record.timing.get("peak_memory_bytes")
        rows.append(
            (
                record.variant,
                str(record.seed),
                record.status,
                *(str(record.env.get(name) or tables.ABSENT) for name in _ENVIRONMENT),
                tables.ABSENT if seconds is None else f"{seconds:.0f}",
                tables.ABSENT if memory is None else f"{memory / 2**30:.2f}",
            )
        )
    header = ("variant", "seed", "status", *_ENVIRONMENT, "training (s)", "peak memory (GiB)")
    return Grid(header, tuple(rows), num_labels=3 + len(_ENVIRONMENT))


def main(argv: list[str] | None = None) -> int:
    """The command; returns 2 where the runs make no table, after saying why."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description=__doc__,
        epilog="example: python -m analysis.report runs --out report --baseline detnet59",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, metavar="RUNS", help="the folder that holds the runs")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="variant that the others are compared with (default: the table's own, else the first)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="table all runs by data and protocol, whatever tables are noted in the folder",
    )
    parser.add_argument(
        "--resamples",
        type=_count,
        default=DEFAULT_RESAMPLES,
        metavar="N",
        help="paired resamples for the intervals (default: %(default)s; 0: no intervals)",
    )
    arguments = parser.parse_args(argv)
    try:
        sections = write_report(
            arguments.runs,
            arguments.out,
            baseline=arguments.baseline,
            ignore_tables=arguments.all,
            num_resamples=arguments.resamples,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except (ReportError, RecordError, FormatError, NotComparableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for section in sections:
        print(f"\n{section.table.name}: {about(section.table)}\n")
        grids = [section.grids[name] for name in MAIN_GRIDS if name in section.grids]
        print("\n\n".join(map(text_grid, grids)))
        print(f"\n{section.legend}")
        for line in section.left_out:
            print(f"! {line}")
    print(f"\ntables   {arguments.out / 'tables'}\nfigures  {arguments.out / 'figures'}")
    print(f"report   {arguments.out / 'report.html'}, {arguments.out / 'report.md'}")
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 0 or value == 1:
        raise argparse.ArgumentTypeError(f"{value}: give 2 or more, or 0 for no intervals")
    return value


if __name__ == "__main__":
    sys.exit(main())
