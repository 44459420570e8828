"""AP by object scale, and its difference to the baseline."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ablations.evaluation.metrics import PREFIXES, scale_metrics
from analysis.figures.labels import add_key
from analysis.figures.style import INK, RC, Styles, new_figure
from analysis.frames import NOISE, by_variant, by_variant_and_metric
from analysis.runs import Table, Variant


def ap_by_scale(
    table: Table,
    summary: pd.DataFrame,
    differences: pd.DataFrame,
    styles: Styles,
    iou_type: str = "bbox",
) -> Figure:
    """AP of every variant by object scale, and its difference to the baseline with its interval.

    Whiskers on AP are the spread over seeds; on differences the bootstrap's 95 % interval. Hollow
    points are below the noise. The frames are those of `analysis.frames`.
    """
    prefix = PREFIXES[iou_type]
    metrics = [metric.name for metric in scale_metrics(iou_type).values()]
    with matplotlib.rc_context(RC):
        compared = table.others
        figure = new_figure(10 if compared else 6, 3.9)
        panels = figure.subplots(1, 2 if compared else 1, squeeze=False)[0]
        rows = by_variant(summary)
        _draw_points(
            panels[0], table.variants, styles,
            {v.name: _with_spread(rows[v.name], metrics) for v in table.variants},
        )  # fmt: skip
        panels[0].set_ylabel(f"{prefix}AP (percent points)")
        panels[0].set_ylim(bottom=0)
        if table.baseline is not None and compared:
            panels[1].axhline(0, color=INK, linewidth=1)
            changes = by_variant_and_metric(differences)
            _draw_points(
                panels[1], compared, styles,
                {v.name: _with_interval(changes, v.name, metrics) for v in compared},
            )  # fmt: skip
            baseline = styles[table.baseline.digest].label(table.baseline.name)
            panels[1].set_ylabel(f"Δ{prefix}AP to {baseline} (percent points)")
        add_key(figure, [(variant.name, styles[variant.digest]) for variant in table.variants])
        return figure


@dataclass(frozen=True)
class _Points:
    """A variant's values by scale, in percent points, each array (scales,)."""

    values: NDArray[np.float64]
    below: NDArray[np.float64]
    """Length of the whisker below the point."""
    above: NDArray[np.float64]
    hollow: NDArray[np.bool_]


def _with_spread(row: pd.Series, metrics: Sequence[str]) -> _Points:
    values = 100 * np.array([row[name] for name in metrics], dtype=float)
    spread = 100 * np.array([row[f"{name}_spread"] for name in metrics], dtype=float)
    return _Points(values, spread, spread, np.zeros(len(metrics), bool))


def _with_interval(
    changes: Mapping[tuple[str, str], Mapping[Hashable, Any]], variant: str, metrics: Sequence[str]
) -> _Points:
    rows = [changes[variant, name] for name in metrics]
    values, low, high = (
        100 * np.array([row[end] for row in rows], dtype=float)
        for end in ("difference", "low", "high")
    )
    hollow = np.array([row["mark"] == NOISE for row in rows])
    # a percentile interval need not hold the value itself
    return _Points(values, np.maximum(values - low, 0), np.maximum(high - values, 0), hollow)


def _draw_points(
    axes: Axes, variants: Sequence[Variant], styles: Styles, points: Mapping[str, _Points]
) -> None:
    scales = list(scale_metrics("bbox"))
    spacing = min(0.16, 0.8 / len(variants))
    for index, variant in enumerate(variants):
        style, found = styles[variant.digest], points[variant.name]
        x = np.arange(len(scales)) + (index - (len(variants) - 1) / 2) * spacing
        axes.errorbar(
            x,
            found.values,
            yerr=np.nan_to_num([found.below, found.above]),
            fmt=style.marker,
            color=style.color,
            label=variant.name,
            markersize=6.5,
            elinewidth=1.6,
            capsize=0,
        )
        if found.hollow.any():
            axes.plot(
                x[found.hollow],
                found.values[found.hollow],
                style.marker,
                color=style.color,
                markerfacecolor="white",
                markersize=6.5,
                zorder=3,  # errorbar draws its markers above other lines
            )
    axes.set_xticks(range(len(scales)), scales)
    axes.set_xlim(-0.6, len(scales) - 0.4)
    axes.set_xlabel("object scale")
    axes.grid(visible=False, axis="x")
