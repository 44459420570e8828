"""Do intervals and marks keep what they promise? They are asked about differences that are known.

    python benchmarks/calibration.py [--trials 300] [--images 20 50] [--processes 2]

Images, objects and the detections of four variants are drawn again and again, from one to five
training seeds a variant. In most trials the variants do not differ, in the others the last one
finds more. `analysis.bootstrap.compare` and `correct` (and `compare_errors` and `correct_errors`
for error types) judge each trial as they would judge anyone's runs: the last variant alone against
the first (2 variants), and three against the first, as a table does (4 variants). The report tells

- coverage: how often the 95 % interval holds the true difference of the last variant to the first,
  where the variants do not differ.
  With several seeds that is 0. One seed a side is asked about its own two runs, whose true
  difference is what their qualities make of it on all images (a fit over all trials).
- false marks: how many tables (of 12 metrics, or of 24 gains, a variant) call any difference real,
  though none is. One seed a side is left out where seeds differ: its runs do differ.
- power: how many tables call a difference of the last variant real where it finds more.

A run detects an object whose hardness is below the run's quality. The hardness is that of the
object, plus a part of the variant, which its seeds share, plus a part of the run. Qualities of
seeds vary by the seed noise.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation.coco import Detections, Truth
from ablations.evaluation.matching import match
from analysis.bootstrap import compare, correct
from analysis.detection_errors import compare_errors, correct_errors, find_errors

NUM_IMAGES = (20, 50, 200, 1000)
NUM_SEEDS = (1, 2, 3, 5)
SEED_NOISE = {"none": 0.0, "small": 0.035, "large": 0.17}
"""Standard deviation of a seed's quality; in percent points of AP, the table says."""
NUM_RESAMPLES = 255
"""With the images as they are, two blocks of the kernel."""
NUM_CATEGORIES = 3
NUM_VARIANTS = 4
SHIFT = 1.6
"""The last variant's quality is higher by this over the square root of the number of images."""
MOST_FALSE = 6
"""False marks that are asked for, in percent of the tables."""
METRICS = ("AP", "AP_small", "AR100")
GAINS = (("all", "Loc"), ("all", "Bkg"), ("all", "Miss"), ("small", "Miss"))
SIZE = np.array([640.0, 480.0])


class Scene(NamedTuple):
    """Images and their objects."""

    truth: Truth
    hardness: NDArray[np.float64]


def draw_scene(rng: np.random.Generator, num_images: int) -> Scene:
    """About seven objects an image, some images crowded, of COCO's range of sizes."""
    num_objects = np.maximum(rng.poisson(7 * rng.gamma(2, 0.5, num_images)), 1)
    image = np.repeat(np.arange(num_images), num_objects)
    boxes = _boxes(rng, len(image))
    truth = {
        "images": [{"id": i, "width": 640, "height": 480} for i in range(num_images)],
        "categories": [{"id": k, "name": f"category {k}"} for k in range(NUM_CATEGORIES)],
        "annotations": [
            {"id": n + 1, "image_id": i, "category_id": k, "bbox": b, "area": b[2] * b[3]}
            for n, (i, k, b) in enumerate(
                zip(
                    image.tolist(),
                    rng.integers(0, NUM_CATEGORIES, len(image)).tolist(),
                    boxes.tolist(),
                    strict=True,
                )
            )
        ],
    }
    return Scene(Truth.from_coco(truth), rng.normal(size=len(image)))


def detect(rng: np.random.Generator, scene: Scene, hardness: Any, quality: float) -> Detections:
    """Most objects, some twice or as another category, and five boxes an image about nothing."""
    truth = scene.truth
    hardness = hardness + rng.normal(0, 0.5, len(hardness)) - quality
    source = np.flatnonzero(hardness < 0.7)
    source = np.concatenate([source, source[rng.random(len(source)) < 0.15]])
    spread = np.exp(rng.normal(-2.3 + 0.3 * hardness[source], 0.5))[:, None]
    moved = rng.normal(size=(len(source), 4)) * spread
    boxes = truth.boxes[source]
    found = np.hstack(
        [boxes[:, :2] + moved[:, :2] * boxes[:, 2:], boxes[:, 2:] * np.exp(moved[:, 2:])]
    )
    other = rng.random(len(source)) < 0.06
    category = (truth.category[source] + other * rng.integers(1, NUM_CATEGORIES, len(source))) % (
        NUM_CATEGORIES
    )
    num_empty = rng.poisson(5 * len(truth.image_ids))
    score = 1 / (1 + np.exp(hardness[source] + rng.normal(size=len(source))))
    empty_score = 1 / (1 + np.exp(1.5 + rng.normal(size=num_empty)))
    return Detections(
        name="detections",
        image=np.concatenate(
            [truth.image[source], rng.integers(0, len(truth.image_ids), num_empty)]
        ).astype(np.int32),
        category=np.concatenate([category, rng.integers(0, NUM_CATEGORIES, num_empty)]).astype(
            np.int32
        ),
        scores=np.concatenate([score, empty_score]),
        boxes=np.concatenate([found, _boxes(rng, num_empty)]),
        segmentations=None,
        image_sizes=truth.image_sizes,
    )


def _boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    area = np.exp(rng.uniform(np.log(60), np.log(100_000), count))
    shape = np.exp(rng.normal(0, 0.3, count))
    sides = np.minimum(np.sqrt(np.stack([area * shape, area / shape], axis=1)), 0.95 * SIZE)
    return np.hstack([rng.random((count, 2)) * (SIZE - sides), sides])


class Outcome(NamedTuple):
    """What was said in a trial about a number of variants and of seeds."""

    num_variants: int
    num_seeds: int
    qualities: tuple[float, float]
    """Means of the first variant and of the last."""
    intervals: dict[Any, tuple[float, float, float]]
    """Value, low and high by metric, or by scale and error type, of the last variant."""
    any_metric: bool
    """Whether a metric is called real: of the last variant where it differs, else of any."""
    any_gain: bool


def run_trial(
    rng: np.random.Generator, num_images: int, noise: float, shift: float
) -> Iterator[Outcome]:
    """The variants, judged alone and together from each number of seeds."""
    scene = draw_scene(rng, num_images)
    qualities = rng.normal(0, noise, (NUM_VARIANTS, max(NUM_SEEDS)))
    qualities[-1] += shift
    runs: list[list[Detections]] = []
    for side in qualities:
        hardness = scene.hardness + rng.normal(0, 0.3, len(scene.hardness))
        runs.append([detect(rng, scene, hardness, quality) for quality in side])
    tables = [[match(scene.truth, run) for run in side] for side in runs]
    errors = [[find_errors(scene.truth, run) for run in side] for side in runs]
    draw = int(rng.integers(2**31))
    names = [str(k) for k in range(1, NUM_VARIANTS)]
    last = names[-1]
    for count in NUM_SEEDS:
        comparisons, gains = {}, {}
        for name, own_tables, own_errors in zip(names, tables[1:], errors[1:], strict=True):
            comparisons[name] = compare(tables[0][:count], own_tables[:count], NUM_RESAMPLES, draw)
            gains[name] = compare_errors(errors[0][:count], own_errors[:count], NUM_RESAMPLES, draw)
        for variants in ([last], names):
            metrics = correct({k: comparisons[k] for k in variants})
            frame = correct_errors({k: gains[k] for k in variants})
            own = frame[frame["variant"] == last].set_index(["area", "error"])
            found: dict[Any, Any] = {name: asdict(metrics[last][name]) for name in METRICS}
            found |= {key: own.loc[key] for key in GAINS}
            judged = variants if shift == 0 else [last]
            yield Outcome(
                num_variants=len(variants) + 1,
                num_seeds=count,
                qualities=(qualities[0, :count].mean(), qualities[-1, :count].mean()),
                intervals={
                    key: (row["value"], row["low"], row["high"]) for key, row in found.items()
                },
                any_metric=any(each.real for k in judged for each in metrics[k].values()),
                any_gain=bool(frame["real"][frame["variant"].isin(judged)].any()),
            )


class Setting(NamedTuple):
    """Trials of one kind."""

    num_images: int
    noise: str
    num_trials: int


class Row(NamedTuple):
    """What a setting says about a number of seeds, in percent; NaN: not asked."""

    setting: Setting
    num_variants: int
    num_seeds: int
    coverage: tuple[float, ...]
    """Of METRICS, then of the gains together."""
    false_marks: tuple[float, float]
    """Tables of metrics and of gains."""
    power: tuple[float, float]
    width: float
    """Median width of the interval of AP, in percent points."""
    seed_deviation: float
    """Standard deviation of AP over seeds, in percent points."""


def run_setting(setting: Setting) -> list[Row]:
    """All trials of a setting, and half as many with a difference.

    Rows by number of variants, then of seeds.
    """
    noise = SEED_NOISE[setting.noise]
    seed = [setting.num_images, *setting.noise.encode()]
    trials: dict[float, list[list[Outcome]]] = {}
    better = SHIFT / np.sqrt(setting.num_images)
    for shift, num_trials in ((0.0, setting.num_trials), (better, setting.num_trials // 2)):
        rng = np.random.default_rng([*seed, int(shift > 0)])
        trials[shift] = [
            list(run_trial(rng, setting.num_images, noise, shift)) for _ in range(num_trials)
        ]
    rows = [
        summarize(setting, equal, different)
        for equal, different in zip(
            zip(*trials[0.0], strict=True), zip(*trials[better], strict=True), strict=True
        )
    ]
    return sorted(rows, key=lambda row: (row.num_variants, row.num_seeds))


def summarize(setting: Setting, equal: Sequence[Outcome], better: Sequence[Outcome]) -> Row:
    """The row of one number of seeds."""
    qualities = np.array([outcome.qualities for outcome in equal])
    own_runs = equal[0].num_seeds == 1 and SEED_NOISE[setting.noise] > 0
    covered, slope = {}, 0.0
    for key in (*METRICS, *GAINS):
        value, low, high = np.array([outcome.intervals[key] for outcome in equal]).T
        truth = np.zeros(len(equal))
        if own_runs:
            # The score of a quality, up to a constant that the difference does not have.
            powers = np.stack([np.diff(qualities**p, axis=1)[:, 0] for p in (1, 2)], axis=1)
            fit = np.linalg.lstsq(powers, value, rcond=None)[0]
            truth = powers @ fit
            slope = fit[0] if key == "AP" else slope
        covered[key] = 100 * np.mean((low <= truth) & (truth <= high))
    widths = [high - low for _, low, high in (outcome.intervals["AP"] for outcome in equal)]

    def marked(outcomes: Sequence[Outcome]) -> tuple[float, float]:
        return (
            100 * float(np.mean([outcome.any_metric for outcome in outcomes])),
            100 * float(np.mean([outcome.any_gain for outcome in outcomes])),
        )

    return Row(
        setting,
        equal[0].num_variants,
        equal[0].num_seeds,
        (*(covered[name] for name in METRICS), float(np.mean([covered[key] for key in GAINS]))),
        (np.nan, np.nan) if own_runs else marked(equal),
        marked(better),
        100 * float(np.median(widths)),
        100 * float(slope) * SEED_NOISE[setting.noise],
    )


def report(rows: Sequence[Row]) -> str:
    """The table, how sure it is, and which figures miss what is asked."""
    lines = [
        "# Calibration of intervals and marks",
        "",
        f"Written by `python benchmarks/calibration.py`, whose docstring says what is measured; "
        f"{NUM_RESAMPLES} resamples. Asked for: coverage 93 to 97 %, false marks at most "
        f"{MOST_FALSE} %, power that rises with every seed.",
        "",
        "| images | seed noise | variants | seeds a variant | trials | coverage AP | AP_small "
        "| AR100 | gains | false marks: metrics | gains | power: metrics | gains | width of AP |",
        "|" + " --- |" * 14,
    ]
    for row in rows:
        cells = [
            f"{row.setting.num_images:,}",
            row.setting.noise,
            str(row.num_variants),
            str(row.num_seeds),
            f"{row.setting.num_trials:,}",
            *(f"{share:.1f}" for share in row.coverage),
            *("" if np.isnan(share) else f"{share:.1f}" for share in row.false_marks),
            *(f"{share:.0f}" for share in row.power),
            f"{row.width:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    fewest = min(row.setting.num_trials for row in rows)
    most = max(row.setting.num_trials for row in rows)
    noises = {}
    for row in rows:
        if row.num_seeds == 1 and row.seed_deviation > 0:
            noises[row.setting.noise] = row.seed_deviation
    lines += [
        "",
        "Shares in percent, widths in percent points. Standard errors of the simulation, with "
        f"{most:,} and {fewest:,} trials: coverage {_error(95, most):.1f} and "
        f"{_error(95, fewest):.1f}, false marks {_error(MOST_FALSE, most):.1f} and "
        f"{_error(MOST_FALSE, fewest):.1f}, power up to {_error(50, most // 2):.1f} and "
        f"{_error(50, fewest // 2):.1f}. Numbers of seeds and of variants are judged on the same "
        "trials. Standard deviation of AP over seeds: "
        + ", ".join(f"{noise} {size:.1f}" for noise, size in noises.items())
        + " percent points.",
        "",
        "## What is not met",
        "",
        "By more than two standard errors of the simulation:",
        "",
        *(f"- {miss}" for miss in misses(rows) or ["nothing"]),
        "",
    ]
    return "\n".join(lines)


def misses(rows: Sequence[Row]) -> list[str]:
    """Every figure that is surely outside of what is asked for."""
    found = []
    before: dict[tuple[Setting, int], Row] = {}
    for row in rows:
        num_trials = row.setting.num_trials
        where = (
            f"{row.setting.num_images:,} images, seed noise {row.setting.noise}, "
            f"{row.num_variants} variants, {row.num_seeds} seeds"
        )
        margin = 2 * _error(95, num_trials)
        for name, share in zip((*METRICS, "gains"), row.coverage, strict=True):
            if not 93 - margin <= share <= 97 + margin:
                found.append(f"{where}: coverage of {name} {share:.1f} %")
        for name, share in zip(("metrics", "gains"), row.false_marks, strict=True):
            if share > MOST_FALSE + 2 * _error(MOST_FALSE, num_trials):
                found.append(f"{where}: false marks in {share:.1f} % of the tables of {name}")
        fewer = before.get((row.setting, row.num_variants))
        # One seed a side is not asked about other seeds, so where they differ it marks more.
        if fewer and not np.isnan(fewer.false_marks[0]):
            for name, share, less in zip(("metrics", "gains"), row.power, fewer.power, strict=True):
                if share < less - 2 * _error(50, num_trials // 2):
                    found.append(
                        f"{where}: power for {name} falls from {less:.0f} to {share:.0f} %"
                    )
        before[row.setting, row.num_variants] = row
    return found


def _error(share: float, num_trials: int) -> float:
    """Standard error of a share in percent."""
    return float(np.sqrt(share * (100 - share) / num_trials))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--trials", type=int, default=300, help="a setting (half of it from 1,000 images on)"
    )
    parser.add_argument("--images", type=int, nargs="+", default=NUM_IMAGES)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    arguments = parser.parse_args(argv)
    settings = [
        Setting(n, noise, arguments.trials if n < 1000 else max(arguments.trials // 2, 2))
        for n in arguments.images
        for noise in SEED_NOISE
    ]
    rows: list[Row] = []
    start = time.monotonic()
    with ProcessPoolExecutor(arguments.processes) as pool:
        for setting, found in zip(settings, pool.map(run_setting, settings), strict=True):
            rows += found
            minutes = (time.monotonic() - start) / 60
            print(f"{setting} after {minutes:.1f} minutes", file=sys.stderr)
            arguments.out.write_text(report(rows))  # a run that is stopped leaves what it has
    print(report(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
