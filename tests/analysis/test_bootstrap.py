import dataclasses

import numpy as np
import pytest
from fake_coco import break_ties, coco_cells, coco_eval, make_task, repeat_images
from scipy.stats import norm, t, ttest_ind

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.matching import match
from ablations.evaluation.metrics import Cell, metrics_of
from analysis.bootstrap import (
    NotComparableError,
    Sample,
    compare,
    correct,
    correct_samples,
    differences,
    draw_counts,
)
from analysis.seeds import SeedSpread, seed_spread


def table_of(truth, results, iou_type="bbox"):
    truth = Truth.from_coco(truth)
    return match(truth, Detections.from_coco(results, truth), iou_type)


@pytest.fixture(scope="module")
def task():
    """Truth and the results of two models."""
    truth, results_a = make_task(0, num_images=30)
    moved = np.random.default_rng(0).normal(0, 3, (len(results_a), 4))
    results_b = [
        {**result, "bbox": np.abs(np.add(result["bbox"], move)).tolist()}
        for result, move in zip(results_a, moved, strict=True)
    ]
    return truth, break_ties(results_a), break_ties(results_b)


@pytest.fixture(scope="module")
def tables(task):
    truth, results_a, results_b = task
    return table_of(truth, results_a), table_of(truth, results_b)


def category_mean(values):
    return np.ma.masked_invalid(values).mean(axis=1).filled(np.nan)


def test_resampled_differences_equal_pycocotools_on_repeated_images(task, tables):
    truth, results_a, results_b = task
    comparison = compare([tables[0]], [tables[1]], num_resamples=100, seed=5)
    counts = draw_counts(5, 30, 100)[:, 1:]
    for r in range(3):
        cells_a, cells_b = (
            coco_cells(coco_eval(*repeat_images(truth, results, counts[:, r].tolist())))
            for results in (results_a, results_b)
        )
        for quantity in (0, 1):
            expected = category_mean(cells_b[quantity]) - category_mean(cells_a[quantity])
            np.testing.assert_allclose(
                comparison.resampled[quantity, :-1, ..., r], expected, rtol=0, atol=1e-12
            )


def test_values_are_the_differences_of_coco_metrics(task, tables):
    truth, results_a, results_b = task
    comparison = compare([tables[0]], [tables[1]], num_resamples=100)
    expected = coco_eval(truth, results_b).stats - coco_eval(truth, results_a).stats
    names = [metric.name for metric in metrics_of("bbox")]
    for name, value in zip(names, expected, strict=True):
        assert comparison[name].value == pytest.approx(value, abs=1e-12)
    cell = comparison.cells[Cell("AP", 0.5, "all", 100)]
    assert cell.value == comparison["AP50"].value


def test_turning_the_comparison_round_turns_the_sign(tables):
    forth = compare([tables[0]], [tables[1]], 200)["AP"]
    back = compare([tables[1]], [tables[0]], 200)["AP"]
    assert back.value == -forth.value
    assert back.low == pytest.approx(-forth.high)
    assert back.standard_error == pytest.approx(forth.standard_error)
    assert back.p_corrected == forth.p_corrected


def test_equal_runs_do_not_differ(tables):
    for difference in compare([tables[0]], [tables[0]], 100).values():
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)
        assert difference.p == difference.p_corrected == 1
        assert not difference.real


def found_or_not(hits):
    """A truth of one object per image, and results that find the objects of `hits` only."""
    truth = {
        "images": [{"id": i + 1, "width": 99, "height": 99} for i in range(len(hits))],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81}
            for i in range(len(hits))
        ],
    }
    results = [
        {"image_id": i + 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}
        for i in np.flatnonzero(hits)
    ]
    return table_of(truth, results)


def test_standard_error_of_recall_is_that_of_a_paired_mean():
    # With one object per image recall is the mean of hits, whose standard error is known.
    rng = np.random.default_rng(0)
    hits_a = rng.random(400) < 0.5
    hits_b = np.where(rng.random(400) < 0.8, hits_a, rng.random(400) < 0.7)
    difference = compare([found_or_not(hits_a)], [found_or_not(hits_b)], 4000)["AR100"]
    deltas = hits_b.astype(float) - hits_a
    assert difference.value == pytest.approx(deltas.mean())
    assert difference.standard_error == pytest.approx(deltas.std() / 20, rel=0.05)
    assert difference.low == pytest.approx(deltas.mean() - 1.97 * deltas.std() / 20, abs=0.005)
    assert difference.high == pytest.approx(deltas.mean() + 1.97 * deltas.std() / 20, abs=0.005)


def test_a_large_difference_is_real_and_a_small_one_is_not():
    rng = np.random.default_rng(0)
    hits = rng.random(300) < 0.5
    more, other = hits | (rng.random(300) < 0.3), np.roll(hits, 1)
    assert compare([found_or_not(hits)], [found_or_not(more)])["AR100"].real
    assert not compare([found_or_not(hits)], [found_or_not(other)])["AR100"].real


def family(values, resampled, num_images=100):
    return [
        Sample(float(value), row, num_images) for value, row in zip(values, resampled, strict=True)
    ]


def test_correction_keeps_the_share_of_false_findings_in_a_family():
    rng = np.random.default_rng(0)
    num_false, num_families = 0, 300
    for _ in range(num_families):
        # of 20 cells without any difference, where seeds add a quarter to what images do
        values = rng.normal(0, np.sqrt(1.25), size=20)
        found = differences(family(values, values[:, None] + rng.normal(size=(20, 400))))
        num_false += any(each.real for each in found)
    assert 0.02 < num_false / num_families < 0.09


def test_a_family_of_one_is_corrected_for_what_seeds_add_alone():
    """One run each: its interval leaves seeds out, its mark takes them to add a quarter."""
    rng = np.random.default_rng(0)
    (difference,) = differences(family([2.1], 2.1 + rng.normal(size=(1, 4000)), 10_000))
    assert difference.p == pytest.approx(2 * norm.sf(2.1), abs=0.005)
    assert difference.low == pytest.approx(2.1 - norm.ppf(0.975), abs=0.05)
    assert difference.low > 0
    assert difference.p_corrected == pytest.approx(2 * norm.sf(2.1 / np.sqrt(1.25)), abs=0.005)
    assert not difference.real


def test_more_variants_in_one_table_need_more(tables):
    comparison = compare([tables[0]], [tables[1]], 300)
    alone = correct({"b": comparison})["b"]
    turned = compare([tables[1]], [tables[0]], 300, seed=1)
    together = correct({"b": comparison, "c": turned})["b"]
    assert alone == dict(comparison)
    assert all(together[name].p_corrected >= alone[name].p_corrected for name in alone)
    assert any(together[name].p_corrected > alone[name].p_corrected for name in alone)


def test_too_few_resamples_are_refused(tables):
    with pytest.raises(ValueError, match="fewer than 100 resamples do not give"):
        compare([tables[0]], [tables[1]], 99)


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3])
def test_a_difference_without_spread_is_not_real(value):
    # The standard deviation of equal numbers is about 1e-17, not 0.
    (difference,) = differences(family([value], np.full((1, 1000), value)))
    assert difference.p == difference.p_corrected == 1
    assert not difference.real


@pytest.mark.parametrize("others", [0, 40])
def test_a_difference_on_one_image_is_not_real(others):
    """There is no other image, or the others have no object of that scale."""
    truth = {
        "images": [{"id": i, "width": 999, "height": 999} for i in range(others + 1)],
        "categories": [{"id": 1, "name": "a"}],
    }
    truth["annotations"] = [
        {
            "id": i + 1,
            "image_id": max(0, i - 2),
            "category_id": 1,
            "bbox": [210 * min(i, 2), 0, *size],
            "area": size[0] * size[1],
        }
        for i, size in enumerate([(200, 200)] * 3 + [(9, 9)] * others)
    ]
    every = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.5}
        for a in truth["annotations"]
    ]
    comparison = compare([table_of(truth, every[1:])], [table_of(truth, every)])
    assert comparison["AR_large"].value == pytest.approx(1 / 3)
    assert comparison["AR_large"].num_images == 1
    assert comparison["AR_large"].p_corrected == 1
    assert not any(difference.real for difference in comparison.values())


@pytest.mark.parametrize(("num_images", "real"), [(19, False), (20, True)])
def test_few_images_with_objects_make_nothing_real(num_images, real):
    hits = np.zeros(num_images, bool)
    hits[::4] = True
    comparison = compare([found_or_not(hits)], [found_or_not(np.ones(num_images, bool))])
    assert comparison["AR100"].p_corrected < 0.05
    assert comparison["AR100"].num_images == num_images
    assert comparison["AR100"].real == real
    assert comparison.num_images_with_objects == {
        "all": num_images, "small": num_images, "medium": 0, "large": 0
    }  # fmt: skip


def test_resamples_without_the_cell_do_not_count():
    resampled = 1 + np.random.default_rng(0).normal(0, 0.9, size=(1, 1000))
    (whole,) = differences(family([1.0], resampled[:, :500]))
    resampled[:, 500:] = np.nan
    (half,) = differences(family([1.0], resampled))
    assert half.p == whole.p
    assert half.standard_error == whole.standard_error


def means_of(images, counts):
    """Scores that are plain means over images: (num_seeds, num_cells, 1 + num_resamples).

    `images` is (num_seeds, num_images, num_cells). Everything about means is known.
    """
    return np.einsum("sic,ir->scr", images, counts) / len(counts)


def samples_of_means(images_a, images_b, counts):
    a, b = means_of(images_a, counts), means_of(images_b, counts)
    difference = b.mean(axis=0) - a.mean(axis=0)
    sides = seed_spread(a), seed_spread(b)
    return {
        cell: Sample(row[0], row[1:], len(counts), tuple(side.at(cell) for side in sides))
        for cell, row in enumerate(difference)
    }


def compare_means(images_a, images_b, counts):
    return differences(list(samples_of_means(images_a, images_b, counts).values()))


def draw_images(rng, num_seeds, num_images=100, num_cells=6, seed_noise=0.0, image_noise=1.0):
    """What each image adds to a mean: luck of its own and the noise of the seed, 0 on average."""
    noise = seed_noise * rng.normal(size=(num_seeds, 1, 1))
    return noise + image_noise * rng.normal(size=(num_seeds, num_images, num_cells))


@pytest.mark.parametrize("num_seeds", [(2, 2), (3, 3), (2, 5)])
def test_where_seeds_alone_differ_interval_and_p_are_those_of_the_t_test(num_seeds):
    rng = np.random.default_rng(0)
    scores_a, scores_b = (rng.normal(size=count) for count in num_seeds)
    images_a, images_b = (
        np.tile(scores[:, None, None], (1, 30, 1)) for scores in (scores_a, scores_b)
    )
    (difference,) = compare_means(images_a, images_b, draw_counts(0, 30, 100))
    expected = ttest_ind(scores_b, scores_a)
    interval = expected.confidence_interval()
    assert difference.p == pytest.approx(expected.pvalue)
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))


def test_what_images_explain_of_the_spread_of_seeds_is_their_variance_over_images():
    images = draw_images(np.random.default_rng(0), 4, seed_noise=0.5)
    scores = means_of(images, draw_counts(0, 100, 4000))
    _, image_part, _ = seed_spread(scores)
    deviations = images - images.mean(axis=0)
    expected = deviations.var(axis=1).sum(axis=0) / 3 / 100
    np.testing.assert_allclose(image_part, expected, rtol=0.1)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_seeds_without_noise_of_their_own_sharpen_a_difference(num_seeds):
    rng = np.random.default_rng(0)
    counts = draw_counts(0, 100, 200)
    errors = [
        [
            each.standard_error
            for each in compare_means(draw_images(rng, count), draw_images(rng, count), counts)
        ]
        for count in [1] * 40 + [num_seeds] * 40
    ]
    ratio = np.median(errors[40:]) / np.median(errors[:40])
    # a little more than the root says, since a variance is never below 0
    assert ratio == pytest.approx(num_seeds**-0.5, rel=0.13)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("seed_noise", [0.0, 0.1, 0.5])
def test_intervals_hold_the_difference_and_few_families_have_a_false_mark(num_seeds, seed_noise):
    """The luck of 100 images in a mean is 0.1."""
    rng = np.random.default_rng(1)
    counts = draw_counts(0, 100, 150)
    families = [
        compare_means(
            draw_images(rng, num_seeds, seed_noise=seed_noise),
            draw_images(rng, num_seeds, seed_noise=seed_noise),
            counts,
        )
        for _ in range(300)
    ]
    covered = np.mean([each.low <= 0 <= each.high for family in families for each in family])
    assert 0.92 <= covered <= 0.985
    assert np.mean([any(each.real for each in family) for family in families]) <= 0.10


@pytest.mark.parametrize("num_seeds", [1, 2, 3])
def test_marks_are_seldom_false_where_seeds_add_a_quarter_of_what_images_do(num_seeds):
    rng = np.random.default_rng(3)
    counts = draw_counts(0, 100, 150)
    found = [
        compare_means(
            *(draw_images(rng, num_seeds, num_cells=1, seed_noise=0.05) for _ in "ab"), counts
        )[0].real
        for _ in range(800)
    ]
    assert np.mean(found) <= 0.06


def test_more_seeds_find_more_though_one_has_no_spread_to_allow_for():
    """Normal numbers: of the images' variance of one run each, a variant's seeds share a part."""
    rng = np.random.default_rng(0)
    shared, own = 0.26, 0.37
    deviations = rng.normal(size=400)
    power = []
    for num_seeds in (1, 2, 3, 5):
        degrees, deviation = num_seeds - 1, np.sqrt(shared + 2 * own / num_seeds)
        num_found, num_trials = 0, 1000
        for _ in range(num_trials):
            squares = own * rng.chisquare(degrees or 1, 2) / (degrees or 1)
            sides = tuple(SeedSpread(each, own, degrees) for each in squares)
            value = rng.normal(2.5, deviation)
            (found,) = differences([Sample(value, deviation * deviations, 10_000, sides)])
            num_found += found.real
        power.append(num_found / num_trials)
    assert power == sorted(power)


@pytest.mark.parametrize("seed_noise", [0.0, 0.1, 0.5])
def test_a_table_of_two_seeds_a_variant_holds_its_differences(seed_noise):
    rng = np.random.default_rng(2)
    counts = draw_counts(0, 100, 150)
    covered, false = [], []
    for _ in range(200):
        baseline, *others = (draw_images(rng, 2, seed_noise=seed_noise) for _ in range(4))
        samples = {str(k): samples_of_means(baseline, b, counts) for k, b in enumerate(others)}
        family = [
            each for by_cell in correct_samples(samples).values() for each in by_cell.values()
        ]
        covered += [each.low <= 0 <= each.high for each in family]
        false.append(any(each.real for each in family))
    assert 0.93 <= np.mean(covered) <= 0.98
    assert np.mean(false) <= 0.08


def test_variants_of_a_table_share_what_their_seeds_say():
    """As in an analysis of variance of four variants by two seeds, where images say nothing."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, 2))
    images = np.tile(scores[:, :, None, None], (1, 1, 30, 1))
    counts = draw_counts(0, 30, 100)
    samples = {k: samples_of_means(images[0], images[k], counts) for k in (1, 2, 3)}
    within = scores.var(axis=1, ddof=1).mean()
    error = np.sqrt(within * (1 / 2 + 1 / 2))
    for k, found in correct_samples(samples).items():
        value = scores[k].mean() - scores[0].mean()
        low, high = t.interval(0.95, 4, value, error)
        assert (found[0].low, found[0].high) == pytest.approx((low, high))
        assert found[0].p == pytest.approx(2 * t.sf(abs(value) / error, 4))


def test_two_seeds_a_side_mark_less_than_their_images_alone_would():
    rng = np.random.default_rng(0)
    hits = rng.random(300) < 0.5
    seeds_a = [found_or_not(hits & (rng.random(300) < p)) for p in (0.92, 1.0)]
    seeds_b = [found_or_not(hits | (rng.random(300) < p)) for p in (0.1, 0.26)]
    several = compare(seeds_a, seeds_b)["AR100"]
    assert several.low < 0 < several.value
    assert not several.real
    assert compare(seeds_a[:1], seeds_b[:1])["AR100"].real


def test_seeds_that_hardly_differ_leave_the_marks_to_the_images():
    rng = np.random.default_rng(0)
    hits = rng.random(300) < 0.5
    more = hits | (rng.random(300) < 0.3)
    several = compare([found_or_not(hits)] * 2, [found_or_not(more)] * 2)
    one = compare([found_or_not(hits)], [found_or_not(more)])
    assert several["AR100"].real
    assert several["AR100"].standard_error == pytest.approx(one["AR100"].standard_error)


def test_metrics_without_objects_are_absent():
    truth, results = make_task(1)  # has no large object
    table = table_of(truth, results)
    comparison = compare([table], [table], 100)
    assert "AP_large" not in comparison
    assert comparison.get("AP_large") is None
    assert "AP" in comparison


def test_counts_draw_every_image_once_on_average_and_the_same_for_a_seed():
    as_they_are, counts = np.split(draw_counts(3, 50, 2000), [1], axis=1)
    assert (as_they_are == 1).all()
    assert (counts.sum(axis=0) == 50).all()
    assert counts.mean(axis=1) == pytest.approx(np.ones(50), abs=0.12)
    draw_counts.cache_clear()
    np.testing.assert_array_equal(counts, draw_counts(3, 50, 2000)[:, 1:])


def test_seeds_widen_the_interval_where_they_disagree():
    rng = np.random.default_rng(0)
    seeds_a = [found_or_not(rng.random(300) < p) for p in (0.2, 0.5, 0.8)]
    seeds_b = [found_or_not(rng.random(300) < p) for p in (0.3, 0.6, 0.9)]
    several = compare(seeds_a, seeds_b)
    one = compare(seeds_a[1:2], seeds_b[1:2])
    assert several["AR100"].value == pytest.approx(0.1, abs=0.06)
    assert several["AR100"].standard_error > 3 * one["AR100"].standard_error
    assert several.num_seeds == (3, 3)
    assert "the choice of images and the noise of training." in several.covers
    assert "of 3 and 3 training seeds" in several.covers
    assert "not the noise of training" in one.covers
    assert "300 images" in one.covers


def test_seeds_on_one_side_only_are_averaged_and_that_is_said(tables):
    comparison = compare([tables[0], tables[0]], [tables[1]], 100)
    single = compare([tables[0]], [tables[1]], 100)
    assert comparison["AP"] == single["AP"]
    assert "(2 and 1 runs): they cover the choice of images, not" in comparison.covers


def without_image(truth, results):
    gone = truth["images"][0]["id"]
    return (
        {
            **truth,
            "images": truth["images"][1:],
            "annotations": [a for a in truth["annotations"] if a["image_id"] != gone],
        },
        [r for r in results if r["image_id"] != gone],
    )


def test_runs_over_other_images_are_refused_with_what_differs(task, tables):
    truth, results, _ = task
    other = table_of(*without_image(truth, results))
    gone = truth["images"][0]["id"]
    with pytest.raises(
        NotComparableError,
        match=rf"old and new cannot .* images differ \(30 and 29, 1 only in one, id {gone} first\)",
    ):
        compare([tables[0]], [other], names=("old", "new"))


def test_runs_over_other_categories_or_objects_are_refused(task, tables):
    truth, results, _ = task
    more = {**truth, "categories": [*truth["categories"], {"id": 99, "name": "new"}]}
    with pytest.raises(NotComparableError, match=r"their categories differ .* id 99 first"):
        compare([tables[0]], [table_of(more, results)])
    fewer = {**truth, "annotations": truth["annotations"][1:]}
    with pytest.raises(NotComparableError, match="their objects differ"):
        compare([tables[0]], [table_of(fewer, results)])
    with pytest.raises(NotComparableError, match=r"their iou_type differ .'bbox' and 'segm'"):
        compare([tables[0]], [dataclasses.replace(tables[0], iou_type="segm")])


def test_progress_reaches_the_end(tables):
    shares = []
    compare([tables[0]], [tables[1]], 100, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
