"""The figures of a table: AP by object scale, AP against MACs, loss curves, AP by IoU x scale, and
a sheet of validation images.

Every function takes what `analysis.frames` made and returns a matplotlib Figure.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image
from pycocotools import mask as rle

from ablations.evaluation.metrics import SCALES, scale_metrics
from ablations.record import Run
from analysis.figures.style import INK, RC, SOFT, Style, style_of
from analysis.frames import Table, Variant, by_variant

MAX_SHEET_IMAGES = 4
MAX_LABELS = 8
MAX_CURVE_POINTS = 2000

Styles = Mapping[str, Style]


def styles(tables: Sequence[Table]) -> dict[str, Style]:
    """Digest -> color and marker, the same in every figure of every table."""
    digests = dict.fromkeys(variant.digest for table in tables for variant in table.variants)
    return {digest: style_of(index) for index, digest in enumerate(digests)}


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _legend(figure: Figure, axes: Axes, num_entries: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(num_entries, 4))


def ap_by_scale(table: Table, frame: pd.DataFrame, styles: Styles, prefix: str = "") -> Figure:
    """AP of every variant by object scale, and its difference to the baseline with its interval.

    Whiskers on AP are the spread over seeds; on differences the bootstrap's 95 % interval. Hollow
    points are below the noise.
    `prefix` "mask_" shows masks.
    """
    with matplotlib.rc_context(RC):
        compared = [v for v in table.variants if table.baseline and v is not table.baseline]
        figure = _figure(10 if compared else 6, 3.9)
        panels = figure.subplots(1, 2 if compared else 1, squeeze=False)[0]
        _points_by_scale(panels[0], table.variants, frame, styles, prefix, difference=False)
        panels[0].set_ylabel(f"{prefix}AP (percent points)")
        panels[0].set_ylim(bottom=0)
        if compared:
            panels[1].axhline(0, color=INK, linewidth=1)
            _points_by_scale(panels[1], compared, frame, styles, prefix, difference=True)
            baseline = table.baseline.name if table.baseline else ""
            panels[1].set_ylabel(f"Δ{prefix}AP to {baseline} (percent points)")
        _legend(figure, panels[0], len(table.variants))
        return figure


def _points_by_scale(
    axes: Axes,
    variants: Sequence[Variant],
    frame: pd.DataFrame,
    styles: Styles,
    prefix: str,
    difference: bool,
) -> None:
    rows = by_variant(frame)
    metrics = [prefix + metric.name for metric in scale_metrics("bbox").values()]
    spacing = min(0.16, 0.8 / len(variants))
    for index, variant in enumerate(variants):
        row, style = rows[variant.name], styles[variant.digest]
        if difference:
            values, below, above = _difference_whiskers(row, metrics)
        else:
            values = 100 * np.array([row[name] for name in metrics], dtype=float)
            below = above = 100 * np.array([row[f"{name}_spread"] for name in metrics], dtype=float)
        x = np.arange(len(metrics)) + (index - (len(variants) - 1) / 2) * spacing
        axes.errorbar(
            x,
            values,
            yerr=np.nan_to_num([below, above]),
            fmt=style.marker,
            color=style.color,
            label=variant.name,
            markersize=6.5,
            elinewidth=1.6,
            capsize=0,
        )
        if difference:
            real = [row.get(f"{name}_difference_real") for name in metrics]
            hollow = np.array([not (known is None or pd.isna(known) or known) for known in real])
            axes.plot(
                x[hollow],
                values[hollow],
                style.marker,
                color=style.color,
                markerfacecolor="white",
                markersize=6.5,
                zorder=3,  # errorbar draws its markers above other lines
            )
    axes.set_xticks(range(len(metrics)), list(SCALES))
    axes.set_xlim(-0.6, len(metrics) - 0.4)
    axes.set_xlabel("object scale")
    axes.grid(visible=False, axis="x")


def _difference_whiskers(
    row: pd.Series, metrics: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, length below and length above in points; NaN where there is no interval."""
    value, low, high = (
        100 * np.array([row.get(f"{name}_difference{part}", math.nan) for name in metrics], float)
        for part in ("", "_low", "_high")
    )
    return value, np.maximum(value - low, 0), np.maximum(high - value, 0)


def ap_against_macs(table: Table, frame: pd.DataFrame, styles: Styles) -> Figure:
    """AP over the backbone's multiply-adds, every variant by its name; whiskers over seeds."""
    with matplotlib.rc_context(RC):
        figure = _figure(6.4, 4)
        axes = figure.subplots()
        rows = by_variant(frame)
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
            drawn.append((x, y, variant.name))
        axes.set_xlabel("backbone multiply-adds (G)")
        axes.set_ylabel("AP (percent points)")
        axes.margins(x=0.25, y=0.2)
        _label_points(figure, axes, drawn)
        return figure


def _label_points(figure: Figure, axes: Axes, drawn: Sequence[tuple[float, float, str]]) -> None:
    """Write each name to the right of its point, moved up where it would cover another label."""
    figure.draw_without_rendering()
    line = 13.0 * figure.dpi / 72
    placed: list[tuple[float, float, float]] = []
    for x, y, name in sorted(drawn, key=lambda point: point[1]):
        px, py = axes.transData.transform((x, y))
        width = 6.0 * len(name) * figure.dpi / 72
        wanted = py
        for left, right, level in placed:
            if px < right and px + width > left and wanted < level + line:
                wanted = level + line
        placed.append((px, px + width, wanted))
        axes.annotate(
            name,
            (x, y),
            xytext=(9, (wanted - py) * 72 / figure.dpi),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=9,
        )


def loss_curves(table: Table, styles: Styles) -> Figure | None:
    """Training loss of every run, raw behind smoothed; None where no run logged any."""
    curves = [
        (variant, curve)
        for variant in table.variants
        for run in variant.runs
        if (curve := _loss_curve(run)) is not None
    ]
    if not curves:
        return None
    with matplotlib.rc_context(RC):
        figure = _figure(7.2, 4)
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
        _legend(figure, axes, len(named))
        return figure


def _loss_curve(run: Run) -> pd.Series | None:
    rows = pd.DataFrame(run.curve())
    if not {"step", "loss"} <= set(rows.columns):
        return None
    # a resumed run may have logged a step twice; the later one counts
    return rows.drop_duplicates("step", keep="last").set_index("step")["loss"].sort_index()


def smoothed(curve: pd.Series) -> pd.Series:
    """Mean over a centered window of a twentieth of the logged steps."""
    window = max(1, len(curve) // 20)
    return curve.rolling(window, center=True, min_periods=1).mean()


def ap_by_iou_and_scale(
    table: Table,
    cell_frame: pd.DataFrame,
    iou_type: str = "bbox",
    differences: pd.DataFrame | None = None,
) -> Figure | None:
    """AP by IoU threshold x scale: the baseline's own, and every other variant's minus it.

    `differences` are the report's, of every cell; those that are not real among all cells of their
    variant stand in gray. None where the records hold no cells of that iou_type.
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
        figure = _figure(11, 0.6 + 1.95 * math.ceil(len(maps) / 2))
        panels = figure.subplots(math.ceil(len(maps) / 2), 2, squeeze=False)
        for panel in panels.flat[len(maps) :]:
            panel.remove()
        # the baseline first: the others are read against it
        order = sorted(maps, key=lambda name: name != baseline)
        for axes, name in zip(panels.flat, order, strict=False):
            if name in changes:
                muted = _below_noise(differences, iou_type, name, changes[name])
                _heat_map(axes, changes[name], "RdBu", -limit, limit, "+.1f", muted)
                axes.set_title(f"{name}: ΔAP to {baseline}", loc="left")
            else:
                _heat_map(axes, maps[name], "cividis", 0, 100, ".1f")
                axes.set_title(f"{name}: AP", loc="left")
        figure.supxlabel("IoU threshold; AP and ΔAP in percent points", fontsize=9.5)
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
) -> np.ndarray | None:
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
    muted: np.ndarray | None = None,
) -> None:
    """Cells in colors with their numbers; `muted` ones in gray."""
    image = axes.imshow(values.to_numpy(), cmap=colors, vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values.to_numpy()):
        if math.isnan(value):
            axes.text(column, row, "-", ha="center", va="center", fontsize=8, color=SOFT)
            continue
        red, green, blue, _ = image.to_rgba(np.array([value]))[0]
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        plain, gray = ("white", "#c0c0c0") if dark else (INK, "#808080")
        axes.text(
            column,
            row,
            f"{round(value, 1) + 0:{number}}",  # + 0: no negative zero
            ha="center",
            va="center",
            fontsize=8,
            color=gray if muted is not None and muted[row, column] else plain,
        )
    axes.set_xticks(range(values.shape[1]), [f"{threshold:.2f}" for threshold in values.columns])
    axes.set_yticks(range(values.shape[0]), list(values.index))
    axes.tick_params(length=0, labelsize=8.5)
    axes.spines[:].set_visible(False)


def sheet(table: Table, styles: Styles, num_images: int = MAX_SHEET_IMAGES) -> Figure | None:
    """Validation images with true (dashed) and predicted boxes, a row per variant.

    Every image shows as many predictions as it has true objects, the best scored first, so that
    variants whose scores are calibrated differently are shown alike; an image without objects shows
    one. Of several seeds the first is shown. None where no sample images lie beside the truth.
    """
    run = table.variants[0].runs[0]
    if not run.truth_path.exists():
        return None
    truth = run.truth()
    paths = {path.stem: path for path in sorted((run.validation_folder / "images").glob("*.*"))}
    objects: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    available = [image for image in truth["images"] if str(image["id"]) in paths]
    # stable: images in the truth's order, those without objects last
    chosen = sorted(available, key=lambda image: not objects[image["id"]])[:num_images]
    if not chosen:
        return None
    categories = {category["id"]: str(category["name"]) for category in truth["categories"]}
    with matplotlib.rc_context(RC | {"axes.grid": False}):
        tallest = max(image["height"] / image["width"] for image in chosen)
        height = min(2.75 * tallest, 4) + 0.1
        figure = _figure(2.75 * len(chosen) + 0.3, height * len(table.variants) + 0.5)
        panels = figure.subplots(len(table.variants), len(chosen), squeeze=False)
        for row, variant in zip(panels, table.variants, strict=True):
            predicted = _by_image(variant.runs[0])
            for axes, image in zip(row, chosen, strict=True):
                _show_image(axes, paths[str(image["id"])], image)
                true = objects[image["id"]]
                num_true = sum(not annotation.get("iscrowd", 0) for annotation in true)
                best = sorted((predicted or {}).get(image["id"], []), key=lambda d: -d["score"])
                color = styles[variant.digest].color
                shown = best[: max(num_true, 1)]
                for detection in shown:
                    _outline(axes, detection, image, "solid", 1.6, color)
                for annotation in true:
                    _outline(axes, annotation, image, "dashed", 1.0, "white")
                # many labels would hide what they name
                for detection in shown if len(shown) <= MAX_LABELS else ():
                    category = categories.get(detection["category_id"], "?")
                    text = f"{category} {detection['score']:.2f}"
                    _label(axes, text, detection["bbox"], image, color)
            name = variant.name.replace(",", ",\n")
            if predicted is None:
                name += "\n(no stored detections)"
            row[0].set_ylabel(name, color=styles[variant.digest].color, fontweight="bold")
        for axes, image in zip(panels[-1], chosen, strict=True):
            axes.set_xlabel(f"image {image['id']}", fontsize=8.5)
        figure.supxlabel("dashed white: true; solid: predicted", fontsize=8.5)
        return figure


def _by_image(run: Run) -> dict[Any, list[dict[str, Any]]] | None:
    """The run's detections by image; None where they are not stored."""
    if not run.detections_path.exists():
        return None
    detections: dict[Any, list[dict[str, Any]]] = {}
    for detection in run.detections():
        detections.setdefault(detection["image_id"], []).append(detection)
    return detections


def _show_image(axes: Axes, path: Path, image: Mapping[str, Any]) -> None:
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB"))
    # the stored picture may be smaller than the image whose coordinates the boxes have
    axes.imshow(pixels, extent=(0, image["width"], image["height"], 0), interpolation="bilinear")
    axes.set_xlim(0, image["width"])
    axes.set_ylim(image["height"], 0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _outline(
    axes: Axes,
    item: Mapping[str, Any],
    image: Mapping[str, Any],
    style: str,
    width: float,
    color: str,
) -> None:
    """Draw a box, and the outline of its mask where it has one, on a dark edge to stand out."""
    edge = [Stroke(linewidth=width + 1.2, foreground="#00000099"), Normal()]
    x, y, box_width, box_height = item["bbox"]
    look: dict[str, Any] = {
        "fill": False,
        "edgecolor": color,
        "linestyle": style,
        "linewidth": width,
    }
    axes.add_patch(Rectangle((x, y), box_width, box_height, path_effects=edge, **look))
    if item.get("segmentation"):
        mask = _decoded(item["segmentation"], image["height"], image["width"])
        centers = np.arange(mask.shape[1]) + 0.5, np.arange(mask.shape[0]) + 0.5
        if mask.any():
            axes.contour(*centers, mask, levels=[0.5], colors=color, linewidths=1, linestyles=style)


def _label(
    axes: Axes, text: str, box: Sequence[float], image: Mapping[str, Any], color: str
) -> None:
    """Write above the box's left corner, but inside the image."""
    corner = max(box[0], 0.01 * image["width"]), max(box[1], 0.06 * image["height"])
    ground = {"facecolor": color, "edgecolor": "none", "pad": 1}
    axes.text(*corner, text, fontsize=6.5, color="white", va="bottom", clip_on=True, bbox=ground)


def _decoded(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A COCO segmentation (polygons, or RLE with its counts packed or as a list) as 0/1 pixels."""
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        encoded = segmentation
    else:
        encoded = rle.frPyObjects(segmentation, height, width)
        encoded = rle.merge(encoded) if isinstance(encoded, list) else encoded
    return rle.decode(encoded)
