"""AP by IoU threshold x object scale, a map per variant."""

import math

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ablations.evaluation.metrics import SCALES
from analysis.figures.labels import add_key
from analysis.figures.style import RC, SOFT, Styles, most_readable_on, new_figure
from analysis.runs import Table


def ap_by_iou_and_scale(
    table: Table,
    cell_frame: pd.DataFrame,
    styles: Styles,
    iou_type: str = "bbox",
    differences: pd.DataFrame | None = None,
) -> Figure | None:
    """AP by IoU threshold x scale: the baseline's own, and every other variant's minus it.

    `differences` are the report's, of every cell; those that are not real among all cells of their
    variant have no color. None where the records hold no cells of that iou_type.
    """
    maps = _threshold_maps(cell_frame, iou_type)
    if not maps:
        return None
    baseline = table.baseline.name if table.baseline else None
    reference = maps.get(baseline) if baseline else None
    changes = (
        {} if reference is None else {n: m - reference for n, m in maps.items() if n != baseline}
    )
    limit = max((float(np.nan_to_num(m.abs()).max()) for m in changes.values()), default=0) or 1
    with matplotlib.rc_context(RC | {"axes.grid": False}):
        figure = new_figure(11, 0.6 + 1.95 * math.ceil(len(maps) / 2))
        panels = figure.subplots(math.ceil(len(maps) / 2), 2, squeeze=False)
        for panel in panels.flat[len(maps) :]:
            panel.remove()
        # the baseline first: the others are read against it
        order = sorted(maps, key=lambda name: name != baseline)
        by_name = {variant.name: styles[variant.digest] for variant in table.variants}
        labels = {name: style.label(name) for name, style in by_name.items()}
        for axes, name in zip(panels.flat, order, strict=False):
            if baseline is not None and name in changes:
                noise = _below_noise(differences, iou_type, name, changes[name])
                _heat_map(axes, changes[name], "RdBu", -limit, limit, "+.1f", noise)
                axes.set_title(f"{labels[name]}: ΔAP to {labels[baseline]}", loc="left")
            else:
                _heat_map(axes, maps[name], "cividis", 0, 100, ".1f")
                axes.set_title(f"{labels[name]}: AP", loc="left")
        figure.supxlabel("IoU threshold; AP and ΔAP in percent points", fontsize=9.5)
        if labels[order[0]] != order[0]:
            add_key(figure, [(name, by_name[name]) for name in order])
        return figure


def _threshold_maps(cell_frame: pd.DataFrame, iou_type: str) -> dict[str, pd.DataFrame]:
    """Variant -> AP in points, area x IoU threshold, at the largest maxDets."""
    chosen = cell_frame[(cell_frame.iou_type == iou_type) & (cell_frame.metric == "AP")]
    chosen = chosen[chosen.max_dets == chosen.max_dets.max()]
    areas = [area for area in SCALES if area in set(chosen.area)]
    return {
        str(name): 100
        * group.pivot(index="area", columns="iou_threshold", values="mean").reindex(areas)
        for name, group in chosen.groupby("variant", sort=False)
    }


def _below_noise(
    differences: pd.DataFrame | None, iou_type: str, variant: str, like: pd.DataFrame
) -> NDArray[np.bool_] | None:
    """Which cells of an area x IoU threshold frame differ by no more than noise; None: unknown."""
    if differences is None or differences.empty:
        return None
    chosen = differences[
        (differences.iou_type == iou_type)
        & (differences.variant == variant)
        & (differences.quantity == "AP")
        & (differences.max_dets == differences.max_dets.max())
        & differences.iou.notna()
    ]
    found = chosen.assign(iou=chosen.iou.astype(float).round(6))
    noise = ~found.pivot(index="area", columns="iou", values="real_of_all_cells").astype(bool)
    thresholds = np.round(like.columns.astype(float), 6)
    return noise.reindex(index=like.index, columns=thresholds, fill_value=False).to_numpy(bool)


def _heat_map(
    axes: Axes,
    values: pd.DataFrame,
    colors: str,
    low: float,
    high: float,
    number: str,
    noise: NDArray[np.bool_] | None = None,
) -> None:
    """Cells in colors with their numbers; those of `noise` without color, their number gray."""
    image = axes.imshow(values.to_numpy(), cmap=colors, vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values.to_numpy()):
        ink = most_readable_on(image.to_rgba(np.array([value]))[0])
        if math.isnan(value) or (noise is not None and noise[row, column]):
            ground = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="white", linewidth=0)
            axes.add_patch(ground)
            ink = SOFT
        # + 0: no negative zero
        text = "-" if math.isnan(value) else f"{round(value, 1) + 0:{number}}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(values.shape[1]), [f"{threshold:.2f}" for threshold in values.columns])
    axes.set_yticks(range(values.shape[0]), list(values.index))
    axes.tick_params(length=0, labelsize=8.5)
    axes.spines[:].set_visible(False)
