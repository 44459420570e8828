"""The pictures of a table, written to files, with the captions the report gives them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ablations.evaluation.metrics import METRICS, PREFIXES
from analysis.costs import COSTS, DRAWN
from analysis.figures.categories import category_changes
from analysis.figures.curves import loss_curves
from analysis.figures.errors import error_gains
from analysis.figures.maps import ap_by_iou_and_scale
from analysis.figures.receptive_field import receptive_fields
from analysis.figures.scale import ap_by_scale
from analysis.figures.sheet import sheet
from analysis.figures.style import Styles, save, styles
from analysis.figures.tradeoff import ap_against_cost
from analysis.matched import Tell
from analysis.pages.blocks import Picture
from analysis.pages.sections import Section
from analysis.runs import Variant

MAX_SVG_BYTES = 200_000
"""A larger SVG would make the page heavy; it shows the PNG then."""
MAX_DRAWN = 20
"""Variants that one picture shows; the baseline is one of them."""
CHOICES = {
    "best": f"of a table of more than {MAX_DRAWN} variants, the baseline and the best by AP",
    "all": f"all variants, in parts of {MAX_DRAWN}",
    "none": "no pictures",
}
"""What the pictures of a table show."""

Drawing = tuple[str, Callable[[], Figure | None], str]
"""Name, how it is drawn (None: nothing to show), and caption."""


def write_pictures(
    section: Section,
    styles: Styles,
    folder: Path,
    stem: str,
    choice: str = "best",
    tell: Tell = lambda line: None,
) -> dict[str, list[Picture]]:
    """Write every figure of a table as `<stem>-<name>` in PNG and SVG; by the figure's name.

    `choice` is one of `CHOICES`. AP against costs is always of all variants. A figure that cannot
    be drawn, of an image that is damaged say, is told and left out.
    """
    if not section.table.variants or choice == "none":
        return {}
    found: dict[str, list[Picture]] = {}
    parts = _parts(section, choice)
    for number, part in enumerate(parts, start=1):
        suffix = f"-part{number}" if len(parts) > 1 else ""
        drawings = [*_of_all(section, styles)] if number == 1 else []
        drawings += _of_part(part, styles)
        for done, (name, draw, caption) in enumerate(drawings):
            tell(f"drawing {section.table.name}: {name}{suffix} ({done + 1} of {len(drawings)})")
            try:
                figure = draw()
            except (OSError, ValueError) as error:
                tell(f"! {section.table.name}: {name} cannot be drawn: {error}")
                continue
            if figure is not None:
                png, svg = save(figure, folder, f"{stem}-{name}{suffix}")
                is_small = svg.stat().st_size <= MAX_SVG_BYTES
                found.setdefault(name, []).append(Picture(svg if is_small else png, caption))
    return found


def figure(section: Section, name: str) -> Figure:
    """One figure of a table, all variants in it; raises KeyError for a name that there is not."""
    looks = styles([section.table])
    drawings = [*_of_all(section, looks), *_of_part(section, looks)]
    drawn = next((draw() for each, draw, _ in drawings if each == name), None)
    if drawn is None:
        names = ", ".join(each for each, _, _ in drawings)
        raise KeyError(f"figure {name!r}: there is none of this table; there may be {names}")
    return drawn


def _parts(section: Section, choice: str) -> list[Section]:
    """The section for the variants of each part, the baseline in all of them."""
    variants, baseline = section.table.variants, section.table.baseline
    if len(variants) <= MAX_DRAWN:
        return [section]
    rest = [variant for variant in variants if variant is not baseline]
    size = MAX_DRAWN - (baseline is not None)
    if choice == "all":
        groups = [rest[start : start + size] for start in range(0, len(rest), size)]
    else:
        first = METRICS[section.table.metrics[0]]
        values = section.summary[first.name] * (1 if first.higher_is_better else -1)
        best = dict(zip(section.summary["variant"], values.fillna(-1), strict=True))
        groups = [sorted(rest, key=lambda variant: -best[variant.name])[:size]]
    shown = [{variant.name for variant in group} for group in groups]
    return [
        _part(section, [each for each in variants if each is baseline or each.name in names])
        for names in shown
    ]


def _part(section: Section, variants: Sequence[Variant]) -> Section:
    """The section with the rows of some of its variants."""
    names = {variant.name for variant in variants}

    def rows(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["variant"].isin(names)] if len(frame) else frame

    compared = section.compared
    return replace(
        section,
        table=replace(section.table, variants=tuple(variants)),
        summary=rows(section.summary),
        cells=rows(section.cells),
        compared=replace(
            compared,
            metrics=rows(compared.metrics),
            cells=rows(compared.cells),
            gains={key: rows(frame) for key, frame in compared.gains.items()},
            categories={key: rows(frame) for key, frame in compared.categories.items()},
        ),
    )


def _of_all(section: Section, styles: Styles) -> Iterator[Drawing]:
    """Pictures in which a variant is a point, so that all have room."""
    table, summary = section.table, section.summary
    if table.classifies:
        return
    intervals = section.compared.intervals.get("bbox", pd.DataFrame())
    for name in DRAWN:
        yield (
            f"ap-against-{name}",
            partial(ap_against_cost, table, intervals, summary, styles, COSTS[name]),
            f"AP against {COSTS[name].label}. Whiskers are 95 % intervals of AP; the dashed line "
            "is the front: the variants that no other beats in both.",
        )


def _of_part(section: Section, styles: Styles) -> Iterator[Drawing]:
    table, summary, compared = section.table, section.summary, section.compared
    by_name = {variant.name: styles[variant.digest] for variant in table.variants}
    for iou_type in table.iou_types:
        prefix = PREFIXES[iou_type]
        yield (
            f"{prefix}ap-by-scale",
            partial(ap_by_scale, table, summary, compared.metrics, styles, iou_type),
            f"{prefix}AP by object scale, and its difference to the baseline. Whiskers are the "
            "spread over seeds on AP and the 95 % interval on the difference, where there are any. "
            "Hollow: the difference is below the noise, or on too few images.",
        )
        if table.baseline is not None and iou_type in compared.categories:
            yield (
                f"{prefix}categories",
                partial(
                    category_changes, compared.categories[iou_type], table.baseline.name, by_name
                ),
                f"The categories whose {prefix}AP gained and lost most against the baseline, with "
                "95 % intervals. Hollow: below the noise, or on too few images.",
            )
        yield (
            f"{prefix}ap-by-iou-and-scale",
            partial(ap_by_iou_and_scale, table, section.cells, styles, iou_type, compared.cells),
            f"{prefix}AP by IoU threshold and object scale: the baseline, then differences to it. "
            "A cell without color is below the noise, corrected over all cells of the variant, or "
            "on too few images.",
        )
        if iou_type in compared.gains:
            yield (
                f"{prefix}errors",
                partial(error_gains, compared.gains[iou_type], by_name),
                "What fixing each type of error would gain in AP50, by object scale.",
            )
    yield (
        "receptive-fields",
        partial(receptive_fields, table, styles),
        "How far each stage sees: effective (solid) and theoretical (dashed).",
    )
    yield (
        "loss-curves",
        partial(loss_curves, table, styles),
        "Training loss: as logged (thin) and smoothed over a twentieth of the steps (thick), a "
        "line per seed.",
    )
    yield (
        "sheet",
        partial(sheet, table, styles),
        "Validation images: true boxes and masks dashed in white, predictions in the variant's "
        "color, as many as the image has objects, the best scored first.",
    )
