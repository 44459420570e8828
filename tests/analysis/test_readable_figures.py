"""No text leaves its figure or overlaps another, whatever the names and however many variants."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from fabricated_runs import make_detections, make_truth, write_run
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from ablations.evaluation.coco import Truth
from analysis import frames
from analysis.bootstrap import Difference
from analysis.comparison import compare_entries
from analysis.costs import COSTS
from analysis.detection_errors import ERROR_TYPES
from analysis.entries import Options, names_of, read
from analysis.figures.categories import category_changes
from analysis.figures.comparison import differences
from analysis.figures.confusion import confusion_map
from analysis.figures.curves import ap_by_threshold, loss_curves, precision_by_recall
from analysis.figures.errors import error_gains
from analysis.figures.maps import ap_by_iou_and_scale
from analysis.figures.scale import ap_by_scale
from analysis.figures.sheet import sheet
from analysis.figures.style import PALETTE, contrast, most_readable_on, styles, styles_of
from analysis.figures.tradeoff import ap_against_cost
from analysis.runs import collect

TRUTH = make_truth(3)
LONG = "detnet59,backbone.stages=c7=depth=3+width=256,stages.c6.dilation={},norm=group{:02d}"
NAMES = {
    "short": ["detnet59", "noproj", "detnet_resnet50"],
    "many": [f"dilation_of_c6_{n}" for n in range(20)],
    "many and long": [LONG.format(n % 4, n) for n in range(20)],
}
SHAPES = [name if name != "many" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


@pytest.fixture(scope="module", params=SHAPES)
def table(request, tmp_path_factory):
    """Twenty runs of three different qualities: many points of scatter plots nearly coincide."""
    folder = tmp_path_factory.mktemp("runs")
    for n, name in enumerate(NAMES[request.param]):
        write_run(folder, name, TRUTH, skill=0.5 + 0.1 * (n % 3), macs=(4 + 0.02 * n) * 1e9)
    (table,) = collect(folder)
    return table


def drawn_texts(figure):
    """The texts that are seen, but those that an image's edge may cut."""
    figure.draw_without_rendering()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            every = {tick.label1 for tick in axis.get_major_ticks()}
            seen = {tick.label1 for tick in axis._update_ticks()}
            hidden |= every - seen
    return [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and not is_clipped(text)
        and text not in hidden
    ]  # fmt: skip


def is_clipped(text):
    return text.get_clip_on() and (text.get_clip_path() or text.get_clip_box()) is not None


def extent(text):
    # of an annotation the text alone, not the line to its point
    return Text.get_window_extent(text)


def assert_readable(figure):
    width, height = figure.bbox.size
    boxes = [(text.get_text(), extent(text)) for text in drawn_texts(figure)]
    assert boxes
    for text, box in boxes:
        inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
        assert inside, f"{text!r} leaves the figure: {box} of {width} x {height}"
    for (text, box), (other_text, other) in itertools.combinations(boxes, 2):
        across = min(box.x1, other.x1) - max(box.x0, other.x0)
        along = min(box.y1, other.y1) - max(box.y0, other.y0)
        assert across < 1 or along < 1, f"{text!r} overlaps {other_text!r}"


def changes(table):
    noise = Difference(
        value=-0.1, low=-0.15, high=-0.02, standard_error=0.03, p_not_better=1.0, p=0.0,
        p_corrected=0.5, num_images=30,
    )  # fmt: skip
    found = {variant.name: dict.fromkeys(table.metrics, noise) for variant in table.others}
    return frames.differences_to_baseline(table, found)


def gains(table):
    rows = [
        (variant.name, area, error, 0.05)
        for variant in table.variants
        for area in ("all", "small", "medium", "large")
        for error in ERROR_TYPES
    ]
    return pd.DataFrame(rows, columns=["variant", "area", "error", "gain"])


def by_name(table):
    looks = styles([table])
    return {variant.name: looks[variant.digest] for variant in table.variants}


def against_macs(table):
    summary = frames.summary(table)
    ends = summary[["variant"]].assign(low=summary["AP"] - 0.05, high=summary["AP"] + 0.05)
    return ap_against_cost(table, ends, summary, styles([table]), COSTS["macs"])


def of_categories(table):
    """Changes of thirty categories with long names and short ones."""
    names = [f"category {n}" if n % 2 else f"a rather long name of category {n}" for n in range(30)]
    rows = [
        (variant.name, name, 0.01 * n, 0.01 * n - 0.1, 0.01 * n + 0.1, "*~"[n % 2])
        for variant in table.others
        for n, name in enumerate(names, start=-15)
    ]
    return pd.DataFrame(rows, columns=["variant", "category", "difference", "low", "high", "mark"])


FIGURES = {
    "scale": lambda t: ap_by_scale(t, frames.summary(t), changes(t), styles([t])),
    "macs": against_macs,
    "categories": lambda t: category_changes(of_categories(t), t.baseline.name, by_name(t)),
    "loss": lambda t: loss_curves(t, styles([t])),
    "maps": lambda t: ap_by_iou_and_scale(t, frames.cells(t), styles([t])),
    "sheet": lambda t: sheet(t, styles([t])),
    "errors": lambda t: error_gains(gains(t), by_name(t)),
    "differences": lambda t: differences(changes(t), t.baseline.name, by_name(t)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_a_report_is_readable_and_names_every_variant_in_full(table, name):
    figure = FIGURES[name](table)
    assert_readable(figure)
    said = "\n".join(text.get_text().replace("\n", "") for text in drawn_texts(figure))
    told = table.others if name in ("differences", "categories") else table.variants
    assert all(variant.name in said for variant in told)


def test_a_label_without_a_line_to_its_point_stands_beside_it_and_no_other(table):
    figure = against_macs(table)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    labels = [text for text in axes.texts if text.arrow_patch is None]
    points = {text.get_text(): axes.transData.transform(text.xy) for text in axes.texts}
    for text in labels:
        box = extent(text)
        near = {
            name: np.hypot(x - np.clip(x, box.x0, box.x1), y - np.clip(y, box.y0, box.y1))
            for name, (x, y) in points.items()
        }
        assert min(near, key=near.get) == text.get_text()
        assert near[text.get_text()] < 17 * figure.dpi / 72


def test_the_panels_keep_their_size_under_a_long_key(tmp_path):
    heights = []
    for kind in ("short", "many and long"):
        for n, name in enumerate(NAMES[kind]):
            write_run(tmp_path / kind, name, TRUTH, macs=(4 + 0.02 * n) * 1e9)
        (table,) = collect(tmp_path / kind)
        figure = against_macs(table)
        figure.draw_without_rendering()
        heights.append(figure.axes[0].get_window_extent().height)
    assert heights[1] == pytest.approx(heights[0], rel=0.1)


@pytest.fixture(scope="module", params=SHAPES)
def compared(request, tmp_path_factory):
    """Results files of the same names in as many folders."""
    folder = tmp_path_factory.mktemp("results")
    truth = make_truth(6)
    (folder / "truth.json").write_text(json.dumps(truth))
    paths = []
    for n, name in enumerate(NAMES[request.param][:8]):
        path = folder / name / "_results.json"
        path.parent.mkdir()
        path.write_text(json.dumps(make_detections(truth, 0.4 + 0.05 * n)))
        paths.append(path)
    parsed = Truth.from_coco(folder / "truth.json")
    entries = read(parsed, paths, names_of(paths), Options())
    return compare_entries(parsed, entries, 100)


def test_no_text_of_a_comparison_leaves_its_figure_or_overlaps_another(compared):
    names = [entry.name for entry in compared.entries]
    looks = styles_of({name: name for name in names})
    shown = [
        ap_by_threshold({entry.name: entry.scores for entry in compared.entries}, looks),
        precision_by_recall(compared.frames["precision-recall"], looks),
        differences(compared.frames["metric-differences"], names[0], looks),
        error_gains(compared.frames["errors"], looks),
        confusion_map(compared.matrices[names[0]], compared.category_names, "a"),
    ]
    for figure in shown:
        assert_readable(figure)
    for figure in shown[:2]:
        said = "\n".join(text.get_text().replace("\n", "") for text in drawn_texts(figure))
        assert all(name in said for name in names)


@pytest.mark.parametrize("num_categories", [2, 15, 80])
def test_a_confusion_matrix_is_readable_with_few_and_many_categories(num_categories):
    names = [f"a category of a long name {n}" for n in range(num_categories)]
    matrix = np.full((num_categories + 1, num_categories + 1), 12_345)
    assert_readable(confusion_map(matrix, names, "detnet59"))


def test_a_name_that_begins_with_an_underscore_stands_in_the_key(tmp_path):
    for name in ("a_b", "c"):
        write_run(tmp_path, name, TRUTH)
    (table,) = collect(tmp_path)
    looks = styles_of({"_hidden": "_hidden", "c": "c"})
    figure = error_gains(gains(table).replace({"a_b": "_hidden"}), looks)
    assert "_hidden" in [label.get_text() for label in figure.axes[0].get_yticklabels()]
    curves = pd.DataFrame(
        [(name, 0.5, recall, 1.0) for name in looks for recall in (0.0, 1.0)],
        columns=["variant", "iou", "recall", "precision"],
    )
    (key,) = precision_by_recall(curves, looks).legends
    assert [text.get_text() for text in key.get_texts()] == ["_hidden", "c"]


def lab(color):
    """CIELAB, D65."""
    channels = np.array(to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    scaled = np.array(to_xyz) @ linear / (0.9505, 1, 1.089)
    x, y, z = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_the_colors_of_two_dozen_variants_are_far_apart():
    looks = styles_of({n: str(n) for n in range(24)})
    assert len({look.color for look in looks.values()}) == 24 == len(PALETTE)
    pairs = itertools.combinations(PALETTE, 2)
    # a difference of 2.3 is just noticed
    assert min(np.linalg.norm(lab(one) - lab(other)) for one, other in pairs) > 20


def test_numbers_are_readable_on_every_cell_color(table):
    """WCAG 2 asks for a contrast of 4.5 for small text."""
    figure = ap_by_iou_and_scale(table, frames.cells(table), styles([table]))
    for axes in figure.axes:
        (image,) = axes.images
        colors = image.to_rgba(image.get_array())
        for text in axes.texts:
            column, row = text.get_position()
            assert contrast(text.get_color(), colors[row, column, :3]) >= 4.5


@pytest.mark.parametrize("level", np.linspace(0, 1, 21).tolist())
def test_black_or_white_is_readable_on_any_ground(level):
    ground = (level, level, level)
    assert contrast(most_readable_on(ground), ground) >= 4.5


@pytest.mark.parametrize("num_boxes", [2, 8, 30])
def test_labels_of_crowded_boxes_do_not_cover_one_another_nor_leave_the_image(tmp_path, num_boxes):
    rng = np.random.default_rng(num_boxes)
    truth = make_truth(1)
    first = truth["annotations"][0]
    truth["annotations"] = [
        {
            **first,
            "id": n + 1,
            "bbox": [*rng.uniform(40, 80, 2).tolist(), 60.0, 60.0],
            "area": 3600.0,
        }
        for n in range(num_boxes)
    ]
    write_run(tmp_path, "detnet59", truth, skill=1.0)
    (table,) = collect(tmp_path)
    figure = sheet(table, styles([table]))
    assert_readable(figure)
    (axes,) = figure.axes
    assert 1 < len(axes.texts) <= 8
    image = axes.get_window_extent()
    for text in axes.texts:
        box = text.get_bbox_patch().get_window_extent()
        assert np.all(box.min >= image.min - 1)
        assert np.all(box.max <= image.max + 1)
    # the best scored comes first
    scores = sorted((each["score"] for each in table.runs[0].detections()), reverse=True)
    assert axes.texts[0].get_text().endswith(f"{scores[0]:.2f}")
