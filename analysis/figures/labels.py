"""Names in figures: a key above the panels, labels at points and boxes, none over another."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from analysis.figures.style import RC, SOFT, Style, most_readable_on

_KEY_SIZE = 9.0
_LABEL_SIZE = 9.0
"""Font sizes in points."""
_HANDLE = 0.55
"""Inches of a key's marker with the space around it."""
_MAX_COLUMNS = 4
_BREAKS = ",=/.-_+ "
"""Characters after which a long name may go on in the next line."""


def add_key(figure: Figure, named: Sequence[tuple[str, Style]], line: bool = False) -> None:
    """Write above the panels which marker and color is whose; the figure grows by the key's height.

    `line` says whether a line goes through each marker.
    """
    width = figure.get_figwidth() - 0.2
    texts = [
        name if style.number is None else f"{style.label(name)}  {name}" for name, style in named
    ]
    widest = max(_text_width(figure, text) for text in texts) + _HANDLE
    num_columns = max(1, min(_MAX_COLUMNS, len(texts), int(width // widest)))
    handles = [
        Line2D(
            [],
            [],
            color=style.color,
            marker=style.marker,
            markersize=6,
            linestyle="-" if line else "none",
        )
        for _, style in named
    ]
    legend = figure.legend(
        handles,
        [" "] * len(handles),  # a legend leaves out labels that begin with "_"
        loc="outside upper left",
        ncols=num_columns,
        fontsize=_KEY_SIZE,
        borderaxespad=0.3,
    )
    for entry, text in zip(legend.get_texts(), texts, strict=True):
        entry.set_text(_folded(figure, text, width - _HANDLE))
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    height = legend.get_window_extent(renderer).height / figure.dpi
    figure.set_figheight(figure.get_figheight() + height)


def _text_width(figure: Figure, text: str) -> float:
    """In inches."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    font = FontProperties(family=RC["font.family"], size=_KEY_SIZE)
    return renderer.get_text_width_height_descent(text, font, False)[0] / figure.dpi


def _folded(figure: Figure, text: str, width: float) -> str:
    """The text in lines of at most `width` inches."""
    lines = []
    while _text_width(figure, text) > width:
        fitting = max(1, int(len(text) * width / _text_width(figure, text)))
        end = max((text.rfind(character, 0, fitting) + 1 for character in _BREAKS), default=0)
        end = end if end > fitting // 2 else fitting
        lines.append(text[:end])
        text = text[end:]
    return "\n".join([*lines, text])


@dataclass(frozen=True)
class Point:
    """A labeled point in the units of its axes."""

    x: float
    y: float
    label: str
    low: float = math.nan
    """Ends of the point's whisker along y; NaN where it has none."""
    high: float = math.nan


_ANGLES = np.deg2rad([0, 180, 90, 270, 30, 150, 330, 210, 60, 120, 300, 240])
_DISTANCES = (8.0, 13.0, 20.0, 30.0, 42.0, 56.0, 72.0, 90.0, 110.0, 135.0, 160.0)
"""Where labels are tried around their point, the nearest first; in points."""
_FAR = 14.0
"""A label farther from its point gets a line to it; in points."""


def label_points(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Write each label beside its point: inside the axes, over no other label, point or whisker.

    Where the nearest free place is not beside the point, a line leads to it. Call it last: what
    changes the layout later moves the points away from where they were measured.
    """
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    per_point = figure.dpi / 72
    inside = axes.get_window_extent(renderer)
    places = [axes.transData.transform((point.x, point.y)) for point in points]
    taken = [_box_around(place, 5 * per_point, 5 * per_point) for place in places]
    for point in points:
        if not math.isnan(point.low + point.high):
            ends = [axes.transData.transform((point.x, y)) for y in (point.low, point.high)]
            taken.append(Bbox([ends[0] - (per_point, 0), ends[1] + (per_point, 0)]))
    font = FontProperties(family=RC["font.family"], size=_LABEL_SIZE)
    for point, place in zip(points, places, strict=True):
        width, height, _ = renderer.get_text_width_height_descent(point.label, font, False)
        size = (width + 4 * per_point, height + 3 * per_point)
        offset, box = _nearest_free(place, size, per_point, taken, inside)
        taken.append(box)
        is_far = _gap(place, box) > _FAR * per_point
        text = axes.annotate(
            point.label,
            (point.x, point.y),
            xytext=(offset[0] / per_point, offset[1] / per_point),
            textcoords="offset points",
            horizontalalignment="center",
            verticalalignment="center",
            fontsize=_LABEL_SIZE,
            arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.6} if is_far else None,
        )
        text.set_in_layout(False)


def _nearest_free(
    place: np.ndarray,
    size: tuple[float, float],
    per_point: float,
    taken: Iterable[Bbox],
    inside: Bbox,
) -> tuple[tuple[float, float], Bbox]:
    """Offset of a label's center from its point, and its box, in pixels; the least bad if none."""
    best = None
    for distance, angle in itertools.product(_DISTANCES, _ANGLES):
        across, up = math.cos(angle), math.sin(angle)
        offset = (
            across * (distance * per_point + size[0] / 2),
            up * (distance * per_point + size[1] / 2),
        )
        box = _box_around((place[0] + offset[0], place[1] + offset[1]), size[0] / 2, size[1] / 2)
        covered = sum(_shared_area(box, other) for other in taken)
        covered += box.width * box.height - _shared_area(box, inside)
        if covered < 1e-6:
            return offset, box
        if best is None or covered < best[0]:
            best = (covered, offset, box)
    assert best is not None
    return best[1], best[2]


@dataclass(frozen=True)
class Tag:
    """A label of a box (x, y, width, height) in the units of its axes, on a ground of a color."""

    box: Sequence[float]
    label: str
    color: str


_TAG_SIZE = 6.5
"""Font size in points."""


def tag_boxes(figure: Figure, axes: Axes, tags: Sequence[Tag]) -> None:
    """Write each label at its box, the first ones first: inside the axes, over no other label.

    One for which there is no room at its box is left out. Call it last, as `label_points`.
    """
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    inside = axes.get_window_extent(renderer)
    font = FontProperties(family=RC["font.family"], size=_TAG_SIZE)
    pad = figure.dpi / 72
    taken: list[Bbox] = []
    for tag in tags:
        x, y, width, height = tag.box
        corners = axes.transData.transform([(x, y), (x + width, y + height)])
        around = Bbox([corners.min(axis=0), corners.max(axis=0)])
        text_width, text_height, descent = renderer.get_text_width_height_descent(
            tag.label, font, False
        )
        size = text_width + 2 * pad, text_height + 2 * pad
        places = (_moved_inside(place, inside) for place in _places_at(around, *size))
        free = next(
            (place for place in places if all(_shared_area(place, o) <= 0 for o in taken)), None
        )
        if free is None:
            continue
        taken.append(free)
        corner = (free.x0 + pad, free.y0 + pad + descent)
        x, y = axes.transData.inverted().transform(corner)
        text = axes.text(
            x, y, tag.label, fontsize=_TAG_SIZE, color=most_readable_on(tag.color), va="baseline",
            bbox={"facecolor": tag.color, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
        text.set_in_layout(False)


def _places_at(around: Bbox, width: float, height: float) -> Iterator[Bbox]:
    """Where a label may stand at a box: above, below, inside, and at its sides."""
    left, right = around.x0, around.x1 - width
    above, top, bottom, below = around.y1, around.y1 - height, around.y0, around.y0 - height
    for x, y in (
        *((left, above), (left, below), (left, top), (right, above), (right, below)),
        *((left, bottom), (right, top), (right, bottom)),
        *((around.x1, top), (around.x0 - width, top), (around.x1, bottom)),
        (around.x0 - width, bottom),
    ):
        yield Bbox.from_bounds(x, y, width, height)


def _moved_inside(box: Bbox, inside: Bbox) -> Bbox:
    across = max(inside.x0 - box.x0, 0) - max(box.x1 - inside.x1, 0)
    up = max(inside.y0 - box.y0, 0) - max(box.y1 - inside.y1, 0)
    return box.translated(across, up)


def _box_around(
    center: Sequence[float] | np.ndarray, half_width: float, half_height: float
) -> Bbox:
    x, y = center
    return Bbox.from_extents(x - half_width, y - half_height, x + half_width, y + half_height)


def _gap(place: np.ndarray, box: Bbox) -> float:
    """From a point to the nearest point of a box, in pixels."""
    nearest = np.clip(place, (box.x0, box.y0), (box.x1, box.y1))
    return float(np.hypot(*(place - nearest)))


def _shared_area(a: Bbox, b: Bbox) -> float:
    shared = Bbox.intersection(a, b)
    return 0.0 if shared is None else float(shared.width * shared.height)
