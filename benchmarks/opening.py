"""What opening a folder of COCO train2017's size costs: 118,287 images, 860,001 polygons.

    python benchmarks/opening.py [--num-images 118287] [--folder FOLDER]

Writes the folder (its image files are links to a few photographs), opens it in a process of its own
with an empty cache of hashes and with a filled one, and prints CPU seconds and peak memory.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from multiprocessing import Process
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ablations.data import open_data
from ablations.data.coco import CocoData

NUM_IMAGES = 118_287
OBJECTS_PER_IMAGE = 860_001 / NUM_IMAGES
NUM_CATEGORIES = 80
SIZES = [(640, 480), (480, 640), (640, 427), (500, 375)]
LINKS_PER_FILE = 10_000
"""File systems limit the number of links to one file."""


def write_folder(folder: Path, num_images: int) -> None:
    """Annotations as COCO writes them, of about 520 bytes each, and a file for each image."""
    rng = np.random.default_rng(0)
    images = [_image(k) for k in range(num_images)]
    (folder / "images").mkdir(parents=True)
    for k, image in enumerate(images):
        path, first = folder / "images" / image["file_name"], k - k % len(SIZES)
        first = first // LINKS_PER_FILE * LINKS_PER_FILE + k % len(SIZES)
        if k == first:
            Image.new("RGB", SIZES[k % len(SIZES)], (k % 256, 90, 30)).save(path)
        else:
            os.link(folder / "images" / images[first]["file_name"], path)
    chosen = np.sort(rng.integers(0, num_images, round(OBJECTS_PER_IMAGE * num_images))).tolist()
    annotations = [_annotation(rng, k, images[place]) for k, place in enumerate(chosen, start=1)]
    categories = [{"id": k, "name": f"category {k}"} for k in range(1, NUM_CATEGORIES + 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(content))


def _image(k: int) -> dict[str, Any]:
    width, height = SIZES[k % len(SIZES)]
    return {"id": 4 * k + 9, "file_name": f"{4 * k + 9:012d}.jpg", "width": width, "height": height}


def _annotation(rng: np.random.Generator, number: int, image: dict[str, Any]) -> dict[str, Any]:
    """An object with the outline of an ellipse of 8 to 42 points."""
    size = np.array([image["width"], image["height"]])
    radius = np.exp(rng.uniform(np.log(4), np.log(size / 2 - 1)))
    center = rng.uniform(radius, size - radius)
    angles = np.linspace(0, 2 * np.pi, rng.integers(8, 43), endpoint=False)
    points = center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    first, last = points.min(axis=0), points.max(axis=0)
    return {
        "segmentation": [np.round(points, 2).ravel().tolist()],
        "area": round(float(np.pi * radius.prod()), 4),
        "iscrowd": 0,
        "image_id": image["id"],
        "bbox": np.round([*first, *(last - first)], 2).tolist(),
        "category_id": int(rng.integers(1, NUM_CATEGORIES + 1)),
        "id": number,
    }


def measure(folder: Path) -> dict[str, float]:
    """CPU seconds and peak gigabytes of this process after opening."""
    config = CocoData(root=str(folder), train="train.json", val="train.json")
    begun, started = time.process_time(), time.perf_counter()
    dataset = open_data(config, "train")
    seconds, elapsed = time.process_time() - begun, time.perf_counter() - started
    assert dataset.has_masks
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes; bytes on macOS
    peak_in_gigabytes = peak / (2**30 if sys.platform == "darwin" else 2**20)
    return {"cpu": seconds, "elapsed": elapsed, "peak": peak_in_gigabytes}


def measure_apart(folder: Path) -> dict[str, float]:
    """`measure` in a process of its own."""
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "DETNET_CACHE": str(folder / "cache")}
    command = [sys.executable, __file__, "--measure", "--folder", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--num-images", type=int, default=NUM_IMAGES)
    parser.add_argument("--folder", type=Path, help="keep the data in this folder and reuse them")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.folder)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "data"
        if not (folder / "train.json").exists():
            print(f"writing {arguments.num_images:,} images", file=sys.stderr)
            # Apart: a process begins with the peak memory of the one that starts it.
            writing = Process(target=write_folder, args=(folder, arguments.num_images))
            writing.start()
            writing.join()
        megabytes = (folder / "train.json").stat().st_size / 1e6
        print(f"{arguments.num_images:,} images, annotations of {megabytes:.0f} MB")
        for name in ("images never seen", "images hashed before"):
            found = measure_apart(folder)
            print(
                f"{name:20}  {found['cpu']:5.1f} CPU s  {found['elapsed']:5.1f} s  "
                f"{found['peak']:.2f} GB at most"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
