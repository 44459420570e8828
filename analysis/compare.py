"""Any detectors side by side: `python -m analysis.compare --truth instances.json a.json b.json`.

Takes COCO instances and COCO results files of any detector, and run folders of this project, whose
truth is known. The first is the baseline. Prints, and with --out writes, AP and AR by IoU
threshold, object scale and category, the differences to the baseline with their intervals, and what
fixing each type of error would gain.
"""

import argparse
import gc
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablations.evaluation.coco import FormatError, Truth
from ablations.evaluation.matching import COCO_AREAS, COCO_IOUS
from ablations.evaluation.metrics import IOU_TYPES
from ablations.evaluation.result_ids import CATEGORIES, IMAGE_IDS
from ablations.storage import check_out
from analysis.bootstrap import check_num_resamples
from analysis.comparison import SideBySide, compare_entries
from analysis.entries import Options, area_bins, names_of, read, truth_of
from analysis.matched import read_truth
from analysis.pages.blocks import markdown, terminal
from analysis.pages.comparison import blocks
from analysis.pages.spreadsheet import write_csv

MAX_MAX_DET = 2**31 - 1
"""Ranks of detections are counted in 32 bits."""


class _OneLine:
    """A line on stderr that is written over; nothing where stderr is no terminal, or --quiet."""

    def __init__(self, quiet: bool) -> None:
        self._shown = not quiet and sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self._shown:
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """The command; returns 2 where a file or an option cannot be used, after saying why."""
    arguments = _parser().parse_args(argv)
    line = _OneLine(arguments.quiet)
    try:
        text = _compare_files(arguments, line)
    except (FormatError, ValueError, OSError) as error:
        line("")
        print(f"error: {error}", file=sys.stderr)
        return 2
    line("")
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The reader (`head`, say) has seen enough; Python flushes once more on leaving.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _compare_files(arguments: argparse.Namespace, line: _OneLine) -> str:
    """What is printed; with --out, files are written."""
    if arguments.out is not None:
        check_out(arguments.out)
    names = names_of(arguments.results, arguments.names)
    try:
        check_num_resamples(arguments.resamples)
    except ValueError as error:
        raise ValueError(f"--resamples: {error}") from None
    options = Options(
        iou_type=arguments.iou_type,
        areas={"all": COCO_AREAS["all"], **_areas_of(arguments)},
        iou_thresholds=tuple(sorted(set(arguments.iou))),
        max_dets=tuple(sorted(set(arguments.max_dets))) if arguments.max_dets else None,
        class_agnostic=arguments.class_agnostic,
        unknown_images="drop" if arguments.drop_unknown_images else "refuse",
        image_ids=arguments.image_ids,
        categories=arguments.categories,
        min_score=arguments.min_score,
    )
    path = truth_of(arguments.results) if arguments.truth is None else arguments.truth
    line(f"reading {path}")
    read_it = read_truth if arguments.truth is None else Truth.from_coco
    policy = "mend" if arguments.mend else "refuse"
    truth = read_it(path, policy=policy, recompute_areas=arguments.recompute_areas)
    entries = read(truth, arguments.results, names, options, line)
    compared = compare_entries(truth, entries, arguments.resamples, arguments.seed, line)
    told = blocks(truth, compared)
    if arguments.out is not None:
        # Only where something is drawn: matplotlib takes a third of a small comparison's time.
        from analysis.pages.comparison_pictures import write_pictures

        line(f"writing {arguments.out}")
        arguments.out.mkdir(parents=True, exist_ok=True)
        told += write_pictures(compared, arguments.out)
        for name, frame in compared.frames.items():
            write_csv(frame, arguments.out / f"{name}.csv")
        page = markdown("Comparison of detectors", told, arguments.out)
        (arguments.out / "comparison.md").write_text(page)
    return _as_json(truth, compared) if arguments.json else terminal(told)


def _areas_of(arguments: argparse.Namespace) -> Mapping[str, tuple[float, float]]:
    if arguments.sides is None:
        areas = arguments.areas or list(COCO_AREAS.items())
        name, count = Counter(name for name, _ in areas).most_common(1)[0]
        if count > 1:
            raise ValueError(f"--areas: {name} is given twice; name each once")
        return dict(areas)
    try:
        return area_bins(arguments.sides)
    except ValueError as error:
        raise ValueError(f"--sides: {error}") from None


def _as_json(truth: Truth, compared: SideBySide) -> str:
    """One object: the files, then every frame as a list of its rows; what is absent is null."""
    content: dict[str, Any] = {
        "truth": truth.name,
        "results": [{"name": each.name, "path": str(each.path)} for each in compared.entries],
        "covers": compared.covers,
    }
    for name, frame in compared.frames.items():
        content[name] = json.loads(frame.to_json(orient="records", double_precision=15))
    return json.dumps(content, indent=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.compare",
        description="Compare detectors from their COCO results files, or runs of this project: AP "
        "and AR by IoU threshold and object scale, whether each difference is real, and what "
        "fixing each type of error would gain. The first is the baseline.",
        epilog="example: python -m analysis.compare --truth instances_val2017.json baseline.json "
        "larger.json --names baseline larger --out comparison",
    )
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        help="COCO results files (.json or .json.gz), or run folders (<variant>-<digest>/seed<k>)",
    )
    parser.add_argument(
        "--truth",
        type=Path,
        help="COCO instances file (.json or .json.gz); where runs are named, theirs by default",
    )
    parser.add_argument(
        "--iou-type",
        "--kind",
        choices=IOU_TYPES,
        default="bbox",
        help="boxes or masks (default: %(default)s)",
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="a name per results file or run")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write Markdown, CSV and pictures (PNG, SVG) here"
    )
    parser.add_argument(
        "--resamples", type=int, default=1000, help="paired resamples (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, help="seed of the resamples (default: %(default)s)"
    )
    parser.add_argument(
        "--drop-unknown-images",
        action="store_true",
        help="drop results for images the truth does not have, and count them, "
        "instead of refusing the file",
    )
    parser.add_argument(
        "--mend",
        action="store_true",
        help="drop or repair what is at fault in the truth, by name, as training does, instead of "
        "refusing the file (scores are then those of the mended truth)",
    )
    parser.add_argument(
        "--recompute-areas",
        action="store_true",
        help="take each object's area, which decides its scale, from its mask or box instead of "
        "from the truth",
    )
    parser.add_argument(
        "--image-ids",
        choices=IMAGE_IDS,
        default="id",
        help="how results name images: by the truth's ids, or by the file's name without its "
        "ending, as YOLO tools do (default: %(default)s)",
    )
    parser.add_argument(
        "--categories",
        choices=CATEGORIES,
        default="id",
        help="how results name categories: by the truth's ids, or by their places from 0 or 1 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--class-agnostic",
        action="store_true",
        help="take all categories for one (confusion matrices keep them apart)",
    )
    scales = parser.add_mutually_exclusive_group()
    scales.add_argument(
        "--sides",
        nargs="+",
        type=float,
        metavar="SIDE",
        help="object scales between these sides of squares in pixels, beside `all`: 0 16 32 64 96 "
        "128 inf makes six",
    )
    scales.add_argument(
        "--areas",
        nargs="+",
        type=_area,
        metavar="NAME=LOW:HIGH",
        help="object scales in square pixels, both ends inside, beside `all`; without HIGH there "
        "is no upper end (default: COCO's small, medium and large)",
    )
    parser.add_argument(
        "--iou",
        nargs="+",
        type=_iou,
        default=COCO_IOUS.tolist(),
        metavar="IOU",
        help="IoU thresholds that AP is the mean of (default: COCO's 0.5 to 0.95 in ten steps)",
    )
    parser.add_argument(
        "--max-dets",
        nargs="+",
        type=_max_det,
        metavar="N",
        help="limits on the detections per image and category; AP is at the largest "
        "(default: 1 10 100, and 300 for LVIS's truth)",
    )
    parser.add_argument(
        "--min-score",
        type=_score,
        default=0.5,
        metavar="SCORE",
        help="the least score that a confusion matrix counts (default: %(default)s)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of tables"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def _area(text: str) -> tuple[str, tuple[float, float]]:
    """`tiny=0:256` as name and bounds."""
    name, _, bounds = text.rpartition("=")
    low, colon, high = bounds.partition(":")
    try:
        ends = (float(low or 0), float(high or COCO_AREAS["all"][1]))
    except ValueError:
        ends = (math.nan, math.nan)
    if not name.strip() or not colon or not 0 <= ends[0] < ends[1]:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write NAME=LOW:HIGH in square pixels, as small=0:1024"
        )
    return name, ends


def _iou(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: an IoU threshold is above 0 and at most 1")
    return value


def _max_det(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_MAX_DET:
        raise argparse.ArgumentTypeError(f"{text}: give 1 to {MAX_MAX_DET}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: give 0 or more")
    return value


def _score(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(
            f"{text}: give a finite number; 0 counts every detection of usual scores"
        )
    return value


if __name__ == "__main__":
    gc.freeze()  # what was imported is no garbage; looking through it takes a third of a second
    raise SystemExit(main())
