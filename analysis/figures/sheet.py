"""A sheet of validation images with what every variant found in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from PIL import Image

from ablations.evaluation.masks import rasterize
from ablations.record import Run
from analysis.figures.labels import Tag, add_key, tag_boxes
from analysis.figures.style import RC, Styles, new_figure
from analysis.runs import Table

MAX_SHEET_IMAGES = 4
MAX_PANELS = 40
"""Images of a sheet, those of all variants together."""
_MIN_ROW = 2.0
"""Inches, so that a row's label does not run into the next row's."""
MAX_LABELS = 8
"""Labels of an image: of more predictions, the best scored have one."""


def sheet(table: Table, styles: Styles, num_images: int | None = None) -> Figure | None:
    """Validation images with true (dashed) and predicted boxes, a row per variant.

    Every image shows as many predictions as it has true objects, the best scored first, so that
    variants whose scores are calibrated differently are shown alike; an image without objects shows
    one. Of several seeds the first is shown. `num_images` is at most MAX_SHEET_IMAGES, and fewer
    where there are many variants. None where no sample images lie beside the truth.
    """
    if num_images is None:
        num_images = min(MAX_SHEET_IMAGES, max(1, MAX_PANELS // len(table.variants)))
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
        height = max(min(2.75 * tallest, 4), _MIN_ROW) + 0.1
        figure = new_figure(2.75 * len(chosen) + 0.3, height * len(table.variants) + 0.5)
        panels = figure.subplots(len(table.variants), len(chosen), squeeze=False)
        tagged: dict[Axes, list[Tag]] = {}
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
                tagged[axes] = [
                    Tag(each["bbox"], _told(each, categories), color) for each in shown[:MAX_LABELS]
                ]
            style = styles[variant.digest]
            label = style.label(variant.name)
            if predicted is None:
                label += "\n(no stored detections)"
            row[0].set_ylabel(label, color=style.color)
        for axes, image in zip(panels[-1], chosen, strict=True):
            axes.set_xlabel(f"image {image['id']}", fontsize=8.5)
        figure.supxlabel("dashed white: true; solid: predicted", fontsize=8.5)
        if any(styles[variant.digest].number is not None for variant in table.variants):
            add_key(figure, [(variant.name, styles[variant.digest]) for variant in table.variants])
        figure.draw_without_rendering()
        for axes, tags in tagged.items():
            tag_boxes(figure, axes, tags)
        return figure


def _told(detection: Mapping[str, Any], categories: Mapping[Any, str]) -> str:
    return f"{categories.get(detection['category_id'], '?')} {detection['score']:.2f}"


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
        mask = rasterize([item["segmentation"]], image["width"], image["height"])[0]
        centers = np.arange(mask.shape[1]) + 0.5, np.arange(mask.shape[0]) + 0.5
        if mask.any():
            axes.contour(*centers, mask, levels=[0.5], colors=color, linewidths=1, linestyles=style)
