"""What the comparison of results files says, as blocks."""

from collections.abc import Mapping

from ablations.evaluation.coco import Truth
from ablations.evaluation.federated import FREQUENCIES, mean_by_frequency
from ablations.evaluation.metrics import PAPER_THRESHOLDS, Cell
from ablations.evaluation.scoring import Axes
from analysis.bootstrap import MARK_TEXT, MIN_IMAGES, images_with_objects_text
from analysis.comparison import SideBySide
from analysis.entries import Entry
from analysis.matched import num_images_without_detections
from analysis.pages import tables
from analysis.pages.blocks import Block, Bullets, Heading, Paragraph
from analysis.pages.numbers import capitalized, points
from analysis.pages.tabular import Tabular

HOW_TO_READ = (
    "Figures are percent points. [low, high] is a 95 % interval of the difference, from resamples "
    "of the images, the same for both.",
    "* marks a difference that is real: it stays after correction for all variants and rows of its "
    f"table together (AP, categories and errors apart), and at least {MIN_IMAGES} images have such "
    "objects.",
    "~ marks a difference below the noise, or one on too few images: these images do not tell the "
    "two apart, which does not show that they are equal.",
    f"The interval of a difference marked ~ may lie wholly above or below 0. {MARK_TEXT}",
    "Micro AP puts the detections of all categories into one list, so that frequent categories "
    "weigh more; AP is the mean over categories.",
    "differences.csv (--out) holds every cell with two corrections: `in_table` is the one marked "
    "here, `of_all_cells` is over all cells of a comparison, and so stricter.",
)
_MAX_COLUMNS = 6
"""IoU thresholds that the table of scores shows one by one; of more, the paper's."""


def blocks(truth: Truth, compared: SideBySide) -> list[Block]:
    """All that is said in words and numbers."""
    baseline, *others = compared.entries
    frames = compared.frames
    found = [
        *_summary(truth, compared),
        Heading("AP and AR by IoU and scale"),
        _score_tabular(compared.entries),
    ]
    if others:
        found += [
            Heading(f"Differences to {baseline.name}"),
            tables.differences_by_metric(frames["metric-differences"]),
        ]
    of_all = len(baseline.scores.category_ids) == len(truth.category_ids)
    if of_all and any(truth.category_frequencies):
        found += [Heading("AP by frequency of categories"), _frequency_tabular(truth, compared)]
    if len(baseline.scores.category_ids) > 1:
        shown = tables.category_tabular(compared.by_category, baseline.name)
        found += [Heading("AP by category"), shown]
    found += [
        Heading("What fixing each type of error would gain, in AP50"),
        tables.gains_tabular(frames["errors"]),
    ]
    if others and len(frames["error-differences"]):
        found += [
            Heading(f"Gains minus those of {baseline.name} (negative: fewer such errors)"),
            tables.gain_differences_tabular(frames["error-differences"]),
        ]
    return [*found, Heading("How to read this"), Bullets(HOW_TO_READ)]


def _summary(truth: Truth, compared: SideBySide) -> list[Block]:
    what = {"bbox": "boxes", "segm": "masks"}[compared.entries[0].matches.iou_type]
    lines = [
        f"{truth.name}: {len(truth.image_ids):,} images, {len(truth.image):,} objects "
        f"({int(truth.crowd.sum()):,} crowds), {len(truth.category_ids)} categories; {what}."
    ]
    if truth.federated is not None:
        lines.append(
            "On each image only some categories were looked for: scored by LVIS's rule, which "
            "leaves out detections of the others."
        )
    lines += [_about(entry) for entry in compared.entries]
    notes: list[tuple[str, Mapping[str, int]]] = [(truth.name, truth.notes)]
    notes += [(entry.name, entry.notes) for entry in compared.entries]
    lines += [
        f"{name}: {count:,} {note}." for name, counts in notes for note, count in counts.items()
    ]
    about: list[Block] = [Bullets(tuple(lines))]
    if compared.num_images_with_objects is not None:
        images = images_with_objects_text(compared.num_images_with_objects)
        about.append(Paragraph(f"{compared.covers} {capitalized(images)}."))
    return about


def _about(entry: Entry) -> str:
    num_empty, num_images = num_images_without_detections(entry.matches)
    path = f" ({entry.path})" if "/" in entry.name else ""
    return (
        f"{entry.name}: {entry.num_detections:,} detections{path}; "
        f"no detection in {num_empty:,} of {num_images:,} images."
    )


def _score_tabular(entries: tuple[Entry, ...]) -> Tabular:
    axes = entries[0].scores.axes
    one_by_one = _thresholds(axes)
    limits = [(f"AR{limit}", Cell("AR", max_dets=limit)) for limit in axes.max_dets]
    columns = [
        ("AP", Cell("AP")),
        *((f"AP{100 * iou:g}", Cell("AP", iou=iou)) for iou in one_by_one),
        *limits,
    ]
    with_micro = len(entries[0].scores.category_ids) > 1
    rows = []
    for entry in entries:
        ap, ar = entry.scores.category_means()
        micro, micro_ar = entry.micro.category_means()
        for area in axes.areas:
            cells = [cell._replace(area=area) for _, cell in columns]
            values = [axes.read(cell, ap, ar) for cell in cells]
            if with_micro:
                values.append(axes.read(Cell("AP", area=area), micro, micro_ar))
            figures = [points(None if value is None else float(value)) for value in values]
            rows.append((entry.name, area, *figures))
    header = ("", "scale", *(name for name, _ in columns), *(["micro AP"] if with_micro else []))
    return Tabular(header, tuple(rows), 2)


def _frequency_tabular(truth: Truth, compared: SideBySide) -> Tabular:
    """AP over LVIS's groups of categories, objects of every scale."""
    rows = []
    for entry in compared.entries:
        area = entry.scores.axes.areas.index("all")
        by_category = entry.scores.ap[:, :, area, -1].mean(axis=0)
        means = mean_by_frequency(by_category, truth.category_frequencies)
        rows.append((entry.name, *map(points, means.values())))
    return Tabular(("", *FREQUENCIES.values()), tuple(rows))


def _thresholds(axes: Axes) -> tuple[float, ...]:
    if len(axes.iou_thresholds) <= _MAX_COLUMNS:
        return axes.iou_thresholds
    return tuple(iou for iou in PAPER_THRESHOLDS if iou in axes.iou_thresholds)
