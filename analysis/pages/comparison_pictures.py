"""The pictures of a comparison of results files."""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from analysis.comparison import SideBySide
from analysis.figures.categories import category_changes
from analysis.figures.comparison import differences
from analysis.figures.confusion import confusion_map
from analysis.figures.curves import ap_by_threshold, precision_by_recall
from analysis.figures.errors import error_gains
from analysis.figures.style import save, styles_of
from analysis.pages.blocks import Block, Picture


def write_pictures(compared: SideBySide, folder: Path) -> list[Block]:
    """Write every picture as PNG and SVG."""
    return [
        Picture(save(figure, folder, name)[0], caption)
        for name, figure, caption in _figures(compared)
    ]


def _figures(compared: SideBySide) -> Iterator[tuple[str, Figure, str]]:
    """File name, figure and caption."""
    names = [entry.name for entry in compared.entries]
    styles = styles_of({name: name for name in names})
    scores = {entry.name: entry.scores for entry in compared.entries}
    frames = compared.frames
    yield (
        "ap-by-iou-and-scale",
        ap_by_threshold(scores, styles),
        "AP by IoU threshold and object scale",
    )
    if len(frames["precision-recall"]):
        yield (
            "precision-recall",
            precision_by_recall(frames["precision-recall"], styles),
            "Precision by recall, mean over categories, objects of every scale",
        )
    if "metric-differences" in frames and len(frames["metric-differences"]):
        yield (
            "differences",
            differences(frames["metric-differences"], names[0], styles),
            f"Differences to {names[0]} with 95 % intervals; hollow: below the noise",
        )
        changed = category_changes(compared.by_category, names[0], styles)
        if changed is not None:
            yield (
                "categories",
                changed,
                f"The categories that gained and lost most against {names[0]}, with 95 % "
                "intervals; hollow: below the noise",
            )
    yield (
        "errors",
        error_gains(frames["errors"], styles),
        "What fixing each type of error would gain in AP50, by object scale",
    )
    for number, (name, matrix) in enumerate(compared.matrices.items(), start=1):
        label = styles[name].label(name)
        yield (
            f"confusion-{number}",
            confusion_map(matrix, compared.category_names, label),
            f"Confusion matrix of {name}: objects by true and detected category",
        )
