"""From a runs folder to tables, figures and one page: `python -m analysis.report RUNS --out DIR`.

Reads records, detections and truth; trains nothing and needs no GPU.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ablations.evaluation.coco import FormatError
from ablations.record import RecordError, read_runs
from ablations.storage import check_out
from ablations.study.record import read_studies
from analysis.bootstrap import NotComparableError, check_num_resamples
from analysis.figures.style import styles
from analysis.matched import MatchedRuns, Tell
from analysis.pages.blocks import Block, Paragraph, Picture, html_page, markdown
from analysis.pages.pictures import CHOICES, write_pictures
from analysis.pages.sections import Section, closing_blocks, make_section
from analysis.pages.spreadsheet import write_csv
from analysis.pages.study import study_blocks
from analysis.pages.tabular import TABULAR_FORMATS, text_tabular
from analysis.runs import ReportError, collect

DEFAULT_RESAMPLES = 1000
BEING_DRAWN = "The pictures are being drawn: load this page again when the command has ended."


def write_report(
    runs_folder: Path,
    out: Path,
    *,
    baseline: str | None = None,
    ignore_tables: bool = False,
    num_resamples: int = DEFAULT_RESAMPLES,
    pictures: str = "best",
    tell: Tell = lambda line: None,
) -> list[Section]:
    """Write tables, figures and both reports under `out`; returns what the tables show.

    The reports are written before a picture is drawn, and again with the pictures, of which
    `pictures` is one of `analysis.pages.pictures.CHOICES`. Raises ReportError, RecordError,
    FormatError or NotComparableError, which names the file or the runs, where the runs make no
    table, and StorageError where `out` is a file.
    """
    check_out(out)
    faults = list[str]()
    chosen = collect(runs_folder, baseline, ignore_tables, faults)
    for fault in faults:
        tell(f"! left out: {fault}")
    matched = MatchedRuns()
    sections = [make_section(table, matched, num_resamples, tell) for table in chosen]
    runs = read_runs(runs_folder, [])
    searches = [
        block
        for study in read_studies(runs_folder, faults)
        for block in study_blocks(study, runs, matched, num_resamples, out / "figures", tell)
    ]
    closing = [*searches, *closing_blocks(chosen, runs, matched, faults)]
    for section in sections:
        _write_tables(section, out / "tables", _file_name(section.table.name))
    if pictures != "none":
        _write_pages(out, sections, [{} for _ in sections], [Paragraph(BEING_DRAWN), *closing])
        tell(f"the tables are written: {out / 'report.html'}; pictures follow")
    looks = styles(chosen)
    drawn = []
    for section in sections:
        stem = _file_name(section.table.name)
        drawn.append(write_pictures(section, looks, out / "figures", stem, pictures, tell))
    _write_pages(out, sections, drawn, closing)
    return sections


def _write_pages(
    out: Path,
    sections: Sequence[Section],
    drawn: Sequence[Mapping[str, Sequence[Picture]]],
    closing: Sequence[Block],
) -> None:
    blocks = list[Block]()
    for section, pictures in zip(sections, drawn, strict=True):
        blocks += section.blocks(pictures)
    blocks += closing
    title = "Ablation: " + ", ".join(section.table.name for section in sections)
    (out / "report.md").write_text(markdown(title, blocks, out))
    (out / "report.html").write_text(html_page(title, blocks))


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def _write_tables(section: Section, folder: Path, stem: str) -> None:
    """The main table, differences and every cell as .csv, every tabular as .md and .tex."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in {
        "": section.summary,
        "-cells": section.cells,
        "-metric-differences": section.compared.metrics,
        "-differences": section.compared.cells,
    }.items():
        if len(frame):
            write_csv(frame, folder / f"{stem}{name}.csv")
    for name, tabular in section.tabulars.items():
        for suffix, format_tabular in TABULAR_FORMATS.items():
            full_name = f"{stem}-{name}" if name else stem
            (folder / f"{full_name}.{suffix}").write_text(format_tabular(tabular))


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
            pictures=arguments.pictures,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except (ReportError, RecordError, FormatError, NotComparableError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for section in sections:
        print(f"\n{section.table.name}: {section.about}\n")
        for line in section.warnings:
            print(f"! {line}\n")
        print("\n\n".join(map(text_tabular, section.main_tabulars)))
        if section.findings:
            print(f"\n{section.findings}")
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
    meanings = "; ".join(f"{choice}: {meaning}" for choice, meaning in CHOICES.items())
    parser.add_argument(
        "--pictures",
        choices=CHOICES,
        default="best",
        help=f"which pictures are drawn (default: %(default)s; {meanings})",
    )
    return parser


def _num_resamples(text: str) -> int:
    value = int(text)
    if value != 0:
        try:
            check_num_resamples(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error}, or 0 for no intervals") from None
    return value


if __name__ == "__main__":
    sys.exit(main())
