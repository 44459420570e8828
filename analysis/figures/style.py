"""How every figure looks: colors, markers, fonts, and how it is written to files.

Colors are Okabe and Ito's, which color-blind readers can tell apart, and a marker shape goes with
each. Nothing is global and nothing is dated: the same figure is the same file, byte for byte.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
INK, SOFT, GRID_LINES = "#1c2024", "#60666d", "#e3e6e9"
RC: dict[Any, Any] = {
    "svg.hashsalt": "detnet-ablations",
    "font.family": "DejaVu Sans",
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


@dataclass(frozen=True)
class Style:
    """What tells a variant apart in every figure."""

    color: str
    marker: str


def style_of(index: int) -> Style:
    """The style of the n-th variant; past eight the colors come again, with other markers."""
    shift = index // len(PALETTE)
    return Style(PALETTE[index % len(PALETTE)], MARKERS[(index + shift) % len(MARKERS)])


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write `<name>.png` and `<name>.svg` without dates or versions; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with matplotlib.rc_context(RC):
        figure.savefig(png, dpi=160, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return png, svg
