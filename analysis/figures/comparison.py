"""Variants beside each other: AP against cost, and differences to the baseline by metric."""

import math

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.labels import Point, add_key, label_points
from analysis.figures.style import INK, RC, Styles, new_figure
from analysis.frames import REAL, by_variant, by_variant_and_metric
from analysis.runs import Table


def ap_against_macs(table: Table, summary: pd.DataFrame, styles: Styles) -> Figure:
    """AP over the backbone's multiply-adds, every variant by its name; whiskers over seeds."""
    with matplotlib.rc_context(RC):
        figure = new_figure(6.4, 4)
        axes = figure.subplots()
        rows = by_variant(summary)
        drawn = []
        for variant in table.variants:
            row, style = rows[variant.name], styles[variant.digest]
            if math.isnan(row["macs"]) or math.isnan(row["AP"]):
                continue
            spread = 0 if math.isnan(row["AP_spread"]) else 100 * row["AP_spread"]
            x, y = row["macs"] / 1e9, 100 * row["AP"]
            axes.errorbar(
                x,
                y,
                yerr=spread,
                fmt=style.marker,
                color=style.color,
                markersize=8,
                elinewidth=1.6,
            )
            drawn.append(Point(x, y, style.label(variant.name)))
        axes.set_xlabel("backbone multiply-adds (G)")
        axes.set_ylabel("AP (percent points)")
        axes.margins(x=0.25, y=0.2)
        if any(styles[variant.digest].number is not None for variant in table.variants):
            add_key(figure, [(variant.name, styles[variant.digest]) for variant in table.variants])
        label_points(figure, axes, drawn)
        return figure


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
