"""How every figure looks: colors, markers, fonts, and how it is written to files.

The first eight colors are Okabe and Ito's, which color-blind readers can tell apart, and a marker
shape goes with each. Nothing is global and nothing is dated: the same figure is the same file, byte
for byte.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.typing import ColorType

from analysis.runs import Table

PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31"),
    # chosen one after the other: of lightness 25 to 70, the farthest in CIELAB from all before it
    *("#0000FF", "#FF00E1", "#00C300", "#4B1E96", "#FF005A", "#780F1E", "#87A51E", "#C387FF"),
    *("#1E4B00", "#1E5A5A", "#D20087", "#FF8778", "#5A2D5A", "#FF0000", "#964BFF", "#A5A5A5"),
)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
INK, SOFT, GRID_LINES = "#1c2024", "#60666d", "#e3e6e9"
OTHER_SCRIPTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "Malgun Gothic", "Nirmala UI", "Leelawadee UI"),
    *("PingFang SC", "Hiragino Sans GB", "Hiragino Sans", "Apple SD Gothic Neo"),
)
"""Fonts of Linux, Windows and macOS for names that DejaVu, which comes with matplotlib, cannot
write; it writes Latin, Greek, Cyrillic, Arabic and Hebrew."""


def families(others: Sequence[str] = OTHER_SCRIPTS) -> list[str]:
    """DejaVu, and those of the others that are installed, which write what it cannot."""
    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in others if name in installed)]


RC: dict[Any, Any] = {
    "svg.hashsalt": "detnet-ablations",
    "font.family": families(),
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9.5,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID_LINES,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a category's name is a "$"
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
MAX_LABEL = 20
"""Characters of a name that fit beside a point, a bar or an image."""

K = TypeVar("K")


@dataclass(frozen=True)
class Style:
    """What tells a variant apart in every figure."""

    color: str
    marker: str
    number: int | None = None
    """Stands for the name inside figures where names are too long; the key explains it."""

    def label(self, name: str) -> str:
        """What a figure calls the variant of this name."""
        return name if self.number is None else f"#{self.number}"


Styles = Mapping[str, Style]
"""By the variant's digest, or by its name where it has no digest."""


def styles_of(names: Mapping[K, str]) -> dict[K, Style]:
    """A style for each key, no two alike; with numbers where one of the names is long."""
    are_long = any(len(name) > MAX_LABEL for name in names.values())
    styles = {}
    for index, key in enumerate(names):
        shift = index // len(PALETTE)  # when colors come again, they come with other markers
        color, marker = PALETTE[index % len(PALETTE)], MARKERS[(index + shift) % len(MARKERS)]
        styles[key] = Style(color, marker, index + 1 if are_long else None)
    return styles


def styles(tables: Sequence[Table]) -> dict[str, Style]:
    """Digest -> style, the same in every figure of every table."""
    names: dict[str, str] = {}
    for table in tables:
        for variant in table.variants:
            names[variant.digest] = max(variant.name, names.get(variant.digest, ""), key=len)
    return styles_of(names)


def contrast(one: ColorType, other: ColorType) -> float:
    """The contrast of two colors, 1 to 21, as WCAG 2 defines it; 4.5 is what small text needs."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: ColorType) -> float:
    channels = np.array(to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def most_readable_on(ground: ColorType) -> str:
    """Black or white, whichever stands out more."""
    return max(("black", "white"), key=lambda ink: contrast(ink, ground))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, width and height in inches, that needs no window."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write `<name>.png` and `<name>.svg` without dates or versions; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with matplotlib.rc_context(RC):
        figure.savefig(png, dpi=160, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return png, svg
