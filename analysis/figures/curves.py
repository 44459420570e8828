"""Curves: training loss by step, AP by IoU threshold."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from ablations.evaluation.scoring import Scores
from analysis.figures.labels import add_key
from analysis.figures.style import RC, Styles, new_figure
from analysis.frames import loss_curve, smoothed
from analysis.runs import Table

MAX_CURVE_POINTS = 2000


def loss_curves(table: Table, styles: Styles) -> Figure | None:
    """Training loss of every run, raw behind smoothed; None where no run logged any."""
    curves = [
        (variant, curve)
        for variant in table.variants
        for run in variant.runs
        if (curve := loss_curve(run)) is not None
    ]
    if not curves:
        return None
    with matplotlib.rc_context(RC):
        figure = new_figure(7.2, 4)
        axes = figure.subplots()
        named = set()
        for variant, curve in curves:
            color = styles[variant.digest].color
            label = None if variant.name in named else variant.name
            # more points than pixels would only make the file larger
            for line, look in (
                (curve, {"linewidth": 0.7, "alpha": 0.25}),
                (smoothed(curve), {"linewidth": 1.8, "label": label}),
            ):
                thin = line.iloc[:: max(1, len(line) // MAX_CURVE_POINTS)]
                axes.plot(thin.index, thin, color=color, **look)
            named.add(variant.name)
        every = np.concatenate([curve.to_numpy() for _, curve in curves])
        # a few first steps may be far off; they would flatten all that follows
        axes.set_ylim(0, 1.1 * float(np.quantile(every, 0.98)))
        axes.set_xlim(left=0)
        axes.set_xlabel("training step (batches)")
        axes.set_ylabel("training loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if max(curve.index.max() for _, curve in curves) >= 10_000:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        variants = [variant for variant in table.variants if variant.name in named]
        add_key(figure, [(v.name, styles[v.digest]) for v in variants], line=True)
        return figure


def ap_by_threshold(scores: Mapping[str, Scores], styles: Styles) -> Figure:
    """AP by IoU threshold, a panel per object scale, at the largest maxDets; `scores` by name."""
    axes = next(iter(scores.values())).axes
    with matplotlib.rc_context(RC):
        figure = new_figure(2.6 * max(2, len(axes.areas)), 3.1)
        panels = figure.subplots(1, len(axes.areas), sharey=True, squeeze=False)[0]
        for name, each in scores.items():
            ap, _ = each.category_means()
            style = styles[name]
            for a, panel in enumerate(panels):
                panel.plot(
                    axes.iou_thresholds, 100 * ap[:, a, -1], label=name,
                    color=style.color, marker=style.marker, markersize=4,
                )  # fmt: skip
        for panel, area in zip(panels, axes.areas, strict=True):
            panel.set_title(area)
            panel.set_ylim(bottom=0)
        panels[0].set_ylabel("AP (percent points)")
        figure.supxlabel("IoU threshold", fontsize=9.5)
        add_key(figure, [(name, styles[name]) for name in scores], line=True)
        return figure


def precision_by_recall(frame: pd.DataFrame, styles: Styles) -> Figure:
    """Precision over recall, a panel per IoU threshold; see `SideBySide` for the frame."""
    thresholds = list(dict.fromkeys(frame["iou"]))
    variants = list(dict.fromkeys(frame["variant"]))
    with matplotlib.rc_context(RC):
        figure = new_figure(3.4 * max(2, len(thresholds)), 3.4)
        panels = figure.subplots(1, len(thresholds), sharey=True, squeeze=False)[0]
        for panel, threshold in zip(panels, thresholds, strict=True):
            of_threshold = frame[frame["iou"] == threshold]
            for name, curve in of_threshold.groupby("variant", sort=False):
                style = styles[str(name)]
                panel.plot(
                    curve["recall"], curve["precision"], color=style.color, marker=style.marker,
                    markersize=4, markevery=20,
                )  # fmt: skip
            panel.set_title(f"IoU {threshold:g}")
            panel.set_xlabel("recall")
            panel.set_xlim(0, 1)
            panel.set_ylim(0, 1.02)
        panels[0].set_ylabel("precision, mean over categories")
        add_key(figure, [(name, styles[name]) for name in variants], line=True)
        return figure
