"""Differences to the baseline by metric."""

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.labels import add_key
from analysis.figures.style import INK, RC, Styles, new_figure
from analysis.frames import REAL, by_variant_and_metric


def differences(frame: pd.DataFrame, baseline: str, styles: Styles) -> Figure:
    """Differences to the baseline with their 95 % intervals, a row per metric; hollow: noise.

    `frame` is that of `analysis.frames.metric_differences`; `styles` go by name.
    """
    with matplotlib.rc_context(RC):
        variants, metrics = list(frame["variant"].unique()), list(frame["metric"].unique())
        cells = by_variant_and_metric(frame)
        figure = new_figure(6.5, 0.8 + 0.16 * len(metrics) * (1 + len(variants)))
        panel = figure.subplots()
        step = 0.7 / len(variants)
        for index, variant in enumerate(variants):
            style = styles[variant]
            for row, metric in enumerate(metrics):
                if (variant, metric) not in cells:
                    continue
                each = cells[variant, metric]
                y = row + step * (index - (len(variants) - 1) / 2)
                panel.plot([100 * each["low"], 100 * each["high"]], [y, y], color=style.color)
                panel.plot(
                    100 * each["difference"], y, color=style.color, marker=style.marker,
                    markersize=5.5, linestyle="none",
                    markerfacecolor=style.color if each["mark"] == REAL else "white",
                )  # fmt: skip
        panel.axvline(0, color=INK, linewidth=1)
        panel.set_yticks(range(len(metrics)), metrics)
        panel.set_ylim(len(metrics) - 0.5, -0.5)
        to = styles[baseline].label(baseline)
        panel.set_xlabel(f"difference to {to} (percent points); hollow: below the noise")
        names = [baseline, *variants] if styles[baseline].number is not None else variants
        add_key(figure, [(name, styles[name]) for name in names])
        return figure
