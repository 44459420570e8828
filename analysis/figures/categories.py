"""The categories that gained and lost most against the baseline."""

import math

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.labels import add_key
from analysis.figures.style import INK, MAX_LABEL, RC, Style, Styles, new_figure
from analysis.frames import REAL

MAX_SHOWN = 10
"""Categories of a panel, half of them those that gained most, half those that lost most."""
_NUM_COLUMNS = 3


def category_changes(frame: pd.DataFrame, baseline: str, styles: Styles) -> Figure | None:
    """AP of categories minus the baseline's with 95 % intervals, a panel per variant.

    Hollow points are below the noise. `frame` is `AgainstBaseline.categories` of one IoU type;
    `styles` go by name. None where it has no differences, or of a single category.
    """
    frame = frame.dropna(subset=["difference"])
    variants = list(dict.fromkeys(frame["variant"]))
    if not variants or frame["category"].nunique() < 2:
        return None
    num_rows = math.ceil(len(variants) / _NUM_COLUMNS)
    num_columns = min(_NUM_COLUMNS, max(2, len(variants)))
    shown = {name: _extremes(frame[frame["variant"] == name]) for name in variants}
    tallest = max(map(len, shown.values()))
    with matplotlib.rc_context(RC):
        figure = new_figure(3.6 * num_columns, (0.6 + 0.2 * tallest) * num_rows + 0.4)
        panels = figure.subplots(num_rows, num_columns, sharex=True, squeeze=False)
        for panel, name in zip(panels.flat, variants, strict=False):
            _draw(panel, shown[name], styles[name])
            panel.set_title(styles[name].label(name), loc="left")
        for panel in panels.flat[len(variants) :]:
            panel.remove()
        to = styles[baseline].label(baseline)
        figure.supxlabel(f"ΔAP to {to} (percent points); hollow: below the noise", fontsize=9.5)
        if styles[baseline].number is not None:
            add_key(figure, [(name, styles[name]) for name in (baseline, *variants)])
        return figure


def _extremes(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the largest gains and losses, the largest gain first."""
    ordered = rows.sort_values("difference", ascending=False, kind="stable")
    if len(ordered) <= MAX_SHOWN:
        return ordered
    half = MAX_SHOWN // 2
    return pd.concat([ordered.head(half), ordered.tail(MAX_SHOWN - half)])


def _draw(panel: Axes, rows: pd.DataFrame, style: Style) -> None:
    names = [
        name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}…" for name in rows["category"]
    ]
    for y, row in enumerate(rows.to_dict("records")):
        panel.plot([100 * row["low"], 100 * row["high"]], [y, y], color=style.color)
        panel.plot(
            100 * row["difference"], y, color=style.color, marker=style.marker, markersize=5.5,
            linestyle="none", markerfacecolor=style.color if row["mark"] == REAL else "white",
        )  # fmt: skip
    panel.axvline(0, color=INK, linewidth=1)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.tick_params(axis="x", labelbottom=True)
