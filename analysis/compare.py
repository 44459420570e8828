"""Any detectors side by side: `python -m analysis.compare --truth instances.json a.json b.json`.

Takes COCO instances and COCO results files, no run of this project. The first results file is the
baseline. Prints, and with --out writes, AP and AR by IoU threshold and object scale, the
differences to the baseline with their intervals, and what fixing each type of error would gain.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ablations.evaluation.coco import Detections, FormatError, Truth
from ablations.evaluation.matching import Matches, match
from ablations.evaluation.metrics import (
    IOU_TYPES,
    PAPER_THRESHOLDS,
    SCALES,
    Cell,
    metrics_of,
)
from ablations.evaluation.scoring import Scores, score
from analysis import detection_errors
from analysis.bootstrap import (
    MIN_IMAGES,
    Comparison,
    Difference,
    check_num_resamples,
    compare,
    correct,
    differences_frame,
    images_with_objects_text,
)
from analysis.figures.style import RC, save, style_of
from analysis.frames import difference_text, points
from analysis.pages.markup import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Picture,
    Tabular,
    markdown,
    text_tabular,
)

HOW_TO_READ = (
    "Figures are percent points. [low, high] holds the middle 95 % of the difference over "
    "resamples of the images, the same for both.",
    "* marks a difference that is real: it stays after correction for all variants and rows of its "
    f"table together (AP and errors apart), and at least {MIN_IMAGES} images have such objects.",
    "~ marks a difference below the noise, or one on too few images: these images do not tell the "
    "two apart. That does not show that they are equal.",
    "differences.csv (--out) holds every cell with two corrections: `in_table` is the one marked "
    "here, `of_all_cells` is over all cells of a comparison, and so stricter.",
)

_NAMES = tuple(metric.name for metric in metrics_of("bbox"))


@dataclass(frozen=True)
class Entry:
    """One results file, matched and scored."""

    name: str
    detections: Detections
    table: Matches
    scores: Scores
    errors: detection_errors.Errors


class _Progress:
    """One line on stderr that is written over; nothing where stderr is no terminal, or --quiet."""

    def __init__(self, quiet: bool) -> None:
        self._shown = not quiet and sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self._shown:
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    progress = _Progress(arguments.quiet)
    try:
        blocks = _compare_files(arguments, progress)
    except (FormatError, ValueError, OSError) as error:
        progress("")
        print(f"error: {error}", file=sys.stderr)
        return 2
    progress("")
    try:
        print(_terminal(blocks), flush=True)
    except BrokenPipeError:
        # The reader (`head`, say) has seen enough; Python flushes once more on leaving.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.compare",
        description="Compare detectors from their COCO results files: AP and AR by IoU threshold "
        "and object scale, whether each difference is real, and what fixing each type of error "
        "would gain. The first results file is the baseline.",
        epilog="example: python -m analysis.compare --truth instances_val2017.json baseline.json "
        "larger.json --names baseline larger --out comparison",
    )
    parser.add_argument(
        "results", nargs="+", type=Path, help="COCO results files (.json or .json.gz)"
    )
    parser.add_argument(
        "--truth", type=Path, required=True, help="COCO instances file (.json or .json.gz)"
    )
    parser.add_argument(
        "--iou-type",
        "--kind",
        choices=IOU_TYPES,
        default="bbox",
        help="boxes or masks (default: %(default)s)",
    )
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="a name per results file (default: file names)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write Markdown, CSV and pictures (PNG, SVG) here"
    )
    parser.add_argument(
        "--resamples", type=int, default=1000, help="paired resamples (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the resamples (default: %(default)s)"
    )
    parser.add_argument(
        "--drop-unknown-images",
        action="store_true",
        help="drop results for images the truth does not have, and count them, "
        "instead of refusing the file",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def _compare_files(arguments: argparse.Namespace, progress: _Progress) -> list[Block]:
    names = _names(arguments.results, arguments.names)
    try:
        check_num_resamples(arguments.resamples)
    except ValueError as error:
        raise ValueError(f"--resamples: {error}") from None
    progress(f"reading {arguments.truth}")
    truth = Truth.from_coco(arguments.truth)
    entries = []
    for name, path in zip(names, arguments.results, strict=True):
        progress(f"reading and matching {path}")
        unknown_images = "drop" if arguments.drop_unknown_images else "refuse"
        detections = Detections.from_coco(path, truth, unknown_images)
        table = match(truth, detections, arguments.iou_type)
        found = detection_errors.find_errors(truth, detections, arguments.iou_type)
        entries.append(Entry(name, detections, table, score(table), found))

    baseline, *others = entries
    comparisons, error_comparisons = {}, {}
    for entry in others:
        pair = (baseline.name, entry.name)

        def on_share(done: float, name: str = entry.name) -> None:
            progress(f"resampling images, {name}: {done:.0%}")

        comparisons[entry.name] = compare(
            [baseline.table], [entry.table], arguments.resamples, arguments.seed, pair, on_share
        )
        progress(f"resampling images, errors of {entry.name}")
        error_comparisons[entry.name] = detection_errors.compare_errors(
            [baseline.errors], [entry.errors], arguments.resamples, arguments.seed, pair
        )
    corrected = correct(comparisons)
    error_frame = pd.concat([entry.errors.frame(entry.name) for entry in entries])
    error_differences = detection_errors.correct_errors(error_comparisons)

    blocks = _summary(truth, entries, arguments.iou_type, comparisons)
    blocks += _score_blocks(entries)
    if others:
        blocks += _difference_blocks(baseline.name, corrected)
    blocks += _error_blocks(error_frame, error_differences, baseline.name)
    blocks += [Heading("How to read this"), Bullets(HOW_TO_READ)]
    if arguments.out is not None:
        progress(f"writing {arguments.out}")
        blocks += _write_pictures(arguments.out, entries, corrected, error_frame)
        _write_csv(arguments.out, entries, comparisons, corrected, error_frame, error_differences)
        page = markdown("Comparison of detectors", blocks, arguments.out)
        (arguments.out / "comparison.md").write_text(page)
    return blocks


def _names(paths: Sequence[Path], given: Sequence[str] | None) -> list[str]:
    """A name per file: those given, or else the file names, or else the paths."""
    if given is not None and len(given) != len(paths):
        raise ValueError(f"--names: {len(given)} names for {len(paths)} results files")
    names = list(given) if given is not None else [path.name.split(".")[0] for path in paths]
    if given is None and len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"--names: {', '.join(names)} are not all different; name them apart")
    return names


# what is said


def _summary(
    truth: Truth, entries: Sequence[Entry], iou_type: str, comparisons: Mapping[str, Comparison]
) -> list[Block]:
    what = {"bbox": "boxes", "segm": "masks"}[iou_type]
    lines = [
        f"{truth.name}: {len(truth.image_ids):,} images, {len(truth.image):,} objects "
        f"({int(truth.crowd.sum()):,} crowds), {len(truth.category_ids)} categories; {what}."
    ]
    lines += [
        f"{entry.name}: {len(entry.detections):,} detections; {empty_images_text(entry.table)}."
        for entry in entries
    ]
    lines += [
        f"{name}: {count:,} {note}."
        for name, notes in [
            (truth.name, truth.notes),
            *((entry.name, entry.detections.notes) for entry in entries),
        ]
        for note, count in notes.items()
    ]
    blocks: list[Block] = [Bullets(tuple(lines))]
    if comparisons:
        any_of_them = next(iter(comparisons.values()))
        images = images_with_objects_text(any_of_them.num_images_with_objects)
        blocks.append(Paragraph(f"{any_of_them.covers} {images[0].upper()}{images[1:]}."))
    return blocks


def empty_images_text(table: Matches) -> str:
    """How many images a results file says nothing about."""
    num_empty = table.num_images - len(np.unique(table.image))
    return f"no detection in {num_empty:,} of {table.num_images:,} images"


def _score_blocks(entries: Sequence[Entry]) -> list[Block]:
    thresholds = [f"AP{100 * iou:.0f}" for iou in PAPER_THRESHOLDS]
    limits = entries[0].table.max_dets
    header = ("", "scale", "AP", *thresholds, *(f"AR{limit}" for limit in limits))
    rows = []
    for entry in entries:
        ap, ar = entry.scores.category_means()
        for area in SCALES:
            cells = [Cell("AP", area=area)]
            cells += [Cell("AP", iou=iou, area=area) for iou in PAPER_THRESHOLDS]
            cells += [Cell("AR", area=area, max_dets=limit) for limit in limits]
            values = [entry.scores.axes.read(cell, ap, ar) for cell in cells]
            figures = [points(None if value is None else float(value)) for value in values]
            rows.append((entry.name, area, *figures))
    return [Heading("AP and AR by IoU and scale"), Tabular(header, tuple(rows), 2)]


def _difference_blocks(
    baseline: str, corrected: Mapping[str, Mapping[str, Difference]]
) -> list[Block]:
    rows = [
        (name, *(_text(found.get(name)) for found in corrected.values()))
        for name in _NAMES
        if any(name in found for found in corrected.values())
    ]
    return [
        Heading(f"Differences to {baseline}"),
        Tabular(("", *corrected), tuple(rows)),
    ]


def _text(difference: Difference | None) -> str:
    if difference is None:
        return points(None)
    return difference_text(difference.value, difference.low, difference.high, difference.real)


def _error_blocks(frame: pd.DataFrame, differences: pd.DataFrame, baseline: str) -> list[Block]:
    blocks: list[Block] = [
        Heading("What fixing each type of error would gain, in AP50"),
        detection_errors.gains_tabular(frame),
    ]
    if len(differences):
        blocks += [
            Heading(f"Gains minus those of {baseline} (negative: fewer such errors)"),
            detection_errors.gain_differences_tabular(differences),
        ]
    return blocks


def _terminal(blocks: Sequence[Block]) -> str:
    parts = []
    for block in blocks:
        match block:
            case Tabular():
                parts.append(text_tabular(block))
            case Heading():
                parts.append(block.text.upper())
            case Paragraph():
                parts.append(block.text)
            case Bullets():
                parts.append("\n".join(block.items))
            case Picture():
                parts.append(f"{block.caption}: {block.path}")
    return "\n\n".join(parts)


# what is written


def _write_csv(
    folder: Path,
    entries: Sequence[Entry],
    comparisons: Mapping[str, Comparison],
    corrected: Mapping[str, Mapping[str, Difference]],
    error_frame: pd.DataFrame,
    error_differences: pd.DataFrame,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cells = []
    for entry in entries:
        ap, ar = entry.scores.category_means()
        for cell in _all_cells(entry.scores):
            value = entry.scores.axes.read(cell, ap, ar)
            if value is not None and not np.isnan(value):
                cells.append({"variant": entry.name, **cell._asdict(), "value": float(value)})
    pd.DataFrame(cells).to_csv(folder / "cells.csv", index=False)
    error_frame.to_csv(folder / "errors.csv", index=False)
    if comparisons:
        frames = {
            name: differences_frame(comparison, corrected[name])
            for name, comparison in comparisons.items()
        }
        rows = pd.concat(frames, names=["variant"]).reset_index(level="variant")
        rows.to_csv(folder / "differences.csv", index=False)
        error_differences.to_csv(folder / "error-differences.csv", index=False)


def _all_cells(scores: Scores) -> list[Cell]:
    axes = scores.axes
    return [
        Cell(quantity, iou, area, limit)
        for quantity in ("AP", "AR")
        for iou in (*axes.iou_thresholds, None)
        for area in axes.areas
        for limit in axes.max_dets
    ]


def _write_pictures(
    folder: Path,
    entries: Sequence[Entry],
    corrected: Mapping[str, Mapping[str, Difference]],
    error_frame: pd.DataFrame,
) -> list[Block]:
    figures = {"ap-by-iou-and-scale": (_draw_ap(entries), "AP by IoU threshold and object scale")}
    if corrected:
        caption = f"Differences to {entries[0].name} with 95 % intervals; hollow: below the noise"
        figures["differences"] = (_draw_differences(corrected, entries[0].name), caption)
    caption = "What fixing each type of error would gain in AP50, by object scale"
    figures["errors"] = (detection_errors.draw(error_frame), caption)
    pictures: list[Block] = []
    for name, (figure, caption) in figures.items():
        png, _ = save(figure, folder, name)
        pictures.append(Picture(png, caption))
    return pictures


def _draw_ap(entries: Sequence[Entry]) -> Figure:
    with matplotlib.rc_context(RC):
        areas = entries[0].table.areas
        figure = Figure(figsize=(2.6 * len(areas), 3.1), layout="constrained")
        panels = figure.subplots(1, len(areas), sharey=True, squeeze=False)[0]
        for index, entry in enumerate(entries):
            ap, _ = entry.scores.category_means()
            style = style_of(index)
            for a, panel in enumerate(panels):
                panel.plot(
                    entry.table.iou_thresholds, 100 * ap[:, a, -1], label=entry.name,
                    color=style.color, marker=style.marker, markersize=4,
                )  # fmt: skip
        for panel, area in zip(panels, areas, strict=True):
            panel.set_title(area)
            panel.set_ylim(bottom=0)
        panels[0].set_ylabel("AP (percent points)")
        figure.supxlabel("IoU threshold", fontsize=9.5)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 4))
        return figure


def _draw_differences(corrected: Mapping[str, Mapping[str, Difference]], baseline: str) -> Figure:
    with matplotlib.rc_context(RC):
        names = [name for name in _NAMES if any(name in each for each in corrected.values())]
        figure = Figure(
            figsize=(6.5, 1.2 + 0.16 * len(names) * (1 + len(corrected))), layout="constrained"
        )
        panel = figure.subplots()
        step = 0.7 / len(corrected)
        for index, (variant, found) in enumerate(corrected.items()):
            style = style_of(index + 1)
            for row, name in enumerate(names):
                if name not in found:
                    continue
                each = found[name]
                y = row + step * (index - (len(corrected) - 1) / 2)
                panel.plot([100 * each.low, 100 * each.high], [y, y], color=style.color, lw=1.6)
                panel.plot(
                    100 * each.value, y, color=style.color, marker=style.marker, markersize=5.5,
                    markerfacecolor=style.color if each.real else "white", linestyle="none",
                    label=variant if row == 0 else None,
                )  # fmt: skip
        panel.axvline(0, color="black", linewidth=1)
        panel.set_yticks(range(len(names)), names)
        panel.invert_yaxis()
        panel.set_xlabel(f"difference to {baseline} (percent points); hollow: below the noise")
        figure.legend(loc="outside upper left", ncols=min(len(corrected), 4))
        return figure


if __name__ == "__main__":
    raise SystemExit(main())
