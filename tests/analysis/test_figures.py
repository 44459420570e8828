import hashlib
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from fabricated_runs import make_truth, write_run
from fake_coco import make_task
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image
from pycocotools import mask as coco_mask

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.masks import rasterize
from ablations.evaluation.metrics import SCALES
from ablations.record import read_runs
from ablations.storage import read_json_gz
from analysis import frames
from analysis.bootstrap import Difference
from analysis.costs import COSTS
from analysis.detection_errors import ERROR_TYPES, find_errors
from analysis.figures import style
from analysis.figures.categories import category_changes
from analysis.figures.curves import loss_curves
from analysis.figures.errors import error_gains
from analysis.figures.maps import ap_by_iou_and_scale
from analysis.figures.scale import ap_by_scale
from analysis.figures.sheet import sheet
from analysis.figures.style import styles, styles_of
from analysis.figures.tradeoff import ap_against_cost, pareto_front
from analysis.runs import collect

TRUTH = make_truth(6)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_run(folder, "detnet59", TRUTH, seed=seed, skill=0.8, masks=True)
        write_run(folder, "noproj", TRUTH, seed=seed, skill=0.6, masks=True, macs=4.6e9)
    return folder


@pytest.fixture(scope="module")
def table(runs):
    (table,) = collect(runs)
    return table


@pytest.fixture(scope="module")
def summary(table):
    return frames.summary(table)


@pytest.fixture(scope="module")
def changes(table):
    whole = Difference(
        value=-0.1,
        low=-0.15,
        high=-0.02,
        standard_error=0.03,
        p_not_better=1.0,
        p=0.0,
        p_corrected=0.01,
        num_images=30,
    )
    return frames.differences_to_baseline(table, {"noproj": dict.fromkeys(table.metrics, whole)})


def against_macs(table, summary, intervals=None):
    known = pd.DataFrame() if intervals is None else intervals
    return ap_against_cost(table, known, summary, styles([table]), COSTS["macs"])


def every_figure(table, summary, changes):
    looks = styles([table])
    return {
        "scale": ap_by_scale(table, summary, changes, looks),
        "macs": against_macs(table, summary),
        "loss": loss_curves(table, looks),
        "iou": ap_by_iou_and_scale(table, frames.cells(table), looks),
        "sheet": sheet(table, looks),
    }


def test_every_figure_is_written_twice_the_same_and_without_a_date(
    table, summary, changes, tmp_path
):
    digests = []
    for attempt in ("a", "b"):
        written = {}
        for name, figure in every_figure(table, summary, changes).items():
            for path in style.save(figure, tmp_path / attempt, name):
                written[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        digests.append(written)
    assert digests[0] == digests[1]
    assert len(digests[0]) == 10
    for path in (tmp_path / "a").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "dc:date" not in path.read_text()
    for path in (tmp_path / "a").glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 400
            assert np.asarray(image.convert("L")).std() > 5


def test_drawing_leaves_matplotlibs_settings_as_they_were(table, summary, changes):
    before = dict(matplotlib.rcParams)
    every_figure(table, summary, changes)
    assert dict(matplotlib.rcParams) == before


def test_axes_are_labeled_with_their_units(table, summary, changes):
    figures = every_figure(table, summary, changes)
    left, right = figures["scale"].axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("object scale", "AP (percent points)")
    assert right.get_ylabel() == "ΔAP to detnet59 (percent points)"
    (macs,) = figures["macs"].axes
    assert macs.get_xlabel() == "backbone multiply-adds (G)"
    (loss,) = figures["loss"].axes
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("training step (batches)", "training loss")


def test_a_variant_has_one_color_in_every_figure(table, summary, changes):
    looks = styles([table])
    figures = every_figure(table, summary, changes)
    color = looks[table.variants[1].digest].color.lower()
    by_name = dict(
        zip(*reversed(figures["scale"].axes[0].get_legend_handles_labels()), strict=True)
    )
    assert to_hex(by_name["noproj"].lines[0].get_color()) == color
    lines = dict(zip(*reversed(figures["loss"].axes[0].get_legend_handles_labels()), strict=True))
    assert to_hex(lines["noproj"].get_color()) == color
    labels = {axes.get_ylabel(): axes.yaxis.label for axes in figures["sheet"].axes}
    assert to_hex(labels["noproj"].get_color()) == color


def test_styles_do_not_repeat_within_eight_times_eight_variants():
    variants = [SimpleNamespace(digest=str(n), name=str(n)) for n in range(40)]
    looks = styles([SimpleNamespace(variants=variants)])
    assert len({(look.color, look.marker) for look in looks.values()}) == 40


def test_the_points_and_whiskers_are_the_frames_figures(table, summary, changes):
    figure = ap_by_scale(table, summary, changes, styles([table]))
    rows = summary.set_index("variant")
    left, right = figure.axes
    handles = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    names = ["AP", "AP_small", "AP_medium", "AP_large"]
    drawn = handles["noproj"].lines[0].get_ydata()
    assert drawn == pytest.approx([100 * rows.loc["noproj", name] for name in names])
    (points,) = right.containers
    assert points.lines[0].get_ydata() == pytest.approx([-10] * 4)
    segments = points.lines[2][0].get_segments()
    assert segments[0][:, 1] == pytest.approx([-15, -2])


def test_points_below_the_noise_are_hollow(table, summary, changes):
    changes = changes.copy()
    changes.loc[changes["metric"] == "AP_medium", "mark"] = "~"
    _, right = ap_by_scale(table, summary, changes, styles([table])).axes
    hollow = [line for line in right.lines if line.get_markerfacecolor() == "white"]
    (line,) = [line for line in hollow if len(line.get_xdata())]
    assert line.get_xdata() == pytest.approx([2], abs=0.5)
    assert line.get_ydata() == pytest.approx([-10])
    (filled,) = right.containers
    assert line.get_zorder() > filled.lines[0].get_zorder()


def test_cells_below_the_noise_have_no_color_and_a_gray_number(table):
    cells = frames.cells(table)
    differences = pd.DataFrame(
        [
            ("bbox", "noproj", "AP", iou, area, 100, (iou, area) != (0.55, "small"))
            for iou in (*sorted(set(cells.iou_threshold)), None)
            for area in SCALES
        ],
        columns=["iou_type", "variant", "quantity", "iou", "area", "max_dets", "real_of_all_cells"],
    )
    figure = ap_by_iou_and_scale(table, cells, styles([table]), differences=differences)
    (panel,) = [axes for axes in figure.axes if axes.get_title("left").startswith("noproj")]
    gray = [text for text in panel.texts if text.get_color() == style.SOFT]
    assert [text.get_position() for text in gray] == [(1, 1)]
    (ground,) = panel.patches
    assert (ground.get_xy(), to_hex(ground.get_facecolor())) == ((0.5, 0.5), "#ffffff")


def test_every_variant_is_a_labeled_point_at_its_cost_and_ap(table, summary, changes):
    figure = against_macs(table, summary)
    labels = {text.get_text(): text.xy for text in figure.axes[0].texts}
    rows = summary.set_index("variant")
    assert labels.keys() == {"detnet59", "noproj"}
    assert labels["noproj"] == pytest.approx((4.6, 100 * rows.loc["noproj", "AP"]))


def test_whiskers_are_the_intervals_and_the_dashed_steps_the_front(table, summary):
    ends = pd.DataFrame({"variant": ["detnet59", "noproj"], "low": [0.3, 0.1], "high": [0.6, 0.5]})
    figure = against_macs(table, summary, ends)
    whiskers = [line.get_segments()[0] for line in figure.axes[0].collections]
    assert np.array(whiskers)[:, :, 1] == pytest.approx(np.array([[30, 60], [10, 50]]))
    (front,) = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    # noproj costs less and is worse: both are on it
    assert list(front.get_xdata()) == pytest.approx([4.6, 4.8])


def test_a_cost_that_is_the_same_for_all_or_not_measured_has_no_figure(table, summary):
    looks = styles([table])
    for name in ("params", "latency"):
        figure = ap_against_cost(table, pd.DataFrame(), summary, looks, COSTS[name])
        assert figure is None


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_the_points_that_no_other_beats(points):
    costs, values = zip(*points, strict=True)
    beaten = [
        any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)
        for cost, value in points
    ]
    front = pareto_front(costs, values)
    assert sorted(front) == [n for n, is_beaten in enumerate(beaten) if not is_beaten]
    assert [costs[n] for n in front] == sorted(costs[n] for n in front)


def test_the_picture_of_categories_shows_the_five_best_and_the_five_worst_of_many():
    rows = [("b", f"c{n}", n / 100, n / 100 - 0.1, n / 100 + 0.1, "*~"[n % 2]) for n in range(20)]
    columns = ["variant", "category", "difference", "low", "high", "mark"]
    changes = pd.DataFrame(rows, columns=columns)
    figure = category_changes(changes, "a", styles_of({"a": "a", "b": "b"}))
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["c19", "c18", "c17", "c16", "c15", "c4", "c3", "c2", "c1", "c0"]
    points = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert [float(line.get_xdata()[0]) for line in points[:2]] == pytest.approx([19, 18])
    hollow = [to_hex(line.get_markerfacecolor()) == "#ffffff" for line in points]
    assert hollow[:2] == [True, False]


def test_labels_of_points_at_one_place_do_not_cover_each_other(table, summary, changes):
    same = summary.assign(AP=0.4, macs=[4.8e9, 4.8e9 + 1])
    figure = against_macs(table, same)
    figure.draw_without_rendering()
    first, second = (text.get_window_extent() for text in figure.axes[0].texts)
    assert not first.overlaps(second)


def test_the_smoothed_curve_of_a_straight_line_is_the_line_away_from_its_ends():
    line = pd.Series(np.arange(100.0), index=np.arange(100))
    smooth = frames.smoothed(line)  # over 5 steps
    assert smooth[2:98].tolist() == pytest.approx(line[2:98].tolist())


def test_a_step_logged_again_after_a_resume_is_drawn_once(runs, tmp_path):
    write_run(tmp_path, "detnet59", TRUTH)
    (run,) = read_runs(tmp_path)
    with (run.folder / "curve.jsonl").open("a") as file:
        file.write('{"step": 120, "loss": 9.0}\n')
    (table,) = collect(tmp_path)
    raw = loss_curves(table, styles([table])).axes[0].lines[0]
    assert len(raw.get_xdata()) == 120
    assert raw.get_ydata()[-1] == 9.0


def test_runs_that_logged_nothing_have_no_loss_curves(tmp_path):
    write_run(tmp_path, "detnet59", TRUTH)
    (run,) = read_runs(tmp_path)
    (run.folder / "curve.jsonl").unlink()
    (table,) = collect(tmp_path)
    assert loss_curves(table, styles([table])) is None


def test_the_map_shows_the_baseline_and_the_others_minus_it(table):
    cells = frames.cells(table)
    figure = ap_by_iou_and_scale(table, cells, styles([table]))
    baseline, other = (axes.images[0].get_array() for axes in figure.axes[:2])

    def mean(variant, area, threshold):
        chosen = cells[
            (cells.variant == variant) & (cells.area == area) & (cells.iou_type == "bbox")
            & (cells.metric == "AP") & (cells.max_dets == 100)
            & np.isclose(cells.iou_threshold, threshold)
        ]  # fmt: skip
        return 100 * chosen["mean"].item()

    assert baseline.shape == (4, 10)
    assert baseline[1, 2] == pytest.approx(mean("detnet59", "small", 0.6))
    assert other[3, 7] == pytest.approx(
        mean("noproj", "large", 0.85) - mean("detnet59", "large", 0.85)
    )
    assert figure.axes[1].images[0].get_clim() == pytest.approx(
        (-np.abs(other).max(), np.abs(other).max())
    )


def test_the_sheet_shows_true_boxes_and_as_many_best_predictions(table, runs):
    figure = sheet(table, styles([table]), num_images=2)
    assert len(figure.axes) == 4
    axes = figure.axes[0]  # detnet59, image 11
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    true = {tuple(a["bbox"]) for a in TRUTH["annotations"] if a["image_id"] == 11}
    drawn = {(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in boxes}
    assert true <= drawn
    run = next(r for r in read_runs(runs) if r.record.variant == "detnet59")
    found = [d for d in read_json_gz(run.detections_path) if d["image_id"] == 11]
    best = sorted(found, key=lambda d: -d["score"])[: len(true)]
    assert {tuple(d["bbox"]) for d in best} == drawn - true
    assert {text.get_text().split()[-1] for text in axes.texts} == {
        f"{d['score']:.2f}" for d in best
    }


def test_the_sheet_says_of_which_variant_the_detections_are_gone(tmp_path):
    for variant in ("detnet59", "noproj"):
        write_run(tmp_path, variant, TRUTH)
    (run,) = [run for run in read_runs(tmp_path) if run.record.variant == "noproj"]
    run.detections_path.unlink()
    (table,) = collect(tmp_path)
    figure = sheet(table, styles([table]), num_images=1)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "detnet59",
        "noproj\n(no stored detections)",
    ]


def test_a_dollar_in_a_category_name_is_shown_as_such(tmp_path):
    named = [{**category, "name": "$\\frac{$"} for category in TRUTH["categories"]]
    write_run(tmp_path, "detnet59", {**TRUTH, "categories": named})
    (table,) = collect(tmp_path)
    figure = sheet(table, styles([table]), num_images=1)
    style.save(figure, tmp_path, "sheet")
    assert figure.axes[0].texts[0].get_text().startswith("$\\frac{$ ")


def test_without_sample_images_there_is_no_sheet(tmp_path):
    write_run(tmp_path, "detnet59", TRUTH)
    for path in tmp_path.glob("val-*/images/*"):
        path.unlink()
    (table,) = collect(tmp_path)
    assert sheet(table, styles([table])) is None


def test_plain_runs_packed_runs_and_polygons_give_the_same_mask():
    square = [2.0, 2.0, 6.0, 2.0, 6.0, 5.0, 2.0, 5.0]
    mask = np.zeros((8, 10), np.uint8)
    mask[2:5, 2:6] = 1
    column_major = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(column_major)) + 1
    counts = np.diff([0, *changes, mask.size]).tolist()
    plain = {"size": [8, 10], "counts": counts}
    packed = coco_mask.frPyObjects(plain, 8, 10)
    text = {"size": [8, 10], "counts": packed["counts"].decode()}
    for segmentation in ([square], plain, packed, text):
        assert (rasterize([segmentation], 10, 8)[0] == mask).all()


def test_errors_have_a_panel_per_scale_and_a_bar_per_variant_and_type():
    found = {}
    for seed in (0, 2):
        content, results = make_task(seed)
        truth = Truth.from_coco(content)
        found[f"variant {seed}"] = find_errors(truth, Detections.from_coco(results, truth))
    frame = pd.concat([errors.frame(name) for name, errors in found.items()])
    figure = error_gains(frame, styles_of({name: name for name in found}))
    assert [panel.get_title() for panel in figure.axes] == ["all", "small", "medium", "large"]
    assert all(len(panel.patches) == 2 * len(ERROR_TYPES) for panel in figure.axes)


def test_what_dejavu_cannot_write_another_font_does(tmp_path, monkeypatch, recwarn):
    fallbacks = ("STIXGeneral", "a font that is not installed")  # STIX comes with matplotlib
    assert style.families(fallbacks) == ["DejaVu Sans", "STIXGeneral"]
    drawn = {}
    for families in (["DejaVu Sans"], style.families(fallbacks)):
        monkeypatch.setitem(style.RC, "font.family", families)
        with matplotlib.rc_context(style.RC):
            figure = style.new_figure(2, 1)
            figure.text(0.5, 0.5, "a \N{WATCH} b")
        drawn[len(families)] = style.save(figure, tmp_path, "name")[0].read_bytes()
        missing = [str(w.message) for w in recwarn.list if "missing from font" in str(w.message)]
        assert bool(missing) == (len(families) == 1)
        recwarn.clear()
    assert drawn[1] != drawn[2]


def test_latin_text_is_drawn_the_same_whatever_is_installed(tmp_path, monkeypatch):
    drawn = []
    for families in (["DejaVu Sans"], ["DejaVu Sans", "STIXGeneral"]):
        monkeypatch.setitem(style.RC, "font.family", families)
        with matplotlib.rc_context(style.RC):
            figure = style.new_figure(2, 1)
            figure.text(0.1, 0.5, "detnet59, Δ ±2 γ é Ж")
        drawn.append([path.read_bytes() for path in style.save(figure, tmp_path, "name")])
    assert drawn[0] == drawn[1]
