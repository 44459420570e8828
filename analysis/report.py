"""From a runs folder to tables, figures and one page: `python -m analysis.report RUNS --out DIR`.

Reads records, detections and truth; trains nothing and needs no GPU.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ablations.matching import MatchTable, match
from ablations.record import RecordError, Run, read_runs
from ablations.score import PREFIXES
from ablations.truth import Detections, FormatError, Truth
from analysis import plots, tables
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
from analysis.tables import ReportError, Table

DEFAULT_RESAMPLES = 1000
MAIN_GRIDS = ("", "masks")

_ENVIRONMENT = ("device", "python", "torch", "torchvision", "timm", "git")

Progress = Callable[[str], None]


class Matches:
    """The match tables of runs, each made once from the stored detections and truth."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._truths: dict[Path, Truth] = {}
        self._tables: dict[tuple[Path, str], MatchTable] = {}

    def of(self, run: Run, kind: str) -> MatchTable:
        key = (run.folder, kind)
        if key not in self._tables:
            self._progress(f"matching {run.record.variant} seed {run.record.seed} ({kind})")
            if run.truth_path not in self._truths:
                self._truths[run.truth_path] = Truth.from_coco(run.truth_path)
            truth = self._truths[run.truth_path]
            self._tables[key] = match(truth, Detections.from_coco(run.detections_path, truth), kind)
        return self._tables[key]


@dataclass(frozen=True)
class Section:
    """A table as the report shows it: grids and figures by file name, and what to say of them."""

    table: Table
    summary: pd.DataFrame
    cells: pd.DataFrame
    grids: dict[str, Grid]
    notes: tuple[str, ...]


def write_report(
    runs_folder: Path,
    out: Path,
    *,
    baseline: str | None = None,
    ignore_tables: bool = False,
    num_resamples: int = DEFAULT_RESAMPLES,
    progress: Progress = lambda line: None,
) -> list[Section]:
    """Write tables, figures and both reports under `out`; returns what the tables show.

    Raises ReportError, RecordError or FormatError, that names the file, where the runs make no
    table.
    """
    chosen = tables.collect(runs_folder, baseline, ignore_tables)
    runs = read_runs(runs_folder)
    matches = Matches(progress)
    styles = plots.styles(chosen)
    sections, blocks = [], list[Block]()
    for table in chosen:
        section = make_section(table, matches, num_resamples, progress)
        sections.append(section)
        write_tables(section, out / "tables")
        progress(f"drawing {table.name}")
        pictures = draw(section, styles, out / "figures")
        blocks += section_blocks(section, pictures, num_resamples)
    blocks += closing_blocks(chosen, runs)
    title = "Ablation: " + ", ".join(table.name for table in chosen)
    (out / "report.md").write_text(markdown(title, blocks, out))
    (out / "report.html").write_text(html_page(title, blocks))
    return sections


def make_section(table: Table, matches: Matches, num_resamples: int, progress: Progress) -> Section:
    """Everything the report says of a table in figures."""
    compared, notes = differences_to_baseline(table, matches, num_resamples, progress)
    summary = tables.summary(table, compared)
    cells = tables.cells(table)
    grids = {"": tables.summary_grid(summary)}
    if table.has_masks:
        grids["masks"] = tables.mask_grid(summary)
    for kind in table.kinds:
        prefix = PREFIXES[kind]
        metrics = [prefix + name for name in tables.BOX_METRICS]
        if table.baseline is not None and len(table.variants) > 1:
            grids[f"{prefix}differences"] = tables.difference_grid(summary, metrics)
        if (beside := tables.published_grid(table, metrics)) is not None:
            grids[f"{prefix}published"] = beside
        if kind in set(cells.kind):
            for metric in ("AP", "AR"):
                wide = tables.by_threshold_and_scale(cells, kind, metric)
                grids[f"{prefix}{metric}-by-iou-and-scale"] = tables.threshold_grid(wide)
    return Section(table, summary, cells, grids, tuple(notes))


def differences_to_baseline(
    table: Table, matches: Matches, num_resamples: int, progress: Progress
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Variant -> metric -> difference with its interval; and who has none, with the reason."""
    return {}, []


def write_tables(section: Section, folder: Path) -> None:
    """The main table as .csv, .md and .tex, every cell as .csv, the other grids as .md and .tex."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = file_name(section.table.name)
    section.summary.to_csv(folder / f"{stem}.csv", index=False)
    section.cells.to_csv(folder / f"{stem}-cells.csv", index=False)
    for name, grid in section.grids.items():
        for suffix, format_grid in GRID_FORMATS.items():
            full_name = f"{stem}-{name}" if name else stem
            (folder / f"{full_name}.{suffix}").write_text(format_grid(grid))


def file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def draw(section: Section, styles: plots.Styles, folder: Path) -> list[Picture]:
    """Write every figure of a table as PNG and SVG; returns them as the page shows them."""
    table, summary = section.table, section.summary
    figures: dict[str, tuple[Figure | None, str]] = {}
    for kind in table.kinds:
        prefix = PREFIXES[kind]
        figures[f"{prefix}ap-by-scale"] = (
            plots.ap_by_scale(table, summary, styles, prefix),
            f"{prefix}AP by object scale. Left: whiskers are the spread over seeds, where there "
            "are several. Right: the difference to the baseline with its 95 % interval.",
        )
        figures[f"{prefix}ap-by-iou-and-scale"] = (
            plots.ap_by_iou_and_scale(table, section.cells, kind),
            f"{prefix}AP by IoU threshold and object scale: the baseline, then differences to it.",
        )
    figures["ap-against-macs"] = (
        plots.ap_against_macs(table, summary, styles),
        "AP against the backbone's multiply-adds at 224 x 224.",
    )
    figures["loss-curves"] = (
        plots.loss_curves(table, styles),
        "Training loss: as logged (thin) and smoothed over a twentieth of the steps (thick), a "
        "line per seed.",
    )
    figures["sheet"] = (
        plots.sheet(table, styles),
        "Validation images: true boxes and masks dashed in white, predictions in the variant's "
        "colour, as many as the image has objects, the best scored first.",
    )
    pictures = []
    for name, (figure, caption) in figures.items():
        if figure is None:
            continue
        png, svg = plots.save(figure, folder, f"{file_name(table.name)}-{name}")
        pictures.append(Picture(png if name == "sheet" else svg, caption))
    return pictures


def section_blocks(
    section: Section, pictures: Sequence[Picture], num_resamples: int
) -> list[Block]:
    """A table's part of the page."""
    table, grids = section.table, section.grids
    blocks: list[Block] = [
        Heading(f"Table: {table.name}"),
        Paragraph(about(table)),
        *(grids[name] for name in MAIN_GRIDS if name in grids),
        Paragraph(legend(num_resamples)),
    ]
    if table.absent or section.notes:
        blocks.append(Heading("Failed, missing or left out", 3))
        blocks.append(Bullets((*map(str, table.absent), *section.notes)))
    blocks += [Heading("Figures", 3), *pictures]
    for topic, (title, remark) in _TOPICS.items():
        chosen = [name for name in grids if name.removeprefix("mask_") == topic]
        for name in chosen:
            blocks += [Heading(f"{title}{', masks' if name != topic else ''}", 3), grids[name]]
        if chosen and remark:
            blocks.append(Paragraph(remark))
    return blocks


_TOPICS = {
    "differences": ("Differences to the baseline", ""),
    "published": (
        "Measured beside published",
        "The protocols differ: the published figures are percent points on COCO, with 180k steps "
        "of 16 images at 800 pixels unless the source says otherwise. Compare orders and signs of "
        "differences, not figures.",
    ),
    "AP-by-iou-and-scale": ("AP by IoU threshold and object scale", ""),
    "AR-by-iou-and-scale": ("AR by IoU threshold and object scale", ""),
}


def about(table: Table) -> str:
    """What the runs of a table share, and what they are compared with."""
    run = table.variants[0].runs[0] if table.variants else None
    if run is None:
        return "No run of this table is done."
    protocols = ", ".join(dict.fromkeys(map(tables.protocol_name, table.runs)))
    baseline = "none" if table.baseline is None else table.baseline.name
    return (
        f"{run.record.data.get('num_val', '?')} validation images "
        f"(data {run.record.data['val_fingerprint']}), protocol {protocols}. "
        f"Baseline: {baseline} ({table.baseline_origin})."
    )


def legend(num_resamples: int) -> str:
    text = (
        "AP in percent points, mean ± standard deviation over seeds where there are several; "
        "params and MACs of the backbone; images/s in training; ΔAP to the baseline"
    )
    if num_resamples == 0:
        return f"{text}, without intervals (0 resamples)."
    return (
        f"{text} with its 95 % interval ({num_resamples} paired resamples): * real after "
        "correction, ~ below the noise."
    )


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
    except (ReportError, RecordError, FormatError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for section in sections:
        print(f"\n{section.table.name}: {about(section.table)}\n")
        grids = [section.grids[name] for name in MAIN_GRIDS if name in section.grids]
        print("\n\n".join(map(text_grid, grids)))
        print(f"\n{legend(arguments.resamples)}")
        for line in (*section.table.absent, *section.notes):
            print(f"! {line}")
    print(f"\ntables   {arguments.out / 'tables'}\nfigures  {arguments.out / 'figures'}")
    print(f"report   {arguments.out / 'report.html'}, {arguments.out / 'report.md'}")
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
