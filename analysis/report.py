"""From a runs folder to tables, figures and one page: `python -m analysis.report RUNS --out DIR`.

Reads records, detections and truth; trains nothing and needs no GPU.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ablations.evaluation.coco import FormatError
from ablations.evaluation.metrics import PREFIXES
from ablations.record import RecordError, Run, read_runs
from analysis import frames as tables
from analysis.bootstrap import MIN_IMAGES, MIN_RESAMPLES, NotComparableError
from analysis.detection_errors import draw as draw_errors
from analysis.figures import plots
from analysis.figures.style import save
from analysis.frames import NOISE, REAL, ReportError, Table
from analysis.pages.markup import (
    TABULAR_FORMATS,
    Block,
    Bullets,
    Code,
    Heading,
    Paragraph,
    Picture,
    Tabular,
    html_page,
    markdown,
    text_tabular,
)
from analysis.pages.sections import MatchedRuns, Progress, Section, make_section

DEFAULT_RESAMPLES = 1000

HOW_TO_READ = (
    "Δ is the variant minus the baseline in percent points, both scored on the same images.",
    "[low, high] holds the middle 95 % of that difference over resamples of the validation images, "
    "the same resamples for both; where both have several seeds, seeds are resampled too.",
    f"{REAL} marks a difference that is real: it stays after correction for all variants and "
    "columns of its table together (AP and errors, boxes and masks are families of their own), and "
    f"at least {MIN_IMAGES} images have such objects.",
    f"{NOISE} marks a difference below the noise, or one on too few images: these runs do not tell "
    "the two apart, which does not show them to be equal. Its interval may leave out 0: of many, "
    "some do so by chance.",
    "With one seed the interval covers the choice of images, not the noise of training: another "
    "seed may change more. With few seeds it is too narrow; the marks allow for how little they "
    "tell. ± is the standard deviation over seeds, not an interval.",
)

_TOPICS = {
    "differences": ("Differences to the baseline", ""),
    "published": (
        "Measured beside published",
        "The protocols differ: the published figures are percent points on COCO, with 180k steps "
        "of 16 images at 800 pixels unless the source says otherwise. Compare orders and signs of "
        "differences, not figures.",
    ),
    "errors": (
        "Errors: what fixing each type would gain, in AP50",
        "TIDE's types: Cls wrong class, Loc box off, Both, Dupe found twice, Bkg nothing there, "
        "Miss not found. Gains do not add up: fixing one type changes what another would gain.",
    ),
    "error-differences": (
        "Errors: gains minus the baseline's (negative: fewer such errors)",
        "Intervals resample images, not seeds; corrected over all variants, types and "
        "scales of the table.",
    ),
    "AP-by-iou-and-scale": ("AP by IoU threshold and object scale", ""),
    "AR-by-iou-and-scale": ("AR by IoU threshold and object scale", ""),
}
_ENVIRONMENT = ("device", "python", "torch", "torchvision", "timm", "git")


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

    Raises ReportError, RecordError, FormatError or NotComparableError, which names the file or the
    runs, where the runs make no table.
    """
    chosen = tables.collect(runs_folder, baseline, ignore_tables)
    matches = MatchedRuns(progress)
    sections = [make_section(table, matches, num_resamples, progress) for table in chosen]
    styles = plots.styles(chosen)
    blocks = list[Block]()
    for section in sections:
        progress(f"drawing {section.table.name}")
        write_tables(section, out / "tables")
        blocks += section_blocks(section, draw(section, styles, out / "figures"))
    blocks += closing_blocks(chosen, read_runs(runs_folder), matches)
    title = "Ablation: " + ", ".join(table.name for table in chosen)
    (out / "report.md").write_text(markdown(title, blocks, out))
    (out / "report.html").write_text(html_page(title, blocks))
    return sections


def write_tables(section: Section, folder: Path) -> None:
    """The main table and every cell as .csv, every tabular as .md and .tex."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = file_name(section.table.name)
    section.summary.to_csv(folder / f"{stem}.csv", index=False)
    section.cells.to_csv(folder / f"{stem}-cells.csv", index=False)
    if len(section.compared.cells):
        section.compared.cells.to_csv(folder / f"{stem}-differences.csv", index=False)
    for name, tabular in section.tabulars.items():
        for suffix, format_tabular in TABULAR_FORMATS.items():
            full_name = f"{stem}-{name}" if name else stem
            (folder / f"{full_name}.{suffix}").write_text(format_tabular(tabular))


def file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def draw(section: Section, styles: plots.Styles, folder: Path) -> list[Picture]:
    """Write every figure of a table as PNG and SVG; returns them as the page shows them."""
    table, summary = section.table, section.summary
    if not table.variants:
        return []
    figures: dict[str, tuple[Figure | None, str]] = {}
    for iou_type in table.iou_types:
        prefix = PREFIXES[iou_type]
        figures[f"{prefix}ap-by-scale"] = (
            plots.ap_by_scale(table, summary, styles, prefix),
            f"{prefix}AP by object scale, and its difference to the baseline. Whiskers are the "
            "spread over seeds on AP and the 95 % interval on the difference, where there are any. "
            "Hollow: the difference is below the noise, or on too few images.",
        )
        figures[f"{prefix}ap-by-iou-and-scale"] = (
            plots.ap_by_iou_and_scale(table, section.cells, iou_type, section.compared.cells),
            f"{prefix}AP by IoU threshold and object scale: the baseline, then differences to it; "
            "gray: below the noise, corrected over all cells of the variant, or on too few images.",
        )
        if iou_type in section.errors:
            figures[f"{prefix}errors"] = (
                draw_errors(section.errors[iou_type]),
                "What fixing each type of error would gain in AP50, by object scale.",
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
        "color, as many as the image has objects, the best scored first.",
    )
    pictures = []
    for name, (figure, caption) in figures.items():
        if figure is not None:
            png, svg = save(figure, folder, f"{file_name(table.name)}-{name}")
            pictures.append(Picture(png if name == "sheet" else svg, caption))
    return pictures


def section_blocks(section: Section, pictures: Sequence[Picture]) -> list[Block]:
    """A table's part of the page."""
    blocks: list[Block] = [
        Heading(f"Table: {section.table.name}"),
        Paragraph(section.about),
        *section.main_tabulars,
        Paragraph(section.legend),
    ]
    if section.left_out:
        blocks += [Heading("Failed, missing or left out", 3), Bullets(section.left_out)]
    if pictures:
        blocks += [Heading("Figures", 3), *pictures]
    for topic, (title, remark) in _TOPICS.items():
        chosen = [name for name in section.tabulars if name.removeprefix("mask_") == topic]
        for name in chosen:
            masks = ", masks" if name != topic else ""
            blocks += [Heading(f"{title}{masks}", 3), section.tabulars[name]]
        if chosen and remark:
            blocks.append(Paragraph(remark))
    return blocks


def closing_blocks(
    chosen: Sequence[Table], runs: Sequence[Run], matches: MatchedRuns
) -> list[Block]:
    """How to read differences, runs outside every table, and what every run ran on."""
    blocks: list[Block] = [Heading("How to read a difference"), Bullets(HOW_TO_READ)]
    if left := tables.outside(chosen, runs):
        names = tuple(f"{r.record.variant} seed {r.record.seed} ({r.record.status})" for r in left)
        blocks += [
            Heading("Runs in no table"),
            Paragraph("--all tables every run and ignores the tables noted in the runs folder."),
            Bullets(names),
        ]
    blocks += [Heading("Runs"), runs_tabular(runs, matches)]
    commands = dict.fromkeys(run.record.env.get("command") for run in runs)
    if told := [str(command) for command in commands if command]:
        blocks += [Heading("Commands"), Code("\n".join(told))]
    return blocks


def runs_tabular(runs: Sequence[Run], matches: MatchedRuns) -> Tabular:
    """Where, with what and how fast every run ran, and in how many images it detected nothing."""
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
                matches.images_without_detections(run) or tables.ABSENT,
            )
        )
    header = (
        *("variant", "seed", "status"),
        *_ENVIRONMENT,
        *("training (s)", "peak memory (GiB)", "images without detections"),
    )
    return Tabular(header, tuple(rows), num_labels=3 + len(_ENVIRONMENT))


def main(argv: list[str] | None = None) -> int:
    """The command; returns 2 where the runs make no table, after saying why."""
    arguments = _parser().parse_args(argv)
    try:
        sections = write_report(
            arguments.runs,
            arguments.out,
            baseline=arguments.baseline,
            ignore_tables=arguments.all,
            num_resamples=arguments.resamples,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except (ReportError, RecordError, FormatError, NotComparableError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for section in sections:
        print(f"\n{section.table.name}: {section.about}\n")
        print("\n\n".join(map(text_tabular, section.main_tabulars)))
        print(f"\n{section.legend}")
        for line in section.left_out:
            print(f"! {line}")
    print(f"\ntables   {arguments.out / 'tables'}\nfigures  {arguments.out / 'figures'}")
    print(f"report   {arguments.out / 'report.html'}, {arguments.out / 'report.md'}")
    return 0


def _parser() -> argparse.ArgumentParser:
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
        type=_num_resamples,
        default=DEFAULT_RESAMPLES,
        metavar="N",
        help="paired resamples for the intervals (default: %(default)s; 0: no intervals)",
    )
    return parser


def _num_resamples(text: str) -> int:
    value = int(text)
    if value != 0 and value < MIN_RESAMPLES:
        raise argparse.ArgumentTypeError(
            f"{value}: give {MIN_RESAMPLES} or more, or 0 for no intervals"
        )
    return value


if __name__ == "__main__":
    sys.exit(main())
