"""AP against what a variant costs, with the front of those that none beats in both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.costs import Cost
from analysis.figures.labels import Point, add_key, label_points
from analysis.figures.style import GRID_LINES, RC, SOFT, Styles, new_figure
from analysis.runs import Table

MAX_NAMED = 20
"""Variants up to which every point has its name; of more, those on the front."""


@dataclass(frozen=True)
class _Measured:
    """A variant's point, in the units of the axes."""

    name: str
    digest: str
    cost: float
    ap: float
    low: float
    """Ends of the interval; NaN where there is none."""
    high: float


def ap_against_cost(
    table: Table, intervals: pd.DataFrame, summary: pd.DataFrame, styles: Styles, cost: Cost
) -> Figure | None:
    """AP over a cost, every variant a point with its interval, and the Pareto front as steps.

    `intervals` is `AgainstBaseline.intervals` of boxes, `summary` that of `analysis.frames`. None
    where no two variants have both, or all cost the same.
    """
    measured = _measured(table, intervals, summary, cost)
    if len({each.cost for each in measured}) < 2:
        return None
    best = pareto_front([each.cost for each in measured], [each.ap for each in measured])
    front = [measured[index] for index in best]
    named = measured if len(measured) <= MAX_NAMED else front
    with matplotlib.rc_context(RC):
        figure = new_figure(6.4, 4)
        axes = figure.subplots()
        axes.step(
            [each.cost for each in front], [each.ap for each in front], where="post",
            color=SOFT, linewidth=1.2, linestyle="--", zorder=1,
        )  # fmt: skip
        for each in measured:
            style = styles[each.digest]
            color = style.color if each in named else GRID_LINES
            whiskers = np.nan_to_num([[each.ap - each.low], [each.high - each.ap]])
            axes.errorbar(
                each.cost, each.ap, yerr=np.maximum(whiskers, 0), fmt=style.marker, color=color,
                markersize=8, elinewidth=1.6, markeredgecolor=style.color,
                zorder=3 if each in named else 2,
            )  # fmt: skip
        axes.set_xlabel(cost.label)
        axes.set_ylabel("AP (percent points)")
        axes.margins(x=0.25, y=0.2)
        if any(styles[each.digest].number is not None for each in named):
            add_key(figure, [(each.name, styles[each.digest]) for each in named])
        points = [
            Point(each.cost, each.ap, styles[each.digest].label(each.name), each.low, each.high)
            for each in named
        ]
        label_points(figure, axes, points)
        return figure


def _measured(
    table: Table, intervals: pd.DataFrame, summary: pd.DataFrame, cost: Cost
) -> list[_Measured]:
    ends = {row["variant"]: (row["low"], row["high"]) for row in intervals.to_dict("records")}
    rows = {row["variant"]: row for row in summary.to_dict("records")}
    found = []
    for variant in table.variants:
        value, ap = rows[variant.name][cost.name], rows[variant.name]["AP"]
        if not (math.isnan(value) or math.isnan(ap)):
            low, high = ends.get(variant.name, (math.nan, math.nan))
            place = (value / cost.unit, 100 * ap, 100 * low, 100 * high)
            found.append(_Measured(variant.name, variant.digest, *place))
    return found


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats: as cheap and better, or as good and cheaper.

    By rising cost. Of points that are equal in both, all are on the front.
    """
    order = sorted(range(len(costs)), key=lambda index: (costs[index], -values[index]))
    front: list[int] = []
    for index in order:
        last = front[-1] if front else None
        is_twin = last is not None and (costs[index], values[index]) == (costs[last], values[last])
        if last is None or values[index] > values[last] or is_twin:
            front.append(index)
    return front
