"""A confusion matrix as a map."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.confusion import BACKGROUND, MISSED
from analysis.figures.style import MAX_LABEL, RC, most_readable_on, new_figure

_MAX_NUMBERED = 15
"""Categories up to which every cell holds its number."""


def confusion_map(matrix: NDArray[np.int64], categories: Sequence[str], title: str) -> Figure:
    """Objects by true (rows) and detected (columns) category; colors are shares of the row."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}…" for name in categories]
    numbered = len(categories) <= _MAX_NUMBERED
    with matplotlib.rc_context(RC | {"axes.grid": False}):
        side = 2.2 + (0.5 if numbered else 0.19) * len(matrix)
        figure = new_figure(max(side, 5), side)
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        if numbered:
            for (row, column), count in np.ndenumerate(matrix):
                ink = most_readable_on(image.to_rgba(shares[[row], [column]])[0])
                axes.text(
                    column, row, f"{count:,}", ha="center", va="center", fontsize=8, color=ink
                )
        size = 8.5 if numbered else 6.5
        axes.set_yticks(range(len(matrix)), [*names, BACKGROUND], fontsize=size)
        axes.set_xticks(range(len(matrix)), [*names, MISSED], rotation=90, fontsize=size)
        axes.set_title(title, loc="left")
        axes.set_ylabel("true")
        axes.set_xlabel("detected; color: share of the row")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return figure
