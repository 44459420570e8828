"""What fixing each type of error would gain, as stacked bars."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.detection_errors import ERROR_TYPES
from analysis.figures.labels import add_key
from analysis.figures.style import RC, Styles, new_figure

COLORS = ("#0072B2", "#56B4E9", "#CC79A7", "#E69F00", "#999999", "#D55E00")
"""One per type, of Okabe and Ito's palette."""


def error_gains(frame: pd.DataFrame, styles: Styles) -> Figure:
    """Stacked gains per variant, a panel per scale, from the frames of `Errors.frame` joined.

    `styles` go by the variant's name.
    """
    areas = list(dict.fromkeys(frame["area"]))
    variants = list(dict.fromkeys(frame["variant"]))
    labels = [styles[name].label(name) for name in variants]
    with matplotlib.rc_context(RC):
        figure = new_figure(2.6 * len(areas) + 1.8, 1.3 + 0.34 * len(variants))
        panels = figure.subplots(1, len(areas), sharey=True, sharex=True, squeeze=False)[0]
        for panel, area in zip(panels, areas, strict=True):
            left = np.zeros(len(variants))
            for name, color in zip(ERROR_TYPES, COLORS, strict=True):
                part = frame[(frame["area"] == area) & (frame["error"] == name)]
                gain = part.set_index("variant")["gain"].reindex(variants).fillna(0).clip(lower=0)
                panel.barh(labels, 100 * gain, left=left, color=color, label=name, height=0.62)
                left += 100 * gain.to_numpy()
            panel.set_title(area)
            panel.grid(axis="y", visible=False)
            panel.tick_params(length=0)
        panels[0].invert_yaxis()
        figure.supxlabel(
            "gain in AP50 if all errors of the type were fixed (percent points)", fontsize=9.5
        )
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
        if labels != variants:
            add_key(figure, [(name, styles[name]) for name in variants])
        return figure
