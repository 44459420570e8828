"""The pictures of a table, written to files, with the captions the report gives them."""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from ablations.evaluation.metrics import PREFIXES
from analysis.figures.comparison import ap_against_macs
from analysis.figures.curves import loss_curves
from analysis.figures.errors import error_gains
from analysis.figures.maps import ap_by_iou_and_scale
from analysis.figures.scale import ap_by_scale
from analysis.figures.sheet import sheet
from analysis.figures.style import Styles, save
from analysis.matched import Tell
from analysis.pages.blocks import Picture
from analysis.pages.sections import Section

MAX_SVG_BYTES = 200_000
"""A larger SVG would make the page heavy; it shows the PNG then."""


def write_pictures(
    section: Section, styles: Styles, folder: Path, stem: str, tell: Tell = lambda line: None
) -> list[Picture]:
    """Write every figure of a table as `<stem>-<name>` in PNG and SVG."""
    if not section.table.variants:
        return []
    pictures = []
    for name, figure, caption in _figures(section, styles):
        if figure is not None:
            tell(f"drawing {section.table.name}: {name}")
            png, svg = save(figure, folder, f"{stem}-{name}")
            is_small = svg.stat().st_size <= MAX_SVG_BYTES
            pictures.append(Picture(svg if is_small else png, caption))
    return pictures


def _figures(section: Section, styles: Styles) -> Iterator[tuple[str, Figure | None, str]]:
    """Name, figure (None: nothing to show) and caption."""
    table, summary, compared = section.table, section.summary, section.compared
    by_name = {variant.name: styles[variant.digest] for variant in table.variants}
    for iou_type in table.iou_types:
        prefix = PREFIXES[iou_type]
        yield (
            f"{prefix}ap-by-scale",
            ap_by_scale(table, summary, compared.metrics, styles, iou_type),
            f"{prefix}AP by object scale, and its difference to the baseline. Whiskers are the "
            "spread over seeds on AP and the 95 % interval on the difference, where there are any. "
            "Hollow: the difference is below the noise, or on too few images.",
        )
        yield (
            f"{prefix}ap-by-iou-and-scale",
            ap_by_iou_and_scale(table, section.cells, styles, iou_type, compared.cells),
            f"{prefix}AP by IoU threshold and object scale: the baseline, then differences to it. "
            "A cell without color is below the noise, corrected over all cells of the variant, or "
            "on too few images.",
        )
        if iou_type in compared.gains:
            yield (
                f"{prefix}errors",
                error_gains(compared.gains[iou_type], by_name),
                "What fixing each type of error would gain in AP50, by object scale.",
            )
    yield (
        "ap-against-macs",
        ap_against_macs(table, summary, styles),
        "AP against the backbone's multiply-adds at 224 x 224.",
    )
    yield (
        "loss-curves",
        loss_curves(table, styles),
        "Training loss: as logged (thin) and smoothed over a twentieth of the steps (thick), a "
        "line per seed.",
    )
    yield (
        "sheet",
        sheet(table, styles),
        "Validation images: true boxes and masks dashed in white, predictions in the variant's "
        "color, as many as the image has objects, the best scored first.",
    )
