"""What exact statistics cost: this project's evaluation beside pycocotools and its fast peers.

    python benchmarks/evaluation.py [--quick]

Makes a fake task of COCO val2017's size (5,000 images, 36,781 objects, two models of about 400,000
detections each, with crowds and many equal scores), measures every evaluator on it in a process of
its own, and prints one table and whether each target is met. Times are CPU seconds of the process;
compare the ratios, which hold from machine to machine better than seconds. Peers that are not
installed are left out (`pip install 'detnet-ablations[peers]'`).
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import Process
from pathlib import Path
from typing import Any

import numpy as np

NUM_CATEGORIES = 80
NUM_RESAMPLES = 1000
PEER_RESAMPLES = (10, 40)
"""Resamples that hotcoco is timed over; its time for 1,000 is the line through both."""

Measured = dict[str, float]


# the task


def make_task(folder: Path, num_images: int, seed: int = 0) -> None:
    """Write truth.json, a.json and b.json."""
    rng = np.random.default_rng(seed)
    num_objects = round(36_781 * num_images / 5000)
    sizes = rng.integers(400, 641, (num_images, 2))
    # A few categories are common and an image has few of them, as photographs do.
    frequency = 1 / np.arange(1, NUM_CATEGORIES + 1)
    scenes = rng.choice(NUM_CATEGORIES, (num_images, 5), p=frequency / frequency.sum())
    crowdedness = rng.gamma(1.3, size=num_images)
    image = np.sort(rng.choice(num_images, num_objects, p=crowdedness / crowdedness.sum()))
    category = scenes[image, rng.integers(0, 5, num_objects)]
    area = np.exp(rng.uniform(np.log(40), np.log(120_000), num_objects))
    boxes = _boxes(rng, area, sizes[image])
    crowd = rng.random(num_objects) < 0.011
    ids = np.sort(rng.choice(600_000, num_images, replace=False)) + 1
    truth = {
        "images": [
            {"id": i, "height": h, "width": w}
            for i, (h, w) in zip(ids.tolist(), sizes.tolist(), strict=True)
        ],
        "categories": [{"id": c + 1, "name": f"category {c + 1}"} for c in range(NUM_CATEGORIES)],
        "annotations": [
            {
                "id": number + 1,
                "image_id": i,
                "category_id": c,
                "bbox": box,
                "area": box[2] * box[3] * 0.7,
                "iscrowd": k,
            }
            for number, (i, c, box, k) in enumerate(
                zip(
                    ids[image].tolist(),
                    (category + 1).tolist(),
                    boxes.tolist(),
                    crowd.astype(int).tolist(),
                    strict=True,
                )
            )
        ],
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    hardness = rng.normal(size=num_objects)
    for name, skill in (("a", 0.6), ("b", 0.7)):
        hard = hardness + rng.normal(0, 0.5, num_objects)
        results = _detect(rng, image, category, boxes, hard - skill, scenes, sizes, ids)
        (folder / f"{name}.json").write_text(json.dumps(results))


def _boxes(rng: np.random.Generator, area: Any, sizes: Any) -> Any:
    """Boxes x, y, width, height of about that area inside images of those heights and widths."""
    shape = np.exp(rng.normal(0, 0.4, len(area)))
    width = np.minimum(np.sqrt(area * shape), 0.98 * sizes[:, 1])
    height = np.minimum(area / width, 0.98 * sizes[:, 0])
    x = rng.random(len(area)) * (sizes[:, 1] - width)
    y = rng.random(len(area)) * (sizes[:, 0] - height)
    return np.round(np.stack([x, y, np.maximum(width, 1), np.maximum(height, 1)], axis=1), 2)


def _detect(
    rng: np.random.Generator,
    image: Any,
    category: Any,
    boxes: Any,
    hard: Any,
    scenes: Any,
    sizes: Any,
    ids: Any,
) -> list[dict[str, Any]]:
    """Found objects with some doubles and wrong classes, and background up to 80 an image."""
    copies = np.where(hard < 1, 1 + rng.poisson(0.8, len(hard)), 0)
    source = np.repeat(np.arange(len(hard)), copies)
    spread = np.clip(np.exp(rng.normal(-2.8 + 0.3 * hard[source], 0.5)), 0.002, 0.6)
    found = boxes[source] + rng.normal(size=(len(source), 4)) * spread[:, None] * np.tile(
        boxes[source][:, 2:], 2
    )
    found[:, 2:] = np.maximum(found[:, 2:], 1)
    wrong = rng.random(len(source)) < 0.06
    found_category = np.where(wrong, rng.integers(0, NUM_CATEGORIES, len(source)), category[source])
    found_score = 1 / (1 + np.exp(-(1 - hard[source] - 8 * spread + rng.normal(size=len(source)))))

    num_images = len(sizes)
    missing = 80 - np.bincount(image[source], minlength=num_images)
    empty = np.repeat(np.arange(num_images), np.maximum(missing, 0))
    area = np.exp(rng.uniform(np.log(60), np.log(100_000), len(empty)))
    empty_category = np.where(
        rng.random(len(empty)) < 0.55,
        scenes[empty, rng.integers(0, 5, len(empty))],
        rng.integers(0, NUM_CATEGORIES, len(empty)),
    )
    empty_score = 1 / (1 + np.exp(3.2 - rng.normal(size=len(empty))))

    all_images = np.concatenate([image[source], empty])
    order = rng.permutation(len(all_images))
    columns = (
        ids[all_images],
        np.concatenate([found_category, empty_category]) + 1,
        np.round(np.concatenate([found, _boxes(rng, area, sizes[empty])]), 2),
        np.round(np.concatenate([found_score, empty_score]), 3),
    )
    keys = ("image_id", "category_id", "bbox", "score")
    lists = [column[order].tolist() for column in columns]
    return [dict(zip(keys, row, strict=True)) for row in zip(*lists, strict=True)]


# the evaluators, each run in a process of its own


class Clock:
    """CPU seconds of named steps."""

    def __init__(self) -> None:
        self.seconds: Measured = {}

    @contextlib.contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[step] = time.process_time() - start


def measure_pycocotools(folder: Path, clock: Clock) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with clock("load"):
        truth = COCO(str(folder / "truth.json"))
        detections = truth.loadRes(str(folder / "a.json"))
    evaluation = COCOeval(truth, detections, "bbox")
    with clock("evaluate"):
        evaluation.evaluate()
        evaluation.accumulate()
    cells = {name: evaluation.eval[name] for name in ("precision", "recall")}
    np.savez(folder / "pycocotools.npz", **cells)


def measure_faster_coco_eval(folder: Path, clock: Clock) -> None:
    from faster_coco_eval import COCO, COCOeval_faster

    with clock("load"):
        truth = COCO(str(folder / "truth.json"))
        detections = truth.loadRes(str(folder / "a.json"))
    evaluation = COCOeval_faster(truth, detections, "bbox")
    with clock("evaluate"):
        evaluation.evaluate()
        evaluation.accumulate()


def measure_ultrafast_pycocotools(folder: Path, clock: Clock) -> None:
    from ultrafast_pycocotools import COCO, COCOeval

    with clock("load"):
        truth = COCO(str(folder / "truth.json"))
        detections = truth.loadRes(str(folder / "a.json"))
    evaluation = COCOeval(truth, detections, "bbox")
    with clock("evaluate"):
        evaluation.evaluate()
        evaluation.accumulate()


def measure_hotcoco(folder: Path, clock: Clock) -> None:
    import hotcoco

    with clock("load"):
        truth = hotcoco.COCO(str(folder / "truth.json"))
        detections = truth.load_res(str(folder / "a.json"))
    evaluation = hotcoco.COCOeval(truth, detections, "bbox")
    with clock("evaluate"):
        evaluation.evaluate()
        evaluation.accumulate()
    clock.seconds["peak of one"] = peak_memory()
    other = hotcoco.COCOeval(truth, truth.load_res(str(folder / "b.json")), "bbox")
    other.evaluate()
    few, more = PEER_RESAMPLES
    for num_resamples in (1, few, more):  # the first call may set things up once
        with clock(f"resample {num_resamples}"):
            hotcoco.compare(evaluation, other, n_bootstrap=num_resamples)
    slope = (clock.seconds[f"resample {more}"] - clock.seconds[f"resample {few}"]) / (more - few)
    offset = clock.seconds[f"resample {few}"] - few * slope
    clock.seconds["resample"] = offset + NUM_RESAMPLES * slope


def measure_ours(folder: Path, clock: Clock) -> None:
    from ablations.evaluation.coco import Detections, Truth
    from ablations.evaluation.matching import match
    from ablations.evaluation.scoring import score

    with clock("load"):
        truth = Truth.from_coco(folder / "truth.json")
        detections_a = Detections.from_coco(folder / "a.json", truth)
    with clock("match"):
        table_a = match(truth, detections_a)
    with clock("score"):
        scores = score(table_a)
    clock.seconds["evaluate"] = clock.seconds["match"] + clock.seconds["score"]
    clock.seconds["peak of one"] = peak_memory()

    from analysis.bootstrap import compare

    detections_b = Detections.from_coco(folder / "b.json", truth)
    with clock("match b"):
        table_b = match(truth, detections_b)
    with clock("resample"):
        comparison = compare([table_a], [table_b], NUM_RESAMPLES)
    with clock("intervals"):
        num_intervals = len(comparison.metrics) + len(comparison.cells)
    clock.seconds["end to end"] = sum(
        clock.seconds[step] for step in ("match", "match b", "resample", "intervals")
    )
    clock.seconds["num_intervals"] = num_intervals
    np.savez(folder / "ours.npz", ap=scores.ap, ar=scores.ar)


EVALUATORS: dict[str, Callable[[Path, Clock], None]] = {
    "this project": measure_ours,
    "pycocotools": measure_pycocotools,
    "faster-coco-eval": measure_faster_coco_eval,
    "hotcoco": measure_hotcoco,
    "ultrafast-pycocotools": measure_ultrafast_pycocotools,
}
PEERS = {
    "faster-coco-eval": "faster_coco_eval",
    "hotcoco": "hotcoco",
    "ultrafast-pycocotools": "ultrafast_pycocotools",
}


def measure(name: str, folder: Path) -> Measured:
    """Run one evaluator in a process of its own, on one thread."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | dict.fromkeys(threads, "1")
    environment["PYTHONPATH"] = str(root)
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_here(name: str, folder: Path) -> None:
    """The inside of `measure`: prints seconds and peak memory as JSON."""
    clock = Clock()
    with contextlib.redirect_stdout(io.StringIO()):
        EVALUATORS[name](folder, clock)
    clock.seconds["peak"] = peak_memory()
    clock.seconds.setdefault("peak of one", clock.seconds["peak"])
    print(json.dumps(clock.seconds))


def peak_memory() -> float:
    """Gigabytes that this process held at once so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes; bytes on macOS
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


# the table

ROWS = {
    "load": "load truth and one model",
    "match": "match one model",
    "evaluate": "evaluate one model, every cell",
    "resample": f"{NUM_RESAMPLES:,} paired resamples, two models",
    "end to end": "match both, resample, all intervals",
}


def print_table(measured: dict[str, Measured]) -> None:
    names = list(measured)
    reference = measured["pycocotools"]
    # Matching is a part of pycocotools' evaluate; resampling with it is evaluating every resample.
    naive = 2 * NUM_RESAMPLES * reference["evaluate"]
    against = {"match": reference["evaluate"], "resample": naive, "end to end": naive}

    def cell(name: str, row: str) -> str:
        if row not in measured[name]:
            return "-"
        seconds = measured[name][row]
        ratio = against.get(row, reference.get(row, 0)) / seconds
        return f"{seconds:.2f} s" + (f" ({ratio:,.0f}x)" if name != "pycocotools" else "")

    rows = [[label, *(cell(name, row) for name in names)] for row, label in ROWS.items()]
    for label, key in (("peak memory, one model", "peak of one"), ("peak memory, all", "peak")):
        rows.append([label, *(f"{measured[name][key]:.2f} GB" for name in names)])
    header = ["CPU seconds (times faster than pycocotools)", *names]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in (header, ["-" * width for width in widths], *rows):
        print(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )
    if "hotcoco" in measured:
        few, more = PEER_RESAMPLES
        print(
            f"\nhotcoco: on the line through {few} and {more} resamples. They answer another "
            "question: repeated images are dropped, so that standard errors are too small, and 12 "
            "cells are scored."
        )


def print_targets(measured: dict[str, Measured], exact: float, recall_equal: bool) -> bool:
    ours, evaluate = measured["this project"], measured["pycocotools"]["evaluate"]
    resample, end_to_end = ours["resample"] / evaluate, ours["end to end"] / evaluate
    memory = ours["peak"] / measured["pycocotools"]["peak"]
    targets = [
        (exact <= 1e-12 and recall_equal, f"exact: |dAP| {exact:.0e}, AR equal: {recall_equal}"),
        (resample <= 0.03, f"resamples: {resample:.3f} of one pycocotools evaluation (<= 0.03)"),
        (
            end_to_end <= 0.05,
            f"end to end: {end_to_end:.3f} of one pycocotools evaluation (<= 0.05), "
            f"{2 * NUM_RESAMPLES / end_to_end:,.0f} times the naive way",
        ),
        (
            evaluate / ours["match"] >= 100,
            f"matching: {evaluate / ours['match']:.0f} times cheaper (>= 100)",
        ),
        (memory <= 0.5, f"peak memory: {memory:.2f} of pycocotools' (<= 0.5)"),
        *(
            (
                ours[row] <= peer[row],
                f"{row}: {ours[row]:.2f} of {name}'s {peer[row]:.2f} (<=)",
            )
            for name, peer in measured.items()
            if name in PEERS
            for row in ("load", "evaluate", "peak of one")
        ),
    ]
    print()
    for number, (met, text) in enumerate(targets, start=1):
        print(f"target {number} {'met' if met else 'NOT MET'}: {text}")
    return all(met for met, _ in targets)


def compare_with_pycocotools(folder: Path) -> tuple[float, bool]:
    """Largest |dAP| over threshold x category x scale x maxDets, and whether all AR are equal."""
    with np.load(folder / "pycocotools.npz") as file:
        precision, recall = file["precision"], file["recall"]
    with np.load(folder / "ours.npz") as file:
        ap, ar = file["ap"], file["ar"]
    absent = (precision == -1).all(axis=1)
    if not np.array_equal(np.isnan(ap), absent):
        return float("inf"), False
    difference = np.abs(np.where(absent, 0, precision.mean(axis=1)) - np.where(absent, 0, ap))
    return float(difference.max()), bool(np.array_equal(np.where(absent, -1, ar), recall))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="500 images instead of 5,000")
    parser.add_argument("--folder", type=Path, help="keep the task in this folder and reuse it")
    parser.add_argument("--measure", choices=EVALUATORS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        measure_here(arguments.measure, arguments.folder)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        num_images = 500 if arguments.quick else 5000
        for where, size in ((folder, num_images), (folder / "tiny", 20)):
            where.mkdir(parents=True, exist_ok=True)
            if not (where / "b.json").exists():
                print(f"making a task of {size:,} images", file=sys.stderr)
                # Apart: a process begins with the peak memory of the one that starts it.
                making = Process(target=make_task, args=(where, size))
                making.start()
                making.join()
        measured: dict[str, Measured] = {}
        for name in ("this project", "pycocotools", *PEERS):
            if name in PEERS and importlib.util.find_spec(PEERS[name]) is None:
                print(f"{name} is not installed, left out", file=sys.stderr)
                continue
            print(f"measuring {name}", file=sys.stderr)
            measured[name] = measure(name, folder)
        ours = measured["this project"]
        print_table(measured)
        print(f"\n{ours['num_intervals']:.0f} intervals.")
        met = print_targets(measured, *compare_with_pycocotools(folder))
    return 0 if met or arguments.quick else 1


if __name__ == "__main__":
    raise SystemExit(main())
